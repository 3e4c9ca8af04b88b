//! Derivations, their outputs, and the results of builds.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};
use sos_formats::store_path::StorePath;

use super::Unsigned;
use crate::error::{Result, StoreError};
use crate::outputs::{Rebuild, RebuildRecord, Trace, TraceRecord};

/// Keeps the text of a derivation.
pub(crate) fn put_drv(db: &Connection, path: &StorePath, aterm: &[u8]) -> Result<()> {
    let sql = "INSERT OR IGNORE INTO drv (hash20, name, aterm) VALUES (?1, ?2, ?3)";
    db.prepare_cached(sql)?
        .execute(params![path.hash_bytes(), path.name(), aterm])?;
    Ok(())
}

/// Finds the text of a derivation.
pub(crate) fn get_drv(db: &Connection, path: &StorePath) -> Result<Option<Vec<u8>>> {
    let mut statement =
        db.prepare_cached("SELECT aterm FROM drv WHERE hash20 = ?1 AND name = ?2")?;
    Ok(statement
        .query_row(params![path.hash_bytes(), path.name()], |row| row.get(0))
        .optional()?)
}

/// Lists the derivations that are kept.
pub(crate) fn all_drvs(db: &Connection) -> Result<BTreeSet<StorePath>> {
    let mut statement = db.prepare("SELECT hash20, name FROM drv")?;
    let mut rows = statement.query([])?;
    let mut found = BTreeSet::new();
    while let Some(row) = rows.next()? {
        let name: String = row.get(1)?;
        let path =
            StorePath::new(row.get(0)?, &name).map_err(|err| StoreError::DatabaseCorrupt {
                detail: err.to_string(),
            })?;
        found.insert(path);
    }
    Ok(found)
}

/// Forgets a derivation and where its outputs are.
pub(crate) fn delete_drv(db: &Connection, path: &StorePath) -> Result<()> {
    db.prepare_cached("DELETE FROM drv WHERE hash20 = ?1")?
        .execute([path.hash_bytes()])?;
    Ok(())
}

/// Forgets that a path is the output of anything.
pub(crate) fn delete_results_of(db: &Connection, path: &StorePath) -> Result<()> {
    let sql = concat!("DELETE FROM drv_output WHERE ", is_base!("path"));
    db.prepare_cached(sql)?.execute([path.as_str()])?;
    db.prepare_cached("DELETE FROM trace WHERE path = ?1")?
        .execute([path.as_str()])?;
    db.prepare_cached("DELETE FROM rebuild WHERE path = ?1")?
        .execute([path.as_str()])?;
    Ok(())
}

/// Finds the output of a derivation, if that path is valid.
pub(crate) fn get_output(
    db: &Connection,
    drv: &StorePath,
    output: &str,
) -> Result<Option<StorePath>> {
    let sql = concat!(
        "SELECT path FROM drv_output WHERE output = ?2 AND ",
        is_base!("drv")
    );
    let found: Option<String> = db
        .prepare_cached(sql)?
        .query_row(params![drv.as_str(), output], |row| row.get(0))
        .optional()?;
    valid(db, found)
}

/// Notes the output of a derivation, in place of an earlier note.
pub(crate) fn set_output(
    db: &Connection,
    drv: &StorePath,
    output: &str,
    path: &StorePath,
) -> Result<()> {
    let sql = concat!(
        "SELECT id, path FROM drv_output WHERE output = ?2 AND ",
        is_base!("drv")
    );
    let known: Option<(i64, String)> = db
        .prepare_cached(sql)?
        .query_row(params![drv.as_str(), output], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })
        .optional()?;
    match known {
        Some((_, there)) if there == path.as_str() => {}
        Some((id, _)) => {
            db.prepare_cached("UPDATE drv_output SET path = ?2 WHERE id = ?1")?
                .execute(params![id, path.as_str()])?;
        }
        None => {
            db.prepare_cached("INSERT INTO drv_output (drv, output, path) VALUES (?1, ?2, ?3)")?
                .execute(params![drv.as_str(), output, path.as_str()])?;
        }
    }
    Ok(())
}

/// All outputs of a derivation that are valid.
pub(crate) fn outputs_of(db: &Connection, drv: &StorePath) -> Result<Vec<(String, StorePath)>> {
    let sql = concat!(
        "SELECT output, path FROM drv_output WHERE ",
        is_base!("drv"),
        " ORDER BY output"
    );
    let mut statement = db.prepare_cached(sql)?;
    let rows = statement.query_map([drv.as_str()], |row| {
        Ok((row.get::<_, String>(0)?, row.get(1)?))
    })?;
    let mut found = Vec::new();
    for row in rows {
        let (output, path) = row?;
        if let Some(path) = valid(db, Some(path))? {
            found.push((output, path));
        }
    }
    Ok(found)
}

/// Finds the newest valid result for a key.
pub(crate) fn find_trace(
    db: &Connection,
    key: &[u8; 32],
    output: &str,
) -> Result<Option<StorePath>> {
    let sql = "SELECT path FROM trace WHERE key = ?1 AND output = ?2 ORDER BY id DESC";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![key, output])?;
    while let Some(row) = rows.next()? {
        if let Some(path) = valid(db, Some(row.get(0)?))? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Adds a result.
pub(crate) fn insert_trace(db: &Connection, trace: &Trace) -> Result<()> {
    let sql = "INSERT INTO trace (key, output, drv, path, builder, started, duration_ms, log, host)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    db.prepare_cached(sql)?.execute(params![
        trace.key,
        trace.output,
        trace.drv.as_str(),
        trace.path.as_str(),
        trace.builder,
        trace.started_secs,
        Unsigned(trace.duration_ms),
        trace.log.as_ref().map(StorePath::as_str),
        trace.host,
    ])?;
    Ok(())
}

const TRACE_COLUMNS: &str =
    "SELECT id, key, output, drv, path, builder, started, duration_ms, log, host FROM trace";

/// All results that made a path, oldest first.
pub(crate) fn traces_of(db: &Connection, path: &StorePath) -> Result<Vec<TraceRecord>> {
    let sql = format!("{TRACE_COLUMNS} WHERE path = ?1 ORDER BY id");
    traces(db, &sql, path.as_str())
}

/// All results under a key, oldest first.
pub(crate) fn traces_of_key(db: &Connection, key: &[u8; 32]) -> Result<Vec<TraceRecord>> {
    let sql = format!("{TRACE_COLUMNS} WHERE key = ?1 ORDER BY id");
    traces(db, &sql, key)
}

fn traces(db: &Connection, sql: &str, of: impl rusqlite::ToSql) -> Result<Vec<TraceRecord>> {
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![of])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let log: Option<String> = row.get(8)?;
        found.push(TraceRecord {
            id: row.get(0)?,
            trace: Trace {
                key: row.get(1)?,
                output: row.get(2)?,
                drv: parse(&row.get::<_, String>(3)?)?,
                path: parse(&row.get::<_, String>(4)?)?,
                builder: row.get(5)?,
                started_secs: row.get(6)?,
                duration_ms: row.get::<_, Unsigned>(7)?.0,
                log: log.as_deref().map(parse).transpose()?,
                host: row.get(9)?,
            },
        });
    }
    Ok(found)
}

/// Adds what came out of a rebuild, if the output that it was compared with is still there.
pub(crate) fn insert_rebuild(db: &Connection, rebuild: &Rebuild) -> Result<()> {
    if super::path_id(db, &rebuild.path)?.is_none() {
        return Ok(());
    }
    let sql = "INSERT INTO rebuild (path, drv, output, same, found, conditions, host, started, duration_ms)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
    db.prepare_cached(sql)?.execute(params![
        rebuild.path.as_str(),
        rebuild.drv.as_str(),
        rebuild.output,
        rebuild.same,
        rebuild.found,
        rebuild.conditions,
        rebuild.host,
        rebuild.started_secs,
        Unsigned(rebuild.duration_ms),
    ])?;
    Ok(())
}

/// What came out when a path was built again, oldest first.
pub(crate) fn rebuilds_of(db: &Connection, path: &StorePath) -> Result<Vec<RebuildRecord>> {
    let sql = "SELECT id, path, drv, output, same, found, conditions, host, started, duration_ms FROM rebuild
               WHERE path = ?1 ORDER BY id";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query([path.as_str()])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(RebuildRecord {
            id: row.get(0)?,
            rebuild: Rebuild {
                path: parse(&row.get::<_, String>(1)?)?,
                drv: parse(&row.get::<_, String>(2)?)?,
                output: row.get(3)?,
                same: row.get(4)?,
                found: row.get(5)?,
                conditions: row.get(6)?,
                host: row.get(7)?,
                started_secs: row.get(8)?,
                duration_ms: row.get::<_, Unsigned>(9)?.0,
            },
        });
    }
    Ok(found)
}

/// The derivations that were built, each with what came out.
pub(crate) fn all_results(db: &Connection) -> Result<Vec<(StorePath, StorePath)>> {
    let mut statement = db.prepare("SELECT DISTINCT drv, path FROM trace")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((
            parse(&row.get::<_, String>(0)?)?,
            parse(&row.get::<_, String>(1)?)?,
        ));
    }
    Ok(found)
}

/// Whether a derivation has a result.
pub(crate) fn has_result(db: &Connection, drv: &StorePath) -> Result<bool> {
    let mut statement = db.prepare_cached("SELECT 1 FROM trace WHERE drv = ?1")?;
    Ok(statement.exists([drv.as_str()])?)
}

/// The derivations that were built, each with the second in which the newest build of it began.
pub(crate) fn built_drvs(db: &Connection) -> Result<Vec<(StorePath, i64)>> {
    let mut statement = db.prepare("SELECT drv, max(started) FROM trace GROUP BY drv")?;
    let mut rows = statement.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push((parse(&row.get::<_, String>(0)?)?, row.get(1)?));
    }
    Ok(found)
}

fn valid(db: &Connection, base: Option<String>) -> Result<Option<StorePath>> {
    let Some(base) = base else { return Ok(None) };
    let path = parse(&base)?;
    Ok(super::path_id(db, &path)?.map(|_| path))
}

fn parse(base: &str) -> Result<StorePath> {
    StorePath::from_base(base).map_err(|err| StoreError::DatabaseCorrupt {
        detail: err.to_string(),
    })
}
