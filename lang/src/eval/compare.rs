//! Equality and order.

use super::{R, Vm};
use crate::error::{Error, Kind};
use crate::heap::{Attrs, Tag, Value};
use crate::ir::Pos;

impl Vm {
    /// Whether two elements are equal: the same object is, without a look inside, but it is evaluated.
    pub(crate) fn same_or_equal(&self, a: Value, b: Value, pos: Pos) -> R<bool> {
        if a == b {
            self.force(a)?;
            return Ok(true);
        }
        self.equal(a, b, pos)
    }

    /// `==`
    #[allow(
        clippy::float_cmp,
        clippy::cast_precision_loss,
        reason = "the language compares floats this way"
    )]
    pub(crate) fn equal(&self, a: Value, b: Value, pos: Pos) -> R<bool> {
        let a = self.force(a)?;
        let b = self.force(b)?;
        match (a.tag(), b.tag()) {
            (Tag::Str, Tag::Str) => {
                return Ok(a == b || a.as_str().map(|s| s.bytes()) == b.as_str().map(|s| s.bytes()));
            }
            (Tag::Imm, Tag::Imm) => return Ok(a == b),
            (Tag::List, Tag::List) => {
                let (Some(x), Some(y)) = (a.as_list(), b.as_list()) else {
                    return Ok(false);
                };
                if x.len() != y.len() {
                    return Ok(false);
                }
                return self.deeper(pos, || {
                    for (p, q) in x.iter().zip(y) {
                        if !self.same_or_equal(*p, *q, pos)? {
                            return Ok(false);
                        }
                    }
                    Ok(true)
                });
            }
            (Tag::Attrs, Tag::Attrs) => {
                let (Some(x), Some(y)) = (a.as_attrs(), b.as_attrs()) else {
                    return Ok(false);
                };
                return self.deeper(pos, || self.equal_attrs(x, y, pos));
            }
            _ => {}
        }
        if let (Some(x), Some(y)) = (a.as_path(), b.as_path()) {
            self.paths_compared(x, y);
            return Ok(x == y);
        }
        Ok(match (a.as_int(), b.as_int()) {
            (Some(x), Some(y)) => x == y,
            (Some(x), None) => b.as_float().is_some_and(|y| x as f64 == y),
            (None, Some(y)) => a.as_float().is_some_and(|x| x == y as f64),
            (None, None) => matches!((a.as_float(), b.as_float()), (Some(x), Some(y)) if x == y),
        })
    }

    /// Whether a set is a derivation.
    pub(crate) fn is_derivation(&self, a: Attrs) -> R<bool> {
        match a.get(self.s.typ) {
            None => Ok(false),
            Some(t) => Ok(self
                .force(t)?
                .as_str()
                .is_some_and(|s| s.bytes() == b"derivation")),
        }
    }

    fn equal_attrs(&self, x: Attrs, y: Attrs, pos: Pos) -> R<bool> {
        if self.is_derivation(x)?
            && self.is_derivation(y)?
            && let (Some(p), Some(q)) = (x.get(self.s.out_path), y.get(self.s.out_path))
        {
            return self.same_or_equal(p, q, pos);
        }
        if !std::ptr::eq(x.shape(), y.shape()) && x.shape().syms != y.shape().syms {
            return Ok(false);
        }
        for (p, q) in x.values().iter().zip(y.values()) {
            if !self.same_or_equal(*p, *q, pos)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// `<`
    #[allow(
        clippy::cast_precision_loss,
        reason = "the language compares numbers this way"
    )]
    pub(crate) fn less(&self, a: Value, b: Value, pos: Pos) -> R<bool> {
        let a = self.force(a)?;
        let b = self.force(b)?;
        if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
            return Ok(x < y);
        }
        if let (Some(x), Some(y)) = (a.as_str(), b.as_str()) {
            return Ok(x.bytes() < y.bytes());
        }
        let num = |v: Value| v.as_int().map(|i| i as f64).or_else(|| v.as_float());
        if let (Some(x), Some(y)) = (num(a), num(b)) {
            return Ok(x < y);
        }
        if let (Some(x), Some(y)) = (a.as_path(), b.as_path()) {
            self.paths_compared(x, y);
            return Ok(x < y);
        }
        if let (Some(x), Some(y)) = (a.as_list(), b.as_list()) {
            return self.deeper(pos, || {
                for (p, q) in x.iter().zip(y) {
                    if !self.same_or_equal(*p, *q, pos)? {
                        return self.less(*p, *q, pos);
                    }
                }
                Ok(x.len() < y.len())
            });
        }
        let (ta, tb) = (self.show_type(a), self.show_type(b));
        let (sa, sb) = (self.show_short(a), self.show_short(b));
        Err(Error::new(
            Kind::Type,
            pos,
            if ta == tb {
                format!(
                    "cannot compare {ta} with {tb}; values of that type are incomparable (values are {sa} and {sb})"
                )
            } else {
                format!("cannot compare {ta} with {tb}; values are {sa} and {sb}")
            },
        ))
    }
}
