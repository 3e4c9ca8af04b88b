//! Every number that bounds a transfer, named once.

use std::time::Duration;

/// Bounds of one transfer; the default is what a run uses, tests shorten the waits.
#[derive(Clone, Debug)]
pub struct Limits {
    /// How long one server may take to accept a connection, TLS included.
    pub connect: Duration,
    /// How long one server may take from the request to the first header.
    pub answer: Duration,
    /// How long a body may stay silent.
    pub stall: Duration,
    /// The window in which at least [`Limits::window_bytes`] must arrive: a drip is a stall too.
    pub window: Duration,
    /// The bytes that must arrive within [`Limits::window`].
    pub window_bytes: u64,
    /// How many redirects are followed.
    pub redirects: usize,
    /// How often a transfer that made no progress is tried again at the same server.
    pub retries: u32,
    /// The first wait between two tries; it doubles every time.
    pub backoff: Duration,
    /// The longest wait between two tries, whatever `Retry-After` says.
    pub max_backoff: Duration,
    /// How many failures in a row close a server that has answered before.
    pub strikes: u32,
}

/// Connecting takes one round trip, TLS two more; ten seconds covers a satellite link.
const CONNECT: Duration = Duration::from_secs(10);
/// Object stores may fetch from cold storage before the first header.
const ANSWER: Duration = Duration::from_secs(30);
/// Silence in the middle of a body.
const STALL: Duration = Duration::from_secs(30);
/// A window long enough that one lost packet does not count.
const WINDOW: Duration = Duration::from_secs(60);
/// About 1 KiB/s; anything slower never ends in practice.
const WINDOW_BYTES: u64 = 64 * 1024;
/// Download sites chain two or three; browsers stop at twenty.
const REDIRECTS: usize = 10;
/// Tries after the first one, as long as nothing arrives.
const RETRIES: u32 = 3;
/// First wait before another try.
const BACKOFF: Duration = Duration::from_millis(250);
/// Longest wait before another try.
const MAX_BACKOFF: Duration = Duration::from_secs(10);
/// A server that worked before gets this many failures before it is left alone.
const STRIKES: u32 = 3;

/// Progress below this many bytes does not earn a fresh set of retries.
pub(super) const PROGRESS_BYTES: u64 = 64 * 1024;
/// The most requests for one file at one source, whatever progress they make.
pub(super) const MAX_ATTEMPTS: usize = 256;
/// How often a waiting transfer looks whether it was cancelled.
pub(super) const CANCEL_POLL: Duration = Duration::from_millis(200);
/// How many bytes of the head are kept to recognise a web page.
pub(super) const HEAD_BYTES: usize = 512;
/// The largest fixed output when its size is not declared.
pub(super) const MAX_OUTPUT_BYTES: u64 = 64 << 30;
/// The most bytes that a compressed file may unpack to.
pub(super) const MAX_UNPACKED_BYTES: u64 = 128 << 30;
/// How many sources one request may name after mirrors are expanded.
pub(super) const MAX_SOURCES: usize = 64;

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: CONNECT,
            answer: ANSWER,
            stall: STALL,
            window: WINDOW,
            window_bytes: WINDOW_BYTES,
            redirects: REDIRECTS,
            retries: RETRIES,
            backoff: BACKOFF,
            max_backoff: MAX_BACKOFF,
            strikes: STRIKES,
        }
    }
}
