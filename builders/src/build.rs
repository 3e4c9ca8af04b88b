//! What the builders of this crate need of a build; a trait, so that they can be tested without an engine.

use std::path::{Component, Path, PathBuf};

use sos_engine::{BuilderCtx, BuilderError};
use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::Blake3;
use sos_store::Store;

/// One build, as far as these builders look at it.
pub(crate) trait Build {
    /// The name of the derivation.
    fn name(&self) -> &str;
    /// The store.
    fn store(&self) -> &Store;
    /// The root id of an input that is a rootfs object.
    fn rootfs(&self, path: &str) -> Result<Blake3, BuilderError>;
    /// The place on disk of an input that is a tree, or of a file inside one.
    fn tree(&self, path: &str) -> Result<PathBuf, BuilderError>;
    /// How many threads may work; may not reach the output.
    fn cores(&self) -> usize;
    /// Writes a line to the log.
    fn log(&self, line: &str);
    /// Tells of something that does not stop the build.
    fn warn(&self, warning: Diagnostic);
    /// Tells how far the build is; a total of 0 is unknown.
    fn progress(&self, done: u64, total: u64);
    /// Tells whether the build should stop.
    fn cancelled(&self) -> bool;
}

impl Build for BuilderCtx<'_> {
    fn name(&self) -> &str {
        self.name
    }
    fn store(&self) -> &Store {
        self.store
    }
    fn rootfs(&self, path: &str) -> Result<Blake3, BuilderError> {
        let info = self.input(path)?;
        info.root.ok_or_else(|| {
            BuilderError::failed(format!(
                "`{path}` is a tree; `{}` needs a root file system",
                self.name
            ))
        })
    }
    fn tree(&self, path: &str) -> Result<PathBuf, BuilderError> {
        // The part behind the store path comes from the recipe and must stay inside.
        if Path::new(path)
            .components()
            .any(|part| part == Component::ParentDir)
        {
            return Err(BuilderError::failed(format!(
                "`{path}` must not contain `..`"
            )));
        }
        if self.input(path)?.root.is_some() {
            return Err(BuilderError::failed(format!(
                "`{path}` is a root file system; `{}` needs a tree",
                self.name
            )));
        }
        self.physical(path)
    }
    fn cores(&self) -> usize {
        self.cores
    }
    fn log(&self, line: &str) {
        BuilderCtx::log(self, line);
    }
    fn warn(&self, warning: Diagnostic) {
        BuilderCtx::warn(self, warning);
    }
    fn progress(&self, done: u64, total: u64) {
        BuilderCtx::progress(self, done, total);
    }
    fn cancelled(&self) -> bool {
        BuilderCtx::cancelled(self)
    }
}

/// An attribute that must be there and be text.
pub(crate) fn text_of<'a>(ctx: &'a BuilderCtx<'_>, name: &str) -> Result<&'a str, BuilderError> {
    let text = ctx.attrs.get(name).and_then(serde_json::Value::as_str);
    text.ok_or_else(|| BuilderError::failed(format!("`{}` has no attribute `{name}`", ctx.name)))
}

/// Reads an owner as `uid:gid`.
pub(crate) fn parse_ids(text: &str) -> Option<(u32, u32)> {
    let (uid, gid) = text.split_once(':')?;
    Some((uid.parse().ok()?, gid.parse().ok()?))
}

#[cfg(test)]
pub(crate) mod fake {
    //! A build without an engine, over a store of its own.

    use std::cell::RefCell;
    use std::collections::BTreeMap;

    use sos_formats::store_path::{StoreDir, StorePath};
    use sos_store::OpenOptions;

    use super::*;

    /// Inputs by any name that a test likes.
    pub(crate) struct Fake {
        pub(crate) dir: tempfile::TempDir,
        pub(crate) store: Store,
        pub(crate) cores: usize,
        pub(crate) roots: BTreeMap<String, Blake3>,
        pub(crate) trees: BTreeMap<String, PathBuf>,
        pub(crate) lines: RefCell<Vec<String>>,
    }

    impl Fake {
        pub(crate) fn new() -> Self {
            let dir = tempfile::tempdir().expect("a temporary directory");
            let options = OpenOptions {
                root: dir.path().join("store"),
                store_dir: StoreDir::default(),
                read_only: false,
            };
            let store = Store::open(options).expect("a new store");
            Self {
                dir,
                store,
                cores: 2,
                roots: BTreeMap::new(),
                trees: BTreeMap::new(),
                lines: RefCell::new(Vec::new()),
            }
        }

        /// A path in the temporary directory.
        pub(crate) fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        pub(crate) fn logged(&self, part: &str) -> bool {
            self.lines.borrow().iter().any(|line| line.contains(part))
        }
    }

    impl Build for Fake {
        fn name(&self) -> &str {
            "test"
        }
        fn store(&self) -> &Store {
            &self.store
        }
        fn rootfs(&self, path: &str) -> Result<Blake3, BuilderError> {
            let found = self.roots.get(path).copied();
            found.ok_or_else(|| BuilderError::failed(format!("no root {path}")))
        }
        fn tree(&self, path: &str) -> Result<PathBuf, BuilderError> {
            if let Some(found) = self.trees.get(path) {
                return Ok(found.clone());
            }
            let none = || BuilderError::failed(format!("no tree {path}"));
            let (object, rest) =
                StorePath::split_absolute(self.store.store_dir(), path).map_err(|_other| none())?;
            let place = self.store.physical(&object);
            let rest = rest.trim_start_matches('/');
            Ok(if rest.is_empty() {
                place
            } else {
                place.join(rest)
            })
        }
        fn cores(&self) -> usize {
            self.cores
        }
        fn log(&self, line: &str) {
            self.lines.borrow_mut().push(line.to_owned());
        }
        fn warn(&self, warning: Diagnostic) {
            let line = format!("warning[{}]: {}", warning.code, warning.message);
            self.lines.borrow_mut().push(line);
        }
        fn progress(&self, _done: u64, _total: u64) {}
        fn cancelled(&self) -> bool {
            false
        }
    }
}
