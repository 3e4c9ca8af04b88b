//! Leases: what running processes need, whatever the roots say.

use std::collections::BTreeSet;

use rusqlite::{Connection, params};
use sos_formats::store_path::StorePath;

use super::Unsigned;
use crate::error::Result;
use crate::process::ProcessId;

/// One lease with its holder.
pub(crate) struct LeaseRow {
    pub(crate) id: i64,
    pub(crate) process: ProcessId,
    pub(crate) session: Option<String>,
}

/// Makes a lease for a process.
pub(crate) fn insert_lease(db: &Connection, process: &ProcessId, session: &str) -> Result<i64> {
    let sql = "INSERT INTO lease (pid, start, boot, session) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(sql)?.execute(params![
        process.pid,
        Unsigned(process.start_ticks),
        process.boot_id,
        session
    ])?;
    Ok(db.last_insert_rowid())
}

/// Adds a path to a lease; the path need not be valid yet.
pub(crate) fn hold_path(db: &Connection, lease: i64, path: &StorePath) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO lease_path (lease, base) VALUES (?1, ?2)";
    db.prepare_cached(sql)?
        .execute(params![lease, path.as_str()])?;
    Ok(())
}

/// Gives a lease back.
pub(crate) fn delete_lease(db: &Connection, lease: i64) -> Result<()> {
    db.prepare_cached("DELETE FROM lease_path WHERE lease = ?1")?
        .execute([lease])?;
    db.prepare_cached("DELETE FROM lease WHERE id = ?1")?
        .execute([lease])?;
    Ok(())
}

/// Lists all leases, also those whose holder is gone.
pub(crate) fn all_leases(db: &Connection) -> Result<Vec<LeaseRow>> {
    let mut statement = db.prepare_cached("SELECT id, pid, start, boot, session FROM lease")?;
    let rows = statement.query_map([], |row| {
        Ok(LeaseRow {
            id: row.get(0)?,
            process: ProcessId {
                pid: row.get(1)?,
                start_ticks: row.get::<_, Unsigned>(2)?.0,
                boot_id: row.get(3)?,
            },
            session: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The paths of a lease; what is no store path is skipped.
pub(crate) fn lease_paths(db: &Connection, lease: i64) -> Result<BTreeSet<StorePath>> {
    let mut statement = db.prepare_cached("SELECT base FROM lease_path WHERE lease = ?1")?;
    let rows = statement.query_map([lease], |row| row.get::<_, String>(0))?;
    let mut found = BTreeSet::new();
    for row in rows {
        if let Ok(path) = StorePath::from_base(&row?) {
            found.insert(path);
        }
    }
    Ok(found)
}
