//! The attributes that a derivation is made of.

use std::borrow::Cow;
use std::collections::BTreeMap;

use sos_formats::Bytes;
use sos_formats::derivation::{Method, Output};
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::store_path;

use super::place;
use crate::error::{Error, Kind, R, Traced};
use crate::eval::context::Collector;
use crate::eval::{Coerce, Vm};
use crate::heap::{Attrs, Str, Sym, Value};
use crate::ir::Pos;

/// What was read from the attributes. Their texts live as long as the evaluation.
#[derive(Default)]
pub(super) struct Input {
    pub(super) system: Cow<'static, str>,
    pub(super) builder: &'static [u8],
    pub(super) args: Vec<&'static [u8]>,
    pub(super) env: Vec<(&'static [u8], &'static [u8])>,
    pub(super) ctx: Collector,
    structured: Option<BTreeMap<&'static [u8], Bytes>>,
    outputs: Vec<Cow<'static, str>>,
    output_hash: Option<&'static [u8]>,
    output_hash_algo: Option<&'static [u8]>,
    output_hash_mode: Option<&'static [u8]>,
    content_addressed: bool,
    impure: bool,
    pub(super) has_builder: bool,
}

pub(super) fn fail<T>(pos: Pos, m: impl Into<String>) -> R<T> {
    Err(Error::new(Kind::Derivation, pos, m))
}

fn flag(vm: &Vm, set: Attrs, name: Sym, pos: Pos) -> R<bool> {
    match set.get(name) {
        Some(v) => vm.force_bool(v, pos).traced(
            || {
                format!(
                    "while evaluating the `{}` attribute passed to builtins.derivationStrict",
                    name.text()
                )
            },
            pos,
        ),
        None => Ok(false),
    }
}

pub(super) fn read_attrs(
    vm: &Vm,
    set: Attrs,
    given: Option<Attrs>,
    name: &str,
    pos: Pos,
) -> R<Input> {
    let mut i = Input {
        outputs: vec!["out".into()],
        env: Vec::with_capacity(set.len()),
        ..Input::default()
    };
    let ignore_nulls = flag(vm, set, vm.s.ignore_nulls, pos)?;
    if flag(vm, set, vm.s.structured_attrs, pos)? {
        i.structured = Some(BTreeMap::new());
    }
    for (k, (s, v)) in set.iter_by_name().enumerate() {
        let key = s.bytes();
        if key == b"__ignoreNulls" || (key == place::NAME && given.is_some()) {
            continue;
        }
        if ignore_nulls && vm.force(v)? == Value::NULL {
            continue;
        }
        let own = || set.shape().pos_at(set.shape().by_name()[k] as usize);
        let at = match given {
            Some(given) => place::of(vm, given, s),
            None => own(),
        };
        let at = at.or(pos);
        read_attr(vm, &mut i, key, v, at).map_err(|e| {
            let what = format!(
                "while evaluating attribute '{}' of derivation '{name}'",
                s.text()
            );
            crate::eval::step(e, s, at).frame(what, at)
        })?;
    }
    if let Some(json) = i.structured.take() {
        let mut out = b"{".to_vec();
        for (n, (k, v)) in json.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            crate::builtins::json::quote(&mut out, k, pos)?;
            out.push(b':');
            out.extend_from_slice(v);
        }
        out.push(b'}');
        i.env.push((b"__json", Str::new(&out, 0).bytes()));
    }
    Ok(i)
}

fn text(vm: &Vm, i: &mut Input, v: Value, pos: Pos) -> R<&'static [u8]> {
    let s = vm.coerce(v, Coerce::ENV, pos)?;
    i.ctx.add(s.ctx());
    Ok(s.bytes())
}

fn read_attr(vm: &Vm, i: &mut Input, key: &'static [u8], v: Value, pos: Pos) -> R<()> {
    match key {
        // Only a false one reaches the builder.
        b"__contentAddressed" if vm.force_bool(v, pos)? => {
            i.content_addressed = true;
            return Ok(());
        }
        b"__impure" if vm.force_bool(v, pos)? => {
            i.impure = true;
            return Ok(());
        }
        b"args" => {
            for x in vm.force_list(v, pos)? {
                let s = text(vm, i, *x, pos).traced(
                    || "while evaluating an element of the argument list".into(),
                    pos,
                )?;
                i.args.push(s);
            }
            return Ok(());
        }
        _ => {}
    }
    if i.structured.is_some() {
        return read_structured(vm, i, key, v, pos);
    }
    let s = text(vm, i, v, pos)?;
    match key {
        b"builder" => {
            i.has_builder = true;
            i.builder = s;
        }
        b"system" => i.system = String::from_utf8_lossy(s),
        b"outputHash" => i.output_hash = Some(s),
        b"outputHashAlgo" => i.output_hash_algo = Some(s),
        b"outputHashMode" => {
            i.output_hash_mode = Some(s);
            method(i, pos)?;
        }
        b"outputs" => {
            let words = s
                .split(|b| b.is_ascii_whitespace())
                .filter(|w| !w.is_empty());
            set_outputs(i, words, pos)?;
        }
        _ => {}
    }
    i.env.push((key, s));
    Ok(())
}

fn read_structured(vm: &Vm, i: &mut Input, key: &'static [u8], v: Value, pos: Pos) -> R<()> {
    if key == b"__structuredAttrs" {
        return Ok(());
    }
    let mut json = Vec::new();
    crate::builtins::json::write(vm, v, true, &mut json, &mut i.ctx, pos)?;
    if let Some(map) = &mut i.structured {
        map.insert(key, json);
    }
    let string = |i: &mut Input| -> R<&'static [u8]> {
        let s = vm.force_str(v, pos)?;
        i.ctx.add(s.ctx());
        Ok(s.bytes())
    };
    match key {
        b"builder" => {
            i.builder = string(i)?;
            i.has_builder = true;
        }
        b"system" => {
            i.system = String::from_utf8_lossy(vm.force_str_no_ctx(v, pos)?);
        }
        b"outputHash" => i.output_hash = Some(vm.force_str_no_ctx(v, pos)?),
        b"outputHashAlgo" => i.output_hash_algo = Some(vm.force_str_no_ctx(v, pos)?),
        b"outputHashMode" => {
            i.output_hash_mode = Some(vm.force_str_no_ctx(v, pos)?);
            method(i, pos)?;
        }
        b"outputs" => {
            let mut names = Vec::new();
            for x in vm.force_list(v, pos)? {
                names.push(vm.force_str_no_ctx(*x, pos)?);
            }
            set_outputs(i, names.into_iter(), pos)?;
        }
        _ => {}
    }
    Ok(())
}

fn set_outputs(i: &mut Input, names: impl Iterator<Item = &'static [u8]>, pos: Pos) -> R<()> {
    i.outputs.clear();
    for n in names {
        let n = String::from_utf8_lossy(n);
        if i.outputs.contains(&n) {
            return fail(pos, format!("duplicate derivation output '{n}'"));
        }
        if n == "drvPath" || n == "drv" {
            return fail(pos, format!("invalid derivation output name '{n}'"));
        }
        store_path::check_name(&n).map_err(|_e| {
            Error::new(
                Kind::Derivation,
                pos,
                format!("invalid derivation output name '{n}'"),
            )
        })?;
        i.outputs.push(n);
    }
    if i.outputs.is_empty() {
        return fail(pos, "derivation cannot have an empty set of outputs");
    }
    Ok(())
}

fn method(i: &Input, pos: Pos) -> R<Method> {
    Ok(match i.output_hash_mode {
        None | Some(b"flat") => Method::Flat,
        Some(b"recursive" | b"nar") => Method::Recursive,
        Some(b"text") => Method::Text,
        Some(b"rootfs") => Method::Rootfs,
        Some(b"tree") => Method::Tree,
        Some(m) => {
            return fail(
                pos,
                format!(
                    "invalid value '{}' for 'outputHashMode' attribute",
                    String::from_utf8_lossy(m)
                ),
            );
        }
    })
}

fn algo(i: &Input, pos: Pos) -> R<Option<HashAlgo>> {
    match i.output_hash_algo {
        None | Some(b"") => Ok(None),
        Some(a) => {
            let a = String::from_utf8_lossy(a);
            a.parse().map(Some).map_err(|_e| {
                Error::new(
                    Kind::Derivation,
                    pos,
                    format!("unknown hash algorithm '{a}', expect 'blake3', 'md5', 'sha1', 'sha256', or 'sha512'"),
                )
            })
        }
    }
}

/// The outputs, in order of names.
pub(super) fn outputs<'a>(vm: &Vm, i: &'a Input, pos: Pos) -> R<Vec<(&'a str, Output)>> {
    if let Some(h) = i.output_hash {
        if i.outputs != ["out"] {
            return fail(
                pos,
                "multiple outputs are not supported in fixed-output derivations",
            );
        }
        let text = String::from_utf8_lossy(h);
        let algo = algo(i, pos)?;
        let hash = if text.is_empty() {
            let algo = algo.ok_or_else(|| {
                Error::new(
                    Kind::Derivation,
                    pos,
                    "empty hash requires explicit hash algorithm",
                )
            })?;
            super::unknown_hash(vm, algo, pos)?
        } else {
            Hash::parse_any(&text, algo)
                .map_err(|e| Error::new(Kind::Derivation, pos, e.to_string()))?
        };
        let method = method(i, pos)?;
        return Ok(vec![("out", Output::Fixed { method, hash })]);
    }
    if i.content_addressed && i.impure {
        return fail(
            pos,
            "derivation cannot be both content-addressed and impure",
        );
    }
    let how = if i.content_addressed || i.impure {
        let method = if i.output_hash_mode.is_none() {
            Method::Recursive
        } else {
            method(i, pos)?
        };
        let default = if method == Method::Rootfs {
            HashAlgo::Blake3
        } else {
            HashAlgo::Sha256
        };
        let algo = algo(i, pos)?.unwrap_or(default);
        if i.impure {
            Output::Impure { method, algo }
        } else {
            Output::Floating { method, algo }
        }
    } else {
        Output::Deferred
    };
    let mut all: Vec<_> = i.outputs.iter().map(|o| (&**o, how.clone())).collect();
    all.sort_unstable_by_key(|o| o.0);
    Ok(all)
}
