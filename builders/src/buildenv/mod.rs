//! Nix's `builtin:buildenv`: one tree of links to the files of several packages, as profiles of `nix-env` are.

mod links;
mod packages;

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};

use crate::build::{Build, text_of};
use links::{Links, Node};
use packages::{Package, packages};

/// Makes `out` from `derivations`: for each package whether it is active, its priority, how many outputs, and these.
#[derive(Clone, Copy, Debug)]
pub struct BuildEnvBuilder;

impl Builder for BuildEnvBuilder {
    fn name(&self) -> &'static str {
        "builtin:buildenv"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let list = packages(text_of(ctx, "derivations")?).map_err(|what| {
            BuilderError::failed(format!("`derivations` of `{}` {what}", ctx.name))
        })?;
        let root = environment(ctx, list)?;
        let out = ctx.out_path("out");
        let manifest = text_of(ctx, "manifest")?.to_owned();
        write(&root, &out)
            .and_then(|()| symlink(manifest, out.join("manifest.nix")))
            .map_err(|e| BuilderError::io(format!("cannot write `{}`", out.display()), e))
    }
}

/// The priority of the first package that others pull in; each further one comes after it.
const FIRST_PULLED_IN: i64 = 1000;

/// Lays the links of all packages over each other.
fn environment(build: &dyn Build, mut list: Vec<Package>) -> Result<Node, BuilderError> {
    list.retain(|package| package.active);
    list.sort_by(|a, b| (a.priority, &a.path).cmp(&(b.priority, &b.path)));
    let mut links = Links::new(build);
    for package in list {
        links.add(&package.path, package.priority)?;
    }
    let mut priority = FIRST_PULLED_IN;
    loop {
        let next = links.take_pulled_in();
        if next.is_empty() {
            return Ok(links.finish());
        }
        for path in next {
            links.add(&path, priority)?;
            priority += 1;
        }
    }
}

/// Recursion is bounded by that of the packages, which are store objects.
fn write(node: &Node, place: &Path) -> io::Result<()> {
    match node {
        Node::Link { target, .. } => symlink(target, place),
        Node::Dir(entries) => {
            fs::create_dir(place)?;
            entries
                .iter()
                .try_for_each(|(name, node)| write(node, &place.join(name)))
        }
    }
}

#[cfg(test)]
mod tests;
