//! What a collection frees besides objects: cached working trees, directories of failed builds, logs, old builds, results of
//! evaluations that nobody asked for again.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::{Connection, TransactionBehavior};
use sos_formats::store_path::StorePath;

use super::mark::{self, Marked};
use super::{Collection, GcReport};
use crate::built::DAYS_KEPT;
use crate::clock;
use crate::db;
use crate::error::Result;
use crate::evaluations::{EVALUATION_DAYS, MAX_EVALUATION_BYTES};
use crate::steps;
use crate::store::Store;
use crate::targets::UNFINISHED_DAYS;
use crate::temp::{list_dir, lock_dir};

/// How long the log of a build stays of which nothing else is known any more, unless a collection is told otherwise: failures are
/// often looked at days later.
const LOG_DAYS: u64 = 30;
/// Bytes of such logs that stay, the newest.
const LOGS_BYTES_MAX: u64 = 128 << 20;

/// Finds directories that may go: caches that are not in use, and what failed builds have left. With `take`, they are
/// out of the way of everybody else when this returns. What cannot be removed here is told in the report.
pub(super) fn idle(
    store: &Store,
    older_than: Option<Duration>,
    take: bool,
    report: &mut GcReport,
) -> Vec<PathBuf> {
    let before = older_than.map(before);
    let work = store.work_dir();
    let remover = store.remover();
    let mut found = match remover.idle_caches(&work, before, take) {
        Ok(found) => found,
        Err(err) => {
            report.problems.push(format!("{}: {err}", work.display()));
            Vec::new()
        }
    };
    let states = store.root().join("failed");
    match list_dir(&states) {
        Ok(failed) => found.extend(failed.into_iter().filter(|dir| {
            // A shell that looks at one has it locked.
            before.is_none_or(|before| kept_since(dir).is_some_and(|since| since < before))
                && matches!(lock_dir(dir), Ok(Some(_)))
        })),
        Err(err) => report.problems.push(err.to_string()),
    }
    let (found, left): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|dir| remover.can_remove(dir));
    report.left.extend(left);
    report.failed_states = found.iter().filter(|dir| dir.starts_with(&states)).count();
    found
}

fn before(age: Duration) -> SystemTime {
    let now = u64::try_from(clock::now_secs()).unwrap_or(0);
    UNIX_EPOCH + Duration::from_secs(now.saturating_sub(age.as_secs()))
}

/// When a directory got its name: its own times are those of the build.
fn kept_since(dir: &Path) -> Option<SystemTime> {
    let changed = std::fs::symlink_metadata(dir).ok()?.ctime();
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(changed).ok()?))
}

/// The bytes on the disk of a tree, without files that have a name elsewhere, as far as it can be looked into.
pub(super) fn disk_bytes(dir: &Path) -> u64 {
    let mut bytes = 0;
    // Names not met yet, by inode.
    let mut linked: BTreeMap<u64, u64> = BTreeMap::new();
    for entry in walkdir::WalkDir::new(dir).into_iter().flatten() {
        let Ok(meta) = entry.metadata() else { continue };
        if meta.is_dir() || meta.nlink() == 1 {
            bytes += meta.blocks() * 512;
        } else {
            let names = linked.entry(meta.ino()).or_insert(meta.nlink());
            *names -= 1;
            if *names == 0 {
                bytes += meta.blocks() * 512;
            }
        }
    }
    bytes
}

/// Finds the logs of derivations that are neither known nor have a result, apart from `dead` ones and results that are
/// `gone`. The logs are listed by the caller first: a build makes itself known before it begins its log.
fn dead_logs(
    database: &Connection,
    logs: Vec<(StorePath, PathBuf)>,
    older_than: Option<Duration>,
    dead: &[StorePath],
    gone: &BTreeSet<StorePath>,
) -> Result<Vec<PathBuf>> {
    let mut kept = db::all_drvs(database)?;
    for drv in dead {
        kept.remove(drv);
    }
    let results = db::all_results(database)?.into_iter();
    kept.extend(
        results
            .filter(|(_, path)| !gone.contains(path))
            .map(|(drv, _)| drv),
    );
    let unknown = logs.into_iter().filter(|(drv, _)| !kept.contains(drv));
    let dated = unknown.filter_map(|(_, log)| {
        let meta = std::fs::symlink_metadata(&log).ok()?;
        Some((meta.modified().ok()?, meta.blocks() * 512, log))
    });
    let (age, most) = match older_than {
        Some(age) => (age, u64::MAX),
        None => (Duration::from_secs(LOG_DAYS * 24 * 60 * 60), LOGS_BYTES_MAX),
    };
    Ok(outworn(dated.collect(), before(age), most))
}

/// Of logs with their times and sizes those from before a moment, and the oldest others as far as all together have more bytes than
/// `most`.
fn outworn(
    mut logs: Vec<(SystemTime, u64, PathBuf)>,
    before: SystemTime,
    most: u64,
) -> Vec<PathBuf> {
    logs.sort();
    let mut kept = 0_u64;
    let mut out = Vec::new();
    for (modified, bytes, log) in logs.into_iter().rev() {
        kept = kept.saturating_add(bytes);
        if modified < before || kept > most {
            out.push(log);
        }
    }
    out
}

/// The bytes of the logs that would go with what is marked.
pub(super) fn dead_logs_bytes(
    store: &Store,
    older_than: Option<Duration>,
    marked: &Marked,
) -> Result<u64> {
    let logs = store.logs()?;
    let gone = marked.dead_infos().into_iter().map(|info| info.path);
    let gone: BTreeSet<StorePath> = gone.collect();
    let dead = store.db().read(|database| {
        let mut dead = marked.dead_drvs.clone();
        dead.extend(mark::unfinished(store, database)?.0);
        dead_logs(database, logs, older_than, &dead, &gone)
    })?;
    Ok(dead.iter().map(|log| blocks(log)).sum())
}

fn blocks(file: &Path) -> u64 {
    std::fs::symlink_metadata(file).map_or(0, |meta| meta.blocks() * 512)
}

impl Collection<'_> {
    /// Removes caches that nobody uses and what failed builds have left.
    pub(super) fn free_caches(&mut self) {
        let older_than = self.options.older_than;
        for dir in idle(self.store, older_than, true, &mut self.report) {
            let bytes = disk_bytes(&dir);
            let Ok(Some(_lock)) = lock_dir(&dir) else {
                continue;
            };
            match self.store.remover().remove_tree(&dir) {
                Ok(()) => self.report.freed_bytes += bytes,
                Err(err) => {
                    let problem = format!("{}: {err}", dir.display());
                    self.report.problems.push(problem);
                }
            }
            (self.progress)(self.report.freed_bytes);
        }
    }

    /// Removes logs of derivations that are forgotten, and forgets old builds.
    pub(super) fn forget_history(&mut self) -> Result<()> {
        let logs = self.store.logs()?;
        let transaction = self
            .database
            .0
            .transaction_with_behavior(TransactionBehavior::Immediate)?;
        let older_than = self.options.older_than;
        // What a run has not made yet has nothing but its log, which goes as if nobody knew it.
        let unmade: Vec<StorePath> = mark::unfinished(self.store, &transaction)?
            .0
            .into_iter()
            .collect();
        let dead = dead_logs(&transaction, logs, older_than, &unmade, &BTreeSet::new())?;
        steps::trim(&transaction)?;
        let noted_before = clock::now_secs().saturating_sub(DAYS_KEPT * 24 * 60 * 60);
        db::trim_built(&transaction, noted_before)?;
        db::trim_targets(&transaction, noted_before)?;
        let begun_before = clock::now_secs().saturating_sub(UNFINISHED_DAYS * 24 * 60 * 60);
        db::trim_unfinished(&transaction, begun_before)?;
        let unused_secs = older_than.map_or(EVALUATION_DAYS * 24 * 60 * 60, |age| {
            i64::try_from(age.as_secs()).unwrap_or(i64::MAX)
        });
        let unused_before = clock::now_secs().saturating_sub(unused_secs);
        db::trim_evaluations(&transaction, unused_before, MAX_EVALUATION_BYTES)?;
        transaction.commit()?;
        for log in dead {
            let bytes = blocks(&log);
            match std::fs::remove_file(&log) {
                Ok(()) => self.report.freed_bytes += bytes,
                Err(err) if err.kind() == std::io::ErrorKind::NotFound => {}
                Err(err) => {
                    let problem = format!("{}: {err}", log.display());
                    self.report.problems.push(problem);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_logs_go_and_so_do_the_oldest_of_too_many() {
        let at = |secs: u64| UNIX_EPOCH + Duration::from_secs(secs);
        let logs = || {
            (1..=4)
                .map(|n| (at(n * 10), 100, PathBuf::from(n.to_string())))
                .collect::<Vec<_>>()
        };
        let check = |before, most, expect: &[&str]| {
            let gone = outworn(logs(), at(before), most);
            let expect: Vec<PathBuf> = expect.iter().map(PathBuf::from).collect();
            assert_eq!(gone, expect);
        };
        check(0, u64::MAX, &[]);
        check(20, u64::MAX, &["1"]);
        check(0, 250, &["2", "1"]);
        check(41, 1000, &["4", "3", "2", "1"]);
    }
}
