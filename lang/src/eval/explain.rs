//! Why two values are not equal: the message of a failed `assert a == b`.

use super::{R, Vm};
use crate::error::{Error, Kind};
use crate::heap::{Attrs, Tag, Value};
use crate::ir::Pos;

impl Vm {
    /// Fails with the first difference of two values, in words; succeeds when they are equal.
    pub(crate) fn assert_equal(&self, a: Value, b: Value, pos: Pos) -> R<()> {
        self.deeper(pos, || self.difference(a, b, pos))
    }

    fn difference(&self, a: Value, b: Value, pos: Pos) -> R<()> {
        let a = self.force(a)?;
        let b = self.force(b)?;
        if a == b && a.tag() != Tag::Fun {
            return Ok(());
        }
        let fail = |m: String| Err(Error::new(Kind::Assert, pos, m));
        let numbers = (a.as_int().is_some() || a.as_float().is_some())
            && (b.as_int().is_some() || b.as_float().is_some());
        if numbers {
            if self.equal(a, b, pos)? {
                return Ok(());
            }
            let say =
                |v: Value| format!("{} with value '{}'", self.show_type(v), self.show_short(v));
            return fail(format!("{} is not equal to {}", say(a), say(b)));
        }
        if self.show_kind(a) != self.show_kind(b) {
            let say = |v: Value| format!("{} of value '{}'", self.show_type(v), self.show_short(v));
            return fail(format!("{} is not equal to {}", say(a), say(b)));
        }
        let (sa, sb) = (self.show_short(a), self.show_short(b));
        match a.tag() {
            Tag::Imm if a.as_bool().is_some() => fail(format!("boolean '{sa}' is not equal to boolean '{sb}'")),
            Tag::Imm => Ok(()),
            Tag::Fun => fail("distinct functions and immediate comparisons of identical functions compare as unequal".into()),
            Tag::List => self.assert_equal_lists(a, b, pos),
            Tag::Attrs => match (a.as_attrs(), b.as_attrs()) {
                (Some(x), Some(y)) => self.assert_equal_attrs(x, y, &sa, &sb, pos),
                _ => Ok(()),
            },
            _ if self.equal(a, b, pos)? => Ok(()),
            Tag::Str => fail(format!("string '{sa}' is not equal to string '{sb}'")),
            _ => fail(format!("path '{sa}' is not equal to path '{sb}'")),
        }
    }

    fn show_kind(&self, v: Value) -> &'static str {
        match v.tag() {
            Tag::Fun => "function",
            _ => self.show_type(v),
        }
    }

    fn assert_equal_lists(&self, a: Value, b: Value, pos: Pos) -> R<()> {
        let (x, y) = (
            a.as_list().unwrap_or_default(),
            b.as_list().unwrap_or_default(),
        );
        if x.len() != y.len() {
            return Err(Error::new(
                Kind::Assert,
                pos,
                format!(
                    "list of size '{}' is not equal to list of size '{}', left hand side is '{}', right hand side is '{}'",
                    x.len(),
                    y.len(),
                    self.show_short(a),
                    self.show_short(b)
                ),
            ));
        }
        for (i, (p, q)) in x.iter().zip(y).enumerate() {
            if p != q {
                self.assert_equal(*p, *q, pos)
                    .map_err(|e| e.frame(format!("while comparing list element {i}"), pos))?;
            }
        }
        Ok(())
    }

    fn assert_equal_attrs(&self, x: Attrs, y: Attrs, sa: &str, sb: &str, pos: Pos) -> R<()> {
        if self.is_derivation(x)?
            && self.is_derivation(y)?
            && let (Some(p), Some(q)) = (x.get(self.s.out_path), y.get(self.s.out_path))
        {
            return self.assert_equal(p, q, pos).map_err(|e| {
                e.frame(
                    "while comparing a derivation by its 'outPath' attribute",
                    pos,
                )
            });
        }
        if x.shape().syms != y.shape().syms {
            return Err(Error::new(
                Kind::Assert,
                pos,
                format!(
                    "attribute names of attribute set '{sa}' differs from attribute set '{sb}'"
                ),
            ));
        }
        for (i, (s, p)) in x.iter().enumerate() {
            let q = y.values()[i];
            if p != q {
                self.assert_equal(p, q, pos).map_err(|e| {
                    e.frame(format!("while comparing attribute '{}'", s.text()), pos)
                        .frame("where left hand side is", x.shape().pos_at(i))
                        .frame("where right hand side is", y.shape().pos_at(i))
                })?;
            }
        }
        Ok(())
    }
}
