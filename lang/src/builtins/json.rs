//! JSON.

use super::{Prim, p};
use crate::error::{Error, Kind, R, Traced};
use crate::eval::context::Collector;
use crate::eval::{Coerce, Vm, int_text};
use crate::heap::{Tag, Value};
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p("toJSON", 1, 1, to_json_builtin, "Writes a value as JSON."),
    p("fromJSON", 1, 1, from_json, "Reads JSON."),
];

fn to_json_builtin(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let (text, ctx) = to_json(vm, a[0], true, pos)?;
    Ok(Value::string_ctx(&text, ctx))
}

/// A value as JSON, with the context of its strings. `copy` says whether paths are copied to the store.
pub(crate) fn to_json(vm: &Vm, v: Value, copy: bool, pos: Pos) -> R<(Vec<u8>, u32)> {
    let mut out = Vec::new();
    let mut ctx = Collector::default();
    write(vm, v, copy, &mut out, &mut ctx, pos)?;
    Ok((out, ctx.finish(vm)))
}

/// Writes a JSON string.
pub(super) fn quote(out: &mut Vec<u8>, s: &[u8], pos: Pos) -> R<()> {
    if let Err(e) = std::str::from_utf8(s) {
        let at = e.valid_up_to();
        let m = format!(
            "JSON serialization error: [json.exception.type_error.316] invalid UTF-8 byte at index {at}: 0x{:02X}",
            s[at]
        );
        return Err(Error::new(Kind::Json, pos, m));
    }
    out.push(b'"');
    let mut at = 0;
    for (i, &b) in s.iter().enumerate() {
        let esc: &[u8] = match b {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            8 => b"\\b",
            12 => b"\\f",
            0..=31 => b"",
            _ => continue,
        };
        out.extend_from_slice(&s[at..i]);
        at = i + 1;
        if esc.is_empty() {
            out.extend_from_slice(format!("\\u{b:04x}").as_bytes());
        } else {
            out.extend_from_slice(esc);
        }
    }
    out.extend_from_slice(&s[at..]);
    out.push(b'"');
    Ok(())
}

/// Writes a value.
pub(super) fn write(
    vm: &Vm,
    v: Value,
    copy: bool,
    out: &mut Vec<u8>,
    ctx: &mut Collector,
    pos: Pos,
) -> R<()> {
    let v = vm.force(v)?;
    vm.deeper(pos, || write_forced(vm, v, copy, out, ctx, pos))
}

fn write_forced(
    vm: &Vm,
    v: Value,
    copy: bool,
    out: &mut Vec<u8>,
    ctx: &mut Collector,
    pos: Pos,
) -> R<()> {
    match v.tag() {
        Tag::Int => out.extend_from_slice(int_text(v.as_int().unwrap_or_default(), &mut [0; 20])),
        Tag::Imm if v == Value::NULL => out.extend_from_slice(b"null"),
        Tag::Imm => out.extend_from_slice(if v == Value::TRUE { b"true" } else { b"false" }),
        Tag::Str => {
            if let Some(s) = v.as_str() {
                ctx.add(s.ctx());
                quote(out, s.bytes(), pos)?;
            }
        }
        Tag::List => {
            out.push(b'[');
            for (i, x) in v.as_list().unwrap_or_default().iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                write(vm, *x, copy, out, ctx, pos).traced(
                    || format!("while evaluating list element at index {i}"),
                    Pos::NONE,
                )?;
            }
            out.push(b']');
        }
        Tag::Attrs => {
            let Some(set) = v.as_attrs() else {
                return Ok(());
            };
            if let Some(f) = set.get(vm.s.to_string) {
                let r = vm.call(f, &[v], pos)?;
                if let Some(inner) = r.as_attrs()
                    && (inner.get(vm.s.to_string).is_some() || inner.get(vm.s.out_path).is_some())
                {
                    let s = vm.coerce(r, Coerce { wide: false, copy }, pos)?;
                    ctx.add(s.ctx());
                    return quote(out, s.bytes(), pos);
                }
                let Some(s) = r.as_str() else {
                    let verb = if r.as_attrs().is_some() {
                        "must"
                    } else {
                        "should"
                    };
                    let found = format!("{}: {}", vm.show_type(r), vm.show_short(r));
                    return Err(Error::new(
                        Kind::Type,
                        pos,
                        format!("`__toString` {verb} return a string, but got {found}"),
                    ));
                };
                ctx.add(s.ctx());
                return quote(out, s.bytes(), pos);
            }
            if let Some(o) = set.get(vm.s.out_path) {
                return write(vm, o, copy, out, ctx, pos);
            }
            out.push(b'{');
            for (i, (s, x)) in set.iter_by_name().enumerate() {
                if i > 0 {
                    out.push(b',');
                }
                quote(out, s.bytes(), pos)?;
                out.push(b':');
                write(vm, x, copy, out, ctx, pos).traced(
                    || format!("while evaluating attribute '{}'", s.text()),
                    set.shape()
                        .find(s)
                        .map_or(Pos::NONE, |i| set.shape().pos_at(i)),
                )?;
            }
            out.push(b'}');
        }
        Tag::Boxed => {
            if let Some(f) = v.as_float() {
                match crate::print::json_number(f) {
                    Some(t) => out.extend_from_slice(t.as_bytes()),
                    None => out.extend_from_slice(b"null"),
                }
            } else if v.as_path().is_some() {
                let s = vm.coerce(v, Coerce { wide: false, copy }, pos)?;
                ctx.add(s.ctx());
                quote(out, s.bytes(), pos)?;
            } else {
                out.extend_from_slice(int_text(v.as_int().unwrap_or_default(), &mut [0; 20]));
            }
        }
        Tag::Fun | Tag::Thunk => {
            return Err(Error::new(
                Kind::Type,
                pos,
                format!("cannot convert {} to JSON", vm.show_type(v)),
            ));
        }
    }
    Ok(())
}

fn from_json(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let s = vm.force_str_no_ctx(a[0], pos)?;
    let mut r = crate::json::Reader::new(s);
    r.document().map_err(|e| Error::new(Kind::Json, pos, e))
}
