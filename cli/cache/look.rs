//! How paths are looked at, for recording and for checking alike.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_lang::FileType;
use sos_store::StatKey;

use super::bytes::Writer;
use super::inputs::{Asked, Seen, type_byte};

/// What `stat` says of a path, links followed; none when it says nothing.
pub(super) fn stat(path: &Path) -> Option<StatKey> {
    std::fs::metadata(path).ok().as_ref().map(StatKey::of)
}

/// Asks a path again.
pub(super) fn ask(path: &Path, asked: Asked) -> Option<Blake3> {
    match asked {
        Asked::Content => std::fs::read(path).ok().as_deref().map(Blake3::of),
        Asked::Listing => list(path).ok().map(|l| listing_digest(&l)),
        Asked::Type => type_digest(std::fs::symlink_metadata(path)),
        Asked::Target => std::fs::canonicalize(path).ok().map(|p| target_digest(&p)),
    }
}

/// How a path answers as it did.
pub(super) enum Same {
    /// It is the inode that it was, and nobody wrote to it.
    Untouched,
    /// It was asked again. With what is known better now, when it is worth noting.
    Asked(Option<Seen>),
}

/// Whether a path answers as it did.
pub(super) fn same(path: &Path, asked: Asked, seen: &Seen, now_nanos: i128) -> Result<Same, ()> {
    let by_stat = matches!(asked, Asked::Content | Asked::Listing) && seen.answer.is_some();
    let found = if by_stat { stat(path) } else { None };
    if found.is_some() && found == seen.stat {
        return Ok(Same::Untouched);
    }
    if ask(path, asked) != seen.answer {
        return Err(());
    }
    let trusted = found.filter(|key| !key.is_racy(now_nanos));
    Ok(Same::Asked(trusted.map(|key| Seen {
        answer: seen.answer,
        stat: Some(key),
    })))
}

/// A directory, in order of names.
fn list(path: &Path) -> io::Result<Vec<(Bytes, FileType)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let kind = file_type(entry.file_type()?);
        entries.push((entry.file_name().as_bytes().to_vec(), kind));
    }
    entries.sort_by(|a: &(Bytes, FileType), b| a.0.cmp(&b.0));
    Ok(entries)
}

/// The digest of a directory; the entries are in order of names.
pub(super) fn listing_digest(entries: &[(Bytes, FileType)]) -> Blake3 {
    let mut w = Writer::default();
    w.list(entries.iter(), |w, (name, kind)| {
        w.bytes(name);
        w.byte(type_byte(*kind));
    });
    Blake3::of(&w.0)
}

/// The digest of what a path is; none when that cannot be told.
fn type_digest(found: io::Result<std::fs::Metadata>) -> Option<Blake3> {
    match found {
        Ok(meta) => Some(known_type_digest(file_type(meta.file_type()))),
        Err(e) if is_missing(&e) => Some(nothing_digest()),
        Err(_) => None,
    }
}

pub(super) fn known_type_digest(kind: FileType) -> Blake3 {
    Blake3::of(&[type_byte(kind)])
}

pub(super) fn nothing_digest() -> Blake3 {
    Blake3::of(b"nothing")
}

/// The digest of where a path leads.
fn target_digest(target: &Path) -> Blake3 {
    Blake3::of(target.as_os_str().as_bytes())
}

fn is_missing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn file_type(t: std::fs::FileType) -> FileType {
    if t.is_dir() {
        FileType::Directory
    } else if t.is_symlink() {
        FileType::Symlink
    } else if t.is_file() {
        FileType::Regular
    } else {
        FileType::Unknown
    }
}

/// A digest of what `stat` says about a whole source, fed in the order in which the store lists it: a directory before what is
/// in it, in order of names.
pub(super) struct Print {
    writer: Writer,
    now_nanos: i128,
    racy: bool,
}

impl Print {
    /// Begins with the source itself. `now_nanos` is a time before anything was read.
    pub(super) fn new(root: &Path, now_nanos: i128) -> Option<Self> {
        let mut print = Self {
            writer: Writer::default(),
            now_nanos,
            racy: false,
        };
        let meta = std::fs::symlink_metadata(root).ok()?;
        print.add(Path::new(""), &meta, true);
        Some(print)
    }

    /// Adds what is below; for what is left out only that it is there counts.
    pub(super) fn add(&mut self, below: &Path, meta: &std::fs::Metadata, taken: bool) {
        let kind = file_type(meta.file_type());
        self.writer.path(below);
        self.writer.byte(type_byte(kind));
        self.writer.byte(u8::from(taken));
        if taken && kind != FileType::Directory {
            self.key(meta);
        }
    }

    /// Adds a tree with the times of its directories, in order of names; what is not there counts as that. Nothing when there are
    /// more entries than `limit`.
    pub(super) fn add_all(&mut self, root: &Path, skip: Option<&Path>, limit: usize) -> Option<()> {
        let mut pending = vec![root.to_owned()];
        let mut left = limit;
        while let Some(place) = pending.pop() {
            if skip == Some(&place) {
                continue;
            }
            left = left.checked_sub(1)?;
            self.writer.path(&place);
            let Ok(meta) = std::fs::symlink_metadata(&place) else {
                self.writer.byte(0);
                continue;
            };
            self.writer.byte(type_byte(file_type(meta.file_type())));
            self.key(&meta);
            if meta.is_dir() {
                push_names(&place, &mut pending, |name| place.join(name));
            }
        }
        Some(())
    }

    fn key(&mut self, meta: &std::fs::Metadata) {
        let key = StatKey::of(meta);
        self.racy |= key.is_racy(self.now_nanos);
        for number in [key.dev, key.ino, key.size, key.mtime_ns, key.ctime_ns] {
            self.writer.signed(number);
        }
    }

    /// The digest, unless something is so young that it may change unseen.
    pub(super) fn finish(self) -> Option<Blake3> {
        (!self.racy).then(|| Blake3::of(&self.writer.0))
    }
}

/// Takes the print of a source as it is now. `taken` says what of it counts; nothing when it does not know a path.
pub(super) fn print(
    root: &Path,
    now_nanos: i128,
    taken: &dyn Fn(&Path, FileType) -> Option<bool>,
) -> Option<Blake3> {
    let mut print = Print::new(root, now_nanos)?;
    let mut pending: Vec<PathBuf> = Vec::new();
    // A link is a source of its own: it is not followed.
    if std::fs::symlink_metadata(root).is_ok_and(|meta| meta.is_dir()) {
        push_names(root, &mut pending, PathBuf::from);
    }
    while let Some(below) = pending.pop() {
        let place = root.join(&below);
        let meta = std::fs::symlink_metadata(&place).ok()?;
        let kind = file_type(meta.file_type());
        let taken = taken(&below, kind)?;
        print.add(&below, &meta, taken);
        if taken && kind == FileType::Directory {
            push_names(&place, &mut pending, |name| below.join(name));
        }
    }
    print.finish()
}

/// Puts the names in a directory on the stack, the last first.
fn push_names(dir: &Path, pending: &mut Vec<PathBuf>, place: impl Fn(OsString) -> PathBuf) {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut names: Vec<OsString> = entries.map(|entry| entry.file_name()).collect();
    names.sort();
    pending.extend(names.into_iter().rev().map(place));
}
