//! The texts that were loaded, and places in them.

use std::collections::BTreeMap;
use std::sync::Arc;

use sos_formats::diagnostic::{Class, Diagnostic, Frame, Label, SourceFile};

use super::Vm;
use super::files::VIRTUAL;
use crate::error::{Error, Kind};
use crate::heap::Value;
use crate::ir::Pos;
use crate::parse::Place;

/// One text.
pub(crate) struct Source {
    base: u32,
    pub(crate) file: Arc<SourceFile>,
    /// The path, when it came from a file.
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) foreign: bool,
}

/// All texts, in the order of their positions.
#[derive(Default)]
pub(crate) struct Sources {
    all: Vec<Source>,
}

impl Sources {
    /// Registers a text; `None` when 4 GiB of text are loaded.
    pub(crate) fn add(
        &mut self,
        file: Arc<SourceFile>,
        path: Option<Vec<u8>>,
        foreign: bool,
    ) -> Option<u32> {
        let base = self.all.last().map_or(Some(1), |s| {
            s.base
                .checked_add(u32::try_from(s.file.text.len()).ok()?)?
                .checked_add(1)
        })?;
        base.checked_add(u32::try_from(file.text.len()).ok()?)?;
        self.all.push(Source {
            base,
            file,
            path,
            foreign,
        });
        Some(base)
    }

    /// The text and the offset in it.
    pub(crate) fn find(&self, p: Pos) -> Option<(&Source, usize)> {
        if p == Pos::NONE {
            return None;
        }
        let i = self.all.partition_point(|s| s.base <= p.0).checked_sub(1)?;
        let s = &self.all[i];
        Some((s, (p.0 - s.base) as usize))
    }

    /// The position of an offset in a text, which is registered when it is new.
    fn pos_in(&mut self, file: &Arc<SourceFile>, offset: usize) -> Option<Pos> {
        let known = self.all.iter().rev().find(|s| s.file == *file);
        let base = match known.map(|s| s.base) {
            Some(base) => base,
            None => self.add(Arc::clone(file), None, true)?,
        };
        let offset = offset.min(file.text.len());
        Some(Pos(base.checked_add(u32::try_from(offset).ok()?)?))
    }

    /// Line and byte column, from 1.
    pub(crate) fn line_column(&self, p: Pos) -> Option<(&Source, usize, usize)> {
        let (s, offset) = self.find(p)?;
        let before = &s.file.text.as_bytes()[..offset.min(s.file.text.len())];
        let start = memchr::memrchr(b'\n', before).map_or(0, |i| i + 1);
        let line = memchr::memchr_iter(b'\n', before).count() + 1;
        Some((s, line, before.len() - start + 1))
    }
}

impl Vm {
    /// A label for a place; `end` may be none.
    pub(crate) fn label(&self, pos: Pos, end: Pos, text: &str) -> Option<Label> {
        let sources = self.sources.borrow();
        let (s, start) = sources.find(pos)?;
        let start = start.min(s.file.text.len());
        let stop = if end > pos {
            start + (end.0 - pos.0) as usize
        } else {
            start + token_len(&s.file.text[start..])
        };
        Some(Label::new(
            &s.file,
            start..stop.min(s.file.text.len()),
            text,
        ))
    }

    /// The position of a label from outside.
    pub(crate) fn pos_of(&self, label: &Label) -> Option<Pos> {
        let mut sources = self.sources.borrow_mut();
        sources.pos_in(&label.file, label.span.start)
    }

    /// Whether a place is in the file with this path.
    pub(crate) fn is_in(&self, pos: Pos, path: &[u8]) -> bool {
        let sources = self.sources.borrow();
        let found = sources.find(pos);
        found.is_some_and(|(s, _)| s.path.as_deref() == Some(path))
    }

    /// Whether a place is in a library that comes with the program.
    pub(crate) fn is_library(&self, pos: Pos) -> bool {
        let sources = self.sources.borrow();
        let found = sources.find(pos);
        found.is_some_and(|(s, _)| is_library_file(&s.file))
    }

    /// Whether two places are in one text.
    pub(crate) fn is_same_file(&self, a: Pos, b: Pos) -> bool {
        let sources = self.sources.borrow();
        let base = |pos| sources.find(pos).map(|(source, _)| source.base);
        base(a) == base(b)
    }

    /// Whether there is a place, and the user wrote it.
    pub(crate) fn is_outside(&self, pos: Pos) -> bool {
        pos != Pos::NONE && !self.is_library(pos)
    }

    /// A label for a place that the user wrote, not a library that comes with the program.
    pub(crate) fn label_outside(&self, pos: Pos) -> Option<Label> {
        if self.is_library(pos) {
            return None;
        }
        self.label(pos, Pos::NONE, "")
    }

    /// Collects where the attributes of an evaluated value were written.
    pub(crate) fn places(
        &self,
        v: Value,
        at: &mut Vec<String>,
        out: &mut BTreeMap<Vec<String>, Label>,
    ) {
        let v = v.peel();
        if let Some(list) = v.as_list() {
            for (i, x) in list.iter().enumerate() {
                at.push(i.to_string());
                self.places(*x, at, out);
                at.pop();
            }
        }
        // What a set with an output says of itself is no part of the data.
        let set = v.as_attrs().filter(|s| s.get(self.s.out_path).is_none());
        for (name, x, pos) in set.iter().flat_map(|s| s.entries()) {
            at.push(name.text().into_owned());
            out.extend(self.label_outside(pos).map(|l| (at.clone(), l)));
            self.places(x, at, out);
            at.pop();
        }
    }

    /// Places an error at the operand that it is about, instead of the operator or call.
    fn place_operand(&self, e: &mut Error) {
        let Some((at, index, count)) = e.operand.filter(|operand| operand.0 == e.pos) else {
            return;
        };
        if let Some((start, end, _)) = self.find_place(at, &Place::argument(index, count)) {
            (e.pos, e.end) = (start, end);
        }
    }

    /// Where a part of the operator or call at `at` begins and ends, and whether that is all that was asked for. The end is that of
    /// the first line.
    pub(super) fn find_place(&self, at: Pos, place: &Place) -> Option<(Pos, Pos, bool)> {
        let (file, base, foreign, offset) = {
            let sources = self.sources.borrow();
            let (source, offset) = sources.find(at)?;
            (source.file.clone(), source.base, source.foreign, offset)
        };
        let mut work = self.workspace.take().unwrap_or_default();
        let dialect = self.options.dialect;
        // What is to be said of the text was said when it was parsed at first.
        let tree = crate::parse::parse(&file.text, foreign, dialect, &|_, _| (), &mut work);
        let found = tree
            .ok()
            .and_then(|tree| crate::parse::part(&tree, u32::try_from(offset).ok()?, place));
        work.clear();
        self.workspace.set(Some(work));
        let (part, exact) = found?;
        let text = file.text.get(part.start as usize..part.end as usize)?;
        // Of many lines the first says enough.
        let len = text.find('\n').unwrap_or(text.len());
        let start = Pos(base.checked_add(part.start)?);
        let end = Pos(start.0.checked_add(u32::try_from(len).ok()?)?);
        Some((start, end, exact))
    }

    /// The path of something in the directory of the file that a place is in.
    pub(crate) fn path_beside(&self, pos: Pos, below: &str) -> Option<String> {
        let sources = self.sources.borrow();
        let (source, _) = sources.find(pos)?;
        let dir = [source.path.as_deref()?, b"/../", below.as_bytes()].concat();
        Some(String::from_utf8_lossy(&super::canon_path(&dir)).into_owned())
    }

    /// The name, or what is selected from one, that begins at a place.
    pub(super) fn name_at(&self, pos: Pos) -> Option<String> {
        let sources = self.sources.borrow();
        let (source, offset) = sources.find(pos)?;
        let text = source.file.text.get(offset..)?;
        let inside = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '\'' | '.');
        let end = text.find(|c| !inside(c)).unwrap_or(text.len());
        let name = text[..end].trim_end_matches('.');
        name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            .then(|| name.to_owned())
    }

    /// What is written between two places of one text.
    pub(super) fn text_between(&self, start: Pos, end: Pos) -> Option<String> {
        let sources = self.sources.borrow();
        let (source, offset) = sources.find(start)?;
        let len = end.0.checked_sub(start.0)? as usize;
        let text = source.file.text.get(offset..offset.checked_add(len)?)?;
        Some(text.to_owned())
    }

    /// The diagnostic for an error.
    #[allow(clippy::boxed_local, reason = "errors travel boxed")]
    pub(crate) fn diagnostic(&self, e: Box<Error>) -> Box<Diagnostic> {
        let mut e = *e;
        self.explain_cycle(&mut e);
        self.explain_depth(&mut e);
        self.place_operand(&mut e);
        let part = self.place_part(&mut e);
        let is_ready = e.ready.is_some();
        let mut d = match e.ready {
            Some(d) => *d,
            None => Diagnostic::error(e.kind.code(), Class::Recipe, e.message),
        };
        // A library says where it was called before anything else can be said of the place.
        let in_library = d.labels.iter().all(|l| is_library_file(&l.file));
        if in_library {
            // Without a place of its own, or with one in a library, an error is shown at the innermost place that the user
            // wrote.
            let places = || std::iter::once(e.pos).chain(e.trace.iter().map(|t| t.1));
            let outside = places().find(|p| self.is_outside(*p));
            let known = || places().find(|p| *p != Pos::NONE);
            let pos = outside.or_else(known).unwrap_or_default();
            // The words are about the error's own place.
            let (end, text) = match (pos == e.pos, e.kind) {
                (false, _) => (Pos::NONE, ""),
                (true, Kind::Throw) if e.label.is_empty() => (e.end, "thrown here"),
                (true, _) => (e.end, e.label.as_str()),
            };
            let label = self.label(pos, end, text);
            if outside.is_none() && is_ready && d.labels.iter().all(|l| is_library_file(&l.file)) {
                // What a builtin of the library has to say is complete, and where the library calls it is no help to anybody.
                d.labels.clear();
                e.trace.clear();
            } else if outside.is_some() || d.labels.is_empty() {
                d.labels.clear();
                d.labels.extend(label);
            }
            for (pos, text) in e.others.iter().filter(|o| self.is_outside(o.0)) {
                let Some(other) = self.label(*pos, Pos::NONE, text) else {
                    continue;
                };
                // One place is shown once, with the words that there are for it.
                match d
                    .labels
                    .iter_mut()
                    .find(|l| l.span == other.span && l.file.name == other.file.name)
                {
                    Some(shown) if shown.text.is_empty() => shown.text = other.text,
                    Some(_) => {}
                    None => d.labels.push(other),
                }
            }
            d.labels.extend(part.filter(|l| !is_library_file(&l.file)));
        }
        d.notes.extend(e.notes);
        d.helps.extend(e.helps);
        d.spelling = d.spelling.or(e.spelling);
        for (i, (message, pos)) in e.trace.into_iter().enumerate() {
            let label = self.label(pos, Pos::NONE, "");
            let said = e.said.contains(&i);
            d.trace.push(Frame {
                message,
                label,
                said,
            });
        }
        Box::new(d)
    }
}

/// Whether a text belongs to a library that comes with the program.
fn is_library_file(file: &SourceFile) -> bool {
    file.name.as_bytes().starts_with(VIRTUAL)
}

/// Length of the token that begins a text.
fn token_len(text: &str) -> usize {
    let ident = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '\'');
    let Some(first) = text.chars().next() else {
        return 0;
    };
    // A quoted name of an attribute.
    if let Some(quoted) = text.strip_prefix('"')
        && let Some(end) = quoted
            .find(['"', '\n'])
            .filter(|end| quoted[*end..].starts_with('"'))
    {
        return end + 2;
    }
    if ident(first) {
        // What matters of `builtins.x` is the name.
        let skip = if text.starts_with("builtins.") { 9 } else { 0 };
        let rest = &text[skip..];
        return skip + rest.find(|c| !ident(c)).unwrap_or(rest.len());
    }
    for op in [
        "...", "++", "//", "==", "!=", "<=", ">=", "&&", "||", "->", "''",
    ] {
        if text.starts_with(op) {
            return op.len();
        }
    }
    first.len_utf8()
}
