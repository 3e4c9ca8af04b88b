//! The hash of a derivation modulo fixed outputs, from which input-addressed paths are made.

use std::borrow::Cow;
use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::draft::{Draft, Texts};
use super::{Derivation, Method, Output, fixed_path};
use crate::hash::{Hash, Sha256};
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
    outputs: Cow<'static, str>,
}

impl Modulo {
    fn new<'a>(computed: &Computed, outputs: impl ExactSizeIterator<Item = &'a str>) -> Self {
        let mut outputs = outputs.peekable();
        let usual = outputs.len() == 1 && outputs.peek() == Some(&"out");
        Self {
            hash_hex: computed.hash.hex_digits(),
            deferred: computed.deferred,
            outputs: if usual {
                "out ".into()
            } else {
                outputs.flat_map(|o| [o, " "]).collect::<String>().into()
            },
        }
    }
}

/// Remembers the hash of every derivation seen, as each is needed by all that depend on it.
#[derive(Debug)]
pub struct DrvHashes {
    dir: StoreDir,
    /// Store paths are digests already: nobody can choose them so that they collide here.
    known: FxHashMap<StorePath, Modulo>,
    texts: Texts,
}

impl DrvHashes {
    /// Makes an empty memory for one store directory.
    pub fn new(dir: StoreDir) -> Self {
        Self {
            dir,
            known: FxHashMap::default(),
            texts: Texts::default(),
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

    /// Makes a derivation: computes the paths of its outputs, and writes it. What the texts that are hashed for that have in common
    /// is written once. Returns the path; [`DrvHashes::text`] is what lies there. `lookup` is asked for input derivations that are
    /// not remembered; the new one is.
    ///
    /// # Errors
    /// As [`DrvHashes::fill_outputs`].
    pub fn instantiate<E>(
        &mut self,
        draft: &mut Draft<'_>,
        name: &str,
        lookup: &mut dyn FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<StorePath, ModuloError<E>> {
        draft.sort();
        let mut texts = std::mem::take(&mut self.texts);
        let made = self.write_draft(draft, name, &mut texts, lookup);
        self.texts = texts;
        let (path, computed) = made?;
        let outputs = draft.outputs.iter().map(|output| output.0);
        self.known
            .entry(path.clone())
            .or_insert_with(|| Modulo::new(&computed, outputs));
        Ok(path)
    }

    /// The text of the derivation that was made last.
    pub fn text(&self) -> &[u8] {
        &self.texts.whole
    }

    fn write_draft<E>(
        &mut self,
        draft: &mut Draft<'_>,
        name: &str,
        texts: &mut Texts,
        lookup: &mut dyn FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<(StorePath, Computed), ModuloError<E>> {
        let is = |kind: fn(&Output) -> bool| draft.outputs.iter().any(|output| kind(&output.1));
        let mut deferred = is(|how| matches!(how, Output::Floating { .. } | Output::Impure { .. }));
        if is(|how| matches!(how, Output::Fixed { .. })) {
            // What it is made of does not count.
            draft.write_shared(&self.dir, &Vec::new(), texts);
        } else {
            let paths = draft.input_drvs.iter().map(|input| input.0);
            self.learn(self.missing(paths), lookup)?;
            let inputs = self.inputs(draft.input_drvs.iter().copied(), &mut deferred)?;
            draft.write_shared(&self.dir, &inputs, texts);
            let open = |how: &Output| matches!(how, Output::Deferred | Output::InputAddressed(_));
            if !deferred && draft.outputs.iter().any(|output| open(&output.1)) {
                let hash = draft.masked_hash(&self.dir, texts)?;
                for (output, how) in draft.outputs.iter_mut().filter(|output| open(&output.1)) {
                    let path = store_path::make_output(&self.dir, &hash, output, name)?;
                    *how = Output::InputAddressed(path);
                }
            }
        }
        let hash = draft.write_whole(&self.dir, name, texts)?;
        let path = draft.path(&self.dir, name, texts)?;
        Ok((path, Computed { hash, deferred }))
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
                Output::Floating { .. } | Output::Impure { .. } => {
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
        let outputs = drv.outputs.keys().map(String::as_str);
        self.known
            .insert(path.clone(), Modulo::new(&modulo, outputs));
        Ok(())
    }

    /// Makes sure that the hash of every input is known. Keeps its own stack: closures can be very deep.
    fn learn_inputs<E>(
        &mut self,
        drv: &Derivation,
        lookup: &mut dyn FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<(), ModuloError<E>> {
        self.learn(self.missing(drv.input_drvs.keys()), lookup)
    }

    fn learn<E>(
        &mut self,
        mut stack: Vec<(StorePath, Option<Derivation>)>,
        lookup: &mut dyn FnMut(&StorePath) -> Result<Derivation, E>,
    ) -> Result<(), ModuloError<E>> {
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
                self.missing(drv.input_drvs.keys())
            };
            stack.push((path, Some(drv)));
            stack.extend(missing);
        }
        Ok(())
    }

    fn missing<'a>(
        &self,
        inputs: impl Iterator<Item = &'a StorePath>,
    ) -> Vec<(StorePath, Option<Derivation>)> {
        inputs
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
            return Ok(Computed {
                hash: fixed_hash(&self.dir, name, output, *method, hash)?,
                deferred: false,
            });
        }
        let mut deferred = drv.is_floating() || drv.is_impure();
        let inputs = drv.input_drvs.iter();
        let inputs = inputs.flat_map(|(path, outputs)| outputs.iter().map(move |o| (path, &**o)));
        let inputs = self.inputs(inputs, &mut deferred)?;
        let aterm = drv.to_hashed_aterm(&self.dir, name, mask_outputs, &inputs)?;
        Ok(Computed {
            hash: Sha256::of(&aterm),
            deferred,
        })
    }

    /// The input derivations by hash, in order; says whether paths cannot be known before a build. What is needed of one
    /// derivation comes in a row.
    fn inputs<'a, E>(
        &'a self,
        needed: impl Iterator<Item = (&'a StorePath, &'a str)>,
        deferred: &mut bool,
    ) -> Result<Inputs<'a>, ModuloError<E>> {
        let mut inputs: Inputs<'a> = Vec::with_capacity(needed.size_hint().0);
        let mut last: Option<(&StorePath, &Modulo)> = None;
        for (path, output) in needed {
            let input = match last {
                Some((same, input)) if same == path => input,
                // Every caller learns the inputs first.
                _ => self
                    .known
                    .get(path)
                    .ok_or_else(|| ModuloError::Cycle(path.clone()))?,
            };
            last = Some((path, input));
            *deferred |= input.deferred;
            if !input.outputs.split_terminator(' ').any(|o| o == output) {
                return Err(ModuloError::NoSuchOutput {
                    drv: path.clone(),
                    output: output.to_owned(),
                });
            }
            inputs.push((&input.hash_hex, output));
        }
        inputs.sort_unstable();
        Ok(inputs)
    }
}

/// The hash of each input derivation, and an output that is needed of it.
pub(super) type Inputs<'a> = Vec<(&'a [u8; 64], &'a str)>;

/// By what a derivation with a fixed output is known, whatever its inputs.
pub(super) fn fixed_hash(
    dir: &StoreDir,
    name: &str,
    output: &str,
    method: Method,
    hash: &Hash,
) -> Result<Sha256, StorePathError> {
    let path = fixed_path(dir, name, output, method, hash)?.absolute(dir);
    let text = format!("fixed:out:{}{hash}:{path}", method.prefix());
    Ok(Sha256::of(text.as_bytes()))
}

struct Computed {
    hash: Sha256,
    deferred: bool,
}
