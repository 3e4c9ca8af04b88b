//! `sos plan`: says what a build would do.

use sos_engine::{EventSink, Plan, Planned};
use sos_formats::store_path::StorePath;

use crate::args::{LockFlags, TargetArgs};
use crate::commands::build;
use crate::evaluate::{self, Mode};
use crate::failure::Failure;
use crate::render::{output, size};
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
    if format == Format::Json {
        let dir = session.store_dir()?;
        let list = |all: &[Planned]| -> Vec<_> {
            all.iter().map(|p| serde_json::json!({ "drv": p.drv.absolute(&dir), "name": p.name, "expectedMs": p.expected_ms, "maybe": p.maybe, "cause": p.cause })).collect()
        };
        return output::json(&serde_json::json!({
            "build": list(&plan.to_build), "fetch": list(&plan.to_fetch), "cached": plan.cached.len(), "etaMs": plan.eta_ms,
        }));
    }
    if format == Format::Dot {
        return output::bytes(dot(&plan).as_bytes());
    }
    let mut text = String::new();
    for (title, list) in [("fetch", &plan.to_fetch), ("build", &plan.to_build)] {
        if list.is_empty() {
            continue;
        }
        text.push_str(&format!("to {title}: {}\n", list.len()));
        for p in list {
            let expected = p.expected_ms.map_or(String::new(), |ms| {
                format!(
                    "  about {}",
                    size::duration(std::time::Duration::from_millis(ms))
                )
            });
            let maybe = if p.maybe {
                "  unless its inputs turn out equal"
            } else {
                ""
            };
            text.push_str(&format!("  {}{expected}  ({}){maybe}\n", p.name, p.cause));
        }
    }
    let eta = plan.eta_ms.map_or(String::new(), |ms| {
        format!(
            ", about {}",
            size::duration(std::time::Duration::from_millis(ms))
        )
    });
    text.push_str(&format!(
        "{} to build, {} to fetch, {} there{eta}\n",
        plan.to_build.len(),
        plan.to_fetch.len(),
        plan.cached.len()
    ));
    output::bytes(text.as_bytes())
}

/// The plan as a graph: an arrow leads from what is needed to what needs it; what is fetched is drawn dashed.
fn dot(plan: &Plan) -> String {
    let mut text = String::from("digraph plan {\n  rankdir = LR;\n  node [shape = box];\n");
    let id = |drv: &StorePath| quoted(drv.as_str());
    for (list, style) in [(&plan.to_fetch, "dashed"), (&plan.to_build, "solid")] {
        for p in list {
            let label = quoted(&format!("{}\n{}", p.name, p.cause));
            text.push_str(&format!(
                "  {} [label = {label}, style = {style}];\n",
                id(&p.drv)
            ));
        }
    }
    for p in plan.to_fetch.iter().chain(&plan.to_build) {
        for need in &p.needs {
            text.push_str(&format!("  {} -> {};\n", id(need), id(&p.drv)));
        }
    }
    text + "}\n"
}

/// A text in the quotes of Graphviz.
fn quoted(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{}\"", escaped.replace('\n', "\\n"))
}
