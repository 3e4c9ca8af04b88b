//! The journal: which builds ran, what happened in them, how long things take.

use crate::clock;
use crate::db;
use crate::error::Result;
use crate::store::Store;

/// Notes of duration that are kept for one name.
const DURATIONS_KEPT: u32 = 20;

/// The number of a build in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BuildId(pub i64);

/// A build in the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildRecord {
    /// Its number.
    pub id: i64,
    /// When it began, in seconds since 1970.
    pub started_secs: i64,
    /// When it ended; none while it runs, or when it was killed.
    pub finished_secs: Option<i64>,
    /// How it ended.
    pub status: Option<String>,
    /// What was asked for.
    pub command: String,
}

impl Store {
    /// Begins a build in the journal. On a store that is open for reading nothing is noted, and that is no error: what
    /// is built already can be used there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn journal_begin(&self, command: &str) -> Result<BuildId> {
        if self.is_read_only() {
            return Ok(BuildId(0));
        }
        self.db()
            .write(|db| db::insert_build(db, clock::now_secs(), command))
            .map(BuildId)
    }

    /// Adds events, one JSON text each, to a build.
    ///
    /// # Errors
    /// When the database fails.
    pub fn journal_events(&self, build: BuildId, events: &[String]) -> Result<()> {
        if events.is_empty() || self.is_read_only() {
            return Ok(());
        }
        self.db().write(|db| db::insert_events(db, build.0, events))
    }

    /// Adds one event to a build.
    ///
    /// # Errors
    /// When the database fails.
    pub fn journal_event(&self, build: BuildId, json: &str) -> Result<()> {
        self.journal_events(build, &[json.to_owned()])
    }

    /// Ends a build.
    ///
    /// # Errors
    /// When the database fails.
    pub fn journal_end(&self, build: BuildId, status: &str) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        self.db()
            .write(|db| db::finish_build(db, build.0, clock::now_secs(), status))
    }

    /// The newest builds, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn recent_builds(&self, limit: u32) -> Result<Vec<BuildRecord>> {
        self.db().read(|db| db::recent_builds(db, limit))
    }

    /// The events of a build, in order.
    ///
    /// # Errors
    /// When the database fails.
    pub fn build_events(&self, build: BuildId) -> Result<Vec<String>> {
        self.db().read(|db| db::build_events(db, build.0))
    }

    /// Notes how long a derivation of that name took.
    ///
    /// # Errors
    /// When the database fails.
    pub fn record_duration(&self, name: &str, system: &str, duration_ms: u64) -> Result<()> {
        self.db()
            .write(|db| db::insert_duration(db, name, system, duration_ms, DURATIONS_KEPT))
    }

    /// How long derivations of that name took, in milliseconds, newest first; at most 20.
    ///
    /// # Errors
    /// When the database fails.
    pub fn duration_history(&self, name: &str, system: &str) -> Result<Vec<u64>> {
        self.db().read(|db| db::durations(db, name, system))
    }
}
