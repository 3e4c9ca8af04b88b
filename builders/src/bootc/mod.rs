//! `builtin:bootc`: a root filesystem laid out as hosts of bootc and OSTree boot it, and checked.
//!
//! Nothing here happens by itself: a recipe asks for the layout with `sos.bootc`. What the layout cannot mend, the lints name: a
//! broken rule of `bootc container lint` fails the build, what may surprise is a warning, or fails it too when the
//! recipe is strict.

mod accounts;
mod layout;
mod lint;
#[cfg(test)]
mod tests;
mod volatile;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_store::rootfs::RootTree;

use crate::build::Build;
use lint::{Finding, Severity};

/// Findings that one message shows.
const SHOWN: usize = 50;

/// Lays a rootfs object out for bootc or OSTree, and checks it.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootcBuilder;

impl Builder for BootcBuilder {
    fn name(&self) -> &'static str {
        "builtin:bootc"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        2
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: BootcAttrs = ctx.attrs_as()?;
        let root = make(ctx, &attrs)?;
        ctx.set_rootfs("out", root);
        Ok(())
    }
}

/// Who takes the result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Layout {
    /// An image of `bootc`: the configuration is in `/etc`.
    #[default]
    Container,
    /// A commit of OSTree: the configuration is in `/usr/etc`.
    Ostree,
}

/// What a recipe says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct BootcAttrs {
    rootfs: String,
    layout: Layout,
    /// Whether things are moved to their places; else they are checked only.
    arrange: Option<bool>,
    strict: bool,
    epoch: i64,
}

fn make(build: &dyn Build, attrs: &BootcAttrs) -> Result<Blake3, BuilderError> {
    let mut tree = RootTree::load(build.store(), &build.rootfs(&attrs.rootfs)?)?;
    if attrs.arrange.unwrap_or(true) {
        layout::arrange(build, &mut tree, attrs.layout, attrs.epoch)?;
    }
    let findings = lint::check(&tree, attrs.layout)?;
    judge(build, findings, attrs.strict)?;
    Ok(tree.finish(build.store())?)
}

/// Warns of what may surprise; refuses what is wrong, all at once.
fn judge(build: &dyn Build, findings: Vec<Finding>, strict: bool) -> Result<(), BuilderError> {
    let (wrong, doubtful): (Vec<Finding>, Vec<Finding>) = findings
        .into_iter()
        .partition(|found| strict || found.severity == Severity::Error);
    for found in doubtful {
        build.warn(Diagnostic::warning(found.rule, Class::Recipe, found.what).help(found.fix));
    }
    let mut wrong = wrong.into_iter();
    let Some(first) = wrong.next() else {
        return Ok(());
    };
    let more = wrong.len();
    let mut all = if more == 0 {
        Diagnostic::error(first.rule, Class::Recipe, first.what).help(first.fix)
    } else {
        let message = format!(
            "`{}` breaks {} rules for systems that bootc boots",
            build.name(),
            more + 1
        );
        let all = Diagnostic::error("rootfs-not-for-bootc", Class::Recipe, message);
        all.note(format!("{}: {}; {}", first.rule, first.what, first.fix))
    };
    for found in wrong.by_ref().take(SHOWN) {
        all = all.note(format!("{}: {}; {}", found.rule, found.what, found.fix));
    }
    if wrong.len() > 0 {
        all = all.note(format!("and {} more", wrong.len()));
    }
    Err(all.into())
}
