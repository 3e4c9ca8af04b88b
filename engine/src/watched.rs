//! What a step looks for in vain: names below the directories that its attribute `watch` lists, which other steps may hold.
//!
//! A watched run is slower, so it is made when a step has failed, once more and for its messages alone, or when
//! [`crate::BuildOptions::watch_steps`] asks for it.

use std::path::{Path, PathBuf};
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
    let seen = if spec.watch.is_empty() && !dirs.is_empty() {
        again(attempt, spec, dirs, &problem).unwrap_or_default()
    } else {
        seen
    };
    Stop::Problem(Box::new(told(*problem, &foreign(seen, spec))))
}

/// Warns of what a step that succeeded looked for in vain: it went on without, and goes another way when that is there.
pub(crate) fn warn(attempt: &Attempt<'_>, spec: &StepSpec, seen: Watched) {
    let seen = foreign(seen, spec);
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
        diagnostic: Box::new(told(warning, &seen)),
    });
}

/// Runs the step once more, watched. What it writes goes nowhere, and so does its log.
fn again(
    attempt: &Attempt<'_>,
    spec: &StepSpec,
    dirs: &[PathBuf],
    problem: &Diagnostic,
) -> Option<Watched> {
    let took = attempt.took();
    let tells = || {
        let text = problem.notes.join("\n").to_lowercase();
        TELLING.iter().any(|words| text.contains(words))
    };
    if took > SHORT && !(took <= LONG && tells()) {
        return None;
    }
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
        .map(|shown| shown.inside.as_path())
        .collect();
    seen.missing
        .retain(|path| !given.iter().any(|given| Path::new(path).starts_with(given)));
    seen
}

/// Puts it into words.
fn told(mut problem: Diagnostic, seen: &Watched) -> Diagnostic {
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
        problem = problem.note(format!(
            "it looked for what it was not shown:{}",
            list(&seen.missing)
        ));
    }
    if !seen.devices.is_empty() {
        problem = problem.note(format!(
            "it wanted to make devices, which nobody may do in a user namespace:{}",
            list(&seen.devices)
        ));
    }
    with_advice_on_devices(problem)
}

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

    fn watched(missing: &[&str], devices: &[&str]) -> Watched {
        let owned = |list: &[&str]| list.iter().map(|s| (*s).to_owned()).collect();
        Watched {
            missing: owned(missing),
            devices: owned(devices),
        }
    }

    #[test]
    fn what_lies_in_a_place_of_its_own_is_left_out() {
        let mut spec = StepSpec::new(None, Vec::new(), 0);
        for inside in ["/steps/a", "/external/distfiles/x"] {
            spec.layers.push(StepMount {
                inside: inside.into(),
                outside: "/".into(),
            });
        }
        let seen = watched(
            &[
                "/steps/a/build",
                "/steps/ab/run",
                "/external/distfiles/x",
                "/external/distfiles/y",
            ],
            &[],
        );
        assert_eq!(
            foreign(seen, &spec).missing,
            ["/steps/ab/run", "/external/distfiles/y"]
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
        let both = told(both, &watched(&[], &["/x"]));
        assert_eq!(both.helps, [DEVICES]);
        assert_eq!(both.notes.len(), 2);
        let many: Vec<String> = (0..20).map(|n| format!("/steps/{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let told = told(failed(), &watched(&many, &[]));
        assert!(told.notes[0].ends_with("and 8 more"), "{}", told.notes[0]);
    }
}
