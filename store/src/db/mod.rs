//! The metadata of the store in SQLite. All SQL of sos is in this directory.
//!
//! One connection writes, behind a lock; readers take their own from a small pool, so a long write never
//! delays a query. Write transactions begin IMMEDIATE: they are also what keeps two processes apart while
//! one of them moves a tree into place (see `commit`) or out of it (see `gc`).

/// The condition that a column is the base name in the first parameter, for columns with an index of the first digits of their base
/// names. With `=` in place of `BETWEEN`, SQLite would put the parameter for the column also where the index is looked for.
macro_rules! is_base {
    ($column:literal) => {
        concat!(
            "substr(",
            $column,
            ", 1, 12) = substr(?1, 1, 12) AND ",
            $column,
            " BETWEEN ?1 AND ?1"
        )
    };
}

mod built;
mod cache;
mod derived;
mod drvs;
mod evaluations;
mod journal;
mod leases;
mod paths;
mod steps;
mod targets;

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSql, ToSqlOutput, ValueRef};
use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use crate::error::{Result, StoreError};

pub(crate) use built::*;
pub(crate) use cache::*;
pub(crate) use derived::*;
pub(crate) use drvs::*;
pub(crate) use evaluations::*;
pub(crate) use journal::*;
pub(crate) use leases::*;
pub(crate) use paths::*;
pub(crate) use steps::*;
pub(crate) use targets::*;

/// How the schema came to be, oldest first; `PRAGMA user_version` counts how many were applied.
const MIGRATIONS: &[&str] = &[
    include_str!("001_initial.sql"),
    include_str!("002_evaluations.sql"),
    include_str!("003_built.sql"),
    include_str!("004_derived.sql"),
    include_str!("005_steps.sql"),
    include_str!("006_rebuilds.sql"),
    include_str!("007_below.sql"),
    include_str!("008_appended.sql"),
    include_str!("009_targets.sql"),
    include_str!("010_unfinished.sql"),
];

/// How long a writer waits for another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(120);

/// Idle reading connections that are kept.
const MAX_IDLE_READERS: usize = 8;

/// Pages in the write-ahead log before SQLite copies them back (4 KiB each).
const WAL_PAGES: u32 = 4000;

/// KiB of pages that the writer keeps, as SQLite wants it, negative: the notes of a large run touch pages all over the file, and
/// what does not fit is written to the log twice.
const WRITER_CACHE: i32 = -8192;

/// A longer log is not left behind: the next process would read all of it before its first query, at 0.7 ms a MiB. To copy it back
/// costs ten times as much, and waits for the disk.
const WAL_LEFT: u64 = 4 << 20;

/// The open database.
pub(crate) struct Db {
    file: PathBuf,
    mode: Mode,
    writer: Mutex<Connection>,
    readers: Mutex<Vec<Connection>>,
    /// The store and whose it is, where that is why nothing is written.
    foreign: Option<(PathBuf, u32)>,
}

thread_local! {
    /// The connection of the snapshot that this thread is in, and whose it is.
    static PINNED: RefCell<Option<(*const Db, Rc<Connection>)>> = const { RefCell::new(None) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    ReadWrite,
    ReadOnly,
    /// On a read-only mount without a `-shm` file, SQLite can only read a database that nobody writes.
    Immutable,
}

impl Drop for Db {
    /// Leaves a short log. SQLite would copy back even the shortest when its last writer goes, and wait for the disk.
    fn drop(&mut self) {
        lock(&self.readers).clear();
        if self.mode != Mode::ReadWrite {
            return;
        }
        let writer = lock(&self.writer);
        let log = self.file.with_extension("sqlite-wal");
        if std::fs::metadata(log).is_ok_and(|meta| meta.len() > WAL_LEFT) {
            // Others may be reading: then one of them does it.
            let shorten = || {
                writer.busy_timeout(Duration::ZERO)?;
                writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
            };
            if let Err(error) = shorten() {
                tracing::debug!(%error, "the log of the database stays long");
            }
        }
    }
}

impl Db {
    /// Opens the database for writing, making or migrating it. The caller holds the store's set-up lock.
    pub(crate) fn open(root: &Path) -> Result<Self> {
        let file = root.join("db/sos.sqlite");
        let open = || {
            let mut writer = connect(&file, Mode::ReadWrite)?;
            migrate(&mut writer, root)?;
            Ok(writer)
        };
        let writer = open().map_err(|e: StoreError| e.of_database(&file))?;
        Ok(Self {
            file,
            mode: Mode::ReadWrite,
            writer: Mutex::new(writer),
            foreign: None,
            readers: Mutex::default(),
        })
    }

    /// Opens the database for queries only; works on a read-only mount. `foreign` is whose the store is, if that is why.
    pub(crate) fn open_read_only(root: &Path, foreign: Option<u32>) -> Result<Self> {
        let file = root.join("db/sos.sqlite");
        let mut mode = Mode::ReadOnly;
        let connection = match connect(&file, mode)
            .and_then(|db| user_version(&db).map(|version| (db, version)))
        {
            Ok((db, version)) => {
                check_version(version, root)?;
                db
            }
            Err(first) => {
                let wal = root.join("db/sos.sqlite-wal");
                let wal_has_data = std::fs::metadata(wal).is_ok_and(|meta| meta.len() > 0);
                if wal_has_data || !file.exists() {
                    return Err(first);
                }
                mode = Mode::Immutable;
                let db = connect(&file, mode)?;
                check_version(user_version(&db)?, root)?;
                db
            }
        };
        Ok(Self {
            file,
            mode,
            writer: Mutex::new(connection),
            foreign: foreign.map(|owner| (root.to_owned(), owner)),
            readers: Mutex::default(),
        })
    }

    /// Runs queries on a connection of their own; within [`Db::snapshot`], on that of the snapshot.
    pub(crate) fn read<T>(&self, work: impl FnOnce(&Connection) -> Result<T>) -> Result<T> {
        let pinned = PINNED.with_borrow(|pinned| match pinned {
            Some((of, connection)) if std::ptr::eq(*of, self) => Some(connection.clone()),
            _ => None,
        });
        if let Some(connection) = pinned {
            return self.named(work(&connection));
        }
        let connection = self.reader()?;
        let result = work(&connection);
        self.give_back(connection);
        self.named(result)
    }

    /// Says of a full disk which file is on it.
    pub(crate) fn named<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|e| e.of_database(&self.file))
    }

    /// Lets everything that `work` reads on this thread be of one moment. SQLite locks and unlocks its files once, and not for
    /// every question.
    pub(crate) fn snapshot<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        /// Unpins also when `work` panics.
        struct Pin;
        impl Drop for Pin {
            fn drop(&mut self) {
                PINNED.with_borrow_mut(|pinned| *pinned = None);
            }
        }
        if PINNED.with_borrow(Option::is_some) {
            return Ok(work());
        }
        let connection = Rc::new(self.reader()?);
        connection.execute_batch("BEGIN")?;
        PINNED.with_borrow_mut(|pinned| *pinned = Some((self, connection.clone())));
        let pin = Pin;
        let value = work();
        drop(pin);
        connection.execute_batch("COMMIT")?;
        if let Some(connection) = Rc::into_inner(connection) {
            self.give_back(connection);
        }
        Ok(value)
    }

    fn reader(&self) -> Result<Connection> {
        let pooled = lock(&self.readers).pop();
        if let Some(connection) = pooled {
            return Ok(connection);
        }
        let mode = if self.mode == Mode::ReadWrite {
            Mode::ReadOnly
        } else {
            self.mode
        };
        self.named(connect(&self.file, mode))
    }

    fn give_back(&self, connection: Connection) {
        let mut idle = lock(&self.readers);
        if idle.len() < MAX_IDLE_READERS {
            idle.push(connection);
        }
    }

    /// Says why nothing is written.
    pub(crate) fn refusal(&self) -> StoreError {
        match &self.foreign {
            Some((root, owner)) => StoreError::Foreign {
                root: root.clone(),
                owner: *owner,
            },
            None => StoreError::ReadOnly,
        }
    }

    /// Runs one write transaction; everything or nothing of it happens.
    pub(crate) fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T> {
        if self.mode != Mode::ReadWrite {
            return Err(self.refusal());
        }
        let mut writer = lock(&self.writer);
        let write = || {
            let transaction = writer.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let value = work(&transaction)?;
            transaction.commit()?;
            Ok(value)
        };
        self.named(write())
    }

    /// Opens another writing connection, for a collection.
    pub(crate) fn open_for_gc(&self) -> Result<GcConnection> {
        if self.mode != Mode::ReadWrite {
            return Err(self.refusal());
        }
        self.named(connect(&self.file, Mode::ReadWrite))
            .map(GcConnection)
    }

    /// Copies the write-ahead log back and cuts it, so that a full disk gets its room back.
    pub(crate) fn checkpoint(&self) -> Result<()> {
        if self.mode != Mode::ReadWrite {
            return Err(self.refusal());
        }
        let writer = lock(&self.writer);
        let done = writer.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        self.named(done.map_err(StoreError::from))
    }

    /// Asks SQLite to look through the whole file; returns what it complains about.
    pub(crate) fn integrity(&self) -> Result<Vec<String>> {
        self.read(|db| {
            let mut found = Vec::new();
            let mut statement = db.prepare("PRAGMA integrity_check(50)")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            for row in rows {
                let line = row?;
                if line != "ok" {
                    found.push(line);
                }
            }
            let mut statement = db.prepare("PRAGMA foreign_key_check")?;
            let rows = statement.query_map([], |row| row.get::<_, String>(0))?;
            for row in rows {
                found.push(format!("a row of table `{}` refers to nothing", row?));
            }
            Ok(found)
        })
    }
}

/// Takes a lock even if a thread panicked with it: the database itself keeps its transactions whole.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A writing connection of a collection.
pub(crate) struct GcConnection(pub(crate) Connection);

/// A number that changes whenever another connection has committed.
pub(crate) fn data_version(connection: &Connection) -> Result<i64> {
    Ok(connection.pragma_query_value(None, "data_version", |row| row.get(0))?)
}

/// A count or a size: the database knows signed numbers only, and none of ours comes near the limit.
pub(crate) struct Unsigned(pub(crate) u64);

impl ToSql for Unsigned {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(i64::try_from(self.0).unwrap_or(i64::MAX).into())
    }
}

impl FromSql for Unsigned {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Self> {
        let number = value.as_i64()?;
        u64::try_from(number)
            .map(Self)
            .map_err(|_negative| FromSqlError::OutOfRange(number))
    }
}

fn connect(file: &Path, mode: Mode) -> Result<Connection> {
    let base = OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = match mode {
        Mode::ReadWrite => {
            let flags = base | OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE;
            Connection::open_with_flags(file, flags)?
        }
        Mode::ReadOnly => {
            Connection::open_with_flags(file, base | OpenFlags::SQLITE_OPEN_READ_ONLY)?
        }
        Mode::Immutable => {
            let flags = base | OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_URI;
            Connection::open_with_flags(immutable_uri(file), flags)?
        }
    };
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(64);
    // A plan does not depend on the values that are asked for; SQLite would plan some statements anew for each.
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true)?;
    if mode == Mode::ReadWrite {
        let journal: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if !journal.eq_ignore_ascii_case("wal") {
            // A file system without shared memory: the rollback journal is slower, and as safe.
            tracing::debug!(%journal, "the database does not use a write-ahead log");
        }
        connection.pragma_update(None, "synchronous", "NORMAL")?;
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        connection.pragma_update(None, "wal_autocheckpoint", WAL_PAGES)?;
        connection.pragma_update(None, "cache_size", WRITER_CACHE)?;
        connection.pragma_update(None, "foreign_keys", true)?;
    }
    Ok(connection)
}

fn immutable_uri(file: &Path) -> String {
    use std::fmt::Write as _;
    use std::os::unix::ffi::OsStrExt;
    let mut uri = String::from("file:");
    for &byte in file.as_os_str().as_bytes() {
        if byte.is_ascii_alphanumeric() || b"/-_.".contains(&byte) {
            uri.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(uri, "%{byte:02x}");
        }
    }
    uri + "?immutable=1"
}

fn user_version(connection: &Connection) -> Result<u64> {
    let version: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    u64::try_from(version).map_err(|_negative| StoreError::DatabaseCorrupt {
        detail: format!("format number {version}"),
    })
}

fn check_version(found: u64, root: &Path) -> Result<()> {
    let supported = MIGRATIONS.len() as u64;
    if found > supported {
        return Err(StoreError::TooNew {
            root: root.to_owned(),
            found,
            supported,
        });
    }
    if found == 0 {
        return Err(StoreError::NotAStore {
            root: root.to_owned(),
            reason: "its database is empty",
        });
    }
    Ok(())
}

fn migrate(connection: &mut Connection, root: &Path) -> Result<()> {
    let supported = MIGRATIONS.len() as u64;
    if user_version(connection)? == supported {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Exclusive)?;
    // Another process may have been first.
    let found = user_version(&transaction)?;
    if found > supported {
        return Err(StoreError::TooNew {
            root: root.to_owned(),
            found,
            supported,
        });
    }
    let done = usize::try_from(found).unwrap_or(MIGRATIONS.len());
    for migration in MIGRATIONS.iter().skip(done) {
        transaction.execute_batch(migration)?;
    }
    transaction.pragma_update(None, "user_version", Unsigned(supported))?;
    transaction.commit()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base_names_are_found_by_the_small_indexes() {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::create_dir(dir.path().join("db")).expect("a directory");
        let db = Db::open(dir.path()).expect("a database");
        for (table, condition) in [
            ("drv_output", is_base!("drv")),
            ("drv_output", is_base!("path")),
            ("step", is_base!("drv")),
            ("seen", is_base!("base")),
        ] {
            let sql = format!("EXPLAIN QUERY PLAN SELECT * FROM {table} WHERE {condition}");
            let plan: String = db
                .read(|db| Ok(db.query_row(&sql, ["x"], |row| row.get(3))?))
                .expect("a plan");
            assert!(plan.contains("(<expr>=?)"), "{table}: {plan}");
        }
    }
}
