//! What an in-process builder is given.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde::de::DeserializeOwned;
use serde_json::Value;
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::Blake3;
use sos_formats::store_path::StorePath;
use sos_store::{Known, PathInfo, Store};
use tokio::runtime::Handle;

use crate::builder::BuilderError;
use crate::options::BuildOptions;
use crate::report::Reporter;

/// One build, seen by its builder.
pub struct BuilderCtx<'a> {
    /// The derivation, with every placeholder replaced by a real path.
    pub drv: &'a Derivation,
    /// Path of the derivation as it was asked for.
    pub drv_path: &'a StorePath,
    /// Name of the derivation.
    pub name: &'a str,
    /// The attributes: the parsed `__json`, or the environment as strings.
    pub attrs: Value,
    /// The store.
    pub store: &'a Store,
    /// The runtime to run asynchronous work on (`runtime.block_on`).
    pub runtime: Handle,
    /// Cores to use; they may not change the result.
    pub cores: usize,
    /// Settings of the engine.
    pub options: &'a BuildOptions,
    pub(crate) place: &'a Path,
    pub(crate) rootfs: BTreeMap<String, Blake3>,
    pub(crate) known: BTreeMap<String, Known>,
    pub(crate) closure: OnceLock<BTreeSet<StorePath>>,
    pub(crate) reporter: Reporter,
}

impl BuilderCtx<'_> {
    /// Returns the private place where a tree output is written: a file, a symlink or a directory that does not exist yet.
    #[must_use]
    pub fn out_path(&self, output: &str) -> PathBuf {
        self.place.join("out").join(output)
    }

    /// Makes an empty private directory for intermediate files, removed after the build.
    ///
    /// # Errors
    /// `Io` when it cannot be made.
    pub fn work_dir(&self) -> Result<PathBuf, BuilderError> {
        let dir = self.place.join("work");
        fs::create_dir_all(&dir)
            .map_err(|e| BuilderError::io(format!("cannot create `{}`", dir.display()), e))?;
        Ok(dir)
    }

    /// Declares that an output is a rootfs object; its nodes and blobs are in the store already.
    pub fn set_rootfs(&mut self, output: &str, root: Blake3) {
        self.rootfs.insert(output.to_owned(), root);
    }

    /// Tells that a file of a tree output, by its path in that, is a link of a blob of the store. It need not be read again where the
    /// tree is addressed by its files (`outputHashMode = "tree"`).
    pub fn set_blob(&mut self, output: &str, file: &Path, blob: Blake3) {
        let known = self.known.entry(output.to_owned()).or_default();
        known.insert(file.to_owned(), blob);
    }

    /// Reads the attributes as a type.
    ///
    /// # Errors
    /// `Failed` naming the attribute that does not fit.
    pub fn attrs_as<T: DeserializeOwned>(&self) -> Result<T, BuilderError> {
        T::deserialize(&self.attrs).map_err(|e| {
            BuilderError::failed(format!(
                "the attributes of `{}` do not fit its builder: {e}",
                self.name
            ))
        })
    }

    /// Returns what the store knows of an input, given as an absolute path inside the store directory.
    ///
    /// # Errors
    /// `Failed` when it is no store path, not in the store, or not an input of this derivation.
    pub fn input(&self, path: &str) -> Result<PathInfo, BuilderError> {
        let (path, _rest) = self.split(path)?;
        self.declared(&path)?;
        self.store.query(&path)?.ok_or_else(|| {
            BuilderError::failed(format!(
                "input `{}` of `{}` is not in the store",
                path.absolute(self.store.store_dir()),
                self.name
            ))
        })
    }

    /// Returns the place on this machine of a path inside an input that is a tree.
    ///
    /// # Errors
    /// `Failed` when it is no store path or not an input of this derivation.
    pub fn physical(&self, path: &str) -> Result<PathBuf, BuilderError> {
        let (path, rest) = self.split(path)?;
        self.declared(&path)?;
        let base = self.store.physical(&path);
        let rest = rest.trim_start_matches('/');
        Ok(if rest.is_empty() {
            base
        } else {
            base.join(rest)
        })
    }

    /// Writes a line to the log of the build.
    pub fn log(&self, line: &str) {
        self.reporter.log(line);
    }

    /// Tells of something that does not stop the build; it is shown while it runs, and kept in the log.
    pub fn warn(&self, warning: Diagnostic) {
        self.reporter.warn(warning);
    }

    /// Tells how far the build is; `total` is 0 when unknown.
    pub fn progress(&self, done: u64, total: u64) {
        self.reporter.progress(done, total);
    }

    /// Tells whether the build shall stop.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.reporter.cancelled()
    }

    /// Returns a handle for other threads and tasks of the builder.
    #[must_use]
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }

    fn split<'p>(&self, path: &'p str) -> Result<(StorePath, &'p str), BuilderError> {
        StorePath::split_absolute(self.store.store_dir(), path).map_err(|e| {
            BuilderError::failed(format!(
                "`{path}` in the attributes of `{}` is not a store path: {e}",
                self.name
            ))
        })
    }

    /// Refuses what is not an input: such a read would be an influence that no key knows of.
    fn declared(&self, path: &StorePath) -> Result<(), BuilderError> {
        if self.drv.input_srcs.contains(path) {
            return Ok(());
        }
        let closure = match self.closure.get() {
            Some(closure) => closure,
            None => {
                let roots: Vec<StorePath> = self.drv.input_srcs.iter().cloned().collect();
                let closure = self.store.closure(&roots)?;
                self.closure.get_or_init(|| closure)
            }
        };
        if closure.contains(path) {
            return Ok(());
        }
        Err(BuilderError::failed(format!(
            "`{}` is not an input of `{}`",
            path.absolute(self.store.store_dir()),
            self.name
        )))
    }
}
