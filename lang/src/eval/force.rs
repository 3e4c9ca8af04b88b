//! From thunks to values.

use super::{R, Vm, cycle, parts};
use crate::error::{Error, Kind, Traced};
use crate::heap::{Attrs, Code, Str, Tag, Thunk, ThunkState, Value};
use crate::ir::Pos;

impl Vm {
    /// Evaluates a value far enough to know its type.
    #[inline(always)]
    pub(crate) fn force(&self, v: Value) -> R {
        match v.as_thunk() {
            None => Ok(v),
            Some(t) => match t.state() {
                ThunkState::Done(v) => Ok(v),
                _ => self.force_thunk(t),
            },
        }
    }

    #[inline(never)]
    fn force_thunk(&self, t: Thunk) -> R {
        self.check_stack()?;
        let Some(code) = t.start() else {
            return Err(cycle::infinite(t));
        };
        // Whoever needs the value did not write it.
        let site = self.site.replace(Pos::NONE);
        let r = match code {
            Code::Expr(e, env) => self.eval_node(e, env),
            Code::App(f, x) => {
                let (f, pos) = f.without_place();
                self.call(f, &[x], pos)
            }
            Code::App2(f, x, y) => {
                let (f, pos) = f.without_place();
                self.call(f, &[x, y], pos)
            }
            Code::Native(n, a, b) => (n.run)(self, &[a, b]),
        };
        self.site.set(site);
        match r {
            Ok(v) => {
                t.finish(v);
                Ok(v)
            }
            Err(e) => {
                t.restore(code);
                Err(cycle::leave(parts::of_thunk(e, code), t))
            }
        }
    }

    /// Evaluates a value and everything in it.
    pub(crate) fn force_deep(&self, v: Value, pos: Pos) -> R {
        let mut seen = rustc_hash::FxHashSet::default();
        self.force_deep_in(v, pos, &mut seen)
    }

    fn force_deep_in(&self, v: Value, pos: Pos, seen: &mut rustc_hash::FxHashSet<u64>) -> R {
        self.check_stack()?;
        let v = self.force(v).map_err(|e| e.at(pos))?;
        if matches!(v.tag(), Tag::Attrs | Tag::List) && seen.insert(v.identity()) {
            self.deeper(pos, || self.force_items(v, pos, seen))?;
        }
        Ok(v)
    }

    fn force_items(&self, v: Value, pos: Pos, seen: &mut rustc_hash::FxHashSet<u64>) -> R<()> {
        match v.tag() {
            Tag::Attrs => {
                let Some(a) = v.as_attrs() else {
                    return Ok(());
                };
                for (i, (s, x)) in a.iter().enumerate() {
                    let p = a.shape().pos_at(i);
                    let r = self.force_deep_in(x, p, seen);
                    r.map_err(|e| cycle::step(e, s, p)).traced(
                        || format!("while evaluating the attribute '{}'", s.text()),
                        p,
                    )?;
                }
            }
            Tag::List => {
                for (i, x) in v.as_list().unwrap_or_default().iter().enumerate() {
                    self.force_deep_in(*x, pos, seen).traced(
                        || format!("while evaluating list element at index {i}"),
                        Pos::NONE,
                    )?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// "expected X but found Y".
    #[cold]
    pub(crate) fn type_error(&self, want: &str, v: Value, pos: Pos) -> Box<Error> {
        Error::new(
            Kind::Type,
            pos,
            format!(
                "expected {want} but found {}: {}",
                self.show_type(v),
                self.show_short(v)
            ),
        )
        .label(format!("this is {}", self.show_type(v)))
        .wrong(v)
    }

    #[inline]
    pub(crate) fn force_int(&self, v: Value, pos: Pos) -> R<i64> {
        let v = self.force(v)?;
        v.as_int()
            .ok_or_else(|| self.type_error("an integer", v, pos))
    }

    #[inline]
    pub(crate) fn force_bool(&self, v: Value, pos: Pos) -> R<bool> {
        let v = self.force(v)?;
        v.as_bool()
            .ok_or_else(|| self.type_error("a Boolean", v, pos))
    }

    #[inline]
    pub(crate) fn force_attrs(&self, v: Value, pos: Pos) -> R<Attrs> {
        let v = self.force(v)?;
        v.as_attrs().ok_or_else(|| self.type_error("a set", v, pos))
    }

    #[inline]
    pub(crate) fn force_list(&self, v: Value, pos: Pos) -> R<&'static [Value]> {
        let v = self.force(v)?;
        v.as_list().ok_or_else(|| self.type_error("a list", v, pos))
    }

    #[inline]
    pub(crate) fn force_str(&self, v: Value, pos: Pos) -> R<Str> {
        let v = self.force(v)?;
        v.as_str()
            .ok_or_else(|| self.type_error("a string", v, pos))
    }

    /// A function: also a set with `__functor`.
    pub(crate) fn force_fun(&self, v: Value, pos: Pos) -> R {
        let v = self.force(v)?;
        if v.tag() == Tag::Fun
            || v.as_attrs()
                .is_some_and(|a| a.get(self.s.functor).is_some())
        {
            Ok(v)
        } else {
            Err(self.type_error("a function", v, pos))
        }
    }

    /// A string that must not have a context.
    pub(crate) fn force_str_no_ctx(&self, v: Value, pos: Pos) -> R<&'static [u8]> {
        let s = self.force_str(v, pos)?;
        if s.ctx() != 0 {
            let first = self.ctx_elems(s.ctx()).into_iter().next();
            let what = first.map_or_else(String::new, |e| self.show_context(&e));
            return Err(Error::new(
                Kind::Context,
                pos,
                format!(
                    "the string '{}' is not allowed to refer to a store path (such as '{what}')",
                    String::from_utf8_lossy(s.bytes())
                ),
            ));
        }
        Ok(s.bytes())
    }

    /// A context element as Nix writes it.
    pub(crate) fn show_context(&self, e: &crate::host::ContextElem) -> String {
        use crate::host::ContextElem as C;
        match e {
            C::Opaque(p) => p.base(),
            C::Built(p, o) => format!("!{o}!{}", p.base()),
            C::Closure(p) => format!("={}", p.base()),
        }
    }

    /// The kind of a value, with an article.
    pub(crate) fn show_type(&self, v: Value) -> &'static str {
        let v = v.peel();
        match v.tag() {
            Tag::Thunk => "a thunk",
            Tag::Int => "an integer",
            Tag::Str => "a string",
            Tag::Attrs => "a set",
            Tag::List => "a list",
            Tag::Fun => match v.as_fun() {
                Some(crate::heap::Fun::Prim(_)) => "a built-in function",
                Some(crate::heap::Fun::Partial(f, _))
                    if matches!(f.as_fun(), Some(crate::heap::Fun::Prim(_))) =>
                {
                    "a partially applied built-in function"
                }
                _ => "a function",
            },
            Tag::Imm if v == Value::NULL => "null",
            Tag::Imm => "a Boolean",
            Tag::Boxed if v.as_float().is_some() => "a float",
            Tag::Boxed if v.as_path().is_some() => "a path",
            Tag::Boxed => "an integer",
        }
    }
}
