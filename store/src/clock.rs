//! The one place of the store that reads the clock. Times are only shown to people and compared with file
//! times (statcache); no hash, no path and no liveness depends on them.

use std::time::{SystemTime, UNIX_EPOCH};

/// The time now, in nanoseconds since 1970; 0 for a clock before that.
#[allow(
    clippy::disallowed_methods,
    reason = "times shown to people and the racy-file rule; see the module text"
)]
pub(crate) fn now_nanos() -> i128 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| {
            i128::try_from(since.as_nanos()).unwrap_or(i128::MAX)
        })
}

/// The time now, in seconds since 1970.
pub(crate) fn now_secs() -> i64 {
    i64::try_from(now_nanos() / 1_000_000_000).unwrap_or(0)
}
