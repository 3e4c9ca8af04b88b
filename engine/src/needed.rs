//! What has to be done to get the wanted outputs: a walk from them that stops at everything that is there.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic, Label};
use sos_formats::store_path::{StoreDir, StorePath, StorePathError, make_scratch};
use sos_store::{Store, StoreError};

use crate::diagnose::store_failed;
use crate::graph::{Graph, Wanted, wanted_outputs};
use crate::resolve::OutputPaths;

/// A derivation that must be built, or found by its resolved inputs.
pub(crate) struct Node {
    /// Its path.
    pub(crate) path: StorePath,
    /// Itself.
    pub(crate) drv: Arc<Derivation>,
    /// Outputs that are needed of it.
    pub(crate) outputs: BTreeSet<String>,
    /// Where it was written.
    pub(crate) place: Option<Label>,
    /// Where its parts were written.
    pub(crate) parts: BTreeMap<String, Label>,
    /// Nodes that must be done before.
    pub(crate) needs: Vec<usize>,
}

/// Everything that must be done, and what is there already.
#[derive(Default)]
pub(crate) struct Needed {
    /// What to do; numbered by place.
    pub(crate) nodes: Vec<Node>,
    /// Valid outputs that were met.
    pub(crate) known: OutputPaths,
}

impl Needed {
    /// Returns the number of derivations that were met and need nothing.
    pub(crate) fn cached(&self) -> usize {
        let nodes: BTreeSet<&StorePath> = self.nodes.iter().map(|n| &n.path).collect();
        self.known.keys().filter(|p| !nodes.contains(p)).count()
    }

    /// Returns every derivation that was met.
    pub(crate) fn met(&self) -> BTreeSet<StorePath> {
        let nodes = self.nodes.iter().map(|node| &node.path);
        nodes.chain(self.known.keys()).cloned().collect()
    }

    /// Returns where the inputs of a node are, or will be; one whose content decides gets a path that nothing has.
    pub(crate) fn expected_inputs(
        &self,
        dir: &StoreDir,
        node: &Node,
    ) -> Result<OutputPaths, StorePathError> {
        let mut inputs = OutputPaths::new();
        for (input, outputs) in &node.drv.input_drvs {
            let needed = node
                .needs
                .iter()
                .map(|id| &self.nodes[*id])
                .find(|one| one.path == *input);
            let known = self.known.get(input);
            for output in outputs {
                let there = known.and_then(|paths| paths.get(output)).cloned();
                let name = Derivation::name_from_path(input);
                let expected =
                    there.or_else(|| needed.and_then(|one| one.drv.output_path(dir, name, output)));
                let path = match expected {
                    Some(path) => path,
                    None => make_scratch(dir, input, output)?,
                };
                let paths = inputs.entry(input.clone()).or_default();
                paths.insert(output.clone(), path);
            }
        }
        Ok(inputs)
    }
}

/// Looks derivations up: first in the graph, then in the store.
///
/// # Errors
/// When it is in neither, or cannot be read.
pub fn load(
    store: &Store,
    graph: &Graph,
    path: &StorePath,
) -> Result<Arc<Derivation>, Box<Diagnostic>> {
    if let Some(drv) = graph.drvs.get(path) {
        return Ok(drv.clone());
    }
    let shown = path.absolute(store.store_dir());
    let stored;
    let aterm: &[u8] = if let Some(text) = graph.texts.get(path) {
        text
    } else {
        let Some(text) = store.get_drv(path).map_err(store_failed)? else {
            return Err(Box::new(
                Diagnostic::error(
                    "graph-missing-derivation",
                    Class::Other,
                    format!("derivation `{shown}` is neither in the graph nor in the store"),
                )
                .help(
                    "evaluate the recipe again: `sos build` writes the derivations that it needs",
                ),
            ));
        };
        stored = text;
        &stored
    };
    match Derivation::parse_aterm(aterm, store.store_dir()) {
        Ok(drv) => Ok(Arc::new(drv)),
        Err(e) => Err(Box::new(Diagnostic::error(
            "drv-malformed",
            Class::Other,
            format!("derivation `{shown}` cannot be read: {e}"),
        ))),
    }
}

/// Returns the path of an output if it is there.
///
/// # Errors
/// When the store fails.
pub fn present_output(
    store: &Store,
    path: &StorePath,
    drv: &Derivation,
    output: &str,
) -> Result<Option<StorePath>, Box<Diagnostic>> {
    let name = Derivation::name_from_path(path);
    let found = match drv.output_path(store.store_dir(), name, output) {
        Some(found) => Some(found),
        None => store.drv_output(path, output).map_err(store_failed)?,
    };
    let Some(found) = found else {
        return Ok(None);
    };
    // Registered is not enough: whoever deleted its files by hand gets it built again.
    let present = store.is_present(&found).map_err(store_failed)?;
    Ok(present.then_some(found))
}

/// Answers wanted outputs that are all there, and holds them while the store is open. Gives none if one is missing.
pub(crate) fn answer_at_once(
    store: &Store,
    graph: &Graph,
    wanted: &[Wanted],
) -> Result<Option<OutputPaths>, Box<Diagnostic>> {
    let mut paths = OutputPaths::new();
    for want in wanted {
        let drv = load(store, graph, &want.drv)?;
        for output in wanted_outputs(want, &drv) {
            check_output(store, &want.drv, &drv, &output)?;
            match present_output(store, &want.drv, &drv, &output)? {
                Some(path) => {
                    paths
                        .entry(want.drv.clone())
                        .or_default()
                        .insert(output, path);
                }
                None => return Ok(None),
            }
        }
    }
    let found: Vec<StorePath> = paths.values().flat_map(BTreeMap::values).cloned().collect();
    // Whoever gets the answer uses it, and may make roots of it. On a full disk it is true without being held.
    match store.hold(&found) {
        Err(StoreError::DiskFull { .. }) => {}
        other => other.map_err(store_failed)?,
    }
    // A collection may have taken one between the look and the hold.
    for path in &found {
        if !store.is_valid(path).map_err(store_failed)? {
            return Ok(None);
        }
    }
    Ok(Some(paths))
}

/// Tells whether every wanted output is in the store; what cannot be asked about counts as missing.
///
/// # Errors
/// When the store fails.
pub fn all_there(store: &Store, graph: &Graph, wanted: &[Wanted]) -> Result<bool, Box<Diagnostic>> {
    for want in wanted {
        let drv = load(store, graph, &want.drv)?;
        for output in wanted_outputs(want, &drv) {
            if !drv.outputs.contains_key(&output)
                || present_output(store, &want.drv, &drv, &output)?.is_none()
            {
                return Ok(false);
            }
        }
    }
    Ok(true)
}

/// Walks from the wanted outputs to everything that must be done for them.
pub(crate) fn find_needed(
    store: &Store,
    graph: &Graph,
    wanted: &[Wanted],
) -> Result<Needed, Box<Diagnostic>> {
    let mut needed = Needed::default();
    let mut node_of: BTreeMap<StorePath, usize> = BTreeMap::new();
    let mut todo: Vec<(StorePath, BTreeSet<String>)> = Vec::new();
    for want in wanted.iter().rev() {
        let drv = load(store, graph, &want.drv)?;
        todo.push((want.drv.clone(), wanted_outputs(want, &drv)));
    }
    let mut met: BTreeSet<(StorePath, String)> = BTreeSet::new();
    while let Some((path, outputs)) = todo.pop() {
        let drv = load(store, graph, &path)?;
        for output in outputs {
            if !met.insert((path.clone(), output.clone())) {
                continue;
            }
            check_output(store, &path, &drv, &output)?;
            if let Some(found) = present_output(store, &path, &drv, &output)? {
                let outputs = needed.known.entry(path.clone()).or_default();
                outputs.insert(output, found);
                continue;
            }
            if let Some(id) = node_of.get(&path) {
                needed.nodes[*id].outputs.insert(output);
                continue;
            }
            node_of.insert(path.clone(), needed.nodes.len());
            needed.nodes.push(Node {
                path: path.clone(),
                drv: drv.clone(),
                outputs: [output].into(),
                place: graph.places.get(&path).cloned(),
                parts: graph.parts.get(&path).cloned().unwrap_or_default(),
                needs: Vec::new(),
            });
            for (input, outputs) in &drv.input_drvs {
                todo.push((input.clone(), outputs.clone()));
            }
        }
    }
    for id in 0..needed.nodes.len() {
        let mut needs = Vec::new();
        for (input, outputs) in &needed.nodes[id].drv.input_drvs {
            if let Some(need) = node_of.get(input)
                && outputs
                    .iter()
                    .any(|o| needed.nodes[*need].outputs.contains(o))
            {
                needs.push(*need);
            }
        }
        needed.nodes[id].needs = needs;
    }
    Ok(needed)
}

fn check_output(
    store: &Store,
    path: &StorePath,
    drv: &Derivation,
    output: &str,
) -> Result<(), Box<Diagnostic>> {
    if drv.outputs.contains_key(output) {
        return Ok(());
    }
    let names: Vec<String> = drv.outputs.keys().map(|o| format!("`{o}`")).collect();
    Err(Box::new(
        Diagnostic::error(
            "build-unknown-output",
            Class::Usage,
            format!(
                "`{}` has no output `{output}`",
                path.absolute(store.store_dir())
            ),
        )
        .note(format!("its outputs are {}", names.join(", ")))
        .suggest(output, drv.outputs.keys().map(String::as_str)),
    ))
}
