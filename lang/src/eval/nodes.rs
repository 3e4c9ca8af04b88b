//! Nodes that neither branch nor call code: each kind has a function of its own.

use super::run::{in_attr, int_op};
use super::{R, Vm};
use crate::builtins::Prim;
use crate::heap::{Env, Kept, Sym, Value};
use crate::ir::{BinOp, E, Lambda, Name, Pos, ShapeCache};

impl Vm {
    #[inline(never)]
    pub(super) fn select(
        &self,
        base: E,
        sym: Sym,
        cache: &'static ShapeCache,
        pos: Pos,
        env: Env,
    ) -> R {
        self.check_stack()?;
        let b = self.eval(base, env)?;
        let Some(set) = b.as_attrs() else {
            return Err(self.type_error("a set", b, pos));
        };
        let Some(i) = cache.find(set.shape(), sym) else {
            return Err(self.missing(set, sym, pos));
        };
        match self.force(set.values()[i]) {
            Ok(v) => Ok(v),
            Err(x) => Err(in_attr(x, sym, set.shape().pos_at(i), pos)),
        }
    }

    /// `e.a or d` where nothing comes after it.
    #[inline(never)]
    pub(super) fn select_else(
        &self,
        base: E,
        path: &'static Kept<Name>,
        default: E,
        pos: Pos,
        env: Env,
    ) -> R {
        self.check_stack()?;
        match self.select_or(base, path, env, pos)? {
            Some(v) => Ok(v),
            None => self.eval(default, env),
        }
    }

    /// A call of a builtin that was known when the code was read.
    #[inline(never)]
    pub(super) fn prim(&self, prim: &'static Prim, args: &'static [E], pos: Pos, env: Env) -> R {
        self.check_stack()?;
        let values = self.prim_args(prim, args, pos, env, false)?;
        self.call_prim_here(prim, &values[..args.len()], pos)
    }

    /// A call of a builtin that turned out to be one.
    #[inline(never)]
    pub(super) fn call_prim_on(
        &self,
        prim: &'static Prim,
        args: &'static [E],
        pos: Pos,
        env: Env,
    ) -> R {
        if let Some(explain) = prim.on_error
            && let [context, value] = args
        {
            return self.eval(value, env).map_err(|e| {
                let e = explain(self, e, self.delay(context, env), pos);
                super::call::in_prim(e, prim, pos)
            });
        }
        let values = self.prim_args(prim, args, pos, env, true)?;
        self.call_prim_here(prim, &values[..args.len()], pos)
    }

    /// Calls a builtin with all its arguments, which are written in the call.
    #[inline]
    fn call_prim_here(&self, prim: &'static Prim, args: &[Value], pos: Pos) -> R {
        match (prim.run)(self, args, pos) {
            Ok(v) => Ok(v),
            Err(e) => {
                let e = super::cycle::item(e, args, pos, true).among(args, pos);
                Err(super::call::in_prim(e, prim, pos))
            }
        }
    }

    #[inline(never)]
    pub(super) fn bin(&self, op: BinOp, a: E, b: E, pos: Pos, env: Env) -> R {
        self.check_stack()?;
        let a = self.eval(a, env)?;
        let b = self.eval(b, env)?;
        if let (Some(x), Some(y)) = (a.small_int(), b.small_int()) {
            if let Some(v) = int_op(op, x, y) {
                return Ok(v);
            }
        } else if matches!(op, BinOp::Eq | BinOp::Ne)
            && let (Some(x), Some(y)) = (a.as_str(), b.as_str())
        {
            let same = x.bytes() == y.bytes();
            return Ok(Value::bool(same == (op == BinOp::Eq)));
        }
        self.binary(op, a, b, pos)
            .map_err(|e| super::cycle::item(e, &[a, b], pos, true).among(&[a, b], pos))
    }

    #[inline(never)]
    pub(super) fn bin_const(&self, op: BinOp, a: E, b: i64, pos: Pos, env: Env) -> R {
        self.check_stack()?;
        let a = self.eval(a, env)?;
        if let Some(a) = a.small_int()
            && let Some(v) = int_op(op, a, b)
        {
            return Ok(v);
        }
        let b = Value::int(b);
        self.binary(op, a, b, pos)
            .map_err(|e| super::cycle::item(e, &[a, b], pos, true).among(&[a, b], pos))
    }

    /// `&&` when the second operand decides if the first one is true, else `||`.
    #[inline(never)]
    pub(super) fn shortcut(&self, a: E, b: E, both: bool, pos: Pos, env: Env) -> R {
        self.check_stack()?;
        if self.operand(a, env, pos, 0)? != both {
            return Ok(Value::bool(!both));
        }
        Ok(Value::bool(self.operand(b, env, pos, 1)?))
    }

    #[inline(never)]
    pub(super) fn not(&self, x: E, pos: Pos, env: Env) -> R {
        self.check_stack()?;
        Ok(Value::bool(!self.operand(x, env, pos, 0)?))
    }

    #[inline(never)]
    pub(super) fn concat(&self, a: E, b: E, pos: Pos, env: Env) -> R {
        self.check_stack()?;
        let a = self.eval(a, env)?;
        let x = a
            .as_list()
            .ok_or_else(|| self.type_error("a list", a, pos).operand(pos, 0))?;
        let b = self.eval(b, env)?;
        let y = b
            .as_list()
            .ok_or_else(|| self.type_error("a list", b, pos).operand(pos, 1))?;
        Ok(if x.is_empty() {
            b
        } else if y.is_empty() {
            a
        } else {
            Value::list_concat(&[x, y])
        })
    }

    #[inline(never)]
    pub(super) fn update(&self, a: E, b: E, pos: Pos, env: Env) -> R {
        self.check_stack()?;
        let a = self.eval(a, env)?;
        let x = a
            .as_attrs()
            .ok_or_else(|| self.type_error("a set", a, pos).operand(pos, 0))?;
        let b = self.eval(b, env)?;
        let y = b
            .as_attrs()
            .ok_or_else(|| self.type_error("a set", b, pos).operand(pos, 1))?;
        Ok(Value::attrs(self.updates.update(x, y)))
    }

    #[inline(never)]
    pub(super) fn closure(&self, l: &'static Lambda, env: Env) -> R {
        Ok(Value::closure(l, env))
    }

    #[inline(never)]
    pub(super) fn list_literal(&self, items: &'static [E], env: Env) -> R {
        Value::list_build(items.len(), |i| Ok(self.delay(items[i], env)))
    }
}
