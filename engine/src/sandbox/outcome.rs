//! How a run is watched and how it ended.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, eventfd};
use sos_formats::diagnostic::{Class, Diagnostic};

use super::prepared::PreparedSets;
use super::spec::Limits;
use super::watch::Watched;
use crate::cancel::{Cancel, Subscription};

/// The code of a helper that was killed, if its class is that of the machine.
pub(crate) const HELPER_DIED: &str = "sandbox-helper";

/// Limits under which the caller watches a run. None of them can change what a successful run makes.
#[derive(Clone, Default)]
pub struct Control {
    /// The program that runs the helper; `None` is this very program.
    pub exe: Option<PathBuf>,
    /// Asked for by Ctrl-C or a failure elsewhere.
    pub cancel: Cancel,
    /// The longest a run may take.
    pub timeout: Option<Duration>,
    /// The longest a run may write nothing to its log.
    pub silent_timeout: Option<Duration>,
    /// The most bytes a run may write to its log.
    pub max_log_bytes: Option<u64>,
    /// What a run may take of the machine.
    pub limits: Limits,
    /// Where runs with many inputs find them mounted.
    pub prepared: Option<Arc<PreparedSets>>,
}

impl Control {
    /// A descriptor that becomes readable when the run is cancelled, while the subscription lives.
    pub(super) fn woken_by_cancel(&self) -> Result<(Arc<OwnedFd>, Subscription), SandboxError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| SandboxError::io("make an event", e))?;
        let wake = Arc::new(wake);
        let waker = wake.clone();
        let subscription = self.cancel.on_cancel(move || {
            // Fails only when the counter is full, and then it wakes as well.
            let _full = rustix::io::write(&*waker, &1u64.to_ne_bytes());
        });
        Ok((wake, subscription))
    }
}

/// What ended a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The program ended by itself with this status.
    Code(i32),
    /// A signal ended the program.
    Signal(i32),
    /// It took longer than the limit.
    TimedOut,
    /// It was silent for longer than the limit.
    SilentTooLong,
    /// It wrote more log than the limit.
    LogTooLong,
    /// Stopping was asked for.
    Cancelled,
}

impl Exit {
    /// Tells whether the program ended by itself with status 0.
    #[must_use]
    pub fn success(self) -> bool {
        self == Self::Code(0)
    }

    /// Returns the status a shell would show: 128 and the signal for a killed program; `None` if sos stopped it.
    #[must_use]
    pub fn status(self) -> Option<i32> {
        match self {
            Self::Code(code) => Some(code),
            Self::Signal(signal) => Some(128 + signal),
            _ => None,
        }
    }
}

/// The end of one run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// What ended it.
    pub exit: Exit,
    /// Bytes that it wrote to its log.
    pub log_bytes: u64,
    /// What it looked for in vain, if it was watched.
    pub watched: Watched,
}

/// Why a run could not be made. A program that fails is no error here, it is an [`Exit`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The machine cannot make such a sandbox; the diagnostic says what to do.
    #[error("{}", .0.message)]
    Machine(Box<Diagnostic>),
    /// The root of a step has something in the way of what it is shown; the diagnostic says what.
    #[error("{}", .0.message)]
    Blocked(Box<Diagnostic>),
    /// Setting up failed in this process.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// Setting up failed in the helper process.
    #[error("the sandbox cannot {what}: {source}")]
    Setup {
        /// What was tried.
        what: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The program of the run cannot be started.
    #[error("cannot execute `{program}` in the sandbox: {source}")]
    Exec {
        /// The program, as a path inside.
        program: String,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
    /// The helper ended without an answer.
    #[error("the sandbox helper ended without an answer ({how})")]
    HelperDied {
        /// How it ended.
        how: String,
    },
    /// A message of the helper makes no sense.
    #[error("the sandbox helper sent a malformed message")]
    Protocol,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] sos_store::StoreError),
    /// Stopping was asked for before the run ended.
    #[error("cancelled")]
    Cancelled,
}

impl SandboxError {
    /// Puts a failed operation of this process into words.
    pub(crate) fn io(what: impl Into<String>, source: impl Into<io::Error>) -> Self {
        Self::Io {
            what: what.into(),
            source: source.into(),
        }
    }

    /// Turns the error into what a person sees.
    #[must_use]
    pub fn into_diagnostic(self) -> Diagnostic {
        match self {
            Self::Machine(diagnostic) | Self::Blocked(diagnostic) => *diagnostic,
            Self::Cancelled => Diagnostic::error("interrupted", Class::Interrupted, "interrupted"),
            Self::Exec { .. } => {
                Diagnostic::error("build-exec", Class::BuildFailed, self.to_string())
            }
            // Nobody ends it but the machine, or a person: not for a fault of sos, and not for one of the build.
            Self::HelperDied { .. } => {
                Diagnostic::error(HELPER_DIED, Class::Machine, self.to_string())
            }
            Self::Protocol => Diagnostic::error("sandbox-helper", Class::Bug, self.to_string()),
            Self::Setup { what, source }
                if what == "mount /proc" && source.kind() == io::ErrorKind::PermissionDenied =>
            {
                Diagnostic::error(
                    "env-proc-covered",
                    Class::Machine,
                    "builds cannot have a `/proc` of their own here",
                )
                .note("parts of the `/proc` of this machine are covered, as containers do; the kernel then allows no other")
                .help("run sos outside the container, or in one that leaves `/proc` uncovered: `podman run --security-opt unmask=ALL`, `docker run --security-opt systempaths=unconfined`")
            }
            Self::Store(error) => Diagnostic::from(error),
            Self::Io { ref source, .. } | Self::Setup { ref source, .. } => {
                let full = sos_store::is_disk_full(source);
                let code = if full { "env-disk-full" } else { "sandbox-setup" };
                let diagnostic = Diagnostic::error(code, Class::Machine, self.to_string());
                if full {
                    diagnostic.help("`sos gc` frees what no root needs, cached working trees too")
                } else {
                    diagnostic
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_covered_proc_is_explained() {
        let setup = |what: &str| SandboxError::Setup {
            what: what.to_owned(),
            source: io::ErrorKind::PermissionDenied.into(),
        };
        assert_eq!(
            setup("mount /proc").into_diagnostic().code,
            "env-proc-covered"
        );
        assert_eq!(setup("mount /tmp").into_diagnostic().code, "sandbox-setup");
    }
}
