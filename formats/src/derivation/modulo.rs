//! The hash of a derivation modulo fixed outputs, from which input-addressed paths are made.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::{Derivation, Output, fixed_path};
use crate::Bytes;
use crate::hash::Sha256;
use crate::store_path::{self, StoreDir, StorePath, StorePathError};

/// Why the paths of outputs cannot be computed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModuloError<E> {
    /// A name is not legal in a store path.
    #[error(transparent)]
    Path(#[from] StorePathError),
    /// An input derivation has no such output.
    #[error("derivation `{drv}` has no output `{output}`")]
    NoSuchOutput {
        /// The input derivation.
        drv: StorePath,
        /// The output that is asked of it.
        output: String,
    },
    /// Derivations depend on themselves; only possible when the lookup lies about contents.
    #[error("derivation `{0}` depends on itself")]
    Cycle(StorePath),
    /// The caller's lookup failed.
    #[error("derivation `{drv}` cannot be read")]
    Lookup {
        /// The derivation looked up.
        drv: StorePath,
        /// What the lookup said.
        #[source]
        cause: E,
    },
}

/// What [`DrvHashes::fill_outputs`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filled {
    /// Every output's path is known.
    Known,
    /// Paths follow from content, after the build.
    Floating,
    /// Paths follow once the inputs are built.
    Deferred,
}

#[derive(Debug, Clone)]
struct Modulo {
    /// The hash in lower-case hexadecimal digits, as it is written in place of the path.
    hash_hex: [u8; 64],
    deferred: bool,
    /// Names of the outputs, a space behind each: graphs are large, and most derivations have one.
    outputs: Box<str>,
}

impl Modulo {
    fn new(computed: &Computed, drv: &Derivation) -> Self {
        Self {
            hash_hex: computed.hash.hex_digits(),
            deferred: computed.deferred,
            outputs: drv.outputs.keys().flat_map(|o| [o, " "]).collect(),
        }
    }
}

/// Remembers the hash of every derivation seen, as each is needed by all that depend on it.
#[derive(Debug)]
pub struct DrvHashes {
    dir: StoreDir,
    /// Store paths are digests already: nobody can choose them so that they collide here.
    known: FxHashMap<StorePath, Modulo>,
}

impl DrvHashes {
    /// Makes an empty memory for one store directory.
    pub fn new(dir: StoreDir) -> Self {
        Self {
            dir,
            known: FxHashMap::default(),
        }
    }

    /// Returns the store directory.
    pub fn store_dir(&self) -> &StoreDir {
        &self.dir
    }

    /// Says whether the hash of a derivation is remembered.
    pub fn contains(&self, path: &StorePath) -> bool {
        self.known.contains_key(path)
    }

    /// Computes all output paths that can be known now, and puts each output's path or placeholder in the environment.
    ///
    /// Outputs given as `InputAddressed` or `Deferred` become `InputAddressed`, or `Deferred` (with an empty variable)
    /// when an input is floating or deferred. `lookup` is asked for input derivations that are not remembered.
    ///
    /// # Errors
    /// When a name is not legal, an input has not the output asked for, or a lookup fails.
    pub fn fill_outputs<E>(
        &mut self,
        drv: &mut Derivation,
        name: &str,
        lookup: &mut dyn FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<Filled, ModuloError<E>> {
        let (filled, unknown) = self.place_outputs(drv, name)?;
        if unknown.is_empty() {
            return Ok(filled);
        }
        self.learn_inputs(drv, lookup)?;
        let modulo = self.compute(drv, name, true)?;
        if modulo.deferred {
            return Ok(Filled::Deferred);
        }
        self.set_outputs(drv, name, &modulo.hash, unknown)?;
        Ok(filled)
    }

    /// Does what [`DrvHashes::fill_outputs`] and [`DrvHashes::record`] do, and writes the derivation, with what the texts for that
    /// have in common written once. Returns the path, and the text that lies there.
    ///
    /// # Errors
    /// As [`DrvHashes::fill_outputs`].
    pub fn instantiate<E>(
        &mut self,
        drv: &mut Derivation,
        name: &str,
        lookup: &mut dyn FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<(StorePath, Bytes), ModuloError<E>> {
        let (_, unknown) = self.place_outputs(drv, name)?;
        if drv.is_fixed() {
            let aterm = drv.to_aterm(&self.dir, name)?;
            let path = drv.drv_path_of_aterm(&self.dir, name, &aterm)?;
            self.record(&path, drv, lookup)?;
            return Ok((path, aterm));
        }
        self.learn_inputs(drv, lookup)?;
        let (inputs, deferred) = self.inputs(drv)?;
        let shared = drv.shared_text(&self.dir, &inputs);
        if !unknown.is_empty() && !deferred {
            let hash = drv.masked_hash(&self.dir, &shared)?;
            self.set_outputs(drv, name, &hash, unknown)?;
        }
        let (aterm, hash) = drv.with_shared_text(&self.dir, name, &shared)?;
        let path = drv.drv_path_of_aterm(&self.dir, name, &aterm)?;
        self.known
            .entry(path.clone())
            .or_insert_with(|| Modulo::new(&Computed { hash, deferred }, drv));
        Ok((path, aterm))
    }

    /// Puts the paths and placeholders that need no hash of the derivation in the environment; returns the other outputs.
    fn place_outputs<E>(
        &self,
        drv: &mut Derivation,
        name: &str,
    ) -> Result<(Filled, Vec<String>), ModuloError<E>> {
        let names: Vec<String> = drv.outputs.keys().cloned().collect();
        let mut filled = Filled::Known;
        let mut unknown = Vec::new();
        for output in names {
            let value = match &drv.outputs[&output] {
                Output::Fixed { method, hash } => {
                    fixed_path(&self.dir, name, &output, *method, hash)?.absolute(&self.dir)
                }
                Output::Floating { .. } => {
                    filled = Filled::Floating;
                    store_path::placeholder(&output)
                }
                Output::InputAddressed(_) | Output::Deferred => {
                    unknown.push(output);
                    continue;
                }
            };
            drv.env.insert(output.into_bytes(), value.into_bytes());
        }
        for output in &unknown {
            drv.env.insert(output.clone().into_bytes(), Vec::new());
            drv.outputs.insert(output.clone(), Output::Deferred);
        }
        Ok((filled, unknown))
    }

    fn set_outputs<E>(
        &self,
        drv: &mut Derivation,
        name: &str,
        hash: &Sha256,
        unknown: Vec<String>,
    ) -> Result<(), ModuloError<E>> {
        for output in unknown {
            let path = store_path::make_output(&self.dir, hash, &output, name)?;
            let absolute = path.absolute(&self.dir).into_bytes();
            drv.env.insert(output.clone().into_bytes(), absolute);
            drv.outputs.insert(output, Output::InputAddressed(path));
        }
        Ok(())
    }

    /// Returns the hash by which caches know the results of a content-addressed derivation, in hexadecimal digits.
    ///
    /// # Errors
    /// As [`DrvHashes::fill_outputs`].
    pub fn realisation_hash<E>(
        &mut self,
        drv: &Derivation,
        name: &str,
        lookup: &mut dyn FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<String, ModuloError<E>> {
        self.learn_inputs(drv, lookup)?;
        Ok(self.compute(drv, name, true)?.hash.to_hex())
    }

    /// Remembers the hash of a finished derivation, so that `lookup` is not asked for it later.
    ///
    /// # Errors
    /// As [`DrvHashes::fill_outputs`].
    pub fn record<E>(
        &mut self,
        path: &StorePath,
        drv: &Derivation,
        lookup: &mut dyn FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<(), ModuloError<E>> {
        if self.known.contains_key(path) {
            return Ok(());
        }
        if !drv.is_fixed() {
            self.learn_inputs(drv, lookup)?;
        }
        self.remember(path, drv)
    }

    fn remember<E>(&mut self, path: &StorePath, drv: &Derivation) -> Result<(), ModuloError<E>> {
        let modulo = self.compute(drv, Derivation::name_from_path(path), false)?;
        self.known.insert(path.clone(), Modulo::new(&modulo, drv));
        Ok(())
    }

    /// Makes sure that the hash of every input is known. Keeps its own stack: closures can be very deep.
    fn learn_inputs<E>(
        &mut self,
        drv: &Derivation,
        lookup: &mut dyn FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<(), ModuloError<E>> {
        let mut stack: Vec<(StorePath, Option<Derivation>)> = self.missing(drv);
        let mut open = BTreeSet::new();
        while let Some((path, loaded)) = stack.pop() {
            if self.known.contains_key(&path) {
                continue;
            }
            if let Some(drv) = loaded {
                self.remember(&path, &drv)?;
                open.remove(&path);
                continue;
            }
            if !open.insert(path.clone()) {
                return Err(ModuloError::Cycle(path));
            }
            let drv = lookup(&path).map_err(|cause| ModuloError::Lookup {
                drv: path.clone(),
                cause,
            })?;
            // The inputs of a fixed output do not count, so they need not even be readable.
            let missing = if drv.is_fixed() {
                Vec::new()
            } else {
                self.missing(&drv)
            };
            stack.push((path, Some(drv)));
            stack.extend(missing);
        }
        Ok(())
    }

    fn missing(&self, drv: &Derivation) -> Vec<(StorePath, Option<Derivation>)> {
        drv.input_drvs
            .keys()
            .filter(|path| !self.known.contains_key(*path))
            .map(|path| (path.clone(), None))
            .collect()
    }

    fn compute<E>(
        &self,
        drv: &Derivation,
        name: &str,
        mask_outputs: bool,
    ) -> Result<Computed, ModuloError<E>> {
        if let Some((output, Output::Fixed { method, hash })) = drv.outputs.first_key_value() {
            let path = fixed_path(&self.dir, name, output, *method, hash)?;
            let text = format!(
                "fixed:out:{}{hash}:{}",
                method.prefix(),
                path.absolute(&self.dir)
            );
            return Ok(Computed {
                hash: Sha256::of(text.as_bytes()),
                deferred: false,
            });
        }
        let (inputs, deferred) = self.inputs(drv)?;
        let aterm = drv.to_hashed_aterm(&self.dir, name, mask_outputs, &inputs)?;
        Ok(Computed {
            hash: Sha256::of(&aterm),
            deferred,
        })
    }

    /// The input derivations by hash, in order, and whether paths cannot be known before a build.
    fn inputs<'a, E>(&'a self, drv: &'a Derivation) -> Result<(Inputs<'a>, bool), ModuloError<E>> {
        let mut deferred = drv.is_floating();
        let mut inputs: Vec<(&[u8; 64], &BTreeSet<String>)> =
            Vec::with_capacity(drv.input_drvs.len());
        for (path, outputs) in &drv.input_drvs {
            // Every caller learns the inputs first.
            let Some(input) = self.known.get(path) else {
                return Err(ModuloError::Cycle(path.clone()));
            };
            deferred |= input.deferred;
            for output in outputs {
                if !input.outputs.split_terminator(' ').any(|o| o == output) {
                    return Err(ModuloError::NoSuchOutput {
                        drv: path.clone(),
                        output: output.clone(),
                    });
                }
            }
            inputs.push((&input.hash_hex, outputs));
        }
        inputs.sort_unstable_by_key(|input| input.0);
        Ok((inputs, deferred))
    }
}

/// The hash of each input derivation, and the outputs that are needed of it.
type Inputs<'a> = Vec<(&'a [u8; 64], &'a BTreeSet<String>)>;

struct Computed {
    hash: Sha256,
    deferred: bool,
}
