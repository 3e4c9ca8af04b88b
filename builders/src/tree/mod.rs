//! Trees of files that a flake reference names, put into the store: directories, repositories of git and Mercurial, archives,
//! repositories of forges.
//!
//! The program `git` is run for what only it knows: how a repository is laid out and spoken to. The files of a revision come from its
//! objects, so that no attribute, filter or setting of this machine changes a byte of them. The program `hg` is run for the same, and writes
//! the files of a revision itself: without settings it has no filters.

mod archive;
mod directory;
mod export;
mod forge;
mod git;
mod hg;
mod mercurial;
mod repository;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use sos_formats::derivation::Method;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::flake_ref::{self, Attr, Attrs, FlakeRef};
use sos_formats::hash::{Hash, HashAlgo, Sha256};
use sos_formats::store_path::{self, StorePath};
use sos_store::Store;

use crate::fetch::Fetcher;

pub use archive::unpack_archive;

/// What fetching trees needs to know of this machine and this run.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Where copies of remote repositories are kept between runs.
    pub cache: PathBuf,
    /// The environment of this process; `git` and `hg` see the few variables of it that they need.
    pub environment: BTreeMap<String, String>,
    /// Whether the network may not be used.
    pub offline: bool,
    /// URLs of archives by the name of the forge: `{owner}`, `{repo}`, `{rev}` and `{host}` are replaced.
    pub forges: BTreeMap<String, String>,
}

/// What to fetch.
#[derive(Debug, Clone)]
pub struct Request {
    /// The attributes of a reference.
    pub attrs: Attrs,
    /// Name of the store object.
    pub name: String,
    /// Where a relative path starts, in the logical store.
    pub base: Option<PathBuf>,
}

/// What was fetched.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// Where it is.
    pub path: StorePath,
    /// What is known about it, with its `narHash`.
    pub attrs: Attrs,
    /// What a person should know.
    pub warnings: Vec<String>,
}

/// Fetches trees into a store.
#[derive(Debug, Clone)]
pub struct Trees {
    store: Store,
    fetcher: Fetcher,
    settings: Settings,
}

/// The answers of this module.
pub(crate) type Answer<T> = Result<T, Box<Diagnostic>>;

/// A tree before its hash is looked at.
struct Found {
    path: StorePath,
    attrs: Attrs,
    warnings: Vec<String>,
}

impl Trees {
    /// Fetches into `store`.
    pub fn new(store: Store, fetcher: Fetcher, settings: Settings) -> Self {
        Self {
            store,
            fetcher,
            settings,
        }
    }

    /// Fetches a tree; one that is in the store under the hash that is asked for is taken from there.
    ///
    /// # Errors
    /// When it cannot be had, and when it does not have the hash or the revision that is asked for.
    pub fn fetch(&self, request: &Request) -> Answer<Fetched> {
        let wanted = self.wanted(request)?;
        if let Some(path) = &wanted
            && known_enough(&request.attrs)
        {
            self.store
                .hold(std::slice::from_ref(path))
                .map_err(of_store)?;
            if self.store.is_valid(path).map_err(of_store)? {
                return Ok(Fetched {
                    path: path.clone(),
                    attrs: request.attrs.clone(),
                    warnings: Vec::new(),
                });
            }
        }
        let mut found = self.find(request)?;
        if wanted.is_some()
            && wanted.as_ref() != Some(&found.path)
            && flake_ref::kind(&request.attrs) == "git"
            && !request.attrs.contains_key("exportIgnore")
        {
            // Old versions of Nix left out what the repository keeps out of its archives; their locks are still about.
            let mut less = request.clone();
            less.attrs.insert("exportIgnore".into(), Attr::Bool(true));
            let other = self.find(&less)?;
            if wanted.as_ref() == Some(&other.path) {
                found = other;
            }
        }
        let info = self.store.query(&found.path).map_err(of_store)?;
        let Some(nar) = info.and_then(|i| i.nar_sha256) else {
            return Err(problem(
                "tree-lost",
                Class::Other,
                format!("`{}` has vanished from the store", found.path.base()),
            ));
        };
        let got = Hash::from(nar).to_sri();
        if let Some(expected) = flake_ref::text(&request.attrs, "narHash")
            && wanted.as_ref() != Some(&found.path)
        {
            let got = Hash::from(nar).in_notation_of(expected);
            let message = format!(
                "NAR hash mismatch in input '{}', expected '{expected}' but got '{got}'",
                shown(&request.attrs)
            );
            return Err(Box::new(
                Diagnostic::error("tree-hash-mismatch", Class::HashMismatch, message).help(
                    "if the change is meant, update the lock, or the hash where it is written",
                ),
            ));
        }
        found.attrs.insert("narHash".into(), Attr::Str(got));
        Ok(Fetched {
            path: found.path,
            attrs: found.attrs,
            warnings: found.warnings,
        })
    }

    fn find(&self, request: &Request) -> Answer<Found> {
        match flake_ref::kind(&request.attrs) {
            "path" => self.directory(request),
            "git" => self.git(request),
            "hg" => self.mercurial(request),
            "tarball" => self.archive(request),
            "file" => self.file(request),
            "github" | "gitlab" | "sourcehut" => self.forge(request),
            other => Err(problem(
                "tree-unsupported",
                Class::Recipe,
                format!("trees of type '{other}' are not supported"),
            )),
        }
    }

    /// The path that the hash in the request stands for.
    fn wanted(&self, request: &Request) -> Answer<Option<StorePath>> {
        let Some(text) = flake_ref::text(&request.attrs, "narHash") else {
            return Ok(None);
        };
        let bad = |why: &dyn std::fmt::Display| {
            problem(
                "tree-bad-hash",
                Class::Recipe,
                format!(
                    "narHash '{text}' of input '{}': {why}",
                    shown(&request.attrs)
                ),
            )
        };
        let hash = Hash::parse_any(text, Some(HashAlgo::Sha256)).map_err(|e| bad(&e))?;
        self.path_of(&request.name, &hash)
            .map(Some)
            .map_err(|e| bad(&e))
    }

    fn path_of(&self, name: &str, nar: &Hash) -> Result<StorePath, store_path::StorePathError> {
        let none = BTreeSet::new();
        store_path::make_fixed(
            self.store.store_dir(),
            name,
            Method::Recursive,
            nar,
            &none,
            false,
        )
    }

    /// Adds a directory of this machine.
    fn add(&self, from: &Path, name: &str) -> Answer<StorePath> {
        self.store
            .add_path(from, name, Method::Recursive, None)
            .map_err(of_store)
    }

    /// Where it is noted what was learnt about something that cannot change.
    fn note(&self, what: &str) -> PathBuf {
        let name = Sha256::of(what.as_bytes()).to_hex();
        self.settings.cache.join("trees").join(name)
    }

    /// What an earlier run learnt about something that cannot change.
    fn remembered(&self, what: &str, name: &str) -> Option<(StorePath, Attrs)> {
        let text = std::fs::read(self.note(what)).ok()?;
        let attrs = flake_ref::from_json(&serde_json::from_slice(&text).ok()?).ok()?;
        let nar = flake_ref::text(&attrs, "narHash")?;
        let hash = Hash::parse_any(nar, Some(HashAlgo::Sha256)).ok()?;
        let path = self.path_of(name, &hash).ok()?;
        self.store.hold(std::slice::from_ref(&path)).ok()?;
        self.store.is_valid(&path).ok()?.then_some((path, attrs))
    }

    /// Notes for later runs what was learnt about something that cannot change.
    fn remember(&self, what: &str, path: &StorePath, attrs: &Attrs) -> Answer<()> {
        let Some(nar) = self
            .store
            .query(path)
            .map_err(of_store)?
            .and_then(|i| i.nar_sha256)
        else {
            return Ok(());
        };
        let mut attrs = attrs.clone();
        attrs.insert("narHash".into(), Attr::Str(Hash::from(nar).to_sri()));
        let text = flake_ref::to_json(&attrs).to_string();
        let note = self.note(what);
        let new = note.with_extension(std::process::id().to_string());
        let dir = note.parent().unwrap_or(&self.settings.cache);
        let written = std::fs::create_dir_all(dir)
            .and_then(|()| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, &note));
        if let Err(error) = written {
            // The next run does without.
            tracing::debug!(note = %note.display(), %error, "a fetched tree could not be noted");
        }
        Ok(())
    }
}

/// Chooses the files of a working tree that are tracked, and the directories that lead to them.
fn only<'a>(
    tree: &'a Path,
    files: &'a BTreeSet<Vec<u8>>,
) -> impl FnMut(&Path, sos_store::FileType) -> std::io::Result<bool> + 'a {
    move |path, kind| {
        let Ok(inside) = path.strip_prefix(tree) else {
            return Ok(false);
        };
        let inside = inside.as_os_str().as_bytes();
        if kind != sos_store::FileType::Directory || files.contains(inside) {
            return Ok(inside.is_empty() || files.contains(inside));
        }
        let mut prefix = inside.to_vec();
        prefix.push(b'/');
        let next = files.range(prefix.clone()..).next();
        Ok(inside.is_empty() || next.is_some_and(|f| f.starts_with(&prefix)))
    }
}

/// Whether everything that the language shows of a tree stands in the request already.
fn known_enough(attrs: &Attrs) -> bool {
    match flake_ref::kind(attrs) {
        "git" => attrs.contains_key("lastModified") && attrs.contains_key("rev"),
        "hg" => attrs.contains_key("revCount") && attrs.contains_key("rev"),
        "github" | "gitlab" | "sourcehut" => attrs.contains_key("lastModified"),
        _ => true,
    }
}

fn of_store(error: sos_store::StoreError) -> Box<Diagnostic> {
    Box::new(Diagnostic::from(error))
}

fn problem(code: &'static str, class: Class, message: impl Into<String>) -> Box<Diagnostic> {
    Box::new(Diagnostic::error(code, class, message))
}

fn io(what: &str, path: &Path, error: &std::io::Error) -> Box<Diagnostic> {
    if sos_store::is_disk_full(error) {
        return full(&format!("cannot {what} `{}`", path.display()));
    }
    problem(
        "tree-io",
        Class::Other,
        format!("cannot {what} `{}`: {error}", path.display()),
    )
}

fn full(what: &str) -> Box<Diagnostic> {
    let message = format!("the disk is full: {what}");
    let diagnostic = Diagnostic::error("env-disk-full", Class::Machine, message);
    Box::new(diagnostic.help("`sos gc` frees what nothing needs any more"))
}

/// A full disk that a program met which keeps a repository at `place`.
fn no_room(program: &str, place: &Path, said: &str) -> Box<Diagnostic> {
    let diagnostic = full(&format!("{program} cannot write `{}`", place.display()));
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
    Box::new(
        lines
            .take(8)
            .fold(*diagnostic, |d, line| d.note(line.to_owned())),
    )
}

/// The URL of a tree, for messages.
fn shown(attrs: &Attrs) -> String {
    let reference = FlakeRef {
        tree: attrs.clone(),
        dir: String::new(),
    };
    reference
        .to_url()
        .unwrap_or_else(|_| flake_ref::to_json(attrs).to_string())
}
