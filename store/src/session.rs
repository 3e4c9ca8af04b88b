//! What an open store keeps alive while it is at work: a lease on the objects that it touches, and pins on the
//! blobs and manifest nodes that it has written and not yet registered.

use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::sync::{Arc, Mutex};

use sos_formats::hash::Blake3;
use sos_formats::store_path::StorePath;

use crate::db::{self, Db};
use crate::error::{IoContext, Result};
use crate::process::ProcessId;
use crate::store::Store;
use crate::temp::TempDir;

/// The name of the file of pins in a session's directory: 32 bytes a pin, appended.
pub(crate) const PINS: &str = "pins";

/// The working state of one open store, made when it first writes.
pub(crate) struct Session {
    dir: TempDir,
    lease: i64,
    held: Mutex<HashSet<StorePath>>,
    pins: Mutex<Pins>,
    next_file: std::sync::atomic::AtomicU64,
}

struct Pins {
    file: File,
    known: HashSet<Blake3>,
}

impl Session {
    fn begin(store: &Store) -> Result<Self> {
        let dir = store.temp_dir("session")?;
        let path = dir.path().join(PINS);
        let file = File::options()
            .create_new(true)
            .append(true)
            .open(&path)
            .at("make", &path)?;
        let lease = store
            .db()
            .write(|db| db::insert_lease(db, &ProcessId::current(), &dir.name()))?;
        Ok(Self {
            dir,
            lease,
            held: Mutex::default(),
            pins: Mutex::new(Pins {
                file,
                known: HashSet::new(),
            }),
            next_file: std::sync::atomic::AtomicU64::new(0),
        })
    }

    /// The name of the session's directory below `tmp/`.
    pub(crate) fn name(&self) -> String {
        self.dir.name()
    }

    /// The lease of the session.
    pub(crate) fn lease(&self) -> i64 {
        self.lease
    }

    /// A name for a new file in the session's directory.
    pub(crate) fn new_file(&self) -> std::path::PathBuf {
        let number = self
            .next_file
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.dir.path().join(format!("f{number}"))
    }

    /// Keeps a collection from taking blobs and nodes away. Must come *before* looking whether they are there:
    /// the collector looks at the pins after it has moved files aside, and puts the pinned ones back.
    pub(crate) fn pin(&self, hashes: impl IntoIterator<Item = Blake3>) -> Result<()> {
        let mut pins = db::lock(&self.pins);
        let mut line = Vec::new();
        for hash in hashes {
            if pins.known.insert(hash) {
                line.extend_from_slice(&hash.0);
            }
        }
        if line.is_empty() {
            return Ok(());
        }
        if let Err(err) = pins.file.write_all(&line) {
            // What was not written must be written by the next one who asks.
            for hash in line.chunks_exact(32) {
                if let Ok(bytes) = hash.try_into() {
                    pins.known.remove(&Blake3(bytes));
                }
            }
            return Err(crate::StoreError::io(
                "write",
                self.dir.path().join(PINS),
                err,
            ));
        }
        Ok(())
    }

    /// Whether this session has pinned a hash.
    pub(crate) fn is_pinned(&self, hash: &Blake3) -> bool {
        db::lock(&self.pins).known.contains(hash)
    }

    /// The paths among `paths` that the session does not hold yet.
    pub(crate) fn not_held<'a>(&self, paths: &'a [StorePath]) -> Vec<&'a StorePath> {
        let held = db::lock(&self.held);
        paths.iter().filter(|path| !held.contains(*path)).collect()
    }

    /// Remembers that the database has the session's lease on these paths.
    pub(crate) fn set_held<'a>(&self, paths: impl IntoIterator<Item = &'a StorePath>) {
        db::lock(&self.held).extend(paths.into_iter().cloned());
    }

    /// Gives the lease back; the directory goes with the value.
    pub(crate) fn end(&self, database: &Db) {
        if let Err(error) = database.write(|db| db::delete_lease(db, self.lease)) {
            // The lease ends with the process anyway.
            tracing::debug!(%error, "a lease could not be given back");
        }
    }
}

impl Store {
    /// The session of this store, begun when first needed.
    pub(crate) fn session(&self) -> Result<Arc<Session>> {
        self.require_writable()?;
        let mut slot = db::lock(&self.inner.session);
        if let Some(session) = slot.as_ref() {
            return Ok(Arc::clone(session));
        }
        let session = Arc::new(Session::begin(self)?);
        *slot = Some(Arc::clone(&session));
        Ok(session)
    }

    /// The session of this store, if it has begun.
    pub(crate) fn current_session(&self) -> Option<Arc<Session>> {
        db::lock(&self.inner.session).as_ref().map(Arc::clone)
    }

    /// Keeps objects from being collected for as long as this store is open; they need not be valid yet. Every clone
    /// of the store keeps it open, also the one in a tree or a lease. Does nothing on a store that is open for reading.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn hold(&self, paths: &[StorePath]) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let session = self.session()?;
        let wanted = session.not_held(paths);
        if wanted.is_empty() {
            return Ok(());
        }
        self.db().write(|db| {
            wanted
                .iter()
                .try_for_each(|path| db::hold_path(db, session.lease(), path))
        })?;
        session.set_held(wanted);
        Ok(())
    }

    /// Makes a lease of its own, which ends when it is dropped; [`Store::hold`] lasts until the store is closed.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn lease(&self) -> Result<Lease> {
        let id = if self.is_read_only() {
            None
        } else {
            let name = self.session()?.name();
            Some(
                self.db()
                    .write(|db| db::insert_lease(db, &ProcessId::current(), &name))?,
            )
        };
        Ok(Lease {
            store: self.clone(),
            id,
        })
    }
}

/// Keeps objects from being collected until it is dropped, or until the process dies.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    /// None on a store that is open for reading: nobody can collect there either, by this handle.
    id: Option<i64>,
}

impl Lease {
    /// Adds objects, with everything that they refer to; they need not be valid yet.
    ///
    /// # Errors
    /// When the database refuses.
    pub fn hold(&self, paths: &[StorePath]) -> Result<()> {
        let Some(id) = self.id else { return Ok(()) };
        self.store.db().write(|db| {
            paths
                .iter()
                .try_for_each(|path| db::hold_path(db, id, path))
        })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(id) = self.id else { return };
        if let Err(error) = self.store.db().write(|db| db::delete_lease(db, id)) {
            tracing::debug!(%error, "a lease could not be given back");
        }
    }
}
