//! The tar archive format: a canonical writer, and a tolerant, bounded reader.
//!
//! The writer makes exactly one stream of bytes for one sequence of entries: POSIX ustar headers, a pax header only
//! where ustar cannot say it. The reader takes what `tar`, `dpkg-deb` and image builders write: old tar, ustar, pax,
//! GNU long names and base-256 numbers.
//!
//! # Source
//! POSIX.1-2017 `pax`, sections "ustar Interchange Format" and "pax Interchange Format"; GNU tar manual, "Basic Tar
//! Format"; `opencontainers/image-spec` `layer.md`.

mod read;
#[cfg(test)]
mod tests;
mod write;

use std::collections::BTreeMap;
use std::io;

use crate::Bytes;

pub use read::Reader;
pub use write::Writer;

/// The unit that archives are made of.
pub const BLOCK_LEN: usize = 512;
/// The most bytes of pax records or of a long name that are kept for one entry, and of global records in all.
pub const MAX_EXTRA_LEN: u64 = 1 << 20;

const PAX_XATTR: &[u8] = b"SCHILY.xattr.";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum EntryKind {
    /// A regular file.
    #[default]
    File,
    /// Another name of an earlier file.
    Hardlink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDev,
    /// A block device.
    BlockDev,
    /// A directory.
    Dir,
    /// A named pipe.
    Fifo,
}

/// One entry of an archive, without its data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The path, relative, without leading, trailing or doubled `/`, without `.` and `..`; empty for the root.
    pub path: Bytes,
    /// What it is.
    pub kind: EntryKind,
    /// Permissions, setuid, setgid and sticky: 12 bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Time of last modification, seconds since 1970, rounded down.
    pub mtime_secs: i64,
    /// Size of the data in bytes; 0 for all but files.
    pub size: u64,
    /// For a symbolic link its target, raw; for a hard link the path of the other name, in the form of `path`.
    pub link: Bytes,
    /// Extended attributes.
    pub xattrs: BTreeMap<Bytes, Bytes>,
    /// Major number of a device.
    pub major: u32,
    /// Minor number of a device.
    pub minor: u32,
}

/// Why an archive cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TarError {
    /// The bytes are not an archive that can be read.
    #[error("at byte {offset} of the archive: {problem}")]
    Malformed {
        /// Where the faulty header begins.
        offset: u64,
        /// What is wrong.
        problem: TarProblem,
    },
    /// An entry that an archive cannot hold was to be written.
    #[error("{path:?} cannot be written to an archive: {problem}", path = String::from_utf8_lossy(.path))]
    Unwritable {
        /// The path of the entry.
        path: Bytes,
        /// Why not.
        problem: TarProblem,
    },
    /// A file is longer or shorter than was said.
    #[error("{path:?} has not the announced size of {expected} bytes", path = String::from_utf8_lossy(.path))]
    SizeChanged {
        /// The path of the entry.
        path: Bytes,
        /// The size that was announced.
        expected: u64,
    },
    /// The stream being read fails.
    #[error("the archive cannot be read")]
    Read(#[source] io::Error),
    /// The stream being written fails.
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
    /// The content of a file to be written cannot be read.
    #[error("{path:?} cannot be read", path = String::from_utf8_lossy(.path))]
    Contents {
        /// The path of the entry.
        path: Bytes,
        /// What happened.
        #[source]
        cause: io::Error,
    },
}

/// What can be wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TarProblem {
    /// The stream ends within an entry.
    #[error("the archive ends within an entry")]
    Truncated,
    /// The checksum of a header does not match: not a tar archive, or damaged.
    #[error("header has a wrong checksum")]
    BadChecksum,
    /// A number of a header cannot be read.
    #[error("the {0} of the entry is not a number in range")]
    BadNumber(&'static str),
    /// Pax records do not have the form `<length> <key>=<value>`.
    #[error("pax records are malformed")]
    BadPax,
    /// Pax records or a long name are larger than [`MAX_EXTRA_LEN`].
    #[error("extended header of {0} bytes is too large")]
    LargeExtra(u64),
    /// A long name or pax header is not followed by its entry.
    #[error("extended header has no entry")]
    LoneExtra,
    /// A path leads outside, holds NUL, or is missing.
    #[error("path {path:?} is not usable", path = String::from_utf8_lossy(.0))]
    BadPath(Bytes),
    /// The target of a link is missing or holds NUL.
    #[error("link target {target:?} is not usable", target = String::from_utf8_lossy(.0))]
    BadLink(Bytes),
    /// The key of an xattr is empty or holds `=` or NUL, or its value is not encoded well.
    #[error("xattr {key:?} is not usable", key = String::from_utf8_lossy(.0))]
    BadXattr(Bytes),
    /// Data on something that is not a file.
    #[error("only files have data")]
    DataOnOther,
    /// Mode bits above the lowest 12.
    #[error("mode {0:o} has bits other than permissions")]
    BadMode(u16),
    /// A kind of entry that no layer has, or a sparse file: both are refused.
    #[error("{path:?} is of type {kind:?}{name}, which is not supported", path = String::from_utf8_lossy(.path), name = name_of(*.kind))]
    UnsupportedKind {
        /// The type as it stands in the header; `S` for a sparse file in the manner of pax, too.
        kind: char,
        /// The path of the entry, as it stands there.
        path: Bytes,
    },
    /// Something other than zeros after the end of the archive.
    #[error("data follows the end of the archive")]
    DataAfterEnd,
}

/// What people call a kind of entry that is refused.
fn name_of(kind: char) -> &'static str {
    match kind {
        'S' => " (a sparse file)",
        'M' => " (the rest of a file of another volume)",
        'V' => " (the name of a volume)",
        'D' => " (a directory with a list of its names)",
        _ => "",
    }
}

/// The number of zeros after data of some size.
fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK_LEN as u64
}

/// For code that passes archives through [`Read`](io::Read) and [`Write`](io::Write).
impl From<TarError> for io::Error {
    fn from(error: TarError) -> Self {
        let kind = match &error {
            TarError::Read(cause) | TarError::Write(cause) | TarError::Contents { cause, .. } => {
                cause.kind()
            }
            TarError::Malformed { .. } => io::ErrorKind::InvalidData,
            TarError::Unwritable { .. } | TarError::SizeChanged { .. } => {
                io::ErrorKind::InvalidInput
            }
        };
        Self::new(kind, error)
    }
}
