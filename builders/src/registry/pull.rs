//! `builtin:oci-pull`: an image of a registry as a layout, pinned by its digest.

use std::fs::{self, File};
use std::path::Path;

use bytes::Bytes;
use reqwest::Method;
use reqwest::header;
use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Hash, HashAlgo, Sha256};

use super::access::Access;
use super::client::{Ask, Client};
use super::reference::Reference;
use super::words::{Use, other_bytes, unexpected, web_page, wrong_size};
use crate::build::Build;
use crate::fetch::{
    Failure, Fetcher, FileSink, Observer, Request, Way, looks_like_html, offline, unwritable,
};
use crate::oci::documents::{
    Descriptor, INDEX_TYPE, Index, MANIFEST_TYPE, OCI_LAYOUT, Platform, Strings, is_hex,
};
use crate::oci::machine::{is_for, wanted};
use crate::oci::source::{Document, ManifestDocument, choose};

/// Every kind of document that an image can begin with.
pub(super) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
     application/vnd.docker.distribution.manifest.v2+json, application/vnd.docker.distribution.manifest.list.v2+json";
/// How deep indexes may lie in indexes.
const MAX_INDEXES: usize = 4;
/// The most bytes of one layer.
const MAX_BLOB_BYTES: u64 = 64 << 30;

/// Fetches images.
#[derive(Clone, Debug)]
pub struct OciPullBuilder {
    fetcher: Fetcher,
    access: Access,
}

impl OciPullBuilder {
    /// Makes the builder around the run's fetcher, with what is known of registries.
    #[must_use]
    pub fn new(fetcher: Fetcher, access: Access) -> Self {
        Self { fetcher, access }
    }
}

/// What a recipe says about the image.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PullAttrs {
    #[serde(rename = "ref")]
    pub(super) reference: String,
    pub(super) digest: String,
    pub(super) arch: String,
}

impl Builder for OciPullBuilder {
    fn name(&self) -> &'static str {
        "builtin:oci-pull"
    }
    fn pool(&self) -> Pool {
        Pool::Io
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: PullAttrs = ctx.attrs_as()?;
        if ctx.options.offline {
            return Err(offline(&attrs.reference, Vec::new()).into());
        }
        let out = ctx.out_path("out");
        pull(ctx, &self.fetcher, &self.access, &attrs, &out)
    }
}

/// Tells a build how far all blobs together are.
struct OfBlobs<'a> {
    build: &'a dyn Build,
    done: u64,
    total: u64,
}

impl Observer for OfBlobs<'_> {
    fn progress(&self, done: u64, _total: Option<u64>) {
        self.build.progress(self.done + done, self.total);
    }
    fn note(&self, text: &str) {
        self.build.log(text);
    }
    fn cancelled(&self) -> bool {
        self.build.cancelled()
    }
}

/// Makes the layout `out`, of the one image that is meant.
pub(super) fn pull(
    build: &dyn Build,
    fetcher: &Fetcher,
    access: &Access,
    attrs: &PullAttrs,
    out: &Path,
) -> Result<(), BuilderError> {
    let mut reference = Reference::parse(&attrs.reference)?;
    reference.digest = None;
    if !attrs.digest.strip_prefix("sha256:").is_some_and(is_hex) {
        let message = format!("`{}` is not the digest of an image", attrs.digest);
        return Err(Diagnostic::error("oci-attrs", Class::Recipe, message)
            .help("write `sha256:` and 64 digits, or leave `digest` out: `sos lock` finds it")
            .into());
    }
    let wanted = wanted(&attrs.arch)?;
    let client = Client::new(fetcher, access, &reference, Use::Pull)?;
    let pull = Pull {
        build,
        fetcher,
        for_blobs: client.for_blobs()?,
        client,
        scope: format!("repository:{}:pull", reference.name),
    };
    let (descriptor, manifest, bytes) = pull.manifest(&attrs.digest, &wanted)?;
    let blobs = out.join("blobs/sha256");
    let io = |what: &'static str| move |error| BuilderError::io(what, error);
    fs::create_dir_all(&blobs).map_err(io("cannot create the image layout"))?;
    let mut all: Vec<&Descriptor> = vec![&manifest.config];
    all.extend(&manifest.layers);
    let mut total = 0;
    for blob in &all {
        pull.may_be(blob)?;
        total += blob.size;
    }
    let mut done = 0;
    for blob in all {
        pull.blob(blob, &blobs, &OfBlobs { build, done, total })?;
        done += blob.size;
    }
    pull.is_for(&wanted, &manifest.config, &blobs)?;
    let name = descriptor.hex().unwrap_or_default();
    fs::write(blobs.join(name), bytes).map_err(io("cannot write the manifest"))?;
    let index = Index {
        schema_version: 2,
        media_type: INDEX_TYPE,
        manifests: vec![descriptor],
        annotations: Strings::new(),
    };
    let json =
        serde_json::to_vec(&index).map_err(|error| BuilderError::failed(error.to_string()))?;
    fs::write(out.join("index.json"), json).map_err(io("cannot write `index.json`"))?;
    fs::write(out.join("oci-layout"), OCI_LAYOUT).map_err(io("cannot write `oci-layout`"))
}

/// Looks whether a blob of a manifest is one that can be had.
///
/// # Errors
/// Why not, in words.
pub(super) fn may_be(blob: &Descriptor) -> Result<(), String> {
    let Descriptor { digest, size, .. } = blob;
    if blob.hex().is_none() {
        let shown: String = digest.chars().take(80).collect();
        let shown = shown.escape_debug();
        return Err(format!(
            "it names `{shown}`, and only `sha256:` and 64 digits are understood"
        ));
    }
    if *size > MAX_BLOB_BYTES {
        let most = MAX_BLOB_BYTES >> 30;
        return Err(format!(
            "its blob {digest} should have {size} bytes, and may have {most} GiB"
        ));
    }
    Ok(())
}

/// The most bytes of a configuration that are looked at.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

struct Pull<'a> {
    build: &'a dyn Build,
    fetcher: &'a Fetcher,
    client: Client<'a>,
    for_blobs: reqwest::Client,
    scope: String,
}

impl Pull<'_> {
    /// The error for an image that would be the same from everywhere.
    fn bad(&self, what: &str) -> BuilderError {
        let message = format!(
            "the image `{}` cannot be used: {what}",
            self.client.reference
        );
        Diagnostic::error("oci-bad-image", Class::Fetch, message)
            .help("pin another image: whoever made this one must make it again")
            .into()
    }

    /// Looks whether a blob of a manifest is one that can be had.
    fn may_be(&self, blob: &Descriptor) -> Result<(), BuilderError> {
        may_be(blob).map_err(|what| self.bad(&what))
    }

    /// Looks whether the configuration, which is there, says the machine that is wanted; a manifest by itself says none.
    fn is_for(
        &self,
        wanted: &Platform,
        config: &Descriptor,
        blobs: &Path,
    ) -> Result<(), BuilderError> {
        // Other things than images lie in registries, too.
        if config.size > MAX_CONFIG_BYTES {
            return Ok(());
        }
        let bytes = fs::read(blobs.join(config.hex().unwrap_or_default()))
            .map_err(|error| BuilderError::io("cannot read the configuration", error))?;
        let text: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
        is_for(&text, wanted, &self.client.reference.to_string())
    }

    /// Gets the manifest that the digest names, or that an index of that digest has for the machine.
    fn manifest(
        &self,
        digest: &str,
        wanted: &Platform,
    ) -> Result<(Descriptor, ManifestDocument, Vec<u8>), BuilderError> {
        let mut digest = digest.to_owned();
        // What the index says, where one led here.
        let mut size = None;
        for _ in 0..MAX_INDEXES {
            let answer = self.client.ask(&Ask {
                method: Method::GET,
                url: self.client.url(&format!("manifests/{digest}"))?,
                headers: &[(header::ACCEPT, ACCEPT)],
                body: Bytes::new(),
                scope: &self.scope,
                again: true,
            })?;
            if answer.status != 200 {
                return Err(self.client.unexpected("give the manifest", &answer).into());
            }
            if looks_like_html(&answer.body) {
                return Err(web_page(self.client.reference).into());
            }
            let found = format!("sha256:{}", Sha256::of(&answer.body));
            let came = answer.body.len() as u64;
            if found != digest {
                return Err(other_bytes(self.client.reference, &digest, &found, came).into());
            }
            if let Some(size) = size.filter(|size| *size != came) {
                return Err(self.bad(&format!(
                    "its index says that {digest} has {size} bytes, and it has {came}"
                )));
            }
            let kind = answer.header("content-type").map(str::to_owned);
            let bytes = answer.body;
            match Document::parse(&bytes).map_err(|what| self.bad(&format!("{digest}: {what}")))? {
                Document::Manifest(manifest) => {
                    let descriptor = Descriptor {
                        media_type: stated(&bytes, kind),
                        platform: Some(wanted.clone()),
                        ..Descriptor::of("", &bytes)
                    };
                    self.build.log(&format!("manifest {digest}"));
                    return Ok((descriptor, manifest, bytes));
                }
                Document::Index(index) => {
                    let chosen = choose(&index, &digest, Some(wanted));
                    let chosen = chosen.map_err(|why| {
                        let image = self.client.reference.to_string();
                        why.told(&image, |what| self.bad(what))
                    })?;
                    self.may_be(&chosen)?;
                    (digest, size) = (chosen.digest, Some(chosen.size));
                }
            }
        }
        Err(self.bad(&format!(
            "indexes lie in its index more than {MAX_INDEXES} deep"
        )))
    }

    /// Gets one blob, checked while it arrives and resumed when it is cut.
    fn blob(
        &self,
        blob: &Descriptor,
        blobs: &Path,
        observer: &OfBlobs<'_>,
    ) -> Result<(), BuilderError> {
        let hex = blob.hex().unwrap_or_default();
        let place = blobs.join(hex);
        // The same blob may be named twice, but has one size.
        if let Ok(there) = fs::metadata(&place) {
            return self.has_size(blob, there.len());
        }
        let digest = sos_formats::hash::decode_hex(hex).unwrap_or_default();
        let hash = Hash::new(HashAlgo::Sha256, &digest)
            .map_err(|error| self.bad(&format!("it names `{}`: {error}", blob.digest)))?;
        let url = self.client.url(&format!("blobs/{}", blob.digest))?;
        let name = format!("{} of {}", blob.digest, self.client.reference);
        let request = Request {
            name: &name,
            urls: &[],
            hash: Some(&hash),
            written: None,
            size: Some(blob.size),
            limit: MAX_BLOB_BYTES,
            fixed_output: false,
            offline: false,
        };
        let mut again = true;
        loop {
            let file = File::create(&place).map_err(|error| {
                BuilderError::io(format!("cannot create `{}`", place.display()), error)
            })?;
            let authorization = self.client.authorization(&self.scope);
            let way = Way {
                client: &self.for_blobs,
                authorization: authorization.as_ref(),
            };
            let mut sink = FileSink::new(file, &place);
            let came = self
                .fetcher
                .source(url.as_str(), &request, Some(&way), &mut sink, observer);
            match came {
                Ok(_) => return Ok(()),
                // A token may have run out meanwhile: once more with a new one.
                Err(Failure::Status {
                    code: 401 | 403, ..
                }) if again => {
                    again = false;
                    self.introduce(blob)?;
                }
                Err(failure) => return Err(self.not_given(blob, &failure)),
            }
        }
    }

    fn has_size(&self, blob: &Descriptor, found: u64) -> Result<(), BuilderError> {
        let Descriptor { digest, size, .. } = blob;
        if found == *size {
            return Ok(());
        }
        Err(self.bad(&format!(
            "its manifest says that {digest} has {size} bytes, and it has {found}"
        )))
    }

    /// The error for a blob that did not come, or not as it should.
    fn not_given(&self, blob: &Descriptor, failure: &Failure) -> BuilderError {
        let (reference, digest) = (self.client.reference, &blob.digest);
        match failure {
            Failure::Cancelled => BuilderError::Cancelled,
            Failure::Write(error) => {
                let name = format!("{digest} of {reference}");
                unwritable(&name, error).into()
            }
            Failure::Mismatch { found, size, .. } => {
                let found = format!("sha256:{}", found.to_hex());
                other_bytes(reference, digest, &found, *size).into()
            }
            Failure::Size { found, .. } => {
                // Of what is not asked for whole, nothing tells whether manifest or registry is wrong.
                let size = blob.size;
                let what = format!("{found} bytes, where its manifest says {size}");
                wrong_size(reference, digest, &what).into()
            }
            Failure::TooLarge { .. } => {
                let what = format!("more than the {} bytes that its manifest says", blob.size);
                wrong_size(reference, digest, &what).into()
            }
            Failure::WebPage { size } => {
                let what = format!("a web page of {size} bytes");
                wrong_size(reference, digest, &what).into()
            }
            Failure::Status { code: 404, .. } => {
                let what = format!("give the blob {digest}");
                let mut problem = *unexpected(reference, Use::Pull, &what, 404, &[]);
                problem.helps = vec![
                    "send the image there again, or name another registry: this one has its manifest, and not all of its blobs"
                        .to_owned(),
                ];
                problem.into()
            }
            Failure::Status { code, .. } => {
                let what = format!("give the blob {digest}");
                unexpected(reference, Use::Pull, &what, *code, &[]).into()
            }
            other => {
                let mut problem = *self.client.failed(other);
                problem.notes.push(format!("it was asked for {digest}"));
                problem.into()
            }
        }
    }

    /// Asks for a blob without taking it, so that the registry says who may.
    fn introduce(&self, blob: &Descriptor) -> Result<(), BuilderError> {
        self.client.forget(&self.scope);
        let answer = self.client.ask(&Ask {
            method: Method::HEAD,
            url: self.client.url(&format!("blobs/{}", blob.digest))?,
            headers: &[],
            body: Bytes::new(),
            scope: &self.scope,
            again: true,
        })?;
        if answer.status == 200 {
            return Ok(());
        }
        Err(self.client.unexpected("give a blob", &answer).into())
    }
}

/// The kind that a document states, else the one that it came as.
fn stated(bytes: &[u8], came_as: Option<String>) -> String {
    let stated: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let stated = stated.and_then(|value| value["mediaType"].as_str().map(str::to_owned));
    stated
        .or(came_as)
        .unwrap_or_else(|| MANIFEST_TYPE.to_owned())
}
