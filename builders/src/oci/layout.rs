//! `builtin:oci`: an OCI image layout of layers that were made before.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};

use super::documents::{
    CONFIG_TYPE, Config, Descriptor, Empty, History, INDEX_TYPE, Index, MANIFEST_TYPE, Manifest,
    OCI_LAYOUT, Platform, REF_NAME, RootFs, Run, RunAttrs, Strings, is_hex,
};
use super::layer::LayerInfo;
use super::names::{MAX_EPOCH, is_ref_name, platform, rfc3339};
use crate::build::Build;

/// Layers of one image: overlayfs refuses more than 500.
const MAX_LAYERS: usize = 500;

/// Assembles layers into an OCI image layout.
#[derive(Clone, Copy, Debug, Default)]
pub struct OciBuilder;

impl Builder for OciBuilder {
    fn name(&self) -> &'static str {
        "builtin:oci"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        1
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: ImageAttrs = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        make_image(ctx, attrs, &out)
    }
}

/// What a recipe says about an image.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ImageAttrs {
    pub(super) layers: Vec<String>,
    pub(super) config: RunAttrs,
    pub(super) tag: Option<String>,
    pub(super) arch: String,
    pub(super) epoch: i64,
    pub(super) annotations: Strings,
}

/// Writes the layout into the directory `out`.
pub(super) fn make_image(
    build: &dyn Build,
    attrs: ImageAttrs,
    out: &Path,
) -> Result<(), BuilderError> {
    check(build, &attrs)?;
    let (architecture, variant) = platform(&attrs.arch).ok_or_else(|| {
        let known = [
            "amd64", "arm64", "i386", "armhf", "armel", "riscv64", "ppc64el", "s390x", "mips64el",
            "loong64",
        ];
        let message = format!("images have no name for the architecture `{}`", attrs.arch);
        Diagnostic::error("oci-arch", Class::Recipe, message)
            .suggest(&attrs.arch, known.into_iter())
    })?;
    let io = |what: &'static str| move |error| BuilderError::io(what, error);
    let blobs = out.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(io("cannot create the image layout"))?;
    let created = rfc3339(attrs.epoch);
    let mut layers = Vec::new();
    let mut diff_ids = Vec::new();
    for (done, layer) in attrs.layers.iter().enumerate() {
        if build.cancelled() {
            return Err(BuilderError::Cancelled);
        }
        let info = take_layer(build, layer, &blobs)?;
        layers.push(Descriptor {
            media_type: info.media_type,
            digest: info.digest,
            size: info.size,
            annotations: Strings::new(),
            platform: None,
        });
        diff_ids.push(info.diff_id);
        build.progress(done as u64 + 1, attrs.layers.len() as u64);
    }
    let history = vec![
        History {
            created: created.clone(),
            created_by: "sos"
        };
        layers.len()
    ];
    let config = Config {
        created,
        architecture,
        variant,
        os: "linux",
        config: run(attrs.config),
        rootfs: RootFs {
            kind: "layers",
            diff_ids,
        },
        history,
    };
    let config = put(&blobs, CONFIG_TYPE, &config)?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: MANIFEST_TYPE,
        config,
        layers,
        annotations: attrs.annotations,
    };
    let mut manifest = put(&blobs, MANIFEST_TYPE, &manifest)?;
    manifest.platform = Some(Platform {
        architecture: architecture.to_owned(),
        os: "linux".to_owned(),
        variant: variant.map(str::to_owned),
    });
    manifest
        .annotations
        .extend(attrs.tag.map(|tag| (REF_NAME.to_owned(), tag)));
    build.log(&format!("image manifest {}", manifest.digest));
    let index = Index {
        schema_version: 2,
        media_type: INDEX_TYPE,
        manifests: vec![manifest],
    };
    fs::write(out.join("index.json"), json(&index)?).map_err(io("cannot write `index.json`"))?;
    fs::write(out.join("oci-layout"), OCI_LAYOUT).map_err(io("cannot write `oci-layout`"))
}

/// Checks what can be checked before any work.
fn check(build: &dyn Build, attrs: &ImageAttrs) -> Result<(), BuilderError> {
    let wrong = |what: String| -> Result<(), BuilderError> {
        let message = format!("the image `{}` is not well described: {what}", build.name());
        Err(Diagnostic::error("oci-attrs", Class::Recipe, message).into())
    };
    if attrs.layers.is_empty() {
        return wrong("it has no layers".into());
    }
    if attrs.layers.len() > MAX_LAYERS {
        return wrong(format!(
            "{} layers; no runtime takes more than {MAX_LAYERS}",
            attrs.layers.len()
        ));
    }
    if !(0..=MAX_EPOCH).contains(&attrs.epoch) {
        return wrong(format!(
            "`epoch` is {}; it must be within 0..{MAX_EPOCH}",
            attrs.epoch
        ));
    }
    if let Some(tag) = attrs.tag.as_ref().filter(|tag| !is_ref_name(tag)) {
        return wrong(format!(
            "`{tag}` is not a tag; it must be letters and digits joined by one of `-._:@/+`"
        ));
    }
    if attrs.annotations.contains_key("") || attrs.config.labels.contains_key("") {
        return wrong("a label or annotation has no name".into());
    }
    let env = attrs.config.env.clone().into_list();
    if let Some(bad) = env
        .iter()
        .find(|entry| entry.find('=').is_none_or(|at| at == 0))
    {
        return wrong(format!("`{bad}` in `env` is not of the form NAME=value"));
    }
    let names: BTreeSet<&str> = env
        .iter()
        .filter_map(|entry| entry.split('=').next())
        .collect();
    if names.len() < env.len() {
        return wrong("a variable is in `env` twice".into());
    }
    if let Some(bad) = attrs
        .config
        .exposed_ports
        .iter()
        .find(|port| !is_port(port))
    {
        return wrong(format!(
            "`{bad}` is not a port; write `80`, `80/tcp` or `53/udp`"
        ));
    }
    if let Some(workdir) = attrs
        .config
        .workdir
        .as_ref()
        .filter(|dir| !dir.starts_with('/'))
    {
        return wrong(format!(
            "`workdir` is `{workdir}`; it must be an absolute path"
        ));
    }
    Ok(())
}

fn is_port(text: &str) -> bool {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    number.parse::<u16>().is_ok_and(|number| number > 0)
        && matches!(protocol, "tcp" | "udp" | "sctp")
}

fn run(attrs: RunAttrs) -> Run {
    let empty = |names: Vec<String>| names.into_iter().map(|name| (name, Empty {})).collect();
    Run {
        user: attrs.user,
        exposed_ports: empty(attrs.exposed_ports),
        env: attrs.env.into_list(),
        entrypoint: attrs.entrypoint,
        cmd: attrs.cmd,
        volumes: empty(attrs.volumes),
        working_dir: attrs.workdir,
        labels: attrs.labels,
        stop_signal: attrs.stop_signal,
    }
}

/// Reads what is known about a layer and puts its blob into the layout, without copying where that is possible.
fn take_layer(build: &dyn Build, layer: &str, blobs: &Path) -> Result<LayerInfo, BuilderError> {
    let dir = build.tree(layer)?;
    let not_a_layer = |what: &dyn std::fmt::Display| {
        BuilderError::failed(format!("`{layer}` is not a layer: {what}"))
    };
    let json = fs::read(dir.join("layer.json")).map_err(|error| not_a_layer(&error))?;
    let info: LayerInfo = serde_json::from_slice(&json).map_err(|error| not_a_layer(&error))?;
    let hex = info
        .digest
        .strip_prefix("sha256:")
        .filter(|hex| is_hex(hex));
    let hex = hex.ok_or_else(|| not_a_layer(&"its digest is not SHA-256"))?;
    let blob = dir.join("blob");
    let size = fs::symlink_metadata(&blob)
        .map_err(|error| not_a_layer(&error))?
        .len();
    if size != info.size {
        return Err(not_a_layer(&format!(
            "its blob has {size} bytes, not {}",
            info.size
        )));
    }
    let target = blobs.join(hex);
    // The same layer may be there twice; it is one blob.
    if !target.exists() {
        link_or_copy(&blob, &target)
            .map_err(|error| BuilderError::io("cannot take the blob of a layer", error))?;
    }
    Ok(info)
}

/// Makes `target` the same file as `source`: a hard link, else a clone, else a copy.
fn link_or_copy(source: &Path, target: &Path) -> io::Result<()> {
    if fs::hard_link(source, target).is_ok() {
        return Ok(());
    }
    let from = File::open(source)?;
    let to = File::create_new(target)?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_ok() {
        return Ok(());
    }
    let (mut from, mut to) = (from, to);
    io::copy(&mut from, &mut to).map(|_| ())
}

/// Writes a document as a blob.
fn put<T: Serialize>(
    blobs: &Path,
    media_type: &str,
    document: &T,
) -> Result<Descriptor, BuilderError> {
    let bytes = json(document)?;
    let descriptor = Descriptor::of(media_type, &bytes);
    let name = descriptor.digest.trim_start_matches("sha256:");
    fs::write(blobs.join(name), bytes)
        .map_err(|error| BuilderError::io("cannot write a blob", error))?;
    Ok(descriptor)
}

fn json<T: Serialize>(document: &T) -> Result<Vec<u8>, BuilderError> {
    serde_json::to_vec(document)
        .map_err(|error| BuilderError::failed(format!("cannot write JSON: {error}")))
}
