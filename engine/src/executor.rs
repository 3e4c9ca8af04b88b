//! The seam between deciding what runs and running it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Diagnostic, Label};
use sos_formats::store_path::StorePath;

use crate::builder::Pool;
use crate::diagnose::Mismatch;
use crate::event::{Status, Text};
use crate::resolve::OutputPaths;

/// One derivation to build, with the paths of everything it needs.
pub(crate) struct Job {
    /// Its path.
    pub(crate) path: StorePath,
    /// Itself.
    pub(crate) drv: Arc<Derivation>,
    /// Outputs that somebody needs.
    pub(crate) outputs: BTreeSet<String>,
    /// Outputs of its inputs.
    pub(crate) inputs: OutputPaths,
    /// Absolute path, as shown.
    pub(crate) shown: Text,
    /// Name, as shown.
    pub(crate) name: Text,
    /// Whose slot it takes.
    pub(crate) pool: Pool,
    /// Milliseconds expected, if the past tells.
    pub(crate) expected_ms: Option<u64>,
    /// It is there, and is built all the same.
    pub(crate) forced: bool,
    /// Where a person wrote it, as far as that is known.
    pub(crate) place: Option<Label>,
}

/// What came of a job.
pub(crate) enum Outcome {
    /// The outputs are valid.
    Done {
        /// Their paths: at least the needed ones.
        outputs: BTreeMap<String, StorePath>,
        /// How they came about.
        status: Status,
        /// Bytes of all of them, if they were fetched.
        bytes: u64,
    },
    /// It cannot be built.
    Failed(Box<Diagnostic>),
    /// Its content is not what was promised.
    Mismatched(Vec<Mismatch>),
    /// Somebody is building it.
    Locked(Locked),
    /// It was stopped.
    Cancelled,
}

/// A build that somebody else is at.
#[derive(Clone)]
pub(crate) struct Locked {
    /// What to wait for, see [`Executor::wait`].
    pub(crate) lock: StorePath,
    /// Who builds it, if that can be told.
    pub(crate) pid: Option<u32>,
    /// The command of that process.
    pub(crate) command: Option<Text>,
    /// The derivation whose log it writes.
    pub(crate) log_of: Option<StorePath>,
}

/// Runs jobs. Calls of `execute` and `wait` are made on threads of their own and may block.
pub(crate) trait Executor: Send + Sync + 'static {
    /// Makes many looks, one after the other on this thread, cheaper than as many by themselves. What is written meanwhile is not
    /// seen by them.
    fn at_once(&self, looks: &mut dyn FnMut()) {
        looks();
    }

    /// Looks whether a job turns out to be done, now that its inputs are known. Called on the thread that decides, so it must
    /// be quick; what it finds may be used as an input of a running job only after [`Executor::settle`].
    fn look(&self, _job: &Job) -> Option<Outcome> {
        None
    }

    /// Holds and writes down everything that [`Executor::look`] found since the last time; returns the derivations whose
    /// outputs are gone again.
    fn settle(&self) -> Result<Vec<StorePath>, Box<Diagnostic>> {
        Ok(Vec::new())
    }

    /// Runs one job to its end.
    fn execute(&self, job: &Job) -> Outcome;

    /// Waits until nobody holds the lock, or `stop` says that nobody needs to know any more; passes lines of the log of whoever
    /// holds it on to `line`.
    fn wait(&self, locked: &Locked, stop: &dyn Fn() -> bool, line: &mut dyn FnMut(&str));
}
