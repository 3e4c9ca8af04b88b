//! The date of what is made of an image and takes it from there.

use std::io::{BufReader, Read as _};

use serde::Deserialize;
use sos_engine::BuilderError;
use sos_formats::calendar::days_since_1970;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::tar::Reader;

use super::archive;
use super::names::MAX_EPOCH;
use super::read::{MAX_ENTRIES, MAX_UNPACKED_BYTES, Meaning, decoded, why};
use super::source::{Layout, ManifestDocument};
use super::unpack::manifest_of;
use crate::build::Build;

const SECONDS_OF_DAY: i64 = 86_400;

/// An image whose date is taken, when a recipe gives none.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(crate) struct DateAttrs {
    epoch_of: Option<String>,
    epoch_arch: Option<String>,
    epoch_tag: Option<String>,
}

impl DateAttrs {
    #[cfg(test)]
    pub(super) fn of(image: &str) -> Self {
        Self {
            epoch_of: Some(image.to_owned()),
            epoch_arch: Some("amd64".to_owned()),
            epoch_tag: None,
        }
    }

    /// Gives `epoch`, or where an image is named the second in which that was created. An image that does not say when has the time of
    /// its newest file: nothing in it is younger than that.
    ///
    /// # Errors
    /// When the image cannot be read, or its date is none, or not within 1970 and 9999.
    pub(crate) fn or(&self, build: &dyn Build, epoch: i64) -> Result<i64, BuilderError> {
        let Some(image) = &self.epoch_of else {
            return Ok(epoch);
        };
        let opened = archive::open(build.store(), &build.tree(image)?, image)?;
        let layout = &opened.layout;
        let manifest = manifest_of(
            layout,
            self.epoch_tag.as_deref(),
            self.epoch_arch.as_deref(),
        )?;
        let config = layout.json(&manifest.config)?;
        let created = config["created"].as_str().unwrap_or_default();
        // Go writes the year 1 for a time that nobody has set.
        if created.is_empty() || created.starts_with("0001-01-01T00:00:00") {
            return newest(build, layout, &manifest);
        }
        let found = seconds(created).filter(|secs| (0..=MAX_EPOCH).contains(secs));
        found.ok_or_else(|| {
            let message = format!(
                "the image below `{}` does not say when it was made: `created` is `{}`",
                build.name(),
                created.chars().take(40).collect::<String>().escape_debug()
            );
            Diagnostic::error("oci-no-date", Class::Recipe, message)
                .help("write `epoch = ...;` in `sos.oci`, in seconds since 1970: files are not newer than that")
                .into()
        })
    }
}

/// The time of the newest file in the layers of an image, not before 1970 and not after 9999.
fn newest(
    build: &dyn Build,
    layout: &Layout,
    manifest: &ManifestDocument,
) -> Result<i64, BuilderError> {
    let (mut newest, mut entries) = (0, 0);
    layout.has_files(manifest)?;
    for layer in &manifest.layers {
        let blob = layout.checked(layer)?;
        let bad = |why: String| layout.bad(&format!("its layer {}: {why}", layer.digest));
        let archive = decoded(&blob).map_err(|e| bad(e.to_string()))?;
        let mut reader = Reader::new(BufReader::with_capacity(
            1 << 20,
            archive.take(MAX_UNPACKED_BYTES),
        ))
        .without_globals();
        while let Some(entry) = reader.next_entry().map_err(|e| bad(why(&e)))? {
            if build.cancelled() {
                return Err(BuilderError::Cancelled);
            }
            entries += 1;
            if entries > MAX_ENTRIES {
                return Err(bad("it has too many entries".to_owned()).into());
            }
            if Meaning::of(&entry.path).map_err(bad)? == Meaning::Itself {
                newest = newest.max(entry.mtime_secs);
            }
        }
    }
    Ok(newest.min(MAX_EPOCH))
}

/// Reads RFC 3339, without the part of a second; none for anything else.
fn seconds(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', 't'])?;
    let number = |text: &str, digits: usize| -> Option<i64> {
        let is_one = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|_| is_one)
    };
    let mut parts = date.split('-');
    let year = number(parts.next()?, 4)?;
    let month = number(parts.next()?, 2).filter(|month| (1..=12).contains(month))?;
    let day = number(parts.next()?, 2).filter(|day| (1..=31).contains(day))?;
    let clock = time.get(..8)?;
    let mut words = clock.split(':');
    let mut next = |most: i64| number(words.next()?, 2).filter(|value| *value <= most);
    let (hour, minute, second) = (next(23)?, next(59)?, next(60)?);
    let mut zone = time.get(8..)?;
    if let Some(fraction) = zone.strip_prefix('.') {
        zone = fraction.trim_start_matches(|c: char| c.is_ascii_digit());
    }
    let offset = match zone.as_bytes() {
        [b'Z' | b'z'] => 0,
        [sign @ (b'+' | b'-'), _, _, b':', _, _] => {
            let far = 3600 * number(zone.get(1..3)?, 2)? + 60 * number(zone.get(4..6)?, 2)?;
            if *sign == b'-' { -far } else { far }
        }
        _ => return None,
    };
    let days = days_since_1970(year, month, day);
    let within = hour * 3600 + minute * 60 + second;
    (parts.next().is_none() && words.next().is_none())
        .then_some(days * SECONDS_OF_DAY + within - offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_images() {
        // From `date -u -d TEXT +%s`.
        for (text, secs) in [
            ("1970-01-01T00:00:01Z", Some(1)),
            ("2026-07-01T00:00:00Z", Some(1_782_864_000)),
            ("2026-07-01T00:00:00.123456789Z", Some(1_782_864_000)),
            ("2026-07-01T02:00:00+02:00", Some(1_782_864_000)),
            ("2026-06-30T19:30:00.5-04:30", Some(1_782_864_000)),
            ("2026-07-01", None),
            ("2026-07-01T00:00:00", None),
            ("2026-13-01T00:00:00Z", None),
            ("2026-07-01T24:00:00Z", None),
            ("+026-07-01T00:00:00Z", None),
            ("2026-07-01T00:00:0éZ", None),
            ("", None),
        ] {
            assert_eq!(seconds(text), secs, "{text}");
        }
        assert!(seconds("0001-01-01T00:00:00Z").is_some_and(|secs| secs < 0));
    }
}
