//! The kinds of causes, and how they are told in a line.

use std::collections::BTreeSet;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sos_formats::store_path::StorePath;

use super::text::TextChange;
use super::written::unversioned;
use crate::event::Text;

/// Why one derivation is built.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum Cause {
    /// No earlier build of that name is remembered.
    NeverBuilt,
    /// No earlier build of it succeeded; it was tried.
    FailedBefore {
        /// The build in which it failed last.
        build: i64,
        /// It was an earlier form of it that failed.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        earlier: bool,
    },
    /// An input is another one than before, came new, or is no input any more.
    InputChanged {
        /// The name of its store path.
        input: String,
        /// The first file in it that differs, if it is a source with several files that are known on both sides.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        file: Option<String>,
        /// The files that differ, at most 16.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        files: Vec<ChangedFile>,
        /// How many more there are.
        #[serde(default, skip_serializing_if = "is_zero")]
        more_files: usize,
        /// That it is a text of the recipe (`builtins.toFile`), and what changed in it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<TextChange>,
        /// The store path that it was, absolute; none when it came new.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        old: Option<Text>,
        /// The store path that it is; none when it is no input any more.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new: Option<Text>,
        /// The derivation that makes it now; none for a source.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<Text>,
    },
    /// The builder is another one.
    BuilderChanged {
        /// What it was, if it has another name now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        old: Option<String>,
        /// What it is.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new: Option<String>,
    },
    /// A variable of the environment, or an attribute, differs.
    EnvChanged {
        /// Its name.
        name: String,
        /// Its value before, without store paths, if it is short.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        old: Option<String>,
        /// Its value now.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        new: Option<String>,
        /// Whether it is on one side only; a value alone does not tell, because a long one is left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        only: Option<Only>,
        /// What changed in a value that is too long to be told, or has several lines.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<TextChange>,
    },
    /// The command, the script, or what the outputs have to be differs.
    RecipeChanged {
        /// Which part: `args`, `outputs`, or the name of a script such as `buildPhase`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        part: Option<String>,
        /// What changed in it, if it is a text that is on both sides: of several arguments in the first that differs. Store paths in
        /// it are left out.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<TextChange>,
    },
    /// It was built before as it is, and an output is no longer there.
    OutputMissing,
    /// It was built before as it is, and a garbage collection took it.
    GcEd,
    /// It is there, and was asked to be built all the same.
    Forced,
    /// Mirrors were asked for the result, and do not have it. It stands beside what made the result be needed.
    MirrorMiss {
        /// Their addresses.
        urls: Vec<String>,
    },
}

/// The side of a comparison that alone has something.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Only {
    /// It was there, and is removed.
    Before,
    /// It came new.
    Now,
}

/// A file of a source that differs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct ChangedFile {
    /// Its path below the source; empty when the source is that file.
    pub file: String,
    /// What it was, as [`sos_store::SourceEntry::to_text`]; none when it came new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// What it is; none when it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
}

#[allow(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde asks with a reference"
)]
fn is_zero(n: &usize) -> bool {
    *n == 0
}

/// Characters of a value that is told in a line.
const VALUE_SHOWN: usize = 32;

impl Cause {
    /// Tells whether it is something that the recipe says: also which inputs there are, and what is in those that it writes.
    #[must_use]
    pub fn is_of_recipe(&self) -> bool {
        match self {
            Self::BuilderChanged { .. } | Self::EnvChanged { .. } | Self::RecipeChanged { .. } => {
                true
            }
            Self::InputChanged {
                input,
                old,
                new,
                text,
                ..
            } => {
                // Another name may be another thing, which the recipe takes now.
                let other = self
                    .name_before()
                    .is_some_and(|was| unversioned(was) != unversioned(input));
                old.is_none() || new.is_none() || text.is_some() || other
            }
            _ => false,
        }
    }

    /// The name that an input had before, if that is not the one that it has now.
    #[must_use]
    pub fn name_before(&self) -> Option<&str> {
        let Self::InputChanged {
            input,
            old: Some(old),
            ..
        } = self
        else {
            return None;
        };
        // The base name of a store path: the digits of a hash, a hyphen, the name.
        let (_, name) = old.as_str().rsplit('/').next()?.split_once('-')?;
        (name != input).then_some(name)
    }

    /// Tells whether it is that mirrors did not have a result.
    #[must_use]
    pub fn is_of_mirrors(&self) -> bool {
        matches!(self, Self::MirrorMiss { .. })
    }

    /// As [`fmt::Display`], with what was and what is where both are short: a line has little room.
    fn fmt_with_values(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::RecipeChanged {
            part: Some(part), ..
        } = self
        {
            return write!(f, "recipe changed: `{part}`");
        }
        let is_short = |value: &&String| value.chars().count() <= VALUE_SHOWN;
        let (Self::BuilderChanged { old, new } | Self::EnvChanged { old, new, .. }) = self else {
            return fmt::Display::fmt(self, f);
        };
        let (old, new) = (old.as_ref().filter(is_short), new.as_ref().filter(is_short));
        if let Self::EnvChanged {
            name,
            only: Some(only),
            ..
        } = self
        {
            let (did, value) = match only {
                Only::Now => ("added", new),
                Only::Before => ("removed", old),
            };
            write!(f, "`{name}` {did}")?;
            return value.map_or(Ok(()), |value| write!(f, ": {value}"));
        }
        fmt::Display::fmt(self, f)?;
        match (old, new) {
            (Some(old), Some(new)) => write!(f, ": {old} -> {new}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NeverBuilt => f.write_str("never built"),
            Self::FailedBefore { build, earlier } => {
                let what = if *earlier {
                    "an earlier form of it"
                } else {
                    "it"
                };
                write!(f, "not built before; {what} failed in build {build}")
            }
            Self::InputChanged {
                input, file: None, ..
            } => write!(f, "{input} changed"),
            Self::InputChanged {
                input,
                file: Some(file),
                ..
            } => write!(f, "{input} changed: {file}"),
            Self::BuilderChanged { .. } => f.write_str("builder changed"),
            Self::EnvChanged { name, .. } => write!(f, "`{name}` changed"),
            Self::RecipeChanged { .. } => f.write_str("recipe changed"),
            Self::OutputMissing => f.write_str("output missing"),
            Self::GcEd => f.write_str("garbage-collected"),
            Self::Forced => f.write_str("asked to build again"),
            Self::MirrorMiss { urls } => write!(f, "not at {}", urls.join(", ")),
        }
    }
}

/// What led to a build.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, JsonSchema)]
pub struct Causes {
    /// What matters most.
    #[serde(flatten)]
    pub first: Cause,
    /// What differs besides.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub also: Vec<Cause>,
    /// The derivation that it was compared with, as an absolute path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub was: Option<Text>,
    /// Where the derivation is written: file, line and column.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Text>,
    /// Other files that the recipe reads and that have changed since it was evaluated the last time, if the recipe differs; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub read: Vec<String>,
}

impl fmt::Display for Causes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.first.fmt_with_values(f)?;
        // That no mirror had it explains nothing by itself.
        let mut more = self.also.iter().filter(|cause| !cause.is_of_mirrors());
        // What was changed to mend it.
        if matches!(self.first, Cause::FailedBefore { .. })
            && let Some(changed) = more.next()
        {
            f.write_str("; since then ")?;
            changed.fmt_with_values(f)?;
        }
        match more.count() {
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
            at: None,
            read: Vec::new(),
        }
    }
}

impl Causes {
    /// All of them, what matters most first.
    pub fn all(&self) -> impl Iterator<Item = &Cause> {
        std::iter::once(&self.first).chain(&self.also)
    }

    /// Whether all that differs are results of other builds, which may turn out to be what they were.
    pub(crate) fn is_only_of_inputs(&self, sources: &BTreeSet<StorePath>) -> bool {
        self.all().all(|cause| match cause {
            Cause::InputChanged { input, .. } => !sources.iter().any(|s| s.name() == input),
            _ => false,
        })
    }

    /// Puts the list of what was found in order: the first is what matters most.
    pub(super) fn of(mut all: Vec<Cause>, was: Option<Text>) -> Self {
        // Equal in all that is compared, and not the same build: something in how it is told differs.
        let first = if all.is_empty() {
            Cause::RecipeChanged {
                part: None,
                text: None,
            }
        } else {
            all.remove(0)
        };
        Self {
            first,
            also: all,
            was,
            at: None,
            read: Vec::new(),
        }
    }
}
