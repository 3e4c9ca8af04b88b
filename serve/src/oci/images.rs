//! Image layouts of the store, read once: their tags and manifests. Blobs are looked up when they are asked for.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use sos_formats::hash::Sha256;

use super::names::{LATEST, digest, tag_of};
use crate::error::{Result, ServeError};
use crate::files;

/// The most bytes of an index or a manifest, as registries allow.
const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// The most manifests of a layout.
const MAX_MANIFESTS: usize = 10_000;
/// How deep indexes may lie in indexes.
const MAX_INDEXES: usize = 8;

pub(super) const INDEX_TYPE: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.manifest.v1+json",
    INDEX_TYPE,
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// The annotation that names an image in a layout.
const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// The images that are offered, by name.
#[derive(Debug, Default)]
pub(crate) struct Images {
    repositories: BTreeMap<String, Repository>,
}

/// The images of one name.
#[derive(Debug, Default)]
pub(crate) struct Repository {
    pub(super) layouts: Vec<Layout>,
    /// The digests by tag, with the store paths that they come from.
    pub(super) tags: BTreeMap<String, (String, String)>,
}

/// A layout.
#[derive(Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
    tags: BTreeMap<String, String>,
    manifests: BTreeMap<String, Manifest>,
}

/// What is known of a manifest or an index.
#[derive(Clone, Debug)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) size: u64,
    /// The manifest that this one is about.
    pub(super) subject: Option<String>,
    pub(super) artifact_type: Option<String>,
    pub(super) annotations: Map<String, Value>,
    /// It is the index of the layout itself.
    top: bool,
}

impl Images {
    /// Adds the images of a layout under a name; gives their tags and digests.
    pub(crate) fn add(
        &mut self,
        name: &str,
        dir: &Path,
        shown: &str,
    ) -> Result<BTreeMap<String, String>> {
        let layout = Layout::read(dir).map_err(|what| ServeError::BadImage {
            path: shown.to_owned(),
            what,
        })?;
        let repository = self.repositories.entry(name.to_owned()).or_default();
        for (tag, digest) in &layout.tags {
            if let Some((other, path)) = repository.tags.get(tag)
                && other != digest
            {
                return Err(ServeError::NameTaken {
                    name: name.to_owned(),
                    tag: tag.clone(),
                    paths: [path.clone(), shown.to_owned()],
                });
            }
            let named = (digest.clone(), shown.to_owned());
            repository.tags.insert(tag.clone(), named);
        }
        let tags = layout.tags.clone();
        repository.layouts.push(layout);
        Ok(tags)
    }

    /// The images of a name.
    pub(super) fn get(&self, name: &str) -> Option<&Repository> {
        self.repositories.get(name)
    }

    /// All names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.repositories.keys().map(String::as_str)
    }

    /// Name, tag and digest of every image, in order.
    pub(crate) fn all(&self) -> impl Iterator<Item = (&str, &str, &str)> {
        self.repositories.iter().flat_map(|(name, repository)| {
            let tags = repository.tags.iter();
            tags.map(|(tag, (digest, _))| (name.as_str(), tag.as_str(), digest.as_str()))
        })
    }

    /// The sizes of everything that an image is made of, together.
    pub(crate) fn size(&self, name: &str, digest: &str) -> u64 {
        let repository = self.repositories.get(name);
        repository.map_or(0, |repository| {
            let layouts = repository.layouts.iter();
            layouts
                .map(|layout| layout.size(digest, 0))
                .max()
                .unwrap_or(0)
        })
    }
}

impl Repository {
    /// A manifest, and the layout that has it.
    pub(super) fn manifest(&self, digest: &str) -> Option<(&Layout, &Manifest)> {
        let mut layouts = self.layouts.iter();
        layouts.find_map(|layout| Some((layout, layout.manifests.get(digest)?)))
    }

    /// A blob, with its size.
    pub(super) fn blob(&self, algo: &str, hex: &str) -> io::Result<(File, u64)> {
        let mut last = io::ErrorKind::NotFound.into();
        for layout in &self.layouts {
            match files::open_inside(&layout.dir, &["blobs", algo, hex]) {
                Err(error) => last = error,
                found => return found,
            }
        }
        Err(last)
    }

    /// The manifests that are about another one.
    pub(super) fn about(&self, subject: &str) -> BTreeMap<&str, &Manifest> {
        let all = self.layouts.iter().flat_map(|layout| &layout.manifests);
        all.filter(|(_, one)| one.subject.as_deref() == Some(subject))
            .map(|(digest, one)| (digest.as_str(), one))
            .collect()
    }
}

impl Layout {
    fn read(dir: &Path) -> std::result::Result<Self, String> {
        let bytes = files::read_inside(dir, &["index.json"], MAX_DOCUMENT_BYTES)
            .map_err(|e| format!("index.json: {e}"))?;
        let index: Value =
            serde_json::from_slice(&bytes).map_err(|e| format!("index.json: {e}"))?;
        let mut layout = Self {
            dir: dir.to_owned(),
            tags: BTreeMap::new(),
            manifests: BTreeMap::new(),
        };
        let listed = list(&index);
        let mut unnamed = Vec::new();
        for one in listed {
            let Some(digest) = layout.take(one)? else {
                continue;
            };
            match one["annotations"][REF_NAME].as_str() {
                Some(name) => {
                    let tag = tag_of(Some(name));
                    let other = layout.tags.insert(tag.clone(), digest.clone());
                    if other.is_some_and(|other| other != digest) {
                        return Err(format!("it has two images with the tag `{tag}`"));
                    }
                }
                // What is about another image is found by that one.
                None if layout.subject(&digest).is_none() => unnamed.push(digest),
                None => {}
            }
        }
        match unnamed.as_slice() {
            [] => {}
            [one] => {
                layout.tags.entry(LATEST.to_owned()).or_insert(one.clone());
            }
            // One image for several machines.
            _ => {
                let digest = format!("sha256:{}", Sha256::of(&bytes));
                layout.manifests.insert(
                    digest.clone(),
                    Manifest::new(INDEX_TYPE, bytes.len() as u64, &index, true),
                );
                layout.tags.entry(LATEST.to_owned()).or_insert(digest);
            }
        }
        if layout.tags.is_empty() {
            return Err("there is no image in it".to_owned());
        }
        Ok(layout)
    }

    fn subject(&self, digest: &str) -> Option<&str> {
        self.manifests.get(digest)?.subject.as_deref()
    }

    /// Reads what a descriptor names, and what that names; gives its digest, or none of what is no manifest.
    fn take(&mut self, descriptor: &Value) -> std::result::Result<Option<String>, String> {
        let mut pending = vec![(descriptor.clone(), 0)];
        let mut first = None;
        while let Some((descriptor, depth)) = pending.pop() {
            let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
            if !MANIFEST_TYPES.contains(&media_type) {
                continue;
            }
            let name = descriptor["digest"].as_str().unwrap_or_default();
            let Some((algo @ "sha256", hex)) = digest(name) else {
                return Err(format!(
                    "`{name}` is not a digest that a manifest can have here"
                ));
            };
            if depth == 0 {
                first = Some(name.to_owned());
            }
            if self.manifests.contains_key(name) {
                continue;
            }
            if self.manifests.len() >= MAX_MANIFESTS || depth > MAX_INDEXES {
                return Err("it has too many manifests, or indexes in indexes".to_owned());
            }
            let read = files::read_inside(&self.dir, &["blobs", algo, hex], MAX_DOCUMENT_BYTES);
            let bytes = match read {
                Ok(bytes) => bytes,
                // An index may name machines whose images were not taken along.
                Err(error) if depth > 0 && error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(format!("{name}: {error}")),
            };
            if Sha256::of(&bytes).to_hex() != hex {
                return Err(format!("{name}: its content has another digest"));
            }
            let document: Value =
                serde_json::from_slice(&bytes).map_err(|e| format!("{name}: {e}"))?;
            pending.extend(list(&document).iter().map(|one| (one.clone(), depth + 1)));
            let manifest = Manifest::new(media_type, bytes.len() as u64, &document, false);
            self.manifests.insert(name.to_owned(), manifest);
        }
        Ok(first)
    }

    /// Opens a manifest of this layout.
    pub(super) fn open(&self, name: &str, manifest: &Manifest) -> io::Result<(File, u64)> {
        if manifest.top {
            return files::open_inside(&self.dir, &["index.json"]);
        }
        let (algo, hex) = digest(name).ok_or(io::ErrorKind::NotFound)?;
        files::open_inside(&self.dir, &["blobs", algo, hex])
    }

    fn size(&self, name: &str, depth: usize) -> u64 {
        let Some(manifest) = self.manifests.get(name).filter(|_| depth <= MAX_INDEXES) else {
            return 0;
        };
        let document = self.open(name, manifest).ok().and_then(|(file, size)| {
            use std::io::Read as _;
            let mut bytes = Vec::new();
            file.take(size).read_to_end(&mut bytes).ok()?;
            serde_json::from_slice::<Value>(&bytes).ok()
        });
        let document = document.unwrap_or_default();
        let below = list(&document)
            .iter()
            .filter_map(|one| one["digest"].as_str())
            .map(|digest| self.size(digest, depth + 1));
        let layers = document["layers"].as_array().into_iter().flatten();
        let parts = layers.chain([&document["config"]]);
        let parts: u64 = parts
            .filter_map(|part| part["size"].as_u64())
            .fold(0, u64::saturating_add);
        below.fold(parts.saturating_add(manifest.size), u64::saturating_add)
    }
}

/// What an index lists.
fn list(document: &Value) -> &[Value] {
    document["manifests"].as_array().map_or(&[], Vec::as_slice)
}

impl Manifest {
    fn new(media_type: &str, size: u64, document: &Value, top: bool) -> Self {
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let annotations = document["annotations"].as_object();
        let own = text(&document["artifactType"]);
        Self {
            media_type: media_type.to_owned(),
            size,
            subject: text(&document["subject"]["digest"]),
            artifact_type: own.or_else(|| text(&document["config"]["mediaType"])),
            annotations: annotations.cloned().unwrap_or_default(),
            top,
        }
    }
}
