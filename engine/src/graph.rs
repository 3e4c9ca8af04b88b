//! The build graph that goes into the engine, and walks over it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::Label;
use sos_formats::store_path::StorePath;

/// Derivations by the path of their `.drv`. Inputs that are not here are looked up in the store.
#[derive(Clone, Default, Debug)]
pub struct Graph {
    /// The derivations.
    pub drvs: BTreeMap<StorePath, Arc<Derivation>>,
    /// More derivations, as ATerm texts: large graphs take a fraction of the memory so, and a run that finds everything done
    /// reads only the few that were asked for.
    pub texts: BTreeMap<StorePath, Arc<[u8]>>,
    /// Where a person wrote them, as far as that is known: problems are shown there.
    pub places: BTreeMap<StorePath, Label>,
    /// Where the parts of them were written, by the names that builders use for them.
    pub parts: BTreeMap<StorePath, BTreeMap<String, Label>>,
    /// Files that the recipe reads and that have changed since it was evaluated the last time, as far as that is known.
    pub changed: Vec<String>,
}

impl Graph {
    /// Makes an empty graph.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a derivation.
    pub fn insert(&mut self, path: StorePath, drv: Derivation) {
        self.drvs.insert(path, Arc::new(drv));
    }
}

/// Outputs of one derivation that somebody asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The derivation.
    pub drv: StorePath,
    /// Names of its outputs; empty means all of them.
    pub outputs: Vec<String>,
}

/// Returns the wanted output names, all of the derivation's when none is named.
#[must_use]
pub(crate) fn wanted_outputs(wanted: &Wanted, drv: &Derivation) -> BTreeSet<String> {
    if wanted.outputs.is_empty() {
        drv.outputs.keys().cloned().collect()
    } else {
        wanted.outputs.iter().cloned().collect()
    }
}
