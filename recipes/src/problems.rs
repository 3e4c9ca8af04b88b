//! Collecting every problem of a recipe, so that one run shows them all.

use std::sync::Arc;

use sos_formats::diagnostic::{Class, Diagnostic, Label, SourceFile, suggest};

use crate::tree::{Place, Places};

/// The most problems that are shown of one recipe.
pub(crate) const MAX_PROBLEMS: usize = 50;

/// The problems found so far, and where to point.
#[derive(Debug)]
pub(crate) struct Problems {
    file: Option<Arc<SourceFile>>,
    /// Shown for values without a place: the call in the Nix expression.
    call: Option<Label>,
    found: Vec<Diagnostic>,
    total: usize,
}

impl Problems {
    /// Starts with none, for a recipe file.
    pub(crate) fn in_file(file: &Arc<SourceFile>) -> Self {
        Self {
            file: Some(Arc::clone(file)),
            call: None,
            found: Vec::new(),
            total: 0,
        }
    }

    /// Starts with none, for a recipe written as a Nix attribute set.
    pub(crate) fn in_call(call: Option<Label>, places: &Places<'_>) -> Self {
        Self {
            file: places.file.clone(),
            call,
            found: Vec::new(),
            total: 0,
        }
    }

    /// Starts with none, for the same recipe.
    pub(crate) fn same_places(&self) -> Self {
        Self {
            file: self.file.clone(),
            call: self.call.clone(),
            found: Vec::new(),
            total: 0,
        }
    }

    /// Makes a label at a place.
    pub(crate) fn label(&self, place: &Place, text: impl Into<String>) -> Option<Label> {
        match (&self.file, place) {
            (Some(file), Some(span)) => Some(Label {
                file: Arc::clone(file),
                span: span.clone(),
                text: text.into(),
            }),
            _ => self.call.clone().map(|l| Label {
                text: text.into(),
                ..l
            }),
        }
    }

    /// Returns what stands at a place of a recipe file.
    pub(crate) fn written(&self, place: &Place) -> Option<&str> {
        self.file.as_ref()?.text.get(place.clone()?)
    }

    /// Returns the number or word around a place of a recipe file.
    pub(crate) fn word_at(&self, place: &Place) -> Option<&str> {
        let text = self.file.as_ref()?.text.as_str();
        let at = place.as_ref()?.start;
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let before = text.get(..at)?.trim_end_matches(part).len();
        let after = text.get(at..)?;
        let end = at + (after.len() - after.trim_start_matches(part).len());
        text.get(before..end)
    }

    /// Starts an error of the recipe that points at a place.
    pub(crate) fn error(
        &self,
        code: &'static str,
        message: impl Into<String>,
        place: &Place,
        text: impl Into<String>,
    ) -> Diagnostic {
        Diagnostic::error(code, Class::Recipe, message).with_labels(self.label(place, text))
    }

    /// Records a problem.
    pub(crate) fn add(&mut self, problem: Diagnostic) {
        self.total += 1;
        if self.found.len() < MAX_PROBLEMS {
            self.found.push(problem);
        }
    }

    /// Records a value that cannot stand where it stands.
    pub(crate) fn bad_value(
        &mut self,
        message: impl Into<String>,
        place: &Place,
        expected: impl Into<String>,
    ) {
        let problem = self.error("recipe-bad-value", message, place, expected);
        self.add(problem);
    }

    /// Records the same thing given twice, naming both places.
    pub(crate) fn duplicate(&mut self, message: String, again: &Place, first: &Place) {
        let problem = self
            .error("recipe-duplicate", message, again, "given again")
            .with_labels(self.label(first, "first given here"));
        self.add(problem);
    }

    /// Returns how many problems there are.
    pub(crate) fn count(&self) -> usize {
        self.total
    }

    /// Returns the problems from top to bottom; the last one says how many are not shown.
    pub(crate) fn finish(mut self) -> Vec<Diagnostic> {
        self.found
            .sort_by_key(|d| d.labels.first().map(|l| l.span.start));
        let hidden = self.total - self.found.len();
        if hidden > 0
            && let Some(last) = self.found.pop()
        {
            let more = if hidden == 1 {
                "1 more problem is not shown".to_owned()
            } else {
                format!("{hidden} more problems are not shown")
            };
            self.found.push(last.note(more));
        }
        self.found
    }
}

/// Adds the help line for a misspelt word: the words that are near, or else all of them.
pub(crate) fn with_suggestion<'a>(
    problem: Diagnostic,
    found: &str,
    known: impl Iterator<Item = &'a str> + Clone,
) -> Diagnostic {
    if suggest(found, known.clone()).is_empty() {
        return problem.help(format!("known here: {}", list(known)));
    }
    problem.suggest(found, known)
}

/// Joins words for a message: `a`, `b`, `c`.
pub(crate) fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words
        .map(|s| format!("`{s}`"))
        .collect::<Vec<_>>()
        .join(", ")
}

/// The error of a recipe that is no text, with the place of the first byte that is none.
pub(crate) fn not_utf8(name: &str, error: &std::string::FromUtf8Error) -> Box<Diagnostic> {
    let at = error.utf8_error().valid_up_to();
    let byte = error.as_bytes().get(at).copied().unwrap_or_default();
    let text = String::from_utf8_lossy(error.as_bytes());
    let file = SourceFile::new(name, text);
    let message = format!("`{name}` is not UTF-8: byte 0x{byte:02x}");
    Box::new(
        Diagnostic::error("recipe-not-utf8", Class::Recipe, message)
            .label(&file, at..at + 3, "here")
            .help(format!(
                "`iconv -f LATIN1 -t UTF-8 {name}` prints it anew, if it is Latin-1"
            )),
    )
}
