//! Builds again what was built, under other conditions, and compares.
//!
//! A rebuild is written to a private directory and thrown away; what is valid is not touched. Every build runs at another
//! second, in another place on the disk, with other process ids and inodes; [`Condition`] is what is varied on purpose.
//! The wall clock itself is not varied. It cannot be set for one process without taking part in each of its system calls (a time namespace has
//! only the monotonic clocks, and a preloaded library does nothing to static programs), so a build that depends on the
//! date alone is found only from another day, or by its time zone; whether a round was on another day is part of its record. The user id is part of
//! what every build is promised, and stays, as does the working directory of a step, which its recipe says.

mod conditions;
mod culprit;
mod rebuild;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sos_formats::derivation::{Derivation, DrvHashes, ModuloError};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::compare::{Difference, Snapshot};
use sos_store::{PathInfo, Rebuild, TempDir};
use tokio::runtime::Handle;

use crate::cancel::Cancel;
use crate::choice::{choose, pool_of};
use crate::clock::millis;
use crate::diagnose::store_failed;
use crate::engine::Engine;
use crate::executor::Job;
use crate::graph::Graph;
use crate::needed::load;
use crate::output::Stop;
use crate::resolve::{OutputPaths, Resolved, resolve, trace_key};

pub(crate) use conditions::Shape;
pub use conditions::{Condition, Conditions};
pub use culprit::Culprit;

/// Milliseconds of a day.
const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// How to verify.
#[derive(Clone, Debug)]
pub struct VerifyOptions {
    /// How often something is built again.
    pub rounds: usize,
    /// What is varied.
    pub vary: BTreeSet<Condition>,
    /// After a difference, find out which condition makes it.
    pub bisect: bool,
}

/// One build again.
#[derive(Clone, Debug)]
pub struct Round {
    /// What was varied.
    pub conditions: Conditions,
    /// Whether the same came out.
    pub same: bool,
    /// How long it took.
    pub took: Duration,
}

/// What became of one derivation.
#[derive(Debug)]
pub struct Verified {
    /// The derivation.
    pub drv: StorePath,
    /// Its name.
    pub name: String,
    /// The outputs that were compared.
    pub outputs: BTreeMap<String, StorePath>,
    /// The rounds, first to last; the last one may be the one that differs.
    pub rounds: Vec<Round>,
    /// The answer.
    pub verdict: Verdict,
}

/// Whether a build gives the same again.
#[derive(Debug)]
pub enum Verdict {
    /// Every round gave the same.
    Same,
    /// Its outputs are named by the hash of their content: whatever comes out is checked against it in every build.
    Fixed,
    /// A round gave something else.
    Different(Box<Different>),
    /// It cannot be built again, under varied conditions or under any.
    Failed {
        /// Why.
        diagnostic: Box<Diagnostic>,
        /// Under which conditions it fails, if it does not under the usual ones.
        culprit: Culprit,
    },
}

/// A rebuild that gave something else.
#[derive(Debug)]
pub struct Different {
    /// What differs, output by output.
    pub outputs: Vec<OutputDifference>,
    /// What makes it differ.
    pub culprit: Culprit,
    /// Keeps what came out for as long as somebody looks at it.
    place: TempDir,
}

impl Different {
    /// The directory of what came out: `out/<output>` or `out/<hash>-<name>`.
    #[must_use]
    pub fn place(&self) -> &std::path::Path {
        self.place.path()
    }
}

/// One output that came out otherwise.
#[derive(Debug)]
pub struct OutputDifference {
    /// Its name.
    pub output: String,
    /// What is in the store.
    pub path: StorePath,
    /// Where what came out is on disk; none for a root filesystem.
    pub rebuilt_at: Option<std::path::PathBuf>,
    /// What the store has.
    pub recorded: Snapshot,
    /// What came out.
    pub rebuilt: Snapshot,
    /// Where they differ; not empty.
    pub differences: Vec<Difference>,
}

/// What a person is told meanwhile.
#[derive(Clone, Debug)]
pub enum VerifyProgress {
    /// A round begins: its number, from 1.
    Round(usize, Conditions),
    /// A build to find out what makes the difference.
    Narrowing {
        /// What is varied.
        conditions: Conditions,
        /// Which of these builds it is, from 1.
        number: usize,
        /// How many there are at most, unless one more condition turns out to be at fault; at least `number`.
        expected: usize,
    },
}

/// What is known of a derivation that is verified.
struct Subject {
    job: Job,
    resolved: Resolved,
    key: [u8; 32],
    /// Those outputs that are there.
    recorded: BTreeMap<String, PathInfo>,
    closure: BTreeSet<StorePath>,
    shape: Shape,
}

/// What came of one rebuild.
enum Came {
    Same,
    Different(Vec<OutputDifference>, BTreeMap<String, String>, TempDir),
    Failed(Box<Diagnostic>),
}

impl Engine {
    /// Lists the derivations that `wanted` are built from, themselves included, as far as their texts are known.
    ///
    /// # Errors
    /// When the store fails or a derivation is malformed.
    pub fn derivations(
        &self,
        graph: &Graph,
        wanted: &[StorePath],
    ) -> Result<Vec<StorePath>, Box<Diagnostic>> {
        let mut found = Vec::new();
        let mut seen = BTreeSet::new();
        let mut pending: Vec<StorePath> = wanted.iter().rev().cloned().collect();
        while let Some(path) = pending.pop() {
            if !seen.insert(path.clone()) {
                continue;
            }
            let drv = load(self.store(), graph, &path)?;
            pending.extend(drv.input_drvs.keys().rev().cloned());
            found.push(path);
        }
        Ok(found)
    }

    /// The direct inputs of a derivation, with the outputs that it uses.
    ///
    /// # Errors
    /// As [`Engine::derivations`].
    pub fn inputs_of(
        &self,
        graph: &Graph,
        drv: &StorePath,
    ) -> Result<BTreeMap<StorePath, BTreeSet<String>>, Box<Diagnostic>> {
        Ok(load(self.store(), graph, drv)?.input_drvs.clone())
    }

    /// The outputs of a derivation that are there, by name.
    ///
    /// # Errors
    /// As [`Engine::derivations`].
    pub fn known_outputs(
        &self,
        graph: &Graph,
        drv: &StorePath,
    ) -> Result<BTreeMap<String, StorePath>, Box<Diagnostic>> {
        let loaded = load(self.store(), graph, drv)?;
        let mut found = BTreeMap::new();
        for output in loaded.outputs.keys() {
            let path = self.output_of(graph, drv, output);
            // An output whose path nothing tells is not there.
            if let Ok(path) = path
                && self.store().is_valid(&path).map_err(store_failed)?
            {
                found.insert(output.clone(), path);
            }
        }
        Ok(found)
    }

    /// Whether the outputs of a derivation are named by the hash of their content, so that no build of it can give anything else.
    ///
    /// # Errors
    /// As [`Engine::derivations`].
    pub fn is_fixed(&self, graph: &Graph, drv: &StorePath) -> Result<bool, Box<Diagnostic>> {
        Ok(load(self.store(), graph, drv)?.is_fixed())
    }

    /// The hash by which binary caches know the results of a content-addressed derivation; none for any other.
    ///
    /// # Errors
    /// As [`Engine::derivations`].
    pub fn realisation_hash(
        &self,
        graph: &Graph,
        drv: &StorePath,
    ) -> Result<Option<String>, Box<Diagnostic>> {
        let loaded = load(self.store(), graph, drv)?;
        if !loaded.is_floating() {
            return Ok(None);
        }
        let mut lookup = |path: &StorePath| load(self.store(), graph, path).map(|d| (*d).clone());
        DrvHashes::new(self.store().store_dir().clone())
            .realisation_hash(&loaded, Derivation::name_from_path(drv), &mut lookup)
            .map(Some)
            .map_err(|e| match e {
                ModuloError::Lookup { cause, .. } => cause,
                e => Box::new(Diagnostic::error(
                    "drv-malformed",
                    Class::Other,
                    format!("`{}`: {e}", Derivation::name_from_path(drv)),
                )),
            })
    }

    /// Builds one derivation again and compares. Its outputs and its inputs must be there. Blocks: call it from a thread of
    /// its own that lives until it returns.
    ///
    /// # Errors
    /// When something that is needed is not there, the store fails, or `cancel` asks to stop.
    pub fn verify(
        &self,
        runtime: &Handle,
        graph: &Graph,
        drv: &StorePath,
        options: &VerifyOptions,
        cancel: &Cancel,
        progress: &mut dyn FnMut(&VerifyProgress),
    ) -> Result<Verified, Box<Diagnostic>> {
        // Held before anything is looked at, so that nothing of it is collected meanwhile.
        let lease = self.store().lease().map_err(store_failed)?;
        let loaded = load(self.store(), graph, drv)?;
        let name = Derivation::name_from_path(drv).to_owned();
        let mut verified = Verified {
            drv: drv.clone(),
            name,
            outputs: BTreeMap::new(),
            rounds: Vec::new(),
            verdict: Verdict::Same,
        };
        if loaded.is_fixed() {
            verified.verdict = Verdict::Fixed;
            return Ok(verified);
        }
        let subject = self.subject(graph, drv, loaded)?;
        let mut hold: Vec<StorePath> = subject.closure.iter().cloned().collect();
        hold.extend(subject.recorded.values().map(|info| info.path.clone()));
        lease.hold(&hold).map_err(store_failed)?;
        let recorded = subject.recorded.iter();
        verified.outputs = recorded.map(|(o, i)| (o.clone(), i.path.clone())).collect();
        let ended_ms = self.ended_ms(&subject)?;
        self.another_second(ended_ms.unwrap_or(0));
        let other_date =
            || ended_ms.is_some_and(|ms| ms / DAY_MS != self.clock().unix_ms() / DAY_MS);
        let all = Conditions::possible(&options.vary, subject.shape, &subject.job.drv);
        let build =
            |conditions: &Conditions| match self.again(runtime, &subject, conditions, cancel) {
                Err(Stop::Problem(diagnostic)) if !cancel.is_cancelled() => {
                    // What is wrong with the machine is not what is asked here.
                    if matches!(diagnostic.class, Class::BuildFailed | Class::TimedOut) {
                        Ok(Came::Failed(diagnostic))
                    } else {
                        Err(diagnostic)
                    }
                }
                Err(_) => Err(cancelled()),
                Ok(came) => Ok(came),
            };
        for round in 0..options.rounds {
            let conditions = Conditions {
                set: all.clone(),
                round,
                other_date: other_date(),
            };
            progress(&VerifyProgress::Round(round + 1, conditions.clone()));
            let (since, started_ms) = (self.clock().monotonic(), self.clock().unix_ms());
            let came = build(&conditions)?;
            let took = self.clock().monotonic().saturating_sub(since);
            verified.rounds.push(Round {
                conditions: conditions.clone(),
                same: matches!(came, Came::Same),
                took,
            });
            self.record(&subject, &conditions, &came, started_ms, took)?;
            if matches!(came, Came::Same) {
                continue;
            }
            let mut number = 0;
            let culprit = if options.bisect {
                culprit::find(&all, &mut |set, expected| {
                    let conditions = Conditions {
                        set: set.clone(),
                        round,
                        other_date: other_date(),
                    };
                    number += 1;
                    progress(&VerifyProgress::Narrowing {
                        conditions: conditions.clone(),
                        number,
                        expected,
                    });
                    Ok::<_, Box<Diagnostic>>(!matches!(build(&conditions)?, Came::Same))
                })?
            } else {
                Culprit::Unknown
            };
            verified.verdict = match came {
                Came::Different(outputs, _, place) => Verdict::Different(Box::new(Different {
                    outputs,
                    culprit,
                    place,
                })),
                Came::Failed(diagnostic) => Verdict::Failed {
                    diagnostic,
                    culprit,
                },
                Came::Same => Verdict::Same,
            };
            break;
        }
        Ok(verified)
    }

    fn subject(
        &self,
        graph: &Graph,
        path: &StorePath,
        drv: Arc<Derivation>,
    ) -> Result<Subject, Box<Diagnostic>> {
        let dir = self.store().store_dir();
        let name = Derivation::name_from_path(path);
        let mut inputs = OutputPaths::new();
        for (input, outputs) in &drv.input_drvs {
            for output in outputs {
                let found = self.output_of(graph, input, output)?;
                let paths = inputs.entry(input.clone()).or_default();
                paths.insert(output.clone(), found);
            }
        }
        let resolved = resolve(dir, path, &drv, &inputs).map_err(|e| {
            Box::new(Diagnostic::error(
                "build-unresolved",
                Class::Bug,
                format!("`{name}` cannot be resolved: {e}"),
            ))
        })?;
        let chosen = choose(self.builders(), &resolved.drv, name)?;
        let shape = rebuild::shape(&chosen, &resolved.drv);
        let key = trace_key(&resolved.aterm, chosen.name(), chosen.revision());
        let mut recorded = BTreeMap::new();
        for output in resolved.drv.outputs.keys() {
            let known = match resolved.known_path(dir, name, output) {
                Some(known) => Some(known),
                None => match self
                    .store()
                    .drv_output(path, output)
                    .map_err(store_failed)?
                {
                    Some(known) => Some(known),
                    None => self.store().trace(&key, output).map_err(store_failed)?,
                },
            };
            if let Some(known) = known
                && let Some(info) = self.store().query(&known).map_err(store_failed)?
            {
                recorded.insert(output.clone(), info);
            }
        }
        if recorded.is_empty() {
            return Err(missing(&format!("no output of `{name}`")));
        }
        let roots: Vec<StorePath> = resolved.drv.input_srcs.iter().cloned().collect();
        for root in &roots {
            if !self.store().is_valid(root).map_err(store_failed)? {
                return Err(missing(&format!("no input `{}` of `{name}`", root.name())));
            }
        }
        let closure = self.store().closure(&roots).map_err(store_failed)?;
        let job = Job {
            path: path.clone(),
            outputs: recorded.keys().cloned().collect(),
            inputs,
            shown: path.absolute(dir).into(),
            name: name.into(),
            pool: pool_of(self.builders(), &drv, name),
            expected_ms: None,
            forced: false,
            place: None,
            drv,
        };
        Ok(Subject {
            job,
            resolved,
            key,
            recorded,
            closure,
            shape,
        })
    }

    /// Where an output of an input is.
    fn output_of(
        &self,
        graph: &Graph,
        input: &StorePath,
        output: &str,
    ) -> Result<StorePath, Box<Diagnostic>> {
        let noted = self.store().drv_output(input, output);
        if let Some(path) = noted.map_err(store_failed)? {
            return Ok(path);
        }
        let (dir, name) = (self.store().store_dir(), Derivation::name_from_path(input));
        load(self.store(), graph, input)?
            .output_path(dir, name, output)
            .ok_or_else(|| missing(&format!("no input `{name}`")))
    }

    /// When the recorded build ended, in milliseconds since 1970; none for one that was not made here.
    fn ended_ms(&self, subject: &Subject) -> Result<Option<u64>, Box<Diagnostic>> {
        let Some(info) = subject.recorded.values().next() else {
            return Ok(None);
        };
        let traces = self.store().traces_of(&info.path).map_err(store_failed)?;
        let ended_ms = traces.iter().map(|record| {
            let started = u64::try_from(record.trace.started_secs).unwrap_or(0);
            started
                .saturating_mul(1000)
                .saturating_add(record.trace.duration_ms)
        });
        Ok(ended_ms.max())
    }

    /// Lets the second in which the recorded build ended pass: a time in the output shall differ.
    fn another_second(&self, ended_ms: u64) {
        // The start is known to the second only.
        let other_ms = ended_ms.saturating_add(2000) / 1000 * 1000;
        let wait = other_ms.saturating_sub(self.clock().unix_ms());
        // A clock that was set back is nothing to wait for.
        if wait <= 2000 {
            thread::sleep(Duration::from_millis(wait));
        }
    }

    fn record(
        &self,
        subject: &Subject,
        conditions: &Conditions,
        came: &Came,
        started_ms: u64,
        took: Duration,
    ) -> Result<(), Box<Diagnostic>> {
        let found = |output: &String, info: &PathInfo| {
            match came {
                Came::Different(_, hashes, _) => hashes.get(output).cloned(),
                Came::Failed(_) => Some("failed".to_owned()),
                Came::Same => None,
            }
            .unwrap_or_else(|| rebuild::recorded_hash(info))
        };
        let rebuilds: Vec<Rebuild> = subject
            .recorded
            .iter()
            .map(|(output, info)| {
                let found = found(output, info);
                Rebuild {
                    path: info.path.clone(),
                    drv: subject.job.path.clone(),
                    output: output.clone(),
                    same: found == rebuild::recorded_hash(info),
                    found,
                    conditions: conditions.to_string(),
                    host: crate::work::host(),
                    started_secs: i64::try_from(started_ms / 1000).unwrap_or(i64::MAX),
                    duration_ms: millis(took),
                }
            })
            .collect();
        self.store()
            .record_rebuilds(&rebuilds)
            .map_err(store_failed)
    }

    /// The results of builds of the same as `drv` whose paths are others than those that count now.
    ///
    /// # Errors
    /// As [`Engine::verify`].
    pub fn other_results(
        &self,
        graph: &Graph,
        drv: &StorePath,
    ) -> Result<Vec<sos_store::Trace>, Box<Diagnostic>> {
        let subject = self.subject(graph, drv, load(self.store(), graph, drv)?)?;
        let traces = self
            .store()
            .traces_of_key(&subject.key)
            .map_err(store_failed)?;
        let other = |trace: &sos_store::Trace| {
            subject
                .recorded
                .get(&trace.output)
                .is_some_and(|info| info.path != trace.path)
        };
        Ok(traces.into_iter().map(|r| r.trace).filter(other).collect())
    }
}

fn missing(what: &str) -> Box<Diagnostic> {
    Box::new(
        Diagnostic::error(
            "verify-not-built",
            Class::Other,
            format!("{what} is in the store: there is nothing to compare with"),
        )
        .help("`sos build` makes it; then verify again"),
    )
}

fn cancelled() -> Box<Diagnostic> {
    Box::new(Diagnostic::error(
        "interrupted",
        Class::Interrupted,
        "interrupted; nothing was compared to its end",
    ))
}
