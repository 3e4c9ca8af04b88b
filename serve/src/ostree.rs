//! One archive repository of every commit that is offered.
//!
//! Each target is a repository of its own in the store. Objects are named by their content, so looking into one after the other is
//! the same as having copied them together; only refs and summary are put together here.

use std::collections::BTreeMap;
use std::path::Path;

use sos_formats::hash::{Blake3, Sha256};
use sos_formats::manifest::Kind;
use sos_formats::ostree::{
    ARCHIVE_CONFIG, CommitView, MAX_METADATA_BYTES, ObjectKind, Summary, SummaryRef, object_name,
};
use sos_store::{Store, StoreError};

use crate::answer::{Answer, Cache};
use crate::error::{Result, ServeError};
use crate::files::{self, Found};
use crate::mirror::Mirror;
use crate::repository::Directory;

/// How deep the names of refs may nest.
const MAX_REF_DEPTH: usize = 32;
/// The most refs of a repository.
const MAX_REFS: usize = 10_000;
/// How far back a commit is looked for among the parents of another.
const MAX_PARENTS: usize = 10_000;
/// The longest ref, in bytes: 64 digits and the end of the line.
const MAX_REF_BYTES: u64 = 128;
/// The largest summary.
const MAX_SUMMARY_BYTES: u64 = 16 << 20;

/// The commits that are offered.
#[derive(Debug, Default)]
pub(crate) struct Commits {
    /// The top directories of the repositories.
    tops: Vec<Blake3>,
    refs: BTreeMap<String, Ref>,
    /// A repository outside the store, in place of those.
    directory: Option<Directory>,
}

#[derive(Clone, Debug)]
struct Ref {
    about: SummaryRef,
    /// The store path that it comes from.
    shown: String,
}

impl Commits {
    /// Serves a repository outside the store, alone; gives its refs.
    pub(crate) fn add_directory(&mut self, dir: &Path) -> Result<Vec<(String, Sha256)>> {
        let shown = dir.display().to_string();
        let bad = |what: String| ServeError::NoRepository {
            path: shown.clone(),
            what,
        };
        let directory = Directory::open(dir).map_err(bad)?;
        let found = directory.refs().map_err(bad)?;
        if self.directory.is_some() || !self.tops.is_empty() {
            return Err(ServeError::RepositoryAlone { path: shown });
        }
        let refs = found.iter();
        let refs = refs.map(|(branch, about)| (branch.clone(), about.commit));
        let refs = refs.collect();
        let known = found.into_iter().map(|(branch, about)| {
            let shown = shown.clone();
            (branch, Ref { about, shown })
        });
        self.refs = known.collect();
        self.directory = Some(directory);
        Ok(refs)
    }

    /// Adds the repository with a manifest; gives its refs, none when it is no archive repository.
    pub(crate) fn add(
        &mut self,
        store: &Store,
        root: &Blake3,
        shown: &str,
    ) -> Result<Vec<(String, Sha256)>> {
        let top = store.get_root(root)?.node;
        let config = files::read(store, &top, &["config"], ARCHIVE_CONFIG.len() as u64)?;
        if config.as_deref() != Some(ARCHIVE_CONFIG.as_bytes()) {
            return Ok(Vec::new());
        }
        if self.directory.is_some() {
            return Err(ServeError::RepositoryAlone {
                path: shown.to_owned(),
            });
        }
        let bad = |what: String| ServeError::BadRepository {
            path: shown.to_owned(),
            what,
        };
        self.tops.push(top);
        let mut added = Vec::new();
        for (branch, commit) in heads(store, &top).map_err(|problem| problem.told(&bad))? {
            let about = self.about(store, commit, &branch, &bad)?;
            let known = self.refs.get(&branch).map(|known| known.about.commit);
            let keep = match known {
                None => false,
                Some(known) if known == commit => true,
                // Of a line of commits the newest is meant.
                Some(known) if self.comes_from(store, commit, known)? => false,
                Some(known) if self.comes_from(store, known, commit)? => true,
                Some(_) => {
                    let other = self.refs.get(&branch).map(|one| one.shown.clone());
                    return Err(ServeError::RefTaken {
                        branch,
                        paths: [other.unwrap_or_default(), shown.to_owned()],
                    });
                }
            };
            if !keep {
                let shown = shown.to_owned();
                self.refs.insert(branch.clone(), Ref { about, shown });
            }
            added.push((branch, commit));
        }
        Ok(added)
    }

    /// The refs with what is known of their commits.
    pub(crate) fn refs(&self) -> impl Iterator<Item = (&str, &SummaryRef)> {
        self.refs
            .iter()
            .map(|(name, one)| (name.as_str(), &one.about))
    }

    fn about(
        &self,
        store: &Store,
        commit: Sha256,
        branch: &str,
        bad: &dyn Fn(String) -> ServeError,
    ) -> Result<SummaryRef> {
        let bytes = self
            .commit(store, commit)?
            .ok_or_else(|| bad(format!("the commit of its ref `{branch}` is not in it")))?;
        let view = CommitView::decode(&bytes)
            .map_err(|e| bad(format!("the commit of its ref `{branch}` is damaged: {e}")))?;
        Ok(SummaryRef {
            commit,
            size: bytes.len() as u64,
            timestamp: view.timestamp,
            version: view.version,
        })
    }

    fn commit(&self, store: &Store, commit: Sha256) -> Result<Option<Vec<u8>>> {
        let (dir, name) = object_name(&commit, ObjectKind::Commit);
        let path = ["objects", dir.as_str(), name.as_str()];
        for top in &self.tops {
            let limit = MAX_METADATA_BYTES as u64;
            if let Some(bytes) = files::read(store, top, &path, limit)? {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Whether a commit has another one among those before it, as far as they are here.
    fn comes_from(&self, store: &Store, commit: Sha256, other: Sha256) -> Result<bool> {
        let mut at = commit;
        for _ in 0..MAX_PARENTS {
            let Some(bytes) = self.commit(store, at)? else {
                return Ok(false);
            };
            match CommitView::decode(&bytes).ok().and_then(|view| view.parent) {
                Some(parent) if parent == other => return Ok(true),
                Some(parent) => at = parent,
                None => return Ok(false),
            }
        }
        Ok(false)
    }

    fn summary(&self) -> Vec<u8> {
        let refs = self
            .refs()
            .map(|(name, about)| (name.to_owned(), about.clone()));
        Summary {
            refs: refs.collect(),
            ..Summary::default()
        }
        .encode()
    }
}

/// Why refs cannot be read.
enum Problem {
    Store(StoreError),
    Repository(String),
}

impl Problem {
    fn told(self, bad: &dyn Fn(String) -> ServeError) -> ServeError {
        match self {
            Self::Store(error) => error.into(),
            Self::Repository(what) => bad(what),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// The refs of a repository.
fn heads(store: &Store, top: &Blake3) -> std::result::Result<BTreeMap<String, Sha256>, Problem> {
    let mut found = BTreeMap::new();
    let Some(Found::Dir(node)) = files::find(store, top, &["refs", "heads"])? else {
        return Ok(found);
    };
    let mut pending = vec![(String::new(), node, 0)];
    while let Some((prefix, node, depth)) = pending.pop() {
        let node = store.read_node(&node)?;
        for entry in &node.entries {
            let part = std::str::from_utf8(&entry.name)
                .map_err(|_invalid| Problem::Repository("a ref is not text".to_owned()))?;
            let name = format!("{prefix}{part}");
            match &entry.kind {
                Kind::Dir { node } if depth < MAX_REF_DEPTH => {
                    pending.push((format!("{name}/"), *node, depth + 1));
                }
                Kind::File { .. } if found.len() < MAX_REFS => {
                    let path: Vec<&str> = ["refs", "heads"]
                        .into_iter()
                        .chain(name.split('/'))
                        .collect();
                    let text = files::read(store, top, &path, MAX_REF_BYTES)?;
                    let text = text.and_then(|text| String::from_utf8(text).ok());
                    let commit = text.and_then(|text| text.trim_end().parse().ok());
                    let commit = commit.ok_or_else(|| {
                        Problem::Repository(format!("its ref `{name}` names no commit"))
                    })?;
                    found.insert(name, commit);
                }
                _ => {
                    return Err(Problem::Repository(format!(
                        "its ref `{name}` is too deep, one of too many, or no file"
                    )));
                }
            }
        }
    }
    Ok(found)
}

/// `/ostree/…`.
pub(crate) fn answer(mirror: &Mirror, path: &[&str]) -> Answer {
    let commits = &mirror.offers.commits;
    let text = "text/plain; charset=utf-8";
    let binary = "application/octet-stream";
    if let Some(directory) = &commits.directory {
        return match path {
            ["config"] => Answer::bytes(ARCHIVE_CONFIG, text),
            path => directory.answer(path),
        };
    }
    match path {
        _ if commits.tops.is_empty() => Answer::missing(),
        ["config"] => Answer::bytes(ARCHIVE_CONFIG, text),
        // That of one repository as it is: somebody may have signed it.
        ["summary"] if commits.tops.len() > 1 => {
            let bytes = commits.summary();
            let tag = Sha256::of(&bytes).to_hex();
            Answer::bytes(bytes, binary).tagged(&tag)
        }
        ["summary"] => match one(mirror, path, MAX_SUMMARY_BYTES) {
            Some(answer) => answer,
            None => Answer::bytes(commits.summary(), binary),
        },
        ["summary.sig"] if commits.tops.len() == 1 => {
            one(mirror, path, MAX_SUMMARY_BYTES).unwrap_or_else(Answer::missing)
        }
        ["refs", "heads", name @ ..] => match commits.refs.get(&name.join("/")) {
            Some(one) => Answer::bytes(format!("{}\n", one.about.commit), text),
            None => Answer::missing(),
        },
        ["objects", _, _] => match one(mirror, path, u64::MAX) {
            Some(answer) => answer.keep(Cache::Immutable),
            None => Answer::missing(),
        },
        ["deltas" | "delta-indexes", ..] => {
            one(mirror, path, u64::MAX).unwrap_or_else(Answer::missing)
        }
        _ => Answer::missing(),
    }
}

/// A file of one of the repositories.
fn one(mirror: &Mirror, path: &[&str], limit: u64) -> Option<Answer> {
    let store = &mirror.store;
    for top in &mirror.offers.commits.tops {
        let found = match files::find(store, top, path) {
            Ok(Some(Found::File { blob, size })) if size <= limit => {
                store.open_blob(&blob).map(|file| (file, blob, size))
            }
            Ok(_) => continue,
            Err(error) => Err(error),
        };
        return Some(match found {
            Ok((file, blob, size)) => {
                Answer::file(file, size, "application/octet-stream").tagged(&blob.to_hex())
            }
            Err(error) => Answer::broken(&error.to_string()),
        });
    }
    None
}
