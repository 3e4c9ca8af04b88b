//! What a step looks for in vain: names below the directories that its attribute `watch` lists, which other steps may hold.
//!
//! A watched run is slower, so it is made when a step has failed, once more and for its messages alone, or when
//! [`crate::BuildOptions::watch_steps`] asks for it.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use sos_formats::diagnostic::{Class, Diagnostic};

use crate::event::Event;
use crate::nix_shape::control;
use crate::output::Stop;
use crate::sandbox::{Exit, StepSpec, Watched, run_step};
use crate::work::Attempt;

/// A step that failed this soon is run again whatever it says.
const SHORT: Duration = Duration::from_secs(20);
/// One that took longer, up to this, only if it speaks of something that is missing.
const LONG: Duration = Duration::from_secs(600);
/// What a watched run may take longer than the first one, which it may take twice.
const GRACE: Duration = Duration::from_secs(10);
/// What programs say of a name that leads nowhere, or of what they may not do.
const TELLING: [&str; 7] = [
    "no such file",
    "not found",
    "cannot open",
    "can't open",
    "could not open",
    "does not exist",
    "not permitted",
];
/// Names that are listed.
const LISTED_MAX: usize = 12;

/// Says whose a path is that a step looked for in vain: given the name of the file in which the step is written, and the path. Nothing
/// means that nobody has such a file: a compiler asks for each header in each place where one may be, and most of these are nowhere.
#[derive(Clone)]
pub struct Whose(Arc<Ask>);

type Ask = dyn Fn(&str, &str) -> Option<String> + Send + Sync;

impl Whose {
    /// Takes what knows the owners; the answer is their name for people.
    pub fn new(ask: impl Fn(&str, &str) -> Option<String> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl fmt::Debug for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Whose")
    }
}

/// What is told of what was seen: each path with its owner, if anybody is known to know them.
struct Told {
    missing: Vec<(String, Option<String>)>,
    devices: Vec<String>,
}

/// Keeps of the paths those that somebody has, and writes the others to the log of this program alone.
fn owned(attempt: &Attempt<'_>, spec: &StepSpec, seen: Watched) -> Told {
    let seen = foreign(seen, spec);
    let whose = attempt.worker.options.whose.as_ref();
    let file = attempt.job.place.as_ref().map(|place| &*place.file.name);
    let Some((whose, file)) = whose.zip(file) else {
        let missing = seen.missing.into_iter().map(|path| (path, None));
        return Told {
            missing: missing.collect(),
            devices: seen.devices,
        };
    };
    let (mut missing, mut of_nobody) = (Vec::new(), Vec::new());
    for path in seen.missing {
        match (whose.0)(file, &path) {
            Some(owner) => missing.push((path, Some(owner))),
            None => of_nobody.push(path),
        }
    }
    if !of_nobody.is_empty() {
        tracing::debug!(step = %attempt.job.name, paths = ?of_nobody, "it looked for what nobody has");
    }
    Told {
        missing,
        devices: seen.devices,
    }
}

/// Adds to the failure of a step what it looked for in vain; `seen` is what is known of it from a run that was watched.
pub(crate) fn explain(
    attempt: &Attempt<'_>,
    spec: &StepSpec,
    dirs: &[PathBuf],
    exit: Exit,
    seen: Watched,
    stop: Stop,
) -> Stop {
    let Stop::Problem(problem) = stop else {
        return stop;
    };
    let ended = matches!(exit, Exit::Code(_) | Exit::Signal(_));
    if !ended || problem.class != Class::BuildFailed {
        return Stop::Problem(problem);
    }
    if !spec.watch.is_empty() || dirs.is_empty() {
        return Stop::Problem(Box::new(told(*problem, &owned(attempt, spec, seen))));
    }
    let took = attempt.took();
    if !is_run_again(took, &problem) {
        return Stop::Problem(Box::new(unseen(*problem)));
    }
    let seen = again(attempt, spec, dirs, took).unwrap_or_default();
    Stop::Problem(Box::new(told(*problem, &owned(attempt, spec, seen))))
}

/// Warns of what a step that succeeded looked for in vain: it went on without, and goes another way when that is there.
pub(crate) fn warn(attempt: &Attempt<'_>, spec: &StepSpec, seen: Watched) {
    let seen = owned(attempt, spec, seen);
    if seen.missing.is_empty() {
        return;
    }
    let warning = Diagnostic::warning(
        "build-undeclared",
        Class::Recipe,
        format!(
            "`{}` went on without files that it looked for",
            attempt.job.name
        ),
    );
    attempt.worker.events.emit(Event::Diagnostic {
        diagnostic: Box::new(told(warning, &seen).with_labels(attempt.job.place.clone())),
    });
}

/// Tells whether it is worth the time to see what a step looked for that failed after `took`.
fn is_run_again(took: Duration, problem: &Diagnostic) -> bool {
    let tells = || {
        let text = problem.notes.join("\n").to_lowercase();
        TELLING.iter().any(|words| text.contains(words))
    };
    took <= SHORT || took <= LONG && tells()
}

/// Says that nobody has looked, and how to see it.
fn unseen(problem: Diagnostic) -> Diagnostic {
    let (short, long) = (SHORT.as_secs(), LONG.as_secs() / 60);
    with_advice(problem.note(format!(
        "whether it looked for what it was not shown is not known: it is run again for that only if it fails within {short} s, or within {long} min with a message of something that is missing"
    )))
    .help("`--watch-steps` says what a step looks for in vain, however long it takes; each step takes longer with it")
}

/// Runs the step once more, watched. What it writes goes nowhere, and so does its log.
fn again(
    attempt: &Attempt<'_>,
    spec: &StepSpec,
    dirs: &[PathBuf],
    took: Duration,
) -> Option<Watched> {
    let watched = StepSpec {
        watch: dirs.to_vec(),
        keep_failed: None,
        ..spec.clone()
    };
    let mut control = control(&attempt.worker.options, &attempt.reporter);
    control.timeout = Some(took * 2 + GRACE);
    match run_step(&attempt.worker.store, &watched, &mut |_| {}, &control) {
        Ok(outcome) => Some(outcome.watched),
        Err(error) => {
            tracing::warn!(%error, "a failed step could not be run again");
            None
        }
    }
}

/// Leaves out what is in a place that the step was given: what it lacks there, nobody else has.
fn foreign(mut seen: Watched, spec: &StepSpec) -> Watched {
    let given: Vec<&Path> = spec
        .mounts
        .iter()
        .chain(&spec.layers)
        .chain(&spec.copies)
        .map(|shown| shown.inside.as_path())
        .collect();
    seen.missing
        .retain(|path| !given.iter().any(|given| Path::new(path).starts_with(given)));
    seen
}

/// Puts it into words.
fn told(mut problem: Diagnostic, seen: &Told) -> Diagnostic {
    let list = |names: &[String]| {
        let mut text: String = names
            .iter()
            .take(LISTED_MAX)
            .map(|name| format!("\n  {name}"))
            .collect();
        if names.len() > LISTED_MAX {
            text.push_str(&format!("\n  and {} more", names.len() - LISTED_MAX));
        }
        text
    };
    if !seen.missing.is_empty() {
        let missing = seen.missing.iter().map(|(path, owner)| match owner {
            Some(owner) => format!("{path}, of `{owner}`"),
            None => path.clone(),
        });
        let missing: Vec<String> = missing.collect();
        problem = problem.note(format!(
            "it looked for what it was not shown:{}",
            list(&missing)
        ));
    }
    if !seen.devices.is_empty() {
        problem = problem.note(format!(
            "it wanted to make devices, which nobody may do in a user namespace:{}",
            list(&seen.devices)
        ));
    }
    with_advice(problem)
}

/// Says what to do about what the log of a step tells, or what was seen.
fn with_advice(problem: Diagnostic) -> Diagnostic {
    with_advice_on_renames(with_advice_on_devices(problem))
}

/// Says what to do for a step that cannot move something to where it seems to be on the same file system.
fn with_advice_on_renames(problem: Diagnostic) -> Diagnostic {
    let tells = |note: &String| note.contains("nvalid cross-device link");
    if !problem.notes.iter().any(tells) || problem.helps.iter().any(|help| help == RENAMES) {
        return problem;
    }
    problem.help(RENAMES)
}

/// What to do about renames.
const RENAMES: &str = "a directory that an earlier step has made cannot be renamed in a later one, and `/tmp` and `/run` are file systems of their own: copy it and remove the old one, as `mv` does (`cp -a OLD NEW && rm -r OLD`), or make a new directory and move what is in the old one, file by file";

/// Says what to do for a step that cannot make a device, if its log or what was seen says so.
fn with_advice_on_devices(problem: Diagnostic) -> Diagnostic {
    let tells = |note: &String| {
        note.starts_with("it wanted to make devices")
            || note
                .lines()
                .any(|line| line.contains("mknod") && line.contains("Operation not permitted"))
    };
    if !problem.notes.iter().any(tells) || problem.helps.iter().any(|help| help == DEVICES) {
        return problem;
    }
    problem.help(DEVICES)
}

/// What to do about devices.
const DEVICES: &str = "no step can make a device, and none needs to: `/dev` has null, zero, full, random, urandom, tty and ptmx while it runs; let the script make only what `test -e` does not find, and let whoever boots the result make the others";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::StepMount;

    fn watched(missing: &[&str]) -> Watched {
        Watched {
            missing: missing.iter().map(|s| (*s).to_owned()).collect(),
            devices: Vec::new(),
        }
    }

    fn seen(missing: &[&str], devices: &[&str]) -> Told {
        let missing = missing.iter().map(|path| ((*path).to_owned(), None));
        Told {
            missing: missing.collect(),
            devices: devices.iter().map(|s| (*s).to_owned()).collect(),
        }
    }

    #[test]
    fn what_lies_in_a_place_of_its_own_is_left_out() {
        let mut spec = StepSpec::new(None, Vec::new(), 0);
        for inside in ["/steps/a", "/external/distfiles/x"] {
            let given = if inside.starts_with("/steps") {
                &mut spec.layers
            } else {
                &mut spec.copies
            };
            given.push(StepMount {
                inside: inside.into(),
                outside: "/".into(),
            });
        }
        let seen = watched(&[
            "/steps/a/build",
            "/steps/ab/run",
            "/external/distfiles/x",
            "/external/distfiles/y",
        ]);
        assert_eq!(
            foreign(seen, &spec).missing,
            ["/steps/ab/run", "/external/distfiles/y"]
        );
    }

    #[test]
    fn who_has_not_looked_says_so() {
        let failed = |log: &str| {
            Diagnostic::error("build-failed", Class::BuildFailed, "no")
                .note(format!("the end of its log:\n{log}"))
        };
        let (quiet, telling) = (failed("make: error 2"), failed("cc: x.h: No such file"));
        let more = Duration::from_millis(1);
        assert!(is_run_again(SHORT, &quiet));
        assert!(!is_run_again(SHORT + more, &quiet));
        assert!(is_run_again(LONG, &telling));
        assert!(!is_run_again(LONG + more, &telling));
        let said = unseen(quiet);
        assert!(
            said.notes[1].contains("within 20 s, or within 10 min"),
            "{}",
            said.notes[1]
        );
        assert!(
            said.helps[0].contains("`--watch-steps`"),
            "{:?}",
            said.helps
        );
    }

    #[test]
    fn renames_are_explained_once() {
        let failed = |line: &str| {
            let failed = Diagnostic::error("build-failed", Class::BuildFailed, "no");
            with_advice(with_advice(failed.note(format!("its log:\n{line}"))))
        };
        let of_rename = failed("install: cannot rename `a': Invalid cross-device link");
        assert_eq!(of_rename.helps, [RENAMES]);
        assert!(
            failed("ln: failed to create `a': File exists")
                .helps
                .is_empty()
        );
    }

    #[test]
    fn devices_are_explained_once() {
        let failed = || Diagnostic::error("build-failed", Class::BuildFailed, "no");
        let of_log =
            |line: &str| with_advice_on_devices(failed().note(format!("its log:\n{line}")));
        assert_eq!(
            of_log("mknod: /x: Operation not permitted").helps,
            [DEVICES]
        );
        assert_eq!(
            of_log("tar: dev/null: Cannot mknod: Operation not permitted")
                .helps
                .len(),
            1
        );
        assert!(
            of_log("chown: /x: Operation not permitted")
                .helps
                .is_empty()
        );
        let both = failed().note("its log:\nmknod: /x: Operation not permitted");
        let both = told(both, &seen(&[], &["/x"]));
        assert_eq!(both.helps, [DEVICES]);
        assert_eq!(both.notes.len(), 2);
        let many: Vec<String> = (0..20).map(|n| format!("/steps/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let told = told(failed(), &seen(&many, &[]));
        assert!(told.notes[0].ends_with("and 8 more"), "{}", told.notes[0]);
    }
}
