//! Everything that can go wrong in the store, as data, and how it is told to a person.

use std::io;
use std::path::{Path, PathBuf};

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::store_path::{StorePath, StorePathError};

use crate::sys;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call failed.
    #[error("cannot {action} {}", .path.display())]
    Io {
        /// What was tried, as a verb: "read", "make a link at".
        action: &'static str,
        /// Where.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The disk or the quota of the store is full.
    #[error("no room left on the disk while writing {}", .path.display())]
    DiskFull {
        /// What was being written.
        path: PathBuf,
    },
    /// The database refused a statement.
    #[error("the store's database failed")]
    Database {
        /// What SQLite says.
        #[source]
        source: rusqlite::Error,
    },
    /// The database is damaged.
    #[error("the store's database is damaged")]
    DatabaseCorrupt {
        /// What SQLite says, or what the row holds that it cannot.
        detail: String,
    },
    /// The store was written by a newer sos.
    #[error("the store {} has format {found}, this sos knows formats up to {supported}", .root.display())]
    TooNew {
        /// The root of the store.
        root: PathBuf,
        /// The format that it has.
        found: u64,
        /// The newest format that this build reads.
        supported: u64,
    },
    /// The directory is no store and may not be made one.
    #[error("{} is not a store: {reason}", .root.display())]
    NotAStore {
        /// The directory.
        root: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Something was to be written to a store that was opened for reading.
    #[error("the store is open for reading only")]
    ReadOnly,
    /// Something was to be written to the store of somebody else by root, whose files the owner could neither read nor remove.
    #[error("the store at {} is of user {owner}, and root does not write there", .root.display())]
    Foreign {
        /// The store.
        root: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// Root would make a store in a place of somebody else, where it would be root's and yet in the way of the owner.
    #[error("{} is of user {owner} and there is no store at {} yet, and root makes none there", .place.display(), .root.display())]
    ForeignPlace {
        /// Where the store would be.
        root: PathBuf,
        /// The directory that is there: that one, or the nearest one above it.
        place: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// A store path is not valid here.
    #[error("`{path}` is not in the store")]
    NotValid {
        /// The path.
        path: StorePath,
    },
    /// An object was to be registered before something it refers to.
    #[error("`{path}` refers to `{reference}`, which is not in the store")]
    MissingReference {
        /// The object.
        path: StorePath,
        /// What it needs.
        reference: StorePath,
    },
    /// Objects that are registered together refer to each other in a circle.
    #[error("`{path}` refers to itself through `{through}`")]
    ReferenceCycle {
        /// One of them.
        path: StorePath,
        /// Another one of them.
        through: StorePath,
    },
    /// A file's content is not in the store.
    #[error("the content {hash} is not in the store")]
    MissingBlob {
        /// Its hash.
        hash: Blake3,
    },
    /// A manifest node is not in the store.
    #[error("the rootfs manifest {hash} is not in the store")]
    MissingNode {
        /// Its hash.
        hash: Blake3,
    },
    /// Something that is stored is not what it was.
    #[error("{} is damaged", .path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
    /// An object has other contents than its name promises.
    #[error("`{path}` has hash {actual}, expected {expected}")]
    HashMismatch {
        /// The object.
        path: StorePath,
        /// What was promised.
        expected: String,
        /// What is there.
        actual: String,
    },
    /// A tree has no id by its files.
    #[error("{} has no id as a tree: {detail}", .path.display())]
    NoTreeId {
        /// The tree.
        path: PathBuf,
        /// Why.
        detail: String,
    },
    /// A device, a pipe or a socket cannot be part of a store object.
    #[error("{} is neither a file, a directory nor a symlink", .path.display())]
    SpecialFile {
        /// The file.
        path: PathBuf,
    },
    /// A tree is deeper than the format allows.
    #[error("{} is nested deeper than {limit} directories", .path.display())]
    TooDeep {
        /// The place.
        path: PathBuf,
        /// The limit.
        limit: usize,
    },
    /// Something is larger than allowed.
    #[error("the data is larger than the limit of {limit_bytes} bytes")]
    TooLarge {
        /// The limit.
        limit_bytes: u64,
    },
    /// A file changed while it was read.
    #[error("{} changed while it was being read", .path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The caller's filter failed.
    #[error("the filter failed at {}", .path.display())]
    Filter {
        /// The file it was asked about.
        path: PathBuf,
        /// Its error.
        #[source]
        source: io::Error,
    },
    /// A NAR could not be read or written.
    #[error("the NAR archive is not usable: {detail}")]
    Nar {
        /// What is wrong with it.
        detail: String,
    },
    /// A store path cannot be made.
    #[error("not a store path")]
    StorePath(#[from] StorePathError),
    /// A path below a rootfs cannot be used.
    #[error("`{}` {problem}", String::from_utf8_lossy(.path))]
    RootPath {
        /// The path inside the rootfs.
        path: Vec<u8>,
        /// What is wrong with it.
        problem: RootPathProblem,
    },
    /// The name of a root is not usable.
    #[error("`{name}` cannot be the name of a root")]
    RootName {
        /// The name.
        name: String,
    },
    /// A file stands where a link is to be made.
    #[error("`{}` is there already, and is no link", .path.display())]
    NotALink {
        /// The file.
        path: PathBuf,
    },
    /// Another process collects garbage.
    #[error("another process is collecting garbage")]
    GcRunning,
}

/// What is wrong with a path inside a rootfs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RootPathProblem {
    /// It does not exist.
    Missing,
    /// A component on the way is not a directory.
    NotADirectory,
    /// It is not a regular file.
    NotAFile,
    /// It is a directory where another kind of file is needed.
    IsADirectory,
    /// Symlinks lead in a circle or too far.
    TooManySymlinks,
    /// It holds `..`, a NUL, or a name that is too long.
    BadName,
    /// It names the root directory itself.
    IsRoot,
    /// It would move a directory below itself.
    IntoItself,
    /// Members of one hard-link group have different contents.
    UnequalLinks,
    /// Mode or time are outside what a manifest can hold.
    BadMeta,
    /// The name of an xattr is empty, too long or holds a NUL.
    BadXattrKey,
    /// The value of an xattr is too large.
    LargeXattr,
    /// There are too many xattrs.
    ManyXattrs,
    /// A symlink's target is empty, too long or holds a NUL.
    BadTarget,
}

impl std::fmt::Display for RootPathProblem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Missing => "does not exist in the rootfs",
            Self::NotADirectory => "has a component that is not a directory",
            Self::NotAFile => "is not a regular file",
            Self::IsADirectory => "is a directory",
            Self::TooManySymlinks => "leads through too many symlinks",
            Self::BadName => {
                "has a name that no directory can hold: they have 1 to 255 bytes without NUL, and are neither `.` nor `..`"
            }
            Self::IsRoot => "is the root directory",
            Self::IntoItself => "cannot be moved below itself",
            Self::UnequalLinks => "is a hard link of a file with other contents",
            Self::BadMeta => "has a mode above 7777 or a time with too many nanoseconds",
            Self::BadXattrKey => {
                "has an extended attribute whose name is none: they have 1 to 255 bytes without NUL"
            }
            Self::LargeXattr => "has an extended attribute of more than 65536 bytes",
            Self::ManyXattrs => "has more than 1024 extended attributes",
            Self::BadTarget => {
                "is a symlink with a target that is none: they have 1 to 4095 bytes without NUL"
            }
        })
    }
}

/// The result of a store operation.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    /// Says what an input/output error happened to; a full disk becomes its own variant.
    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        let path = path.as_ref().to_owned();
        if sys::is_disk_full(&source) {
            Self::DiskFull { path }
        } else {
            Self::Io {
                action,
                path,
                source,
            }
        }
    }

    /// Says where the database is that has no room: what SQLite tells does not have it.
    pub(crate) fn of_database(self, file: &Path) -> Self {
        match self {
            Self::DiskFull { path } if path.as_os_str().is_empty() => Self::DiskFull {
                path: file.to_owned(),
            },
            other => other,
        }
    }

    /// Makes the error for a path inside a rootfs.
    pub(crate) fn root_path(path: &[u8], problem: RootPathProblem) -> Self {
        Self::RootPath {
            path: path.to_vec(),
            problem,
        }
    }

    /// Tells whether the disk is full, so that a caller can collect garbage and try again.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Self::DiskFull { .. })
    }

    /// The stable code of the diagnostic that this error becomes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "store-io",
            Self::DiskFull { .. } => "env-disk-full",
            Self::Database { .. } => "store-database",
            Self::DatabaseCorrupt { .. } => "store-database-corrupt",
            Self::TooNew { .. } => "store-too-new",
            Self::NotAStore { .. } => "store-not-a-store",
            Self::ReadOnly => "store-read-only",
            Self::Foreign { .. } | Self::ForeignPlace { .. } => "store-foreign",
            Self::NotValid { .. } => "store-path-missing",
            Self::MissingReference { .. } => "store-reference-missing",
            Self::ReferenceCycle { .. } => "store-reference-cycle",
            Self::MissingBlob { .. } => "store-blob-missing",
            Self::MissingNode { .. } => "store-node-missing",
            Self::Corrupt { .. } => "store-corrupt",
            Self::HashMismatch { .. } => "store-hash-mismatch",
            Self::NoTreeId { .. } => "store-no-tree-id",
            Self::SpecialFile { .. } => "store-special-file",
            Self::TooDeep { .. } => "store-too-deep",
            Self::TooLarge { .. } => "store-too-large",
            Self::Changed { .. } => "store-source-changed",
            Self::Filter { .. } => "store-filter-failed",
            Self::Nar { .. } => "store-bad-nar",
            Self::StorePath(_) => "store-bad-path",
            Self::RootPath { .. } => "store-rootfs-path",
            Self::RootName { .. } => "store-bad-root-name",
            Self::NotALink { .. } => "store-root-not-a-link",
            Self::GcRunning => "store-gc-running",
        }
    }

    fn class(&self) -> Class {
        match self {
            Self::HashMismatch { .. } => Class::HashMismatch,
            // The builder wrote it so: Nix counts it as its failure, too.
            Self::ReferenceCycle { .. } => Class::BuildFailed,
            Self::Io { .. }
            | Self::DiskFull { .. }
            | Self::Database { .. }
            | Self::DatabaseCorrupt { .. }
            | Self::TooNew { .. }
            | Self::NotAStore { .. }
            | Self::ReadOnly
            | Self::Foreign { .. }
            | Self::ForeignPlace { .. }
            | Self::MissingBlob { .. }
            | Self::MissingNode { .. }
            | Self::Corrupt { .. }
            | Self::GcRunning => Class::Machine,
            Self::NoTreeId { .. }
            | Self::SpecialFile { .. }
            | Self::TooDeep { .. }
            | Self::StorePath(_)
            | Self::Filter { .. } => Class::Recipe,
            _ => Class::Other,
        }
    }

    /// What the person can do about it, if anything.
    fn advice(&self) -> Option<String> {
        Some(match self {
            Self::ReferenceCycle { .. } => {
                "let one output not name the other, or put both files into one output".to_owned()
            }
            Self::DiskFull { .. } => "run `sos gc` to free what no root needs".to_owned(),
            Self::DatabaseCorrupt { .. }
            | Self::Corrupt { .. }
            | Self::MissingBlob { .. }
            | Self::MissingNode { .. } => {
                "run `sos store check` to see everything that is damaged".to_owned()
            }
            Self::TooNew { .. } => "use the newer sos, or another store root".to_owned(),
            Self::ReadOnly => "open the store where it is writable".to_owned(),
            Self::Foreign { .. } => {
                "run it as that user, or give root a store of its own with `--store`".to_owned()
            }
            Self::ForeignPlace { .. } => {
                "run it as that user, or give root a place of its own: a directory that root makes itself, with `--store DIR`, or the home of root, with `sudo -H`".to_owned()
            }
            Self::SpecialFile { .. } => "leave it out with a filter, or remove it".to_owned(),
            Self::Changed { .. } => "run the command again when nothing writes there".to_owned(),
            Self::NotALink { .. } => "remove it, or choose another place for the link".to_owned(),
            Self::GcRunning => "wait until it is done".to_owned(),
            _ => return None,
        })
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(source: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode;
        match source.sqlite_error_code() {
            // Which file it is, `of_database` says.
            Some(ErrorCode::DiskFull) => Self::DiskFull {
                path: PathBuf::new(),
            },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::DatabaseCorrupt {
                detail: source.to_string(),
            },
            Some(ErrorCode::ReadOnly) => Self::ReadOnly,
            _ => Self::Database { source },
        }
    }
}

impl From<StoreError> for Diagnostic {
    fn from(err: StoreError) -> Self {
        let mut diagnostic = Self::error(err.code(), err.class(), err.to_string());
        let mut cause = std::error::Error::source(&err);
        while let Some(source) = cause {
            diagnostic = diagnostic.note(source.to_string());
            cause = source.source();
        }
        if let StoreError::DatabaseCorrupt { detail } | StoreError::Corrupt { detail, .. } = &err {
            diagnostic = diagnostic.note(detail.clone());
        }
        match err.advice() {
            Some(advice) => diagnostic.help(advice),
            None => diagnostic,
        }
    }
}

/// Adds what was tried, and where, to an input/output result.
pub(crate) trait IoContext<T> {
    /// Names the action and the path of a failure.
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| StoreError::io(action, path, source))
    }
}
