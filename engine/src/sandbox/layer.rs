//! Files that a step may change and that are no part of the root that it began with. They lie in the lowest layer of its root, where
//! whatever the root has at such a path counts; copies that the root has something else in the place of lie above the root.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sos_formats::manifest::Meta;
use sos_store::rootfs::RootTree;

use super::outcome::SandboxError;
use super::place::{place_of, place_of_dir};
use super::protocol::{Op, WireKind};
use super::step::StepSpec;
use super::worker::Worker;

/// Entries of all layers of one step.
const MAX_ENTRIES: usize = 1 << 20;

/// An overlay's note that a directory hides what the layers below have.
const OPAQUE: (&[u8], &[u8]) = (b"user.overlay.opaque", b"y");

/// What the layers hold.
#[derive(Default)]
pub(super) struct Below {
    /// By path, without a `/` at its beginning.
    entries: BTreeMap<Vec<u8>, Held>,
    /// Places, as those, below which nothing is a part of the root, whatever the step makes of it.
    copies: BTreeSet<Vec<u8>>,
}

/// One entry of the layer. It is of user 0 and has the epoch for its time.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Held {
    /// A directory with the usual mode.
    Dir,
    /// A copy of a file.
    File {
        /// Its mode in the layer.
        mode: u16,
        /// The file that it was copied from.
        from: PathBuf,
    },
    /// A symbolic link.
    Symlink {
        /// Where it leads.
        target: Vec<u8>,
    },
}

impl Below {
    /// Returns what the layer has at a path.
    pub(super) fn get(&self, path: &[u8]) -> Option<&Held> {
        self.entries.get(path)
    }

    /// Tells whether a path is that of a copy of the step's own.
    pub(super) fn is_whole_copy(&self, path: &[u8]) -> bool {
        self.copies.contains(path)
    }

    /// Tells whether a path is that of a copy of the step's own, or below it.
    pub(super) fn is_of_copy(&self, path: &[u8]) -> bool {
        let mut ends = (0..path.len()).filter(|&at| path[at] == b'/');
        !self.copies.is_empty()
            && (self.is_whole_copy(path) || ends.any(|end| self.copies.contains(&path[..end])))
    }
}

/// Where the files of a step go, and what it begins with.
pub(super) struct Places<'a> {
    /// An empty directory: the lowest layer.
    pub(super) below: &'a Path,
    /// The directory of the layer above the root, which may have mount points.
    pub(super) above: &'a Path,
    /// The root.
    pub(super) root: &'a RootTree,
}

/// Copies every file of the layers and copies of a step as files of user 0 with the usual modes, later ones in the place of earlier ones, in
/// the order of where they are shown. Returns what is there then.
///
/// They go below the root, so that what an earlier step made of such a file is what the next one finds. A copy must be there
/// whatever the root has in its place: then it goes above. Links of the root are followed to where a program of the step is led,
/// and directories that are missing there are made; nothing of the root is put aside for one.
pub(super) fn fill(
    worker: &mut Worker,
    places: &Places<'_>,
    spec: &StepSpec,
) -> Result<Below, SandboxError> {
    let mut below = Below::default();
    let (mut shown, mut above, covered) = (Vec::new(), Vec::new(), spec.covered());
    for layer in &spec.layers {
        let place = if layer.outside.is_dir() {
            place_of_dir(places.root, &layer.inside, &covered)?
        } else {
            place_of(places.root, &layer.inside, &covered)?
        };
        shown.push((place, layer));
    }
    for copy in &spec.copies {
        let place = place_of(places.root, &copy.inside, &covered)?;
        let inside = place.as_os_str().as_bytes();
        below.copies.insert(inside.to_vec());
        if places.root.get(inside)?.is_some() {
            above.push((place, copy));
        } else {
            shown.push((place, copy));
        }
    }
    shown.sort_by(|(a, _), (b, _)| a.cmp(b));
    worker.base(places.below)?;
    let mut filler = Filler {
        worker,
        epoch: spec.epoch,
        below,
        count: 0,
        is_above: false,
    };
    for (place, mount) in shown {
        if let Some(parent) = place.parent() {
            filler.parents(parent)?;
        }
        filler.copy(&mount.outside, &place)?;
    }
    filler.worker.ask(&Op::Flush)?;
    if !above.is_empty() {
        filler.worker.base(places.above)?;
        filler.is_above = true;
        for (place, copy) in above {
            filler.parents_above(places.root, place.as_os_str().as_bytes())?;
            filler.copy(&copy.outside, &place)?;
        }
        filler.worker.ask(&Op::Flush)?;
    }
    Ok(filler.below)
}

struct Filler<'a> {
    worker: &'a mut Worker,
    epoch: i64,
    below: Below,
    count: usize,
    /// What is made lies above the root.
    is_above: bool,
}

impl Filler<'_> {
    /// Makes the directories on the way to a place above the root as the root has them.
    fn parents_above(&mut self, root: &RootTree, place: &[u8]) -> Result<(), SandboxError> {
        let ends = (0..place.len()).filter(|&at| place[at] == b'/');
        for end in std::iter::once(0).chain(ends) {
            if let Some(dir) = root.get(&place[..end])? {
                self.worker
                    .put(&place[..end], dir.meta, WireKind::Dir, None)?;
            }
        }
        Ok(())
    }

    fn parents(&mut self, dir: &Path) -> Result<(), SandboxError> {
        let mut all: Vec<&Path> = dir.ancestors().collect();
        // The last one is the layer itself.
        all.pop();
        for dir in all.into_iter().rev() {
            self.dir(dir)?;
        }
        Ok(())
    }

    fn dir(&mut self, dir: &Path) -> Result<(), SandboxError> {
        match self.below.get(dir.as_os_str().as_bytes()) {
            Some(Held::Dir) => Ok(()),
            _ => self.put(dir, 0o755, WireKind::Dir, None, Held::Dir),
        }
    }

    fn copy(&mut self, from: &Path, to: &Path) -> Result<(), SandboxError> {
        let mut todo = vec![(from.to_owned(), to.to_owned())];
        while let Some((from, to)) = todo.pop() {
            let failed = |e: io::Error| SandboxError::io(format!("show {}", from.display()), e);
            self.count += 1;
            if self.count > MAX_ENTRIES {
                let why = format!("the layers of a step hold more than {MAX_ENTRIES} files");
                return Err(failed(io::Error::other(why)));
            }
            let meta = fs::symlink_metadata(&from).map_err(failed)?;
            if meta.is_dir() {
                self.dir(&to)?;
                let mut names = fs::read_dir(&from)
                    .and_then(|all| {
                        all.map(|e| e.map(|e| e.file_name()))
                            .collect::<Result<Vec<_>, _>>()
                    })
                    .map_err(failed)?;
                names.sort();
                let below = names.iter().rev();
                todo.extend(below.map(|name| (from.join(name), to.join(name))));
            } else if meta.is_symlink() {
                let target = fs::read_link(&from).map_err(failed)?;
                let target = target.as_os_str().as_bytes().to_vec();
                let held = Held::Symlink {
                    target: target.clone(),
                };
                self.put(&to, 0o777, WireKind::Symlink { target }, None, held)?;
            } else {
                let mode = if meta.permissions().mode() & 0o100 == 0 {
                    0o644
                } else {
                    0o755
                };
                let content = OwnedFd::from(fs::File::open(&from).map_err(failed)?);
                let held = Held::File { mode, from };
                self.put(&to, mode, WireKind::File, Some(&content), held)?;
            }
        }
        Ok(())
    }

    fn put(
        &mut self,
        path: &Path,
        mode: u16,
        kind: WireKind,
        content: Option<&OwnedFd>,
        held: Held,
    ) -> Result<(), SandboxError> {
        let mut meta = Meta {
            mode,
            mtime_secs: self.epoch,
            ..Meta::default()
        };
        if held == Held::Dir && self.is_above {
            // Of a copy that is a directory nothing else is to be seen.
            let (name, value) = OPAQUE;
            meta.xattrs.insert(name.to_vec(), value.to_vec());
        }
        let path = path.as_os_str().as_bytes();
        self.below.entries.insert(path.to_vec(), held);
        self.worker.put(path, &meta, kind, content)
    }
}
