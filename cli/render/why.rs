//! Causes of builds in words.

use std::collections::BTreeSet;

use sos_engine::{Cause, ChangedFile, Only, Text, TextChange, rfc3339, why};
use sos_formats::store_path::StorePath;

use crate::render::size;
use crate::render::text::{file_name, printable};

/// Hexadecimal digits of a digest that are shown.
const DIGEST_SHOWN: usize = 8;

/// Files of one source that are named besides the first.
const FILES_SHOWN: usize = 3;

/// Lines of one way that are shown; of a longer one those in the middle are left out.
const LINES_SHOWN: usize = 8;

/// `2026-11-26 02:47:24`, in UTC.
pub(crate) fn moment(unix_ms: u64) -> String {
    rfc3339(unix_ms)
        .replacen('T', " ", 1)
        .chars()
        .take(19)
        .collect()
}

/// A cause as the end of a sentence that begins with "because", with the files that may be behind a change of the recipe. It is one
/// line of printable text, whatever files are called and variables hold.
pub(crate) fn cause_text(cause: &Cause, at: Option<&Text>, read: &[String]) -> String {
    printable(&words(cause, at, read))
}

fn words(cause: &Cause, at: Option<&Text>, read: &[String]) -> String {
    let text = without_files(cause, at);
    if read.is_empty() || !cause.is_of_recipe() {
        return text;
    }
    let shown: Vec<String> = read
        .iter()
        .take(FILES_SHOWN)
        .map(|file| format!("`{}`", from_here(file)))
        .collect();
    let more = match read.len() - shown.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let shown = shown.join(", ");
    format!("{text}; of the files that it reads, {shown}{more} had changed")
}

fn without_files(cause: &Cause, at: Option<&Text>) -> String {
    let placed = |text: String| match at {
        Some(at) => format!("{text} ({})", from_here(at.as_str())),
        None => text,
    };
    let value = |text: &Option<String>, word: &str| match text {
        Some(text) => format!(" ({word} `{text}`)"),
        None => String::new(),
    };
    match cause {
        Cause::NeverBuilt => "it had not been built before".to_owned(),
        Cause::FailedBefore { build, earlier } => {
            let what = if *earlier {
                "an earlier form of it"
            } else {
                "it"
            };
            format!("it had not been built before; {what} failed in build {build}")
        }
        Cause::BuilderChanged {
            old: Some(old),
            new: Some(new),
        } => placed(format!("its builder changed (was `{old}`, is `{new}`)")),
        Cause::BuilderChanged { .. } => placed("its builder changed".to_owned()),
        Cause::OutputMissing => "an output of it was missing".to_owned(),
        Cause::GcEd => "a garbage collection took it".to_owned(),
        Cause::MirrorMiss { urls } => format!("no mirror had it ({})", urls.join(", ")),
        Cause::Forced => "it was asked to be built again (`--rebuild`)".to_owned(),
        Cause::EnvChanged {
            name,
            old,
            new,
            only,
            text,
        } => placed(match (only, old, new) {
            (Some(Only::Now), ..) => format!("variable {name} came new{}", value(new, "is")),
            (Some(Only::Before), ..) => format!("variable {name} was removed{}", value(old, "was")),
            (None, Some(old), Some(new)) => {
                format!("`{name}` changed (was `{old}`, is `{new}`)")
            }
            _ => {
                let text = text
                    .as_ref()
                    .map_or_else(String::new, |t| text_change(t, &[]));
                format!("`{name}` changed{text}")
            }
        }),
        Cause::RecipeChanged { part, text } => placed(match part {
            Some(part) => {
                let text = text
                    .as_ref()
                    .map_or_else(String::new, |t| text_change(t, &[]));
                format!("its recipe changed: `{part}`{text}")
            }
            None => "its recipe changed".to_owned(),
        }),
        Cause::InputChanged {
            input, old: None, ..
        } => placed(format!("input {input} came new")),
        Cause::InputChanged {
            input, new: None, ..
        } => placed(format!("input {input} is none any more")),
        Cause::InputChanged {
            input,
            files,
            text: Some(text),
            ..
        } => placed(format!("text {input} changed{}", text_change(text, files))),
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
                    format!(": {}", file_name(first.file.as_bytes()))
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
            None => match cause.name_before() {
                Some(was) => placed(format!("input {was} became {input}")),
                None => format!("input {input} changed"),
            },
        },
        other => other.to_string(),
    }
}

/// `: line 2 (was `a = 1`, is `a = 2`)`; the digests where the line is not known.
fn text_change(text: &TextChange, files: &[ChangedFile]) -> String {
    let Some(line) = text.line else {
        return files.first().map_or_else(String::new, digests);
    };
    let values = match (&text.was, &text.is) {
        (Some(was), Some(is)) => format!(" (was `{was}`, is `{is}`)"),
        (None, Some(is)) => format!(" (is `{is}`)"),
        (Some(was), None) => format!(" (was `{was}`)"),
        (None, None) => String::new(),
    };
    format!(": line {line}{values}")
}

/// A place as it is found from the current directory.
fn from_here(at: &str) -> String {
    let here = std::env::current_dir().unwrap_or_default();
    let shown = std::path::Path::new(at).strip_prefix(here);
    let shown = shown.map_or_else(|_| at.to_owned(), |path| path.display().to_string());
    file_name(shown.as_bytes())
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
    let names: Vec<String> = rest
        .iter()
        .take(FILES_SHOWN)
        .map(|c| file_name(c.file.as_bytes()))
        .collect();
    let dots = if all > names.len() { ", …" } else { "" };
    format!(
        " and {}: {}{dots}",
        size::count(all, "more file"),
        names.join(", ")
    )
}

/// Reasons in lines: the first continues a sentence, the others stand below it. What leads on from a derivation to another is
/// told once, and what was changed in one derivation stands together.
pub(crate) fn reasons_text(reasons: &[why::Reason], planned: bool, whole: bool) -> String {
    let mut text = String::new();
    let mut shown: BTreeSet<(&StorePath, &StorePath)> = BTreeSet::new();
    let mut rest = reasons;
    while let Some(reason) = rest.first() {
        let root = reason.root().map(|link| &link.drv);
        let here = rest
            .iter()
            .take_while(|other| other.root().map(|link| &link.drv) == root)
            .count();
        let (same, after) = rest.split_at(here);
        let is_first = rest.len() == reasons.len();
        rest = after;
        let mut lines = Vec::new();
        for pair in reason.way.windows(2) {
            if let [link, next] = pair
                && shown.insert((&link.drv, &next.drv))
            {
                lines.push(line(link));
            }
        }
        lines.push(changes(same, planned));
        if lines.len() > LINES_SHOWN && !whole {
            let left_out = lines.len() + 1 - LINES_SHOWN;
            let from = LINES_SHOWN / 2;
            lines.splice(from..from + left_out, [format!("… {left_out} more …")]);
        }
        // The name of the first one is in the sentence.
        let name = reason
            .way
            .first()
            .map_or("", |link| why::name_of(&link.drv));
        let lines = lines.join("\n  ");
        let lines = lines.strip_prefix(&format!("{name} ")).unwrap_or(&lines);
        let and = if is_first { "" } else { "\n  and " };
        text.push_str(&format!("{and}{lines}"));
    }
    text
}

fn line(link: &why::Link) -> String {
    let cause = cause_text(&link.cause, link.at.as_ref(), &link.read);
    format!("{} because {cause}", why::name_of(&link.drv))
}

/// What was changed in one derivation, and what each change led to.
fn changes(reasons: &[why::Reason], planned: bool) -> String {
    let mut text = String::new();
    let all: Vec<(&why::Link, String)> = reasons
        .iter()
        .filter_map(|reason| Some((reason.root()?, consequence(reason, planned))))
        .collect();
    for (at, (link, consequence)) in all.iter().enumerate() {
        if at == 0 {
            text.push_str(&line(link));
        } else {
            let cause = cause_text(&link.cause, link.at.as_ref(), &link.read);
            text.push_str(&format!("\n    and {cause}"));
        }
        // What is the same for the next one is told there.
        if all.get(at + 1).is_none_or(|(_, next)| next != consequence) {
            text.push_str(consequence);
        }
    }
    text
}

fn consequence(reason: &why::Reason, planned: bool) -> String {
    let mut text = String::new();
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
    match reason.untried {
        0 => {}
        1 => text.push_str("; 1 other was not tried"),
        n => text.push_str(&format!("; {n} others were not tried")),
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
            text: None,
            old: Some("a".into()),
            new: Some("b".into()),
            from: None,
        };
        assert_eq!(cause_text(&cause, None, &[]), expect);
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
        // Names do not drive the terminal.
        check(
            vec![
                file("a\u{1b}[31m\n", None, Some("9")),
                file("b\r\u{9b}2J", None, Some("9")),
            ],
            0,
            "input src changed: a\\x1b[31m\\n (new, 99999999) and 1 more file: b\\r\\u{9b}2J",
        );
    }

    fn reason(way: &[(&str, Cause)]) -> why::Reason {
        let link = |(name, cause): &(&str, Cause)| why::Link {
            drv: StorePath::from_base(&format!("{}-{name}.drv", "1".repeat(32))).expect("a path"),
            cause: cause.clone(),
            at: None,
            read: Vec::new(),
        };
        why::Reason {
            way: way.iter().map(link).collect(),
            first_seen: None,
            others: 0,
            stopped: 0,
            untried: 0,
        }
    }

    fn input(name: &str) -> Cause {
        Cause::InputChanged {
            input: name.to_owned(),
            file: None,
            files: Vec::new(),
            more_files: 0,
            text: None,
            old: Some("a".into()),
            new: Some("b".into()),
            from: Some("c".into()),
        }
    }

    fn variable(name: &str, only: Option<Only>) -> Cause {
        Cause::EnvChanged {
            name: name.to_owned(),
            old: None,
            new: None,
            only,
            text: None,
        }
    }

    #[test]
    fn what_ways_share_is_told_once() {
        let (a, b) = (("a", input("b")), ("b", input("c")));
        let reasons = [
            reason(&[a.clone(), ("b", variable("V", Some(Only::Now)))]),
            reason(&[a.clone(), b.clone(), ("c", variable("W", None))]),
            reason(&[a, b, ("c", variable("X", Some(Only::Before)))]),
        ];
        assert_eq!(
            reasons_text(&reasons, false, false),
            "because input b changed\n  b because variable V came new\n  and b because input c changed\n  c because `W` changed\n    and variable X was removed"
        );
    }

    #[test]
    fn the_middle_of_a_long_way_is_left_out() {
        let names: Vec<String> = (0..12).map(|n| format!("n{n}")).collect();
        let mut way: Vec<(&str, Cause)> = names
            .windows(2)
            .map(|pair| (pair[0].as_str(), input(&pair[1])))
            .collect();
        way.push(("n11", variable("V", None)));
        let text = reasons_text(&[reason(&way)], false, false);
        assert_eq!(text.lines().count(), LINES_SHOWN);
        assert!(
            text.contains("\n  n3 because input n4 changed\n  … 5 more …\n  n9 because"),
            "{text}"
        );
        let text = reasons_text(&[reason(&way)], false, true);
        assert_eq!(text.lines().count(), 12);
    }

    #[test]
    fn moments_are_for_people() {
        assert_eq!(moment(951_782_400_000), "2000-02-29 00:00:00");
    }
}
