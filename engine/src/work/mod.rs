//! Runs one job for real: is it there already, who builds it, and what becomes of the outcome.

mod attempt;
mod elsewhere;
mod otherwise;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::{Lease, NewBuilt, Store, TempDir, TryLock, is_disk_full};
use tokio::runtime::Handle;

use crate::builder::{Pool, Registry};
use crate::cancel::Cancel;
use crate::cause::{Asked, Cause, Causes, History, causes, forced, noted_name};
use crate::choice::{Chosen, choose};
use crate::clock::Clock;
use crate::diagnose::{store_failed, wrong_system};
use crate::event::{Event, EventSink, Status};
use crate::executor::{Executor, Job, Locked, Outcome};
use crate::options::BuildOptions;
use crate::other::{OtherLog, locked};
use crate::output::{Made, Stop};
use crate::report::{Flusher, Reporter};
use crate::resolve::{Resolved, is_dynamic, resolve, trace_key};
use crate::sandbox::{PreparedSets, Session};
use crate::substitute::Mirrors;
use crate::verify::Conditions;
use crate::{features, in_process, nix_shape, step};

/// Milliseconds between two looks at a lock that another process holds.
const LOCK_POLL_MS: u64 = 50;

/// Executes jobs with a store, in sandboxes and with in-process builders.
pub(crate) struct Worker {
    pub(crate) store: Store,
    pub(crate) builders: Registry,
    pub(crate) options: BuildOptions,
    pub(crate) events: EventSink,
    pub(crate) cancel: Cancel,
    pub(crate) runtime: Handle,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) lease: Lease,
    /// What the causes of builds are told from.
    pub(crate) history: History,
    /// Whom to ask for what its inputs name only when they are there.
    pub(crate) mirrors: Option<Arc<Mirrors>>,
    pub(crate) flusher: Flusher,
    /// What was found done and is not written down yet.
    pub(crate) found: Mutex<Vec<Found>>,
    pub(crate) prepared: Arc<PreparedSets>,
    /// How many states of failed builds were kept in this run.
    pub(crate) states_kept: AtomicUsize,
    /// What launches runs ends with this.
    pub(crate) _session: Session,
}

/// A derivation whose outputs turned out to be there.
pub(crate) struct Found {
    drv: StorePath,
    identity: StorePath,
    aterm: Vec<u8>,
    name: String,
    system: String,
    outputs: BTreeMap<String, StorePath>,
}

/// One build in progress.
pub(crate) struct Attempt<'a> {
    pub(crate) worker: &'a Worker,
    pub(crate) job: &'a Job,
    pub(crate) resolved: &'a Resolved,
    /// As the builder sees it.
    pub(crate) drv: Derivation,
    pub(crate) closure: &'a BTreeSet<StorePath>,
    pub(crate) place: &'a TempDir,
    pub(crate) reporter: Reporter,
    pub(crate) since: Duration,
    /// What is different from other builds, to see what depends on it.
    pub(crate) conditions: Conditions,
    /// Cores that a build is told of when nothing is varied.
    pub(crate) usual_cores: usize,
}

impl Attempt<'_> {
    /// Returns the time since the builder started.
    pub(crate) fn took(&self) -> Duration {
        self.worker.clock.monotonic().saturating_sub(self.since)
    }

    /// A failure in one sentence, with the end of the log if there is one.
    pub(crate) fn failed(&self, code: &'static str, class: Class, message: &str) -> Stop {
        let mut diagnostic = Diagnostic::error(
            code,
            class,
            format!("`{}` failed: {message}", self.job.name),
        );
        let log = self.reporter.finish();
        if !log.tail.is_empty() {
            let tail: Vec<&str> = log.tail.iter().map(String::as_str).collect();
            diagnostic = diagnostic.note(format!("its log ends with:\n{}", tail.join("\n")));
        }
        Stop::Problem(Box::new(diagnostic))
    }
}

impl Executor for Worker {
    fn at_once(&self, looks: &mut dyn FnMut()) {
        let mut looked = false;
        let together = self.store.snapshot(|| {
            looked = true;
            looks();
        });
        if let Err(error) = together {
            tracing::debug!(%error, "each look reads for itself");
            if !looked {
                looks();
            }
        }
    }

    fn look(&self, job: &Job) -> Option<Outcome> {
        if job.forced {
            return None;
        }
        // What fails here fails again, and is told, when the job runs.
        let dir = self.store.store_dir();
        let resolved = resolve(dir, &job.path, &job.drv, &job.inputs).ok()?;
        let chosen = choose(&self.builders, &resolved.drv, job.name.as_str()).ok()?;
        let key = trace_key(&resolved.aterm, chosen.name(), chosen.revision());
        let outputs = self.find(job, &resolved, &key).ok().flatten()?;
        self.events.note_inputs(&job.shown, &resolved, &job.inputs);
        self.found
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Found {
                drv: job.path.clone(),
                identity: resolved.identity,
                aterm: resolved.aterm,
                name: self.noted_name(job),
                system: job.drv.system.clone(),
                outputs: outputs.clone(),
            });
        Some(cached(outputs))
    }

    fn settle(&self) -> Result<Vec<StorePath>, Box<Diagnostic>> {
        let found = std::mem::take(&mut *self.found.lock().unwrap_or_else(PoisonError::into_inner));
        let paths: BTreeSet<&StorePath> = found.iter().flat_map(|f| f.outputs.values()).collect();
        let hold: Vec<StorePath> = paths.iter().map(|path| (*path).clone()).collect();
        self.lease.hold(&hold).map_err(store_failed)?;
        // A collection may have taken one between the look and the hold.
        let look = || {
            let mut gone = BTreeSet::new();
            for path in paths {
                if !self.store.is_valid(path)? {
                    gone.insert(path);
                }
            }
            Ok(gone)
        };
        let gone = self.store.snapshot(look);
        let gone = gone.and_then(|gone| gone).map_err(store_failed)?;
        let (lost, there): (Vec<&Found>, Vec<&Found>) = found
            .iter()
            .partition(|one| one.outputs.values().any(|path| gone.contains(path)));
        let builds = there.iter().map(|one| {
            let outputs = one.outputs.iter();
            (
                outputs.map(|(output, path)| (output.as_str(), path)),
                NewBuilt {
                    drv: &one.drv,
                    identity: &one.identity,
                    aterm: &one.aterm,
                    name: &one.name,
                    system: &one.system,
                },
            )
        });
        self.store
            .record_equal_builds(builds)
            .map_err(store_failed)?;
        Ok(lost.iter().map(|one| one.drv.clone()).collect())
    }

    fn execute(&self, job: &Job) -> Outcome {
        match self.run(job) {
            Ok(outcome) => outcome,
            Err(_) if self.cancel.is_cancelled() => Outcome::Cancelled,
            Err(Stop::Problem(diagnostic)) => Outcome::Failed(diagnostic),
            Err(Stop::Mismatch(list)) => Outcome::Mismatched(list),
            Err(Stop::Cancelled) => Outcome::Cancelled,
        }
    }

    fn wait(&self, locked: &Locked, stop: &dyn Fn() -> bool, line: &mut dyn FnMut(&str)) {
        let mut log = locked
            .log_of
            .as_ref()
            .map(|drv| OtherLog::new(&self.store, drv.clone(), &locked.lock));
        while !stop() {
            // An error is met again, and told, by the job itself.
            let over = !matches!(
                self.store.try_lock_drv(&locked.lock, &locked.lock),
                Ok(TryLock::Held(_))
            );
            // Read after that: what was written before the end is met in the last round.
            if let Some(log) = &mut log {
                log.pass(over, line);
            }
            if over {
                return;
            }
            thread::sleep(Duration::from_millis(LOCK_POLL_MS));
        }
    }
}

impl Worker {
    fn run(&self, job: &Job) -> Result<Outcome, Stop> {
        let dir = self.store.store_dir();
        let resolved = resolve(dir, &job.path, &job.drv, &job.inputs).map_err(|e| {
            Box::new(Diagnostic::error(
                "build-unresolved",
                Class::Bug,
                format!("`{}` cannot be resolved: {e}", job.name),
            ))
        })?;
        self.events.note_inputs(&job.shown, &resolved, &job.inputs);
        let chosen = choose(&self.builders, &resolved.drv, job.name.as_str())?;
        let key = trace_key(&resolved.aterm, chosen.name(), chosen.revision());
        if let Some(outputs) = self.present(job, &resolved, &key)? {
            return Ok(cached(outputs));
        }
        if self.cancel.is_stopping() {
            return Err(Stop::Cancelled);
        }
        if let Some(outcome) = self.take_from_mirrors(job, &resolved)? {
            return Ok(outcome);
        }
        if !self.options.can_build(&job.drv.system) {
            let wrong = [(job.name.to_string(), job.drv.system.clone())];
            if let Some(diagnostic) = wrong_system(&wrong, &systems(&self.options)) {
                return Err(Box::new(diagnostic).into());
            }
        }
        let asked = [(job.name.to_string(), features::required(&job.drv))];
        if let Some(diagnostic) = features::missing(&asked, &self.options.system_features) {
            return Err(Box::new(diagnostic).into());
        }
        let lock_path = Self::lock_of(job, &resolved);
        let taken = self.store.try_lock_drv(&lock_path, &job.path);
        let lock = match taken.map_err(store_failed)? {
            TryLock::Acquired(lock) => lock,
            TryLock::Held(holder) => return Ok(locked(lock_path, holder)),
        };
        // Somebody may have made it between the first look and the lock.
        if let Some(outputs) = self.present(job, &resolved, &key)? {
            return Ok(cached(outputs));
        }
        let outcome = self.build(job, &resolved, &chosen, key);
        drop(lock);
        outcome
    }

    /// Returns what names this build among all processes: derivations that make the same thing share it.
    fn lock_of(job: &Job, resolved: &Resolved) -> StorePath {
        if job.drv.is_fixed() {
            let fixed = resolved.building.values().next();
            return fixed.unwrap_or(&job.path).clone();
        }
        if is_dynamic(&job.drv) {
            return resolved.identity.clone();
        }
        job.path.clone()
    }

    /// Returns the needed outputs if all are there: by their paths, or because the same was built before.
    fn present(
        &self,
        job: &Job,
        resolved: &Resolved,
        key: &[u8; 32],
    ) -> Result<Option<BTreeMap<String, StorePath>>, Box<Diagnostic>> {
        if job.forced {
            return Ok(None);
        }
        let Some(outputs) = self.find(job, resolved, key)? else {
            return Ok(None);
        };
        let paths: Vec<StorePath> = outputs.values().cloned().collect();
        self.lease.hold(&paths).map_err(store_failed)?;
        // A collection may have taken one between the look and the hold.
        for path in &paths {
            if !self.store.is_valid(path).map_err(store_failed)? {
                return Ok(None);
            }
        }
        self.record_outputs(job, resolved, &outputs)?;
        Ok(Some(outputs))
    }

    /// Returns where the needed outputs are, if all are there.
    fn find(
        &self,
        job: &Job,
        resolved: &Resolved,
        key: &[u8; 32],
    ) -> Result<Option<BTreeMap<String, StorePath>>, Box<Diagnostic>> {
        let dir = self.store.store_dir();
        let mut outputs = BTreeMap::new();
        for output in &job.outputs {
            let found = match resolved.known_path(dir, job.name.as_str(), output) {
                Some(path) => Some(path),
                None => self.store.trace(key, output).map_err(store_failed)?,
            };
            let Some(path) = found else {
                return Ok(None);
            };
            if !self.store.is_present(&path).map_err(store_failed)? {
                return Ok(None);
            }
            outputs.insert(output.clone(), path);
        }
        Ok(Some(outputs))
    }

    /// Remembers the outputs of a derivation that does not tell its own, so that the next run need not resolve it.
    fn record_outputs(
        &self,
        job: &Job,
        resolved: &Resolved,
        outputs: &BTreeMap<String, StorePath>,
    ) -> Result<(), Box<Diagnostic>> {
        if !is_dynamic(&job.drv) {
            return Ok(());
        }
        let outputs = outputs.iter().map(|(output, path)| (output.as_str(), path));
        self.store
            .record_equal_builds([(outputs, noted(job, resolved, &self.noted_name(job)))])
            .map_err(store_failed)
    }

    fn noted_name(&self, job: &Job) -> String {
        noted_name(&self.options.project, job.name.as_str())
    }

    fn cause(&self, job: &Job, resolved: &Resolved) -> Result<Causes, Box<Diagnostic>> {
        let asked = Asked {
            path: &job.path,
            drv: &job.drv,
            resolved,
            inputs: &job.inputs,
            outputs: &job.outputs,
            history: &self.history,
        };
        let mut cause = if job.forced {
            forced(&self.store, &self.history, &job.path)
        } else {
            causes(&self.store, &asked).map_err(store_failed)?
        };
        let missed = self.mirrors.as_ref().and_then(|m| m.missed(&job.path));
        cause
            .also
            .extend(missed.map(|urls| Cause::MirrorMiss { urls }));
        Ok(cause)
    }

    fn started(
        &self,
        job: &Job,
        resolved: &Resolved,
        chosen: &Chosen<'_>,
    ) -> Result<(), Box<Diagnostic>> {
        let cause = self.cause(job, resolved)?;
        let (drv, name) = (job.shown.clone(), job.name.clone());
        self.events.emit(match job.pool {
            Pool::Build => Event::BuildStarted {
                drv,
                name,
                builder: chosen.name().into(),
                cause,
                expected_ms: job.expected_ms,
            },
            Pool::Io => Event::FetchStarted { drv, name, cause },
        });
        Ok(())
    }
}

/// Runs whoever builds, and collects what was made.
pub(crate) fn run_builder(
    attempt: &Attempt<'_>,
    chosen: &Chosen<'_>,
) -> Result<BTreeMap<String, Made>, Stop> {
    match chosen {
        Chosen::Nix => nix_shape::run(attempt),
        Chosen::Step => step::run(attempt),
        Chosen::InProcess(builder) => in_process::run(attempt, builder.as_ref()),
    }
}

/// The name of this machine, for records of who built what.
pub(crate) fn host() -> String {
    let name = rustix::system::uname();
    name.nodename().to_string_lossy().into_owned()
}

/// What the store keeps of a build, to tell the cause of the next one.
fn noted<'a>(job: &'a Job, resolved: &'a Resolved, name: &'a str) -> NewBuilt<'a> {
    NewBuilt {
        drv: &job.path,
        identity: &resolved.identity,
        aterm: &resolved.aterm,
        name,
        system: &job.drv.system,
    }
}

/// Returns the name under which durations are remembered: without the version, which changes and costs no more.
pub(crate) fn history_key(name: &str) -> &str {
    let bytes = name.as_bytes();
    // A lone number at the end tells one step from the next.
    let is_version = |at: &usize| {
        let rest = &bytes[*at..];
        bytes[at - 1] == b'-'
            && rest[0].is_ascii_digit()
            && (rest.contains(&b'.') || rest.len() > 3)
    };
    let version = (1..bytes.len()).find(is_version);
    version.map_or(name, |at| &name[..at - 1])
}

/// Returns the systems that build here.
pub(crate) fn systems(options: &BuildOptions) -> BTreeSet<String> {
    let mut systems: BTreeSet<String> = options.extra_platforms.iter().cloned().collect();
    systems.insert(options.system.clone());
    systems
}

pub(crate) fn place_failed(place: &TempDir, error: &io::Error) -> Box<Diagnostic> {
    let code = if is_disk_full(error) {
        "env-disk-full"
    } else {
        "build-directory"
    };
    Box::new(Diagnostic::error(
        code,
        Class::Machine,
        format!(
            "cannot prepare the build directory `{}`: {error}",
            place.path().display()
        ),
    ))
}

fn cached(outputs: BTreeMap<String, StorePath>) -> Outcome {
    Outcome::Done {
        outputs,
        status: Status::Cached,
        bytes: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::history_key;

    #[test]
    fn names_without_versions() {
        assert_eq!(history_key("gcc-13.2"), "gcc");
        assert_eq!(history_key("linux-headers-6.6"), "linux-headers");
        assert_eq!(history_key("x"), "x");
        assert_eq!(history_key("-1.0"), "");
        assert_eq!(history_key("web-image-layer-0"), "web-image-layer-0");
        assert_eq!(history_key("data-20260801"), "data");
        assert_eq!(history_key("glibc-2.39-headers"), "glibc");
    }
}
