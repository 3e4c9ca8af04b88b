//! The AST to IR, in one pass.

use rustc_hash::FxHashMap;

use super::scope::{Found, Scopes};
use super::{BinOp, E, Expr, Formal, Formals, FormalsCache, Lambda, Name, Pos, ShapeCache};
use crate::eval::stack;
use crate::heap::{Attrs, Fun, Kept, Sym, Value, keep};
use crate::parse::Names;
use crate::parse::ast::{Ast, Attr, Node, Op, Param, Part};

/// What the code can see from outside, and where it is.
pub(crate) struct Scope<'a> {
    /// The global names.
    pub(crate) globals: &'a FxHashMap<Sym, Value>,
    /// Names that `scopedImport` or a caller put around the file.
    pub(crate) extra: Option<Attrs>,
    /// What the symbols of the tree mean, if another thread made it.
    pub(crate) names: Option<&'a Names>,
    /// Position of the first byte of the text.
    pub(crate) base: u32,
    /// Directory of relative paths.
    pub(crate) dir: &'a [u8],
    /// The home directory, for `~/x`.
    pub(crate) home: Option<Vec<u8>>,
    /// The value of `__curPos` at a place.
    pub(crate) cur_pos: &'a dyn Fn(Pos) -> Value,
}

/// Why a program cannot run at all.
#[derive(Debug)]
pub(crate) enum LowerError {
    /// A name that nothing defines, with the names that are visible.
    Undefined(Sym, Pos, Vec<Sym>),
    /// A path below the home directory, and there is none.
    NoHome(Pos),
    /// More nesting than there is stack for.
    TooDeep(Pos),
}

pub(super) type Res<T> = Result<T, LowerError>;

/// Lowers a program; the result is evaluated in an empty environment.
/// What the scopes work with is used again; it is in order as long as nothing fails.
pub(crate) fn lower(ast: &Ast<'_>, scope: &Scope<'_>, scopes: &mut Option<Scopes>) -> Res<E> {
    let mut l = Lower {
        s: scopes.take().unwrap_or_else(Scopes::new),
        g: scope,
        stack_limit: stack::limit(),
    };
    let given = scope.extra.iter().flat_map(|names| names.iter());
    l.s.redefined = given.into_iter().any(|(name, _)| l.s.is_operator(name));
    let outer = l.s.enter_frame();
    let body = l.strict(ast)?;
    let n = l.s.leave_frame(outer);
    *scopes = Some(l.s);
    Ok(keep(Expr::Block(n, body)))
}

pub(super) struct Lower<'a> {
    pub(super) s: Scopes,
    pub(super) g: &'a Scope<'a>,
    stack_limit: usize,
}

impl Lower<'_> {
    pub(super) fn pos(&self, offset: u32) -> Pos {
        Pos(self.g.base + offset)
    }

    /// A name of the tree.
    #[inline]
    pub(super) fn name(&self, s: Sym) -> Sym {
        self.g.names.map_or(s, |names| names.get(s))
    }

    /// Code that runs later, in the environment of this point.
    pub(super) fn delayed(&mut self, a: &Ast<'_>) -> Res<E> {
        let outer = self.s.enter_delayed();
        let r = self.strict(a);
        self.s.leave_delayed(outer);
        r
    }

    fn delayed_all(&mut self, items: &[Ast<'_>]) -> Res<Kept<E>> {
        items.iter().map(|i| self.delayed(i)).collect()
    }

    /// Code that runs when the block runs.
    pub(super) fn strict(&mut self, a: &Ast<'_>) -> Res<E> {
        let pos = self.pos(a.start);
        if stack::exhausted(self.stack_limit) {
            return Err(LowerError::TooDeep(pos));
        }
        Ok(keep(match &a.node {
            Node::Int(i) => Expr::Const(Value::int(*i)),
            Node::Float(f) => Expr::Const(Value::float(*f)),
            Node::Str(parts) => match parts {
                [] => Expr::Const(Value::string(b"")),
                [Part::Text(t)] => Expr::Const(Value::string(t)),
                _ => Expr::Interp(self.parts(parts, a.start)?, pos),
            },
            Node::Path(parts) => return self.path(parts, a.start),
            Node::SearchPath(name) => {
                let f = self.variable(Sym::new(b"__findFile"), pos)?;
                let paths = self.variable(Sym::new(b"__nixPath"), pos)?;
                let name = keep(Expr::Const(Value::string(name.as_bytes())));
                return Ok(call(f, vec![paths, name].into(), pos));
            }
            Node::Var(s) => return self.variable(self.name(*s), pos),
            Node::Lambda(..) => Expr::Lambda(self.lambda(a)?),
            Node::Call([f, args @ ..]) => return self.call(f, args, pos),
            Node::Call([]) => Expr::Const(Value::NULL),
            Node::Select(s) => return self.select(&s.base, s.path, s.default.as_ref(), pos),
            Node::HasAttr(h) => {
                let base = self.strict(&h.base)?;
                Expr::HasAttr {
                    base,
                    path: self.names(h.path)?,
                    pos,
                }
            }
            Node::Attrs(set) => return self.attrs(set, pos),
            Node::Let(set, body) => return self.let_in(set, body),
            Node::List([]) => Expr::Const(Value::list(&[])),
            Node::List(items) => Expr::List(self.delayed_all(items)?),
            Node::With(set, body) => return self.with(set, body),
            Node::If([c, t, f]) => {
                let at = self.pos(c.start);
                let c = match self.strict(c)? {
                    // A literal knows no place, and this one is an error: the negation of it knows where.
                    e @ Expr::Const(v) if v.as_bool().is_none() && v.as_thunk().is_none() => {
                        keep(Expr::Not(e, at))
                    }
                    e => e,
                };
                let (t, f) = self.branches(t, f)?;
                Expr::If(c, t, f)
            }
            Node::Assert(c, body) => {
                let end = self.pos(c.end);
                let start = self.pos(c.start);
                Expr::Assert {
                    cond: self.strict(c)?,
                    body: self.strict(body)?,
                    pos: start,
                    end,
                }
            }
            Node::Not(x) => Expr::Not(self.strict(x)?, pos),
            Node::Neg(x) if self.s.redefined => {
                let zero = Ast::new(a.start, a.start, Node::Int(0));
                return self.binary(Op::Sub, pos, &zero, x);
            }
            Node::Neg(x) => match x.node {
                Node::Int(i) => Expr::Const(Value::int(-i)),
                Node::Float(f) => Expr::Const(Value::float(0.0 - f)),
                _ => Expr::Neg(self.strict(x)?, pos),
            },
            Node::Bin(op, at, x, y) => return self.binary(*op, self.pos(*at), x, y),
            Node::CurPos => Expr::Const((self.g.cur_pos)(pos)),
        }))
    }

    fn branches(&mut self, t: &Ast<'_>, f: &Ast<'_>) -> Res<(E, E)> {
        let before = self.s.begin_branch();
        let t = self.strict(t);
        let used_t = self.s.end_branch(before);
        let before = self.s.begin_branch();
        let f = self.strict(f);
        let used_f = self.s.end_branch(before);
        self.s.join(used_t.max(used_f));
        Ok((t?, f?))
    }

    fn branch(&mut self, a: &Ast<'_>) -> Res<E> {
        let before = self.s.begin_branch();
        let r = self.strict(a);
        let used = self.s.end_branch(before);
        self.s.join(used);
        r
    }

    /// The call that an operator stands for, when the program has given its function another meaning.
    fn redefined(&mut self, op: Op, pos: Pos, x: &Ast<'_>, y: &Ast<'_>) -> Res<Option<E>> {
        let (name, swapped, negated): (&[u8], _, _) = match op {
            Op::Sub => (b"__sub", false, false),
            Op::Mul => (b"__mul", false, false),
            Op::Div => (b"__div", false, false),
            Op::Lt => (b"__lessThan", false, false),
            Op::Gt => (b"__lessThan", true, false),
            Op::Ge => (b"__lessThan", false, true),
            Op::Le => (b"__lessThan", true, true),
            _ => return Ok(None),
        };
        let name = Sym::new(name);
        let given = self.g.extra.and_then(|names| names.get(name));
        if given.is_none() && !matches!(self.s.find(name), Found::Slot(..)) {
            return Ok(None);
        }
        let fun = self.variable(name, pos)?;
        let mut args = vec![self.delayed(x)?, self.delayed(y)?];
        if swapped {
            args.reverse();
        }
        let called = call(fun, args.into(), pos);
        Ok(Some(if negated {
            keep(Expr::Not(called, pos))
        } else {
            called
        }))
    }

    fn binary(&mut self, op: Op, pos: Pos, x: &Ast<'_>, y: &Ast<'_>) -> Res<E> {
        if self.s.redefined
            && let Some(called) = self.redefined(op, pos, x, y)?
        {
            return Ok(called);
        }
        let a = self.strict(x)?;
        let op = match op {
            Op::And => return Ok(keep(Expr::And(a, self.branch(y)?, pos))),
            Op::Or => return Ok(keep(Expr::Or(a, self.branch(y)?, pos))),
            Op::Impl => return Ok(keep(Expr::Implies(a, self.branch(y)?, pos))),
            Op::Concat => return Ok(keep(Expr::Concat(a, self.strict(y)?, pos))),
            Op::Update => return Ok(keep(Expr::Update(a, self.strict(y)?, pos))),
            Op::Add => BinOp::Add,
            Op::Sub => BinOp::Sub,
            Op::Mul => BinOp::Mul,
            Op::Div => BinOp::Div,
            Op::Eq => BinOp::Eq,
            Op::Ne => BinOp::Ne,
            Op::Lt => BinOp::Lt,
            Op::Le => BinOp::Le,
            Op::Gt => BinOp::Gt,
            Op::Ge => BinOp::Ge,
        };
        let b = self.strict(y)?;
        if let Expr::Const(v) = b
            && let Some(b) = v.small_int()
        {
            return Ok(keep(Expr::BinConst {
                op,
                a,
                b,
                pos,
                cheap: cheap(a, 2),
            }));
        }
        let cheap = cheap(a, 2) && cheap(b, 2);
        Ok(keep(Expr::Bin {
            op,
            a,
            b,
            pos,
            cheap,
        }))
    }

    pub(super) fn variable(&mut self, s: Sym, pos: Pos) -> Res<E> {
        Ok(keep(match self.s.find(s) {
            Found::Slot(0, slot) => Expr::Local(slot, s, pos),
            Found::Slot(1, slot) => Expr::Up1(slot, s, pos),
            Found::Slot(up, slot) => Expr::Up(up, slot, s, pos),
            found => {
                if let Some(v) = self
                    .g
                    .extra
                    .and_then(|e| e.get(s))
                    .or_else(|| self.g.globals.get(&s).copied())
                {
                    return Ok(keep(Expr::Const(v)));
                }
                match found {
                    Found::With(scopes) => {
                        let scopes = scopes
                            .into_iter()
                            .map(|(up, slot)| (up, slot, ShapeCache::default()))
                            .collect();
                        Expr::WithVar {
                            sym: s,
                            pos,
                            scopes,
                        }
                    }
                    _ => {
                        let mut known = self.s.names();
                        known.extend(self.g.extra.iter().flat_map(|e| e.iter()).map(|x| x.0));
                        let mut globals: Vec<Sym> = self.g.globals.keys().copied().collect();
                        globals.sort_unstable();
                        known.extend(globals);
                        return Err(LowerError::Undefined(s, pos, known));
                    }
                }
            }
        }))
    }

    fn call(&mut self, f: &Ast<'_>, args: &[Ast<'_>], pos: Pos) -> Res<E> {
        let f = self.strict(f)?;
        if let Expr::Const(v) = f
            && let Some(Fun::Prim(p)) = v.as_fun()
            && args.len() >= p.arity as usize
        {
            let (now, rest) = args.split_at(p.arity as usize);
            let mut lowered = Vec::with_capacity(now.len());
            for (i, a) in now.iter().enumerate() {
                lowered.push(if p.is_strict(i) {
                    self.strict(a)?
                } else {
                    self.delayed(a)?
                });
            }
            let e = keep(Expr::Prim {
                prim: p,
                args: lowered.into(),
                pos,
            });
            return Ok(if rest.is_empty() {
                e
            } else {
                call(e, self.delayed_all(rest)?, pos)
            });
        }
        let args = self.delayed_all(args)?;
        Ok(call(f, args, pos))
    }

    fn names(&mut self, path: &[Attr<'_>]) -> Res<Kept<Name>> {
        path.iter()
            .map(|a| {
                Ok(match a {
                    Attr::Name(s, _) => Name::Static(self.name(*s), ShapeCache::default()),
                    Attr::Dynamic(e) => Name::Dynamic(self.branch(e)?),
                })
            })
            .collect()
    }

    fn select(
        &mut self,
        base: &Ast<'_>,
        path: &[Attr<'_>],
        default: Option<&Ast<'_>>,
        pos: Pos,
    ) -> Res<E> {
        let mut base = self.strict(base)?;
        if let Some(default) = default {
            let path = self.names(path)?;
            let default = Some(self.branch(default)?);
            return Ok(keep(Expr::SelectPath {
                base,
                path,
                default,
                pos,
            }));
        }
        for a in path {
            base = keep(match a {
                Attr::Name(s, at) => {
                    let s = self.name(*s);
                    // `builtins.x` is known now.
                    if let Expr::Const(v) = base
                        && let Some(v) = v.as_attrs().and_then(|set| set.get(s))
                        && v.as_thunk().is_none()
                    {
                        Expr::Const(v)
                    } else {
                        Expr::Select {
                            base,
                            sym: s,
                            cache: ShapeCache::default(),
                            pos: self.pos(*at),
                        }
                    }
                }
                Attr::Dynamic(e) => {
                    let pos = self.pos(e.start);
                    let e = self.strict(e)?;
                    Expr::SelectPath {
                        base,
                        path: vec![Name::Dynamic(e)].into(),
                        default: None,
                        pos,
                    }
                }
            });
        }
        Ok(base)
    }

    fn parts(&mut self, parts: &[Part<'_>], start: u32) -> Res<Kept<(E, Pos)>> {
        parts
            .iter()
            .map(|p| {
                Ok(match p {
                    Part::Text(t) => (keep(Expr::Const(Value::string(t))), self.pos(start)),
                    Part::Expr(e) => (self.strict(e)?, self.pos(e.start)),
                })
            })
            .collect()
    }

    fn path(&mut self, parts: &[Part<'_>], start: u32) -> Res<E> {
        let pos = self.pos(start);
        let Some((Part::Text(first), rest)) = parts.split_first() else {
            return Ok(keep(Expr::PathInterp(self.parts(parts, start)?, pos)));
        };
        let full = if let Some(r) = first.strip_prefix(b"~") {
            let mut p = self.g.home.clone().ok_or(LowerError::NoHome(pos))?;
            p.extend_from_slice(r);
            p
        } else if first.starts_with(b"/") {
            first.to_vec()
        } else {
            [self.g.dir, b"/", first].concat()
        };
        let mut canon = crate::eval::canon_path(&full);
        if rest.is_empty() {
            return Ok(keep(Expr::Const(Value::path(&canon))));
        }
        if first.ends_with(b"/") && canon != b"/" {
            canon.push(b'/');
        }
        let mut out = vec![(keep(Expr::Const(Value::string(&canon))), pos)];
        out.extend(self.parts(rest, start)?.iter().copied());
        Ok(keep(Expr::PathInterp(out.into(), pos)))
    }

    fn with(&mut self, set: &Ast<'_>, body: &Ast<'_>) -> Res<E> {
        let share = self.s.can_share(1);
        // A new frame is in place before the set is evaluated; it is evaluated only when a name needs it.
        let outer = if share {
            None
        } else {
            Some(self.s.enter_frame())
        };
        let slot = self.s.take(1);
        let r = (|| {
            let set = self.delayed(set)?;
            self.s.push_with(slot);
            let body = self.strict(body);
            self.s.pop();
            Ok(keep(Expr::With(slot, set, body?)))
        })();
        match outer {
            Some(outer) => {
                let n = self.s.leave_frame(outer);
                Ok(keep(Expr::Block(n, r?)))
            }
            None => r,
        }
    }

    fn lambda(&mut self, a: &Ast<'_>) -> Res<&'static Lambda> {
        // `a: b: c` is one function of two arguments; a set pattern can only come last, because a call that has no more than
        // that argument fails at once when it does not match.
        let mut params = Vec::new();
        let mut body = a;
        let mut pattern = None;
        while let Node::Lambda(p, b) = &body.node {
            body = b;
            match p {
                Param::Name(s) => params.push(self.name(*s)),
                Param::Formals {
                    formals,
                    ellipsis,
                    bind,
                } => {
                    let bind = bind.map(|name| self.name(name));
                    params.push(bind.unwrap_or_else(|| Sym::new(b"")));
                    pattern = Some((formals, *ellipsis, bind));
                    break;
                }
            }
        }
        let arity = params.len() as u32;
        let outer = self.s.enter_frame();
        self.s.take(arity);
        let formals = pattern.map_or([].as_slice(), |p| p.0);
        let first = self.s.take(formals.len() as u32);
        let unnamed = Sym::new(b"");
        let names = params.iter().copied().zip(0..).filter(|p| p.0 != unnamed);
        let theirs = self.g.names;
        let formal = |f: &crate::parse::ast::Formal<'_>| theirs.map_or(f.name, |n| n.get(f.name));
        let names = names.chain(formals.iter().map(formal).zip(first..));
        self.s.push_names(names);
        let r = self.lambda_body(formals, first, body);
        self.s.pop();
        let slots = self.s.leave_frame(outer);
        let (formals, body) = r?;
        let formals = pattern.map(|(_, ellipsis, bind)| Formals {
            names: formals.into(),
            ellipsis,
            bind,
            seen: FormalsCache::default(),
        });
        let first = super::strict::forced_first(arity, formals.as_ref(), body);
        Ok(keep(Lambda {
            arity,
            slots,
            body,
            later: (0..arity).filter(|i| !first.contains(i)).collect(),
            first: first.into(),
            formals,
            params: params.into(),
            name: std::cell::Cell::new(None),
            pos: self.pos(a.start),
        }))
    }

    fn lambda_body(
        &mut self,
        formals: &[crate::parse::ast::Formal<'_>],
        first: u32,
        body: &Ast<'_>,
    ) -> Res<(Vec<Formal>, E)> {
        let mut out = Vec::new();
        for (i, f) in formals.iter().enumerate() {
            let default = match &f.default {
                Some(d) => Some(self.delayed(d)?),
                None => None,
            };
            out.push(Formal {
                name: self.name(f.name),
                slot: first + i as u32,
                default,
                pos: self.pos(f.pos),
                order: i as u32,
            });
        }
        out.sort_by_key(|f| f.name);
        Ok((out, self.strict(body)?))
    }
}

fn call(fun: E, args: Kept<E>, pos: Pos) -> E {
    keep(Expr::Call { fun, args, pos })
}

/// Whether an expression is worth trying at once instead of making a thunk: arithmetic on variables that may be known already.
fn cheap(e: E, depth: u32) -> bool {
    match e {
        Expr::Const(v) => v.small_int().is_some(),
        Expr::Local(..) | Expr::Up1(..) | Expr::Up(..) => true,
        Expr::Bin { cheap: c, a, b, .. } => {
            *c && depth > 0 && cheap(a, depth - 1) && cheap(b, depth - 1)
        }
        Expr::BinConst { cheap: c, a, .. } => *c && depth > 0 && cheap(a, depth - 1),
        _ => false,
    }
}
