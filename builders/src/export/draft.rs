//! What is being written: it gets its name when it is whole, so that nothing that was stopped looks finished.
//!
//! A draft lies beside the place, under its name with `.sos-draft-` and the number of the process behind it. Whatever stops an export, that is
//! all it leaves; the next export to the same place removes it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags};
use rustix::io::Errno;
use sos_engine::BuilderError;
use sos_store::{PlainRemover, Remover as _};

use super::directory::{failed, is_ended};
use super::repository::sync;

/// Stands between the name of what is being written and the process that writes it. What is called so is removed, thus nobody else may.
const MARK: &[u8] = b".sos-draft-";

/// A file or directory that is being written; when it is dropped before it is finished, it is removed.
#[derive(Debug)]
pub struct Draft<'a> {
    dest: &'a Path,
    path: PathBuf,
    is_finished: bool,
}

impl<'a> Draft<'a> {
    /// Finds a place beside `dest` where nothing is yet, and removes what earlier exports to `dest` have left that were killed.
    #[must_use]
    pub fn beside(dest: &'a Path) -> Self {
        let path = beside(dest);
        if let Some(name) = dest.file_name() {
            let dir = path.parent().unwrap_or(Path::new(""));
            // A path of one name is in the directory of the process.
            let dir = if dir == Path::new("") {
                Path::new(".")
            } else {
                dir
            };
            clear(dir, |of| of == name);
        }
        // A killed process with the number of this one.
        remove(&path);
        Self {
            dest,
            path,
            is_finished: false,
        }
    }

    /// Where to write.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives what is written its name, when it is on the disk. Nothing gives way for it.
    ///
    /// # Errors
    /// `Io` when there is something by now, or it cannot be written or renamed.
    pub fn finish(mut self) -> Result<(), BuilderError> {
        let parent = match self.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        // Without power a name must not lead to less than what it stands for. Who may write in a directory may not always read it.
        if File::open(parent).is_ok() {
            sync(parent)?;
        }
        let renamed =
            rustix::fs::renameat_with(CWD, &self.path, CWD, self.dest, RenameFlags::NOREPLACE);
        let renamed = match renamed {
            // The file system cannot look and rename at once.
            Err(Errno::INVAL | Errno::NOSYS) => match fs::symlink_metadata(self.dest) {
                Ok(_) => Err(Errno::EXIST.into()),
                Err(_) => fs::rename(&self.path, self.dest),
            },
            other => other.map_err(io::Error::from),
        };
        renamed.map_err(|e| failed("make", self.dest, e))?;
        self.is_finished = true;
        Ok(())
    }

    /// An error that happened in the draft, by the name that was asked for.
    #[must_use]
    pub fn named(&self, error: BuilderError) -> BuilderError {
        match error {
            BuilderError::Io { context, source } => {
                let (draft, dest) = (self.path.display(), self.dest.display());
                let context = context.replace(&draft.to_string(), &dest.to_string());
                BuilderError::Io { context, source }
            }
            other => other,
        }
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            remove(&self.path);
        }
    }
}

/// Where this process writes what becomes `dest`.
pub(super) fn beside(dest: &Path) -> PathBuf {
    let mut name = dest.file_name().unwrap_or_default().to_owned();
    name.push(OsStr::from_bytes(MARK));
    name.push(std::process::id().to_string());
    dest.with_file_name(name)
}

/// The name of what a draft becomes, and the process that writes it; of other files their name.
pub(super) fn of_draft(name: &OsStr) -> (&OsStr, Option<i32>) {
    let bytes = name.as_bytes();
    let mark = bytes.windows(MARK.len()).rposition(|part| part == MARK);
    let found = mark.and_then(|at| {
        let pid = std::str::from_utf8(&bytes[at + MARK.len()..]).ok()?;
        Some((OsStr::from_bytes(&bytes[..at]), pid.parse().ok()?))
    });
    found.map_or((name, None), |(of, pid)| (of, Some(pid)))
}

/// Removes the drafts of a directory that processes have left which were killed, of those files that `of` names. It hurts nobody, so
/// neither does it when one stays.
pub(super) fn clear(dir: &Path, of: impl Fn(&OsStr) -> bool) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if let (becomes, Some(pid)) = of_draft(&name)
            && of(becomes)
            && is_ended(pid)
        {
            remove(&entry.path());
        }
    }
}

/// Removes what is at a path, if it can.
fn remove(path: &Path) {
    let _stays = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => PlainRemover.remove_tree(path).is_err(),
        Ok(_) => fs::remove_file(path).is_err(),
        Err(_) => false,
    };
}

/// Waits until no other export writes into a directory, and keeps others out while the result lives. It leaves nothing behind: the lock
/// is one of the directory itself. A file system without locks has none: there exports into one place must follow each other.
pub(super) fn alone(dir: &Path) -> Result<File, BuilderError> {
    let file = File::open(dir).map_err(|e| failed("open", dir, e))?;
    loop {
        match rustix::fs::flock(&file, FlockOperation::LockExclusive) {
            Err(Errno::INTR) => {}
            Ok(())
            | Err(Errno::BADF | Errno::INVAL | Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return Ok(file);
            }
            Err(error) => return Err(failed("lock", dir, error.into())),
        }
    }
}
