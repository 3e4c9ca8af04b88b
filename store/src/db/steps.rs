//! What runs did, derivation by derivation.

use rusqlite::{Connection, OptionalExtension, Row, params};
use sos_formats::store_path::StorePath;

use super::Unsigned;
use crate::error::{Result, StoreError};
use crate::steps::StepRow;

const COLUMNS: &str =
    "build, drv, name, attr, status, queued, started, finished, cause, outputs, detail";

/// Notes a step in place of an earlier note of it.
pub(crate) fn put_step(db: &Connection, step: &StepRow) -> Result<()> {
    let sql = "INSERT INTO step (build, drv, name, attr, status, queued, started, finished, cause, outputs, detail)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
               ON CONFLICT (build, drv) DO UPDATE SET status = ?5, started = ?7, finished = ?8,
                   cause = ?9, outputs = ?10, detail = ?11";
    db.prepare_cached(sql)?.execute(params![
        step.build,
        step.drv.as_str(),
        step.name,
        step.attr,
        step.status,
        Unsigned(step.queued_ms),
        step.started_ms.map(Unsigned),
        step.finished_ms.map(Unsigned),
        step.cause,
        step.outputs,
        step.detail,
    ])?;
    Ok(())
}

/// Notes that something took part in a run, unless it did in an earlier one.
pub(crate) fn put_seen(db: &Connection, base: &StorePath, build: i64) -> Result<()> {
    let sql = concat!(
        "INSERT INTO seen (base, build) SELECT ?1, ?2
         WHERE NOT EXISTS (SELECT 1 FROM seen WHERE ",
        is_base!("base"),
        ")"
    );
    db.prepare_cached(sql)?
        .execute(params![base.as_str(), build])?;
    Ok(())
}

/// The first run in which something took part.
pub(crate) fn first_seen(db: &Connection, base: &StorePath) -> Result<Option<i64>> {
    let sql = concat!("SELECT build FROM seen WHERE ", is_base!("base"));
    Ok(db
        .prepare_cached(sql)?
        .query_row([base.as_str()], |row| row.get(0))
        .optional()?)
}

/// Whether the tables of this file are there.
pub(crate) fn has_steps(db: &Connection) -> Result<bool> {
    let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'step'";
    Ok(db.prepare_cached(sql)?.exists([])?)
}

/// The steps of a run, in the order in which they were noted first.
pub(crate) fn steps_of_build(db: &Connection, build: i64) -> Result<Vec<StepRow>> {
    let sql = format!("SELECT {COLUMNS} FROM step WHERE build = ?1 ORDER BY id");
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([build])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The steps of a derivation in runs up to `until`, newest first.
pub(crate) fn steps_of_drv(
    db: &Connection,
    drv: &StorePath,
    until: i64,
    limit: u32,
) -> Result<Vec<StepRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM step WHERE {} AND build <= ?2 ORDER BY id DESC LIMIT ?3",
        is_base!("drv")
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params![drv.as_str(), until, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The steps whose names are `name` or begin with it and a dash, newest first.
pub(crate) fn steps_named(db: &Connection, name: &str, limit: u32) -> Result<Vec<StepRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM step WHERE name = ?1 OR (name >= ?2 AND name < ?3)
         ORDER BY id DESC LIMIT ?4"
    );
    let mut statement = db.prepare_cached(&sql)?;
    // What begins with a dash comes before what begins with the next sign.
    let mut rows = statement.query(params![name, format!("{name}-"), format!("{name}."), limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The derivations that were tried in the newest `builds` runs, and failed the last time.
pub(crate) fn failed_last(db: &Connection, builds: u32) -> Result<Vec<StorePath>> {
    let sql = "SELECT drv FROM step AS one
               WHERE build > (SELECT coalesce(max(id), 0) FROM build) - ?1 AND status = 'failed' AND NOT EXISTS (
                   SELECT 1 FROM step AS later
                   WHERE substr(later.drv, 1, 12) = substr(one.drv, 1, 12) AND later.drv = one.drv
                       AND later.id > one.id
                       AND later.status IN ('built', 'fetched', 'cached', 'failed'))";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([builds])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let base: String = row.get(0)?;
        let path = StorePath::from_base(&base).map_err(|err| StoreError::DatabaseCorrupt {
            detail: err.to_string(),
        })?;
        found.push(path);
    }
    Ok(found)
}

/// The newest step that was asked for by an attribute path of a project and came to an end.
pub(crate) fn step_of_attr(db: &Connection, project: &str, attr: &str) -> Result<Option<StepRow>> {
    let sql = format!(
        "SELECT {COLUMNS} FROM step WHERE attr = ?1 AND status IN ('built', 'fetched', 'cached')
             AND (SELECT project FROM build WHERE build.id = step.build) = ?2
         ORDER BY id DESC LIMIT 1"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query(params![attr, project])?;
    rows.next()?.map(read).transpose()
}

/// The attribute paths by which something was asked for in a run.
pub(crate) fn attrs_of_build(db: &Connection, build: i64) -> Result<Vec<String>> {
    let sql = "SELECT DISTINCT attr FROM step WHERE build = ?1 AND attr IS NOT NULL";
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([build], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The newest step that made an output of this path.
pub(crate) fn step_with_output(db: &Connection, path: &StorePath) -> Result<Option<StepRow>> {
    // Outputs bear the name of their derivation, perhaps with that of the output behind it; but not every output must.
    let sql = format!(
        "SELECT {COLUMNS} FROM step WHERE outputs LIKE '%' || ?1 || '\"%' ORDER BY id DESC LIMIT 1"
    );
    let mut statement = db.prepare_cached(&sql)?;
    let mut rows = statement.query([path.as_str()])?;
    rows.next()?.map(read).transpose()
}

/// The names of all steps.
pub(crate) fn step_names(db: &Connection) -> Result<Vec<String>> {
    let mut statement = db.prepare_cached("SELECT DISTINCT name FROM step ORDER BY name")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Forgets the oldest runs while there are more than `keep` steps; the newest run stays.
pub(crate) fn trim_steps(db: &Connection, keep: u32) -> Result<()> {
    // Numbers of steps have no large gaps: as a first look they are enough, and cost nothing.
    let count: i64 = db
        .prepare_cached("SELECT coalesce(max(id) - min(id), 0) FROM step")?
        .query_row([], |row| row.get(0))?;
    if count < i64::from(keep) {
        return Ok(());
    }
    let sql = "DELETE FROM build WHERE id < (
                   SELECT build FROM step ORDER BY id DESC LIMIT 1 OFFSET ?1)";
    db.prepare_cached(sql)?.execute([keep])?;
    Ok(())
}

/// Forgets what was seen in runs that are forgotten.
pub(crate) fn trim_seen(db: &Connection) -> Result<()> {
    let sql = "DELETE FROM seen WHERE build < (SELECT min(id) FROM build)";
    db.prepare_cached(sql)?.execute([])?;
    Ok(())
}

/// Keeps the files of a source.
pub(crate) fn put_source(
    db: &Connection,
    base: &StorePath,
    noted: i64,
    packed: &[u8],
) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO source (base, noted, size, files) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(sql)?.execute(params![
        base.as_str(),
        noted,
        Unsigned(packed.len() as u64),
        packed
    ])?;
    Ok(())
}

/// Whether the files of a source are kept.
pub(crate) fn has_source(db: &Connection, base: &StorePath) -> Result<bool> {
    Ok(db
        .prepare_cached("SELECT 1 FROM source WHERE base = ?1")?
        .exists([base.as_str()])?)
}

/// The files of a source.
pub(crate) fn get_source(db: &Connection, base: &StorePath) -> Result<Option<Vec<u8>>> {
    Ok(db
        .prepare_cached("SELECT files FROM source WHERE base = ?1")?
        .query_row([base.as_str()], |row| row.get(0))
        .optional()?)
}

/// Forgets the files of sources that were noted before a moment, and the oldest while there are more bytes than `keep`.
pub(crate) fn trim_sources(db: &Connection, before: i64, keep: u64) -> Result<()> {
    db.prepare_cached("DELETE FROM source WHERE noted < ?1")?
        .execute([before])?;
    let sql = "SELECT noted, size FROM source ORDER BY noted DESC";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([])?;
    let mut all: u64 = 0;
    let mut limit = None;
    while let Some(row) = rows.next()? {
        all += row.get::<_, Unsigned>(1)?.0;
        if all > keep {
            limit = Some(row.get::<_, i64>(0)?);
            break;
        }
    }
    if let Some(limit) = limit {
        db.prepare_cached("DELETE FROM source WHERE noted <= ?1")?
            .execute([limit])?;
    }
    Ok(())
}

fn read(row: &Row<'_>) -> Result<StepRow> {
    let base: String = row.get(1)?;
    let drv = StorePath::from_base(&base).map_err(|err| StoreError::DatabaseCorrupt {
        detail: err.to_string(),
    })?;
    let time = |at: usize| -> rusqlite::Result<Option<u64>> {
        Ok(row.get::<_, Option<Unsigned>>(at)?.map(|ms| ms.0))
    };
    Ok(StepRow {
        build: row.get(0)?,
        drv,
        name: row.get(2)?,
        attr: row.get(3)?,
        status: row.get(4)?,
        queued_ms: row.get::<_, Unsigned>(5)?.0,
        started_ms: time(6)?,
        finished_ms: time(7)?,
        cause: row.get(8)?,
        outputs: row.get(9)?,
        detail: row.get(10)?,
    })
}
