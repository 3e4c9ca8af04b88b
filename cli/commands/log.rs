//! `sos log`: prints the whole log of a build.

use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;

use crate::args::TargetArgs;
use crate::commands::build;
use crate::evaluate::{self, Item, Mode};
use crate::failure::Failure;
use crate::render::output;
use crate::render::text::{colored, printable};
use crate::session::Session;
use sos_recipes::LockMode;
use sos_store::{BuildId, RunningBuild, Store};

/// Bytes passed on at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Builds of the journal that are looked through for a failure.
const BUILDS: u32 = 100;
/// Between two looks at the log of a running build.
const LOOK: Duration = Duration::from_millis(100);

/// Print the whole log of a build, by target or by name
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A NAME is that of a derivation, with or without its version: `sos log hello`, `sos log hello-1.0`."
)]
pub(crate) struct LogArgs {
    /// A target, the name of a derivation, or the store path of one or of its output [default: .]
    #[arg(value_name = "TARGET|NAME")]
    target: Option<String>,
    /// While it is being built, go on until that ends
    #[arg(short, long)]
    follow: bool,
    /// Print the very bytes that the build wrote
    #[arg(long)]
    raw: bool,
    /// Print the log of the build that failed last
    #[arg(long, conflicts_with = "target")]
    failed: bool,
}

/// Runs the verb.
///
/// # Errors
/// `log-not-found` when nothing of that name was built here.
pub(crate) fn run(session: &Session, args: &LogArgs) -> Result<(), Failure> {
    let store = session.store()?;
    let (asked, drv) = if args.failed {
        let drv = last_failed(store)?;
        (Derivation::name_from_path(&drv).to_owned(), drv)
    } else {
        let asked = args.target.as_deref().unwrap_or(".");
        (asked.to_owned(), find(session, asked)?)
    };
    let mut printer = Printer {
        raw: args.raw,
        color: session.terminal.color,
        partial: Vec::new(),
    };
    if args.follow
        && let Some(build) = store.running_build(&drv)?
    {
        follow(store, &drv, &build, &mut printer)?;
        return printer.end();
    }
    let Some(mut log) = store.read_log(&drv)? else {
        if args.failed {
            output::message(&format!("`{asked}` failed and wrote nothing to its log"));
            return Ok(());
        }
        if store.was_built(&drv)? {
            output::message(&format!(
                "`{}` was built here and wrote nothing to its log",
                Derivation::name_from_path(&drv)
            ));
            return Ok(());
        }
        return Err(Failure::new(
            Diagnostic::error(
                "log-not-found",
                Class::Other,
                format!("there is no log of `{asked}`"),
            )
            .note(format!(
                "`{}` was cached, or was not built here",
                drv.name()
            )),
        ));
    };
    pass(log.as_mut(), &mut printer)?;
    printer.end()
}

/// Passes a log on; gives the number of bytes.
fn pass(log: &mut dyn Read, printer: &mut Printer) -> Result<u64, Failure> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut all = 0;
    loop {
        let n = log
            .read(&mut chunk)
            .map_err(|e| Failure::io("cannot read the log", &e))?;
        if n == 0 {
            return Ok(all);
        }
        printer.take(&chunk[..n])?;
        all += n as u64;
    }
}

/// Passes the log of a running build on until that ends.
fn follow(
    store: &Store,
    drv: &StorePath,
    build: &RunningBuild,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut shown = 0;
    let mut seen = None;
    loop {
        // Asked before the log is read: what is written after that is met in the last round.
        let over = build.is_over();
        let meta = std::fs::metadata(store.log_path(drv)).ok();
        // What was written last before this build began is the log of an earlier one.
        let own = meta.filter(|meta| meta.modified().is_ok_and(|at| at >= build.since));
        let state = own.map(|meta| (meta.ino(), meta.len()));
        if state.is_some()
            && (state != seen || over)
            && let Some(mut log) = store.read_log(drv)?
        {
            seen = state;
            // A stream of zstd cannot be taken up in the middle: it is read again from its beginning.
            std::io::copy(&mut log.by_ref().take(shown), &mut std::io::sink())
                .map_err(|e| Failure::io("cannot read the log", &e))?;
            shown += pass(log.as_mut(), printer)?;
        }
        if over {
            return Ok(());
        }
        std::thread::sleep(LOOK);
    }
}

/// Writes a log to standard output.
struct Printer {
    raw: bool,
    color: bool,
    /// A line whose end has not come.
    partial: Vec<u8>,
}

impl Printer {
    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.raw {
            return output::bytes(bytes);
        }
        self.partial.extend_from_slice(bytes);
        let Some(end) = self.partial.iter().rposition(|b| *b == b'\n') else {
            return Ok(());
        };
        let rest = self.partial.split_off(end + 1);
        let whole = std::mem::replace(&mut self.partial, rest);
        output::bytes(self.shown(&whole).as_bytes())
    }

    fn end(&mut self) -> Result<(), Failure> {
        let rest = std::mem::take(&mut self.partial);
        output::bytes(self.shown(&rest).as_bytes())
    }

    /// Lines that cannot drive a terminal; colours stay where colours are wanted.
    fn shown(&self, bytes: &[u8]) -> String {
        let text = String::from_utf8_lossy(bytes);
        let line = |line: &str| {
            let (line, end) = match line.strip_suffix('\n') {
                Some(line) => (line, "\n"),
                None => (line, ""),
            };
            let line = line.strip_suffix('\r').unwrap_or(line);
            let line = if self.color {
                colored(line)
            } else {
                printable(line)
            };
            line + end
        };
        text.split_inclusive('\n').map(line).collect()
    }
}

/// The derivation that failed last, as the journal tells.
fn last_failed(store: &Store) -> Result<StorePath, Failure> {
    for build in store.recent_builds(BUILDS)? {
        for json in store.build_events(BuildId(build.id))?.iter().rev() {
            let Ok(event) = serde_json::from_str::<Value>(json) else {
                continue;
            };
            if event["status"] != "failed" {
                continue;
            }
            let drv = event["drv"].as_str().unwrap_or_default();
            if let Ok(drv) = StorePath::from_absolute(store.store_dir(), drv) {
                return Ok(drv);
            }
        }
    }
    Err(Failure::new(Diagnostic::error(
        "log-not-found",
        Class::Other,
        "no build failed here, as far as the journal goes back",
    )))
}

fn find(session: &Session, text: &str) -> Result<StorePath, Failure> {
    let store = session.store()?;
    let prefix = format!("{}/", store.store_dir().as_str());
    if text.starts_with(&prefix) {
        let path = StorePath::from_absolute(store.store_dir(), text)?;
        if path.name().ends_with(".drv") {
            return Ok(path);
        }
        if let Some(trace) = store.traces_of(&path)?.into_iter().next() {
            return Ok(trace.trace.drv);
        }
    } else {
        // A name first: it costs no evaluation, and a file of that name is said with `./`.
        if let Some(drv) = store.built_named(text)?.into_iter().next() {
            return Ok(drv);
        }
        let place = text.split(['#', '^']).next().unwrap_or_default();
        if place.is_empty() || place.contains(['.', '/']) || Path::new(place).is_file() {
            let args = TargetArgs {
                targets: vec![text.to_owned()],
                ..TargetArgs::default()
            };
            let targets = evaluate::targets(session, &args)?;
            let mode = Mode {
                lock: LockMode::Locked,
                dry: true,
                offline: true,
                write_locks: false,
                only_lock: false,
                builds_here: false,
            };
            let evaluated = build::resolve(session, &args, &targets, &mode)?;
            if let Some(Item::Derivation { drv, .. }) =
                evaluated.values.into_iter().flatten().next()
            {
                return Ok(drv);
            }
        }
    }
    Err(Failure::new(
        Diagnostic::error(
            "log-not-found",
            Class::Other,
            format!("nothing called `{text}` was built here"),
        )
        .help("`sos store ls` lists what is in the store"),
    ))
}
