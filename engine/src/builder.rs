//! Builders that run inside this process, and how the engine finds them.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::Hash;
use sos_store::StoreError;

use crate::context::BuilderCtx;

/// Which slots a derivation takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Pool {
    /// Slots for work on the CPU, `jobs` of them.
    Build,
    /// Slots for work that waits on the network or the disk, `io_jobs` of them.
    Io,
}

/// A builder named `builtin:...` that runs in this process.
pub trait Builder: Send + Sync {
    /// Returns the name that a derivation gives as its builder, `builtin:fetch`.
    fn name(&self) -> &'static str;
    /// Returns the slots that it takes.
    fn pool(&self) -> Pool;
    /// Returns a number that changes whenever the bytes that it makes change; it is part of the trace key.
    fn revision(&self) -> u32;
    /// Makes the outputs. It blocks, and runs on its own thread.
    ///
    /// # Errors
    /// Any [`BuilderError`]; nothing is registered then.
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError>;
}

/// Content that is not what its derivation says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HashMismatch {
    /// The hash that the derivation gives.
    pub expected: Hash,
    /// The hash of what came; none when it could not be content at all (see `detail`).
    pub found: Option<Hash>,
    /// Where it came from and what it looks like: `mirror.example/x.tar.gz, 1,204 bytes`.
    pub detail: String,
}

/// Why a builder did not make its outputs.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuilderError {
    /// A problem that the builder explains itself.
    #[error("{}", .0.message)]
    Diagnostic(Box<Diagnostic>),
    /// A failure in one sentence.
    #[error("{message}")]
    Failed {
        /// One line, lower case, no full stop.
        message: String,
    },
    /// What was made or fetched is not what the derivation says.
    #[error("hash mismatch")]
    HashMismatch(Box<HashMismatch>),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A file or a connection failed.
    #[error("{context}: {source}")]
    Io {
        /// What was tried, with the path.
        context: String,
        /// How it failed.
        source: io::Error,
    },
    /// Stopping was asked for.
    #[error("cancelled")]
    Cancelled,
}

impl BuilderError {
    /// Makes a failure of one sentence.
    #[must_use]
    pub fn failed(message: impl Into<String>) -> Self {
        Self::Failed {
            message: message.into(),
        }
    }

    /// Makes an I/O failure that says what was tried.
    #[must_use]
    pub fn io(context: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            context: context.into(),
            source,
        }
    }
}

impl From<Diagnostic> for BuilderError {
    fn from(diagnostic: Diagnostic) -> Self {
        Self::Diagnostic(Box::new(diagnostic))
    }
}

impl From<Box<Diagnostic>> for BuilderError {
    fn from(diagnostic: Box<Diagnostic>) -> Self {
        Self::Diagnostic(diagnostic)
    }
}

/// The builders that an engine knows.
#[derive(Clone, Default)]
pub struct Registry {
    builders: BTreeMap<&'static str, Arc<dyn Builder>>,
}

impl Registry {
    /// Makes a registry without builders.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a builder under its name; a later one replaces an earlier one.
    pub fn register(&mut self, builder: impl Builder + 'static) -> &mut Self {
        self.builders.insert(builder.name(), Arc::new(builder));
        self
    }

    /// Finds a builder by its name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<dyn Builder>> {
        self.builders.get(name)
    }

    /// Returns the known names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.builders.keys().copied()
    }
}
