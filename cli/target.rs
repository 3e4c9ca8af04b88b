//! What a person names on the command line: `[FILE|DIR|FLAKE][#ATTR][^OUTPUT]`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::flake_ref::FlakeRef;
use sos_formats::store_path::StorePath;

use crate::evaluate::Item;
use crate::flake;

/// A parsed target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// As the person wrote it.
    pub(crate) text: String,
    /// What it points at.
    pub(crate) source: Source,
    /// Attribute path behind `#`; empty for the whole file.
    pub(crate) attr: String,
    /// Output behind `^`; none for the default one.
    pub(crate) output: Option<String>,
}

/// Where a target comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// A Nix file: `sos.nix`, `*.nix`.
    Nix(PathBuf),
    /// A Debian rootfs recipe: `*.rootfs.toml`.
    Rootfs(PathBuf),
    /// A tree of bootstrap steps: a directory with `steps/manifest`.
    Bootstrap(PathBuf),
    /// A flake: a directory with `flake.nix`, or a URL such as `github:owner/repo`.
    Flake(FlakeRef),
    /// An expression given with `-E`.
    Expression(String),
    /// A path inside the logical store, or a derivation there.
    StorePath(String),
    /// A derivation that another program wrote, with its inputs beside it: `*.drv`.
    Derivation(PathBuf),
}

impl Target {
    /// Parses `text`; a directory means the recipe in it.
    ///
    /// # Errors
    /// `target-not-found` when no such file or recipe exists, `target-unknown-kind` when the file is no recipe.
    pub(crate) fn parse(text: &str, store_dir: &str) -> Result<Self, Box<Diagnostic>> {
        let (rest, output) = match text.rsplit_once('^') {
            Some((rest, output)) if !output.is_empty() && !output.contains('/') => {
                (rest, Some(output.to_owned()))
            }
            _ => (text, None),
        };
        if flake::is_url(rest) {
            let (reference, attr) = flake::of_url(rest)?;
            return Ok(Self {
                text: text.to_owned(),
                source: Source::Flake(reference),
                attr,
                output,
            });
        }
        let (place, attr) = match rest.split_once('#') {
            Some((place, attr)) => (place, attr),
            None => (rest, ""),
        };
        let place = if place.is_empty() { "." } else { place };
        let source = if place.starts_with(&format!("{store_dir}/")) && !Path::new(place).is_file() {
            Source::StorePath(place.to_owned())
        } else {
            Self::locate(Path::new(place), text)?
        };
        Ok(Self {
            text: text.to_owned(),
            source,
            attr: attr.to_owned(),
            output,
        })
    }

    /// The attribute `attr` of this target.
    pub(crate) fn below(self, attr: &str) -> Self {
        let (text, whole) = if self.attr.is_empty() {
            (format!("{}#{attr}", self.text), attr.to_owned())
        } else {
            (
                format!("{}.{attr}", self.text),
                format!("{}.{attr}", self.attr),
            )
        };
        Self {
            text,
            attr: whole,
            ..self
        }
    }

    /// A target for an expression given on the command line.
    pub(crate) fn expression(expression: &str, attr: &str) -> Self {
        Self {
            text: if attr.is_empty() {
                "expression".to_owned()
            } else {
                format!("expression#{attr}")
            },
            source: Source::Expression(expression.to_owned()),
            attr: attr.to_owned(),
            output: None,
        }
    }

    /// A target for `attr` of `file`, whatever the file is called.
    pub(crate) fn of_file(file: &Path, attr: &str) -> Result<Self, Box<Diagnostic>> {
        let text = if attr.is_empty() {
            file.display().to_string()
        } else {
            format!("{}#{attr}", file.display())
        };
        // As in Nix, a directory means the `default.nix` in it, whatever else it holds.
        let default = file.join("default.nix");
        if file.is_dir() && default.is_file() {
            return Ok(Self {
                text,
                source: Source::Nix(absolute(&default)),
                attr: attr.to_owned(),
                output: None,
            });
        }
        let source = match Self::locate(file, &text) {
            Err(e) if e.code == "target-unknown-kind" => Source::Nix(absolute(file)),
            other => other?,
        };
        Ok(Self {
            text,
            source,
            attr: attr.to_owned(),
            output: None,
        })
    }

    fn locate(place: &Path, text: &str) -> Result<Source, Box<Diagnostic>> {
        let Ok(meta) = place.metadata() else {
            return Err(Box::new(
                Diagnostic::error(
                    "target-not-found",
                    Class::Recipe,
                    format!("no such file or directory: `{}`", place.display()),
                )
                .note(format!(
                    "a target is `[FILE|DIR][#ATTR][^OUTPUT]`; this one was read from `{text}`"
                ))
                .help("name a recipe file, or make one with `sos init`"),
            ));
        };
        if !meta.is_dir() {
            return Self::kind_of(&absolute(place)).ok_or_else(|| {
                Box::new(
                    Diagnostic::error(
                        "target-unknown-kind",
                        Class::Recipe,
                        format!("`{}` is not a recipe", place.display()),
                    )
                    .note("recipes are `sos.nix` or any `*.nix`, and `*.rootfs.toml`; a `*.drv` is built as it is")
                    .help(format!(
                        "to evaluate it as a Nix expression, use `--file {}`",
                        place.display()
                    )),
                )
            });
        }
        let file = place.join("sos.nix");
        if file.is_file() {
            return Ok(Source::Nix(absolute(&file)));
        }
        if place.join("flake.nix").is_file() {
            return Ok(Source::Flake(flake::of_directory(place)?));
        }
        if place.join("steps/manifest").is_file() {
            // Steps that say themselves what they begin with are built as they say.
            let own = place.join("steps/sos.nix");
            if own.is_file() {
                return Ok(Source::Nix(absolute(&own)));
            }
            return Ok(Source::Bootstrap(absolute(place)));
        }
        let entries = std::fs::read_dir(place).map_err(|e| {
            Box::new(
                Diagnostic::error(
                    "target-unreadable",
                    if e.kind() == std::io::ErrorKind::PermissionDenied {
                        Class::Machine
                    } else {
                        Class::Recipe
                    },
                    format!("cannot look into `{}`: {e}", place.display()),
                )
                .help(format!("`ls -ld {}` shows who may", place.display())),
            )
        })?;
        let mut recipes: Vec<PathBuf> = entries
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.to_string_lossy().ends_with(".rootfs.toml"))
            .collect();
        recipes.sort();
        match recipes.as_slice() {
            [one] => Ok(Source::Rootfs(absolute(one))),
            [] => Err(Box::new(
                Diagnostic::error(
                    "target-not-found",
                    Class::Recipe,
                    format!("no recipe in `{}`", place.display()),
                )
                .note("looked for `sos.nix`, `flake.nix`, `steps/manifest` and `*.rootfs.toml`")
                .help(format!(
                    "`sos init {}` makes a small working project",
                    place.display()
                )),
            )),
            several => Err(Box::new(
                Diagnostic::error(
                    "target-ambiguous",
                    Class::Recipe,
                    format!("`{}` holds {} recipes", place.display(), several.len()),
                )
                .help(format!(
                    "name one: `{}`",
                    several
                        .iter()
                        .map(|p| p
                            .file_name()
                            .unwrap_or_default()
                            .to_string_lossy()
                            .into_owned())
                        .collect::<Vec<_>>()
                        .join("`, `")
                )),
            )),
        }
    }

    fn kind_of(file: &Path) -> Option<Source> {
        let name = file.file_name()?.to_string_lossy();
        if name.ends_with(".rootfs.toml") {
            Some(Source::Rootfs(file.to_owned()))
        } else if name.ends_with(".nix") {
            Some(Source::Nix(file.to_owned()))
        } else if name.ends_with(".drv") {
            Some(Source::Derivation(file.to_owned()))
        } else {
            None
        }
    }

    /// Whether a file of this name is a recipe.
    pub(crate) fn is_recipe(file: &Path) -> bool {
        Self::kind_of(file).is_some()
    }

    /// The file that the target is in.
    pub(crate) fn file(&self) -> Option<&Path> {
        match &self.source {
            Source::Nix(f) | Source::Rootfs(f) => Some(f),
            Source::Bootstrap(_)
            | Source::Flake(_)
            | Source::Expression(_)
            | Source::StorePath(_)
            | Source::Derivation(_) => None,
        }
    }

    /// Directory whose `sos.lock` pins this target; none for expressions and store paths.
    pub(crate) fn directory(&self) -> Option<PathBuf> {
        match &self.source {
            Source::Nix(f) | Source::Rootfs(f) => f.parent().map(Path::to_path_buf),
            Source::Bootstrap(dir) => Some(dir.clone()),
            Source::Flake(_)
            | Source::Expression(_)
            | Source::StorePath(_)
            | Source::Derivation(_) => None,
        }
    }
}

/// The directory of what is built: that of the first target which has one, else the current one.
pub(crate) fn project(targets: &[Target]) -> String {
    let dir = targets.iter().find_map(Target::directory);
    let dir = dir
        .or_else(|| std::env::current_dir().ok())
        .unwrap_or_default();
    let dir = std::fs::canonicalize(&dir).unwrap_or(dir);
    dir.to_string_lossy().into_owned()
}

/// The attribute path of every derivation that is all that one target stands for, with the file or flake that it is in. The
/// same words from another directory give the same.
pub(crate) fn attrs(targets: &[Target], values: &[Vec<Item>]) -> BTreeMap<StorePath, String> {
    let project = PathBuf::from(project(targets));
    let mut found = BTreeMap::new();
    for (target, items) in targets.iter().zip(values) {
        let [Item::Derivation { drv, .. }] = items.as_slice() else {
            continue;
        };
        let key = match &target.source {
            Source::Nix(file) | Source::Rootfs(file) | Source::Bootstrap(file) => {
                let whole = std::fs::canonicalize(file).unwrap_or_else(|_| file.clone());
                let below = whole.strip_prefix(&project).unwrap_or(&whole);
                format!("{}#{}", below.display(), target.attr)
            }
            Source::Flake(_) => target.text.clone(),
            Source::Expression(_) | Source::StorePath(_) | Source::Derivation(_) => continue,
        };
        found.insert(drv.clone(), key);
    }
    found
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_dir(files: &[&str], check: impl FnOnce(&Path)) {
        let dir = tempfile::tempdir().unwrap();
        for f in files {
            std::fs::write(dir.path().join(f), "").unwrap();
        }
        check(dir.path());
    }

    #[test]
    fn a_directory_means_its_sos_nix() {
        in_dir(&["sos.nix", "a.rootfs.toml"], |d| {
            let t = Target::parse(&format!("{}#a.b^dev", d.display()), "/nix/store").unwrap();
            assert_eq!(t.source, Source::Nix(d.join("sos.nix")));
            assert_eq!((t.attr.as_str(), t.output.as_deref()), ("a.b", Some("dev")));
        });
    }

    #[test]
    fn a_directory_with_a_flake_means_that_unless_it_has_a_recipe_of_sos() {
        in_dir(&["flake.nix"], |d| {
            let t = Target::parse(&format!("{}#x", d.display()), "/nix/store").unwrap();
            assert!(matches!(t.source, Source::Flake(_)));
        });
        in_dir(&["flake.nix", "sos.nix"], |d| {
            let t = Target::parse(&d.display().to_string(), "/nix/store").unwrap();
            assert!(matches!(t.source, Source::Nix(_)));
        });
    }

    #[test]
    fn a_directory_with_one_rootfs_recipe_means_that() {
        in_dir(&["a.rootfs.toml"], |d| {
            let t = Target::parse(&d.display().to_string(), "/nix/store").unwrap();
            assert_eq!(t.source, Source::Rootfs(d.join("a.rootfs.toml")));
        });
        in_dir(&["a.rootfs.toml", "b.rootfs.toml"], |d| {
            assert_eq!(
                Target::parse(&d.display().to_string(), "/nix/store")
                    .unwrap_err()
                    .code,
                "target-ambiguous"
            );
        });
    }

    #[test]
    fn a_directory_of_steps_means_their_own_recipe_if_they_have_one() {
        in_dir(&[], |d| {
            std::fs::create_dir(d.join("steps")).unwrap();
            std::fs::write(d.join("steps/manifest"), "").unwrap();
            let source = || Target::parse(&d.display().to_string(), "/nix/store").map(|t| t.source);
            assert_eq!(source().unwrap(), Source::Bootstrap(d.to_owned()));
            std::fs::write(d.join("steps/sos.nix"), "").unwrap();
            assert_eq!(source().unwrap(), Source::Nix(d.join("steps/sos.nix")));
        });
    }

    #[test]
    fn what_is_missing_or_no_recipe_is_said() {
        in_dir(&["x.txt"], |d| {
            assert_eq!(
                Target::parse(&d.join("y").display().to_string(), "/nix/store")
                    .unwrap_err()
                    .code,
                "target-not-found"
            );
            assert_eq!(
                Target::parse(&d.join("x.txt").display().to_string(), "/nix/store")
                    .unwrap_err()
                    .code,
                "target-unknown-kind"
            );
            assert_eq!(
                Target::parse(&d.display().to_string(), "/nix/store")
                    .unwrap_err()
                    .code,
                "target-not-found"
            );
        });
    }

    #[test]
    fn store_paths_are_told_apart() {
        let t = Target::parse(
            "/nix/store/xpcvxsx5sw4rbq666blz6sxqlmsqphmr-foo",
            "/nix/store",
        )
        .unwrap();
        assert!(matches!(t.source, Source::StorePath(_)));
    }
}
