//! Debian root filesystems: `*.rootfs.toml`, or the same as an attribute set of a Nix expression.

mod accounts;
mod apt;
mod bootc;
mod check;
mod disk;
mod fields;
mod files;
mod ids;
mod lower;
mod model;
pub(crate) mod places;
mod request;
mod schema;
mod size;
mod sources;

pub(crate) use disk::{lower as lower_disk, read_flat as parse_disk};
pub(crate) use lower::{edit, lower, nix_system};
pub(crate) use model::RootfsRecipe;
pub(crate) use request::{check_sources, request};
pub(crate) use schema::{parse_edit, parse_file, parse_tree};

#[cfg(test)]
mod disk_tests;
#[cfg(test)]
mod lower_tests;
#[cfg(test)]
mod tests;
