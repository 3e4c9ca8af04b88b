//! A derivation with every path known: what is really built, and the key under which its result is remembered.

use std::collections::BTreeMap;
use std::convert::Infallible;

use sos_formats::derivation::{Derivation, DrvHashes, ModuloError};
use sos_formats::hash::Blake3;
use sos_formats::store_path::{
    StoreDir, StorePath, StorePathError, downstream_placeholder, make_scratch, placeholder,
};

use crate::rewrite::Placeholders;

/// Paths of outputs by derivation and output name.
pub(crate) type OutputPaths = BTreeMap<StorePath, BTreeMap<String, StorePath>>;

/// Tells whether output paths of a derivation are known only after something was built.
pub(crate) fn is_dynamic(drv: &Derivation) -> bool {
    drv.is_floating() || drv.is_deferred()
}

/// Why a derivation cannot be resolved.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ResolveError {
    /// The caller did not give the path of an input.
    #[error("output `{output}` of input `{drv}` has no path")]
    MissingInput {
        /// The input.
        drv: StorePath,
        /// Its output.
        output: String,
    },
    /// An output cannot have a path.
    #[error(transparent)]
    Path(#[from] StorePathError),
    /// The outputs of a deferred derivation cannot be computed.
    #[error(transparent)]
    Modulo(#[from] ModuloError<Infallible>),
}

/// A derivation whose inputs are all store paths.
#[derive(Clone, Debug)]
pub(crate) struct Resolved {
    /// The derivation without input derivations; its outputs are never deferred.
    pub(crate) drv: Derivation,
    /// Where each output is written during the build: its path, or a scratch path if only the content tells.
    pub(crate) building: BTreeMap<String, StorePath>,
    /// Path of the resolved derivation itself; two derivations that resolve to the same are one build.
    pub(crate) identity: StorePath,
    /// Its text.
    pub(crate) aterm: Vec<u8>,
}

impl Resolved {
    /// Returns the path of an output if it is known without building.
    pub(crate) fn known_path(&self, dir: &StoreDir, name: &str, output: &str) -> Option<StorePath> {
        self.drv.output_path(dir, name, output)
    }
}

/// Replaces inputs by their paths: `inputs` holds the paths of all outputs that `drv` uses.
pub(crate) fn resolve(
    dir: &StoreDir,
    drv_path: &StorePath,
    drv: &Derivation,
    inputs: &OutputPaths,
) -> Result<Resolved, ResolveError> {
    let name = Derivation::name_from_path(drv_path);
    let mut resolved = drv.clone();
    let mut placeholders = Placeholders::default();
    // Only a derivation whose own path waits for others can hold placeholders of its inputs.
    let rewrites = is_dynamic(drv) || drv.is_fixed();
    for (input, outputs) in &drv.input_drvs {
        for output in outputs {
            let path = inputs
                .get(input)
                .and_then(|paths| paths.get(output))
                .ok_or_else(|| ResolveError::MissingInput {
                    drv: input.clone(),
                    output: output.clone(),
                })?;
            if rewrites {
                placeholders.insert(&downstream_placeholder(input, output), path.absolute(dir));
            }
            resolved.input_srcs.insert(path.clone());
        }
    }
    resolved.input_drvs = BTreeMap::new();
    if !placeholders.is_empty() {
        apply(&placeholders, &mut resolved, true);
    }
    if resolved.is_deferred() {
        let mut no_inputs = |_: &StorePath| -> Result<Derivation, Infallible> {
            // There are no input derivations any more, so nobody asks.
            Ok(Derivation::default())
        };
        DrvHashes::new(dir.clone()).fill_outputs(&mut resolved, name, &mut no_inputs)?;
    }
    let aterm = resolved.to_aterm(dir, name)?;
    let identity = resolved.drv_path_of_aterm(dir, name, &aterm)?;
    let mut building = BTreeMap::new();
    for output in resolved.outputs.keys() {
        let path = match resolved.output_path(dir, name, output) {
            Some(path) => path,
            None => make_scratch(dir, drv_path, output)?,
        };
        building.insert(output.clone(), path);
    }
    Ok(Resolved {
        drv: resolved,
        building,
        identity,
        aterm,
    })
}

/// Returns the derivation as its builder sees it: own placeholders replaced by the paths used during the build.
pub(crate) fn for_builder(dir: &StoreDir, resolved: &Resolved) -> Derivation {
    let mut own = Placeholders::default();
    for (output, path) in &resolved.building {
        own.insert(&placeholder(output), path.absolute(dir));
    }
    let mut drv = resolved.drv.clone();
    apply(&own, &mut drv, false);
    drv
}

fn apply(placeholders: &Placeholders, drv: &mut Derivation, builder_too: bool) {
    if builder_too {
        drv.builder = placeholders.apply(&drv.builder);
    }
    for arg in &mut drv.args {
        *arg = placeholders.apply(arg);
    }
    drv.env = std::mem::take(&mut drv.env)
        .into_iter()
        .map(|(key, value)| (placeholders.apply(&key), placeholders.apply(&value)))
        .collect();
}

/// Returns the key of a trace: the resolved derivation, and the builder with its revision.
pub(crate) fn trace_key(aterm: &[u8], builder: &str, revision: u32) -> [u8; 32] {
    let mut text = Vec::with_capacity(aterm.len() + builder.len() + 8);
    text.extend_from_slice(aterm);
    text.push(0);
    text.extend_from_slice(builder.as_bytes());
    text.push(0);
    text.extend_from_slice(&revision.to_le_bytes());
    Blake3::of(&text).0
}

#[cfg(test)]
mod tests {
    use sos_formats::derivation::{Method, Output};
    use sos_formats::hash::HashAlgo;

    use super::*;

    fn path(digit: char, name: &str) -> StorePath {
        StorePath::from_base(&format!("{}-{name}", digit.to_string().repeat(32))).unwrap()
    }

    fn consumer(input: &StorePath, output: Output) -> Derivation {
        let p = downstream_placeholder(input, "out");
        let own = placeholder("out");
        Derivation {
            outputs: [("out".to_owned(), output)].into(),
            input_drvs: [(input.clone(), ["out".to_owned()].into())].into(),
            system: "x86_64-linux".to_owned(),
            builder: format!("{p}/bin/sh").into_bytes(),
            args: vec![format!("-c {p}").into_bytes()],
            env: [
                (b"out".to_vec(), own.into_bytes()),
                (
                    b"__json".to_vec(),
                    format!(r#"{{"dep":"{p}"}}"#).into_bytes(),
                ),
            ]
            .into(),
            ..Derivation::default()
        }
    }

    fn inputs(input: &StorePath, result: &StorePath) -> OutputPaths {
        [(input.clone(), [("out".to_owned(), result.clone())].into())].into()
    }

    #[test]
    fn placeholders_of_inputs_become_paths_everywhere() {
        let dir = StoreDir::default();
        let (input, result) = (path('1', "dep.drv"), path('2', "dep"));
        let drv = consumer(
            &input,
            Output::Floating {
                method: Method::Recursive,
                algo: HashAlgo::Sha256,
            },
        );
        let resolved = resolve(&dir, &path('3', "x.drv"), &drv, &inputs(&input, &result)).unwrap();
        let absolute = result.absolute(&dir);
        assert_eq!(
            resolved.drv.builder,
            format!("{absolute}/bin/sh").into_bytes()
        );
        assert_eq!(resolved.drv.args[0], format!("-c {absolute}").into_bytes());
        assert_eq!(
            resolved.drv.env[b"__json".as_slice()],
            format!(r#"{{"dep":"{absolute}"}}"#).into_bytes()
        );
        assert!(resolved.drv.input_drvs.is_empty());
        assert!(resolved.drv.input_srcs.contains(&result));
        // The own placeholder stays in what is hashed, and is a scratch path for the builder.
        assert_eq!(
            resolved.drv.env[b"out".as_slice()],
            placeholder("out").into_bytes()
        );
        assert_eq!(
            for_builder(&dir, &resolved).env[b"out".as_slice()],
            resolved.building["out"].absolute(&dir).into_bytes()
        );
    }

    #[test]
    fn the_same_inputs_from_other_derivations_are_the_same_build() {
        let dir = StoreDir::default();
        let (result, me) = (path('2', "dep"), path('3', "x.drv"));
        let key = |input: StorePath| {
            let drv = consumer(
                &input,
                Output::Floating {
                    method: Method::Recursive,
                    algo: HashAlgo::Sha256,
                },
            );
            let resolved = resolve(&dir, &me, &drv, &inputs(&input, &result)).unwrap();
            trace_key(&resolved.aterm, "run", 1)
        };
        assert_eq!(key(path('1', "dep.drv")), key(path('4', "dep.drv")));
        assert_ne!(trace_key(b"a", "run", 1), trace_key(b"a", "run", 2));
    }

    #[test]
    fn deferred_outputs_get_paths() {
        let dir = StoreDir::default();
        let (input, result) = (path('1', "dep.drv"), path('2', "dep"));
        let mut drv = consumer(&input, Output::Deferred);
        drv.env.insert(b"out".to_vec(), Vec::new());
        let resolved = resolve(&dir, &path('3', "x.drv"), &drv, &inputs(&input, &result)).unwrap();
        let known = resolved.known_path(&dir, "x", "out").unwrap();
        assert_eq!(
            resolved.drv.env[b"out".as_slice()],
            known.absolute(&dir).into_bytes()
        );
        assert_eq!(resolved.building["out"], known);
    }

    #[test]
    fn an_input_without_path_is_an_error() {
        let input = path('1', "dep.drv");
        let drv = consumer(&input, Output::Deferred);
        let error = resolve(
            &StoreDir::default(),
            &path('3', "x.drv"),
            &drv,
            &OutputPaths::new(),
        )
        .unwrap_err();
        assert!(matches!(error, ResolveError::MissingInput { .. }));
    }
}
