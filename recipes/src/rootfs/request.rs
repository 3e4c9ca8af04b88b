//! From a recipe to what a resolver is asked, reading the files that the recipe names.

use std::path::{Path, PathBuf};

use sos_formats::hash::Sha256;
use sos_formats::lock::{Keyring, LocalDeb, RootfsRequest, RootfsSource, Wanted};
use sos_lang::{FileType, Host};

use super::fields::Located;
use super::model::{EditSpec, FileKind, FileRef, RootfsRecipe, SourceSpec};
use crate::problems::Problems;

/// Returns the request, or records in `problems` which files could not be read.
pub(crate) fn request(
    recipe: &RootfsRecipe,
    base: &Path,
    host: &dyn Host,
    problems: &mut Problems,
) -> Option<RootfsRequest> {
    let before = problems.count();
    check_sources(&recipe.edit, &recipe.sources, base, host, problems);
    let sources = recipe
        .sources
        .iter()
        .filter_map(|s| source(s, base, host, problems))
        .collect();
    let debs = recipe
        .debs
        .iter()
        .filter_map(|d| local_deb(d, base, host, problems))
        .collect();
    let wanted = |list: &[Located<String>], problems: &Problems| -> Vec<Wanted> {
        list.iter().map(|l| wanted(l, problems)).collect()
    };
    let request = RootfsRequest {
        name: recipe.name.clone(),
        arch: recipe.arch.clone(),
        sources,
        variant: recipe.variant,
        include: wanted(&recipe.include, problems),
        exclude: wanted(&recipe.exclude, problems),
        recommends: recipe.recommends,
        debs,
    };
    (problems.count() == before).then_some(request)
}

/// Directories of every Debian root filesystem: anything else in their place would be refused after the packages are there.
const DIRECTORIES: &[&str] = &[
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/home",
    "/lib",
    "/media",
    "/mnt",
    "/opt",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/srv",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/bin",
    "/usr/lib",
    "/usr/local",
    "/usr/sbin",
    "/usr/share",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/log",
    "/var/tmp",
];

/// Records which placed paths cannot all be there: a file where a directory must be.
fn check_paths(edit: &EditSpec, base: &Path, host: &dyn Host, problems: &mut Problems) {
    for file in &edit.files {
        let path = &file.path.value;
        let what = match &file.kind {
            FileKind::Content(..) => "a file",
            FileKind::Symlink(_) => "a symlink",
            FileKind::Source(source) => match host.file_type(&source.value.locate(base)) {
                Ok(Some(FileType::Regular)) if !matches!(source.value, FileRef::Store(..)) => {
                    "a file"
                }
                _ => continue,
            },
            FileKind::Directory => continue,
        };
        if DIRECTORIES.contains(&path.as_str()) {
            let message =
                format!("`{path}` is placed as {what}, and is a directory of every Debian");
            let problem = problems.error(
                "recipe-path-clash",
                message,
                &file.path.place,
                format!("{what} cannot be here"),
            );
            problems.add(problem.help("name the file in it, as in `/etc/motd`"));
        }
        // What is placed below a symlink goes where that leads.
        if what == "a symlink" {
            continue;
        }
        let is_below = |other: &str| {
            let rest = other.strip_prefix(path.as_str());
            rest.is_some_and(|rest| rest.starts_with('/'))
        };
        for other in edit.files.iter().filter(|o| is_below(&o.path.value)) {
            let message = format!(
                "`{}` cannot be placed below `{path}`, which is placed as {what}",
                other.path.value
            );
            let problem = problems
                .error(
                    "recipe-path-clash",
                    message,
                    &other.path.place,
                    "below a file",
                )
                .with_labels(problems.label(&file.path.place, "the file"));
            problems.add(problem);
        }
    }
}

/// Records which files that an edit places are not there, or cannot be together: the place in the recipe is known only here.
/// Keyrings of `sources` are placed for apt, too; what is wrong with one is said where the source is read.
pub(crate) fn check_sources(
    edit: &EditSpec,
    sources: &[SourceSpec],
    base: &Path,
    host: &dyn Host,
    problems: &mut Problems,
) {
    check_paths(edit, base, host, problems);
    for file in &edit.files {
        let FileKind::Source(source) = &file.kind else {
            continue;
        };
        // What is named by a text of the Nix language may still have to be built.
        if matches!(source.value, FileRef::Store(..)) {
            continue;
        }
        if sources.iter().any(|s| s.keyring.as_ref() == Some(source)) {
            continue;
        }
        let why = match host.file_type(&source.value.locate(base)) {
            Ok(Some(FileType::Directory)) if file.mode.is_some() => {
                "it is a directory, whose files keep their executable bits: remove `mode`"
                    .to_owned()
            }
            Ok(Some(_)) => continue,
            Ok(None) => "there is no such file".to_owned(),
            Err(e) => e.to_string(),
        };
        let message = format!(
            "`{}` cannot be placed at `{}`: {why}",
            source.value.shown(),
            file.path.value
        );
        let problem = problems.error("recipe-file-missing", message, &source.place, "named here");
        problems.add(problem);
    }
}

fn wanted(l: &Located<String>, problems: &Problems) -> Wanted {
    Wanted {
        text: l.value.clone(),
        label: problems.label(&l.place, "asked for here"),
    }
}

fn source(
    s: &SourceSpec,
    base: &Path,
    host: &dyn Host,
    problems: &mut Problems,
) -> Option<RootfsSource> {
    let keyring = match &s.keyring {
        None => Keyring::Debian,
        Some(file) => Keyring::File {
            name: file.value.shown(),
            bytes: read("keyring", file, base, host, problems)?,
        },
    };
    let suites = s.suites.iter().map(|l| wanted(l, problems)).collect();
    let component = |l: &Located<String>| Wanted {
        text: l.value.clone(),
        // What the recipe does not name has no place.
        label: l.place.as_ref().and_then(|_| problems.label(&l.place, "")),
    };
    Some(RootfsSource {
        uri: s.uri.clone(),
        suites,
        components: s.components.iter().map(component).collect(),
        keyring,
        snapshot: s.snapshot.clone(),
    })
}

fn local_deb(
    file: &Located<FileRef>,
    base: &Path,
    host: &dyn Host,
    problems: &mut Problems,
) -> Option<LocalDeb> {
    let bytes = read("package", file, base, host, problems)?;
    Some(LocalDeb {
        path: Wanted {
            text: file.value.shown(),
            label: problems.label(&file.place, "asked for here"),
        },
        physical: file.value.locate(base),
        sha256: Sha256::of(&bytes),
        size: bytes.len() as u64,
    })
}

fn read(
    what: &str,
    file: &Located<FileRef>,
    base: &Path,
    host: &dyn Host,
    problems: &mut Problems,
) -> Option<Vec<u8>> {
    match host.read_file(&file.value.locate(base)) {
        Ok(bytes) => Some(bytes),
        Err(e) => {
            let message = format!("the {what} `{}` cannot be read: {e}", file.value.shown());
            let problem = problems.error("recipe-file-missing", message, &file.place, "named here");
            problems.add(problem);
            None
        }
    }
}

impl FileRef {
    /// Returns the name as the recipe writes it; of absolute paths only the last part, since the rest is this machine's.
    pub(crate) fn shown(&self) -> String {
        let path = match self {
            Self::Relative(s) => return s.clone(),
            Self::Store(s, _) => Path::new(s),
            Self::Path(p) => p,
        };
        path.file_name().map_or_else(
            || path.display().to_string(),
            |n| n.to_string_lossy().into_owned(),
        )
    }

    /// Returns where the file is.
    pub(crate) fn locate(&self, base: &Path) -> PathBuf {
        match self {
            Self::Relative(s) => base.join(s),
            Self::Path(p) => p.clone(),
            Self::Store(s, _) => PathBuf::from(s),
        }
    }
}
