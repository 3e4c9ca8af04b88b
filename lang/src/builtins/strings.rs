//! Strings.

use super::{Prim, p};
use crate::error::{Error, Kind, R, Traced};
use crate::eval::context::Collector;
use crate::eval::{Coerce, Vm, int_text};
use crate::heap::{Str, Value};
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p("toString", 1, 1, to_string, "Converts a value to a string."),
    p(
        "stringLength",
        1,
        1,
        string_length,
        "Returns the number of bytes of a string.",
    ),
    p(
        "substring",
        3,
        7,
        substring,
        "Returns a part of a string by start and length in bytes.",
    ),
    p(
        "concatStringsSep",
        2,
        3,
        concat_strings_sep,
        "Joins a list of strings with a separator.",
    ),
    p(
        "replaceStrings",
        3,
        3,
        replace_strings,
        "Replaces each occurrence of the strings in one list by those in another.",
    ),
    p(
        "baseNameOf",
        1,
        1,
        base_name_of,
        "Returns the part of a path after the last slash.",
    ),
    p(
        "dirOf",
        1,
        1,
        dir_of,
        "Returns the part of a path before the last slash.",
    ),
];

fn to_string(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let v = vm.force(a[0])?;
    if v.as_str().is_some() {
        return Ok(v);
    }
    if let Some(i) = v.small_int() {
        return Ok(Value::string(int_text(i, &mut [0; 20])));
    }
    Ok(Value::from_str_obj(vm.coerce(v, Coerce::TO_STRING, pos)?))
}

fn string_length(vm: &Vm, a: &[Value], pos: Pos) -> R {
    Ok(Value::int(
        vm.coerce(a[0], Coerce::INTERP, pos)?.bytes().len() as i64,
    ))
}

thread_local! {
    static SINGLE: [Value; 256] = std::array::from_fn(|b| Value::string(&[b as u8]));
}

/// A string of one byte; these are made once.
fn single(b: u8) -> Value {
    SINGLE.with(|s| s[b as usize])
}

fn substring(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let start = vm.force_int(a[0], pos)?;
    let len = vm.force_int(a[1], pos)?;
    if start < 0 {
        return Err(Error::new(
            Kind::Value,
            pos,
            "negative start position in 'substring'",
        ));
    }
    let v = vm.force(a[2])?;
    let s = match v.as_str() {
        Some(s) => s,
        None => vm.coerce(v, Coerce::INTERP, pos)?,
    };
    let b = s.bytes();
    let start = usize::try_from(start).unwrap_or(usize::MAX).min(b.len());
    let end = match usize::try_from(len) {
        Ok(n) => start.saturating_add(n).min(b.len()),
        Err(_) => b.len(),
    };
    let part = &b[start..end];
    Ok(match part {
        [x] if s.ctx() == 0 => single(*x),
        _ if part.len() == b.len() => Value::from_str_obj(s),
        _ => Value::string_ctx(part, s.ctx()),
    })
}

fn concat_strings_sep(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let sep = vm.force_str(a[0], pos)?;
    let l = vm.force_list(a[1], pos)?;
    let mut ctx = Collector::default();
    ctx.add(sep.ctx());
    let mut parts: Vec<&[u8]> = Vec::with_capacity(l.len() * 2);
    for (i, x) in l.iter().enumerate() {
        let s = vm
            .coerce(*x, Coerce::INTERP, pos)
            .traced(|| "while evaluating one element of the list of strings to concat passed to builtins.concatStringsSep".into(), pos)?;
        ctx.add(s.ctx());
        if i > 0 && !sep.bytes().is_empty() {
            parts.push(sep.bytes());
        }
        parts.push(s.bytes());
    }
    Ok(Value::from_str_obj(Str::concat(&parts, ctx.finish(vm))))
}

fn replace_strings(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let from = vm.force_list(a[0], pos)?;
    let to = vm.force_list(a[1], pos)?;
    if from.len() != to.len() {
        return Err(Error::new(
            Kind::Value,
            pos,
            "'from' and 'to' arguments passed to builtins.replaceStrings have different lengths",
        ));
    }
    let mut pats: Vec<&[u8]> = Vec::with_capacity(from.len());
    for f in from {
        pats.push(vm.force_str(*f, pos).traced(|| "while evaluating one of the strings to replace passed to builtins.replaceStrings".into(), pos)?.bytes());
    }
    let s = vm.force_str(a[2], pos)?;
    let text = s.bytes();
    let mut ctx = Collector::default();
    ctx.add(s.ctx());
    // A replacement is evaluated only when it is used.
    let mut to_text: Vec<Option<&[u8]>> = vec![None; to.len()];
    // Patterns that can begin with a byte; empty ones match everywhere.
    let mut first = [false; 256];
    let any_empty = pats.iter().any(|p| p.is_empty());
    for p in &pats {
        if let Some(b) = p.first() {
            first[*b as usize] = true;
        }
    }
    let mut out: Vec<u8> = Vec::with_capacity(text.len());
    let mut at = 0;
    while at <= text.len() {
        if !any_empty {
            let skip = text[at..]
                .iter()
                .position(|b| first[*b as usize])
                .unwrap_or(text.len() - at);
            out.extend_from_slice(&text[at..at + skip]);
            at += skip;
            if at == text.len() {
                break;
            }
        }
        let hit = pats.iter().position(|p| text[at..].starts_with(p));
        let Some(i) = hit else {
            out.extend(text.get(at));
            at += 1;
            continue;
        };
        let r = match to_text[i] {
            Some(r) => r,
            None => {
                let r = vm.force_str(to[i], pos).traced(|| "while evaluating one of the replacement strings passed to builtins.replaceStrings".into(), pos)?;
                ctx.add(r.ctx());
                to_text[i] = Some(r.bytes());
                r.bytes()
            }
        };
        out.extend_from_slice(r);
        if pats[i].is_empty() {
            out.extend(text.get(at));
            at += 1;
        } else {
            at += pats[i].len();
        }
    }
    Ok(Value::string_ctx(&out, ctx.finish(vm)))
}

fn base_name_of(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let v = vm.force(a[0])?;
    // The last part of a path says nothing of the object that it is in, unless it is the object.
    let s = match v.as_path() {
        Some(p) if !vm.is_store_object(p) => Str::new(p, 0),
        _ => vm.coerce(v, Coerce::PLAIN, pos)?,
    };
    let b = s.bytes();
    let end = if b.ends_with(b"/") {
        b.len() - 1
    } else {
        b.len()
    };
    let start = memchr::memrchr(b'/', &b[..end]).map_or(0, |i| i + 1);
    Ok(Value::string_ctx(&b[start..end], s.ctx()))
}

fn dir_of(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let v = vm.force(a[0])?;
    if let Some(p) = v.as_path() {
        let end = memchr::memrchr(b'/', p).unwrap_or(0).max(1);
        return Ok(Value::path(&p[..end]));
    }
    let s = vm.coerce(v, Coerce::PLAIN, pos)?;
    let b = s.bytes();
    let dir: &[u8] = match memchr::memrchr(b'/', b) {
        None => b".",
        Some(0) => b"/",
        Some(i) => &b[..i],
    };
    Ok(Value::string_ctx(dir, s.ctx()))
}
