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

/// A size as a person writes it: `500M`, `2G`, `1024`.
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
    let number: u64 = number
        .trim()
        .parse()
        .map_err(|_e| format!("`{text}` is no size; write 500M or 2G"))?;
    number
        .checked_mul(factor)
        .ok_or_else(|| format!("`{text}` is too large"))
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
