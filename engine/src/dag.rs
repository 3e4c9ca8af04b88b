//! The graph of what is wanted, with the state of everything in it, for people to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::store_path::StorePath;

use crate::builder::Pool;
use crate::choice::pool_of;
use crate::diagnose::store_failed;
use crate::engine::Engine;
use crate::graph::{Graph, Wanted, wanted_outputs};
use crate::needed::{Names, load, present_output};
use crate::work::history_key;

/// Builds of the journal that are looked through for failures.
const BUILDS: u32 = 20;

/// What is known of a derivation in a graph. The order is that of how much a person wants to see it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DagState {
    /// It failed the last time that it was tried.
    Failed,
    /// A process is building it.
    Running,
    /// It would be built.
    ToBuild,
    /// It would be fetched.
    ToFetch,
    /// Its outputs are there, and were made here.
    Built,
    /// Its outputs are there without having been made here for it.
    Cached,
    /// It is not there, and nothing that is to be done needs it.
    Unneeded,
}

impl DagState {
    /// All of them, in their order.
    pub const ALL: [Self; 7] = [
        Self::Failed,
        Self::Running,
        Self::ToBuild,
        Self::ToFetch,
        Self::Built,
        Self::Cached,
        Self::Unneeded,
    ];

    /// Tells whether something is still to be done.
    #[must_use]
    pub fn is_open(self) -> bool {
        self <= Self::ToFetch
    }

    /// Tells whether its outputs are there.
    #[must_use]
    pub fn is_there(self) -> bool {
        matches!(self, Self::Built | Self::Cached)
    }
}

/// A derivation in a graph.
#[derive(Clone, Debug)]
pub struct DagNode {
    /// Its path.
    pub drv: StorePath,
    /// What it needs, by place in the list.
    pub needs: Vec<usize>,
    /// What is known of it.
    pub state: DagState,
    /// Milliseconds that the build took whose outputs are there.
    pub took_ms: Option<u64>,
    /// Milliseconds expected, if it is to be done and the past tells.
    pub expected_ms: Option<u64>,
    /// Bytes of its outputs that are there.
    pub bytes: u64,
    /// Derivations that it needs and that lie deeper than was asked for.
    pub hidden: usize,
}

/// Derivations in the order in which they are met, and what is used of each. There may be 100,000: each is read when it is met, and
/// again when its state is looked for.
#[derive(Default)]
struct Found {
    nodes: Vec<DagNode>,
    /// Names of outputs, each once.
    used: Vec<Vec<Arc<str>>>,
    depths: Vec<u32>,
    index: BTreeMap<StorePath, usize>,
    names: Names,
}

impl Found {
    fn place(&mut self, drv: &StorePath, depth: u32) -> usize {
        if let Some(id) = self.index.get(drv) {
            return *id;
        }
        let id = self.nodes.len();
        self.index.insert(drv.clone(), id);
        self.nodes.push(DagNode {
            drv: drv.clone(),
            needs: Vec::new(),
            state: DagState::Unneeded,
            took_ms: None,
            expected_ms: None,
            bytes: 0,
            hidden: 0,
        });
        self.used.push(Vec::new());
        self.depths.push(depth);
        id
    }

    fn uses<'a>(&mut self, id: usize, outputs: impl IntoIterator<Item = &'a String>) {
        for output in outputs {
            if !self.used[id].iter().any(|known| **known == **output) {
                self.used[id].push(self.names.get(output));
            }
        }
    }
}

impl Engine {
    /// Lists everything that is wanted and what it is made of, the wanted ones first. With `depth`, only what is reached in so many
    /// steps.
    ///
    /// # Errors
    /// When the graph is incomplete, or the store fails.
    pub fn dag(
        &self,
        graph: &Graph,
        wanted: &[Wanted],
        depth: Option<usize>,
    ) -> Result<Vec<DagNode>, Box<Diagnostic>> {
        let mut found = Found::default();
        for want in wanted {
            let drv = load(self.store(), graph, &want.drv)?;
            let id = found.place(&want.drv, 0);
            found.uses(id, &wanted_outputs(want, &drv));
        }
        let roots = found.nodes.len();
        let mut at = 0;
        while at < found.nodes.len() {
            let drv = self.derivation(graph, &found.nodes[at].drv, at < roots)?;
            let below = found.depths[at] + 1;
            for (input, outputs) in &drv.input_drvs {
                let is_deep = depth.is_some_and(|most| below as usize > most);
                if is_deep && !found.index.contains_key(input) {
                    found.nodes[at].hidden += 1;
                    continue;
                }
                let id = found.place(input, below);
                found.uses(id, outputs);
                found.nodes[at].needs.push(id);
            }
            // Most lists are short, and there are many.
            found.nodes[at].needs.shrink_to_fit();
            at += 1;
        }
        self.judge(graph, &mut found, roots)?;
        Ok(found.nodes)
    }

    fn derivation(
        &self,
        graph: &Graph,
        path: &StorePath,
        is_root: bool,
    ) -> Result<Arc<Derivation>, Box<Diagnostic>> {
        match load(self.store(), graph, path) {
            // A collection forgets derivations that were only needed to make what is there.
            Err(e) if e.code == "graph-missing-derivation" && !is_root => Ok(Arc::default()),
            other => other,
        }
    }

    /// Finds the state of each; the first `roots` are those that are wanted.
    fn judge(&self, graph: &Graph, found: &mut Found, roots: usize) -> Result<(), Box<Diagnostic>> {
        let store = self.store();
        let failed = store.failed_last(BUILDS).map_err(store_failed)?;
        let failed: BTreeSet<StorePath> = failed.into_iter().collect();
        let held = store.locks_held().map_err(store_failed)?;
        let held: BTreeSet<String> = held.into_iter().map(|(name, _)| name).collect();
        let mut is_there = Vec::with_capacity(found.nodes.len());
        for id in 0..found.nodes.len() {
            let node = &mut found.nodes[id];
            let drv = self.derivation(graph, &node.drv, id < roots)?;
            let mut all = true;
            let mut was_built = false;
            for output in &found.used[id] {
                let Some(path) = present_output(store, &node.drv, &drv, output)? else {
                    all = false;
                    continue;
                };
                if let Some(info) = store.query(&path).map_err(store_failed)? {
                    node.bytes += info.nar_size;
                }
                let traces = store.traces_of(&path).map_err(store_failed)?;
                let own = traces.iter().rev().find(|t| t.trace.drv == node.drv);
                was_built |= own.is_some();
                let trace = own.or(traces.last());
                node.took_ms = node.took_ms.or(trace.map(|t| t.trace.duration_ms));
            }
            if all && !found.used[id].is_empty() {
                node.state = if was_built {
                    DagState::Built
                } else {
                    DagState::Cached
                };
            } else {
                node.took_ms = None;
            }
            is_there.push(node.state.is_there());
        }
        // What must be done: what is wanted and not there, and what that needs. Those that need come before what they need only
        // when they were met first, so this goes round by itself.
        let mut todo: Vec<usize> = (0..roots).filter(|id| !is_there[*id]).collect();
        let mut met = vec![false; is_there.len()];
        while let Some(id) = todo.pop() {
            if std::mem::replace(&mut met[id], true) {
                continue;
            }
            todo.extend(
                found.nodes[id]
                    .needs
                    .iter()
                    .filter(|need| !is_there[**need]),
            );
            let node = &mut found.nodes[id];
            let drv = self.derivation(graph, &node.drv, id < roots)?;
            let name = Derivation::name_from_path(&node.drv);
            // Locks are known by name, and builds of known content lock their output.
            node.state = if held.contains(node.drv.name()) || drv.is_fixed() && held.contains(name)
            {
                DagState::Running
            } else if failed.contains(&node.drv) {
                DagState::Failed
            } else if pool_of(self.builders(), &drv, name) == Pool::Io {
                DagState::ToFetch
            } else {
                DagState::ToBuild
            };
            let mut past = store
                .duration_history(history_key(name), &drv.system)
                .map_err(store_failed)?;
            past.sort_unstable();
            node.expected_ms = past.get(past.len() / 2).copied();
        }
        Ok(())
    }
}
