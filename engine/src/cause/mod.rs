//! Why something is built: the new derivation is compared with what was built before under its name.

mod compare;
mod files;

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::Serialize;
use sos_formats::derivation::Derivation;
use sos_formats::store_path::StorePath;
use sos_store::{Built, Store, StoreError};

use crate::event::Text;
use crate::resolve::Resolved;
use crate::work::history_key;

/// Earlier builds of one name that are compared with; the closest one is taken.
const COMPARED: u32 = 16;

/// Why one derivation is built.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// No earlier build of that name is remembered.
    NeverBuilt,
    /// An input is another one than before, came new, or is no input any more.
    InputChanged {
        /// The name of its store path.
        input: String,
        /// The first file in it that differs, if both are there to compare.
        #[serde(skip_serializing_if = "Option::is_none")]
        file: Option<String>,
    },
    /// The builder is another one.
    BuilderChanged,
    /// A variable of the environment, or an attribute, differs.
    EnvChanged {
        /// Its name.
        name: String,
    },
    /// The command, the script, or what the outputs have to be differs.
    RecipeChanged,
    /// It was built before as it is, and an output is no longer there.
    OutputMissing,
    /// It was built before as it is, and a garbage collection took it.
    GcEd,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => f.write_str("never built"),
            Self::InputChanged { input, file: None } => write!(f, "{input} changed"),
            Self::InputChanged {
                input,
                file: Some(file),
            } => write!(f, "{input} changed: {file}"),
            Self::BuilderChanged => f.write_str("builder changed"),
            Self::EnvChanged { name } => write!(f, "`{name}` changed"),
            Self::RecipeChanged => f.write_str("recipe changed"),
            Self::OutputMissing => f.write_str("output missing"),
            Self::GcEd => f.write_str("garbage-collected"),
        }
    }
}

/// What led to a build.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, JsonSchema)]
pub struct Causes {
    /// What matters most.
    #[serde(flatten)]
    pub first: Cause,
    /// What differs besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Cause>,
    /// The derivation that it was compared with, as an absolute path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<Text>,
}

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt(f)?;
        match self.also.len() {
            0 => Ok(()),
            more => write!(f, ", {more} more"),
        }
    }
}

impl From<Cause> for Causes {
    fn from(first: Cause) -> Self {
        Self {
            first,
            also: Vec::new(),
            was: None,
        }
    }
}

impl Causes {
    /// Whether all that differs are results of other builds, which may turn out to be what they were.
    pub(crate) fn is_only_of_inputs(&self, sources: &BTreeSet<StorePath>) -> bool {
        let mut all = std::iter::once(&self.first).chain(&self.also);
        all.all(|cause| match cause {
            Cause::InputChanged { input, .. } => !sources.iter().any(|s| s.name() == input),
            _ => false,
        })
    }
}

/// A derivation whose cause is asked for.
pub(crate) struct Asked<'a> {
    pub(crate) path: &'a StorePath,
    pub(crate) drv: &'a Derivation,
    pub(crate) resolved: &'a Resolved,
    /// Outputs that are needed of it.
    pub(crate) outputs: &'a BTreeSet<String>,
    /// Derivations that are wanted beside it: what one of them was before is not what this one was.
    pub(crate) beside: &'a BTreeSet<StorePath>,
    /// Which project it is for.
    pub(crate) project: &'a str,
}

/// The name under which a build is noted for later comparison: other projects have derivations of the same names.
pub(crate) fn noted_name(project: &str, name: &str) -> String {
    format!("{project}\n{}", history_key(name))
}

/// Tells why a derivation is built, from what the store remembers.
pub(crate) fn causes(store: &Store, asked: &Asked<'_>) -> Result<Causes, StoreError> {
    let shown = |drv: &StorePath| Some(Text::from(drv.absolute(store.store_dir())));
    let mut same = store.built(asked.path)?;
    if same.is_none() {
        same = store.built_as(&asked.resolved.identity)?;
    }
    if let Some(same) = same {
        return Ok(Causes {
            was: shown(&same.drv),
            ..lost(store, asked, &same)?.into()
        });
    }
    if !store.drv_outputs(asked.path)?.is_empty() {
        // Built by an sos that noted no more than that.
        return Ok(Cause::OutputMissing.into());
    }
    let name = Derivation::name_from_path(asked.path);
    let noted = noted_name(asked.project, name);
    let before = store.built_before(&noted, &asked.drv.system, COMPARED)?;
    let closest = before
        .into_iter()
        .filter(|one| !asked.beside.contains(&one.drv))
        .filter_map(|one| {
            let old = Derivation::parse_aterm(one.aterm.as_deref()?, store.store_dir()).ok()?;
            let old = compare::Side {
                name: Derivation::name_from_path(&one.drv).to_owned(),
                drv: old,
            };
            let new = compare::Side {
                name: name.to_owned(),
                drv: asked.resolved.drv.clone(),
            };
            let found = compare::compare(store.store_dir(), &old, &new)?;
            Some((one.drv, found))
        })
        // The first of equals is the newest.
        .min_by_key(|(_, found)| found.len());
    let Some((was, found)) = closest else {
        return Ok(Cause::NeverBuilt.into());
    };
    let mut all = found.into_iter().map(|difference| {
        let file = match &difference.paths {
            Some((old, new)) if asked.drv.input_srcs.contains(new) => {
                files::first_difference(store, old, new)
            }
            _ => None,
        };
        match difference.cause {
            Cause::InputChanged { input, .. } => Cause::InputChanged { input, file },
            other => other,
        }
    });
    // Equal in all that is compared, and not the same build: something in how it is told differs.
    let first = all.next().unwrap_or(Cause::RecipeChanged);
    Ok(Causes {
        first,
        also: all.collect(),
        was: shown(&was),
    })
}

/// Why something is built that was built as it is.
fn lost(store: &Store, asked: &Asked<'_>, same: &Built) -> Result<Cause, StoreError> {
    if same.collected {
        return Ok(Cause::GcEd);
    }
    let outputs = store.drv_outputs(&same.drv)?;
    for wanted in asked.outputs {
        let found = outputs.iter().find(|(output, _)| output == wanted);
        match found {
            Some((_, path)) if store.is_present(path)? => {}
            _ => return Ok(Cause::OutputMissing),
        }
    }
    // All is there, and does not count: a newer builder makes other bytes.
    Ok(Cause::BuilderChanged)
}
