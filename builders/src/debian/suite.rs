//! One suite: its release file, and the package indexes that the file names.

use std::sync::Arc;

use sos_formats::deb::Release;
use sos_formats::diagnostic::{Class, Diagnostic, Label, suggest};
use sos_formats::lock::{LockedSuite, RootfsSource, Wanted};

use super::archive::Archive;

/// A suite as it is now.
#[derive(Debug)]
pub(crate) struct Suite {
    /// What the lock says of it.
    pub(crate) locked: LockedSuite,
    /// The priority that apt gives its packages.
    pub(crate) pin: i32,
    /// The text of each index.
    pub(crate) indexes: Vec<Arc<String>>,
    /// How people call it, for messages.
    pub(crate) name: String,
}

impl Suite {
    /// Fetches and checks one suite of a source.
    pub(crate) fn fetch(
        archive: &Archive,
        source: &RootfsSource,
        suite: &Wanted,
        arch: &str,
    ) -> Result<Self, Box<Diagnostic>> {
        let uri = source.uri.trim_end_matches('/');
        let name = suite.text.as_str();
        // A name that ends in a slash is a directory of its own, without components.
        let flat = name.ends_with('/');
        let base = if flat {
            format!("{uri}/{}", name.trim_start_matches("./"))
        } else {
            format!("{uri}/dists/{name}/")
        };
        let label = |d: Box<Diagnostic>| Box::new(d.with_labels(suite.label.clone()));
        let signed = archive.release(&base, name, source).map_err(label)?;
        let release = &signed.release;
        let directories = if flat {
            vec![String::new()]
        } else {
            check(release, source, suite, arch)?;
            directories(release, source, arch)
        };
        let mut index = Vec::new();
        let mut indexes = Vec::new();
        for directory in directories {
            let (locked, text) = archive
                .index(&base, &directory, release, name)
                .map_err(label)?;
            index.push(locked);
            indexes.push(text);
        }
        let snapshot = source
            .snapshot
            .is_some()
            .then(|| signed.locked.date.replace(['-', ':'], ""));
        Ok(Self {
            pin: match (release.not_automatic, release.but_automatic_upgrades) {
                (false, _) => 500,
                (true, true) => 100,
                (true, false) => 1,
            },
            indexes,
            name: if flat {
                name.to_owned()
            } else {
                format!("{name} {}", source.component_names().join(" "))
            },
            locked: LockedSuite {
                uri: source.uri.clone(),
                suite: name.to_owned(),
                components: source.component_names(),
                inrelease: signed.locked.clone(),
                index,
                snapshot: snapshot.filter(|s| !s.is_empty()),
            },
        })
    }
}

/// The directories that hold the indexes of the wanted components.
fn directories(release: &Release, source: &RootfsSource, arch: &str) -> Vec<String> {
    let has_all = release.architectures.iter().any(|a| a == "all") && !release.all_in_each_arch;
    let mut arches = vec![arch];
    arches.extend(has_all.then_some("all"));
    let pairs = source
        .components
        .iter()
        .flat_map(|component| arches.iter().map(move |arch| (&component.text, arch)));
    pairs
        .map(|(component, arch)| format!("{component}/binary-{arch}/"))
        .collect()
}

/// Says whether a suite has what the recipe wants of it.
fn check(
    release: &Release,
    source: &RootfsSource,
    suite: &Wanted,
    arch: &str,
) -> Result<(), Box<Diagnostic>> {
    let name = &suite.text;
    if !release.architectures.iter().any(|a| a == arch) {
        let message = format!("`{name}` has no packages for `{arch}`");
        return Err(Box::new(
            Diagnostic::error("deb-unknown-arch", Class::Recipe, message)
                .note(format!("it has {}", release.architectures.join(", ")))
                .with_labels(suite.label.clone()),
        ));
    }
    let missing = |c: &&Wanted| !release.components.contains(&c.text);
    let Some(wanted) = source.components.iter().find(missing) else {
        return Ok(());
    };
    let component = &wanted.text;
    let message = format!("`{name}` has no component `{component}`");
    let mut diagnostic = Diagnostic::error("deb-unknown-component", Class::Recipe, message)
        .note(format!("it has {}", release.components.join(", ")))
        .with_labels(wanted.label.clone().or_else(|| suite.label.clone()));
    for known in suggest(component, release.components.iter().map(String::as_str)) {
        diagnostic = diagnostic.help(format!("did you mean `{known}`?"));
    }
    Err(Box::new(diagnostic))
}

/// Adds the place in the recipe to a problem.
pub(crate) fn labelled(diagnostic: Diagnostic, label: Option<&Label>) -> Diagnostic {
    diagnostic.with_labels(label.cloned())
}
