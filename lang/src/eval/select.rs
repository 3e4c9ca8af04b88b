//! Attribute paths: `a.b or c`, `a ? b`.

use super::run::{in_attr, pos_of};
use super::{R, Vm};
use crate::error::{Error, Kind};
use crate::heap::{Attrs, Env, Sym, Value};
use crate::ir::{E, Name, Pos};

impl Vm {
    /// The name of a path component.
    fn name(&self, n: &'static Name, env: Env) -> R<Sym> {
        match n {
            Name::Static(s, _) => Ok(*s),
            Name::Dynamic(e) => {
                let v = self.eval(e, env)?;
                Ok(Sym::new(self.force_str_no_ctx(v, pos_of(e))?))
            }
        }
    }

    /// Walks a path. The inner error is what `or` is for: the value that has no such attribute.
    pub(super) fn select_path(
        &self,
        base: E,
        path: &'static [Name],
        env: Env,
        pos: Pos,
    ) -> R<Result<Value, (Value, Sym)>> {
        let mut v = self.eval(base, env)?;
        for n in path {
            let s = self.name(n, env)?;
            let Some(set) = v.as_attrs() else {
                return Ok(Err((v, s)));
            };
            let i = match n {
                Name::Static(_, cache) => cache.find(set.shape(), s),
                Name::Dynamic(_) => set.shape().find(s),
            };
            let Some(i) = i else { return Ok(Err((v, s))) };
            v = self
                .force(set.values()[i])
                .map_err(|e| in_attr(e, s, set.shape().pos_at(i), pos))?;
        }
        Ok(Ok(v))
    }

    pub(super) fn has_attr(&self, base: E, path: &'static [Name], env: Env) -> R {
        let mut v = self.eval(base, env)?;
        for (k, n) in path.iter().enumerate() {
            let s = self.name(n, env)?;
            let Some(set) = v.as_attrs() else {
                return Ok(Value::FALSE);
            };
            let i = match n {
                Name::Static(_, cache) => cache.find(set.shape(), s),
                Name::Dynamic(_) => set.shape().find(s),
            };
            let Some(i) = i else { return Ok(Value::FALSE) };
            if k + 1 < path.len() {
                v = self.force(set.values()[i])?;
            }
        }
        Ok(Value::TRUE)
    }

    #[cold]
    pub(crate) fn missing(&self, set: Attrs, s: Sym, pos: Pos) -> Box<Error> {
        let e = Error::new(
            Kind::AttrMissing,
            pos,
            format!("attribute '{}' missing", s.text()),
        )
        .label("no such attribute");
        let names: Vec<String> = set
            .iter_by_name()
            .map(|x| x.0.text().into_owned())
            .collect();
        super::vm::suggest(e, &s.text(), names.iter().map(String::as_str))
    }
}
