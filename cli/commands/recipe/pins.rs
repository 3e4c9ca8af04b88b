//! `sos recipe pins`: every digest that a tree of bootstrap steps says a result has, and what was built.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;

use serde_json::json;
use sos_engine::{Engine, EventSink, Graph};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Blake3, HashAlgo, Hasher};
use sos_formats::store_path::StorePath;
use sos_lang::{Evaluator, Value};
use sos_store::Store;
use sos_store::rootfs::{KindView, RootTree};

use crate::args::{LockFlags, TargetArgs};
use crate::evaluate::{self, Mode};
use crate::failure::Failure;
use crate::render::output;
use crate::run::{self, RunOptions};
use crate::session::Session;

/// Compare every digest that a tree of bootstrap steps gives with what was built, in one table; builds nothing
#[derive(Debug, clap::Args)]
pub(super) struct PinsArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
}

/// One digest of the tree.
struct Pin {
    kind: String,
    target: String,
    path: String,
    sha256: String,
    /// Makes the root that it is in.
    drv: Option<StorePath>,
}

/// The digests of a tree, and what makes its last root.
struct Pins {
    all: Vec<Pin>,
    last: Option<StorePath>,
}

/// What became of a pin.
enum Found {
    NotBuilt,
    Missing,
    Digest(String),
}

impl Found {
    fn word(&self, pin: &Pin) -> &'static str {
        match self {
            Self::NotBuilt => "not built",
            Self::Missing => "missing",
            Self::Digest(digest) if *digest == pin.sha256 => "equal",
            Self::Digest(_) => "different",
        }
    }
}

/// Runs the verb.
///
/// # Errors
/// Problems of the tree; `hash-mismatch` when something that was built has another digest.
pub(super) fn run(session: &Session, args: &PinsArgs) -> Result<(), Failure> {
    let targets = evaluate::targets(session, &args.target)?;
    let mode = Mode::planning(args.lock);
    let evaluated = evaluate::values(session, &args.target, &targets, &mode, |e, value, _| {
        read(e, value)
    })?;
    let engine = run::engine(session, &RunOptions::default(), EventSink::null())?;
    let store = session.store()?;
    let mut roots = Roots {
        engine: &engine,
        graph: &evaluated.graph,
        store,
        known: BTreeMap::new(),
    };
    let mut rows = Vec::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    let mut last = None;
    for pins in &evaluated.values {
        for pin in &pins.all {
            let found = roots.look(pin)?;
            let word = found.word(pin);
            *counts.entry(word).or_default() += 1;
            if word == "different" || word == "missing" {
                wrong.push(format!("`{}` of `{}` is {word}", pin.path, pin.target));
            }
            rows.push((pin, found, word));
        }
        if let Some(drv) = &pins.last {
            last = roots.root(drv)?;
        }
    }
    if session.global.json {
        let list: Vec<_> = rows
            .iter()
            .map(|(pin, found, word)| {
                let digest = match found {
                    Found::Digest(digest) => Some(digest),
                    Found::NotBuilt | Found::Missing => None,
                };
                json!({ "kind": pin.kind, "of": pin.target, "path": pin.path, "expected": pin.sha256, "found": digest, "state": word })
            })
            .collect();
        output::json(&json!({ "pins": list, "root": last.map(|root| root.to_hex()) }))?;
    } else {
        let width = rows.iter().map(|(pin, ..)| pin.target.len());
        let width = width.max().unwrap_or(0).max("of".len());
        let mut text = format!(
            "{:<9}  {:<7}  {:<width$}  {:<64}  path\n",
            "state", "kind", "of", "sha256"
        );
        for (pin, found, word) in &rows {
            text.push_str(&format!(
                "{word:<9}  {:<7}  {:<width$}  {}  {}\n",
                pin.kind, pin.target, pin.sha256, pin.path
            ));
            if let (Found::Digest(digest), "different") = (found, *word) {
                text.push_str(&format!(
                    "{:<9}  {:<7}  {:<width$}  {digest}\n",
                    "", "found", ""
                ));
            }
        }
        let total = |word| counts.get(word).copied().unwrap_or(0);
        let root = match last {
            Some(root) => format!("root       blake3 {}\n", root.to_hex()),
            None => "root       not built\n".to_owned(),
        };
        let sum = format!(
            "{} {}: {} equal, {} different, {} missing, {} not built\n",
            rows.len(),
            if rows.len() == 1 { "pin" } else { "pins" },
            total("equal"),
            total("different"),
            total("missing"),
            total("not built")
        );
        output::bytes((text + &root + &sum).as_bytes())?;
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let message = "something that was built is not what the tree says";
    let problem = Diagnostic::error("hash-mismatch", Class::HashMismatch, message);
    Err(Failure::new(
        wrong.into_iter().fold(problem, Diagnostic::note),
    ))
}

/// The digests of a value of `sos.bootstrap`.
fn read(evaluator: &Evaluator, whole: Value) -> Result<Pins, Box<Diagnostic>> {
    let drv = |value: Value| -> Result<Option<StorePath>, Box<Diagnostic>> {
        let mut found = evaluator.derivations(value)?.into_iter();
        Ok(found.next().map(|found| found.drv_path))
    };
    let Some(list) = evaluator.attr(whole, "pins")? else {
        let message = "this target has no pins";
        let problem = Diagnostic::error("target-no-pins", Class::Usage, message)
            .help("name a tree of bootstrap steps, or an expression that `sos.bootstrap` gives");
        return Err(Box::new(problem));
    };
    let mut all = Vec::new();
    for pin in evaluator.list_items(list)? {
        let text = |name: &str| -> Result<String, Box<Diagnostic>> {
            match evaluator.attr(pin, name)? {
                Some(value) => {
                    let (bytes, _) = evaluator.to_str(value)?;
                    Ok(String::from_utf8_lossy(&bytes).into_owned())
                }
                None => Ok(String::new()),
            }
        };
        all.push(Pin {
            kind: text("kind")?,
            target: text("target")?,
            path: text("path")?,
            sha256: text("sha256")?,
            drv: match evaluator.attr(pin, "root")? {
                Some(root) => drv(root)?,
                None => None,
            },
        });
    }
    let last = match evaluator.attr(whole, "rootfs")? {
        Some(root) => drv(root)?,
        None => None,
    };
    Ok(Pins { all, last })
}

/// The roots that were built, each loaded once.
struct Roots<'a> {
    engine: &'a Engine,
    graph: &'a Graph,
    store: &'a Store,
    known: BTreeMap<StorePath, Option<(Blake3, RootTree)>>,
}

impl Roots<'_> {
    fn load(&mut self, drv: &StorePath) -> Result<Option<&(Blake3, RootTree)>, Failure> {
        if !self.known.contains_key(drv) {
            let outputs = self.engine.known_outputs(self.graph, drv)?;
            let mut loaded = None;
            for (_, path) in outputs {
                let info = self.store.query(&path)?;
                if let Some(root) = info.and_then(|info| info.root) {
                    loaded = Some((root, RootTree::load(self.store, &root)?));
                }
            }
            self.known.insert(drv.clone(), loaded);
        }
        Ok(self.known.get(drv).and_then(Option::as_ref))
    }

    fn root(&mut self, drv: &StorePath) -> Result<Option<Blake3>, Failure> {
        Ok(self.load(drv)?.map(|(root, _)| *root))
    }

    fn look(&mut self, pin: &Pin) -> Result<Found, Failure> {
        let Some(drv) = &pin.drv else {
            return Ok(Found::NotBuilt);
        };
        if pin.kind == "source" {
            return self.source(pin, drv);
        }
        if self.load(drv)?.is_none() {
            return self.of_failure(pin, drv);
        }
        let found = self.file(pin, drv)?;
        Ok(found.map_or(Found::Missing, Found::Digest))
    }

    /// A file from outside: it is in the store or it is not, and what it was named by is looked at again.
    fn source(&self, pin: &Pin, drv: &StorePath) -> Result<Found, Failure> {
        for (_, path) in self.engine.known_outputs(self.graph, drv)? {
            if self.store.query(&path)?.is_none() {
                continue;
            }
            let place = self.store.physical(&path);
            let mut file = File::open(&place)
                .map_err(|e| Failure::io(&format!("cannot read `{}`", place.display()), &e))?;
            return digest(pin, &mut file).map(Found::Digest);
        }
        Ok(Found::NotBuilt)
    }

    /// The digest of a pinned file in the root that a derivation made; nothing when that was not built, or has no such file.
    fn file(&mut self, pin: &Pin, drv: &StorePath) -> Result<Option<String>, Failure> {
        let store = self.store;
        let Some((_, tree)) = self.load(drv)? else {
            return Ok(None);
        };
        let path = pin.path.trim_start_matches('/');
        let Some(KindView::File { blob, .. }) = tree.get(path)?.map(|entry| entry.kind) else {
            return Ok(None);
        };
        digest(pin, &mut store.open_blob(&blob)?).map(Some)
    }

    /// What became of a pin whose step has failed, perhaps because of it: the file that the step wrote is in the state that it has
    /// left, and one that the step only looked at is in the root that it began with.
    fn of_failure(&mut self, pin: &Pin, drv: &StorePath) -> Result<Found, Failure> {
        if !sos_engine::has_failed(self.store, drv) {
            return Ok(Found::NotBuilt);
        }
        if let Some(path) = sos_engine::failed_file(self.store, drv, &pin.path) {
            let mut file = File::open(&path)
                .map_err(|e| Failure::io(&format!("cannot read `{}`", path.display()), &e))?;
            return digest(pin, &mut file).map(Found::Digest);
        }
        if pin.kind == "stage0" {
            for input in self.engine.inputs_of(self.graph, drv)?.into_keys() {
                if let Some(digest) = self.file(pin, &input)? {
                    return Ok(Found::Digest(digest));
                }
            }
        }
        Ok(Found::NotBuilt)
    }
}

fn digest(pin: &Pin, file: &mut File) -> Result<String, Failure> {
    let mut hasher = Hasher::new(HashAlgo::Sha256);
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = file.read(&mut buffer);
        match read.map_err(|e| Failure::io(&format!("cannot read `{}`", pin.path), &e))? {
            0 => return Ok(hasher.finish().to_hex()),
            n => hasher.update(&buffer[..n]),
        }
    }
}
