//! Causes of builds in words.

use sos_engine::{Cause, ChangedFile, Text, rfc3339, why};

use crate::render::size;

/// Hexadecimal digits of a digest that are shown.
const DIGEST_SHOWN: usize = 8;

/// Files of one source that are named besides the first.
const FILES_SHOWN: usize = 3;

/// `2026-11-26 02:47:24`, in UTC.
pub(crate) fn moment(unix_ms: u64) -> String {
    rfc3339(unix_ms)
        .replacen('T', " ", 1)
        .chars()
        .take(19)
        .collect()
}

/// A cause as the end of a sentence that begins with "because".
pub(crate) fn cause_text(cause: &Cause, at: Option<&Text>) -> String {
    let placed = |text: String| match at {
        Some(at) => format!("{text} ({})", from_here(at.as_str())),
        None => text,
    };
    match cause {
        Cause::NeverBuilt => "it had not been built before".to_owned(),
        Cause::BuilderChanged => placed("its builder changed".to_owned()),
        Cause::OutputMissing => "an output of it was missing".to_owned(),
        Cause::GcEd => "a garbage collection took it".to_owned(),
        Cause::EnvChanged { name, old, new } => placed(match (old, new) {
            (Some(old), Some(new)) => format!("`{name}` changed (was `{old}`, is `{new}`)"),
            _ => format!("`{name}` changed"),
        }),
        Cause::RecipeChanged { part } => placed(match part {
            Some(part) => format!("its recipe changed: `{part}`"),
            None => "its recipe changed".to_owned(),
        }),
        Cause::InputChanged {
            input, old: None, ..
        } => format!("input {input} came new"),
        Cause::InputChanged {
            input, new: None, ..
        } => format!("input {input} is none any more"),
        Cause::InputChanged {
            input,
            files,
            more_files,
            from,
            ..
        } => match files.split_first() {
            Some((first, rest)) => {
                let name = if first.file.is_empty() {
                    String::new()
                } else {
                    format!(": {}", first.file)
                };
                format!(
                    "input {input} changed{name}{}{}",
                    digests(first),
                    more(rest, *more_files)
                )
            }
            None if from.is_none() => {
                format!("input {input} changed (which of its files is not known any more)")
            }
            None => format!("input {input} changed"),
        },
        other => other.to_string(),
    }
}

/// A place as it is found from the current directory.
fn from_here(at: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let shown = std::path::Path::new(at).strip_prefix(here);
    shown.map_or_else(|_| at.to_owned(), |path| path.display().to_string())
}

/// ` (was 3f1a5c2e, is 9b22d01f)`.
fn digests(change: &ChangedFile) -> String {
    match (&change.was, &change.is) {
        (Some(was), Some(is)) => format!(" (was {}, is {})", short(was), short(is)),
        (None, Some(is)) => format!(" (new, {})", short(is)),
        (Some(was), None) => format!(" (removed, was {})", short(was)),
        (None, None) => String::new(),
    }
}

/// `blake3:3f1a5c2e99…` becomes `3f1a5c2e`; the words before a digest stay.
fn short(entry: &str) -> String {
    match entry.split_once("blake3:") {
        Some((kind, digest)) => {
            let digest: String = digest.chars().take(DIGEST_SHOWN).collect();
            format!("{kind}{digest}")
        }
        None => entry.to_owned(),
    }
}

fn more(rest: &[ChangedFile], unnamed: usize) -> String {
    let all = rest.len() + unnamed;
    if all == 0 {
        return String::new();
    }
    let names: Vec<&str> = rest
        .iter()
        .take(FILES_SHOWN)
        .map(|c| c.file.as_str())
        .collect();
    let dots = if all > names.len() { ", …" } else { "" };
    format!(
        " and {}: {}{dots}",
        size::count(all, "more file"),
        names.join(", ")
    )
}

/// A reason in lines: the first continues a sentence, the others stand below it.
pub(crate) fn reason_text(reason: &why::Reason, planned: bool) -> String {
    let mut text = String::new();
    for (at, link) in reason.way.iter().enumerate() {
        if at > 0 {
            text.push_str(&format!("\n  {} ", why::name_of(&link.drv)));
        }
        text.push_str(&format!(
            "because {}",
            cause_text(&link.cause, link.at.as_ref())
        ));
    }
    if let Some(build) = reason.first_seen
        && !planned
    {
        text.push_str(&format!(", first seen in build {}", build.0));
    }
    match reason.others {
        0 => {}
        1 => text.push_str("; 1 other follows from it"),
        n => text.push_str(&format!("; {n} others follow from it")),
    }
    if reason.stopped > 0 {
        text.push_str(&format!(
            "; {} stopped by identical outputs",
            reason.stopped
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(file: &str, was: Option<&str>, is: Option<&str>) -> ChangedFile {
        let entry = |digit: &str| format!("blake3:{}", digit.repeat(64));
        ChangedFile {
            file: file.to_owned(),
            was: was.map(entry),
            is: is.map(entry),
        }
    }

    #[track_caller]
    fn check(files: Vec<ChangedFile>, more_files: usize, expect: &str) {
        let cause = Cause::InputChanged {
            input: "src".to_owned(),
            file: None,
            files,
            more_files,
            old: Some("a".into()),
            new: Some("b".into()),
            from: None,
        };
        assert_eq!(cause_text(&cause, None), expect);
    }

    #[test]
    fn files_are_named_with_what_they_were_and_are() {
        check(
            vec![file("a/b.c", Some("3"), Some("9"))],
            0,
            "input src changed: a/b.c (was 33333333, is 99999999)",
        );
        check(
            vec![file("a", None, Some("9")), file("b", Some("1"), None)],
            0,
            "input src changed: a (new, 99999999) and 1 more file: b",
        );
        check(
            vec![file("", Some("3"), Some("9"))],
            0,
            "input src changed (was 33333333, is 99999999)",
        );
        let many = "abcde"
            .chars()
            .map(|c| file(&c.to_string(), None, Some("9")));
        check(
            many.collect(),
            7,
            "input src changed: a (new, 99999999) and 11 more files: b, c, d, …",
        );
        check(
            Vec::new(),
            0,
            "input src changed (which of its files is not known any more)",
        );
    }

    #[test]
    fn moments_are_for_people() {
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00");
    }
}
