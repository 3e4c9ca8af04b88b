//! What every run did, derivation by derivation: the part of the journal that answers why something was built.

use sos_formats::store_path::StorePath;

use crate::clock;
use crate::db;
use crate::error::Result;
use crate::journal::BuildId;
use crate::packed;
use crate::source_files::{SOURCE_BYTES_KEPT, SOURCE_DAYS};
use crate::store::Store;

/// Runs that are kept.
pub(crate) const BUILDS_KEPT: u32 = 1000;
/// Steps that are kept: whole runs go, the oldest first.
pub(crate) const STEPS_KEPT: u32 = 200_000;
/// Steps of one name that are looked through.
const NAMED_MAX: u32 = 10_000;
/// Bytes of a detail that are unpacked.
const DETAIL_BYTES_MAX: usize = 64 << 20;

/// What a run did with one derivation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The run.
    pub build: BuildId,
    /// The derivation as it was asked for.
    pub drv: StorePath,
    /// Its name.
    pub name: String,
    /// The attribute path by which a person asked for it.
    pub attr: Option<String>,
    /// `queued`, `running`, `built`, `fetched`, `cached`, `failed`, `cancelled` or `skipped`.
    pub status: String,
    /// When it was known that it is needed, in milliseconds since 1970.
    pub queued_ms: u64,
    /// When its builder started; none if none did.
    pub started_ms: Option<u64>,
    /// When it ended.
    pub finished_ms: Option<u64>,
    /// Why it was built, as JSON.
    pub cause: Option<String>,
    /// What came out, as JSON.
    pub outputs: Option<String>,
    /// Inputs and what it waited for, as JSON.
    pub detail: Option<String>,
}

/// A row of the table.
pub(crate) struct StepRow {
    pub(crate) build: i64,
    pub(crate) drv: StorePath,
    pub(crate) name: String,
    pub(crate) attr: Option<String>,
    pub(crate) status: String,
    pub(crate) queued_ms: u64,
    pub(crate) started_ms: Option<u64>,
    pub(crate) finished_ms: Option<u64>,
    pub(crate) cause: Option<String>,
    pub(crate) outputs: Option<String>,
    pub(crate) detail: Option<Vec<u8>>,
}

impl StepRow {
    fn pack(step: &Step) -> Self {
        let step = step.clone();
        Self {
            build: step.build.0,
            drv: step.drv,
            name: step.name,
            attr: step.attr,
            status: step.status,
            queued_ms: step.queued_ms,
            started_ms: step.started_ms,
            finished_ms: step.finished_ms,
            cause: step.cause,
            outputs: step.outputs,
            detail: step
                .detail
                .and_then(|text| packed::pack(text.as_bytes()).ok()),
        }
    }

    fn unpack(self) -> Step {
        // A detail that cannot be read any more is as good as none: it only explains.
        let unpacked = |packed: Vec<u8>| {
            let text = packed::unpack(&packed, DETAIL_BYTES_MAX).ok()?;
            String::from_utf8(text).ok()
        };
        Step {
            build: BuildId(self.build),
            drv: self.drv,
            name: self.name,
            attr: self.attr,
            status: self.status,
            queued_ms: self.queued_ms,
            started_ms: self.started_ms,
            finished_ms: self.finished_ms,
            cause: self.cause,
            outputs: self.outputs,
            detail: self.detail.and_then(unpacked),
        }
    }
}

fn unpack_all(rows: Vec<StepRow>) -> Vec<Step> {
    rows.into_iter().map(StepRow::unpack).collect()
}

impl Store {
    /// Writes a part of the journal of a run in one transaction: events, what became of steps, and what took part in it
    /// (derivations and sources).
    ///
    /// # Errors
    /// When the database fails.
    pub fn journal_write(
        &self,
        build: BuildId,
        events: &[String],
        steps: &[Step],
        seen: &[StorePath],
    ) -> Result<()> {
        if self.is_read_only() || (events.is_empty() && steps.is_empty() && seen.is_empty()) {
            return Ok(());
        }
        let rows: Vec<StepRow> = steps.iter().map(StepRow::pack).collect();
        self.db().write(|db| {
            db::insert_events(db, build.0, events)?;
            rows.iter().try_for_each(|row| db::put_step(db, row))?;
            seen.iter()
                .try_for_each(|base| db::put_seen(db, base, build.0))
        })
    }

    /// The steps of a run, in the order in which they were queued.
    ///
    /// # Errors
    /// When the database fails.
    pub fn steps_of_build(&self, build: BuildId) -> Result<Vec<Step>> {
        self.read_steps(|db| db::steps_of_build(db, build.0))
    }

    /// The newest steps of a derivation, in runs up to `until`, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub fn steps_of_drv(&self, drv: &StorePath, until: BuildId, limit: u32) -> Result<Vec<Step>> {
        self.read_steps(|db| db::steps_of_drv(db, drv, until.0, limit))
    }

    /// The steps of a name, newest first. The version may be left out: `bash` finds `bash-5.2`.
    ///
    /// # Errors
    /// When the database fails.
    pub fn steps_named(&self, name: &str) -> Result<Vec<Step>> {
        self.newest_steps_named(name, NAMED_MAX)
    }

    /// As [`Store::steps_named`], but looks only through the `limit` newest.
    ///
    /// # Errors
    /// When the database fails.
    pub fn newest_steps_named(&self, name: &str, limit: u32) -> Result<Vec<Step>> {
        let mut found = self.read_steps(|db| db::steps_named(db, name, limit))?;
        found.retain(|step| is_named(&step.name, name));
        Ok(found)
    }

    /// The newest step that a person asked for by an attribute path of a project.
    ///
    /// # Errors
    /// When the database fails.
    pub fn step_of_attr(&self, project: &str, attr: &str) -> Result<Option<Step>> {
        let found =
            self.read_steps(|db| Ok(db::step_of_attr(db, project, attr)?.into_iter().collect()))?;
        Ok(found.into_iter().next())
    }

    /// The attribute paths of what a person asked for in a run and was not all there.
    ///
    /// # Errors
    /// When the database fails.
    pub fn attrs_of_build(&self, build: BuildId) -> Result<Vec<String>> {
        let found = self.read_journal(|db| db::attrs_of_build(db, build.0))?;
        Ok(found.unwrap_or_default())
    }

    /// The derivations that were tried in the newest `builds` runs, and failed the last time that they were.
    ///
    /// # Errors
    /// When the database fails.
    pub fn failed_last(&self, builds: u32) -> Result<Vec<StorePath>> {
        let found = self.read_journal(|db| db::failed_last(db, builds))?;
        Ok(found.unwrap_or_default())
    }

    /// The newest step that made this object, also when that is gone.
    ///
    /// # Errors
    /// When the database fails.
    pub fn step_with_output(&self, path: &StorePath) -> Result<Option<Step>> {
        let found =
            self.read_steps(|db| Ok(db::step_with_output(db, path)?.into_iter().collect()))?;
        Ok(found.into_iter().next())
    }

    /// The names of everything that the journal has steps of, in order.
    ///
    /// # Errors
    /// When the database fails.
    pub fn step_names(&self) -> Result<Vec<String>> {
        let names = self.read_journal(db::step_names)?;
        Ok(names.unwrap_or_default())
    }

    /// The first run in which a source or a derivation took part.
    ///
    /// # Errors
    /// When the database fails.
    pub fn first_seen(&self, path: &StorePath) -> Result<Option<BuildId>> {
        let found = self.read_journal(|db| db::first_seen(db, path))?;
        Ok(found.flatten().map(BuildId))
    }

    fn read_steps(
        &self,
        ask: impl FnOnce(&rusqlite::Connection) -> Result<Vec<StepRow>>,
    ) -> Result<Vec<Step>> {
        Ok(unpack_all(self.read_journal(ask)?.unwrap_or_default()))
    }

    /// Asks the tables, if there are such: a store that is open for reading keeps the form that it has.
    pub(crate) fn read_journal<T>(
        &self,
        ask: impl FnOnce(&rusqlite::Connection) -> Result<T>,
    ) -> Result<Option<T>> {
        self.db().read(|db| {
            if self.is_read_only() && !db::has_steps(db)? {
                return Ok(None);
            }
            ask(db).map(Some)
        })
    }
}

/// Whether a derivation bears a name, with its version or without.
pub(crate) fn is_named(full: &str, name: &str) -> bool {
    full.strip_prefix(name).is_some_and(|rest| {
        rest.is_empty()
            || (rest.starts_with('-') && rest[1..].starts_with(|c: char| c.is_ascii_digit()))
    })
}

/// Forgets the oldest runs, and what was kept for them.
pub(crate) fn trim(db: &rusqlite::Connection) -> Result<()> {
    db::trim_builds(db, BUILDS_KEPT)?;
    db::trim_steps(db, STEPS_KEPT)?;
    db::trim_seen(db)?;
    let before = clock::now_secs().saturating_sub(SOURCE_DAYS * 24 * 60 * 60);
    db::trim_sources(db, before, SOURCE_BYTES_KEPT)
}

#[cfg(test)]
mod tests {
    use sos_formats::store_path::{StoreDir, StorePath};

    use super::*;
    use crate::store::OpenOptions;

    fn store(dir: &std::path::Path) -> Store {
        Store::open(OpenOptions {
            root: dir.join("s"),
            store_dir: StoreDir::default(),
            read_only: false,
        })
        .unwrap()
    }

    fn path(n: u32) -> StorePath {
        StorePath::from_base(&format!("{}-n{n}.drv", "1".repeat(32))).unwrap()
    }

    fn step(build: BuildId, n: u32, status: &str) -> Step {
        Step {
            build,
            drv: path(n),
            name: format!("n{n}"),
            attr: None,
            status: status.to_owned(),
            queued_ms: 0,
            started_ms: None,
            finished_ms: None,
            cause: None,
            outputs: None,
            detail: None,
        }
    }

    #[test]
    fn what_failed_last_is_told_from_what_was_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        // Which status each of four derivations had in each of three runs.
        for statuses in [
            ["failed", "failed", "built", "failed"],
            ["failed", "built", "failed", "skipped"],
            ["failed", "skipped", "cancelled", "skipped"],
        ] {
            let build = store.journal_begin("x").unwrap();
            for (n, status) in (0..).zip(statuses) {
                let steps = [step(build, n, status)];
                store.journal_write(build, &[], &steps, &[]).unwrap();
            }
        }
        let failed = |builds| {
            let mut found = store.failed_last(builds).unwrap();
            found.sort();
            found
        };
        assert_eq!(failed(3), [path(0), path(2), path(3)]);
        assert_eq!(failed(2), [path(0), path(2)]);
        assert_eq!(failed(1), [path(0)]);
    }

    #[test]
    fn the_oldest_go_first_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        for n in 0..10 {
            let build = store.journal_begin("x").unwrap();
            store
                .journal_write(build, &[], &[step(build, n, "built")], &[path(n)])
                .unwrap();
            store
                .db()
                .write(|db| db::put_source(db, &path(n), i64::from(n), &[0; 100]))
                .unwrap();
        }
        store
            .db()
            .write(|db| {
                db::trim_steps(db, 4)?;
                db::trim_seen(db)?;
                db::trim_sources(db, 2, 450)
            })
            .unwrap();
        let names = store.step_names().unwrap();
        assert_eq!(names.first().map(String::as_str), Some("n5"), "{names:?}");
        assert!(store.first_seen(&path(4)).unwrap().is_none());
        assert_eq!(store.first_seen(&path(5)).unwrap(), Some(BuildId(6)));
        let kept = |n| store.db().read(|db| db::has_source(db, &path(n))).unwrap();
        assert_eq!(
            (0..10).filter(|n| kept(*n)).collect::<Vec<_>>(),
            [6, 7, 8, 9]
        );
    }

    #[test]
    fn a_name_is_found_without_its_version() {
        assert!(is_named("bash-5.2", "bash") && is_named("bash-5.2", "bash-5.2"));
        assert!(!is_named("bash-completion", "bash") && !is_named("bashful", "bash"));
    }
}
