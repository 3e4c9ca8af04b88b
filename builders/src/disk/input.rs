//! Files that recipes name: in a tree of the store, or in a root filesystem.

use std::fs::File;
use std::io::{self, Read};
use std::path::PathBuf;

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::store_path::StorePath;
use sos_store::Store;
use sos_store::rootfs::{KindView, RootTree};

use crate::build::Build;

/// The largest file that is read into memory: a kernel with everything in its initrd.
const MAX_BYTES: u64 = 1 << 30;

/// How deep directories of a volume may nest.
const MAX_DEPTH: usize = 16;

/// A file of an input.
#[derive(Debug, Clone)]
pub(super) struct InputFile {
    place: Place,
    /// In bytes.
    pub(super) size: u64,
    /// As the recipe wrote it, for messages.
    shown: String,
}

#[derive(Debug, Clone)]
enum Place {
    Blob(Store, Blake3),
    File(PathBuf),
}

impl InputFile {
    /// Finds the file that a text such as `/nix/store/…-web-rootfs/boot/vmlinuz` names.
    pub(super) fn find(build: &dyn Build, path: &str) -> Result<Self, BuilderError> {
        if let Some((root, rest)) = rootfs_of(build, path) {
            let tree = RootTree::load(build.store(), &root)?;
            return Self::in_rootfs(build, &tree, rest);
        }
        let place = build.tree(path)?;
        let meta = std::fs::metadata(&place).ok();
        if meta.as_ref().is_some_and(std::fs::Metadata::is_dir) {
            return Err(is_directory(path));
        }
        let meta = meta.filter(std::fs::Metadata::is_file);
        let size = meta.ok_or_else(|| missing(path, None))?.len();
        Ok(Self {
            place: Place::File(place),
            size,
            shown: path.to_owned(),
        })
    }

    /// A file of a root filesystem; links are followed inside it.
    pub(super) fn in_rootfs(
        build: &dyn Build,
        tree: &RootTree,
        path: &str,
    ) -> Result<Self, BuilderError> {
        let found = Self::look_up(build, tree, path)?;
        found.ok_or_else(|| {
            let resolved = tree.resolve(path).ok();
            let there = resolved.and_then(|resolved| tree.get(&resolved).ok().flatten());
            match there.map(|there| there.kind) {
                Some(KindView::Dir) => is_directory(path),
                _ => missing(path, Some(build.name())),
            }
        })
    }

    /// The same, where the file may be missing.
    pub(super) fn look_up(
        build: &dyn Build,
        tree: &RootTree,
        path: &str,
    ) -> Result<Option<Self>, BuilderError> {
        // A directory that is missing on the way is no file either.
        let Ok(resolved) = tree.resolve(path) else {
            return Ok(None);
        };
        Ok(match tree.get(&resolved)?.map(|entry| entry.kind) {
            Some(KindView::File { size, blob, .. }) => Some(Self {
                place: Place::Blob(build.store().clone(), blob),
                size,
                shown: path.to_owned(),
            }),
            _ => None,
        })
    }

    /// All files below a directory of a root filesystem, by their paths in it. Links are followed inside the root, as deep as they go.
    pub(super) fn all_below(
        build: &dyn Build,
        path: &str,
    ) -> Result<Vec<(String, Self)>, BuilderError> {
        let (root, rest) = rootfs_of(build, path).ok_or_else(|| {
            BuilderError::failed(format!("`{path}` is no directory of a root filesystem"))
        })?;
        let tree = RootTree::load(build.store(), &root)?;
        let mut found = Vec::new();
        let mut pending = vec![(String::new(), 0)];
        while let Some((below, depth)) = pending.pop() {
            let here = format!("{rest}/{below}");
            let resolved = tree.resolve(&here)?;
            match tree.get(&resolved)?.map(|entry| entry.kind) {
                Some(KindView::Dir) if depth < MAX_DEPTH => {
                    for name in tree.list(&resolved)? {
                        let name = String::from_utf8_lossy(&name).into_owned();
                        let next = if below.is_empty() {
                            name
                        } else {
                            format!("{below}/{name}")
                        };
                        pending.push((next, depth + 1));
                    }
                }
                Some(KindView::File { size, blob, .. }) => found.push((
                    below,
                    Self {
                        place: Place::Blob(build.store().clone(), blob),
                        size,
                        shown: here,
                    },
                )),
                _ => {}
            }
        }
        Ok(found)
    }

    /// Opens it.
    pub(super) fn open(&self) -> io::Result<Box<dyn Read>> {
        Ok(match &self.place {
            Place::Blob(store, blob) => Box::new(store.open_blob(blob).map_err(io::Error::other)?),
            Place::File(path) => Box::new(File::open(path)?),
        })
    }

    /// Reads it whole.
    pub(super) fn read(&self) -> Result<Bytes, BuilderError> {
        if self.size > MAX_BYTES {
            return Err(BuilderError::failed(format!(
                "`{}` has {} bytes; at most {MAX_BYTES} can be part of a kernel image",
                self.shown, self.size
            )));
        }
        let mut bytes = Vec::new();
        let read = self
            .open()
            .and_then(|reader| reader.take(MAX_BYTES + 1).read_to_end(&mut bytes));
        read.map_err(|e| BuilderError::io(format!("cannot read `{}`", self.shown), e))?;
        Ok(bytes)
    }
}

/// The root filesystem that a path leads into, and the rest of the path; none when it leads into a tree.
pub(super) fn rootfs_of<'p>(build: &dyn Build, path: &'p str) -> Option<(Blake3, &'p str)> {
    let dir = build.store().store_dir();
    let (object, rest) = StorePath::split_absolute(dir, path).ok()?;
    let root = build.rootfs(&object.absolute(dir)).ok()?;
    Some((root, rest))
}

/// The whole root filesystem that an attribute names.
pub(super) fn whole_rootfs(build: &dyn Build, path: &str) -> Result<RootTree, BuilderError> {
    Ok(RootTree::load(build.store(), &build.rootfs(path)?)?)
}

fn is_directory(path: &str) -> BuilderError {
    let message = format!("`{path}` is a directory, and a file has to be there");
    Diagnostic::error("disk-file-missing", Class::Recipe, message)
        .help("name each of its files")
        .into()
}

fn missing(path: &str, inside: Option<&str>) -> BuilderError {
    let message = match inside {
        Some(_) => format!("the root filesystem has no file `{path}`"),
        None => format!("there is no file `{path}`"),
    };
    let problem = Diagnostic::error("disk-file-missing", Class::Recipe, message);
    match hint(path) {
        Some(package) => problem
            .help(format!(
                "Debian has it in the package `{package}`: add it to `include`"
            ))
            .into(),
        None => problem.into(),
    }
}

/// The package with a file that disks usually need.
fn hint(path: &str) -> Option<&'static str> {
    let known = [
        ("/systemd/boot/efi/", "systemd-boot-efi"),
        ("/bin/busybox", "busybox-static"),
        ("/sbin/veritysetup", "cryptsetup-bin"),
        ("/boot/initrd", "initramfs-tools"),
        ("/boot/vmlinuz", "linux-image-amd64"),
    ];
    known
        .iter()
        .find(|(part, _)| path.contains(part))
        .map(|(_, package)| *package)
}
