//! Time as a parameter: durations are shown to people and never reach an output.

use sos_formats::calendar::Moment;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Tells the time; tests put a fake here.
pub trait Clock: Send + Sync {
    /// Returns the time since some fixed moment of this process.
    fn monotonic(&self) -> Duration;
    /// Returns milliseconds since 1970, for the journal and for people.
    fn unix_ms(&self) -> u64;
}

/// The clock of the machine.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    /// Starts a clock.
    #[must_use]
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock; durations are for people"
    )]
    pub fn new() -> Self {
        Self {
            start: Instant::now(),
        }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }

    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place that reads the clock; the journal needs a date"
    )]
    fn unix_ms(&self) -> u64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, millis)
    }
}

/// Returns whole milliseconds, capped at what 64 bits hold.
#[must_use]
pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Formats milliseconds since 1970 as `2026-08-22T10:01:02.345Z`.
#[must_use]
pub fn rfc3339(unix_ms: u64) -> String {
    let secs = i64::try_from(unix_ms / 1000).unwrap_or(i64::MAX);
    let whole = Moment::of(secs).to_string();
    format!("{}.{:03}Z", whole.trim_end_matches('Z'), unix_ms % 1000)
}

#[cfg(test)]
mod tests {
    use super::rfc3339;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(951_782_400_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(rfc3339(1_786_356_062_345), "2026-08-10T10:01:02.345Z");
        assert_eq!(rfc3339(4_102_444_799_999), "2099-12-31T23:59:59.999Z");
    }
}
