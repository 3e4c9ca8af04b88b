//! What a line means.

use std::path::Path;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_lang::Evaluator;

/// Letters of the commands, for suggestions.
const LETTERS: &[&str] = &["a", "b", "l", "p", "q", "r", "t", "?"];

/// A line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Command {
    Nothing,
    Quit,
    Help,
    Reload,
    Print(String),
    PrintAll(String),
    Type(String),
    Build(String),
    /// `NAME = EXPR`, as it was written.
    Bind(String),
    Add(String),
    Load(String),
}

impl Command {
    /// Understands a line.
    pub(super) fn parse(text: &str) -> Result<Self, Box<Diagnostic>> {
        let text = text.trim();
        // Nothing but comments is nothing to evaluate, or to wait for.
        if text.lines().all(|line| line.trim_start().starts_with('#')) {
            return Ok(Self::Nothing);
        }
        let Some(rest) = text.strip_prefix(':') else {
            return Ok(if bound(text).is_some() {
                Self::Bind(text.trim_end_matches(';').to_owned())
            } else {
                Self::Print(text.to_owned())
            });
        };
        let (word, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        let rest = rest.trim();
        let with = |make: fn(String) -> Self, what: &str| {
            if rest.is_empty() {
                return Err(Box::new(
                    Diagnostic::error(
                        "repl-no-argument",
                        Class::Usage,
                        format!("`:{word}` needs {what}"),
                    )
                    .help(format!(
                        "write `:{word} {}`",
                        what.split(' ')
                            .next_back()
                            .unwrap_or_default()
                            .to_uppercase()
                    )),
                ));
            }
            Ok(make(rest.to_owned()))
        };
        match word {
            "q" | "quit" | "exit" => Ok(Self::Quit),
            "?" | "h" | "help" => Ok(Self::Help),
            "r" | "reload" => Ok(Self::Reload),
            "t" => with(Self::Type, "an expression"),
            "p" | "print" => with(Self::PrintAll, "an expression"),
            "b" => with(Self::Build, "an expression"),
            "a" | "add" => with(Self::Add, "an expression"),
            "l" | "load" => with(Self::Load, "a file"),
            _ => Err(Box::new(
                Diagnostic::error(
                    "repl-unknown-command",
                    Class::Usage,
                    format!("there is no command `:{word}`"),
                )
                .suggest(word, LETTERS.iter().copied())
                .help("`:?` lists the commands"),
            )),
        }
    }
}

/// The expression of a line that gives a value a name.
fn bound(text: &str) -> Option<&str> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim_end();
    let mut chars = name.chars();
    let first = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == '_');
    let rest = chars.all(|c| c.is_ascii_alphanumeric() || "_-'.".contains(c));
    (first && rest && !value.starts_with('=')).then_some(value)
}

/// Whether a text is the beginning of something longer.
pub(super) fn is_open(evaluator: &Evaluator, text: &str) -> bool {
    let text = text.trim();
    let text = match Command::parse(text) {
        Ok(Command::Bind(text)) => bound(&text).unwrap_or_default().to_owned(),
        Ok(
            Command::Print(text)
            | Command::PrintAll(text)
            | Command::Type(text)
            | Command::Build(text)
            | Command::Add(text),
        ) => text,
        _ => return false,
    };
    let problem = |text: &str| {
        let parsed = evaluator.parse_canonical(text.as_bytes(), "input", Path::new("/"));
        parsed.err().map(|d| d.message).unwrap_or_default()
    };
    let found = problem(&text);
    if found.contains("unexpected end of file") {
        return true;
    }
    // A string or a comment that does not end: with its end, there is something else wrong, or nothing.
    const UNKNOWN: &str = "unexpected invalid token";
    found.contains(UNKNOWN)
        && ["\"", "''", "*/", "}\"", "}''"]
            .iter()
            .any(|end| !problem(&format!("{text}{end}")).contains(UNKNOWN))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_given_with_one_equals_sign() {
        let parse = |text| Command::parse(text).unwrap();
        assert_eq!(parse("x = 1;"), Command::Bind("x = 1".to_owned()));
        assert_eq!(parse("a.b=1"), Command::Bind("a.b=1".to_owned()));
        assert_eq!(parse("x == 1"), Command::Print("x == 1".to_owned()));
        let set = "{ x = 1; }";
        assert_eq!(parse(set), Command::Print(set.to_owned()));
        assert_eq!(parse(" :t  1 "), Command::Type("1".to_owned()));
        assert_eq!(parse("  "), Command::Nothing);
        let code = |text| Command::parse(text).unwrap_err().code;
        assert_eq!(code(":t"), "repl-no-argument");
        assert_eq!(code(":zap x"), "repl-unknown-command");
    }
}
