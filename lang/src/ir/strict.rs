//! Which arguments a function needs before it does anything else.
//!
//! Such an argument can be evaluated before the call: no thunk is made for it, and nothing can be told from outside, because what would
//! have happened first still happens first.

use super::{E, Expr, Formals};

/// The parameters that a function forces first, in that order: its callers may evaluate these arguments at once.
pub(super) fn forced_first(arity: u32, formals: Option<&Formals>, body: E) -> Vec<u32> {
    if formals.is_some() {
        // The set is matched against the pattern before the body runs, and that can fail.
        return vec![arity - 1];
    }
    let mut out = Vec::new();
    collect(body, 0, arity, &mut out);
    out
}

/// Adds the parameters that `e` forces before anything else. True when that is all that evaluating `e` does: then what is evaluated
/// next comes next. `up` is the number of frames between `e` and the function's own.
fn collect(e: E, up: u32, arity: u32, out: &mut Vec<u32>) -> bool {
    match e {
        Expr::Const(v) => v.as_thunk().is_none(),
        Expr::Lambda(_) => true,
        Expr::Local(slot, ..) => variable(0, *slot, up, arity, out),
        Expr::Up1(slot, ..) => variable(1, *slot, up, arity, out),
        Expr::Up(n, slot, ..) => variable(*n, *slot, up, arity, out),
        Expr::Bin { a, b, .. } => {
            let _ = collect(a, up, arity, out) && collect(b, up, arity, out);
            false
        }
        Expr::If(a, ..)
        | Expr::BinConst { a, .. }
        | Expr::Call { fun: a, .. }
        | Expr::Select { base: a, .. }
        | Expr::SelectPath { base: a, .. }
        | Expr::HasAttr { base: a, .. }
        | Expr::And(a, ..)
        | Expr::Or(a, ..)
        | Expr::Implies(a, ..)
        | Expr::Not(a, _)
        | Expr::Neg(a, _)
        | Expr::Concat(a, ..)
        | Expr::Update(a, ..) => {
            collect(a, up, arity, out);
            false
        }
        Expr::Prim { prim, args, .. } => {
            let mut strict = args.iter().enumerate().filter(|(i, _)| prim.is_strict(*i));
            let _ = strict.all(|(_, a)| collect(a, up, arity, out));
            false
        }
        // Definitions are only put into their slots.
        Expr::Let(_, body) | Expr::With(_, _, body) => collect(body, up, arity, out),
        Expr::Block(_, body) => collect(body, up + 1, arity, out),
        Expr::Interp(parts, _) => {
            for (part, _) in parts {
                match part {
                    Expr::Const(_) => {}
                    part => {
                        collect(part, up, arity, out);
                        break;
                    }
                }
            }
            false
        }
        Expr::Assert { .. }
        | Expr::WithVar { .. }
        | Expr::Attrs(_)
        | Expr::List(_)
        | Expr::PathInterp(..) => false,
    }
}

fn variable(n: u32, slot: u32, up: u32, arity: u32, out: &mut Vec<u32>) -> bool {
    let mine = n == up && slot < arity;
    if mine && !out.contains(&slot) {
        out.push(slot);
    }
    mine
}
