//! OSTree commits of root filesystems, written object by object out of the store.
//!
//! `builtin:ostree` makes a repository with one ref. The repository is a rootfs object, not a tree: its files are blobs of the
//! store, so that of a commit that is much like another only what differs takes room, and files of a bare-user repository keep
//! the xattr that says whose they are. What was found out about a file once, its checksum and its compressed form, is kept
//! by the store, and never worked out again.

mod commit;
mod container;
mod content;
#[cfg(test)]
mod exchange_tests;
mod import;
mod problems;
mod pull;
mod repository;
pub(crate) mod source;
mod sysroot;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod together_tests;
mod trees;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::hash::Blake3;
use std::collections::BTreeMap;

pub use commit::{MAX_REF_BYTES, is_ref};
pub use container::OstreeContainerBuilder;
pub use import::OstreeCheckoutBuilder;
pub use pull::OstreePullBuilder;
pub use sysroot::SysrootBuilder;

use crate::build::Build;
use crate::oci::DateAttrs;

/// Makes a repository with one commit of a root filesystem.
#[derive(Clone, Copy, Debug, Default)]
pub struct OstreeBuilder;

impl Builder for OstreeBuilder {
    fn name(&self) -> &'static str {
        "builtin:ostree"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        7
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let mut attrs: OstreeAttrs = ctx.attrs_as()?;
        let dates: DateAttrs = ctx.attrs_as()?;
        attrs.epoch = dates.or(ctx, attrs.epoch)?;
        let root = make(ctx, &attrs)?;
        ctx.set_rootfs("out", root);
        Ok(())
    }
}

/// How a repository keeps its files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Compressed, to be served.
    #[default]
    Archive,
    /// As they are, with owner and mode in an xattr.
    BareUser,
}

/// What becomes of extended attributes without a value, which no commit can hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum EmptyXattrs {
    /// What has one is an error.
    #[default]
    Refuse,
    /// They are left out, as `ostree commit` does, and the log says of which files.
    Drop,
}

/// What a recipe says about a commit.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct OstreeAttrs {
    rootfs: String,
    #[serde(rename = "ref")]
    branch: String,
    mode: Mode,
    subject: String,
    body: String,
    version: Option<String>,
    metadata: BTreeMap<String, String>,
    bootable: bool,
    parent: Option<String>,
    #[serde(rename = "empty-xattrs")]
    empty_xattrs: EmptyXattrs,
    epoch: i64,
}

/// Makes a commit that boots, for the tests of what comes before and after it.
#[cfg(all(test, feature = "libostree"))]
pub(crate) fn commit_for_tests(build: &dyn Build, rootfs: &str, epoch: i64) -> Blake3 {
    let attrs = OstreeAttrs {
        rootfs: rootfs.to_owned(),
        branch: "os".into(),
        bootable: true,
        epoch,
        ..OstreeAttrs::default()
    };
    make(build, &attrs).expect("a commit")
}

/// Makes the repository and gives its root id.
fn make(build: &dyn Build, attrs: &OstreeAttrs) -> Result<Blake3, BuilderError> {
    commit::check(build, attrs)?;
    let root = build.store().get_root(&build.rootfs(&attrs.rootfs)?)?;
    let found = trees::read(build, &root, attrs.empty_xattrs)?;
    let contents = content::describe(build, &found.files, attrs.mode)?;
    let mut repository = repository::Repository::new(build.store(), attrs.mode, attrs.epoch);
    for content in &contents {
        repository.content(content);
    }
    let (tree, meta) = trees::write(&found, &contents, &mut repository)?;
    let parent = attrs
        .parent
        .as_deref()
        .map(|parent| repository.continue_from(&build.rootfs(parent)?, parent, &attrs.branch))
        .transpose()?;
    let commit = commit::commit(attrs, &found, parent, (tree, meta))?;
    let checksum = repository.commit(&commit)?;
    build.log(&format!(
        "commit {checksum}: {} files, {} directories",
        found.files.len(),
        found.dirs.len()
    ));
    repository.finish(&attrs.branch, &checksum, &commit)
}
