//! Entries become a blob, once: what was made of the same entries before is taken as it is.

use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::path::Path;

use sos_engine::BuilderError;
use sos_formats::hash::{Blake3, HashAlgo, Hasher, Sha256};
use sos_store::{Derived, Store};

use super::compress::{Compression, LayerWriter};
use super::contents::{Attributes, Data, LayerEntry, measure, write};
use super::layer::{LayerInfo, wrong};
use crate::build::Build;

/// Buffer before the file of the blob.
const FILE_BUFFER_BYTES: usize = 1 << 20;
/// Raised with the bytes of layers.
const REVISION: u32 = 4;

/// How entries become a blob.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) compression: Compression,
    pub(super) level: i32,
}

impl Form {
    /// Looks at what a recipe asks for.
    pub(super) fn new(
        build: &dyn Build,
        compression: Compression,
        level: Option<i32>,
    ) -> Result<Self, BuilderError> {
        let level = level.unwrap_or(compression.default_level());
        let levels = compression.levels();
        if !levels.contains(&level) {
            let (low, high) = (levels.start(), levels.end());
            return Err(wrong(
                build,
                &format!("`level` is {level}; this compression has {low} to {high}"),
            ));
        }
        Ok(Self { compression, level })
    }
}

/// Writes arranged entries into the new file `place`, or finds the blob that was made of the same entries before.
pub(super) fn write_layer(
    build: &dyn Build,
    entries: &[LayerEntry],
    form: Form,
    place: &Path,
) -> Result<LayerInfo, BuilderError> {
    let store = build.store();
    let key = key(entries, form);
    if let Some(key) = &key
        && let Some(kept) = Kept::find(store, key)?
    {
        kept.take(store, place)?;
        return Ok(kept.info(form, entries.len() as u64));
    }
    let io = |what: &'static str| move |error| BuilderError::io(what, error);
    let tar_size = match form.compression {
        Compression::Zstd => measure(entries)?,
        _ => 0,
    };
    let file = File::create_new(place).map_err(io("cannot create the blob of the layer"))?;
    let file = BufWriter::with_capacity(FILE_BUFFER_BYTES, file);
    let Form { compression, level } = form;
    let cores = build.cores();
    let writer = LayerWriter::new(file, compression, level, tar_size, cores, Some(store))
        .map_err(io("cannot begin the layer"))?;
    let mut written = write(build, entries, writer)?
        .finish()
        .map_err(io("cannot end the layer"))?;
    let kept = Kept {
        blob: written.blob,
        digest: written.digest,
        diff_id: written.diff_id,
        size: written.size,
    };
    if let Some(key) = key {
        written.fragments.push(kept.derived(key));
    }
    store.keep_derived(&written.fragments)?;
    Ok(kept.info(form, entries.len() as u64))
}

/// What is remembered of a layer: the blob is in the store as long as an object that has it.
struct Kept {
    blob: Blake3,
    digest: Sha256,
    diff_id: Sha256,
    size: u64,
}

impl Kept {
    fn find(store: &Store, key: &Blake3) -> Result<Option<Self>, BuilderError> {
        let known = store.derived(&[*key])?.into_iter().flatten().next();
        match known.and_then(|value| Self::parse(&value)) {
            Some(kept) if store.take_blob(&kept.blob)? => Ok(Some(kept)),
            _ => Ok(None),
        }
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (blob, rest) = value.split_first_chunk::<32>()?;
        let (digest, rest) = rest.split_first_chunk::<32>()?;
        let (diff_id, size) = rest.split_first_chunk::<32>()?;
        Some(Self {
            blob: Blake3(*blob),
            digest: Sha256(*digest),
            diff_id: Sha256(*diff_id),
            size: u64::from_le_bytes(size.try_into().ok()?),
        })
    }

    fn derived(&self, key: Blake3) -> Derived {
        let size = self.size.to_le_bytes();
        Derived {
            key,
            source: self.blob,
            value: [&self.blob.0[..], &self.digest.0, &self.diff_id.0, &size].concat(),
        }
    }

    /// Makes `place` the blob, without copying where that is possible.
    fn take(&self, store: &Store, place: &Path) -> Result<(), BuilderError> {
        let blob = store.blob_path(&self.blob, false);
        if fs::hard_link(blob, place).is_ok() {
            return Ok(());
        }
        let mut from = store.open_blob(&self.blob)?;
        File::create_new(place)
            .and_then(|mut to| {
                if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
                    return Ok(0);
                }
                io::copy(&mut from, &mut to)
            })
            .map(|_| ())
            .map_err(|error| BuilderError::io("cannot take the blob of a layer", error))
    }

    fn info(&self, form: Form, files: u64) -> LayerInfo {
        LayerInfo {
            media_type: form.compression.media_type().to_owned(),
            digest: format!("sha256:{}", self.digest),
            size: self.size,
            diff_id: format!("sha256:{}", self.diff_id),
            files,
            holds: None,
        }
    }
}

/// Names what would be written, by all that decides about it; nothing for files that are not in the store.
fn key(entries: &[LayerEntry], form: Form) -> Option<Blake3> {
    let Form { compression, level } = form;
    let mut hasher = Hasher::new(HashAlgo::Blake3);
    hasher.update(format!("oci layer {REVISION} {compression:?} {level}\0").as_bytes());
    let mut text = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    for entry in entries {
        let Attributes {
            mode,
            uid,
            gid,
            mtime_secs,
            xattrs,
        } = &entry.attributes;
        text(&entry.path);
        text(format!("{mode} {uid} {gid} {mtime_secs} {}", xattrs.len()).as_bytes());
        for (name, value) in xattrs {
            text(name);
            text(value);
        }
        match &entry.data {
            Data::Dir => text(b"dir"),
            Data::Blob { id, size, .. } => {
                text(b"file");
                text(&id.0);
                text(&size.to_le_bytes());
            }
            Data::Path { .. } => return None,
            Data::Symlink { target } => {
                text(b"symlink");
                text(target);
            }
            Data::Hardlink { target } => {
                text(b"link");
                text(target);
            }
            Data::Fifo => text(b"fifo"),
            Data::CharDev { major, minor } => text(format!("char {major} {minor}").as_bytes()),
            Data::BlockDev { major, minor } => text(format!("block {major} {minor}").as_bytes()),
            Data::Whiteout => text(b"whiteout"),
        }
    }
    hasher.finish().as_blake3()
}
