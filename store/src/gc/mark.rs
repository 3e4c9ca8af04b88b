//! What is needed: everything that roots and the leases of living processes reach, and what runs that have not come to their end have
//! made so far.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::Connection;
use sos_formats::derivation::Derivation;
use sos_formats::store_path::StorePath;

use super::GcOptions;
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
    /// How many objects live only for runs that have not come to their end.
    pub(super) unfinished: usize,
}

impl Marked {
    /// Reads everything and marks. Within a write transaction the result is true until it ends.
    pub(super) fn read(store: &Store, db: &Connection, options: &GcOptions) -> Result<Self> {
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
        if let Some(age) = options.older_than {
            let limit =
                clock::now_secs().saturating_sub(i64::try_from(age.as_secs()).unwrap_or(i64::MAX));
            pending.extend(
                rows.iter()
                    .filter(|row| row.info.registered_secs > limit)
                    .map(|row| row.id),
            );
        }
        let mut live = BTreeSet::new();
        reach(pending, &refs, &mut live);
        let needed = live.len();
        if !options.unfinished {
            let (drvs, made) = unfinished(store, db)?;
            let made = made.iter().filter_map(|path| ids.get(path).copied());
            reach(made.collect(), &refs, &mut live);
            // By them the next collection finds the same.
            wanted.extend(drvs);
        }
        let unfinished = live.len() - needed;
        let dead_drvs = dead_drvs(db, &rows, &live, &wanted)?;
        Ok(Self {
            dead: deletion_order(rows, &live, &refs),
            dead_drvs,
            dead_leases,
            unfinished,
        })
    }

    /// The dead objects, in no particular order.
    pub(super) fn dead_infos(&self) -> Vec<PathInfo> {
        self.dead.iter().map(|row| row.info.clone()).collect()
    }
}

/// Adds objects and what they need to those that live.
fn reach(mut pending: Vec<i64>, refs: &BTreeMap<i64, Vec<i64>>, live: &mut BTreeSet<i64>) {
    while let Some(id) = pending.pop() {
        if live.insert(id) {
            pending.extend(refs.get(&id).into_iter().flatten());
        }
    }
}

/// The derivations that runs were for which have not come to their end, with all that these are made of, and what those have made.
pub(super) fn unfinished(
    store: &Store,
    db: &Connection,
) -> Result<(BTreeSet<StorePath>, Vec<StorePath>)> {
    let mut pending = db::all_unfinished(db)?;
    let mut seen: BTreeSet<StorePath> = pending.iter().cloned().collect();
    let mut made = Vec::new();
    while let Some(path) = pending.pop() {
        let outputs = db::outputs_of(db, &path)?;
        made.extend(outputs.into_iter().map(|(_, path)| path));
        // What is not there, or cannot be read, was no part of what was left to do.
        let Some(text) = db::get_drv(db, &path)? else {
            continue;
        };
        let Ok(drv) = Derivation::parse_aterm(&text, store.store_dir()) else {
            continue;
        };
        let inputs = drv.input_drvs.into_keys();
        pending.extend(inputs.filter(|input| seen.insert(input.clone())));
    }
    Ok((seen, made))
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
