//! A root file system being edited: paths inside it, resolved as the booted system would, never outside.

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_formats::manifest::Meta;
use sos_store::rootfs::{FileSpec, KindView, RootTree};

use super::problem;
use crate::build::Build;

/// What something in the root file system is.
pub(super) use sos_store::rootfs::SpecKind as Kind;

/// Links followed for one path, as in Linux.
const MAX_LINKS: usize = 40;
/// The largest file that is read into memory: account databases, unit files.
const MAX_READ_BYTES: u64 = 16 << 20;

/// A path inside the root: components joined by `/`, without one at either end; the root is empty.
pub(super) type RootPath = Bytes;

/// An owner in numbers.
pub(super) type Owner = (u32, u32);

/// The root file system, and what every edit needs to know.
pub(super) struct Editor<'a> {
    pub(super) build: &'a dyn Build,
    pub(super) epoch: i64,
    tree: RootTree,
}

impl<'a> Editor<'a> {
    /// Opens a rootfs object, or an empty root.
    pub(super) fn open(
        build: &'a dyn Build,
        base: Option<&Blake3>,
        epoch: i64,
    ) -> Result<Self, BuilderError> {
        let tree = match base {
            Some(id) => RootTree::load(build.store(), id)?,
            None => RootTree::empty_in(
                build.store(),
                Meta {
                    mode: 0o755,
                    mtime_secs: epoch,
                    ..Meta::default()
                },
            ),
        };
        Ok(Self { build, epoch, tree })
    }

    /// Ends the edit: no time later than the epoch, everything in the store.
    pub(super) fn finish(mut self) -> Result<Blake3, BuilderError> {
        self.tree.clamp_times(self.epoch)?;
        Ok(self.tree.finish(self.build.store())?)
    }

    /// Makes the metadata of something new.
    pub(super) fn meta(&self, mode: u16, (uid, gid): Owner) -> Meta {
        Meta {
            mode,
            uid,
            gid,
            mtime_secs: self.epoch,
            ..Meta::default()
        }
    }

    /// Looks at a path without following a link in its last component.
    pub(super) fn get(&self, path: &[u8]) -> Result<Option<(Meta, Kind)>, BuilderError> {
        let path = self.real_place(path)?;
        self.lookup(&path)
    }

    /// Tells whether there is something at a path, links followed.
    pub(super) fn exists(&self, path: &[u8]) -> Result<bool, BuilderError> {
        let path = self.resolve(path)?;
        Ok(self.lookup(&path)?.is_some())
    }

    /// Reads a file, links followed; none when it is not there.
    pub(super) fn read(&self, path: &[u8]) -> Result<Option<Bytes>, BuilderError> {
        let real = self.resolve(path)?;
        match self.lookup(&real)? {
            None => Ok(None),
            Some((_, Kind::File { size, .. })) => {
                if size > MAX_READ_BYTES {
                    return Err(BuilderError::failed(format!(
                        "`/{}` is too large to be edited",
                        shown(&real)
                    )));
                }
                Ok(Some(self.tree.read_file(&real)?))
            }
            Some(_) => Err(BuilderError::failed(format!(
                "`/{}` is not a regular file",
                shown(&real)
            ))),
        }
    }

    /// Replaces the contents of a file, links followed; it keeps its owner and mode, or gets the given ones.
    pub(super) fn rewrite(
        &mut self,
        path: &[u8],
        bytes: &[u8],
        new: Meta,
    ) -> Result<(), BuilderError> {
        let real = self.resolve(path)?;
        let meta = match self.lookup(&real)? {
            Some((meta, Kind::File { .. })) => Meta {
                mtime_secs: self.epoch,
                mtime_nsecs: 0,
                ..meta
            },
            _ => new,
        };
        self.write(&real, bytes, meta)
    }

    /// Puts a file with these contents at a path; a link there is replaced, not followed.
    pub(super) fn write(
        &mut self,
        path: &[u8],
        bytes: &[u8],
        meta: Meta,
    ) -> Result<(), BuilderError> {
        let blob = self.build.store().put_blob_bytes(bytes)?;
        self.put(
            path,
            meta,
            Kind::File {
                size: bytes.len() as u64,
                blob,
                hardlink: None,
            },
        )
    }

    /// Puts anything but a directory at a path; its parents are made if need be.
    pub(super) fn put(&mut self, path: &[u8], meta: Meta, kind: Kind) -> Result<(), BuilderError> {
        let place = self.real_place(path)?;
        let Some((dir, _)) = split(&place) else {
            return Err(problem("rootfs-bad-path", "`/` cannot be replaced").into());
        };
        if let Some((_, Kind::Dir)) = self.lookup(&place)? {
            let message = format!(
                "`/{}` is a directory and would be replaced by something else",
                shown(&place)
            );
            return Err(problem("rootfs-path-clash", message)
                .help("remove it first, or choose another path")
                .into());
        }
        self.directory(dir, None, None)?;
        Ok(self.tree.insert(&place, FileSpec { meta, kind })?)
    }

    /// Makes a directory, and those above it. What is new belongs to the owner of the directory above, unless `owner`
    /// says otherwise; what exists keeps what is not given.
    pub(super) fn directory(
        &mut self,
        path: &[u8],
        mode: Option<u16>,
        owner: Option<Owner>,
    ) -> Result<RootPath, BuilderError> {
        let real = self.resolve(path)?;
        let mut made = RootPath::new();
        let mut above = (0, 0);
        for name in components(&real) {
            made = join(&made, &name);
            match self.lookup(&made)? {
                Some((meta, Kind::Dir)) => above = (meta.uid, meta.gid),
                Some(_) => {
                    let message = format!(
                        "`/{}` is not a directory, so nothing can be placed below it",
                        shown(&made)
                    );
                    return Err(problem("rootfs-path-clash", message).into());
                }
                None => {
                    let meta = self.meta(0o755, above);
                    self.tree.insert(
                        &made,
                        FileSpec {
                            meta,
                            kind: Kind::Dir,
                        },
                    )?;
                }
            }
        }
        if mode.is_none() && owner.is_none() {
            return Ok(real);
        }
        if let Some((mut meta, _)) = self.lookup(&real)? {
            meta.mode = mode.unwrap_or(meta.mode);
            (meta.uid, meta.gid) = owner.unwrap_or((meta.uid, meta.gid));
            self.tree.set_meta(&real, meta)?;
        }
        Ok(real)
    }

    /// Gives something another owner, links not followed.
    pub(super) fn set_meta(&mut self, path: &[u8], meta: Meta) -> Result<(), BuilderError> {
        let place = self.real_place(path)?;
        Ok(self.tree.set_meta(&place, meta)?)
    }

    /// Lists a directory, sorted, links followed; empty when there is none.
    pub(super) fn list(&self, path: &[u8]) -> Result<Vec<(Bytes, Kind)>, BuilderError> {
        let real = self.resolve(path)?;
        match self.lookup(&real)? {
            Some((_, Kind::Dir)) => {}
            _ => return Ok(Vec::new()),
        }
        let mut entries = Vec::new();
        for name in self.tree.list(&real)? {
            if let Some((_, kind)) = self.lookup(&join(&real, &name))? {
                entries.push((name, kind));
            }
        }
        Ok(entries)
    }

    /// Removes what is at a path, links not followed; tells whether there was anything.
    pub(super) fn remove(&mut self, path: &[u8]) -> Result<bool, BuilderError> {
        let place = self.real_place(path)?;
        Ok(self.tree.remove(&place)?)
    }

    /// Follows every link of a path; what does not exist is taken as it is written.
    pub(super) fn resolve(&self, path: &[u8]) -> Result<RootPath, BuilderError> {
        let mut real = RootPath::new();
        let mut links = 0;
        let mut rest = components(path);
        rest.reverse();
        while let Some(name) = rest.pop() {
            if name == b".." {
                real = split(&real)
                    .map(|(dir, _)| dir.to_vec())
                    .unwrap_or_default();
                continue;
            }
            let next = join(&real, &name);
            let Some((_, Kind::Symlink { target })) = self.lookup(&next)? else {
                real = next;
                continue;
            };
            links += 1;
            if links > MAX_LINKS {
                let message = format!("`/{}` is a link that goes in a circle", shown(&next));
                return Err(problem("rootfs-path-clash", message).into());
            }
            if target.starts_with(b"/") {
                real.clear();
            }
            rest.extend(components(&target).into_iter().rev());
        }
        Ok(real)
    }

    /// Follows every link but a last one.
    fn real_place(&self, path: &[u8]) -> Result<RootPath, BuilderError> {
        match split(path) {
            None => Ok(RootPath::new()),
            Some((dir, name)) => Ok(join(&self.resolve(dir)?, name)),
        }
    }

    /// Looks at a path whose directories are real.
    fn lookup(&self, path: &[u8]) -> Result<Option<(Meta, Kind)>, BuilderError> {
        Ok(self
            .tree
            .get(path)?
            .map(|view| (view.meta.clone(), owned(view.kind))))
    }
}

/// Makes a kind that can outlive the tree.
fn owned(kind: KindView<'_>) -> Kind {
    match kind {
        KindView::File {
            size,
            blob,
            hardlink,
        } => Kind::File {
            size,
            blob,
            hardlink,
        },
        KindView::Dir => Kind::Dir,
        KindView::Symlink { target } => Kind::Symlink {
            target: target.to_vec(),
        },
        KindView::Fifo => Kind::Fifo,
        KindView::CharDev { major, minor } => Kind::CharDev { major, minor },
        KindView::BlockDev { major, minor } => Kind::BlockDev { major, minor },
    }
}

/// Takes a path as a recipe writes it: absolute, without `..`.
pub(super) fn recipe_path(path: &str) -> Result<RootPath, BuilderError> {
    let names = components(path.as_bytes());
    if !path.starts_with('/') || names.iter().any(|name| name == b"..") || path.contains('\0') {
        return Err(problem(
            "rootfs-bad-path",
            format!("`{path}` is not a path inside the root file system"),
        )
        .help("write an absolute path without `..`")
        .into());
    }
    Ok(names.join(&b'/'))
}

/// Gives the names in a path.
pub(super) fn components(path: &[u8]) -> Vec<Bytes> {
    path.split(|byte| *byte == b'/')
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// Joins a directory, which may be the root, and a name.
pub(super) fn join(dir: &[u8], name: &[u8]) -> RootPath {
    if dir.is_empty() {
        name.to_vec()
    } else {
        [dir, b"/", name].concat()
    }
}

/// Splits a path into its directory and its last name; none for the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    if path.is_empty() {
        return None;
    }
    Some(match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    })
}

/// Gives a path as text for people.
pub(super) fn shown(path: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(path)
}
