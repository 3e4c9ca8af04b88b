//! From the directories of a manifest to dirtree and dirmeta objects.
//!
//! Extended attributes without a value are refused, or left out and told of where the recipe says so: then it is what a commit of libostree
//! of the same tree has. Where it reads them from a disk it passes over those whose length is 0 (`read_xattr_name_array` in libglnx's `glnx-xattrs.c`), whatever their
//! namespace and whatever they belong to. An object that has one would be found damaged in every repository of the mode `bare`, which
//! is what hosts have: there, too, they are read from the disk to work out the checksum.

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::hash::Sha256;
use sos_formats::manifest::{Entry, Kind, Meta, Root};
use sos_formats::ostree::{
    DirTree, MODE_SYMLINK, ObjectKind, TYPE_DIR, TYPE_FILE, Xattrs, dirmeta,
};

use super::EmptyXattrs;
use super::content::{Content, FileKey};
use super::problems::{Unfit, left_out, shown, without_value};
use super::repository::Repository;
use crate::build::Build;
use crate::walk::{Visit, visit};

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

/// What is found on the way.
struct Reader<'a> {
    build: &'a dyn Build,
    found: Found,
    known: BTreeMap<FileKey, usize>,
    /// The directories that it is in, with their names.
    open: Vec<(Dir, String)>,
    unfit: Unfit,
    left_out: usize,
    /// What has attributes without a value.
    empty: Vec<String>,
}

/// Reads all directories of a root filesystem. What lies in `/dev` belongs to the machine and is left out.
///
/// # Errors
/// When something in it has no place in a commit.
pub(super) fn read(
    build: &dyn Build,
    root: &Root,
    empty_xattrs: EmptyXattrs,
) -> Result<Found, BuilderError> {
    let mut reader = Reader {
        build,
        found: Found {
            dirs: Vec::new(),
            files: Vec::new(),
            kernels: Vec::new(),
        },
        known: BTreeMap::new(),
        open: Vec::new(),
        unfit: Unfit::default(),
        left_out: 0,
        empty: Vec::new(),
    };
    let top = reader.dir(b"", root.meta.clone());
    reader.open.push((top, String::new()));
    visit(build.store(), b"", root.node, &mut reader)?;
    reader.unfit.finish()?;
    if !reader.empty.is_empty() {
        match empty_xattrs {
            EmptyXattrs::Refuse => return Err(without_value(&reader.empty).into()),
            EmptyXattrs::Drop => build.warn(left_out(&reader.empty)),
        }
    }
    if reader.left_out > 0 {
        build.log(&format!("left out {} entries of /dev", reader.left_out));
    }
    let mut found = reader.found;
    found.kernels.sort();
    Ok(found)
}

impl Reader<'_> {
    /// The attributes that a commit keeps of what is at a path.
    fn kept(&mut self, path: &[u8], mut xattrs: Xattrs) -> Xattrs {
        let all = xattrs.len();
        xattrs.retain(|_, value| !value.is_empty());
        if xattrs.len() < all {
            self.empty.push(shown(path));
        }
        xattrs
    }

    fn dir(&mut self, path: &[u8], meta: Meta) -> Dir {
        Dir {
            uid: meta.uid,
            gid: meta.gid,
            mode: TYPE_DIR | u32::from(meta.mode),
            xattrs: self.kept(path, meta.xattrs),
            files: Vec::new(),
            dirs: Vec::new(),
        }
    }
}

impl Visit for Reader<'_> {
    fn entry(&mut self, path: &[u8], entry: Entry) -> Result<bool, BuilderError> {
        if self.build.cancelled() {
            return Err(BuilderError::Cancelled);
        }
        if path.starts_with(b"dev/") {
            self.left_out += 1;
            return Ok(false);
        }
        let Ok(name) = String::from_utf8(entry.name) else {
            self.unfit.name(path);
            return Ok(false);
        };
        let key = match entry.kind {
            Kind::Dir { .. } => {
                let dir = self.dir(path, entry.meta);
                self.open.push((dir, name));
                return Ok(true);
            }
            Kind::File { blob, size, .. } => {
                self.found.kernels.extend(kernel_version(path));
                FileKey {
                    uid: entry.meta.uid,
                    gid: entry.meta.gid,
                    mode: TYPE_FILE | u32::from(entry.meta.mode),
                    xattrs: self.kept(path, entry.meta.xattrs),
                    target: String::new(),
                    blob: Some((blob, size)),
                }
            }
            Kind::Symlink { target } => {
                let Ok(target) = String::from_utf8(target) else {
                    self.unfit.name(path);
                    return Ok(false);
                };
                FileKey {
                    uid: entry.meta.uid,
                    gid: entry.meta.gid,
                    mode: MODE_SYMLINK,
                    xattrs: self.kept(path, entry.meta.xattrs),
                    target,
                    blob: None,
                }
            }
            Kind::Fifo | Kind::CharDev { .. } | Kind::BlockDev { .. } => {
                self.unfit.special(path);
                return Ok(false);
            }
        };
        let files = &mut self.found.files;
        let at = *self.known.entry(key).or_insert_with_key(|key| {
            files.push(key.clone());
            files.len() - 1
        });
        if let Some((dir, _)) = self.open.last_mut() {
            dir.files.push((name, at));
        }
        Ok(false)
    }

    fn leave(&mut self) -> Result<(), BuilderError> {
        if let Some((dir, name)) = self.open.pop() {
            if let Some((above, _)) = self.open.last_mut() {
                above.dirs.push((name, self.found.dirs.len()));
            }
            self.found.dirs.push(dir);
        }
        Ok(())
    }
}

/// The version of the kernel that a path is.
fn kernel_version(path: &[u8]) -> Option<String> {
    let version = path.strip_prefix(b"usr/lib/modules/")?;
    let version = version.strip_suffix(b"/vmlinuz")?;
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
