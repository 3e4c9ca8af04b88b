//! Values and syntax as text.

pub(crate) mod ast;
mod float;
mod value;

pub(crate) use float::{general, json_number};
pub(crate) use value::attr_name;
