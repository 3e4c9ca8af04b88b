//! The grammar of attribute sets, attribute paths and parameters.

use bumpalo::collections::Vec as BumpVec;
use rnix::SyntaxKind::{self, *};

use super::SyntaxError;
use super::ast::{Ast, Attr, AttrSet, AttrValue, Formal, Node, Param, Part};
use super::attrs::Builder;
use super::parser::{ATTR, Parser, Res};
use crate::heap::Sym;

impl<'a> Parser<'a, '_> {
    /// Whether the brace that comes next opens a set pattern and not a set.
    pub(super) fn is_pattern(&self) -> bool {
        matches!(
            (self.peek_at(1), self.peek_at(2)),
            (
                Some(TOKEN_IDENT),
                Some(TOKEN_COMMA | TOKEN_QUESTION | TOKEN_R_BRACE)
            ) | (Some(TOKEN_ELLIPSIS), Some(TOKEN_R_BRACE))
                | (Some(TOKEN_R_BRACE), Some(TOKEN_COLON | TOKEN_AT))
        )
    }

    /// A function from its parameter on.
    pub(super) fn lambda(&mut self) -> Res<Node<'a>> {
        let param = if self.peek() == Some(TOKEN_L_BRACE) {
            let (formals, ellipsis) = self.formals()?;
            let bind = if self.eat(TOKEN_AT) {
                Some(self.name()?)
            } else {
                None
            };
            self.pattern(formals, ellipsis, bind)?
        } else {
            let name = self.name()?;
            if self.eat(TOKEN_AT) {
                if self.peek() != Some(TOKEN_L_BRACE) {
                    return Err(self.unexpected(", expecting '{'"));
                }
                let (formals, ellipsis) = self.formals()?;
                self.pattern(formals, ellipsis, Some(name))?
            } else {
                Param::Name(name)
            }
        };
        self.expect(TOKEN_COLON, ", expecting ':'")?;
        Ok(Node::Lambda(self.arena.alloc(param), self.boxed()?))
    }

    fn name(&mut self) -> Res<Sym> {
        match self.token() {
            Some(t) if t.kind == TOKEN_IDENT => {
                self.bump();
                Ok(Sym::new(self.slice(t).as_bytes()))
            }
            _ => Err(self.unexpected(", expecting identifier")),
        }
    }

    /// `{ a, b ? 1, ... }`
    fn formals(&mut self) -> Res<(&'a [Formal<'a>], bool)> {
        self.bump();
        let mut formals = BumpVec::new_in(self.arena);
        loop {
            match self.token() {
                Some(t) if t.kind == TOKEN_R_BRACE => {
                    self.bump();
                    return Ok((formals.into_bump_slice(), false));
                }
                Some(t) if t.kind == TOKEN_ELLIPSIS => {
                    self.bump();
                    self.expect(TOKEN_R_BRACE, ", expecting '}'")?;
                    return Ok((formals.into_bump_slice(), true));
                }
                Some(t) if t.kind == TOKEN_IDENT => {
                    self.bump();
                    let name = Sym::new(self.slice(t).as_bytes());
                    let default = if self.eat(TOKEN_QUESTION) {
                        Some(self.expr()?)
                    } else {
                        None
                    };
                    formals.push(Formal {
                        name,
                        pos: t.start,
                        default,
                    });
                    if self.eat(TOKEN_COMMA) {
                        continue;
                    }
                    self.expect(TOKEN_R_BRACE, ", expecting '}' or ','")?;
                    return Ok((formals.into_bump_slice(), false));
                }
                _ => return Err(self.unexpected(", expecting identifier or '}' or '...'")),
            }
        }
    }

    fn pattern(
        &self,
        formals: &'a [Formal<'a>],
        ellipsis: bool,
        bind: Option<Sym>,
    ) -> Res<Param<'a>> {
        let mut names = BumpVec::from_iter_in(formals.iter().map(|f| f.name), self.arena);
        names.sort_unstable();
        let twice = names.windows(2).any(|w| w[0] == w[1]);
        let mut seen = rustc_hash::FxHashSet::default();
        for f in formals {
            if (twice && !seen.insert(f.name)) || bind == Some(f.name) {
                let start = f.pos as usize;
                return Err(SyntaxError::new(
                    format!("duplicate formal function argument '{}'", f.name.text()),
                    start..start + f.name.bytes().len(),
                ));
            }
        }
        Ok(Param::Formals {
            formals,
            ellipsis,
            bind,
        })
    }

    /// The body of a set or `let`, and the token that ends it.
    pub(super) fn binds(
        &mut self,
        until: SyntaxKind,
        recursive: bool,
        is_let: bool,
    ) -> Res<AttrSet<'a>> {
        let mut b = Builder::new(recursive, self.arena);
        loop {
            let start = self.start();
            match self.peek() {
                Some(k) if k == until => {
                    self.bump();
                    return Ok(b.set);
                }
                Some(TOKEN_INHERIT) => {
                    self.bump();
                    self.inherit(&mut b)?;
                }
                Some(TOKEN_IDENT | TOKEN_OR | TOKEN_STRING_START | TOKEN_INTERPOL_START) => {
                    let path = self.attr_path()?;
                    let path_end = self.end();
                    if is_let && let Some(Attr::Dynamic(d)) = path.first() {
                        return Err(SyntaxError::new(
                            "dynamic attributes not allowed in let",
                            d.start as usize..d.end as usize,
                        ));
                    }
                    self.expect(TOKEN_ASSIGN, ", expecting '.' or '='")?;
                    let value = self.expr()?;
                    self.expect(TOKEN_SEMICOLON, ", expecting ';'")?;
                    b.add(path, value, start, path_end)?;
                }
                Some(TOKEN_INTEGER | TOKEN_FLOAT) => {
                    return Err(self.unexpected(", expecting 'inherit'"));
                }
                _ => return Err(self.unexpected("")),
            }
        }
    }

    fn inherit(&mut self, b: &mut Builder<'a>) -> Res<()> {
        let from = if self.eat(TOKEN_L_PAREN) {
            let e = self.expr()?;
            self.expect(TOKEN_R_PAREN, ", expecting ')'")?;
            b.set.from.push(e);
            Some(b.set.from.len() - 1)
        } else {
            None
        };
        loop {
            let start = self.start();
            match self.peek() {
                Some(TOKEN_SEMICOLON) => {
                    self.bump();
                    return Ok(());
                }
                Some(TOKEN_IDENT | TOKEN_OR | TOKEN_STRING_START | TOKEN_INTERPOL_START) => {}
                _ => return Err(self.unexpected("")),
            }
            match self.attr()? {
                Attr::Name(name, pos) => {
                    let value = from.map_or(AttrValue::Inherit, AttrValue::From);
                    b.inherit(name, pos, self.end(), value)?;
                }
                Attr::Dynamic(_) => {
                    return Err(SyntaxError::new(
                        "dynamic attributes not allowed in inherit",
                        start as usize..self.end() as usize,
                    ));
                }
            }
        }
    }

    /// `a.b."c".${d}`
    pub(super) fn attr_path(&mut self) -> Res<BumpVec<'a, Attr<'a>>> {
        let mut out = BumpVec::with_capacity_in(1, self.arena);
        out.push(self.attr()?);
        while self.eat(TOKEN_DOT) {
            out.push(self.attr()?);
        }
        Ok(out)
    }

    fn attr(&mut self) -> Res<Attr<'a>> {
        let Some(t) = self.token() else {
            return Err(self.unexpected(ATTR));
        };
        match t.kind {
            TOKEN_IDENT | TOKEN_OR => {
                self.bump();
                Ok(Attr::Name(Sym::new(self.slice(t).as_bytes()), t.start))
            }
            TOKEN_STRING_START if self.slice(t) == "\"" => {
                let parts = self.string()?;
                let e = Ast::new(t.start, self.end(), Node::Str(parts));
                Ok(static_name(e, t.start))
            }
            TOKEN_INTERPOL_START => {
                self.bump();
                let e = self.expr()?;
                self.expect(TOKEN_INTERPOL_END, ", expecting '}'")?;
                Ok(static_name(e, t.start))
            }
            _ => Err(self.unexpected(ATTR)),
        }
    }
}

/// A computed name that is a plain string literal is a static name.
fn static_name(e: Ast<'_>, pos: u32) -> Attr<'_> {
    match &e.node {
        Node::Str(parts) => match parts {
            [] => Attr::Name(Sym::new(b""), pos),
            [Part::Text(t)] => Attr::Name(Sym::new(t), pos),
            _ => Attr::Dynamic(e),
        },
        _ => Attr::Dynamic(e),
    }
}
