//! What a derivation says its outputs may and may not refer to.

use std::collections::{BTreeMap, BTreeSet};

use sos_formats::store_path::{StoreDir, StorePath, StorePathError};
use sos_store::{Store, StoreError};

use crate::attributes::Attributes;

/// The outputs of one build before they are registered: their paths and references.
pub(crate) type Fresh = BTreeMap<String, (StorePath, BTreeSet<StorePath>)>;

/// Why an output is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// It refers to something that it may not refer to.
    #[error("output `{output}` refers to {}, which `{attribute}` does not allow", list(.paths))]
    Refers {
        /// The output.
        output: String,
        /// The attribute that forbids it.
        attribute: &'static str,
        /// The paths.
        paths: Vec<String>,
    },
    /// An entry of a list is neither a store path nor an output.
    #[error(
        "`{entry}` in `{attribute}` is neither an output of the derivation nor a store path: {source}"
    )]
    BadEntry {
        /// Why it is no store path.
        source: StorePathError,
        /// The entry.
        entry: String,
        /// The attribute.
        attribute: &'static str,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn list(paths: &[String]) -> String {
    let quoted: Vec<String> = paths.iter().map(|p| format!("`{p}`")).collect();
    quoted.join(", ")
}

/// The four lists: name, whether what is listed is allowed (or else forbidden), whether it is about the closure.
const LISTS: [(&str, bool, bool); 4] = [
    ("allowedReferences", true, false),
    ("allowedRequisites", true, true),
    ("disallowedReferences", false, false),
    ("disallowedRequisites", false, true),
];

/// Checks every output of a build against the lists of its derivation.
pub(crate) fn check_references(
    store: &Store,
    attributes: &Attributes<'_>,
    fresh: &Fresh,
) -> Result<(), CheckError> {
    for (output, (path, references)) in fresh {
        for (attribute, allow, closure) in LISTS {
            let Some(entries) = attributes.output_list(output, attribute) else {
                continue;
            };
            let listed = listed_paths(store.store_dir(), attribute, &entries, fresh)?;
            let mut used = if closure {
                closure_of(store, path, fresh)?
            } else {
                references.clone()
            };
            // Nix: only with structured attributes does a closure contain the path itself.
            if closure && attributes.structured().is_none() {
                used.remove(path);
            }
            let bad: Vec<String> = used
                .iter()
                .filter(|p| listed.contains(p) != allow)
                .map(|p| p.absolute(store.store_dir()))
                .collect();
            if !bad.is_empty() {
                return Err(CheckError::Refers {
                    output: output.clone(),
                    attribute,
                    paths: bad,
                });
            }
        }
    }
    Ok(())
}

fn listed_paths(
    dir: &StoreDir,
    attribute: &'static str,
    entries: &[String],
    fresh: &Fresh,
) -> Result<BTreeSet<StorePath>, CheckError> {
    entries
        .iter()
        .map(|entry| {
            if let Some((path, _)) = fresh.get(entry) {
                return Ok(path.clone());
            }
            StorePath::from_absolute(dir, entry).map_err(|source| CheckError::BadEntry {
                source,
                entry: entry.clone(),
                attribute,
            })
        })
        .collect()
}

/// Returns the closure of a path of which some parts are not registered yet.
fn closure_of(
    store: &Store,
    path: &StorePath,
    fresh: &Fresh,
) -> Result<BTreeSet<StorePath>, StoreError> {
    let by_path: BTreeMap<&StorePath, &BTreeSet<StorePath>> =
        fresh.values().map(|(path, refs)| (path, refs)).collect();
    let mut seen = BTreeSet::new();
    let mut old = Vec::new();
    let mut stack = vec![path.clone()];
    while let Some(path) = stack.pop() {
        if !seen.insert(path.clone()) {
            continue;
        }
        match by_path.get(&path) {
            Some(references) => stack.extend(references.iter().cloned()),
            None => old.push(path),
        }
    }
    seen.extend(store.closure(&old)?);
    Ok(seen)
}
