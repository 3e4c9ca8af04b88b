//! Lowering of `let` and attribute sets.

use super::lower::{Lower, Res};
use super::{AttrsLit, E, Expr, Pos, ShapeCache};
use crate::heap::{Attrs, Kept, Shape, Sym, Value, keep};
use crate::parse::ast::{Ast, AttrSet, AttrValue};

impl Lower<'_> {
    /// The definitions of a set, with slots for those that are variables.
    fn definition(&mut self, v: &AttrValue<'_>, name: Sym, pos: Pos, from: &[u32]) -> Res<E> {
        match v {
            AttrValue::Plain(a) => {
                let e = self.delayed(a)?;
                if let Expr::Lambda(l) = e
                    && l.name.get().is_none()
                {
                    l.name.set(Some(name));
                }
                Ok(e)
            }
            AttrValue::Inherit => self.variable(name, pos),
            AttrValue::From(i) => {
                let base = keep(Expr::Local(from[*i], name, pos));
                Ok(keep(Expr::Select {
                    base,
                    sym: name,
                    cache: ShapeCache::default(),
                    pos,
                }))
            }
        }
    }

    /// Puts the names of a `let` or recursive set into scope and lowers the definitions.
    fn bind(&mut self, set: &AttrSet<'_>) -> Res<Vec<(u32, E)>> {
        let n = set.attrs.len() as u32;
        let first = self.s.take(n + set.from.len() as u32);
        let from: Vec<u32> = (0..set.from.len() as u32).map(|i| first + n + i).collect();
        let theirs = self.g.names;
        let names = set
            .attrs
            .iter()
            .map(|a| theirs.map_or(a.name, |n| n.get(a.name)));
        self.s.push_names(names.zip(first..));
        let mut pre = Vec::with_capacity(set.from.len() + set.attrs.len());
        for (slot, e) in from.iter().zip(&set.from) {
            pre.push((*slot, self.delayed(e)?));
        }
        for (i, a) in set.attrs.iter().enumerate() {
            let pos = self.pos(a.pos);
            let name = self.name(a.name);
            let e = if matches!(a.value, AttrValue::Inherit) {
                self.s.hide();
                let r = self.definition(&a.value, name, pos, &from);
                self.s.unhide();
                r?
            } else {
                self.definition(&a.value, name, pos, &from)?
            };
            pre.push((first + i as u32, e));
        }
        Ok(pre)
    }

    pub(super) fn let_in(&mut self, set: &AttrSet<'_>, body: &Ast<'_>) -> Res<E> {
        let n = (set.attrs.len() + set.from.len()) as u32;
        let outer = if self.s.can_share(n) {
            None
        } else {
            Some(self.s.enter_frame())
        };
        let r = (|| {
            let pre = self.bind(set)?;
            let body = self.strict(body)?;
            Ok(keep(Expr::Let(pre.into(), body)))
        })();
        self.s.pop();
        match outer {
            Some(outer) => {
                let n = self.s.leave_frame(outer);
                Ok(keep(Expr::Block(n, r?)))
            }
            None => r,
        }
    }

    pub(super) fn attrs(&mut self, set: &AttrSet<'_>, pos: Pos) -> Res<E> {
        if set.attrs.is_empty() && set.dynamic.is_empty() {
            return Ok(keep(Expr::Const(Value::attrs(Attrs::empty()))));
        }
        let n = if set.recursive {
            set.attrs.len() + set.from.len()
        } else {
            set.from.len()
        } as u32;
        let outer = if n == 0 || self.s.can_share(n) {
            None
        } else {
            Some(self.s.enter_frame())
        };
        let r = self.attrs_inner(set, pos);
        match outer {
            Some(outer) => {
                let n = self.s.leave_frame(outer);
                Ok(keep(Expr::Block(n, r?)))
            }
            None => r,
        }
    }

    fn attrs_inner(&mut self, set: &AttrSet<'_>, pos: Pos) -> Res<E> {
        let mut order: Vec<usize> = (0..set.attrs.len()).collect();
        order.sort_by_key(|&i| self.name(set.attrs[i].name));
        let mut pre = Vec::new();
        let mut values: Vec<E> = Vec::with_capacity(order.len());
        let mut slots = Vec::new();
        if set.recursive {
            let r = self.bind(set);
            let dynamic = r.and_then(|p| {
                pre = p;
                self.dynamic(set)
            });
            self.s.pop();
            let dynamic = dynamic?;
            let defs = &pre[set.from.len()..];
            for &i in &order {
                let (slot, _) = defs[i];
                slots.push(slot);
                values.push(keep(Expr::Local(
                    slot,
                    self.name(set.attrs[i].name),
                    self.pos(set.attrs[i].pos),
                )));
            }
            return Ok(self.literal(set, &order, values, pre, dynamic, slots, pos));
        }
        let first = self.s.take(set.from.len() as u32);
        let from: Vec<u32> = (0..set.from.len() as u32).map(|i| first + i).collect();
        for (slot, e) in from.iter().zip(&set.from) {
            pre.push((*slot, self.delayed(e)?));
        }
        for &i in &order {
            let a = &set.attrs[i];
            values.push(self.definition(&a.value, self.name(a.name), self.pos(a.pos), &from)?);
        }
        let dynamic = self.dynamic(set)?;
        Ok(self.literal(set, &order, values, pre, dynamic, slots, pos))
    }

    fn dynamic(&mut self, set: &AttrSet<'_>) -> Res<Vec<(E, E, Pos)>> {
        set.dynamic
            .iter()
            .map(|d| {
                Ok((
                    self.strict(&d.name)?,
                    self.delayed(&d.value)?,
                    self.pos(d.pos),
                ))
            })
            .collect()
    }

    #[allow(clippy::too_many_arguments, reason = "the parts of one literal")]
    fn literal(
        &self,
        set: &AttrSet<'_>,
        order: &[usize],
        values: Vec<E>,
        pre: Vec<(u32, E)>,
        dynamic: Vec<(E, E, Pos)>,
        slots: Vec<u32>,
        pos: Pos,
    ) -> E {
        let syms: Kept<Sym> = order
            .iter()
            .map(|&i| self.name(set.attrs[i].name))
            .collect();
        let places = order.iter().map(|&i| self.pos(set.attrs[i].pos)).collect();
        let overrides = set.recursive && syms.contains(&Sym::new(b"__overrides"));
        keep(Expr::Attrs(keep(AttrsLit {
            shape: Shape::new(syms, places),
            values: values.into(),
            pre: pre.into(),
            dynamic: dynamic.into(),
            overrides,
            slots: slots.into(),
            pos,
        })))
    }
}
