//! `sos log`: prints the whole log of a build.

use std::collections::BTreeSet;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use serde_json::Value;
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;

use crate::args::TargetArgs;
use crate::commands::builds;
use crate::evaluate::Mode;
use crate::failure::Failure;
use crate::find::{self, Meaning};
use crate::render::output;
use crate::render::text::{colored, printable};
use crate::session::Session;
use sos_recipes::LockMode;
use sos_store::{BuildId, LogReader, RunningBuild, Store};

/// Bytes passed on at once.
const CHUNK_BYTES: usize = 64 * 1024;
/// Bytes after which a line without an end is passed on in pieces: memory does not grow with what a build writes.
const LINE_BYTES: usize = 64 * 1024;
/// Bytes at the end of such a piece in which the beginning of an escape sequence is looked for.
const ESCAPE_BYTES: usize = 256;
/// Builds of the journal that are looked through for a failure.
const BUILDS: u32 = 100;
/// Steps of one derivation that are looked through for one that ran.
const STEPS: u32 = 20;
/// Why there may be no log of something that ran.
const NOT_KEPT: &str = "either it wrote nothing, or `sos gc` has removed what it wrote";
/// Between two looks at the log of a running build.
const LOOK: Duration = Duration::from_millis(100);

/// Print the whole log of a build, by target, by name, or by the number of the build
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A NAME is that of a derivation, with or without its version: `sos log hello`, `sos log hello-1.0`. A BUILD is a number that `sos builds` lists: the logs of all that it built."
)]
pub(crate) struct LogArgs {
    /// A target, the name of a derivation, the store path of one or of its output, or the number of a build [default: .]
    #[arg(value_name = "TARGET|NAME|BUILD")]
    target: Option<String>,
    /// Take this attribute path of the target
    #[arg(short = 'A', long, value_name = "ATTR", requires = "target")]
    attr: Option<String>,
    /// Pass the expression EXPR as argument NAME to a recipe that is a function
    #[arg(long, num_args = 2, value_names = ["NAME", "EXPR"], allow_hyphen_values = true, requires = "target")]
    arg: Vec<String>,
    /// Pass the string STRING as argument NAME to a recipe that is a function
    #[arg(long, num_args = 2, value_names = ["NAME", "STRING"], allow_hyphen_values = true, requires = "target")]
    argstr: Vec<String>,
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
/// `log-not-found` when nothing of that name was built here, `build-unknown` for a number that no build has.
pub(crate) fn run(session: &Session, args: &LogArgs) -> Result<(), Failure> {
    let store = session.store()?;
    let mut printer = Printer {
        raw: args.raw,
        color: session.terminal.color,
        partial: Vec::new(),
    };
    if let Some(build) = args.target.as_deref().and_then(number)
        && store.built_named(&build.to_string())?.is_empty()
    {
        return of_build(store, build, args.follow, &mut printer);
    }
    let (asked, drv) = if args.failed {
        let drv = last_failed(store)?;
        (Derivation::name_from_path(&drv).to_owned(), drv)
    } else {
        let asked = args.target.as_deref().unwrap_or(".");
        (asked.to_owned(), find(session, args, asked)?)
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
        let ran = store.steps_of_drv(&drv, BuildId(i64::MAX), STEPS)?;
        if let Some(step) = ran.iter().find(|step| step.started_ms.is_some()) {
            let (name, build) = (&step.name, step.build.0);
            return Err(Failure::new(
                Diagnostic::error(
                    "log-not-found",
                    Class::Other,
                    format!("there is no log of `{name}` any more"),
                )
                .note(format!("build {build} ran it; {NOT_KEPT}"))
                .help(format!("`sos builds {build}` says what is known of it")),
            ));
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
    pass(&mut log, &mut printer)?;
    printer.end()
}

/// The number of a build.
fn number(text: &str) -> Option<i64> {
    let is_number = text.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| text.parse().ok()).flatten()
}

/// Prints the logs of a build in the order in which its derivations were started; of several, each has its name above it.
fn of_build(
    store: &Store,
    number: i64,
    follows: bool,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut done: BTreeSet<StorePath> = BTreeSet::new();
    let mut titled = false;
    loop {
        // Asked before the steps are read: what is noted after that is met in the last round.
        let over = !builds::find(store, number)?.is_running();
        let mut steps = store.steps_of_build(BuildId(number))?;
        steps.sort_by_key(|step| step.started_ms);
        steps.retain(|step| step.started_ms.is_some() && !done.contains(&step.drv));
        titled |= steps.len() > 1 || !done.is_empty();
        for step in steps {
            if titled && !printer.raw {
                printer.end()?;
                output::line(&format!("==> {} <==", step.name))?;
            }
            let running = if follows {
                store.running_build(&step.drv)?
            } else {
                None
            };
            if let Some(running) = running {
                follow(store, &step.drv, &running, printer)?;
            } else if let Some(mut log) = store.read_log(&step.drv)? {
                pass(&mut log, printer)?;
            } else if !printer.raw {
                output::message(&format!("no log of `{}` is kept: {NOT_KEPT}", step.name));
            }
            printer.end()?;
            done.insert(step.drv);
        }
        if over || !follows {
            break;
        }
        std::thread::sleep(LOOK);
    }
    if done.is_empty() {
        output::message(&format!("build {number} started no builder"));
    }
    Ok(())
}

/// Passes a log on, as far as it is written.
fn pass(log: &mut LogReader, printer: &mut Printer) -> Result<(), Failure> {
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let n = log
            .read(&mut chunk)
            .map_err(|e| Failure::io("cannot read the log", &e))?;
        if n == 0 {
            return Ok(());
        }
        printer.take(&chunk[..n])?;
    }
}

/// Passes the log of a running build on until that ends.
fn follow(
    store: &Store,
    drv: &StorePath,
    build: &RunningBuild,
    printer: &mut Printer,
) -> Result<(), Failure> {
    let mut reader: Option<(u64, LogReader)> = None;
    loop {
        // Asked before the log is read: what is written after that is met in the last round.
        let over = build.is_over();
        let meta = std::fs::metadata(store.log_path(drv)).ok();
        // What was written last before this build began is the log of an earlier one.
        let own = meta.filter(|meta| meta.modified().is_ok_and(|at| at >= build.since));
        if let Some(meta) = own {
            // Another file is another attempt at the same derivation.
            if reader
                .as_ref()
                .is_none_or(|(inode, _)| *inode != meta.ino())
            {
                reader = store.read_log(drv)?.map(|log| (meta.ino(), log));
            }
            if let Some((_, log)) = &mut reader {
                pass(log, printer)?;
            }
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
        let end = match self.partial.iter().rposition(|b| *b == b'\n') {
            Some(newline) => newline + 1,
            None if self.partial.len() > LINE_BYTES => piece(&self.partial),
            None => return Ok(()),
        };
        let rest = self.partial.split_off(end);
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

/// Where a line that is too long to be kept may be cut: in no character, and in no escape sequence of common length.
fn piece(line: &[u8]) -> usize {
    let tail = line.len().saturating_sub(ESCAPE_BYTES);
    let escape = line[tail..].iter().position(|b| *b == 0x1b);
    let mut end = escape.map_or(line.len(), |at| tail + at);
    // At most three bytes of a character follow its first one.
    let first = (end.saturating_sub(4)..end)
        .rev()
        .find(|at| line[*at] & 0xc0 != 0x80);
    if let Some(first) = first
        && std::str::from_utf8(&line[first..end]).is_err_and(|e| e.error_len().is_none())
    {
        end = first;
    }
    // A carriage return may be part of the end of the line.
    if end > 1 && line[end - 1] == b'\r' {
        end -= 1;
    }
    if end == 0 { line.len() } else { end }
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

/// The derivation of a name that ran last, as the journal tells: of what was collected since nothing else does.
fn ran(store: &Store, name: &str) -> Result<Option<StorePath>, Failure> {
    let steps = store.steps_named(name)?.into_iter();
    let mut ran = steps.filter(|step| step.started_ms.is_some());
    Ok(ran
        .find(|step| find::is_named(&step.drv, name))
        .map(|step| step.drv))
}

fn find(session: &Session, log: &LogArgs, text: &str) -> Result<StorePath, Failure> {
    let store = session.store()?;
    let named = match store.built_named(text)?.into_iter().next() {
        None => ran(store, text)?,
        known => known,
    };
    let says_target = log.attr.is_some() || !log.arg.is_empty() || !log.argstr.is_empty();
    let meaning = if says_target {
        Meaning::Target
    } else {
        find::meaning(store, text, named.is_some())?
    };
    match meaning {
        Meaning::Drv(drv) => Ok(drv),
        Meaning::Name => match named {
            Some(drv) => Ok(drv),
            None => Err(find::unknown(store, "log-not-found", text)?),
        },
        Meaning::Target => {
            let args = TargetArgs {
                targets: vec![text.to_owned()],
                attr: log.attr.iter().cloned().collect(),
                arg: log.arg.clone(),
                argstr: log.argstr.clone(),
                ..TargetArgs::default()
            };
            let mode = Mode {
                lock: LockMode::Locked,
                dry: true,
                offline: true,
                write_locks: false,
                only_lock: false,
                builds_here: false,
                whole_graph: false,
                calls: true,
            };
            let found = find::evaluate(session, &args, &mode)?.derivations();
            match found.into_iter().next() {
                Some(drv) => Ok(drv),
                None => Err(find::unknown(store, "log-not-found", text)?),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_cut_between_characters_and_outside_of_escapes() {
        assert_eq!(piece(b"abc"), 3);
        assert_eq!(piece("aé".as_bytes()), 3);
        assert_eq!(piece(&"aé".as_bytes()[..2]), 1);
        assert_eq!(piece(b"ab\x1b[3"), 2);
        assert_eq!(piece(b"ab\r"), 2);
        assert_eq!(piece(b"a\xff"), 2);
        assert_eq!(piece(b"\x1b[3"), 3);
    }
}
