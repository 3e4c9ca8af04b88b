//! From the directories of a manifest to dirtree and dirmeta objects.

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::hash::{Blake3, Sha256};
use sos_formats::manifest::{Kind, Meta, Root};
use sos_formats::ostree::{
    DirTree, MODE_SYMLINK, ObjectKind, TYPE_DIR, TYPE_FILE, Xattrs, dirmeta,
};

use super::content::{Content, FileKey};
use super::problems::Unfit;
use super::repository::Repository;
use crate::build::Build;

/// A root filesystem as a commit sees it.
pub(super) struct Found {
    /// Every directory, each after those in it; the last is the top.
    pub(super) dirs: Vec<Dir>,
    /// Every different file and link.
    pub(super) files: Vec<FileKey>,
    /// Kernel versions that have `/usr/lib/modules/<version>/vmlinuz`.
    pub(super) kernels: Vec<String>,
}

/// One directory.
pub(super) struct Dir {
    uid: u32,
    gid: u32,
    mode: u32,
    xattrs: Xattrs,
    /// Names with places in `Found::files`.
    files: Vec<(String, usize)>,
    /// Names with places in `Found::dirs`.
    dirs: Vec<(String, usize)>,
}

/// A directory on the way down.
struct Level {
    dir: Dir,
    path: Bytes,
    name: String,
    entries: std::vec::IntoIter<sos_formats::manifest::Entry>,
}

/// Reads all directories of a root filesystem. What lies in `/dev` belongs to the machine and is left out.
pub(super) fn read(build: &dyn Build, root: &Root) -> Result<Found, BuilderError> {
    let store = build.store();
    let mut unfit = Unfit::default();
    let mut left_out = 0_usize;
    let mut found = Found {
        dirs: Vec::new(),
        files: Vec::new(),
        kernels: Vec::new(),
    };
    let mut known: BTreeMap<FileKey, usize> = BTreeMap::new();
    let enter = |meta: &Meta, node: &Blake3, path: Bytes, name: String| {
        let entries = store.get_node(node)?.entries;
        Ok::<_, BuilderError>(Level {
            dir: Dir::new(meta),
            path,
            name,
            entries: entries.into_iter(),
        })
    };
    let mut stack = vec![enter(&root.meta, &root.node, Bytes::new(), String::new())?];
    while let Some(level) = stack.last_mut() {
        let Some(entry) = level.entries.next() else {
            let Some(Level { dir, name, .. }) = stack.pop() else {
                break;
            };
            if let Some(above) = stack.last_mut() {
                above.dir.dirs.push((name, found.dirs.len()));
            }
            found.dirs.push(dir);
            continue;
        };
        if build.cancelled() {
            return Err(BuilderError::Cancelled);
        }
        if level.path == b"dev" {
            left_out += 1;
            continue;
        }
        let path = if level.path.is_empty() {
            entry.name.clone()
        } else {
            [&level.path, b"/".as_slice(), &entry.name].concat()
        };
        let Ok(name) = String::from_utf8(entry.name) else {
            unfit.name(&path);
            continue;
        };
        let key = match entry.kind {
            Kind::Dir { node } => {
                let below = enter(&entry.meta, &node, path, name)?;
                stack.push(below);
                continue;
            }
            Kind::File { blob, size, .. } => {
                if name == "vmlinuz"
                    && let Some(version) = kernel_version(&level.path)
                {
                    found.kernels.push(version);
                }
                FileKey {
                    uid: entry.meta.uid,
                    gid: entry.meta.gid,
                    mode: TYPE_FILE | u32::from(entry.meta.mode),
                    xattrs: entry.meta.xattrs,
                    target: String::new(),
                    blob: Some((blob, size)),
                }
            }
            Kind::Symlink { target } => {
                let Ok(target) = String::from_utf8(target) else {
                    unfit.name(&path);
                    continue;
                };
                FileKey {
                    uid: entry.meta.uid,
                    gid: entry.meta.gid,
                    mode: MODE_SYMLINK,
                    xattrs: entry.meta.xattrs,
                    target,
                    blob: None,
                }
            }
            Kind::Fifo | Kind::CharDev { .. } | Kind::BlockDev { .. } => {
                unfit.special(&path);
                continue;
            }
        };
        let at = *known.entry(key).or_insert_with_key(|key| {
            found.files.push(key.clone());
            found.files.len() - 1
        });
        level.dir.files.push((name, at));
    }
    unfit.finish()?;
    if left_out > 0 {
        build.log(&format!("left out {left_out} entries of /dev"));
    }
    found.kernels.sort();
    Ok(found)
}

fn kernel_version(dir: &[u8]) -> Option<String> {
    let version = dir.strip_prefix(b"usr/lib/modules/")?;
    let whole = !version.contains(&b'/');
    whole.then(|| String::from_utf8(version.to_vec()).ok())?
}

/// Puts all directories into a repository; gives dirtree and dirmeta of the top.
pub(super) fn write(
    found: &Found,
    contents: &[Content],
    repository: &mut Repository<'_>,
) -> Result<(Sha256, Sha256), BuilderError> {
    let mut done: Vec<(Sha256, Sha256)> = Vec::with_capacity(found.dirs.len());
    for dir in &found.dirs {
        let mut tree = DirTree::new();
        for (name, file) in &dir.files {
            tree.file(name, contents[*file].checksum);
        }
        for (name, below) in &dir.dirs {
            let (below, meta) = done[*below];
            tree.dir(name, below, meta);
        }
        let meta = dirmeta(dir.uid, dir.gid, dir.mode, &dir.xattrs);
        done.push((
            repository.metadata(ObjectKind::DirTree, &tree.encode())?,
            repository.metadata(ObjectKind::DirMeta, &meta)?,
        ));
    }
    done.pop()
        .ok_or_else(|| BuilderError::failed("the root filesystem has no top directory"))
}

impl Dir {
    fn new(meta: &Meta) -> Self {
        Self {
            uid: meta.uid,
            gid: meta.gid,
            mode: TYPE_DIR | u32::from(meta.mode),
            xattrs: meta.xattrs.clone(),
            files: Vec::new(),
            dirs: Vec::new(),
        }
    }
}
