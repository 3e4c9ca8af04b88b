//! A repository outside the store, as `sos export … ostree:DIR` keeps one: with signatures and static deltas, for which it takes keys and
//! a history that the store never has. Its files are served as they are when they are asked for.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sos_formats::hash::Sha256;
use sos_formats::ostree::{CommitView, MAX_METADATA_BYTES, ObjectKind, SummaryRef, object_name};

use crate::answer::{Answer, Cache};
use crate::files::{open_inside, read_inside};

/// The largest `config` that is read.
const MAX_CONFIG_BYTES: u64 = 1 << 20;
/// The longest ref, in bytes: 64 digits and the end of the line.
const MAX_REF_BYTES: u64 = 128;
/// How deep the names of refs may nest.
const MAX_REF_DEPTH: usize = 32;
/// The most refs of a repository.
const MAX_REFS: usize = 10_000;
/// What of a repository is for others. Its `config` is not: it may hold more than a mode.
const SHOWN: [&str; 5] = [
    "objects",
    "deltas",
    "delta-indexes",
    "summary",
    "summary.sig",
];

/// A directory that holds an archive repository.
#[derive(Clone, Debug)]
pub(crate) struct Directory {
    dir: PathBuf,
}

impl Directory {
    /// Looks whether there is one.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(crate) fn open(dir: &Path) -> Result<Self, String> {
        let config = read_inside(dir, &["config"], MAX_CONFIG_BYTES);
        let config = config.map_err(|e| format!("its `config` cannot be read: {e}"))?;
        let text = String::from_utf8_lossy(&config);
        let mode = text.lines().find_map(|line| {
            let (key, value) = line.split_once('=')?;
            (key.trim() == "mode").then(|| value.trim())
        });
        match mode {
            Some("archive" | "archive-z2") => Ok(Self {
                dir: dir.to_owned(),
            }),
            other => Err(format!(
                "its mode is `{}`, and only `archive` can be pulled over HTTP",
                other.unwrap_or("none")
            )),
        }
    }

    /// Its refs with what is known of their commits.
    ///
    /// # Errors
    /// What cannot be read, in words.
    pub(crate) fn refs(&self) -> Result<BTreeMap<String, SummaryRef>, String> {
        let mut found = BTreeMap::new();
        let top = self.dir.join("refs/heads");
        for entry in walk(&top)? {
            let below = entry.strip_prefix(&top).unwrap_or(&entry);
            let name = below.to_str().ok_or("a ref is not text")?.to_owned();
            let commit = self
                .head(&name)
                .ok_or_else(|| format!("its ref `{name}` names no commit"))?;
            let (dir, object) = object_name(&commit, ObjectKind::Commit);
            let path = ["objects", dir.as_str(), object.as_str()];
            let bytes = read_inside(&self.dir, &path, MAX_METADATA_BYTES as u64)
                .map_err(|e| format!("the commit of its ref `{name}` cannot be read: {e}"))?;
            let view = CommitView::decode(&bytes)
                .map_err(|e| format!("the commit of its ref `{name}` is damaged: {e}"))?;
            let about = SummaryRef {
                commit,
                size: bytes.len() as u64,
                timestamp: view.timestamp,
                version: view.version,
            };
            found.insert(name, about);
        }
        Ok(found)
    }

    fn head(&self, name: &str) -> Option<Sha256> {
        let path: Vec<&str> = ["refs", "heads"]
            .into_iter()
            .chain(name.split('/'))
            .collect();
        let text = read_inside(&self.dir, &path, MAX_REF_BYTES).ok()?;
        String::from_utf8(text).ok()?.trim_end().parse().ok()
    }

    /// What a client gets that asks for a path below the repository, other than its `config`.
    pub(crate) fn answer(&self, path: &[&str]) -> Answer {
        match path {
            ["refs", "heads", name @ ..] => match self.head(&name.join("/")) {
                Some(commit) => Answer::bytes(format!("{commit}\n"), "text/plain; charset=utf-8"),
                None => Answer::missing(),
            },
            [first, ..] if SHOWN.contains(first) => match open_inside(&self.dir, path) {
                Ok((file, size)) => {
                    // Signatures are added to a commit later on.
                    let is_final = *first == "objects" && !path.iter().any(|p| p.ends_with("meta"));
                    let answer = Answer::file(file, size, "application/octet-stream");
                    match is_final {
                        true => answer.keep(Cache::Immutable),
                        false => answer,
                    }
                }
                Err(_) => Answer::missing(),
            },
            _ => Answer::missing(),
        }
    }
}

/// The files below a directory; links are not followed.
fn walk(top: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |e: std::io::Error| format!("its refs cannot be read: {e}");
    let mut found = Vec::new();
    let mut pending = vec![(top.to_owned(), 0)];
    while let Some((dir, depth)) = pending.pop() {
        for entry in std::fs::read_dir(&dir).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let kind = entry.file_type().map_err(unreadable)?;
            if kind.is_dir() && depth < MAX_REF_DEPTH {
                pending.push((entry.path(), depth + 1));
            } else if kind.is_file() && found.len() < MAX_REFS {
                found.push(entry.path());
            } else {
                return Err("a ref of it is too deep, one of too many, or no file".to_owned());
            }
        }
    }
    Ok(found)
}
