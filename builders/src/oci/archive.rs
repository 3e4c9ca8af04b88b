//! Images that others made, as a layout in a directory: a layout as it is, an `oci-archive` unpacked.

use std::fs::{self, File};
use std::io::{self, BufReader, Write as _};
use std::path::Path;

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::tar::{EntryKind, Reader};
use sos_store::{Store, TempDir};

use super::documents::is_hex;
use super::read::is_layout;
use super::source::Layout;

/// The most bytes of an archive.
const MAX_ARCHIVE_BYTES: u64 = 256 << 30;
/// The most entries of an archive.
const MAX_ENTRIES: usize = 100_000;

/// An image that can be read.
pub(crate) struct Opened {
    pub(crate) layout: Layout,
    /// Holds what an archive was unpacked to.
    _unpacked: Option<TempDir>,
}

/// Opens a layout or an archive of one; people know it as `shown`.
pub(crate) fn open(store: &Store, place: &Path, shown: &str) -> Result<Opened, BuilderError> {
    if place.is_file() {
        let unpacked = store.temp_dir("image")?;
        let dir = unpacked.path().to_owned();
        let layout = Layout::at(&dir).shown_as(shown);
        unpack(place, &dir).map_err(|error| layout.bad(&error.to_string()))?;
        if !is_layout(&dir) {
            return Err(layout.bad("it is no archive of an image layout").into());
        }
        return Ok(Opened {
            layout,
            _unpacked: Some(unpacked),
        });
    }
    if !is_layout(place) {
        let message = format!("`{shown}` is neither an image layout nor an `oci-archive`");
        return Err(Diagnostic::error("oci-bad-layout", Class::Recipe, message)
            .help("name the directory that has `oci-layout` and `index.json`, or the one file of `oci-archive:`")
            .into());
    }
    Ok(Opened {
        layout: Layout::at(place).shown_as(shown),
        _unpacked: None,
    })
}

/// Unpacks what belongs to a layout; anything else in the archive is passed by.
fn unpack(archive: &Path, dir: &Path) -> io::Result<()> {
    let file = File::open(archive)?;
    if file.metadata()?.len() > MAX_ARCHIVE_BYTES {
        return Err(io::Error::other("the archive is too large"));
    }
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut reader = Reader::new(BufReader::with_capacity(1 << 20, file));
    let mut left = MAX_ENTRIES;
    while let Some(entry) = reader.next_entry().map_err(io::Error::other)? {
        left = left
            .checked_sub(1)
            .ok_or_else(|| io::Error::other("the archive has too many entries"))?;
        let path = std::str::from_utf8(&entry.path).unwrap_or_default();
        let to = match path {
            "oci-layout" | "index.json" => dir.join(path),
            _ => match path.strip_prefix("blobs/sha256/").filter(|hex| is_hex(hex)) {
                Some(hex) => blobs.join(hex),
                None => continue,
            },
        };
        if entry.kind != EntryKind::File {
            return Err(io::Error::other(format!(
                "`{path}` of the archive is no file"
            )));
        }
        let mut file = File::create_new(&to).map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => {
                io::Error::other(format!("`{path}` is in the archive twice"))
            }
            _ => error,
        })?;
        io::copy(&mut reader, &mut file)?;
        file.flush()?;
    }
    Ok(())
}
