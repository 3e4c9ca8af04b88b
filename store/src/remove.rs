//! Removal of trees that builds have left: directories without write permission, files of other ids.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode};

use crate::sys;

/// How a tree is removed. The default is [`PlainRemover`]; a front end installs one that enters a user
/// namespace where files belong to subordinate ids, which their owner's parent may not delete.
pub trait Remover: Send + Sync {
    /// Removes a file, a symlink or a whole tree; one that is not there is a success.
    ///
    /// # Errors
    /// The first failure; what could be removed is gone then.
    fn remove_tree(&self, path: &Path) -> io::Result<()>;

    /// Tells whether a tree can be removed, without removing it: its files may belong to ids that the process once had and has no
    /// more. What is not known counts as removable.
    fn can_remove(&self, tree: &Path) -> bool {
        let _ = tree;
        true
    }

    /// Lists what is cached in `work` (see [`crate::Store::work_dir`]), is not in use, and was last used before `before`,
    /// as whole directories. With `take`, first puts those that can be removed where nobody finds them any more; the caller removes
    /// them then.
    /// Who keeps nothing there has nothing to say.
    ///
    /// # Errors
    /// When the caches cannot be looked at or locked.
    fn idle_caches(
        &self,
        work: &Path,
        before: Option<SystemTime>,
        take: bool,
    ) -> io::Result<Vec<PathBuf>> {
        let _ = (work, before, take);
        Ok(Vec::new())
    }
}

/// Removes with the rights of the calling process.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlainRemover;

impl Remover for PlainRemover {
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        let is_dir = match std::fs::symlink_metadata(path) {
            Ok(meta) => meta.is_dir(),
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(err) => return Err(err),
        };
        if !is_dir {
            return ignore_missing(std::fs::remove_file(path));
        }
        make_writable(path);
        let dir = sys::open_dir(path)?;
        remove_contents(dir)?;
        ignore_missing(std::fs::remove_dir(path))
    }
}

/// One directory on the way down: its open handle, what is left to do in it, and its name in its parent.
struct Level {
    dir: File,
    name: Option<std::ffi::CString>,
    pending: Vec<std::ffi::CString>,
}

/// Directories that are open at once.
const OPEN_MAX: usize = 200;

/// Empties an open directory. An explicit stack: the depth of a hostile tree must not be ours. Every level keeps one descriptor; what
/// is deeper than a process may have of them is moved up first.
fn remove_contents(top: File) -> io::Result<()> {
    let mut first_error = None;
    let pending = unlink_files(&top, &mut first_error)?;
    let mut stack = vec![Level {
        dir: top,
        name: None,
        pending,
    }];
    let mut moved = 0u64;
    loop {
        let is_deep = stack.len() >= OPEN_MAX;
        let Some(level) = stack.last_mut() else { break };
        if let Some(name) = level.pending.pop() {
            // A directory without write or search permission cannot be emptied.
            let _ = rustix::fs::chmodat(&level.dir, name.as_c_str(), Mode::RWXU, AtFlags::empty());
            if is_deep {
                moved += 1;
                if let Err(err) = move_up(&mut stack, &name, moved) {
                    note(&mut first_error, err);
                }
                continue;
            }
            match sys::open_dir_at(&level.dir, &name) {
                Ok(dir) => {
                    let pending = unlink_files(&dir, &mut first_error)?;
                    stack.push(Level {
                        dir,
                        name: Some(name),
                        pending,
                    });
                }
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(err) => note(&mut first_error, err),
            }
            continue;
        }
        let Some(done) = stack.pop() else { break };
        let (Some(parent), Some(name)) = (stack.last(), done.name) else {
            break;
        };
        match rustix::fs::unlinkat(&parent.dir, name.as_c_str(), AtFlags::REMOVEDIR) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(err) => note(&mut first_error, err.into()),
        }
    }
    first_error.map_or(Ok(()), Err)
}

/// Moves a directory of the last level to the first one, which removes it later.
fn move_up(stack: &mut [Level], name: &CStr, number: u64) -> io::Result<()> {
    let [first, .., last] = stack else {
        return Ok(());
    };
    let above = std::ffi::CString::new(format!(".sos-deep-{number}"))?;
    rustix::fs::renameat(&last.dir, name, &first.dir, above.as_c_str())?;
    first.pending.push(above);
    Ok(())
}

/// Unlinks everything in a directory that is not a directory; returns the names of those that are.
fn unlink_files(
    dir: &File,
    first_error: &mut Option<io::Error>,
) -> io::Result<Vec<std::ffi::CString>> {
    let mut dirs = Vec::new();
    let mut entries = Dir::read_from(dir)?;
    while let Some(entry) = entries.read() {
        let entry = entry?;
        let name = entry.file_name();
        if is_dot(name) {
            continue;
        }
        if entry.file_type() == FileType::Directory {
            dirs.push(name.to_owned());
            continue;
        }
        match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            // File systems that do not tell the type of an entry end here.
            Err(rustix::io::Errno::ISDIR) => dirs.push(name.to_owned()),
            Err(err) => note(first_error, err.into()),
        }
    }
    Ok(dirs)
}

fn is_dot(name: &CStr) -> bool {
    matches!(name.to_bytes(), b"." | b"..")
}

fn note(first: &mut Option<io::Error>, err: io::Error) {
    first.get_or_insert(err);
}

fn make_writable(path: &Path) {
    // A failure shows itself in the removal, with a better error.
    let _ = rustix::fs::chmodat(CWD, path, Mode::RWXU, AtFlags::empty());
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn read_only_directories_go_and_symlinks_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let keep = dir.path().join("keep");
        fs::write(&keep, "x").unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("a/b")).unwrap();
        fs::write(tree.join("a/b/f"), "x").unwrap();
        std::os::unix::fs::symlink(dir.path(), tree.join("a/up")).unwrap();
        for sub in ["a/b", "a", ""] {
            sys::set_mode(&tree.join(sub), 0o555).unwrap();
        }
        PlainRemover.remove_tree(&tree).unwrap();
        assert!(!tree.exists());
        assert!(keep.exists());
        PlainRemover.remove_tree(&tree).unwrap();
    }
}
