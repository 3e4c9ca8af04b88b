//! What the causes of a run are told from: the project, what is built beside, and which earlier derivation stood in the place of
//! each one.
//!
//! The places are found by walking two graphs at once, from what was asked for by the same attribute path: the one of now, and the
//! one that the journal has of the last time. So two derivations of one name, as stages of a bootstrap are, are not taken for each
//! other.

mod places;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use sos_formats::store_path::StorePath;
use sos_store::{BuildId, Built, Store, StoreError};

use self::places::Places;
use self::walk::before;
use super::Causes;
use crate::event::Text;
use crate::graph::{Graph, Wanted};
use crate::journal::StepDetail;
use crate::needed::Needed;
use crate::work::history_key;

/// Steps of one derivation that are looked at for one that tells its inputs.
const STEPS: u32 = 4;

/// What the causes of a run are told from.
#[derive(Default)]
pub(crate) struct History {
    /// Which project it is for.
    pub(super) project: String,
    /// Every derivation of the run: what one of them was before is not what another one was.
    beside: BTreeSet<StorePath>,
    /// What stood in the place of a derivation the last time.
    pub(super) before: BTreeMap<StorePath, StorePath>,
    /// All of these.
    taken: BTreeSet<StorePath>,
    /// Names without version of everything that was ever built.
    names: BTreeSet<String>,
    /// Where derivations are written.
    places: Places,
    /// By which attribute paths derivations are asked for.
    attrs: BTreeMap<StorePath, String>,
    /// The recipe files of these.
    files: BTreeSet<String>,
    /// Those of earlier runs.
    files_of: Mutex<BTreeMap<i64, Arc<BTreeSet<String>>>>,
    /// Files that the recipe reads and that have changed.
    changed: Vec<String>,
}

impl History {
    /// Reads what is known for a run.
    pub(crate) fn of(
        store: &Store,
        project: &str,
        needed: &Needed,
        graph: &Graph,
        wanted: &[Wanted],
        attrs: &BTreeMap<StorePath, String>,
    ) -> Result<Self, StoreError> {
        let before = before(store, project, needed, wanted, attrs)?;
        Ok(Self {
            project: project.to_owned(),
            beside: needed.met(),
            taken: before.values().cloned().collect(),
            before,
            names: store
                .built_names()?
                .iter()
                .map(|name| history_key(name).to_owned())
                .collect(),
            places: Places::of(needed.nodes.iter().filter_map(|node| {
                let label = graph.places.get(&node.path)?;
                Some((node.path.clone(), label))
            })),
            attrs: attrs.clone(),
            files: attrs.values().map(|attr| file_of(attr)).collect(),
            files_of: Mutex::default(),
            changed: graph.changed.clone(),
        })
    }
}

impl History {
    /// Where a derivation is written: file, line and column.
    pub(super) fn place(&self, drv: &StorePath) -> Option<Text> {
        self.places.get(drv)
    }
}

impl History {
    /// Files that may be what is behind a change of the recipe. None, if the file that a derivation is written in has changed: that
    /// is told already.
    pub(super) fn changed(&self, at: Option<&Text>) -> Vec<String> {
        let is_at = |file: &String| {
            at.and_then(|at| at.as_str().strip_prefix(file.as_str()))
                .is_some_and(|rest| rest.starts_with(':'))
        };
        if self.changed.iter().any(is_at) {
            return Vec::new();
        }
        self.changed
            .iter()
            .take(super::FILES_NAMED)
            .cloned()
            .collect()
    }

    /// Whether anything was ever built that a derivation could be a next form of.
    pub(super) fn knows(&self, name: &str) -> bool {
        self.names.contains(history_key(name))
    }

    /// The attribute path by which a derivation is asked for.
    pub(super) fn attr(&self, drv: &StorePath) -> Option<&String> {
        self.attrs.get(drv)
    }

    /// Whether a derivation is wanted now, or stood in the place of one that is known: then it was not an earlier form of any other.
    pub(super) fn is_of_another(&self, drv: &StorePath) -> bool {
        self.beside.contains(drv) || self.taken.contains(drv)
    }
}

impl History {
    /// Whether something was built for one of the recipe files of this run, as far as that is known, or is written in the same file
    /// as a derivation of it. What another recipe of the project has under the same name is no earlier form.
    pub(super) fn shares_recipe(
        &self,
        store: &Store,
        new: &StorePath,
        old: &StorePath,
    ) -> Result<bool, StoreError> {
        if self.files.is_empty() {
            return Ok(true);
        }
        let steps = store.steps_of_drv(old, BuildId(i64::MAX), STEPS)?;
        let mut is_known = false;
        for step in &steps {
            let files = self.files_of_build(store, step.build)?;
            if !files.is_disjoint(&self.files) {
                return Ok(true);
            }
            is_known |= !files.is_empty();
        }
        if !is_known {
            return Ok(true);
        }
        let Some(file) = self.places.own_file(new) else {
            return Ok(false);
        };
        let places = steps.iter().filter_map(|step| {
            let causes: Causes = serde_json::from_str(step.cause.as_deref()?).ok()?;
            causes.at
        });
        let is_there = |at: Text| {
            let rest = at.as_str().strip_prefix(file);
            rest.is_some_and(|rest| rest.starts_with(':'))
        };
        Ok(places.into_iter().any(is_there))
    }

    fn files_of_build(
        &self,
        store: &Store,
        build: BuildId,
    ) -> Result<Arc<BTreeSet<String>>, StoreError> {
        let lock = || self.files_of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = lock().get(&build.0) {
            return Ok(known.clone());
        }
        let attrs = store.attrs_of_build(build)?;
        let files: Arc<BTreeSet<String>> = Arc::new(attrs.iter().map(|a| file_of(a)).collect());
        lock().insert(build.0, files.clone());
        Ok(files)
    }
}

/// The file, or flake, of an attribute path.
fn file_of(attr: &str) -> String {
    attr.split('#').next().unwrap_or(attr).to_owned()
}

/// The name under which a build is noted for later comparison: other projects have derivations of the same names.
pub(crate) fn noted_name(project: &str, name: &str) -> String {
    format!("{project}\n{}", history_key(name))
}

/// The note of a derivation, or else that of the build which it turned out to be.
pub(super) fn built_of(store: &Store, drv: &StorePath) -> Result<Option<Built>, StoreError> {
    if let Some(built) = store.built(drv)? {
        return Ok(Some(built));
    }
    for step in store.steps_of_drv(drv, BuildId(i64::MAX), STEPS)? {
        let detail: Option<StepDetail> = step
            .detail
            .and_then(|text| serde_json::from_str(text.as_str()).ok());
        let identity = detail.and_then(|detail| StorePath::from_base(&detail.identity?).ok());
        if let Some(identity) = identity
            && let Some(same) = store.built_as(&identity)?
        {
            let drv = drv.clone();
            return Ok(Some(Built { drv, ..same }));
        }
    }
    Ok(None)
}

/// What a derivation was built from, each with the derivation that made it, as the journal has it.
pub(super) fn inputs_of(
    store: &Store,
    drv: &StorePath,
) -> Result<Vec<(StorePath, Option<StorePath>)>, StoreError> {
    for step in store.steps_of_drv(drv, BuildId(i64::MAX), STEPS)? {
        let detail: Option<StepDetail> = step
            .detail
            .and_then(|text| serde_json::from_str(text.as_str()).ok());
        let inputs = detail.map(|detail| detail.inputs).unwrap_or_default();
        if !inputs.is_empty() {
            let path = |base: &str| StorePath::from_base(base).ok();
            let inputs = inputs.into_iter().filter_map(|input| {
                let drv = input.drv.as_deref().and_then(path);
                Some((path(&input.path)?, drv))
            });
            return Ok(inputs.collect());
        }
    }
    Ok(Vec::new())
}
