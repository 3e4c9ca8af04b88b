//! Roots: what a collection must keep. Symlinks below `roots/`, as in Nix; those in `roots/auto/` point to links of
//! the user, and count for as long as these exist.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use sos_formats::hash::Blake3;
use sos_formats::nix32;
use sos_formats::store_path::StorePath;

use crate::error::{IoContext, Result, StoreError};
use crate::objects::ObjectKind;
use crate::store::Store;
use crate::temp::list_dir;

/// Where the texts are that links of root filesystems lead to, below the root of the store.
const ROOTFS_TEXTS: &str = "roots/rootfs";

/// Something that keeps an object alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GcRoot {
    /// The link below `roots/`.
    pub name: String,
    /// What it keeps.
    pub path: StorePath,
    /// The user's own link, for an indirect root.
    pub link: Option<PathBuf>,
}

impl Store {
    /// Makes a root of that name, in place of an earlier one.
    ///
    /// # Errors
    /// [`StoreError::RootName`] for a name that is no relative path of ordinary names.
    pub fn add_root(&self, name: &str, path: &StorePath) -> Result<()> {
        let sound = !name.is_empty()
            && name
                .split('/')
                .all(|part| !matches!(part, "" | "." | "..") && !part.contains('\0'))
            && name != "auto"
            && !name.starts_with("auto/");
        if !sound {
            return Err(StoreError::RootName {
                name: name.to_owned(),
            });
        }
        // Held until the store is closed: a collection may have read the roots already.
        self.hold(std::slice::from_ref(path))?;
        let link = self.root().join("roots").join(name);
        self.replace_link(&link, Path::new(&path.absolute(self.store_dir())))
    }

    /// Removes a root; one that is not there is a success.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_root(&self, name: &str) -> Result<()> {
        self.require_writable()?;
        let link = self.root().join("roots").join(name);
        match std::fs::remove_file(&link) {
            Err(err) if err.kind() != io::ErrorKind::NotFound => {
                Err(StoreError::io("remove", link, err))
            }
            _ => Ok(()),
        }
    }

    /// Makes a symlink of the user to an object, which keeps the object alive for as long as it is there.
    ///
    /// The link points to where the object is on the disk. A root filesystem is no directory there: its link leads to a text that
    /// says how to look into it.
    ///
    /// # Errors
    /// [`StoreError::NotALink`] when another kind of file is in its place.
    pub fn add_indirect_root(&self, link: &Path, path: &StorePath) -> Result<()> {
        self.require_writable()?;
        let link = std::path::absolute(link).at("resolve", link)?;
        self.hold(std::slice::from_ref(path))?;
        let is_rootfs = self
            .query(path)?
            .is_some_and(|info| info.kind == ObjectKind::Rootfs);
        let target = if is_rootfs {
            self.describe_rootfs(path)?
        } else {
            self.physical(path)
        };
        self.replace_link(&link, &target)?;
        let name = nix32::encode(&Blake3::of(link.as_os_str().as_bytes()).0[..20]);
        self.replace_link(&self.root().join("roots/auto").join(name), &link)
    }

    /// Writes the text that links of a root filesystem lead to.
    fn describe_rootfs(&self, path: &StorePath) -> Result<PathBuf> {
        let dir = self.root().join(ROOTFS_TEXTS);
        std::fs::create_dir_all(&dir).at("make the directory", &dir)?;
        let place = dir.join(path.base());
        let shown = path.absolute(self.store_dir());
        let text = format!(
            "This is the root filesystem {shown}.\nIt is kept as a manifest, not as a directory: `sos store ls {shown}` looks into it.\n"
        );
        if std::fs::read_to_string(&place).is_ok_and(|found| found == text) {
            return Ok(place);
        }
        let temp = self.temp_dir("text")?;
        let staged = temp.path().join("text");
        std::fs::write(&staged, text).at("write", &staged)?;
        std::fs::rename(&staged, &place).at("make", &place)?;
        Ok(place)
    }

    /// Lists the roots in order; links that lead nowhere are left out.
    ///
    /// # Errors
    /// When `roots/` cannot be read.
    pub fn roots(&self) -> Result<Vec<GcRoot>> {
        Ok(self.read_roots()?.0)
    }

    /// The roots, and the indirect ones whose link is gone.
    pub(crate) fn read_roots(&self) -> Result<(Vec<GcRoot>, Vec<PathBuf>)> {
        let top = self.root().join("roots");
        let auto = top.join("auto");
        let mut found = Vec::new();
        let mut stale = Vec::new();
        let mut pending = vec![top.clone()];
        while let Some(dir) = pending.pop() {
            for entry in list_dir(&dir)? {
                let Ok(meta) = std::fs::symlink_metadata(&entry) else {
                    continue;
                };
                if meta.is_dir() {
                    pending.push(entry);
                    continue;
                }
                if !meta.is_symlink() {
                    continue;
                }
                let name = entry
                    .strip_prefix(&top)
                    .unwrap_or(&entry)
                    .to_string_lossy()
                    .into_owned();
                let target = std::fs::read_link(&entry).at("read the link", &entry)?;
                if dir != auto {
                    if let Some(path) = self.object_of(&target) {
                        found.push(GcRoot {
                            name,
                            path,
                            link: None,
                        });
                    }
                    continue;
                }
                match std::fs::read_link(&target) {
                    Ok(to) => match self.object_of(&to) {
                        Some(path) => found.push(GcRoot {
                            name,
                            path,
                            link: Some(target),
                        }),
                        None => stale.push(entry),
                    },
                    // A directory that cannot be looked into now (a disk that is not mounted) may come back.
                    Err(err) if is_gone(&err) => stale.push(entry),
                    Err(_) => {}
                }
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok((found, stale))
    }

    /// The object at or around a logical or physical path.
    pub(crate) fn object_of(&self, path: &Path) -> Option<StorePath> {
        let logical = Path::new(self.store_dir().as_str());
        let trees = self.root().join("tree");
        let inside = path
            .strip_prefix(&trees)
            .or_else(|_| path.strip_prefix(self.root().join(ROOTFS_TEXTS)))
            .or_else(|_| path.strip_prefix(logical))
            .ok()
            .or_else(|| {
                // The same directory by another name, when a link leads to the store.
                let texts = self.root().join(ROOTFS_TEXTS);
                let is_same = |dir: &&Path| {
                    (dir.ends_with("tree") || dir.ends_with(ROOTFS_TEXTS))
                        && dir
                            .canonicalize()
                            .is_ok_and(|dir| dir == trees || dir == texts)
                };
                path.strip_prefix(path.ancestors().find(is_same)?).ok()
            })?;
        let base = inside.components().next()?.as_os_str().to_str()?;
        StorePath::from_base(base).ok()
    }

    /// Makes or replaces a symlink in one step.
    fn replace_link(&self, link: &Path, target: &Path) -> Result<()> {
        self.require_writable()?;
        match std::fs::symlink_metadata(link) {
            Ok(meta) if !meta.is_symlink() => {
                return Err(StoreError::NotALink {
                    path: link.to_owned(),
                });
            }
            Ok(_) if std::fs::read_link(link).is_ok_and(|found| found == target) => return Ok(()),
            _ => {}
        }
        let parent = link.parent().unwrap_or(Path::new("/"));
        std::fs::create_dir_all(parent).at("make the directory", parent)?;
        // Beside the link, which may be on another file system than the store.
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let staged = parent.join(format!(".sos-link-{}-{number}", std::process::id()));
        std::fs::remove_file(&staged).ok();
        std::os::unix::fs::symlink(target, &staged).at("make the link", &staged)?;
        std::fs::rename(&staged, link).at("make the link", link)
    }
}

fn is_gone(err: &io::Error) -> bool {
    // InvalidInput: no longer a symlink.
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory
    )
}
