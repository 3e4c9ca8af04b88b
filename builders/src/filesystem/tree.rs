//! A root filesystem as a list of inodes.

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind, Meta};

use crate::build::Build;
use crate::walk::walk;

/// All inodes in canonical order of their first names; the root directory is the first.
pub(super) struct Tree {
    pub(super) inodes: Vec<Inode>,
}

/// One file of any kind.
pub(super) struct Inode {
    /// The first name, for messages.
    pub(super) path: Bytes,
    /// No time in it is after the epoch.
    pub(super) meta: Meta,
    /// How many directory entries lead here, `.` and `..` of directories included.
    pub(super) links: u32,
    pub(super) content: Content,
}

/// What an inode is.
pub(super) enum Content {
    Dir {
        parent: usize,
        /// Names in order of their bytes, with places in `Tree::inodes`.
        entries: Vec<(Bytes, usize)>,
    },
    File {
        blob: Blake3,
        size: u64,
    },
    Symlink {
        target: Bytes,
    },
    Fifo,
    CharDev {
        major: u32,
        minor: u32,
    },
    BlockDev {
        major: u32,
        minor: u32,
    },
}

impl Content {
    /// The bits of `S_IFMT`.
    pub(super) fn type_bits(&self) -> u16 {
        match self {
            Self::Fifo => 0o010_000,
            Self::CharDev { .. } => 0o020_000,
            Self::Dir { .. } => 0o040_000,
            Self::BlockDev { .. } => 0o060_000,
            Self::File { .. } => 0o100_000,
            Self::Symlink { .. } => 0o120_000,
        }
    }

    /// The number that directory entries of ext4 and EROFS name the kind with.
    pub(super) fn entry_type(&self) -> u8 {
        match self {
            Self::File { .. } => 1,
            Self::Dir { .. } => 2,
            Self::CharDev { .. } => 3,
            Self::BlockDev { .. } => 4,
            Self::Fifo => 5,
            Self::Symlink { .. } => 7,
        }
    }
}

impl Inode {
    fn new(path: Bytes, meta: &Meta, epoch: i64, content: Content) -> Self {
        let mut meta = meta.clone();
        if meta.mtime_secs >= epoch {
            (meta.mtime_secs, meta.mtime_nsecs) = (epoch, 0);
        }
        let links = if matches!(content, Content::Dir { .. }) {
            2
        } else {
            1
        };
        Self {
            path,
            meta,
            links,
            content,
        }
    }

    /// Type and permissions.
    pub(super) fn mode(&self) -> u16 {
        self.content.type_bits() | self.meta.mode
    }
}

impl Tree {
    /// Reads all of a manifest; lowers times that are after the epoch.
    pub(super) fn read(build: &dyn Build, root: &Blake3, epoch: i64) -> Result<Self, BuilderError> {
        let root = build.store().get_root(root)?;
        let dir = |parent| Content::Dir {
            parent,
            entries: Vec::new(),
        };
        let mut inodes = vec![Inode::new(Bytes::new(), &root.meta, epoch, dir(0))];
        // Directories on the way to where the walk is.
        let mut way: Vec<usize> = vec![0];
        let mut groups: BTreeMap<[u8; 16], usize> = BTreeMap::new();
        walk(build.store(), b"", root.node, &mut |path, entry| {
            let depth = path.iter().filter(|byte| **byte == b'/').count();
            way.truncate(depth + 1);
            let parent = way.last().copied().unwrap_or(0);
            let new = inodes.len();
            let at = match &entry.kind {
                Kind::File {
                    hardlink: Some(group),
                    ..
                } => *groups.entry(*group).or_insert(new),
                _ => new,
            };
            if let Content::Dir { entries, .. } = &mut inodes[parent].content {
                entries.push((entry.name.clone(), at));
            }
            if at != new {
                inodes[at].links += 1;
                return;
            }
            if let Kind::Dir { .. } = entry.kind {
                inodes[parent].links += 1;
                way.push(new);
            }
            let content = content(entry, dir(parent));
            inodes.push(Inode::new(path, &entry.meta, epoch, content));
        })?;
        Ok(Self { inodes })
    }

    /// The file contents, with the inodes that have them.
    pub(super) fn files(&self) -> impl Iterator<Item = (usize, Blake3, u64)> + '_ {
        let all = self.inodes.iter().enumerate();
        all.filter_map(|(at, inode)| match inode.content {
            Content::File { blob, size } => Some((at, blob, size)),
            _ => None,
        })
    }
}

fn content(entry: &Entry, dir: Content) -> Content {
    match &entry.kind {
        Kind::Dir { .. } => dir,
        Kind::File { blob, size, .. } => Content::File {
            blob: *blob,
            size: *size,
        },
        Kind::Symlink { target } => Content::Symlink {
            target: target.clone(),
        },
        Kind::Fifo => Content::Fifo,
        Kind::CharDev { major, minor } => Content::CharDev {
            major: *major,
            minor: *minor,
        },
        Kind::BlockDev { major, minor } => Content::BlockDev {
            major: *major,
            minor: *minor,
        },
    }
}
