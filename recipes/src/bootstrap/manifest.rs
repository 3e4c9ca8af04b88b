//! What a manifest says for given variables: its directives in order, without those whose predicate is false.
//!
//! The meaning is that of upstream's generator: logic is right-associative without precedence, a word alone is itself and never
//! a variable, everything is compared as text, and a definition is seen only below it.
//!
//! # Source
//! `fosslinux/live-bootstrap`, `seed/script-generator.c`.

use sos_formats::diagnostic::Diagnostic;

use super::lex::{self, Line, Word};
use super::variables::{Variables, is_name};
use crate::problems::{Problems, with_suggestion};
use crate::tree::Place;

/// What a directive asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A package is built.
    Build,
    /// A script changes the system.
    Improve,
    /// The system goes on under another kernel.
    Jump,
    /// Packages or files are removed.
    Uninstall,
}

impl Kind {
    /// Returns the word of the directive.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Improve => "improve",
            Self::Jump => "jump",
            Self::Uninstall => "uninstall",
        }
    }
}

/// One directive that is carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Directive {
    pub(crate) kind: Kind,
    /// Its argument; those of `uninstall:` joined by blanks.
    pub(crate) argument: String,
    /// Line of the manifest, counted from 1.
    pub(crate) line: usize,
    /// Where the argument is.
    pub(crate) place: Place,
}

const KNOWN: [&str; 5] = ["build:", "improve:", "jump:", "uninstall:", "define:"];

/// Reads a manifest. `variables` become what they are at its end.
pub(crate) fn interpret(
    text: &str,
    variables: &mut Variables,
    problems: &mut Problems,
) -> Vec<Directive> {
    let mut out = Vec::new();
    for line in lex::lines(text, problems) {
        match directive(&line, variables, problems) {
            Ok(found) => out.extend(found),
            Err(problem) => problems.add(*problem),
        }
    }
    out
}

type Result<T> = std::result::Result<T, Box<Diagnostic>>;

/// The words of one line, and how to complain about them.
struct Words<'a, 't> {
    line: &'a Line<'t>,
    problems: &'a Problems,
}

impl<'t> Words<'_, 't> {
    fn get(&self, at: usize) -> Option<&'t str> {
        self.line.words.get(at).map(|w| w.text)
    }

    /// The word at `at`, or a complaint at the end of the line.
    fn need(&self, at: usize, what: &str) -> Result<&'t str> {
        match self.get(at) {
            Some(text) => Ok(text),
            None => Err(self.wrong(
                at,
                format!("the line ends where {what} is expected"),
                "the line ends here",
            )),
        }
    }

    fn wrong(&self, at: usize, message: impl Into<String>, label: &str) -> Box<Diagnostic> {
        let end = self.line.end;
        let has_tab = |at: &usize| self.get(*at).is_some_and(|text| text.contains('\t'));
        // A tab makes one word of two: then what is wrong with a later one is that it is where the second should be.
        let at = (0..=at).rev().find(has_tab).unwrap_or(at);
        let word = self.line.words.get(at);
        // An empty word is the gap between two blanks: one byte is shown of it.
        let place = word.map_or(end..end, |Word { text, place }| match text.find('\t') {
            Some(tab) => place.start + tab..place.start + tab + 1,
            None => place.start..place.end.max((place.start + 1).min(end)),
        });
        let is_tab = word.is_some_and(|word| word.text.contains('\t'));
        let label = if is_tab { "this tab" } else { label };
        let problem = self
            .problems
            .error("bootstrap-syntax", message, &Some(place), label);
        Box::new(match word {
            Some(word) if word.text.is_empty() => {
                let which = if at == 0 { "this" } else { "the second" };
                problem.help(format!(
                    "words are separated by exactly one blank: remove {which} one"
                ))
            }
            Some(word) if word.text.contains('\t') => problem
                .help("only blanks separate words, and a tab is part of one: write a blank for it"),
            _ => problem,
        })
    }
}

/// A word for a message; an empty one is what two blanks have between them.
fn said(word: &str) -> String {
    if word.is_empty() {
        "a second blank".to_owned()
    } else {
        format!("`{word}`")
    }
}

fn directive(
    line: &Line<'_>,
    variables: &mut Variables,
    problems: &Problems,
) -> Result<Option<Directive>> {
    let words = Words { line, problems };
    let word = words.need(0, "a directive")?;
    let kind = match word {
        "build:" => Kind::Build,
        "improve:" => Kind::Improve,
        "jump:" => Kind::Jump,
        "uninstall:" => Kind::Uninstall,
        "define:" => {
            define(&words, variables)?;
            return Ok(None);
        }
        "" => {
            let message = "a line begins with a blank, and a directive is expected there";
            return Err(words.wrong(0, message, "this blank"));
        }
        _ => {
            let problem = words.wrong(0, format!("unknown directive `{word}`"), "no directive");
            return Err(Box::new(with_suggestion(*problem, word, KNOWN.into_iter())));
        }
    };
    let mut argument = words.need(1, "a name")?.to_owned();
    if argument.is_empty() || argument == "(" {
        return Err(words.wrong(
            1,
            format!("`{word}` names nothing"),
            "a name is expected here",
        ));
    }
    let mut at = 2;
    if kind == Kind::Uninstall {
        while let Some(text) = words.get(at).filter(|text| *text != "(") {
            if text.is_empty() {
                return Err(words.wrong(
                    at,
                    "`uninstall:` names nothing here",
                    "a name is expected here",
                ));
            }
            argument.push(' ');
            argument.push_str(text);
            at += 1;
        }
    }
    let place = line.words[1].place.start..line.words[at - 1].place.end;
    if words.get(at).is_some() && !last_predicate(&words, at, variables)? {
        return Ok(None);
    }
    Ok(Some(Directive {
        kind,
        argument,
        line: line.number,
        place: Some(place),
    }))
}

fn define(words: &Words<'_, '_>, variables: &mut Variables) -> Result<()> {
    let name = words.need(1, "the name of a variable")?;
    if !is_name(name) {
        return Err(words.wrong(
            1,
            format!("`{name}` cannot be the name of a variable"),
            "no name",
        ));
    }
    if words.need(2, "`=`")? != "=" {
        return Err(words.wrong(2, format!("expected `=` after `{name}`"), "not `=`"));
    }
    let (value, rest) = match words.need(3, "a value")? {
        "(" => predicate(words, 3, variables)?,
        word => (word.to_owned(), 4),
    };
    if words.get(rest).is_some() && !last_predicate(words, rest, variables)? {
        return Ok(());
    }
    variables.define(name, &value);
    Ok(())
}

/// Whether what ends a line holds. Upstream's generator does not look at what comes behind it, which then means nothing to it.
fn last_predicate(words: &Words<'_, '_>, at: usize, variables: &Variables) -> Result<bool> {
    let (value, rest) = predicate(words, at, variables)?;
    // Blanks at the end, as before a comment, are no words.
    let mut behind = (rest..).map_while(|at| Some((at, words.get(at)?)));
    match behind.find(|(_, word)| !word.is_empty()) {
        None => Ok(value == "True"),
        Some((rest, word)) => {
            let message = format!("the line goes on after its predicate, with {}", said(word));
            let problem = words.wrong(rest, message, "this would not be looked at");
            Err(if word == "(" {
                Box::new(problem.help("a line has one predicate: `( A == B && C == D )`"))
            } else {
                problem
            })
        }
    }
}

/// `( ... )`: its value, and the index of the word behind it.
fn predicate(words: &Words<'_, '_>, at: usize, variables: &Variables) -> Result<(String, usize)> {
    let open = words.need(at, "`(`")?;
    if open != "(" {
        return Err(words.wrong(at, format!("expected `(`, found {}", said(open)), "not `(`"));
    }
    let truth = |is: bool| if is { "True" } else { "False" }.to_owned();
    let mut terms: Vec<(String, bool)> = Vec::new();
    let begin = at + 1;
    let mut at = begin;
    // Terms are kept with the operator behind them, and put together from the right.
    loop {
        let left = words.need(at, "a variable or a word")?;
        let value = match words.need(at + 1, "`)`, `==` or `!=`")? {
            ")" => {
                terms.push((left.to_owned(), false));
                at += 2;
                break;
            }
            comparison @ ("==" | "!=") => {
                let right = words.need(at + 2, "a word to compare with")?;
                at += 3;
                truth((variables.get(left) == right) == (comparison == "=="))
            }
            other => {
                let message = format!(
                    "expected `==` or `!=` after {}, found {}",
                    said(left),
                    said(other)
                );
                let problem = words.wrong(at + 1, message, "no comparison");
                return Err(if left == "(" {
                    Box::new(problem.help("parentheses do not nest: `a && b || c` is `a && (b || c)`, and a `define:` can hold a part"))
                } else {
                    problem
                });
            }
        };
        match words.need(at, "`)`, `&&` or `||`")? {
            ")" => {
                terms.push((value, false));
                at += 1;
                break;
            }
            operator @ ("&&" | "||") => terms.push((value, operator == "||")),
            other => {
                let message = format!("expected `)`, `&&` or `||`, found {}", said(other));
                return Err(words.wrong(at, message, "neither of them"));
            }
        }
        at += 1;
    }
    // It would be another word, and the step be left out without a word.
    if let Some(tab) = (begin..at).find(|at| words.get(*at).is_some_and(|text| text.contains('\t')))
    {
        return Err(words.wrong(tab, "a tab within a predicate", "this tab"));
    }
    let (mut value, _) = terms.pop().unwrap_or_default();
    for (left, is_or) in terms.into_iter().rev() {
        let (left, right) = (left == "True", value == "True");
        value = truth(if is_or { left || right } else { left && right });
    }
    Ok((value, at))
}
