//! `builtin:oci-index`: images for several machines under one name.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};

use super::archive;
use super::documents::{Descriptor, INDEX_TYPE, Index, Platform, REF_NAME, Strings};
use super::layout::{finish, put, take_blob};
use super::names::is_ref_name;
use crate::build::Build;

/// Puts images into one index.
#[derive(Clone, Copy, Debug, Default)]
pub struct OciIndexBuilder;

impl Builder for OciIndexBuilder {
    fn name(&self) -> &'static str {
        "builtin:oci-index"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        2
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: IndexAttrs = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        make_index(ctx, &attrs, &out)
    }
}

/// What a recipe says about the index.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct IndexAttrs {
    pub(super) images: Vec<String>,
    pub(super) tag: Option<String>,
    pub(super) annotations: Strings,
}

/// Writes the layout into the directory `out`.
pub(super) fn make_index(
    build: &dyn Build,
    attrs: &IndexAttrs,
    out: &Path,
) -> Result<(), BuilderError> {
    let wrong = |what: String| {
        let message = format!("the index `{}` is not well described: {what}", build.name());
        Diagnostic::error("oci-attrs", Class::Recipe, message)
    };
    if attrs.images.is_empty() {
        return Err(wrong("it has no images".to_owned()).into());
    }
    if let Some(tag) = attrs.tag.as_ref().filter(|tag| !is_ref_name(tag)) {
        return Err(wrong(format!(
            "`{tag}` is not a tag; it must be letters and digits joined by one of `-._:@/+`"
        ))
        .into());
    }
    let blobs = out.join("blobs/sha256");
    fs::create_dir_all(&blobs)
        .map_err(|error| BuilderError::io("cannot create the image layout", error))?;
    let mut manifests: BTreeMap<Platform, Descriptor> = BTreeMap::new();
    for image in &attrs.images {
        let opened = archive::open(build.store(), &build.tree(image)?, image)?;
        let layout = &opened.layout;
        let (mut top, manifest) = layout.manifest(None, None)?;
        let config = layout.json(&manifest.config)?;
        let text = |key: &str| config[key].as_str().map(str::to_owned);
        let (Some(architecture), Some(os)) = (text("architecture"), text("os")) else {
            return Err(layout.bad("its configuration names no machine").into());
        };
        let platform = Platform {
            architecture,
            os,
            variant: text("variant"),
        };
        let closure = layout.closure(&top)?;
        // The bytes of documents were looked at when they were read.
        let documents = closure.documents.iter().map(|(document, _)| document);
        let checked = closure
            .blobs
            .iter()
            .map(|blob| (blob, layout.checked(blob)));
        let paths = documents.map(|document| (document, layout.path(document)));
        for (blob, path) in checked.chain(paths) {
            let name = blob.hex().unwrap_or_default();
            take_blob(&path?, &blobs.join(name))?;
        }
        top.annotations.remove(REF_NAME);
        top.platform = Some(platform.clone());
        if manifests.insert(platform.clone(), top).is_some() {
            let Platform {
                architecture, os, ..
            } = platform;
            return Err(wrong(format!("two of its images are for {os}/{architecture}")).into());
        }
    }
    let index = Index {
        schema_version: 2,
        media_type: INDEX_TYPE,
        manifests: manifests.into_values().collect(),
        annotations: attrs.annotations.clone(),
    };
    let mut top = put(&blobs, INDEX_TYPE, &index)?;
    let tag = attrs.tag.clone().map(|tag| (REF_NAME.to_owned(), tag));
    top.annotations.extend(tag);
    build.log(&format!("image index {}", top.digest));
    finish(out, top)
}
