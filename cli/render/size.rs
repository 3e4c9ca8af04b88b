//! Sizes and durations for people.

use std::time::Duration;

/// `18.0 MiB`, `812 B`.
pub(crate) fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    #[allow(
        clippy::cast_precision_loss,
        reason = "shown with one digit behind the point"
    )]
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A size in bytes as a person writes it: `500M`, `1.5G`, `1024`; units are powers of 1024.
///
/// # Errors
/// For what is no size, and one that is too large.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    let (number, factor) = match text
        .trim_end_matches("iB")
        .trim_end_matches('B')
        .char_indices()
        .last()
    {
        Some((at, 'k' | 'K')) => (&text[..at], 1 << 10),
        Some((at, 'm' | 'M')) => (&text[..at], 1 << 20),
        Some((at, 'g' | 'G')) => (&text[..at], 1 << 30),
        Some((at, 't' | 'T')) => (&text[..at], 1 << 40),
        _ => (text.trim_end_matches('B'), 1_u64),
    };
    let no_size = || format!("`{text}` is no size; write a number of bytes, 500M or 1.5G");
    let number = number.trim();
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    // A part of a byte is none, and more digits than these are a slip.
    let has_part = number.contains('.');
    if whole.is_empty()
        || !digits(whole)
        || !digits(part)
        || part.len() > 9
        || (has_part && (part.is_empty() || factor == 1))
    {
        return Err(no_size());
    }
    let too_large = || format!("`{text}` is too large");
    let whole: u64 = whole.parse().map_err(|_e| too_large())?;
    let tenths: u128 = format!("0{part}").parse().map_err(|_e| no_size())?;
    let scale = (0..part.len()).fold(1_u128, |scale, _| scale * 10);
    let rest = u64::try_from(tenths * u128::from(factor) / scale).map_err(|_e| too_large())?;
    whole
        .checked_mul(factor)
        .and_then(|bytes| bytes.checked_add(rest))
        .ok_or_else(too_large)
}

/// `340ms`, `14.2s`, `2m 41s`, `1h 3m`: as messages of the engine have it.
pub(crate) fn duration(d: Duration) -> String {
    sos_engine::duration_text(d)
}

/// `11.2/18.0 MiB`: a part and the whole, in the unit of the whole.
pub(crate) fn of(part: u64, whole: u64) -> String {
    let shown = bytes(whole);
    let Some((_, unit)) = shown.split_once(' ') else {
        return shown;
    };
    let power = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
        .iter()
        .position(|u| *u == unit)
        .unwrap_or(0);
    if power == 0 {
        return format!("{part}/{shown}");
    }
    let unit = 1u64 << (10 * power);
    let tenths = u128::from(part) * 10 / u128::from(unit);
    format!("{}.{}/{shown}", tenths / 10, tenths % 10)
}

/// Like [`duration`], without what changes too fast to be read: `0s`, `14s`, `2m 41s`, `1h 3m`.
pub(crate) fn seconds(d: Duration) -> String {
    match d.as_secs() {
        secs @ 0..=59 => format!("{secs}s"),
        _ => duration(d),
    }
}

/// `1 package`, `3 packages`.
pub(crate) fn count(n: usize, noun: &str) -> String {
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {noun}s")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("0", 0),
            ("1024", 1024),
            ("12B", 12),
            ("10M", 10 << 20),
            ("1.5M", 3 << 19),
            ("0.25k", 256),
            ("2GiB", 2 << 30),
            (
                "16777215.999T",
                18_446_742_974_197_923_840 + 1_098_412_116_148,
            ),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "M",
            "1.5",
            "1.",
            ".5M",
            "-1M",
            "1,5M",
            "1.0000000001M",
            "16777216T",
            "x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_one_digit_behind_the_point() {
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(18 * 1024 * 1024), "18.0 MiB");
        assert_eq!(bytes(u64::MAX), "16384.0 PiB");
    }

    #[test]
    fn a_part_has_the_unit_of_the_whole() {
        assert_eq!(of(11_744_051, 18_874_368), "11.1/18.0 MiB");
        assert_eq!(of(3, 812), "3/812 B");
        assert_eq!(of(0, 1 << 50), "0.0/1.0 PiB");
    }

    #[test]
    fn durations_drop_what_does_not_matter() {
        assert_eq!(duration(Duration::from_millis(340)), "340ms");
        assert_eq!(duration(Duration::from_millis(14_230)), "14.2s");
        assert_eq!(duration(Duration::from_secs(161)), "2m 41s");
        assert_eq!(duration(Duration::from_secs(3_800)), "1h 3m");
        assert_eq!(seconds(Duration::from_millis(14_930)), "14s");
        assert_eq!(seconds(Duration::from_secs(161)), "2m 41s");
    }
}
