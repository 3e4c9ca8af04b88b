//! Finding and replacing store hashes in bytes and in trees on disk.
//!
//! Paths of content-addressed outputs are not known before the build: builders get scratch paths of the same length,
//! which are replaced afterwards.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sos_formats::hash::{Hash, HashAlgo, Hasher};

/// Digits of the hash part of a store path.
pub(crate) const HASH_DIGITS: usize = 32;

/// Length of a placeholder: `/` and 52 digits.
const PLACEHOLDER: usize = 53;

const CHUNK: usize = 256 * 1024;

/// Placeholders in strings and what stands for them.
#[derive(Default, Debug)]
pub(crate) struct Placeholders {
    map: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Placeholders {
    /// Adds a placeholder, `/` and 52 digits.
    pub(crate) fn insert(&mut self, placeholder: &str, path: String) {
        debug_assert_eq!(placeholder.len(), PLACEHOLDER);
        self.map
            .insert(placeholder.as_bytes().to_vec(), path.into_bytes());
    }

    /// Tells whether there is nothing to replace.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Replaces every placeholder.
    pub(crate) fn apply(&self, text: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.iter().position(|b| *b == b'/') {
            out.extend_from_slice(&rest[..at]);
            rest = &rest[at..];
            let found = rest
                .get(..PLACEHOLDER)
                .and_then(|candidate| self.map.get(candidate));
            if let Some(path) = found {
                out.extend_from_slice(path);
                rest = &rest[PLACEHOLDER..];
            } else {
                out.push(b'/');
                rest = &rest[1..];
            }
        }
        out.extend_from_slice(rest);
        out
    }
}

/// Hash parts to look for, each with what replaces it.
#[derive(Clone, Default, Debug)]
pub(crate) struct HashParts {
    map: BTreeMap<[u8; HASH_DIGITS], [u8; HASH_DIGITS]>,
}

/// Returns the digits of a hash part as bytes.
pub(crate) fn digits(hash_part: &str) -> [u8; HASH_DIGITS] {
    let mut out = [0; HASH_DIGITS];
    for (to, from) in out.iter_mut().zip(hash_part.bytes()) {
        *to = from;
    }
    out
}

fn is_digit(b: u8) -> bool {
    matches!(b, b'0'..=b'9' | b'a'..=b'd' | b'f'..=b'n' | b'p'..=b's' | b'v'..=b'z')
}

impl HashParts {
    /// Adds a hash part and its replacement.
    pub(crate) fn insert(&mut self, from: [u8; HASH_DIGITS], to: [u8; HASH_DIGITS]) {
        self.map.insert(from, to);
    }

    /// Tells whether there is nothing to look for.
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Calls `found` with the offset and the digits of every occurrence.
    fn each(&self, bytes: &[u8], mut found: impl FnMut(usize, &[u8; HASH_DIGITS])) {
        let mut at = 0;
        while let Some(window) = bytes.get(at..at + HASH_DIGITS) {
            // From the end: a byte that is no digit rules out every window that holds it.
            if let Some(bad) = window.iter().rposition(|b| !is_digit(*b)) {
                at += bad + 1;
                continue;
            }
            match self.map.get_key_value(window) {
                Some((digits, _)) => {
                    found(at, digits);
                    at += HASH_DIGITS;
                }
                None => at += 1,
            }
        }
    }

    /// Returns the bytes with every occurrence replaced, or nothing when there is none.
    pub(crate) fn replace(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        let mut out = None;
        self.each(bytes, |at, digits| {
            let out = out.get_or_insert_with(|| bytes.to_vec());
            out[at..at + HASH_DIGITS].copy_from_slice(&self.map[digits]);
        });
        out
    }

    /// Calls `found` with the offset and the digits of every occurrence in a stream.
    fn each_in(
        &self,
        mut reader: impl Read,
        mut found: impl FnMut(u64, &[u8; HASH_DIGITS]),
    ) -> io::Result<()> {
        let mut buffer = vec![0; CHUNK + HASH_DIGITS];
        let (mut kept, mut offset) = (0, 0);
        loop {
            let n = match reader.read(&mut buffer[kept..]) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e),
            };
            let filled = kept + n;
            let mut end = 0;
            self.each(&buffer[..filled], |at, digits| {
                found(offset + at as u64, digits);
                end = at + HASH_DIGITS;
            });
            // An occurrence may begin in the last bytes, but not within one already found.
            let next = filled.saturating_sub(HASH_DIGITS - 1).max(end);
            buffer.copy_within(next..filled, 0);
            kept = filled - next;
            offset += next as u64;
        }
    }

    /// Returns which of the hash parts occur in the contents, link targets and names of a tree.
    pub(crate) fn scan_tree(&self, root: &Path) -> io::Result<BTreeSet<[u8; HASH_DIGITS]>> {
        let mut seen = BTreeSet::new();
        walk(root, &mut |path, kind| {
            if path != root
                && let Some(name) = path.file_name()
            {
                self.each(name.as_bytes(), |_, d| {
                    seen.insert(*d);
                });
            }
            match kind {
                Kind::File => self.each_in(File::open(path)?, |_, d| {
                    seen.insert(*d);
                }),
                Kind::Link => {
                    self.each(fs::read_link(path)?.as_os_str().as_bytes(), |_, d| {
                        seen.insert(*d);
                    });
                    Ok(())
                }
                Kind::Dir | Kind::Other => Ok(()),
            }
        })?;
        Ok(seen)
    }

    /// Returns the first file, link or name of a tree that holds one of the hash parts.
    pub(crate) fn first_in_tree(&self, root: &Path) -> io::Result<Option<PathBuf>> {
        let mut first: Option<PathBuf> = None;
        walk(root, &mut |path, kind| {
            if first.as_deref().is_some_and(|first| first < path) {
                return Ok(());
            }
            let mut holds = false;
            if path != root
                && let Some(name) = path.file_name()
            {
                self.each(name.as_bytes(), |_, _| holds = true);
            }
            match kind {
                Kind::File => self.each_in(File::open(path)?, |_, _| holds = true)?,
                Kind::Link => {
                    let target = fs::read_link(path)?;
                    self.each(target.as_os_str().as_bytes(), |_, _| holds = true);
                }
                Kind::Dir | Kind::Other => {}
            }
            if holds {
                first = Some(path.to_owned());
            }
            Ok(())
        })?;
        Ok(first)
    }

    /// Replaces the hash parts in the contents, link targets and names of a tree, in place.
    pub(crate) fn rewrite_tree(&self, root: &Path) -> io::Result<()> {
        let mut renames = Vec::new();
        walk(root, &mut |path, kind| {
            match kind {
                Kind::File => self.rewrite_file(path)?,
                Kind::Link => {
                    let target = fs::read_link(path)?.into_os_string().into_vec();
                    if let Some(new) = self.replace(&target) {
                        fs::remove_file(path)?;
                        symlink(OsStr::from_bytes(&new), path)?;
                    }
                }
                Kind::Dir | Kind::Other => {}
            }
            if path != root
                && let (Some(name), Some(parent)) = (path.file_name(), path.parent())
                && let Some(new) = self.replace(name.as_bytes())
            {
                renames.push((path.to_owned(), parent.join(OsStr::from_bytes(&new))));
            }
            Ok(())
        })?;
        // Parents were seen before what they hold, so the deepest names change first.
        for (from, to) in renames.into_iter().rev() {
            fs::rename(from, to)?;
        }
        Ok(())
    }

    fn rewrite_file(&self, path: &Path) -> io::Result<()> {
        let mut edits = Vec::new();
        self.each_in(File::open(path)?, |at, digits| {
            edits.push((at, self.map[digits]));
        })?;
        if edits.is_empty() {
            return Ok(());
        }
        let before = fs::metadata(path)?.permissions();
        fs::set_permissions(path, Permissions::from_mode(before.mode() | 0o200))?;
        let file = OpenOptions::new().write(true).open(path)?;
        for (at, new) in edits {
            file.write_all_at(&new, at)?;
        }
        fs::set_permissions(path, before)
    }
}

enum Kind {
    File,
    Link,
    Dir,
    Other,
}

/// Visits a tree, directories before what they hold and names in order; makes directories readable on the way.
fn walk(root: &Path, visit: &mut dyn FnMut(&Path, Kind) -> io::Result<()>) -> io::Result<()> {
    let mut stack = vec![root.to_owned()];
    while let Some(path) = stack.pop() {
        let meta = fs::symlink_metadata(&path)?;
        let kind = meta.file_type();
        if kind.is_dir() {
            let mode = meta.permissions().mode();
            if mode & 0o700 != 0o700 {
                fs::set_permissions(&path, Permissions::from_mode(mode | 0o700))?;
            }
            visit(&path, Kind::Dir)?;
            let mut entries: Vec<PathBuf> = fs::read_dir(&path)?
                .map(|entry| entry.map(|e| e.path()))
                .collect::<io::Result<_>>()?;
            entries.sort();
            stack.extend(entries.into_iter().rev());
        } else if kind.is_file() {
            let mode = meta.permissions().mode();
            if mode & 0o400 == 0 {
                fs::set_permissions(&path, Permissions::from_mode(mode | 0o400))?;
            }
            visit(&path, Kind::File)?;
        } else if kind.is_symlink() {
            visit(&path, Kind::Link)?;
        } else {
            visit(&path, Kind::Other)?;
        }
    }
    Ok(())
}

/// Hashes a stream as if every occurrence of one hash part were zeros, and the places of the occurrences with it.
pub(crate) struct ModuloHasher {
    hasher: Hasher,
    needle: [u8; HASH_DIGITS],
    kept: Vec<u8>,
    offset: u64,
    found: Vec<u64>,
}

impl ModuloHasher {
    /// Starts a hash modulo `needle`.
    pub(crate) fn new(algo: HashAlgo, needle: [u8; HASH_DIGITS]) -> Self {
        Self {
            hasher: Hasher::new(algo),
            needle,
            kept: Vec::new(),
            offset: 0,
            found: Vec::new(),
        }
    }

    /// Returns the hash.
    pub(crate) fn finish(mut self) -> Hash {
        self.hasher.update(&self.kept);
        for at in &self.found {
            self.hasher.update(format!("|{at}").as_bytes());
        }
        self.hasher.finish()
    }
}

impl Write for ModuloHasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.kept.extend_from_slice(bytes);
        let mut parts = HashParts::default();
        parts.insert(self.needle, [0; HASH_DIGITS]);
        let (mut places, mut end) = (Vec::new(), 0);
        parts.each(&self.kept, |at, _| {
            places.push(at);
            end = at + HASH_DIGITS;
        });
        for at in places {
            self.kept[at..at + HASH_DIGITS].fill(0);
            self.found.push(self.offset + at as u64);
        }
        let sure = self.kept.len().saturating_sub(HASH_DIGITS - 1).max(end);
        self.hasher.update(&self.kept[..sure]);
        self.kept.drain(..sure);
        self.offset += sure as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";
    const B: &[u8; 32] = b"zyxwvsrqpnmlkjihgfdcba9876543210";

    #[test]
    fn placeholders() {
        let mut placeholders = Placeholders::default();
        let name = format!("/{}", "1".repeat(52));
        placeholders.insert(&name, "/nix/store/x".to_owned());
        let text = format!("a/{name}/bin:{name}{name} /{}", "1".repeat(51));
        let expected = format!(
            "a//nix/store/x/bin:/nix/store/x/nix/store/x /{}",
            "1".repeat(51)
        );
        assert_eq!(placeholders.apply(text.as_bytes()), expected.into_bytes());
    }

    #[test]
    fn occurrences_are_found_across_chunks() {
        let mut parts = HashParts::default();
        parts.insert(*A, *B);
        for before in [0, 1, 31, CHUNK - 1, CHUNK, CHUNK + 17, CHUNK + 32] {
            let mut bytes = vec![b'x'; before];
            bytes.extend_from_slice(A);
            bytes.extend_from_slice(A);
            bytes.push(b'-');
            let mut found = Vec::new();
            parts
                .each_in(bytes.as_slice(), |at, _| found.push(at))
                .unwrap();
            assert_eq!(found, [before as u64, before as u64 + 32], "{before}");
        }
    }

    #[test]
    fn trees_are_rewritten() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("out");
        let (a, b) = (
            String::from_utf8(A.to_vec()).unwrap(),
            String::from_utf8(B.to_vec()).unwrap(),
        );
        fs::create_dir_all(root.join(format!("d-{a}"))).unwrap();
        let file = root.join(format!("d-{a}")).join("file");
        fs::write(&file, format!("#!/nix/store/{a}-x/bin/sh\n")).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o555)).unwrap();
        symlink(format!("/nix/store/{a}-x"), root.join("link")).unwrap();
        let mut parts = HashParts::default();
        parts.insert(*A, *B);
        assert_eq!(parts.scan_tree(&root).unwrap().len(), 1);
        parts.rewrite_tree(&root).unwrap();
        assert!(parts.scan_tree(&root).unwrap().is_empty());
        let file = root.join(format!("d-{b}")).join("file");
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            format!("#!/nix/store/{b}-x/bin/sh\n")
        );
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o555
        );
        assert_eq!(
            fs::read_link(root.join("link")).unwrap(),
            PathBuf::from(format!("/nix/store/{b}-x"))
        );
    }

    #[test]
    fn modulo_hash_does_not_depend_on_the_pieces() {
        let mut text = b"start ".to_vec();
        text.extend_from_slice(A);
        text.extend_from_slice(b"-x and ");
        text.extend_from_slice(A);
        let mut plain = b"start ".to_vec();
        plain.extend_from_slice(&[0; 32]);
        plain.extend_from_slice(b"-x and ");
        plain.extend_from_slice(&[0; 32]);
        plain.extend_from_slice(b"|6|45");
        let expected = Hash::of(HashAlgo::Sha256, &plain);
        for piece in [1, 7, 32, 1000] {
            let mut hasher = ModuloHasher::new(HashAlgo::Sha256, *A);
            for chunk in text.chunks(piece) {
                hasher.write_all(chunk).unwrap();
            }
            assert_eq!(hasher.finish(), expected, "{piece}");
        }
    }
}
