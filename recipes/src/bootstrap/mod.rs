//! Bootstrap steps: a tree in the format of live-bootstrap, read as it is.
//!
//! `steps/manifest` lists what is done, `steps/NAME` says how, and `seed` is what everything grows from.

mod arch;
mod asks;
mod attr;
mod checkout;
mod files;
mod json;
mod kaem;
mod left;
mod lex;
mod lower;
mod manifest;
mod media;
mod pins;
mod plan;
mod scripts;
mod sources;
mod stage0;
mod stale;
mod taken;
#[cfg(test)]
mod tests;
mod undeclared;
mod variables;

pub use attr::attr_path;
pub(crate) use checkout::Checkout;
pub use files::Shown;
pub use left::left_behind;
pub(crate) use lower::{Extra, lower};
pub use manifest::Kind;
pub use media::payload;
pub(crate) use media::{image, payload_image};
pub(crate) use plan::of_checkout;
pub use plan::{Package, Plan, Settings, Step, plan};
pub use sources::Distfile;
pub use stale::stale_pins;
pub use taken::taken_names;
pub use undeclared::undeclared;
pub use variables::{Mode, Variables};
