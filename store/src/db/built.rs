//! What was built under which name.

use rusqlite::{Connection, OptionalExtension, Row, params};
use sos_formats::store_path::StorePath;

use crate::built::BuiltRow;
use crate::error::{Result, StoreError};

/// Notes a build in place of an earlier note of the same derivation; keeps the texts of the newest `keep` of that name.
pub(crate) fn insert_built(
    db: &Connection,
    row: &BuiltRow,
    name: &str,
    system: &str,
    noted: i64,
    keep: u32,
) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO built (drv, name, system, identity, noted, aterm)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    db.prepare_cached(sql)?.execute(params![
        row.drv.as_str(),
        name,
        system,
        row.identity.as_str(),
        noted,
        row.packed,
    ])?;
    let trim = "UPDATE built SET aterm = NULL
                WHERE name = ?1 AND system = ?2 AND aterm IS NOT NULL AND id <= (
                    SELECT id FROM built WHERE name = ?1 AND system = ?2 AND aterm IS NOT NULL
                    ORDER BY id DESC LIMIT 1 OFFSET ?3)";
    db.prepare_cached(trim)?
        .execute(params![name, system, keep])?;
    Ok(())
}

/// Whether there is such a table.
pub(crate) fn has_built(db: &Connection) -> Result<bool> {
    let sql = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'built'";
    Ok(db.prepare_cached(sql)?.exists([])?)
}

/// Finds the note of a derivation.
pub(crate) fn built_of(db: &Connection, drv: &StorePath) -> Result<Option<BuiltRow>> {
    let sql = "SELECT drv, identity, collected, aterm FROM built WHERE drv = ?1";
    let found = db
        .prepare_cached(sql)?
        .query_row([drv.as_str()], |row| Ok(read(row)))
        .optional()?;
    found.transpose()
}

/// Finds the newest note of a build that was the same once its inputs were known.
pub(crate) fn built_as(db: &Connection, identity: &StorePath) -> Result<Option<BuiltRow>> {
    let sql = "SELECT drv, identity, collected, aterm FROM built WHERE identity = ?1
               ORDER BY id DESC LIMIT 1";
    let found = db
        .prepare_cached(sql)?
        .query_row([identity.as_str()], |row| Ok(read(row)))
        .optional()?;
    found.transpose()
}

/// Whether the text of a build is kept.
pub(crate) fn has_built_text(db: &Connection, identity: &StorePath) -> Result<bool> {
    let sql = "SELECT 1 FROM built WHERE identity = ?1 AND aterm IS NOT NULL";
    Ok(db.prepare_cached(sql)?.exists([identity.as_str()])?)
}

/// Lists the notes of a name that have their text, newest first.
pub(crate) fn built_before(
    db: &Connection,
    name: &str,
    system: &str,
    limit: u32,
) -> Result<Vec<BuiltRow>> {
    let sql = "SELECT drv, identity, collected, aterm FROM built
               WHERE name = ?1 AND system = ?2 AND aterm IS NOT NULL ORDER BY id DESC LIMIT ?3";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![name, system, limit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// The names of everything that was noted, as in the paths of derivations: behind 32 digits and a dash.
pub(crate) fn built_names(db: &Connection) -> Result<Vec<String>> {
    // The index has all of it: the texts are not touched.
    let mut statement = db.prepare_cached("SELECT DISTINCT substr(identity, 34) FROM built")?;
    let rows = statement.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Notes that a collection takes a path. Must come before its results are forgotten.
pub(crate) fn note_collected(db: &Connection, path: &StorePath) -> Result<()> {
    let sql = concat!(
        "UPDATE built SET collected = 1 WHERE drv IN (SELECT drv FROM drv_output WHERE ",
        is_base!("path"),
        ")"
    );
    db.prepare_cached(sql)?.execute([path.as_str()])?;
    Ok(())
}

/// Forgets what was noted before a moment.
pub(crate) fn trim_built(db: &Connection, before: i64) -> Result<()> {
    db.execute("DELETE FROM built WHERE noted < ?1", [before])?;
    Ok(())
}

fn read(row: &Row<'_>) -> Result<BuiltRow> {
    let path = |at: usize| -> Result<StorePath> {
        let base: String = row.get(at)?;
        StorePath::from_base(&base).map_err(|err| StoreError::DatabaseCorrupt {
            detail: err.to_string(),
        })
    };
    Ok(BuiltRow {
        drv: path(0)?,
        identity: path(1)?,
        collected: row.get(2)?,
        packed: row.get(3)?,
    })
}
