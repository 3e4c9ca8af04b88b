//! The grammar of strings, paths and numbers.

use bumpalo::collections::Vec as BumpVec;
use rnix::SyntaxKind::*;

use super::SyntaxError;
use super::ast::{Ast, Node, Part};
use super::parser::{Parser, Res};
use super::source::encode;
use super::strings::{self, Raw};
use super::tokens::Token;

/// Digits that a message shows of one number.
const MAX_DIGITS: usize = 100;

impl<'a> Parser<'a, '_> {
    /// A number or an address.
    pub(super) fn literal(&self, t: Token) -> Res<Node<'a>> {
        let text = self.slice(t);
        let span = t.start as usize..t.end as usize;
        Ok(match t.kind {
            TOKEN_INTEGER => Node::Int(text.parse().map_err(|_e| {
                SyntaxError::new(format!("invalid integer '{}'", short(text)), span)
            })?),
            TOKEN_FLOAT => {
                let f: Option<f64> = text.parse().ok();
                let zero = || {
                    text.bytes()
                        .take_while(|b| *b != b'e' && *b != b'E')
                        .all(|b| !matches!(b, b'1'..=b'9'))
                };
                match f {
                    Some(f) if f.is_finite() && (f != 0.0 || zero()) => Node::Float(f),
                    _ => {
                        return Err(SyntaxError::new(
                            format!("invalid float '{}'", short(text)),
                            span,
                        ));
                    }
                }
            }
            _ => {
                self.lint_url(text, span)?;
                Node::Str(self.arena.alloc([Part::Text(self.bytes(text))]))
            }
        })
    }

    /// A string of either kind.
    pub(super) fn string(&mut self) -> Res<&'a [Part<'a>]> {
        let start = self.start() as usize;
        let multiline = self.token().is_some_and(|t| self.slice(t) == "''");
        self.bump();
        if let Some(text) = self.plain_text(multiline) {
            return Ok(match text {
                "" => &[],
                text => self.arena.alloc([Part::Text(text.as_bytes())]),
            });
        }
        let mut raw = Vec::new();
        loop {
            let Some(t) = self.token() else {
                return Err(self.unexpected(if multiline { "" } else { ", expecting '\"'" }));
            };
            match t.kind {
                TOKEN_STRING_CONTENT => {
                    self.bump();
                    raw.push(Raw::Text(self.slice(t)));
                }
                TOKEN_INTERPOL_START => raw.push(Raw::Expr(self.interpolation()?)),
                TOKEN_STRING_END => {
                    self.bump();
                    break;
                }
                _ => return Err(self.unexpected("")),
            }
        }
        if let Some(Raw::Text(t)) = raw
            .iter()
            .find(|r| matches!(r, Raw::Text(t) if t.contains('\0')))
        {
            return Err(SyntaxError::new(no_nul(t), start..self.end() as usize));
        }
        Ok(if multiline {
            strings::indented(raw, self.foreign, self.arena)
        } else {
            strings::plain(raw, self.foreign, self.arena)
        })
    }

    /// The rest of a string that is its own value, which most are: no escapes, no interpolations, one line.
    fn plain_text(&mut self, multiline: bool) -> Option<&'a str> {
        if multiline || self.foreign {
            return None;
        }
        let text = match (self.token()?, self.peek_at(1)) {
            (t, _) if t.kind == TOKEN_STRING_END => "",
            (t, Some(TOKEN_STRING_END)) if t.kind == TOKEN_STRING_CONTENT => self.slice(t),
            _ => return None,
        };
        if text.bytes().any(|b| matches!(b, b'\\' | b'\r' | 0)) {
            return None;
        }
        self.bump();
        if !text.is_empty() {
            self.bump();
        }
        Some(text)
    }

    /// The bytes of a piece of the text.
    fn bytes(&self, text: &'a str) -> &'a [u8] {
        if self.foreign {
            self.arena.alloc_slice_copy(&encode(text, true))
        } else {
            text.as_bytes()
        }
    }

    fn interpolation(&mut self) -> Res<Ast<'a>> {
        self.bump();
        let e = self.expr()?;
        self.expect(TOKEN_INTERPOL_END, ", expecting '}'")?;
        Ok(e)
    }

    /// A path: text and interpolations with nothing between them.
    pub(super) fn path(&mut self) -> Res<&'a [Part<'a>]> {
        let start = self.start() as usize;
        let mut parts = BumpVec::new_in(self.arena);
        while let Some(t) = self.token()
            && (parts.is_empty() || t.glued)
        {
            match t.kind {
                TOKEN_PATH_ABS | TOKEN_PATH_REL | TOKEN_PATH_HOME => {
                    self.bump();
                    parts.push(Part::Text(self.bytes(self.slice(t))));
                }
                TOKEN_INTERPOL_START => parts.push(Part::Expr(self.interpolation()?)),
                _ => break,
            }
        }
        if let Some(Part::Text(t)) = parts.last()
            && t.ends_with(b"/")
            && !(parts.len() == 1 && *t == b"/")
        {
            return Err(SyntaxError::new(
                "path has a trailing slash",
                start..self.end() as usize,
            ));
        }
        self.lint_path(start..self.end() as usize)?;
        Ok(parts.into_bump_slice())
    }
}

/// What is said of a text with NUL bytes.
pub(crate) fn no_nul(text: &str) -> String {
    format!(
        "input string '{}' cannot be represented as Nix string because it contains null bytes",
        text.replace('\0', "␀")
    )
}

/// A number for a message: a program may have written a very long one.
fn short(digits: &str) -> String {
    match digits.get(..MAX_DIGITS) {
        Some(first) if first.len() < digits.len() => {
            format!("{first}…")
        }
        _ => digits.to_owned(),
    }
}
