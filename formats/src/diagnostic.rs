//! Problems to show a person: plain data, made where they are known, rendered only by the command line.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use serde_json::{Value, json};

/// A piece of text that spans point into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceFile {
    /// The name as shown.
    pub name: String,
    /// The whole text.
    pub text: String,
}

impl SourceFile {
    /// Wraps a text so that labels can share it.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            text: text.into(),
        })
    }

    /// Returns line and column, both counted from 1, the column in characters; past the end counts as the end.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let mut offset = offset.min(self.text.len());
        while !self.text.is_char_boundary(offset) {
            offset -= 1;
        }
        let before = &self.text[..offset];
        let line_start = before.rfind('\n').map_or(0, |i| i + 1);
        let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
        (line, before[line_start..].chars().count() + 1)
    }
}

/// A place in a source, with words about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The source.
    pub file: Arc<SourceFile>,
    /// Byte offsets into its text.
    pub span: Range<usize>,
    /// What to say there; may be empty.
    pub text: String,
}

impl Label {
    /// Makes a label.
    pub fn new(file: &Arc<SourceFile>, span: Range<usize>, text: impl Into<String>) -> Self {
        Self {
            file: Arc::clone(file),
            span,
            text: text.into(),
        }
    }

    fn to_json(&self) -> Value {
        let (line, column) = self.file.line_column(self.span.start);
        let (end_line, end_column) = self.file.line_column(self.span.end);
        json!({
            "file": self.file.name,
            "start": self.span.start,
            "end": self.span.end,
            "line": line,
            "column": column,
            "endLine": end_line,
            "endColumn": end_column,
            "text": self.text,
        })
    }
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The command cannot do what was asked.
    Error,
    /// It can, but the result may surprise.
    Warning,
    /// For information.
    Note,
}

impl Severity {
    /// Returns the word that is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Whose problem it is; decides the exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Class {
    /// None of the others.
    Other = 1,
    /// The command line is wrong.
    Usage = 2,
    /// A recipe, lock file or expression is wrong.
    Recipe = 3,
    /// The machine lacks something.
    Machine = 4,
    /// Something could not be fetched.
    Fetch = 5,
    /// A defect of sos.
    Bug = 70,
    /// A build step failed.
    BuildFailed = 100,
    /// A build step took too long.
    TimedOut = 101,
    /// Content is not what its hash says.
    HashMismatch = 102,
    /// A rebuild gave other bytes.
    NotReproducible = 104,
    /// The user stopped it.
    Interrupted = 130,
}

impl Class {
    /// Returns the exit code of the process.
    pub fn exit_code(self) -> u8 {
        self as u8
    }
}

/// A change to sources that would help.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fix {
    /// What the change does.
    pub description: String,
    /// The text that goes in place of each byte range.
    pub edits: Vec<(Arc<SourceFile>, Range<usize>, String)>,
    /// Whether it may be applied without asking.
    pub safe: bool,
}

/// One step on the way to the problem: what was being done, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// What was being done.
    pub message: String,
    /// Where.
    pub label: Option<Label>,
    /// Whether these are words of the program for its reader, not ours about it.
    pub said: bool,
}

/// A problem, with everything known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// A stable name, kebab-case.
    pub code: &'static str,
    /// Whose problem it is.
    pub class: Class,
    /// How bad it is.
    pub severity: Severity,
    /// One line, lower case, no full stop.
    pub message: String,
    /// Places; the first is the main one.
    pub labels: Vec<Label>,
    /// What it is about, where the place is not known to those who find it: a name for a part of the recipe, and what to say
    /// there. Who knows the places makes labels of them.
    pub subjects: Vec<(String, String)>,
    /// Further facts.
    pub notes: Vec<String>,
    /// Advice.
    pub helps: Vec<String>,
    /// Changes that would help.
    pub fixes: Vec<Fix>,
    /// A misspelt name and the right one, when only one is near; the name stands at one of the labels.
    pub spelling: Option<(String, String)>,
    /// Contents that are not what a recipe says.
    pub hashes: Vec<WrongHash>,
    /// How it came to this, innermost first.
    pub trace: Vec<Frame>,
}

/// A content that is not what a recipe says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrongHash {
    /// The name of the derivation.
    pub name: String,
    /// The hash as the recipe gives it.
    pub expected: String,
    /// That of what was found, in the same notation.
    pub found: String,
}

impl Diagnostic {
    fn new(
        severity: Severity,
        code: &'static str,
        class: Class,
        message: impl Into<String>,
    ) -> Self {
        Self {
            code,
            class,
            severity,
            message: message.into(),
            labels: Vec::new(),
            subjects: Vec::new(),
            notes: Vec::new(),
            helps: Vec::new(),
            fixes: Vec::new(),
            spelling: None,
            hashes: Vec::new(),
            trace: Vec::new(),
        }
    }

    /// Starts an error.
    pub fn error(code: &'static str, class: Class, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, code, class, message)
    }

    /// Starts a warning.
    pub fn warning(code: &'static str, class: Class, message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, code, class, message)
    }

    /// Adds a place; the first one added is the main one.
    #[must_use]
    pub fn label(
        mut self,
        file: &Arc<SourceFile>,
        span: Range<usize>,
        text: impl Into<String>,
    ) -> Self {
        self.labels.push(Label::new(file, span, text));
        self
    }

    /// Adds places that are already labels.
    #[must_use]
    pub fn with_labels(mut self, labels: impl IntoIterator<Item = Label>) -> Self {
        self.labels.extend(labels);
        self
    }

    /// Says what it is about; see [`Diagnostic::subjects`].
    #[must_use]
    pub fn about(mut self, subject: impl Into<String>, text: impl Into<String>) -> Self {
        self.subjects.push((subject.into(), text.into()));
        self
    }

    /// Turns what it is about into labels, by the places of the subjects; of one without a place, that of what holds it
    /// (`users/0` for `users/0/groups/1`). What is said of a subject without any place becomes a note.
    #[must_use]
    pub fn placed(mut self, places: &BTreeMap<String, Label>) -> Self {
        for (subject, text) in std::mem::take(&mut self.subjects) {
            let mut holders = std::iter::successors(Some(subject.as_str()), |s| {
                s.rsplit_once('/').map(|(holder, _)| holder)
            });
            match holders.find_map(|s| places.get(s)) {
                Some(label) => self.labels.push(Label {
                    text,
                    ..label.clone()
                }),
                None if text.is_empty() => {}
                None => self.notes.push(text),
            }
        }
        self
    }

    /// Adds a fact.
    #[must_use]
    pub fn note(mut self, text: impl Into<String>) -> Self {
        self.notes.push(text.into());
        self
    }

    /// Adds advice.
    #[must_use]
    pub fn help(mut self, text: impl Into<String>) -> Self {
        self.helps.push(text.into());
        self
    }

    /// Adds a change that would help.
    #[must_use]
    pub fn fix(mut self, fix: Fix) -> Self {
        self.fixes.push(fix);
        self
    }

    /// Adds an outer step of the trace.
    #[must_use]
    pub fn frame(mut self, message: impl Into<String>, label: Option<Label>) -> Self {
        self.trace.push(Frame {
            message: message.into(),
            label,
            said: false,
        });
        self
    }

    /// Adds "did you mean" advice when a known name is near.
    #[must_use]
    pub fn suggest<'a>(self, wanted: &str, known: impl Iterator<Item = &'a str>) -> Self {
        let near = suggest(wanted, known);
        if near.is_empty() {
            return self;
        }
        let names: Vec<String> = near.iter().map(|n| format!("`{n}`")).collect();
        let mut found = self.help(format!("did you mean {}?", names.join(" or ")));
        if let [one] = near.as_slice() {
            found.spelling = Some((wanted.to_owned(), one.clone()));
        }
        found
    }

    /// Returns everything as JSON, places with file name, byte offsets, lines and columns.
    pub fn to_json(&self) -> Value {
        let labels: Vec<Value> = self.labels.iter().map(Label::to_json).collect();
        let frame = |f: &Frame| json!({"message": f.message, "label": f.label.as_ref().map(Label::to_json)});
        let trace: Vec<Value> = self.trace.iter().map(frame).collect();
        let edit = |(file, span, text): &(Arc<SourceFile>, Range<usize>, String)| json!({"file": file.name, "start": span.start, "end": span.end, "replacement": text});
        let fix = |f: &Fix| {
            let edits: Vec<Value> = f.edits.iter().map(edit).collect();
            json!({"description": f.description, "safe": f.safe, "edits": edits})
        };
        let fixes: Vec<Value> = self.fixes.iter().map(fix).collect();
        let mut all = json!({
            "code": self.code,
            "exitCode": self.class.exit_code(),
            "severity": self.severity.as_str(),
            "message": self.message,
            "labels": labels,
            "notes": self.notes,
            "helps": self.helps,
            "fixes": fixes,
            "trace": trace,
        });
        if !self.hashes.is_empty() {
            let hash =
                |h: &WrongHash| json!({"name": h.name, "expected": h.expected, "found": h.found});
            all["hashes"] = self.hashes.iter().map(hash).collect();
        }
        all
    }
}

/// Shows one line: `error[code]: message`, with the main place when there is one.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(label) = self.labels.first() {
            let (line, column) = label.file.line_column(label.span.start);
            write!(f, "{}:{line}:{column}: ", label.file.name)?;
        }
        let severity = self.severity.as_str();
        write!(f, "{severity}[{}]: {}", self.code, self.message)
    }
}

impl std::error::Error for Diagnostic {}

/// Returns at most 3 known names that are within a third of the wanted name's length, nearest first.
pub fn suggest<'a>(wanted: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let wanted: Vec<char> = wanted.chars().collect();
    // Nobody mistypes names this long, and the distance is quadratic. One letter is as near to any other.
    if !(2..=256).contains(&wanted.len()) {
        return Vec::new();
    }
    let limit = wanted.len().max(3) / 3;
    let mut near: Vec<(usize, &str)> = known
        .filter_map(|name| {
            let chars: Vec<char> = name.chars().take(wanted.len() + limit + 1).collect();
            if chars.len().abs_diff(wanted.len()) > limit {
                return None;
            }
            let distance = edit_distance(&wanted, &chars);
            (distance <= limit).then_some((distance, name))
        })
        .collect();
    near.sort_unstable();
    near.dedup();
    near.truncate(3);
    near.into_iter().map(|(_, name)| name.to_owned()).collect()
}

/// Counts insertions, deletions, replacements and swaps of neighbours; a letter's case counts nothing.
fn edit_distance(a: &[char], b: &[char]) -> usize {
    let same = |x: char, y: char| x.to_lowercase().eq(y.to_lowercase());
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut previous: Vec<usize> = (0..=b.len()).collect();
    let mut current = previous.clone();
    for (i, &x) in a.iter().enumerate() {
        current[0] = i + 1;
        for (j, &y) in b.iter().enumerate() {
            let replace = previous[j] + usize::from(!same(x, y));
            let mut best = replace.min(previous[j + 1] + 1).min(current[j] + 1);
            if i > 0 && j > 0 && same(x, b[j - 1]) && same(a[i - 1], y) {
                best = best.min(before[j - 1] + 1);
            }
            current[j + 1] = best;
        }
        std::mem::swap(&mut before, &mut previous);
        std::mem::swap(&mut previous, &mut current);
    }
    previous[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions() {
        let file = SourceFile::new("f.nix", "ab\né x\n");
        for (offset, expect) in [
            (0, (1, 1)),
            (2, (1, 3)),
            (3, (2, 1)),
            (4, (2, 1)),
            (5, (2, 2)),
            (8, (3, 1)),
            (99, (3, 1)),
        ] {
            assert_eq!(file.line_column(offset), expect, "{offset}");
        }
    }

    #[test]
    fn near_names() {
        let known = ["stdenv", "fetchurl", "fetchgit", "out", "name", "names"];
        let near = |wanted: &str| suggest(wanted, known.into_iter());
        assert_eq!(near("fetchrul"), ["fetchurl"]);
        assert_eq!(near("nmae"), ["name"]);
        assert_eq!(near("nam"), ["name"]);
        assert_eq!(near("STDENV"), ["stdenv"]);
        assert_eq!(near("zzzz"), Vec::<String>::new());
        assert_eq!(near(&"x".repeat(10_000)), Vec::<String>::new());
        assert_eq!(
            suggest("aa", ["ab", "ac", "ad", "ae", "ab"].into_iter()),
            ["ab", "ac", "ad"]
        );
        assert_eq!(near(""), Vec::<String>::new());
        assert_eq!(suggest("c", ["b"].into_iter()), Vec::<String>::new());
    }

    #[test]
    fn subjects_become_labels_where_their_places_are_known() {
        let file = SourceFile::new("a.toml", "x y\n");
        let place = |span| Label::new(&file, span, "");
        let places = BTreeMap::from([
            ("users/0".to_owned(), place(0..1)),
            ("timezone".to_owned(), place(2..3)),
        ]);
        let d = Diagnostic::error("a", Class::Recipe, "wrong")
            .about("users/0/groups/1", "no such group")
            .about("timezone", "")
            .about("services/enable/0", "no such unit")
            .placed(&places);
        let shown: Vec<_> = d
            .labels
            .iter()
            .map(|l| (l.span.start, l.text.as_str()))
            .collect();
        assert_eq!(shown, [(0, "no such group"), (2, "")]);
        assert_eq!(d.notes, ["no such unit"]);
        assert!(d.subjects.is_empty());
    }

    #[test]
    fn shown_and_as_json() {
        let file = SourceFile::new("a.nix", "x.y\n");
        let d = Diagnostic::error(
            "eval-attr-missing",
            Class::Recipe,
            "attribute `y` not found",
        )
        .label(&file, 2..3, "not there")
        .suggest("yes", ["yet"].into_iter())
        .frame("while evaluating `x`", None);
        assert_eq!(
            d.to_string(),
            "a.nix:1:3: error[eval-attr-missing]: attribute `y` not found"
        );
        let json = d.to_json();
        assert_eq!(json["exitCode"], 3);
        assert_eq!(json["labels"][0]["column"], 3);
        assert_eq!(json["helps"][0], "did you mean `yet`?");
        assert_eq!(json["trace"][0]["message"], "while evaluating `x`");
    }
}
