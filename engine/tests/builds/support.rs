//! A store in a temporary directory, a builder that does as its attributes say, and derivations for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};

use serde_json::{Map, Value, json};
use sos_engine::verify::{Condition, Verified, VerifyOptions};
use sos_engine::{
    BuildOptions, BuildReport, Builder, BuilderCtx, BuilderError, Cancel, Engine, EventRecord,
    EventSink, Graph, Pool, Registry, Wanted,
};
use sos_formats::derivation::{Derivation, DrvHashes, Method, Output};
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::manifest::Meta;
use sos_formats::store_path::{StoreDir, StorePath, downstream_placeholder};
use sos_store::rootfs::{FileSpec, RootTree, SpecKind};
use sos_store::{OpenOptions, Store};
use tempfile::TempDir;

type Hook = Arc<dyn Fn(&BuilderCtx<'_>) -> Result<(), BuilderError> + Send + Sync>;

/// Writes `text` (then `read` files) to its output; `hook` names a function to call before.
#[derive(Clone, Default)]
pub(crate) struct Write {
    pub(crate) runs: Arc<AtomicUsize>,
    pub(crate) hooks: Arc<Mutex<BTreeMap<String, Hook>>>,
}

impl Write {
    pub(crate) fn hook(
        &self,
        name: &str,
        hook: impl Fn(&BuilderCtx<'_>) -> Result<(), BuilderError> + Send + Sync + 'static,
    ) {
        self.hooks
            .lock()
            .unwrap()
            .insert(name.to_owned(), Arc::new(hook));
    }

    pub(crate) fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

impl Builder for Write {
    fn name(&self) -> &'static str {
        "builtin:write"
    }

    fn pool(&self) -> Pool {
        Pool::Build
    }

    fn revision(&self) -> u32 {
        1
    }

    fn build(&self, ctx: &mut BuilderCtx<'_>) -> Result<(), BuilderError> {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let text = |name: &str| ctx.attrs.get(name).and_then(Value::as_str);
        if let Some(name) = text("hook") {
            let hook = self.hooks.lock().unwrap()[name].clone();
            hook(ctx)?;
        }
        if let Some(line) = text("say") {
            ctx.log(line);
        }
        if let Some(message) = text("fail") {
            return Err(BuilderError::failed(message));
        }
        if let Some(files) = ctx.attrs.get("rootfs").and_then(Value::as_object) {
            let files = files.clone();
            return rootfs(ctx, &files);
        }
        let Some(content) = text("text") else {
            return Ok(());
        };
        let mut content = content.to_owned();
        for path in ctx
            .attrs
            .get("read")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let path = ctx.physical(path.as_str().unwrap())?;
            content += &std::fs::read_to_string(&path)
                .map_err(|e| BuilderError::io(path.display().to_string(), e))?;
        }
        for output in ctx.drv.outputs.keys() {
            let place = ctx.out_path(output);
            std::fs::write(&place, &content)
                .map_err(|e| BuilderError::io(place.display().to_string(), e))?;
        }
        Ok(())
    }
}

/// Makes a root with copies of files of this machine, executable, and `/bin/sh` for busybox.
fn rootfs(ctx: &mut BuilderCtx<'_>, files: &Map<String, Value>) -> Result<(), BuilderError> {
    let meta = Meta {
        mode: 0o755,
        uid: 0,
        gid: 0,
        mtime_secs: 1,
        mtime_nsecs: 0,
        xattrs: BTreeMap::new(),
    };
    let mut tree = RootTree::empty_in(ctx.store, meta.clone());
    for (path, source) in files {
        let bytes = std::fs::read(source.as_str().unwrap())
            .map_err(|e| BuilderError::io(path.clone(), e))?;
        let parent = path.rsplit_once('/').unwrap().0;
        tree.mkdir_p(parent, &meta)?;
        tree.write_file(path, bytes, meta.clone())?;
    }
    if files.contains_key("/bin/busybox") {
        let target = b"busybox".to_vec();
        let kind = SpecKind::Symlink { target };
        tree.insert("/bin/sh", FileSpec { meta, kind })?;
    }
    let root = tree.finish(ctx.store)?;
    ctx.set_rootfs("out", root);
    Ok(())
}

/// A store, an engine over it, and the events of the engine.
pub(crate) struct World {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) store: Store,
    pub(crate) write: Write,
    pub(crate) options: BuildOptions,
}

impl World {
    pub(crate) fn new() -> Self {
        let dir = Arc::new(tempfile::tempdir().unwrap());
        Self::over(dir, Write::default())
    }

    /// Opens the same store a second time, as another process would.
    pub(crate) fn second(&self) -> Self {
        Self::over(self.dir.clone(), self.write.clone())
    }

    fn over(dir: Arc<TempDir>, write: Write) -> Self {
        let store = Store::open(OpenOptions {
            root: dir.path().join("store"),
            store_dir: StoreDir::default(),
            read_only: false,
        })
        .unwrap();
        Self {
            dir,
            store,
            write,
            options: BuildOptions::new("x86_64-linux", PathBuf::from("/nonexistent/sos")),
        }
    }

    pub(crate) fn engine(&self) -> (Engine, Receiver<EventRecord>) {
        let mut registry = Registry::new();
        registry.register(self.write.clone());
        let (sink, events) = EventSink::channel();
        let engine = Engine::new(self.store.clone(), registry, self.options.clone(), sink);
        (engine, events)
    }

    pub(crate) fn build(&self, graph: &Graph, drvs: &[&StorePath]) -> (BuildReport, Vec<Value>) {
        self.build_until(graph, drvs, Cancel::new())
    }

    pub(crate) fn build_until(
        &self,
        graph: &Graph,
        drvs: &[&StorePath],
        cancel: Cancel,
    ) -> (BuildReport, Vec<Value>) {
        let (engine, events) = self.engine();
        let report = run(&engine, graph, drvs, cancel);
        drop(engine);
        let events = events
            .iter()
            .map(|e| serde_json::from_str(&e.to_json()).unwrap())
            .collect();
        (report, events)
    }

    /// Builds a derivation that is there again, with everything varied.
    pub(crate) fn verify(&self, graph: &Graph, drv: &StorePath) -> Verified {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let options = VerifyOptions {
            rounds: 1,
            vary: Condition::ALL.into(),
            bisect: true,
        };
        self.engine()
            .0
            .verify(
                runtime.handle(),
                graph,
                drv,
                &options,
                &Cancel::new(),
                &mut |_| {},
            )
            .unwrap()
    }

    pub(crate) fn read(&self, path: &StorePath) -> String {
        std::fs::read_to_string(self.store.physical(path)).unwrap()
    }
}

pub(crate) fn run(
    engine: &Engine,
    graph: &Graph,
    drvs: &[&StorePath],
    cancel: Cancel,
) -> BuildReport {
    let wanted: Vec<Wanted> = drvs
        .iter()
        .map(|drv| Wanted {
            drv: (*drv).clone(),
            outputs: Vec::new(),
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(engine.build(graph.clone(), &wanted, cancel))
}

/// How the outputs of a test derivation are addressed.
pub(crate) enum How {
    Input,
    Floating,
    FloatingRootfs,
    Fixed(Hash),
}

/// Makes derivations and keeps them in a graph.
#[derive(Default)]
pub(crate) struct Maker {
    pub(crate) graph: Graph,
}

impl Maker {
    /// Adds a derivation for the test builder and returns its path.
    pub(crate) fn add(
        &mut self,
        name: &str,
        how: &How,
        inputs: &[&StorePath],
        attrs: Value,
    ) -> StorePath {
        self.add_for("builtin:write", name, how, inputs, attrs)
    }

    pub(crate) fn add_for(
        &mut self,
        builder: &str,
        name: &str,
        how: &How,
        inputs: &[&StorePath],
        attrs: Value,
    ) -> StorePath {
        let output = match how {
            How::Input => Output::Deferred,
            How::Floating => Output::Floating {
                method: Method::Recursive,
                algo: HashAlgo::Sha256,
            },
            How::FloatingRootfs => Output::Floating {
                method: Method::Rootfs,
                algo: HashAlgo::Blake3,
            },
            How::Fixed(hash) => Output::Fixed {
                method: Method::Flat,
                hash: *hash,
            },
        };
        let mut drv = Derivation {
            outputs: [("out".to_owned(), output)].into(),
            input_drvs: inputs
                .iter()
                .map(|input| ((*input).clone(), ["out".to_owned()].into()))
                .collect(),
            system: "x86_64-linux".to_owned(),
            builder: builder.as_bytes().to_vec(),
            ..Derivation::default()
        };
        let mut attrs = attrs;
        attrs["name"] = json!(name);
        if let How::Fixed(hash) = how {
            attrs["outputHash"] = json!(hash.to_hex());
        }
        drv.env
            .insert(b"__json".to_vec(), attrs.to_string().into_bytes());
        self.add_drv(name, drv)
    }

    /// Fills the outputs of a derivation, adds it and returns its path.
    pub(crate) fn add_drv(&mut self, name: &str, mut drv: Derivation) -> StorePath {
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

    /// Returns the text by which a derivation names the output of another one.
    pub(crate) fn reference(&self, drv: &StorePath) -> String {
        let dir = StoreDir::default();
        let name = Derivation::name_from_path(drv);
        match self.graph.drvs[drv].output_path(&dir, name, "out") {
            Some(path) => path.absolute(&dir),
            None => downstream_placeholder(drv, "out"),
        }
    }
}

/// Returns `type name status` of the events about derivations, in order.
pub(crate) fn story(events: &[Value]) -> Vec<String> {
    events
        .iter()
        .filter(|e| e["type"] == "build.finished")
        .map(|e| {
            format!(
                "{} {}",
                e["name"].as_str().unwrap(),
                e["status"].as_str().unwrap()
            )
        })
        .collect()
}

pub(crate) fn codes(report: &BuildReport) -> Vec<&'static str> {
    report.failures.iter().map(|d| d.code).collect()
}
