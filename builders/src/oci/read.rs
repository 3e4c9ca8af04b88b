//! An image layout seen as one tree: its layers on top of each other.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use serde_json::Value;
use sos_formats::Bytes;
use sos_formats::deb::Codec;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::tar::{Entry, EntryKind, Reader, TarError};
use sos_store::compare::{Content, Item, ItemKind, Snapshot};
use sos_store::{Store, TempDir};

use super::contents::shown;
use super::source::Layout;
use super::way::{Seen, Way, follow, split};
use crate::debian::codec;
use crate::walk::join;

/// The most bytes of all layers, unpacked.
pub(super) const MAX_UNPACKED_BYTES: u64 = 256 << 30;
/// The most entries of all layers.
pub(super) const MAX_ENTRIES: usize = 10_000_000;

/// A name that takes an entry of lower layers away.
const WHITEOUT: &[u8] = b".wh.";
/// A name that takes everything of lower layers in its directory away.
const OPAQUE: &[u8] = b".wh..wh..opq";
/// A name that aufs keeps its books under.
const AUFS: &[u8] = b".wh..wh.";

/// What an entry of a layer means when the layer is put on top of others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Meaning {
    /// What it is.
    Itself,
    /// What lower layers have in this directory is not there.
    Opaque(Bytes),
    /// What lower layers have at this path is not there.
    Hides(Bytes),
    /// Nothing: it is one of aufs's own files. Hard links to it are files of the layer all the same.
    Aufs,
}

impl Meaning {
    /// Finds out what the entry at a path means.
    ///
    /// # Errors
    /// What is wrong with the path, in words.
    ///
    /// # Source
    /// `layer.md` of the image specification, "Whiteouts": no file system that comes of layers has a name that begins with `.wh.`, so
    /// nothing can lie in a whiteout. It names `.wh..wh..opq` and no other name that begins with `.wh..wh.`; those are of aufs, with
    /// which the format began: `.wh..wh.plnk` is a directory of files with hard links into several layers, `.wh..wh.aufs` what its
    /// whiteouts are links of. docker, containerd and containers/storage take no file of them over at the top (podman 4.3 leaves the
    /// directory behind, empty), and keep the files of `.wh..wh.plnk` for as long as links of the same layer may lead there. umoci takes them for whiteouts of names that cannot be,
    /// and still unpacks what lies in them. Here it is as in the first three, and in every directory.
    pub(super) fn of(path: &[u8]) -> Result<Self, String> {
        let mut before = 0;
        for name in path.split(|byte| *byte == b'/') {
            let (dir, end) = (path[..before].strip_suffix(b"/"), before + name.len());
            before = end + 1;
            let Some(hidden) = name.strip_prefix(WHITEOUT) else {
                continue;
            };
            if name.starts_with(AUFS) && name != OPAQUE {
                return Ok(Self::Aufs);
            }
            if end < path.len() {
                return Err(format!(
                    "`/{}` lies in a whiteout, in which nothing can be",
                    shown(path)
                ));
            }
            let dir = dir.unwrap_or_default();
            return match hidden {
                b"" | b"." | b".." => Err(format!("`/{}` is a whiteout of nothing", shown(path))),
                _ if name == OPAQUE => Ok(Self::Opaque(dir.to_vec())),
                _ => Ok(Self::Hides(join(dir, hidden))),
            };
        }
        Ok(Self::Itself)
    }
}

/// Why an archive cannot be read, in words; the error of what is below it tells more than its own.
pub(super) fn why(error: &TarError) -> String {
    match error {
        TarError::Read(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

/// The error for a hard link that is to itself, or to what it takes the place of. The specification has no entry twice, and other
/// unpackers remove what is at the path of a link before they make it, so that nothing is left for it to lead to.
pub(super) fn check_link(entry: &Entry) -> Result<(), String> {
    let (path, link) = (shown(&entry.path), shown(&entry.link));
    if entry.link == entry.path {
        return Err(format!("the hard link `/{path}` is to itself"));
    }
    if is_below(&entry.link, &entry.path) {
        return Err(format!(
            "the hard link `/{path}` is to `/{link}`, in whose way it is"
        ));
    }
    Ok(())
}

/// An image as one tree.
#[derive(Debug)]
pub struct Image {
    /// Everything in it.
    pub files: Snapshot,
    /// Its configuration.
    pub config: Value,
    /// Digests of its layers, lowest first.
    pub layers: Vec<String>,
    /// Holds the unpacked layers for as long as files are read from them.
    _unpacked: TempDir,
}

/// Tells whether a directory is an image layout.
#[must_use]
pub fn is_layout(dir: &Path) -> bool {
    dir.join("oci-layout").is_file() && dir.join("index.json").is_file()
}

/// Reads the image of a layout; `tag` chooses among several.
///
/// # Errors
/// `oci-bad-layout` when something in it is missing, malformed or not what its digest says; what the store fails with.
pub fn read(store: &Store, dir: &Path, tag: Option<&str>) -> Result<Image, Box<Diagnostic>> {
    let unpacked = store.temp_dir("image").map_err(|e| Box::new(e.into()))?;
    let layout = Layout::at(dir);
    let (_, manifest) = layout.manifest(tag, None)?;
    let config = layout.json(&manifest.config)?;
    layout.has_files(&manifest)?;
    let mut files = Snapshot::default();
    let mut layers = Vec::new();
    let mut left = Left {
        bytes: MAX_UNPACKED_BYTES,
        entries: MAX_ENTRIES,
    };
    for (number, layer) in manifest.layers.iter().enumerate() {
        let (blob, digest) = (layout.checked(layer)?, layer.digest.clone());
        let tar = unpacked.path().join(number.to_string());
        let mut apply = || -> io::Result<()> {
            unpack(&blob, &tar, &mut left)?;
            apply(&tar, &mut files, &mut left)
        };
        apply().map_err(|e| layout.bad(&format!("its layer {digest} cannot be read: {e}")))?;
        layers.push(digest);
    }
    Ok(Image {
        files,
        config,
        layers,
        _unpacked: unpacked,
    })
}

struct Left {
    bytes: u64,
    entries: usize,
}

/// Reads the archive of a layer without its compression, which its first bytes tell.
pub(super) fn decoded(blob: &Path) -> io::Result<Box<dyn Read + Send>> {
    let mut magic = [0; 6];
    let n = File::open(blob)?.read(&mut magic)?;
    let codec = match &magic[..n] {
        [0x1f, 0x8b, ..] => Codec::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Codec::Zstd,
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Codec::Xz,
        [b'B', b'Z', b'h', ..] => Codec::Bzip2,
        _ => Codec::Plain,
    };
    codec::decoder(codec, BufReader::with_capacity(1 << 18, File::open(blob)?))
}

/// Writes the archive of a layer without its compression.
fn unpack(blob: &Path, to: &Path, left: &mut Left) -> io::Result<()> {
    let mut reader = decoded(blob)?;
    let mut writer = BufWriter::new(File::create_new(to)?);
    let written = io::copy(&mut reader.by_ref().take(left.bytes), &mut writer)?;
    writer.flush()?;
    left.bytes -= written;
    if left.bytes == 0 {
        return Err(io::Error::other("it unpacks to too much"));
    }
    Ok(())
}

/// Counts what is read, to know where the data of an entry begins.
struct Counted<R> {
    inner: R,
    at: std::rc::Rc<std::cell::Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.at.set(self.at.get() + n as u64);
        Ok(n)
    }
}

/// Puts a layer on top of what is there.
fn apply(tar: &Path, files: &mut Snapshot, left: &mut Left) -> io::Result<()> {
    let at = std::rc::Rc::new(std::cell::Cell::new(0));
    let stream = Counted {
        inner: BufReader::with_capacity(1 << 20, File::open(tar)?),
        at: at.clone(),
    };
    let mut reader = Reader::new(stream).without_globals();
    let mut added: BTreeMap<Bytes, Item> = BTreeMap::new();
    // Files of aufs that only links lead to.
    let mut hidden: BTreeMap<Bytes, Item> = BTreeMap::new();
    let told = |error| io::Error::other(why(&error));
    while let Some(mut entry) = reader.next_entry().map_err(told)? {
        left.entries = left
            .entries
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("it has too many entries"))?;
        match Meaning::of(&entry.path).map_err(io::Error::other)? {
            Meaning::Itself => {
                let (dir, name) = split(&entry.path);
                entry.path = match way(dir, &added, files) {
                    Way::To(dir) => join(&dir, name),
                    blocked => return Err(io::Error::other(blocked.problem(&entry.path))),
                };
            }
            Meaning::Opaque(dir) => {
                if let Way::To(dir) = way(&dir, &added, files) {
                    files.entries.retain(|path, _| !is_below(path, &dir));
                }
                continue;
            }
            Meaning::Hides(path) => {
                let (dir, name) = split(&path);
                if let Way::To(dir) = way(dir, &added, files) {
                    remove(files, &join(&dir, name));
                }
                continue;
            }
            Meaning::Aufs => {
                if entry.kind == EntryKind::File {
                    let found = item(&entry, tar, at.get());
                    hidden.insert(entry.path, found);
                }
                continue;
            }
        }
        let item = match entry.kind {
            EntryKind::Hardlink => {
                let (dir, name) = split(&entry.link);
                if !hidden.contains_key(&entry.link)
                    && let Way::To(dir) = way(dir, &added, files)
                {
                    entry.link = join(&dir, name);
                }
                check_link(&entry).map_err(io::Error::other)?;
                let there = added
                    .get(&entry.link)
                    .or_else(|| hidden.get(&entry.link))
                    .or_else(|| files.entries.get(&entry.link));
                there.cloned().ok_or_else(|| {
                    io::Error::other(format!(
                        "the hard link `/{}` is to `/{}`, which is not there",
                        shown(&entry.path),
                        shown(&entry.link)
                    ))
                })?
            }
            _ => item(&entry, tar, at.get()),
        };
        added.insert(entry.path, item);
    }
    for (path, item) in added {
        if !matches!(item.kind, ItemKind::Dir) {
            remove(files, &path);
        }
        files.entries.insert(path, item);
    }
    Ok(())
}

/// Where the way to a directory leads over the links of this layer and of those below.
fn way(dir: &[u8], added: &BTreeMap<Bytes, Item>, files: &Snapshot) -> Way {
    let found = follow(dir, |path| {
        let there = added.get(path).or_else(|| files.entries.get(path));
        Ok::<_, Infallible>(match there.map(|item| &item.kind) {
            None => Seen::Nothing,
            Some(ItemKind::Dir) => Seen::Dir,
            Some(ItemKind::Symlink(target)) => Seen::Link(target.clone()),
            Some(_) => Seen::Other,
        })
    });
    match found {
        Ok(way) => way,
        Err(never) => match never {},
    }
}

fn item(entry: &Entry, tar: &Path, at: u64) -> Item {
    let special = |what| ItemKind::Special {
        what,
        device: (entry.major, entry.minor),
    };
    Item {
        kind: match entry.kind {
            EntryKind::File | EntryKind::Hardlink => ItemKind::File {
                size: entry.size,
                content: Content::Part(tar.to_owned(), at),
            },
            EntryKind::Symlink => ItemKind::Symlink(entry.link.clone()),
            EntryKind::Dir => ItemKind::Dir,
            EntryKind::CharDev => special("character device"),
            EntryKind::BlockDev => special("block device"),
            EntryKind::Fifo => special("fifo"),
        },
        mode: u32::from(entry.mode),
        owner: Some((entry.uid, entry.gid)),
        mtime: Some((entry.mtime_secs, 0)),
        xattrs: Some(entry.xattrs.clone()),
        hardlink: None,
    }
}

fn is_below(path: &[u8], dir: &[u8]) -> bool {
    !path.is_empty()
        && (dir.is_empty()
            || path
                .strip_prefix(dir)
                .is_some_and(|rest| rest.first() == Some(&b'/')))
}

/// Takes an entry away with all below it.
fn remove(files: &mut Snapshot, path: &[u8]) {
    let mut from = path.to_vec();
    if !matches!(
        files.entries.remove(path),
        Some(Item {
            kind: ItemKind::Dir,
            ..
        })
    ) {
        return;
    }
    from.push(b'/');
    let below: Vec<Bytes> = files
        .entries
        .range(from.clone()..)
        .map(|(path, _)| path)
        .take_while(|path| path.starts_with(&from))
        .cloned()
        .collect();
    for path in below {
        files.entries.remove(&path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    use sos_formats::tar::Writer;

    fn layer(dir: &Path, name: &str, entries: &[(&str, EntryKind, &str)]) -> PathBuf {
        let mut writer = Writer::new(Vec::new());
        for (path, kind, data) in entries {
            let mut entry = Entry {
                path: path.as_bytes().to_vec(),
                kind: *kind,
                mode: 0o644,
                ..Entry::default()
            };
            if *kind == EntryKind::File {
                entry.size = data.len() as u64;
                writer.append(&entry, &mut data.as_bytes()).unwrap();
            } else {
                entry.link = data.as_bytes().to_vec();
                writer.append_empty(&entry).unwrap();
            }
        }
        let path = dir.join(name);
        fs::write(&path, writer.finish().unwrap()).unwrap();
        path
    }

    fn names(files: &Snapshot) -> Vec<String> {
        let names = files.entries.keys();
        names
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect()
    }

    fn left() -> Left {
        Left {
            bytes: 1 << 20,
            entries: 100,
        }
    }

    #[test]
    fn what_names_mean() {
        let of = |path: &str| Meaning::of(path.as_bytes());
        let bytes = |path: &str| path.as_bytes().to_vec();
        for plain in ["a", "a/b", "a.wh.", "a/.w", "", ".whx/.wg"] {
            assert_eq!(of(plain), Ok(Meaning::Itself), "{plain}");
        }
        assert_eq!(of(".wh.a"), Ok(Meaning::Hides(bytes("a"))));
        assert_eq!(of("a/b/.wh.c"), Ok(Meaning::Hides(bytes("a/b/c"))));
        assert_eq!(of("a/.wh..c"), Ok(Meaning::Hides(bytes("a/.c"))));
        assert_eq!(of(".wh..wh..opq"), Ok(Meaning::Opaque(bytes(""))));
        assert_eq!(of("a/b/.wh..wh..opq"), Ok(Meaning::Opaque(bytes("a/b"))));
        for aufs in [
            ".wh..wh.plnk",
            ".wh..wh.plnk/12.34",
            ".wh..wh.aufs",
            "a/.wh..wh.orph/b",
            "a/.wh..wh..opqx",
            ".wh..wh.",
        ] {
            assert_eq!(of(aufs), Ok(Meaning::Aufs), "{aufs}");
        }
        for (bad, what) in [
            (".wh.a/b", "lies in a whiteout"),
            ("a/.wh..wh..opq/b", "lies in a whiteout"),
            (".wh.", "of nothing"),
            ("a/.wh..", "of nothing"),
            ("a/.wh...", "of nothing"),
        ] {
            assert!(of(bad).is_err_and(|why| why.contains(what)), "{bad}");
        }
    }

    #[test]
    fn links_to_nothing_and_books_of_aufs() {
        use EntryKind::{Dir, File, Hardlink};
        let dir = tempfile::tempdir().unwrap();
        let books = [
            (".wh..wh.plnk", Dir, ""),
            (".wh..wh.plnk/1.2", File, "linked"),
            (".wh..wh.aufs", File, ""),
            ("a", Hardlink, ".wh..wh.plnk/1.2"),
        ];
        let mut files = Snapshot::default();
        let tar = layer(dir.path(), "books", &books);
        apply(&tar, &mut files, &mut left()).unwrap();
        assert_eq!(names(&files), ["a"]);
        let is_it = |kind: &ItemKind| matches!(kind, ItemKind::File { size: 6, .. });
        assert!(is_it(&files.entries[b"a".as_slice()].kind));
        for (name, entries, what) in [
            ("itself", [("h", File, "x"), ("h", Hardlink, "h")], "itself"),
            (
                "none",
                [("h", File, "x"), ("i", Hardlink, "j")],
                "not there",
            ),
            ("way", [("h/x", File, "x"), ("h", Hardlink, "h/x")], "way"),
        ] {
            let tar = layer(dir.path(), name, &entries);
            let refused = apply(&tar, &mut Snapshot::default(), &mut left()).unwrap_err();
            assert!(refused.to_string().contains(what), "{refused}");
        }
    }

    #[test]
    fn links_are_followed_to_where_entries_go() {
        use EntryKind::{Dir, File, Hardlink, Symlink};
        let dir = tempfile::tempdir().unwrap();
        let low = layer(
            dir.path(),
            "low",
            &[
                ("usr", Dir, ""),
                ("usr/lib", Dir, ""),
                ("usr/lib/old", File, "old"),
                ("usr/lib/gone", File, "old"),
                ("lib", Symlink, "usr/lib"),
                ("f", File, ""),
            ],
        );
        let high = layer(
            dir.path(),
            "high",
            &[
                ("lib/new", File, "new"),
                ("lib/.wh.gone", File, ""),
                ("other", Hardlink, "lib/new"),
            ],
        );
        let mut files = Snapshot::default();
        let mut left = left();
        apply(&low, &mut files, &mut left).unwrap();
        apply(&high, &mut files, &mut left).unwrap();
        assert_eq!(
            names(&files),
            [
                "f",
                "lib",
                "other",
                "usr",
                "usr/lib",
                "usr/lib/new",
                "usr/lib/old"
            ]
        );
        let below_file = layer(dir.path(), "below", &[("f/x", File, "x")]);
        let refused = apply(&below_file, &mut files, &mut left).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "`/f/x` is in `/f`, which is no directory"
        );
    }

    #[test]
    fn layers_are_put_on_top_of_each_other() {
        use EntryKind::{Dir, File, Hardlink};
        let dir = tempfile::tempdir().unwrap();
        let low = layer(
            dir.path(),
            "low",
            &[
                ("a", Dir, ""),
                ("a/x", File, "one"),
                ("a/y", File, "two"),
                ("b", Dir, ""),
                ("b/z", File, "three"),
                ("c", Dir, ""),
                ("c/d", File, "four"),
            ],
        );
        let high = layer(
            dir.path(),
            "high",
            &[
                ("a/.wh.x", File, ""),
                ("a/y", File, "TWO"),
                ("a/w", Hardlink, "a/y"),
                ("b", Dir, ""),
                ("b/.wh..wh..opq", File, ""),
                ("b/n", File, "new"),
                ("c", File, "a file now"),
            ],
        );
        let mut files = Snapshot::default();
        let mut left = left();
        apply(&low, &mut files, &mut left).unwrap();
        apply(&high, &mut files, &mut left).unwrap();
        assert_eq!(names(&files), ["a", "a/w", "a/y", "b", "b/n", "c"]);
        let Some(Item {
            kind: ItemKind::File { size: 3, content },
            ..
        }) = files.entries.get(b"a/w".as_slice())
        else {
            panic!("a file of three bytes");
        };
        let Content::Part(path, at) = content else {
            panic!("a part of the layer");
        };
        let bytes = fs::read(path).unwrap();
        let at = usize::try_from(*at).unwrap();
        assert_eq!(&bytes[at..at + 3], b"TWO");
    }
}
