//! Values for later: thunks, and what can be known at once instead.

use super::Vm;
use super::run::int_op;
use crate::heap::{Env, Native, Sym, Tag, Value};
use crate::ir::{E, Expr, ShapeCache};

/// A value that follows from the name of a store object, and where that is; the host learns when the program looks at it.
static NAMED: Native = Native {
    run: |vm, a| {
        if let Some(path) = a[0].as_str() {
            vm.path_named(path.bytes());
        }
        Ok(a[1])
    },
};

/// A value that follows from the name of the store object at `place`, a text: see [`Vm::path_named`].
pub(crate) fn named(place: Value, v: Value) -> Value {
    Value::thunk_native(&NAMED, place, v)
}

impl Vm {
    /// What is behind a thunk that only waits to be looked at.
    pub(crate) fn look_at_named(&self, v: Value) -> Option<Value> {
        let (native, place, known) = v.as_thunk()?.native()?;
        std::ptr::eq(native, &raw const NAMED).then(|| {
            self.path_named(place.as_str().map_or(&[][..], |s| s.bytes()));
            known
        })
    }

    /// A value for later: known ones at once, else a thunk.
    #[inline]
    pub(crate) fn delay(&self, e: E, env: Env) -> Value {
        let v = match e {
            Expr::Const(v) => return *v,
            Expr::Local(i, ..) => env.get(*i),
            Expr::Up1(i, ..) => env.up(1).get(*i),
            Expr::Up(n, i, ..) => env.up(*n).get(*i),
            Expr::Lambda(l) => return Value::closure(l, env),
            Expr::Select {
                base, sym, cache, ..
            } => {
                // Two functions are equal only when they are the same object, and each selection is one of its own.
                let known = self.known_attr(base, *sym, cache, env).map(Value::peel);
                known.filter(|v| v.tag() != Tag::Fun)
            }
            Expr::BinConst { cheap: true, .. } | Expr::Bin { cheap: true, .. } => {
                self.speculate(e, env)
            }
            // No bigger than a thunk, or not much, and it keeps no frame.
            Expr::Attrs(lit) if lit.is_small() => {
                return Value::attrs(self.fixed_attrs(lit, env));
            }
            Expr::List(items) if items.len() <= 3 => {
                return match Value::list_build(items.len(), |i| {
                    Ok::<_, std::convert::Infallible>(self.delay(items[i], env))
                }) {
                    Ok(v) => v,
                };
            }
            _ => None,
        };
        match v {
            Some(v) => v.peel(),
            None => Value::thunk(e, env),
        }
    }

    /// An attribute of a set that is evaluated already: the attribute itself needs no thunk around it.
    pub(super) fn known_attr(
        &self,
        base: E,
        sym: Sym,
        cache: &ShapeCache,
        env: Env,
    ) -> Option<Value> {
        let base = match base {
            Expr::Const(v) => Some(*v),
            Expr::Local(i, ..) => env.get(*i),
            Expr::Up1(i, ..) => env.up(1).get(*i),
            Expr::Up(n, i, ..) => env.up(*n).get(*i),
            Expr::Select {
                base, sym, cache, ..
            } => self.known_attr(base, *sym, cache, env),
            _ => None,
        };
        let set = base?.peel().as_attrs()?;
        Some(set.values()[cache.find(set.shape(), sym)?])
    }

    /// Arithmetic whose operands are known integers and whose result is one too: nothing to see from outside if done early.
    #[inline]
    pub(super) fn speculate(&self, e: E, env: Env) -> Option<Value> {
        match e {
            Expr::BinConst { op, a, b, .. } => int_op(*op, self.known_int(a, env)?, *b),
            Expr::Bin { op, a, b, .. } => {
                int_op(*op, self.known_int(a, env)?, self.known_int(b, env)?)
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn known_int(&self, e: E, env: Env) -> Option<i64> {
        match e {
            Expr::Local(i, ..) => env.get(*i)?.peel().small_int(),
            _ => self.known_int_outside(e, env),
        }
    }

    fn known_int_outside(&self, e: E, env: Env) -> Option<i64> {
        match e {
            Expr::Const(v) => *v,
            Expr::Up1(i, ..) => env.up(1).get(*i)?.peel(),
            Expr::Up(n, i, ..) => env.up(*n).get(*i)?.peel(),
            _ => self.speculate(e, env)?,
        }
        .small_int()
    }
}
