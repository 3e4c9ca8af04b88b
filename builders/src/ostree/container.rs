//! `builtin:ostree-container`: a commit encapsulated in an image, for hosts of `rpm-ostree` and `bootc` that deploy the very commit.
//!
//! # Format
//! Version 1. Every layer has the directories of a repository below `sysroot/ostree/repo` with the mode `bare-split-xattrs`. The first one
//! has the commit, all dirtrees and dirmetas, and the directories of the tree; each other one has content: for every object its xattrs,
//! `<sha256>.file-xattrs`, once a layer, a hard link to them, `<checksum>.file-xattrs-link`, the object itself, `<checksum>.file`, and
//! hard links to it at the places of the tree. A file without content is written at its places instead, since builds on top of the image
//! change such files. `/usr/etc` is shown as `/etc`. Every time is 0. If one layer is all that is asked for, content is in the first one,
//! behind the rest: `layers` counts all layers of the image, as the help of `rpm-ostree compose container-encapsulate --max-layers` says
//! ("Maximum number of container image layers").
//!
//! The order is a fixed one, and cannot be that of paths, because of those who import it. They take the first object of the first layer
//! for the commit, whatever its name (`import_commit`), and refuse an object whose `.file-xattrs-link` was not the last one before it
//! (`import_content_object`); by name `<checksum>.file` always comes before `<checksum>.file-xattrs-link`. And an object comes before its
//! names in the tree, most of which, as `etc` or `sbin`, come before `sysroot` in the order of paths: a hard link to what is not there
//! yet cannot be unpacked. Within that, objects are sorted by their checksums and directories by their paths.
//!
//! Labels, repeated as annotations, name the commit and the last layer that belongs to it: what comes behind was added by others.
//!
//! Source: `crates/ostree-ext/src/tar/export.rs`, `tar/import.rs` and `container/encapsulate.rs` of bootc-dev/bootc, 534c76ea.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use flate2::{Compression, GzBuilder};
use serde::Deserialize;
use serde_json::{Value, json};
use sos_engine::{Builder, BuilderCtx, BuilderError, Pool};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{HashAlgo, Hasher, Sha256};
use sos_formats::ostree::{
    Attributes, CommitView, DirTreeView, ObjectKind, object_name, read_dirmeta, xattr_bytes,
};
use sos_formats::tar::{self, EntryKind, TarError};

use super::source::Source;
use crate::build::Build;
use crate::oci::{is_ref_name, platform, rfc3339};

/// Where the repository is in the image.
const REPO: &str = "sysroot/ostree/repo";
/// Directories of the repository besides those of its objects.
const SUBDIRS: [&str; 8] = [
    "extensions",
    "refs",
    "refs/heads",
    "refs/mirrors",
    "refs/remotes",
    "state",
    "tmp",
    "tmp/cache",
];
const CONFIG: &[u8] = b"[core]\nrepo_version=1\nmode=bare-split-xattrs\n";
/// Layers of an image: hosts and registries take many more, and overlays up to 500.
const MAX_LAYERS: u32 = 400;
/// The level of gzip.
const LEVEL: u32 = 6;

/// Makes an image layout of a commit.
#[derive(Clone, Copy, Debug, Default)]
pub struct OstreeContainerBuilder;

impl Builder for OstreeContainerBuilder {
    fn name(&self) -> &'static str {
        "builtin:ostree-container"
    }
    fn pool(&self) -> Pool {
        Pool::Build
    }
    fn revision(&self) -> u32 {
        2
    }
    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        let attrs: ContainerAttrs = ctx.attrs_as()?;
        let out = ctx.out_path("out");
        make_container(ctx, &attrs, &out)
    }
}

/// What a recipe says.
#[derive(Clone, Debug, Deserialize)]
#[serde(default)]
pub(super) struct ContainerAttrs {
    pub(super) repository: String,
    #[serde(rename = "ref")]
    pub(super) branch: String,
    pub(super) tag: String,
    pub(super) arch: String,
    /// The most layers, that of the commit among them.
    pub(super) layers: u32,
    pub(super) labels: BTreeMap<String, String>,
    pub(super) cmd: Vec<String>,
}

impl Default for ContainerAttrs {
    fn default() -> Self {
        Self {
            repository: String::new(),
            branch: String::new(),
            tag: "latest".into(),
            arch: "amd64".into(),
            layers: 16,
            labels: BTreeMap::new(),
            cmd: vec!["/sbin/init".into()],
        }
    }
}

/// A layer that is written.
struct Layer {
    digest: Sha256,
    size: u64,
    diff_id: Sha256,
}

/// Writes the layout into the directory `out`, which is not there yet.
pub(super) fn make_container(
    build: &dyn Build,
    attrs: &ContainerAttrs,
    out: &Path,
) -> Result<(), BuilderError> {
    let wrong = |what: String, help: &str| {
        let message = format!("the image `{}` is not well described: {what}", build.name());
        BuilderError::from(Diagnostic::error("ostree-attrs", Class::Recipe, message).help(help))
    };
    if !(1..=MAX_LAYERS).contains(&attrs.layers) {
        return Err(wrong(
            format!("`layers` is {}", attrs.layers),
            "write a number from 1 to 400",
        ));
    }
    if !is_ref_name(&attrs.tag) {
        return Err(wrong(
            format!("`{}` is not a tag", attrs.tag),
            "write letters and digits joined by one of `-._:@/+`",
        ));
    }
    let Some((architecture, variant)) = platform(&attrs.arch) else {
        return Err(wrong(
            format!("images have no name for the architecture `{}`", attrs.arch),
            "write one of Debian's names, as in `amd64`",
        ));
    };
    let root = build.rootfs(&attrs.repository)?;
    let source = Source::in_store(build.store(), &root, &attrs.repository)?;
    let Some(commit) = source.reference(&attrs.branch)? else {
        return Err(wrong(
            format!("the repository has no ref `{}`", attrs.branch),
            "name the one that `sos.ostree` gave it",
        ));
    };
    let (bytes, view) = source
        .commit(&commit)?
        .ok_or_else(|| BuilderError::failed(format!("the repository has no commit {commit}")))?;
    let tree = Tree::read(&source, &view, attrs.layers)?;
    let blobs = out.join("blobs/sha256");
    let failed = |what: &'static str| move |e| BuilderError::io(what, e);
    fs::create_dir_all(&blobs).map_err(failed("cannot create the image layout"))?;
    let layers = write_layers(build, &source, &tree, (&commit, &bytes, &view), &blobs)?;

    let diff_ids: Vec<String> = layers
        .iter()
        .map(|l| format!("sha256:{}", l.diff_id))
        .collect();
    let mut labels = attrs.labels.clone();
    labels.insert("ostree.commit".into(), commit.to_string());
    labels.extend(
        diff_ids
            .last()
            .map(|last| ("ostree.final-diffid".into(), last.clone())),
    );
    if view.bootable {
        labels.insert("ostree.bootable".into(), "true".into());
        labels.insert("containers.bootc".into(), "1".into());
    }
    labels.extend(
        view.linux
            .clone()
            .map(|kernel| ("ostree.linux".into(), kernel)),
    );
    if let Some(version) = &view.version {
        labels.insert("version".into(), version.clone());
        labels.insert("org.opencontainers.image.version".into(), version.clone());
    }
    let created = rfc3339(i64::try_from(view.timestamp).unwrap_or(i64::MAX));
    let mut target = json!({ "architecture": architecture, "os": "linux" });
    if let Some(variant) = variant {
        target["variant"] = variant.into();
    }
    let mut config = json!({ "created": created });
    extend(&mut config, &target);
    extend(
        &mut config,
        &json!({
            "config": { "Cmd": attrs.cmd, "Labels": labels },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
            "history": vec![json!({ "created": created, "created_by": "sos" }); layers.len()],
        }),
    );
    let config = put(&blobs, "application/vnd.oci.image.config.v1+json", &config)?;
    let described: Vec<Value> = layers
        .iter()
        .map(|layer| {
            json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip",
                "digest": format!("sha256:{}", layer.digest),
                "size": layer.size,
            })
        })
        .collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": kind,
        "config": config,
        "layers": described,
        "annotations": labels,
    });
    let mut manifest = put(&blobs, kind, &manifest)?;
    build.log(&format!(
        "commit {commit} as image manifest {}",
        manifest["digest"]
    ));
    manifest["annotations"] = json!({ "org.opencontainers.image.ref.name": attrs.tag });
    manifest["platform"] = target;
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [manifest],
    });
    fs::write(out.join("index.json"), index.to_string())
        .map_err(failed("cannot write `index.json`"))?;
    let layout = json!({ "imageLayoutVersion": "1.0.0" }).to_string();
    fs::write(out.join("oci-layout"), layout).map_err(failed("cannot write `oci-layout`"))
}

fn extend(value: &mut Value, more: &Value) {
    if let (Some(value), Some(more)) = (value.as_object_mut(), more.as_object()) {
        value.extend(more.clone());
    }
}

/// Writes a document as a blob and describes it.
fn put(blobs: &Path, kind: &str, document: &Value) -> Result<Value, BuilderError> {
    let bytes = document.to_string();
    let digest = Sha256::of(bytes.as_bytes());
    fs::write(blobs.join(digest.to_string()), &bytes)
        .map_err(|e| BuilderError::io("cannot write a blob", e))?;
    Ok(json!({ "mediaType": kind, "digest": format!("sha256:{digest}"), "size": bytes.len() }))
}

/// The commit's tree, and which layer has which file.
struct Tree {
    /// Directories by their path in the image, with what is known of them, parents first.
    dirs: Vec<(String, Attributes)>,
    trees: BTreeSet<Sha256>,
    metas: BTreeSet<Sha256>,
    /// For each layer, that of the commit first: files with their paths in the image.
    layers: Vec<BTreeMap<Sha256, Vec<String>>>,
}

impl Tree {
    fn read(source: &Source<'_>, view: &CommitView, layers: u32) -> Result<Self, BuilderError> {
        let mut tree = Self {
            dirs: Vec::new(),
            trees: BTreeSet::from([view.tree]),
            metas: BTreeSet::from([view.meta]),
            layers: Vec::new(),
        };
        let mut paths: BTreeMap<Sha256, Vec<String>> = BTreeMap::new();
        let mut todo = vec![(String::new(), view.tree)];
        while let Some((path, checksum)) = todo.pop() {
            let DirTreeView { files, dirs } = source.tree(&checksum)?;
            for (name, content) in files {
                paths.entry(content).or_default().push(join(&path, &name));
            }
            for (name, (below, meta)) in dirs {
                let path = join(&path, &name);
                let bytes = source.needed(&meta, ObjectKind::DirMeta)?;
                let attributes = read_dirmeta(&bytes)
                    .map_err(|e| BuilderError::failed(format!("the object {meta}: {e}")))?;
                tree.trees.insert(below);
                tree.metas.insert(meta);
                tree.dirs.push((path.clone(), attributes));
                todo.push((path, below));
            }
        }
        tree.dirs.sort_by(|a, b| a.0.split('/').cmp(b.0.split('/')));
        // A file goes with those beside it, whatever else there is: a change moves nothing to another layer.
        // That of the commit has content only when it is the only one.
        let own = layers.saturating_sub(1).max(1);
        let is_alone = layers <= 1;
        let mut layers = vec![BTreeMap::new(); usize::try_from(own).unwrap_or(1)];
        for (content, mut paths) in paths {
            paths.sort();
            let dir = paths[0].rsplit_once('/').map_or("", |(dir, _)| dir);
            let hash = Sha256::of(dir.as_bytes());
            let number = u32::from_be_bytes([hash.0[0], hash.0[1], hash.0[2], hash.0[3]]);
            let at = usize::try_from(number).unwrap_or(0) % layers.len();
            layers[at].insert(content, paths);
        }
        if !is_alone {
            layers.retain(|layer| !layer.is_empty());
            layers.insert(0, BTreeMap::new());
        }
        tree.layers = layers;
        Ok(tree)
    }
}

/// A path in the image: the configuration is where a running system has it.
fn join(dir: &str, name: &str) -> String {
    match (dir, name) {
        ("", name) => name.to_owned(),
        ("usr", "etc") => "etc".to_owned(),
        (dir, name) => format!("{dir}/{name}"),
    }
}

/// Writes all layers, several at once.
fn write_layers(
    build: &dyn Build,
    source: &Source<'_>,
    tree: &Tree,
    commit: (&Sha256, &[u8], &CommitView),
    blobs: &Path,
) -> Result<Vec<Layer>, BuilderError> {
    let count = tree.layers.len();
    let next = AtomicUsize::new(0);
    let done: Vec<Mutex<Option<Result<Layer, BuilderError>>>> =
        (0..count).map(|_| Mutex::new(None)).collect();
    let run = |go_on: &dyn Fn(usize) -> bool| {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= count || !go_on(at) {
                return;
            }
            let made = write_layer(source, tree, at, commit, blobs);
            if made.is_err() {
                next.store(count, Ordering::Relaxed);
            }
            *done[at].lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..build.cores().clamp(1, count) {
            scope.spawn(|| run(&|_| true));
        }
        run(&|at| {
            build.progress(at as u64, count as u64);
            !build.cancelled()
        });
    });
    let mut layers = Vec::with_capacity(count);
    let mut missing = false;
    for one in done {
        match one.into_inner().unwrap_or_else(PoisonError::into_inner) {
            Some(layer) => layers.push(layer?),
            None => missing = true,
        }
    }
    if missing {
        return Err(BuilderError::Cancelled);
    }
    Ok(layers)
}

/// Counts and hashes what passes through.
struct Digesting<W> {
    out: W,
    hasher: Hasher,
    size: u64,
}

impl<W: Write> Digesting<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            hasher: Hasher::new(HashAlgo::Sha256),
            size: 0,
        }
    }

    fn digest(self) -> Result<(W, Sha256, u64), BuilderError> {
        let digest = self.hasher.finish().as_sha256();
        let digest = digest.ok_or_else(|| BuilderError::failed("a hasher gave another hash"))?;
        Ok((self.out, digest, self.size))
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn write_layer(
    source: &Source<'_>,
    tree: &Tree,
    at: usize,
    (commit, bytes, view): (&Sha256, &[u8], &CommitView),
    blobs: &Path,
) -> Result<Layer, BuilderError> {
    let io = |e| BuilderError::io("cannot write a layer", e);
    let staged = blobs.join(format!("layer-{at}"));
    let file = BufWriter::with_capacity(1 << 20, File::create_new(&staged).map_err(io)?);
    // No name, no time, and an operating system that nobody has.
    let gzip = GzBuilder::new().mtime(0).operating_system(255);
    let gzip = gzip.write(Digesting::new(file), Compression::new(LEVEL));
    let mut writer = LayerWriter {
        tar: tar::Writer::new(Digesting::new(gzip)),
        xattrs: BTreeSet::new(),
    };
    let is_first = at == 0;
    if is_first {
        let bytes = source.needed(&view.meta, ObjectKind::DirMeta)?;
        let root = read_dirmeta(&bytes).map_err(|e| BuilderError::failed(e.to_string()))?;
        writer.dir("", &root)?;
    }
    writer.structure()?;
    if is_first {
        writer.object(ObjectKind::Commit, commit, bytes)?;
        for meta in &tree.metas {
            let bytes = source.needed(meta, ObjectKind::DirMeta)?;
            writer.object(ObjectKind::DirMeta, meta, &bytes)?;
        }
        for one in &tree.trees {
            let bytes = source.needed(one, ObjectKind::DirTree)?;
            writer.object(ObjectKind::DirTree, one, &bytes)?;
        }
        let mut has_tmp = false;
        for (path, attributes) in &tree.dirs {
            has_tmp |= path == "var/tmp";
            // The repository has brought it along.
            if path != "sysroot" && !path.starts_with("sysroot/") {
                writer.dir(path, attributes)?;
            }
        }
        // Programs that run in the image as a container need it, whether or not the commit has it.
        if !has_tmp && tree.dirs.iter().any(|(path, _)| path == "var") {
            writer.dir("var/tmp", &plain(0o1777))?;
        }
    }
    for (checksum, paths) in &tree.layers[at] {
        writer.content(source, checksum, paths)?;
    }
    let (gzip, diff_id, _) = writer.tar.finish().map_err(failed)?.digest()?;
    let (file, digest, size) = gzip.finish().map_err(io)?.digest()?;
    file.into_inner().map_err(|e| io(e.into_error()))?;
    fs::rename(staged, blobs.join(digest.to_string())).map_err(io)?;
    Ok(Layer {
        digest,
        size,
        diff_id,
    })
}

fn plain(mode: u32) -> Attributes {
    Attributes {
        uid: 0,
        gid: 0,
        mode,
        xattrs: BTreeMap::new(),
    }
}

struct LayerWriter<W> {
    tar: tar::Writer<W>,
    /// Sets of xattrs that are in the layer.
    xattrs: BTreeSet<Sha256>,
}

impl<W: Write> LayerWriter<W> {
    /// The directories and the configuration of the repository.
    fn structure(&mut self) -> Result<(), BuilderError> {
        let mut path = String::new();
        for part in REPO.split('/').chain(["objects"]) {
            path = join(&path, part);
            self.dir(&path, &plain(0o755))?;
        }
        for n in 0..=u8::MAX {
            self.dir(&format!("{REPO}/objects/{n:02x}"), &plain(0o755))?;
        }
        for dir in SUBDIRS {
            self.dir(&format!("{REPO}/{dir}"), &plain(0o755))?;
        }
        self.bytes(&format!("{REPO}/config"), CONFIG)
    }

    fn dir(&mut self, path: &str, attributes: &Attributes) -> Result<(), BuilderError> {
        let entry = entry(path, EntryKind::Dir, attributes);
        self.tar.append_empty(&entry).map_err(failed)
    }

    fn bytes(&mut self, path: &str, bytes: &[u8]) -> Result<(), BuilderError> {
        let mut entry = entry(path, EntryKind::File, &plain(0o644));
        entry.size = bytes.len() as u64;
        self.tar.append(&entry, &mut &*bytes).map_err(failed)
    }

    fn object(
        &mut self,
        kind: ObjectKind,
        checksum: &Sha256,
        bytes: &[u8],
    ) -> Result<(), BuilderError> {
        let (dir, name) = object_name(checksum, kind);
        self.bytes(&format!("{REPO}/objects/{dir}/{name}"), bytes)
    }

    fn link(
        &mut self,
        path: &str,
        target: &str,
        attributes: &Attributes,
    ) -> Result<(), BuilderError> {
        let mut entry = entry(path, EntryKind::Hardlink, attributes);
        entry.link = target.as_bytes().to_vec();
        self.tar.append_empty(&entry).map_err(failed)
    }

    /// A file or link, behind its xattrs, and before its names in the tree.
    fn content(
        &mut self,
        source: &Source<'_>,
        checksum: &Sha256,
        paths: &[String],
    ) -> Result<(), BuilderError> {
        let mut content = source.content(checksum)?;
        let attributes = content.view.attributes.clone();
        let xattrs = xattr_bytes(&attributes.xattrs);
        let hash = Sha256::of(&xattrs);
        let (dir, name) = object_name(&hash, ObjectKind::File);
        let kept = format!("{REPO}/objects/{dir}/{name}-xattrs");
        if self.xattrs.insert(hash) {
            self.bytes(&kept, &xattrs)?;
        }
        let (dir, name) = object_name(checksum, ObjectKind::File);
        let object = format!("{REPO}/objects/{dir}/{name}");
        self.link(&format!("{object}-xattrs-link"), &kept, &plain(0o644))?;
        let kind = if content.is_link() {
            EntryKind::Symlink
        } else {
            EntryKind::File
        };
        let mut header = entry(&object, kind, &attributes);
        header.size = content.size;
        header.link = content.view.target.clone().into_bytes();
        let empty = kind == EntryKind::File && content.size == 0;
        self.tar.append(&header, &mut content).map_err(failed)?;
        content.finish()?;
        for path in paths {
            if empty {
                let header = entry(path, EntryKind::File, &attributes);
                self.tar.append_empty(&header).map_err(failed)?;
            } else {
                self.link(path, &object, &attributes)?;
            }
        }
        Ok(())
    }
}

fn entry(path: &str, kind: EntryKind, attributes: &Attributes) -> tar::Entry {
    tar::Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: u16::try_from(attributes.mode & 0o7777).unwrap_or(0),
        uid: attributes.uid,
        gid: attributes.gid,
        ..tar::Entry::default()
    }
}

#[allow(clippy::needless_pass_by_value, reason = "as `map_err` calls it")]
fn failed(error: TarError) -> BuilderError {
    match error {
        TarError::Write(source) => BuilderError::io("cannot write a layer", source),
        other => BuilderError::failed(format!("the layer cannot be made: {other}")),
    }
}
