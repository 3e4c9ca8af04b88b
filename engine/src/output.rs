//! From what a builder left behind to registered store objects.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sos_formats::derivation::{Method, Output};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::{Blake3, Hash, HashAlgo};
use sos_formats::store_path::{StorePath, make_fixed, output_name};
use sos_store::compare::Snapshot;
use sos_store::{IngestOptions, Ingested, Known, Registration, Store, StoreError};

use crate::attributes::Attributes;
use crate::cancel::Cancel;
use crate::checks::{CheckError, Fresh, FreshOutput, check_outputs};
use crate::diagnose::{Mismatch, mismatch, store_failed};
use crate::executor::Job;
use crate::hashing::{HashingError, hash_modulo};
use crate::resolve::Resolved;
use crate::rewrite::{HASH_DIGITS, HashParts, digits};

/// What a builder made for one output.
#[derive(Clone, Debug)]
pub(crate) enum Made {
    /// A file tree at a private place, and what its builder knows of its files.
    Tree(PathBuf, Known),
    /// A rootfs object whose nodes and blobs are in the store.
    Rootfs(Blake3),
}

/// Why a build gives nothing.
pub(crate) enum Stop {
    /// A problem.
    Problem(Box<Diagnostic>),
    /// Content that is not what was promised.
    Mismatch(Vec<Mismatch>),
    /// Stopping was asked for.
    Cancelled,
}

impl From<Box<Diagnostic>> for Stop {
    fn from(diagnostic: Box<Diagnostic>) -> Self {
        Self::Problem(diagnostic)
    }
}

/// One output of which everything is known but that is not registered.
enum Ready {
    Tree(Box<(Ingested, Registration)>),
    Rootfs(Blake3),
}

/// The bytes that a person expects to be told of: a file alone is as large as it is, and not as its archive.
fn size_of(tree: &Ingested) -> u64 {
    let file = std::fs::symlink_metadata(tree.staged_path()).ok();
    let file = file.filter(std::fs::Metadata::is_file);
    file.map_or(tree.nar_size, |file| file.len())
}

/// A registered output.
pub(crate) struct Registered {
    /// Its path.
    pub(crate) path: StorePath,
    /// Bytes of one that is a file, of any other tree those of its archive; 0 for a rootfs.
    pub(crate) bytes: u64,
    /// The path was there already, with other content, which stays.
    pub(crate) other: Option<Other>,
}

/// Content that came out and is not kept.
pub(crate) struct Other {
    /// `sha256:..` of its archive, or `blake3:..`, its id as a tree.
    pub(crate) hash: String,
    /// The first path that differs from what is there, with how; none when that cannot be told.
    pub(crate) first: Option<String>,
}

/// Takes the outputs of one build into the store.
pub(crate) struct Finish<'a> {
    pub(crate) store: &'a Store,
    pub(crate) job: &'a Job,
    pub(crate) resolved: &'a Resolved,
    /// The closure of the inputs: what an output may refer to.
    pub(crate) closure: &'a BTreeSet<StorePath>,
    /// The builder was told the paths of its outputs, so they may be in what it made.
    pub(crate) knows_own_paths: bool,
    /// Hashing what was made may take long.
    pub(crate) cancel: &'a Cancel,
}

impl Finish<'_> {
    /// Checks and registers everything, or nothing.
    pub(crate) fn register(
        &self,
        made: &BTreeMap<String, Made>,
    ) -> Result<BTreeMap<String, Registered>, Stop> {
        let mut ready = BTreeMap::new();
        let mut fresh = Fresh::new();
        let mut finals: BTreeMap<String, StorePath> = BTreeMap::new();
        let attributes = Attributes::of(&self.resolved.drv).map_err(|e| self.problem(e))?;
        for output in self.order(made)? {
            let Some(made) = made.get(&output) else {
                continue;
            };
            let (path, one) = match made {
                Made::Rootfs(root) => self.rootfs(&output, *root)?,
                Made::Tree(place, known) => self.tree(&output, place, known, &finals)?,
            };
            let fresh_one = match &one {
                Ready::Tree(tree) => FreshOutput {
                    path: path.clone(),
                    references: tree.1.references.clone(),
                    nar_size: tree.0.nar_size,
                    place: Some(tree.0.staged_path().to_owned()),
                },
                Ready::Rootfs(_) => FreshOutput {
                    path: path.clone(),
                    references: BTreeSet::new(),
                    nar_size: 0,
                    place: None,
                },
            };
            finals.insert(output.clone(), path);
            fresh.insert(output.clone(), fresh_one);
            ready.insert(output, one);
        }
        check_outputs(self.store, &attributes, &fresh).map_err(|e| match e {
            CheckError::Store(e) => store_failed(e),
            other => Box::new(other.explain(*self.problem(other.to_string()))),
        })?;
        self.commit(ready, &finals)
    }

    fn commit(
        &self,
        ready: BTreeMap<String, Ready>,
        finals: &BTreeMap<String, StorePath>,
    ) -> Result<BTreeMap<String, Registered>, Stop> {
        let mut registered = BTreeMap::new();
        let mut trees = Vec::new();
        for (output, one) in ready {
            let path = finals[&output].clone();
            let mut other = None;
            let bytes = match one {
                Ready::Tree(tree) => {
                    let bytes = size_of(&tree.0);
                    other = self.other(&path, &tree.0).map_err(store_failed)?;
                    trees.push(*tree);
                    bytes
                }
                Ready::Rootfs(root) => {
                    let name = self.output_name(&output);
                    self.store
                        .add_rootfs(root, &name, Some(&self.job.path))
                        .map_err(store_failed)?;
                    0
                }
            };
            registered.insert(output, Registered { path, bytes, other });
        }
        if !trees.is_empty() {
            self.store.commit_many(trees).map_err(store_failed)?;
        }
        Ok(registered)
    }

    /// Tells whether `path` is there with other content than what came out.
    fn other(&self, path: &StorePath, made: &Ingested) -> Result<Option<Other>, StoreError> {
        let Some(there) = self.store.query(path)? else {
            return Ok(None);
        };
        let same = match (made.nar_sha256, made.tree) {
            (Some(nar), _) => there.nar_sha256 == Some(nar),
            (None, tree) => there.tree_id() == tree,
        };
        if same || !self.store.is_present(path)? {
            return Ok(None);
        }
        // Compared now: what came out is gone when this build is over.
        let old = Snapshot::of_object(self.store, &there)?;
        let new = Snapshot::of_tree(made.staged_path())?;
        let differences = old.compare(&new, self.store)?;
        Ok(Some(Other {
            hash: made.digest(),
            first: differences.first().map(ToString::to_string),
        }))
    }

    fn output_name(&self, output: &str) -> String {
        output_name(self.job.name.as_str(), output)
    }

    fn problem(&self, message: impl AsRef<str>) -> Box<Diagnostic> {
        Box::new(Diagnostic::error(
            "build-bad-output",
            Class::BuildFailed,
            format!(
                "the result of `{}` is refused: {}",
                self.job.name,
                message.as_ref()
            ),
        ))
    }

    fn hashing(&self, output: &str, place: &Path, error: &HashingError) -> Box<Diagnostic> {
        match error {
            HashingError::Special(path) => self.special(output, place, path),
            error => self.problem(format!("output `{output}`: {error}")),
        }
    }

    /// Refuses what can be no part of an object, by the name that the builder has for it.
    fn special(&self, output: &str, place: &Path, path: &Path) -> Box<Diagnostic> {
        let what = match path.symlink_metadata().map(|meta| meta.file_type()) {
            Ok(kind) if kind.is_fifo() => "a pipe",
            Ok(kind) if kind.is_socket() => "a socket",
            _ => "a device",
        };
        let shown = inside(output, place, path);
        let message = format!("`{shown}` is {what}, and can be no part of a store object");
        let diagnostic = self.problem(message);
        Box::new(diagnostic.help("let the builder remove it before it ends"))
    }

    /// Refuses a tree that is too deep, by the name that the builder has for its place.
    fn too_deep(&self, output: &str, place: &Path, path: &Path, how: &str) -> Box<Diagnostic> {
        let shown = inside(output, place, path);
        let parts: Vec<&str> = shown.split('/').collect();
        let shown = match parts.as_slice() {
            [first, a, b, .., last] if parts.len() > PARTS_SHOWN => {
                format!("{first}/{a}/{b}/.../{last}")
            }
            _ => shown.clone(),
        };
        let message = format!("`{shown}` {how}, and can be no part of a store object");
        let diagnostic = self.problem(message);
        Box::new(diagnostic.help("let the builder nest its directories less deeply"))
    }

    /// Returns the outputs so that each comes after those whose paths it holds.
    fn order(&self, made: &BTreeMap<String, Made>) -> Result<Vec<String>, Stop> {
        let floating = |output: &String| {
            matches!(
                self.resolved.drv.outputs.get(output),
                Some(Output::Floating { .. })
            )
        };
        if !self.knows_own_paths || made.len() < 2 || !made.keys().any(floating) {
            return Ok(made.keys().cloned().collect());
        }
        let mut left: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (output, made) in made {
            let mut others = BTreeSet::new();
            if let Made::Tree(place, _) = made {
                let found = self.scan(output, place, &BTreeSet::new())?;
                for (other, path) in &self.resolved.building {
                    if other != output && found.contains(&digits(path.hash_str())) {
                        others.insert(other.clone());
                    }
                }
            }
            left.insert(output.clone(), others);
        }
        let mut order = Vec::new();
        while !left.is_empty() {
            let next = left
                .iter()
                .find(|(_, others)| others.iter().all(|o| order.contains(o)))
                .map(|(output, _)| output.clone());
            let Some(next) = next else {
                let names: Vec<&str> = left.keys().map(String::as_str).collect();
                return Err(self
                    .problem(format!(
                        "outputs {} refer to each other in a circle",
                        names.join(" and ")
                    ))
                    .into());
            };
            left.remove(&next);
            order.push(next);
        }
        Ok(order)
    }

    /// Returns which hash parts of own outputs and of `others` a tree holds.
    fn scan(
        &self,
        output: &str,
        place: &Path,
        others: &BTreeSet<StorePath>,
    ) -> Result<BTreeSet<[u8; HASH_DIGITS]>, Stop> {
        let mut parts = HashParts::default();
        for path in self.resolved.building.values().chain(others) {
            let part = digits(path.hash_str());
            parts.insert(part, part);
        }
        parts
            .scan_tree(place)
            .map_err(|e| self.unreadable(output, &e).into())
    }

    fn discards_references(&self, output: &str) -> Result<bool, Stop> {
        Attributes::of(&self.resolved.drv)
            .and_then(|attributes| attributes.discards_references(output))
            .map_err(|e| self.problem(e).into())
    }

    fn unreadable(&self, output: &str, error: &std::io::Error) -> Box<Diagnostic> {
        self.problem(format!("output `{output}` cannot be read: {error}"))
    }

    fn rootfs(&self, output: &str, root: Blake3) -> Result<(StorePath, Ready), Stop> {
        let hash = Hash::from(root);
        match self.resolved.drv.outputs.get(output) {
            Some(Output::Floating {
                method: Method::Rootfs,
                ..
            }) => {}
            Some(Output::Fixed {
                method: Method::Rootfs,
                hash: expected,
            }) => self.compare(expected, &hash)?,
            _ => {
                return Err(self
                    .problem(format!(
                        "output `{output}` is a root filesystem, but the derivation does not declare it with `outputHashMode = \"rootfs\"`"
                    ))
                    .into());
            }
        }
        let path = self.address(output, Method::Rootfs, &hash, &BTreeSet::new(), false)?;
        Ok((path, Ready::Rootfs(root)))
    }

    fn tree(
        &self,
        output: &str,
        place: &Path,
        known: &Known,
        finals: &BTreeMap<String, StorePath>,
    ) -> Result<(StorePath, Ready), Stop> {
        match self.resolved.drv.outputs.get(output) {
            Some(Output::Floating { method, algo }) if *method != Method::Rootfs => {
                self.floating(output, place, known, (*method, *algo), finals)
            }
            Some(Output::Fixed { method, hash }) if *method != Method::Rootfs => {
                self.fixed(output, place, known, *method, hash)
            }
            Some(Output::InputAddressed(path)) => {
                let own: Vec<StorePath> = self.resolved.building.values().cloned().collect();
                let ingested = self.ingest(output, place, known, &own, (Method::Recursive, HashAlgo::Sha256))?;
                Ok(self.ready(path.clone(), ingested, None))
            }
            _ => Err(self
                .problem(format!(
                    "output `{output}` is a file tree, but the derivation declares a root filesystem"
                ))
                .into()),
        }
    }

    fn fixed(
        &self,
        output: &str,
        place: &Path,
        known: &Known,
        method: Method,
        expected: &Hash,
    ) -> Result<(StorePath, Ready), Stop> {
        let ingested = self.ingest(output, place, known, &[], (method, expected.algo()))?;
        let found = self.content_hash(output, place, &ingested, method, expected.algo())?;
        self.compare(expected, &found)?;
        if let Some(reference) = ingested.references.iter().next() {
            return Err(self
                .problem(format!(
                    "output `{output}` has a fixed hash and may not refer to `{}`",
                    reference.absolute(self.store.store_dir())
                ))
                .into());
        }
        let path = self.address(output, method, expected, &BTreeSet::new(), false)?;
        Ok(self.ready(path, ingested, Some(ca_field(method, expected))))
    }

    fn compare(&self, expected: &Hash, found: &Hash) -> Result<(), Stop> {
        if expected == found {
            return Ok(());
        }
        Err(Stop::Mismatch(vec![mismatch(
            &self.job.drv,
            &self.job.path,
            expected,
            Some(found),
            "",
        )]))
    }

    fn floating(
        &self,
        output: &str,
        place: &Path,
        known: &Known,
        (method, algo): (Method, HashAlgo),
        finals: &BTreeMap<String, StorePath>,
    ) -> Result<(StorePath, Ready), Stop> {
        let scratch = &self.resolved.building[output];
        let own = digits(scratch.hash_str());
        let mut found = BTreeSet::new();
        if self.knows_own_paths && !self.discards_references(output)? {
            found = self.scan(output, place, self.closure)?;
            let mut parts = HashParts::default();
            for (other, path) in &self.resolved.building {
                let part = digits(path.hash_str());
                if let Some(last) = finals.get(other)
                    && found.contains(&part)
                {
                    parts.insert(part, digits(last.hash_str()));
                }
            }
            self.rewrite(output, place, &parts)?;
        }
        if !found.contains(&own) {
            let others: Vec<StorePath> = finals.values().cloned().collect();
            let ingested = self.ingest(output, place, known, &others, (method, algo))?;
            let hash = self.content_hash(output, place, &ingested, method, algo)?;
            let path = self.address(output, method, &hash, &ingested.references, false)?;
            return Ok(self.ready(path, ingested, Some(ca_field(method, &hash))));
        }
        if method == Method::Tree {
            let why = format!(
                "output `{output}` holds its own path, which `outputHashMode = \"tree\"` does not allow"
            );
            return Err(self.problem(why).into());
        }
        // The content holds its own name: hash it without, then put the real name in.
        let hash =
            hash_modulo(place, method, algo, own).map_err(|e| self.hashing(output, place, &e))?;
        let mut references: BTreeSet<StorePath> = self
            .closure
            .iter()
            .filter(|path| found.contains(&digits(path.hash_str())))
            .cloned()
            .collect();
        for (other, last) in finals {
            if found.contains(&digits(self.resolved.building[other].hash_str())) {
                references.insert(last.clone());
            }
        }
        let path = self.address(output, method, &hash, &references, true)?;
        let mut parts = HashParts::default();
        parts.insert(own, digits(path.hash_str()));
        self.rewrite(output, place, &parts)?;
        let mut candidates: Vec<StorePath> = finals.values().cloned().collect();
        candidates.push(path.clone());
        let ingested = self.ingest(output, place, known, &candidates, (method, algo))?;
        Ok(self.ready(path, ingested, Some(ca_field(method, &hash))))
    }

    fn rewrite(&self, output: &str, place: &Path, parts: &HashParts) -> Result<(), Stop> {
        if parts.is_empty() {
            return Ok(());
        }
        parts
            .rewrite_tree(place)
            .map_err(|e| self.unreadable(output, &e).into())
    }

    fn ingest(
        &self,
        output: &str,
        place: &Path,
        known: &Known,
        own: &[StorePath],
        (method, algo): (Method, HashAlgo),
    ) -> Result<Ingested, Stop> {
        let candidates: Vec<StorePath> = if self.discards_references(output)? {
            Vec::new()
        } else {
            self.closure.iter().chain(own).cloned().collect()
        };
        let cancel = self.cancel.clone();
        let options = IngestOptions {
            stop: Some(Arc::new(move || cancel.is_cancelled())),
            take: true,
            candidates: &candidates,
            flat_algo: matches!(method, Method::Flat | Method::Text).then_some(algo),
            tree: (method == Method::Tree).then_some(known),
            nar_algo: (method == Method::Recursive && algo != HashAlgo::Sha256).then_some(algo),
            ..IngestOptions::default()
        };
        self.store.ingest(place, options).map_err(|e| match e {
            _ if self.cancel.is_cancelled() => Stop::Cancelled,
            StoreError::SpecialFile { path } => self.special(output, place, &path).into(),
            StoreError::NoTreeId { detail, .. } => self
                .problem(format!("output `{output}` has no id as a tree: {detail}"))
                .into(),
            StoreError::TooDeep { path, limit } => self
                .too_deep(
                    output,
                    place,
                    &path,
                    &format!("is deeper than {limit} directories"),
                )
                .into(),
            StoreError::Io { path, source, .. }
                if source.raw_os_error() == Some(libc::ENAMETOOLONG) =>
            {
                self.too_deep(
                    output,
                    place,
                    &path,
                    "has a longer path than the system opens",
                )
                .into()
            }
            e => store_failed(e).into(),
        })
    }

    /// Returns the hash that a method takes of what was read.
    fn content_hash(
        &self,
        output: &str,
        place: &Path,
        ingested: &Ingested,
        method: Method,
        algo: HashAlgo,
    ) -> Result<Hash, Stop> {
        if let Some(tree) = ingested.tree {
            return Ok(Hash::from(tree));
        }
        if method != Method::Recursive {
            return match &ingested.flat {
                Some(hash) if !ingested.executable => Ok(*hash),
                _ => Err(self.hashing(output, place, &HashingError::NotFlat).into()),
            };
        }
        match (ingested.nar_hash, ingested.nar_sha256) {
            (Some(hash), _) if hash.algo() == algo => Ok(hash),
            (_, Some(hash)) => Ok(Hash::from(hash)),
            _ => Err(self
                .problem(format!("output `{output}` was not hashed"))
                .into()),
        }
    }

    fn address(
        &self,
        output: &str,
        method: Method,
        hash: &Hash,
        references: &BTreeSet<StorePath>,
        own: bool,
    ) -> Result<StorePath, Stop> {
        let name = self.output_name(output);
        make_fixed(self.store.store_dir(), &name, method, hash, references, own)
            .map_err(|e| self.problem(format!("output `{output}`: {e}")).into())
    }

    fn ready(&self, path: StorePath, ingested: Ingested, ca: Option<String>) -> (StorePath, Ready) {
        let registration = Registration {
            path: path.clone(),
            references: ingested.references.clone(),
            deriver: Some(self.job.path.clone()),
            ca,
        };
        (path, Ready::Tree(Box::new((ingested, registration))))
    }
}

/// Names on the way to a file that are shown; of more those in the middle are left out.
const PARTS_SHOWN: usize = 8;

/// A path in an output as the builder calls it: `$out/bin/x`.
fn inside(output: &str, place: &Path, path: &Path) -> String {
    match path.strip_prefix(place) {
        Ok(below) if below != Path::new("") => format!("${output}/{}", below.display()),
        _ => format!("${output}"),
    }
}

/// Returns the claim by which everybody can check a path against its content.
fn ca_field(method: Method, hash: &Hash) -> String {
    let digits = hash.to_nix32();
    match method {
        Method::Text => format!("text:{}:{digits}", hash.algo()),
        _ => format!("fixed:{}{}:{digits}", method.prefix(), hash.algo()),
    }
}

#[cfg(test)]
mod tests;
