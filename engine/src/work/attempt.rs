//! One build: its builder is run, what it made is registered, and what is known of it is written down.

use std::collections::BTreeMap;
use std::fs;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::Trace;

use super::{Attempt, Worker, history_key, host, noted, place_failed, run_builder};
use crate::builder::Pool;
use crate::choice::Chosen;
use crate::clock::millis;
use crate::diagnose::{LOG_NOT_WHOLE, build_no_output, disk_full_of_outputs, store_failed};
use crate::event::{Event, Status};
use crate::executor::{Job, Outcome};
use crate::kept;
use crate::output::{Finish, Stop};
use crate::report::Reporter;
use crate::resolve::{Resolved, for_builder};
use crate::sandbox::HELPER_DIED;
use crate::verify::Conditions;

/// Bytes of the log of a build that filled the disk up to which it stays.
const LOG_BYTES_KEPT: u64 = 1 << 20;

/// What is remembered of a build besides its outputs.
pub(super) struct Remembered<'a> {
    pub(super) key: [u8; 32],
    pub(super) builder: &'a str,
    pub(super) started_ms: u64,
    pub(super) duration_ms: u64,
}

impl Worker {
    pub(super) fn build(
        &self,
        job: &Job,
        resolved: &Resolved,
        chosen: &Chosen<'_>,
        key: [u8; 32],
    ) -> Result<Outcome, Stop> {
        self.started(job, resolved, chosen)?;
        let reporter = Reporter::new(
            self.store.clone(),
            job.path.clone(),
            job.shown.clone(),
            job.name.clone(),
            job.pool,
            self.events.clone(),
            self.cancel.clone(),
        )
        .placed(job.place.clone());
        self.flusher.watch(&reporter);
        let mut outcome = self.build_once(job, resolved, chosen, key, &reporter);
        // Nothing of it was registered, and whatever was killed from outside says nothing about the build.
        if matches!(&outcome, Err(Stop::Problem(problem)) if is_killed_helper(problem))
            && !self.cancel.is_cancelled()
        {
            reporter.log("sos: the sandbox was killed from outside; the build begins again");
            let warning = Diagnostic::warning(
                "build-tried-again",
                Class::Machine,
                format!(
                    "the sandbox of `{}` was killed from outside: it is built again, once",
                    job.name
                ),
            );
            self.events.emit(Event::Diagnostic {
                diagnostic: Box::new(warning),
            });
            outcome = self
                .build_once(job, resolved, chosen, key, &reporter)
                .map_err(killed_again);
        }
        match outcome {
            // The directory of the build is gone by now, but not what it shares with the store.
            Err(Stop::Problem(problem)) if problem.code == "env-disk-full" => {
                Err(self.make_room(job, *problem, &reporter))
            }
            outcome => outcome,
        }
    }

    /// Removes what a build has left for which there is no room: the next one shall find some.
    fn make_room(&self, job: &Job, mut problem: Diagnostic, reporter: &Reporter) -> Stop {
        let name = format!("`{}`", job.name);
        if !problem.notes.iter().any(|note| note.contains(&name)) {
            problem = problem.note(format!(
                "{name} was being built; nothing was added to the store"
            ));
        }
        // An open file takes its room also when it has no name.
        let _shown_already = reporter.finish();
        match self.store.remove_log_over(&job.path, LOG_BYTES_KEPT) {
            Ok(false) => {}
            Ok(true) => problem = log_removed(problem),
            Err(error) => tracing::warn!(%error, "a log takes the room that is missing"),
        }
        if let Err(error) = self.store.free_leftovers() {
            tracing::warn!(%error, "what a build has left takes the room that is missing");
        }
        Stop::Problem(Box::new(problem))
    }

    fn build_once(
        &self,
        job: &Job,
        resolved: &Resolved,
        chosen: &Chosen<'_>,
        key: [u8; 32],
        reporter: &Reporter,
    ) -> Result<Outcome, Stop> {
        let started_ms = self.clock.unix_ms();
        let roots: Vec<StorePath> = resolved.drv.input_srcs.iter().cloned().collect();
        let closure = self.store.closure(&roots).map_err(store_failed)?;
        let place = self.store.temp_dir("build").map_err(store_failed)?;
        fs::create_dir(place.path().join("out")).map_err(|e| place_failed(&place, &e))?;
        let attempt = Attempt {
            worker: self,
            job,
            resolved,
            drv: for_builder(self.store.store_dir(), resolved),
            closure: &closure,
            place: &place,
            reporter: reporter.clone(),
            since: self.clock.monotonic(),
            conditions: Conditions::default(),
            usual_cores: self.options.cores,
        };
        let made = run_builder(&attempt, chosen)?;
        let log = attempt.reporter.finish();
        let missing: Vec<String> = resolved
            .drv
            .outputs
            .keys()
            .filter(|output| !made.contains_key(*output))
            .cloned()
            .collect();
        if !missing.is_empty() {
            let stop = Box::new(build_no_output(job.name.as_str(), &missing, &log)).into();
            return Err(match chosen {
                Chosen::Nix => kept::keep_build(&attempt, stop),
                Chosen::Step | Chosen::InProcess(_) => stop,
            });
        }
        if self.cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        let finish = Finish {
            store: &self.store,
            job,
            resolved,
            closure: &closure,
            knows_own_paths: matches!(chosen, Chosen::Nix),
            cancel: &self.cancel,
        };
        let registered = finish
            .register(&made)
            .map_err(|stop| match (stop, chosen) {
                (Stop::Problem(problem), _) if problem.code == "env-disk-full" => {
                    let outputs: Vec<&str> = made.keys().map(String::as_str).collect();
                    let (name, root) = (job.name.as_str(), self.store.root());
                    Box::new(disk_full_of_outputs(name, &outputs, root, &problem)).into()
                }
                (stop, Chosen::Nix) => kept::keep_refused(&attempt, stop),
                (stop, _) => stop,
            })?;
        let outputs: BTreeMap<String, StorePath> = registered
            .iter()
            .map(|(output, one)| (output.clone(), one.path.clone()))
            .collect();
        let made = Remembered {
            key,
            builder: chosen.name(),
            started_ms,
            duration_ms: millis(attempt.took()),
        };
        self.tell_other_results(job, &made, &registered)?;
        self.remember(job, resolved, &made, &outputs)?;
        Ok(Outcome::Done {
            outputs,
            status: match job.pool {
                Pool::Build => Status::Built,
                Pool::Io => Status::Fetched,
            },
            bytes: registered.values().map(|one| one.bytes).sum(),
        })
    }

    /// Records what was built, how long it took, and under which key it will be found again.
    fn remember(
        &self,
        job: &Job,
        resolved: &Resolved,
        made: &Remembered<'_>,
        outputs: &BTreeMap<String, StorePath>,
    ) -> Result<(), Box<Diagnostic>> {
        let traces: Vec<Trace> = outputs
            .iter()
            .map(|(output, path)| Trace {
                key: made.key,
                drv: job.path.clone(),
                output: output.clone(),
                path: path.clone(),
                builder: made.builder.to_owned(),
                duration_ms: made.duration_ms,
                started_secs: i64::try_from(made.started_ms / 1000).unwrap_or(i64::MAX),
                log: Some(job.path.clone()),
                host: Some(host()),
            })
            .collect();
        self.store
            .record_build(&traces, &noted(job, resolved, &self.noted_name(job)))
            .map_err(store_failed)?;
        let key = history_key(job.name.as_str());
        self.store
            .record_duration(key, &job.drv.system, made.duration_ms)
            .map_err(store_failed)
    }
}

/// Tells whether a run ended because something outside ended its helper.
fn is_killed_helper(problem: &Diagnostic) -> bool {
    problem.code == HELPER_DIED && problem.class == Class::Machine
}

/// Adds to the second such end that it is the second.
fn killed_again(stop: Stop) -> Stop {
    match stop {
        Stop::Problem(problem) if is_killed_helper(&problem) => Stop::Problem(Box::new(
            problem
                .note("it was killed twice in a row, and the build is given up")
                .help("`dmesg` tells whether memory ran out; build less at once with `-j`, or less beside it"),
        )),
        stop => stop,
    }
}

/// Says that the log of a failed build is gone, and nothing else of it that would need it.
fn log_removed(mut problem: Diagnostic) -> Diagnostic {
    problem.helps.retain(|help| !help.contains("sos log"));
    // Of a log that is gone nothing is missing.
    problem
        .notes
        .retain(|note| !note.starts_with(LOG_NOT_WHOLE));
    problem.note("its log was removed, to make room")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_log_is_not_said_to_be_incomplete_as_well() {
        let problem = Diagnostic::error("env-disk-full", Class::Machine, "no room")
            .note("`x` was being built")
            .note(format!("{LOG_NOT_WHOLE}: no room"))
            .help("`sos log x` shows the whole log")
            .help("`sos gc` frees it");
        let told = log_removed(problem);
        assert_eq!(
            told.notes,
            ["`x` was being built", "its log was removed, to make room"]
        );
        assert_eq!(told.helps, ["`sos gc` frees it"]);
    }
}
