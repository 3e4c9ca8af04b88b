//! The files of sources with their digests. A source is collected long before the question comes which of its files changed.

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt as _;

use sos_formats::hash::Blake3;
use sos_formats::store_path::StorePath;

use crate::clock;
use crate::db;
use crate::error::Result;
use crate::listing::{ItemKind, ListOptions, Listing};
use crate::packed;
use crate::store::Store;

/// Entries of a source above which its files are not kept.
const ENTRIES_MAX: usize = 100_000;
/// Bytes of a source that is only known by lying in the store, above which it is not read for this.
const READ_BYTES_MAX: u64 = 32 << 20;
/// Entries of such a source.
const READ_ENTRIES_MAX: usize = 5_000;
/// Bytes that are unpacked.
const UNPACKED_BYTES_MAX: usize = 64 << 20;
/// Bytes of all that is kept: the oldest go first.
pub(crate) const SOURCE_BYTES_KEPT: u64 = 128 << 20;
/// Days after which the files of a source are forgotten.
pub(crate) const SOURCE_DAYS: i64 = 400;

/// What an equal file counts where two sources are compared, and one with another content counts one.
const EQUAL_COUNTS: usize = 4;

/// What one name in a source is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceEntry {
    /// A directory.
    Directory,
    /// A file with this content.
    File(Blake3),
    /// An executable file with this content.
    Executable(Blake3),
    /// A symbolic link, by the digest of its target.
    Symlink(Blake3),
}

impl SourceEntry {
    /// As text: `blake3:HEX`, `executable blake3:HEX`, `link blake3:HEX` (of its target), `directory`.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self {
            Self::Directory => "directory".to_owned(),
            Self::File(digest) => format!("blake3:{}", digest.to_hex()),
            Self::Executable(digest) => format!("executable blake3:{}", digest.to_hex()),
            Self::Symlink(digest) => format!("link blake3:{}", digest.to_hex()),
        }
    }

    fn parts(&self) -> (u8, [u8; 32]) {
        match self {
            Self::Directory => (b'd', [0; 32]),
            Self::File(digest) => (b'f', digest.0),
            Self::Executable(digest) => (b'x', digest.0),
            Self::Symlink(digest) => (b'l', digest.0),
        }
    }
}

/// The entries of a source by their paths below it; that of the source itself is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceFiles(BTreeMap<Vec<u8>, SourceEntry>);

/// One name that differs between two states of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileChange {
    /// Its path below the source; empty when the source is a single file.
    pub path: Vec<u8>,
    /// What was there.
    pub was: Option<SourceEntry>,
    /// What is there.
    pub now: Option<SourceEntry>,
}

impl SourceFiles {
    /// Takes what a listing tells; nothing when it is too long, or the content of a file is not known.
    pub(crate) fn of(listing: &Listing, contents: &[(usize, Blake3)]) -> Option<Self> {
        if listing.items.len() > ENTRIES_MAX {
            return None;
        }
        let mut entries = BTreeMap::new();
        for (at, item) in listing.items.iter().enumerate() {
            let entry = match &item.kind {
                ItemKind::Directory => SourceEntry::Directory,
                ItemKind::File { executable, .. } => {
                    let found = contents.binary_search_by_key(&at, |(index, _)| *index);
                    let digest = contents.get(found.ok()?)?.1;
                    if *executable {
                        SourceEntry::Executable(digest)
                    } else {
                        SourceEntry::File(digest)
                    }
                }
                ItemKind::Symlink { target } => SourceEntry::Symlink(Blake3::of(target)),
            };
            entries.insert(item.path.as_os_str().as_bytes().to_vec(), entry);
        }
        Some(Self(entries))
    }

    /// What differs, in the order of names. A directory is told only when nothing in it is.
    #[must_use]
    pub fn changes(&self, now: &Self) -> Vec<FileChange> {
        let names: std::collections::BTreeSet<&Vec<u8>> =
            self.0.keys().chain(now.0.keys()).collect();
        let mut found: Vec<FileChange> = names
            .into_iter()
            .filter_map(|path| {
                let (was, now) = (self.0.get(path).copied(), now.0.get(path).copied());
                (was != now).then(|| FileChange {
                    path: path.clone(),
                    was,
                    now,
                })
            })
            .collect();
        let parents: std::collections::BTreeSet<Vec<u8>> = found
            .iter()
            .filter_map(|change| {
                let slash = change.path.iter().rposition(|b| *b == b'/')?;
                Some(change.path[..slash].to_vec())
            })
            .collect();
        let is_dir = |entry: Option<SourceEntry>| entry.is_none_or(|e| e == SourceEntry::Directory);
        found.retain(|change| {
            !(is_dir(change.was) && is_dir(change.now) && parents.contains(&change.path))
        });
        found
    }

    /// How much two sources have in common: what is equal counts, and a bit also what only has the same name. 0 is nothing.
    #[must_use]
    pub fn in_common(&self, other: &Self) -> usize {
        let files = self.0.iter().filter(|(path, _)| !path.is_empty());
        files
            .filter(|(_, entry)| **entry != SourceEntry::Directory)
            .map(|(path, entry)| match other.0.get(path) {
                None | Some(SourceEntry::Directory) => 0,
                Some(same) if same == entry => EQUAL_COUNTS,
                Some(_) => 1,
            })
            .sum()
    }

    fn pack(&self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        for (path, entry) in &self.0 {
            let (kind, digest) = entry.parts();
            bytes.push(kind);
            bytes.extend_from_slice(&u32::try_from(path.len()).ok()?.to_le_bytes());
            bytes.extend_from_slice(path);
            if kind != b'd' {
                bytes.extend_from_slice(&digest);
            }
        }
        packed::pack(&bytes).ok()
    }

    fn unpack(packed: &[u8]) -> Option<Self> {
        let bytes = packed::unpack(packed, UNPACKED_BYTES_MAX).ok()?;
        let mut rest = bytes.as_slice();
        let mut entries = BTreeMap::new();
        while let Some((kind, tail)) = rest.split_first() {
            let (length, tail) = tail.split_first_chunk::<4>()?;
            let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
            let (path, tail) = tail.split_at_checked(length)?;
            rest = tail;
            let mut digest = || -> Option<Blake3> {
                let (digest, tail) = rest.split_first_chunk::<32>()?;
                rest = tail;
                Some(Blake3(*digest))
            };
            let entry = match kind {
                b'd' => SourceEntry::Directory,
                b'f' => SourceEntry::File(digest()?),
                b'x' => SourceEntry::Executable(digest()?),
                b'l' => SourceEntry::Symlink(digest()?),
                _ => return None,
            };
            entries.insert(path.to_vec(), entry);
        }
        Some(Self(entries))
    }
}

impl Store {
    /// The files of a source, if they are known.
    ///
    /// # Errors
    /// When the database fails.
    pub fn source_files(&self, path: &StorePath) -> Result<Option<SourceFiles>> {
        let packed = self.read_journal(|db| db::get_source(db, path))?.flatten();
        Ok(packed.and_then(|packed| SourceFiles::unpack(&packed)))
    }

    /// Keeps the files of sources that lie in the store, where they are not kept yet and are few and small enough to be read for it.
    ///
    /// # Errors
    /// When the database fails.
    pub fn note_sources<'a>(&self, paths: impl IntoIterator<Item = &'a StorePath>) -> Result<()> {
        if self.is_read_only() {
            return Ok(());
        }
        let unknown: Vec<&StorePath> = self.db().read(|db| {
            let db = &*db.unchecked_transaction()?;
            let mut unknown = Vec::new();
            for path in paths {
                if !db::has_source(db, path)? {
                    unknown.push(path);
                }
            }
            Ok(unknown)
        })?;
        for path in unknown {
            if let Some(files) = self.read_files(path) {
                self.keep_files(path, &files)?;
            }
        }
        Ok(())
    }

    /// Reads the files of an object; nothing when that is too much, or not possible.
    fn read_files(&self, path: &StorePath) -> Option<SourceFiles> {
        let info = self.query(path).ok()??;
        if info.root.is_some() || info.nar_size > READ_BYTES_MAX {
            return None;
        }
        let place = self.physical(path);
        let listing = Listing::read(&place, ListOptions::default()).ok()?;
        if listing.items.len() > READ_ENTRIES_MAX {
            return None;
        }
        let mut contents = Vec::new();
        for (at, item) in listing.items.iter().enumerate() {
            if matches!(item.kind, ItemKind::File { .. }) {
                let file = if item.path.as_os_str().is_empty() {
                    place.clone()
                } else {
                    place.join(&item.path)
                };
                contents.push((at, Blake3::of(&std::fs::read(file).ok()?)));
            }
        }
        SourceFiles::of(&listing, &contents)
    }

    fn keep_files(&self, path: &StorePath, files: &SourceFiles) -> Result<()> {
        let Some(packed) = files.pack() else {
            return Ok(());
        };
        let now = clock::now_secs();
        self.db().write(|db| db::put_source(db, path, now, &packed))
    }

    /// Keeps what was just learnt about a source, within a transaction.
    pub(crate) fn put_files(
        db: &rusqlite::Connection,
        path: &StorePath,
        listing: &Listing,
        contents: &[(usize, Blake3)],
    ) -> Result<()> {
        let packed = SourceFiles::of(listing, contents).and_then(|files| files.pack());
        match packed {
            Some(packed) => db::put_source(db, path, clock::now_secs(), &packed),
            None => Ok(()),
        }
    }

    /// Keeps what is known about a source, if it is not kept yet.
    pub(crate) fn note_known_files(
        &self,
        path: &StorePath,
        listing: &Listing,
        contents: &[(usize, Blake3)],
    ) -> Result<()> {
        if self.is_read_only() || self.db().read(|db| db::has_source(db, path))? {
            return Ok(());
        }
        self.db()
            .write(|db| Self::put_files(db, path, listing, contents))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(entries: &[(&str, SourceEntry)]) -> SourceFiles {
        let entry = |(path, entry): &(&str, SourceEntry)| (path.as_bytes().to_vec(), *entry);
        SourceFiles(entries.iter().map(entry).collect())
    }

    fn file(text: &str) -> SourceEntry {
        SourceEntry::File(Blake3::of(text.as_bytes()))
    }

    #[track_caller]
    fn check(old: &[(&str, SourceEntry)], new: &[(&str, SourceEntry)], expect: &[&str]) {
        let changes = files(old).changes(&files(new));
        let paths: Vec<String> = changes
            .iter()
            .map(|c| String::from_utf8_lossy(&c.path).into_owned())
            .collect();
        assert_eq!(paths, expect);
    }

    #[test]
    fn what_differs_is_named_and_directories_only_when_nothing_else_is() {
        use SourceEntry::{Directory, Executable};
        let old = [
            ("", Directory),
            ("a", file("1")),
            ("d", Directory),
            ("d/x", file("1")),
        ];
        check(&old, &old, &[]);
        let new = [
            ("", Directory),
            ("a", file("2")),
            ("d", Directory),
            ("d/x", file("1")),
        ];
        check(&old, &new, &["a"]);
        check(&old, &[("", Directory), ("a", file("1"))], &["d/x"]);
        check(
            &[("", Directory)],
            &[("", Directory), ("e", Directory)],
            &["e"],
        );
        check(
            &[("", Directory), ("d", file("1"))],
            &[("", Directory), ("d", Directory), ("d/x", file("1"))],
            &["d", "d/x"],
        );
        check(
            &[("", file("1"))],
            &[("", Executable(Blake3::of(b"1")))],
            &[""],
        );
    }

    #[test]
    fn they_are_packed_and_unpacked() {
        let all = files(&[
            ("", SourceEntry::Directory),
            ("a", file("1")),
            ("b/c", SourceEntry::Executable(Blake3::of(b"x"))),
            ("l", SourceEntry::Symlink(Blake3::of(b"a"))),
        ]);
        let packed = all.pack().unwrap();
        assert_eq!(SourceFiles::unpack(&packed), Some(all));
        assert_eq!(SourceFiles::unpack(b"no zstd"), None);
        let cut = zstd::bulk::compress(b"f\x05\0\0\0ab", 1).unwrap();
        assert_eq!(SourceFiles::unpack(&cut), None);
        let long = zstd::bulk::compress(b"f\xff\xff\xff\xffab", 1).unwrap();
        assert_eq!(SourceFiles::unpack(&long), None);
    }
}
