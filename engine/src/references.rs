//! `exportReferencesGraph`: tells a builder what its inputs refer to.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use sos_formats::derivation::Derivation;
use sos_formats::hash::Hash;
use sos_formats::store_path::StorePath;
use sos_store::{ObjectKind, PathInfo, Store, StoreError};

use crate::attributes::Attributes;

/// The attribute.
pub(crate) const ATTRIBUTE: &str = "exportReferencesGraph";

/// What may be told: the inputs of one build.
pub(crate) struct References<'a> {
    pub(crate) store: &'a Store,
    /// The closure of the inputs.
    pub(crate) inputs: &'a BTreeSet<StorePath>,
}

/// Why nothing is told.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExportError {
    /// Names and paths come in pairs.
    #[error("`{ATTRIBUTE}` has an odd number of words: `{0}`")]
    Odd(String),
    /// The graph is written to a file of this name.
    #[error(
        "`{0}` in `{ATTRIBUTE}` is no file name: a letter or `_`, then letters, digits, `_`, `.` and `-`"
    )]
    BadName(String),
    /// The path is none.
    #[error("`{0}` in `{ATTRIBUTE}` is no store path")]
    NoPath(String),
    /// The builder could not read it.
    #[error("`{0}` in `{ATTRIBUTE}` is not among the inputs of the derivation")]
    NoInput(String),
    /// Neither a text nor a list of texts.
    #[error("`{ATTRIBUTE}.{0}` is neither a store path nor a list of them")]
    BadValue(String),
    /// A derivation whose outputs nobody knows before they are built.
    #[error(
        "`{0}` in `{ATTRIBUTE}` is a derivation with content-addressed outputs, whose paths it does not tell"
    )]
    Unknown(String),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads the names of files and the paths whose graphs they get, of a derivation without structured attributes.
pub(crate) fn pairs(drv: &Derivation) -> Result<Vec<(String, String)>, ExportError> {
    let Some(value) = drv.env.get(ATTRIBUTE.as_bytes()) else {
        return Ok(Vec::new());
    };
    let value = String::from_utf8_lossy(value);
    let words: Vec<&str> = value.split_ascii_whitespace().collect();
    let pairs = words.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return Err(ExportError::Odd(value.into_owned()));
    }
    pairs
        .map(|pair| {
            if !is_file_name(pair[0]) {
                return Err(ExportError::BadName(pair[0].to_owned()));
            }
            Ok((pair[0].to_owned(), pair[1].to_owned()))
        })
        .collect()
}

impl References<'_> {
    /// Returns the files that a derivation without structured attributes asks for: name and text.
    ///
    /// The text is what `nix-store --register-validity` reads, without derivers.
    pub(crate) fn files(&self, drv: &Derivation) -> Result<Vec<(String, Vec<u8>)>, ExportError> {
        pairs(drv)?
            .into_iter()
            .map(|(name, path)| {
                let graph = self.graph(&[&path])?;
                Ok((name, self.registration(&graph).into_bytes()))
            })
            .collect()
    }

    /// Returns what structured attributes ask for: attribute and value.
    pub(crate) fn attributes(
        &self,
        attributes: &Attributes<'_>,
    ) -> Result<BTreeMap<String, Value>, ExportError> {
        let wanted = attributes.structured().and_then(|map| map.get(ATTRIBUTE));
        // Nix looks at nothing but an object here.
        let Some(Value::Object(wanted)) = wanted else {
            return Ok(BTreeMap::new());
        };
        wanted
            .iter()
            .map(|(key, value)| {
                let mut paths = Vec::new();
                flatten(key, value, &mut paths)?;
                let graph = self.graph(&paths)?;
                Ok((key.clone(), self.described(&graph)?))
            })
            .collect()
    }

    /// Looks up the closure of paths, and of the outputs of derivations in it.
    fn graph(&self, wanted: &[&str]) -> Result<Vec<PathInfo>, ExportError> {
        let dir = self.store.store_dir();
        let mut roots = Vec::new();
        for text in wanted {
            let (path, _inside) = StorePath::split_absolute(dir, text)
                .map_err(|_bad| ExportError::NoPath((*text).to_owned()))?;
            if !self.inputs.contains(&path) {
                return Err(ExportError::NoInput((*text).to_owned()));
            }
            roots.push(path);
        }
        let mut closure = self.store.closure(&roots)?;
        let drvs: Vec<StorePath> = closure
            .iter()
            .filter(|path| path.is_derivation())
            .cloned()
            .collect();
        for path in drvs {
            let shown = || path.absolute(dir);
            let text = self.store.get_drv(&path)?;
            let drv = text.and_then(|text| Derivation::parse_aterm(&text, dir).ok());
            let Some(drv) = drv else { continue };
            for output in drv.outputs.keys() {
                let name = Derivation::name_from_path(&path);
                let output = drv
                    .output_path(dir, name, output)
                    .ok_or_else(|| ExportError::Unknown(shown()))?;
                closure.extend(self.store.closure(&[output])?);
            }
        }
        let mut infos = Vec::with_capacity(closure.len());
        for path in &closure {
            if let Some(info) = self.store.query(path)? {
                infos.push(info);
            }
        }
        Ok(infos)
    }

    fn registration(&self, graph: &[PathInfo]) -> String {
        let dir = self.store.store_dir();
        let mut text = String::new();
        for info in graph {
            // The empty line is where the deriver would be.
            text.push_str(&format!(
                "{}\n\n{}\n",
                info.path.absolute(dir),
                info.references.len()
            ));
            for reference in &info.references {
                text.push_str(&reference.absolute(dir));
                text.push('\n');
            }
        }
        text
    }

    fn described(&self, graph: &[PathInfo]) -> Result<Value, ExportError> {
        let dir = self.store.store_dir();
        let sizes: BTreeMap<&StorePath, u64> = graph
            .iter()
            .map(|info| (&info.path, info.nar_size))
            .collect();
        let mut list = Vec::with_capacity(graph.len());
        for info in graph {
            let closure = self.store.closure(std::slice::from_ref(&info.path))?;
            let closure_size: u64 = closure.iter().filter_map(|path| sizes.get(path)).sum();
            let references: Vec<String> = info.references.iter().map(|r| r.absolute(dir)).collect();
            let mut one = Map::new();
            one.insert("path".to_owned(), json!(info.path.absolute(dir)));
            if info.kind == ObjectKind::Tree {
                let hash = self.store.nar_sha256(info)?;
                let digits = Hash::from(hash).to_nix32();
                one.insert("narHash".to_owned(), json!(format!("sha256:{digits}")));
            }
            one.insert("narSize".to_owned(), json!(info.nar_size));
            one.insert("references".to_owned(), json!(references));
            if let Some(ca) = &info.ca {
                one.insert("ca".to_owned(), json!(ca));
            }
            one.insert("closureSize".to_owned(), json!(closure_size));
            list.push(Value::Object(one));
        }
        Ok(Value::Array(list))
    }
}

fn is_file_name(name: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    name.chars().all(ok) && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
}

/// How deep lists of paths may be nested; the reader of JSON allows more.
const MAX_DEPTH: usize = 64;

fn flatten<'a>(key: &str, value: &'a Value, into: &mut Vec<&'a str>) -> Result<(), ExportError> {
    let mut left = vec![(value, 0)];
    while let Some((value, depth)) = left.pop() {
        match value {
            Value::String(text) => into.push(text),
            Value::Array(list) if depth < MAX_DEPTH => {
                left.extend(list.iter().map(|value| (value, depth + 1)));
            }
            _ => return Err(ExportError::BadValue(key.to_owned())),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files() {
        for good in ["graph", "_g.1-x", "G"] {
            assert!(is_file_name(good), "{good}");
        }
        for bad in ["", ".x", "-x", "1", "a/b", "../a", "ä"] {
            assert!(!is_file_name(bad), "{bad}");
        }
    }

    #[test]
    fn lists_in_lists() {
        let value = json!(["a", ["b", ["c"]]]);
        let mut paths = Vec::new();
        flatten("g", &value, &mut paths).unwrap();
        paths.sort_unstable();
        assert_eq!(paths, ["a", "b", "c"]);
        assert!(flatten("g", &json!([1]), &mut paths).is_err());
    }
}
