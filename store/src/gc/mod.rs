//! Garbage collection, beside running builds.
//!
//! 1. Mark: what roots, leases of living processes and runs that have not come to their end need. 2. Delete the rows of the rest, referrers first, in short
//!    write transactions; each looks whether anybody has committed something since, and marks anew then.
//! 3. Move trees without a row to `tmp/`, within write transactions, so that no adder is between moving its tree into
//!    place and registering it. 4. Delete these. 5. Forget manifest nodes that no object has. 6. Move files of `man/` and
//!    `cas/` that nobody needs aside, ask once more, and delete them.
//!
//! Before all that go what can be made again or is for people only: cached working trees that nobody uses, directories
//! of failed builds; after it logs of derivations that are forgotten, and old builds of the journal.
//!
//! It must work on a full disk: the reserve file goes first, and what needs no database write is freed without.

mod caches;
mod files;
mod mark;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rusqlite::TransactionBehavior;
use sos_formats::store_path::StorePath;

use crate::db::{self, GcConnection};
use crate::error::{IoContext, Result, StoreError};
use crate::fault;
use crate::store::{RESERVE_BYTES, Store, keep_reserve, open_lock_file};
use crate::sys;
use crate::temp::list_dir;
use files::Files;
pub(crate) use files::hash_of;
use mark::Marked;

/// Objects whose rows one transaction deletes, or trees that it moves.
const BATCH: usize = 64;
/// Threads that delete trees.
const THREADS: usize = 4;

/// What to collect.
#[derive(Clone, Debug, Default)]
pub struct GcOptions {
    /// Only say what would go.
    pub dry_run: bool,
    /// Stop soon after this many bytes are free.
    pub max_free: Option<u64>,
    /// Leave alone what was registered less long ago, and what it needs.
    pub older_than: Option<Duration>,
    /// Take also what the steps of runs have made that have not come to their end.
    pub unfinished: bool,
}

/// What a collection did, or would do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcReport {
    /// The objects that are gone, in order.
    pub removed: Vec<StorePath>,
    /// The room that became free, in bytes on the disk; of directories of other ids, what could be looked into.
    pub freed_bytes: u64,
    /// Objects that are kept only for runs that have not come to their end.
    pub unfinished: usize,
    /// States of failed builds that are gone.
    pub failed_states: usize,
    /// Contents and manifest nodes that are gone.
    pub removed_files: usize,
    /// What could not be done, and why; the rest was.
    pub problems: Vec<String>,
    /// Directories that stay because their files belong to ids that this process does not have; nothing is wrong with them.
    pub left: Vec<PathBuf>,
}

/// Receives the bytes freed so far.
pub type Progress<'a> = &'a mut dyn FnMut(u64);

impl Store {
    /// Frees what no root and no running process needs. Others may go on adding and building.
    ///
    /// # Errors
    /// [`StoreError::GcRunning`] when another process is at it, and what the database or the disk says.
    pub fn gc(&self, options: GcOptions) -> Result<GcReport> {
        self.gc_with(options, &mut |_| {})
    }

    /// As [`Store::gc`], telling how much is free as it becomes free.
    ///
    /// # Errors
    /// As [`Store::gc`].
    pub fn gc_with(&self, options: GcOptions, progress: Progress<'_>) -> Result<GcReport> {
        self.db().named(self.collect(options, progress))
    }

    fn collect(&self, options: GcOptions, progress: Progress<'_>) -> Result<GcReport> {
        if options.dry_run {
            return self.plan_gc(&options);
        }
        self.require_writable()?;
        let lock = open_lock_file(&self.root().join("lock/gc"))?;
        if !sys::try_lock_exclusive(&lock).at("lock", self.root().join("lock/gc"))? {
            return Err(StoreError::GcRunning);
        }
        let mut report = GcReport::default();
        if sys::filesystem_space(self.root())
            .at("look at", self.root())?
            .0
            < RESERVE_BYTES
        {
            self.give_up_reserve();
        }
        // Needs no database at all.
        let swept = self.sweep()?;
        let failed = swept.failed.into_iter();
        report
            .problems
            .extend(failed.map(|(path, why)| format!("{}: {why}", path.display())));
        report.left.extend(swept.left);
        let mut collection = Collection {
            store: self,
            options,
            report,
            progress,
            database: self.db().open_for_gc()?,
            trash: 0,
        };
        // These need no database either, and nothing that anybody has built is lost with them.
        collection.free_caches();
        if !collection.is_enough() {
            match collection.run() {
                Err(StoreError::DiskFull { .. }) => {
                    // Not even the reserve was enough for the database: what needs no row goes first.
                    self.give_up_reserve();
                    collection.free_files(false)?;
                    collection.run()?;
                }
                other => other?,
            }
            collection.forget_history()?;
            self.forget_derived()?;
        }
        let mut report = collection.report;
        report.removed.sort();
        if let Err(err) = self.db().checkpoint() {
            report
                .problems
                .push(format!("the database's log stays long: {err}"));
        }
        keep_reserve(self.root());
        drop(lock);
        Ok(report)
    }

    /// Frees what an addition that failed for want of room has left: contents and manifest nodes that no object has and nobody has
    /// pinned. Returns the bytes; none while another process collects, which does the same.
    ///
    /// # Errors
    /// What the database or the disk says.
    pub fn free_leftovers(&self) -> Result<u64> {
        self.require_writable()?;
        let path = self.root().join("lock/gc");
        let lock = open_lock_file(&path)?;
        if !sys::try_lock_exclusive(&lock).at("lock", &path)? {
            return Ok(0);
        }
        let mut collection = Collection {
            store: self,
            options: GcOptions::default(),
            report: GcReport::default(),
            progress: &mut |_| {},
            database: self.db().open_for_gc()?,
            trash: 0,
        };
        collection.free_files(false)?;
        let freed = collection.report.freed_bytes;
        keep_reserve(self.root());
        Ok(freed)
    }

    fn give_up_reserve(&self) {
        if let Err(error) = std::fs::remove_file(self.root().join("reserve"))
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the reserve could not be freed");
        }
    }

    fn plan_gc(&self, options: &GcOptions) -> Result<GcReport> {
        let marked = self.db().read(|db| Marked::read(self, db, options))?;
        let mut report = GcReport {
            unfinished: marked.unfinished,
            freed_bytes: Files::would_free(self, &marked.dead_infos())?
                + caches::dead_logs_bytes(self, options.older_than, &marked)?,
            ..GcReport::default()
        };
        for dir in caches::idle(self, options.older_than, false, &mut report) {
            report.freed_bytes += caches::disk_bytes(&dir);
        }
        report.removed = marked
            .dead_infos()
            .into_iter()
            .map(|info| info.path)
            .collect();
        report.removed.sort();
        Ok(report)
    }
}

struct Collection<'a> {
    store: &'a Store,
    options: GcOptions,
    report: GcReport,
    progress: Progress<'a>,
    /// A connection of its own: only so are commits of other threads of this process seen as somebody else's.
    database: GcConnection,
    trash: usize,
}

impl Collection<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            let (removed, more) = self.delete_rows()?;
            self.delete_trees()?;
            self.free_files(true)?;
            if self.is_enough() || !more || removed == 0 {
                return Ok(());
            }
        }
    }

    fn is_enough(&self) -> bool {
        let freed = self.report.freed_bytes;
        self.options.max_free.is_some_and(|wanted| freed >= wanted)
    }

    /// Makes dead objects invalid; says how many, and whether there are more.
    fn delete_rows(&mut self) -> Result<(usize, bool)> {
        let wanted = self
            .options
            .max_free
            .map(|wanted| wanted.saturating_sub(self.report.freed_bytes));
        let mut chosen_bytes = 0u64;
        let mut removed = 0;
        let mut known: Option<(i64, Marked)> = None;
        loop {
            let transaction = self
                .database
                .0
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let version = db::data_version(&transaction)?;
            let marked = match &mut known {
                // Nobody has committed anything since: what was dead is dead.
                Some((at, marked)) if *at == version => marked,
                slot => {
                    let marked = Marked::read(self.store, &transaction, &self.options)?;
                    &mut slot.insert((version, marked)).1
                }
            };
            self.report.unfinished = marked.unfinished;
            fault::point("gc.marked");
            for lease in std::mem::take(&mut marked.dead_leases) {
                db::delete_lease(&transaction, lease)?;
            }
            for drv in std::mem::take(&mut marked.dead_drvs) {
                db::delete_drv(&transaction, &drv)?;
            }
            let mut gone = Vec::new();
            let mut enough = false;
            while gone.len() < BATCH && !enough {
                let Some(row) = marked.dead.pop() else { break };
                db::note_collected(&transaction, &row.info.path)?;
                db::delete_results_of(&transaction, &row.info.path)?;
                db::delete_path(&transaction, row.id)?;
                chosen_bytes = chosen_bytes.saturating_add(row.info.nar_size.max(4096));
                gone.push(row.info.path);
                enough = wanted.is_some_and(|wanted| chosen_bytes >= wanted);
            }
            let more = !marked.dead.is_empty();
            transaction.commit()?;
            fault::point("gc.rows-gone");
            removed += gone.len();
            let none = gone.is_empty();
            self.report.removed.append(&mut gone);
            if none || enough || !more {
                return Ok((removed, more));
            }
        }
    }

    /// Deletes trees that have no row: just made invalid, or left by somebody who was killed while adding.
    fn delete_trees(&mut self) -> Result<()> {
        let store = self.store;
        let mut candidates = list_dir(&store.root().join("tree"))?;
        let mut trash = Vec::new();
        while !candidates.is_empty() {
            let batch = candidates.split_off(candidates.len().saturating_sub(BATCH));
            let transaction = self
                .database
                .0
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            let leased = mark::leased_paths(store, &transaction)?;
            for place in batch {
                let base = place
                    .file_name()
                    .and_then(|name| name.to_str())
                    .and_then(|name| StorePath::from_base(name).ok());
                if let Some(path) = &base
                    && (leased.contains(path) || db::path_id(&transaction, path)?.is_some())
                {
                    continue;
                }
                self.trash += 1;
                let aside = store.root().join("tmp").join(format!(
                    "trash-{}-{}",
                    std::process::id(),
                    self.trash
                ));
                move_tree(&place, &aside)?;
                trash.push(aside);
            }
            transaction.commit()?;
        }
        fault::point("gc.trees-away");
        self.remove_all(&trash);
        fault::point("gc.trees-gone");
        Ok(())
    }

    /// Removes trees on a few threads: almost all of the time goes into waiting for the disk.
    fn remove_all(&mut self, trash: &[PathBuf]) {
        let next = AtomicUsize::new(0);
        let remover = self.store.remover();
        let threads = THREADS.min(trash.len());
        let problems = std::sync::Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some(path) = trash.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(err) = remover.remove_tree(path) {
                            db::lock(&problems).push(format!("{}: {err}", path.display()));
                        }
                    }
                });
            }
        });
        let mut problems = problems
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        problems.sort();
        self.report.problems.append(&mut problems);
    }

    /// Deletes contents and manifest nodes that nobody needs.
    fn free_files(&mut self, forget_nodes: bool) -> Result<()> {
        let mut files = match Files::live(self.store, &mut self.database) {
            Ok(files) => files,
            Err(StoreError::MissingNode { .. } | StoreError::Corrupt { .. }) => {
                // What a damaged manifest needs is not known, so everything is kept.
                self.report
                    .problems
                    .push("a manifest is damaged; no contents were collected".to_owned());
                return Ok(());
            }
            Err(err) => return Err(err),
        };
        if forget_nodes {
            files.forget_nodes(&mut self.database)?;
            fault::point("gc.nodes-gone");
        }
        files.delete(&mut self.database, &mut self.report, self.progress)
    }
}

/// Moves a tree; its directory must be writable to get another parent.
fn move_tree(place: &Path, to: &Path) -> Result<()> {
    let meta = std::fs::symlink_metadata(place).at("look at", place)?;
    if meta.is_dir() {
        sys::set_mode(place, 0o755).at("set the mode of", place)?;
    }
    std::fs::rename(place, to).at("move away", place)
}
