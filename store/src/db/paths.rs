//! Valid objects, their references, and the manifest nodes known to be complete.

use std::collections::{BTreeMap, BTreeSet};

use rusqlite::{Connection, OptionalExtension, Row, params};
use sos_formats::hash::{Blake3, Sha256};
use sos_formats::store_path::StorePath;

use super::Unsigned;
use crate::error::{Result, StoreError};
use crate::objects::{ObjectKind, PathInfo};
use crate::rootfs::Below;

const COLUMNS: &str =
    "id, hash20, name, kind, nar_sha256, nar_size, root_blake3, ca, deriver, registered";

/// One row of the table `path`, with its number.
pub(crate) struct PathRow {
    pub(crate) id: i64,
    pub(crate) info: PathInfo,
}

/// Finds an object; the references are filled in.
pub(crate) fn find_path(db: &Connection, path: &StorePath) -> Result<Option<PathRow>> {
    let Some(mut found) = find_alone(db, path)? else {
        return Ok(None);
    };
    found.info.references = references(db, found.id)?;
    Ok(Some(found))
}

/// The same without the references.
pub(crate) fn find_alone(db: &Connection, path: &StorePath) -> Result<Option<PathRow>> {
    let sql =
        "SELECT id, hash20, name, kind, nar_sha256, nar_size, root_blake3, ca, deriver, registered
               FROM path WHERE hash20 = ?1 AND name = ?2";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![path.hash_bytes(), path.name()])?;
    rows.next()?.map(read_row).transpose()
}

/// Finds the object with a digest; the references are filled in.
pub(crate) fn find_digest(db: &Connection, digest: &[u8; 20]) -> Result<Option<PathInfo>> {
    let sql =
        "SELECT id, hash20, name, kind, nar_sha256, nar_size, root_blake3, ca, deriver, registered
               FROM path WHERE hash20 = ?1";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([digest])?;
    let Some(mut found) = rows.next()?.map(read_row).transpose()? else {
        return Ok(None);
    };
    found.info.references = references(db, found.id)?;
    Ok(Some(found.info))
}

/// Lists the objects of a name; references are left empty.
pub(crate) fn find_named(db: &Connection, name: &str) -> Result<Vec<PathInfo>> {
    let sql =
        "SELECT id, hash20, name, kind, nar_sha256, nar_size, root_blake3, ca, deriver, registered
               FROM path WHERE name = ?1";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([name])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read_row(row)?.info);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// The signatures of an object, one a line; none of one that is not valid.
pub(crate) fn signatures(db: &Connection, path: &StorePath) -> Result<Option<String>> {
    let sql = "SELECT sigs FROM path WHERE hash20 = ?1 AND name = ?2";
    let mut statement = db.prepare_cached(sql)?;
    Ok(statement
        .query_row(params![path.hash_bytes(), path.name()], |row| {
            row.get::<_, Option<String>>(0)
        })
        .optional()?
        .map(Option::unwrap_or_default))
}

/// Replaces the signatures of an object.
pub(crate) fn set_signatures(db: &Connection, path: &StorePath, lines: &str) -> Result<()> {
    db.prepare_cached("UPDATE path SET sigs = ?3 WHERE hash20 = ?1 AND name = ?2")?
        .execute(params![path.hash_bytes(), path.name(), lines])?;
    Ok(())
}

/// Finds the number of an object without reading the rest.
pub(crate) fn path_id(db: &Connection, path: &StorePath) -> Result<Option<i64>> {
    let mut statement = db.prepare_cached("SELECT id FROM path WHERE hash20 = ?1 AND name = ?2")?;
    Ok(statement
        .query_row(params![path.hash_bytes(), path.name()], |row| row.get(0))
        .optional()?)
}

/// Lists every object with its number, in the order of the store paths; references are left empty.
pub(crate) fn all_paths(db: &Connection) -> Result<Vec<PathRow>> {
    let mut statement = db.prepare(&format!("SELECT {COLUMNS} FROM path"))?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read_row(row)?);
    }
    found.sort_by(|a, b| a.info.path.cmp(&b.info.path));
    Ok(found)
}

/// Lists all references as pairs of numbers (source, target).
pub(crate) fn all_refs(db: &Connection) -> Result<Vec<(i64, i64)>> {
    let mut statement = db.prepare("SELECT src, dst FROM ref")?;
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Lists the manifests of all registered rootfs objects.
pub(crate) fn all_roots(db: &Connection) -> Result<BTreeSet<Blake3>> {
    let mut statement =
        db.prepare_cached("SELECT root_blake3 FROM path WHERE root_blake3 IS NOT NULL")?;
    let rows = statement.query_map([], |row| row.get::<_, [u8; 32]>(0))?;
    rows.map(|row| Ok(Blake3(row?))).collect()
}

/// The paths that an object refers to.
pub(crate) fn references(db: &Connection, id: i64) -> Result<BTreeSet<StorePath>> {
    let sql = "SELECT p.hash20, p.name FROM ref JOIN path p ON p.id = ref.dst WHERE ref.src = ?1";
    read_paths(db, sql, id)
}

/// The paths that refer to an object.
pub(crate) fn referrers(db: &Connection, id: i64) -> Result<BTreeSet<StorePath>> {
    let sql = "SELECT p.hash20, p.name FROM ref JOIN path p ON p.id = ref.src WHERE ref.dst = ?1";
    read_paths(db, sql, id)
}

/// Everything reachable from the given objects, themselves included; unknown ones are left out.
pub(crate) fn closure(db: &Connection, start: &[StorePath]) -> Result<BTreeSet<StorePath>> {
    let mut pending = Vec::new();
    let mut seen = BTreeSet::new();
    for path in start {
        if let Some(id) = path_id(db, path)?
            && seen.insert(path.clone())
        {
            pending.push(id);
        }
    }
    let sql =
        "SELECT p.id, p.hash20, p.name FROM ref JOIN path p ON p.id = ref.dst WHERE ref.src = ?1";
    let mut statement = db.prepare_cached(sql)?;
    while let Some(id) = pending.pop() {
        let mut rows = statement.query([id])?;
        while let Some(row) = rows.next()? {
            let path = read_store_path(row, 1, 2)?;
            if seen.insert(path.clone()) {
                pending.push(row.get(0)?);
            }
        }
    }
    Ok(seen)
}

/// Registers an object; its references follow with [`insert_refs`].
pub(crate) fn insert_path(db: &Connection, info: &PathInfo, registered: i64) -> Result<i64> {
    let sql = "INSERT INTO path (hash20, name, kind, nar_sha256, nar_size, root_blake3, ca, deriver, registered)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    let kind = match info.kind {
        ObjectKind::Tree => 0,
        ObjectKind::Rootfs => 1,
    };
    db.prepare_cached(sql)?.execute(params![
        info.path.hash_bytes(),
        info.path.name(),
        kind,
        info.nar_sha256.map(|hash| hash.0),
        Unsigned(info.nar_size),
        info.root.map(|hash| hash.0),
        info.ca,
        info.deriver.as_ref().map(StorePath::base),
        registered,
    ])?;
    Ok(db.last_insert_rowid())
}

/// Registers what an object refers to; every target must be valid.
pub(crate) fn insert_refs(db: &Connection, id: i64, info: &PathInfo) -> Result<()> {
    let mut statement =
        db.prepare_cached("INSERT OR IGNORE INTO ref (src, dst) VALUES (?1, ?2)")?;
    for reference in &info.references {
        let Some(target) = path_id(db, reference)? else {
            return Err(StoreError::MissingReference {
                path: info.path.clone(),
                reference: reference.clone(),
            });
        };
        statement.execute([id, target])?;
    }
    Ok(())
}

/// Replaces what is known of the content of an object that was made anew, which nobody has signed yet; its references follow with [`insert_refs`].
pub(crate) fn renew_path(db: &Connection, id: i64, info: &PathInfo) -> Result<()> {
    db.prepare_cached("DELETE FROM ref WHERE src = ?1")?
        .execute([id])?;
    db.prepare_cached("UPDATE path SET nar_sha256 = ?2, nar_size = ?3, sigs = NULL WHERE id = ?1")?
        .execute(params![
            id,
            info.nar_sha256.map(|hash| hash.0),
            Unsigned(info.nar_size),
        ])?;
    Ok(())
}

/// Notes the hash of the NAR of an object that had none.
pub(crate) fn keep_nar_sha256(db: &Connection, path: &StorePath, hash: &Sha256) -> Result<()> {
    let sql =
        "UPDATE path SET nar_sha256 = ?3 WHERE hash20 = ?1 AND name = ?2 AND nar_sha256 IS NULL";
    db.prepare_cached(sql)?
        .execute(params![path.hash_bytes(), path.name(), hash.0])?;
    Ok(())
}

/// Makes an object invalid. Its referrers must be gone before.
pub(crate) fn delete_path(db: &Connection, id: i64) -> Result<()> {
    db.prepare_cached("DELETE FROM ref WHERE src = ?1")?
        .execute([id])?;
    db.prepare_cached("DELETE FROM path WHERE id = ?1")?
        .execute([id])?;
    Ok(())
}

/// Makes objects invalid that may refer to each other; no other one may refer to them.
pub(crate) fn delete_paths(db: &Connection, ids: impl Iterator<Item = i64>) -> Result<()> {
    // Asked at the end of the transaction only, so the order does not matter.
    db.execute_batch("PRAGMA defer_foreign_keys = ON")?;
    for id in ids {
        delete_path(db, id)?;
    }
    Ok(())
}

/// What is kept of a manifest node that is known to be complete.
#[derive(Clone)]
pub(crate) struct NodeFacts {
    /// Bytes of all files below.
    pub(crate) size: u64,
    /// What is special below; an older sos did not note it.
    pub(crate) below: Option<Below>,
}

/// What is kept of a manifest node, if it is known to be complete.
pub(crate) fn node_facts(db: &Connection, node: &Blake3) -> Result<Option<NodeFacts>> {
    let mut statement = db.prepare_cached("SELECT size, below FROM node WHERE hash = ?1")?;
    let read = |row: &Row<'_>| {
        let below = row.get_ref(1)?.as_blob_or_null()?;
        Ok(NodeFacts {
            size: row.get::<_, Unsigned>(0)?.0,
            below: below.and_then(Below::from_bytes),
        })
    };
    Ok(statement.query_row([node.0], read).optional()?)
}

/// Notes that manifest nodes are complete.
pub(crate) fn insert_nodes(db: &Connection, nodes: &BTreeMap<Blake3, NodeFacts>) -> Result<()> {
    let mut statement =
        db.prepare_cached("INSERT OR IGNORE INTO node (hash, size, below) VALUES (?1, ?2, ?3)")?;
    for (node, facts) in nodes {
        let below = facts.below.as_ref().map(Below::to_bytes);
        statement.execute(params![node.0, Unsigned(facts.size), below])?;
    }
    Ok(())
}

/// Lists the manifest nodes that are known to be complete.
pub(crate) fn all_nodes(db: &Connection) -> Result<BTreeSet<Blake3>> {
    let mut statement = db.prepare("SELECT hash FROM node")?;
    let rows = statement.query_map([], |row| row.get::<_, [u8; 32]>(0))?;
    rows.map(|row| Ok(Blake3(row?))).collect()
}

/// Forgets manifest nodes.
pub(crate) fn delete_nodes(db: &Connection, nodes: &[Blake3]) -> Result<()> {
    let mut statement = db.prepare_cached("DELETE FROM node WHERE hash = ?1")?;
    for node in nodes {
        statement.execute([node.0])?;
    }
    Ok(())
}

fn read_paths(db: &Connection, sql: &str, id: i64) -> Result<BTreeSet<StorePath>> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([id])?;
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next()? {
        found.insert(read_store_path(row, 0, 1)?);
    }
    Ok(found)
}

fn read_store_path(row: &Row<'_>, hash: usize, name: usize) -> Result<StorePath> {
    let digest: [u8; 20] = row.get(hash)?;
    let name = row.get_ref(name)?.as_str().map_err(rusqlite::Error::from)?;
    StorePath::new(digest, name).map_err(|err| StoreError::DatabaseCorrupt {
        detail: err.to_string(),
    })
}

fn read_row(row: &Row<'_>) -> Result<PathRow> {
    let kind = match row.get::<_, i64>(3)? {
        0 => ObjectKind::Tree,
        1 => ObjectKind::Rootfs,
        other => {
            return Err(StoreError::DatabaseCorrupt {
                detail: format!("object of kind {other}"),
            });
        }
    };
    let deriver = row.get::<_, Option<String>>(8)?;
    let deriver = deriver
        .map(|base| StorePath::from_base(&base))
        .transpose()
        .map_err(|err| StoreError::DatabaseCorrupt {
            detail: err.to_string(),
        })?;
    Ok(PathRow {
        id: row.get(0)?,
        info: PathInfo {
            path: read_store_path(row, 1, 2)?,
            kind,
            nar_sha256: row.get::<_, Option<[u8; 32]>>(4)?.map(Sha256),
            nar_size: row.get::<_, Unsigned>(5)?.0,
            root: row.get::<_, Option<[u8; 32]>>(6)?.map(Blake3),
            references: BTreeSet::new(),
            deriver,
            ca: row.get(7)?,
            registered_secs: row.get(9)?,
        },
    })
}
