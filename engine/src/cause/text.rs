//! What changed in a text of the recipe: one that it wrote into the store, or a script.

use std::fs::File;
use std::io::Read as _;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sos_formats::store_path::StorePath;
use sos_store::{Store, StoreError};

/// Bytes of a text that are read; a longer one is only said to differ.
const BYTES_MAX: u64 = 1 << 20;

/// Characters of a line that is told.
const LINE_CHARS_MAX: usize = 100;

/// Characters of a long line that are told before the first one that differs.
const BEFORE_CHARS: usize = 30;

/// What changed in a text of the recipe.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TextChange {
    /// The first line that differs, counted from 1; none when a text is not there any more, or is too long to be looked through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What it was, of a long line the part that differs; none also when the text was not as long.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
}

/// Tells what changed; none when the new one is no text of a recipe, as far as the store knows.
pub(super) fn change(
    store: &Store,
    old: &StorePath,
    new: &StorePath,
) -> Result<Option<TextChange>, StoreError> {
    let ca = store.query(new)?.and_then(|info| info.ca);
    if !ca.is_some_and(|ca| ca.starts_with("text:")) {
        return Ok(None);
    }
    let (Some(old), Some(new)) = (read(store, old), read(store, new)) else {
        return Ok(Some(TextChange::default()));
    };
    Ok(Some(between(&old, &new)))
}

/// Tells in which line two texts differ first.
pub(super) fn between(old: &str, new: &str) -> TextChange {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let longest = old.len().max(new.len());
    let line = (0..longest).find(|at| old.get(*at) != new.get(*at));
    let at = |lines: &[&str]| line.and_then(|at| lines.get(at).map(|text| text.replace('\t', " ")));
    let (was, is) = (at(&old), at(&new));
    let sides = was.as_deref().zip(is.as_deref());
    // How far a line is indented is told only where nothing else differs.
    let only_indented = sides.is_some_and(|(was, is)| was.trim() == is.trim());
    let from = sides.map_or(0, |(was, is)| {
        let (was, is) = (was.trim().chars(), is.trim().chars());
        was.zip(is).take_while(|(was, is)| was == is).count()
    });
    let shown = |text: &Option<String>| {
        let text = text.as_deref()?;
        let text = if only_indented { text } else { text.trim() };
        (!text.contains(char::is_control)).then(|| part(text, from))
    };
    TextChange {
        line: line.map(|at| at + 1),
        was: shown(&was),
        is: shown(&is),
    }
}

/// A line, or of a long one what is around the first character that differs.
fn part(line: &str, differs: usize) -> String {
    let length = line.chars().count();
    if length <= LINE_CHARS_MAX {
        return line.to_owned();
    }
    let from = differs.saturating_sub(BEFORE_CHARS);
    let shown: String = line.chars().skip(from).take(LINE_CHARS_MAX).collect();
    let dots = |cut: bool| if cut { "…" } else { "" };
    format!(
        "{}{shown}{}",
        dots(from > 0),
        dots(from + LINE_CHARS_MAX < length)
    )
}

/// The content, if it is there, is not long and is text.
fn read(store: &Store, path: &StorePath) -> Option<String> {
    if !store.is_present(path).ok()? {
        return None;
    }
    let file = File::open(store.physical(path)).ok()?;
    let mut text = String::new();
    let read = file.take(BYTES_MAX + 1).read_to_string(&mut text).ok()?;
    (read as u64 <= BYTES_MAX).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(old: &str, new: &str, line: Option<usize>, was: Option<&str>, is: Option<&str>) {
        let text = |side: Option<&str>| side.map(str::to_owned);
        let expect = TextChange {
            line,
            was: text(was),
            is: text(is),
        };
        assert_eq!(between(old, new), expect);
    }

    #[test]
    fn the_first_line_that_differs_is_told() {
        check("a\n  b\nc", "a\n  d\nc", Some(2), Some("b"), Some("d"));
        check("a\n", "a\n\tb c\n", Some(2), None, Some("b c"));
        check("a\nb", "a", Some(2), Some("b"), None);
        check("  a", "   a", Some(1), Some("  a"), Some("   a"));
        check("a", "\u{1b}[31m", Some(1), Some("a"), None);
    }

    #[test]
    fn of_a_long_line_that_is_told_which_differs() {
        let long = |middle: &str| format!("{}{middle}{}", "x".repeat(200), "y".repeat(200));
        let part = |middle: &str| {
            let rest = LINE_CHARS_MAX - BEFORE_CHARS - middle.len();
            format!("…{}{middle}{}…", "x".repeat(BEFORE_CHARS), "y".repeat(rest))
        };
        let (old, new) = (long("1 2"), long("3 2"));
        check(&old, &new, Some(1), Some(&part("1 2")), Some(&part("3 2")));
    }
}
