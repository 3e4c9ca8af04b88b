//! Everything that a person sees is drawn here.

pub(crate) mod again;
pub(crate) mod bar;
pub(crate) mod diagnostic;
pub(crate) mod difference;
pub(crate) mod live;
pub(crate) mod markup;
mod narrow;
pub(crate) mod output;
pub(crate) mod progress;
pub(crate) mod size;
pub(crate) mod terminal;
pub(crate) mod text;
mod trace;
pub(crate) mod why;
pub(crate) mod wrap;
