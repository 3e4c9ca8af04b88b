//! Private directories below `tmp/`, each locked by its owner and swept when the owner is gone.

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{IoContext, Result};
use crate::process::ProcessId;
use crate::remove::Remover;
use crate::sys;

/// A directory of one's own below the store's `tmp/`; it is removed with this value.
///
/// The kernel holds a lock on it for as long as the process lives, so what a killed process leaves behind is
/// recognised without a pid, and in every pid namespace.
pub struct TempDir {
    path: PathBuf,
    // Held for its lock, which ends when it is closed.
    lock: Option<File>,
    remover: Arc<dyn Remover>,
}

impl std::fmt::Debug for TempDir {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TempDir")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl TempDir {
    /// Makes a directory `<pid>.<start>.<n>.<label>` below `parent` and locks it.
    pub(crate) fn create(parent: &Path, label: &str, remover: Arc<dyn Remover>) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let process = ProcessId::current();
        loop {
            let number = NEXT.fetch_add(1, Ordering::Relaxed);
            let mut name = format!("{}.{}.{number}", process.pid, process.start_ticks);
            let label: String = label
                .chars()
                .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
                .take(40)
                .collect();
            if !label.is_empty() {
                name.push('.');
                name.push_str(&label);
            }
            let path = parent.join(name);
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {}
                Err(err) if err.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(err) if err.kind() == io::ErrorKind::NotFound => {
                    std::fs::create_dir_all(parent).at("make the directory", parent)?;
                    continue;
                }
                Err(err) => return Err(crate::StoreError::io("make the directory", path, err)),
            }
            // A sweeper may have found the directory before it was locked, and may have it by now.
            if let Some(lock) = lock_dir(&path)? {
                return Ok(Self {
                    path,
                    lock: Some(lock),
                    remover,
                });
            }
        }
    }

    /// The place of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The name below `tmp/`.
    pub(crate) fn name(&self) -> String {
        self.path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        if let Err(error) = self.remover.remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %error, "a temporary directory could not be removed");
        }
        // Unlock only after the removal, or a sweeper would start on the same tree.
        drop(self.lock.take());
    }
}

/// Locks a directory without waiting. `None`: another owner has it, or it is no longer the one at that path.
pub(crate) fn lock_dir(path: &Path) -> Result<Option<File>> {
    let file = match sys::open_dir(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(crate::StoreError::io("open", path, err)),
    };
    if !sys::try_lock_exclusive(&file).at("lock", path)? {
        return Ok(None);
    }
    Ok(if same_file(&file, path).at("look at", path)? {
        Some(file)
    } else {
        None
    })
}

/// Whether `path` still names the open file.
pub(crate) fn same_file(file: &File, path: &Path) -> io::Result<bool> {
    let open = file.metadata()?;
    match std::fs::symlink_metadata(path) {
        Ok(found) => Ok(found.dev() == open.dev() && found.ino() == open.ino()),
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(err) => Err(err),
    }
}

/// What a sweep of `tmp/` did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// How many directories of dead owners are gone.
    pub removed: usize,
    /// Those that could not be removed, with the reason.
    pub failed: Vec<(PathBuf, String)>,
    /// Those that only who has the ids of their files can remove.
    pub left: Vec<PathBuf>,
}

/// Removes what dead owners have left in a directory of [`TempDir`]s.
pub(crate) fn sweep(parent: &Path, remover: &dyn Remover) -> Result<SweepReport> {
    let mut report = SweepReport::default();
    for path in list_dir(parent)? {
        let is_dir = std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_dir());
        let lock = if is_dir { lock_dir(&path)? } else { None };
        if is_dir && lock.is_none() {
            continue;
        }
        match remover.remove_tree(&path) {
            Ok(()) => report.removed += 1,
            Err(_) if !remover.can_remove(&path) => report.left.push(path),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a leftover could not be removed");
                report.failed.push((path, error.to_string()));
            }
        }
        drop(lock);
    }
    Ok(report)
}

/// The entries of a directory in order; none when it is not there.
pub(crate) fn list_dir(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(crate::StoreError::io("list", dir, err)),
    };
    let mut found = Vec::new();
    for entry in entries {
        found.push(entry.at("list", dir)?.path());
    }
    found.sort();
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::remove::PlainRemover;

    #[test]
    fn a_sweep_leaves_owned_directories_and_takes_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let owned = TempDir::create(dir.path(), "mine", Arc::new(PlainRemover)).unwrap();
        std::fs::create_dir_all(dir.path().join("1.1.1/sub")).unwrap();
        std::fs::write(dir.path().join("1.1.1/sub/f"), "x").unwrap();
        let report = sweep(dir.path(), &PlainRemover).unwrap();
        assert_eq!(
            report,
            SweepReport {
                removed: 1,
                failed: Vec::new(),
                left: Vec::new(),
            }
        );
        assert!(owned.path().is_dir());
        let path = owned.path().to_owned();
        drop(owned);
        assert!(!path.exists());
    }
}
