//! The lowest layer of the root of a step: files that the step may change, and that are no part of the root that it began with.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sos_formats::manifest::Meta;

use super::outcome::SandboxError;
use super::protocol::{Op, WireKind};
use super::step::StepMount;
use super::worker::Worker;

/// Entries of all layers of one step.
const MAX_ENTRIES: usize = 1 << 20;

/// What the layer holds.
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

/// Copies every file of `layers` and `copies` below `dir`, an empty directory, as files of user 0 with the usual modes; later ones
/// take the place of earlier ones, in the order of where they are shown. Returns what is there then.
pub(super) fn fill(
    worker: &mut Worker,
    dir: &Path,
    layers: &[StepMount],
    copies: &[StepMount],
    epoch: i64,
) -> Result<Below, SandboxError> {
    worker.base(dir)?;
    let mut sorted: Vec<&StepMount> = layers.iter().chain(copies).collect();
    sorted.sort_by(|a, b| a.inside.cmp(&b.inside));
    let mut filler = Filler {
        worker,
        epoch,
        below: Below::default(),
        count: 0,
    };
    let copied = copies.iter().map(|copy| {
        let inside = copy.inside.strip_prefix("/").unwrap_or(&copy.inside);
        inside.as_os_str().as_bytes().to_vec()
    });
    filler.below.copies = copied.collect();
    for layer in sorted {
        let inside = layer.inside.strip_prefix("/").unwrap_or(&layer.inside);
        if let Some(parent) = inside.parent() {
            filler.parents(parent)?;
        }
        filler.copy(&layer.outside, inside)?;
    }
    let below = filler.below;
    worker.ask(&Op::Flush)?;
    Ok(below)
}

struct Filler<'a> {
    worker: &'a mut Worker,
    epoch: i64,
    below: Below,
    count: usize,
}

impl Filler<'_> {
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
        let meta = Meta {
            mode,
            mtime_secs: self.epoch,
            ..Meta::default()
        };
        let path = path.as_os_str().as_bytes();
        self.below.entries.insert(path.to_vec(), held);
        self.worker.put(path, &meta, kind, content)
    }
}
