//! Control: errors, evaluation order, tracing, imports with scope.

use super::{Prim, p};
use crate::error::{Error, Kind, R, Traced};
use crate::eval::{Coerce, Vm};
use crate::heap::{Attrs, Value};
use crate::ir::Pos;

pub(super) static TABLE: &[Prim] = &[
    p(
        "abort",
        1,
        1,
        abort,
        "Stops the evaluation with a message; cannot be caught.",
    ),
    p(
        "throw",
        1,
        1,
        throw,
        "Stops the evaluation with a message; tryEval catches it.",
    ),
    p(
        "tryEval",
        1,
        0,
        try_eval,
        "Evaluates a value and says whether that threw.",
    ),
    p(
        "seq",
        2,
        1,
        |vm, a, _| {
            vm.force(a[0])?;
            vm.force(a[1])
        },
        "Evaluates the first argument, then returns the second.",
    ),
    p(
        "deepSeq",
        2,
        0,
        |vm, a, pos| {
            vm.force_deep(a[0], pos)?;
            vm.force(a[1])
        },
        "Evaluates the first argument completely, then returns the second.",
    ),
    p(
        "trace",
        2,
        0,
        trace,
        "Shows the first argument, then returns the second.",
    ),
    p(
        "traceVerbose",
        2,
        0,
        |vm, a, _| vm.force(a[1]),
        "Returns the second argument; verbose tracing is off.",
    ),
    p(
        "warn",
        2,
        0,
        warn,
        "Shows a warning, then returns the second argument.",
    ),
    Prim {
        on_error: Some(with_context),
        ..p(
            "addErrorContext",
            2,
            0,
            |vm, a, pos| vm.force(a[1]).map_err(|e| with_context(vm, e, a[0], pos)),
            "Adds a line to the errors of the second argument.",
        )
    },
    p(
        "break",
        1,
        1,
        |vm, a, _| vm.force(a[0]),
        "Returns its argument; there is no debugger.",
    ),
];

fn message(vm: &Vm, v: Value, pos: Pos) -> R<String> {
    Ok(String::from_utf8_lossy(vm.coerce(v, Coerce::INTERP, pos)?.bytes()).into_owned())
}

fn abort(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let m = message(vm, a[0], pos)?;
    Err(Error::new(
        Kind::Abort,
        pos,
        format!("evaluation aborted with the following error message: '{m}'"),
    ))
}

fn throw(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let m = message(vm, a[0], pos)?;
    Err(Error::new(Kind::Throw, pos, m))
}

fn try_eval(vm: &Vm, a: &[Value], _: Pos) -> R {
    let (ok, v) = match vm.force(a[0]) {
        Ok(v) => (true, v),
        Err(e) if e.kind.catchable() => (false, Value::FALSE),
        Err(e) => return Err(e),
    };
    Ok(Value::attrs(Attrs::from_pairs(vec![
        (vm.s.success, Value::bool(ok), Pos::NONE),
        (vm.s.value, v, Pos::NONE),
    ])))
}

fn trace(vm: &Vm, a: &[Value], _: Pos) -> R {
    let v = vm.force(a[0])?;
    match v.as_str() {
        Some(s) => vm.host.trace(&String::from_utf8_lossy(s.bytes())),
        None => vm.host.trace(&vm.show(v)),
    }
    vm.force(a[1])
}

fn warn(vm: &Vm, a: &[Value], pos: Pos) -> R {
    let s = vm.force_str(a[0], pos)?;
    vm.host.warn(&String::from_utf8_lossy(s.bytes()));
    vm.force(a[1])
}

#[cold]
fn with_context(vm: &Vm, e: Box<Error>, context: Value, pos: Pos) -> Box<Error> {
    let m = message(vm, context, pos).traced(
        || "while evaluating the error message passed to builtins.addErrorContext".into(),
        pos,
    );
    match m {
        Ok(m) => e.context(m),
        Err(e) => e,
    }
}
