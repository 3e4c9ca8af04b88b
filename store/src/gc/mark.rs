//! What is needed: everything that roots and the leases of living processes reach.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rusqlite::Connection;
use sos_formats::store_path::StorePath;

use crate::clock;
use crate::db::{self, LeaseRow, PathRow};
use crate::error::Result;
use crate::objects::PathInfo;
use crate::store::Store;
use crate::temp::lock_dir;

/// The result of marking.
pub(super) struct Marked {
    /// Objects that nothing needs, to be taken from the end: referrers after what they refer to.
    pub(super) dead: Vec<PathRow>,
    /// Derivations that made nothing that is here.
    pub(super) dead_drvs: Vec<StorePath>,
    /// Leases of processes that are gone.
    pub(super) dead_leases: Vec<i64>,
}

impl Marked {
    /// Reads everything and marks. Within a write transaction the result is true until it ends.
    pub(super) fn read(
        store: &Store,
        db: &Connection,
        older_than: Option<Duration>,
    ) -> Result<Self> {
        let rows = db::all_paths(db)?;
        let mut refs: BTreeMap<i64, Vec<i64>> = BTreeMap::new();
        for (from, to) in db::all_refs(db)? {
            if from != to {
                refs.entry(from).or_default().push(to);
            }
        }
        let ids: BTreeMap<&StorePath, i64> =
            rows.iter().map(|row| (&row.info.path, row.id)).collect();
        let (leased, dead_leases) = leases(store, db)?;
        let mut wanted: BTreeSet<StorePath> = store
            .read_roots()?
            .0
            .into_iter()
            .map(|root| root.path)
            .collect();
        wanted.extend(leased);
        let mut pending: Vec<i64> = wanted
            .iter()
            .filter_map(|path| ids.get(path).copied())
            .collect();
        if let Some(age) = older_than {
            let limit =
                clock::now_secs().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
            pending.extend(
                rows.iter()
                    .filter(|row| row.info.registered_secs > limit)
                    .map(|row| row.id),
            );
        }
        let mut live: BTreeSet<i64> = pending.iter().copied().collect();
        while let Some(id) = pending.pop() {
            for to in refs.get(&id).into_iter().flatten() {
                if live.insert(*to) {
                    pending.push(*to);
                }
            }
        }
        let dead_drvs = dead_drvs(db, &rows, &live, &wanted)?;
        Ok(Self {
            dead: deletion_order(rows, &live, &refs),
            dead_drvs,
            dead_leases,
        })
    }

    /// The dead objects, in no particular order.
    pub(super) fn dead_infos(&self) -> Vec<PathInfo> {
        self.dead.iter().map(|row| row.info.clone()).collect()
    }
}

/// The paths that living processes hold.
pub(super) fn leased_paths(store: &Store, db: &Connection) -> Result<BTreeSet<StorePath>> {
    Ok(leases(store, db)?.0)
}

fn leases(store: &Store, db: &Connection) -> Result<(BTreeSet<StorePath>, Vec<i64>)> {
    let mut held = BTreeSet::new();
    let mut dead = Vec::new();
    for lease in db::all_leases(db)? {
        if is_alive(store, &lease)? {
            held.extend(db::lease_paths(db, lease.id)?);
        } else {
            dead.push(lease.id);
        }
    }
    Ok((held, dead))
}

/// Whether a lease counts. Its session's directory is made before it and removed after it; so without the directory
/// it is left over from a session whose end a full disk could not note. With it, the lock on the directory proves
/// life in every pid namespace, and the process proves it where the file system knows no locks.
fn is_alive(store: &Store, lease: &LeaseRow) -> Result<bool> {
    let Some(name) = lease.session.as_deref().filter(|name| !name.contains('/')) else {
        return Ok(lease.process.is_alive());
    };
    let path = store.root().join("tmp").join(name);
    if !path.is_dir() {
        return Ok(false);
    }
    Ok(lease.process.is_alive() || lock_dir(&path)?.is_none())
}

/// Sorts dead objects so that, taken from the end, none goes before something that refers to it.
fn deletion_order(
    rows: Vec<PathRow>,
    live: &BTreeSet<i64>,
    refs: &BTreeMap<i64, Vec<i64>>,
) -> Vec<PathRow> {
    let mut dead: BTreeMap<i64, PathRow> = rows
        .into_iter()
        .filter(|row| !live.contains(&row.id))
        .map(|row| (row.id, row))
        .collect();
    let ids: Vec<i64> = dead.keys().copied().collect();
    let mut order = Vec::with_capacity(ids.len());
    let mut seen = BTreeSet::new();
    // Depth first, without recursion: an object comes after everything that it refers to.
    for id in ids {
        let mut stack = vec![(id, 0)];
        if !seen.insert(id) {
            continue;
        }
        while let Some((id, next)) = stack.last_mut() {
            let to = refs.get(id).and_then(|to| to.get(*next)).copied();
            *next += 1;
            match to {
                Some(to) if dead.contains_key(&to) && seen.insert(to) => stack.push((to, 0)),
                Some(_) => {}
                None => {
                    order.push(*id);
                    stack.pop();
                }
            }
        }
    }
    order
        .into_iter()
        .filter_map(|id| dead.remove(&id))
        .collect()
}

/// Derivations are kept for what they made, and where they are roots themselves.
fn dead_drvs(
    db: &Connection,
    rows: &[PathRow],
    live: &BTreeSet<i64>,
    wanted: &BTreeSet<StorePath>,
) -> Result<Vec<StorePath>> {
    let kept: BTreeSet<&StorePath> = rows
        .iter()
        .filter(|row| live.contains(&row.id))
        .filter_map(|row| row.info.deriver.as_ref())
        .collect();
    Ok(db::all_drvs(db)?
        .into_iter()
        .filter(|drv| !kept.contains(drv) && !wanted.contains(drv))
        .collect())
}
