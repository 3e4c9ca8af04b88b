//! What a step changed, put on top of the manifest that it started from.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::Path;

use sos_formats::hash::Blake3;
use sos_formats::manifest::Meta;
use sos_store::Store;
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};

use super::outcome::SandboxError;
use super::protocol::{Captured, WireKind};
use super::worker::{Worker, from_wire};

/// What becomes of times: those of the run and those after the epoch are the epoch.
pub(super) struct Times {
    /// The epoch of the step.
    pub(super) epoch: i64,
    /// Seconds of the clock while the step ran.
    pub(super) run: RangeInclusive<i64>,
}

impl Times {
    /// Returns the seconds that an entry gets.
    fn of(&self, secs: i64) -> i64 {
        // An epoch may lie after the clock of this machine. What is between the two and not of the run, was set on
        // purpose (by an archive, by `touch`), and is the same on every machine.
        if self.run.contains(&secs) {
            self.epoch
        } else {
            secs.min(self.epoch)
        }
    }
}

/// Applies the upper layer at `upper` to the manifest `parent` and returns the new manifest with what was left out.
pub(super) fn apply(
    store: &Store,
    parent: &Blake3,
    worker: &mut Worker,
    upper: &Path,
    times: Times,
) -> Result<(Blake3, Vec<String>), SandboxError> {
    let mut layer = Layer {
        store,
        tree: RootTree::load(store, parent)?,
        times,
        links: BTreeMap::new(),
        notes: Vec::new(),
    };
    worker.capture(upper, &mut |found, content| layer.add(found, content))?;
    let root = layer.tree.finish(store)?;
    Ok((root, layer.notes))
}

struct Layer<'a> {
    store: &'a Store,
    tree: RootTree,
    times: Times,
    /// Content of files with several names, by their inode number.
    links: BTreeMap<u64, (u64, Blake3)>,
    notes: Vec<String>,
}

impl Layer<'_> {
    fn add(&mut self, found: Captured, content: Option<OwnedFd>) -> Result<(), SandboxError> {
        match found {
            Captured::Whiteout { path } => {
                // A whiteout of something that only was a mount point removes nothing.
                self.tree.remove(&path)?;
                Ok(())
            }
            Captured::Skipped { path, what } => {
                let path = String::from_utf8_lossy(&path);
                self.notes
                    .push(format!("/{path} is a {what} and was left out"));
                Ok(())
            }
            Captured::Entry {
                path,
                meta,
                kind,
                opaque,
                inode,
            } => {
                let meta = self.clamp(&path, from_wire(meta)?)?;
                if opaque {
                    self.tree.remove(&path)?;
                }
                self.entry(&path, meta, kind, inode, content)
            }
            Captured::End | Captured::Failed(_) => Err(SandboxError::Protocol),
        }
    }

    /// A time of the run becomes the epoch; one that was there before or that the step set to the past stays.
    fn clamp(&self, path: &[u8], mut meta: Meta) -> Result<Meta, SandboxError> {
        let before = self.tree.get(path)?;
        let untouched = before.is_some_and(|old| {
            (old.meta.mtime_secs, old.meta.mtime_nsecs) == (meta.mtime_secs, meta.mtime_nsecs)
        });
        if !untouched {
            meta.mtime_secs = self.times.of(meta.mtime_secs);
            meta.mtime_nsecs = 0;
        }
        Ok(meta)
    }

    fn entry(
        &mut self,
        path: &[u8],
        meta: Meta,
        kind: WireKind,
        inode: Option<u64>,
        content: Option<OwnedFd>,
    ) -> Result<(), SandboxError> {
        let kind = match kind {
            WireKind::Dir if path.is_empty() => {
                self.tree.set_meta(path, meta)?;
                return Ok(());
            }
            WireKind::Dir => SpecKind::Dir,
            WireKind::Symlink { target } => SpecKind::Symlink { target },
            WireKind::Fifo => SpecKind::Fifo,
            WireKind::File => {
                let (size, blob) = self.content(inode, content)?;
                if inode.is_none() && self.is_other_name(path, size, &blob)? {
                    self.tree.set_meta(path, meta)?;
                    return Ok(());
                }
                SpecKind::File {
                    size,
                    blob,
                    hardlink: inode.map(group),
                }
            }
        };
        self.tree.insert(path, FileSpec { meta, kind })?;
        Ok(())
    }

    fn content(
        &mut self,
        inode: Option<u64>,
        content: Option<OwnedFd>,
    ) -> Result<(u64, Blake3), SandboxError> {
        match (content, inode) {
            (Some(content), inode) => {
                let (blob, size) = self.store.put_blob(&mut File::from(content))?;
                if let Some(inode) = inode {
                    self.links.insert(inode, (size, blob));
                }
                Ok((size, blob))
            }
            (None, Some(inode)) => self
                .links
                .get(&inode)
                .copied()
                .ok_or(SandboxError::Protocol),
            (None, None) => Err(SandboxError::Protocol),
        }
    }

    /// Tells whether this is one name of a file with several, copied up with its content unchanged: the overlay
    /// separates it from the others, a real filesystem would not, and new metadata belongs to all of them.
    fn is_other_name(&self, path: &[u8], size: u64, blob: &Blake3) -> Result<bool, SandboxError> {
        let old = self.tree.get(path)?.map(|old| old.kind);
        Ok(matches!(
            old,
            Some(KindView::File { size: s, blob: b, hardlink: Some(_) }) if s == size && b == *blob
        ))
    }
}

/// Any value serves that differs between files; the manifest finds the lasting one.
fn group(inode: u64) -> [u8; 16] {
    let mut group = [0xff; 16];
    group[..8].copy_from_slice(&inode.to_le_bytes());
    group
}

#[cfg(test)]
mod tests {
    use super::Times;

    #[test]
    fn times_of_the_run_become_the_epoch_whatever_the_clock_says() {
        let (past, future) = (100, 4_000);
        let check = |epoch, secs, expect| {
            let run = 999..=1_010;
            assert_eq!(Times { epoch, run }.of(secs), expect, "{epoch} {secs}");
        };
        check(past, 50, 50);
        check(past, 1_005, past);
        check(past, 5_000, past);
        check(future, 50, 50);
        check(future, 998, 998);
        check(future, 999, future);
        check(future, 1_010, future);
        check(future, 2_000, 2_000);
        check(future, 5_000, future);
    }
}
