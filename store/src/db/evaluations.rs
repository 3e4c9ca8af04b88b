//! Results of evaluations, with what they were computed from.

use rusqlite::{Connection, OptionalExtension, params};
use sos_formats::hash::Blake3;

use super::Unsigned;
use crate::error::Result;
use crate::evaluations::{Evaluation, NewEvaluation};

/// Finds what an evaluation gave.
pub(crate) fn find_evaluation(db: &Connection, key: &Blake3) -> Result<Option<Evaluation>> {
    let sql = "SELECT used, result, inputs FROM evaluation WHERE key = ?1";
    let found = db.prepare_cached(sql)?.query_row([key.0], |row| {
        Ok(Evaluation {
            used_secs: row.get(0)?,
            result: row.get(1)?,
            inputs: row.get(2)?,
        })
    });
    Ok(found.optional()?)
}

/// Finds the graph that belongs to a result.
pub(crate) fn find_graph(db: &Connection, key: &Blake3) -> Result<Option<Vec<u8>>> {
    let sql = "SELECT graph FROM evaluation WHERE key = ?1";
    let found = db
        .prepare_cached(sql)?
        .query_row([key.0], |row| row.get::<_, Option<Vec<u8>>>(0));
    Ok(found.optional()?.flatten())
}

/// Notes what an evaluation gave, in place of what it gave before.
pub(crate) fn put_evaluation(
    db: &Connection,
    key: &Blake3,
    new: NewEvaluation<'_>,
    now_secs: i64,
) -> Result<()> {
    let size = new.result.len() + new.inputs.len() + new.graph.map_or(0, <[u8]>::len);
    let sql = "INSERT OR REPLACE INTO evaluation (key, used, size, result, inputs, graph)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
    db.prepare_cached(sql)?.execute(params![
        key.0,
        now_secs,
        Unsigned(size as u64),
        new.result,
        new.inputs,
        new.graph
    ])?;
    Ok(())
}

/// Notes that an evaluation was used, and what was learnt about the files behind it.
pub(crate) fn touch_evaluation(
    db: &Connection,
    key: &Blake3,
    inputs: Option<&[u8]>,
    now_secs: i64,
) -> Result<()> {
    let sql = "UPDATE evaluation SET used = ?2, inputs = coalesce(?3, inputs) WHERE key = ?1";
    db.prepare_cached(sql)?
        .execute(params![key.0, now_secs, inputs])?;
    Ok(())
}

/// Forgets evaluations last used before a time, and of the rest the longest unused ones until `max_bytes` are left.
pub(crate) fn trim_evaluations(db: &Connection, before_secs: i64, max_bytes: u64) -> Result<()> {
    let mut statement =
        db.prepare_cached("SELECT key, used, size FROM evaluation ORDER BY used DESC")?;
    let rows = statement.query_map([], |row| {
        Ok((
            row.get::<_, Vec<u8>>(0)?,
            row.get::<_, i64>(1)?,
            row.get::<_, Unsigned>(2)?.0,
        ))
    })?;
    let mut kept = 0;
    let mut gone = Vec::new();
    for row in rows {
        let (key, used, size) = row?;
        if used < before_secs || kept + size > max_bytes {
            gone.push(key);
        } else {
            kept += size;
        }
    }
    let mut delete = db.prepare_cached("DELETE FROM evaluation WHERE key = ?1")?;
    for key in gone {
        delete.execute([key])?;
    }
    Ok(())
}
