//! `builtin:oci`: an OCI image layout of layers that were made before.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json as value};
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_store::Known;

use super::archive;
use super::documents::{
    CONFIG_TYPE, Config, Descriptor, Empty, History, INDEX_TYPE, Index, MANIFEST_TYPE, Manifest,
    OCI_LAYOUT, REF_NAME, RootFs, Run, RunAttrs, Strings, is_hex, oci_type,
};
use super::layer::LayerInfo;
use super::machine::{other_machine, wanted};
use super::names::{MAX_EPOCH, is_ref_name, rfc3339};
use super::object::Layers;
use super::settings;
use super::unpack::manifest_of;
use crate::build::Build;

/// Where blobs lie in a layout.
const BLOBS: &str = "blobs/sha256";

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
        3
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let mut attrs: ImageAttrs = ctx.attrs_as()?;
        let dates: super::dates::DateAttrs = ctx.attrs_as()?;
        attrs.epoch = dates.or(ctx, attrs.epoch)?;
        let out = ctx.out_path("out");
        let blobs = make_image(ctx, attrs, &out)?;
        for (file, blob) in blobs {
            ctx.set_blob("out", &file, blob);
        }
        Ok(())
    }
}

/// What a recipe says about an image.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ImageAttrs {
    pub(super) layers: Vec<String>,
    pub(super) config: RunAttrs,
    pub(super) tag: Option<String>,
    pub(super) arch: String,
    pub(super) epoch: i64,
    pub(super) annotations: Strings,
    /// An image whose layers lie below, as they are, and whose configuration is taken over.
    pub(super) from: Option<String>,
    pub(super) from_tag: Option<String>,
}

/// Writes the layout into the directory `out`; says which of its files are links of which blobs of the store.
pub(super) fn make_image(
    build: &dyn Build,
    attrs: ImageAttrs,
    out: &Path,
) -> Result<Known, BuilderError> {
    check(build, &attrs)?;
    let mut platform = wanted(&attrs.arch)?;
    let io = |what: &'static str| move |error| BuilderError::io(what, error);
    let blobs = out.join(BLOBS);
    fs::create_dir_all(&blobs).map_err(io("cannot create the image layout"))?;
    let created = rfc3339(attrs.epoch);
    let below = match &attrs.from {
        Some(from) => Below::take(build, from, &attrs, &blobs)?,
        None => Below::default(),
    };
    if let Some(variant) = below.variant {
        platform.variant = Some(variant);
    }
    let (mut layers, mut diff_ids, mut history) = (below.layers, below.diff_ids, below.history);
    let mut known = Known::new();
    for (done, layer) in attrs.layers.iter().enumerate() {
        if build.cancelled() {
            return Err(BuilderError::Cancelled);
        }
        for (info, blob) in take_layers(build, layer, &blobs, attrs.from.is_some())? {
            let place = Path::new(BLOBS).join(info.digest.trim_start_matches("sha256:"));
            known.extend(blob.map(|blob| (place, blob)));
            let created_by = match info.holds {
                Some(holds) => format!("sos: {holds}"),
                None => "sos".to_owned(),
            };
            let step = History {
                created: created.clone(),
                created_by,
            };
            history
                .push(serde_json::to_value(step).map_err(|e| BuilderError::failed(e.to_string()))?);
            layers.push(Descriptor {
                media_type: info.media_type,
                digest: info.digest,
                size: info.size,
                annotations: Strings::new(),
                platform: None,
            });
            diff_ids.push(info.diff_id);
        }
        build.progress(done as u64 + 1, attrs.layers.len() as u64);
    }
    if layers.len() > MAX_LAYERS {
        let message = format!(
            "the image `{}` has {} layers; no runtime takes more than {MAX_LAYERS}",
            build.name(),
            layers.len()
        );
        return Err(Diagnostic::error("oci-attrs", Class::Recipe, message).into());
    }
    let config = Config {
        created,
        architecture: platform.architecture.clone(),
        variant: platform.variant.clone(),
        os: "linux",
        config: over(below.config, run(attrs.config))?,
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
    manifest.platform = Some(platform);
    manifest
        .annotations
        .extend(attrs.tag.map(|tag| (REF_NAME.to_owned(), tag)));
    build.log(&format!("image manifest {}", manifest.digest));
    finish(out, manifest)?;
    Ok(known)
}

/// Writes what makes a directory of blobs a layout with one image.
pub(super) fn finish(out: &Path, top: Descriptor) -> Result<(), BuilderError> {
    let io = |what: &'static str| move |error| BuilderError::io(what, error);
    let index = Index {
        schema_version: 2,
        media_type: INDEX_TYPE,
        manifests: vec![top],
        annotations: Strings::new(),
    };
    fs::write(out.join("index.json"), json(&index)?).map_err(io("cannot write `index.json`"))?;
    fs::write(out.join("oci-layout"), OCI_LAYOUT).map_err(io("cannot write `oci-layout`"))
}

/// What an image takes over from the one below it.
#[derive(Default)]
struct Below {
    layers: Vec<Descriptor>,
    diff_ids: Vec<String>,
    history: Vec<Value>,
    config: Value,
    variant: Option<String>,
}

impl Below {
    fn take(
        build: &dyn Build,
        from: &str,
        attrs: &ImageAttrs,
        blobs: &Path,
    ) -> Result<Self, BuilderError> {
        let opened = archive::open(build.store(), &build.tree(from)?, from)?;
        let layout = &opened.layout;
        let manifest = manifest_of(layout, attrs.from_tag.as_deref(), Some(&attrs.arch))?;
        layout.has_files(&manifest)?;
        let config = layout.json(&manifest.config)?;
        let architecture = config["architecture"].as_str().unwrap_or_default();
        let wanted = wanted(&attrs.arch)?.architecture;
        if architecture != wanted {
            let message = format!(
                "the image `{}` is for {wanted}, and the one below it for {architecture}",
                build.name()
            );
            return Err(other_machine(message, architecture, &wanted).into());
        }
        let mut layers = Vec::new();
        for layer in &manifest.layers {
            let blob = layout.checked(layer)?;
            take_blob(&blob, &blobs.join(layer.hex().unwrap_or_default()))?;
            let media_type = oci_type(&layer.media_type).ok_or_else(|| {
                let (kind, digest) = (&layer.media_type, &layer.digest);
                let what = format!("its layer {digest} is of the kind `{kind}`");
                layout.bad(&format!("{what}, which may not be copied"))
            })?;
            layers.push(Descriptor {
                media_type: media_type.to_owned(),
                platform: None,
                ..layer.clone()
            });
        }
        let ids = config["rootfs"]["diff_ids"].as_array();
        let diff_ids: Vec<String> = ids
            .into_iter()
            .flatten()
            .filter_map(|id| id.as_str().map(str::to_owned))
            .collect();
        if diff_ids.len() != layers.len() {
            return Err(layout
                .bad("its configuration names another number of layers")
                .into());
        }
        if let Some(member) = ill_formed(&config["config"]) {
            return Err(layout
                .bad(&format!(
                    "`{member}` of its configuration is of the wrong kind"
                ))
                .into());
        }
        let mut history = config["history"].as_array().cloned().unwrap_or_default();
        let told = history.iter().filter(|step| step["empty_layer"] != true);
        if told.count() != layers.len() {
            history = vec![value!({ "created_by": "base image" }); layers.len()];
        }
        Ok(Self {
            layers,
            diff_ids,
            history,
            variant: config["variant"].as_str().map(str::to_owned),
            config: config["config"].clone(),
        })
    }
}

/// The member of a configuration that is not what it has to be; one that is null is not there.
pub(super) fn ill_formed(config: &Value) -> Option<&str> {
    let Value::Object(members) = config else {
        return (!config.is_null()).then_some("config");
    };
    let sound = |name: &str, value: &Value| match name {
        "User" | "WorkingDir" | "StopSignal" => value.is_string(),
        "Env" | "Cmd" | "Entrypoint" => value
            .as_array()
            .is_some_and(|all| all.iter().all(Value::is_string)),
        "Labels" => value
            .as_object()
            .is_some_and(|all| all.values().all(Value::is_string)),
        "Volumes" | "ExposedPorts" => value.is_object(),
        _ => true,
    };
    let mut wrong = members.iter().filter(|(_, value)| !value.is_null());
    let found = wrong.find(|(name, value)| !sound(name, value));
    found.map(|(name, _)| name.as_str())
}

/// Lays what a recipe says over the configuration of the image below: a new entrypoint takes the old command away, variables and
/// labels are added by name.
fn over(below: Value, run: Run) -> Result<Value, BuilderError> {
    let own = serde_json::to_value(run).map_err(|error| BuilderError::failed(error.to_string()))?;
    let (Value::Object(mut all), Value::Object(own)) = (below, own.clone()) else {
        return Ok(own);
    };
    if own.contains_key("Entrypoint") && !own.contains_key("Cmd") {
        all.remove("Cmd");
    }
    for (key, new) in own {
        let old = all.remove(&key).unwrap_or_default();
        let joined = match (key.as_str(), old, new) {
            ("Env", Value::Array(old), Value::Array(new)) => {
                let name = |one: &Value| {
                    let text = one.as_str().unwrap_or_default();
                    text.split('=').next().unwrap_or_default().to_owned()
                };
                let names: BTreeSet<String> = new.iter().map(name).collect();
                let kept = old.into_iter().filter(|one| !names.contains(&name(one)));
                Value::Array(kept.chain(new).collect())
            }
            ("Labels" | "Volumes" | "ExposedPorts", Value::Object(old), Value::Object(new)) => {
                let mut members: std::collections::BTreeMap<String, Value> =
                    old.into_iter().collect();
                members.extend(new);
                Value::Object(members.into_iter().collect())
            }
            (_, _, new) => new,
        };
        all.insert(key, joined);
    }
    Ok(Value::Object(all))
}

/// Reads what is known about the layers of one derivation and puts their blobs into the layout; gives the blob of the store that each
/// is, where that is known. Over another image a layer without entries is left out.
fn take_layers(
    build: &dyn Build,
    layer: &str,
    blobs: &Path,
    over_another: bool,
) -> Result<Vec<(LayerInfo, Option<Blake3>)>, BuilderError> {
    let made = Layers::open(build, layer)?;
    let not_a_layer = |what: &dyn std::fmt::Display| {
        BuilderError::failed(format!("`{layer}` is not a layer: {what}"))
    };
    let place = |name: &str| {
        let place = made.place(name);
        place.ok_or_else(|| not_a_layer(&format!("it has no file `{name}`")))
    };
    let found: Vec<(LayerInfo, String)> = if let Some(several) = made.place("layers.json") {
        let json = fs::read(several).map_err(|error| not_a_layer(&error))?;
        let all: Vec<LayerInfo> =
            serde_json::from_slice(&json).map_err(|error| not_a_layer(&error))?;
        let all = all.into_iter().enumerate();
        all.map(|(number, info)| (info, format!("{number}.blob")))
            .collect()
    } else {
        let json = fs::read(place("layer.json")?).map_err(|error| not_a_layer(&error))?;
        let info = serde_json::from_slice(&json).map_err(|error| not_a_layer(&error))?;
        vec![(info, "blob".to_owned())]
    };
    let mut layers = Vec::new();
    for (info, name) in found {
        if over_another && info.files == 0 {
            continue;
        }
        let hex = info
            .digest
            .strip_prefix("sha256:")
            .filter(|hex| is_hex(hex));
        let hex = hex.ok_or_else(|| not_a_layer(&"its digest is not SHA-256"))?;
        let blob = place(&name)?;
        let size = fs::symlink_metadata(&blob)
            .map_err(|error| not_a_layer(&error))?
            .len();
        if size != info.size {
            return Err(not_a_layer(&format!(
                "its blob has {size} bytes, not {}",
                info.size
            )));
        }
        take_blob(&blob, &blobs.join(hex))?;
        layers.push((info, made.blob(&name)));
    }
    Ok(layers)
}

/// Puts a blob into a layout; the same one may be there already.
pub(super) fn take_blob(blob: &Path, target: &Path) -> Result<(), BuilderError> {
    if target.exists() {
        return Ok(());
    }
    link_or_copy(blob, target)
        .map_err(|error| BuilderError::io("cannot take the blob of a layer", error))
}

/// Checks what can be checked before any work.
fn check(build: &dyn Build, attrs: &ImageAttrs) -> Result<(), BuilderError> {
    let wrong = |what: String| -> Result<(), BuilderError> {
        let message = format!("the image `{}` is not well described: {what}", build.name());
        Err(Diagnostic::error("oci-attrs", Class::Recipe, message).into())
    };
    if attrs.layers.is_empty() && attrs.from.is_none() {
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
    if let Some(what) = settings::problem(&attrs.config) {
        return wrong(what);
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

/// Makes `target` the same file as `source`: a hard link, else a clone, else a copy. Of a symbolic link the file that it leads to is taken.
pub(super) fn link_or_copy(source: &Path, target: &Path) -> io::Result<()> {
    let is_file = fs::symlink_metadata(source)?.is_file();
    if is_file && fs::hard_link(source, target).is_ok() {
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
pub(super) fn put<T: Serialize>(
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

pub(super) fn json<T: Serialize>(document: &T) -> Result<Vec<u8>, BuilderError> {
    serde_json::to_vec(document)
        .map_err(|error| BuilderError::failed(format!("cannot write JSON: {error}")))
}
