//! Files of `cas/` and `man/`: which are needed, and the deletion of the others.
//!
//! A process that puts a blob or a node pins it first and looks whether it is there second. Here a file is moved aside
//! first and the pins are read second. So either the pin is seen and the file is put back, or the file is missed and
//! written anew; and a pin that is gone with its session was followed by a registration, which is looked for third.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rusqlite::TransactionBehavior;
use sos_formats::hash::Blake3;
use sos_formats::manifest::Kind;

use super::{GcReport, Progress};
use crate::cas::{ASIDE, aside, put_back};
use crate::db::{self, GcConnection};
use crate::error::{IoContext, Result, StoreError};
use crate::fault;
use crate::objects::PathInfo;
use crate::session::PINS;
use crate::store::Store;
use crate::temp::list_dir;

/// Everything that registered rootfs objects need, and what sessions have pinned.
pub(super) struct Files<'a> {
    store: &'a Store,
    roots: BTreeSet<Blake3>,
    /// Roots and nodes.
    nodes: BTreeSet<Blake3>,
    blobs: BTreeSet<Blake3>,
    pins: BTreeSet<Blake3>,
    /// How far each file of pins was read.
    pins_read: BTreeMap<PathBuf, u64>,
}

/// A file that may go.
struct Candidate {
    path: PathBuf,
    hash: Blake3,
    bytes: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Area {
    Blobs,
    Nodes,
}

impl<'a> Files<'a> {
    fn new(store: &'a Store) -> Self {
        Self {
            store,
            roots: BTreeSet::new(),
            nodes: BTreeSet::new(),
            blobs: BTreeSet::new(),
            pins: BTreeSet::new(),
            pins_read: BTreeMap::new(),
        }
    }

    /// Walks all registered manifests.
    pub(super) fn live(store: &'a Store, database: &mut GcConnection) -> Result<Self> {
        let mut files = Self::new(store);
        // What a killed collection had in its hands goes back first: a live manifest may need it.
        files.restore_all()?;
        files.add_roots(db::all_roots(&database.0)?)?;
        Ok(files)
    }

    /// The bytes on the disk that would become free without the given objects.
    pub(super) fn would_free(store: &'a Store, dead: &[PathInfo]) -> Result<u64> {
        let mut files = Self::new(store);
        // Two objects of different names may share a root.
        let dead_paths: BTreeSet<_> = dead.iter().map(|info| &info.path).collect();
        let kept = store
            .list()?
            .into_iter()
            .filter(|info| !dead_paths.contains(&info.path))
            .filter_map(|info| info.root);
        let kept: BTreeSet<Blake3> = kept.collect();
        if let Err(err) = files.add_roots(kept) {
            return match err {
                StoreError::MissingNode { .. } | StoreError::Corrupt { .. } => Ok(0),
                other => Err(other),
            };
        }
        files.read_pins()?;
        let mut links: BTreeMap<u64, u64> = BTreeMap::new();
        for info in dead {
            for entry in walkdir::WalkDir::new(store.physical(&info.path))
                .into_iter()
                .flatten()
            {
                if entry.file_type().is_file()
                    && let Ok(meta) = entry.metadata()
                {
                    *links.entry(meta.ino()).or_default() += 1;
                }
            }
        }
        let mut bytes = 0u64;
        for area in [Area::Blobs, Area::Nodes] {
            for shard in list_dir(&files.directory(area))? {
                for path in list_dir(&shard)? {
                    let (Some(hash), Ok(meta)) = (hash_of(&path), std::fs::symlink_metadata(&path))
                    else {
                        continue;
                    };
                    let dying = links.get(&meta.ino()).copied().unwrap_or(0);
                    if !files.is_needed(area, &hash) && meta.nlink() <= dying + 1 {
                        bytes += meta.blocks() * 512;
                    }
                }
            }
        }
        Ok(bytes)
    }

    fn directory(&self, area: Area) -> PathBuf {
        match area {
            Area::Blobs => self.store.cas().dir().to_owned(),
            Area::Nodes => self.store.root().join("man"),
        }
    }

    fn is_needed(&self, area: Area, hash: &Blake3) -> bool {
        let live = match area {
            Area::Blobs => &self.blobs,
            Area::Nodes => &self.nodes,
        };
        live.contains(hash) || self.pins.contains(hash)
    }

    /// Adds what manifests need; those that were walked before are skipped.
    fn add_roots(&mut self, roots: BTreeSet<Blake3>) -> Result<()> {
        for root in roots {
            if !self.roots.insert(root) {
                continue;
            }
            let top = self.store.get_root(&root).inspect_err(|_| {
                self.roots.remove(&root);
            })?;
            self.nodes.insert(root);
            let mut pending = vec![top.node];
            while let Some(id) = pending.pop() {
                if !self.nodes.insert(id) {
                    continue;
                }
                for entry in self.store.get_node(&id)?.entries {
                    match entry.kind {
                        Kind::File { blob, .. } => drop(self.blobs.insert(blob)),
                        Kind::Dir { node } => pending.push(node),
                        _ => {}
                    }
                }
            }
        }
        Ok(())
    }

    /// Deletes the rows of nodes that no object has: from then on they must be looked at again before use.
    pub(super) fn forget_nodes(&mut self, database: &mut GcConnection) -> Result<()> {
        let transaction = database
            .0
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        // Objects that were registered since the walk; nobody can register another one now.
        self.add_roots(db::all_roots(&transaction)?)?;
        let dead: Vec<Blake3> = db::all_nodes(&transaction)?
            .into_iter()
            .filter(|node| !self.nodes.contains(node))
            .collect();
        db::delete_nodes(&transaction, &dead)?;
        transaction.commit()?;
        Ok(())
    }

    /// Deletes what is not needed, a directory of files at a time.
    pub(super) fn delete(
        &mut self,
        database: &mut GcConnection,
        report: &mut GcReport,
        progress: Progress<'_>,
    ) -> Result<()> {
        self.read_pins()?;
        // Nodes before blobs: a node whose blobs are gone would be worse than the other way round.
        for area in [Area::Nodes, Area::Blobs] {
            for shard in list_dir(&self.directory(area))? {
                self.delete_in(area, &shard, database, report)?;
                progress(report.freed_bytes);
            }
        }
        Ok(())
    }

    fn delete_in(
        &mut self,
        area: Area,
        shard: &Path,
        database: &mut GcConnection,
        report: &mut GcReport,
    ) -> Result<()> {
        let mut moved = Vec::new();
        for path in list_dir(shard)? {
            let Some(hash) = hash_of(&path) else { continue };
            if self.is_needed(area, &hash) {
                continue;
            }
            let Ok(meta) = std::fs::symlink_metadata(&path) else {
                continue;
            };
            if meta.nlink() > 1 {
                continue;
            }
            match std::fs::rename(&path, aside(&path)) {
                Ok(()) => moved.push(Candidate {
                    path,
                    hash,
                    bytes: meta.blocks() * 512,
                }),
                Err(err) => report.problems.push(format!("{}: {err}", path.display())),
            }
        }
        if moved.is_empty() {
            return Ok(());
        }
        fault::point("gc.files-aside");
        // The order matters, see the module text.
        self.read_pins()?;
        let registered = db::all_roots(&database.0)?;
        if !registered.is_subset(&self.roots) {
            for candidate in moved {
                put_back(&candidate.path).at("put back", &candidate.path)?;
            }
            self.add_roots(registered)?;
            return self.delete_in(area, shard, database, report);
        }
        for candidate in moved {
            let held = aside(&candidate.path);
            // Linked into a tree in the meantime: it is worth keeping for the sharing.
            let linked = std::fs::symlink_metadata(&held).is_ok_and(|meta| meta.nlink() > 1);
            if linked || self.is_needed(area, &candidate.hash) {
                put_back(&candidate.path).at("put back", &candidate.path)?;
                continue;
            }
            match std::fs::remove_file(&held) {
                Ok(()) => {
                    report.freed_bytes += candidate.bytes;
                    report.removed_files += 1;
                }
                // A reader that has pinned it since took it back.
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
                Err(err) => report.problems.push(format!("{}: {err}", held.display())),
            }
        }
        Ok(())
    }

    /// Puts files back that a killed collection had moved aside.
    fn restore_all(&self) -> Result<()> {
        for area in [Area::Blobs, Area::Nodes] {
            for shard in list_dir(&self.directory(area))? {
                for path in list_dir(&shard)? {
                    let text = path.to_string_lossy();
                    if let Some(original) = text.strip_suffix(ASIDE) {
                        put_back(Path::new(original)).at("put back", original)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads what sessions have pinned since the last time.
    fn read_pins(&mut self) -> Result<()> {
        for dir in list_dir(&self.store.root().join("tmp"))? {
            let path = dir.join(PINS);
            let Ok(mut file) = std::fs::File::open(&path) else {
                continue;
            };
            let start = self.pins_read.get(&path).copied().unwrap_or(0);
            file.seek(SeekFrom::Start(start)).at("read", &path)?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).at("read", &path)?;
            let whole = bytes.len() - bytes.len() % 32;
            for hash in bytes.chunks_exact(32) {
                if let Ok(hash) = hash.try_into() {
                    self.pins.insert(Blake3(hash));
                }
            }
            self.pins_read.insert(path, start + whole as u64);
        }
        Ok(())
    }
}

/// The hash that the name of a file in `cas/` or `man/` says; none for one that a collection has moved aside.
pub(crate) fn hash_of(path: &Path) -> Option<Blake3> {
    let name = path.file_name()?.to_str()?;
    let shard = path.parent()?.file_name()?.to_str()?;
    let rest = name.strip_suffix(".x").unwrap_or(name);
    format!("{shard}{rest}").parse().ok()
}
