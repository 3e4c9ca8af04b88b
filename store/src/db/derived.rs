//! What was worked out of blobs.

use rusqlite::{Connection, OptionalExtension, params};
use sos_formats::hash::Blake3;

use crate::derived::Derived;
use crate::error::Result;

/// Finds a value.
pub(crate) fn find_derived(db: &Connection, key: &Blake3) -> Result<Option<Vec<u8>>> {
    let mut statement = db.prepare_cached("SELECT value FROM derived WHERE key = ?1")?;
    Ok(statement.query_row([key.0], |row| row.get(0)).optional()?)
}

/// Notes a value.
pub(crate) fn put_derived(db: &Connection, derived: &Derived) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO derived (key, source, value) VALUES (?1, ?2, ?3)";
    db.prepare_cached(sql)?
        .execute(params![derived.key.0, derived.source.0, derived.value])?;
    Ok(())
}

/// Lists the blobs of which something is known.
pub(crate) fn derived_sources(db: &Connection) -> Result<Vec<Blake3>> {
    let mut statement = db.prepare_cached("SELECT DISTINCT source FROM derived")?;
    let rows = statement.query_map([], |row| Ok(Blake3(row.get(0)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Forgets what is known of a blob.
pub(crate) fn delete_derived(db: &Connection, source: &Blake3) -> Result<()> {
    db.prepare_cached("DELETE FROM derived WHERE source = ?1")?
        .execute([source.0])?;
    Ok(())
}
