//! What a run gave: its summary, and the paths of what was wanted.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::BuildId;

use super::Engine;
use crate::clock::millis;
use crate::event::Event;
use crate::graph::{Graph, Wanted, wanted_outputs};
use crate::needed::{Made, Needed, load};
use crate::resolve::OutputPaths;
use crate::run::{Counts, Done};

/// What a build gave.
#[derive(Clone, Default, Debug)]
pub struct BuildReport {
    /// The wanted derivations in the order asked, each with the wanted outputs that are there.
    pub results: Vec<(StorePath, BTreeMap<String, StorePath>)>,
    /// Problems; each was also sent as an event.
    pub failures: Vec<Diagnostic>,
    /// The derivations that failed: not those that were stopped, or never tried because of them.
    pub failed: BTreeSet<StorePath>,
    /// What was counted.
    pub counts: Counts,
    /// How long it took.
    pub elapsed: Duration,
    /// Stopping was asked for.
    pub cancelled: bool,
    /// The exit code, if stopping decides it.
    pub stopped_code: Option<i32>,
    /// The number of the build in the journal; none when there was nothing to do.
    pub build: Option<BuildId>,
}

impl BuildReport {
    /// Tells whether everything that was wanted is there.
    #[must_use]
    pub fn success(&self) -> bool {
        self.failures.is_empty() && !self.cancelled
    }

    /// Returns the exit code: 0, 128 and a signal, or that of the problems; those of failed builds are or-ed as Nix does.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        if self.cancelled {
            return self
                .stopped_code
                .unwrap_or_else(|| i32::from(Class::Interrupted.exit_code()));
        }
        let codes = self.failures.iter().map(|d| i32::from(d.class.exit_code()));
        let of_builds = codes.clone().filter(|code| (100..=104).contains(code));
        // What is wrong with the machine or with sos itself explains more than what failed because of it.
        codes
            .clone()
            .find(|code| !(100..=104).contains(code))
            .unwrap_or_else(|| of_builds.fold(0, |all, code| all | code))
    }
}

impl Engine {
    pub(super) fn failed(
        &self,
        graph: &Graph,
        wanted: &[Wanted],
        diagnostic: Diagnostic,
        since: Duration,
    ) -> BuildReport {
        self.events.emit(Event::Diagnostic {
            diagnostic: Box::new(diagnostic.clone()),
        });
        let done = Done {
            failures: vec![diagnostic],
            ..Done::default()
        };
        self.report(graph, wanted, done, since, None)
    }

    pub(super) fn report(
        &self,
        graph: &Graph,
        wanted: &[Wanted],
        done: Done,
        since: Duration,
        stopped: Option<i32>,
    ) -> BuildReport {
        let mut report = BuildReport {
            results: self.results(graph, wanted, &done.paths),
            failures: done.failures,
            failed: done.failed,
            counts: done.counts,
            elapsed: self.options.spent + self.clock.monotonic().saturating_sub(since),
            cancelled: stopped.is_some(),
            stopped_code: stopped,
            build: None,
        };
        // A stop that came when everything was done changes nothing.
        let counts = report.counts;
        if report.failures.is_empty() && counts.skipped + counts.stopped + counts.failed == 0 {
            report.cancelled = false;
        }
        let dir = self.store.store_dir();
        // What is asked for twice is one result.
        let mut told = BTreeSet::new();
        self.events.emit(Event::Summary {
            built: counts.built,
            fetched: counts.fetched,
            fetched_bytes: counts.fetched_bytes,
            cached: counts.cached,
            failed: counts.failed,
            stopped: counts.stopped,
            skipped: counts.skipped,
            elapsed_ms: millis(report.elapsed),
            exit_code: report.exit_code(),
            outputs: report
                .results
                .iter()
                .flat_map(|(_, outputs)| outputs.values())
                .filter(|path| told.insert(*path))
                .map(|path| path.absolute(dir))
                .collect(),
        });
        report
    }

    fn results(
        &self,
        graph: &Graph,
        wanted: &[Wanted],
        paths: &OutputPaths,
    ) -> Vec<(StorePath, BTreeMap<String, StorePath>)> {
        let mut results = Vec::new();
        for want in wanted {
            let (Some(found), Ok(drv)) =
                (paths.get(&want.drv), load(&self.store, graph, &want.drv))
            else {
                continue;
            };
            let asked = wanted_outputs(want, &drv);
            let outputs: BTreeMap<String, StorePath> = found
                .iter()
                .filter(|(output, _)| asked.contains(*output))
                .map(|(output, path)| (output.clone(), path.clone()))
                .collect();
            results.push((want.drv.clone(), outputs));
        }
        results
    }
}

/// Returns the outputs of what was wanted, as far as they are there.
pub(super) fn paths_of(wanted: &[Wanted], needed: &Needed, made: &[Made]) -> OutputPaths {
    let wanted: BTreeSet<&StorePath> = wanted.iter().map(|want| &want.drv).collect();
    let built = needed.nodes.iter().map(|node| &node.path).zip(made);
    let mut paths = OutputPaths::new();
    for (drv, made) in needed.known.iter().chain(built) {
        if wanted.contains(drv) && !made.is_empty() {
            let outputs = paths.entry(drv.clone()).or_default();
            outputs.extend(
                made.iter()
                    .map(|(name, path)| (name.to_string(), path.clone())),
            );
        }
    }
    paths
}
