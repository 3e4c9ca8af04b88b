//! `.drv` files that another program wrote, real Nix for one: read with all that they need from the directory they are in.
//!
//! Nothing there is believed: a derivation is taken when its name follows from its text, a source when its name follows
//! from its content.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use sos_engine::Graph;
use sos_formats::derivation::{Derivation, Method};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Sha256;
use sos_formats::store_path::{StorePath, make_text};
use sos_store::Store;

use crate::evaluate::{self, Item};
use crate::failure::Failure;

/// The largest file that is read as a derivation or as a text with references.
const MAX_TEXT_BYTES: u64 = 256 << 20;

/// Reads the derivation in `file` and everything below it into the graph, and its sources into the store unless `dry`.
///
/// # Errors
/// `drv-malformed` and `drv-wrong-name` for files that are no derivations of their name, `drv-missing-input` for what is
/// neither in the store nor beside the file, `drv-unproven-source` for a source whose name does not follow from its content.
pub(crate) fn load(
    store: &Store,
    file: &Path,
    output: Option<&str>,
    dry: bool,
    graph: &mut Graph,
) -> Result<Item, Failure> {
    let named = file.file_name().and_then(|name| name.to_str());
    let path = named
        .and_then(|name| StorePath::from_base(name).ok())
        .filter(StorePath::is_derivation)
        .ok_or_else(|| {
            Diagnostic::error(
                "drv-wrong-name",
                Class::Usage,
                format!(
                    "`{}` does not have the name of a derivation in a store",
                    file.display()
                ),
            )
            .note("a derivation is called `<32 digits>-<name>.drv`, and lies beside its inputs")
        })?;
    let place = Place {
        store,
        dir: file.parent().unwrap_or(Path::new(".")).to_owned(),
        dry,
    };
    let root = place.read_all(&path, graph)?;
    let outputs = match output {
        None | Some("*") => root.outputs.keys().cloned().collect(),
        Some(named) => {
            let known: Vec<String> = root.outputs.keys().cloned().collect();
            evaluate::chosen(named, Derivation::name_from_path(&path), &known)?
        }
    };
    Ok(Item::Derivation { drv: path, outputs })
}

/// The directory that stands for another store.
struct Place<'a> {
    store: &'a Store,
    dir: PathBuf,
    dry: bool,
}

impl Place<'_> {
    /// Reads a derivation and all that it is made from, and returns the first.
    fn read_all(&self, root: &StorePath, graph: &mut Graph) -> Result<Derivation, Failure> {
        let mut first = None;
        let mut met = BTreeSet::from([root.clone()]);
        let mut todo = vec![root.clone()];
        let mut sources = BTreeMap::new();
        while let Some(path) = todo.pop() {
            let (drv, text) = self.derivation(&path)?;
            let below = drv.input_drvs.keys().chain(&drv.input_srcs);
            for input in below {
                if input.is_derivation() {
                    if met.insert(input.clone()) {
                        todo.push(input.clone());
                    }
                } else {
                    sources.entry(input.clone()).or_insert_with(|| path.clone());
                }
            }
            graph.texts.insert(path.clone(), text.into());
            first.get_or_insert(drv);
        }
        if !self.dry {
            for (source, user) in &sources {
                self.import(source, user)?;
            }
        }
        first.ok_or_else(|| self.missing(root, root).into())
    }

    fn derivation(&self, path: &StorePath) -> Result<(Derivation, Vec<u8>), Failure> {
        let file = self.dir.join(path.as_str());
        let text = match self.read(&file)? {
            Some(text) => text,
            None => self
                .store
                .get_drv(path)?
                .ok_or_else(|| self.missing(path, path))?,
        };
        let dir = self.store.store_dir();
        let drv = Derivation::parse_aterm(&text, dir).map_err(|e| {
            Diagnostic::error(
                "drv-malformed",
                Class::Other,
                format!("the derivation `{}` cannot be read: {e}", file.display()),
            )
        })?;
        let name = Derivation::name_from_path(path);
        if drv.drv_path_of_aterm(dir, name, &text).ok().as_ref() != Some(path) {
            return Err(Failure::new(
                Diagnostic::error(
                    "drv-wrong-name",
                    Class::Other,
                    format!(
                        "the name of `{}` does not follow from what is in it",
                        file.display()
                    ),
                )
                .note("it was changed or damaged after it was written"),
            ));
        }
        Ok((drv, text))
    }

    /// Takes a source into the store, after the sources that it refers to.
    fn import(&self, source: &StorePath, user: &StorePath) -> Result<(), Failure> {
        let mut met = BTreeSet::new();
        let mut stack = vec![source.clone()];
        while let Some(path) = stack.last().cloned() {
            if self.store.is_present(&path)? {
                stack.pop();
                continue;
            }
            let place = self.dir.join(path.as_str());
            let Ok(meta) = place.symlink_metadata() else {
                return Err(self.missing(&path, user).into());
            };
            if self.import_as_file(&path, &place, meta.is_file())? {
                stack.pop();
                continue;
            }
            let text = if meta.is_file() {
                self.read(&place)?
            } else {
                None
            };
            let references = text
                .as_deref()
                .and_then(|text| self.references(&path, text));
            let (Some(text), Some(references)) = (text, references) else {
                return Err(self.unproven(&path, user).into());
            };
            // They come first; a circle of hashes cannot be.
            let missing: Vec<StorePath> = references
                .iter()
                .filter(|path| met.insert((*path).clone()))
                .cloned()
                .collect();
            if missing.is_empty() {
                self.store.add_text(path.name(), &text, &references)?;
                stack.pop();
            } else {
                stack.extend(missing);
            }
        }
        Ok(())
    }

    /// Adds a source that refers to nothing, if it is one.
    fn import_as_file(&self, path: &StorePath, place: &Path, file: bool) -> Result<bool, Failure> {
        let methods: &[Method] = if file {
            &[Method::Recursive, Method::Flat]
        } else {
            &[Method::Recursive]
        };
        for method in methods {
            let of_content = self.store.compute_path(place, path.name(), *method, None);
            // An executable file has no flat hash.
            if of_content.is_ok_and(|found| found == *path) {
                self.store.add_path(place, path.name(), *method, None)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Finds what a text refers to, if its name follows from that: everything that it names, or nothing.
    fn references(&self, path: &StorePath, text: &[u8]) -> Option<BTreeSet<StorePath>> {
        let dir = self.store.store_dir();
        let hash = Sha256::of(text);
        let named = paths_in(text, dir.as_str());
        [named, BTreeSet::new()].into_iter().find(|references| {
            make_text(dir, path.name(), &hash, references).is_ok_and(|found| found == *path)
        })
    }

    fn read(&self, file: &Path) -> Result<Option<Vec<u8>>, Failure> {
        let failed =
            |e: &std::io::Error| Failure::io(&format!("cannot read `{}`", file.display()), e);
        match file.metadata() {
            Ok(meta) if meta.is_file() && meta.len() <= MAX_TEXT_BYTES => {
                std::fs::read(file).map(Some).map_err(|e| failed(&e))
            }
            Ok(_) => Err(Failure::new(Diagnostic::error(
                "drv-malformed",
                Class::Other,
                format!(
                    "`{}` is no file, or too large to be read as a text",
                    file.display()
                ),
            ))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(&e)),
        }
    }

    fn missing(&self, path: &StorePath, user: &StorePath) -> Diagnostic {
        let shown = path.absolute(self.store.store_dir());
        Diagnostic::error(
            "drv-missing-input",
            Class::Other,
            format!(
                "`{shown}` is neither in the store nor in `{}`",
                self.dir.display()
            ),
        )
        .note(format!("`{}` needs it", Derivation::name_from_path(user)))
    }

    fn unproven(&self, path: &StorePath, user: &StorePath) -> Diagnostic {
        let shown = path.absolute(self.store.store_dir());
        Diagnostic::error(
            "drv-unproven-source",
            Class::Other,
            format!("the name of `{shown}` does not follow from its content, so nothing tells that it is what it says"),
        )
        .note(format!(
            "`{}` uses it as a source; most likely it is the result of another build",
            Derivation::name_from_path(user)
        ))
        .help("build it here, from its own derivation or recipe, first")
    }
}

/// Finds every store path that a text names.
fn paths_in(text: &[u8], dir: &str) -> BTreeSet<StorePath> {
    let prefix = format!("{dir}/").into_bytes();
    let mut found = BTreeSet::new();
    let mut at = 0;
    while let Some(slash) = text[at..].iter().position(|byte| *byte == b'/') {
        let start = at + slash;
        at = start + 1;
        if !text[start..].starts_with(&prefix) {
            continue;
        }
        let rest = &text[start + prefix.len()..];
        let ok = |b: &u8| b.is_ascii_alphanumeric() || b"+-._?=".contains(b);
        let length = rest.iter().position(|b| !ok(b)).unwrap_or(rest.len());
        let base = std::str::from_utf8(&rest[..length]).unwrap_or_default();
        if let Ok(path) = StorePath::from_base(base) {
            found.insert(path);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_a_text_names() {
        let hash = "c308p525g51kyw8nqxynl1pqbd6nyihx";
        let text = format!(
            "x /nix/store/{hash}-a/bin /nix/store/{hash}-b\n//nix/store/{hash}-c:/nix/store/short-d /nix/stor"
        );
        let found: Vec<String> = paths_in(text.as_bytes(), "/nix/store")
            .iter()
            .map(|path| path.name().to_owned())
            .collect();
        assert_eq!(found, ["a", "b", "c"]);
    }
}
