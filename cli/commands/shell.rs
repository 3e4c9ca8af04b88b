//! `sos shell`: a shell in the sandbox of a build.

use std::collections::BTreeMap;
use std::io::IsTerminal as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use sos_engine::sandbox::{Streams, Window};
use sos_engine::{Cancel, Engine, EventSink, Graph, Shell, ShellFacts, ShellWish, all_there};
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_recipes::LockReport;

use crate::args::{LockFlags, TargetArgs};
use crate::commands::build;
use crate::console::{self, Raw, Resizes};
use crate::evaluate::{self, Item, Mode};
use crate::failure::Failure;
use crate::render::output;
use crate::render::text::printable;
use crate::run::{self, RunOptions, Stream};
use crate::session::Session;
use crate::target;

/// Longest command of a builder that is shown.
const SHOWN_CHARS: usize = 120;
/// Most inputs that are named.
const SHOWN_INPUTS: usize = 6;

/// Open a shell in the sandbox in which a target is built
///
/// Builds the inputs of the target, not the target, and runs a shell where its builder would run: with the same files,
/// environment, user, limits and filter, and `$out` to be written. What is made there is thrown away, but with --at-failure.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sos shell site.nix#app                  look around; `/build/.sos-run` runs the builder\n  sos shell site.nix#app -c 'env | sort'  one command, its output and its exit code; `/build` is as the builder finds it\n  sos shell zlib --at-failure             after `sos build` has failed: the state it has left\n\nA NAME is that of a derivation that was built here, with or without its version. With --at-failure, what is changed stays in the\nkept state until the next failure of that build or `sos gc`; as many states are kept as `build.keep-failed-states` says."
)]
pub(crate) struct ShellArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
    /// Enter the state that the failed build has left, and change it: its build directory and what it wrote of `$out`, but not its
    /// `/tmp`, which is memory; of a step, its changed root
    #[arg(long)]
    at_failure: bool,
    /// Run a command in place of a conversation; its exit code is that of sos
    #[arg(short, long, value_name = "COMMAND", allow_hyphen_values = true)]
    command: Option<String>,
    /// The shell: a program that the build sees, or a store path that has one [default: the builder if it is a shell, else one of the inputs]
    #[arg(long, value_name = "PATH")]
    shell: Option<String>,
}

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe, of building the inputs, or of the sandbox; else the exit code is that of the shell.
pub(crate) fn run(session: &Session, args: &ShellArgs) -> Result<(), Failure> {
    let Found {
        drv,
        graph,
        project,
        locks,
    } = find(session, args)?;
    let wish = ShellWish {
        at_failure: args.at_failure,
        shell: args.shell.clone(),
        command: args.command.clone(),
        programs: programs(session),
    };
    let options = RunOptions {
        offline: args.lock.offline,
        command: format!("shell {}", Derivation::name_from_path(&drv)),
        project,
        locks,
        ..RunOptions::default()
    };
    let engine = run::engine(session, &options, EventSink::null())?;
    let inputs = inputs(session, &engine, &graph, &drv, (&wish, &options))?;
    let runtime = run::runtime()?;
    let _entered = runtime.enter();
    let shell = engine.shell(&graph, &drv, &inputs, &wish)?;
    drop(engine);
    enter(session, shell, args.command.is_none())
}

/// Where this machine has programs; a shell without other files may be beside those that everybody finds.
fn programs(session: &Session) -> Vec<PathBuf> {
    let path = session.env.all.get("PATH").map_or("", String::as_str);
    let usual = ["/bin", "/usr/bin", "/usr/local/bin"].map(PathBuf::from);
    std::env::split_paths(path)
        .filter(|dir| dir.is_absolute())
        .chain(usual)
        .collect()
}

/// Builds what the derivation needs.
fn inputs(
    session: &Session,
    engine: &Engine,
    graph: &Graph,
    drv: &StorePath,
    (wish, options): (&ShellWish, &RunOptions),
) -> Result<BTreeMap<StorePath, BTreeMap<String, StorePath>>, Failure> {
    let wanted = engine.shell_inputs(graph, drv, wish)?;
    // What is there already is no news, and its paths are answered without a run that the journal would keep.
    let report = if all_there(session.store()?, graph, &wanted)? {
        run::runtime()?.block_on(engine.build(graph.clone(), &wanted, Cancel::new()))
    } else {
        run::build(
            session,
            graph.clone(),
            &wanted,
            options,
            Stream::start(session, false),
        )?
    };
    if !report.success() {
        return Err(Failure::shown(report.failures.clone(), report.exit_code()));
    }
    Ok(report.results.into_iter().collect())
}

fn enter(session: &Session, shell: Shell, is_conversation: bool) -> Result<(), Failure> {
    let (stdin, stdout, stderr) = (std::io::stdin(), std::io::stdout(), std::io::stderr());
    let has_terminal = stdin.is_terminal() && stdout.is_terminal();
    // Where standard error goes elsewhere, it is that of the command alone.
    let is_seen = if is_conversation {
        has_terminal
    } else {
        stderr.is_terminal()
    };
    if is_seen && !session.global.quiet {
        banner(shell.facts(), is_conversation);
    }
    if let Some((program, place)) = &shell.facts().lent
        && !session.global.quiet
    {
        let program = program.display();
        output::message(&format!(
            "note: its root filesystem has no shell: this is `{program}` of this machine, shown at `{place}`"
        ));
    }
    let resizes = Resizes::watch()?;
    let window = has_terminal.then(|| Window {
        size: &console::size,
        changed: resizes.as_fd(),
    });
    let (cancel, seen) = (Cancel::new(), Arc::new(AtomicU8::new(0)));
    let raw = if has_terminal {
        Some(Arc::new(Raw::enter()?))
    } else {
        None
    };
    console::end_on_signal(&cancel, raw.as_ref(), &seen)?;
    let streams = Streams {
        input: stdin.as_fd(),
        output: stdout.as_fd(),
        error: stderr.as_fd(),
        window,
    };
    let exit = shell.enter(&streams, cancel);
    drop(raw);
    let signal = seen.load(Ordering::SeqCst);
    if signal != 0 {
        return Err(Failure::interrupted(signal));
    }
    match exit?.status() {
        Some(0) => Ok(()),
        status => Err(Failure::shown(Vec::new(), status.unwrap_or(1))),
    }
}

fn banner(facts: &ShellFacts, is_conversation: bool) {
    let short = |text: &str| {
        let line = printable(&text.replace('\n', " "));
        match line.char_indices().nth(SHOWN_CHARS) {
            Some((end, _)) => format!("{}…", &line[..end]),
            None => line,
        }
    };
    let name = printable(&facts.name);
    let mut text = match &facts.failure {
        Some(failure) => format!(
            "sandbox of `{name}` as it stopped: {}\n  kept until it fails again or `sos gc`, with what you change",
            short(failure)
        ),
        None => format!("sandbox of `{name}` before its build; what is made here is thrown away"),
    };
    text.push_str(&format!("\n  builder  {}", short(&facts.builder)));
    if facts.rerun == facts.builder {
        text.push_str("\n           the same command runs it here");
    } else {
        text.push_str(&format!("\n           {} runs it", printable(&facts.rerun)));
    }
    let named: Vec<&str> = facts
        .inputs
        .iter()
        .take(SHOWN_INPUTS)
        .map(String::as_str)
        .collect();
    let rest = facts.inputs.len() - named.len();
    let mut inputs = if named.is_empty() {
        "none".to_owned()
    } else {
        named.join(", ")
    };
    if rest > 0 {
        inputs.push_str(&format!(" and {rest} more"));
    }
    text.push_str(&format!("\n  inputs   {}", printable(&inputs)));
    if facts.shown > facts.inputs.len() {
        text.push_str(&format!(
            ", {} store paths with what they refer to",
            facts.shown
        ));
    }
    if is_conversation {
        text.push_str("\n  `exit` or Ctrl-D ends it");
    }
    output::message(&text);
}

/// The problem of who asks for the state of a failure by the name that a message had, after `sos gc`: no file is meant.
fn state_is_gone(failure: &Failure, name: Option<&String>) -> Option<Failure> {
    let is_missing = failure
        .diagnostics
        .iter()
        .any(|d| d.code == "target-not-found");
    let name = name.filter(|name| is_missing && !name.contains(['/', '#', '^', ':']))?;
    let diagnostic = Diagnostic::error(
        "shell-no-state",
        Class::Other,
        format!("there is no kept state of a failed build of the name `{name}`, and no recipe at a place of that name"),
    )
    .note("the states of the builds that failed last are kept, as many as `build.keep-failed-states` says, until `sos gc`")
    .help("build it again, and when it has failed try again");
    Some(Failure::new(diagnostic))
}

/// The derivation that is meant.
struct Found {
    drv: StorePath,
    /// What is known of how it is made.
    graph: Graph,
    /// The project that it belongs to; empty when it is asked for by its name.
    project: String,
    /// The locks that its evaluation has changed.
    locks: Vec<LockReport>,
}

/// Finds the derivation that is meant.
fn find(session: &Session, args: &ShellArgs) -> Result<Found, Failure> {
    let store = session.store()?;
    if let Some(text) = args.target.targets.get(1) {
        return Err(Failure::new(
            Diagnostic::error(
                "shell-one-target",
                Class::Usage,
                format!("`{text}` is a second target, and a shell is in one sandbox"),
            )
            .help("quote the command after `-c`, as in `-c 'make check'`"),
        ));
    }
    let plain = args.target.file.is_none() && args.target.expression.is_none();
    if let Some(name) = args.target.targets.first().filter(|_| plain)
        && !name.contains(['/', '#', '^', ':'])
    {
        let failed = || sos_engine::failed_named(store, name);
        // The name that was advised counts, also beside a file of that name, which can be named with `./`.
        let known = if args.at_failure { failed() } else { None };
        let drv = match known {
            Some(drv) => Some(drv),
            None if Path::new(name).exists() => None,
            None => store.built_named(name)?.into_iter().next().or_else(failed),
        };
        if let Some(drv) = drv {
            return Ok(Found {
                drv,
                graph: Graph::new(),
                project: String::new(),
                locks: Vec::new(),
            });
        }
    }
    let mode = Mode::building(args.lock).with_whole_graph();
    let resolved = evaluate::targets(session, &args.target).and_then(|targets| {
        let evaluated = build::resolve(session, &args.target, &targets, &mode)?;
        Ok((targets, evaluated))
    });
    let (targets, evaluated) = resolved.map_err(|failure| {
        let is_bare = plain && args.at_failure;
        state_is_gone(&failure, args.target.targets.first().filter(|_| is_bare)).unwrap_or(failure)
    })?;
    evaluate::report_locks(session, &evaluated.locks);
    let drv = match evaluated.values.into_iter().flatten().next() {
        Some(Item::Derivation { drv, .. }) => drv,
        Some(Item::Object(path)) => {
            let traces = store.traces_of(&path)?;
            let drv = traces.into_iter().next().map(|trace| trace.trace.drv);
            drv.ok_or_else(|| {
                Failure::new(
                    Diagnostic::error(
                        "shell-not-built",
                        Class::Other,
                        format!(
                            "`{}` was not built here, so there is no sandbox of its build",
                            path.absolute(store.store_dir())
                        ),
                    )
                    .help("name the recipe that makes it"),
                )
            })?
        }
        None => {
            return Err(Failure::new(Diagnostic::error(
                "shell-no-derivation",
                Class::Recipe,
                "the target has nothing that is built",
            )));
        }
    };
    Ok(Found {
        drv,
        graph: evaluated.graph,
        project: target::project(&targets),
        locks: evaluated.locks,
    })
}
