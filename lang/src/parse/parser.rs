//! The grammar of expressions: recursive descent over rnix's tokens, straight to our own AST.
//!
//! rnix's own parser keeps every byte for editors; building that tree and walking it took half of the time of a large evaluation.

use bumpalo::Bump;
use bumpalo::collections::Vec as BumpVec;
use rnix::SyntaxKind::{self, *};

use super::SyntaxError;
use super::ast::{Ast, Attr, HasAttr, Node, Op, Select};
use super::tokens::{self, Token};
use super::{describe, limits, tokens::tokens};
use crate::heap::Sym;
use crate::host::Dialect;

pub(super) type Res<T> = Result<T, Box<SyntaxError>>;

/// Brackets, functions, strings and signs may nest this deep; every later pass recurses as deep.
const MAX_DEPTH: u32 = 10_000;
/// Operators of one kind in a row; they nest to the left or right.
const MAX_CHAIN: u32 = 100_000;

/// What stands where an attribute name is wanted.
pub(super) const ATTR: &str = ", expecting identifier or 'or' or '${' or '\"'";

/// Memory for the tokens and nodes of a text, to be used again for the next one.
#[derive(Default)]
pub(crate) struct Workspace {
    tokens: Vec<Token>,
    nodes: Bump,
}

impl Workspace {
    /// Forgets the last text.
    pub(crate) fn clear(&mut self) {
        self.tokens.clear();
        self.nodes.reset();
    }
}

/// Parses decoded text; `foreign` as `decode` returned it. What the dialect warns of is handed to `warn`, with its place.
pub(crate) fn parse<'a>(
    text: &'a str,
    foreign: bool,
    dialect: Dialect,
    warn: &dyn Fn(&str, usize),
    work: &'a mut Workspace,
) -> Res<Ast<'a>> {
    limits::check(text)?;
    tokens(text, &mut work.tokens)?;
    let mut p = Parser {
        text,
        foreign,
        dialect,
        warn,
        arena: &work.nodes,
        tokens: &work.tokens,
        at: 0,
        depth: 0,
    };
    p.whole().map_err(|e| describe::better(e, text))
}

impl<'a> Parser<'a, '_> {
    fn whole(&mut self) -> Res<Ast<'a>> {
        let e = self.expr()?;
        match self.peek() {
            None => Ok(e),
            Some(_) => Err(self.unexpected(", expecting end of file")),
        }
    }
}
pub(super) struct Parser<'a, 'w> {
    pub(super) text: &'a str,
    pub(super) foreign: bool,
    pub(super) dialect: Dialect,
    pub(super) warn: &'w dyn Fn(&str, usize),
    pub(super) arena: &'a Bump,
    tokens: &'a [Token],
    at: usize,
    depth: u32,
}

impl<'a> Parser<'a, '_> {
    #[inline(always)]
    pub(super) fn peek(&self) -> Option<SyntaxKind> {
        self.tokens.get(self.at).map(|t| t.kind)
    }

    #[inline(always)]
    pub(super) fn peek_at(&self, n: usize) -> Option<SyntaxKind> {
        self.tokens.get(self.at + n).map(|t| t.kind)
    }

    pub(super) fn token(&self) -> Option<Token> {
        self.tokens.get(self.at).copied()
    }

    pub(super) fn slice(&self, t: Token) -> &'a str {
        self.text
            .get(t.start as usize..t.end as usize)
            .unwrap_or_default()
    }

    /// Where the next token begins.
    #[inline(always)]
    pub(super) fn start(&self) -> u32 {
        self.tokens
            .get(self.at)
            .map_or(self.text.len() as u32, |t| t.start)
    }

    /// Where the last token ended.
    #[inline(always)]
    pub(super) fn end(&self) -> u32 {
        self.at
            .checked_sub(1)
            .and_then(|i| self.tokens.get(i))
            .map_or(0, |t| t.end)
    }

    #[inline(always)]
    pub(super) fn bump(&mut self) {
        self.at += 1;
    }

    /// Takes a token if it is the next one.
    #[inline(always)]
    pub(super) fn eat(&mut self, kind: SyntaxKind) -> bool {
        let found = self.peek() == Some(kind);
        self.at += usize::from(found);
        found
    }

    /// Takes a token that must be there; `wanted` is how the message names what may stand here.
    pub(super) fn expect(&mut self, kind: SyntaxKind, wanted: &str) -> Res<()> {
        if self.eat(kind) {
            Ok(())
        } else {
            Err(self.unexpected(wanted))
        }
    }

    /// The next token must not stand here.
    #[cold]
    pub(super) fn unexpected(&self, wanted: &str) -> Box<SyntaxError> {
        let Some(t) = self.token() else {
            let end = self.text.len();
            return SyntaxError::new(
                format!("syntax error, unexpected end of file{wanted}"),
                end..end,
            );
        };
        let span = t.start as usize..t.end as usize;
        // A path that ends in a slash is an invalid token to rnix.
        let word = self
            .text
            .get(span.start..)
            .and_then(|s| s.split_whitespace().next())
            .unwrap_or_default();
        if word.len() > 1
            && word.ends_with('/')
            && !word.ends_with("//")
            && !word.starts_with('"')
            && t.kind == TOKEN_ERROR
        {
            let end = span.start + word.len();
            return SyntaxError::new("path has a trailing slash", end..end);
        }
        SyntaxError::new(
            format!(
                "syntax error, unexpected {}{wanted}",
                tokens::name(t.kind, self.slice(t))
            ),
            span,
        )
    }

    #[cold]
    fn too_deep(&self) -> Box<SyntaxError> {
        let start = self.start() as usize;
        SyntaxError::too_deep("the expression is nested too deeply", start..start + 1)
    }

    /// Goes one level deeper.
    #[inline(always)]
    fn enter(&mut self) -> Res<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.too_deep());
        }
        Ok(())
    }

    /// Any expression.
    pub(super) fn expr(&mut self) -> Res<Ast<'a>> {
        self.enter()?;
        let e = self.function()?;
        self.depth -= 1;
        Ok(e)
    }

    pub(super) fn boxed(&mut self) -> Res<&'a Ast<'a>> {
        let e = self.expr()?;
        Ok(self.arena.alloc(e))
    }

    fn function(&mut self) -> Res<Ast<'a>> {
        let start = self.start();
        let node = match self.peek() {
            Some(TOKEN_IDENT) => match self.peek_at(1) {
                Some(TOKEN_COLON | TOKEN_AT) => self.lambda()?,
                _ => return self.pipes(),
            },
            Some(TOKEN_L_BRACE) if self.is_pattern() => self.lambda()?,
            Some(TOKEN_ASSERT) => {
                self.bump();
                let cond = self.boxed()?;
                self.expect(TOKEN_SEMICOLON, ", expecting ';'")?;
                Node::Assert(cond, self.boxed()?)
            }
            Some(TOKEN_WITH) => {
                self.bump();
                let set = self.boxed()?;
                self.expect(TOKEN_SEMICOLON, ", expecting ';'")?;
                Node::With(set, self.boxed()?)
            }
            Some(TOKEN_LET) if self.peek_at(1) != Some(TOKEN_L_BRACE) => {
                self.bump();
                let set = self.binds(TOKEN_IN, false, true)?;
                Node::Let(self.arena.alloc(set), self.boxed()?)
            }
            Some(TOKEN_IF) => {
                self.bump();
                let cond = self.expr()?;
                self.expect(TOKEN_THEN, ", expecting 'then'")?;
                let yes = self.expr()?;
                self.expect(TOKEN_ELSE, ", expecting 'else'")?;
                let no = self.expr()?;
                Node::If(self.arena.alloc([cond, yes, no]))
            }
            _ => return self.pipes(),
        };
        Ok(Ast::new(start, self.end(), node))
    }

    /// Operators, and the pipes that bind less than all of them: `x |> f` and `f <| x` are both the call `f x`.
    fn pipes(&mut self) -> Res<Ast<'a>> {
        let start = self.start();
        let mut left = self.operators(0)?;
        let Some(pipe) = self.peek().filter(is_pipe) else {
            return Ok(left);
        };
        if !self.dialect.pipe_operators {
            let at = self.start() as usize;
            return Err(SyntaxError::new(
                "experimental Nix feature 'pipe-operators' is disabled; add '--extra-experimental-features pipe-operators' to enable it",
                at..at + 2,
            ));
        }
        let mut functions = Vec::new();
        while self.eat(pipe) {
            let right = self.operators(0)?;
            if pipe == TOKEN_PIPE_RIGHT {
                left = self.apply(right, left, start, self.end());
            } else {
                functions.push(std::mem::replace(&mut left, right));
            }
            if functions.len() > MAX_DEPTH as usize {
                return Err(self.too_deep());
            }
        }
        if self.peek().as_ref().is_some_and(is_pipe) {
            let at = self.start() as usize;
            return Err(SyntaxError::new(
                "syntax error, '|>' and '<|' cannot be mixed without parentheses",
                at..at + 2,
            ));
        }
        let end = self.end();
        Ok(functions.into_iter().rev().fold(left, |x, f| {
            let start = f.start;
            self.apply(f, x, start, end)
        }))
    }

    /// Operands and the operators between them that bind at least as tightly as `min`.
    fn operators(&mut self, min: u8) -> Res<Ast<'a>> {
        let start = self.start();
        let mut left = self.prefix()?;
        let mut chain = 0;
        while let Some(kind) = self.peek() {
            if kind == TOKEN_QUESTION {
                if min > HAS_ATTR {
                    break;
                }
                self.bump();
                let path = self.attr_path()?;
                let node = Node::HasAttr(self.arena.alloc(HasAttr {
                    base: left,
                    path: path.into_bump_slice(),
                }));
                left = Ast::new(start, self.end(), node);
            } else {
                let Some((op, level, side)) = binary(kind) else {
                    break;
                };
                if level < min {
                    break;
                }
                let at = self.start();
                self.bump();
                let right = match side {
                    Side::Right => {
                        self.enter_chain()?;
                        let r = self.operators(level)?;
                        self.depth -= 1;
                        r
                    }
                    Side::Left | Side::None => self.operators(level + 1)?,
                };
                let node = Node::Bin(op, at, self.arena.alloc(left), self.arena.alloc(right));
                left = Ast::new(start, self.end(), node);
                // `a == b == c` means nothing.
                if side == Side::None
                    && self
                        .peek()
                        .and_then(binary)
                        .is_some_and(|next| next.1 == level)
                {
                    return Err(self.unexpected(""));
                }
            }
            chain += 1;
            if chain > MAX_CHAIN {
                return Err(self.too_deep());
            }
        }
        Ok(left)
    }

    /// Operators that nest to the right may be many: they cost less stack than brackets.
    fn enter_chain(&mut self) -> Res<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH * 2 {
            return Err(self.too_deep());
        }
        Ok(())
    }

    fn prefix(&mut self) -> Res<Ast<'a>> {
        let start = self.start();
        let (level, make): (u8, fn(&'a Ast<'a>) -> Node<'a>) = match self.peek() {
            Some(TOKEN_INVERT) => (NOT, Node::Not),
            Some(TOKEN_SUB) => (NEGATE, Node::Neg),
            _ => return self.application(),
        };
        self.bump();
        self.enter()?;
        let e = self.operators(level)?;
        self.depth -= 1;
        Ok(Ast::new(start, self.end(), make(self.arena.alloc(e))))
    }

    fn application(&mut self) -> Res<Ast<'a>> {
        let start = self.start();
        let e = self.select()?;
        if !self.operand_follows() {
            return Ok(e);
        }
        let mut call = self.callee(e, 3);
        while self.operand_follows() {
            call.push(self.select()?);
        }
        let node = Node::Call(call.into_bump_slice_mut());
        Ok(Ast::new(start, self.end(), node))
    }

    fn operand_follows(&self) -> bool {
        self.peek().is_some_and(begins_operand)
            && (self.peek() != Some(TOKEN_LET) || self.peek_at(1) == Some(TOKEN_L_BRACE))
    }

    /// What a call begins with: `(f x) y` and `f x y` are the same call.
    fn callee(&self, f: Ast<'a>, more: usize) -> BumpVec<'a, Ast<'a>> {
        match f.node {
            Node::Call(parts) => {
                let mut call = BumpVec::with_capacity_in(parts.len() + more, self.arena);
                let moved = || Ast::new(0, 0, Node::CurPos);
                call.extend(parts.iter_mut().map(|p| std::mem::replace(p, moved())));
                call
            }
            _ => {
                let mut call = BumpVec::with_capacity_in(more, self.arena);
                call.push(f);
                call
            }
        }
    }

    fn apply(&self, f: Ast<'a>, arg: Ast<'a>, start: u32, end: u32) -> Ast<'a> {
        let mut call = self.callee(f, 2);
        call.push(arg);
        Ast::new(start, end, Node::Call(call.into_bump_slice_mut()))
    }

    /// A simple expression with attributes selected from it.
    fn select(&mut self) -> Res<Ast<'a>> {
        let start = self.start();
        let base = self.simple()?;
        match self.peek() {
            Some(TOKEN_DOT) => {
                self.bump();
                let path = self.attr_path()?;
                let default = if self.eat(TOKEN_OR) {
                    self.enter()?;
                    let d = self.select()?;
                    self.depth -= 1;
                    Some(d)
                } else {
                    None
                };
                let node = Node::Select(self.arena.alloc(Select {
                    base,
                    path: path.into_bump_slice(),
                    default,
                }));
                Ok(Ast::new(start, self.end(), node))
            }
            // Once `or` was an ordinary name: `f or` still calls `f` with it.
            Some(TOKEN_OR) => {
                let at = self.start();
                self.bump();
                let or = Ast::new(at, self.end(), Node::Var(Sym::new(b"or")));
                Ok(self.apply(base, or, start, self.end()))
            }
            _ => Ok(base),
        }
    }

    fn simple(&mut self) -> Res<Ast<'a>> {
        let Some(t) = self.token() else {
            return Err(self.unexpected(""));
        };
        let node = match t.kind {
            TOKEN_IDENT => {
                self.bump();
                match self.slice(t) {
                    "__curPos" => Node::CurPos,
                    name => Node::Var(Sym::new(name.as_bytes())),
                }
            }
            TOKEN_STRING_START => Node::Str(self.string()?),
            TOKEN_INTEGER | TOKEN_FLOAT | TOKEN_URI => {
                self.bump();
                self.literal(t)?
            }
            TOKEN_PATH_ABS | TOKEN_PATH_REL | TOKEN_PATH_HOME => Node::Path(self.path()?),
            TOKEN_PATH_SEARCH => {
                self.bump();
                let name = self.slice(t);
                Node::SearchPath(name.trim_matches(['<', '>']))
            }
            TOKEN_L_PAREN => {
                self.bump();
                let e = self.expr()?;
                self.expect(TOKEN_R_PAREN, ", expecting ')'")?;
                return Ok(e);
            }
            TOKEN_L_BRACE => {
                self.bump();
                self.nested_set(false)?
            }
            TOKEN_REC => {
                self.bump();
                self.expect(TOKEN_L_BRACE, ", expecting '{'")?;
                self.nested_set(true)?
            }
            TOKEN_LET if self.peek_at(1) == Some(TOKEN_L_BRACE) => {
                self.bump();
                self.bump();
                self.enter()?;
                let set = self.binds(TOKEN_R_BRACE, true, true)?;
                self.depth -= 1;
                let set = self.arena.alloc(set);
                Node::Select(self.arena.alloc(Select {
                    base: Ast::new(t.start, self.end(), Node::Attrs(set)),
                    path: self.arena.alloc([Attr::Name(Sym::new(b"body"), t.start)]),
                    default: None,
                }))
            }
            TOKEN_L_BRACK => {
                self.bump();
                self.enter()?;
                let mut items = BumpVec::new_in(self.arena);
                while self.peek() != Some(TOKEN_R_BRACK) {
                    items.push(self.select()?);
                }
                self.bump();
                self.depth -= 1;
                Node::List(items.into_bump_slice())
            }
            _ => return Err(self.unexpected("")),
        };
        Ok(Ast::new(t.start, self.end(), node))
    }

    fn nested_set(&mut self, recursive: bool) -> Res<Node<'a>> {
        self.enter()?;
        let set = self.binds(TOKEN_R_BRACE, recursive, false)?;
        self.depth -= 1;
        Ok(Node::Attrs(self.arena.alloc(set)))
    }
}

fn is_pipe(kind: &SyntaxKind) -> bool {
    matches!(kind, TOKEN_PIPE_LEFT | TOKEN_PIPE_RIGHT)
}

/// On which side operators of one level nest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
    /// They cannot stand in a row.
    None,
}

// How tightly operators bind.
const NOT: u8 = 7;
const HAS_ATTR: u8 = 11;
const NEGATE: u8 = 12;

/// A binary operator: how tightly it binds, and how it nests.
fn binary(kind: SyntaxKind) -> Option<(Op, u8, Side)> {
    Some(match kind {
        TOKEN_IMPLICATION => (Op::Impl, 1, Side::Right),
        TOKEN_OR_OR => (Op::Or, 2, Side::Left),
        TOKEN_AND_AND => (Op::And, 3, Side::Left),
        TOKEN_EQUAL => (Op::Eq, 4, Side::None),
        TOKEN_NOT_EQUAL => (Op::Ne, 4, Side::None),
        TOKEN_LESS => (Op::Lt, 5, Side::None),
        TOKEN_LESS_OR_EQ => (Op::Le, 5, Side::None),
        TOKEN_MORE => (Op::Gt, 5, Side::None),
        TOKEN_MORE_OR_EQ => (Op::Ge, 5, Side::None),
        TOKEN_UPDATE => (Op::Update, 6, Side::Right),
        TOKEN_ADD => (Op::Add, 8, Side::Left),
        TOKEN_SUB => (Op::Sub, 8, Side::Left),
        TOKEN_MUL => (Op::Mul, 9, Side::Left),
        TOKEN_DIV => (Op::Div, 9, Side::Left),
        TOKEN_CONCAT => (Op::Concat, 10, Side::Right),
        _ => return None,
    })
}

/// Whether an argument of a function, or an element of a list, can begin with this token.
fn begins_operand(kind: SyntaxKind) -> bool {
    matches!(
        kind,
        TOKEN_IDENT
            | TOKEN_STRING_START
            | TOKEN_INTEGER
            | TOKEN_FLOAT
            | TOKEN_URI
            | TOKEN_PATH_ABS
            | TOKEN_PATH_REL
            | TOKEN_PATH_HOME
            | TOKEN_PATH_SEARCH
            | TOKEN_L_PAREN
            | TOKEN_L_BRACE
            | TOKEN_L_BRACK
            | TOKEN_REC
            | TOKEN_LET
    )
}
