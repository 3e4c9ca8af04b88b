//! The tokens of a text: rnix finds them, this module drops comments and white space and closes the gaps to Nix's lexer.

use rnix::SyntaxKind::{self, *};

use super::SyntaxError;

/// A token, with its byte range.
#[derive(Clone, Copy)]
pub(super) struct Token {
    pub(super) kind: SyntaxKind,
    pub(super) start: u32,
    pub(super) end: u32,
    /// Whether nothing stands between it and the token before.
    pub(super) glued: bool,
}

/// All tokens of a text that mean something.
pub(super) fn tokens(text: &str) -> Result<Vec<Token>, Box<SyntaxError>> {
    // A token and the space behind it take about six bytes in ordinary code.
    let mut out: Vec<Token> = Vec::with_capacity(text.len() / 6 + 4);
    let mut at = 0;
    let mut glued = false;
    for (kind, s) in rnix::tokenize(text) {
        let start = at;
        at += s.len();
        match kind {
            TOKEN_WHITESPACE => {
                known_space(s, start)?;
                glued = false;
                continue;
            }
            TOKEN_COMMENT => {
                glued = false;
                continue;
            }
            // Nix takes `.../a` for a path that begins with a directory of three dots.
            TOKEN_PATH_ABS if glued && out.last().is_some_and(|t| t.kind == TOKEN_ELLIPSIS) => {
                if let Some(last) = out.last_mut() {
                    last.kind = TOKEN_PATH_REL;
                    last.end = at as u32;
                }
                continue;
            }
            // To Nix, a float begins with a digit above 0, or has one behind the point: `0.a` selects from 0.
            TOKEN_FLOAT if is_selection(s) => {
                let mut part = |kind, from: usize, to: usize, glued| {
                    out.push(Token {
                        kind,
                        start: (start + from) as u32,
                        end: (start + to) as u32,
                        glued,
                    });
                };
                part(TOKEN_INTEGER, 0, 1, glued);
                part(TOKEN_DOT, 1, 2, true);
                if s.len() > 2 {
                    part(TOKEN_IDENT, 2, s.len(), true);
                }
                glued = true;
                continue;
            }
            _ => {}
        }
        out.push(Token {
            kind: if kind == TOKEN_PATH_SEARCH && !is_search_path(s) {
                TOKEN_ERROR
            } else {
                kind
            },
            start: start as u32,
            end: at as u32,
            glued,
        });
        glued = true;
    }
    Ok(out)
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
