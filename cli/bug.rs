//! What happens when sos itself is wrong: a report is written, and the exit code says whose fault it is.

use std::any::Any;
use std::backtrace::Backtrace;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind};
use std::path::{Path, PathBuf};

use sos_formats::diagnostic::{Class, Diagnostic};

use crate::environment::Environment;
use crate::failure::Failure;
use crate::render::output;

/// Panics on purpose: what happens then can only be tried that way.
pub(crate) const TRIAL_ARGUMENT: &str = "__panic";

/// From now on every panic, on any thread, leaves a report.
pub(crate) fn write_reports(env: &Environment) {
    let directory = directory(env);
    std::panic::set_hook(Box::new(move |info| {
        let report = report(info);
        match write(&directory, &report) {
            Some(path) => output::message(&format!(
                "this is a defect of sos; its report was written to `{}`",
                path.display()
            )),
            // With no place for it, the report itself is all there is.
            None => output::message(&report),
        }
    }));
}

/// Runs `work`; a panic in it becomes a failure with exit code 70.
pub(crate) fn caught<T>(work: impl FnOnce() -> Result<T, Failure>) -> Result<T, Failure> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let message = format!("sos stopped at a defect of its own: {}", words(&*panic));
        Err(Failure::new(
            Diagnostic::error("bug-panic", Class::Bug, message)
                .note("nothing unfinished was added to the store")
                .help("please report it, with the report that was written and the recipe"),
        ))
    })
}

/// Panics when the first argument asks for it.
#[allow(
    clippy::panic,
    reason = "the one way to try what a person sees of a defect"
)]
pub(crate) fn on_trial() {
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == TRIAL_ARGUMENT)
    {
        panic!("a trial");
    }
}

fn words(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// Where reports go: the state directory of the person, else the place for temporary files.
fn directory(env: &Environment) -> PathBuf {
    env.state_home
        .clone()
        .or_else(|| env.home.as_ref().map(|home| home.join(".local/state")))
        .map_or_else(std::env::temp_dir, |state| state.join("sos"))
}

fn report(info: &PanicHookInfo<'_>) -> String {
    let mut text = format!(
        "sos {} on {}-linux\n",
        env!("CARGO_PKG_VERSION"),
        std::env::consts::ARCH
    );
    let arguments: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    let thread = std::thread::current();
    let _infallible = write!(
        text,
        "arguments: {}\nthread: {}\nplace: {}\nmessage: {}\n\n{}\n",
        arguments.join(" "),
        thread.name().unwrap_or("without a name"),
        info.location()
            .map_or_else(|| "unknown".to_owned(), ToString::to_string),
        words(info.payload()),
        Backtrace::force_capture()
    );
    text
}

/// Writes a report to a new file.
fn write(directory: &Path, report: &str) -> Option<PathBuf> {
    std::fs::create_dir_all(directory).ok()?;
    let id = std::process::id();
    (0..1000).find_map(|number| {
        let path = directory.join(format!("bug-{id}-{number}.txt"));
        let mut file = std::fs::File::create_new(&path).ok()?;
        std::io::Write::write_all(&mut file, report.as_bytes()).ok()?;
        Some(path)
    })
}
