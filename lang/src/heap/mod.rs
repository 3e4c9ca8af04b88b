//! The value heap: the only place of this crate with `unsafe` code.
//!
//! Every value is one 8-byte word. Objects live in a bump arena that is freed as a whole, when the thread that evaluated has ended, so
//! handles are plain `Copy` words that stay valid, and nothing is counted, moved or collected; only frames that nothing refers to any
//! more are used again. Everything here is confined to one thread (`Value` is `!Send`), and its lifetimes of `'static` mean that thread's. The functions offered to the rest of the crate are safe:
//! lengths are checked, and a word can only be made here.
#![allow(
    unsafe_code,
    reason = "tagged words and bump allocation need raw pointers; the rest of the crate has none"
)]

mod arena;
mod env;
mod kept;
mod shape;
mod string;
mod symbol;
mod thunk;
mod value;

pub(crate) use arena::bytes_used;
pub(crate) use env::Env;
pub(crate) use kept::{Kept, keep};
pub(crate) use shape::{Attrs, Shape};
pub(crate) use string::Str;
pub(crate) use symbol::Sym;
pub(crate) use thunk::{Thunk, ThunkState};
pub use value::Value;
pub(crate) use value::{Fun, Tag};

use crate::ir::Expr;

/// Runs code on a thread of its own and waits for it; the heap that it had is given back. The inner error is what it panicked with.
///
/// # Errors
/// When there can be no such thread: the code has not run.
pub(crate) fn on_thread<T: Send>(
    thread: std::thread::Builder,
    code: impl FnOnce() -> T + Send,
) -> std::io::Result<std::thread::Result<T>> {
    std::thread::scope(|s| {
        let thread = thread.spawn_scoped(s, || {
            let value = code();
            // SAFETY: dropped below, after the thread was waited for: then its thread-local values are gone, too.
            let heap = unsafe { arena::Mappings::of_this_thread() };
            (value, heap)
        })?;
        Ok(thread.join().map(|(value, heap)| {
            drop(heap);
            value
        }))
    })
}

/// A thunk written in Rust: what to run, on what data, when the value is needed.
pub(crate) struct Native {
    /// Computes the value.
    pub(crate) run: fn(&crate::eval::Vm, &[Value]) -> crate::eval::R,
}

/// What a thunk runs when it is forced.
#[derive(Clone, Copy)]
pub(crate) enum Code {
    /// An expression in an environment.
    Expr(&'static Expr, Env),
    /// A function on one argument.
    App(Value, Value),
    /// A function on two arguments.
    App2(Value, Value, Value),
    /// Rust code on two words.
    Native(&'static Native, Value, Value),
}
