//! Decompression by content, and archives unpacked as `fetchTarball` does.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, BufReader, Read, Seek, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use sos_formats::Bytes;
use sos_formats::tar::{self, EntryKind};

use super::failure::Failure;
use super::limits::MAX_UNPACKED_BYTES;
use super::zip;

/// The most memory that an xz stream may ask for; `xz -9` needs 65 MiB.
const XZ_MEMORY_BYTES: u64 = 256 << 20;
/// The largest window of a zstd frame, as a power of two; `zstd --ultra -22` has 2^27.
const ZSTD_WINDOW_LOG: u32 = 27;

/// Opens a file through the decompressor that its first bytes ask for.
pub(crate) fn decompress(file: &mut File) -> Result<Box<dyn Read + '_>, Failure> {
    let mut head = [0; 6];
    let mut filled = 0;
    while filled < head.len() {
        match file.read(&mut head[filled..]).map_err(Failure::Write)? {
            0 => break,
            n => filled += n,
        }
    }
    file.rewind().map_err(Failure::Write)?;
    let file = BufReader::with_capacity(128 * 1024, file);
    let content = |error: io::Error| Failure::Content {
        reason: error.to_string(),
    };
    Ok(match &head[..filled] {
        [0x1f, 0x8b, ..] => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                XZ_MEMORY_BYTES,
                liblzma::stream::CONCATENATED,
            )
            .map_err(|error| content(error.into()))?;
            Box::new(liblzma::bufread::XzDecoder::new_stream(file, stream))
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(file).map_err(content)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG).map_err(content)?;
            Box::new(decoder)
        }
        [b'P', b'K', 3, 4, ..] => {
            return Err(Failure::Content {
                reason: "it is a zip archive".into(),
            });
        }
        [b'B', b'Z', b'h', ..] => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        _ => Box::new(file),
    })
}

/// Buffer for copying files out of an archive.
const COPY_BYTES: usize = 64 * 1024;
/// Entries of one archive.
const MAX_ENTRIES: usize = 4 << 20;

/// The commit that `git archive` made a tar archive from: it stands in the first header.
pub(crate) fn commit_of_archive(file: &mut File) -> Result<Option<String>, Failure> {
    let mut head = Vec::new();
    if is_zip(file)? {
        return Ok(None);
    }
    let plain = decompress(file)?;
    // What is no archive shows when it is unpacked.
    if plain.take(1024).read_to_end(&mut head).is_err() {
        head.clear();
    }
    file.rewind().map_err(Failure::Read)?;
    let global = head.get(156) == Some(&b'g');
    let text = head.get(512..).unwrap_or_default();
    let start = text.windows(8).position(|w| w == b"comment=");
    let id = start.and_then(|at| text.get(at + 8..)).unwrap_or_default();
    let id: String = id
        .iter()
        .take_while(|b| b.is_ascii_hexdigit())
        .map(|b| char::from(*b))
        .collect();
    Ok((global && sos_formats::flake_ref::is_rev(&id)).then_some(id))
}

fn is_zip(file: &mut File) -> Result<bool, Failure> {
    let mut head = Vec::new();
    file.take(4).read_to_end(&mut head).map_err(Failure::Read)?;
    file.rewind().map_err(Failure::Read)?;
    Ok(zip::is_zip(&head))
}

/// Unpacks a tar or zip archive into the directory `work`, and moves the one thing at its top to `out`; returns the time of that.
pub(crate) fn unpack(file: &mut File, work: &Path, out: &Path) -> Result<i64, Failure> {
    let mut tree = Tree {
        top: work.to_owned(),
        made: BTreeMap::new(),
    };
    let mut modified = None;
    if is_zip(file)? {
        zip::read(file, &mut |entry, data| tree.add(entry, data))?;
    } else {
        let plain = decompress(file)?.take(MAX_UNPACKED_BYTES);
        let mut archive = tar::Reader::new(plain);
        loop {
            let entry = archive.next_entry().map_err(|error| Failure::Content {
                reason: error.to_string(),
            })?;
            let Some(entry) = entry else { break };
            modified.get_or_insert(entry.mtime_secs);
            tree.add(&entry, &mut archive)?;
        }
    }
    let tops: Vec<&Bytes> = tree
        .made
        .keys()
        .filter(|path| !path.contains(&b'/'))
        .collect();
    let [top] = tops.as_slice() else {
        let reason = format!(
            "the archive has {} entries at its top, not a single directory",
            tops.len()
        );
        return Err(Failure::Content { reason });
    };
    fs::rename(tree.place(top), out).map_err(Failure::write_at(out))?;
    Ok(modified.unwrap_or(0))
}

/// A directory being filled. What was made is remembered, so that nothing is ever written through a link.
struct Tree {
    top: PathBuf,
    made: BTreeMap<Bytes, EntryKind>,
}

impl Tree {
    fn place(&self, path: &[u8]) -> PathBuf {
        self.top.join(OsStr::from_bytes(path))
    }

    fn add(&mut self, entry: &tar::Entry, data: &mut dyn Read) -> Result<(), Failure> {
        let path = &entry.path;
        if path.is_empty() {
            return Ok(());
        }
        if self.made.len() >= MAX_ENTRIES {
            return Err(Failure::Content {
                reason: format!("the archive has more than {MAX_ENTRIES} entries"),
            });
        }
        let parents = path
            .iter()
            .enumerate()
            .filter(|(_, byte)| **byte == b'/')
            .map(|(at, _)| &path[..at]);
        for parent in parents {
            self.directory(parent)?;
        }
        if entry.kind == EntryKind::Dir {
            return self.directory(path);
        }
        let place = self.place(path);
        match self.made.get(path) {
            Some(EntryKind::Dir) => {
                return Err(bad(path, "is first a directory and then something else"));
            }
            // A later entry replaces an earlier one, and does not write into it: it may have other names.
            Some(_) => fs::remove_file(&place).map_err(Failure::write_at(&place))?,
            None => {}
        }
        match entry.kind {
            EntryKind::File => {
                let mut file = File::create_new(&place).map_err(Failure::write_at(&place))?;
                let copied = copy(data, &mut file, &place)?;
                if copied != entry.size {
                    return Err(bad(path, "is cut short"));
                }
                if entry.mode & 0o100 != 0 {
                    file.set_permissions(Permissions::from_mode(0o755))
                        .map_err(Failure::write_at(&place))?;
                }
            }
            EntryKind::Symlink => {
                symlink(OsStr::from_bytes(&entry.link), &place)
                    .map_err(Failure::write_at(&place))?;
            }
            EntryKind::Hardlink => match self.made.get(&entry.link) {
                Some(EntryKind::File | EntryKind::Hardlink) => {
                    fs::hard_link(self.place(&entry.link), &place)
                        .map_err(Failure::write_at(&place))?;
                }
                _ => {
                    return Err(bad(
                        path,
                        "is a link to a file that is not in the archive before it",
                    ));
                }
            },
            _ => return Err(bad(path, "is a device or a pipe")),
        }
        self.made.insert(path.clone(), entry.kind);
        Ok(())
    }

    fn directory(&mut self, path: &[u8]) -> Result<(), Failure> {
        match self.made.get(path) {
            Some(EntryKind::Dir) => Ok(()),
            Some(_) => Err(bad(path, "is used as a directory, but is none")),
            None => {
                let place = self.place(path);
                fs::create_dir(&place).map_err(Failure::write_at(&place))?;
                self.made.insert(path.to_vec(), EntryKind::Dir);
                Ok(())
            }
        }
    }
}

/// Copies to the end. Whose fault an error is matters: content is the source's, writing is this machine's.
pub(super) fn copy(from: &mut dyn Read, to: &mut File, place: &Path) -> Result<u64, Failure> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut copied = 0;
    loop {
        let n = match from.read(&mut buffer) {
            Ok(0) => return Ok(copied),
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => {
                return Err(Failure::Content {
                    reason: error.to_string(),
                });
            }
        };
        to.write_all(&buffer[..n])
            .map_err(Failure::write_at(place))?;
        copied += n as u64;
    }
}

fn bad(path: &[u8], what: &str) -> Failure {
    Failure::Content {
        reason: format!("`{}` {what}", String::from_utf8_lossy(path)),
    }
}
