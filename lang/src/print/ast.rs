//! Syntax in the canonical form of `nix-instantiate --parse`.

use super::value::{attr_name, string};
use crate::heap::Sym;
use crate::parse::ast::{Ast, Attr, AttrSet, AttrValue, Node, Op, Param, Part};

/// What surrounds the text: paths are shown absolute.
pub(crate) struct Place<'a> {
    /// Directory of relative paths.
    pub(crate) dir: &'a [u8],
    /// The home directory.
    pub(crate) home: &'a [u8],
}

/// The canonical text of an expression.
pub(crate) fn show(a: &Ast<'_>, place: &Place<'_>) -> Vec<u8> {
    let mut p = Printer {
        out: Vec::new(),
        place,
    };
    p.expr(a);
    p.out
}

struct Printer<'a> {
    out: Vec<u8>,
    place: &'a Place<'a>,
}

impl Printer<'_> {
    fn text(&mut self, s: &str) {
        self.out.extend_from_slice(s.as_bytes());
    }

    fn name(&mut self, s: Sym) {
        attr_name(&mut self.out, s.bytes());
    }

    fn path(&mut self, path: &[Attr<'_>]) {
        for (i, a) in path.iter().enumerate() {
            if i > 0 {
                self.text(".");
            }
            match a {
                Attr::Name(s, _) => self.name(*s),
                Attr::Dynamic(e) => {
                    self.text("\"${");
                    self.expr(e);
                    self.text("}\"");
                }
            }
        }
    }

    fn parts(&mut self, parts: &[Part<'_>]) {
        self.text("(");
        for (i, p) in parts.iter().enumerate() {
            if i > 0 {
                self.text(" + ");
            }
            match p {
                Part::Text(t) => string(&mut self.out, t),
                Part::Expr(e) => self.expr(e),
            }
        }
        self.text(")");
    }

    fn absolute(&self, t: &[u8]) -> Vec<u8> {
        let full = match t {
            [b'/', ..] => t.to_vec(),
            [b'~', rest @ ..] => [self.place.home, rest].concat(),
            _ => [self.place.dir, b"/", t].concat(),
        };
        crate::eval::canon_path(&full)
    }

    fn expr(&mut self, a: &Ast<'_>) {
        match &a.node {
            Node::Int(i) => self.text(&i.to_string()),
            Node::Float(f) => self.text(&super::general(*f)),
            Node::Str(parts) => match parts {
                [] => self.text("\"\""),
                [Part::Text(t)] => string(&mut self.out, t),
                _ => self.parts(parts),
            },
            Node::Path(parts) => self.path_literal(parts),
            Node::SearchPath(n) => {
                self.text("(__findFile __nixPath ");
                string(&mut self.out, n.as_bytes());
                self.text(")");
            }
            Node::Var(s) => self.out.extend_from_slice(s.bytes()),
            Node::Lambda(p, body) => {
                self.text("(");
                self.param(p);
                self.text(": ");
                self.expr(body);
                self.text(")");
            }
            Node::Call(parts) => {
                self.text("(");
                for (i, x) in parts.iter().enumerate() {
                    if i > 0 {
                        self.text(" ");
                    }
                    self.expr(x);
                }
                self.text(")");
            }
            Node::Select(s) => {
                self.text("(");
                self.expr(&s.base);
                self.text(").");
                self.path(s.path);
                if let Some(d) = &s.default {
                    self.text(" or (");
                    self.expr(d);
                    self.text(")");
                }
            }
            Node::HasAttr(h) => {
                self.text("((");
                self.expr(&h.base);
                self.text(") ? ");
                self.path(h.path);
                self.text(")");
            }
            Node::Attrs(set) => {
                if set.recursive {
                    self.text("rec ");
                }
                self.text("{ ");
                self.bindings(set);
                self.text("}");
            }
            Node::Let(set, body) => {
                self.text("(let ");
                self.bindings(set);
                self.text("in ");
                self.expr(body);
                self.text(")");
            }
            Node::List(items) => {
                self.text("[ ");
                for x in *items {
                    self.text("(");
                    self.expr(x);
                    self.text(") ");
                }
                self.text("]");
            }
            Node::With(set, body) => {
                self.text("(with ");
                self.expr(set);
                self.text("; ");
                self.expr(body);
                self.text(")");
            }
            Node::If([c, t, f]) => {
                self.text("(if ");
                self.expr(c);
                self.text(" then ");
                self.expr(t);
                self.text(" else ");
                self.expr(f);
                self.text(")");
            }
            Node::Assert(c, body) => {
                self.text("assert ");
                self.expr(c);
                self.text("; ");
                self.expr(body);
            }
            Node::Not(x) => {
                self.text("(! ");
                self.expr(x);
                self.text(")");
            }
            Node::Neg(x) => {
                self.text("(__sub 0 ");
                self.expr(x);
                self.text(")");
            }
            Node::Bin(op, _, x, y) => self.binary(*op, x, y),
            Node::CurPos => self.text("__curPos"),
        }
    }

    fn path_literal(&mut self, parts: &[Part<'_>]) {
        let Some((Part::Text(first), rest)) = parts.split_first() else {
            return self.parts(parts);
        };
        let mut full = self.absolute(first);
        if rest.is_empty() {
            self.out.extend_from_slice(&full);
            return;
        }
        if first.ends_with(b"/") && full != b"/" {
            full.push(b'/');
        }
        self.text("(");
        self.out.extend_from_slice(&full);
        for p in rest {
            self.text(" + ");
            match p {
                Part::Text(t) => string(&mut self.out, t),
                Part::Expr(e) => self.expr(e),
            }
        }
        self.text(")");
    }

    fn call(&mut self, f: &str, x: &Ast<'_>, y: &Ast<'_>) {
        self.text(&format!("({f} "));
        self.expr(x);
        self.text(" ");
        self.expr(y);
        self.text(")");
    }

    fn binary(&mut self, op: Op, x: &Ast<'_>, y: &Ast<'_>) {
        let sign = match op {
            Op::Sub => return self.call("__sub", x, y),
            Op::Mul => return self.call("__mul", x, y),
            Op::Div => return self.call("__div", x, y),
            Op::Lt => return self.call("__lessThan", x, y),
            Op::Gt => return self.call("__lessThan", y, x),
            Op::Le | Op::Ge => {
                self.text("(! ");
                if op == Op::Le {
                    self.call("__lessThan", y, x);
                } else {
                    self.call("__lessThan", x, y);
                }
                return self.text(")");
            }
            Op::Add => "+",
            Op::Eq => "==",
            Op::Ne => "!=",
            Op::And => "&&",
            Op::Or => "||",
            Op::Impl => "->",
            Op::Concat => "++",
            Op::Update => "//",
        };
        self.text("(");
        self.expr(x);
        self.text(&format!(" {sign} "));
        self.expr(y);
        self.text(")");
    }

    fn param(&mut self, p: &Param<'_>) {
        match p {
            Param::Name(s) => self.out.extend_from_slice(s.bytes()),
            Param::Formals {
                formals,
                ellipsis,
                bind,
            } => {
                self.text("{ ");
                let mut sorted: Vec<_> = formals.iter().collect();
                sorted.sort_by_key(|f| f.name.bytes());
                for (i, f) in sorted.iter().enumerate() {
                    if i > 0 {
                        self.text(", ");
                    }
                    self.out.extend_from_slice(f.name.bytes());
                    if let Some(d) = &f.default {
                        self.text(" ? ");
                        self.expr(d);
                    }
                }
                if *ellipsis {
                    self.text(if sorted.is_empty() { "..." } else { ", ..." });
                }
                self.text(" }");
                if let Some(b) = bind {
                    self.text(" @ ");
                    self.out.extend_from_slice(b.bytes());
                }
            }
        }
    }

    fn bindings(&mut self, set: &AttrSet<'_>) {
        let mut sorted: Vec<_> = set.attrs.iter().collect();
        sorted.sort_by_key(|a| a.name.bytes());
        let plain: Vec<Sym> = sorted
            .iter()
            .filter(|a| matches!(a.value, AttrValue::Inherit))
            .map(|a| a.name)
            .collect();
        if !plain.is_empty() {
            self.text("inherit");
            for s in plain {
                self.text(" ");
                self.name(s);
            }
            self.text("; ");
        }
        for (i, from) in set.from.iter().enumerate() {
            let names: Vec<Sym> = sorted
                .iter()
                .filter(|a| matches!(a.value, AttrValue::From(k) if k == i))
                .map(|a| a.name)
                .collect();
            if names.is_empty() {
                continue;
            }
            self.text("inherit (");
            self.expr(from);
            self.text(")");
            for s in names {
                self.text(" ");
                self.name(s);
            }
            self.text("; ");
        }
        for a in sorted {
            if let AttrValue::Plain(v) = &a.value {
                self.name(a.name);
                self.text(" = ");
                self.expr(v);
                self.text("; ");
            }
        }
        for d in &set.dynamic {
            self.text("\"${");
            self.expr(&d.name);
            self.text("}\" = ");
            self.expr(&d.value);
            self.text("; ");
        }
    }
}
