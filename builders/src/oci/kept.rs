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

/// Buffer before the blob; most of what is written is more, and goes by it.
const BUFFER_BYTES: usize = 64 << 10;
/// Raised with the bytes of layers.
const REVISION: u32 = 5;

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

/// Writes arranged entries as a blob of the store, or finds the blob that was made of the same entries before.
pub(super) fn write_layer(
    build: &dyn Build,
    entries: &[LayerEntry],
    form: Form,
) -> Result<(LayerInfo, Blake3), BuilderError> {
    let store = build.store();
    let files = entries.len() as u64;
    let key = key(entries, form);
    if let Some(key) = &key
        && let Some(kept) = Kept::find(store, key)?
    {
        return Ok((kept.info(form, files), kept.blob));
    }
    let io = |what: &'static str| move |error| BuilderError::io(what, error);
    let tar_size = match form.compression {
        Compression::Zstd => measure(entries)?,
        _ => 0,
    };
    let blob = BufWriter::with_capacity(BUFFER_BYTES, store.blob_writer()?);
    let Form { compression, level } = form;
    let cores = build.cores();
    let mut writer = LayerWriter::new(blob, compression, level, tar_size, cores, Some(store))
        .map_err(io("cannot begin the layer"))?;
    let blobs = entries.iter().filter_map(|entry| match &entry.data {
        Data::Blob { id, size, .. } => Some((*id, *size)),
        _ => None,
    });
    writer
        .expect(blobs)
        .map_err(io("cannot look for what is known of the layer"))?;
    let (blob, written, made) = write(build, entries, writer)?
        .finish()
        .map_err(io("cannot end the layer"))?;
    let blob = blob.into_inner().map_err(|error| error.into_error());
    let (blob, size) = blob.map_err(io("cannot end the layer"))?.finish()?;
    let kept = Kept {
        blob,
        digest: written.digest,
        diff_id: written.diff_id,
        size,
    };
    let mut derived = made.derived(blob);
    derived.extend(key.map(|key| kept.derived(key)));
    store.keep_derived(&derived)?;
    Ok((kept.info(form, files), blob))
}

/// Makes the new file `place` the blob, without copying where that is possible.
pub(super) fn place(store: &Store, blob: &Blake3, place: &Path) -> Result<(), BuilderError> {
    let path = store.blob_path(blob, false);
    if fs::hard_link(path, place).is_ok() {
        return Ok(());
    }
    let mut from = store.open_blob(blob)?;
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
