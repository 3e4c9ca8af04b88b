//! What is being written: it gets its name when it is whole, so that nothing that was stopped looks finished.
//!
//! A draft lies beside the place, under its name with `.sos-draft-` and a number, mostly that of the process. Beside it lies a file with
//! `.lock` at the end, which is locked for as long as somebody writes. Whatever stops an export, that is all it leaves; the next export to
//! the same place takes the lock, and removes both.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_store::{PlainRemover, Remover as _};

use super::directory::failed;
use super::lock::{Lock, try_lock};
use super::repository::sync;

/// Stands between the name of what is being written and the number of the draft. What is called so and has a lock is removed.
const MARK: &[u8] = b".sos-draft-";
/// Behind the name of a draft: the file that is locked.
const LOCK: &str = ".lock";
/// Bytes of a name that stand before [`MARK`]. With what follows it is far below what file systems take, also those that keep names
/// encrypted (143), so that what can have its name can have a draft.
const MAX_STEM: usize = 100;
/// Names that are tried: that of this process may be one of another container's process of the same number.
const MAX_TRIES: u32 = 1000;

/// A file or directory that is being written; when it is dropped before it is finished, it is removed.
#[derive(Debug)]
pub struct Draft<'a> {
    dest: &'a Path,
    claim: Claim,
}

impl<'a> Draft<'a> {
    /// Finds a place beside `dest` where nothing is yet, and removes what earlier exports to `dest` have left that were killed.
    ///
    /// # Errors
    /// `Io` when nothing can be made there.
    pub fn beside(dest: &'a Path) -> Result<Self, BuilderError> {
        let first = beside(dest);
        let dir = directory_of(&first);
        if let Some(name) = dest.file_name() {
            clear(dir, &stem(name));
        }
        for number in 0..MAX_TRIES {
            let mut path = first.clone().into_os_string();
            if number > 0 {
                path.push(format!("-{number}"));
            }
            let claim = Claim::of(path.into(), Asks::ToWrite);
            if let Some(claim) = claim.map_err(|e| failed("make", dest, e))? {
                return Ok(Self { dest, claim });
            }
        }
        Err(failed("make", dest, io::ErrorKind::AlreadyExists.into()))
    }

    /// Where to write.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.claim.path
    }

    /// Gives what is written its name, when it is on the disk. Nothing gives way for it.
    ///
    /// # Errors
    /// `Diagnostic` when there is something by now, `Io` when it cannot be written or renamed.
    pub fn finish(self) -> Result<(), BuilderError> {
        let draft = self.path();
        let parent = directory_of(draft);
        // Without power a name must not lead to less than what it stands for. Who may write in a directory may not always read it.
        if File::open(parent).is_ok() {
            sync(parent)?;
        }
        let renamed =
            match rustix::fs::renameat_with(CWD, draft, CWD, self.dest, RenameFlags::NOREPLACE) {
                // The file system cannot look and rename at once.
                Err(Errno::INVAL | Errno::NOSYS) => match fs::symlink_metadata(self.dest) {
                    Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
                    Err(_) => fs::rename(draft, self.dest),
                },
                other => other.map_err(io::Error::from),
            };
        renamed.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => taken(self.dest, draft.is_dir()).into(),
            _ => failed("make", self.dest, error),
        })
    }

    /// An error that happened in the draft, by the name that was asked for.
    #[must_use]
    pub fn named(&self, error: BuilderError) -> BuilderError {
        match error {
            BuilderError::Io { context, source } => {
                let (draft, dest) = (self.path().display(), self.dest.display());
                let context = context.replace(&draft.to_string(), &dest.to_string());
                BuilderError::Io { context, source }
            }
            other => other,
        }
    }
}

/// Tells that there is something where an export should go, which would be a directory or a file.
#[must_use]
pub fn taken(dest: &Path, is_dir: bool) -> Diagnostic {
    let what = if is_dir { "directory" } else { "file" };
    let message = format!("`{}` is there already", dest.display());
    Diagnostic::error("export-exists", Class::Usage, message)
        .help(format!("name a {what} that is not there yet"))
}

/// What somebody wants a draft for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Asks {
    ToWrite,
    ToRemove,
}

/// A draft that is nobody else's. When it is dropped, it is removed, with all that has its name and more behind a dot.
#[derive(Debug)]
struct Claim {
    path: PathBuf,
    _lock: File,
}

impl Claim {
    /// Takes the draft at `path`, if nobody is at work there. The lock comes first and goes last: what has none is no draft, and stays.
    fn of(path: PathBuf, asks: Asks) -> io::Result<Option<Self>> {
        let lock_path = with_ending(&path, LOCK);
        let is_new = fs::symlink_metadata(&lock_path).is_err();
        if is_new && (asks == Asks::ToRemove || fs::symlink_metadata(&path).is_ok()) {
            // Somebody's own file of such a name: a draft has a lock.
            return Ok(None);
        }
        let opened = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            // What somebody has put there is not opened, if it is a link or a pipe.
            .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
            .open(&lock_path);
        let file = match opened {
            Ok(file) => file,
            // That of another user, or something else: no draft of ours.
            Err(_) if !is_new => return Ok(None),
            Err(error) => return Err(error),
        };
        let is_ours = match try_lock(&file)? {
            Lock::Taken => true,
            Lock::Held => false,
            // Nobody knows about others, so that nothing is removed, nor taken from anybody.
            Lock::Unknown => is_new && asks == Asks::ToWrite,
        };
        // Who had the lock before may have removed the file, and another one may be there.
        let (held, there) = (file.metadata()?, fs::symlink_metadata(&lock_path));
        let is_same =
            there.is_ok_and(|there| (there.dev(), there.ino()) == (held.dev(), held.ino()));
        if !is_ours || !is_same {
            return Ok(None);
        }
        let claim = Self { path, _lock: file };
        if asks == Asks::ToWrite {
            claim.empty();
        }
        Ok(Some(claim))
    }

    /// Removes what is there but the lock. It hurts nobody, so neither does it when something stays.
    fn empty(&self) {
        let name = self.path.file_name().unwrap_or_default();
        let behind_dot = with_ending(Path::new(name), ".");
        let lock = with_ending(Path::new(name), LOCK);
        for entry in entries(directory_of(&self.path)) {
            let other = entry.file_name();
            let is_of_it = other == name
                || other
                    .as_bytes()
                    .starts_with(behind_dot.as_os_str().as_bytes());
            if is_of_it && other != lock.as_os_str() {
                remove(&entry.path());
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.empty();
        remove(&with_ending(&self.path, LOCK));
    }
}

fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The directory that a path is in; that of one name is the one of the process.
fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Where this process writes what becomes `dest`, if nobody else does.
pub(super) fn beside(dest: &Path) -> PathBuf {
    let mut name = stem(dest.file_name().unwrap_or_default()).into_owned();
    name.push(OsStr::from_bytes(MARK));
    name.push(std::process::id().to_string());
    dest.with_file_name(name)
}

/// What the name of a draft begins with: the name of what it becomes, or of a long one the beginning and a hash.
fn stem(name: &OsStr) -> Cow<'_, OsStr> {
    let bytes = name.as_bytes();
    if bytes.len() <= MAX_STEM {
        return Cow::Borrowed(name);
    }
    let hash = format!("~{}", &Blake3::of(bytes).to_string()[..16]);
    let mut end = MAX_STEM - hash.len();
    // There are file systems that take nothing but UTF-8, thus no half of a letter.
    while end > 0 && bytes[end] & 0xc0 == 0x80 {
        end -= 1;
    }
    let mut short = bytes[..end].to_owned();
    short.extend(hash.into_bytes());
    Cow::Owned(OsString::from_vec(short))
}

/// Of the name of a draft, or of what lies beside one, what stands before the mark, and the name of the draft.
fn parts(name: &OsStr) -> Option<(&OsStr, &OsStr)> {
    let bytes = name.as_bytes();
    let mark = bytes.windows(MARK.len()).rposition(|part| part == MARK)?;
    let number = &bytes[mark + MARK.len()..];
    let end = number.iter().position(|byte| *byte == b'.');
    let number = &number[..end.unwrap_or(number.len())];
    let is_number = number
        .split(|byte| *byte == b'-')
        .all(|part| !part.is_empty() && part.iter().all(u8::is_ascii_digit));
    let draft = &bytes[..mark + MARK.len() + number.len()];
    is_number.then(|| (OsStr::from_bytes(&bytes[..mark]), OsStr::from_bytes(draft)))
}

/// The name of what a draft becomes, as far as drafts have it; of other files their name.
pub(super) fn of_draft(name: &OsStr) -> &OsStr {
    parts(name).map_or(name, |(of, _)| of)
}

/// Removes all drafts of a directory, for who has a lock of it: nobody is at work there.
pub(super) fn clear_all(dir: &Path) {
    for entry in entries(dir) {
        if parts(&entry.file_name()).is_some() {
            remove(&entry.path());
        }
    }
}

/// Removes the drafts of a directory that begin with `of` and that nobody writes any more.
fn clear(dir: &Path, of: &OsStr) {
    let names: Vec<_> = entries(dir).map(|entry| entry.file_name()).collect();
    let all = names.iter().filter_map(|name| parts(name));
    let drafts: BTreeSet<_> = all
        .filter(|(stem, _)| *stem == of)
        .map(|(_, draft)| draft)
        .collect();
    for draft in drafts {
        // Dropped at once, which removes it.
        let _gone = Claim::of(dir.join(draft), Asks::ToRemove).is_ok();
    }
}

fn entries(dir: &Path) -> impl Iterator<Item = fs::DirEntry> {
    fs::read_dir(dir).into_iter().flatten().flatten()
}

/// Removes what is at a path, if it can.
fn remove(path: &Path) {
    let _stays = match fs::symlink_metadata(path) {
        Ok(there) if there.is_dir() => PlainRemover.remove_tree(path).is_err(),
        Ok(_) => fs::remove_file(path).is_err(),
        Err(_) => false,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<_> = entries(dir)
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn two_drafts_are_beside_each_other_and_one_gets_the_name() {
        let dir = tempfile::tempdir().expect("a directory");
        let dest = dir.path().join("image");
        // In one process, as two have one number in two containers.
        let [first, second] = [(), ()].map(|()| Draft::beside(&dest).expect("a draft"));
        assert_ne!(first.path(), second.path());
        for draft in [&first, &second] {
            fs::write(draft.path(), "whole").expect("written");
            // As signing does.
            fs::write(with_ending(draft.path(), ".signed"), "half").expect("written");
        }
        second.finish().expect("a name");
        let told = match first.finish() {
            Err(BuilderError::Diagnostic(told)) => told,
            other => panic!("{other:?}"),
        };
        assert_eq!((told.code, told.class), ("export-exists", Class::Usage));
        assert!(told.message.ends_with("image` is there already"));
        assert_eq!(names(dir.path()), ["image"]);
    }

    #[test]
    fn names_of_drafts_are_read_as_they_are_written() {
        let place = |name: &str| {
            let draft = beside(Path::new(name));
            let draft = draft.file_name().expect("a name").to_owned();
            assert!(draft.len() < 130, "{}", draft.display());
            let found = parts(&draft).expect("a draft");
            assert_eq!(found, (&*stem(OsStr::new(name)), &*draft));
            let lock = with_ending(Path::new(&draft), LOCK).into_os_string();
            assert_eq!(parts(&lock), Some(found));
            found.0.to_string_lossy().into_owned()
        };
        assert_eq!(place("a.raw"), "a.raw");
        let long = ["a", "b"].map(|end| place(&format!("{}{end}", "\u{e4}".repeat(127))));
        assert!(long[0].starts_with("\u{e4}\u{e4}") && !long[0].contains('\u{fffd}'));
        assert_ne!(long[0], long[1]);
        for other in [
            "a",
            "a.sos-draft-",
            "a.sos-draft-x",
            "a.sos-draft-1-",
            "a.sos-draft-1x",
        ] {
            assert_eq!(parts(OsStr::new(other)), None, "{other}");
        }
    }

    #[test]
    fn what_has_no_lock_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let dest = dir.path().join("a");
        let own = beside(&dest);
        for name in [&own, &dir.path().join("a.sos-draft-2024")] {
            fs::write(name, "mine").expect("written");
        }
        let before = names(dir.path());
        let draft = Draft::beside(&dest).expect("a draft");
        assert_ne!(draft.path(), own);
        drop(draft);
        assert_eq!(names(dir.path()), before);
        // One that was killed has left both.
        fs::write(dir.path().join("a.sos-draft-2024.lock"), "").expect("written");
        drop(Draft::beside(&dest).expect("a draft"));
        assert_eq!(names(dir.path()).len(), 1, "{:?}", names(dir.path()));
    }

    #[test]
    fn what_is_no_lock_is_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let kept = dir.path().join("kept");
        fs::write(&kept, "mine").expect("written");
        fs::write(dir.path().join("a.sos-draft-1"), "half").expect("written");
        let link = dir.path().join("a.sos-draft-1.lock");
        std::os::unix::fs::symlink(&kept, link).expect("a link");
        clear(dir.path(), OsStr::new("a"));
        assert_eq!(
            names(dir.path()),
            ["a.sos-draft-1", "a.sos-draft-1.lock", "kept"]
        );
    }
}
