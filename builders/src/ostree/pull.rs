//! `builtin:ostree-pull`: a commit of a repository elsewhere, as a root filesystem.
//!
//! The recipe names the commit by its checksum, and every object is checked against its name, so that no signature is needed to know
//! what comes. libostree does the pulling, also of static deltas.

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Blake3, Sha256};

use crate::build::Build;
use crate::fetch::offline;

/// Pulls a commit.
#[derive(Clone, Copy, Debug, Default)]
pub struct OstreePullBuilder;

impl Builder for OstreePullBuilder {
    fn name(&self) -> &'static str {
        "builtin:ostree-pull"
    }
    fn pool(&self) -> Pool {
        Pool::Io
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: PullAttrs = ctx.attrs_as()?;
        if ctx.options.offline {
            return Err(offline(&attrs.commit, Vec::new()).into());
        }
        let root = pull(ctx, &attrs)?;
        ctx.set_rootfs("out", root);
        Ok(())
    }
}

/// What a recipe says.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct PullAttrs {
    pub(super) url: String,
    pub(super) commit: String,
}

/// Brings the commit into the store as a rootfs object; gives its root id.
pub(super) fn pull(build: &dyn Build, attrs: &PullAttrs) -> Result<Blake3, BuilderError> {
    let refused = |message: String, help: &str| {
        BuilderError::from(Diagnostic::error("ostree-attrs", Class::Recipe, message).help(help))
    };
    let commit: Sha256 = attrs.commit.parse().map_err(|e| {
        refused(
            format!("`{}` names no commit: {e}", attrs.commit),
            "write its checksum, 64 hexadecimal digits; `ostree remote refs` and `ostree rev-parse` tell it",
        )
    })?;
    let known = ["http://", "https://", "file:///"];
    if !known.iter().any(|scheme| attrs.url.starts_with(scheme)) {
        return Err(refused(
            format!("`{}` is no address of a repository", attrs.url),
            "write one that begins with `https://`, `http://` or `file:///`",
        ));
    }
    with_libostree(build, &attrs.url, &commit)
}

#[cfg(feature = "libostree")]
fn with_libostree(build: &dyn Build, url: &str, commit: &Sha256) -> Result<Blake3, BuilderError> {
    let dir = build.store().temp_dir("ostree-pull")?;
    let repo = dir.path().join("repo");
    crate::libostree::pull(build, &repo, url, commit)?;
    super::import::import(build, &super::source::Source::open(repo)?, commit)
}

#[cfg(not(feature = "libostree"))]
fn with_libostree(_build: &dyn Build, url: &str, _commit: &Sha256) -> Result<Blake3, BuilderError> {
    let message = format!("cannot pull from `{url}`: this sos was built without libostree");
    Err(Diagnostic::error("ostree-not-built-in", Class::Machine, message)
        .help("install libostree-dev and pkg-config, and build it with `cargo build --release --features libostree`")
        .into())
}
