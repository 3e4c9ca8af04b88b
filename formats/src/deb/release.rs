//! The fields of a `Release` file: what a suite is, and the digests of its indexes.

use crate::calendar::{Moment, days_since_1970};
use std::collections::BTreeMap;

use super::control::{ControlError, Paragraph, Paragraphs};

/// Why a `Release` file is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReleaseError {
    /// The text is no control text.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// There is not exactly one paragraph.
    #[error("expected one paragraph, found {found}")]
    Paragraphs {
        /// How many there are.
        found: usize,
    },
    /// A field that must be there is not.
    #[error("field `{name}` is missing")]
    Missing {
        /// The field.
        name: &'static str,
    },
    /// A date that cannot be read.
    #[error("line {line}: `{text}` is no date such as `Sat, 11 Jul 2026 10:16:37 UTC`")]
    Date {
        /// The line of the field.
        line: usize,
        /// The value.
        text: String,
    },
    /// A line of the digest list that cannot be read.
    #[error("`{text}` is no line of digest, size and path")]
    Digest {
        /// The line.
        text: String,
    },
}

/// Size and digest of one file of a suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The size in bytes.
    pub size_bytes: u64,
    /// The SHA-256 digest.
    pub sha256: [u8; 32],
}

/// What a `Release` or `InRelease` file says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    /// Who publishes it.
    pub origin: String,
    /// Its label.
    pub label: String,
    /// The role of the suite, such as `stable`.
    pub suite: String,
    /// The name of the release, such as `bookworm`.
    pub codename: String,
    /// The version of the release.
    pub version: String,
    /// When it was made, in seconds since 1970.
    pub date_secs: Option<i64>,
    /// Until when it may be used, in seconds since 1970.
    pub valid_until_secs: Option<i64>,
    /// Whether its packages are taken only when asked for, as for `experimental`.
    pub not_automatic: bool,
    /// Whether packages taken from it are kept up to date from it, as for `backports`.
    pub but_automatic_upgrades: bool,
    /// Whether indexes can be fetched by digest, free of races.
    pub acquire_by_hash: bool,
    /// Whether packages for all architectures are listed with each architecture.
    pub all_in_each_arch: bool,
    /// The architectures.
    pub architectures: Vec<String>,
    /// The components as index paths name them, a prefix such as `updates/` removed.
    pub components: Vec<String>,
    /// The files of the suite by path.
    pub files: BTreeMap<String, IndexEntry>,
}

impl Release {
    /// Parses verified text.
    pub fn parse(text: &str) -> Result<Self, ReleaseError> {
        let mut paragraphs = Paragraphs::new(text).collect::<Result<Vec<_>, _>>()?;
        if paragraphs.len() != 1 {
            return Err(ReleaseError::Paragraphs {
                found: paragraphs.len(),
            });
        }
        let fields = paragraphs.remove(0);
        let text = |name| fields.get(name).unwrap_or_default().to_owned();
        let words = |name| {
            fields
                .get(name)
                .unwrap_or_default()
                .split_ascii_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let yes = |name| {
            fields
                .get(name)
                .is_some_and(|v| v.eq_ignore_ascii_case("yes"))
        };
        let mut files = BTreeMap::new();
        let digests = fields
            .field("SHA256")
            .ok_or(ReleaseError::Missing { name: "SHA256" })?;
        for line in digests.lines() {
            let (path, entry) =
                parse_digest(line).ok_or_else(|| ReleaseError::Digest { text: line.into() })?;
            files.insert(path.to_owned(), entry);
        }
        let component = |name: String| {
            name.rsplit_once('/')
                .map_or(name.clone(), |(_, last)| last.to_owned())
        };
        Ok(Self {
            origin: text("Origin"),
            label: text("Label"),
            suite: text("Suite"),
            codename: text("Codename"),
            version: text("Version"),
            date_secs: date_field(&fields, "Date")?,
            valid_until_secs: date_field(&fields, "Valid-Until")?,
            not_automatic: yes("NotAutomatic"),
            but_automatic_upgrades: yes("ButAutomaticUpgrades"),
            acquire_by_hash: yes("Acquire-By-Hash"),
            all_in_each_arch: words("No-Support-for-Architecture-all")
                .iter()
                .any(|w| w == "Packages"),
            architectures: words("Architectures"),
            components: words("Components").into_iter().map(component).collect(),
            files,
        })
    }

    /// Says whether the suite may be asked for by this name: its role or its code name.
    pub fn is_named(&self, name: &str) -> bool {
        let name = name.trim_end_matches('/');
        // Security suites were once named `stable/updates` on disk and `stable` inside.
        let short = name.strip_suffix("/updates").unwrap_or(name);
        [&self.suite, &self.codename]
            .into_iter()
            .any(|own| !own.is_empty() && (own == name || own == short))
    }
}

fn parse_digest(line: &str) -> Option<(&str, IndexEntry)> {
    let mut words = line.split_ascii_whitespace();
    let (hex, size, path) = (words.next()?, words.next()?, words.next()?);
    if words.next().is_some() || path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return None;
    }
    Some((
        path,
        IndexEntry {
            size_bytes: size.parse().ok()?,
            sha256: parse_sha256(hex)?,
        },
    ))
}

/// Reads a SHA-256 digest in hexadecimal.
pub fn parse_sha256(hex: &str) -> Option<[u8; 32]> {
    if hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        let nibble = |c: u8| {
            char::from(c)
                .to_digit(16)
                .and_then(|d| u8::try_from(d).ok())
        };
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(digest)
}

fn date_field(fields: &Paragraph<'_>, name: &str) -> Result<Option<i64>, ReleaseError> {
    let Some(field) = fields.field(name) else {
        return Ok(None);
    };
    let secs = parse_date(field.value).ok_or_else(|| ReleaseError::Date {
        line: field.line,
        text: field.value.into(),
    })?;
    Ok(Some(secs))
}

/// Reads a date as mail writes it, in seconds since 1970; only UTC is accepted, as archives use no other.
pub fn parse_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let mut words = text.split_ascii_whitespace().peekable();
    if words.peek()?.ends_with(',') {
        words.next();
    }
    let day: i64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = i64::try_from(MONTHS.iter().position(|m| m.eq_ignore_ascii_case(name))?).ok()? + 1;
    let year: i64 = words.next()?.parse().ok()?;
    let clock = words
        .next()?
        .split(':')
        .map(|part| part.parse::<i64>().ok())
        .collect::<Option<Vec<_>>>()?;
    let zone_is_utc = matches!(words.next()?, "UTC" | "GMT" | "Z" | "+0000" | "-0000");
    let [hour, minute, second] = clock[..] else {
        return None;
    };
    let in_range = (1..=31).contains(&day)
        && (1970..=9999).contains(&year)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second);
    if !in_range || !zone_is_utc || words.next().is_some() {
        return None;
    }
    Some(((days_since_1970(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Writes seconds since 1970 as `2026-07-11T10:16:37Z`.
pub fn format_date(secs: i64) -> String {
    Moment::of(secs).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECURITY: &str = "Origin: Debian\nSuite: oldstable-security\nCodename: bookworm-security\nDate: Tue, 17 Nov 2026 22:33:39 UTC\nValid-Until: Tue, 24 Nov 2026 22:33:39 UTC\nAcquire-By-Hash: yes\nNo-Support-for-Architecture-all: Packages\nArchitectures: all amd64\nComponents: updates/main updates/contrib\nSHA256:\n 0b0c0b0c0b0c0b0c0b0c0b0c0b0c0b0c0b0c0b0c0b0c0b0c0b0c0b0c0b0c0b0c     1234 main/binary-amd64/Packages.xz\n";

    #[test]
    fn a_security_suite() {
        let release = Release::parse(SECURITY).expect("valid");
        assert!(
            release.is_named("bookworm-security")
                && release.is_named("oldstable-security")
                && !release.is_named("bookworm")
        );
        assert_eq!(release.components, ["main", "contrib"]);
        assert!(release.acquire_by_hash && release.all_in_each_arch);
        assert_eq!(
            release.files["main/binary-amd64/Packages.xz"].size_bytes,
            1234
        );
        assert_eq!(
            release.valid_until_secs.expect("given") - release.date_secs.expect("given"),
            7 * 86_400
        );
        assert_eq!(
            format_date(release.date_secs.expect("given")),
            "2026-11-17T22:33:39Z"
        );
    }

    #[test]
    fn what_is_refused() {
        assert_eq!(
            Release::parse(""),
            Err(ReleaseError::Paragraphs { found: 0 })
        );
        assert_eq!(
            Release::parse("Suite: x\n"),
            Err(ReleaseError::Missing { name: "SHA256" })
        );
        assert!(matches!(
            Release::parse(&SECURITY.replace("main/b", "../b")),
            Err(ReleaseError::Digest { .. })
        ));
        assert!(matches!(
            Release::parse(&SECURITY.replace("22:33:39", "25:33:39")),
            Err(ReleaseError::Date { line: 4, .. })
        ));
    }

    #[test]
    fn dates() {
        for (text, secs) in [
            ("Thu, 01 Jan 1970 00:00:00 UTC", 0),
            ("Sat, 11 Jul 2026 10:16:37 UTC", 1_783_764_997),
            ("29 Feb 2000 23:59:59 GMT", 951_868_799),
        ] {
            assert_eq!(parse_date(text), Some(secs), "{text}");
        }
        assert_eq!(format_date(951_868_799), "2000-02-29T23:59:59Z");
        assert_eq!(parse_date("Sat, 11 Jul 2026 10:16:37 +0200"), None);
        assert_eq!(parse_date("yesterday"), None);
    }
}
