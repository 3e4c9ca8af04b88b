//! The rnix tree to our own AST.

use rnix::SyntaxKind::*;
use rnix::SyntaxNode;
use rnix::ast::{self as rn, HasEntry};
use rowan::NodeOrToken;
use rowan::ast::AstNode;

use super::SyntaxError;
use super::ast::{Ast, Attr, AttrSet, AttrValue, Formal, Node, Op, Param, Part};
use super::attrs::Builder;
use super::source::encode;
use super::strings::{self, Raw};
use super::{describe, limits};
use crate::eval::stack;
use crate::heap::Sym;
use crate::host::Dialect;

pub(super) type Res<T> = Result<T, Box<SyntaxError>>;

/// Parses decoded text; `foreign` as `decode` returned it. What the dialect warns of is handed to `warn`, with its place.
pub(crate) fn parse(
    text: &str,
    foreign: bool,
    dialect: Dialect,
    warn: &dyn Fn(&str, usize),
) -> Res<Ast> {
    limits::check(text)?;
    let parse = rnix::Root::parse(text);
    if let Some(e) = parse.errors().first() {
        return Err(describe::describe(e, text));
    }
    let end = text.len();
    let root = parse
        .tree()
        .expr()
        .ok_or_else(|| SyntaxError::new("syntax error, unexpected end of file", end..end))?;
    let converter = Converter {
        text,
        foreign,
        dialect,
        warn,
        stack_limit: stack::limit(),
    };
    converter.expr(&root)
}

pub(super) struct Converter<'a> {
    pub(super) text: &'a str,
    foreign: bool,
    pub(super) dialect: Dialect,
    pub(super) warn: &'a dyn Fn(&str, usize),
    stack_limit: usize,
}

fn range(n: &SyntaxNode) -> (u32, u32) {
    let r = n.text_range();
    (r.start().into(), r.end().into())
}

fn missing(n: &SyntaxNode) -> Box<SyntaxError> {
    let (s, e) = range(n);
    SyntaxError::new(
        "syntax error, unfinished expression",
        s as usize..e as usize,
    )
}

impl Converter<'_> {
    fn need(&self, parent: &SyntaxNode, e: Option<rn::Expr>) -> Res<Ast> {
        self.expr(&e.ok_or_else(|| missing(parent))?)
    }

    /// An expression where Nix's grammar does not allow a bare function.
    fn operand(&self, parent: &SyntaxNode, e: Option<rn::Expr>) -> Res<Ast> {
        let e = e.ok_or_else(|| missing(parent))?;
        if let rn::Expr::Lambda(l) = &e {
            let (s, _) = range(l.syntax());
            let colon = l
                .token_colon()
                .map_or(s as usize, |t| t.text_range().start().into());
            return Err(SyntaxError::new(
                "syntax error, unexpected ':'",
                colon..colon + 1,
            ));
        }
        self.expr(&e)
    }

    fn boxed(&self, parent: &SyntaxNode, e: Option<rn::Expr>) -> Res<Box<Ast>> {
        Ok(Box::new(self.need(parent, e)?))
    }

    fn boxed_operand(&self, parent: &SyntaxNode, e: Option<rn::Expr>) -> Res<Box<Ast>> {
        Ok(Box::new(self.operand(parent, e)?))
    }

    fn expr(&self, e: &rn::Expr) -> Res<Ast> {
        let n = e.syntax();
        let (start, end) = range(n);
        // A chain of operators is as deep as it is long.
        if stack::exhausted(self.stack_limit) {
            let span = start as usize..start as usize + 1;
            return Err(SyntaxError::too_deep(
                "the expression is nested too deeply",
                span,
            ));
        }
        let node = match e {
            rn::Expr::Paren(p) => return self.need(n, p.expr()),
            rn::Expr::Root(r) => return self.need(n, r.expr()),
            rn::Expr::Error(_) => return Err(missing(n)),
            rn::Expr::Apply(a) => {
                let fun = self.operand(n, a.lambda())?;
                return Ok(apply(fun, self.operand(n, a.argument())?, start, end));
            }
            rn::Expr::BinOp(b) if is_pipe(b) => return self.pipe(b),
            rn::Expr::Assert(a) => {
                Node::Assert(self.boxed(n, a.condition())?, self.boxed(n, a.body())?)
            }
            rn::Expr::IfElse(i) => Node::If(
                self.boxed(n, i.condition())?,
                self.boxed(n, i.body())?,
                self.boxed(n, i.else_body())?,
            ),
            rn::Expr::Select(s) => {
                let base = self.boxed_operand(n, s.expr())?;
                let path = self.path(n, s.attrpath())?;
                let default = match s.default_expr() {
                    Some(d) => Some(self.boxed_operand(n, Some(d))?),
                    None => None,
                };
                Node::Select(base, path, default)
            }
            rn::Expr::HasAttr(h) => Node::HasAttr(
                self.boxed_operand(n, h.expr())?,
                self.path(n, h.attrpath())?,
            ),
            rn::Expr::Str(s) => Node::Str(self.string(s)?),
            rn::Expr::PathAbs(_) | rn::Expr::PathRel(_) | rn::Expr::PathHome(_) => {
                self.lint_path(n)?;
                Node::Path(self.path_parts(n)?)
            }
            rn::Expr::PathSearch(_) => {
                let t = n.text().to_string();
                Node::SearchPath(t.trim_start_matches('<').trim_end_matches('>').to_owned())
            }
            rn::Expr::Literal(_) => self.literal(n)?,
            rn::Expr::Lambda(l) => {
                let p = l.param().ok_or_else(|| missing(n))?;
                Node::Lambda(self.param(&p)?, self.boxed(n, l.body())?)
            }
            rn::Expr::LegacyLet(l) => {
                let set = self.attrs(l, true, true)?;
                let base = Box::new(Ast::new(start, end, Node::Attrs(set)));
                Node::Select(base, vec![Attr::Name(Sym::new(b"body"), start)], None)
            }
            rn::Expr::LetIn(l) => Node::Let(self.attrs(l, false, true)?, self.boxed(n, l.body())?),
            rn::Expr::List(l) => {
                let mut items = Vec::new();
                for i in l.items() {
                    items.push(self.operand(n, Some(i))?);
                }
                Node::List(items)
            }
            rn::Expr::BinOp(b) => self.binary(b)?,
            rn::Expr::AttrSet(a) => Node::Attrs(self.attrs(a, a.rec_token().is_some(), false)?),
            rn::Expr::UnaryOp(u) => {
                let x = self.boxed_operand(n, u.expr())?;
                match u.operator() {
                    Some(rn::UnaryOpKind::Invert) => Node::Not(x),
                    _ => Node::Neg(x),
                }
            }
            rn::Expr::Ident(_) => Node::Var(Sym::new(n.text().to_string().as_bytes())),
            rn::Expr::With(w) => {
                Node::With(self.boxed(n, w.namespace())?, self.boxed(n, w.body())?)
            }
            rn::Expr::CurPos(_) => Node::CurPos,
        };
        Ok(Ast::new(start, end, node))
    }

    fn literal(&self, n: &SyntaxNode) -> Res<Node> {
        let (s, e) = range(n);
        let span = s as usize..e as usize;
        let text = &self.text[span.clone()];
        let kind = n.first_token().map(|t| t.kind());
        Ok(match kind {
            Some(TOKEN_INTEGER) => Node::Int(
                text.parse()
                    .map_err(|_e| SyntaxError::new(format!("invalid integer '{text}'"), span))?,
            ),
            Some(TOKEN_FLOAT) => {
                let f: f64 = text.parse().map_err(|_e| {
                    SyntaxError::new(format!("invalid float '{text}'"), span.clone())
                })?;
                if !f.is_finite()
                    || (f == 0.0
                        && text
                            .bytes()
                            .take_while(|b| *b != b'e' && *b != b'E')
                            .any(|b| matches!(b, b'1'..=b'9')))
                {
                    return Err(SyntaxError::new(format!("invalid float '{text}'"), span));
                }
                Node::Float(f)
            }
            _ => {
                self.lint_url(text, span)?;
                Node::Str(vec![Part::Text(encode(text, self.foreign))])
            }
        })
    }

    fn binary(&self, b: &rn::BinOp) -> Res<Node> {
        use rn::BinOpKind as K;
        let n = b.syntax();
        let (l, r) = (b.lhs(), b.rhs());
        let op = match b.operator().ok_or_else(|| missing(n))? {
            // Told apart before.
            K::PipeLeft | K::PipeRight => return Err(missing(n)),
            K::Concat => Op::Concat,
            K::Update => Op::Update,
            K::Add => Op::Add,
            K::Sub => Op::Sub,
            K::Mul => Op::Mul,
            K::Div => Op::Div,
            K::And => Op::And,
            K::Equal => Op::Eq,
            K::Implication => Op::Impl,
            K::Less => Op::Lt,
            K::LessOrEq => Op::Le,
            K::More => Op::Gt,
            K::MoreOrEq => Op::Ge,
            K::NotEqual => Op::Ne,
            K::Or => Op::Or,
        };
        let at = n
            .children_with_tokens()
            .filter_map(NodeOrToken::into_token)
            .find(|t| rn::BinOpKind::from_kind(t.kind()).is_some())
            .map_or(range(n).0, |t| t.text_range().start().into());
        Ok(Node::Bin(
            op,
            at,
            self.boxed_operand(n, l)?,
            self.boxed_operand(n, r)?,
        ))
    }

    /// `x |> f` and `f <| x`, both the call `f x`.
    fn pipe(&self, b: &rn::BinOp) -> Res<Ast> {
        let n = b.syntax();
        let (start, end) = range(n);
        let span = start as usize..end as usize;
        if !self.dialect.pipe_operators {
            return Err(SyntaxError::new(
                "experimental Nix feature 'pipe-operators' is disabled; add '--extra-experimental-features pipe-operators' to enable it",
                span,
            ));
        }
        let sides = [b.lhs(), b.rhs()];
        let other = sides.iter().flatten().find(
            |e| matches!(e, rn::Expr::BinOp(i) if is_pipe(i) && i.operator() != b.operator()),
        );
        if let Some(inner) = other {
            let (s, e) = range(inner.syntax());
            return Err(SyntaxError::new(
                "syntax error, '|>' and '<|' cannot be mixed without parentheses",
                s as usize..e as usize,
            ));
        }
        let l = self.operand(n, b.lhs())?;
        let r = self.operand(n, b.rhs())?;
        let (f, x) = match b.operator() {
            Some(rn::BinOpKind::PipeRight) => (r, l),
            _ => (l, r),
        };
        Ok(apply(f, x, start, end))
    }

    fn string(&self, s: &rn::Str) -> Res<Vec<Part>> {
        let mut raw = Vec::new();
        let mut multiline = false;
        for child in s.syntax().children_with_tokens() {
            match child {
                NodeOrToken::Token(t) if t.kind() == TOKEN_STRING_START => {
                    multiline = t.text() == "''";
                }
                NodeOrToken::Token(t) if t.kind() == TOKEN_STRING_CONTENT => {
                    raw.push(Raw::Text(t.text().to_owned()));
                }
                NodeOrToken::Token(_) => {}
                NodeOrToken::Node(n) => {
                    let i = rn::Interpol::cast(n.clone()).ok_or_else(|| missing(&n))?;
                    raw.push(Raw::Expr(self.need(&n, i.expr())?));
                }
            }
        }
        if let Some(Raw::Text(t)) = raw
            .iter()
            .find(|r| matches!(r, Raw::Text(t) if t.contains('\0')))
        {
            let (s, e) = range(s.syntax());
            return Err(SyntaxError::new(no_nul(t), s as usize..e as usize));
        }
        Ok(if multiline {
            strings::indented(raw, self.foreign)
        } else {
            strings::plain(raw, self.foreign)
        })
    }

    fn path_parts(&self, n: &SyntaxNode) -> Res<Vec<Part>> {
        let mut parts = Vec::new();
        for child in n.children_with_tokens() {
            match child {
                NodeOrToken::Token(t) => parts.push(Part::Text(encode(t.text(), self.foreign))),
                NodeOrToken::Node(n) => {
                    let i = rn::Interpol::cast(n.clone()).ok_or_else(|| missing(&n))?;
                    parts.push(Part::Expr(self.need(&n, i.expr())?));
                }
            }
        }
        if let Some(Part::Text(t)) = parts.last()
            && t.ends_with(b"/")
            && !(parts.len() == 1 && t == b"/")
        {
            let (s, e) = range(n);
            return Err(SyntaxError::new(
                "path has a trailing slash",
                s as usize..e as usize,
            ));
        }
        Ok(parts)
    }

    fn path(&self, n: &SyntaxNode, p: Option<rn::Attrpath>) -> Res<Vec<Attr>> {
        let p = p.ok_or_else(|| missing(n))?;
        let mut out = Vec::new();
        for a in p.attrs() {
            out.push(self.attr(&a)?);
        }
        if out.is_empty() {
            return Err(missing(n));
        }
        Ok(out)
    }

    fn attr(&self, a: &rn::Attr) -> Res<Attr> {
        let n = a.syntax();
        let (start, end) = range(n);
        Ok(match a {
            rn::Attr::Ident(_) => Attr::Name(Sym::new(n.text().to_string().as_bytes()), start),
            rn::Attr::Dynamic(d) => {
                let e = self.need(n, d.expr())?;
                static_name(e, start)
            }
            rn::Attr::Str(s) => {
                let quote = s.syntax().first_token();
                if let Some(t) = quote.filter(|t| t.text() == "''") {
                    return Err(describe::indented_name(self.text, t.text_range().start()));
                }
                let parts = self.string(s)?;
                // `"${x}"` as a name is `${x}`: the value must be a string either way, but only the first coerces.
                static_name(Ast::new(start, end, Node::Str(parts)), start)
            }
        })
    }

    fn param(&self, p: &rn::Param) -> Res<Param> {
        Ok(match p {
            rn::Param::IdentParam(i) => {
                Param::Name(Sym::new(i.syntax().text().to_string().trim().as_bytes()))
            }
            rn::Param::Pattern(p) => {
                let name = |i: Option<rn::Ident>| {
                    i.map(|i| Sym::new(i.syntax().text().to_string().as_bytes()))
                };
                let bind = p.pat_bind().and_then(|b| name(b.ident()));
                let mut formals: Vec<Formal> = Vec::new();
                let mut seen = rustc_hash::FxHashSet::default();
                for e in p.pat_entries() {
                    let (s, end) = range(e.syntax());
                    let Some(name) = name(e.ident()) else {
                        return Err(missing(e.syntax()));
                    };
                    if !seen.insert(name) || bind == Some(name) {
                        return Err(SyntaxError::new(
                            format!("duplicate formal function argument '{}'", name.text()),
                            s as usize..end as usize,
                        ));
                    }
                    // The identifier is not an expression child of the entry, so the default is the only one.
                    let default = e.syntax().children().filter_map(rn::Expr::cast).nth(1);
                    let default = match default {
                        Some(d) => Some(self.expr(&d)?),
                        None => None,
                    };
                    formals.push(Formal {
                        name,
                        pos: s,
                        default,
                    });
                }
                Param::Formals {
                    formals,
                    ellipsis: p.ellipsis_token().is_some(),
                    bind,
                }
            }
        })
    }

    fn attrs(&self, n: &impl HasEntry, recursive: bool, is_let: bool) -> Res<AttrSet> {
        let mut b = Builder::new(recursive);
        for entry in n.entries() {
            let (start, end) = range(entry.syntax());
            match entry {
                rn::Entry::AttrpathValue(v) => {
                    let p = v.attrpath();
                    let path_end = p.as_ref().map_or(end, |p| range(p.syntax()).1);
                    let path = self.path(v.syntax(), p)?;
                    if is_let && let Some(Attr::Dynamic(d)) = path.first() {
                        return Err(SyntaxError::new(
                            "dynamic attributes not allowed in let",
                            d.start as usize..d.end as usize,
                        ));
                    }
                    let value = self.need(v.syntax(), v.value())?;
                    b.add(path, value, start, path_end)?;
                }
                rn::Entry::Inherit(i) => {
                    let from = match i.from() {
                        Some(f) => {
                            b.set.from.push(self.need(f.syntax(), f.expr())?);
                            Some(b.set.from.len() - 1)
                        }
                        None => None,
                    };
                    for a in i.attrs() {
                        let (s, e) = range(a.syntax());
                        match self.attr(&a)? {
                            Attr::Name(name, pos) => {
                                b.inherit(
                                    name,
                                    pos,
                                    e,
                                    from.map_or(AttrValue::Inherit, AttrValue::From),
                                )?;
                            }
                            Attr::Dynamic(_) => {
                                return Err(SyntaxError::new(
                                    "dynamic attributes not allowed in inherit",
                                    s as usize..e as usize,
                                ));
                            }
                        }
                    }
                }
            }
        }
        Ok(b.set)
    }
}

fn is_pipe(b: &rn::BinOp) -> bool {
    matches!(
        b.operator(),
        Some(rn::BinOpKind::PipeLeft | rn::BinOpKind::PipeRight)
    )
}

/// A call; `(f x) y` and `f x y` are the same.
fn apply(f: Ast, x: Ast, start: u32, end: u32) -> Ast {
    match f {
        Ast {
            start,
            node: Node::Call(f, mut args),
            ..
        } => {
            args.push(x);
            Ast::new(start, end, Node::Call(f, args))
        }
        f => Ast::new(start, end, Node::Call(Box::new(f), vec![x])),
    }
}

/// What is said of a text with NUL bytes.
pub(crate) fn no_nul(text: &str) -> String {
    format!(
        "input string '{}' cannot be represented as Nix string because it contains null bytes",
        text.replace('\0', "␀")
    )
}

/// A computed name that is a plain string literal is a static name.
fn static_name(e: Ast, pos: u32) -> Attr {
    match &e.node {
        Node::Str(parts) => match parts.as_slice() {
            [] => Attr::Name(Sym::new(b""), pos),
            [Part::Text(t)] => Attr::Name(Sym::new(t), pos),
            _ => Attr::Dynamic(e),
        },
        _ => Attr::Dynamic(e),
    }
}
