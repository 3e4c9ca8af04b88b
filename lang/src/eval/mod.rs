//! The evaluator.

mod access;
mod call;
mod coerce;
mod compare;
pub(crate) mod context;
mod cycle;
mod delay;
mod explain;
mod files;
mod force;
mod nodes;
mod parts;
mod run;
mod select;
mod sources;
pub(crate) mod stack;
mod texts;
mod update;
mod vm;

pub(crate) use call::in_prim;
pub(crate) use coerce::{Coerce, canon_path, int_text};
pub(crate) use cycle::{Cycle, Through, step};
pub(crate) use delay::named;
pub(crate) use files::{os_path, path_bytes, virtual_root};
pub(crate) use parts::Part;
pub(crate) use stack::on_big_stack;
pub(crate) use texts::{Surroundings, Text};
pub(crate) use vm::{Vm, suggest};

pub(crate) use crate::error::R;
