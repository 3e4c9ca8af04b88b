//! What a derivation says its outputs may and may not be: their references, their size.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::Diagnostic;
use sos_formats::store_path::{StoreDir, StorePath, StorePathError};
use sos_store::{Store, StoreError};

use crate::attributes::Attributes;
use crate::rewrite::{HashParts, digits};

/// An output before it is registered.
pub(crate) struct FreshOutput {
    pub(crate) path: StorePath,
    pub(crate) references: BTreeSet<StorePath>,
    /// Bytes of its archive.
    pub(crate) nar_size: u64,
    /// Where its files are now; a root filesystem has none.
    pub(crate) place: Option<PathBuf>,
}

/// The outputs of one build before they are registered.
pub(crate) type Fresh = BTreeMap<String, FreshOutput>;

/// A path that an output may not refer to.
#[derive(Debug)]
pub(crate) struct Unwanted {
    /// Absolute.
    path: String,
    /// Where the output holds it: `$out/bin/x`, or through which other path it is needed.
    found: Option<String>,
}

/// Why an output is refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// It refers to something that it may not refer to.
    #[error("output `{output}` {} {}, which `{attribute}` does not allow", if *.closure { "needs" } else { "refers to" }, list(.paths))]
    Refers {
        /// The output.
        output: String,
        /// The attribute that forbids it.
        attribute: &'static str,
        /// It is about the closure.
        closure: bool,
        /// The paths.
        paths: Vec<Unwanted>,
    },
    /// It is too large.
    #[error("{} of output `{output}` has {bytes} bytes, and `{attribute}` allows {limit}", if *.closure { "the closure" } else { "the archive" })]
    TooLarge {
        /// The output.
        output: String,
        /// The attribute with the limit.
        attribute: &'static str,
        /// It is about the closure.
        closure: bool,
        /// What it has.
        bytes: u64,
        /// What it may have.
        limit: u64,
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
    /// An attribute has a value of the wrong type.
    #[error("{0}")]
    BadValue(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl CheckError {
    /// Adds to a diagnostic where each unwanted path is found.
    pub(crate) fn explain(&self, mut diagnostic: Diagnostic) -> Diagnostic {
        if let Self::Refers { paths, .. } = self {
            for unwanted in paths {
                if let Some(found) = &unwanted.found {
                    diagnostic = diagnostic.note(format!("`{}` is {found}", unwanted.path));
                }
            }
        }
        diagnostic
    }
}

fn list(paths: &[Unwanted]) -> String {
    let quoted: Vec<String> = paths.iter().map(|p| format!("`{}`", p.path)).collect();
    quoted.join(", ")
}

/// The four lists: name, whether what is listed is allowed (or else forbidden), whether it is about the closure.
const LISTS: [(&str, bool, bool); 4] = [
    ("allowedReferences", true, false),
    ("allowedRequisites", true, true),
    ("disallowedReferences", false, false),
    ("disallowedRequisites", false, true),
];

/// The two limits of size: name, whether it is about the closure.
const LIMITS: [(&str, bool); 2] = [("maxSize", false), ("maxClosureSize", true)];

/// Tells whether what a derivation says of its outputs can be read at all, before they are made.
pub(crate) fn readable(attributes: &Attributes<'_>, drv: &Derivation) -> Result<(), CheckError> {
    for output in drv.outputs.keys() {
        for (attribute, _closure) in LIMITS {
            attributes
                .output_limit(output, attribute)
                .map_err(CheckError::BadValue)?;
        }
        for (attribute, ..) in LISTS {
            attributes
                .output_list(output, attribute)
                .map_err(CheckError::BadValue)?;
        }
        attributes
            .output_flag(output, "ignoreSelfRefs")
            .map_err(CheckError::BadValue)?;
    }
    Ok(())
}

/// Checks every output of a build against what its derivation says.
pub(crate) fn check_outputs(
    store: &Store,
    attributes: &Attributes<'_>,
    fresh: &Fresh,
) -> Result<(), CheckError> {
    for (output, one) in fresh {
        for (attribute, closure) in LIMITS {
            let limit = attributes
                .output_limit(output, attribute)
                .map_err(CheckError::BadValue)?;
            let Some(limit) = limit else { continue };
            let bytes = if closure {
                closure_of(store, &one.path, fresh)?.bytes
            } else {
                one.nar_size
            };
            if bytes > limit {
                return Err(CheckError::TooLarge {
                    output: output.clone(),
                    attribute,
                    closure,
                    bytes,
                    limit,
                });
            }
        }
        for (attribute, allow, closure) in LISTS {
            let entries = attributes
                .output_list(output, attribute)
                .map_err(CheckError::BadValue)?;
            let Some(entries) = entries else { continue };
            check_list(
                store,
                attributes,
                fresh,
                output,
                &entries,
                (attribute, allow, closure),
            )?;
        }
    }
    Ok(())
}

fn check_list(
    store: &Store,
    attributes: &Attributes<'_>,
    fresh: &Fresh,
    output: &str,
    entries: &[String],
    (attribute, allow, closure): (&'static str, bool, bool),
) -> Result<(), CheckError> {
    let dir = store.store_dir();
    let one = &fresh[output];
    let listed = listed_paths(dir, attribute, entries, fresh)?;
    let whole = closure_of(store, &one.path, fresh)?;
    let mut used = if closure {
        whole.paths.clone()
    } else {
        one.references.clone()
    };
    // Nix: only with structured attributes does a closure contain the path itself, unless they say otherwise.
    let own = attributes
        .output_flag(output, "ignoreSelfRefs")
        .map_err(CheckError::BadValue)?;
    if closure && own.unwrap_or(attributes.structured().is_none()) {
        used.remove(&one.path);
    }
    let paths: Vec<Unwanted> = used
        .iter()
        .filter(|path| listed.contains(path) != allow)
        .map(|path| Unwanted {
            path: path.absolute(dir),
            found: found_in(dir, output, one, path, &whole),
        })
        .collect();
    if paths.is_empty() {
        return Ok(());
    }
    Err(CheckError::Refers {
        output: output.to_owned(),
        attribute,
        closure,
        paths,
    })
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
            if let Some(one) = fresh.get(entry) {
                return Ok(one.path.clone());
            }
            StorePath::from_absolute(dir, entry).map_err(|source| CheckError::BadEntry {
                source,
                entry: entry.clone(),
                attribute,
            })
        })
        .collect()
}

/// The closure of an output.
struct Whole {
    paths: BTreeSet<StorePath>,
    bytes: u64,
    /// Which path of the closure made each of the others part of it.
    through: BTreeMap<StorePath, StorePath>,
}

/// Returns the closure of a path of which some parts are not registered yet.
fn closure_of(store: &Store, path: &StorePath, fresh: &Fresh) -> Result<Whole, StoreError> {
    let by_path: BTreeMap<&StorePath, &FreshOutput> =
        fresh.values().map(|one| (&one.path, one)).collect();
    let mut whole = Whole {
        paths: [path.clone()].into(),
        bytes: 0,
        through: BTreeMap::new(),
    };
    let mut queue = std::collections::VecDeque::from([path.clone()]);
    while let Some(path) = queue.pop_front() {
        let references = match by_path.get(&path) {
            Some(one) => {
                whole.bytes += one.nar_size;
                one.references.clone()
            }
            None => match store.query(&path)? {
                Some(info) => {
                    whole.bytes += info.nar_size;
                    info.references
                }
                None => continue,
            },
        };
        for reference in references {
            if whole.paths.insert(reference.clone()) {
                whole.through.insert(reference.clone(), path.clone());
                queue.push_back(reference);
            }
        }
    }
    Ok(whole)
}

/// Tells where an output holds a path, or which of its references needs it.
fn found_in(
    dir: &StoreDir,
    output: &str,
    one: &FreshOutput,
    path: &StorePath,
    whole: &Whole,
) -> Option<String> {
    if one.references.contains(path) {
        let root = one.place.as_deref()?;
        let mut parts = HashParts::default();
        let part = digits(path.hash_str());
        parts.insert(part, part);
        // What cannot be read now was read a moment ago; the message is as good without it.
        let place = parts.first_in_tree(root).ok()??;
        return Some(format!("in `{}`", shown(output, root, &place)));
    }
    let mut chain = Vec::new();
    let mut at = path;
    while let Some(before) = whole.through.get(at).filter(|before| **before != one.path) {
        chain.push(format!("`{}`", before.absolute(dir)));
        at = before;
    }
    chain.reverse();
    (!chain.is_empty()).then(|| format!("needed through {}", chain.join(", ")))
}

fn shown(output: &str, root: &Path, place: &Path) -> String {
    match place.strip_prefix(root) {
        Ok(below) if below != Path::new("") => format!("${output}/{}", below.display()),
        _ => format!("${output}"),
    }
}
