//! `builtin:oci-chunks`: a root filesystem as layers that follow its packages.
//!
//! Packages of unusual size get a layer each, the others share layers: three groups by how often such packages change, in each a
//! fixed number of layers, and the hash of its name decides about the layer of a package. So what is in which layer follows from
//! this root filesystem alone, and an update of one package changes its layer and the last one, which has what no package owns and
//! all directories as they are. In the layers below, directories have no time, as it changes with every file in them.

use std::collections::BTreeMap;
use std::fs;

use serde::Deserialize;
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::Bytes;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_store::rootfs::RootTree;

use super::compress::Compression;
use super::contents::{Data, LayerEntry, ancestors, arrange, whole};
use super::kept::{Form, place, write_layer};
use super::layer::{LayerInfo, wrong};
use super::layout::json;
use super::names::MAX_EPOCH;
use super::object::{is_object, object};
use super::packages::{self, Tier};
use crate::build::Build;

/// Layers when a recipe names no number: what most runtimes download in good time.
const USUAL_LAYERS: usize = 64;
/// More are refused by runtimes once something is added.
const LAYERS: std::ops::RangeInclusive<usize> = 1..=400;
/// How many of ten layers may go to packages of unusual size.
const ALONE_OF_TEN: usize = 8;
/// Names of packages that are told of one layer.
const SHOWN_NAMES: usize = 8;
/// Where objects of a store lie, in a root filesystem that has some.
const OBJECTS: &[u8] = b"nix/store/";

/// Makes layers that follow packages.
#[derive(Clone, Copy, Debug, Default)]
pub struct OciChunksBuilder;

impl Builder for OciChunksBuilder {
    fn name(&self) -> &'static str {
        "builtin:oci-chunks"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        5
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let mut attrs: ChunkAttrs = ctx.attrs_as()?;
        let dates: super::dates::DateAttrs = ctx.attrs_as()?;
        attrs.epoch = dates.or(ctx, attrs.epoch)?;
        if is_object(ctx) {
            let layers = write_chunks(ctx, &attrs)?;
            let names: Vec<String> = (0..layers.len()).map(blob_name).collect();
            let blobs = names.iter().zip(&layers);
            let blobs: Vec<_> = blobs
                .map(|(name, (info, blob))| (name.as_str(), *blob, info.size))
                .collect();
            let about = json(&infos(&layers))?;
            let root = object(ctx.store, &blobs, ("layers.json", &about))?;
            ctx.set_rootfs("out", root);
            return Ok(());
        }
        let out = ctx.out_path("out");
        make_chunks(ctx, &attrs, &out).map(|_| ())
    }
}

/// What a recipe says about the layers.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ChunkAttrs {
    pub(super) rootfs: String,
    pub(super) max_layers: Option<usize>,
    pub(super) epoch: i64,
    pub(super) compression: Compression,
    pub(super) level: Option<i32>,
}

/// A package, or an object of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Component {
    name: String,
    size: u64,
    tier: Tier,
}

/// Writes `layers.json` and the blobs `0.blob`, ... into the directory `out`.
pub(super) fn make_chunks(
    build: &dyn Build,
    attrs: &ChunkAttrs,
    out: &std::path::Path,
) -> Result<Vec<LayerInfo>, BuilderError> {
    let layers = write_chunks(build, attrs)?;
    let io = |what: &'static str| move |error| BuilderError::io(what, error);
    fs::create_dir(out).map_err(io("cannot create the output of the layers"))?;
    for (number, (_, blob)) in layers.iter().enumerate() {
        place(build.store(), blob, &out.join(blob_name(number)))?;
    }
    let infos = infos(&layers);
    fs::write(out.join("layers.json"), json(&infos)?).map_err(io("cannot write `layers.json`"))?;
    Ok(infos)
}

fn blob_name(number: usize) -> String {
    format!("{number}.blob")
}

fn infos(layers: &[(LayerInfo, Blake3)]) -> Vec<LayerInfo> {
    layers.iter().map(|(info, _)| info.clone()).collect()
}

/// Writes the layers as blobs of the store.
fn write_chunks(
    build: &dyn Build,
    attrs: &ChunkAttrs,
) -> Result<Vec<(LayerInfo, Blake3)>, BuilderError> {
    if !(0..=MAX_EPOCH).contains(&attrs.epoch) {
        let epoch = attrs.epoch;
        return Err(wrong(
            build,
            &format!("`epoch` is {epoch}; it must be within 0..{MAX_EPOCH}"),
        ));
    }
    let most = attrs.max_layers.unwrap_or(USUAL_LAYERS);
    if !LAYERS.contains(&most) {
        let (low, high) = (LAYERS.start(), LAYERS.end());
        return Err(wrong(
            build,
            &format!("`maxLayers` is {most}; it can be {low} to {high}"),
        ));
    }
    let form = Form::new(build, attrs.compression, attrs.level)?;
    let root = build.rootfs(&attrs.rootfs)?;
    let chunks = divide(build, &root, attrs.epoch, most)?;
    let mut layers = Vec::new();
    for (holds, entries) in chunks {
        if build.cancelled() {
            return Err(BuilderError::Cancelled);
        }
        let entries = arrange(entries)?;
        let (mut info, blob) = write_layer(build, &entries, form)?;
        build.log(&format!("{} {} bytes: {holds}", info.digest, info.size));
        info.holds = Some(holds);
        layers.push((info, blob));
    }
    Ok(layers)
}

/// Divides a root filesystem into layers, lowest first, each with a word about what it holds.
fn divide(
    build: &dyn Build,
    root: &Blake3,
    epoch: i64,
    most: usize,
) -> Result<Vec<(String, Vec<LayerEntry>)>, BuilderError> {
    let store = build.store();
    let tree = RootTree::load(store, root)?;
    let packages = packages::read(&tree)?;
    let entries = whole(store, root, epoch)?;
    let mut components: BTreeMap<String, Component> = BTreeMap::new();
    // Names of one file stay together: the first of them decides.
    let mut groups: BTreeMap<[u8; 16], (&[u8], Option<String>)> = BTreeMap::new();
    let owner = |path: &[u8]| {
        let object = || object_name(path);
        packages.owners.get(path).cloned().or_else(object)
    };
    for entry in &entries {
        if let Data::Blob {
            group: Some(group), ..
        } = entry.data
        {
            let first = groups.get(&group).map(|(path, _)| *path);
            if first.is_none_or(|first| entry.path.as_slice() < first) {
                groups.insert(group, (&entry.path, owner(&entry.path)));
            }
        }
    }
    let mut owned: BTreeMap<String, Vec<LayerEntry>> = BTreeMap::new();
    let mut rest = Vec::new();
    let mut directories: BTreeMap<Bytes, LayerEntry> = BTreeMap::new();
    for entry in &entries {
        let name = match &entry.data {
            Data::Dir => {
                let mut timeless = entry.clone();
                timeless.attributes.mtime_secs = 0;
                directories.insert(entry.path.clone(), timeless);
                None
            }
            Data::Blob {
                group: Some(group), ..
            } => groups.get(group).and_then(|(_, name)| name.clone()),
            _ => owner(&entry.path),
        };
        let Some(name) = name else {
            rest.push(entry.clone());
            continue;
        };
        let size = match entry.data {
            Data::Blob { size, .. } => size,
            _ => 0,
        };
        let component = components.entry(name.clone()).or_insert_with(|| Component {
            tier: *packages.tiers.get(&name).unwrap_or(&Tier::Usual),
            name: name.clone(),
            size: 0,
        });
        // A header each, so that a package of links has a size too.
        component.size += size + 512;
        owned.entry(name).or_default().push(entry.clone());
    }
    if components.is_empty() {
        let message = format!("no package owns a file of `{}`", build.name());
        return Err(
            Diagnostic::error("oci-no-packages", Class::Recipe, message)
                .note("layers by packages need dpkg's lists in `/var/lib/dpkg`, or store objects in `/nix/store`")
                .help("leave `layering` out, or write `layering = \"steps\";`")
                .into(),
        );
    }
    let components: Vec<Component> = components.into_values().collect();
    let mut layers = Vec::new();
    if most == 1 {
        return Ok(vec![("everything".to_owned(), entries)]);
    }
    for names in plan(&components, most - 1) {
        let mut entries: Vec<LayerEntry> = names
            .iter()
            .flat_map(|name| owned.remove(*name).unwrap_or_default())
            .collect();
        let above: std::collections::BTreeSet<&[u8]> = entries
            .iter()
            .flat_map(|entry| ancestors(&entry.path))
            .collect();
        let above: Vec<LayerEntry> = above
            .into_iter()
            .filter_map(|dir| directories.get(dir).cloned())
            .collect();
        entries.extend(above);
        layers.push((shown(&names), entries));
    }
    layers.push(("directories, and what no package owns".to_owned(), rest));
    Ok(layers)
}

fn shown(names: &[&str]) -> String {
    let mut text = names[..names.len().min(SHOWN_NAMES)].join(", ");
    if names.len() > SHOWN_NAMES {
        text.push_str(&format!(" and {} more", names.len() - SHOWN_NAMES));
    }
    text
}

/// The name of the object of a store that a path belongs to, without its hash: it stays the same when the object is built anew.
fn object_name(path: &[u8]) -> Option<String> {
    let object = path
        .strip_prefix(OBJECTS)?
        .split(|byte| *byte == b'/')
        .next()?;
    let name = std::str::from_utf8(object).ok()?.split_once('-')?.1;
    Some(format!("object {name}"))
}

/// Divides components, given by name, into at most `most` layers, at least one, lowest first.
fn plan(components: &[Component], most: usize) -> Vec<Vec<&str>> {
    // Each tier needs a layer that is shared; where there are fewer, tiers share one.
    let most_alone = (most * ALONE_OF_TEN / 10).min(most.saturating_sub(Tier::ALL.len()));
    let alone = outliers(components, most_alone);
    // The number of shared layers depends on the limit only, else one more outlier would move every package.
    let bins = (most - most_alone) / Tier::ALL.len();
    let bins = bins.max(1) as u64;
    let shared = |tier: Tier| match (most, tier) {
        (0 | 1, _) => Tier::Usual,
        (2, Tier::Base) => Tier::Usual,
        _ => tier,
    };
    let mut layers: BTreeMap<(Tier, bool, String), Vec<&str>> = BTreeMap::new();
    for (component, alone) in components.iter().zip(alone) {
        let tier = shared(component.tier);
        let place = if alone {
            component.name.clone()
        } else {
            let hash = Blake3::of(component.name.as_bytes());
            let number = u64::from_le_bytes(hash.0[..8].try_into().unwrap_or_default()) % bins;
            format!("{} {number:03}", tier.word())
        };
        layers
            .entry((tier, alone, place))
            .or_default()
            .push(&component.name);
    }
    layers.into_values().collect()
}

/// Finds the components of unusual size, the largest first, at most so many: larger than the median by one and a half times the
/// median deviation from it.
fn outliers(components: &[Component], most: usize) -> Vec<bool> {
    let sizes: Vec<u64> = components.iter().map(|one| rough(one.size)).collect();
    let middle = median(sizes.clone());
    let deviation = median(sizes.iter().map(|size| size.abs_diff(middle)).collect());
    let limit = middle.saturating_add(deviation.saturating_mul(3) / 2);
    let mut large: Vec<usize> = (0..sizes.len()).filter(|i| sizes[*i] > limit).collect();
    large.sort_by(|a, b| {
        let by_name = || components[*a].name.cmp(&components[*b].name);
        sizes[*b].cmp(&sizes[*a]).then_with(by_name)
    });
    let mut alone = vec![false; components.len()];
    for at in large.into_iter().take(most) {
        alone[at] = true;
    }
    alone
}

/// Rounds a size down to three binary digits, so that a small change rarely makes a package an outlier.
fn rough(size: u64) -> u64 {
    let shift = (64 - size.leading_zeros()).saturating_sub(3);
    size >> shift << shift
}

fn median(mut sizes: Vec<u64>) -> u64 {
    sizes.sort_unstable();
    sizes.get(sizes.len() / 2).copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(name: &str, size: u64, tier: Tier) -> Component {
        Component {
            name: name.to_owned(),
            size,
            tier,
        }
    }

    fn many() -> Vec<Component> {
        (0..200_u64)
            .map(|i| {
                let tier = Tier::ALL[usize::try_from(i % 3).expect("small")];
                let size = if i % 20 == 0 {
                    (i + 1) << 20
                } else {
                    50_000 + i * 100
                };
                component(&format!("p{i:03}"), size, tier)
            })
            .collect()
    }

    #[test]
    fn every_component_is_in_one_layer_and_large_ones_are_alone() {
        let components = many();
        let layers = plan(&components, 63);
        assert!(layers.len() <= 63);
        let mut all: Vec<&str> = layers.iter().flatten().copied().collect();
        all.sort_unstable();
        let names: Vec<&str> = components.iter().map(|c| c.name.as_str()).collect();
        assert_eq!(all, names);
        assert!(layers.contains(&vec!["p180"]));
        assert!(!layers.contains(&vec!["p181"]));
    }

    #[test]
    fn no_limit_is_exceeded() {
        let all = many();
        for most in 1..400 {
            for components in [&all[..], &all[..1], &all[..7], &all[60..]] {
                let layers = plan(components, most);
                assert!(layers.len() <= most, "{most}: {}", layers.len());
                let mut names: Vec<&str> = layers.iter().flatten().copied().collect();
                names.sort_unstable();
                let wanted: Vec<&str> = components.iter().map(|c| c.name.as_str()).collect();
                assert_eq!(names, wanted, "{most}");
            }
        }
        // What there is room for is used.
        assert_eq!((plan(&all, 4).len(), plan(&all, 10).len()), (4, 10));
    }

    #[test]
    fn one_change_moves_no_other_component() {
        let before = many();
        let mut after = before.clone();
        // One grows a little, one is new, one is gone.
        after[7].size += 300;
        after.push(component("zz", 60_000, Tier::Usual));
        after.remove(100);
        let place = |layers: &[Vec<&str>], name: &str| -> Vec<String> {
            let layer = layers.iter().find(|layer| layer.contains(&name));
            let names = layer.into_iter().flatten();
            names
                .filter(|n| !["zz", "p100"].contains(*n))
                .map(|n| (*n).to_owned())
                .collect()
        };
        let (old, new) = (plan(&before, 63), plan(&after, 63));
        let changed = before
            .iter()
            .filter(|c| c.name != "p100" && place(&old, &c.name) != place(&new, &c.name))
            .count();
        assert_eq!(changed, 0);
    }

    #[test]
    fn outliers_have_a_limit() {
        let components: Vec<Component> = (0..100_u64)
            .map(|i| {
                component(
                    &format!("p{i}"),
                    if i < 60 { 1000 } else { 1 << 20 },
                    Tier::Base,
                )
            })
            .collect();
        let alone = outliers(&components, 10);
        assert_eq!(alone.iter().filter(|alone| **alone).count(), 10);
        assert_eq!(rough(0), 0);
        assert_eq!(rough(0b1101_1111), 0b1100_0000);
    }

    #[test]
    fn objects_of_a_store_are_known_by_name() {
        let path = b"nix/store/abc-hello-1.0/bin/hello";
        assert_eq!(object_name(path).as_deref(), Some("object hello-1.0"));
        assert_eq!(object_name(b"usr/bin/hello"), None);
    }
}
