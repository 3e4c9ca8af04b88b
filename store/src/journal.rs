//! The journal: which builds ran, what happened in them, how long things take.

use crate::clock;
use crate::db;
use crate::error::Result;
use crate::process::ProcessId;
use crate::steps;
use crate::store::Store;

/// Notes of duration that are kept for one name.
const DURATIONS_KEPT: u32 = 20;

/// The number of a build in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BuildId(pub i64);

/// A build that begins.
#[derive(Clone, Copy, Debug, Default)]
pub struct NewBuild<'a> {
    /// What was asked for.
    pub command: &'a str,
    /// The directory of the project that it is for.
    pub project: &'a str,
    /// The name of the machine.
    pub host: &'a str,
}

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
    /// The directory of the project that it was for.
    pub project: String,
    /// The name of the machine.
    pub host: String,
    /// Counts, time, exit code and results as JSON: the last event of the build.
    pub summary: Option<String>,
    /// Who ran it; none for builds of older versions.
    pub process: Option<ProcessId>,
}

impl BuildRecord {
    /// Whether it still runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.finished_secs.is_none() && self.process.as_ref().is_some_and(ProcessId::is_alive)
    }
}

impl Store {
    /// Begins a build in the journal. On a store that is open for reading nothing is noted, and that is no error: what
    /// is built already can be used there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn journal_begin(&self, command: &str) -> Result<BuildId> {
        self.journal_begin_build(&NewBuild {
            command,
            ..NewBuild::default()
        })
    }

    /// As [`Store::journal_begin`], with more to say.
    ///
    /// # Errors
    /// When the database fails.
    pub fn journal_begin_build(&self, new: &NewBuild<'_>) -> Result<BuildId> {
        if self.is_read_only() {
            return Ok(BuildId(0));
        }
        let process = ProcessId::current();
        self.db()
            .write(|db| db::insert_build(db, clock::now_secs(), new, &process))
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
        self.journal_end_with(build, status, None)
    }

    /// Ends a build with its summary, and forgets the oldest builds when there are more than a thousand of them, or more than
    /// 200,000 steps.
    ///
    /// # Errors
    /// When the database fails.
    pub fn journal_end_with(
        &self,
        build: BuildId,
        status: &str,
        summary: Option<&str>,
    ) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        self.db().write(|db| {
            db::finish_build(db, build.0, clock::now_secs(), status, summary)?;
            steps::trim(db)
        })
    }

    /// The newest builds, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn recent_builds(&self, limit: u32) -> Result<Vec<BuildRecord>> {
        self.db()
            .read(|db| db::recent_builds(db, limit, None, !db::has_steps(db)?))
    }

    /// Finds one build.
    ///
    /// # Errors
    /// When the database fails.
    pub fn build_record(&self, build: BuildId) -> Result<Option<BuildRecord>> {
        let found = self
            .db()
            .read(|db| db::recent_builds(db, 1, Some(build.0), !db::has_steps(db)?))?;
        Ok(found.into_iter().next())
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
