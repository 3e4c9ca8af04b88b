//! What `sos` and its helper say to each other.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::spec::{Input, Spec};
use super::watch::Watched;

/// The first message to a helper: what it is for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Request {
    /// Make a user namespace and hand it over.
    HoldUserns(UsernsKind),
    /// Start the first process of a run at each [`Launch`]. Descriptor: the user namespace, which is of this kind; without one,
    /// make it first and hand it over.
    Launch(UsernsKind),
    /// Mount inputs below a directory in a mount namespace, and hand that over. Comes with the user namespace.
    Prepare {
        #[serde(with = "super::bytes::path")]
        dir: PathBuf,
        inputs: Vec<Input>,
    },
    /// Change files inside the user namespace, which comes along; operations follow.
    Work,
}

/// Which descriptors come along with a plan, in this order.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(super) struct Given {
    /// A network namespace; without it one is made.
    pub(super) net: bool,
    /// A mount namespace to begin with.
    pub(super) mounts: bool,
    /// Where the standard streams of the program lead. For [`Streams::Pipes`] its input and its standard error come along.
    pub(super) streams: Streams,
}

/// Where the standard streams of a program lead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Streams {
    /// No input; all that it writes goes where the run was launched to write.
    Log,
    /// Pipes of its own; its output goes where the run was launched to write.
    Pipes,
    /// A terminal of the sandbox, whose other end is handed over.
    Terminal {
        /// Its height in characters.
        rows: u16,
        /// Its width in characters.
        columns: u16,
    },
}

/// The ids that a user namespace has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum UsernsKind {
    /// One user and group, [`super::spec::NIX_UID`], which is the caller.
    Single,
    /// 0 to 65535.
    Multi,
}

/// Start the first process of a run. Descriptors: its end of a new socket, on which its [`Plan`] comes, and the log.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Launch;

/// What the first process of a run is for. Descriptors: those that it says.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Plan {
    pub(super) spec: Box<Spec>,
    pub(super) given: Given,
}

/// What a helper answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Answer {
    /// The user namespace exists and needs its id maps, which only the outside may write.
    NeedMaps,
    /// The user namespace, as a descriptor.
    Userns,
    /// The first process of a run, as a descriptor.
    Launched,
    /// The mount namespace, as a descriptor.
    Prepared,
    /// A network namespace was made for the run and comes along.
    Network,
    /// The other end of the program's terminal, as a descriptor.
    Terminal,
    /// All processes of the run but its first are gone.
    Ended {
        /// Status of the program as `wait` gives it.
        status: i32,
        /// The network namespace is as good as new.
        net_clean: bool,
        /// What it looked for in vain.
        watched: Watched,
    },
    /// Something could not be done.
    Failed(Failure),
}

/// The maps are written.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct MapsWritten;

/// A failed operation with its errno.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Failure {
    /// What was tried, `mount ...`; for a failed exec the program.
    pub(super) what: String,
    pub(super) errno: i32,
    /// The program itself could not be started.
    pub(super) exec: bool,
}

/// The longest description that is sent.
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

/// What a worker is told to do; paths of entries are relative to the base, without `.` and `..`.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Op {
    /// Make this existing directory the base.
    Base {
        #[serde(with = "super::bytes::path")]
        dir: PathBuf,
    },
    /// Take files from this upper layer at each [`Op::Adopt`].
    Left {
        #[serde(with = "super::bytes::path")]
        upper: PathBuf,
    },
    /// Move a file from that layer to the same place in the base, where nothing is.
    Adopt {
        #[serde(with = "super::bytes")]
        path: Vec<u8>,
        meta: WireMeta,
    },
    /// Give a file of the base other metadata.
    Meta {
        #[serde(with = "super::bytes")]
        path: Vec<u8>,
        meta: WireMeta,
    },
    /// Make an entry in place of what is there; a directory keeps what is in it. A file's content comes along as a descriptor.
    Put {
        #[serde(with = "super::bytes")]
        path: Vec<u8>,
        meta: WireMeta,
        kind: WireKind,
    },
    /// Give a file of the base a second name in place of what is there.
    Link {
        #[serde(with = "super::bytes")]
        existing: Vec<u8>,
        #[serde(with = "super::bytes")]
        new: Vec<u8>,
    },
    /// Remove an entry with all below it.
    Remove {
        #[serde(with = "super::bytes")]
        path: Vec<u8>,
    },
    /// Set the times of directories, which come last, and answer [`Done`].
    Flush,
    /// Make the mount points that are missing in `tree` in `stubs`, give `stubs` and `upper` the metadata of the tree's
    /// own root, and answer [`Done`].
    Stubs {
        #[serde(with = "super::bytes::path")]
        tree: PathBuf,
        #[serde(with = "super::bytes::path")]
        stubs: PathBuf,
        #[serde(with = "super::bytes::path")]
        upper: PathBuf,
        /// Absolute path inside, and whether it is a directory.
        #[serde(with = "super::bytes::points")]
        points: Vec<(Vec<u8>, bool)>,
        /// Time of what the tree does not have.
        epoch: i64,
    },
    /// Send what an upper layer holds as [`Captured`] messages.
    Capture {
        #[serde(with = "super::bytes::path")]
        upper: PathBuf,
    },
    /// Give everything at this path to the caller, readable and writable, and answer [`Done`].
    Own {
        #[serde(with = "super::bytes::path")]
        path: PathBuf,
    },
    /// Remove this path with all below it, and answer [`Done`].
    RemoveTree {
        #[serde(with = "super::bytes::path")]
        path: PathBuf,
    },
}

/// Metadata of one entry on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct WireMeta {
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) secs: i64,
    pub(super) nsecs: u32,
    #[serde(with = "super::bytes::pairs", default)]
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Kind of one entry on the wire.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum WireKind {
    File,
    Dir,
    Symlink {
        #[serde(with = "super::bytes")]
        target: Vec<u8>,
    },
    Fifo,
    /// What stands for a device, or a socket that a step has left.
    Socket,
}

/// The end of a worker's operation.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Done {
    /// It is done.
    Ok,
    /// It could not be done; the worker is gone.
    Failed(Failure),
}

/// One finding in an upper layer; parents come before what is in them.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Captured {
    /// An entry that was made or changed; the empty path is the root.
    Entry {
        #[serde(with = "super::bytes")]
        path: Vec<u8>,
        meta: WireMeta,
        kind: WireKind,
        /// A directory that hides what the layers below have.
        opaque: bool,
        /// Number of a file with several names; its content comes with the first of them only.
        inode: Option<u64>,
    },
    /// The path is gone.
    Whiteout {
        #[serde(with = "super::bytes")]
        path: Vec<u8>,
    },
    /// Nothing more comes.
    End,
    /// It could not be done; the worker is gone.
    Failed(Failure),
}
