//! The blocking face of the fetcher for small files that are read at once: archive metadata, keys, lock updates.

use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::{Hash, HashAlgo};

use super::Failure;
use super::fetcher::{FetchError, Fetcher, Request};
use super::observer::Quiet;
use super::sink::Sink;
use super::transfer::looks_like_html;

/// Says whether a whole file may be used.
pub type Accept<'a> = dyn Fn(&[u8]) -> Result<(), Box<Diagnostic>> + Sync + 'a;

/// A file in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Downloaded {
    /// Its content.
    pub bytes: Vec<u8>,
    /// One line for each source that was given up before.
    pub given_up: Vec<String>,
}

/// Gets files into memory.
pub trait Download: Send + Sync {
    /// Gets one file of at most `limit` bytes from the first of `urls` that delivers one that is accepted.
    ///
    /// # Errors
    /// When none does; why the first one was refused, if any arrived.
    fn accepted(
        &self,
        urls: &[String],
        limit: u64,
        expected_sha256: Option<&[u8; 32]>,
        accept: &Accept<'_>,
    ) -> Result<Downloaded, Box<Diagnostic>>;

    /// Gets one file of at most `limit` bytes from the first of `urls` that delivers it.
    ///
    /// # Errors
    /// When none does.
    fn bytes(
        &self,
        urls: &[String],
        limit: u64,
        expected_sha256: Option<&[u8; 32]>,
    ) -> Result<Vec<u8>, Box<Diagnostic>> {
        let got = self.accepted(urls, limit, expected_sha256, &|_| Ok(()))?;
        Ok(got.bytes)
    }
}

/// Memory that looks at the whole file: without a hash a web page would pass, and a captive portal answers everything with one.
struct Checked<'a> {
    bytes: Vec<u8>,
    refuse_page: bool,
    accept: &'a Accept<'a>,
}

impl Sink for Checked<'_> {
    fn restart(&mut self) -> std::io::Result<()> {
        self.bytes.clear();
        Ok(())
    }
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
    fn complete(&mut self) -> Result<(), Failure> {
        if self.refuse_page && looks_like_html(&self.bytes) {
            return Err(Failure::WebPage {
                size: self.bytes.len() as u64,
            });
        }
        (self.accept)(&self.bytes).map_err(Failure::Refused)
    }
}

impl Download for Fetcher {
    fn accepted(
        &self,
        urls: &[String],
        limit: u64,
        expected_sha256: Option<&[u8; 32]>,
        accept: &Accept<'_>,
    ) -> Result<Downloaded, Box<Diagnostic>> {
        let name = urls.first().map_or("nothing", |url| {
            url.rsplit('/').find(|part| !part.is_empty()).unwrap_or(url)
        });
        let hash = expected_sha256.and_then(|bytes| Hash::new(HashAlgo::Sha256, bytes).ok());
        let wants_page = urls
            .iter()
            .any(|url| [".html", ".htm", "/"].iter().any(|end| url.ends_with(end)));
        let mut sink = Checked {
            bytes: Vec::new(),
            refuse_page: hash.is_none() && !wants_page,
            accept,
        };
        let request = Request {
            name,
            urls,
            hash: hash.as_ref(),
            written: None,
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
            Ok(fetched) => Ok(Downloaded {
                bytes: sink.bytes,
                given_up: fetched.given_up,
            }),
            Err(FetchError::Failed(diagnostic)) => Err(diagnostic),
            Err(FetchError::Cancelled) => Err(Box::new(Diagnostic::error(
                "fetch-failed",
                sos_formats::diagnostic::Class::Interrupted,
                format!("fetching `{name}` was interrupted"),
            ))),
        }
    }
}
