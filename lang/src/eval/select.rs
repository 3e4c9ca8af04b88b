//! Attribute paths: `a.b or c`, `a ? b`.

use super::run::{in_attr, pos_of};
use super::{R, Vm};
use crate::error::{Error, Kind};
use crate::heap::{Attrs, Env, Sym, Value};
use crate::ir::{E, Name, Pos};

/// What a path component leads to.
enum Component {
    /// Its name, the set, and the index in it.
    Found(Sym, Attrs, usize),
    /// Its name.
    Missing(Sym),
}

impl Vm {
    /// The value of a path component in a set, not evaluated.
    #[inline(always)]
    fn component(&self, set: Option<Attrs>, n: &'static Name, env: Env) -> R<Component> {
        let (s, i) = match n {
            Name::Static(s, cache) => (*s, set.and_then(|set| cache.find(set.shape(), *s))),
            Name::Dynamic(e) => {
                let v = self.eval(e, env)?;
                let s = Sym::of(self.force_str_no_ctx(v, pos_of(e))?);
                (s, set.and_then(|set| set.shape().find(s)))
            }
        };
        Ok(match (set, i) {
            (Some(set), Some(i)) => Component::Found(s, set, i),
            _ => Component::Missing(s),
        })
    }

    #[inline(always)]
    fn force_component(&self, s: Sym, set: Attrs, i: usize, pos: Pos) -> R {
        match self.force(set.values()[i]) {
            Ok(v) => Ok(v),
            Err(e) => Err(in_attr(e, s, set.shape().pos_at(i), pos)),
        }
    }

    /// Walks a path that must be there.
    #[inline(never)]
    pub(super) fn select_path(&self, base: E, path: &'static [Name], env: Env, pos: Pos) -> R {
        let mut v = self.eval(base, env)?;
        for n in path {
            v = match self.component(v.as_attrs(), n, env)? {
                Component::Found(s, set, i) => self.force_component(s, set, i, pos)?,
                Component::Missing(s) => {
                    return Err(match v.as_attrs() {
                        Some(set) => self.missing(set, s, pos),
                        None => self.type_error("a set", v, pos),
                    });
                }
            };
        }
        Ok(v)
    }

    /// Walks a path; `None` is what `or` is for.
    #[inline(never)]
    pub(super) fn select_or(
        &self,
        base: E,
        path: &'static [Name],
        env: Env,
        pos: Pos,
    ) -> R<Option<Value>> {
        let mut v = self.eval(base, env)?;
        for n in path {
            v = match self.component(v.as_attrs(), n, env)? {
                Component::Found(s, set, i) => self.force_component(s, set, i, pos)?,
                Component::Missing(_) => return Ok(None),
            };
        }
        Ok(Some(v))
    }

    #[inline(never)]
    pub(super) fn has_attr(&self, base: E, path: &'static [Name], env: Env) -> R {
        self.check_stack()?;
        let mut v = self.eval(base, env)?;
        let Some((last, first)) = path.split_last() else {
            return Ok(Value::TRUE);
        };
        for n in first {
            v = match self.component(v.as_attrs(), n, env)? {
                Component::Found(_, set, i) => self.force(set.values()[i])?,
                Component::Missing(_) => return Ok(Value::FALSE),
            };
        }
        let found = self.component(v.as_attrs(), last, env)?;
        Ok(Value::bool(matches!(found, Component::Found(..))))
    }

    #[cold]
    pub(crate) fn missing(&self, set: Attrs, s: Sym, pos: Pos) -> Box<Error> {
        let e = Error::new(
            Kind::AttrMissing,
            pos,
            format!("attribute '{}' missing", s.text()),
        )
        .label("no such attribute");
        let builtins = self.globals().get(&Sym::new(b"builtins"));
        if self.options.pure
            && builtins.is_some_and(|b| *b == Value::attrs(set))
            && let Some(help) = hidden_when_pure(&s.text())
        {
            return e.help(help);
        }
        let names: Vec<String> = set
            .iter_by_name()
            .map(|x| x.0.text().into_owned())
            .collect();
        let e = super::vm::suggest(e, &s.text(), names.iter().map(String::as_str));
        let Some((_, meant)) = &e.spelling else {
            return e;
        };
        let found = set.shape().find(Sym::new(meant.as_bytes()));
        let defined = format!("`{meant}` is defined here");
        match found {
            Some(at) => {
                let at = set.shape().pos_at(at);
                e.other(at, defined)
            }
            None => e,
        }
    }
}

/// What to do about a name that pure evaluation hides.
pub(super) fn hidden_when_pure(name: &str) -> Option<String> {
    let plain = name.strip_prefix("__").unwrap_or(name);
    matches!(plain, "currentTime" | "currentSystem").then(|| {
        format!(
            "pure evaluation, which flakes always have, does not know `{plain}`: use `--impure`"
        )
    })
}
