//! What was computed before: contents of files by their stat, hashes of source trees.

use rusqlite::{Connection, OptionalExtension, params};
use sos_formats::hash::{Blake3, Sha256};

use super::Unsigned;
use crate::error::Result;
use crate::statcache::StatKey;

/// Finds the content of a file that has not changed.
pub(crate) fn find_stat(db: &Connection, key: &StatKey) -> Result<Option<Blake3>> {
    let sql = "SELECT size, mtime_ns, ctime_ns, blake3 FROM statcache WHERE dev = ?1 AND ino = ?2";
    let mut statement = db.prepare_cached(sql)?;
    let mut rows = statement.query(params![key.dev, key.ino])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let same = row.get::<_, i64>(0)? == key.size
        && row.get::<_, i64>(1)? == key.mtime_ns
        && row.get::<_, i64>(2)? == key.ctime_ns;
    Ok(if same {
        Some(Blake3(row.get(3)?))
    } else {
        None
    })
}

/// Notes the content of a file.
pub(crate) fn put_stat(db: &Connection, key: &StatKey, content: &Blake3) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO statcache (dev, ino, size, mtime_ns, ctime_ns, blake3)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    db.prepare_cached(sql)?.execute(params![
        key.dev,
        key.ino,
        key.size,
        key.mtime_ns,
        key.ctime_ns,
        content.0
    ])?;
    Ok(())
}

/// Finds the hash of a source tree by its listing.
pub(crate) fn find_listing(db: &Connection, listing: &Blake3) -> Result<Option<(Sha256, u64)>> {
    let mut statement =
        db.prepare_cached("SELECT sha256, nar_size FROM treecache WHERE listing = ?1")?;
    let found = statement.query_row([listing.0], |row| {
        Ok((Sha256(row.get(0)?), row.get::<_, Unsigned>(1)?.0))
    });
    Ok(found.optional()?)
}

/// Notes the hash of a source tree.
pub(crate) fn put_listing(
    db: &Connection,
    listing: &Blake3,
    sha256: &Sha256,
    nar_size: u64,
) -> Result<()> {
    let sql = "INSERT OR REPLACE INTO treecache (listing, sha256, nar_size) VALUES (?1, ?2, ?3)";
    db.prepare_cached(sql)?
        .execute(params![listing.0, sha256.0, Unsigned(nar_size)])?;
    Ok(())
}
