//! Entries of a rootfs as callers see and give them.

use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_formats::manifest::Meta;

/// An entry as a caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntryView<'a> {
    /// Mode, owner, time, xattrs.
    pub meta: &'a Meta,
    /// What it is.
    pub kind: KindView<'a>,
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KindView<'a> {
    /// A regular file.
    File {
        /// Its size in bytes.
        size: u64,
        /// Its content.
        blob: Blake3,
        /// Its hard-link group; while a tree is edited, only equality means something.
        hardlink: Option<[u8; 16]>,
    },
    /// A directory.
    Dir,
    /// A symlink.
    Symlink {
        /// Where it points.
        target: &'a [u8],
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}

/// An entry to be inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSpec {
    /// Mode, owner, time, xattrs.
    pub meta: Meta,
    /// What it is.
    pub kind: SpecKind,
}

/// What is to be inserted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpecKind {
    /// A regular file whose content is a blob of the store.
    File {
        /// Its size in bytes.
        size: u64,
        /// Its content.
        blob: Blake3,
        /// Files inserted with the same value are names of one file. Any value serves; the canonical one is found at the end.
        hardlink: Option<[u8; 16]>,
    },
    /// A directory: an existing one keeps what is in it, a new one is empty.
    Dir,
    /// A whole directory of another manifest, shared as it is.
    SharedDir {
        /// The node of the directory.
        node: Blake3,
    },
    /// A symlink.
    Symlink {
        /// Where it points.
        target: Bytes,
    },
    /// A named pipe.
    Fifo,
    /// A character device.
    CharDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
    /// A block device.
    BlockDev {
        /// Major number.
        major: u32,
        /// Minor number.
        minor: u32,
    },
}
