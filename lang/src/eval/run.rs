//! The loop that runs IR.

use super::{R, Vm, cycle};
use crate::error::{Error, Kind};
use crate::heap::{Attrs, Env, Fun, Sym, Value};
use crate::ir::{AttrsLit, BinOp, E, Expr, Pos, ShapeCache};

/// Whether a call is of a function that has a name, and not of what a file holds: `make "x"`, but neither `import ./x.nix { }` nor
/// `callPackage ./x.nix { }`, whose user wrote what is in the file.
fn is_helper(fun: E, args: &[E]) -> bool {
    let named = matches!(
        fun,
        Expr::Local(..)
            | Expr::Up1(..)
            | Expr::Up(..)
            | Expr::Select { .. }
            | Expr::SelectPath { .. }
            | Expr::WithVar { .. }
    );
    let is_file = |arg: &E| matches!(arg, Expr::Const(v) if v.as_path().is_some());
    named && !args.first().is_some_and(is_file)
}

/// What running code with tail calls leaves behind.
struct Tail {
    /// The frame of the last call, which nobody else may hold.
    made: Env,
    /// Where that call is written.
    last: Pos,
}

impl Default for Tail {
    #[inline(always)]
    fn default() -> Self {
        Self {
            made: Env::NONE,
            last: Pos::NONE,
        }
    }
}

impl Vm {
    /// Evaluates an expression.
    #[inline(always)]
    pub(crate) fn eval(&self, e: E, env: Env) -> R {
        match e {
            Expr::Const(v) if v.as_thunk().is_none() => Ok(*v),
            Expr::Local(i, ..) => match env.get(*i) {
                Some(v) if v.as_thunk().is_none() => Ok(v),
                _ => self.eval_node(e, env),
            },
            _ => self.eval_node(e, env),
        }
    }

    /// Hands a node to the code for its kind. Kinds that neither branch nor call need not pay for what that needs.
    #[inline(never)]
    pub(super) fn eval_node(&self, e: E, env: Env) -> R {
        match e {
            Expr::Local(i, s, pos) => self.variable(env, *i, *s, *pos),
            Expr::Up1(i, s, pos) => self.variable(env.up(1), *i, *s, *pos),
            Expr::Up(n, i, s, pos) => self.variable(env.up(*n), *i, *s, *pos),
            Expr::Select {
                base,
                sym,
                cache,
                pos,
            } => self.select(base, *sym, cache, *pos, env),
            Expr::Prim { prim, args, pos } => self.prim(prim, args, *pos, env),
            Expr::Bin {
                op,
                a,
                b,
                pos,
                cheap,
            } => match cheap.then(|| self.speculate(e, env)).flatten() {
                Some(v) => Ok(v),
                None => self.bin(*op, a, b, *pos, env),
            },
            Expr::BinConst { op, a, b, pos, .. } => self.bin_const(*op, a, *b, *pos, env),
            Expr::HasAttr { base, path, .. } => self.has_attr(base, path, env),
            Expr::SelectPath {
                base,
                path,
                default: Some(default),
                pos,
            } => self.select_else(base, path, default, *pos, env),
            Expr::And(a, b, pos) => self.shortcut(a, b, true, *pos, env),
            Expr::Or(a, b, pos) => self.shortcut(a, b, false, *pos, env),
            Expr::Not(x, pos) => self.not(x, *pos, env),
            Expr::Concat(a, b, pos) => self.concat(a, b, *pos, env),
            Expr::Update(a, b, pos) => self.update(a, b, *pos, env),
            Expr::Lambda(l) => self.closure(l, env),
            Expr::Attrs(lit) => self.attrs_literal(lit, env),
            Expr::List(items) => self.list_literal(items, env),
            Expr::WithVar { sym, pos, scopes } => self.with_variable(*sym, *pos, scopes, env),
            Expr::Interp(parts, pos) => self.interpolate(parts, env, *pos),
            Expr::PathInterp(parts, pos) => self.interpolate_path(parts, env, *pos),
            _ => self.eval_code(e, env),
        }
    }

    #[inline(never)]
    fn eval_code(&self, e: E, env: Env) -> R {
        self.check_stack()?;
        let depth = self.depth();
        let mut tail = Tail::default();
        let r = self.run(e, env, &mut tail);
        tail.made.release();
        let r = match r {
            Ok(v) => Ok(v),
            Err(error) => {
                let calls = self.depth().saturating_sub(depth);
                Err(cycle::through_call(error, tail.last, calls as usize))
            }
        };
        self.set_depth(depth);
        if depth == 0 {
            self.site.set(Pos::NONE);
        }
        match r {
            Ok(v) => Ok(v),
            Err(error) => Err(self.called_from(error, e, tail.last)),
        }
    }

    /// Tail calls leave no frame on the stack. Of those that led to an error, the last one and the first one are known.
    #[cold]
    fn called_from(&self, mut error: Box<Error>, mut e: E, last: Pos) -> Box<Error> {
        error = self.called_at(error, last);
        while let Expr::Block(_, body) | Expr::Let(_, body) | Expr::With(_, _, body) = e {
            e = body;
        }
        let Expr::Call { pos, .. } = e else {
            return error;
        };
        self.called_at(error, *pos)
    }

    /// Adds the place of a call that the user wrote, unless that is the last one said.
    fn called_at(&self, error: Box<Error>, pos: Pos) -> Box<Error> {
        let before = error.trace.last().map_or(error.pos, |frame| frame.1);
        if pos == before || !self.is_outside(pos) {
            return error;
        }
        error.frame("from call site", pos)
    }

    #[inline(always)]
    fn variable(&self, frame: Env, slot: u32, s: Sym, pos: Pos) -> R {
        match frame.get(slot) {
            Some(v) => {
                let v = v.peel();
                if v.as_thunk().is_some() {
                    return self.variable_forced(Some(v), frame, slot, s, pos);
                }
                // The next one need not go through the thunk.
                frame.set(slot, v);
                Ok(v)
            }
            None => self.variable_forced(None, frame, slot, s, pos),
        }
    }

    #[inline(never)]
    fn variable_forced(&self, v: Option<Value>, frame: Env, slot: u32, s: Sym, pos: Pos) -> R {
        let Some(v) = v else {
            return Err(Error::new(
                Kind::Cycle,
                pos,
                "infinite recursion encountered",
            ));
        };
        match self.force(v) {
            Ok(v) => {
                frame.set(slot, v);
                Ok(v)
            }
            Err(e) => Err(variable_error(e, s, pos)),
        }
    }

    #[inline(always)]
    pub(super) fn condition(&self, e: E, env: Env, pos: Pos) -> R<bool> {
        let v = self.eval(e, env)?;
        match v.as_bool() {
            Some(b) => Ok(b),
            None => Err(self.type_error("a Boolean", v, pos.or(pos_of(e)))),
        }
    }

    /// The truth value of an operand of the operator at `pos`.
    #[inline(always)]
    pub(super) fn operand(&self, e: E, env: Env, pos: Pos, index: usize) -> R<bool> {
        let v = self.eval(e, env)?;
        match v.as_bool() {
            Some(b) => Ok(b),
            None => Err(self.type_error("a Boolean", v, pos).operand(pos, index)),
        }
    }

    /// Runs code to its value. `made`: the innermost frame, when it was made here.
    #[inline(always)]
    fn run(&self, mut e: E, mut env: Env, tail: &mut Tail) -> R {
        loop {
            match e {
                Expr::If(c, t, f) => {
                    e = if self.condition(c, env, Pos::NONE)? {
                        t
                    } else {
                        f
                    }
                }
                Expr::Call { fun, args, pos } => {
                    let f = self.eval(fun, env)?;
                    if let Some(Fun::Closure(l, cenv)) = f.as_fun()
                        && l.arity as usize == args.len()
                    {
                        let frame = Env::new(cenv, l.slots, l.arity);
                        for &i in &l.first {
                            frame.set(i, self.eval(args[i as usize], env)?);
                        }
                        for &i in &l.later {
                            frame.set(i, self.delay(args[i as usize], env));
                        }
                        self.enter(*pos)?;
                        if self.site.get() == Pos::NONE && is_helper(fun, args) {
                            self.site.set(*pos);
                        }
                        if let Some(formals) = &l.formals {
                            self.bind_formals(l, formals, frame, *pos)?;
                        }
                        tail.made.release();
                        tail.made = frame;
                        tail.last = *pos;
                        e = l.body;
                        env = frame;
                        continue;
                    }
                    if let Some(Fun::Prim(p)) = f.as_fun()
                        && p.arity as usize == args.len()
                    {
                        self.enter(*pos)?;
                        return self.call_prim_on(p, args, *pos, env);
                    }
                    return self.call_general(f, args, env, *pos);
                }
                Expr::Let(binds, body) => {
                    for (slot, x) in binds {
                        env.set(*slot, self.delay(x, env));
                    }
                    e = body;
                }
                Expr::Block(n, body) => {
                    env.keep();
                    env = Env::new(env, *n, 0);
                    tail.made = env;
                    e = body;
                }
                Expr::With(slot, set, body) => {
                    env.set(*slot, self.delay(set, env));
                    e = body;
                }
                Expr::SelectPath {
                    base,
                    path,
                    default: Some(default),
                    pos,
                } => match self.select_or(base, path, env, *pos)? {
                    Some(v) => return Ok(v),
                    None => e = default,
                },
                Expr::SelectPath {
                    base, path, pos, ..
                } => return self.select_path(base, path, env, *pos),
                Expr::Assert {
                    cond,
                    body,
                    pos,
                    end,
                } => {
                    self.assert(cond, env, *pos, *end)?;
                    e = body;
                }
                Expr::Const(v) => return self.force(*v),
                Expr::Implies(a, b, pos) => {
                    if !self.operand(a, env, *pos, 0)? {
                        return Ok(Value::TRUE);
                    }
                    return Ok(Value::bool(self.operand(b, env, *pos, 1)?));
                }
                Expr::Neg(x, pos) => {
                    let v = self.eval(x, env)?;
                    return self
                        .binary(BinOp::Sub, Value::int(0), v, *pos)
                        .map_err(|e| e.among(&[v], *pos));
                }
                _ => return self.eval_node(e, env),
            }
        }
    }

    /// A variable that only `with` can define.
    #[inline(never)]
    fn with_variable(
        &self,
        sym: Sym,
        pos: Pos,
        scopes: &'static [(u32, u32, ShapeCache)],
        env: Env,
    ) -> R {
        for (up, slot, cache) in scopes {
            let frame = env.up(*up);
            let Some(v) = frame.get(*slot) else { continue };
            let v = if v.as_thunk().is_some() {
                let v = self.force(v)?;
                frame.set(*slot, v);
                v
            } else {
                v
            };
            let Some(set) = v.as_attrs() else {
                return Err(self.type_error("a set", v, pos));
            };
            if let Some(i) = cache.find(set.shape(), sym) {
                return match self.force(set.values()[i]) {
                    Ok(v) => Ok(v),
                    Err(e) => Err(variable_error(e, sym, pos)),
                };
            }
        }
        let sets = scopes.iter().map(|(up, slot, _)| env.up(*up).get(*slot));
        Err(self.undefined_in_with(sym, pos, sets))
    }

    /// Checks an assertion; that of an equation says what differs.
    #[inline(never)]
    fn assert(&self, cond: E, env: Env, pos: Pos, end: Pos) -> R<()> {
        let (x, y, op) = match cond {
            Expr::Bin {
                op: BinOp::Eq,
                a,
                b,
                pos: op,
                ..
            } => (self.eval(a, env)?, self.eval(b, env)?, *op),
            Expr::BinConst {
                op: BinOp::Eq,
                a,
                b,
                pos: op,
                ..
            } => (self.eval(a, env)?, Value::int(*b), *op),
            _ if self.condition(cond, env, pos)? => return Ok(()),
            _ => return Err(self.assertion_failed(pos, end)),
        };
        if self.equal(x, y, op)? {
            Ok(())
        } else {
            Err(self.not_equal(x, y, pos, end))
        }
    }

    #[inline(never)]
    fn call_general(&self, f: Value, args: &[E], env: Env, pos: Pos) -> R {
        let mut buf = [Value::NULL; 6];
        if args.len() <= buf.len() {
            for (i, a) in args.iter().enumerate() {
                buf[i] = self.delay(a, env);
            }
            return self.call(f, &buf[..args.len()], pos);
        }
        let all: Vec<Value> = args.iter().map(|a| self.delay(a, env)).collect();
        self.call(f, &all, pos)
    }

    #[inline(never)]
    pub(super) fn attrs_literal(&self, lit: &'static AttrsLit, env: Env) -> R {
        let set = if lit.overrides {
            self.attrs_overridden(lit, env)?
        } else {
            for (slot, x) in &lit.pre {
                env.set(*slot, self.delay(x, env));
            }
            self.fixed_attrs(lit, env)
        };
        if lit.dynamic.is_empty() {
            return Ok(Value::attrs(set));
        }
        let mut all: Vec<(Sym, Value, Pos)> = set.entries().collect();
        let fixed = all.len();
        for (name, value, pos) in &lit.dynamic {
            let n = self.eval(name, env)?;
            if n == Value::NULL {
                continue;
            }
            let s = Sym::of(self.force_str_no_ctx(n, pos_of(name).or(*pos))?);
            let old = all[..fixed]
                .binary_search_by_key(&s, |x| x.0)
                .ok()
                .map(|i| all[i])
                .or_else(|| all[fixed..].iter().find(|x| x.0 == s).copied());
            if let Some(old) = old {
                let at = self.show_pos(old.2);
                return Err(Error::new(
                    Kind::Value,
                    *pos,
                    format!("dynamic attribute '{}' already defined at {at}", s.text()),
                )
                .other(old.2, "first defined here"));
            }
            all.push((s, self.delay(value, env), *pos));
        }
        Ok(Value::attrs(Attrs::from_pairs(all)))
    }

    pub(super) fn fixed_attrs(&self, lit: &'static AttrsLit, env: Env) -> Attrs {
        match Attrs::build(lit.shape, |i| {
            Ok::<_, std::convert::Infallible>(self.delay(lit.values[i], env))
        }) {
            Ok(set) => set,
        }
    }

    /// `rec { __overrides = ..; }`: its attributes replace those of the set, for the set's own code too.
    fn attrs_overridden(&self, lit: &'static AttrsLit, env: Env) -> R<Attrs> {
        // Nothing may look at a variable before the overrides are in place.
        for (slot, x) in &lit.pre {
            env.set(*slot, Value::thunk(x, env));
        }
        let set = self.fixed_attrs(lit, env);
        let Some(over) = set.get(self.s.overrides) else {
            return Ok(set);
        };
        let over = self.force_attrs(over, lit.pos)?;
        for (s, v) in over.iter() {
            if let Some(i) = lit.shape.find(s) {
                env.set(lit.slots[i], v);
            }
        }
        Ok(self.updates.update(set, over))
    }

    #[cold]
    fn undefined_in_with(
        &self,
        s: Sym,
        pos: Pos,
        sets: impl Iterator<Item = Option<Value>>,
    ) -> Box<Error> {
        let mut known: Vec<String> = Vec::new();
        for v in sets.flatten() {
            if let Some(a) = v.peel().as_attrs() {
                known.extend(a.iter_by_name().map(|x| x.0.text().into_owned()));
            }
        }
        let e = Error::new(
            Kind::Undefined,
            pos,
            format!("undefined variable '{}'", s.text()),
        );
        super::vm::suggest(e, &s.text(), known.iter().map(String::as_str))
    }
}

impl Pos {
    /// This place, or another if there is none.
    pub(crate) fn or(self, other: Pos) -> Pos {
        if self == Pos::NONE { other } else { self }
    }
}

/// Where an expression is, if it says so.
pub(crate) fn pos_of(e: E) -> Pos {
    match e {
        Expr::Local(_, _, p) | Expr::Up1(_, _, p) | Expr::Up(_, _, _, p) => *p,
        Expr::WithVar { pos, .. }
        | Expr::Call { pos, .. }
        | Expr::Prim { pos, .. }
        | Expr::Select { pos, .. }
        | Expr::SelectPath { pos, .. }
        | Expr::HasAttr { pos, .. }
        | Expr::Bin { pos, .. }
        | Expr::BinConst { pos, .. }
        | Expr::Assert { pos, .. } => *pos,
        Expr::Lambda(l) => l.pos,
        Expr::Attrs(l) => l.pos,
        Expr::And(_, _, p)
        | Expr::Or(_, _, p)
        | Expr::Implies(_, _, p)
        | Expr::Not(_, p)
        | Expr::Neg(_, p) => *p,
        Expr::Concat(_, _, p)
        | Expr::Update(_, _, p)
        | Expr::Interp(_, p)
        | Expr::PathInterp(_, p) => *p,
        Expr::Block(_, e) | Expr::Let(_, e) | Expr::With(_, _, e) => pos_of(e),
        Expr::If(c, ..) => pos_of(c),
        Expr::Const(_) | Expr::List(_) => Pos::NONE,
    }
}

#[cold]
fn variable_error(e: Box<Error>, s: Sym, pos: Pos) -> Box<Error> {
    cycle::step(e.at(pos), s, pos)
}

#[cold]
pub(super) fn in_attr(e: Box<Error>, s: Sym, def: Pos, pos: Pos) -> Box<Error> {
    cycle::step(e.at(pos), s, pos).frame(
        format!("while evaluating the attribute '{}'", s.text()),
        def.or(pos),
    )
}

/// Integer arithmetic; `None` when it overflows, divides by zero or does not apply.
#[inline(always)]
pub(super) fn int_op(op: BinOp, a: i64, b: i64) -> Option<Value> {
    Some(match op {
        BinOp::Add => Value::int(a.checked_add(b)?),
        BinOp::Sub => Value::int(a.checked_sub(b)?),
        BinOp::Mul => Value::int(a.checked_mul(b)?),
        BinOp::Div => Value::int(a.checked_div(b)?),
        BinOp::Eq => Value::bool(a == b),
        BinOp::Ne => Value::bool(a != b),
        BinOp::Lt => Value::bool(a < b),
        BinOp::Le => Value::bool(a <= b),
        BinOp::Gt => Value::bool(a > b),
        BinOp::Ge => Value::bool(a >= b),
    })
}
