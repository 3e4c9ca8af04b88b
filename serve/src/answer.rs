//! What is answered: bytes, an open file, or something that is written as it is read; and how that becomes HTTP.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};

use hyper::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
    HeaderValue,
};
use hyper::{Response, StatusCode};

use crate::body::Body;
use crate::range::{Wanted, wanted};
use crate::request::Asked;

/// A file up to this size is read at once: most of a repository are small.
const SMALL_BYTES: u64 = 64 << 10;

/// Writes content.
type Writes = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send>;

/// An answer.
pub(crate) struct Answer {
    status: StatusCode,
    /// The media type.
    kind: String,
    cache: Cache,
    /// What changes whenever the content does.
    tag: Option<String>,
    headers: Vec<(&'static str, String)>,
    content: Content,
}

/// How long a client may keep an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cache {
    /// For ever: the address follows from the content.
    Immutable,
    /// A minute.
    Short,
    /// It must ask again each time.
    Never,
}

impl Cache {
    fn text(self) -> &'static str {
        match self {
            Self::Immutable => "public, max-age=31536000, immutable",
            Self::Short => "public, max-age=60, must-revalidate",
            Self::Never => "no-cache",
        }
    }
}

enum Content {
    Bytes(Vec<u8>),
    File(File, u64),
    Written { size: Option<u64>, write: Writes },
}

impl Content {
    fn size(&self) -> Option<u64> {
        match self {
            Self::Bytes(bytes) => Some(bytes.len() as u64),
            Self::File(_, size) => Some(*size),
            Self::Written { size, .. } => *size,
        }
    }
}

impl Answer {
    fn new(content: Content, kind: &str) -> Self {
        Self {
            status: StatusCode::OK,
            kind: kind.to_owned(),
            cache: Cache::Never,
            tag: None,
            headers: Vec::new(),
            content,
        }
    }

    /// Bytes of a media type.
    pub(crate) fn bytes(bytes: impl Into<Vec<u8>>, kind: &str) -> Self {
        Self::new(Content::Bytes(bytes.into()), kind)
    }

    /// An open file of a size.
    pub(crate) fn file(file: File, size: u64, kind: &str) -> Self {
        if size > SMALL_BYTES {
            return Self::new(Content::File(file, size), kind);
        }
        let mut bytes = Vec::new();
        match (&file).take(size).read_to_end(&mut bytes) {
            Ok(read) if read as u64 == size => Self::bytes(bytes, kind),
            _ => Self::broken("a file of the store cannot be read"),
        }
    }

    /// What `write` writes, of a size if that is known.
    pub(crate) fn written(
        size: Option<u64>,
        kind: &str,
        write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'static,
    ) -> Self {
        let write = Box::new(write);
        Self::new(Content::Written { size, write }, kind)
    }

    /// A line for a person, with another status than success.
    pub(crate) fn plain(status: StatusCode, text: &str) -> Self {
        let bytes = format!("{text}\n").into_bytes();
        let mut answer = Self::new(Content::Bytes(bytes), "text/plain; charset=utf-8");
        answer.status = status;
        answer
    }

    /// Nothing of that name is here.
    pub(crate) fn missing() -> Self {
        Self::plain(StatusCode::NOT_FOUND, "not here")
    }

    /// Something failed that is not the client's doing. Details are for the log of this machine.
    pub(crate) fn broken(what: &str) -> Self {
        tracing::warn!(what, "a request fails");
        Self::plain(StatusCode::INTERNAL_SERVER_ERROR, "the store fails")
    }

    /// The same with another status.
    pub(crate) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    /// The same, to be kept for so long.
    pub(crate) fn keep(mut self, cache: Cache) -> Self {
        self.cache = cache;
        self
    }

    /// The same with an entity tag, which has no quotes in it.
    pub(crate) fn tagged(mut self, tag: &str) -> Self {
        self.tag = Some(format!("\"{tag}\""));
        self
    }

    /// The same with one more header.
    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Makes the answer to a request; must be called in a runtime.
    pub(crate) fn respond(self, asked: &Asked) -> Response<Body> {
        let mut response = Response::new(Body::whole(Vec::new()));
        let good = self.status == StatusCode::OK;
        set(&mut response, CACHE_CONTROL, self.cache.text());
        set(
            &mut response,
            HeaderName::from_static("x-content-type-options"),
            "nosniff",
        );
        if let Some(tag) = &self.tag {
            set(&mut response, ETAG, tag);
        }
        for (name, value) in &self.headers {
            set(&mut response, HeaderName::from_static(name), value);
        }
        if good && names(asked.if_none_match.as_deref(), self.tag.as_deref()) {
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            return response;
        }
        set(&mut response, CONTENT_TYPE, &self.kind);
        *response.status_mut() = self.status;
        let size = self.content.size();
        let mut part = None;
        if let (true, Some(size)) = (good, size) {
            set(&mut response, ACCEPT_RANGES, "bytes");
            // A range of something else than what the client has the rest of would not fit.
            let same = asked.if_range.is_none() || asked.if_range == self.tag;
            match wanted(asked.range.as_deref().filter(|_| same), size) {
                Wanted::Whole => {}
                Wanted::Part { from, count } => {
                    *response.status_mut() = StatusCode::PARTIAL_CONTENT;
                    let range = format!("bytes {from}-{}/{size}", from + count - 1);
                    set(&mut response, CONTENT_RANGE, &range);
                    part = Some((from, count));
                }
                Wanted::Nothing => {
                    *response.status_mut() = StatusCode::RANGE_NOT_SATISFIABLE;
                    set(&mut response, CONTENT_RANGE, &format!("bytes */{size}"));
                    return response;
                }
            }
        }
        let length = part.map(|(_, count)| count).or(size);
        if let Some(length) = length {
            set(&mut response, CONTENT_LENGTH, &length.to_string());
        }
        if !asked.head {
            *response.body_mut() = body(self.content, part);
        }
        response
    }
}

/// Text that cannot stand in a header is left out.
fn set(response: &mut Response<Body>, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

/// Whether `If-None-Match` names a tag.
fn names(header: Option<&str>, tag: Option<&str>) -> bool {
    let (Some(header), Some(tag)) = (header, tag) else {
        return false;
    };
    header.split(',').map(str::trim).any(|one| {
        // A cache on the way may have made a weak tag of it.
        one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag
    })
}

fn body(content: Content, part: Option<(u64, u64)>) -> Body {
    match content {
        Content::Bytes(bytes) => match part {
            None => Body::whole(bytes),
            Some((from, count)) => {
                let from = usize::try_from(from).unwrap_or(usize::MAX);
                let count = usize::try_from(count).unwrap_or(usize::MAX);
                let part: Vec<u8> = bytes.into_iter().skip(from).take(count).collect();
                Body::whole(part)
            }
        },
        Content::File(mut file, size) => {
            let (from, count) = part.unwrap_or((0, size));
            Body::piped(Some(count), move |out| {
                file.seek(SeekFrom::Start(from))?;
                io::copy(&mut file.take(count), out).map(drop)
            })
        }
        Content::Written { size, write } => match part {
            None => Body::piped(size, write),
            Some((from, count)) => Body::piped(Some(count), move |out| {
                let mut window = Window {
                    out,
                    skip: from,
                    left: count,
                };
                let done = write(&mut window);
                // Whoever writes is stopped by an error once all is there that was asked for.
                if window.left == 0 { Ok(()) } else { done }
            }),
        },
    }
}

/// Lets a part of what is written through.
struct Window<'a> {
    out: &'a mut dyn Write,
    skip: u64,
    left: u64,
}

impl Write for Window<'_> {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let before = self.skip.min(data.len() as u64);
        self.skip -= before;
        // Both are at most the length of the data.
        let rest = &data[usize::try_from(before).unwrap_or(data.len())..];
        let count = self.left.min(rest.len() as u64);
        self.out
            .write_all(&rest[..usize::try_from(count).unwrap_or(rest.len())])?;
        self.left -= count;
        if self.left == 0 {
            return Err(io::Error::other("enough"));
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_takes_exactly_its_part() {
        let all: Vec<u8> = (0..=255).collect();
        for (from, count) in [(0u64, 256u64), (0, 1), (3, 4), (100, 100), (255, 1)] {
            for step in [1, 3, 100, 256] {
                let mut out = Vec::new();
                let mut window = Window {
                    out: &mut out,
                    skip: from,
                    left: count,
                };
                let mut stopped = false;
                for piece in all.chunks(step) {
                    stopped |= !stopped && window.write_all(piece).is_err();
                }
                assert!(stopped, "it is stopped at the end of the part");
                let range = usize::try_from(from).unwrap()..usize::try_from(from + count).unwrap();
                assert_eq!(out, &all[range]);
            }
        }
    }

    #[test]
    fn tags_are_compared_as_caches_write_them() {
        let tag = Some("\"a\"");
        assert!(names(Some("\"a\""), tag));
        assert!(names(Some("\"b\", W/\"a\""), tag));
        assert!(names(Some("*"), tag));
        assert!(!names(Some("a"), tag));
        assert!(!names(Some("\"b\""), tag));
        assert!(!names(None, tag));
        assert!(!names(Some("*"), None));
    }
}
