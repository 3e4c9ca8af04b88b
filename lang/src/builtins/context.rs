//! String contexts.

use sos_formats::store_path::StorePath;

use super::{Prim, p};
use crate::error::{Error, Kind, R, Traced};
use crate::eval::{Coerce, Vm};
use crate::heap::{Attrs, Str, Sym, Value};
use crate::host::ContextElem;
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p(
        "hasContext",
        1,
        1,
        |vm, a, pos| Ok(Value::bool(vm.force_str(a[0], pos)?.ctx() != 0)),
        "Says whether a string refers to store paths.",
    ),
    p(
        "getContext",
        1,
        1,
        get_context,
        "Returns what a string refers to.",
    ),
    p(
        "appendContext",
        2,
        3,
        append_context,
        "Adds references to a string.",
    ),
    p(
        "unsafeDiscardStringContext",
        1,
        1,
        discard,
        "Returns a string without its references.",
    ),
    p(
        "unsafeDiscardOutputDependency",
        1,
        1,
        discard_outputs,
        "Turns references to derivations with all they need into references to the files.",
    ),
    p(
        "addDrvOutputDependencies",
        1,
        1,
        add_outputs,
        "Turns the one reference to a derivation file into a reference to all it needs.",
    ),
];

fn discard(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let s = vm.coerce(a[0], Coerce::INTERP, pos)?;
    Ok(if s.ctx() == 0 {
        Value::from_str_obj(s)
    } else {
        Value::string(s.bytes())
    })
}

fn discard_outputs(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let s = vm.coerce(a[0], Coerce::INTERP, pos)?;
    let elems = vm.ctx_elems(s.ctx()).into_iter().map(|e| match e {
        ContextElem::Closure(p) => ContextElem::Opaque(p),
        e => e,
    });
    Ok(Value::string_ctx(s.bytes(), vm.ctx_of(elems)))
}

fn add_outputs(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let s = vm.coerce(a[0], Coerce::INTERP, pos)?;
    let elems = vm.ctx_elems(s.ctx());
    let shown = String::from_utf8_lossy(s.bytes()).into_owned();
    let fail = |m: String| Err(Error::new(Kind::Context, pos, m));
    let [e] = elems.as_slice() else {
        return fail(format!(
            "context of string '{shown}' must have exactly one element, but has {}",
            elems.len()
        ));
    };
    match e {
        ContextElem::Opaque(p) if p.is_derivation() => Ok(Value::string_ctx(
            s.bytes(),
            vm.ctx_of([ContextElem::Closure(p.clone())]),
        )),
        ContextElem::Opaque(p) => fail(format!("path '{}' is not a derivation", vm.absolute(p))),
        ContextElem::Built(_, o) => fail(format!(
            "`addDrvOutputDependencies` can only act on derivations, not on a derivation output such as '{o}'"
        )),
        ContextElem::Closure(_) => Ok(Value::from_str_obj(s)),
    }
}

fn get_context(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let s = vm.force_str(a[0], pos)?;
    let mut all: Vec<(Sym, Value, Pos)> = Vec::new();
    let mut by_path: std::collections::BTreeMap<StorePath, (bool, bool, Vec<String>)> =
        std::collections::BTreeMap::new();
    for e in vm.ctx_elems(s.ctx()) {
        match e {
            ContextElem::Opaque(p) => by_path.entry(p).or_default().0 = true,
            ContextElem::Closure(p) => by_path.entry(p).or_default().1 = true,
            ContextElem::Built(p, o) => by_path.entry(p).or_default().2.push(o),
        }
    }
    for (path, (opaque, closure, outputs)) in by_path {
        let mut info = Vec::new();
        if opaque {
            info.push((vm.s.path, Value::TRUE, Pos::NONE));
        }
        if closure {
            info.push((vm.s.all_outputs, Value::TRUE, Pos::NONE));
        }
        if !outputs.is_empty() {
            let l: Vec<Value> = outputs
                .iter()
                .map(|o| Value::string(o.as_bytes()))
                .collect();
            info.push((vm.s.outputs, Value::list(&l), Pos::NONE));
        }
        all.push((
            Sym::new(vm.absolute(&path).as_bytes()),
            Value::attrs(Attrs::from_pairs(info)),
            Pos::NONE,
        ));
    }
    Ok(Value::attrs(Attrs::from_pairs(all)))
}

fn append_context(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let s = vm.force_str(a[0], pos)?;
    let set = vm.force_attrs(a[1], pos)?;
    let mut elems = Vec::new();
    for (name, v) in set.iter_by_name() {
        let text = name.text();
        let path = StorePath::from_absolute(vm.host.store_dir(), &text).map_err(|_e| {
            Error::new(
                Kind::Context,
                pos,
                format!("context key '{text}' is not a store path"),
            )
        })?;
        let info = vm.force_attrs(v, pos)?;
        let flag = |s: Sym| match info.get(s) {
            Some(v) => vm.force_bool(v, pos).traced(
                || {
                    format!(
                        "while evaluating the `{}` attribute of a string context",
                        s.text()
                    )
                },
                pos,
            ),
            None => Ok(false),
        };
        if flag(vm.s.path)? {
            elems.push(ContextElem::Opaque(path.clone()));
        }
        let drv_only = |what: &str| {
            if path.is_derivation() {
                return Ok(());
            }
            Err(Error::new(
                Kind::Context,
                pos,
                format!(
                    "tried to add {what} context of {text}, which is not a derivation, to a string"
                ),
            ))
        };
        if flag(vm.s.all_outputs)? {
            drv_only("all-outputs")?;
            elems.push(ContextElem::Closure(path.clone()));
        }
        if let Some(o) = info.get(vm.s.outputs) {
            let outputs = vm.force_list(o, pos)?;
            if !outputs.is_empty() {
                drv_only("derivation output")?;
            }
            for o in outputs {
                let o = vm.force_str_no_ctx(*o, pos)?;
                elems.push(ContextElem::Built(
                    path.clone(),
                    String::from_utf8_lossy(o).into_owned(),
                ));
            }
        }
    }
    let ctx = vm.ctx_union(s.ctx(), vm.ctx_of(elems));
    Ok(Value::from_str_obj(Str::new(s.bytes(), ctx)))
}
