//! An image layout seen as one tree: its layers on top of each other.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

use serde_json::Value;
use sos_formats::Bytes;
use sos_formats::deb::Codec;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::tar::{Entry, EntryKind, Reader};
use sos_store::compare::{Content, Item, ItemKind, Snapshot};
use sos_store::{Store, TempDir};

use super::source::Layout;
use crate::debian::codec;

/// The most bytes of all layers, unpacked.
pub(super) const MAX_UNPACKED_BYTES: u64 = 256 << 30;
/// The most entries of all layers.
pub(super) const MAX_ENTRIES: usize = 10_000_000;

/// A name that takes an entry of lower layers away.
pub(super) const WHITEOUT: &[u8] = b".wh.";
/// A name that takes everything of lower layers in its directory away.
pub(super) const OPAQUE: &[u8] = b".wh..wh..opq";

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
    let mut reader = Reader::new(stream);
    let mut added: BTreeMap<Bytes, Item> = BTreeMap::new();
    while let Some(entry) = reader.next_entry().map_err(io::Error::other)? {
        left.entries = left
            .entries
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("it has too many entries"))?;
        let (dir, name) = split(&entry.path);
        if name == OPAQUE {
            files.entries.retain(|path, _| !is_below(path, dir));
            continue;
        }
        if let Some(hidden) = name.strip_prefix(WHITEOUT) {
            let mut hidden_path = dir.to_vec();
            if !dir.is_empty() {
                hidden_path.push(b'/');
            }
            hidden_path.extend_from_slice(hidden);
            remove(files, &hidden_path);
            continue;
        }
        let item = match entry.kind {
            EntryKind::Hardlink => {
                let there = added
                    .get(&entry.link)
                    .or_else(|| files.entries.get(&entry.link));
                there.cloned().ok_or_else(|| {
                    io::Error::other(format!(
                        "the link {} leads to nothing",
                        String::from_utf8_lossy(&entry.path)
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

pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|b| *b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&[], path),
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
        let mut left = Left {
            bytes: 1 << 20,
            entries: 100,
        };
        apply(&low, &mut files, &mut left).unwrap();
        apply(&high, &mut files, &mut left).unwrap();
        let names: Vec<String> = files
            .entries
            .keys()
            .map(|path| String::from_utf8_lossy(path).into_owned())
            .collect();
        assert_eq!(names, ["a", "a/w", "a/y", "b", "b/n", "c"]);
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
