//! What `stat` says about a file outside the store, as the key of its content.

use std::os::unix::fs::MetadataExt;

/// The time to compare file times with, in nanoseconds since 1970.
#[must_use]
pub fn now_nanos() -> i128 {
    crate::clock::now_nanos()
}

/// Identifies a state of a file: any write changes one of these, unless it comes within the resolution of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatKey {
    /// The file system.
    pub dev: i64,
    /// The inode.
    pub ino: i64,
    /// Bytes.
    pub size: i64,
    /// When the content changed, in nanoseconds since 1970.
    pub mtime_ns: i64,
    /// When the inode changed, in nanoseconds since 1970: a time that nobody can set.
    pub ctime_ns: i64,
}

/// A file that changed this short a time before it was looked at may change again without a trace (git's rule).
const RACY_NANOS: i128 = 2_000_000_000;

impl StatKey {
    /// Takes what identifies the state of a file.
    #[must_use]
    pub fn of(meta: &std::fs::Metadata) -> Self {
        let nanos =
            |secs: i64, nanos: i64| secs.saturating_mul(1_000_000_000).saturating_add(nanos);
        Self {
            // The database holds signed numbers; the bits are what counts.
            dev: meta.dev().cast_signed(),
            ino: meta.ino().cast_signed(),
            size: meta.size().cast_signed(),
            mtime_ns: nanos(meta.mtime(), meta.mtime_nsec()),
            ctime_ns: nanos(meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// Whether the content may still change without the key showing it; `now` is the time before the file was
    /// looked at. Times in the future count as racy, so a clock that was set back makes nothing wrong.
    #[must_use]
    pub fn is_racy(&self, now_nanos: i128) -> bool {
        let newest = i128::from(self.mtime_ns.max(self.ctime_ns));
        newest > now_nanos - RACY_NANOS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn young_and_future_files_are_racy() {
        let key = |mtime_ns, ctime_ns| StatKey {
            dev: 1,
            ino: 1,
            size: 1,
            mtime_ns,
            ctime_ns,
        };
        let now = 10_000_000_000;
        assert!(!key(7_000_000_000, 7_000_000_000).is_racy(now));
        assert!(key(1, 9_000_000_000).is_racy(now));
        assert!(key(11_000_000_000, 1).is_racy(now));
    }
}
