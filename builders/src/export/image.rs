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
use super::draft::{Draft, beside, clear_all, of_draft};
use super::lock::{Alone, OnWait};
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
/// gets that name, else the one that it has; an image that had the name loses it. Waits for another export
/// into `dest`, which `on_wait` is told.
///
/// Blobs come first and `index.json` last, after all is on the disk: whatever stops this, `dest` is sound, and the same again goes on
/// from there.
///
/// # Errors
/// `Diagnostic` when `source` or `dest` is no layout, `Io` when writing fails.
pub fn add_to_layout(
    source: &Path,
    dest: &Path,
    tag: Option<&str>,
    on_wait: OnWait<'_>,
) -> Result<ExportedImage, BuilderError> {
    let image = Exportable::open(source)?;
    let tag = tag.or_else(|| image.tag()).map(str::to_owned);
    if !dest.is_dir() {
        Place::look(dest)?;
        fs::create_dir_all(dest).map_err(|e| failed("make the directory", dest, e))?;
    }
    // The index is read, and written again with one image more.
    let alone = Alone::of(dest, on_wait)?;
    let there = Place::look(dest)?;
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
        let is_there = match there {
            // What was not on the disk when the power failed has its size all the same.
            Place::Begun => Layout::at(dest).checked(descriptor).is_ok(),
            _ => fs::metadata(&to).is_ok_and(|meta| meta.len() == descriptor.size),
        };
        if is_there {
            exported.present += 1;
        } else {
            let path = image.layout.checked(descriptor)?;
            place(&to, |file| copy(&path, file))?;
            exported.blobs += 1;
        }
    }
    let before = match there {
        Place::Layout(index) => Some(index),
        Place::Empty | Place::Begun => None,
    };
    let index = with_image(before, image.described(tag.as_deref()), tag.as_deref());
    place(&dest.join("oci-layout"), |file| {
        file.write_all(OCI_LAYOUT.as_bytes())
    })?;
    sync(dest)?;
    let index = serde_json::to_vec(&index)
        .map_err(|error| BuilderError::failed(format!("cannot write JSON: {error}")))?;
    place(&dest.join("index.json"), |file| file.write_all(&index))?;
    sync(dest)?;
    if alone.is_certain() {
        [dest, &blobs].into_iter().for_each(clear_all);
    }
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
    let draft = Draft::beside(dest)?;
    let write = |file: &mut File| {
        let mut out = tar::Writer::new(BufWriter::with_capacity(1 << 20, file));
        let mut entry = |path: String, kind, size, data: &mut dyn io::Read| {
            let header = tar::Entry {
                path: path.into_bytes(),
                kind,
                mode: if kind == EntryKind::Dir { 0o755 } else { 0o644 },
                size,
                ..tar::Entry::default()
            };
            out.append(&header, data).map_err(cause)
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
        out.finish().map_err(cause)?.flush()
    };
    let written = File::create_new(draft.path()).and_then(|mut file| write(&mut file));
    written.map_err(|e| failed("write", dest, e))?;
    draft.finish()?;
    Ok(ExportedImage {
        digest: image.top.digest.clone(),
        tag,
        blobs: files.len() as u64,
        present: 0,
    })
}

/// What an archive could not be written for: a full disk is not told by the words of archives.
fn cause(error: tar::TarError) -> io::Error {
    match error {
        tar::TarError::Write(cause) | tar::TarError::Read(cause) => cause,
        other => other.into(),
    }
}

/// What is where an image goes.
enum Place {
    Empty,
    /// What is left of an export that was stopped: everything but `index.json`, which comes last.
    Begun,
    /// A layout, by its index.
    Layout(Value),
}

impl Place {
    fn look(dest: &Path) -> Result<Self, BuilderError> {
        if crate::oci::is_layout(dest) {
            return Ok(Self::Layout(Layout::at(dest).index()?));
        }
        match fs::read_dir(dest).map(Iterator::count) {
            Ok(0) => return Ok(Self::Empty),
            Ok(_) if is_begun(dest).unwrap_or(false) => return Ok(Self::Begun),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::Empty),
            _ => {}
        }
        let message = format!("`{}` is no image layout", dest.display());
        let problem = Diagnostic::error("export-not-a-layout", Class::Usage, message)
            .note("there is something else in its place")
            .help("name a layout, or a directory that is not there yet");
        Err(problem.into())
    }
}

/// Whether there is nothing in a directory but what [`add_to_layout`] writes before the index.
fn is_begun(dest: &Path) -> io::Result<bool> {
    let all = |dir: &Path, fits: &dyn Fn(&str, bool) -> bool| -> io::Result<bool> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_dir = entry.file_type()?.is_dir();
            let name = if is_dir { &*name } else { of_draft(&name) };
            if !name.to_str().is_some_and(|name| fits(name, is_dir)) {
                return Ok(false);
            }
        }
        Ok(true)
    };
    let top = |name: &str, is_dir: bool| match is_dir {
        true => name == "blobs",
        false => ["oci-layout", "index.json"].contains(&name),
    };
    let blobs = dest.join("blobs");
    if !all(dest, &top)? || !blobs.is_dir() {
        return Ok(false);
    }
    let digests = blobs.join("sha256");
    let is_digest = |name: &str| {
        name.len() == 64 && name.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    Ok(all(&blobs, &|name, is_dir| is_dir && name == "sha256")?
        && (!digests.exists() || all(&digests, &|name, is_dir| !is_dir && is_digest(name))?))
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
    let staged = beside(dest);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_as_one() {
        let full = File::options().write(true).open("/dev/full");
        let mut out = tar::Writer::new(full.expect("a device that is always full"));
        let entry = tar::Entry {
            path: b"d".to_vec(),
            kind: EntryKind::Dir,
            mode: 0o755,
            ..tar::Entry::default()
        };
        let error = out.append(&entry, &mut io::empty()).map_err(cause);
        let told = error.expect_err("nothing is written").to_string();
        assert!(told.contains("No space left"), "{told}");
    }

    /// A layout with an image of no layers, which has a tag.
    fn layout(dir: &Path, tag: &str) {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).expect("a directory");
        let put = |kind: &str, content: &Value| {
            let bytes = content.to_string();
            let digest = sos_formats::hash::Sha256::of(bytes.as_bytes()).to_string();
            fs::write(blobs.join(&digest), &bytes).expect("written");
            json!({ "mediaType": format!("application/vnd.oci.image.{kind}.v1+json"), "digest": format!("sha256:{digest}"), "size": bytes.len() })
        };
        let config = put("config", &json!({ "os": "linux", "author": tag }));
        let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [] });
        let mut top = put("manifest", &manifest);
        top["annotations"] = json!({ REF_NAME: tag });
        let index = json!({ "schemaVersion": 2, "manifests": [top] });
        fs::write(dir.join("index.json"), index.to_string()).expect("written");
        fs::write(dir.join("oci-layout"), OCI_LAYOUT).expect("written");
    }

    #[test]
    fn the_index_keeps_what_came_while_an_export_waited() {
        let dir = tempfile::tempdir().expect("a directory");
        let place = |name: &str| dir.path().join(name);
        for name in ["one", "two", "three"] {
            layout(&place(name), name);
        }
        let dest = place("dest");
        add_to_layout(&place("one"), &dest, None, OnWait::default()).expect("an export");
        // What the other one has done, but for its blobs.
        let both = place("both");
        for name in ["one", "two"] {
            add_to_layout(&place(name), &both, None, OnWait::default()).expect("an export");
        }
        super::super::waiting::meanwhile(
            &dest,
            || add_to_layout(&place("three"), &dest, None, OnWait::default()).expect("an export"),
            || {
                fs::copy(both.join("index.json"), dest.join("index.json")).expect("copied");
            },
        );
        let index = Layout::at(&dest).index().expect("an index");
        let all = index["manifests"].as_array().expect("a list").iter();
        let names: Vec<_> = all
            .map(|one| one["annotations"][REF_NAME].as_str())
            .collect();
        assert_eq!(names, [Some("one"), Some("two"), Some("three")]);
    }
}
