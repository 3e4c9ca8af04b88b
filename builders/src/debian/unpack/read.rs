//! Reading one package: what it is, and its files as blobs of the store.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use sos_engine::BuilderError;
use sos_formats::deb::{DebReader, Paragraphs};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::tar::{self, Entry, EntryKind};
use sos_store::Store;

use crate::debian::codec::decoder;

const READ_BUFFER_BYTES: usize = 256 << 10;
/// A control file is some kilobytes.
const MAX_CONTROL_BYTES: u64 = 4 << 20;
/// More entries than any package has.
const MAX_ENTRIES: usize = 4 << 20;

/// What one package holds.
#[derive(Debug)]
pub(super) struct Contents {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) arch: String,
    /// Entries in the order of the package, files with their content.
    pub(super) entries: Vec<(Entry, Option<Blake3>)>,
}

impl Contents {
    /// Lists the first components of all paths.
    pub(super) fn top_names(&self) -> impl Iterator<Item = &[u8]> {
        self.entries
            .iter()
            .filter_map(|(entry, _)| entry.path.split(|b| *b == b'/').next())
    }
}

/// Reads a package. Stops early, with an error that nobody sees, when `stop` is set.
pub(super) fn package(
    store: &Store,
    path: &Path,
    stop: &AtomicBool,
) -> Result<Contents, BuilderError> {
    let shown = path
        .file_name()
        .map_or_else(|| path.to_string_lossy(), |name| name.to_string_lossy());
    let file = File::open(path)
        .map_err(|err| BuilderError::io(format!("cannot open the package `{shown}`"), err))?;
    let mut reader = DebReader::new(BufReader::with_capacity(READ_BUFFER_BYTES, file))
        .map_err(|err| damaged(&shown, &err))?;
    let codec = reader.control().map_err(|err| damaged(&shown, &err))?;
    let control = decoder(codec, &mut reader)
        .and_then(control_text)
        .map_err(|err| damaged(&shown, &err))?;
    let mut contents = identify(&control)
        .ok_or_else(|| damaged(&shown, &"its control file does not say what it is"))?;
    let codec = reader.data().map_err(|err| damaged(&contents.name, &err))?;
    let stream = decoder(codec, &mut reader).map_err(|err| damaged(&contents.name, &err))?;
    contents.entries = entries(store, stream, stop, &contents.name)?;
    reader
        .finish()
        .map_err(|err| damaged(&contents.name, &err))?;
    Ok(contents)
}

fn damaged(what: &str, why: &dyn std::fmt::Display) -> BuilderError {
    let message = format!("the package `{what}` is damaged: {why}");
    Diagnostic::error("deb-bad-package", Class::Fetch, message).into()
}

fn control_text(stream: impl Read) -> io::Result<String> {
    let mut archive = tar::Reader::new(stream);
    while let Some(entry) = archive.next_entry().map_err(io::Error::other)? {
        if entry.path == b"control" {
            let mut text = String::new();
            archive.take(MAX_CONTROL_BYTES).read_to_string(&mut text)?;
            return Ok(text);
        }
    }
    Err(io::Error::new(
        io::ErrorKind::InvalidData,
        "it has no control file",
    ))
}

fn identify(control: &str) -> Option<Contents> {
    let fields = Paragraphs::new(control).next()?.ok()?;
    let text = |name| fields.get(name).map(str::to_owned);
    Some(Contents {
        name: text("Package")?,
        version: text("Version")?,
        arch: text("Architecture")?,
        entries: Vec::new(),
    })
}

fn entries(
    store: &Store,
    stream: impl Read,
    stop: &AtomicBool,
    package: &str,
) -> Result<Vec<(Entry, Option<Blake3>)>, BuilderError> {
    let mut archive = tar::Reader::new(stream);
    let mut entries = Vec::new();
    while let Some(entry) = archive.next_entry().map_err(|err| damaged(package, &err))? {
        if stop.load(Ordering::Relaxed) {
            return Err(BuilderError::Cancelled);
        }
        if entries.len() >= MAX_ENTRIES {
            return Err(damaged(
                package,
                &format!("it has more than {MAX_ENTRIES} entries"),
            ));
        }
        let blob = if entry.kind == EntryKind::File {
            let (blob, size) = store.put_blob(&mut archive)?;
            if size != entry.size {
                return Err(damaged(
                    package,
                    &format!("`{}` is cut off", String::from_utf8_lossy(&entry.path)),
                ));
            }
            Some(blob)
        } else {
            None
        };
        entries.push((entry, blob));
    }
    // To the end of the stream, where the compressed formats keep their checksums.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(|err| damaged(package, &err))?;
    Ok(entries)
}
