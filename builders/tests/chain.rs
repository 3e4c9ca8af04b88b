//! Derivations of these builders through a real engine: a fetch, an edited root, two layers, an image.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sos_builders::mirrors::Mirrors;
use sos_builders::{Config, registry};
use sos_engine::{BuildOptions, BuildReport, Cancel, Engine, EventSink, Graph, Wanted};
use sos_formats::derivation::{Derivation, DrvHashes, Method, Output};
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::store_path::{StoreDir, StorePath, downstream_placeholder};
use sos_store::{OpenOptions, Store};

const EPOCH: i64 = 1_700_000_000;
const TEXT: &str = "hello\n";

fn floating(method: Method, algo: HashAlgo) -> Output {
    Output::Floating { method, algo }
}

fn tree() -> Output {
    floating(Method::Recursive, HashAlgo::Sha256)
}

#[derive(Default)]
struct Maker {
    graph: Graph,
}

impl Maker {
    fn add(
        &mut self,
        name: &str,
        builder: &str,
        output: Output,
        inputs: &[&StorePath],
        attrs: &Value,
    ) -> StorePath {
        let out = || "out".to_owned();
        let mut drv = Derivation {
            outputs: [(out(), output)].into(),
            input_drvs: inputs
                .iter()
                .map(|input| ((*input).clone(), [out()].into()))
                .collect(),
            system: "builtin".to_owned(),
            builder: builder.as_bytes().to_vec(),
            ..Derivation::default()
        };
        drv.env
            .insert(b"__json".to_vec(), attrs.to_string().into_bytes());
        let dir = StoreDir::default();
        let graph = &self.graph;
        let mut lookup = |path: &StorePath| -> Result<Derivation, std::convert::Infallible> {
            Ok(graph.drvs[path].as_ref().clone())
        };
        DrvHashes::new(dir.clone())
            .fill_outputs(&mut drv, name, &mut lookup)
            .unwrap();
        let path = drv.drv_path(&dir, name).unwrap();
        self.graph.insert(path.clone(), drv);
        path
    }

    fn reference(&self, drv: &StorePath) -> String {
        let dir = StoreDir::default();
        let name = Derivation::name_from_path(drv);
        match self.graph.drvs[drv].output_path(&dir, name, "out") {
            Some(path) => path.absolute(&dir),
            None => downstream_placeholder(drv, "out"),
        }
    }

    fn fetch(&mut self, urls: &[String], hash: Hash) -> StorePath {
        let output = Output::Fixed {
            method: Method::Flat,
            hash,
        };
        self.add(
            "hello.txt",
            "builtin:fetch",
            output,
            &[],
            &json!({"urls": urls}),
        )
    }

    /// An image of two layers, which are trees or objects of blobs.
    fn image(&mut self, urls: &[String], objects: bool) -> StorePath {
        let kind = || {
            if objects {
                floating(Method::Rootfs, HashAlgo::Blake3)
            } else {
                tree()
            }
        };
        let mode = if objects { "rootfs" } else { "recursive" };
        let file = self.fetch(urls, Hash::of(HashAlgo::Sha256, TEXT.as_bytes()));
        let source = self.reference(&file);
        let rootfs = self.add(
            "root",
            "builtin:rootfs-edit",
            floating(Method::Rootfs, HashAlgo::Blake3),
            &[&file],
            &json!({
                "epoch": EPOCH, "hostname": "box",
                "files": [{"path": "/srv/hello", "source": source, "owner": "web:web"}],
                "users": [{"name": "web", "system": true}],
            }),
        );
        let root = self.reference(&rootfs);
        let attrs = json!({"rootfs": root, "epoch": EPOCH, "outputHashMode": mode});
        let bottom = self.add("layer-0", "builtin:oci-layer", kind(), &[&rootfs], &attrs);
        let attrs = json!({
            "base": root, "files": {"/srv/again": source}, "epoch": EPOCH, "compression": "zstd", "outputHashMode": mode,
        });
        let top = self.add(
            "layer-1",
            "builtin:oci-layer",
            kind(),
            &[&rootfs, &file],
            &attrs,
        );
        let layers = [self.reference(&bottom), self.reference(&top)];
        let attrs = json!({"layers": layers, "arch": "amd64", "epoch": EPOCH, "tag": "latest", "config": {"cmd": ["/x"]}});
        let kind = floating(Method::Tree, HashAlgo::Blake3);
        self.add("image", "builtin:oci", kind, &[&bottom, &top], &attrs)
    }
}

struct World {
    dir: tempfile::TempDir,
    store: Store,
    options: BuildOptions,
}

impl World {
    fn new(cores: usize) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("store");
        let store = Store::open(OpenOptions {
            root,
            store_dir: StoreDir::default(),
            read_only: false,
        })
        .unwrap();
        let options = BuildOptions {
            cores,
            ..BuildOptions::new("x86_64-linux", PathBuf::from("/nonexistent/sos"))
        };
        Self {
            dir,
            store,
            options,
        }
    }

    fn url(&self, name: &str, text: &str) -> String {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        format!("file://{}", path.display())
    }

    fn build(&self, graph: &Graph, drv: &StorePath) -> BuildReport {
        let builders = registry(Config {
            registries: registry::Access::default(),
            mirrors: Mirrors::default(),
            offline: false,
            relock: String::new(),
        });
        let (events, _receiver) = EventSink::channel();
        let engine = Engine::new(self.store.clone(), builders, self.options.clone(), events);
        let wanted = [Wanted {
            drv: drv.clone(),
            outputs: Vec::new(),
        }];
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(engine.build(graph.clone(), &wanted, Cancel::new()))
    }
}

fn files(dir: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else {
            found.push((
                path.file_name().unwrap().to_string_lossy().into_owned(),
                fs::read(&path).unwrap(),
            ));
        }
    }
    found.sort();
}

#[test]
fn an_image_is_the_same_wherever_it_is_built() {
    let built = [(1, false), (4, false), (3, true)].map(|(cores, objects)| {
        let world = World::new(cores);
        let mut maker = Maker::default();
        let urls = [
            world.url("wrong", "other"),
            "file:///nowhere/at/all".into(),
            world.url("right", TEXT),
        ];
        let drv = maker.image(&urls, objects);
        let report = world.build(&maker.graph, &drv);
        assert!(report.success(), "{:?}", report.failures);
        let path = report.results[0].1["out"].clone();
        let mut found = Vec::new();
        files(&world.store.physical(&path), &mut found);
        assert!(found.iter().any(|(name, _)| name == "oci-layout"));
        assert_eq!(
            found.len(),
            6,
            "layout, index, manifest, config, two layers"
        );
        (path, found)
    });
    assert_eq!(built[0], built[1]);
    assert_eq!(built[0], built[2], "layers that are objects");
}

#[test]
fn a_wrong_hash_ends_with_its_own_code() {
    let world = World::new(1);
    let mut maker = Maker::default();
    let urls = [world.url("wrong", "other")];
    let drv = maker.fetch(&urls, Hash::of(HashAlgo::Sha256, TEXT.as_bytes()));
    let report = world.build(&maker.graph, &drv);
    assert_eq!(report.failures[0].code, "fetch-hash-mismatch");
    assert_eq!(report.exit_code(), 102);
}

#[test]
fn offline_names_what_is_missing() {
    let mut world = World::new(1);
    world.options.offline = true;
    let mut maker = Maker::default();
    let urls = ["https://mirror.example/hello.txt".to_owned()];
    let drv = maker.fetch(&urls, Hash::of(HashAlgo::Sha256, TEXT.as_bytes()));
    let report = world.build(&maker.graph, &drv);
    assert_eq!(report.failures[0].code, "fetch-offline");
    assert!(
        report.failures[0].message.contains("hello.txt"),
        "{:?}",
        report.failures
    );
}

#[test]
fn the_builder_of_nix_is_there() {
    let world = World::new(1);
    let mut maker = Maker::default();
    let hash = Hash::of(HashAlgo::Sha256, TEXT.as_bytes());
    let mut drv = Derivation {
        outputs: [(
            "out".to_owned(),
            Output::Fixed {
                method: Method::Flat,
                hash,
            },
        )]
        .into(),
        system: "builtin".to_owned(),
        builder: b"builtin:fetchurl".to_vec(),
        ..Derivation::default()
    };
    let url = world.url("right", TEXT);
    for (name, value) in [
        ("url", url.as_str()),
        ("name", "hello"),
        ("executable", ""),
        ("unpack", ""),
    ] {
        drv.env.insert(name.into(), value.into());
    }
    let dir = StoreDir::default();
    let mut none = |_: &StorePath| -> Result<Derivation, std::convert::Infallible> {
        unreachable!("no inputs")
    };
    DrvHashes::new(dir.clone())
        .fill_outputs(&mut drv, "hello", &mut none)
        .unwrap();
    let path = drv.drv_path(&dir, "hello").unwrap();
    maker.graph.insert(path.clone(), drv);
    let report = world.build(&maker.graph, &path);
    assert!(report.success(), "{:?}", report.failures);
    let out = world.store.physical(&report.results[0].1["out"]);
    assert_eq!(fs::read_to_string(out).unwrap(), TEXT);
}

#[test]
fn what_is_fetched_needs_a_hash() {
    let world = World::new(1);
    let mut maker = Maker::default();
    let attrs = json!({"urls": [world.url("x", TEXT)]});
    let drv = maker.add("x", "builtin:fetch", tree(), &[], &attrs);
    let report = world.build(&maker.graph, &drv);
    assert_eq!(report.failures[0].code, "fetch-not-fixed");
}

#[test]
fn a_tree_is_not_a_root() {
    let world = World::new(1);
    let mut maker = Maker::default();
    let urls = [world.url("x", TEXT)];
    let file = maker.fetch(&urls, Hash::of(HashAlgo::Sha256, TEXT.as_bytes()));
    let reference = maker.reference(&file);
    for attrs in [
        json!({"rootfs": reference}),
        json!({"files": {"/x": "/nix/store/00000000000000000000000000000000-y"}}),
        json!({"files": {"/x": format!("{reference}/../..")}}),
        json!({"files": "x"}),
    ] {
        let drv = maker.add("layer", "builtin:oci-layer", tree(), &[&file], &attrs);
        let report = world.build(&maker.graph, &drv);
        assert_eq!(report.failures.len(), 1, "{attrs}");
        assert_eq!(
            report.failures[0].code, "build-failed",
            "{attrs}: {:?}",
            report.failures
        );
    }
}
