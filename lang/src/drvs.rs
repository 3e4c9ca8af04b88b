//! Which derivations a value names, as nix-build sees it.

use sos_formats::store_path::StorePath;

use crate::api::DrvRef;
use crate::error::{Error, Kind, R, Traced};
use crate::eval::{Coerce, Vm};
use crate::heap::{Attrs, Fun, Tag, Value};
use crate::host::ContextElem;
use crate::ir::Pos;

/// Finds the derivations.
pub(crate) fn find(vm: &Vm, v: Value) -> R<Vec<DrvRef>> {
    let mut out = Vec::new();
    let mut seen = rustc_hash::FxHashSet::default();
    walk(vm, v, "", &mut seen, &mut out)?;
    Ok(out)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}

/// Sets and lists may nest without end, so the nesting counts as that of calls does.
fn walk(
    vm: &Vm,
    v: Value,
    path: &str,
    seen: &mut rustc_hash::FxHashSet<u64>,
    out: &mut Vec<DrvRef>,
) -> R<()> {
    vm.deeper(Pos::NONE, || walk_inside(vm, v, path, seen, out))
}

fn walk_inside(
    vm: &Vm,
    v: Value,
    path: &str,
    seen: &mut rustc_hash::FxHashSet<u64>,
    out: &mut Vec<DrvRef>,
) -> R<()> {
    let mut v = vm.force(v)?;
    if let Some(Fun::Closure(l, _)) = v.as_fun()
        && l.arity == 1
        && l.formals
            .as_ref()
            .is_some_and(|f| f.names.iter().all(|n| n.default.is_some()))
    {
        v = vm.call(v, &[Value::attrs(Attrs::empty())], l.pos)?;
    }
    match v.tag() {
        Tag::Attrs => {
            let set = vm.force_attrs(v, Pos::NONE)?;
            if vm.is_derivation(set)? {
                if seen.insert(v.identity()) {
                    out.push(derivation(vm, set, path)?);
                }
                return Ok(());
            }
            if !seen.insert(v.identity()) {
                return Ok(());
            }
            for (s, x) in set.iter_by_name() {
                if !is_plain(s.bytes()) {
                    continue;
                }
                let at = join(path, &s.text());
                let x = vm.force(x).traced(
                    || format!("while evaluating the attribute '{at}'"),
                    Pos::NONE,
                )?;
                // Only derivations and sets that ask for it are looked into.
                if let Some(a) = x.as_attrs()
                    && (vm.is_derivation(a)? || recurses(vm, a)?)
                {
                    walk(vm, x, &at, seen, out)?;
                }
            }
            Ok(())
        }
        Tag::List => {
            // What is in it was found before, or it contains itself.
            if !seen.insert(v.identity()) {
                return Ok(());
            }
            for (i, x) in v.as_list().unwrap_or_default().iter().enumerate() {
                walk(vm, *x, &join(path, &i.to_string()), seen, out)?;
            }
            Ok(())
        }
        _ => Err(Error::new(
            Kind::Type,
            Pos::NONE,
            format!(
                "expression does not evaluate to a derivation (or a set or list of those) but to {}",
                vm.show_type(v)
            ),
        )),
    }
}

/// Names that a command line can select without quotes; others are passed over.
fn is_plain(name: &[u8]) -> bool {
    name.first()
        .is_some_and(|b| b.is_ascii_alphabetic() || *b == b'_')
        && name
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'+'))
}

fn recurses(vm: &Vm, a: Attrs) -> R<bool> {
    match a.get(vm.s.recurse) {
        Some(r) => vm.force_bool(r, Pos::NONE),
        None => Ok(false),
    }
}

fn derivation(vm: &Vm, set: Attrs, path: &str) -> R<DrvRef> {
    let pos = Pos::NONE;
    let Some(d) = set.get(vm.s.drv_path) else {
        return Err(vm.missing(set, vm.s.drv_path, pos));
    };
    let s = vm.coerce(d, Coerce::PLAIN, pos)?;
    let text = String::from_utf8_lossy(s.bytes()).into_owned();
    let drv_path = vm
        .ctx_elems(s.ctx())
        .into_iter()
        .find_map(|e| match e {
            ContextElem::Closure(p) => Some(p),
            _ => None,
        })
        .map_or_else(|| StorePath::from_absolute(vm.host.store_dir(), &text), Ok)
        .map_err(|e| {
            Error::new(
                Kind::Value,
                pos,
                format!("'drvPath' is not a store path: {e}"),
            )
        })?;
    let name = match set.get(vm.s.name) {
        Some(n) => String::from_utf8_lossy(vm.force_str(n, pos)?.bytes()).into_owned(),
        None => sos_formats::derivation::Derivation::name_from_path(&drv_path).to_owned(),
    };
    let output = match set.get(vm.s.output_name) {
        Some(o) => String::from_utf8_lossy(vm.force_str(o, pos)?.bytes()).into_owned(),
        None => "out".to_owned(),
    };
    let mut outputs = vec![output];
    if let Some(list) = set.get(vm.s.outputs) {
        for o in vm.force_list(list, pos)? {
            let o = String::from_utf8_lossy(vm.force_str(*o, pos)?.bytes()).into_owned();
            if !outputs.contains(&o) {
                outputs.push(o);
            }
        }
    }
    Ok(DrvRef {
        drv_path,
        outputs,
        name,
        attr: path.to_owned(),
    })
}
