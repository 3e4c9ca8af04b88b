//! Arithmetic.

use super::{Prim, p};
use crate::error::{Error, Kind, R};
use crate::eval::Vm;
use crate::heap::Value;
use crate::ir::{BinOp, Pos};

pub(super) static TABLE: &[Prim] = &[
    p(
        "add",
        2,
        3,
        |vm, a, pos| arith(vm, BinOp::Add, a, pos),
        "Adds two numbers.",
    ),
    p(
        "sub",
        2,
        3,
        |vm, a, pos| arith(vm, BinOp::Sub, a, pos),
        "Subtracts two numbers.",
    ),
    p(
        "mul",
        2,
        3,
        |vm, a, pos| arith(vm, BinOp::Mul, a, pos),
        "Multiplies two numbers.",
    ),
    p(
        "div",
        2,
        3,
        |vm, a, pos| arith(vm, BinOp::Div, a, pos),
        "Divides two numbers.",
    ),
    p(
        "lessThan",
        2,
        3,
        |vm, a, pos| Ok(Value::bool(vm.less(a[0], a[1], pos)?)),
        "Says whether one value comes before another.",
    ),
    p(
        "bitAnd",
        2,
        3,
        |vm, a, pos| bits(vm, a, pos, |x, y| x & y),
        "Returns the bitwise and of two integers.",
    ),
    p(
        "bitOr",
        2,
        3,
        |vm, a, pos| bits(vm, a, pos, |x, y| x | y),
        "Returns the bitwise or of two integers.",
    ),
    p(
        "bitXor",
        2,
        3,
        |vm, a, pos| bits(vm, a, pos, |x, y| x ^ y),
        "Returns the bitwise exclusive or of two integers.",
    ),
    p(
        "ceil",
        1,
        1,
        |vm, a, pos| round(vm, a, pos, f64::ceil, "ceil"),
        "Rounds a number up.",
    ),
    p(
        "floor",
        1,
        1,
        |vm, a, pos| round(vm, a, pos, f64::floor, "floor"),
        "Rounds a number down.",
    ),
];

fn arith(vm: &Vm, op: BinOp, a: &[Value], pos: Pos) -> R {
    let (x, y) = (vm.force(a[0])?, vm.force(a[1])?);
    vm.arith(op, x, y, pos)
}

fn bits(vm: &Vm, a: &[Value], pos: Pos, f: fn(i64, i64) -> i64) -> R {
    Ok(Value::int(f(
        vm.force_int(a[0], pos)?,
        vm.force_int(a[1], pos)?,
    )))
}

#[allow(
    clippy::cast_precision_loss,
    clippy::float_cmp,
    reason = "the range is checked by converting back"
)]
fn round(vm: &Vm, a: &[Value], pos: Pos, f: fn(f64) -> f64, name: &str) -> R {
    let v = vm.force(a[0])?;
    if v.as_int().is_some() {
        return Ok(v);
    }
    let x = v
        .as_float()
        .ok_or_else(|| vm.type_error("a float", v, pos))?;
    let r = f(x);
    let i = r as i64;
    if i as f64 != r || i == i64::MAX {
        return Err(Error::new(
            Kind::Arith,
            pos,
            format!(
                "NixFloat argument {} is not in the range of NixInt ({name})",
                vm.show(v)
            ),
        ));
    }
    Ok(Value::int(i))
}
