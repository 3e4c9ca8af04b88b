//! Who builds a derivation, and in whose slot.

use std::sync::Arc;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic, suggest};

use crate::builder::{Builder, Pool, Registry};
use crate::{nix_shape, step};

/// How names of builders of this process begin.
const PREFIX: &str = "builtin:";

/// Who builds a derivation.
pub(crate) enum Chosen<'a> {
    /// A program in a sandbox.
    Nix,
    /// A command in a root filesystem.
    Step,
    /// A builder of this process.
    InProcess(&'a Arc<dyn Builder>),
}

impl Chosen<'_> {
    /// Returns the name under which traces know it.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Nix => "sandbox",
            Self::Step => step::NAME,
            Self::InProcess(builder) => builder.name(),
        }
    }

    /// Returns the number that changes with the bytes that it makes.
    pub(crate) fn revision(&self) -> u32 {
        match self {
            Self::Nix => nix_shape::REVISION,
            Self::Step => step::REVISION,
            Self::InProcess(builder) => builder.revision(),
        }
    }
}

/// Finds who builds a derivation, by the name of its builder.
pub(crate) fn choose<'a>(
    builders: &'a Registry,
    drv: &Derivation,
    name: &str,
) -> Result<Chosen<'a>, Box<Diagnostic>> {
    let builder = String::from_utf8_lossy(&drv.builder);
    if !builder.starts_with(PREFIX) {
        return Ok(Chosen::Nix);
    }
    if builder == step::NAME {
        return Ok(Chosen::Step);
    }
    if let Some(found) = builders.get(&builder) {
        return Ok(Chosen::InProcess(found));
    }
    // Compared without the prefix, which all of them share.
    let short = |name: &'static str| name.strip_prefix(PREFIX).unwrap_or(name);
    let known = builders.names().chain([step::NAME]).map(short);
    let near: Vec<String> = suggest(&builder[PREFIX.len()..], known)
        .iter()
        .map(|name| format!("`{PREFIX}{name}`"))
        .collect();
    let mut diagnostic = Diagnostic::error(
        "build-unknown-builtin",
        // As in Nix, where the build is what fails.
        Class::BuildFailed,
        format!("`{name}` names the builder `{builder}`, which this sos does not have"),
    );
    if !near.is_empty() {
        diagnostic = diagnostic.help(format!("did you mean {}?", near.join(" or ")));
    }
    Err(Box::new(diagnostic))
}

/// Returns whether a derivation counts as built or as fetched: what a program makes in a sandbox is built, whatever it does there.
pub(crate) fn pool_of(builders: &Registry, drv: &Derivation, name: &str) -> Pool {
    match choose(builders, drv, name) {
        Ok(Chosen::InProcess(builder)) => builder.pool(),
        _ => Pool::Build,
    }
}

/// Returns whose slot a derivation takes.
pub(crate) fn slot_of(builders: &Registry, drv: &Derivation, name: &str) -> Pool {
    match choose(builders, drv, name) {
        // A program that makes known content waits for a server most of the time.
        Ok(Chosen::Nix) if drv.is_fixed() => Pool::Io,
        _ => pool_of(builders, drv, name),
    }
}
