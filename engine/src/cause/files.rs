//! The files in which two states of a source differ.

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sos_formats::store_path::StorePath;
use sos_store::{FileChange, SourceEntry, Store, StoreError};

use super::ChangedFile;

/// Files and directories that are looked at; more would be felt.
const ENTRIES_MAX: usize = 20_000;
/// Bytes that are read.
const BYTES_MAX: u64 = 64 << 20;

const CHUNK: usize = 64 * 1024;

/// Tells which files differ, in the order of names: from what was noted of both states, or else the first one by looking at both.
pub(super) fn changes(
    store: &Store,
    old: &StorePath,
    new: &StorePath,
) -> Result<Vec<ChangedFile>, StoreError> {
    if let (Some(old), Some(new)) = (store.source_files(old)?, store.source_files(new)?) {
        let text = |entry: Option<SourceEntry>| entry.map(|entry| entry.to_text());
        let told = |change: FileChange| ChangedFile {
            file: String::from_utf8_lossy(&change.path).into_owned(),
            was: text(change.was),
            is: text(change.now),
        };
        return Ok(old.changes(&new).into_iter().map(told).collect());
    }
    let first = first_difference(store, old, new).map(|file| ChangedFile {
        file,
        was: None,
        is: None,
    });
    Ok(first.into_iter().collect())
}

/// Returns the path of the first file that differs, in the order of names; none when one of the trees is not there, is
/// no directory, or is too large to look through.
fn first_difference(store: &Store, old: &StorePath, new: &StorePath) -> Option<String> {
    let there = |path: &StorePath| store.is_present(path).unwrap_or(false);
    if !there(old) || !there(new) {
        return None;
    }
    let mut walk = Walk {
        old: store.physical(old),
        new: store.physical(new),
        entries: 0,
        bytes: 0,
    };
    let found = walk.run().ok().flatten()?;
    Some(found.to_string_lossy().into_owned())
}

struct Walk {
    old: PathBuf,
    new: PathBuf,
    entries: usize,
    bytes: u64,
}

impl Walk {
    fn run(&mut self) -> io::Result<Option<PathBuf>> {
        let is_dir = |place: &Path| fs::symlink_metadata(place).map(|meta| meta.is_dir());
        if !is_dir(&self.old)? || !is_dir(&self.new)? {
            return Ok(None);
        }
        // What is still to be looked at, last first.
        let mut pending = vec![PathBuf::new()];
        while let Some(path) = pending.pop() {
            let (old, new) = (self.old.join(&path), self.new.join(&path));
            let (before, now) = (fs::symlink_metadata(&old), fs::symlink_metadata(&new));
            let (Ok(before), Ok(now)) = (before, now) else {
                // It is on one side only.
                return Ok(Some(path));
            };
            if before.is_dir() && now.is_dir() {
                pending.extend(
                    self.names(&old, &new)?
                        .into_iter()
                        .rev()
                        .map(|n| path.join(n)),
                );
            } else if !self.equal(&old, &before, &new, &now)? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// The names in either directory, sorted.
    fn names(&mut self, old: &Path, new: &Path) -> io::Result<Vec<PathBuf>> {
        let mut names = Vec::new();
        for dir in [old, new] {
            for entry in fs::read_dir(dir)? {
                names.push(PathBuf::from(entry?.file_name()));
                self.entries += 1;
                if self.entries > ENTRIES_MAX {
                    return Err(io::Error::other("too many files"));
                }
            }
        }
        names.sort();
        names.dedup();
        Ok(names)
    }

    fn equal(
        &mut self,
        old: &Path,
        before: &Metadata,
        new: &Path,
        now: &Metadata,
    ) -> io::Result<bool> {
        // Equal contents of one store are one file on the disk, as a rule.
        if (before.dev(), before.ino()) == (now.dev(), now.ino()) {
            return Ok(true);
        }
        if before.file_type() != now.file_type() {
            return Ok(false);
        }
        if before.is_symlink() {
            return Ok(fs::read_link(old)? == fs::read_link(new)?);
        }
        let executable = |meta: &Metadata| meta.permissions().mode() & 0o100 != 0;
        if before.len() != now.len() || executable(before) != executable(now) {
            return Ok(false);
        }
        self.bytes += before.len();
        if self.bytes > BYTES_MAX {
            return Err(io::Error::other("too many bytes"));
        }
        let (mut old, mut new) = (File::open(old)?, File::open(new)?);
        let (mut a, mut b) = (vec![0; CHUNK], vec![0; CHUNK]);
        loop {
            let n = old.read(&mut a)?;
            if n == 0 {
                return Ok(true);
            }
            new.read_exact(&mut b[..n])?;
            if a[..n] != b[..n] {
                return Ok(false);
            }
        }
    }
}
