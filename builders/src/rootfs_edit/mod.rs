//! `builtin:rootfs-edit`: files, accounts, services and cleanup on a rootfs object, without running anything in it.
//!
//! The order is fixed: groups and users, files, host settings, services, cleanup, apt's records. So a file may belong to
//! a new user, a service may be enabled whose unit is one of the files, and cleanup sees everything. `/etc/resolv.conf`
//! is nobody's business here: it belongs to the machine that boots the image.

mod accounts;
mod apt;
mod attrs;
mod cleanup;
mod database;
mod editor;
mod files;
mod glob;
mod host;
mod problems;
mod services;
mod units;

#[cfg(test)]
mod tests;

use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;

use crate::build::Build;
use attrs::EditAttrs;
use editor::Editor;
use problems::Problems;

/// Edits a rootfs object natively.
#[derive(Clone, Copy, Debug, Default)]
pub struct RootfsEditBuilder;

impl Builder for RootfsEditBuilder {
    fn name(&self) -> &'static str {
        "builtin:rootfs-edit"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        2
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: EditAttrs = ctx.attrs_as()?;
        let root = edit(ctx, &attrs)?;
        ctx.set_rootfs("out", root);
        Ok(())
    }
}

/// Makes the edited rootfs object and gives its root id.
fn edit(build: &dyn Build, attrs: &EditAttrs) -> Result<Blake3, BuilderError> {
    let base = attrs
        .rootfs
        .as_deref()
        .map(|path| build.rootfs(path))
        .transpose()?;
    let mut editor = Editor::open(build, base.as_ref(), attrs.epoch)?;
    let mut problems = Problems::default();
    accounts::apply(&mut editor, attrs, &mut problems)?;
    let without_accounts = problems.is_empty();
    for (i, file) in attrs.files.iter().enumerate() {
        let placed = files::place(&mut editor, file);
        // What belongs to an account that could not be made is no problem of its own.
        if without_accounts || !files::is_of_new_account(file, attrs) {
            problems.keep(|| format!("files/{i}"), placed)?;
        }
    }
    problems.keep(|| "timezone".to_owned(), host::apply(&mut editor, attrs))?;
    if let Some(services) = &attrs.services {
        services::apply(&mut editor, services, &mut problems)?;
    }
    problems.finish()?;
    if let Some(cleanup) = &attrs.cleanup {
        cleanup::apply(&mut editor, cleanup, attrs.machine_id.is_some())?;
    }
    if let Some(states) = &attrs.extended_states {
        apt::apply(&mut editor, states)?;
    }
    editor.finish()
}

/// Makes the error for something in the recipe that does not fit the root file system.
fn problem(code: &'static str, message: impl Into<String>) -> Diagnostic {
    Diagnostic::error(code, Class::Recipe, message)
}
