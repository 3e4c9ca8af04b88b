//! How the language reaches the world: files, the store, and the engine for imports from derivations.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustc_hash::FxHashMap;
use rustix::fs::{Mode, OFlags, RawDir};
use sos_builders::tree::{self, Trees};
use sos_engine::Graph;
use sos_formats::Bytes;
use sos_formats::derivation::{Derivation, Method};
use sos_formats::diagnostic::{Class, Diagnostic, WrongHash};
use sos_formats::hash::{Hash, Sha256};
use sos_formats::store_path::{self, StoreDir, StorePath};
use sos_lang::{FetchRequest, FetchedTree, FileType, Host, HostError, PathFilter, TreeRequest};
use sos_store::Store;

use crate::cache::kind_of_std;
use crate::environment::Environment;
use crate::render::{live, output};
use crate::session::Session;
use crate::sources::Sources;

/// Builds outputs while a recipe is being evaluated.
pub(crate) type Realise =
    dyn Fn(&Graph, &[(StorePath, String)]) -> Result<Vec<StorePath>, Box<Diagnostic>>;
/// Fetches a URL while a recipe is being evaluated.
pub(crate) type Fetch = dyn Fn(&FetchRequest) -> Result<StorePath, Box<Diagnostic>>;

/// The world of one evaluation.
pub(crate) struct StoreHost {
    store: Store,
    store_dir: StoreDir,
    system: String,
    env: BTreeMap<String, String>,
    now_secs: i64,
    realise: Box<Realise>,
    fetch: Box<Fetch>,
    trees: Option<Trees>,
    /// Where the objects of the store really are, without links on the way.
    objects: PathBuf,
    /// Every derivation that was made, as text, by path: a path is a digest, so that nobody can
    /// choose them so that they collide.
    drvs: RefCell<FxHashMap<StorePath, Arc<[u8]>>>,
    sources: Sources,
    /// Sources are hashed, but not added: `sos check` and `sos plan -n` leave the store as it is.
    dry: bool,
}

impl StoreHost {
    /// A host over `store`.
    pub(crate) fn new(
        store: Store,
        system: &str,
        env: &Environment,
        dry: bool,
        realise: Box<Realise>,
        fetch: Box<Fetch>,
    ) -> Self {
        let objects = store.root().join("tree");
        Self {
            store_dir: store.store_dir().clone(),
            sources: Sources::new(store.clone()),
            objects: std::fs::canonicalize(&objects).unwrap_or(objects),
            store,
            trees: None,
            system: system.to_owned(),
            env: env.all.clone(),
            now_secs: now_secs(),
            realise,
            fetch,
            drvs: RefCell::default(),
            dry,
        }
    }

    /// The same, able to fetch trees.
    pub(crate) fn with_trees(mut self, trees: Trees) -> Self {
        self.trees = Some(trees);
        self
    }

    /// A host for reading text only: it builds and fetches nothing.
    pub(crate) fn pure(store: Store, session: &Session) -> Self {
        let refuse = || {
            Box::new(Diagnostic::error(
                "eval-pure",
                Class::Recipe,
                "this needs a build or the network, which parsing does not use",
            ))
        };
        Self::new(
            store,
            &session.config.system,
            &session.env,
            true,
            Box::new(move |_, _| Err(refuse())),
            Box::new(move |_| Err(refuse())),
        )
    }

    /// Sees to it that the sources of all derivations that were made are in the store.
    ///
    /// # Errors
    /// When a source cannot be added.
    pub(crate) fn settle(&self) -> Result<(), sos_store::StoreError> {
        self.sources.settle()
    }

    /// The derivations that were made so far; the sources that they need are in the store.
    ///
    /// # Errors
    /// When a source cannot be added.
    pub(crate) fn graph(&self) -> Result<Graph, sos_store::StoreError> {
        self.sources.settle()?;
        Ok(Graph {
            texts: self
                .drvs
                .borrow()
                .iter()
                .map(|(path, text)| (path.clone(), text.clone()))
                .collect(),
            ..Graph::default()
        })
    }

    /// The files that git tracks in a working tree, each with a NUL after it; nothing when git cannot say.
    pub(crate) fn tracked(&self, place: &Path) -> Option<Vec<u8>> {
        self.trees.as_ref()?.tracked(place).ok()
    }

    /// Fetches a tree; what a person should know of it comes back and is not shown.
    pub(crate) fn fetch_tree_silently(
        &self,
        request: &TreeRequest,
    ) -> Result<(FetchedTree, Vec<String>), HostError> {
        let Some(trees) = &self.trees else {
            return Err(HostError::Message("nothing is fetched here".into()));
        };
        let fetched = trees
            .fetch(&tree::Request {
                attrs: request.attrs.clone(),
                name: request.name.clone(),
                base: request.base.clone(),
            })
            .map_err(HostError::Diagnostic)?;
        let tree = FetchedTree {
            path: fetched.path,
            attrs: fetched.attrs,
        };
        Ok((tree, fetched.warnings))
    }

    /// The place on disk of a path that may lie in the logical store.
    fn physical(&self, path: &Path) -> PathBuf {
        let Ok(rest) = path.strip_prefix(self.store_dir.as_str()) else {
            return path.to_path_buf();
        };
        let mut parts = rest.components();
        let Some(Component::Normal(base)) = parts.next() else {
            return path.to_path_buf();
        };
        if let Err(error) = self.sources.settle() {
            tracing::debug!(%error, "a source cannot be added");
        }
        match base.to_str().and_then(|b| StorePath::from_base(b).ok()) {
            Some(object) if self.store.is_valid(&object).unwrap_or(false) => {
                let mut place = self.store.physical(&object);
                // An empty rest would put a slash behind what may be a file.
                if !parts.as_path().as_os_str().is_empty() {
                    place.push(parts.as_path());
                }
                place
            }
            // An installed Nix may hold it.
            _ => path.to_path_buf(),
        }
    }

    /// The logical name of a place on disk.
    fn logical(&self, path: PathBuf) -> PathBuf {
        match path.strip_prefix(&self.objects) {
            Ok(rest) => Path::new(self.store_dir.as_str()).join(rest),
            Err(_) => path,
        }
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "builtins.currentTime is the clock by definition"
)]
fn now_secs() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

fn store_error(error: sos_store::StoreError) -> HostError {
    HostError::Diagnostic(Box::new(Diagnostic::from(error)))
}

/// A source that cannot be added names the path as the recipe knows it.
fn path_error(path: &Path, error: sos_store::StoreError) -> HostError {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => HostError::Io(e),
        _ => store_error(error),
    }
}

/// Whether a file is the device that is always empty.
fn is_null(meta: &std::fs::Metadata) -> bool {
    meta.file_type().is_char_device() && meta.rdev() == rustix::fs::makedev(1, 3)
}

impl Host for StoreHost {
    fn read_file(&self, path: &Path) -> io::Result<Vec<u8>> {
        let path = self.physical(path);
        // A pipe may have nobody at its other end.
        let meta = std::fs::metadata(&path)?;
        if is_null(&meta) {
            return Ok(Vec::new());
        }
        if !meta.is_file() && !meta.is_dir() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it is neither a file nor a directory",
            ));
        }
        std::fs::read(path)
    }

    fn read_dir(&self, path: &Path) -> io::Result<Vec<(Bytes, FileType)>> {
        // Not through the C library, which asks twice as much of the system: package collections have thousands of directories.
        let dir = self.physical(path);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::open(&dir, flags, Mode::empty())?;
        let mut buffer = Vec::with_capacity(32 << 10);
        let mut names = RawDir::new(fd, buffer.spare_capacity_mut());
        let mut entries: Vec<(Bytes, FileType)> = Vec::new();
        while let Some(entry) = names.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name == b"." || name == b".." {
                continue;
            }
            let kind = match entry.file_type() {
                rustix::fs::FileType::RegularFile => FileType::Regular,
                rustix::fs::FileType::Directory => FileType::Directory,
                rustix::fs::FileType::Symlink => FileType::Symlink,
                // Not every file system says.
                rustix::fs::FileType::Unknown => {
                    let place = dir.join(std::ffi::OsStr::from_bytes(name));
                    kind_of_std(std::fs::symlink_metadata(place)?.file_type())
                }
                _ => FileType::Unknown,
            };
            entries.push((name.to_vec(), kind));
        }
        entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        Ok(entries)
    }

    fn file_type(&self, path: &Path) -> io::Result<Option<FileType>> {
        // The logical store is there, whether or not this machine has a directory of that name.
        if path == Path::new(self.store_dir.as_str()) {
            return Ok(Some(FileType::Directory));
        }
        match std::fs::symlink_metadata(self.physical(path)) {
            Ok(meta) => Ok(Some(kind_of_std(meta.file_type()))),
            Err(e)
                if matches!(
                    e.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) =>
            {
                Ok(None)
            }
            Err(e) => Err(e),
        }
    }

    fn canonicalize(&self, path: &Path) -> io::Result<PathBuf> {
        Ok(self.logical(std::fs::canonicalize(self.physical(path))?))
    }

    fn add_path(
        &self,
        path: &Path,
        name: &str,
        method: Method,
        filter: Option<PathFilter<'_>>,
        expected: Option<&Hash>,
    ) -> Result<StorePath, HostError> {
        let physical = self.physical(path);
        // The store can only be told of file system errors; what else the filter says is kept here.
        let mut refused = None;
        let mut adapter;
        let filter: Option<sos_store::Filter<'_>> = match filter {
            None => None,
            Some(filter) => {
                adapter = |file: &Path, kind: sos_store::FileType| {
                    // The recipe knows files of the store by their logical names.
                    let shown = match file.strip_prefix(&physical) {
                        Ok(rest) if rest.as_os_str().is_empty() => path.to_path_buf(),
                        Ok(rest) => path.join(rest),
                        Err(_) => file.to_path_buf(),
                    };
                    filter(&shown, of_store(kind)).map_err(|e| {
                        refused = Some(e);
                        io::Error::other("the filter failed")
                    })
                };
                Some(&mut adapter)
            }
        };
        let plain = filter.is_none() && expected.is_none();
        if plain && !self.dry && !physical.starts_with(&self.objects) {
            let named = self.sources.name(&physical, name, method);
            if let Some(named) = named.map_err(|e| path_error(path, e))? {
                return Ok(named);
            }
        }
        let added = if self.dry {
            self.store.compute_path(&physical, name, method, filter)
        } else {
            self.store.add_path(&physical, name, method, filter)
        };
        if let Some(error) = refused {
            return Err(error);
        }
        let added = added.map_err(|e| path_error(path, e))?;
        let Some(expected) = expected else {
            return Ok(added);
        };
        let wanted = store_path::make_fixed(
            &self.store_dir,
            name,
            method,
            expected,
            &BTreeSet::new(),
            false,
        )
        .map_err(|e| HostError::Message(e.to_string()))?;
        if wanted == added {
            return Ok(added);
        }
        let mut problem = Diagnostic::error(
            "hash-mismatch",
            Class::HashMismatch,
            format!(
                "`{}` does not have the hash that the recipe gives",
                path.display()
            ),
        )
        .help("take the new hash if the change of the file is meant");
        let found = match method {
            Method::Flat => std::fs::read(&physical)
                .ok()
                .map(|bytes| Hash::of(expected.algo(), &bytes)),
            // In a dry run nothing was added that could be asked.
            _ => self
                .store
                .query(&added)
                .ok()
                .flatten()
                .and_then(|info| info.nar_sha256.map(Hash::from)),
        };
        match found {
            // The language says them as the recipe does.
            Some(found) => problem.hashes.push(WrongHash {
                name: name.to_owned(),
                expected: expected.to_sri(),
                found: found.to_sri(),
            }),
            None => problem = problem.note(format!("expected {}", expected.to_sri())),
        }
        Err(HostError::Diagnostic(Box::new(problem)))
    }

    fn add_text(
        &self,
        name: &str,
        contents: &[u8],
        refs: &BTreeSet<StorePath>,
    ) -> Result<StorePath, HostError> {
        if self.dry {
            return store_path::make_text(&self.store_dir, name, &Sha256::of(contents), refs)
                .map_err(|e| HostError::Message(e.to_string()));
        }
        self.store
            .add_text(name, contents, refs)
            .map_err(store_error)
    }

    fn add_derivation(&self, path: &StorePath, aterm: &[u8]) -> Result<(), HostError> {
        self.drvs
            .borrow_mut()
            .entry(path.clone())
            .or_insert_with(|| aterm.into());
        Ok(())
    }

    fn read_derivation(&self, path: &StorePath) -> Result<Derivation, HostError> {
        let parse = |aterm: &[u8]| {
            Derivation::parse_aterm(aterm, &self.store_dir).map_err(|e| {
                HostError::Message(format!("`{}` is not a derivation: {e}", path.base()))
            })
        };
        if let Some(aterm) = self.drvs.borrow().get(path) {
            return parse(aterm);
        }
        if let Some(aterm) = self.store.get_drv(path).map_err(store_error)? {
            return parse(&aterm);
        }
        Err(HostError::Message(format!(
            "derivation `{}` is not in the store",
            path.base()
        )))
    }

    fn realise(&self, wanted: &[(StorePath, String)]) -> Result<Vec<StorePath>, HostError> {
        let graph = self.graph().map_err(store_error)?;
        (self.realise)(&graph, wanted).map_err(HostError::Diagnostic)
    }

    fn is_valid_path(&self, path: &StorePath) -> Result<bool, HostError> {
        self.sources.settle().map_err(store_error)?;
        self.store.is_valid(path).map_err(store_error)
    }

    fn fetch_url(&self, request: &FetchRequest) -> Result<StorePath, HostError> {
        (self.fetch)(request).map_err(HostError::Diagnostic)
    }

    fn fetch_tree(&self, request: &TreeRequest) -> Result<FetchedTree, HostError> {
        let (tree, warnings) = self.fetch_tree_silently(request)?;
        for warning in &warnings {
            self.warn(warning);
        }
        Ok(tree)
    }

    fn write_flake_lock(&self, path: &Path, text: &str) -> Result<(), HostError> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        // Beside it first: a lock is there whole or not at all.
        let new = dir.join(format!(".flake.lock.{}", std::process::id()));
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, path));
        if let Err(e) = written {
            // What could not be made need not be removed.
            let _absent = std::fs::remove_file(&new);
            return Err(HostError::Io(e));
        }
        match &self.trees {
            Some(trees) => trees.track(path).map_err(HostError::Diagnostic),
            None => Ok(()),
        }
    }

    fn env(&self, name: &str) -> Option<String> {
        self.env.get(name).cloned()
    }

    fn current_time(&self) -> i64 {
        self.now_secs
    }

    fn system(&self) -> &str {
        &self.system
    }

    fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    fn trace(&self, message: &str) {
        output::message(&format!("trace: {}", live::foreign(message)));
    }

    fn warn(&self, message: &str) {
        output::message(&format!("warning: {}", live::foreign(message)));
    }
}

fn of_store(t: sos_store::FileType) -> FileType {
    match t {
        sos_store::FileType::Regular => FileType::Regular,
        sos_store::FileType::Directory => FileType::Directory,
        sos_store::FileType::Symlink => FileType::Symlink,
        _ => FileType::Unknown,
    }
}
