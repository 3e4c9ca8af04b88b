//! `builtin:filesystem` and `builtin:verity`: one image each.

use std::path::Path;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::uuid::Uuid;

use super::image::FileImage;
use super::options::{Acls, Kind, Options, parse_size};
use super::verity::Verity;
use super::write;
use crate::build::Build;
use crate::oci::DateAttrs;

/// The last second that every kind can tell: in the year 2106.
const MAX_EPOCH: i64 = u32::MAX as i64;

/// Makes an image with the file system of a root filesystem.
#[derive(Clone, Copy, Debug, Default)]
pub struct FilesystemBuilder;

impl Builder for FilesystemBuilder {
    fn name(&self) -> &'static str {
        "builtin:filesystem"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        3
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let mut attrs: FilesystemAttrs = ctx.attrs_as()?;
        let dates: DateAttrs = ctx.attrs_as()?;
        attrs.epoch = dates.or(ctx, attrs.epoch)?;
        let out = ctx.out_path("out");
        make(ctx, &attrs, &out)
    }
}

/// What a recipe says about a file system.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FilesystemAttrs {
    pub(super) rootfs: String,
    #[serde(rename = "filesystem")]
    pub(super) kind: Option<Kind>,
    pub(super) label: String,
    pub(super) uuid: Option<String>,
    pub(super) size: Option<Size>,
    pub(super) free: Option<Size>,
    pub(super) acls: Acls,
    pub(super) epoch: i64,
}

/// Bytes as a number, or as text with a unit.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(super) enum Size {
    Bytes(u64),
    Text(String),
}

/// Makes the image as the file `out`.
pub(super) fn make(
    build: &dyn Build,
    attrs: &FilesystemAttrs,
    out: &Path,
) -> Result<(), BuilderError> {
    let wrong = |what: String| -> BuilderError {
        let message = format!(
            "the file system `{}` is not well described: {what}",
            build.name()
        );
        Diagnostic::error("filesystem-attrs", Class::Recipe, message).into()
    };
    let kind = attrs
        .kind
        .ok_or_else(|| wrong("it has no `filesystem`".to_owned()))?;
    if !(0..=MAX_EPOCH).contains(&attrs.epoch) {
        return Err(wrong(format!(
            "`epoch` is {}; it must be within 0..{MAX_EPOCH}",
            attrs.epoch
        )));
    }
    let size = |name: &str, size: &Option<Size>| {
        match size {
        None => Ok(None),
        Some(Size::Bytes(bytes)) => Ok(Some(*bytes)),
        Some(Size::Text(text)) => parse_size(text).map(Some).ok_or_else(|| {
            wrong(format!(
                "`{name}` is `{}`; it must be a number of bytes below 16 EiB, or one with K, M, G or T, as in `2G`",
                text.escape_debug()
            ))
        }),
    }
    };
    let root = build.rootfs(&attrs.rootfs)?;
    let uuid = match &attrs.uuid {
        None => Uuid::derived(root.0, kind.name()),
        Some(text) => Uuid::parse_id(text).map_err(|e| wrong(format!("`uuid`: {e}")))?,
    }
    .0;
    let options = Options {
        uuid,
        label: attrs.label.clone(),
        epoch: attrs.epoch,
        size: size("size", &attrs.size)?,
        free: size("free", &attrs.free)?.unwrap_or(0),
        acls: attrs.acls,
    };
    let image = FileImage::create(out)
        .map_err(|error| BuilderError::io("cannot create the image of the file system", error))?;
    write(build, kind, &root, &options, &image).map(drop)
}

/// Makes the hashes that protect an image, and the file that says their root.
#[derive(Clone, Copy, Debug, Default)]
pub struct VerityBuilder;

impl Builder for VerityBuilder {
    fn name(&self) -> &'static str {
        "builtin:verity"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: VerityAttrs = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        protect(ctx, &attrs, &out)
    }
}

/// What a recipe says about hashes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct VerityAttrs {
    pub(super) image: String,
    pub(super) salt: Option<String>,
    pub(super) uuid: Option<String>,
}

/// Writes `hashes` and `roothash` into the directory `out`.
pub(super) fn protect(
    build: &dyn Build,
    attrs: &VerityAttrs,
    out: &Path,
) -> Result<(), BuilderError> {
    let wrong = |what: String| -> BuilderError {
        let message = format!(
            "the hashes `{}` are not well described: {what}",
            build.name()
        );
        Diagnostic::error("verity-attrs", Class::Recipe, message).into()
    };
    let io = |what: &'static str| move |error| BuilderError::io(what, error);
    let seed = Blake3::of(attrs.image.as_bytes());
    let salt = match &attrs.salt {
        None => Blake3::of(&[b"verity salt\0".as_slice(), &seed.0].concat())
            .0
            .to_vec(),
        Some(text) => parse_hex(text).ok_or_else(|| {
            wrong(format!(
                "`salt` is `{text}`; it must be pairs of hexadecimal digits"
            ))
        })?,
    };
    let uuid = match &attrs.uuid {
        None => Uuid::derived(seed.0, "verity"),
        Some(text) => Uuid::parse_id(text).map_err(|e| wrong(format!("`uuid`: {e}")))?,
    }
    .0;
    let data = build.tree(&attrs.image)?;
    let data =
        FileImage::open(&data, false).map_err(io("cannot open the image to be protected"))?;
    let len = data
        .len_bytes()
        .map_err(io("cannot look at the image to be protected"))?;
    std::fs::create_dir(out).map_err(io("cannot create the output of the hashes"))?;
    let hashes =
        FileImage::create(&out.join("hashes")).map_err(io("cannot create the file of hashes"))?;
    let made = Verity { uuid, salt }.write(build, &data, len, &hashes)?;
    std::fs::write(out.join("roothash"), format!("{}\n", made.root))
        .map_err(io("cannot write the hash of the root"))?;
    build.log(&format!(
        "root hash {}, {} bytes of hashes",
        made.root, made.len
    ));
    Ok(())
}

fn parse_hex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| {
        char::from(byte)
            .to_digit(16)
            .and_then(|n| u8::try_from(n).ok())
    };
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|[high, low]| Some(digit(*high)? << 4 | digit(*low)?))
        .collect()
}
