//! An image goes to a registry: only what it does not have, documents last.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use bytes::Bytes;
use reqwest::header::{self, HeaderName};
use reqwest::{Method, Url};
use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};

use super::access::Access;
use super::client::{Answer, Ask, Client, is_passing};
use super::reference::{Reference, check_name};
use super::referrers::Referrer;
use super::words::Use;
use crate::export::Exportable;
use crate::fetch::Fetcher;
use crate::oci::documents::Descriptor;
use crate::oci::source::Layout;

/// What is sent at once; what is lost when a connection breaks.
const CHUNK_BYTES: usize = 8 << 20;
/// A registry may ask for larger chunks, up to this.
const MAX_CHUNK_BYTES: usize = 128 << 20;
/// Blobs on their way at the same time.
const AT_ONCE: usize = 3;
/// Where the image below is named; its repository may have the layers.
const BASE_NAME: &str = "org.opencontainers.image.base.name";

/// What became of a push.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Pushed {
    /// The name that it has there: the one that was given, with the tag of the image when no other one was.
    pub name: String,
    /// Only its digest leads to it: there was no tag.
    pub by_digest: bool,
    /// The digest of the manifest or index.
    pub digest: String,
    /// Blobs and documents that were sent.
    pub sent: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs taken over from other repositories of the registry.
    pub mounted: u64,
    /// Blobs and documents that were there.
    pub present: u64,
}

/// Sends the image of the layout `source` to a registry, under its own tag when `to` has none. Blobs that repositories `others` of the same registry have are taken over
/// from there.
///
/// # Errors
/// `Diagnostic` when `source` is no layout, the registry cannot be reached, does not let the user in or does not do what it should.
pub fn push(
    fetcher: &Fetcher,
    access: &Access,
    source: &Path,
    to: &Reference,
    others: &[String],
) -> Result<Pushed, BuilderError> {
    let image = Exportable::open(source)?;
    let to = &to.or_tag(image.tag());
    let client = Client::new(fetcher, access, to, Use::Push)?;
    let mut others: Vec<String> = others.to_vec();
    for other in &others {
        check_name(other).map_err(|what| {
            let name = other.chars().take(80).collect::<String>();
            let message = format!("`{name}` is not a repository of the registry: {what}");
            Diagnostic::error("registry-reference", Class::Usage, message)
                .help("write it without host and tag, as in `--mount-from os/web`")
        })?;
    }
    others.extend(base_of(&image, to));
    let mut scope = format!("repository:{}:pull,push", to.name);
    for other in &others {
        scope.push_str(&format!(" repository:{other}:pull"));
    }
    if let Some(digest) = to.digest.as_ref().filter(|d| **d != image.top.digest) {
        let message = format!("the image is {}, and not {digest}", image.top.digest);
        return Err(
            Diagnostic::error("registry-reference", Class::Usage, message)
                .help("leave the digest out: a tag names what is sent")
                .into(),
        );
    }
    let push = Push {
        client,
        scope,
        others,
        sent: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        mounted: AtomicU64::new(0),
        present: AtomicU64::new(0),
    };
    push.whole(&image)?;
    Ok(Pushed {
        name: to.to_string(),
        by_digest: to.tag.is_none() && to.digest.is_none(),
        digest: image.top.digest.clone(),
        sent: push.sent.into_inner(),
        bytes: push.bytes.into_inner(),
        mounted: push.mounted.into_inner(),
        present: push.present.into_inner(),
    })
}

/// The repository of the image below, when it is in the same registry.
fn base_of(image: &Exportable, to: &Reference) -> Option<String> {
    let (_, bytes) = image.closure.documents.last()?;
    let document: serde_json::Value = serde_json::from_slice(bytes).ok()?;
    let base = Reference::parse(document["annotations"][BASE_NAME].as_str()?).ok()?;
    (base.host == to.host && base.name != to.name).then_some(base.name)
}

pub(super) struct Push<'a> {
    pub(super) client: Client<'a>,
    scope: String,
    others: Vec<String>,
    sent: AtomicU64,
    bytes: AtomicU64,
    mounted: AtomicU64,
    present: AtomicU64,
}

impl Push<'_> {
    pub(super) fn ask(
        &self,
        method: Method,
        url: Url,
        headers: &[(HeaderName, &str)],
        body: Bytes,
        again: bool,
    ) -> Result<Answer, Box<Diagnostic>> {
        self.client.ask(&Ask {
            method,
            url,
            headers,
            body,
            scope: &self.scope,
            again,
        })
    }

    fn head(&self, rest: &str, kind: Option<&str>) -> Result<Answer, Box<Diagnostic>> {
        let accept = kind.map(|kind| (header::ACCEPT, kind));
        let headers: Vec<(HeaderName, &str)> = accept.into_iter().collect();
        let url = self.client.url(rest)?;
        self.ask(Method::HEAD, url, &headers, Bytes::new(), true)
    }

    fn whole(&self, image: &Exportable) -> Result<(), BuilderError> {
        let top = &image.top;
        let name = self.client.reference.tag.as_ref().unwrap_or(&top.digest);
        let there = self.head(&format!("manifests/{name}"), Some(&top.media_type))?;
        let all = image.closure.blobs.len() + image.closure.documents.len();
        if there.status == 200 && there.header("docker-content-digest") == Some(&top.digest) {
            self.present.store(all as u64, Ordering::Relaxed);
            // An earlier push may have ended between the two.
            for (document, bytes) in &image.closure.documents {
                if let Some(referrer) = Referrer::of(document, bytes)
                    && !self.lists(&referrer)?
                {
                    self.refer(&referrer)?;
                }
            }
            return Ok(());
        }
        self.blobs(image)?;
        let Some((last, below)) = image.closure.documents.split_last() else {
            return Ok(());
        };
        for (document, bytes) in below {
            self.document(document, bytes, &document.digest)?;
        }
        self.document(&last.0, &last.1, name)
    }

    /// Sends the blobs, several at once.
    fn blobs(&self, image: &Exportable) -> Result<(), BuilderError> {
        let blobs = &image.closure.blobs;
        let next = AtomicUsize::new(0);
        let failure: Mutex<Option<BuilderError>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..AT_ONCE.min(blobs.len()) {
                scope.spawn(|| {
                    while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                        if let Err(error) = self.blob(blob, &image.layout) {
                            let mut failure =
                                failure.lock().unwrap_or_else(PoisonError::into_inner);
                            failure.get_or_insert(error);
                            // Nobody finds another blob.
                            next.store(blobs.len(), Ordering::Relaxed);
                        }
                    }
                });
            }
        });
        match failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn blob(&self, blob: &Descriptor, layout: &Layout) -> Result<(), BuilderError> {
        let there = self.head(&format!("blobs/{}", blob.digest), None)?;
        if there.status == 200 {
            self.present.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        if there.status != 404 {
            return Err(self
                .client
                .unexpected("tell whether it has a blob", &there)
                .into());
        }
        let mut started = None;
        for other in &self.others {
            let mut url = self.client.url("blobs/uploads/")?;
            url.query_pairs_mut()
                .append_pair("mount", &blob.digest)
                .append_pair("from", other);
            let answer = match self.ask(Method::POST, url, &[], Bytes::new(), true) {
                // What may not be read there is sent.
                Err(problem) if problem.code == "registry-denied" => continue,
                answer => answer?,
            };
            match answer.status {
                201 => {
                    self.mounted.fetch_add(1, Ordering::Relaxed);
                    return Ok(());
                }
                // It has begun an upload instead; a further one would be left over.
                202 => {
                    started = Some(answer);
                    break;
                }
                _ => {}
            }
        }
        // Looked at first: neither a damaged blob nor what a link leads to may leave this machine.
        self.upload(blob, &layout.checked(blob)?, started)?;
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(blob.size, Ordering::Relaxed);
        Ok(())
    }

    /// Sends a blob in pieces, and goes on where the registry has got to when something breaks.
    fn upload(
        &self,
        blob: &Descriptor,
        path: &Path,
        started: Option<Answer>,
    ) -> Result<(), BuilderError> {
        let mut file = File::open(path).map_err(|error| {
            BuilderError::io(format!("cannot open `{}`", path.display()), error)
        })?;
        let mut started = started;
        let mut failures = 0;
        let mut wait = self.client.limits.backoff;
        let mut furthest = 0;
        loop {
            let begun = match started.take() {
                Some(answer) => answer,
                None => self.begin()?,
            };
            let mut upload = Upload {
                push: self,
                blob,
                file: &mut file,
                location: begun.location(),
                chunk: chunk_of(&begun),
                at: 0,
            };
            // One session lasts as long as the registry knows it.
            loop {
                let problem = match upload.step() {
                    Ok(Step::Done) => return Ok(()),
                    Ok(Step::Further) => continue,
                    Err(Stop::Broken(problem)) => problem,
                    Err(Stop::Refused(problem)) => return Err(problem),
                };
                if upload.at > furthest {
                    furthest = upload.at;
                    failures = 0;
                    wait = self.client.limits.backoff;
                }
                failures += 1;
                if failures > self.client.limits.retries {
                    return Err(problem);
                }
                tracing::debug!(digest = blob.digest, at = upload.at, "registry: going on");
                let pause = wait.min(self.client.limits.max_backoff);
                // The clock of the runtime is known inside only.
                let sleep = async { tokio::time::sleep(pause).await };
                self.client.runtime.block_on(sleep);
                wait = wait.saturating_mul(2);
                if !upload.resume()? {
                    break;
                }
            }
        }
    }

    fn begin(&self) -> Result<Answer, BuilderError> {
        let url = self.client.url("blobs/uploads/")?;
        let answer = self.ask(Method::POST, url, &[], Bytes::new(), true)?;
        if answer.status == 202 && answer.location().is_some() {
            return Ok(answer);
        }
        Err(self.client.unexpected("begin an upload", &answer).into())
    }

    fn document(
        &self,
        document: &Descriptor,
        bytes: &[u8],
        name: &str,
    ) -> Result<(), BuilderError> {
        let kind = media_type(document, bytes);
        let url = self.client.url(&format!("manifests/{name}"))?;
        let headers = [(header::CONTENT_TYPE, kind.as_str())];
        let body = Bytes::copy_from_slice(bytes);
        let answer = self.ask(Method::PUT, url, &headers, body, true)?;
        if answer.status != 201 {
            return Err(self.client.unexpected("take a manifest", &answer).into());
        }
        if let Some(digest) = answer.header("docker-content-digest")
            && digest != document.digest
        {
            let message = format!(
                "`{}` keeps another manifest than it was sent",
                self.client.reference.host
            );
            return Err(Diagnostic::error("registry-failed", Class::Fetch, message)
                .note(format!("sent {}, kept {digest}", document.digest))
                .into());
        }
        self.sent.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        match Referrer::of(document, bytes) {
            // The registry says that it has seen what the manifest is about.
            Some(referrer) if answer.header("OCI-Subject").is_none() => self.refer(&referrer),
            _ => Ok(()),
        }
    }
}

/// The kind that a document states, else the one that it is called by.
fn media_type(document: &Descriptor, bytes: &[u8]) -> String {
    let stated: Option<serde_json::Value> = serde_json::from_slice(bytes).ok();
    let stated = stated.and_then(|value| value["mediaType"].as_str().map(str::to_owned));
    stated.unwrap_or_else(|| document.media_type.clone())
}

fn chunk_of(begun: &Answer) -> usize {
    let asked = begun.header("oci-chunk-min-length");
    let asked = asked.and_then(|text| text.parse().ok()).unwrap_or(0);
    CHUNK_BYTES.max(asked).min(MAX_CHUNK_BYTES)
}

/// A blob on its way.
struct Upload<'a> {
    push: &'a Push<'a>,
    blob: &'a Descriptor,
    file: &'a mut File,
    location: Option<Url>,
    chunk: usize,
    /// How many bytes the registry has.
    at: u64,
}

enum Step {
    Further,
    Done,
}

enum Stop {
    /// Going on may help.
    Broken(BuilderError),
    Refused(BuilderError),
}

impl Upload<'_> {
    /// Sends one piece; the last one with the digest.
    fn step(&mut self) -> Result<Step, Stop> {
        let client = &self.push.client;
        let location = self.location.clone();
        let mut url = location.ok_or_else(|| {
            Stop::Refused(BuilderError::failed("a registry began an upload nowhere"))
        })?;
        let left = self.blob.size.saturating_sub(self.at);
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(self.chunk);
        let body = self.read(size).map_err(|error| {
            Stop::Refused(BuilderError::io("cannot read a blob of the image", error))
        })?;
        let last = left <= self.chunk as u64;
        let end = self.at + size as u64;
        let range = format!("{}-{}", self.at, end.saturating_sub(1));
        let mut headers = vec![(header::CONTENT_TYPE, "application/octet-stream")];
        if size > 0 && !(last && self.at == 0) {
            headers.push((header::CONTENT_RANGE, range.as_str()));
        }
        let method = if last {
            url.query_pairs_mut()
                .append_pair("digest", &self.blob.digest);
            Method::PUT
        } else {
            Method::PATCH
        };
        let answer = match self.push.ask(method, url, &headers, body, false) {
            Ok(answer) => answer,
            // No answer, or one that says who may not.
            Err(problem) if problem.code == "registry-failed" => {
                return Err(Stop::Broken(BuilderError::Diagnostic(problem)));
            }
            Err(problem) => return Err(Stop::Refused(BuilderError::Diagnostic(problem))),
        };
        match answer.status {
            201 | 204 if last => return Ok(Step::Done),
            202 if !last => {}
            status => {
                let problem = client.unexpected("take a blob", &answer).into();
                // 404: the upload is forgotten; 416: it stands elsewhere.
                return Err(if is_passing(status) || matches!(status, 404 | 416) {
                    Stop::Broken(problem)
                } else {
                    Stop::Refused(problem)
                });
            }
        }
        if let Some(next) = answer.location() {
            self.location = Some(next);
        }
        match reached(&answer) {
            Some(at) if at > self.at && at <= end => self.at = at,
            None => self.at = end,
            Some(_) => {
                let problem = client.unexpected("keep what it was sent", &answer);
                return Err(Stop::Broken(problem.into()));
            }
        }
        Ok(Step::Further)
    }

    fn read(&mut self, size: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; size];
        self.file.seek(SeekFrom::Start(self.at))?;
        self.file.read_exact(&mut bytes)?;
        Ok(bytes.into())
    }

    /// Asks how far the registry has got; tells whether it still knows the upload.
    fn resume(&mut self) -> Result<bool, BuilderError> {
        let Some(url) = self.location.clone() else {
            return Ok(false);
        };
        // What broke may have been the answer to the last piece only.
        let there = self
            .push
            .head(&format!("blobs/{}", self.blob.digest), None)?;
        if there.status == 200 {
            self.at = self.blob.size;
            return Ok(false);
        }
        let answer = self.push.ask(Method::GET, url, &[], Bytes::new(), true)?;
        if !matches!(answer.status, 200 | 202 | 204) {
            return Ok(false);
        }
        if let Some(next) = answer.location() {
            self.location = Some(next);
        }
        match reached(&answer) {
            Some(at) if at <= self.blob.size => self.at = at,
            _ => return Ok(false),
        }
        Ok(true)
    }
}

/// How many bytes an answer says are there. `0-0` is what registries write for nothing.
fn reached(answer: &Answer) -> Option<u64> {
    let range = answer.header("range")?;
    let range = range.strip_prefix("bytes=").unwrap_or(range);
    let last: u64 = range.split_once('-')?.1.trim().parse().ok()?;
    Some(if last == 0 { 0 } else { last + 1 })
}
