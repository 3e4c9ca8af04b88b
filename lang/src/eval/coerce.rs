//! Values to strings and paths.

use super::context::Collector;
use super::{R, Vm, cycle};
use crate::error::{Error, Kind, Traced};
use crate::heap::{Env, Str, Tag, Value};
use crate::host::ContextElem;
use crate::ir::{BinOp, E, Pos};

/// How far a coercion goes.
#[derive(Clone, Copy)]
pub(crate) struct Coerce {
    /// Numbers, null, truth values and lists too.
    pub(crate) wide: bool,
    /// Paths are copied to the store.
    pub(crate) copy: bool,
}

impl Coerce {
    /// `"${x}"`
    pub(crate) const INTERP: Coerce = Coerce {
        wide: false,
        copy: true,
    };
    /// `toString`
    pub(crate) const TO_STRING: Coerce = Coerce {
        wide: true,
        copy: false,
    };
    /// Attributes of a derivation.
    pub(crate) const ENV: Coerce = Coerce {
        wide: true,
        copy: true,
    };
    /// Names and such: strings, paths as they are.
    pub(crate) const PLAIN: Coerce = Coerce {
        wide: false,
        copy: false,
    };
}

/// Decimal digits of an integer.
pub(crate) fn int_text(i: i64, buf: &mut [u8; 20]) -> &[u8] {
    let mut at = buf.len();
    let mut n = i.unsigned_abs();
    loop {
        at -= 1;
        buf[at] = b'0' + (n % 10) as u8;
        n /= 10;
        if n == 0 {
            break;
        }
    }
    if i < 0 {
        at -= 1;
        buf[at] = b'-';
    }
    &buf[at..]
}

/// Removes `.`, `..` and empty components of an absolute path.
pub(crate) fn canon_path(p: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(p.len() + 1);
    for c in p.split(|b| *b == b'/') {
        match c {
            b"" | b"." => {}
            b".." => out.truncate(memchr::memrchr(b'/', &out).unwrap_or(0)),
            c => {
                out.push(b'/');
                out.extend_from_slice(c);
            }
        }
    }
    if out.is_empty() {
        out.push(b'/');
    }
    out
}

impl Vm {
    /// Coerces a value to a string.
    pub(crate) fn coerce(&self, v: Value, how: Coerce, pos: Pos) -> R<Str> {
        let v = self.force(v)?;
        if let Some(s) = v.as_str() {
            return Ok(s);
        }
        self.deeper(pos, || self.coerce_other(v, how, pos))
    }

    fn coerce_other(&self, v: Value, how: Coerce, pos: Pos) -> R<Str> {
        if let Some(p) = v.as_path() {
            if !how.copy {
                self.path_named(p);
                return Ok(Str::new(p, 0));
            }
            let sp = self.copy_to_store(p, pos)?;
            let text = self.absolute(&sp);
            return Ok(Str::new(
                text.as_bytes(),
                self.ctx_of([ContextElem::Opaque(sp)]),
            ));
        }
        if let Some(a) = v.as_attrs() {
            if let Some(f) = a.get(self.s.to_string) {
                let r = self
                    .call(f, &[v], pos)
                    .map_err(|e| cycle::through(e, v, self.s.to_string, 1))?;
                return self
                    .coerce(r, how, pos)
                    .map_err(|e| cycle::through(e, v, self.s.to_string, 1))
                    .traced(
                        || "while evaluating the result of the '__toString' attribute".into(),
                        pos,
                    );
            }
            if let Some(o) = a.get(self.s.out_path) {
                return self.coerce(o, how, pos).map_err(|e| {
                    // A derivation is known by its own name.
                    let e = cycle::through(e, v, self.s.out_path, 1).at(pos);
                    match a.get(self.s.drv_path) {
                        Some(_) => e,
                        None => super::step(e, self.s.out_path, pos),
                    }
                });
            }
        }
        if how.wide {
            if let Some(i) = v.as_int() {
                return Ok(Str::new(int_text(i, &mut [0; 20]), 0));
            }
            if let Some(f) = v.as_float() {
                return Ok(Str::new(format!("{f:.6}").as_bytes(), 0));
            }
            if v.tag() == Tag::Imm {
                return Ok(Str::new(if v == Value::TRUE { b"1" } else { b"" }, 0));
            }
            if let Some(items) = v.as_list() {
                let mut out = Vec::new();
                let mut ctx = Collector::default();
                for (i, x) in items.iter().enumerate() {
                    let s = self
                        .coerce(*x, how, pos)
                        .traced(|| "while evaluating one element of the list".into(), pos)?;
                    out.extend_from_slice(s.bytes());
                    ctx.add(s.ctx());
                    // A space after each element but the last and empty lists: as Nix does it.
                    if i + 1 < items.len() && x.peel().as_list().is_none_or(|l| !l.is_empty()) {
                        out.push(b' ');
                    }
                }
                return Ok(Str::new(&out, ctx.finish(self)));
            }
        }
        Err(Error::new(
            Kind::Type,
            pos,
            format!(
                "cannot coerce {} to a string: {}",
                self.show_type(v),
                self.show_short(v)
            ),
        )
        .label(format!("this is {}", self.show_type(v)))
        .wrong(v))
    }

    /// A string of several parts.
    #[inline(never)]
    pub(crate) fn interpolate(&self, parts: &'static [(E, Pos)], env: Env, _pos: Pos) -> R {
        self.check_stack()?;
        let mut buf: [&[u8]; 12] = [b""; 12];
        let mut many: Vec<&[u8]> = Vec::new();
        let mut ctx = 0;
        for (i, (e, pos)) in parts.iter().enumerate() {
            let v = self.eval(e, env)?;
            let s = match v.as_str() {
                Some(s) => s,
                None => self.coerce(v, Coerce::INTERP, *pos)?,
            };
            ctx = self.ctx_union(ctx, s.ctx());
            if parts.len() <= buf.len() {
                buf[i] = s.bytes();
            } else {
                many.push(s.bytes());
            }
        }
        let all = if parts.len() <= buf.len() {
            &buf[..parts.len()]
        } else {
            &many
        };
        Ok(Value::from_str_obj(Str::concat(all, ctx)))
    }

    /// A path of several parts.
    #[inline(never)]
    pub(crate) fn interpolate_path(&self, parts: &'static [(E, Pos)], env: Env, pos: Pos) -> R {
        self.check_stack()?;
        let mut out = Vec::new();
        for (e, pos) in parts {
            let v = self.eval(e, env)?;
            let s = self.coerce(v, Coerce::PLAIN, *pos)?;
            self.no_context_in_path(s, *pos)?;
            out.extend_from_slice(s.bytes());
        }
        path_value(&out, pos)
    }

    fn no_context_in_path(&self, s: Str, pos: Pos) -> R<()> {
        if s.ctx() == 0 {
            return Ok(());
        }
        Err(Error::new(
            Kind::Context,
            pos,
            "a string that refers to a store path cannot be appended to a path",
        ))
    }

    /// Operators on anything but two small integers.
    #[inline(never)]
    pub(crate) fn binary(&self, op: BinOp, a: Value, b: Value, pos: Pos) -> R {
        match op {
            BinOp::Add => self.add(a, b, pos),
            BinOp::Eq => Ok(Value::bool(self.equal(a, b, pos)?)),
            BinOp::Ne => Ok(Value::bool(!self.equal(a, b, pos)?)),
            BinOp::Lt => Ok(Value::bool(self.less(a, b, pos)?)),
            BinOp::Gt => Ok(Value::bool(self.less(b, a, pos)?)),
            BinOp::Le => Ok(Value::bool(!self.less(b, a, pos)?)),
            BinOp::Ge => Ok(Value::bool(!self.less(a, b, pos)?)),
            BinOp::Sub | BinOp::Mul | BinOp::Div => self.arith(op, a, b, pos),
        }
    }

    /// `-`, `*`, `/` and the builtins of that name, on forced values.
    pub(crate) fn arith(&self, op: BinOp, a: Value, b: Value, pos: Pos) -> R {
        if let (Some(x), Some(y)) = (a.as_int(), b.as_int()) {
            let (r, doing) = match op {
                BinOp::Add => (x.checked_add(y), format!("adding {x} + {y}")),
                BinOp::Sub => (x.checked_sub(y), format!("subtracting {x} - {y}")),
                BinOp::Mul => (x.checked_mul(y), format!("multiplying {x} * {y}")),
                _ if y == 0 => return Err(Error::new(Kind::Arith, pos, "division by zero")),
                _ => (x.checked_div(y), format!("dividing {x} / {y}")),
            };
            return r.map(Value::int).ok_or_else(|| {
                Error::new(Kind::Arith, pos, format!("integer overflow in {doing}"))
            });
        }
        let (x, y) = if op == BinOp::Div {
            // The divisor is looked at first.
            let y = self.number(b, pos, "a float")?;
            if y == 0.0 {
                return Err(Error::new(Kind::Arith, pos, "division by zero"));
            }
            (
                self.number(
                    a,
                    pos,
                    if b.as_float().is_some() {
                        "a float"
                    } else {
                        "an integer"
                    },
                )?,
                y,
            )
        } else {
            let want = if a.as_float().is_some() || b.as_float().is_some() {
                "a float"
            } else {
                "an integer"
            };
            (self.number(a, pos, want)?, self.number(b, pos, want)?)
        };
        Ok(Value::float(match op {
            BinOp::Add => x + y,
            BinOp::Sub => x - y,
            BinOp::Mul => x * y,
            _ => x / y,
        }))
    }

    fn number(&self, v: Value, pos: Pos, want: &str) -> R<f64> {
        #[allow(
            clippy::cast_precision_loss,
            reason = "that is what mixed arithmetic means"
        )]
        match v.as_int() {
            Some(i) => Ok(i as f64),
            None => v.as_float().ok_or_else(|| self.type_error(want, v, pos)),
        }
    }

    fn add(&self, a: Value, b: Value, pos: Pos) -> R {
        if let Some(x) = a.as_str() {
            let y = match b.as_str() {
                Some(y) => y,
                None => self.coerce(b, Coerce::INTERP, pos)?,
            };
            return Ok(Value::from_str_obj(Str::concat(
                &[x.bytes(), y.bytes()],
                self.ctx_union(x.ctx(), y.ctx()),
            )));
        }
        if a.as_int().is_some() || a.as_float().is_some() {
            if b.as_int().is_none() && b.as_float().is_none() {
                let to = self.show_type(a);
                return Err(Error::new(
                    Kind::Type,
                    pos,
                    format!("cannot add {} to {to}", self.show_type(b)),
                )
                .label(format!("this is {}", self.show_type(b)))
                .wrong(b));
            }
            return self.arith(BinOp::Add, a, b, pos);
        }
        if let Some(p) = a.as_path() {
            let s = self.coerce(b, Coerce::PLAIN, pos)?;
            self.no_context_in_path(s, pos)?;
            return path_value(&[p, s.bytes()].concat(), pos);
        }
        let x = self.coerce(a, Coerce::PLAIN, pos)?;
        let y = self.coerce(b, Coerce::PLAIN, pos)?;
        Ok(Value::from_str_obj(Str::concat(
            &[x.bytes(), y.bytes()],
            self.ctx_union(x.ctx(), y.ctx()),
        )))
    }
}

fn path_value(p: &[u8], pos: Pos) -> R {
    if p.contains(&0) {
        return Err(Error::new(
            Kind::Value,
            pos,
            "a path cannot contain a NUL byte",
        ));
    }
    Ok(Value::path(&canon_path(p)))
}
