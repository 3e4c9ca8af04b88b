//! `builtin:oci-layer`: one layer, as a blob and what is known about it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;

use super::compress::Compression;
use super::contents::{arrange, whole};
use super::diff::difference;
use super::kept::{Form, place, write_layer};
use super::layout::json;
use super::names::MAX_EPOCH;
use super::object::{is_object, object};
use super::placed::{Placed, Style};
use crate::build::{Build, parse_ids};

/// Makes one layer of an OCI image.
#[derive(Clone, Copy, Debug, Default)]
pub struct OciLayerBuilder;

impl Builder for OciLayerBuilder {
    fn name(&self) -> &'static str {
        "builtin:oci-layer"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        6
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let mut attrs: LayerAttrs = ctx.attrs_as()?;
        let dates: super::dates::DateAttrs = ctx.attrs_as()?;
        attrs.epoch = dates.or(ctx, attrs.epoch)?;
        if is_object(ctx) {
            let (info, blob) = compose(ctx, &attrs)?;
            let json = json(&info)?;
            let root = object(
                ctx.store,
                &[("blob", blob, info.size)],
                ("layer.json", &json),
            )?;
            ctx.set_rootfs("out", root);
            return Ok(());
        }
        let out = ctx.out_path("out");
        make_layer(ctx, &attrs, &out).map(|_| ())
    }
}

/// What a recipe says about a layer.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct LayerAttrs {
    pub(super) base: Option<String>,
    pub(super) diff: bool,
    /// The blob alone is the output, and not a directory with what is known about it.
    pub(super) single: bool,
    pub(super) rootfs: Option<String>,
    pub(super) tree: Option<String>,
    pub(super) at: Option<String>,
    pub(super) files: BTreeMap<String, String>,
    pub(super) owner: Option<String>,
    pub(super) epoch: i64,
    pub(super) compression: Compression,
    pub(super) level: Option<i32>,
}

/// What `layer.json` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerInfo {
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: u64,
    pub(super) diff_id: String,
    /// The number of entries.
    pub(super) files: u64,
    /// What is in it, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) holds: Option<String>,
}

/// Writes `blob` and `layer.json` into the directory `out`, or the blob as the file `out`.
pub(super) fn make_layer(
    build: &dyn Build,
    attrs: &LayerAttrs,
    out: &Path,
) -> Result<LayerInfo, BuilderError> {
    let (info, blob) = compose(build, attrs)?;
    let io = |what: &'static str| move |error| BuilderError::io(what, error);
    if attrs.single {
        place(build.store(), &blob, out)?;
    } else {
        fs::create_dir(out).map_err(io("cannot create the output of the layer"))?;
        place(build.store(), &blob, &out.join("blob"))?;
        fs::write(out.join("layer.json"), json(&info)?).map_err(io("cannot write `layer.json`"))?;
    }
    Ok(info)
}

/// Writes a layer as a blob of the store.
fn compose(build: &dyn Build, attrs: &LayerAttrs) -> Result<(LayerInfo, Blake3), BuilderError> {
    let epoch = attrs.epoch;
    if !(0..=MAX_EPOCH).contains(&epoch) {
        return Err(wrong(
            build,
            &format!("`epoch` is {epoch}; it must be within 0..{MAX_EPOCH}"),
        ));
    }
    let form = Form::new(build, attrs.compression, attrs.level)?;
    let base = attrs
        .base
        .as_deref()
        .map(|path| build.rootfs(path))
        .transpose()?;
    let placed = attrs.tree.is_some() || !attrs.files.is_empty();
    let entries = match (&attrs.rootfs, base, placed) {
        (Some(_), _, true) => {
            return Err(wrong(build, "`rootfs` does not go with `tree` or `files`"));
        }
        (Some(rootfs), Some(base), _) if attrs.diff => {
            difference(build.store(), &base, &build.rootfs(rootfs)?, epoch)?
        }
        (Some(_), None, _) if attrs.diff => return Err(wrong(build, "`diff` needs a `base`")),
        (Some(rootfs), _, _) => whole(build.store(), &build.rootfs(rootfs)?, epoch)?,
        (None, base, true) => {
            let owner = match &attrs.owner {
                Some(text) => parse_ids(text).ok_or_else(|| {
                    wrong(
                        build,
                        &format!("`owner` is `{text}`; it must be numbers, as in `0:0`"),
                    )
                })?,
                None => (0, 0),
            };
            let mut layer = Placed::new(build.store(), base.as_ref(), Style { owner, epoch })?;
            if let Some(tree) = &attrs.tree {
                layer.place(attrs.at.as_deref().unwrap_or("/"), &build.tree(tree)?)?;
            }
            for (at, source) in &attrs.files {
                layer.place(at, &build.tree(source)?)?;
            }
            layer.finish()?
        }
        (None, _, false) => {
            return Err(wrong(
                build,
                "it names neither `rootfs` nor `tree` nor `files`",
            ));
        }
    };
    let entries = arrange(entries)?;
    let (info, blob) = write_layer(build, &entries, form)?;
    build.log(&format!(
        "{} entries, {} bytes, {}",
        info.files, info.size, info.digest
    ));
    Ok((info, blob))
}

pub(super) fn wrong(build: &dyn Build, what: &str) -> BuilderError {
    let message = format!(
        "the image layer `{}` is not well described: {what}",
        build.name()
    );
    Diagnostic::error("oci-attrs", Class::Recipe, message).into()
}
