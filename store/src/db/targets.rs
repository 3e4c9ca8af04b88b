//! What the targets of projects were.

use rusqlite::{Connection, OptionalExtension, params};
use sos_formats::store_path::StorePath;

use crate::error::{Result, StoreError};

/// Notes what a target is, in place of what it was.
pub(crate) fn put_target(
    db: &Connection,
    project: &str,
    attr: &str,
    drv: &StorePath,
    noted: i64,
) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO target (attr, project, drv, noted) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(sql)?
        .execute(params![attr, project, drv.as_str(), noted])?;
    Ok(())
}

/// Whether there is such a table.
pub(crate) fn has_targets(db: &Connection) -> Result<bool> {
    let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'target'";
    Ok(db.prepare_cached(sql)?.exists([])?)
}

/// What a target of a project was.
pub(crate) fn target(db: &Connection, project: &str, attr: &str) -> Result<Option<StorePath>> {
    let sql = "SELECT drv FROM target WHERE attr = ?1 AND project = ?2";
    let found: Option<String> = db
        .prepare_cached(sql)?
        .query_row([attr, project], |row| row.get(0))
        .optional()?;
    found.as_deref().map(parse).transpose()
}

/// What the targets of the same attribute path were in other projects, newest first.
pub(crate) fn targets_elsewhere(
    db: &Connection,
    project: &str,
    attr: &str,
    limit: u32,
) -> Result<Vec<StorePath>> {
    let sql = "SELECT drv FROM target WHERE attr = ?1 AND project <> ?2
               ORDER BY id DESC LIMIT ?3";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![attr, project, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(parse(&row.get::<_, String>(0)?)?);
    }
    Ok(found)
}

/// Forgets what was noted before a moment.
pub(crate) fn trim_targets(db: &Connection, before: i64) -> Result<()> {
    db.execute("DELETE FROM target WHERE noted < ?1", [before])?;
    Ok(())
}

/// Forgets runs that began before a moment.
pub(crate) fn trim_unfinished(db: &Connection, before: i64) -> Result<()> {
    db.execute("DELETE FROM unfinished WHERE noted < ?1", [before])?;
    Ok(())
}

/// Notes that a run for a target has begun, in place of an earlier one.
pub(crate) fn put_unfinished(
    db: &Connection,
    project: &str,
    attr: &str,
    drv: &StorePath,
    noted: i64,
) -> Result<()> {
    let sql =
        "INSERT OR REPLACE INTO unfinished (attr, project, drv, noted) VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(sql)?
        .execute(params![attr, project, drv.as_str(), noted])?;
    Ok(())
}

/// Whether a run for a target has begun, or for what it is, and has not come to its end.
pub(crate) fn is_unfinished(
    db: &Connection,
    project: &str,
    attr: &str,
    drv: &StorePath,
) -> Result<bool> {
    let sql = "SELECT 1 FROM unfinished WHERE attr = ?1 AND project = ?2 OR drv = ?3";
    Ok(db
        .prepare_cached(sql)?
        .exists(params![attr, project, drv.as_str()])?)
}

/// Forgets the runs of a target, and of what it is.
pub(crate) fn delete_unfinished(
    db: &Connection,
    project: &str,
    attr: &str,
    drv: &StorePath,
) -> Result<()> {
    let sql = "DELETE FROM unfinished WHERE attr = ?1 AND project = ?2 OR drv = ?3";
    db.prepare_cached(sql)?
        .execute(params![attr, project, drv.as_str()])?;
    Ok(())
}

/// What runs were for that have not come to their end.
pub(crate) fn all_unfinished(db: &Connection) -> Result<Vec<StorePath>> {
    let mut statement = db.prepare("SELECT DISTINCT drv FROM unfinished ORDER BY drv")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(parse(&row.get::<_, String>(0)?)?);
    }
    Ok(found)
}

fn parse(base: &str) -> Result<StorePath> {
    StorePath::from_base(base).map_err(|err| StoreError::DatabaseCorrupt {
        detail: err.to_string(),
    })
}
