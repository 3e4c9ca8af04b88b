//! The NAR archive format of Nix: one file tree as one stream of bytes, the same for equal trees.
//!
//! # Format
//! `str(s)` is a u64 little-endian length, the bytes, and zeros up to a multiple of 8.
//! ```text
//! nar   = str("nix-archive-1") node
//! node  = str("(") str("type") body str(")")
//! body  = str("regular") [str("executable") str("")] str("contents") str(bytes)
//!       | str("symlink") str("target") str(target)
//!       | str("directory") { str("entry") str("(") str("name") str(name) str("node") node str(")") }
//! ```
//! Entries are in strictly ascending order of their names' bytes. Both directions keep the limits below.
//!
//! # Source
//! `NixOS/nix` `doc/manual/source/protocols/nix-archive/`; the limits are those of 2.36.

mod read;
mod write;

#[cfg(test)]
mod tests;

use std::io;

use crate::Bytes;

pub use read::{Visitor, read};
pub use write::Writer;

/// How many directories may be open at once. Nix has no limit of its own; with this many the path of a file still is one that the
/// system opens, as long as names are short.
pub const MAX_DEPTH: usize = 1024;
/// The longest name of an entry.
pub const MAX_NAME_LEN: usize = 255;
/// The longest target of a symbolic link.
pub const MAX_TARGET_LEN: usize = 4095;
/// The longest of the fixed words of the format that a reader waits for.
const MAX_TAG_LEN: usize = 32;

/// Why a NAR cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NarError {
    /// The bytes are not a NAR.
    #[error("at byte {offset} of the NAR: {problem}")]
    Malformed {
        /// How many bytes of the stream precede the fault.
        offset: u64,
        /// What is wrong.
        problem: NarProblem,
    },
    /// A tree that a NAR cannot hold was to be written.
    #[error("this cannot be written to a NAR: {0}")]
    Unwritable(NarProblem),
    /// A file is longer or shorter than was said.
    #[error("file has not the announced size of {expected} bytes")]
    SizeChanged {
        /// The size that was announced.
        expected: u64,
    },
    /// The parts of a tree were written in an impossible order.
    #[error("{0} cannot be written at this place")]
    OutOfOrder(&'static str),
    /// The stream being read fails.
    #[error("the NAR cannot be read")]
    Read(#[source] io::Error),
    /// The stream being written fails.
    #[error("the NAR cannot be written")]
    Write(#[source] io::Error),
    /// The content of a file to be written cannot be read.
    #[error("a file cannot be read")]
    Contents(#[source] io::Error),
    /// Whoever receives the tree fails.
    #[error("the contents of the NAR cannot be stored")]
    Visitor(#[source] io::Error),
}

/// What can be wrong in a NAR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NarProblem {
    /// The stream ends too early.
    #[error("it ends too early")]
    Truncated,
    /// Something else should stand here.
    #[error("expected {expected}, found {found:?}", found = String::from_utf8_lossy(.found))]
    Expected {
        /// What should stand here.
        expected: &'static str,
        /// What stands here.
        found: Bytes,
    },
    /// A string is longer than what can stand at its place.
    #[error("string of {len} bytes is longer than {limit}")]
    TooLong {
        /// The declared length.
        len: u64,
        /// The limit at this place.
        limit: u64,
    },
    /// Padding is not zero.
    #[error("padding is not zero")]
    BadPadding,
    /// A name that cannot be in a directory.
    #[error("{name:?} is not a usable file name", name = String::from_utf8_lossy(.0))]
    BadName(Bytes),
    /// Names are doubled or not ascending.
    #[error("name {name:?} is not after the one before it", name = String::from_utf8_lossy(.0))]
    NotSorted(Bytes),
    /// The target of a symbolic link is empty or holds NUL.
    #[error("{target:?} is not a usable link target", target = String::from_utf8_lossy(.0))]
    BadTarget(Bytes),
    /// More than [`MAX_DEPTH`] directories inside each other.
    #[error("directories are nested more than 64 deep")]
    TooDeep,
    /// Bytes after the end.
    #[error("bytes follow the archive")]
    TrailingBytes,
}

fn check_name(name: &[u8]) -> Result<(), NarProblem> {
    if matches!(name, b"" | b"." | b"..")
        || name.len() > MAX_NAME_LEN
        || memchr::memchr2(b'/', 0, name).is_some()
    {
        return Err(NarProblem::BadName(name.to_vec()));
    }
    Ok(())
}

fn check_target(target: &[u8]) -> Result<(), NarProblem> {
    if target.is_empty() || target.len() > MAX_TARGET_LEN || target.contains(&0) {
        return Err(NarProblem::BadTarget(target.to_vec()));
    }
    Ok(())
}

/// The number of zeros after a string.
fn padding(len: u64) -> usize {
    // The remainder is below 8.
    usize::try_from(len.wrapping_neg() % 8).unwrap_or(0)
}

/// For code that passes archives through [`Read`](io::Read) and [`Write`](io::Write).
impl From<NarError> for io::Error {
    fn from(error: NarError) -> Self {
        let kind = match &error {
            NarError::Read(cause)
            | NarError::Write(cause)
            | NarError::Contents(cause)
            | NarError::Visitor(cause) => cause.kind(),
            NarError::Malformed { .. } => io::ErrorKind::InvalidData,
            NarError::Unwritable(_) | NarError::SizeChanged { .. } | NarError::OutOfOrder(_) => {
                io::ErrorKind::InvalidInput
            }
        };
        Self::new(kind, error)
    }
}
