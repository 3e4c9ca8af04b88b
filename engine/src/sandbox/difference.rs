//! The way from one rootfs manifest to another as operations on files; equal directories are never looked into.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind, Meta, Node, Root};
use sos_store::Store;

use super::ids::STEP_IDS;
use super::outcome::SandboxError;
use super::protocol::{Op, WireKind};
use super::worker::Worker;

type Group = [u8; 16];

/// Counts the entries that differ between two manifests, and stops counting above `limit`.
pub(super) fn cost(
    store: &Store,
    old: Option<&Root>,
    new: &Root,
    limit: u64,
) -> Result<u64, SandboxError> {
    let mut counter = Counter {
        store,
        count: 0,
        limit,
    };
    counter.dirs(old.map(|r| &r.node), Some(&new.node))?;
    Ok(counter.count)
}

struct Counter<'a> {
    store: &'a Store,
    count: u64,
    limit: u64,
}

impl Counter<'_> {
    fn dirs(&mut self, old: Option<&Blake3>, new: Option<&Blake3>) -> Result<(), SandboxError> {
        if old == new || self.count > self.limit {
            return Ok(());
        }
        let (old, new) = (node(self.store, old)?, node(self.store, new)?);
        for (old, new) in pairs(&old, &new) {
            if old != new {
                self.count += 1;
            }
            self.dirs(old.and_then(dir_of), new.and_then(dir_of))?;
        }
        Ok(())
    }
}

fn node(store: &Store, id: Option<&Blake3>) -> Result<Arc<Node>, SandboxError> {
    Ok(match id {
        Some(id) => store.read_node(id)?,
        None => Arc::default(),
    })
}

fn dir_of(entry: &Entry) -> Option<&Blake3> {
    match &entry.kind {
        Kind::Dir { node } => Some(node),
        _ => None,
    }
}

/// Puts the entries of two nodes side by side by name.
fn pairs<'a>(old: &'a Node, new: &'a Node) -> Vec<(Option<&'a Entry>, Option<&'a Entry>)> {
    let (mut left, mut right) = (old.entries.iter().peekable(), new.entries.iter().peekable());
    let mut all = Vec::with_capacity(old.entries.len().max(new.entries.len()));
    loop {
        let order = match (left.peek(), right.peek()) {
            (Some(old), Some(new)) => old.name.cmp(&new.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return all,
        };
        all.push((
            left.next_if(|_| order.is_le()),
            right.next_if(|_| order.is_ge()),
        ));
    }
}

/// Changes the base directory of `worker` from the manifest `old` (`None`: it is empty) to `new`. `left` is the upper layer of the step
/// that made `new` of `old`, and not wanted any more: its new files are moved, which is much cheaper than to write them again.
pub(super) fn apply(
    store: &Store,
    worker: &mut Worker,
    old: Option<&Root>,
    new: &Root,
    left: Option<&Path>,
    check: &mut dyn FnMut() -> Result<(), SandboxError>,
) -> Result<(), SandboxError> {
    let mut mover = Mover {
        store,
        worker,
        check,
        groups: BTreeSet::new(),
        leaders: BTreeMap::new(),
        fresh: old.is_none(),
        left: left.is_some(),
    };
    if let Some(upper) = left {
        let upper = upper.to_owned();
        mover.worker.tell(&Op::Left { upper }, &[])?;
    }
    check_owner(b"", &new.meta)?;
    mover.worker.put(b"", &new.meta, WireKind::Dir, None)?;
    mover.dirs(&mut Vec::new(), old.map(|r| &r.node), Some(&new.node))?;
    if !mover.groups.is_empty() {
        let groups = std::mem::take(&mut mover.groups);
        mover.relink(new, &groups)?;
    }
    mover.worker.ask(&Op::Flush)
}

/// Names an owner that the namespace of steps does not have; the kernel would only say that something is invalid.
fn check_owner(path: &[u8], meta: &Meta) -> Result<(), SandboxError> {
    if meta.uid < STEP_IDS && meta.gid < STEP_IDS {
        return Ok(());
    }
    let message = format!(
        "`/{}` belongs to {}:{}, and a step has only the ids 0 to {}",
        String::from_utf8_lossy(path),
        meta.uid,
        meta.gid,
        STEP_IDS - 1
    );
    Err(SandboxError::Machine(Box::new(
        Diagnostic::error("build-owner-out-of-range", Class::Recipe, message)
            .help("give it another owner where the root filesystem is made"),
    )))
}

struct Mover<'a> {
    store: &'a Store,
    worker: &'a mut Worker,
    check: &'a mut dyn FnMut() -> Result<(), SandboxError>,
    /// Hard-link groups with a new or changed name: their other names may be in directories that are not looked into.
    groups: BTreeSet<Group>,
    /// First names of groups in a fresh tree, where all names are seen.
    leaders: BTreeMap<Group, Vec<u8>>,
    fresh: bool,
    /// There is the upper layer of the step that made the new manifest of the old one.
    left: bool,
}

impl Mover<'_> {
    fn dirs(
        &mut self,
        path: &mut Vec<u8>,
        old: Option<&Blake3>,
        new: Option<&Blake3>,
    ) -> Result<(), SandboxError> {
        if old == new {
            return Ok(());
        }
        (self.check)()?;
        let (old, new) = (node(self.store, old)?, node(self.store, new)?);
        for (old, new) in pairs(&old, &new) {
            if old == new {
                continue;
            }
            let Some(name) = new.or(old).map(|e| e.name.as_slice()) else {
                continue;
            };
            let length = path.len();
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name);
            match new {
                None => self.worker.tell(&Op::Remove { path: path.clone() }, &[])?,
                Some(new) => {
                    self.entry(path, old, new)?;
                    if let Some(below) = dir_of(new) {
                        self.dirs(path, old.and_then(dir_of), Some(below))?;
                    }
                }
            }
            path.truncate(length);
        }
        Ok(())
    }

    fn entry(&mut self, path: &[u8], old: Option<&Entry>, new: &Entry) -> Result<(), SandboxError> {
        check_owner(path, &new.meta)?;
        if let Kind::File {
            blob,
            hardlink: Some(group),
            ..
        } = &new.kind
        {
            if !self.fresh {
                // Sorted out at the end, when all other names are known.
                self.groups.insert(*group);
                return Ok(());
            }
            if let Some(leader) = self.leaders.get(group) {
                let op = Op::Link {
                    existing: leader.clone(),
                    new: path.to_vec(),
                };
                return self.worker.tell(&op, &[]);
            }
            self.leaders.insert(*group, path.to_vec());
            return self.file(path, &new.meta, blob);
        }
        match &new.kind {
            // Only the step can have made what was not there before. A file that was there may have changed because another one did,
            // as the last name of a file with several, and be none of its own layer.
            Kind::File { .. } if self.left && old.is_none() => self.worker.adopt(path, &new.meta),
            // Its content is there.
            Kind::File { .. } if old.is_some_and(|old| old.kind == new.kind) => {
                self.worker.meta(path, &new.meta)
            }
            Kind::File { blob, .. } => self.file(path, &new.meta, blob),
            Kind::Dir { .. } => {
                if old.is_some_and(|old| dir_of(old).is_none()) {
                    self.worker.tell(
                        &Op::Remove {
                            path: path.to_vec(),
                        },
                        &[],
                    )?;
                }
                self.worker.put(path, &new.meta, WireKind::Dir, None)
            }
            Kind::Symlink { target } => {
                let target = target.clone();
                self.worker
                    .put(path, &new.meta, WireKind::Symlink { target }, None)
            }
            Kind::Fifo => self.worker.put(path, &new.meta, WireKind::Fifo, None),
            // Nobody may make devices here: see `devices.rs`.
            Kind::CharDev { .. } | Kind::BlockDev { .. } => {
                // What a device has of them cannot be set on a socket; the manifest keeps them.
                let meta = Meta {
                    xattrs: BTreeMap::new(),
                    ..new.meta.clone()
                };
                self.worker.put(path, &meta, WireKind::Socket, None)
            }
        }
    }

    fn file(&mut self, path: &[u8], meta: &Meta, blob: &Blake3) -> Result<(), SandboxError> {
        let content = OwnedFd::from(self.store.open_blob(blob)?);
        self.worker.put(path, meta, WireKind::File, Some(&content))
    }

    /// Makes all names of these groups anew; directories that only hold such a name get their time back.
    fn relink(&mut self, new: &Root, groups: &BTreeSet<Group>) -> Result<(), SandboxError> {
        let mut pending: Vec<(Vec<u8>, Meta, Blake3)> =
            vec![(Vec::new(), new.meta.clone(), new.node)];
        let mut leaders: BTreeMap<Group, Vec<u8>> = BTreeMap::new();
        while let Some((dir, meta, id)) = pending.pop() {
            if !self.store.below(&id)?.may_have(groups) {
                continue;
            }
            let mut touched = false;
            for entry in &self.store.read_node(&id)?.entries {
                let mut path = dir.clone();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(&entry.name);
                match &entry.kind {
                    Kind::Dir { node } => pending.push((path, entry.meta.clone(), *node)),
                    Kind::File {
                        blob,
                        hardlink: Some(group),
                        ..
                    } if groups.contains(group) => {
                        touched = true;
                        if let Some(leader) = leaders.get(group) {
                            let op = Op::Link {
                                existing: leader.clone(),
                                new: path,
                            };
                            self.worker.tell(&op, &[])?;
                        } else {
                            self.file(&path, &entry.meta, blob)?;
                            leaders.insert(*group, path);
                        }
                    }
                    _ => {}
                }
            }
            if touched {
                self.worker.put(&dir, &meta, WireKind::Dir, None)?;
            }
        }
        Ok(())
    }
}
