//! The verbs, one file each: its options and what it does.

pub(crate) mod boot;
pub(crate) mod build;
pub(crate) mod builds;
pub(crate) mod check;
pub(crate) mod completions;
pub(crate) mod diff;
pub(crate) mod doctor;
pub(crate) mod eval;
pub(crate) mod export;
mod fix;
pub(crate) mod gc;
pub(crate) mod graph;
pub(crate) mod init;
pub(crate) mod lock;
pub(crate) mod log;
pub(crate) mod parse;
pub(crate) mod plan;
pub(crate) mod provision;
pub(crate) mod repl;
pub(crate) mod schema;
pub(crate) mod serve;
pub(crate) mod shell;
pub(crate) mod store;
pub(crate) mod verify;
pub(crate) mod why;
