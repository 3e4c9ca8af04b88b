//! One source: transfer, retries, resumption by range, check.

use std::error::Error as _;
use std::future::Future;
use std::io::Read;
use std::pin::pin;
use std::time::Duration;

use reqwest::header::{self, HeaderMap};
use reqwest::{Client, Response, StatusCode, Url};
use sos_formats::hash::{Hash, Hasher};
use tokio::time::{Instant, sleep, timeout};

use super::failure::{ClearText, Failure};
use super::limits::{CANCEL_POLL, HEAD_BYTES, Limits, MAX_ATTEMPTS, PROGRESS_BYTES};
use super::observer::Observer;
use super::sink::Sink;

/// What the right file looks like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Expected<'a> {
    pub(super) hash: Option<&'a Hash>,
    pub(super) size: Option<u64>,
    pub(super) limit: u64,
}

/// The state of one file arriving from one source.
pub(super) struct Transfer<'a> {
    limits: &'a Limits,
    expected: Expected<'a>,
    sink: &'a mut dyn Sink,
    observer: &'a dyn Observer,
    received: u64,
    hasher: Option<Hasher>,
    head: Vec<u8>,
    html_type: bool,
    total: Option<u64>,
    /// A strong entity tag or a date, for `If-Range`.
    validator: Option<String>,
    /// Whether the bytes so far come from more than one answer.
    stitched: bool,
    authorization: Option<&'a header::HeaderValue>,
}

impl<'a> Transfer<'a> {
    /// Begins a transfer into an emptied sink.
    pub(super) fn begin(
        limits: &'a Limits,
        expected: Expected<'a>,
        sink: &'a mut dyn Sink,
        observer: &'a dyn Observer,
    ) -> Result<Self, Failure> {
        let mut transfer = Self {
            limits,
            expected,
            sink,
            observer,
            received: 0,
            hasher: None,
            head: Vec::new(),
            html_type: false,
            total: None,
            validator: None,
            stitched: false,
            authorization: None,
        };
        transfer.restart()?;
        Ok(transfer)
    }

    /// Shows who asks.
    pub(super) fn shown_as(mut self, authorization: Option<&'a header::HeaderValue>) -> Self {
        self.authorization = authorization;
        self
    }

    /// Reads a local file; gives its size.
    pub(super) fn local(mut self, mut file: std::fs::File) -> Result<u64, Failure> {
        let meta = file.metadata().map_err(Failure::Read)?;
        if !meta.is_file() {
            return Err(Failure::Url {
                reason: "not a regular file".into(),
            });
        }
        self.total = Some(meta.len());
        let mut buffer = vec![0; 256 * 1024];
        loop {
            if self.observer.cancelled() {
                return Err(Failure::Cancelled);
            }
            let n = file.read(&mut buffer).map_err(Failure::Read)?;
            if n == 0 {
                break;
            }
            self.take(&buffer[..n])?;
        }
        self.verify()
    }

    /// Transfers over HTTP, trying again where that can help; gives the size.
    pub(super) async fn http(mut self, client: &Client, url: &Url) -> Result<u64, Failure> {
        let mut tries = 0;
        let mut wait = self.limits.backoff;
        // How far it ever came: what arrives a second time is no progress.
        let mut furthest = 0;
        let mut started_again = false;
        for _ in 1..MAX_ATTEMPTS {
            let failure = match self.once(client, url).await {
                Ok(()) => match self.verify() {
                    // Two answers glued together may be two versions of the file: once more, in one piece.
                    Err(failure)
                        if failure.is_wrong_content() && self.stitched && !started_again =>
                    {
                        started_again = true;
                        furthest = 0;
                        self.observer.note(&format!(
                            "{url}: {failure} after a resumed transfer; starting again"
                        ));
                        self.restart()?;
                        continue;
                    }
                    done => return done,
                },
                Err(failure) => failure,
            };
            if self.received >= PROGRESS_BYTES.saturating_add(furthest) {
                furthest = self.received;
                tries = 0;
                wait = self.limits.backoff;
            }
            // A stall has already cost a long wait: one more try, not all of them.
            let most = match failure {
                Failure::Stalled { .. } => self.limits.retries.min(1),
                _ => self.limits.retries,
            };
            if !failure.is_transient() || tries >= most {
                return Err(failure);
            }
            tries += 1;
            self.observer.note(&format!(
                "{url}: {failure}; trying again ({tries} of {most})"
            ));
            let asked = match &failure {
                Failure::Status { retry_after, .. } => retry_after.unwrap_or_default(),
                _ => Duration::ZERO,
            };
            self.wait(sleep(wait.max(asked).min(self.limits.max_backoff)))
                .await?;
            wait = wait.saturating_mul(2);
        }
        self.once(client, url).await?;
        self.verify()
    }

    /// Makes one request and takes what comes.
    async fn once(&mut self, client: &Client, url: &Url) -> Result<(), Failure> {
        if self.received > 0 && !self.can_resume() {
            self.restart()?;
        }
        let from = self.received;
        let mut request = client
            .get(url.clone())
            .header(header::ACCEPT_ENCODING, "identity");
        if let Some(value) = self.authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
            if let Some(validator) = &self.validator {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        let answer = self.limits.connect.saturating_add(self.limits.answer);
        let response = match self.wait(timeout(answer, request.send())).await? {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => return Err(send_failure(&error, self.limits, self.received)),
            Err(_elapsed) => {
                return Err(Failure::NoAnswer {
                    after: self.limits.answer,
                });
            }
        };
        self.accept(from, &response)?;
        self.body(response).await
    }

    /// Looks at the head of an answer, and prepares for its body.
    fn accept(&mut self, from: u64, response: &Response) -> Result<(), Failure> {
        let headers = response.headers();
        let length = response.content_length();
        match response.status() {
            StatusCode::OK => {
                // Also the answer to a range request whose validator no longer holds, or that was not understood.
                if self.received > 0 {
                    self.restart()?;
                }
                self.total = length;
                self.validator = validator(headers);
                self.html_type = text(headers, header::CONTENT_TYPE)
                    .is_some_and(|kind| kind.to_ascii_lowercase().starts_with("text/html"));
            }
            StatusCode::PARTIAL_CONTENT if from > 0 => {
                let range = text(headers, header::CONTENT_RANGE).unwrap_or("no Content-Range");
                let good = parse_content_range(range).is_some_and(|(start, end, total)| {
                    start == from
                        && total.is_none_or(|total| {
                            end < total && self.total.is_none_or(|known| known == total)
                        })
                        && length.is_none_or(|length| length == end - start + 1)
                });
                if !good {
                    let failure = Failure::Range {
                        wanted: from,
                        found: range.to_owned(),
                    };
                    self.restart()?;
                    return Err(failure);
                }
                self.stitched = true;
            }
            StatusCode::RANGE_NOT_SATISFIABLE if from > 0 => {
                self.restart()?;
                return Err(Failure::Range {
                    wanted: from,
                    found: "416 Range Not Satisfiable".into(),
                });
            }
            status => {
                return Err(Failure::Status {
                    status: status.to_string(),
                    code: status.as_u16(),
                    retry_after: text(headers, header::RETRY_AFTER)
                        .and_then(|value| value.trim().parse().ok())
                        .map(Duration::from_secs),
                });
            }
        }
        let Some(total) = self.total else {
            return Ok(());
        };
        if self.html_type && self.expected.size.is_some_and(|size| size != total) {
            return Err(Failure::WebPage { size: total });
        }
        self.check_size(total)
    }

    /// Takes the body of an answer.
    async fn body(&mut self, mut response: Response) -> Result<(), Failure> {
        let mut window_end = Instant::now() + self.limits.window;
        let mut window_bytes = 0;
        loop {
            let received = self.received;
            let chunk = match self
                .wait(timeout(self.limits.stall, response.chunk()))
                .await?
            {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break,
                Ok(Err(error)) => {
                    return Err(Failure::Broken {
                        received,
                        reason: innermost(&error),
                    });
                }
                Err(_elapsed) => return Err(Failure::Stalled { received }),
            };
            self.take(&chunk)?;
            window_bytes += chunk.len() as u64;
            let now = Instant::now();
            if now >= window_end {
                if window_bytes < self.limits.window_bytes {
                    return Err(Failure::Stalled {
                        received: self.received,
                    });
                }
                window_bytes = 0;
                window_end = now + self.limits.window;
            }
        }
        match self.total {
            Some(expected) if self.received < expected => Err(Failure::Truncated {
                received: self.received,
                expected,
            }),
            _ => Ok(()),
        }
    }

    /// Takes some bytes of the file.
    fn take(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let received = self.received + bytes.len() as u64;
        if received > self.expected.limit {
            return Err(Failure::TooLarge {
                limit: self.expected.limit,
            });
        }
        if self.head.len() < HEAD_BYTES {
            let n = bytes.len().min(HEAD_BYTES - self.head.len());
            self.head.extend_from_slice(&bytes[..n]);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.sink.write(bytes).map_err(Failure::Write)?;
        self.received = received;
        self.observer
            .progress(received, self.total.or(self.expected.size));
        Ok(())
    }

    /// Checks the whole file.
    fn verify(&mut self) -> Result<u64, Failure> {
        let size = self.received;
        let page = self.html_type || looks_like_html(&self.head);
        if self.expected.size.is_some_and(|expected| expected != size) && page {
            return Err(Failure::WebPage { size });
        }
        self.check_size(size)?;
        if let (Some(hasher), Some(expected)) = (self.hasher.take(), self.expected.hash) {
            let found = hasher.finish();
            if found.bytes() != expected.bytes() {
                if page {
                    return Err(Failure::WebPage { size });
                }
                return Err(mismatch(expected, &found, size));
            }
        }
        match self.sink.complete() {
            Err(failure) if page && !failure.is_final() => Err(Failure::WebPage { size }),
            Err(failure) => Err(failure),
            Ok(()) => Ok(size),
        }
    }

    /// Compares a size, announced or received, with what is allowed.
    fn check_size(&self, size: u64) -> Result<(), Failure> {
        if let Some(expected) = self.expected.size
            && expected != size
        {
            return Err(Failure::Size {
                expected,
                found: size,
            });
        }
        if size > self.expected.limit {
            return Err(Failure::TooLarge {
                limit: self.expected.limit,
            });
        }
        Ok(())
    }

    /// Forgets all that arrived.
    fn restart(&mut self) -> Result<(), Failure> {
        self.sink.restart().map_err(Failure::Write)?;
        self.received = 0;
        self.hasher = self.expected.hash.map(|hash| Hasher::new(hash.algo()));
        self.head.clear();
        self.total = None;
        self.validator = None;
        self.stitched = false;
        Ok(())
    }

    /// Tells whether what has arrived may be continued: only if a change of the file in between would be noticed.
    fn can_resume(&self) -> bool {
        self.validator.is_some() || self.hasher.is_some()
    }

    /// Waits for something, and for cancellation.
    async fn wait<F: Future>(&self, future: F) -> Result<F::Output, Failure> {
        let mut future = pin!(future);
        loop {
            if self.observer.cancelled() {
                return Err(Failure::Cancelled);
            }
            if let Ok(output) = timeout(CANCEL_POLL, &mut future).await {
                return Ok(output);
            }
        }
    }
}

/// Sorts the errors that can happen before there is an answer, or while it arrives.
pub(crate) fn send_failure(error: &reqwest::Error, limits: &Limits, received: u64) -> Failure {
    if error.is_redirect() {
        return match causes(error).find_map(|cause| cause.downcast_ref::<ClearText>()) {
            Some(ClearText(server)) => Failure::Clear {
                what: "it sends on to",
                server: server.clone(),
            },
            None => Failure::Redirect {
                reason: innermost(error),
            },
        };
    }
    if error.is_timeout() && error.is_connect() {
        return Failure::ConnectTimeout {
            after: limits.connect,
        };
    }
    if error.is_connect() {
        let reason = innermost(error);
        // What the TLS library says of the first bytes that are none of TLS.
        if reason.contains("InvalidContentType") {
            return Failure::NotHttps;
        }
        return Failure::Connect { reason };
    }
    if error.is_builder() {
        return Failure::Url {
            reason: innermost(error),
        };
    }
    Failure::Broken {
        received,
        reason: innermost(error),
    }
}

/// Describes content with the wrong hash.
pub(super) fn mismatch(expected: &Hash, found: &Hash, size: u64) -> Failure {
    Failure::Mismatch {
        expected: Box::new(*expected),
        found: Box::new(*found),
        size,
    }
}

/// Gives the deepest cause: the outer ones only repeat the URL and say "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let last = causes(error).last();
    last.map_or_else(|| error.to_string(), ToString::to_string)
}

/// What lies below an error, the deepest last.
fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// Gives a header as text.
fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// Gives what identifies this version of the file: a strong entity tag, else the date of its last change.
fn validator(headers: &HeaderMap) -> Option<String> {
    let tag = text(headers, header::ETAG).filter(|tag| !tag.starts_with("W/"));
    tag.or_else(|| text(headers, header::LAST_MODIFIED))
        .map(str::to_owned)
}

/// Parses `bytes <first>-<last>/<total or *>`.
fn parse_content_range(value: &str) -> Option<(u64, u64, Option<u64>)> {
    let (range, total) = value.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    let total = match total.trim() {
        "*" => None,
        number => Some(number.parse().ok()?),
    };
    (first <= last).then_some((first, last, total))
}

/// Tells whether the first bytes are those of a web page.
pub(crate) fn looks_like_html(head: &[u8]) -> bool {
    let head = head
        .strip_prefix(b"\xef\xbb\xbf")
        .unwrap_or(head)
        .trim_ascii_start();
    let begins = |prefix: &[u8]| {
        head.len() >= prefix.len() && head[..prefix.len()].eq_ignore_ascii_case(prefix)
    };
    begins(b"<!doctype html") || begins(b"<html")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_ranges() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some((5, 9, Some(10))));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some((5, 9, None)));
        for bad in [
            "bytes */10",
            "bytes 9-5/10",
            "5-9/10",
            "bytes 5-9",
            "bytes -9/10",
            "bytes 5-9/x",
        ] {
            assert_eq!(parse_content_range(bad), None, "{bad}");
        }
    }

    #[test]
    fn web_pages() {
        assert!(looks_like_html(b"\n <!DOCTYPE HTML><title>"));
        assert!(looks_like_html(b"\xef\xbb\xbf<html lang=en>"));
        assert!(!looks_like_html(b"<?xml version='1.0'?>"));
        assert!(!looks_like_html(b""));
    }
}
