//! Placing the entries of packages in a root, as dpkg would: directory links are followed, never replaced; the first package
//! that has a directory decides about it; later files replace earlier ones.

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::manifest::Meta;
use sos_formats::tar::{Entry, EntryKind};
use sos_store::Store;
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};

use super::read::Contents;

/// Directories that are links into `/usr` on a merged system, if there is anything to put in them.
const MERGED: [&str; 7] = ["bin", "sbin", "lib", "lib32", "lib64", "libo32", "libx32"];

/// What apt and dpkg need before their packages have made it, as mmdebstrap lays it out.
const DIRECTORIES: [&str; 12] = [
    "etc/apt/apt.conf.d",
    "etc/apt/preferences.d",
    "etc/apt/sources.list.d",
    "etc/dpkg/dpkg.cfg.d",
    "var/cache/apt/archives/partial",
    "var/lib/apt/lists/partial",
    "var/lib/dpkg/alternatives",
    "var/lib/dpkg/info",
    "var/lib/dpkg/parts",
    "var/lib/dpkg/triggers",
    "var/lib/dpkg/updates",
    "var/log/apt",
];

/// A root being filled.
pub(super) struct Place {
    tree: RootTree,
    epoch: i64,
}

impl Place {
    pub(super) fn new(store: &Store, epoch: i64) -> Self {
        let tree = RootTree::empty_in(store, meta(0o755, epoch));
        Self { tree, epoch }
    }

    /// Links the directories of a merged `/usr` before anything is placed. `top` are the names that packages place things in.
    pub(super) fn merge_usr(&mut self, top: &[&[u8]]) -> Result<(), BuilderError> {
        for name in MERGED {
            let always = ["bin", "sbin", "lib"].contains(&name);
            if !always && !top.contains(&name.as_bytes()) {
                continue;
            }
            let target = format!("usr/{name}");
            self.tree.mkdir_p(&target, &meta(0o755, self.epoch))?;
            let kind = SpecKind::Symlink {
                target: target.into_bytes(),
            };
            self.tree.insert(
                name,
                FileSpec {
                    meta: meta(0o777, self.epoch),
                    kind,
                },
            )?;
        }
        Ok(())
    }

    /// Places everything that a package holds.
    pub(super) fn package(&mut self, package: &Contents) -> Result<(), BuilderError> {
        for (entry, blob) in &package.entries {
            self.entry(entry, blob.as_ref()).map_err(|err| match err {
                Problem::Clash(why) => clash(package, entry, why),
                Problem::Store(err) => err.into(),
            })?;
        }
        Ok(())
    }

    /// Writes what dpkg expects to find before it installs its first package.
    pub(super) fn database(&mut self, arch: &str) -> Result<(), BuilderError> {
        let dir = meta(0o755, self.epoch);
        for path in DIRECTORIES {
            self.tree.mkdir_p(path, &dir)?;
        }
        self.tree.insert(
            "tmp",
            FileSpec {
                meta: meta(0o1777, self.epoch),
                kind: SpecKind::Dir,
            },
        )?;
        let files = [
            ("var/lib/dpkg/status", String::new()),
            ("var/lib/dpkg/arch", format!("{arch}\n")),
            ("var/lib/dpkg/info/format", "1\n".to_owned()),
            (
                "etc/fstab",
                "# UNCONFIGURED FSTAB FOR BASE SYSTEM\n".to_owned(),
            ),
        ];
        for (path, text) in files {
            if self.tree.get(path)?.is_none() {
                self.tree
                    .write_file(path, text.as_bytes(), meta(0o644, self.epoch))?;
            }
        }
        Ok(())
    }

    pub(super) fn finish(mut self, store: &Store) -> Result<Blake3, BuilderError> {
        self.tree.clamp_times(self.epoch)?;
        Ok(self.tree.finish(store)?)
    }

    fn entry(&mut self, entry: &Entry, blob: Option<&Blake3>) -> Result<(), Problem> {
        if entry.path.is_empty() {
            // The root is there already.
            return Ok(());
        }
        let real = self.real_place(&entry.path)?;
        let there = self.there(&real)?;
        if entry.kind == EntryKind::Dir {
            return self.directory(entry, &real, there);
        }
        if there == There::Dir && !self.tree.list(&real)?.is_empty() {
            return Err(Problem::Clash("a directory that is not empty is there"));
        }
        let spec = |kind| FileSpec {
            meta: entry_meta(entry),
            kind,
        };
        let kind = match (entry.kind, blob) {
            (EntryKind::File, Some(blob)) => SpecKind::File {
                size: entry.size,
                blob: *blob,
                hardlink: None,
            },
            (EntryKind::Symlink, _) => SpecKind::Symlink {
                target: entry.link.clone(),
            },
            (EntryKind::Fifo, _) => SpecKind::Fifo,
            (EntryKind::CharDev, _) => SpecKind::CharDev {
                major: entry.major,
                minor: entry.minor,
            },
            (EntryKind::BlockDev, _) => SpecKind::BlockDev {
                major: entry.major,
                minor: entry.minor,
            },
            (EntryKind::Hardlink, _) => {
                let other = self.real_place(&entry.link)?;
                if self.there(&other)? != There::File {
                    return Err(Problem::Clash("its other name is no file"));
                }
                return Ok(self.tree.link(other, real)?);
            }
            (EntryKind::File | EntryKind::Dir, _) => {
                return Err(Problem::Clash("it has no content"));
            }
        };
        Ok(self.tree.insert(real, spec(kind))?)
    }

    /// Makes a directory unless there is one, or a link to one.
    fn directory(&mut self, entry: &Entry, real: &[u8], there: There) -> Result<(), Problem> {
        let at = match there {
            There::Dir => return Ok(()),
            There::Symlink => {
                let target = self.tree.resolve(real)?;
                match self.there(&target)? {
                    There::Dir => return Ok(()),
                    There::Nothing => target,
                    There::File | There::Symlink | There::Other => {
                        return Err(Problem::Clash("something else is there"));
                    }
                }
            }
            There::Nothing => real.to_vec(),
            There::File | There::Other => return Err(Problem::Clash("something else is there")),
        };
        self.make_parent(&at)?;
        Ok(self.tree.insert(
            at,
            FileSpec {
                meta: entry_meta(entry),
                kind: SpecKind::Dir,
            },
        )?)
    }

    /// Finds where a path leads when links on the way are followed inside the root; missing directories are made.
    fn real_place(&mut self, path: &[u8]) -> Result<Bytes, Problem> {
        let mut parent = path.to_vec();
        let name = match parent.iter().rposition(|b| *b == b'/') {
            None => return Ok(parent),
            Some(slash) => {
                let name = parent.split_off(slash + 1);
                parent.truncate(slash);
                name
            }
        };
        // Parents first, since one that is missing is made where its own parent leads.
        let parent = self.real_place(&parent)?;
        let mut real = match self.there(&parent)? {
            There::Symlink => self.tree.resolve(&parent)?,
            _ => parent,
        };
        match self.there(&real)? {
            There::Dir => {}
            There::Nothing => {
                self.make_parent(&real)?;
                self.tree.mkdir_p(&real, &meta(0o755, self.epoch))?;
            }
            There::File | There::Symlink | There::Other => {
                return Err(Problem::Clash("a directory above it is none"));
            }
        }
        real.push(b'/');
        real.extend(name);
        Ok(real)
    }

    fn make_parent(&mut self, path: &[u8]) -> Result<(), Problem> {
        if let Some(slash) = path.iter().rposition(|b| *b == b'/') {
            self.tree
                .mkdir_p(&path[..slash], &meta(0o755, self.epoch))?;
        }
        Ok(())
    }

    fn there(&self, path: &[u8]) -> Result<There, Problem> {
        Ok(match self.tree.get(path)?.map(|entry| entry.kind) {
            None => There::Nothing,
            Some(KindView::Dir) => There::Dir,
            Some(KindView::Symlink { .. }) => There::Symlink,
            Some(KindView::File { .. }) => There::File,
            Some(_) => There::Other,
        })
    }
}

/// What is at a path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum There {
    Nothing,
    Dir,
    Symlink,
    File,
    Other,
}

enum Problem {
    Clash(&'static str),
    Store(sos_store::StoreError),
}

impl From<sos_store::StoreError> for Problem {
    fn from(err: sos_store::StoreError) -> Self {
        Self::Store(err)
    }
}

fn clash(package: &Contents, entry: &Entry, why: &str) -> BuilderError {
    let path = String::from_utf8_lossy(&entry.path);
    let message = format!("package `{}` cannot place `/{path}`: {why}", package.name);
    Diagnostic::error("deb-path-clash", Class::Recipe, message).into()
}

fn meta(mode: u16, epoch: i64) -> Meta {
    Meta {
        mode,
        mtime_secs: epoch,
        ..Meta::default()
    }
}

fn entry_meta(entry: &Entry) -> Meta {
    Meta {
        mode: if entry.kind == EntryKind::Symlink {
            0o777
        } else {
            entry.mode
        },
        uid: entry.uid,
        gid: entry.gid,
        mtime_secs: entry.mtime_secs,
        mtime_nsecs: 0,
        xattrs: entry.xattrs.clone(),
    }
}
