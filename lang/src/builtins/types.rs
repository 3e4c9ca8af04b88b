//! Types of values.

use super::{Prim, p};
use crate::error::R;
use crate::eval::Vm;
use crate::heap::{Attrs, Fun, Tag, Value};
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p(
        "isNull",
        1,
        1,
        |vm, a, _| Ok(Value::bool(vm.force(a[0])? == Value::NULL)),
        "Says whether a value is null.",
    ),
    p(
        "isInt",
        1,
        1,
        |vm, a, _| Ok(Value::bool(vm.force(a[0])?.as_int().is_some())),
        "Says whether a value is an integer.",
    ),
    p(
        "isFloat",
        1,
        1,
        |vm, a, _| Ok(Value::bool(vm.force(a[0])?.as_float().is_some())),
        "Says whether a value is a float.",
    ),
    p(
        "isBool",
        1,
        1,
        |vm, a, _| Ok(Value::bool(vm.force(a[0])?.as_bool().is_some())),
        "Says whether a value is a truth value.",
    ),
    p(
        "isString",
        1,
        1,
        |vm, a, _| is(vm, a, Tag::Str),
        "Says whether a value is a string.",
    ),
    p(
        "isList",
        1,
        1,
        |vm, a, _| is(vm, a, Tag::List),
        "Says whether a value is a list.",
    ),
    p(
        "isAttrs",
        1,
        1,
        |vm, a, _| is(vm, a, Tag::Attrs),
        "Says whether a value is a set.",
    ),
    p(
        "isFunction",
        1,
        1,
        |vm, a, _| is(vm, a, Tag::Fun),
        "Says whether a value is a function.",
    ),
    p(
        "isPath",
        1,
        1,
        |vm, a, _| Ok(Value::bool(vm.force(a[0])?.as_path().is_some())),
        "Says whether a value is a path.",
    ),
    p(
        "typeOf",
        1,
        1,
        type_of,
        "Returns the name of a value's type.",
    ),
    p(
        "functionArgs",
        1,
        1,
        function_args,
        "Returns the names of a set pattern, with whether each has a default.",
    ),
];

fn is(vm: &Vm, a: &[Value], t: Tag) -> R {
    Ok(Value::bool(vm.force(a[0])?.tag() == t))
}

/// The name of the type of a forced value.
pub(crate) fn type_name(v: Value) -> &'static str {
    match v.tag() {
        Tag::Thunk => "thunk",
        Tag::Int => "int",
        Tag::Str => "string",
        Tag::Attrs => "set",
        Tag::List => "list",
        Tag::Fun => "lambda",
        Tag::Imm if v == Value::NULL => "null",
        Tag::Imm => "bool",
        Tag::Boxed if v.as_float().is_some() => "float",
        Tag::Boxed if v.as_path().is_some() => "path",
        Tag::Boxed => "int",
    }
}

fn type_of(vm: &Vm, a: &[Value], _: Pos) -> R {
    Ok(Value::string(type_name(vm.force(a[0])?).as_bytes()))
}

fn function_args(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let f = vm.force(a[0])?;
    let (lambda, have) = match f.as_fun() {
        Some(Fun::Closure(l, _)) => (l, 0),
        Some(Fun::Partial(g, have)) => match g.as_fun() {
            Some(Fun::Closure(l, _)) => (l, have.len()),
            _ => return Ok(Value::attrs(Attrs::empty())),
        },
        Some(Fun::Prim(_)) => return Ok(Value::attrs(Attrs::empty())),
        None => {
            return Err(crate::error::Error::new(
                crate::error::Kind::Type,
                pos,
                "'functionArgs' requires a function",
            ));
        }
    };
    match &lambda.formals {
        Some(f) if have + 1 == lambda.arity as usize => {
            let all: Vec<_> = f
                .names
                .iter()
                .map(|x| (x.name, Value::bool(x.default.is_some()), x.pos))
                .collect();
            Ok(Value::attrs(Attrs::from_sorted(&all)))
        }
        _ => Ok(Value::attrs(Attrs::empty())),
    }
}
