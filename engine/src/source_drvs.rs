//! Derivations as inputs: a builder may read the `.drv` file of another derivation, or get the graph of it.
//!
//! The text of a derivation is kept in the database; only one that is an input itself becomes a store object.

use std::collections::BTreeSet;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::Store;

use crate::diagnose::store_failed;
use crate::graph::Graph;
use crate::needed::{Needed, load};

/// Makes store objects of the derivations that are sources of what is needed.
pub(crate) fn add(store: &Store, graph: &Graph, needed: &Needed) -> Result<(), Box<Diagnostic>> {
    for path in needed.sources.keys().filter(|path| path.is_derivation()) {
        add_one(store, graph, path)?;
    }
    Ok(())
}

/// Adds one derivation after all that it refers to.
fn add_one(store: &Store, graph: &Graph, path: &StorePath) -> Result<(), Box<Diagnostic>> {
    let mut stack = vec![(path.clone(), false)];
    let mut met = BTreeSet::new();
    while let Some((path, ready)) = stack.pop() {
        if !ready && (!met.insert(path.clone()) || store.is_present(&path).map_err(store_failed)?) {
            continue;
        }
        let drv = load(store, graph, &path)?;
        let references: BTreeSet<StorePath> = drv
            .input_drvs
            .keys()
            .chain(&drv.input_srcs)
            .cloned()
            .collect();
        if !ready {
            stack.push((path, true));
            let below = references.into_iter().filter(StorePath::is_derivation);
            stack.extend(below.map(|below| (below, false)));
            continue;
        }
        let name = Derivation::name_from_path(&path);
        let text = drv.to_aterm(store.store_dir(), name).map_err(|e| {
            Box::new(Diagnostic::error(
                "drv-malformed",
                Class::Other,
                format!("derivation `{name}` cannot be written: {e}"),
            ))
        })?;
        store
            .put_drvs([(&path, text.as_slice())])
            .map_err(store_failed)?;
        store
            .add_text(path.name(), &text, &references)
            .map_err(store_failed)?;
    }
    Ok(())
}
