//! One lock a derivation: two processes never build the same thing at once, and each can tell who is at it.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sos_formats::store_path::StorePath;

use crate::error::{IoContext, Result};
use crate::store::{Store, open_lock_file};
use crate::sys;
use crate::temp::same_file;

/// The right to build a derivation, given back when it is dropped or when the process dies.
#[derive(Debug)]
pub struct DrvLock {
    file: File,
    path: PathBuf,
}

impl Drop for DrvLock {
    fn drop(&mut self) {
        // While the lock is still held: whoever opened this file in between sees that it has lost its name.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::debug!(path = %self.path.display(), %error, "a lock file could not be removed");
        }
        // Closing the file unlocks it as well.
        sys::unlock(&self.file).ok();
    }
}

/// Who has a lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LockHolder {
    /// The number of the process.
    pub pid: u32,
    /// What it builds, whose log it writes; derivations that make the same thing share a lock.
    pub drv: Option<StorePath>,
}

/// The result of asking for a lock without waiting.
#[derive(Debug)]
pub enum TryLock {
    /// It is ours.
    Acquired(DrvLock),
    /// Somebody has it; who, is not always known.
    Held(Option<LockHolder>),
}

/// A build that runs, in this process or another.
#[derive(Debug)]
pub struct RunningBuild {
    path: PathBuf,
    inode: u64,
    /// When it began.
    pub since: SystemTime,
    /// Who builds, if it can be told.
    pub holder: Option<LockHolder>,
}

impl RunningBuild {
    /// Tells whether it has ended.
    #[must_use]
    pub fn is_over(&self) -> bool {
        let same = std::fs::metadata(&self.path).is_ok_and(|meta| meta.ino() == self.inode);
        // Who was killed leaves the file.
        let dead = |holder: &LockHolder| !Path::new(&format!("/proc/{}", holder.pid)).exists();
        !same || self.holder.as_ref().is_some_and(dead)
    }
}

impl Store {
    /// Finds the build of a derivation that runs now. One whose inputs decide what it is, or whose output is known
    /// beforehand, is found by its name.
    ///
    /// # Errors
    /// When the directory of locks cannot be read.
    pub fn running_build(&self, drv: &StorePath) -> Result<Option<RunningBuild>> {
        let own = self.lock_path(drv);
        let fixed = drv.name().strip_suffix(".drv").unwrap_or(drv.name());
        let mut paths = crate::temp::list_dir(&self.root().join("lock/drv"))?;
        paths.retain(|path| {
            let base = path.file_name().unwrap_or_default().to_string_lossy();
            StorePath::from_base(&base).is_ok_and(|p| p.name() == drv.name() || p.name() == fixed)
        });
        // Its own one first.
        paths.sort_by_key(|path| *path != own);
        for path in paths {
            // One that was given back in this moment is not held.
            let Ok(mut file) = File::open(&path) else {
                continue;
            };
            if sys::try_lock_exclusive(&file).at("lock", &path)? {
                sys::unlock(&file).ok();
                continue;
            }
            let meta = file.metadata().at("look at", &path)?;
            return Ok(Some(RunningBuild {
                inode: meta.ino(),
                since: meta.modified().at("look at", &path)?,
                holder: read_holder(&mut file),
                path,
            }));
        }
        Ok(None)
    }

    /// Waits for the right to build a derivation. Ask again what is valid afterwards.
    ///
    /// # Errors
    /// When the store is read-only or the lock file cannot be made.
    pub fn lock_drv(&self, drv: &StorePath) -> Result<DrvLock> {
        self.require_writable()?;
        let path = self.lock_path(drv);
        loop {
            let file = open_lock_file(&path)?;
            sys::lock_exclusive(&file).at("lock", &path)?;
            if let Some(lock) = take(file, &path, drv)? {
                return Ok(lock);
            }
        }
    }

    /// Asks for the right to build a derivation without waiting. The lock is that of `shared`, which is the derivation itself
    /// or what all that make the same thing have in common.
    ///
    /// # Errors
    /// As [`Store::lock_drv`].
    pub fn try_lock_drv(&self, shared: &StorePath, drv: &StorePath) -> Result<TryLock> {
        self.require_writable()?;
        let path = self.lock_path(shared);
        loop {
            let mut file = open_lock_file(&path)?;
            if !sys::try_lock_exclusive(&file).at("lock", &path)? {
                return Ok(TryLock::Held(read_holder(&mut file)));
            }
            if let Some(lock) = take(file, &path, drv)? {
                return Ok(TryLock::Acquired(lock));
            }
        }
    }

    /// The derivations that are being built now, by name, with the process that builds each.
    ///
    /// # Errors
    /// When the directory of locks cannot be read.
    pub fn locks_held(&self) -> Result<Vec<(String, Option<LockHolder>)>> {
        let mut held = Vec::new();
        for path in crate::temp::list_dir(&self.root().join("lock/drv"))? {
            // One that was given back in this moment is not held.
            let Ok(mut file) = File::open(&path) else {
                continue;
            };
            if sys::try_lock_exclusive(&file).at("lock", &path)? {
                sys::unlock(&file).ok();
                continue;
            }
            let base = path.file_name().unwrap_or_default().to_string_lossy();
            let name = StorePath::from_base(&base)
                .map_or_else(|_| base.to_string(), |p| p.name().to_owned());
            held.push((name, read_holder(&mut file)));
        }
        Ok(held)
    }

    /// Removes the files of locks that nobody holds: who was killed could not.
    pub(crate) fn sweep_locks(&self) -> Result<()> {
        for path in crate::temp::list_dir(&self.root().join("lock/drv"))? {
            let Ok(file) = File::open(&path) else {
                continue;
            };
            // As when a lock is given back: whoever opened the file meanwhile sees that it has lost its name.
            if sys::try_lock_exclusive(&file).at("lock", &path)?
                && same_file(&file, &path).at("look at", &path)?
                && let Err(error) = std::fs::remove_file(&path)
            {
                tracing::debug!(path = %path.display(), %error, "a lock file could not be removed");
            }
        }
        Ok(())
    }

    /// When the lock of a derivation was taken, as far as that can be told.
    #[must_use]
    pub fn locked_since(&self, drv: &StorePath) -> Option<SystemTime> {
        std::fs::metadata(self.lock_path(drv)).ok()?.modified().ok()
    }

    fn lock_path(&self, drv: &StorePath) -> PathBuf {
        self.root().join("lock/drv").join(drv.as_str())
    }
}

/// Writes our pid and what we build into a lock file that is locked; `None` when it was removed before we had the lock.
fn take(mut file: File, path: &Path, drv: &StorePath) -> Result<Option<DrvLock>> {
    if !same_file(&file, path).at("look at", path)? {
        return Ok(None);
    }
    let path = path.to_owned();
    let line = format!("{} {drv}\n", std::process::id(), drv = drv.as_str());
    // Only for people: without it the lock is as good. Never truncated to nothing: ext4 flushes such a file to the
    // disk when it is closed, which costs more than a trivial build.
    let length = line.len() as u64;
    let written = file
        .rewind()
        .and_then(|()| file.write_all(line.as_bytes()))
        .and_then(|()| {
            if file.metadata()?.len() > length {
                file.set_len(length)?;
            }
            Ok(())
        });
    if let Err(error) = written {
        tracing::debug!(path = %path.display(), %error, "the holder of a lock could not be noted");
    }
    Ok(Some(DrvLock { file, path }))
}

fn read_holder(file: &mut File) -> Option<LockHolder> {
    let mut text = String::new();
    file.take(1024).read_to_string(&mut text).ok()?;
    let (pid, drv) = text.trim().split_once(' ').unwrap_or((text.trim(), ""));
    Some(LockHolder {
        pid: pid.parse().ok()?,
        drv: StorePath::from_base(drv).ok(),
    })
}
