//! Lists.

use super::{FUNCTION_FIRST, Prim, p};
use crate::error::{Error, Kind, R, Traced};
use crate::eval::Vm;
use crate::heap::{Attrs, Fun, Sym, Value};
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p(
        "length",
        1,
        1,
        |vm, a, pos| Ok(Value::int(vm.force_list(a[0], pos)?.len() as i64)),
        "Returns the number of elements of a list.",
    ),
    p("head", 1, 1, head, "Returns the first element of a list."),
    p(
        "tail",
        1,
        1,
        tail,
        "Returns a list without its first element.",
    ),
    p(
        "elemAt",
        2,
        3,
        elem_at,
        "Returns an element of a list by its index, counted from 0.",
    ),
    p(
        "elem",
        2,
        2,
        elem,
        "Says whether a list has an element equal to a value.",
    ),
    p(
        "map",
        2,
        2,
        map,
        "Applies a function to each element of a list.",
    ),
    p(
        "filter",
        2,
        2,
        filter,
        "Keeps the elements of a list for which a function is true.",
    ),
    p(
        "foldl'",
        3,
        5 | FUNCTION_FIRST,
        foldl,
        "Folds a list from the left, forcing each intermediate result.",
    ),
    p(
        "any",
        2,
        3 | FUNCTION_FIRST,
        |vm, a, pos| some(vm, a, pos, true),
        "Says whether a function is true for any element of a list.",
    ),
    p(
        "all",
        2,
        3 | FUNCTION_FIRST,
        |vm, a, pos| some(vm, a, pos, false),
        "Says whether a function is true for all elements of a list.",
    ),
    p(
        "genList",
        2,
        2,
        gen_list,
        "Makes a list by applying a function to the numbers from 0.",
    ),
    p("concatLists", 1, 1, concat_lists, "Joins a list of lists."),
    p(
        "concatMap",
        2,
        3 | FUNCTION_FIRST,
        concat_map,
        "Applies a function that gives lists to each element and joins the results.",
    ),
    p(
        "partition",
        2,
        3 | FUNCTION_FIRST,
        partition,
        "Splits a list into the elements for which a function is true and the others.",
    ),
    p(
        "groupBy",
        2,
        3 | FUNCTION_FIRST,
        group_by,
        "Groups the elements of a list by the string that a function gives for each.",
    ),
    p(
        "sort",
        2,
        2,
        sort,
        "Sorts a list by a function that says whether its first argument comes before the second; stable.",
    ),
    p(
        "genericClosure",
        1,
        1,
        generic_closure,
        "Collects everything reachable from a start set through an operator, by key.",
    ),
];

fn head(vm: &Vm, a: &[Value], pos: Pos) -> R {
    match vm.force_list(a[0], pos)? {
        [x, ..] => vm.force(*x),
        [] => Err(Error::new(
            Kind::Value,
            pos,
            "'builtins.head' called on an empty list",
        )),
    }
}

fn tail(vm: &Vm, a: &[Value], pos: Pos) -> R {
    match vm.force_list(a[0], pos)? {
        [] => Err(Error::new(
            Kind::Value,
            pos,
            "'builtins.tail' called on an empty list",
        )),
        l => Ok(Value::list_tail(l, 1)),
    }
}

fn elem_at(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let i = vm.force_int(a[1], pos)?;
    let l = vm.force_list(a[0], pos)?;
    match usize::try_from(i).ok().and_then(|i| l.get(i)) {
        Some(x) => vm.force(*x),
        None => Err(Error::new(
            Kind::Value,
            pos,
            format!(
                "'builtins.elemAt' called with index {i} on a list of size {}",
                l.len()
            ),
        )),
    }
}

fn elem(vm: &Vm, a: &[Value], pos: Pos) -> R {
    for x in vm.force_list(a[1], pos)? {
        if vm.same_or_equal(a[0], *x, pos)? {
            return Ok(Value::TRUE);
        }
    }
    Ok(Value::FALSE)
}

fn map(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let l = vm.force_list(a[1], pos)?;
    if l.is_empty() {
        return Ok(Value::list_tail(l, 0));
    }
    let f = vm.force_fun(a[0], pos)?;
    let f = vm.for_parts(f, 1, pos, a[1]);
    Value::list_build(l.len(), |i| Ok(Value::thunk_app(f, l[i])))
}

fn filter(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let l = vm.force_list(a[1], pos)?;
    if l.is_empty() {
        return Ok(Value::list(l));
    }
    let f = vm.force_fun(a[0], pos)?;
    let mut out = Vec::with_capacity(l.len());
    for x in l {
        if vm.truth(f, &[*x], pos)? {
            out.push(*x);
        }
    }
    Ok(if out.len() == l.len() {
        Value::list_tail(l, 0)
    } else {
        Value::list(&out)
    })
}

impl Vm {
    /// Calls a function that must give a truth value.
    fn truth(&self, f: Value, args: &[Value], pos: Pos) -> R<bool> {
        let v = self.call(f, args, pos)?;
        match v.as_bool() {
            Some(b) => Ok(b),
            None => Err(self.type_error("a Boolean", v, pos).frame(
                "while evaluating the return value of the function given to a builtin",
                pos,
            )),
        }
    }
}

fn foldl(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let f = vm.force_fun(a[0], pos)?;
    let l = vm.force_list(a[2], pos)?;
    let mut acc = a[1];
    for x in l {
        acc = vm.call(f, &[acc, *x], pos)?;
    }
    vm.force(acc)
}

fn some(vm: &Vm, a: &[Value], pos: Pos, want: bool) -> R {
    let f = vm.force_fun(a[0], pos)?;
    for x in vm.force_list(a[1], pos)? {
        if vm.truth(f, &[*x], pos)? == want {
            return Ok(Value::bool(want));
        }
    }
    Ok(Value::bool(!want))
}

/// Longest list that `genList` makes: more cannot fit into memory anyway.
const MAX_LIST: usize = 1 << 34;
/// Items of it after which somebody may have asked to stop.
const PATIENCE: usize = 1 << 16;

fn gen_list(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let n = vm.force_int(a[1], pos)?;
    let n = usize::try_from(n)
        .ok()
        .filter(|n| *n <= MAX_LIST)
        .ok_or_else(|| Error::new(Kind::Value, pos, format!("cannot create list of size {n}")))?;
    let f = vm.for_parts(vm.force_fun(a[0], pos)?, 1, pos, Value::NULL);
    Value::list_build(n, |i| {
        if i % PATIENCE == 0 {
            vm.go_on(pos)?;
        }
        Ok(Value::thunk_app(f, Value::int(i as i64)))
    })
}

fn concat(vm: &Vm, lists: impl Iterator<Item = R>, pos: Pos, what: &str) -> R {
    // Most results have one part, or none.
    let mut only: &'static [Value] = &[];
    let mut parts: Vec<&'static [Value]> = Vec::new();
    let left = lists.size_hint().0;
    for l in lists {
        let l = vm.force(l?)?;
        let Some(items) = l.as_list() else {
            return Err(vm.type_error("a list", l, pos).frame(what, pos));
        };
        if !parts.is_empty() {
            parts.push(items);
        } else if only.is_empty() {
            only = items;
        } else if !items.is_empty() {
            parts.reserve(left);
            parts.extend([only, items]);
        }
    }
    Ok(if parts.is_empty() && !only.is_empty() {
        Value::list_tail(only, 0)
    } else {
        Value::list_concat(&parts)
    })
}

fn concat_lists(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let l = vm.force_list(a[0], pos)?;
    concat(
        vm,
        l.iter().map(|v| Ok(*v)),
        pos,
        "while evaluating a value of the list passed to builtins.concatLists",
    )
}

fn concat_map(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let f = vm.force_fun(a[0], pos)?;
    let l = vm.force_list(a[1], pos)?;
    let what = "while evaluating the return value of the function passed to builtins.concatMap";
    concat(vm, l.iter().map(|v| vm.call(f, &[*v], pos)), pos, what)
}

fn partition(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let f = vm.force_fun(a[0], pos)?;
    let (mut right, mut wrong) = (Vec::new(), Vec::new());
    for x in vm.force_list(a[1], pos)? {
        if vm.truth(f, &[*x], pos)? {
            right.push(*x);
        } else {
            wrong.push(*x);
        }
    }
    Ok(Value::attrs(Attrs::from_pairs(vec![
        (vm.s.right, Value::list(&right), Pos::NONE),
        (vm.s.wrong, Value::list(&wrong), Pos::NONE),
    ])))
}

fn group_by(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let f = vm.force_fun(a[0], pos)?;
    let mut groups: Vec<(Sym, Vec<Value>)> = Vec::new();
    let mut index = rustc_hash::FxHashMap::default();
    for x in vm.force_list(a[1], pos)? {
        let name = vm.call(f, &[*x], pos)?;
        let s = Sym::new(
            vm.force_str_no_ctx(name, pos)
                .traced(|| "while evaluating the return value of the grouping function passed to builtins.groupBy".into(), pos)?,
        );
        let i = *index.entry(s).or_insert_with(|| {
            groups.push((s, Vec::new()));
            groups.len() - 1
        });
        groups[i].1.push(*x);
    }
    let all = groups
        .into_iter()
        .map(|(s, v)| (s, Value::list(&v), Pos::NONE))
        .collect();
    Ok(Value::attrs(Attrs::from_pairs(all)))
}

fn sort(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let l = vm.force_list(a[1], pos)?;
    if l.is_empty() {
        return Ok(Value::list_tail(l, 0));
    }
    let f = vm.force_fun(a[0], pos)?;
    let natural = matches!(f.as_fun(), Some(Fun::Prim(p)) if p.name == "lessThan");
    let mut less = |x: Value, y: Value| {
        if natural {
            vm.less(x, y, pos)
        } else {
            vm.truth(f, &[x, y], pos)
        }
    };
    let mut items = l.to_vec();
    for x in &mut items {
        *x = x.peel();
    }
    merge_sort(&mut items, &mut less)?;
    Ok(Value::list(&items))
}

/// A stable merge sort that copes with comparators that fail or contradict themselves.
fn merge_sort(items: &mut [Value], less: &mut impl FnMut(Value, Value) -> R<bool>) -> R<()> {
    const RUN: usize = 8;
    let n = items.len();
    for chunk in items.chunks_mut(RUN) {
        for i in 1..chunk.len() {
            let x = chunk[i];
            let mut j = i;
            while j > 0 && less(x, chunk[j - 1])? {
                chunk[j] = chunk[j - 1];
                j -= 1;
            }
            chunk[j] = x;
        }
    }
    let mut other = items.to_vec();
    let mut width = RUN;
    let mut in_items = true;
    while width < n {
        let (from, to): (&mut [Value], &mut [Value]) = if in_items {
            (items, &mut other)
        } else {
            (&mut other, items)
        };
        let mut start = 0;
        while start < n {
            let mid = (start + width).min(n);
            let end = (mid + width).min(n);
            let (mut i, mut j) = (start, mid);
            // Two runs that are in order already are copied.
            let ordered = mid == end || !less(from[mid], from[mid - 1])?;
            if ordered {
                to[start..end].copy_from_slice(&from[start..end]);
            } else {
                for slot in &mut to[start..end] {
                    let right = i == mid || (j < end && less(from[j], from[i])?);
                    if right {
                        *slot = from[j];
                        j += 1;
                    } else {
                        *slot = from[i];
                        i += 1;
                    }
                }
            }
            start = end;
        }
        width *= 2;
        in_items = !in_items;
    }
    if !in_items {
        items.copy_from_slice(&other);
    }
    Ok(())
}

/// A key that is ordered by `less`; comparing can fail, so the error is kept aside.
fn generic_closure(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let set = vm.force_attrs(a[0], pos)?;
    let need = |s: Sym| {
        set.get(s).ok_or_else(|| {
            vm.missing(set, s, pos).frame(
                "in the attrset passed as argument to builtins.genericClosure",
                pos,
            )
        })
    };
    let start = vm.force_list(need(vm.s.start_set)?, pos)?;
    if start.is_empty() {
        return Ok(Value::list(&[]));
    }
    let op = vm.force_fun(need(vm.s.operator)?, pos)?;
    let mut work: std::collections::VecDeque<Value> = start.iter().copied().collect();
    let mut seen = Keys::default();
    let mut out = Vec::new();
    while let Some(x) = work.pop_front() {
        let x = vm.force(x)?;
        let Some(item) = x.as_attrs() else {
            return Err(vm.type_error("a set", x, pos).frame("while evaluating one of the elements generated by (or initially passed to) builtins.genericClosure", pos));
        };
        let Some(key) = item.get(vm.s.key) else {
            return Err(vm.missing(item, vm.s.key, pos).frame("in one of the attrsets generated by (or initially passed to) builtins.genericClosure", pos));
        };
        let key = vm.force(key)?;
        if !seen.insert(vm, key, pos)? {
            continue;
        }
        out.push(x);
        let next = vm.call(op, &[x], pos)?;
        let next = vm.force_list(next, pos).traced(|| "while evaluating the return value of the `operator` passed to builtins.genericClosure".into(), pos)?;
        work.extend(next);
    }
    Ok(Value::list(&out))
}

/// Keys seen: integers and strings by hash as long as all are of one kind, anything else in a sorted list.
#[derive(Default)]
struct Keys {
    ints: rustc_hash::FxHashSet<i64>,
    strings: rustc_hash::FxHashSet<&'static [u8]>,
    sorted: Vec<Value>,
    first: Option<Value>,
}

impl Keys {
    fn insert(&mut self, vm: &Vm, key: Value, pos: Pos) -> R<bool> {
        let first = *self.first.get_or_insert(key);
        if let (Some(i), Some(_)) = (key.as_int(), first.as_int())
            && self.sorted.is_empty()
        {
            return Ok(self.ints.insert(i));
        }
        if let (Some(s), Some(_)) = (key.as_str(), first.as_str()) {
            return Ok(self.strings.insert(s.bytes()));
        }
        if self.sorted.is_empty() {
            // Floats among integers, or values that cannot be compared: the comparison decides.
            let mut ints: Vec<i64> = self.ints.drain().collect();
            ints.sort_unstable();
            self.sorted = ints.into_iter().map(Value::int).collect();
            self.sorted
                .extend(self.strings.iter().take(1).map(|s| Value::string(s)));
            if self.sorted.is_empty() {
                // One key compares with itself, so that a kind that has no order fails at once when there is a second.
                self.sorted.push(key);
                return Ok(true);
            }
        }
        let (mut lo, mut hi) = (0, self.sorted.len());
        while lo < hi {
            let mid = usize::midpoint(lo, hi);
            if vm.less(key, self.sorted[mid], pos)? {
                hi = mid;
            } else {
                lo = mid + 1;
            }
        }
        if lo > 0 && !vm.less(self.sorted[lo - 1], key, pos)? {
            return Ok(false);
        }
        self.sorted.insert(lo, key);
        Ok(true)
    }
}
