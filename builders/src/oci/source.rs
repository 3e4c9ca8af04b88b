//! Image layouts as anybody wrote them: documents are read with limits, blobs are checked against their digests.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{HashAlgo, Hasher, Sha256};

use super::documents::{Descriptor, Platform, REF_NAME, is_of_files};
use super::machine::other_machines;
use super::strict;

/// The most bytes of an index, a manifest or a configuration.
pub(crate) const MAX_DOCUMENT_BYTES: u64 = 4 << 20;
/// The most layers of one image.
pub(crate) const MAX_LAYERS: usize = 4096;
/// How deep indexes may lie in indexes.
const MAX_INDEXES: usize = 4;
/// The most documents that one name may lead to.
const MAX_DOCUMENTS: usize = 4096;

/// A manifest.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ManifestDocument {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

/// An index.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct IndexDocument {
    pub(crate) manifests: Vec<Descriptor>,
}

/// What a descriptor can lead to.
#[derive(Clone, Debug)]
pub(crate) enum Document {
    /// One image.
    Manifest(ManifestDocument),
    /// Several images.
    Index(IndexDocument),
}

impl Document {
    /// Reads a manifest or an index, in OCI's form or in Docker's, which have the same members.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, String> {
        let value =
            strict::parse(bytes).map_err(|error| format!("it cannot be read as JSON: {error}"))?;
        // Serde knows types of Rust, which are none of the reader's business.
        let told = |error: serde_json::Error| {
            let text = error.to_string();
            text.replace("expected u64", "expected a whole number of bytes")
        };
        // What is both would be one image for one reader and another for the next.
        match (value.get("layers"), value.get("manifests")) {
            (Some(_), None) => {
                let manifest: ManifestDocument = serde_json::from_value(value).map_err(told)?;
                let found = manifest.layers.len();
                if found > MAX_LAYERS {
                    return Err(format!("it has {found} layers, and may have {MAX_LAYERS}"));
                }
                Ok(Self::Manifest(manifest))
            }
            (None, Some(_)) => serde_json::from_value(value).map(Self::Index).map_err(told),
            _ if value.get("fsLayers").is_some() => Err(
                "it is a manifest of Docker's first schema, which only very old images have"
                    .to_owned(),
            ),
            _ => Err(
                "it is neither a manifest, with `layers`, nor an index, with `manifests`"
                    .to_owned(),
            ),
        }
    }
}

/// Everything that a name leads to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Closure {
    /// Layers and configurations, each once.
    pub(crate) blobs: Vec<Descriptor>,
    /// Manifests and indexes with their bytes, what is named before what names it.
    pub(crate) documents: Vec<(Descriptor, Vec<u8>)>,
}

/// A layout in a directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    dir: PathBuf,
    shown: String,
}

impl Layout {
    /// Looks at a directory; nothing is read yet.
    pub(crate) fn at(dir: &Path) -> Self {
        Self {
            dir: dir.to_owned(),
            shown: dir.display().to_string(),
        }
    }

    /// The same, known to people under another name.
    pub(crate) fn shown_as(mut self, name: &str) -> Self {
        name.clone_into(&mut self.shown);
        self
    }

    /// Makes the error for a layout that is not sound.
    pub(crate) fn bad(&self, what: &str) -> Box<Diagnostic> {
        let message = format!("the image in `{}` cannot be read: {what}", self.shown);
        Box::new(Diagnostic::error("oci-bad-layout", Class::Other, message))
    }

    fn damaged(&self, digest: &str) -> Box<Diagnostic> {
        let problem = self.bad(&format!("{digest} has other bytes than its digest says"));
        Box::new(problem.help("get or make the image again: a file below `blobs` is damaged"))
    }

    fn read(&self, path: &Path) -> Result<Vec<u8>, Box<Diagnostic>> {
        let mut bytes = Vec::new();
        let read = File::open(path)
            .and_then(|file| file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes));
        let shown = path.strip_prefix(&self.dir).unwrap_or(path).display();
        read.map_err(|e| self.bad(&format!("{shown}: {e}")))?;
        if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
            return Err(self.bad(&format!("{shown} is larger than 4 MiB")));
        }
        Ok(bytes)
    }

    /// The whole `index.json`.
    pub(crate) fn index(&self) -> Result<Value, Box<Diagnostic>> {
        let bytes = self.read(&self.dir.join("index.json"))?;
        let index = strict::parse(&bytes).map_err(|e| self.bad(&format!("index.json: {e}")))?;
        if !index["manifests"].is_array() {
            return Err(self.bad("index.json has no list `manifests` of its images"));
        }
        Ok(index)
    }

    /// Where the blob of a descriptor is.
    pub(crate) fn path(&self, descriptor: &Descriptor) -> Result<PathBuf, Box<Diagnostic>> {
        let hex = descriptor.hex().ok_or_else(|| {
            self.bad(&format!(
                "`{}` is no digest that is understood; it must be `sha256:` and 64 digits",
                descriptor.digest
            ))
        })?;
        Ok(self.dir.join("blobs/sha256").join(hex))
    }

    /// The same, after looking whether the bytes are those of the digest.
    pub(crate) fn checked(&self, descriptor: &Descriptor) -> Result<PathBuf, Box<Diagnostic>> {
        let path = self.path(descriptor)?;
        let digest = &descriptor.digest;
        let (found, size) =
            hash_file(&path).map_err(|error| self.bad(&format!("{digest}: {error}")))?;
        if format!("sha256:{found}") != *digest {
            return Err(self.damaged(digest));
        }
        if size != descriptor.size {
            let stated = descriptor.size;
            return Err(self.bad(&format!("{digest} has {size} bytes and not {stated}")));
        }
        Ok(path)
    }

    /// The bytes of a document.
    pub(crate) fn bytes(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Box<Diagnostic>> {
        let bytes = self.read(&self.path(descriptor)?)?;
        let digest = &descriptor.digest;
        if format!("sha256:{}", Sha256::of(&bytes)) != *digest {
            return Err(self.damaged(digest));
        }
        if bytes.len() as u64 != descriptor.size {
            let (found, stated) = (bytes.len(), descriptor.size);
            return Err(self.bad(&format!("{digest} has {found} bytes and not {stated}")));
        }
        Ok(bytes)
    }

    /// A document as JSON.
    pub(crate) fn json(&self, descriptor: &Descriptor) -> Result<Value, Box<Diagnostic>> {
        strict::parse(&self.bytes(descriptor)?)
            .map_err(|e| self.bad(&format!("{}: {e}", descriptor.digest)))
    }

    fn document(&self, descriptor: &Descriptor) -> Result<(Document, Vec<u8>), Box<Diagnostic>> {
        let bytes = self.bytes(descriptor)?;
        let document = Document::parse(&bytes)
            .map_err(|what| self.bad(&format!("{}: {what}", descriptor.digest)))?;
        Ok((document, bytes))
    }

    /// Finds what a tag names, or the only image that is there, as `index.json` has it.
    pub(crate) fn find(&self, tag: Option<&str>) -> Result<Value, Box<Diagnostic>> {
        let index = self.index()?;
        let all = index["manifests"].as_array().cloned().unwrap_or_default();
        let named = |m: &Value| tag.is_none_or(|tag| m["annotations"][REF_NAME] == tag);
        let tags: Vec<&str> = all
            .iter()
            .filter_map(|m| m["annotations"][REF_NAME].as_str())
            .collect();
        let found: Vec<&Value> = all.iter().filter(|m| named(m)).collect();
        match found.as_slice() {
            [one] => Ok((*one).clone()),
            [] if all.is_empty() => Err(Box::new(
                self.bad("index.json names no image: its `manifests` is empty")
                    .help("put an image into it, or name another layout"),
            )),
            [] => Err(Box::new(
                self.bad(&format!(
                    "it has no image of the tag `{}`",
                    tag.unwrap_or_default()
                ))
                .note(if tags.is_empty() {
                    "none of its images has a tag".to_owned()
                } else {
                    format!("its tags are: {}", tags.join(", "))
                }),
            )),
            _ => Err(Box::new(self.bad("it has several images").help(format!(
                "its tags are: {}; name one with `tag` in `sos.oci.rootfs`, `fromTag` in `sos.oci`, and as `DIR:TAG` to a command",
                tags.join(", ")
            )))),
        }
    }

    /// Reads a descriptor out of JSON.
    pub(crate) fn descriptor(&self, value: &Value) -> Result<Descriptor, Box<Diagnostic>> {
        Descriptor::deserialize(value).map_err(|e| self.bad(&format!("a descriptor: {e}")))
    }

    /// Finds the manifest of one image: that of `tag`, and of `platform` where there are several machines.
    pub(crate) fn manifest(
        &self,
        tag: Option<&str>,
        platform: Option<&Platform>,
    ) -> Result<(Descriptor, ManifestDocument), Box<Diagnostic>> {
        let mut chosen = self.descriptor(&self.find(tag)?)?;
        for _ in 0..MAX_INDEXES {
            match self.document(&chosen)?.0 {
                Document::Manifest(manifest) => return Ok((chosen, manifest)),
                Document::Index(index) => {
                    let name = &chosen.digest;
                    let found = choose(&index, name, platform);
                    chosen = found.map_err(|why| why.told(&self.shown, |what| self.bad(what)))?;
                }
            }
        }
        Err(self.bad(&format!(
            "indexes lie in its index more than {MAX_INDEXES} deep"
        )))
    }

    /// Looks whether the layers of an image are archives of files: registries and layouts hold other things, which only begin alike.
    pub(crate) fn has_files(&self, manifest: &ManifestDocument) -> Result<(), Box<Diagnostic>> {
        let Some(what) = strange_layer(manifest) else {
            return Ok(());
        };
        Err(Box::new(
            self.bad(&what)
                .note("known are those of `application/vnd.oci.image.layer.v1.tar`, as it is, `+gzip` and `+zstd`, and what Docker calls them")
                .help("name an image that has such layers"),
        ))
    }

    /// Lists everything that a descriptor leads to.
    pub(crate) fn closure(&self, top: &Descriptor) -> Result<Closure, Box<Diagnostic>> {
        let mut closure = Closure::default();
        let mut seen = BTreeSet::new();
        let mut levels = vec![vec![top.clone()]];
        let mut found = Vec::new();
        while let Some(level) = levels.pop() {
            let mut below = Vec::new();
            for descriptor in level {
                if !seen.insert(descriptor.digest.clone()) {
                    continue;
                }
                if seen.len() > MAX_DOCUMENTS {
                    return Err(self.bad("it names too many documents"));
                }
                let (document, bytes) = self.document(&descriptor)?;
                match document {
                    Document::Manifest(manifest) => {
                        closure.blobs.extend(manifest.layers);
                        closure.blobs.push(manifest.config);
                    }
                    Document::Index(index) => below.extend(index.manifests),
                }
                found.push((descriptor, bytes));
            }
            if !below.is_empty() {
                levels.push(below);
            }
        }
        found.reverse();
        closure.documents = found;
        let mut once = BTreeSet::new();
        closure
            .blobs
            .retain(|blob| once.insert(blob.digest.clone()));
        Ok(closure)
    }
}

/// Tells of the first layer of an image that is no archive of files, in words; none when all are.
pub(crate) fn strange_layer(manifest: &ManifestDocument) -> Option<String> {
    let mut layers = manifest.layers.iter();
    let other = layers.find(|layer| !is_of_files(&layer.media_type))?;
    let what = match other.media_type.as_str() {
        "" => "says not of what kind it is".to_owned(),
        kind => format!("is of the kind `{kind}`, which is no archive of files that is known"),
    };
    Some(format!("its layer {} {what}", other.digest))
}

/// Why no image of an index was found, in words.
pub(crate) enum NotChosen {
    /// The index is no good, or it is not said which image is meant.
    Unclear(String),
    /// All of them are for other machines: `found` are the names of those in Go's way, and `wanted` is the one that is meant.
    OtherMachines {
        what: String,
        found: Vec<String>,
        wanted: String,
    },
}

impl NotChosen {
    /// The error for the index of the image called `image`; `bad` makes the one for an index that is no good.
    pub(crate) fn told<E: From<Diagnostic>>(self, image: &str, bad: impl FnOnce(&str) -> E) -> E {
        match self {
            Self::Unclear(what) => bad(&what),
            Self::OtherMachines {
                what,
                found,
                wanted,
            } => {
                let message = format!("the image `{image}` cannot be used: {what}");
                other_machines(message, &found, &wanted).into()
            }
        }
    }
}

/// Finds the image of a machine in an index, whose digest is `name`; the first that fits wins.
///
/// # Errors
/// Why there is none.
pub(crate) fn choose(
    index: &IndexDocument,
    name: &str,
    platform: Option<&Platform>,
) -> Result<Descriptor, NotChosen> {
    let shown = |found: &Descriptor| match &found.platform {
        Some(Platform {
            architecture,
            os,
            variant,
        }) => {
            let variant = variant.as_ref().map(|v| format!("/{v}"));
            format!("{os}/{architecture}{}", variant.unwrap_or_default())
        }
        None => "unknown".to_owned(),
    };
    let there = || index.manifests.iter().map(shown).collect::<Vec<_>>();
    match (platform, index.manifests.as_slice()) {
        (_, []) => Err(NotChosen::Unclear(format!(
            "its index {name} names no image: its `manifests` is empty"
        ))),
        (None, [one]) => Ok(one.clone()),
        (None, _) => Err(NotChosen::Unclear(format!(
            "it is for several machines, and none is named: {}",
            there().join(", ")
        ))),
        (Some(wanted), all) => {
            let fits = |found: &&Descriptor| {
                found.platform.as_ref().is_some_and(|platform| {
                    platform.os == wanted.os
                        && platform.architecture == wanted.architecture
                        // An image without a variant is for all of them.
                        && (wanted.variant.is_none()
                            || platform.variant.is_none()
                            || platform.variant == wanted.variant)
                })
            };
            all.iter()
                .find(fits)
                .cloned()
                .ok_or_else(|| NotChosen::OtherMachines {
                    what: format!(
                        "it has no image for {}/{}; it has {}",
                        wanted.os,
                        wanted.architecture,
                        there().join(", ")
                    ),
                    found: all
                        .iter()
                        .filter_map(|one| one.platform.as_ref())
                        .filter(|found| found.os == wanted.os)
                        .map(|found| found.architecture.clone())
                        .collect(),
                    wanted: wanted.architecture.clone(),
                })
        }
    }
}

/// Gives SHA-256 and size of a file.
pub(crate) fn hash_file(path: &Path) -> io::Result<(Sha256, u64)> {
    let mut file = File::open(path)?;
    let mut hasher = Hasher::new(HashAlgo::Sha256);
    let mut size = 0;
    let mut chunk = vec![0; 1 << 20];
    loop {
        match file.read(&mut chunk)? {
            0 => break,
            n => {
                hasher.update(&chunk[..n]);
                size += n as u64;
            }
        }
    }
    let hash = hasher.finish().as_sha256();
    hash.map(|hash| (hash, size))
        .ok_or_else(|| io::Error::other("a SHA-256 hasher gave another hash"))
}
