//! What a step changed, put on top of the manifest that it started from.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::path::Path;

use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_formats::manifest::Meta;
use sos_store::Store;
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};

use super::devices::{self, Sockets};
use super::layer::{Below, Held};
use super::outcome::SandboxError;
use super::protocol::{Captured, Op, WireKind};
use super::worker::{Worker, from_wire};

/// What becomes of times: those of the run and those after the epoch are the epoch, and if it is so, all others too.
pub(super) struct Times {
    /// The epoch of the step.
    pub(super) epoch: i64,
    /// Seconds of the clock while the step ran.
    pub(super) run: RangeInclusive<i64>,
    /// No other time stays.
    pub(super) all: bool,
}

impl Times {
    /// Returns the seconds that an entry gets.
    fn of(&self, secs: i64) -> i64 {
        // An epoch may lie after the clock of this machine. What is between the two and not of the run, was set on
        // purpose (by an archive, by `touch`), and is the same on every machine.
        if self.all || self.run.contains(&secs) {
            self.epoch
        } else {
            secs.min(self.epoch)
        }
    }
}

/// Applies the upper layer at `upper` to the manifest `parent` and returns the new manifest with what was left out. What lay
/// `below` the root counts where the step made something else of it, and copies that it was lent count nowhere.
pub(super) fn apply(
    store: &Store,
    parent: &Blake3,
    worker: &mut Worker,
    upper: &Path,
    below: &Below,
    times: Times,
) -> Result<(Blake3, Vec<String>), SandboxError> {
    let before = RootTree::load(store, parent)?;
    let mut layer = Layer {
        store,
        tree: before.clone(),
        times,
        below,
        lent: Vec::new(),
        pending: BTreeMap::new(),
        links: BTreeMap::new(),
        separated: BTreeMap::new(),
        sockets: Sockets::new(),
        notes: Vec::new(),
    };
    worker.capture(upper, &mut |found, content| layer.add(found, content))?;
    // The layer is kept for the next step, where these would be names of files that are of the root.
    if !layer.lent.is_empty() {
        worker.base(upper)?;
        for path in std::mem::take(&mut layer.lent) {
            worker.tell(&Op::Remove { path }, &[])?;
        }
        worker.ask(&Op::Flush)?;
    }
    layer.join()?;
    layer.put_devices(&before)?;
    let root = layer.tree.finish(store)?;
    Ok((root, layer.notes))
}

struct Layer<'a> {
    store: &'a Store,
    tree: RootTree,
    times: Times,
    below: &'a Below,
    /// Copies that the step was lent and has changed.
    lent: Vec<Bytes>,
    /// Directories that are as they are below the root: they count when something in them does.
    pending: BTreeMap<Bytes, FileSpec>,
    /// Content of files with several names, by their inode number.
    links: BTreeMap<u64, (u64, Blake3)>,
    /// Names of files with several that the overlay separated from the others, by the group that they were in.
    separated: BTreeMap<[u8; 16], Vec<Separated>>,
    /// Sockets: some of them stand for devices.
    sockets: Sockets,
    notes: Vec<String>,
}

/// One name of a file with several, as a file of its own with the same content.
struct Separated {
    path: Bytes,
    file: FileSpec,
    /// The time as the step left it.
    time: (i64, u32),
    /// That is the time that the file had before.
    untouched: bool,
}

impl Layer<'_> {
    fn add(&mut self, found: Captured, content: Option<OwnedFd>) -> Result<(), SandboxError> {
        match found {
            Captured::Whiteout { path } if self.below.is_of_copy(&path) => Ok(()),
            Captured::Whiteout { path } => {
                // A whiteout of something that only was a mount point removes nothing.
                self.tree.remove(&path)?;
                Ok(())
            }
            Captured::Entry {
                path,
                meta,
                kind,
                opaque,
                inode,
            } => {
                if self.below.is_of_copy(&path) {
                    // Another name of it may be a file of the root.
                    if content.is_some() && inode.is_some() {
                        self.content(inode, content)?;
                    }
                    if self.below.is_whole_copy(&path) {
                        self.lent.push(path);
                    }
                    return Ok(());
                }
                let meta = from_wire(meta)?;
                if matches!(kind, WireKind::Socket) {
                    // What was there before is gone all the same.
                    self.tree.remove(&path)?;
                    self.sockets.insert(path, meta);
                    return Ok(());
                }
                if opaque {
                    let before = self.before(&path)?;
                    self.tree.remove(&path)?;
                    return self.entry(&path, meta, before, kind, inode, content, true);
                }
                let before = self.before(&path)?;
                self.entry(&path, meta, before, kind, inode, content, false)
            }
            Captured::End | Captured::Failed(_) => Err(SandboxError::Protocol),
        }
    }

    /// The time that the path had before the step.
    fn before(&self, path: &[u8]) -> Result<Option<(i64, u32)>, SandboxError> {
        Ok(self.tree.get(path)?.map(|old| time(old.meta)))
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of one message, used once"
    )]
    fn entry(
        &mut self,
        path: &[u8],
        mut meta: Meta,
        before: Option<(i64, u32)>,
        kind: WireKind,
        inode: Option<u64>,
        content: Option<OwnedFd>,
        is_new: bool,
    ) -> Result<(), SandboxError> {
        let left = time(&meta);
        let untouched = before == Some(left);
        // A time of the run becomes the epoch; one that was there before or that the step set to the past stays.
        if !untouched {
            meta.mtime_secs = self.times.of(meta.mtime_secs);
            meta.mtime_nsecs = 0;
        }
        let kind = match kind {
            WireKind::Dir if path.is_empty() => {
                self.tree.set_meta(path, meta)?;
                return Ok(());
            }
            WireKind::Dir => {
                let kind = SpecKind::Dir;
                if !is_new && self.is_as_below(path, &meta, &kind)? {
                    self.pending.insert(path.to_vec(), FileSpec { meta, kind });
                    return Ok(());
                }
                kind
            }
            WireKind::Symlink { target } => SpecKind::Symlink { target },
            WireKind::Fifo => SpecKind::Fifo,
            WireKind::Socket => return Err(SandboxError::Protocol),
            WireKind::File => {
                let (size, blob) = self.content(inode, content)?;
                let kind = SpecKind::File {
                    size,
                    blob,
                    hardlink: inode.map(group),
                };
                if inode.is_none()
                    && let Some(group) = self.group_of(path, size, &blob)?
                {
                    self.separated.entry(group).or_default().push(Separated {
                        path: path.to_vec(),
                        file: FileSpec { meta, kind },
                        time: left,
                        untouched,
                    });
                    return Ok(());
                }
                kind
            }
        };
        if kind != SpecKind::Dir && self.is_as_below(path, &meta, &kind)? {
            return Ok(());
        }
        self.insert(path, FileSpec { meta, kind })
    }

    /// Inserts an entry with the directories that it makes count.
    fn insert(&mut self, path: &[u8], spec: FileSpec) -> Result<(), SandboxError> {
        if !self.pending.is_empty() {
            for end in (0..path.len()).filter(|&at| path[at] == b'/') {
                if let Some(dir) = self.pending.remove(&path[..end]) {
                    self.tree.insert(&path[..end], dir)?;
                }
            }
        }
        self.tree.insert(path, spec)?;
        Ok(())
    }

    /// Tells whether an entry, its time settled, is no other than that below the root, which shows again in the next step that
    /// is given it. A step that sets the times of all files has copied up all of them.
    fn is_as_below(&self, path: &[u8], meta: &Meta, kind: &SpecKind) -> Result<bool, SandboxError> {
        let Some(held) = self.below.get(path) else {
            return Ok(false);
        };
        let of_layer = |mode| Meta {
            mode,
            mtime_secs: self.times.epoch,
            ..Meta::default()
        };
        let is_same = match (held, kind) {
            (Held::Dir, SpecKind::Dir) => *meta == of_layer(0o755),
            (Held::Symlink { target }, SpecKind::Symlink { target: now }) => {
                target == now && *meta == of_layer(0o777)
            }
            (
                Held::File { mode, from },
                SpecKind::File {
                    size,
                    blob,
                    hardlink: None,
                },
            ) => *meta == of_layer(*mode) && self.is_content(from, *size, blob)?,
            _ => false,
        };
        Ok(is_same && self.tree.get(path)?.is_none())
    }

    /// Tells whether a file has this content.
    fn is_content(&self, path: &Path, size: u64, blob: &Blake3) -> Result<bool, SandboxError> {
        let failed = |e| SandboxError::io(format!("read {}", path.display()), e);
        let mut file = File::open(path).map_err(failed)?;
        let same_size = file.metadata().map_err(failed)?.len() == size;
        Ok(same_size && self.store.put_blob(&mut file)?.0 == *blob)
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

    /// Returns the group of a name of a file with several whose content is what it was.
    fn group_of(
        &self,
        path: &[u8],
        size: u64,
        blob: &Blake3,
    ) -> Result<Option<[u8; 16]>, SandboxError> {
        let old = self.tree.get(path)?.map(|old| old.kind);
        Ok(match old {
            Some(KindView::File {
                size: old_size,
                blob: old_blob,
                hardlink,
            }) if old_size == size && old_blob == *blob => hardlink,
            _ => None,
        })
    }

    /// Puts the devices where their sockets are. No manifest holds other sockets.
    fn put_devices(&mut self, before: &RootTree) -> Result<(), SandboxError> {
        let sockets = std::mem::take(&mut self.sockets);
        let mut found = devices::stand_for(&sockets, before, &self.tree)?;
        for (path, left) in sockets {
            let Some(mut device) = found.remove(&path) else {
                let path = String::from_utf8_lossy(&path);
                self.notes
                    .push(format!("/{path} is a socket and was left out"));
                continue;
            };
            device.meta = devices::meta_of(&device.meta, &left, |secs| self.times.of(secs));
            self.insert(&path, device)?;
        }
        Ok(())
    }

    /// Puts names together again that the overlay separated when it copied them up. A real filesystem would have kept them
    /// together, unless the step replaced some of them with new files that happen to hold the same.
    fn join(&mut self) -> Result<(), SandboxError> {
        for names in std::mem::take(&mut self.separated).into_values() {
            let Some(first) = names.first() else { continue };
            let alike = names
                .iter()
                .all(|name| name.file.meta == first.file.meta && name.time == first.time);
            // New metadata of some names belongs to all of them. A new time belongs to none but new files, if not all have it.
            let whole =
                alike && (first.untouched || self.tree.names_of(&first.path)?.len() == names.len());
            if whole {
                self.tree.set_meta(&first.path, first.file.meta.clone())?;
                continue;
            }
            for name in names {
                self.tree.insert(&name.path, name.file)?;
            }
        }
        Ok(())
    }
}

fn time(meta: &Meta) -> (i64, u32) {
    (meta.mtime_secs, meta.mtime_nsecs)
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
            let times = |all| Times {
                epoch,
                run: run.clone(),
                all,
            };
            assert_eq!(times(false).of(secs), expect, "{epoch} {secs}");
            assert_eq!(times(true).of(secs), epoch, "{epoch} {secs}");
        };
        check(past, 50, 50);
        check(past, -50, -50);
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
