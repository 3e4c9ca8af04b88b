//! What a person means by a word that names something built before: a name, a store path, or a target that says what would be built.

use std::collections::BTreeSet;
use std::path::Path;

use sos_engine::Graph;
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::Store;

use crate::args::TargetArgs;
use crate::commands::build;
use crate::evaluate::{self, Item, Mode};
use crate::failure::Failure;
use crate::session::Session;
use crate::target::{self, Target};

/// Derivations that a recipe makes, with all that is needed to plan them.
pub(crate) struct Recipe {
    pub(crate) targets: Vec<Target>,
    pub(crate) values: Vec<Vec<Item>>,
    pub(crate) graph: Graph,
}

/// What a word means.
pub(crate) enum Meaning {
    /// A derivation by its path, or by that of an output.
    Drv(StorePath),
    /// The name of derivations.
    Name,
    /// Something to evaluate.
    Target,
}

/// Tells what a word means, without evaluating anything.
///
/// # Errors
/// When it is a broken store path, or one that nothing is known of.
pub(crate) fn meaning(store: &Store, text: &str, is_known: bool) -> Result<Meaning, Failure> {
    if text.starts_with(&format!("{}/", store.store_dir().as_str())) {
        return match of_path(store, text)? {
            Some(drv) => Ok(Meaning::Drv(drv)),
            None => Err(Failure::new(
                Diagnostic::error(
                    "store-no-deriver",
                    Class::Other,
                    format!("nothing is known here of how `{text}` was made"),
                )
                .help("name the recipe that makes it"),
            )),
        };
    }
    // A name first: it costs no evaluation, and a file of that name is said with `./`.
    if is_known {
        return Ok(Meaning::Name);
    }
    let is_place = text.is_empty() || text.contains(['#', '/', '^']) || Path::new(text).exists();
    Ok(if is_place {
        Meaning::Target
    } else {
        Meaning::Name
    })
}

/// The derivation that a store path is, or is an output of.
fn of_path(store: &Store, text: &str) -> Result<Option<StorePath>, Failure> {
    let path = StorePath::from_absolute(store.store_dir(), text.trim_end_matches('/'))?;
    if path.name().ends_with(".drv") {
        return Ok(Some(path));
    }
    if let Some(trace) = store.traces_of(&path)?.into_iter().next_back() {
        return Ok(Some(trace.trace.drv));
    }
    if let Some(step) = store.step_with_output(&path)? {
        return Ok(Some(step.drv));
    }
    Ok(store.query(&path)?.and_then(|info| info.deriver))
}

/// Evaluates targets, and leaves the store as it is.
///
/// # Errors
/// Problems of the recipe.
pub(crate) fn evaluate(
    session: &Session,
    args: &TargetArgs,
    mode: &Mode,
) -> Result<Recipe, Failure> {
    let targets = evaluate::targets(session, args)?;
    let evaluated = build::resolve(session, args, &targets, mode)?;
    Ok(Recipe {
        targets,
        values: evaluated.values,
        graph: evaluated.graph,
    })
}

impl Recipe {
    /// The derivations, in the order of the targets.
    pub(crate) fn derivations(&self) -> Vec<StorePath> {
        let mut found = Vec::new();
        for item in self.values.iter().flatten() {
            if let Item::Derivation { drv, .. } = item
                && !found.contains(drv)
            {
                found.push(drv.clone());
            }
        }
        found
    }

    /// The attribute paths by which derivations are asked for.
    pub(crate) fn attrs(&self) -> std::collections::BTreeMap<StorePath, String> {
        target::attrs(&self.targets, &self.values)
    }
}

/// The names of everything that was built here, with version and without, for advice.
///
/// # Errors
/// When the database fails.
pub(crate) fn names(store: &Store) -> Result<BTreeSet<String>, Failure> {
    let mut names: BTreeSet<String> = store.step_names()?.into_iter().collect();
    let short: Vec<String> = names.iter().map(|name| short(name).to_owned()).collect();
    names.extend(short);
    Ok(names)
}

/// A name without the version behind it.
pub(crate) fn short(name: &str) -> &str {
    let version = name
        .match_indices('-')
        .find(|(at, _)| name[at + 1..].starts_with(|c: char| c.is_ascii_digit()));
    version.map_or(name, |(at, _)| &name[..at])
}

/// Whether a derivation, or a store object, bears a name, with its version or without.
pub(crate) fn is_named(path: &StorePath, name: &str) -> bool {
    let full = Derivation::name_from_path(path);
    full == name || short(full) == name
}

/// A problem with a word that means nothing here.
pub(crate) fn unknown(store: &Store, code: &'static str, text: &str) -> Result<Failure, Failure> {
    let names = names(store)?;
    Ok(Failure::new(
        Diagnostic::error(
            code,
            Class::Other,
            format!("nothing called `{text}` was built here"),
        )
        .suggest(text, names.iter().map(String::as_str))
        .help("`sos builds` lists what was built; a file or directory is named as `./NAME`"),
    ))
}
