//! Regular expressions.

use std::rc::Rc;

use super::{Prim, p};
use crate::error::{Error, Kind, R};
use crate::eval::Vm;
use crate::heap::Value;
use crate::ir::Pos;
use crate::regex::{Regex, Span};

pub(super) static TABLE: &[Prim] = &[
    p(
        "match",
        2,
        3,
        full_match,
        "Matches a whole string against a POSIX extended regular expression and returns the groups, or null.",
    ),
    p(
        "split",
        2,
        3,
        split,
        "Splits a string at the matches of a POSIX extended regular expression; the groups come between.",
    ),
];

fn compile(vm: &Vm, v: Value, pos: Pos) -> R<Rc<Regex>> {
    let pattern = vm.force_str_no_ctx(v, pos)?;
    vm.regexes.borrow_mut().get(pattern).map_err(|why| {
        let shown = String::from_utf8_lossy(pattern).into_owned();
        let mut e = Error::new(
            Kind::Regex,
            pos,
            format!("invalid regular expression '{shown}'"),
        );
        e.notes.push(why);
        e
    })
}

fn group(text: &[u8], s: Span) -> Value {
    s.map_or(Value::NULL, |(a, b)| Value::string(&text[a..b]))
}

fn full_match(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let re = compile(vm, a[0], pos)?;
    let text = vm.force_str(a[1], pos)?.bytes();
    let Some(groups) = re.full_match(text) else {
        return Ok(Value::NULL);
    };
    Value::list_build(groups.len(), |i| Ok(group(text, groups[i])))
}

fn split(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let re = compile(vm, a[0], pos)?;
    let subject = vm.force_str(a[1], pos)?;
    let text = subject.bytes();
    let none = Value::list(&[]);
    let mut out = Vec::new();
    let mut last = 0;
    let mut from = 0;
    while from <= text.len() {
        let Some(((start, end), groups)) = re.find(text, from) else {
            break;
        };
        out.push(Value::string(&text[last..start]));
        out.push(if re.groups() == 0 {
            none
        } else {
            Value::list(&groups.iter().map(|g| group(text, *g)).collect::<Vec<_>>())
        });
        last = end;
        // After an empty match the search goes on behind the next byte.
        from = if end == start { end + 1 } else { end };
    }
    if out.is_empty() {
        return Ok(Value::list(&[Value::from_str_obj(crate::heap::Str::new(
            text, 0,
        ))]));
    }
    out.push(Value::string(&text[last..]));
    Ok(Value::list(&out))
}
