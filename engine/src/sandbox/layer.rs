//! The lowest layer of the root of a step: files that the step may change, and that are no part of the root that it began with.

use std::collections::BTreeSet;
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

/// Copies every file of `layers` below `dir`, an empty directory, as files of user 0 with the usual modes; later ones take the
/// place of earlier ones, in the order of where they are shown.
pub(super) fn fill(
    worker: &mut Worker,
    dir: &Path,
    layers: &[StepMount],
    epoch: i64,
) -> Result<(), SandboxError> {
    worker.base(dir)?;
    let mut sorted: Vec<&StepMount> = layers.iter().collect();
    sorted.sort_by(|a, b| a.inside.cmp(&b.inside));
    let mut filler = Filler {
        worker,
        epoch,
        made: BTreeSet::new(),
        count: 0,
    };
    for layer in sorted {
        let inside = layer.inside.strip_prefix("/").unwrap_or(&layer.inside);
        if let Some(parent) = inside.parent() {
            filler.parents(parent)?;
        }
        filler.copy(&layer.outside, inside)?;
    }
    worker.ask(&Op::Flush)
}

struct Filler<'a> {
    worker: &'a mut Worker,
    epoch: i64,
    made: BTreeSet<PathBuf>,
    count: usize,
}

impl Filler<'_> {
    fn parents(&mut self, dir: &Path) -> Result<(), SandboxError> {
        let mut all: Vec<&Path> = dir.ancestors().collect();
        // The last one is the layer itself.
        all.pop();
        for dir in all.into_iter().rev() {
            if self.made.insert(dir.to_owned()) {
                self.put(dir, 0o755, WireKind::Dir, None)?;
            }
        }
        Ok(())
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
                if self.made.insert(to.clone()) {
                    self.put(&to, 0o755, WireKind::Dir, None)?;
                }
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
                self.put(&to, 0o777, WireKind::Symlink { target }, None)?;
            } else {
                let mode = if meta.permissions().mode() & 0o100 == 0 {
                    0o644
                } else {
                    0o755
                };
                let content = OwnedFd::from(fs::File::open(&from).map_err(failed)?);
                self.put(&to, mode, WireKind::File, Some(&content))?;
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
    ) -> Result<(), SandboxError> {
        let meta = Meta {
            mode,
            mtime_secs: self.epoch,
            ..Meta::default()
        };
        self.worker
            .put(path.as_os_str().as_bytes(), &meta, kind, content)
    }
}
