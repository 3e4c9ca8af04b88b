//! OSTree objects: their bytes, which are their identity.
//!
//! | object | type | its checksum is over |
//! |---|---|---|
//! | dirmeta | `(uuua(ayay))` owner, group, mode, xattrs | its bytes |
//! | dirtree | `(a(say)a(sayay))` files, directories | its bytes |
//! | commit | `(a{sv}aya(say)sstayay)` | its bytes |
//! | content | header `(uuuusa(ayay))`, then the file | the header behind its length, and the file |
//!
//! Integers are big-endian, checksums SHA-256. No object has a time, except that a commit has one of its own.
//! Source: `ostree-core.h` of libostree.

mod delta;
mod read;
mod summary;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::Bytes;
use crate::gvariant::{self, Array, GVariantError, Tuple, TupleReader, Variant};
use crate::hash::Sha256;

pub use delta::{DeltaPart, Fallback, PartEntry, Superblock, delta_dir, parse_delta_dir};
pub use read::{
    Attributes, DirTreeView, FRAME_BYTES, FileView, MAX_HEADER_BYTES, read_byte_arrays, read_dict,
    read_dirmeta, read_dirtree, read_filez_header, read_frame, read_header,
};
pub use summary::{Summary, SummaryRef};

/// The largest metadata object that libostree reads, in bytes.
pub const MAX_METADATA_BYTES: usize = 128 << 20;
/// The bits of a mode that say what a file is.
pub const TYPE_MASK: u32 = 0o170_000;
/// The type bits of a directory.
pub const TYPE_DIR: u32 = 0o040_000;
/// The type bits of a regular file.
pub const TYPE_FILE: u32 = 0o100_000;
/// The mode of every symbolic link.
pub const MODE_SYMLINK: u32 = 0o120_777;
/// The `config` of an archive repository.
pub const ARCHIVE_CONFIG: &str = "[core]\nrepo_version=1\nmode=archive-z2\n";
/// The `config` of a bare-user repository.
pub const BARE_USER_CONFIG: &str = "[core]\nrepo_version=1\nmode=bare-user\n";
/// The directories of a repository besides those of its objects.
pub const REPOSITORY_DIRS: [&str; 6] = [
    "extensions",
    "refs/heads",
    "refs/mirrors",
    "refs/remotes",
    "state",
    "tmp",
];

/// What a kind of object is called at the end of its file's name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ObjectKind {
    /// `.commit`
    Commit,
    /// `.dirtree`
    DirTree,
    /// `.dirmeta`
    DirMeta,
    /// `.file`, of repositories that keep files as they are.
    File,
    /// `.filez`, of archive repositories.
    Filez,
}

impl ObjectKind {
    /// Returns the ending of the file name, without a dot.
    #[must_use]
    pub fn extension(self) -> &'static str {
        match self {
            Self::Commit => "commit",
            Self::DirTree => "dirtree",
            Self::DirMeta => "dirmeta",
            Self::File => "file",
            Self::Filez => "filez",
        }
    }
}

/// Returns where an object lies: the directory below `objects` and the name in it.
#[must_use]
pub fn object_name(checksum: &Sha256, kind: ObjectKind) -> (String, String) {
    let hex = checksum.to_string();
    let (dir, rest) = hex.split_at(2);
    (dir.to_owned(), format!("{rest}.{}", kind.extension()))
}

/// Extended attributes by name; names without the NUL that OSTree writes.
pub type Xattrs = BTreeMap<Bytes, Bytes>;

/// Writes xattrs, `a(ayay)`, as headers and dirmetas hold them.
#[must_use]
pub fn xattr_bytes(xattrs: &Xattrs) -> Bytes {
    let mut array = Array::new(1);
    for (name, value) in xattrs {
        let mut pair = Tuple::new();
        pair.bytes(&[name, b"\0".as_slice()].concat()).bytes(value);
        array.push(&pair.finish());
    }
    array.finish()
}

/// Writes a dirmeta object; `mode` has [`TYPE_DIR`]. The same type is the `user.ostreemeta` of bare-user repositories.
#[must_use]
pub fn dirmeta(uid: u32, gid: u32, mode: u32, xattrs: &Xattrs) -> Bytes {
    let mut tuple = Tuple::new();
    tuple.u32_be(uid).u32_be(gid).u32_be(mode);
    tuple.variable(1, &xattr_bytes(xattrs));
    tuple.finish()
}

/// A file or a link, as its object's header describes it.
#[derive(Clone, Copy, Debug)]
pub struct FileHeader<'a> {
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Permissions with [`TYPE_FILE`], or [`MODE_SYMLINK`].
    pub mode: u32,
    /// The target of a link, else empty.
    pub target: &'a str,
    /// Extended attributes.
    pub xattrs: &'a Xattrs,
}

impl FileHeader<'_> {
    /// Writes what the checksum of a content object begins with: the header behind its length.
    #[must_use]
    pub fn framed(&self) -> Bytes {
        let mut tuple = Tuple::new();
        self.members(&mut tuple);
        framed(&tuple.finish())
    }

    /// Writes the beginning of a `.filez` object; the file follows as raw deflate data, nothing follows of a link.
    #[must_use]
    pub fn framed_filez(&self, size: u64) -> Bytes {
        let mut tuple = Tuple::new();
        tuple.u64_be(size);
        self.members(&mut tuple);
        framed(&tuple.finish())
    }

    fn members(&self, tuple: &mut Tuple) {
        tuple.u32_be(self.uid).u32_be(self.gid).u32_be(self.mode);
        tuple.u32_be(0).text(self.target);
        tuple.variable(1, &xattr_bytes(self.xattrs));
    }
}

fn framed(header: &[u8]) -> Bytes {
    // A header is bounded by its xattrs, which are far below 4 GiB.
    let len = u32::try_from(header.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(header.len() + 8);
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(header);
    bytes
}

/// A directory's entries; writing sorts nothing: names must ascend by bytes.
#[derive(Clone, Debug, Default)]
pub struct DirTree {
    files: Vec<(String, Sha256)>,
    dirs: Vec<(String, Sha256, Sha256)>,
}

impl DirTree {
    /// Begins an empty directory.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a file or link with its content object.
    pub fn file(&mut self, name: &str, content: Sha256) {
        self.files.push((name.to_owned(), content));
    }

    /// Appends a directory with its dirtree and dirmeta objects.
    pub fn dir(&mut self, name: &str, tree: Sha256, meta: Sha256) {
        self.dirs.push((name.to_owned(), tree, meta));
    }

    /// Writes the object.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut files = Array::new(1);
        for (name, content) in &self.files {
            let mut entry = Tuple::new();
            entry.text(name).bytes(&content.0);
            files.push(&entry.finish());
        }
        let mut dirs = Array::new(1);
        for (name, tree, meta) in &self.dirs {
            let mut entry = Tuple::new();
            entry.text(name).bytes(&tree.0).bytes(&meta.0);
            dirs.push(&entry.finish());
        }
        let mut tuple = Tuple::new();
        tuple.variable(1, &files.finish());
        tuple.variable(1, &dirs.finish());
        tuple.finish()
    }
}

/// A commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Commit {
    /// `version`, `ostree.bootable` and the like, written in the order of their keys.
    pub metadata: BTreeMap<String, Variant>,
    /// The commit before.
    pub parent: Option<Sha256>,
    /// One line about it.
    pub subject: String,
    /// More about it.
    pub body: String,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// Dirtree of the top directory.
    pub tree: Sha256,
    /// Dirmeta of the top directory.
    pub meta: Sha256,
}

impl Commit {
    /// Writes the object.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let metadata = gvariant::dict(self.metadata.iter().map(|(k, v)| (k.as_str(), v)));
        let parent = self.parent.as_ref().map_or(&[][..], |parent| &parent.0);
        let mut tuple = Tuple::new();
        tuple.variable(8, &metadata).bytes(parent);
        tuple.variable(1, &[]);
        tuple.text(&self.subject).text(&self.body);
        tuple.u64_be(self.timestamp);
        tuple.bytes(&self.tree.0).bytes(&self.meta.0);
        tuple.finish()
    }

    /// Returns the checksum, which names the commit.
    #[must_use]
    pub fn checksum(&self) -> Sha256 {
        Sha256::of(&self.encode())
    }
}

/// What is read of a commit that somebody else may have written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommitView {
    /// The commit before.
    pub parent: Option<Sha256>,
    /// One line about it.
    pub subject: String,
    /// Seconds since 1970.
    pub timestamp: u64,
    /// `version` of its metadata.
    pub version: Option<String>,
    /// `ostree.linux` of its metadata: the version of its kernel.
    pub linux: Option<String>,
    /// `ostree.bootable` of its metadata.
    pub bootable: bool,
    /// Dirtree of the top directory.
    pub tree: Sha256,
    /// Dirmeta of the top directory.
    pub meta: Sha256,
}

impl CommitView {
    /// Reads a commit object.
    ///
    /// # Errors
    /// When the bytes are not a commit.
    pub fn decode(bytes: &[u8]) -> Result<Self, GVariantError> {
        if bytes.len() > MAX_METADATA_BYTES {
            return Err(GVariantError("it is larger than metadata may be"));
        }
        let mut reader = TupleReader::new(bytes);
        let metadata = reader.variable(8)?;
        let version = text_of(metadata, "version")?;
        let linux = text_of(metadata, "ostree.linux")?;
        let bootable = boxed_of(metadata, "ostree.bootable")? == Some(b"\x01\0b");
        let parent = reader.variable(1)?;
        reader.variable(1)?;
        let subject = gvariant::text(reader.variable(1)?)?.to_owned();
        gvariant::text(reader.variable(1)?)?;
        let timestamp = u64::from_be_bytes(reader.fixed(8)?);
        let tree = checksum(reader.variable(1)?)?;
        let meta = checksum(reader.last(1)?)?;
        let parent = match parent {
            [] => None,
            parent => Some(checksum(parent)?),
        };
        Ok(Self {
            parent,
            subject,
            timestamp,
            version,
            linux,
            bootable,
            tree,
            meta,
        })
    }
}

/// Finds a value in an `a{sv}`, as a `v` is written.
fn boxed_of<'a>(dict: &'a [u8], key: &str) -> Result<Option<&'a [u8]>, GVariantError> {
    for entry in gvariant::elements(dict, 8)? {
        let mut reader = TupleReader::new(entry);
        if gvariant::text(reader.variable(1)?)? == key {
            return Ok(Some(reader.last(8)?));
        }
    }
    Ok(None)
}

/// Finds a text in an `a{sv}`; nothing when the value is of another type.
fn text_of(dict: &[u8], key: &str) -> Result<Option<String>, GVariantError> {
    let boxed = boxed_of(dict, key)?;
    let text = boxed.and_then(|boxed| boxed.strip_suffix(b"\0s"));
    text.map(|text| gvariant::text(text).map(str::to_owned))
        .transpose()
}

fn checksum(bytes: &[u8]) -> Result<Sha256, GVariantError> {
    let bytes = bytes.try_into().ok();
    bytes
        .map(Sha256)
        .ok_or(GVariantError("a checksum does not have 32 bytes"))
}
