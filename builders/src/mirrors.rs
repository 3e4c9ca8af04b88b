//! What `mirror://NAME/path` stands for on this machine.
//!
//! No host of an archive is known to this program. A name is looked up in the environment (`SOS_MIRRORS_<NAME>`), then in
//! the configuration, then among the machine's own APT sources, where the last part of an entry's path is its name.

mod apt;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use sos_formats::diagnostic::{Class, Diagnostic};

const SCHEME: &str = "mirror://";

/// Splits a text that gives several mirrors: blanks or commas stand between them.
///
/// # Example
/// ```
/// let urls: Vec<&str> = sos_builders::mirrors::each("http://a.example, http://b.example/x").collect();
/// assert_eq!(urls, ["http://a.example", "http://b.example/x"]);
/// ```
pub fn each(list: &str) -> impl Iterator<Item = &str> {
    list.split(|c: char| c.is_whitespace() || c == ',')
        .filter(|url| !url.is_empty())
}

/// The lists of base URLs by mirror name.
#[derive(Debug, Clone, Default)]
pub struct Mirrors {
    named: BTreeMap<String, Vec<String>>,
    apt_root: Option<PathBuf>,
    apt: OnceLock<BTreeMap<String, Vec<String>>>,
}

impl Mirrors {
    /// Joins the configuration, the environment (lists separated by blanks or commas), and the APT sources below `root`.
    pub fn new(
        config: &BTreeMap<String, Vec<String>>,
        environment: &BTreeMap<String, String>,
        root: &Path,
    ) -> Self {
        let mut named = config.clone();
        for (name, list) in environment {
            named.insert(name.clone(), each(list).map(str::to_owned).collect());
        }
        named.retain(|_, urls| !urls.is_empty());
        Self {
            named,
            apt_root: Some(root.to_owned()),
            apt: OnceLock::new(),
        }
    }

    /// Gives every URL that may serve `mirror://NAME/path`, best first; any other URL stands for itself.
    ///
    /// # Errors
    /// When nothing says which servers the name means.
    pub fn expand(&self, url: &str) -> Result<Vec<String>, Box<Diagnostic>> {
        let Some(rest) = url.strip_prefix(SCHEME) else {
            return Ok(vec![url.to_owned()]);
        };
        let (name, path) = rest.split_once('/').unwrap_or((rest, ""));
        if name.is_empty() {
            let message = format!("`{url}` names no mirror, expected `mirror://NAME/path`");
            return Err(Box::new(Diagnostic::error(
                "mirror-unknown",
                Class::Recipe,
                message,
            )));
        }
        let bases = self.bases(name).ok_or_else(|| self.unknown(name))?;
        Ok(bases
            .iter()
            .map(|base| format!("{}/{path}", base.trim_end_matches('/')))
            .collect())
    }

    fn bases(&self, name: &str) -> Option<&[String]> {
        let bases = self.named.get(name).or_else(|| self.apt().get(name))?;
        Some(bases)
    }

    fn apt(&self) -> &BTreeMap<String, Vec<String>> {
        self.apt
            .get_or_init(|| self.apt_root.as_deref().map(apt::read).unwrap_or_default())
    }

    fn unknown(&self, name: &str) -> Box<Diagnostic> {
        let variable = format!("SOS_MIRRORS_{}", name.to_uppercase().replace('-', "_"));
        let known = self
            .named
            .keys()
            .chain(self.apt().keys())
            .map(String::as_str);
        let mut diagnostic = Diagnostic::error("mirror-unknown", Class::Machine, format!("no server is known for `mirror://{name}`"))
            .note(format!("looked in `{variable}`, in `mirrors.{name}` of the configuration, and in the APT sources of this machine"))
            .suggest(name, known);
        diagnostic = diagnostic.help(format!("set `{variable}=https://mirror.example/{name}`, or `mirrors.{name}` in the configuration"));
        Box::new(diagnostic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map<V: Clone>(pairs: &[(&str, V)]) -> BTreeMap<String, V> {
        pairs
            .iter()
            .map(|(k, v)| ((*k).to_owned(), v.clone()))
            .collect()
    }

    #[test]
    fn the_environment_wins_over_the_configuration() {
        let config = map(&[
            ("debian", vec!["https://config.example/debian/".to_owned()]),
            ("x", vec!["https://x.example".to_owned()]),
        ]);
        let environment = map(&[
            (
                "debian",
                "https://a.example/debian, https://b.example/debian/".to_owned(),
            ),
            ("x", String::new()),
        ]);
        let root = tempfile::tempdir().expect("temp");
        let mirrors = Mirrors::new(&config, &environment, root.path());
        let got = mirrors.expand("mirror://debian/dists/x").expect("known");
        assert_eq!(
            got,
            [
                "https://a.example/debian/dists/x",
                "https://b.example/debian/dists/x"
            ]
        );
        // An empty list is the same as none.
        assert_eq!(
            mirrors
                .expand("mirror://x/y")
                .expect_err("emptied by the environment")
                .code,
            "mirror-unknown"
        );
        assert_eq!(
            mirrors.expand("https://other.example/y").expect("itself"),
            ["https://other.example/y"]
        );
    }

    #[test]
    fn an_unknown_name_says_where_it_was_looked_for() {
        let err = Mirrors::default()
            .expand("mirror://debian-security/x")
            .expect_err("unknown");
        assert!(
            err.notes[0].contains("SOS_MIRRORS_DEBIAN_SECURITY"),
            "{err:?}"
        );
        assert_eq!(
            Mirrors::default()
                .expand("mirror:///x")
                .expect_err("no name")
                .class,
            Class::Recipe
        );
    }

    #[test]
    fn the_apt_sources_of_the_machine_are_the_last_resort() {
        let root = tempfile::tempdir().expect("temp");
        let parts = root.path().join("etc/apt/sources.list.d");
        std::fs::create_dir_all(&parts).expect("directories");
        std::fs::write(
            parts.join("debian.sources"),
            "Types: deb\nURIs: http://mirror.example/debian\nSuites: x\n",
        )
        .expect("write");
        let mirrors = Mirrors::new(&BTreeMap::new(), &BTreeMap::new(), root.path());
        assert_eq!(
            mirrors.expand("mirror://debian/a").expect("known"),
            ["http://mirror.example/debian/a"]
        );
    }
}
