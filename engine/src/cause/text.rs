//! What changed in a text that the recipe wrote into the store.

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

/// What changed in a text of the recipe.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize, JsonSchema)]
pub struct TextChange {
    /// The first line that differs, counted from 1; none when a text is not there any more, or is too long to be looked through.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// What it was, if it is short; none also when the text was not as long.
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
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let longest = old.len().max(new.len());
    let line = (0..longest).find(|at| old.get(*at) != new.get(*at));
    let shown = |lines: &[&str]| {
        let text = *lines.get(line?)?;
        let fits = text.chars().count() <= LINE_CHARS_MAX && !text.contains(char::is_control);
        fits.then(|| text.to_owned())
    };
    Ok(Some(TextChange {
        line: line.map(|at| at + 1),
        was: shown(&old),
        is: shown(&new),
    }))
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
