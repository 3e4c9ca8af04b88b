//! The grammar of strings, paths and numbers.

use rnix::SyntaxKind::*;

use super::SyntaxError;
use super::ast::{Ast, Node, Part};
use super::parser::{Parser, Res};
use super::source::encode;
use super::strings::{self, Raw};
use super::tokens::Token;

impl Parser<'_> {
    /// A number or an address.
    pub(super) fn literal(&self, t: Token) -> Res<Node> {
        let text = self.slice(t);
        let span = t.start as usize..t.end as usize;
        Ok(match t.kind {
            TOKEN_INTEGER => Node::Int(
                text.parse()
                    .map_err(|_e| SyntaxError::new(format!("invalid integer '{text}'"), span))?,
            ),
            TOKEN_FLOAT => {
                let f: Option<f64> = text.parse().ok();
                let zero = || {
                    text.bytes()
                        .take_while(|b| *b != b'e' && *b != b'E')
                        .all(|b| !matches!(b, b'1'..=b'9'))
                };
                match f {
                    Some(f) if f.is_finite() && (f != 0.0 || zero()) => Node::Float(f),
                    _ => return Err(SyntaxError::new(format!("invalid float '{text}'"), span)),
                }
            }
            _ => {
                self.lint_url(text, span)?;
                Node::Str(vec![Part::Text(encode(text, self.foreign))])
            }
        })
    }

    /// A string of either kind.
    pub(super) fn string(&mut self) -> Res<Vec<Part>> {
        let start = self.start() as usize;
        let multiline = self.token().is_some_and(|t| self.slice(t) == "''");
        self.bump();
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
            strings::indented(raw, self.foreign)
        } else {
            strings::plain(raw, self.foreign)
        })
    }

    fn interpolation(&mut self) -> Res<Ast> {
        self.bump();
        let e = self.expr()?;
        self.expect(TOKEN_INTERPOL_END, ", expecting '}'")?;
        Ok(e)
    }

    /// A path: text and interpolations with nothing between them.
    pub(super) fn path(&mut self) -> Res<Vec<Part>> {
        let start = self.start() as usize;
        let mut parts = Vec::new();
        while let Some(t) = self.token()
            && (parts.is_empty() || t.glued)
        {
            match t.kind {
                TOKEN_PATH_ABS | TOKEN_PATH_REL | TOKEN_PATH_HOME => {
                    self.bump();
                    parts.push(Part::Text(encode(self.slice(t), self.foreign)));
                }
                TOKEN_INTERPOL_START => parts.push(Part::Expr(self.interpolation()?)),
                _ => break,
            }
        }
        if let Some(Part::Text(t)) = parts.last()
            && t.ends_with(b"/")
            && !(parts.len() == 1 && t == b"/")
        {
            return Err(SyntaxError::new(
                "path has a trailing slash",
                start..self.end() as usize,
            ));
        }
        self.lint_path(start..self.end() as usize)?;
        Ok(parts)
    }
}

/// What is said of a text with NUL bytes.
pub(crate) fn no_nul(text: &str) -> String {
    format!(
        "input string '{}' cannot be represented as Nix string because it contains null bytes",
        text.replace('\0', "␀")
    )
}
