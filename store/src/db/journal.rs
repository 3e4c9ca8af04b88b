//! The journal of builds and how long things took.

use rusqlite::{Connection, params};

use super::Unsigned;
use crate::error::Result;
use crate::journal::{BuildRecord, NewBuild};
use crate::process::ProcessId;

/// Begins a build.
pub(crate) fn insert_build(
    db: &Connection,
    started: i64,
    new: &NewBuild<'_>,
    process: &ProcessId,
) -> Result<i64> {
    let sql = "INSERT INTO build (started, command, project, host, pid, start, boot)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
    db.prepare_cached(sql)?.execute(params![
        started,
        new.command,
        new.project,
        new.host,
        process.pid,
        Unsigned(process.start_ticks),
        process.boot_id,
    ])?;
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
pub(crate) fn finish_build(
    db: &Connection,
    build: i64,
    finished: i64,
    status: &str,
    summary: Option<&str>,
) -> Result<()> {
    let sql = "UPDATE build SET finished = ?2, status = ?3, summary = ?4 WHERE id = ?1";
    db.prepare_cached(sql)?
        .execute(params![build, finished, status, summary])?;
    Ok(())
}

/// Forgets all builds but the newest, with their events.
pub(crate) fn trim_builds(db: &Connection, keep: u32) -> Result<()> {
    let sql =
        "DELETE FROM build WHERE id <= (SELECT id FROM build ORDER BY id DESC LIMIT 1 OFFSET ?1)";
    db.prepare_cached(sql)?.execute([keep])?;
    Ok(())
}

/// Lists the newest builds, newest first; of `one`, if that is given. Older forms of the table know less.
pub(crate) fn recent_builds(
    db: &Connection,
    limit: u32,
    one: Option<i64>,
    is_old: bool,
) -> Result<Vec<BuildRecord>> {
    let sql = if is_old {
        "SELECT id, started, finished, status, command, '', '', NULL, NULL, NULL, NULL FROM build
         WHERE ?2 IS NULL OR id = ?2 ORDER BY id DESC LIMIT ?1"
    } else {
        "SELECT id, started, finished, status, command, project, host, summary, pid, start, boot FROM build
         WHERE ?2 IS NULL OR id = ?2 ORDER BY id DESC LIMIT ?1"
    };
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map(params![limit, one], |row| {
        let pid: Option<u32> = row.get(8)?;
        let process = match pid {
            Some(pid) => Some(ProcessId {
                pid,
                start_ticks: row.get::<_, Unsigned>(9)?.0,
                boot_id: row.get(10)?,
            }),
            None => None,
        };
        Ok(BuildRecord {
            id: row.get(0)?,
            started_secs: row.get(1)?,
            finished_secs: row.get(2)?,
            status: row.get(3)?,
            command: row.get(4)?,
            project: row.get(5)?,
            host: row.get(6)?,
            summary: row.get(7)?,
            process,
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
