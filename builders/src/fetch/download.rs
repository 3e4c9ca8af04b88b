//! The blocking face of the fetcher for small files that are read at once: archive metadata, keys, lock updates.

use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::{Hash, HashAlgo};

use super::Failure;
use super::fetcher::{FetchError, Fetcher, Request};
use super::observer::Quiet;
use super::sink::{MemorySink, Sink};
use super::transfer::looks_like_html;

/// Gets files into memory.
pub trait Download: Send + Sync {
    /// Gets one file of at most `limit` bytes from the first of `urls` that delivers it.
    fn bytes(
        &self,
        urls: &[String],
        limit: u64,
        expected_sha256: Option<&[u8; 32]>,
    ) -> Result<Vec<u8>, Box<Diagnostic>>;
}

/// Memory that refuses a web page when there is no hash to tell: a captive portal answers everything with one.
#[derive(Default)]
struct NoPage {
    inner: MemorySink,
    head: Vec<u8>,
    size: u64,
    refuse: bool,
}

impl Sink for NoPage {
    fn restart(&mut self) -> std::io::Result<()> {
        self.head.clear();
        self.size = 0;
        self.inner.restart()
    }
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        if self.head.len() < 64 {
            self.head.extend_from_slice(&bytes[..bytes.len().min(64)]);
        }
        self.size += bytes.len() as u64;
        self.inner.write(bytes)
    }
    fn complete(&mut self) -> Result<(), Failure> {
        if self.refuse && looks_like_html(&self.head) {
            return Err(Failure::WebPage { size: self.size });
        }
        Ok(())
    }
}

impl Download for Fetcher {
    fn bytes(
        &self,
        urls: &[String],
        limit: u64,
        expected_sha256: Option<&[u8; 32]>,
    ) -> Result<Vec<u8>, Box<Diagnostic>> {
        let name = urls.first().map_or("nothing", |url| {
            url.rsplit('/').find(|part| !part.is_empty()).unwrap_or(url)
        });
        let hash = expected_sha256.and_then(|bytes| Hash::new(HashAlgo::Sha256, bytes).ok());
        let wants_page = urls
            .iter()
            .any(|url| [".html", ".htm", "/"].iter().any(|end| url.ends_with(end)));
        let mut sink = NoPage {
            refuse: hash.is_none() && !wants_page,
            ..NoPage::default()
        };
        let request = Request {
            name,
            urls,
            hash: hash.as_ref(),
            size: None,
            limit,
            fixed_output: false,
            offline: false,
        };
        let mut fetch = || self.fetch(&request, &mut sink, &Quiet);
        // A caller inside a runtime must not block on another one; a thread of its own may.
        let result = if tokio::runtime::Handle::try_current().is_ok() {
            std::thread::scope(|scope| {
                scope
                    .spawn(fetch)
                    .join()
                    .unwrap_or(Err(FetchError::Cancelled))
            })
        } else {
            fetch()
        };
        match result {
            Ok(_) => Ok(sink.inner.into_bytes()),
            Err(FetchError::Failed(diagnostic)) => Err(diagnostic),
            Err(FetchError::Cancelled) => Err(Box::new(Diagnostic::error(
                "fetch-failed",
                sos_formats::diagnostic::Class::Interrupted,
                format!("fetching `{name}` was interrupted"),
            ))),
        }
    }
}
