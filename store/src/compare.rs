//! What differs between two trees: file trees, root filesystems, or anything else that is put into a [`Snapshot`].
//!
//! Both sides are lists of entries with what is known of them. What only one side knows, such as owners when a plain
//! tree is compared with a root filesystem, is not compared.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sos_formats::Bytes;
use sos_formats::hash::Blake3;

use crate::error::{IoContext, Result, StoreError};
use crate::rootfs::{EntryView, KindView, RootTree};
use crate::store::Store;

const CHUNK_BYTES: usize = 64 << 10;

/// How deep a tree may be, as in the store.
const MAX_DEPTH: usize = 4096;

/// Everything in a tree, by path; the root is the empty path.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The entries.
    pub entries: BTreeMap<Bytes, Item>,
}

/// One entry and what is known of it.
#[derive(Clone, Debug)]
pub struct Item {
    /// What it is.
    pub kind: ItemKind,
    /// Permission bits; of file trees only whether a file is executable counts.
    pub mode: u32,
    /// User and group, if they are known.
    pub owner: Option<(u32, u32)>,
    /// Seconds and nanoseconds of its last change, if they count.
    pub mtime: Option<(i64, u32)>,
    /// Extended attributes, if they are known.
    pub xattrs: Option<BTreeMap<Bytes, Bytes>>,
    /// With which other names it is one file, if that is known.
    pub hardlink: Option<[u8; 16]>,
}

/// What an entry is.
#[derive(Clone, Debug)]
pub enum ItemKind {
    /// A regular file.
    File {
        /// Its bytes.
        size: u64,
        /// Where they are.
        content: Content,
    },
    /// A directory.
    Dir,
    /// A symlink with its target.
    Symlink(Bytes),
    /// A pipe, a socket, or a device with its numbers.
    Special {
        /// `fifo`, `socket`, `character device`, `block device`.
        what: &'static str,
        /// Major and minor number.
        device: (u32, u32),
    },
}

/// Where the bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// In a file.
    File(PathBuf),
    /// In a part of a file that begins at this byte.
    Part(PathBuf, u64),
    /// In a blob of the store.
    Blob(Blake3),
}

/// One way in which two entries of one path differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Only the second side has it.
    Added,
    /// Only the first side has it.
    Removed,
    /// One is a file, the other a directory, and so on.
    Kind(&'static str, &'static str),
    /// Other bytes, of these sizes.
    Content {
        /// The first byte that differs, or the end of the shorter file.
        offset: u64,
        /// The size on the first side.
        old: u64,
        /// The size on the second side.
        new: u64,
    },
    /// Other targets of a symlink.
    Target(Bytes, Bytes),
    /// Other permissions.
    Mode(u32, u32),
    /// Other owners.
    Owner((u32, u32), (u32, u32)),
    /// Other times of the last change.
    Time((i64, u32), (i64, u32)),
    /// Other extended attributes: the names whose values differ.
    Xattrs(Vec<Bytes>),
    /// One file with other names.
    Links,
    /// Other device numbers.
    Device((u32, u32), (u32, u32)),
}

impl Change {
    /// The word under which it is counted.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Removed => "removed",
            Self::Kind(..) => "kind",
            Self::Content { .. } => "content",
            Self::Target(..) => "symlink target",
            Self::Mode(..) => "mode",
            Self::Owner(..) => "owner",
            Self::Time(..) => "time",
            Self::Xattrs(_) => "xattrs",
            Self::Links => "hard links",
            Self::Device(..) => "device numbers",
        }
    }
}

impl Change {
    /// Says it in a line; `name` writes the names in it.
    #[must_use]
    pub fn told(&self, name: &dyn Fn(&[u8]) -> String) -> String {
        match self {
            Self::Added | Self::Removed => self.word().to_owned(),
            Self::Kind(old, new) => format!("was a {old}, is a {new}"),
            Self::Content { offset, old, new } if old == new => {
                format!("content differs from byte {offset} on, of {old}")
            }
            Self::Content { offset, old, new } => {
                format!("content differs from byte {offset} on, {old} -> {new} bytes")
            }
            Self::Target(old, new) => format!("link to {} -> {}", name(old), name(new)),
            Self::Mode(old, new) => {
                let can_run = |mode: &u32| mode & 0o111 != 0;
                let what = match (can_run(old), can_run(new)) {
                    (true, false) => ", no longer executable",
                    (false, true) => ", now executable",
                    _ => "",
                };
                format!("mode {old:04o} -> {new:04o}{what}")
            }
            Self::Owner(old, new) => {
                format!("owner {}:{} -> {}:{}", old.0, old.1, new.0, new.1)
            }
            Self::Time(old, new) => format!("time {} -> {}", time(*old), time(*new)),
            Self::Xattrs(names) => {
                let names: Vec<String> = names.iter().map(|one| name(one)).collect();
                format!("xattrs {}", names.join(", "))
            }
            Self::Links => "other hard links".to_owned(),
            Self::Device(old, new) => {
                format!("device {}:{} -> {}:{}", old.0, old.1, new.0, new.1)
            }
        }
    }
}

fn time((secs, nanos): (i64, u32)) -> String {
    if nanos == 0 {
        return format!("@{secs}");
    }
    format!("@{secs}.{nanos:09}")
}

/// A path whose entries differ, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The path below the root of both sides; empty for the root itself.
    pub path: Bytes,
    /// Every way in which they differ, at least one.
    pub changes: Vec<Change>,
}

impl Difference {
    /// Says it in a line, the path, a dot for the root, and everything that changed; `name` writes the names in it.
    #[must_use]
    pub fn told(&self, name: &dyn Fn(&[u8]) -> String) -> String {
        let changes: Vec<String> = self.changes.iter().map(|one| one.told(name)).collect();
        let path = if self.path.is_empty() {
            ".".to_owned()
        } else {
            name(&self.path)
        };
        format!("{path}: {}", changes.join("; "))
    }
}

impl fmt::Display for Difference {
    /// As [`Difference::told`], with names as they are: not cleaned of control characters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.told(&|name| String::from_utf8_lossy(name).into_owned()))
    }
}

impl Snapshot {
    /// Lists a directory, a file or a symlink on disk with what a store object keeps of it.
    ///
    /// # Errors
    /// When something cannot be read.
    pub fn of_tree(root: &Path) -> Result<Self> {
        let mut entries = BTreeMap::new();
        let mut pending = vec![(Bytes::new(), root.to_owned(), 0)];
        while let Some((path, place, depth)) = pending.pop() {
            let meta = std::fs::symlink_metadata(&place).at("look at", &place)?;
            let kind = if meta.is_dir() {
                if depth >= MAX_DEPTH {
                    return Err(StoreError::TooDeep {
                        path: place,
                        limit: MAX_DEPTH,
                    });
                }
                for entry in std::fs::read_dir(&place).at("list", &place)? {
                    let name = entry.at("list", &place)?.file_name();
                    let below = joined(&path, name.as_bytes());
                    pending.push((below, place.join(&name), depth + 1));
                }
                ItemKind::Dir
            } else if meta.is_symlink() {
                let target = std::fs::read_link(&place).at("read the link", &place)?;
                ItemKind::Symlink(target.into_os_string().into_vec())
            } else if meta.is_file() {
                ItemKind::File {
                    size: meta.len(),
                    content: Content::File(place),
                }
            } else {
                special(&meta)
            };
            let executable = matches!(kind, ItemKind::File { .. }) && meta.mode() & 0o100 != 0;
            let plain = matches!(kind, ItemKind::File { .. });
            let item = Item {
                mode: if plain && !executable { 0o644 } else { 0o755 },
                kind,
                owner: None,
                mtime: None,
                xattrs: None,
                hardlink: None,
            };
            entries.insert(path, item);
        }
        Ok(Self { entries })
    }

    /// Lists a root filesystem with all that its manifest says.
    ///
    /// # Errors
    /// When a node of it is missing or damaged.
    pub fn of_rootfs(store: &Store, root: &Blake3) -> Result<Self> {
        let tree = RootTree::load(store, root)?;
        let mut entries = BTreeMap::new();
        let top = EntryView {
            meta: tree.root_meta(),
            kind: KindView::Dir,
        };
        entries.insert(Bytes::new(), of_view(&top));
        tree.walk(|path, meta, kind| {
            entries.insert(path.to_vec(), of_view(&EntryView { meta, kind }));
            Ok(())
        })?;
        Ok(Self { entries })
    }

    /// Lists an object of the store, whichever kind it is of.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn of_object(store: &Store, info: &crate::PathInfo) -> Result<Self> {
        match &info.root {
            Some(root) => Self::of_rootfs(store, root),
            None => Self::of_tree(&store.physical(&info.path)),
        }
    }

    /// The bytes of all files; a file with several names counts once where that is known.
    #[must_use]
    pub fn size_bytes(&self) -> u64 {
        let mut seen = std::collections::BTreeSet::new();
        self.entries
            .values()
            .filter(|item| item.hardlink.is_none_or(|group| seen.insert(group)))
            .map(|item| match &item.kind {
                ItemKind::File { size, .. } => *size,
                _ => 0,
            })
            .sum()
    }

    /// The paths at which `self` and `other` differ, in the order of their bytes.
    ///
    /// # Errors
    /// When the content of a file cannot be read.
    pub fn compare(&self, other: &Self, store: &Store) -> Result<Vec<Difference>> {
        let mut found = Vec::new();
        let paths: std::collections::BTreeSet<&Bytes> =
            self.entries.keys().chain(other.entries.keys()).collect();
        for path in paths {
            let changes = match (self.entries.get(path), other.entries.get(path)) {
                (Some(old), Some(new)) => changes(store, old, new)?,
                (Some(_), None) => vec![Change::Removed],
                (None, Some(_)) => vec![Change::Added],
                (None, None) => Vec::new(),
            };
            if !changes.is_empty() {
                found.push(Difference {
                    path: path.clone(),
                    changes,
                });
            }
        }
        Ok(found)
    }
}

impl ItemKind {
    /// What it is in a word or two.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::File { .. } => "file",
            Self::Dir => "directory",
            Self::Symlink(_) => "symlink",
            Self::Special { what, .. } => what,
        }
    }
}

impl Content {
    /// Opens the bytes; those of a part end where the caller stops.
    ///
    /// # Errors
    /// When they are not there.
    pub fn open(&self, store: &Store) -> Result<Box<dyn Read>> {
        Ok(match self {
            Self::File(path) => Box::new(File::open(path).at("open", path)?),
            Self::Part(path, from) => {
                let mut file = File::open(path).at("open", path)?;
                file.seek(SeekFrom::Start(*from)).at("read", path)?;
                Box::new(file)
            }
            Self::Blob(hash) => Box::new(store.open_blob(hash)?),
        })
    }
}

impl Item {
    /// Opens the bytes of a file; none for everything else.
    ///
    /// # Errors
    /// When they are not there.
    pub fn open(&self, store: &Store) -> Result<Option<Box<dyn Read>>> {
        match &self.kind {
            ItemKind::File { size, content } => {
                Ok(Some(Box::new(content.open(store)?.take(*size))))
            }
            _ => Ok(None),
        }
    }
}

fn joined(dir: &[u8], name: &[u8]) -> Bytes {
    let mut path = dir.to_vec();
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    path
}

fn special(meta: &std::fs::Metadata) -> ItemKind {
    use std::os::unix::fs::FileTypeExt;
    let kind = meta.file_type();
    let what = if kind.is_fifo() {
        "fifo"
    } else if kind.is_socket() {
        "socket"
    } else if kind.is_block_device() {
        "block device"
    } else {
        "character device"
    };
    let device = (
        rustix::fs::major(meta.rdev()),
        rustix::fs::minor(meta.rdev()),
    );
    ItemKind::Special { what, device }
}

fn of_view(view: &EntryView<'_>) -> Item {
    let mut group = None;
    let special = |what, device| ItemKind::Special { what, device };
    let kind = match view.kind {
        KindView::File {
            size,
            blob,
            hardlink,
        } => {
            group = hardlink;
            ItemKind::File {
                size,
                content: Content::Blob(blob),
            }
        }
        KindView::Dir => ItemKind::Dir,
        KindView::Symlink { target } => ItemKind::Symlink(target.to_vec()),
        KindView::Fifo => special("fifo", (0, 0)),
        KindView::CharDev { major, minor } => special("character device", (major, minor)),
        KindView::BlockDev { major, minor } => special("block device", (major, minor)),
    };
    Item {
        kind,
        mode: u32::from(view.meta.mode),
        owner: Some((view.meta.uid, view.meta.gid)),
        mtime: Some((view.meta.mtime_secs, view.meta.mtime_nsecs)),
        xattrs: Some(view.meta.xattrs.clone()),
        hardlink: group,
    }
}

fn changes(store: &Store, old: &Item, new: &Item) -> Result<Vec<Change>> {
    let mut found = Vec::new();
    match (&old.kind, &new.kind) {
        (
            ItemKind::File {
                size: old_size,
                content: old_content,
            },
            ItemKind::File {
                size: new_size,
                content: new_content,
            },
        ) => {
            let differs = old_size != new_size || old_content != new_content;
            if differs && let Some(offset) = first_difference(store, old, new)? {
                found.push(Change::Content {
                    offset,
                    old: *old_size,
                    new: *new_size,
                });
            }
        }
        (ItemKind::Symlink(old), ItemKind::Symlink(new)) if old != new => {
            found.push(Change::Target(old.clone(), new.clone()));
        }
        (
            ItemKind::Special {
                what: old_what,
                device: old,
            },
            ItemKind::Special {
                what: new_what,
                device: new,
            },
        ) if old_what == new_what && old != new => found.push(Change::Device(*old, *new)),
        (old, new) if old.word() != new.word() => {
            return Ok(vec![Change::Kind(old.word(), new.word())]);
        }
        _ => {}
    }
    // A symlink has no permissions of its own.
    if old.mode != new.mode && !matches!(old.kind, ItemKind::Symlink(_)) {
        let counts = |item: &Item| match item.owner {
            Some(_) => item.mode,
            None => item.mode & 0o100,
        };
        let both = old.owner.is_some() && new.owner.is_some();
        if both || counts(old) & 0o100 != counts(new) & 0o100 {
            found.push(Change::Mode(old.mode, new.mode));
        }
    }
    if let (Some(old), Some(new)) = (old.owner, new.owner)
        && old != new
    {
        found.push(Change::Owner(old, new));
    }
    if let (Some(old), Some(new)) = (old.mtime, new.mtime)
        && old != new
    {
        found.push(Change::Time(old, new));
    }
    if let (Some(old), Some(new)) = (&old.xattrs, &new.xattrs)
        && old != new
    {
        let names = old.keys().chain(new.keys());
        let mut names: Vec<Bytes> = names
            .filter(|name| old.get(*name) != new.get(*name))
            .cloned()
            .collect();
        names.sort();
        names.dedup();
        found.push(Change::Xattrs(names));
    }
    if old.owner.is_some() && new.owner.is_some() && old.hardlink != new.hardlink {
        found.push(Change::Links);
    }
    Ok(found)
}

/// The first byte at which two files differ; none when they are equal.
fn first_difference(store: &Store, old: &Item, new: &Item) -> Result<Option<u64>> {
    let (Some(old), Some(new)) = (old.open(store)?, new.open(store)?) else {
        return Ok(None);
    };
    let (mut old, mut new) = (
        BufReader::with_capacity(CHUNK_BYTES, old),
        BufReader::with_capacity(CHUNK_BYTES, new),
    );
    let (mut a, mut b) = (vec![0; CHUNK_BYTES], vec![0; CHUNK_BYTES]);
    let mut at = 0;
    let read = |reader: &mut dyn Read, buffer: &mut [u8]| {
        fill(reader, buffer).at("read", Path::new("a compared file"))
    };
    loop {
        let (n, m) = (read(&mut old, &mut a)?, read(&mut new, &mut b)?);
        let same = a[..n].iter().zip(&b[..m]).take_while(|(a, b)| a == b);
        let same = same.count();
        if same < n || same < m {
            return Ok(Some(at + same as u64));
        }
        if n == 0 {
            return Ok(None);
        }
        at += n as u64;
    }
}

/// Reads until the buffer is full or the file ends.
fn fill(reader: &mut dyn Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}
