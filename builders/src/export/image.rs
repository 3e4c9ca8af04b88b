//! Images out of the store as layouts and archives that other programs read.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::{Value, json};
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::tar::{self, EntryKind};

use super::directory::failed;
use super::repository::sync;
use crate::oci::documents::{Descriptor, INDEX_TYPE, OCI_LAYOUT, REF_NAME};
use crate::oci::source::{Closure, Layout};

/// What became of an image.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ExportedImage {
    /// The digest of its manifest or index.
    pub digest: String,
    /// The name that it has there.
    pub tag: Option<String>,
    /// Blobs that were not there, documents included.
    pub blobs: u64,
    /// Blobs that were there.
    pub present: u64,
}

/// An image of the store with all that it needs.
pub(crate) struct Exportable {
    pub(crate) layout: Layout,
    pub(crate) top: Descriptor,
    pub(crate) closure: Closure,
    /// How `index.json` describes it.
    entry: Value,
}

impl Exportable {
    /// Reads the one image of a layout.
    pub(crate) fn open(dir: &Path) -> Result<Self, BuilderError> {
        let layout = Layout::at(dir);
        let entry = layout.find(None)?;
        let top = layout.descriptor(&entry)?;
        let closure = layout.closure(&top)?;
        Ok(Self {
            layout,
            top,
            closure,
            entry,
        })
    }

    /// The tag that the recipe gave it.
    pub(crate) fn tag(&self) -> Option<&str> {
        self.top.annotations.get(REF_NAME).map(String::as_str)
    }

    /// Describes it under a name.
    fn described(&self, tag: Option<&str>) -> Value {
        let mut entry = self.entry.clone();
        if let Some(tag) = tag
            && let Some(members) = entry.as_object_mut()
        {
            let annotations = members.entry("annotations").or_insert_with(|| json!({}));
            annotations[REF_NAME] = tag.into();
        }
        entry
    }

    /// Every file below `blobs/sha256`, by name. None of them has been looked at: a damaged one must not leave the store, nor what a
    /// link of somebody else's layout leads to.
    fn files(&self) -> BTreeMap<String, &Descriptor> {
        let documents = self.closure.documents.iter().map(|(one, _)| one);
        let all = self.closure.blobs.iter().chain(documents);
        all.map(|one| (one.hex().unwrap_or_default().to_owned(), one))
            .collect()
    }
}

/// Adds the image of the layout `source` to the layout in `dest`, which is made when it is not there. With `tag` it
/// gets that name, else the one that it has; an image that had the name loses it.
///
/// Blobs come first and `index.json` last, after all is on the disk: whatever stops this, `dest` is sound.
///
/// # Errors
/// `Diagnostic` when `source` or `dest` is no layout, `Io` when writing fails.
pub fn add_to_layout(
    source: &Path,
    dest: &Path,
    tag: Option<&str>,
) -> Result<ExportedImage, BuilderError> {
    let image = Exportable::open(source)?;
    let tag = tag.or_else(|| image.tag()).map(str::to_owned);
    let there = existing(dest)?;
    let blobs = dest.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|e| failed("make the directory", &blobs, e))?;
    let mut exported = ExportedImage {
        digest: image.top.digest.clone(),
        tag: tag.clone(),
        blobs: 0,
        present: 0,
    };
    for (name, descriptor) in image.files() {
        let to = blobs.join(name);
        if fs::metadata(&to).is_ok_and(|meta| meta.len() == descriptor.size) {
            exported.present += 1;
        } else {
            let path = image.layout.checked(descriptor)?;
            place(&to, |file| copy(&path, file))?;
            exported.blobs += 1;
        }
    }
    let index = with_image(there, image.described(tag.as_deref()), tag.as_deref());
    place(&dest.join("oci-layout"), |file| {
        file.write_all(OCI_LAYOUT.as_bytes())
    })?;
    sync(dest)?;
    let index = serde_json::to_vec(&index)
        .map_err(|error| BuilderError::failed(format!("cannot write JSON: {error}")))?;
    place(&dest.join("index.json"), |file| file.write_all(&index))?;
    sync(dest)?;
    Ok(exported)
}

/// Writes the image of the layout `source` as one uncompressed archive, which must not be there yet. The bytes depend on image and tag only.
///
/// # Errors
/// `Diagnostic` when `source` is no layout, `Io` when writing fails; the file is then not there.
pub fn write_archive(
    source: &Path,
    dest: &Path,
    tag: Option<&str>,
) -> Result<ExportedImage, BuilderError> {
    let image = Exportable::open(source)?;
    let tag = tag.or_else(|| image.tag()).map(str::to_owned);
    let mut files = Vec::new();
    for (name, descriptor) in image.files() {
        files.push((name, image.layout.checked(descriptor)?, descriptor.size));
    }
    let index = with_image(None, image.described(tag.as_deref()), None);
    let index = serde_json::to_vec(&index)
        .map_err(|error| BuilderError::failed(format!("cannot write JSON: {error}")))?;
    place(dest, |file| {
        let mut out = tar::Writer::new(BufWriter::with_capacity(1 << 20, file));
        let mut entry = |path: String, kind, size, data: &mut dyn io::Read| {
            let header = tar::Entry {
                path: path.into_bytes(),
                kind,
                mode: if kind == EntryKind::Dir { 0o755 } else { 0o644 },
                size,
                ..tar::Entry::default()
            };
            out.append(&header, data).map_err(io::Error::from)
        };
        for dir in ["blobs", "blobs/sha256"] {
            entry(dir.to_owned(), EntryKind::Dir, 0, &mut io::empty())?;
        }
        for (name, path, size) in &files {
            let name = format!("blobs/sha256/{name}");
            entry(name, EntryKind::File, *size, &mut File::open(path)?)?;
        }
        for (name, bytes) in [
            ("index.json", index.as_slice()),
            ("oci-layout", OCI_LAYOUT.as_bytes()),
        ] {
            let size = bytes.len() as u64;
            entry(name.to_owned(), EntryKind::File, size, &mut &*bytes)?;
        }
        out.finish().map_err(io::Error::from)?.flush()
    })?;
    Ok(ExportedImage {
        digest: image.top.digest.clone(),
        tag,
        blobs: files.len() as u64,
        present: 0,
    })
}

/// The index of the layout that is there already.
fn existing(dest: &Path) -> Result<Option<Value>, BuilderError> {
    if crate::oci::is_layout(dest) {
        return Ok(Some(Layout::at(dest).index()?));
    }
    let empty = match fs::read_dir(dest) {
        Ok(mut dir) => dir.next().is_none(),
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    };
    if empty {
        return Ok(None);
    }
    let message = format!("`{}` is no image layout", dest.display());
    let problem = Diagnostic::error("export-not-a-layout", Class::Usage, message)
        .note("there is something else in its place")
        .help("name a layout, or a directory that is not there yet");
    Err(problem.into())
}

/// Puts an image into an index; an image that had its name loses it, and the same image without a name goes.
fn with_image(index: Option<Value>, entry: Value, tag: Option<&str>) -> Value {
    let mut index = index
        .unwrap_or_else(|| json!({ "schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [] }));
    if let Some(all) = index["manifests"].as_array_mut() {
        all.retain(|other| {
            let name = other["annotations"][REF_NAME].as_str();
            !(name == tag && (tag.is_some() || other["digest"] == entry["digest"]))
        });
        all.push(entry);
    }
    index
}

/// Writes a file under another name first, so that it is there whole or not at all.
fn place(dest: &Path, write: impl FnOnce(&mut File) -> io::Result<()>) -> Result<(), BuilderError> {
    let mut name = dest.file_name().unwrap_or_default().to_owned();
    name.push(format!(".new-{}", std::process::id()));
    let staged = dest.with_file_name(name);
    let written = File::create(&staged)
        .and_then(|mut file| write(&mut file))
        .and_then(|()| fs::rename(&staged, dest));
    written.map_err(|error| {
        // The error tells more than what is left of the file.
        let _left = fs::remove_file(&staged).is_err();
        failed("write", dest, error)
    })
}

/// Copies a file into another one, sharing its data where the file system can.
fn copy(from: &Path, to: &mut File) -> io::Result<()> {
    let mut from = File::open(from)?;
    if rustix::fs::ioctl_ficlone(&*to, &from).is_ok() {
        return Ok(());
    }
    io::copy(&mut from, to).map(|_| ())
}
