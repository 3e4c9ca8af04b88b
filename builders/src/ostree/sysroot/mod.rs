//! `builtin:ostree-sysroot`: the root of a disk that OSTree systems start from, laid out as `ostree admin deploy` leaves it.
//!
//! ```text
//! /ostree/repo                                    a bare repository: files with their owners, as they are
//! /ostree/deploy/OS/deploy/COMMIT.0               one system; its files are names of those in the repository
//! /ostree/deploy/OS/var                           what all of them share
//! /ostree/boot.1 -> boot.1.1/OS/BOOTCSUM/0        which system a kernel belongs to
//! /boot/ostree/OS-BOOTCSUM, /boot/loader.1        kernels and the entries of the loader, the first system first
//! ```
//!
//! It is a manifest: nothing is deployed, no file is copied, and no root is needed.

mod deployment;
mod kernel;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Blake3, Sha256};
use sos_formats::manifest::Meta;
use sos_store::rootfs::{FileSpec, RootTree, SpecKind};

use super::is_ref;
use crate::build::Build;

const CONFIG: &str =
    "[core]\nrepo_version=1\nmode=bare\n[sysroot]\nbootloader=none\nreadonly=false\n";
const REPO: &str = "ostree/repo";
/// The most systems on a disk.
const MAX_DEPLOYMENTS: usize = 16;

/// Makes the root of a disk with OSTree systems.
#[derive(Clone, Copy, Debug, Default)]
pub struct SysrootBuilder;

impl Builder for SysrootBuilder {
    fn name(&self) -> &'static str {
        "builtin:ostree-sysroot"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        4
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: SysrootAttrs = ctx.attrs_as()?;
        let root = make(ctx, &attrs)?;
        ctx.set_rootfs("out", root);
        Ok(())
    }
}

/// What a recipe says about a disk of OSTree systems.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct SysrootAttrs {
    /// The name under which the systems share `/var`.
    pub(super) os: String,
    /// The one that starts first.
    pub(super) deployments: Vec<Deployment>,
    /// What the kernel is told besides which system it is for.
    pub(super) options: String,
    /// Used where a system has no initramfs beside its kernel.
    pub(super) initrd: Option<String>,
    pub(super) epoch: i64,
}

/// One system.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Deployment {
    /// The root filesystem that was committed.
    pub(super) rootfs: String,
    /// The repository with the commit.
    pub(super) repository: String,
    #[serde(rename = "ref")]
    pub(super) branch: String,
}

struct Sysroot<'a> {
    build: &'a dyn Build,
    attrs: &'a SysrootAttrs,
    tree: RootTree,
}

/// Makes the manifest and gives its root id.
pub(super) fn make(build: &dyn Build, attrs: &SysrootAttrs) -> Result<Blake3, BuilderError> {
    let is_name = is_ref(&attrs.os) && !attrs.os.contains('/');
    if !is_name {
        return Err(wrong(&format!(
            "`{}` is no name of a system; write letters, digits, `.`, `_` and `-`",
            attrs.os
        )));
    }
    if attrs.deployments.is_empty() || attrs.deployments.len() > MAX_DEPLOYMENTS {
        return Err(wrong(&format!(
            "it has {} systems; a disk has 1 to {MAX_DEPLOYMENTS}",
            attrs.deployments.len()
        )));
    }
    let mut sysroot = Sysroot {
        build,
        attrs,
        tree: RootTree::empty_in(build.store(), dir_meta()),
    };
    for dir in [
        "boot", "dev", "home", "proc", "run", "sys", "sysroot", "tmp",
    ] {
        sysroot.tree.mkdir_p(dir, &dir_meta())?;
    }
    for dir in [
        "objects",
        "refs/heads",
        "refs/remotes",
        "refs/mirrors",
        "tmp",
        "state",
        "extensions",
    ] {
        sysroot.tree.mkdir_p(format!("{REPO}/{dir}"), &dir_meta())?;
    }
    sysroot.text(&format!("{REPO}/config"), CONFIG)?;
    // libostree sees by the time of this directory whether it has read the systems below; it takes 0 for "not changed since".
    let deploy = Meta {
        mtime_secs: attrs.epoch.max(1),
        ..dir_meta()
    };
    sysroot.tree.mkdir_p("ostree/deploy", &deploy)?;
    let var = format!("ostree/deploy/{}/var", attrs.os);
    for dir in ["lib", "log", "cache", "tmp", "spool"] {
        sysroot.tree.mkdir_p(format!("{var}/{dir}"), &dir_meta())?;
    }
    for (dir, target) in [("lock", "/run/lock"), ("run", "/run")] {
        sysroot.link(&format!("{var}/{dir}"), target)?;
    }
    let mut serials: BTreeMap<Sha256, u32> = BTreeMap::new();
    for (number, deployment) in attrs.deployments.iter().enumerate() {
        sysroot.deploy(number, deployment, &mut serials)?;
    }
    sysroot.link("boot/loader", "loader.1")?;
    sysroot.link("ostree/boot.1", "boot.1.1")?;
    Ok(sysroot.tree.finish(build.store())?)
}
impl Sysroot<'_> {
    fn text(&mut self, path: &str, text: &str) -> Result<(), BuilderError> {
        self.bytes(path, text.as_bytes())
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), BuilderError> {
        if let Some((dir, _)) = path.rsplit_once('/') {
            self.tree.mkdir_p(dir, &dir_meta())?;
        }
        let blob = self.build.store().put_blob_bytes(bytes)?;
        let kind = SpecKind::File {
            size: bytes.len() as u64,
            blob,
            hardlink: None,
        };
        Ok(self.tree.insert(
            path,
            FileSpec {
                meta: file_meta(),
                kind,
            },
        )?)
    }

    fn link(&mut self, path: &str, target: &str) -> Result<(), BuilderError> {
        let kind = SpecKind::Symlink {
            target: target.as_bytes().to_vec(),
        };
        let meta = Meta {
            mode: 0o777,
            ..Meta::default()
        };
        Ok(self.tree.insert(path, FileSpec { meta, kind })?)
    }
}

fn dir_meta() -> Meta {
    Meta {
        mode: 0o755,
        ..Meta::default()
    }
}

fn file_meta() -> Meta {
    Meta {
        mode: 0o644,
        ..Meta::default()
    }
}

fn wrong(what: &str) -> BuilderError {
    Diagnostic::error(
        "ostree-sysroot",
        Class::Recipe,
        format!("the OSTree disk is not well described: {what}"),
    )
    .into()
}
