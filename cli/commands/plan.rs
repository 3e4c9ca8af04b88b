//! `sos plan`: says what a build would do.

use std::io::{self, Write};
use std::time::Duration;

use sos_engine::{Causes, EventSink, Plan, Planned};
use sos_formats::store_path::{StoreDir, StorePath};

use crate::args::{LockFlags, TargetArgs};
use crate::commands::build;
use crate::evaluate::{self, Mode};
use crate::failure::Failure;
use crate::render::output::{self, Items};
use crate::render::size;
use crate::render::text::printable;
use crate::run::{self, RunOptions};
use crate::session::Session;
use crate::target::{self, Target};

/// Say what a build would make and fetch, and what is there
#[derive(Debug, clap::Args)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
    /// Accepted for the sake of habit: a plan never builds
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

/// Forms of a plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For programs
    Json,
    /// For Graphviz: what waits for what
    Dot,
}

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe.
pub(crate) fn run(session: &Session, args: &PlanArgs) -> Result<(), Failure> {
    let targets = evaluate::targets(session, &args.target)?;
    let format = if session.global.json {
        Format::Json
    } else {
        args.format
    };
    show(session, &args.target, &targets, args.lock, format, false)
}

/// Prints the plan of `targets`.
pub(super) fn show(
    session: &Session,
    args: &TargetArgs,
    targets: &[Target],
    lock: LockFlags,
    format: Format,
    rebuild: bool,
) -> Result<(), Failure> {
    let evaluated = build::resolve(session, args, targets, &Mode::planning(lock))?;
    let engine = run::engine(
        session,
        &RunOptions {
            offline: lock.offline,
            rebuild,
            project: target::project(targets),
            attrs: target::attrs(targets, &evaluated.values),
            ..RunOptions::default()
        },
        EventSink::null(),
    )?;
    let plan = engine.plan(&evaluated.graph, &build::wanted(&evaluated.values))?;
    // All that is told stands in the plan.
    drop((evaluated, engine));
    match format {
        Format::Text => output::pieces(|out| text(&plan, out)),
        Format::Json => {
            let dir = session.store_dir()?;
            output::json(&Whole {
                build: Items(|| plan.to_build.iter().map(|p| Step::of(p, &dir))),
                cached: plan.cached.len(),
                eta_ms: plan.eta_ms,
                fetch: Items(|| plan.to_fetch.iter().map(|p| Step::of(p, &dir))),
            })
        }
        Format::Dot => output::pieces(|out| dot(&plan, out)),
    }
}

/// The plan in JSON.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Whole<B, F> {
    build: B,
    cached: usize,
    eta_ms: Option<u64>,
    fetch: F,
}

/// One derivation of the plan in JSON.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Step<'a> {
    cause: &'a Causes,
    drv: String,
    expected_ms: Option<u64>,
    maybe: bool,
    name: &'a str,
}

impl<'a> Step<'a> {
    fn of(planned: &'a Planned, dir: &StoreDir) -> Self {
        Self {
            cause: &planned.cause,
            drv: planned.drv.absolute(dir),
            expected_ms: planned.expected_ms,
            maybe: planned.maybe,
            name: &planned.name,
        }
    }
}

/// The plan for people.
fn text(plan: &Plan, out: &mut dyn Write) -> io::Result<()> {
    let duration = |ms| size::duration(Duration::from_millis(ms));
    for (title, list) in [("fetch", &plan.to_fetch), ("build", &plan.to_build)] {
        if list.is_empty() {
            continue;
        }
        writeln!(out, "to {title}: {}", list.len())?;
        for p in list {
            let expected = p
                .expected_ms
                .map_or(String::new(), |ms| format!("  about {}", duration(ms)));
            let maybe = if p.maybe {
                "  unless its inputs turn out equal"
            } else {
                ""
            };
            let cause = printable(&p.cause.to_string());
            writeln!(out, "  {}{expected}  ({cause}){maybe}", p.name)?;
        }
    }
    let eta = plan
        .eta_ms
        .map_or(String::new(), |ms| format!(", about {}", duration(ms)));
    writeln!(
        out,
        "{} to build, {} to fetch, {} there{eta}",
        plan.to_build.len(),
        plan.to_fetch.len(),
        plan.cached.len()
    )
}

/// The plan as a graph: an arrow leads from what is needed to what needs it; what is fetched is drawn dashed.
fn dot(plan: &Plan, out: &mut dyn Write) -> io::Result<()> {
    out.write_all(b"digraph plan {\n  rankdir = LR;\n  node [shape = box];\n")?;
    let id = |drv: &StorePath| quoted(drv.as_str());
    for (list, style) in [(&plan.to_fetch, "dashed"), (&plan.to_build, "solid")] {
        for p in list {
            let label = quoted(&format!("{}\n{}", p.name, printable(&p.cause.to_string())));
            writeln!(out, "  {} [label = {label}, style = {style}];", id(&p.drv))?;
        }
    }
    for p in plan.to_fetch.iter().chain(&plan.to_build) {
        for need in &p.needs {
            writeln!(out, "  {} -> {};", id(need), id(&p.drv))?;
        }
    }
    out.write_all(b"}\n")
}

/// A text in the quotes of Graphviz.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('\n', "\\n"))
}
