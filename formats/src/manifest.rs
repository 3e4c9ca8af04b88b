//! Rootfs manifests: trees with owners, modes, times, devices and xattrs, as canonical, hashed nodes.
//!
//! A rootfs object is a [`Root`], which names the [`Node`] of the top directory; each node lists one directory and
//! names the nodes below by hash. So unchanged directories are shared between objects, and the id of the root covers all.
//!
//! # Format
//! All integers are little-endian and of fixed width; there is no padding. `bytes16` is a u16 length and that many
//! bytes, `bytes32` the same with a u32 length.
//!
//! ```text
//! root    "sosroot\x01"  meta  node-id:32
//! node    "sosnode\x01"  count:u32  entry{count}
//! entry   name:bytes16  meta  kind
//! meta    mode:u16  uid:u32  gid:u32  mtime-secs:i64  mtime-nsecs:u32  xattr-count:u16  xattr{xattr-count}
//! xattr   key:bytes16  value:bytes32
//! kind    0x01 size:u64 blob-id:32                        regular file
//!       | 0x02 size:u64 blob-id:32 group:16               regular file with hard links
//!       | 0x03 node-id:32                                 directory
//!       | 0x04 target:bytes16                             symbolic link
//!       | 0x05                                            FIFO
//!       | 0x06 major:u32 minor:u32                        character device
//!       | 0x07 major:u32 minor:u32                        block device
//! ```
//!
//! An id is the BLAKE3 hash of a whole encoding, magic included. A blob id is the BLAKE3 hash of a file's bytes.
//! Entries are in strictly ascending order of their names' bytes, xattrs of their keys. There is one encoding only:
//! reading refuses what writing would not produce. Limits: [`MAX_NAME_LEN`] and so on, below.
//!
//! # Example
//! The empty directory and a root over it:
//! ```
//! use sos_formats::manifest::{Meta, Node, Root};
//! let node = Node::default();
//! assert_eq!(node.encode(), b"sosnode\x01\0\0\0\0");
//! let root = Root { meta: Meta { mode: 0o755, ..Meta::default() }, node: node.id() };
//! assert_eq!(root.encode()[..10], *b"sosroot\x01\xed\x01");
//! ```

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use crate::Bytes;
use crate::hash::Blake3;

/// The longest entry name, as in Linux.
pub const MAX_NAME_LEN: usize = 255;
/// The longest target of a symbolic link, as in Linux.
pub const MAX_TARGET_LEN: usize = 4095;
/// The longest xattr key, as in Linux.
pub const MAX_XATTR_KEY_LEN: usize = 255;
/// The longest xattr value, as in Linux.
pub const MAX_XATTR_VALUE_LEN: usize = 65536;
/// The most xattrs one entry can have.
pub const MAX_XATTRS: usize = 1024;
/// All mode bits that are kept: permissions, setuid, setgid, sticky.
pub const MODE_MASK: u16 = 0o7777;

const NODE_MAGIC: &[u8; 8] = b"sosnode\x01";
const ROOT_MAGIC: &[u8; 8] = b"sosroot\x01";
/// Name of one byte, meta without xattrs, kind without data.
const MIN_ENTRY_LEN: usize = 3 + 24 + 1;

/// What every entry and the root have besides their content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Meta {
    /// Permissions, setuid, setgid and sticky: 12 bits.
    pub mode: u16,
    /// The owner, as seen inside.
    pub uid: u32,
    /// The group, as seen inside.
    pub gid: u32,
    /// Time of last modification, seconds since 1970.
    pub mtime_secs: i64,
    /// Nanoseconds on top, below 1,000,000,000.
    pub mtime_nsecs: u32,
    /// Extended attributes.
    pub xattrs: BTreeMap<Bytes, Bytes>,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A regular file.
    File {
        /// Size in bytes.
        size: u64,
        /// The id of the content.
        blob: Blake3,
        /// The group of names that are one file, see [`hardlink_group`]; none for a file with one name.
        hardlink: Option<[u8; 16]>,
    },
    /// A directory.
    Dir {
        /// The id of the node that lists it.
        node: Blake3,
    },
    /// A symbolic link.
    Symlink {
        /// Where it points, raw.
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

/// One name in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The name: not empty, not `.` or `..`, without `/` and NUL.
    pub name: Bytes,
    /// Mode, owner, time, xattrs.
    pub meta: Meta,
    /// File, directory and so on, with content.
    pub kind: Kind,
}

/// One directory's entries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Node {
    /// In strictly ascending order of names.
    pub entries: Vec<Entry>,
}

/// The top of a rootfs object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// Of the top directory itself.
    pub meta: Meta,
    /// The id of the top directory's node.
    pub node: Blake3,
}

/// Why a manifest, or its bytes, are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The bytes are of another kind or version.
    #[error("not a manifest {0} of a version that is known")]
    BadMagic(&'static str),
    /// The bytes end too early.
    #[error("manifest ends within {0}")]
    Truncated(&'static str),
    /// Bytes after the end.
    #[error("{0} bytes follow the manifest")]
    TrailingBytes(usize),
    /// Names are doubled or not ascending.
    #[error("entry {name:?} is not after the one before it", name = String::from_utf8_lossy(.0))]
    NotSorted(Bytes),
    /// Xattr keys are doubled or not ascending.
    #[error("xattr {key:?} is not after the one before it", key = String::from_utf8_lossy(.0))]
    XattrNotSorted(Bytes),
    /// A name that cannot be in a directory.
    #[error("{name:?} is not a usable file name", name = String::from_utf8_lossy(.0))]
    BadName(Bytes),
    /// An empty, overlong or NUL-holding target.
    #[error("{target:?} is not a usable link target", target = String::from_utf8_lossy(.0))]
    BadTarget(Bytes),
    /// An empty, overlong or NUL-holding xattr key.
    #[error("{key:?} is not a usable xattr key", key = String::from_utf8_lossy(.0))]
    BadXattrKey(Bytes),
    /// An xattr value larger than [`MAX_XATTR_VALUE_LEN`].
    #[error("an xattr value of {0} bytes is too large")]
    LargeXattr(usize),
    /// More than [`MAX_XATTRS`] xattrs.
    #[error("{0} xattrs are too many")]
    ManyXattrs(usize),
    /// Mode bits above the lowest 12.
    #[error("mode {0:o} has bits other than permissions")]
    BadMode(u16),
    /// Nanoseconds of a second or more.
    #[error("{0} nanoseconds are a second or more")]
    BadNanoseconds(u32),
    /// An unknown kind of entry.
    #[error("kind {0} of entry is not known")]
    BadKind(u8),
    /// More entries than the format can count.
    #[error("{0} entries are too many")]
    ManyEntries(usize),
}

impl Node {
    /// Sorts entries into a node and checks it.
    ///
    /// # Errors
    /// As [`Node::check`].
    pub fn new(mut entries: Vec<Entry>) -> Result<Self, ManifestError> {
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let node = Self { entries };
        node.check()?;
        Ok(node)
    }

    /// Checks everything that [`Node::decode`] would refuse.
    ///
    /// # Errors
    /// Names, order, targets, xattrs, modes and times that the format does not allow.
    pub fn check(&self) -> Result<(), ManifestError> {
        if u32::try_from(self.entries.len()).is_err() {
            return Err(ManifestError::ManyEntries(self.entries.len()));
        }
        let mut previous: Option<&[u8]> = None;
        for entry in &self.entries {
            check_name(&entry.name)?;
            if previous.is_some_and(|p| p >= entry.name.as_slice()) {
                return Err(ManifestError::NotSorted(entry.name.clone()));
            }
            previous = Some(&entry.name);
            entry.meta.check()?;
            if let Kind::Symlink { target } = &entry.kind {
                check_target(target)?;
            }
        }
        Ok(())
    }

    /// Returns the entry of a name.
    pub fn get(&self, name: &[u8]) -> Option<&Entry> {
        let at = self
            .entries
            .binary_search_by(|e| e.name.as_slice().cmp(name));
        self.entries.get(at.ok()?)
    }

    /// Writes the node; the bytes can be read again only when [`Node::check`] finds nothing.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(16 + self.entries.len() * 96);
        out.extend_from_slice(NODE_MAGIC);
        out.extend_from_slice(&len32(self.entries.len()));
        for entry in &self.entries {
            put16(&mut out, &entry.name);
            entry.meta.encode(&mut out);
            entry.kind.encode(&mut out);
        }
        out
    }

    /// Reads a node.
    ///
    /// # Errors
    /// Anything that is not exactly what [`Node::encode`] writes for a node that passes [`Node::check`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut r = Reader { rest: bytes };
        r.magic(NODE_MAGIC, "node")?;
        let count = u32::from_le_bytes(r.array("the number of entries")?) as usize;
        // The declared number is believed only as far as the bytes could hold that many.
        let mut entries = Vec::with_capacity(count.min(r.rest.len() / MIN_ENTRY_LEN));
        for _ in 0..count {
            let name = r.bytes16("a name")?;
            entries.push(Entry {
                name,
                meta: Meta::decode(&mut r)?,
                kind: Kind::decode(&mut r)?,
            });
        }
        r.end()?;
        let node = Self { entries };
        node.check()?;
        Ok(node)
    }

    /// Returns the id, the BLAKE3 hash of the encoding.
    pub fn id(&self) -> Blake3 {
        Blake3::of(&self.encode())
    }
}

impl Root {
    /// Writes the root.
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(80);
        out.extend_from_slice(ROOT_MAGIC);
        self.meta.encode(&mut out);
        out.extend_from_slice(&self.node.0);
        out
    }

    /// Reads a root.
    ///
    /// # Errors
    /// Anything that is not exactly what [`Root::encode`] writes for a root with sound [`Meta`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut r = Reader { rest: bytes };
        r.magic(ROOT_MAGIC, "root")?;
        let meta = Meta::decode(&mut r)?;
        let node = Blake3(r.array("the id of the top directory")?);
        r.end()?;
        meta.check()?;
        Ok(Self { meta, node })
    }

    /// Returns the identity of the rootfs object, the BLAKE3 hash of the encoding.
    pub fn id(&self) -> Blake3 {
        Blake3::of(&self.encode())
    }
}

impl Meta {
    /// Checks mode, time and xattrs.
    ///
    /// # Errors
    /// When one of them is outside what the format allows.
    pub fn check(&self) -> Result<(), ManifestError> {
        if self.mode & !MODE_MASK != 0 {
            return Err(ManifestError::BadMode(self.mode));
        }
        if self.mtime_nsecs >= 1_000_000_000 {
            return Err(ManifestError::BadNanoseconds(self.mtime_nsecs));
        }
        if self.xattrs.len() > MAX_XATTRS {
            return Err(ManifestError::ManyXattrs(self.xattrs.len()));
        }
        for (key, value) in &self.xattrs {
            if key.is_empty() || key.len() > MAX_XATTR_KEY_LEN || key.contains(&0) {
                return Err(ManifestError::BadXattrKey(key.clone()));
            }
            if value.len() > MAX_XATTR_VALUE_LEN {
                return Err(ManifestError::LargeXattr(value.len()));
            }
        }
        Ok(())
    }

    fn encode(&self, out: &mut Bytes) {
        out.extend_from_slice(&self.mode.to_le_bytes());
        out.extend_from_slice(&self.uid.to_le_bytes());
        out.extend_from_slice(&self.gid.to_le_bytes());
        out.extend_from_slice(&self.mtime_secs.to_le_bytes());
        out.extend_from_slice(&self.mtime_nsecs.to_le_bytes());
        out.extend_from_slice(&len16(self.xattrs.len()));
        for (key, value) in &self.xattrs {
            put16(out, key);
            out.extend_from_slice(&len32(value.len()));
            out.extend_from_slice(value);
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, ManifestError> {
        let mut meta = Self {
            mode: u16::from_le_bytes(r.array("a mode")?),
            uid: u32::from_le_bytes(r.array("an owner")?),
            gid: u32::from_le_bytes(r.array("a group")?),
            mtime_secs: i64::from_le_bytes(r.array("a time")?),
            mtime_nsecs: u32::from_le_bytes(r.array("a time")?),
            xattrs: BTreeMap::new(),
        };
        for _ in 0..u16::from_le_bytes(r.array("the number of xattrs")?) {
            let key = r.bytes16("an xattr key")?;
            let len = u32::from_le_bytes(r.array("an xattr value")?) as usize;
            let value = r.take(len, "an xattr value")?.to_vec();
            if meta.xattrs.last_key_value().is_some_and(|(k, _)| *k >= key) {
                return Err(ManifestError::XattrNotSorted(key));
            }
            meta.xattrs.insert(key, value);
        }
        Ok(meta)
    }
}

impl Kind {
    fn encode(&self, out: &mut Bytes) {
        match self {
            Self::File {
                size,
                blob,
                hardlink,
            } => {
                out.push(if hardlink.is_none() { 1 } else { 2 });
                out.extend_from_slice(&size.to_le_bytes());
                out.extend_from_slice(&blob.0);
                if let Some(group) = hardlink {
                    out.extend_from_slice(group);
                }
            }
            Self::Dir { node } => {
                out.push(3);
                out.extend_from_slice(&node.0);
            }
            Self::Symlink { target } => {
                out.push(4);
                put16(out, target);
            }
            Self::Fifo => out.push(5),
            Self::CharDev { major, minor } | Self::BlockDev { major, minor } => {
                out.push(if matches!(self, Self::CharDev { .. }) {
                    6
                } else {
                    7
                });
                out.extend_from_slice(&major.to_le_bytes());
                out.extend_from_slice(&minor.to_le_bytes());
            }
        }
    }

    fn decode(r: &mut Reader<'_>) -> Result<Self, ManifestError> {
        let [tag] = r.array("a kind")?;
        Ok(match tag {
            1 | 2 => Self::File {
                size: u64::from_le_bytes(r.array("a size")?),
                blob: Blake3(r.array("a blob id")?),
                hardlink: if tag == 2 {
                    Some(r.array("a hard link group")?)
                } else {
                    None
                },
            },
            3 => Self::Dir {
                node: Blake3(r.array("a node id")?),
            },
            4 => Self::Symlink {
                target: r.bytes16("a link target")?,
            },
            5 => Self::Fifo,
            6 | 7 => {
                let major = u32::from_le_bytes(r.array("a device")?);
                let minor = u32::from_le_bytes(r.array("a device")?);
                if tag == 6 {
                    Self::CharDev { major, minor }
                } else {
                    Self::BlockDev { major, minor }
                }
            }
            other => return Err(ManifestError::BadKind(other)),
        })
    }
}

/// Returns the hard link group of files whose first name, in canonical order, is at `path` (no leading slash).
///
/// Canonical order is depth first with the entries of each directory in order.
pub fn hardlink_group(path: &[u8]) -> [u8; 16] {
    let mut group = [0; 16];
    group.copy_from_slice(&Blake3::of(path).0[..16]);
    group
}

/// Checks the name of an entry.
///
/// # Errors
/// [`ManifestError::BadName`] unless it is 1 to 255 bytes without `/` and NUL, and neither `.` nor `..`.
pub fn check_name(name: &[u8]) -> Result<(), ManifestError> {
    let sound = !matches!(name, b"" | b"." | b"..")
        && name.len() <= MAX_NAME_LEN
        && memchr::memchr2(b'/', 0, name).is_none();
    if sound {
        Ok(())
    } else {
        Err(ManifestError::BadName(name.to_vec()))
    }
}

/// Checks the target of a symbolic link.
///
/// # Errors
/// [`ManifestError::BadTarget`] unless it is 1 to 4095 bytes without NUL.
pub fn check_target(target: &[u8]) -> Result<(), ManifestError> {
    if target.is_empty() || target.len() > MAX_TARGET_LEN || target.contains(&0) {
        return Err(ManifestError::BadTarget(target.to_vec()));
    }
    Ok(())
}

// Lengths that do not fit are written as the largest: `check` and `decode` refuse such manifests, nothing wraps.
fn len16(n: usize) -> [u8; 2] {
    u16::try_from(n).unwrap_or(u16::MAX).to_le_bytes()
}

fn len32(n: usize) -> [u8; 4] {
    u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()
}

fn put16(out: &mut Bytes, bytes: &[u8]) {
    out.extend_from_slice(&len16(bytes.len()));
    out.extend_from_slice(bytes);
}

struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, n: usize, what: &'static str) -> Result<&'a [u8], ManifestError> {
        let (taken, rest) = self
            .rest
            .split_at_checked(n)
            .ok_or(ManifestError::Truncated(what))?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], ManifestError> {
        let (taken, rest) = self
            .rest
            .split_first_chunk()
            .ok_or(ManifestError::Truncated(what))?;
        self.rest = rest;
        Ok(*taken)
    }

    fn bytes16(&mut self, what: &'static str) -> Result<Bytes, ManifestError> {
        let len = u16::from_le_bytes(self.array(what)?);
        Ok(self.take(usize::from(len), what)?.to_vec())
    }

    fn magic(&mut self, magic: &[u8; 8], what: &'static str) -> Result<(), ManifestError> {
        match self.rest.strip_prefix(magic) {
            Some(rest) => {
                self.rest = rest;
                Ok(())
            }
            None => Err(ManifestError::BadMagic(what)),
        }
    }

    fn end(&self) -> Result<(), ManifestError> {
        match self.rest.len() {
            0 => Ok(()),
            n => Err(ManifestError::TrailingBytes(n)),
        }
    }
}
