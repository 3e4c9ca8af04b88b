//! Before anything is built: what mirrors have of it is taken, from what is wanted downwards. What one derivation is made from is
//! asked for only when its own result cannot be had.

use std::collections::{BTreeMap, BTreeSet};

use sos_formats::derivation::{Derivation, DrvHashes, Method, Output};
use sos_formats::diagnostic::Diagnostic;
use sos_formats::store_path::StorePath;
use sos_store::NewBuilt;

use super::mirrors::in_parallel;
use super::{Mirrors, Ordered, Watch, may_come_from_elsewhere};
use crate::cause::{History, noted_name};
use crate::clock::millis;
use crate::diagnose::store_failed;
use crate::engine::Engine;
use crate::event::{Event, Status, Text};
use crate::graph::{Graph, Wanted};
use crate::needed::{Needed, Node, load};
use crate::resolve::resolve;

/// What was taken.
#[derive(Clone, Copy, Default)]
pub(crate) struct Taken {
    /// Derivations whose outputs came.
    pub(crate) count: usize,
    /// Bytes of the archives.
    pub(crate) bytes: u64,
}

/// An output of a node, and by what mirrors know it.
enum Name {
    Path(StorePath),
    /// Of a content-addressed derivation.
    Realisation(String),
}

/// A node that mirrors have, with the paths of its outputs.
struct Offered {
    id: usize,
    outputs: BTreeMap<String, StorePath>,
}

impl Engine {
    /// Takes from mirrors what they have of what is needed.
    ///
    /// # Errors
    /// When the store fails; problems of mirrors are warnings.
    pub(crate) fn take_from_mirrors(
        &self,
        mirrors: &Mirrors,
        needed: &Needed,
        graph: &Graph,
        wanted: &[Wanted],
    ) -> Result<Taken, Box<Diagnostic>> {
        let mut hashes = DrvHashes::new(self.store().store_dir().clone());
        let mut asked = vec![false; needed.nodes.len()];
        let roots: BTreeSet<&StorePath> = wanted.iter().map(|want| &want.drv).collect();
        let mut wave: Vec<usize> = (0..needed.nodes.len())
            .filter(|id| roots.contains(&needed.nodes[*id].path))
            .collect();
        let mut taken = Taken::default();
        let mut history = None;
        while !wave.is_empty() && !mirrors.are_off() {
            let mut offered = Vec::new();
            while !wave.is_empty() && !mirrors.are_off() {
                wave.retain(|id| !std::mem::replace(&mut asked[*id], true));
                let mut next = Vec::new();
                let mut asking = Vec::new();
                for id in wave {
                    match self.names(&needed.nodes[id], graph, &mut hashes)? {
                        Some(names) => asking.push((id, names)),
                        None => next.extend(needed.nodes[id].needs()),
                    }
                }
                for (id, outputs) in self.ask(mirrors, needed, asking) {
                    match outputs {
                        Some(outputs) => offered.push(Offered { id, outputs }),
                        None => next.extend(needed.nodes[id].needs()),
                    }
                }
                wave = next;
            }
            if offered.is_empty() {
                break;
            }
            let history = match &history {
                Some(history) => history,
                None => history.insert(self.history(needed, graph, wanted)?),
            };
            wave = self.take_all(mirrors, needed, history, offered, &mut taken)?;
        }
        Ok(taken)
    }

    /// By what mirrors would know the outputs of a node; nothing when they cannot have them.
    fn names(
        &self,
        node: &Node,
        graph: &Graph,
        hashes: &mut DrvHashes,
    ) -> Result<Option<Vec<(String, Name)>>, Box<Diagnostic>> {
        let dir = self.store().store_dir();
        if node.forced {
            return Ok(None);
        }
        let drv = node.drv(dir)?;
        if !may_come_from_elsewhere(&drv) {
            return Ok(None);
        }
        let mut names = Vec::new();
        for output in &*node.outputs {
            let name = match drv.outputs.get(&**output) {
                // No binary cache has root filesystems.
                Some(
                    Output::Floating {
                        method: Method::Rootfs,
                        ..
                    }
                    | Output::Fixed {
                        method: Method::Rootfs,
                        ..
                    },
                ) => return Ok(None),
                Some(Output::Floating { .. }) => {
                    let mut lookup =
                        |path: &StorePath| load(self.store(), graph, path).map(|d| (*d).clone());
                    // What is wrong with an input is told when it is built.
                    match hashes.realisation_hash(&drv, node.name(), &mut lookup) {
                        Ok(hash) => Name::Realisation(hash),
                        Err(_) => return Ok(None),
                    }
                }
                _ => match drv.output_path(dir, node.name(), output) {
                    Some(path) => Name::Path(path),
                    // Its inputs decide.
                    None => return Ok(None),
                },
            };
            names.push((output.to_string(), name));
        }
        Ok(Some(names))
    }

    /// Asks for many nodes at once; gives the paths of the outputs of those that mirrors have.
    #[allow(
        clippy::type_complexity,
        reason = "the pairs that go in, with an answer"
    )]
    fn ask(
        &self,
        mirrors: &Mirrors,
        needed: &Needed,
        asking: Vec<(usize, Vec<(String, Name)>)>,
    ) -> Vec<(usize, Option<BTreeMap<String, StorePath>>)> {
        let found = in_parallel(&asking, self.options().io_jobs, |(id, names)| {
            let mut outputs = BTreeMap::new();
            for (output, name) in names {
                let path = match name {
                    Name::Path(path) => path.clone(),
                    Name::Realisation(hash) => match mirrors.realisation(hash, output) {
                        Ok(path) => path,
                        Err(lacking) => {
                            mirrors.miss(&needed.nodes[*id].path, lacking);
                            return None;
                        }
                    },
                };
                outputs.insert(output.clone(), path);
            }
            mirrors.ask_all(outputs.values());
            if outputs.values().all(|path| mirrors.has(path)) {
                return Some(outputs);
            }
            mirrors.miss_paths(&needed.nodes[*id].path, outputs.values());
            None
        });
        asking.into_iter().map(|(id, _)| id).zip(found).collect()
    }

    /// Takes what mirrors have; returns the nodes that are to be asked for in place of what could not be taken.
    fn take_all(
        &self,
        mirrors: &Mirrors,
        needed: &Needed,
        history: &History,
        offered: Vec<Offered>,
        taken: &mut Taken,
    ) -> Result<Vec<usize>, Box<Diagnostic>> {
        let paths = offered.iter().flat_map(|one| one.outputs.values());
        mirrors
            .gather(paths.cloned().collect())
            .map_err(store_failed)?;
        let mut instead = Vec::new();
        let mut ready = Vec::new();
        for one in offered {
            let order = mirrors.order(one.outputs.values()).map_err(store_failed)?;
            match order {
                Some(order) => ready.push((one, order)),
                None => {
                    // A part of what they refer to is missing.
                    let node = &needed.nodes[one.id];
                    instead.extend(node.needs());
                }
            }
        }
        let results = in_parallel(&ready, self.options().io_jobs, |(one, order)| {
            self.take(mirrors, needed, history, one, order)
        });
        for ((one, _), result) in ready.iter().zip(results) {
            match result? {
                Some(bytes) => {
                    taken.count += 1;
                    taken.bytes += bytes;
                }
                None => instead.extend(needed.nodes[one.id].needs()),
            }
        }
        Ok(instead)
    }

    /// Takes the outputs of one node, with what they refer to.
    fn take(
        &self,
        mirrors: &Mirrors,
        needed: &Needed,
        history: &History,
        one: &Offered,
        order: &Ordered,
    ) -> Result<Option<u64>, Box<Diagnostic>> {
        let dir = self.store().store_dir();
        let node = &needed.nodes[one.id];
        let parsed = node.drv(dir)?;
        let (drv, name): (Text, Text) = (node.path.absolute(dir).into(), node.name().into());
        let cause = self.planned_cause(needed, history, node, &parsed)?;
        let since = self.clock().monotonic();
        self.events().emit(Event::BuildQueued {
            drv: drv.clone(),
            name: name.clone(),
            needs: Vec::new(),
            expected_ms: None,
        });
        self.events().emit(Event::FetchStarted {
            drv: drv.clone(),
            name: name.clone(),
            cause,
        });
        let watch = Watch::new(self.events(), mirrors.cancel(), drv.clone(), name.clone());
        let bytes = mirrors.take(order, &watch);
        if bytes.is_some() {
            self.note_taken(needed, node, &parsed, &one.outputs)?;
        }
        let status = match bytes {
            Some(_) => Status::Fetched,
            // It is built instead.
            None => Status::Cancelled,
        };
        let outputs = one.outputs.iter();
        self.events().emit(Event::FetchFinished {
            drv,
            name,
            status,
            duration_ms: millis(self.clock().monotonic().saturating_sub(since)),
            bytes: bytes.unwrap_or(0),
            outputs: match bytes {
                Some(_) => outputs
                    .map(|(output, path)| (output.clone(), path.absolute(dir)))
                    .collect(),
                None => BTreeMap::new(),
            },
        });
        Ok(bytes)
    }

    /// Writes down what a derivation gave, so that it is found, and compared with its next form.
    fn note_taken(
        &self,
        needed: &Needed,
        node: &Node,
        drv: &Derivation,
        outputs: &BTreeMap<String, StorePath>,
    ) -> Result<(), Box<Diagnostic>> {
        let (store, dir) = (self.store(), self.store().store_dir());
        let text = node.text(dir)?;
        store.put_drv(&node.path, &text).map_err(store_failed)?;
        if let Err(error) = store.note_sources(drv.input_srcs.iter()) {
            // A build is worth more than its journal.
            tracing::warn!(%error, "the files of the sources are not noted");
        }
        let named = outputs.iter().map(|(output, path)| (output.as_str(), path));
        let inputs = needed.expected_inputs(dir, node, drv)?;
        // Where the paths of inputs are not known, nobody knows what was built.
        let known = drv.input_drvs.keys().all(|input| {
            needed.known.contains_key(input)
                || node.needs().any(|id| {
                    let need = &needed.nodes[id];
                    need.path == *input && !need.dynamic
                })
        });
        let resolved = known
            .then(|| resolve(dir, &node.path, drv, &inputs).ok())
            .flatten();
        let Some(resolved) = resolved else {
            let noted = named.map(|(output, path)| (&node.path, output, path));
            return store.set_drv_outputs(noted).map_err(store_failed);
        };
        let name = noted_name(&self.options().project, node.name());
        let noted = NewBuilt {
            drv: &node.path,
            identity: &resolved.identity,
            aterm: &resolved.aterm,
            name: &name,
            system: &drv.system,
        };
        store
            .record_equal_builds([(named, noted)])
            .map_err(store_failed)
    }
}
