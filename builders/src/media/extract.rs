//! `builtin:rootfs-file`: one file of a root filesystem as it is, as a result of its own.

use std::fs::File;
use std::io;
use std::path::Path;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::rootfs::{KindView, RootTree};

use super::failed;
use crate::build::Build;

/// Takes the file out.
#[derive(Clone, Copy, Debug, Default)]
pub struct RootfsFileBuilder;

#[derive(Deserialize)]
struct FileAttrs {
    rootfs: String,
    /// Where it is in the root filesystem.
    path: String,
}

impl Builder for RootfsFileBuilder {
    fn name(&self) -> &'static str {
        "builtin:rootfs-file"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: FileAttrs = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        take(ctx, &attrs, &out)
    }
}

fn take(build: &dyn Build, attrs: &FileAttrs, out: &Path) -> Result<(), BuilderError> {
    let root = build.rootfs(&attrs.rootfs)?;
    let tree = RootTree::load(build.store(), &root)?;
    let relative = attrs.path.trim_start_matches('/');
    let found = tree.get(relative)?.map(|entry| entry.kind);
    let Some(KindView::File { blob, .. }) = found else {
        // Store paths are read by people from behind their hash.
        let from = attrs.rootfs.split_once('-').map_or("", |(_, name)| name);
        let message = format!(
            "there is no file `{}` in `{from}`, out of which `{}` is taken",
            attrs.path,
            build.name()
        );
        return Err(Diagnostic::error("rootfs-file", Class::Recipe, message).into());
    };
    let mut from = build.store().open_blob(&blob)?;
    let mut to = File::create(out).map_err(|e| failed("create", out, e))?;
    io::copy(&mut from, &mut to).map_err(|e| failed("write", out, e))?;
    Ok(())
}
