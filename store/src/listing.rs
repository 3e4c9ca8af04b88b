//! What is in a tree outside the store: names, kinds, sizes, and what `stat` says, in the order of a NAR.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use sos_formats::hash::Blake3;
use sos_formats::nar;

use crate::error::{IoContext, Result, StoreError};
use crate::statcache::StatKey;
use crate::sys;

/// What a file is, as far as a filter is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// A regular file.
    Regular,
    /// A directory.
    Directory,
    /// A symlink.
    Symlink,
    /// A device, a pipe or a socket: no part of a store object.
    Other,
}

impl From<std::fs::FileType> for FileType {
    fn from(kind: std::fs::FileType) -> Self {
        if kind.is_file() {
            Self::Regular
        } else if kind.is_dir() {
            Self::Directory
        } else if kind.is_symlink() {
            Self::Symlink
        } else {
            Self::Other
        }
    }
}

/// Decides whether a file becomes part of the object; asked for everything but the root, a directory before
/// what is in it, in order of names. An error that is not of the file system can be kept aside by the caller.
pub type Filter<'a> = &'a mut dyn FnMut(&Path, FileType) -> io::Result<bool>;

/// A whole tree; the root comes first, each directory before what is in it.
pub(crate) struct Listing {
    pub(crate) items: Vec<Item>,
}

pub(crate) struct Item {
    /// The path below the root of the tree; empty for the root.
    pub(crate) path: PathBuf,
    /// How many directories of the tree this is in.
    pub(crate) depth: usize,
    pub(crate) kind: ItemKind,
}

pub(crate) enum ItemKind {
    Directory,
    File {
        executable: bool,
        size: u64,
        key: StatKey,
        adoptable: bool,
    },
    Symlink {
        target: Vec<u8>,
    },
}

/// How to look at a tree.
#[derive(Default)]
pub(crate) struct ListOptions<'a> {
    pub(crate) filter: Option<Filter<'a>>,
    /// Make directories accessible first: the tree is ours to change.
    pub(crate) take: bool,
}

impl Listing {
    /// Lists a tree; symlinks are not followed.
    pub(crate) fn read(root: &Path, mut options: ListOptions<'_>) -> Result<Self> {
        let mut items = Vec::new();
        // Explicit, so that a deep tree costs no stack: what is still to be listed, last first.
        let mut pending = vec![(PathBuf::new(), 0)];
        while let Some((path, depth)) = pending.pop() {
            let place = if depth == 0 {
                root.to_owned()
            } else {
                root.join(&path)
            };
            let meta = std::fs::symlink_metadata(&place).at("look at", &place)?;
            let kind = FileType::from(meta.file_type());
            if depth > 0
                && let Some(filter) = options.filter.as_mut()
            {
                let wanted = filter(&place, kind).map_err(|source| StoreError::Filter {
                    path: place.clone(),
                    source,
                })?;
                if !wanted {
                    continue;
                }
            }
            let kind = match kind {
                FileType::Regular => {
                    if options.take && meta.mode() & 0o400 == 0 {
                        // A builder may have left a file that not even we can read. Where this fails, reading tells.
                        sys::set_mode(&place, meta.mode() & 0o777 | 0o400).ok();
                    }
                    ItemKind::File {
                        executable: meta.mode() & 0o100 != 0,
                        size: meta.len(),
                        key: StatKey::of(&meta),
                        adoptable: crate::cas::may_adopt(&meta),
                    }
                }
                FileType::Symlink => {
                    let target = std::fs::read_link(&place).at("read the link", &place)?;
                    ItemKind::Symlink {
                        target: target.as_os_str().as_bytes().to_vec(),
                    }
                }
                FileType::Directory => {
                    if depth >= nar::MAX_DEPTH {
                        return Err(StoreError::TooDeep {
                            path: place,
                            limit: nar::MAX_DEPTH,
                        });
                    }
                    if options.take && meta.mode() & 0o700 != 0o700 {
                        sys::set_mode(&place, 0o755).at("set the mode of", &place)?;
                    }
                    for name in names(&place)?.into_iter().rev() {
                        pending.push((path.join(name), depth + 1));
                    }
                    ItemKind::Directory
                }
                FileType::Other => return Err(StoreError::SpecialFile { path: place }),
            };
            items.push(Item { path, depth, kind });
        }
        Ok(Self { items })
    }

    /// The regular files, with their places in the list.
    pub(crate) fn files(&self) -> impl Iterator<Item = (usize, &StatKey)> {
        self.items
            .iter()
            .enumerate()
            .filter_map(|(at, item)| match &item.kind {
                ItemKind::File { key, .. } => Some((at, key)),
                _ => None,
            })
    }

    /// A hash over everything that becomes part of the object. `contents` gives the hash of the file at a place.
    pub(crate) fn fingerprint(&self, contents: &dyn Fn(usize) -> Option<Blake3>) -> Option<Blake3> {
        let mut hasher = blake3::Hasher::new();
        let mut field = |data: &[u8]| {
            hasher.update(&(data.len() as u64).to_le_bytes());
            hasher.update(data);
        };
        field(b"sos source listing 1");
        for (at, item) in self.items.iter().enumerate() {
            field(item.path.as_os_str().as_bytes());
            match &item.kind {
                ItemKind::Directory => field(b"d"),
                ItemKind::File { executable, .. } => {
                    field(if *executable { b"x" } else { b"f" });
                    field(&contents(at)?.0);
                }
                ItemKind::Symlink { target } => {
                    field(b"l");
                    field(target);
                }
            }
        }
        Some(Blake3(*hasher.finalize().as_bytes()))
    }
}

/// The names in a directory, in the order of their bytes.
fn names(dir: &Path) -> Result<Vec<std::ffi::OsString>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).at("list", dir)? {
        found.push(entry.at("list", dir)?.file_name());
    }
    found.sort();
    Ok(found)
}
