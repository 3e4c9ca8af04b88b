//! The journal of builds and how long things took.

use rusqlite::{Connection, params};

use super::Unsigned;
use crate::error::Result;
use crate::journal::BuildRecord;

/// Begins a build.
pub(crate) fn insert_build(db: &Connection, started: i64, command: &str) -> Result<i64> {
    let sql = "INSERT INTO build (started, command) VALUES (?1, ?2)";
    db.prepare_cached(sql)?.execute(params![started, command])?;
    Ok(db.last_insert_rowid())
}

/// Adds events to a build, after those that it has.
pub(crate) fn insert_events(db: &Connection, build: i64, events: &[String]) -> Result<()> {
    let next = "SELECT coalesce(max(seq) + 1, 0) FROM build_event WHERE build = ?1";
    let first: i64 = db
        .prepare_cached(next)?
        .query_row([build], |row| row.get(0))?;
    let sql = "INSERT INTO build_event (build, seq, json) VALUES (?1, ?2, ?3)";
    let mut statement = db.prepare_cached(sql)?;
    for (seq, json) in (first..).zip(events) {
        statement.execute(params![build, seq, json])?;
    }
    Ok(())
}

/// Ends a build.
pub(crate) fn finish_build(db: &Connection, build: i64, finished: i64, status: &str) -> Result<()> {
    let sql = "UPDATE build SET finished = ?2, status = ?3 WHERE id = ?1";
    db.prepare_cached(sql)?
        .execute(params![build, finished, status])?;
    Ok(())
}

/// Forgets all builds but the newest, with their events.
pub(crate) fn trim_builds(db: &Connection, keep: u32) -> Result<()> {
    let sql =
        "DELETE FROM build WHERE id <= (SELECT id FROM build ORDER BY id DESC LIMIT 1 OFFSET ?1)";
    db.prepare_cached(sql)?.execute([keep])?;
    Ok(())
}

/// Lists the newest builds, newest first.
pub(crate) fn recent_builds(db: &Connection, limit: u32) -> Result<Vec<BuildRecord>> {
    let sql = "SELECT id, started, finished, status, command FROM build ORDER BY id DESC LIMIT ?1";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([limit], |row| {
        Ok(BuildRecord {
            id: row.get(0)?,
            started_secs: row.get(1)?,
            finished_secs: row.get(2)?,
            status: row.get(3)?,
            command: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The events of a build, in order.
pub(crate) fn build_events(db: &Connection, build: i64) -> Result<Vec<String>> {
    let mut statement =
        db.prepare_cached("SELECT json FROM build_event WHERE build = ?1 ORDER BY seq")?;
    let rows = statement.query_map([build], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Notes how long something took; keeps the newest `keep` notes of that name.
pub(crate) fn insert_duration(
    db: &Connection,
    name: &str,
    system: &str,
    ms: u64,
    keep: u32,
) -> Result<()> {
    let sql = "INSERT INTO duration (name, system, ms) VALUES (?1, ?2, ?3)";
    db.prepare_cached(sql)?
        .execute(params![name, system, Unsigned(ms)])?;
    let trim = "DELETE FROM duration WHERE name = ?1 AND system = ?2 AND id <= (
                    SELECT id FROM duration WHERE name = ?1 AND system = ?2 ORDER BY id DESC LIMIT 1 OFFSET ?3)";
    db.prepare_cached(trim)?
        .execute(params![name, system, keep])?;
    Ok(())
}

/// How long something took, newest first.
pub(crate) fn durations(db: &Connection, name: &str, system: &str) -> Result<Vec<u64>> {
    let sql = "SELECT ms FROM duration WHERE name = ?1 AND system = ?2 ORDER BY id DESC";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(params![name, system], |row| {
        Ok(row.get::<_, Unsigned>(0)?.0)
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
