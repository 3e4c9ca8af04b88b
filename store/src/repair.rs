//! Takes what is damaged out of the way, so that the next build makes it again.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use sos_formats::hash::Blake3;
use sos_formats::store_path::StorePath;

use crate::check::{CheckReport, Problem};
use crate::db;
use crate::error::{IoContext, Result};
use crate::gc::hash_of;
use crate::store::Store;
use crate::sys;

/// What was taken away.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Objects that are gone until they are built again.
    pub paths: BTreeSet<StorePath>,
    /// Contents and manifest nodes that are gone.
    pub files: usize,
    /// Problems that nothing can be done about here: those of the database.
    pub left: Vec<Problem>,
}

impl Store {
    /// Removes what a check found damaged. Trees keep their row, and with it whatever refers to them: the next build puts a new
    /// tree in their place. Root filesystems are forgotten, with what refers to them, since a part of them may be what is gone.
    ///
    /// # Errors
    /// What the disk or the database says; what was removed until then stays so, and the rest can be removed by another call.
    pub fn repair(&self, found: &CheckReport) -> Result<Repaired> {
        let _session = self.session()?;
        let trash = self.temp_dir("damaged")?;
        let mut done = Repaired::default();
        let mut trees = BTreeSet::new();
        let mut roots = BTreeSet::new();
        let mut files = Vec::new();
        let mut nodes: BTreeSet<Blake3> = found.damaged_nodes.clone();
        for problem in &found.problems {
            match problem {
                Problem::DamagedTree { path, .. } | Problem::MissingTree { path } => {
                    trees.insert(path.clone());
                }
                Problem::DamagedRootfs { path, .. } => {
                    roots.insert(path.clone());
                }
                Problem::DamagedBlob { file, .. } => files.push(file.clone()),
                Problem::DamagedNode { file, .. } => {
                    nodes.extend(hash_of(file));
                    files.push(file.clone());
                }
                Problem::MissingNode { hash } => {
                    nodes.insert(*hash);
                }
                other @ Problem::Database { .. } => done.left.push(other.clone()),
            }
        }
        let nodes: Vec<Blake3> = nodes.into_iter().collect();
        done.paths = self.db().write(|db| {
            // In the write transaction nobody adds and nobody collects.
            for (number, path) in trees.iter().enumerate() {
                let place = self.physical(path);
                let Ok(meta) = std::fs::symlink_metadata(&place) else {
                    continue;
                };
                if meta.is_dir() {
                    sys::set_mode(&place, 0o755).at("set the mode of", &place)?;
                }
                let away = trash.path().join(number.to_string());
                std::fs::rename(&place, &away).at("move away", &place)?;
            }
            db::delete_nodes(db, &nodes)?;
            let mut gone = forget(db, &roots)?;
            gone.extend(trees.iter().cloned());
            Ok(gone)
        })?;
        for file in files {
            match std::fs::remove_file(&file) {
                Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
                    return Err(crate::error::StoreError::io("remove", file, err));
                }
                _ => done.files += 1,
            }
        }
        Ok(done)
    }
}

/// Makes objects and everything that refers to them invalid; returns all of them.
fn forget(db: &Connection, start: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>> {
    let mut ids: BTreeMap<StorePath, i64> = BTreeMap::new();
    let mut pending: Vec<StorePath> = start.iter().cloned().collect();
    while let Some(path) = pending.pop() {
        let Some(id) = db::path_id(db, &path)? else {
            continue;
        };
        if ids.insert(path, id).is_none() {
            pending.extend(db::referrers(db, id)?);
        }
    }
    for path in ids.keys() {
        db::delete_results_of(db, path)?;
    }
    db::delete_paths(db, ids.values().copied())?;
    Ok(ids.into_keys().collect())
}
