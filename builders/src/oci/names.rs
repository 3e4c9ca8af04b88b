//! Tags and times as images write them.

use sos_formats::calendar::Moment;

/// Tells whether a tag fits the grammar of `org.opencontainers.image.ref.name`.
pub fn is_ref_name(tag: &str) -> bool {
    // component ::= alphanumeric (separator alphanumeric)*, separators `-._:@/+` or `--`.
    let mut rest = tag.as_bytes();
    loop {
        let word = rest
            .iter()
            .take_while(|byte| byte.is_ascii_alphanumeric())
            .count();
        if word == 0 {
            return false;
        }
        rest = &rest[word..];
        rest = match rest {
            [] => return true,
            [b'-', b'-', after @ ..]
            | [b'-' | b'.' | b'_' | b':' | b'@' | b'/' | b'+', after @ ..] => after,
            _ => return false,
        };
    }
}

/// The last second of the year 9999: RFC 3339 has four digits for the year.
pub(super) const MAX_EPOCH: i64 = 253_402_300_799;

/// Writes seconds since 1970 as RFC 3339 in UTC.
pub(crate) fn rfc3339(secs: i64) -> String {
    let secs = secs.clamp(0, MAX_EPOCH);
    Moment::of(secs).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ref_names() {
        for good in [
            "latest",
            "v1.2.3",
            "a--b",
            "host.example:5000/name/x@1+2_3",
            "1",
        ] {
            assert!(is_ref_name(good), "{good}");
        }
        for bad in ["", "-a", "a-", "a..b", "a---b", "a b", "é", "a/"] {
            assert!(!is_ref_name(bad), "{bad}");
        }
    }

    #[test]
    fn times() {
        // From `date -u -d @N +%FT%TZ`.
        for (secs, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_783_764_997, "2026-07-11T10:16:37Z"),
            (4_107_542_399, "2100-02-28T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
            (253_402_300_799, "9999-12-31T23:59:59Z"),
        ] {
            assert_eq!(rfc3339(secs), text);
        }
    }
}
