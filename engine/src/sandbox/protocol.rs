//! What `sos` and its helper say to each other.

use std::io;

use serde::{Deserialize, Serialize};

use super::spec::Spec;

/// The first message to a helper: what it is for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// Make a user namespace and hand it over.
    HoldUserns(UsernsKind),
    /// Run a program. Descriptors: the user namespace and perhaps a network namespace.
    Run(Box<Spec>),
    /// Change files inside the user namespace, which comes along; operations follow.
    Work,
}

/// The ids that a user namespace has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum UsernsKind {
    /// One user and group, [`super::spec::NIX_UID`], which is the caller.
    Single,
    /// 0 to 65535.
    Multi,
}

/// What a helper answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// The user namespace exists and needs its id maps, which only the outside may write.
    NeedMaps,
    /// The user namespace, as a descriptor.
    Userns,
    /// Process 1 is about to start; a network namespace made for it comes along.
    Started,
    /// Process 1 and all others are gone.
    Ended {
        /// Status of the program as `wait` gives it.
        status: i32,
        /// The network namespace is as good as new.
        net_clean: bool,
    },
    /// Something could not be done.
    Failed(Failure),
}

/// The maps are written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MapsWritten;

/// What init tells the helper through a pipe.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum InitReport {
    /// The program ended with this status.
    Ended(i32),
    /// The root could not be built or the program not be started.
    Failed(Failure),
}

/// A failed operation with its errno.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    /// What was tried, `mount ...`; for a failed exec the program.
    pub(super) what: String,
    pub(super) errno: i32,
    /// The program itself could not be started.
    pub(super) exec: bool,
}

/// The longest description that is sent: messages through the pipe must stay below its atomic size.
const MAX_WHAT_BYTES: usize = 1024;

impl Failure {
    pub(super) fn new(what: impl Into<String>, error: &io::Error) -> Self {
        let mut what: String = what.into();
        if what.len() > MAX_WHAT_BYTES {
            let end = (0..=MAX_WHAT_BYTES)
                .rev()
                .find(|&i| what.is_char_boundary(i))
                .unwrap_or(0);
            what.truncate(end);
        }
        Self {
            what,
            errno: error.raw_os_error().unwrap_or(libc::EIO),
            exec: false,
        }
    }
}

/// Names the operation that failed.
pub(super) trait Naming<T> {
    fn naming(self, what: impl FnOnce() -> String) -> Result<T, Failure>;
}

impl<T, E: Into<io::Error>> Naming<T> for Result<T, E> {
    fn naming(self, what: impl FnOnce() -> String) -> Result<T, Failure> {
        self.map_err(|e| Failure::new(what(), &e.into()))
    }
}
