//! The tokens of a text: the fast lane and rnix find them, this module drops comments and white space and closes the gaps to Nix's
//! lexer.

use rnix::SyntaxKind::{self, *};

use super::SyntaxError;
use super::lex::{self, Lexer, Step};

/// A token, with its byte range.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Token {
    pub(super) kind: SyntaxKind,
    pub(super) start: u32,
    pub(super) end: u32,
    /// Whether nothing stands between it and the token before.
    pub(super) glued: bool,
}

/// All tokens of a text that mean something; they replace what is in `all`.
pub(super) fn tokens(text: &str, all: &mut Vec<Token>) -> Result<(), Box<SyntaxError>> {
    let mut out = Tokens::new(all, text.len());
    let mut lexer = Lexer::new(text);
    loop {
        let start = lexer.at;
        match lexer.step() {
            Step::End => return Ok(()),
            Step::Space => out.glued = false,
            Step::Token(kind) => out.push(kind, start, lexer.at),
            Step::Plain(quote) => {
                let (open, close) = (start + quote, lexer.at - quote);
                out.push(TOKEN_STRING_START, start, open);
                if open < close {
                    out.push(TOKEN_STRING_CONTENT, open, close);
                }
                out.push(TOKEN_STRING_END, close, lexer.at);
            }
            Step::Other => lexer.at = from_rnix(text, start, &mut out)?,
        }
    }
}

/// Lets rnix go on from `start`, until it stands outside of strings and paths again. Returns where that is.
fn from_rnix(text: &str, start: usize, out: &mut Tokens<'_>) -> Result<usize, Box<SyntaxError>> {
    let mut at = start;
    let mut depth = 0u32;
    let mut in_path = false;
    let mut lost = false;
    for (kind, s) in rnix::tokenize(&text[start..]) {
        out.take(kind, s, at)?;
        at += s.len();
        match kind {
            // What it goes on with is rnix's affair, to the end.
            TOKEN_ERROR => lost = true,
            TOKEN_STRING_START | TOKEN_INTERPOL_START => depth += 1,
            TOKEN_STRING_END | TOKEN_INTERPOL_END => depth = depth.saturating_sub(1),
            TOKEN_PATH_ABS | TOKEN_PATH_REL | TOKEN_PATH_HOME if depth == 0 => in_path = true,
            _ => {}
        }
        let rest = &text.as_bytes()[at..];
        let path_goes_on = in_path
            && (rest.starts_with(b"${")
                || kind == TOKEN_INTERPOL_END && rest.first().is_some_and(|b| lex::in_path(*b)));
        if depth == 0 && !lost && !path_goes_on {
            break;
        }
    }
    Ok(at)
}

/// Collects tokens.
struct Tokens<'a> {
    all: &'a mut Vec<Token>,
    glued: bool,
}

impl<'a> Tokens<'a> {
    fn new(all: &'a mut Vec<Token>, bytes: usize) -> Self {
        all.clear();
        // A token and the space behind it take about six bytes in ordinary code.
        all.reserve(bytes / 6 + 4);
        Self { all, glued: false }
    }

    fn push(&mut self, kind: SyntaxKind, start: usize, end: usize) {
        self.all.push(Token {
            kind,
            start: start as u32,
            end: end as u32,
            glued: self.glued,
        });
        self.glued = true;
    }

    /// Takes a token as rnix gives it.
    fn take(&mut self, kind: SyntaxKind, s: &str, start: usize) -> Result<(), Box<SyntaxError>> {
        let end = start + s.len();
        match kind {
            TOKEN_WHITESPACE => {
                known_space(s, start)?;
                self.glued = false;
            }
            TOKEN_COMMENT => self.glued = false,
            // Nix takes `.../a` for a path that begins with a directory of three dots.
            TOKEN_PATH_ABS if self.glued && self.ends_with(TOKEN_ELLIPSIS) => {
                if let Some(last) = self.all.last_mut() {
                    last.kind = TOKEN_PATH_REL;
                    last.end = end as u32;
                }
            }
            // To Nix, a float begins with a digit above 0, or has one behind the point: `0.a` selects from 0.
            TOKEN_FLOAT if is_selection(s) => {
                self.push(TOKEN_INTEGER, start, start + 1);
                self.push(TOKEN_DOT, start + 1, start + 2);
                if s.len() > 2 {
                    self.push(TOKEN_IDENT, start + 2, end);
                }
            }
            TOKEN_PATH_SEARCH if !is_search_path(s) => self.push(TOKEN_ERROR, start, end),
            _ => self.push(kind, start, end),
        }
        Ok(())
    }

    fn ends_with(&self, kind: SyntaxKind) -> bool {
        self.all.last().is_some_and(|t| t.kind == kind)
    }
}

/// Refuses white space that Nix does not know.
fn known_space(s: &str, at: usize) -> Result<(), Box<SyntaxError>> {
    if s.bytes().all(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')) {
        return Ok(());
    }
    let known = |c: &char| matches!(c, ' ' | '\t' | '\r' | '\n');
    match s.char_indices().find(|(_, c)| !known(c)) {
        Some((i, c)) => Err(SyntaxError::new(
            format!("syntax error, unexpected character U+{:04X}", c as u32),
            at + i..at + i + c.len_utf8(),
        )),
        None => Ok(()),
    }
}

/// Whether what rnix takes for a float is `0`, a point, and perhaps a name.
fn is_selection(s: &str) -> bool {
    s.strip_prefix("0.").is_some_and(|rest| {
        !rest.starts_with(|c: char| c.is_ascii_digit())
            && rest.chars().all(|c| c.is_ascii_alphanumeric())
    })
}

/// Whether `<...>` names something: no component of it is empty.
fn is_search_path(s: &str) -> bool {
    s.trim_start_matches('<')
        .trim_end_matches('>')
        .split('/')
        .all(|part| !part.is_empty())
}

/// A token as error messages name it.
pub(super) fn name(kind: SyntaxKind, text: &str) -> String {
    let s = match kind {
        TOKEN_IDENT => return "identifier".into(),
        TOKEN_INTEGER => return "integer".into(),
        TOKEN_FLOAT => return "floating-point literal".into(),
        TOKEN_STRING_START if text == "''" => return "start of an indented string".into(),
        TOKEN_STRING_START => return "'\"'".into(),
        TOKEN_STRING_CONTENT => return "string content".into(),
        TOKEN_STRING_END => return "end of string".into(),
        TOKEN_PATH_ABS | TOKEN_PATH_REL => return "path".into(),
        TOKEN_PATH_HOME => return "'~/…' path".into(),
        TOKEN_PATH_SEARCH => return "'<…>' path".into(),
        TOKEN_URI => return "URI".into(),
        TOKEN_ADD => "+",
        TOKEN_AND_AND => "&&",
        TOKEN_ASSIGN => "=",
        TOKEN_ASSERT => "assert",
        TOKEN_AT => "@",
        TOKEN_COLON => ":",
        TOKEN_COMMA => ",",
        TOKEN_CONCAT => "++",
        TOKEN_DIV => "/",
        TOKEN_DOT => ".",
        TOKEN_ELLIPSIS => "...",
        TOKEN_ELSE => "else",
        TOKEN_EQUAL => "==",
        TOKEN_IF => "if",
        TOKEN_IMPLICATION => "->",
        TOKEN_IN => "in",
        TOKEN_INHERIT => "inherit",
        TOKEN_INTERPOL_END | TOKEN_R_BRACE => "}",
        TOKEN_INTERPOL_START => "${",
        TOKEN_INVERT => "!",
        TOKEN_L_BRACE => "{",
        TOKEN_L_BRACK => "[",
        TOKEN_L_PAREN => "(",
        TOKEN_LESS => "<",
        TOKEN_LESS_OR_EQ => "<=",
        TOKEN_LET => "let",
        TOKEN_MORE => ">",
        TOKEN_MORE_OR_EQ => ">=",
        TOKEN_MUL => "*",
        TOKEN_NOT_EQUAL => "!=",
        TOKEN_OR => "or",
        TOKEN_OR_OR => "||",
        TOKEN_PIPE_LEFT => "<|",
        TOKEN_PIPE_RIGHT => "|>",
        TOKEN_QUESTION => "?",
        TOKEN_R_BRACK => "]",
        TOKEN_R_PAREN => ")",
        TOKEN_REC => "rec",
        TOKEN_SEMICOLON => ";",
        TOKEN_SUB => "-",
        TOKEN_THEN => "then",
        TOKEN_UPDATE => "//",
        TOKEN_WITH => "with",
        _ => return "invalid token".into(),
    };
    format!("'{s}'")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Everything by rnix.
    fn reference(text: &str) -> Option<Vec<Token>> {
        let mut all = Vec::new();
        let mut out = Tokens::new(&mut all, text.len());
        let mut at = 0;
        for (kind, s) in rnix::tokenize(text) {
            out.take(kind, s, at).ok()?;
            at += s.len();
        }
        Some(all)
    }

    fn found(text: &str) -> Option<Vec<Token>> {
        let mut all = Vec::new();
        tokens(text, &mut all).ok()?;
        Some(all)
    }

    #[test]
    fn the_fast_lane_finds_what_rnix_finds() {
        for text in [
            "a.b.c/d e",
            "x:y a_b:c f:x: y",
            "''$${a}$ ' ''${b} '' '''' ''\u{e9}''",
            "a/${b}/c ./${x}y/z ${a}.b /${q} ~/x",
            "[1 0.5 .5 1.e3 0.a 1e3 01.2 a.5]",
            "a//b a/b a / b a/ b a /b a/*c*/b",
            "<a> <a/b> <=b < c <|d .../a ... ..",
            r#""a$b\n${"x" + ''y''}" "" "$""#,
            "a'b/c 'x a-b->c a -b/c a++b/c",
            "/* * / **/ # x\n \u{a0}",
            "\"open ${a",
            "''open",
            "/* open",
        ] {
            assert_eq!(found(text), reference(text), "{text:?}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20_000, ..ProptestConfig::default() })]
        #[test]
        fn random_pieces(pieces in prop::collection::vec(prop::sample::select(vec![
            "a", "_b", "let", "or", "0", "17", ".", "..", "/", "//", "/*", "*/", "*", "+", "-", ">", "<", "=", "!", "&", "|",
            "?", ":", "@", ",", ";", "{", "}", "[", "]", "(", ")", "$", "${", "\"", "''", "'", "\\", "~", "#", "\n", " ", "\t",
            "\u{e9}", "\u{a0}", "e5", "%", "a/b", "x:y",
        ]), 0..24)) {
            let text = pieces.concat();
            prop_assert_eq!(found(&text), reference(&text), "{:?}", text);
        }
    }
}
