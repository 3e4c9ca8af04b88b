//! Attribute sets.

use super::{FUNCTION_FIRST, Prim, p};
use crate::error::{R, Traced};
use crate::eval::Vm;
use crate::heap::{Attrs, Shape, Sym, Value};
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p(
        "attrNames",
        1,
        1,
        attr_names,
        "Returns the names of a set, sorted.",
    ),
    p(
        "attrValues",
        1,
        1,
        attr_values,
        "Returns the values of a set in the order of the sorted names.",
    ),
    p(
        "getAttr",
        2,
        3,
        get_attr,
        "Returns an attribute of a set by its name.",
    ),
    p(
        "hasAttr",
        2,
        3,
        has_attr,
        "Says whether a set has an attribute of a name.",
    ),
    p(
        "removeAttrs",
        2,
        3,
        remove_attrs,
        "Returns a set without the attributes of the names in a list.",
    ),
    p(
        "listToAttrs",
        1,
        1,
        list_to_attrs,
        "Makes a set of a list of sets with name and value; the first of equal names wins.",
    ),
    p(
        "intersectAttrs",
        2,
        3,
        intersect_attrs,
        "Returns the attributes of the second set whose names are in the first.",
    ),
    p(
        "mapAttrs",
        2,
        2,
        map_attrs,
        "Applies a function to the name and value of each attribute.",
    ),
    p(
        "catAttrs",
        2,
        3,
        cat_attrs,
        "Collects the attribute of a name from a list of sets.",
    ),
    p(
        "zipAttrsWith",
        2,
        3 | FUNCTION_FIRST,
        zip_attrs_with,
        "Merges a list of sets; a function gets each name with the list of its values.",
    ),
    p(
        "unsafeGetAttrPos",
        2,
        3,
        attr_pos,
        "Returns file, line and column where an attribute was written, or null.",
    ),
];

fn attr_names(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let set = vm.force_attrs(a[0], pos)?;
    let order = set.shape().by_name();
    Value::list_build(order.len(), |i| {
        Ok(set.shape().syms[order[i] as usize].value())
    })
}

fn attr_values(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let set = vm.force_attrs(a[0], pos)?;
    let order = set.shape().by_name();
    let values = set.values();
    Value::list_build(order.len(), |i| Ok(values[order[i] as usize]))
}

fn get_attr(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let name = Sym::of(vm.force_str_no_ctx(a[0], pos)?);
    let set = vm.force_attrs(a[1], pos)?;
    match set.get(name) {
        Some(v) => vm.force(v),
        None => Err(vm.missing(set, name, pos)),
    }
}

fn has_attr(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let name = Sym::known(vm.force_str_no_ctx(a[0], pos)?);
    let set = vm.force_attrs(a[1], pos)?;
    Ok(Value::bool(name.is_some_and(|n| set.get(n).is_some())))
}

fn pick(set: Attrs, keep: &[usize]) -> Value {
    let all: Vec<_> = keep
        .iter()
        .map(|&i| (set.shape().syms[i], set.values()[i], set.shape().pos_at(i)))
        .collect();
    Value::attrs(Attrs::from_sorted(&all))
}

fn remove_attrs(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let set = vm.force_attrs(a[0], pos)?;
    let names = vm.force_list(a[1], pos)?;
    let mut gone = Vec::with_capacity(names.len());
    for n in names {
        let n = vm.force_str_no_ctx(*n, pos).traced(
            || {
                "while evaluating the values of the second argument passed to builtins.removeAttrs"
                    .into()
            },
            pos,
        )?;
        if let Some(i) = Sym::known(n).and_then(|s| set.shape().find(s)) {
            gone.push(i);
        }
    }
    if gone.is_empty() {
        return Ok(Value::attrs(set));
    }
    gone.sort_unstable();
    let keep: Vec<usize> = (0..set.len())
        .filter(|i| gone.binary_search(i).is_err())
        .collect();
    Ok(pick(set, &keep))
}

fn list_to_attrs(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let l = vm.force_list(a[0], pos)?;
    let mut all = Vec::with_capacity(l.len());
    for x in l {
        let item = vm.force_attrs(*x, pos).traced(
            || "while evaluating an element of the list passed to builtins.listToAttrs".into(),
            pos,
        )?;
        let shape = item.shape();
        let in_item =
            |e: Box<crate::error::Error>| e.frame("in a {name=...; value=...;} pair", pos);
        let Some(n) = shape.find(vm.s.name) else {
            return Err(in_item(vm.missing(item, vm.s.name, pos)));
        };
        let name = Sym::of(
            vm.force_str_no_ctx(item.values()[n], pos)
                .traced(|| "while evaluating the `name` attribute of an element of the list passed to builtins.listToAttrs".into(), pos)?,
        );
        let Some(v) = shape.find(vm.s.value) else {
            return Err(in_item(vm.missing(item, vm.s.value, pos)));
        };
        all.push((name, item.values()[v], shape.pos_at(v)));
    }
    Ok(Value::attrs(Attrs::from_pairs(all)))
}

fn intersect_attrs(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let x = vm.force_attrs(a[0], pos)?;
    let y = vm.force_attrs(a[1], pos)?;
    let (xs, ys) = (x.shape(), y.shape());
    let mut keep = Vec::new();
    if xs.len() * 8 < ys.len() {
        keep.extend(xs.syms.iter().filter_map(|s| ys.find(*s)));
    } else if ys.len() * 8 < xs.len() {
        keep.extend((0..ys.len()).filter(|&i| xs.find(ys.syms[i]).is_some()));
    } else {
        let mut i = 0;
        for (j, s) in ys.syms.iter().enumerate() {
            while i < xs.len() && xs.syms[i] < *s {
                i += 1;
            }
            if i < xs.len() && xs.syms[i] == *s {
                keep.push(j);
            }
        }
    }
    Ok(if keep.len() == y.len() {
        Value::attrs(y)
    } else {
        pick(y, &keep)
    })
}

fn map_attrs(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let set = vm.force_attrs(a[1], pos)?;
    let f = vm.for_parts(a[0].peel(), 2, pos, a[1]);
    let shape = set.shape().bare();
    let values = set.values();
    Attrs::build(shape, |i| {
        Ok(Value::thunk_app2(f, shape.syms[i].value(), values[i]))
    })
    .map(Value::attrs)
}

fn cat_attrs(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let name = Sym::of(vm.force_str_no_ctx(a[0], pos)?);
    let mut out = Vec::new();
    for x in vm.force_list(a[1], pos)? {
        let set = vm.force_attrs(*x, pos).traced(|| "while evaluating an element in the list passed as second argument to builtins.catAttrs".into(), pos)?;
        out.extend(set.get(name));
    }
    Ok(Value::list(&out))
}

fn zip_attrs_with(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let f = vm.force_fun(a[0], pos)?;
    let sets = vm.force_list(a[1], pos)?;
    let mut all: Vec<(Sym, u32, Value)> = Vec::new();
    for (i, x) in sets.iter().enumerate() {
        let set = vm.force_attrs(*x, pos).traced(|| "while evaluating a value of the list passed as second argument to builtins.zipAttrsWith".into(), pos)?;
        all.extend(set.iter().map(|(s, v)| (s, i as u32, v)));
    }
    all.sort_by_key(|x| (x.0, x.1));
    let f = vm.for_parts(f, 2, pos, Value::NULL);
    let mut syms = Vec::new();
    let mut values = Vec::new();
    let mut items = Vec::new();
    for group in all.chunk_by(|x, y| x.0 == y.0) {
        items.clear();
        items.extend(group.iter().map(|x| x.2));
        syms.push(group[0].0);
        values.push(Value::thunk_app2(
            f,
            group[0].0.value(),
            Value::list(&items),
        ));
    }
    Ok(Value::attrs(Attrs::new(
        Shape::new(syms.into(), crate::heap::Kept::default()),
        &values,
    )))
}

fn attr_pos(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let name = Sym::of(vm.force_str_no_ctx(a[0], pos)?);
    let set = vm.force_attrs(a[1], pos)?;
    Ok(match set.shape().find(name) {
        Some(i) => vm.pos_value(set.shape().pos_at(i)),
        None => Value::NULL,
    })
}
