//! Differences between trees, for people and for programs.

use std::fmt::Write as _;
use std::io::Read as _;

use serde_json::{Value, json};
use similar::TextDiff;
use sos_store::Store;
use sos_store::compare::{Change, Difference, Item, ItemKind, Snapshot};

use super::size;
use super::text::{file_name, printable};
use crate::failure::Failure;

/// Files up to this size are compared line by line.
const TEXT_BYTES_MAX: u64 = 4 << 20;
/// Bytes shown before and after the first that differs.
const WINDOW_BYTES: u64 = 64;
/// Bytes in a line of a dump.
const DUMP_BYTES: usize = 16;

/// A path as it is shown; the root is a dot.
pub(crate) fn path(path: &[u8]) -> String {
    if path.is_empty() {
        return ".".to_owned();
    }
    file_name(path)
}

/// How a change is said in a line.
pub(crate) fn change(change: &Change) -> String {
    change.told(&file_name)
}

/// One line: the path and everything that changed.
pub(crate) fn line(difference: &Difference) -> String {
    difference.told(&file_name)
}

/// How many there are of each kind: `3 content, 1 mode`.
pub(crate) fn counts(differences: &[Difference]) -> String {
    let mut words: Vec<(&str, usize)> = Vec::new();
    for change in differences.iter().flat_map(|d| &d.changes) {
        match words.iter_mut().find(|(word, _)| *word == change.word()) {
            Some((_, count)) => *count += 1,
            None => words.push((change.word(), 1)),
        }
    }
    let words: Vec<String> = words
        .iter()
        .map(|(word, count)| format!("{count} {word}"))
        .collect();
    words.join(", ")
}

/// A difference for programs.
pub(crate) fn to_json(difference: &Difference) -> Value {
    let changes: Vec<Value> = difference.changes.iter().map(change_json).collect();
    json!({ "path": String::from_utf8_lossy(&difference.path), "changes": changes })
}

fn change_json(change: &Change) -> Value {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let mut value = json!({ "kind": change.word() });
    let (old, new) = match change {
        Change::Added | Change::Removed | Change::Links => return value,
        Change::Kind(old, new) => (json!(old), json!(new)),
        Change::Content { offset, old, new } => {
            value["offset"] = json!(offset);
            (json!(old), json!(new))
        }
        Change::Target(old, new) => (json!(text(old)), json!(text(new))),
        Change::Mode(old, new) => (json!(format!("{old:04o}")), json!(format!("{new:04o}"))),
        Change::Owner(old, new) | Change::Device(old, new) => (json!(old), json!(new)),
        Change::Time(old, new) => (json!(old), json!(new)),
        Change::Xattrs(names) => {
            value["names"] = names.iter().map(|n| text(n)).collect();
            return value;
        }
    };
    value["old"] = old;
    value["new"] = new;
    value
}

/// What differs in the contents of one path: lines of text, or bytes around the first that differs. Empty when neither side
/// has a file there, or no content differs. `lines` is the most that is shown.
///
/// # Errors
/// When a file cannot be read.
pub(crate) fn contents(
    store: &Store,
    (old, old_name): (&Snapshot, &str),
    (new, new_name): (&Snapshot, &str),
    difference: &Difference,
    lines: usize,
) -> Result<String, Failure> {
    let offset = difference.changes.iter().find_map(|change| match change {
        Change::Content { offset, .. } => Some(*offset),
        _ => None,
    });
    let file = |side: &Snapshot| {
        let item = side.entries.get(&difference.path).cloned();
        item.filter(|item| matches!(item.kind, ItemKind::File { .. }))
    };
    let (Some(offset), Some(old), Some(new)) = (offset, file(old), file(new)) else {
        return Ok(String::new());
    };
    let names = [old_name, new_name].map(|name| {
        if difference.path.is_empty() {
            return name.to_owned();
        }
        format!("{name}/{}", path(&difference.path))
    });
    if let (Some(old), Some(new)) = (as_text(store, &old)?, as_text(store, &new)?) {
        return Ok(unified(&old, &new, &names, lines));
    }
    let mut text = format!("--- {}\n+++ {}\n", names[0], names[1]);
    let from = (offset / DUMP_BYTES as u64 * DUMP_BYTES as u64)
        .saturating_sub(WINDOW_BYTES / 2 / DUMP_BYTES as u64 * DUMP_BYTES as u64);
    let (old, new) = (window(store, &old, from)?, window(store, &new, from)?);
    let rows = old.len().max(new.len()).div_ceil(DUMP_BYTES);
    let row = |bytes: &[u8], at: usize| -> Option<Vec<u8>> {
        let row = bytes.chunks(DUMP_BYTES).nth(at)?;
        Some(row.to_vec())
    };
    for at in 0..rows {
        let address = from + (at * DUMP_BYTES) as u64;
        let (old, new) = (row(&old, at), row(&new, at));
        if old == new {
            text.push_str(&dump(' ', address, &old.unwrap_or_default()));
            continue;
        }
        for (mark, side) in [('-', old), ('+', new)] {
            if let Some(side) = side {
                text.push_str(&dump(mark, address, &side));
            }
        }
    }
    Ok(text)
}

/// The text of a file that is short enough and has no bytes that are none.
fn as_text(store: &Store, item: &Item) -> Result<Option<String>, Failure> {
    let ItemKind::File { size, .. } = item.kind else {
        return Ok(None);
    };
    if size > TEXT_BYTES_MAX {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    if let Some(mut file) = item.open(store)? {
        let read = file.read_to_end(&mut bytes);
        read.map_err(|e| Failure::io("cannot read a file to compare", &e))?;
    }
    if bytes.contains(&0) {
        return Ok(None);
    }
    Ok(String::from_utf8(bytes).ok())
}

fn unified(old: &str, new: &str, names: &[String; 2], lines: usize) -> String {
    // The search for the shortest difference is given up after this time; what it has by then is right, only longer.
    const SEARCH: std::time::Duration = std::time::Duration::from_secs(2);
    let diff = TextDiff::configure().timeout(SEARCH).diff_lines(old, new);
    let text = diff
        .unified_diff()
        .context_radius(2)
        .header(&names[0], &names[1])
        .to_string();
    let mut shown: Vec<String> = text.lines().take(lines + 2).map(printable).collect();
    let all = text.lines().count();
    if all > shown.len() {
        shown.push(format!("... {} more lines", all - shown.len()));
    }
    shown.push(String::new());
    shown.join("\n")
}

fn window(store: &Store, item: &Item, from: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let failed = |e: std::io::Error| Failure::io("cannot read a file to compare", &e);
    if let Some(mut file) = item.open(store)? {
        std::io::copy(&mut file.by_ref().take(from), &mut std::io::sink()).map_err(failed)?;
        file.take(WINDOW_BYTES)
            .read_to_end(&mut bytes)
            .map_err(failed)?;
    }
    Ok(bytes)
}

fn dump(mark: char, address: u64, bytes: &[u8]) -> String {
    let mut line = format!("{mark}{address:08x} ");
    for at in 0..DUMP_BYTES {
        // Writing to a string cannot fail.
        let _infallible = match bytes.get(at) {
            Some(byte) => write!(line, " {byte:02x}"),
            None => write!(line, "   "),
        };
    }
    line.push_str("  ");
    line.extend(bytes.iter().map(|b| match b {
        b' '..=b'~' => char::from(*b),
        _ => '.',
    }));
    line.push('\n');
    line
}

/// A size and how it changed: `1.2 MiB -> 1.3 MiB`.
pub(crate) fn sizes(old: u64, new: u64) -> String {
    if old == new {
        return size::bytes(old);
    }
    format!("{} -> {}", size::bytes(old), size::bytes(new))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_every_change() {
        let difference = Difference {
            path: b"bin/x\x1b[31m".to_vec(),
            changes: vec![
                Change::Content {
                    offset: 7,
                    old: 9,
                    new: 12,
                },
                Change::Mode(0o644, 0o755),
            ],
        };
        assert_eq!(
            line(&difference),
            "bin/x\\x1b[31m: content differs from byte 7 on, 9 -> 12 bytes; mode 0644 -> 0755, now executable"
        );
        assert_eq!(counts(&[difference]), "1 content, 1 mode");
    }

    #[test]
    fn long_differences_are_cut() {
        let old: String = (0..100).map(|n| format!("{n}\n")).collect();
        let new = old.replace('\n', "x\n");
        let names = ["a".to_owned(), "b".to_owned()];
        let text = unified(&old, &new, &names, 10);
        assert!(text.starts_with("--- a\n+++ b\n"), "{text}");
        assert!(text.ends_with("more lines\n"), "{text}");
        assert_eq!(text.lines().count(), 13);
    }

    #[test]
    fn bytes_are_dumped_as_others_do() {
        assert_eq!(
            dump('+', 16, b"ab\0"),
            format!("+00000010  61 62 00{}  ab.\n", "   ".repeat(13))
        );
    }
}
