//! The cache of evaluations. A command that was evaluated before is answered from the store, if everything that the evaluation
//! read is the same by content: files, directories, links, variables, options, locks, sources, store objects, and this program.
//!
//! Nothing is keyed by a time. `stat` only spares reading a file again whose inode, size and times are those that it had when
//! it was read; a file that changed within two seconds of that is read again, as git does. The time that counts is the one
//! that nobody can set (`ctime`).
//!
//! Errors are not kept, nor what asked for the time or fetched something that no hash pins. Messages are, and are said again.

mod ahead;
mod bytes;
mod check;
mod graph;
mod inputs;
mod local;
mod look;
mod names;
mod recorder;
mod sources;
mod walk;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use sos_engine::{Graph, Wanted};
use sos_formats::hash::Blake3;
use sos_formats::store_path::StorePath;
use sos_lang::Host as _;
use sos_store::{NewEvaluation, Store};

use crate::args::Global;
use crate::evaluate::Item;
use crate::host::StoreHost;
use crate::session::Session;
pub(crate) use ahead::read_program;
use bytes::{Reader, Writer};
use inputs::{Inputs, Message};
pub(crate) use recorder::Recorder;
pub(crate) use walk::kind_of_std;

/// Results and records above this size are not kept.
const MAX_BYTES: usize = 32 << 20;

/// Changes when the layout of what is kept does, or what is noted.
const VERSION: &str = "sos evaluation 2";

/// What can be kept: the value of one target.
pub(crate) trait Cached: Sized {
    /// Whether derivations belong to it.
    const WITH_GRAPH: bool;
    /// Writes it.
    fn write(&self, w: &mut Writer);
    /// Reads it back.
    fn read(r: &mut Reader<'_>) -> Option<Self>;
    /// What the engine will be asked for.
    fn wanted(&self) -> Vec<Wanted>;
}

impl Cached for Vec<u8> {
    const WITH_GRAPH: bool = false;

    fn write(&self, w: &mut Writer) {
        w.bytes(self);
    }

    fn read(r: &mut Reader<'_>) -> Option<Self> {
        r.bytes().map(<[u8]>::to_vec)
    }

    fn wanted(&self) -> Vec<Wanted> {
        Vec::new()
    }
}

impl Cached for Vec<Item> {
    const WITH_GRAPH: bool = true;

    fn write(&self, w: &mut Writer) {
        w.list(self.iter(), |w, item| match item {
            Item::Derivation { drv, outputs } => {
                w.byte(0);
                w.object(drv);
                w.list(outputs.iter(), |w, output| w.text(output));
            }
            Item::Object(path) => {
                w.byte(1);
                w.object(path);
            }
        });
    }

    fn read(r: &mut Reader<'_>) -> Option<Self> {
        r.list(|r| {
            Some(match r.byte()? {
                0 => Item::Derivation {
                    drv: r.object()?,
                    outputs: r.list(Reader::text)?,
                },
                _ => Item::Object(r.object()?),
            })
        })
    }

    fn wanted(&self) -> Vec<Wanted> {
        self.iter().filter_map(Item::wanted).collect()
    }
}

/// The cache, as one command sees it.
pub(crate) struct Cache {
    store: Store,
    key: Blake3,
    /// Where the programs of the directory's last evaluation are.
    programs: Blake3,
    dry: bool,
    /// What of the files of the last evaluation has changed, once that was found.
    changed: Mutex<Vec<PathBuf>>,
}

/// An evaluation that need not be done again.
pub(crate) struct Hit<T> {
    /// A value for each target.
    pub(crate) values: Vec<T>,
    /// The derivations that were asked for; not what they need.
    pub(crate) roots: Graph,
    /// Store objects that a build may need.
    added: Vec<StorePath>,
}

impl Cache {
    /// The cache for a command. `asked` holds everything that the command says about the evaluation; nothing of what the
    /// evaluation finds out for itself. Nothing when there is no cache to use.
    pub(crate) fn open(session: &Session, asked: &[&str], here: &Path, dry: bool) -> Option<Self> {
        let store = session.store().ok()?.clone();
        let program = match store.file_digest(&Session::exe()) {
            Ok(digest) => digest,
            Err(error) => {
                tracing::debug!(%error, "evaluations are not cached");
                return None;
            }
        };
        let mut w = Writer::default();
        w.text(VERSION);
        w.digest(&program);
        w.path(here);
        // Whatever is configured may reach the language one day, so all of it counts, but for what only shows.
        let shown = Global {
            verbose: 0,
            quiet: false,
            color: None,
            progress: None,
            show_trace: false,
            ..session.global.clone()
        };
        w.text(&format!("{shown:?} {:?}", session.config));
        w.option(session.env.nix_path.as_deref(), Writer::text);
        w.list(asked.iter(), |w, text| w.text(text));
        Some(Self {
            store,
            key: Blake3::of(&w.0),
            programs: Self::programs_key(here),
            dry,
            changed: Mutex::default(),
        })
    }

    /// What the command gave before, if nothing has changed. Its messages are said again through `host`.
    pub(crate) fn find<T: Cached>(&self, session: &Session, host: &StoreHost) -> Option<Hit<T>> {
        let found = match self.store.evaluation(&self.key) {
            Ok(found) => found?,
            Err(error) => {
                tracing::debug!(%error, "the cache of evaluations cannot be read");
                return None;
            }
        };
        let mut inputs = Inputs::from_bytes(&found.inputs)?;
        let news = match check::check(&mut inputs, &self.store, host, &session.env, self.dry) {
            Ok(news) => news,
            Err(changed) => {
                tracing::debug!(changed, "evaluated again");
                let files = check::changed_files(&inputs, sos_store::now_nanos());
                *self.changed.lock().unwrap_or_else(PoisonError::into_inner) = files;
                return None;
            }
        };
        let mut r = Reader(&found.result);
        let values: Vec<T> = r.list(T::read)?;
        let roots = graph::read_drvs(&mut r)?;
        let better = news.then(|| inputs.to_bytes());
        let noted = self
            .store
            .evaluation_used(&self.key, &found, better.as_deref());
        if let Err(error) = noted {
            tracing::debug!(%error, "the use of a cached evaluation was not noted");
        }
        for (kind, message) in &inputs.messages {
            match kind {
                Message::Trace => host.trace(message),
                Message::Warning => host.warn(message),
            }
        }
        Some(Hit {
            values,
            roots,
            added: inputs.added.into_iter().collect(),
        })
    }

    /// The files that the last evaluation read and that have changed since then, after [`Self::find`] has found no answer.
    pub(crate) fn changed(&self) -> Vec<String> {
        let changed = self.changed.lock().unwrap_or_else(PoisonError::into_inner);
        changed
            .iter()
            .map(|file| file.display().to_string())
            .collect()
    }

    /// The whole graph behind a hit, for when something must be built: its sources are there, and stay.
    pub(crate) fn graph<T>(&self, hit: &Hit<T>) -> Option<Graph> {
        let packed = self.store.evaluation_graph(&self.key).ok()??;
        let graph = graph::unpack(&packed)?;
        if !self.dry {
            // Held first: what a collection takes between the answer and the build must not be needed.
            self.store.hold(&hit.added).ok()?;
            let there = |path| self.store.is_valid(path).unwrap_or(false);
            if !hit.added.iter().all(there) {
                return None;
            }
        }
        Some(graph)
    }

    /// Keeps what an evaluation gave, with what it read. That it cannot be kept is no failure.
    pub(crate) fn keep<T: Cached>(&self, recorder: &Recorder, values: &[T], graph: &Graph) {
        self.keep_programs(recorder.take_programs());
        let Some(inputs) = recorder.take_inputs() else {
            return;
        };
        let inputs = inputs.to_bytes();
        let mut w = Writer::default();
        w.list(values.iter(), |w, value| value.write(w));
        let wanted = values.iter().flat_map(T::wanted);
        let roots: BTreeMap<StorePath, Arc<[u8]>> = wanted
            .filter_map(|wanted| {
                let text = graph.texts.get(&wanted.drv)?.clone();
                Some((wanted.drv, text))
            })
            .collect();
        graph::write_drvs(&mut w, &roots);
        if w.0.len() > MAX_BYTES || inputs.len() > MAX_BYTES {
            return;
        }
        let packed = if T::WITH_GRAPH {
            graph::pack(graph)
        } else {
            None
        };
        let new = NewEvaluation {
            result: &w.0,
            inputs: &inputs,
            graph: packed.as_deref().filter(|g| g.len() <= MAX_BYTES),
        };
        if let Err(error) = self.store.keep_evaluation(&self.key, new) {
            tracing::debug!(%error, "the evaluation was not kept");
        }
    }
}
