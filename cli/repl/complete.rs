//! What the tabulator key offers: commands, names, builtins, attributes, files.

use std::cell::RefCell;
use std::rc::Rc;

use rustyline::completion::Completer;
use rustyline::highlight::Highlighter;
use rustyline::hint::Hinter;
use rustyline::validate::{ValidationContext, ValidationResult, Validator};
use rustyline::{Context, Result};

use super::input::is_open;
use super::names::Names;
use crate::evaluate::Interactive;

/// What can be offered at once.
const MAX_OFFERS: usize = 500;

/// Words of the language.
const WORDS: &[&str] = &[
    "assert", "builtins", "else", "false", "if", "import", "in", "inherit", "let", "null", "or",
    "rec", "then", "true", "with",
];

/// Helps while a line is written.
pub(super) struct Helper<'a> {
    world: &'a Interactive,
    names: Rc<RefCell<Names>>,
}

impl<'a> Helper<'a> {
    pub(super) fn new(world: &'a Interactive, names: Rc<RefCell<Names>>) -> Self {
        Self { world, names }
    }

    /// What may stand at the end of `line`, and where that begins.
    fn offers(&self, line: &str) -> (usize, Vec<String>) {
        if let Some(file) = line.strip_prefix(":l ") {
            let start = line.len() - file.rsplit('/').next().unwrap_or(file).len();
            return (start, self.files(file));
        }
        let inside = |c: char| c.is_alphanumeric() || "_-'.".contains(c);
        let start = line
            .char_indices()
            .rev()
            .find(|(_, c)| !inside(*c))
            .map_or(0, |(i, c)| i + c.len_utf8());
        let word = &line[start..];
        let Some((set, begun)) = word.rsplit_once('.') else {
            return (start, self.words(word));
        };
        (line.len() - begun.len(), self.attributes(set, begun))
    }

    fn words(&self, begun: &str) -> Vec<String> {
        let mut all = self.names.borrow().starting(begun);
        all.extend(WORDS.iter().map(|w| (*w).to_owned()));
        // Those that need no `builtins.` before them; the others are found there.
        for name in [
            "abort",
            "baseNameOf",
            "derivation",
            "dirOf",
            "fetchTarball",
            "isNull",
            "map",
            "placeholder",
            "removeAttrs",
            "throw",
            "toString",
        ] {
            all.push(name.to_owned());
        }
        sorted(all, begun)
    }

    /// The names in a set. It is evaluated, and nothing is said if that fails.
    fn attributes(&self, set: &str, begun: &str) -> Vec<String> {
        let value = self.names.borrow().eval(self.world, set);
        let names = value.and_then(|v| self.world.evaluator.attr_names(v));
        sorted(names.unwrap_or_default(), begun)
    }

    fn files(&self, begun: &str) -> Vec<String> {
        let (dir, begun) = begun.rsplit_once('/').map_or((".", begun), |(dir, name)| {
            (if dir.is_empty() { "/" } else { dir }, name)
        });
        let dir = self.world.here.join(dir);
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.filter_map(|e| {
            let name = e.file_name().into_string().ok()?;
            let slash = if e.path().is_dir() { "/" } else { "" };
            Some(name + slash)
        });
        sorted(names.collect(), begun)
    }
}

fn sorted(mut all: Vec<String>, begun: &str) -> Vec<String> {
    all.retain(|name| name.starts_with(begun));
    all.sort();
    all.dedup();
    all.truncate(MAX_OFFERS);
    all
}

impl Completer for Helper<'_> {
    type Candidate = String;

    fn complete(&self, line: &str, pos: usize, _: &Context<'_>) -> Result<(usize, Vec<String>)> {
        Ok(self.offers(line.get(..pos).unwrap_or(line)))
    }
}

impl Hinter for Helper<'_> {
    type Hint = String;
}

impl Highlighter for Helper<'_> {}

impl Validator for Helper<'_> {
    fn validate(&self, context: &mut ValidationContext<'_>) -> Result<ValidationResult> {
        Ok(if is_open(&self.world.evaluator, context.input()) {
            ValidationResult::Incomplete
        } else {
            ValidationResult::Valid(None)
        })
    }
}

impl rustyline::Helper for Helper<'_> {}
