//! Derivations: what to run to make which outputs, and their textual form.

mod aterm;
mod draft;
mod modulo;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::Bytes;
use crate::hash::{Hash, HashAlgo, Sha256};
use crate::store_path::{self, StoreDir, StorePath, StorePathError};

pub use aterm::{AtermError, AtermProblem};
pub use draft::Draft;
pub use modulo::{DrvHashes, Filled, ModuloError};

/// How the content of an output or source is turned into the hash that addresses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// The hash of one regular file's bytes.
    Flat,
    /// The hash of the NAR of a file tree.
    Recursive,
    /// The hash of one file's bytes, with references; SHA-256 only.
    Text,
    /// The BLAKE3 id of a rootfs manifest, see [`crate::manifest`]; sos's own.
    Rootfs,
    /// The BLAKE3 id of the manifest of a file tree, in which everything is root's and has no time; sos's own. Unlike the hash of a
    /// NAR it follows from the hashes of the files: those that are known are not read again.
    Tree,
}

impl Method {
    /// Returns what stands before the algorithm in a derivation: empty, `r:`, `text:`, `rootfs:` or `tree:`.
    pub fn prefix(self) -> &'static str {
        match self {
            Self::Flat => "",
            Self::Recursive => "r:",
            Self::Text => "text:",
            Self::Rootfs => "rootfs:",
            Self::Tree => "tree:",
        }
    }

    /// Returns the name as written in `outputHashMode`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Recursive => "recursive",
            Self::Text => "text",
            Self::Rootfs => "rootfs",
            Self::Tree => "tree",
        }
    }

    /// Checks that the method is defined for an algorithm.
    ///
    /// # Errors
    /// [`StorePathError::WrongAlgo`] for `Text` without SHA-256, `Rootfs` and `Tree` without BLAKE3.
    pub fn check_algo(self, found: HashAlgo) -> Result<(), StorePathError> {
        let expected = match self {
            Self::Flat | Self::Recursive => return Ok(()),
            Self::Text => HashAlgo::Sha256,
            Self::Rootfs | Self::Tree => HashAlgo::Blake3,
        };
        if found == expected {
            return Ok(());
        }
        Err(StorePathError::WrongAlgo {
            method: self.as_str(),
            expected,
            found,
        })
    }
}

/// One output of a derivation: how its path comes about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The path follows from the derivation.
    InputAddressed(StorePath),
    /// The content is known beforehand, and the path with it.
    Fixed {
        /// How the content is hashed.
        method: Method,
        /// What the hash must be.
        hash: Hash,
    },
    /// The path follows from the content, after the build.
    Floating {
        /// How the content is hashed.
        method: Method,
        /// With which algorithm.
        algo: HashAlgo,
    },
    /// The path follows from the content, and each build may give another one. Such derivations can be written and read; nothing here
    /// builds them.
    Impure {
        /// How the content is hashed.
        method: Method,
        /// With which algorithm.
        algo: HashAlgo,
    },
    /// Input-addressed, but an input's path is not known yet.
    Deferred,
}

impl Output {
    /// Returns the path when it is known without building.
    pub fn path(&self, dir: &StoreDir, drv_name: &str, output: &str) -> Option<StorePath> {
        match self {
            Self::InputAddressed(path) => Some(path.clone()),
            Self::Fixed { method, hash } => fixed_path(dir, drv_name, output, *method, hash).ok(),
            Self::Floating { .. } | Self::Impure { .. } | Self::Deferred => None,
        }
    }
}

/// A build step: inputs, command, environment, outputs.
///
/// The name is not part of it: it is in the derivation's store path (`<hash>-<name>.drv`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Derivation {
    /// Outputs by name.
    pub outputs: BTreeMap<String, Output>,
    /// Derivations whose outputs are needed, with the names of those outputs.
    pub input_drvs: BTreeMap<StorePath, BTreeSet<String>>,
    /// Store objects that are needed as they are.
    pub input_srcs: BTreeSet<StorePath>,
    /// The platform to run on, `x86_64-linux` or `builtin`.
    pub system: String,
    /// The program to run, or `builtin:<name>`.
    pub builder: Bytes,
    /// Its arguments.
    pub args: Vec<Bytes>,
    /// Its environment.
    pub env: BTreeMap<Bytes, Bytes>,
}

impl Derivation {
    /// Returns the derivation's name: the path's name without `.drv`.
    pub fn name_from_path(path: &StorePath) -> &str {
        path.name().strip_suffix(".drv").unwrap_or(path.name())
    }

    /// Returns an output's path when it is known without building.
    pub fn output_path(&self, dir: &StoreDir, drv_name: &str, output: &str) -> Option<StorePath> {
        self.outputs.get(output)?.path(dir, drv_name, output)
    }

    /// Returns the path of the derivation itself, that of its ATerm as a text object.
    ///
    /// # Errors
    /// When the name is not legal in a store path.
    pub fn drv_path(&self, dir: &StoreDir, name: &str) -> Result<StorePath, StorePathError> {
        let aterm = self.to_aterm(dir, name)?;
        self.drv_path_of_aterm(dir, name, &aterm)
    }

    /// Returns the path of the derivation when its ATerm is at hand.
    ///
    /// # Errors
    /// When the name is not legal in a store path.
    pub fn drv_path_of_aterm(
        &self,
        dir: &StoreDir,
        name: &str,
        aterm: &[u8],
    ) -> Result<StorePath, StorePathError> {
        let mut refs: Vec<&StorePath> = self
            .input_srcs
            .iter()
            .chain(self.input_drvs.keys())
            .collect();
        refs.sort_unstable();
        refs.dedup();
        store_path::make_text(dir, &format!("{name}.drv"), &Sha256::of(aterm), refs)
    }

    /// Says whether the content of the (only) output is known beforehand.
    pub fn is_fixed(&self) -> bool {
        self.outputs
            .values()
            .any(|o| matches!(o, Output::Fixed { .. }))
    }

    /// Says whether output paths follow from content.
    pub fn is_floating(&self) -> bool {
        self.outputs
            .values()
            .any(|o| matches!(o, Output::Floating { .. }))
    }

    /// Says whether each build may give other outputs.
    pub fn is_impure(&self) -> bool {
        self.outputs
            .values()
            .any(|o| matches!(o, Output::Impure { .. }))
    }

    /// Says whether an output waits for the paths of inputs.
    pub fn is_deferred(&self) -> bool {
        self.outputs.values().any(|o| matches!(o, Output::Deferred))
    }
}

fn fixed_path(
    dir: &StoreDir,
    drv_name: &str,
    output: &str,
    method: Method,
    hash: &Hash,
) -> Result<StorePath, StorePathError> {
    let name = store_path::output_name(drv_name, output);
    store_path::make_fixed(dir, &name, method, hash, &BTreeSet::new(), false)
}
