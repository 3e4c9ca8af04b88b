//! The store itself: its directories, how it is opened, and what all its parts share.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, RwLock};

use sos_formats::store_path::{StoreDir, StorePath};

use crate::cas::Cas;
use crate::db::{self, Db};
use crate::error::{IoContext, Result, StoreError};
use crate::remove::{PlainRemover, Remover};
use crate::rootfs::cache::NodeCache;
use crate::session::Session;
use crate::sys;
use crate::temp::{SweepReport, TempDir};

/// The format of the directory that this build writes; the database has a number of its own.
const FORMAT: u64 = 1;

/// The directories of a store. `work/` belongs to the engine: cached working trees.
const DIRECTORIES: &[&str] = &[
    "db",
    "lock",
    "lock/drv",
    "cas",
    "tree",
    "man",
    "tmp",
    "roots",
    "roots/auto",
    "log",
    "work",
];

/// Whose what belongs to nobody known seems to be, for root of a user namespace: files of the machine's root, too.
const OVERFLOW_ID: u32 = 65_534;

/// The size of the file that is given up first when the disk is full, so that a collection can start.
pub(crate) const RESERVE_BYTES: u64 = 8 << 20;

/// How to open a store.
#[derive(Clone, Debug)]
pub struct OpenOptions {
    /// The physical directory.
    pub root: PathBuf,
    /// The directory in which objects think they are, usually `/nix/store`.
    pub store_dir: StoreDir,
    /// Open for queries only: nothing is made, locked or written.
    pub read_only: bool,
}

/// A store: a cheap handle that can be cloned and used from many threads.
///
/// An object is valid exactly when its row is in the database. Files come first, are synced once a batch, moved
/// into place and only then registered; so a crash at any point leaves either the object or some rubbish that is
/// never used and that [`Store::gc`] sweeps.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    pub(crate) store_dir: StoreDir,
    pub(crate) read_only: bool,
    pub(crate) db: Db,
    pub(crate) cas: Cas,
    pub(crate) session: Mutex<Option<Arc<Session>>>,
    nodes: NodeCache,
    remover: RwLock<Arc<dyn Remover>>,
    syncer: Syncer,
    swept: AtomicBool,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("root", &self.inner.root)
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Lets everything that `work` asks on this thread be of one moment, and cost less. What is written meanwhile is not seen; no sources
    /// can be added.
    ///
    /// # Errors
    /// When the database fails.
    pub fn snapshot<T>(&self, work: impl FnOnce() -> T) -> Result<T> {
        self.db().snapshot(work)
    }

    /// Opens a store; makes it when the directory is empty or absent and writing is allowed. One on a read-only mount
    /// is opened for queries, see [`Store::is_read_only`], and so is one of another user by root: what root left there, the owner
    /// could neither read nor remove.
    ///
    /// # Errors
    /// [`StoreError::TooNew`] when a newer sos wrote it, [`StoreError::NotAStore`] when the directory holds
    /// something else, [`StoreError::ForeignPlace`] when root would make one in a place of another user, and what the file system or the
    /// database says.
    pub fn open(options: OpenOptions) -> Result<Self> {
        let OpenOptions {
            root,
            store_dir,
            read_only,
        } = options;
        let root = resolve(&root)?;
        // A store on a read-only mount still answers what is in it, and so does one of somebody else.
        let is_there = read_version(&root)?.is_some();
        let foreign = foreign_owner(&root)?;
        let read_only = read_only || (is_there && (foreign.is_some() || on_read_only_mount(&root)));
        let db = if read_only {
            match read_version(&root)? {
                Some(_) => Db::open_read_only(&root, foreign.map(|(owner, _)| owner))?,
                None => {
                    return Err(StoreError::NotAStore {
                        root,
                        reason: "it has no `version` file",
                    });
                }
            }
        } else {
            if let Some((owner, place)) = foreign {
                return Err(foreign_error(root, owner, place, is_there));
            }
            prepare(&root)?
        };
        let directory = sys::open_dir(&root).at("open", &root)?;
        let inner = Inner {
            cas: Cas::new(root.join("cas")),
            root,
            store_dir,
            read_only,
            db,
            session: Mutex::new(None),
            nodes: NodeCache::default(),
            remover: RwLock::new(Arc::new(PlainRemover)),
            syncer: Syncer::new(directory),
            swept: AtomicBool::new(false),
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// Tells why no store can be made at a place where there is none: root makes none in a place of another user.
    pub fn refusal_at(root: &Path) -> Option<StoreError> {
        let root = resolve(root).ok()?;
        let (owner, place) = foreign_owner(&root).ok()??;
        let is_there = read_version(&root).is_ok_and(|version| version.is_some());
        Some(foreign_error(root, owner, place, is_there))
    }

    /// Manifest nodes that were read lately.
    pub(crate) fn nodes(&self) -> &NodeCache {
        &self.inner.nodes
    }

    /// The physical directory of the store.
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// The directory in which objects think they are.
    pub fn store_dir(&self) -> &StoreDir {
        &self.inner.store_dir
    }

    /// Whether the store was opened for queries only.
    pub fn is_read_only(&self) -> bool {
        self.inner.read_only
    }

    /// Where a tree object is on the disk, whether it is valid or not.
    pub fn physical(&self, path: &StorePath) -> PathBuf {
        self.inner.root.join("tree").join(path.as_str())
    }

    /// Where the engine keeps its cached working trees.
    pub fn work_dir(&self) -> PathBuf {
        self.inner.root.join("work")
    }

    /// Sets how trees are removed: by temporary directories, sweeps and collections from now on.
    pub fn set_remover(&self, remover: Arc<dyn Remover>) {
        *self
            .inner
            .remover
            .write()
            .unwrap_or_else(std::sync::PoisonError::into_inner) = remover;
    }

    pub(crate) fn remover(&self) -> Arc<dyn Remover> {
        Arc::clone(
            &self
                .inner
                .remover
                .read()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    /// Whether files of the store can share their data (reflinks); tried, not guessed.
    ///
    /// # Errors
    /// When nothing can be written to the store.
    pub fn can_clone(&self) -> Result<bool> {
        let dir = self.temp_dir("clone")?;
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::write(&from, "data").at("write", &from)?;
        let source = File::open(&from).at("open", &from)?;
        let target = File::create_new(&to).at("make", &to)?;
        Ok(sys::clone_file(&source, &target).is_ok())
    }

    pub(crate) fn db(&self) -> &Db {
        &self.inner.db
    }

    pub(crate) fn cas(&self) -> &Cas {
        &self.inner.cas
    }

    /// Tells whether the store can be written to, before anything is tried.
    ///
    /// # Errors
    /// [`StoreError::Foreign`] for root in the store of another user, [`StoreError::ReadOnly`] when it was opened for reading.
    pub fn require_writable(&self) -> Result<()> {
        if self.inner.read_only {
            Err(self.db().refusal())
        } else {
            Ok(())
        }
    }

    /// Makes a private directory below `tmp/`, on the file system of the store.
    ///
    /// # Errors
    /// When the store is read-only or the directory cannot be made.
    pub fn temp_dir(&self, label: &str) -> Result<TempDir> {
        self.require_writable()?;
        // Once a process: what killed ones left takes room that this one may need.
        if !self.inner.swept.swap(true, Ordering::Relaxed) {
            self.sweep()?;
        }
        TempDir::create(&self.inner.root.join("tmp"), label, self.remover())
    }

    /// Removes temporary directories, and lock files of derivations, whose owners are dead.
    ///
    /// # Errors
    /// When `tmp/` cannot be listed; what cannot be removed is in the report.
    pub fn sweep(&self) -> Result<SweepReport> {
        self.require_writable()?;
        self.sweep_locks()?;
        crate::temp::sweep(&self.inner.root.join("tmp"), &*self.remover())
    }

    /// Writes everything to the disk that was written before this call; callers at the same time share one run.
    pub(crate) fn sync(&self) -> Result<()> {
        self.inner.syncer.sync(&self.inner.root)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let session = db::lock(&self.session).take();
        if let Some(session) = session {
            session.end(&self.db);
        }
    }
}

/// Lets concurrent callers share one `syncfs`: it is the slowest part of an addition.
struct Syncer {
    directory: File,
    state: Mutex<SyncState>,
    changed: Condvar,
}

#[derive(Default)]
struct SyncState {
    running: bool,
    started: u64,
    finished: u64,
}

impl Syncer {
    fn new(directory: File) -> Self {
        Self {
            directory,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn sync(&self, root: &Path) -> Result<()> {
        let mut state = db::lock(&self.state);
        // Only a run that begins from now on surely covers what the caller has written.
        let ticket = state.started + 1;
        while state.finished < ticket {
            if state.running {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                continue;
            }
            state.running = true;
            state.started += 1;
            let run = state.started;
            drop(state);
            let result = sys::sync_filesystem(&self.directory);
            state = db::lock(&self.state);
            state.running = false;
            if result.is_ok() {
                state.finished = run;
            }
            self.changed.notify_all();
            result.at("sync the file system of", root)?;
        }
        Ok(())
    }
}

fn on_read_only_mount(root: &Path) -> bool {
    sys::filesystem_space(root).is_ok_and(|(_, read_only)| read_only)
}

/// Follows all links on the way to the root, and the root if it is one itself: paths below it are compared with
/// resolved ones. What is not there yet is taken as it is written.
fn resolve(root: &Path) -> Result<PathBuf> {
    let absolute = std::path::absolute(root).at("resolve", root)?;
    let mut missing = Vec::new();
    let mut there = absolute.as_path();
    loop {
        match there.canonicalize() {
            Ok(mut found) => {
                found.extend(missing.iter().rev());
                return Ok(found);
            }
            // A link to nowhere is there, and nothing can be made at its place.
            Err(err) if err.kind() == ErrorKind::NotFound && !is_link(there) => {}
            Err(err) => return Err(StoreError::io("resolve", absolute, err)),
        }
        let (Some(parent), Some(name)) = (there.parent(), there.file_name()) else {
            return Ok(absolute);
        };
        missing.push(name);
        there = parent;
    }
}

fn is_link(path: &Path) -> bool {
    std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_symlink())
}

/// Returns whose a store is, or the place of one that is to be made, if that is not root, and root asks. Others are kept out by
/// modes. The place is that of the nearest directory that is there, and comes with the owner.
fn foreign_owner(root: &Path) -> Result<Option<(u32, PathBuf)>> {
    use std::os::unix::fs::MetadataExt;
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    for place in root.ancestors() {
        match std::fs::metadata(place) {
            Ok(found) => {
                let owner = found.uid();
                let is_unknown = owner == OVERFLOW_ID && place != root && !sys::has_all_ids();
                let is_foreign = owner != 0 && !is_unknown;
                return Ok(is_foreign.then(|| (owner, place.to_owned())));
            }
            // The error of who makes it says more than that of who looks.
            Err(err) if matches!(err.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(err) => return Err(StoreError::io("look at", place, err)),
        }
    }
    Ok(None)
}

fn foreign_error(root: PathBuf, owner: u32, place: PathBuf, is_there: bool) -> StoreError {
    if is_there {
        StoreError::Foreign { root, owner }
    } else {
        StoreError::ForeignPlace { root, place, owner }
    }
}

/// Takes away the rights of others on the root: there are setuid files of root filesystems below it.
fn make_private(root: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let meta = std::fs::symlink_metadata(root).at("look at", root)?;
    let ours = meta.uid() == rustix::process::geteuid().as_raw();
    if ours && meta.mode() & 0o777 != 0o700 {
        sys::set_mode(root, 0o700).at("set the mode of", root)?;
    }
    Ok(())
}

/// Makes the directories and the database, or checks that they are of a known format.
fn prepare(root: &Path) -> Result<Db> {
    let existing = read_version(root)?;
    if existing.is_none() {
        refuse_foreign_directory(root)?;
        if let Some(parent) = root.parent() {
            std::fs::create_dir_all(parent).at("make the directory", parent)?;
        }
    }
    for dir in
        std::iter::once(root.to_owned()).chain(DIRECTORIES.iter().map(|name| root.join(name)))
    {
        match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(err) if err.kind() != ErrorKind::AlreadyExists => {
                return Err(StoreError::io("make the directory", dir, err));
            }
            _ => {}
        }
    }
    make_private(root)?;
    // One process at a time makes the database or switches it to its write-ahead log.
    let _lock = lock_file(&root.join("lock/add"))?;
    let database = match Db::open(root) {
        Err(err) if existing.is_some() && starved(&err, root) => {
            // A full disk refuses even the shared memory of the database: give the reserve up.
            let reserve = root.join("reserve");
            std::fs::remove_file(&reserve).at("remove", &reserve)?;
            Db::open(root)?
        }
        other => other?,
    };
    if existing.is_none() {
        write_version(root)?;
    }
    keep_reserve(root);
    Ok(database)
}

/// Whether opening failed for want of room, and there is a reserve to give up.
fn starved(err: &StoreError, root: &Path) -> bool {
    let failed = matches!(
        err,
        StoreError::DiskFull { .. } | StoreError::Database { .. }
    );
    let room = sys::filesystem_space(root).map_or(u64::MAX, |(bytes, _)| bytes);
    failed && room < (1 << 20) && root.join("reserve").exists()
}

/// Makes the reserve file again if there is plenty of room for it. Failing is no error: it is a reserve.
pub(crate) fn keep_reserve(root: &Path) {
    let path = root.join("reserve");
    if path.exists() {
        return;
    }
    let room = sys::filesystem_space(root).map_or(0, |(bytes, _)| bytes);
    if room < RESERVE_BYTES * 4 {
        return;
    }
    if let Ok(file) = create_plain(&path)
        && sys::allocate(&file, RESERVE_BYTES).is_err()
    {
        // Half a reserve on a full disk does more harm than good.
        std::fs::remove_file(&path).ok();
    }
}

/// Opens a lock file, making it, and waits for its lock.
pub(crate) fn lock_file(path: &Path) -> Result<File> {
    let file = open_lock_file(path)?;
    sys::lock_exclusive(&file).at("lock", path)?;
    Ok(file)
}

pub(crate) fn open_lock_file(path: &Path) -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .at("open", path)
}

fn read_version(root: &Path) -> Result<Option<u64>> {
    let path = root.join("version");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(err) if err.kind() == ErrorKind::NotFound => return Ok(None),
        Err(err) if err.kind() == ErrorKind::InvalidData => String::new(),
        Err(err) => return Err(StoreError::io("read", path, err)),
    };
    // The file is renamed into place whole; an empty or garbled one is not of our making.
    let Ok(found) = text.trim().parse::<u64>() else {
        return Err(StoreError::NotAStore {
            root: root.to_owned(),
            reason: "its `version` file holds no number",
        });
    };
    if found > FORMAT {
        return Err(StoreError::TooNew {
            root: root.to_owned(),
            found,
            supported: FORMAT,
        });
    }
    Ok(Some(found))
}

/// Makes or empties a file that only its owner may write, whatever the umask is.
fn create_plain(path: &Path) -> std::io::Result<File> {
    let file = File::create(path)?;
    sys::set_mode_fd(&file, 0o644)?;
    Ok(file)
}

fn write_version(root: &Path) -> Result<()> {
    let staged = root.join("version.new");
    let mut file = create_plain(&staged).at("make", &staged)?;
    file.write_all(format!("{FORMAT}\n").as_bytes())
        .at("write", &staged)?;
    file.sync_all().at("sync", &staged)?;
    std::fs::rename(&staged, root.join("version")).at("rename", &staged)
}

/// A directory with files of somebody else must not be filled with a store by a mistyped option.
fn refuse_foreign_directory(root: &Path) -> Result<()> {
    for entry in crate::temp::list_dir(root)? {
        let name = entry
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        // A first opening that was killed leaves some of these.
        let ours = DIRECTORIES.contains(&name.as_str())
            || matches!(
                name.as_str(),
                "version.new" | "version" | "reserve" | "lost+found"
            );
        if !ours {
            return Err(StoreError::NotAStore {
                root: root.to_owned(),
                reason: "it holds other files",
            });
        }
    }
    Ok(())
}
