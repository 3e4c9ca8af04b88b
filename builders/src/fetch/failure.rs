//! Why one source did not deliver.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sos_formats::diagnostic::Diagnostic;
use sos_formats::hash::Hash;

/// An error of the file system, with its place.
#[derive(Debug, thiserror::Error)]
#[error("`{}`: {source}", .path.display())]
pub(crate) struct Placed {
    /// Where.
    pub(super) path: PathBuf,
    /// What.
    #[source]
    source: io::Error,
}

impl Placed {
    /// Gives an error its place, and leaves its kind as it is.
    pub(crate) fn error(path: &Path, source: io::Error) -> io::Error {
        let path = path.to_owned();
        io::Error::new(source.kind(), Self { path, source })
    }
}

/// The reason why one source of a fetch was given up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// The source is not a URL that can be fetched.
    #[error("{reason}")]
    Url {
        /// What is wrong with it.
        reason: String,
    },
    /// The network may not be used.
    #[error("not tried: offline")]
    Offline,
    /// The server was given up earlier in this run.
    #[error("not tried: {server} failed earlier in this run ({reason})")]
    Down {
        /// Scheme, host and port.
        server: String,
        /// Why it was given up.
        reason: String,
    },
    /// No connection could be made.
    #[error("cannot connect: {reason}")]
    Connect {
        /// What the network said.
        reason: String,
    },
    /// The connection was not made in time.
    #[error("no connection within {} s", .after.as_secs_f32())]
    ConnectTimeout {
        /// The limit.
        after: Duration,
    },
    /// The server speaks, but not TLS.
    #[error("it answered in clear text: it speaks http, not https")]
    NotHttps,
    /// A redirect from where nobody can listen to where everybody can, and nobody allowed that.
    #[error("{what} `{server}`, which is clear text")]
    Clear {
        /// How it came there.
        what: &'static str,
        /// Scheme, host and port.
        server: String,
    },
    /// The server accepted the request and said nothing.
    #[error("no answer within {} s", .after.as_secs_f32())]
    NoAnswer {
        /// The limit.
        after: Duration,
    },
    /// The body stopped arriving, or dripped.
    #[error("stalled after {received} bytes")]
    Stalled {
        /// The bytes that had arrived.
        received: u64,
    },
    /// The connection broke in the middle of the body.
    #[error("connection broken after {received} bytes: {reason}")]
    Broken {
        /// The bytes that had arrived.
        received: u64,
        /// What the network said.
        reason: String,
    },
    /// The body ended before its declared length.
    #[error("ended after {received} of {expected} bytes")]
    Truncated {
        /// The bytes that had arrived.
        received: u64,
        /// The declared length.
        expected: u64,
    },
    /// The server answered with an error status.
    #[error("answered {status}")]
    Status {
        /// The status line, for example `404 Not Found`.
        status: String,
        /// The number in it.
        code: u16,
        /// The wait that the server asked for.
        retry_after: Option<Duration>,
    },
    /// The answer to a range request was not the range asked for.
    #[error("answered a range request with {found}, not from byte {wanted}")]
    Range {
        /// The first byte asked for.
        wanted: u64,
        /// What the answer said.
        found: String,
    },
    /// Redirects went in a circle, went on for too long, or led somewhere that is refused.
    #[error("redirected {reason}")]
    Redirect {
        /// Which of them.
        reason: String,
    },
    /// The body is larger than allowed.
    #[error("larger than the limit of {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: u64,
    },
    /// The body does not have the size it should have.
    #[error("{found} bytes, expected {expected}")]
    Size {
        /// The right size.
        expected: u64,
        /// The size received or announced.
        found: u64,
    },
    /// The content does not have the expected hash.
    #[error("expected {}, found {} ({size} bytes)", words(.expected), words(.found))]
    Mismatch {
        /// The right hash.
        expected: Box<Hash>,
        /// The hash of what arrived.
        found: Box<Hash>,
        /// The size of what arrived.
        size: u64,
    },
    /// A web page arrived in place of the file.
    #[error("found an HTML page ({size} bytes): the mirror answered with a web page")]
    WebPage {
        /// The size of the page.
        size: u64,
    },
    /// The content is not what it must be to be unpacked.
    #[error("cannot unpack: {reason}")]
    Content {
        /// What is wrong with it.
        reason: String,
    },
    /// The content is whole, and not to be used: a signature is missing, or it is out of date.
    #[error("{}", .0.message)]
    Refused(Box<Diagnostic>),
    /// A local file could not be read.
    #[error("cannot read: {0}")]
    Read(#[source] io::Error),
    /// The destination could not be written; no other source can help.
    #[error("cannot write the download: {0}")]
    Write(#[source] io::Error),
    /// Nobody waits for the result any more.
    #[error("cancelled")]
    Cancelled,
}

/// Stops a client that is redirected to a server with which nobody allowed to speak in clear text.
#[derive(Debug, thiserror::Error)]
#[error("to `{0}`, which is clear text")]
pub(crate) struct ClearText(pub(crate) String);

/// A hash in messages that belong to no recipe.
fn words(hash: &Hash) -> String {
    format!("{} {}", hash.algo(), hash.to_hex())
}

impl Failure {
    /// Tells whether the same source may deliver when asked again.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            Self::Broken { .. }
            | Self::Truncated { .. }
            | Self::Range { .. }
            | Self::Stalled { .. } => true,
            Self::Status { code, .. } => *code == 429 || *code == 408 || *code >= 500,
            _ => false,
        }
    }

    /// Tells whether the server, and not this one file, is at fault.
    pub(super) fn blames_server(&self) -> bool {
        match self {
            Self::Connect { .. }
            | Self::ConnectTimeout { .. }
            | Self::NotHttps
            | Self::NoAnswer { .. } => true,
            other => other.is_transient(),
        }
    }

    /// Tells whether the server did answer, so that it is not simply dead.
    pub(super) fn is_answer(&self) -> bool {
        match self {
            Self::Truncated { .. } | Self::Range { .. } | Self::Status { .. } => true,
            Self::Broken { received, .. } => *received > 0,
            _ => false,
        }
    }

    /// Makes the failure to write at a place.
    pub(super) fn write_at(path: &Path) -> impl FnOnce(io::Error) -> Self + '_ {
        move |error| Self::Write(Placed::error(path, error))
    }

    /// Tells whether trying further sources is pointless.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Write(_) | Self::Cancelled)
    }

    /// Tells whether content arrived that was not the right one.
    pub(super) fn is_wrong_content(&self) -> bool {
        matches!(self, Self::Mismatch { .. } | Self::WebPage { .. })
    }
}
