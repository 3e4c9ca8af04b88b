//! The Nix language: parse, resolve, evaluate.
//!
//! [`Evaluator`] runs expressions; it reaches files, store and network only through a [`Host`].
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values are packed into words; the ranges are checked where they can be exceeded"
)]

// What the unit tests share with those that see only the interface names this crate so.
#[cfg(test)]
extern crate self as sos_lang;

mod api;
mod builtins;
mod drvs;
mod error;
mod eval;
mod flake;
mod heap;
mod host;
mod ir;
mod json;
mod parse;
mod print;
mod regex;

pub use api::{Answer, Arguments, DrvRef, Evaluator, Interrupter, attr_path};
pub use heap::Value;
pub use host::{
    ContextElem, Dialect, ExtBuiltin, ExtCall, ExtFn, Extension, FetchRequest, FetchedTree,
    FileType, FlakeLocks, Host, HostError, Lint, Options, PathFilter, Plain, TreeRequest,
    VirtualFiles,
};

/// Runs code on a thread with a stack that is big enough for deep evaluation, and waits for it.
pub fn with_big_stack<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    eval::on_big_stack(f)
}
