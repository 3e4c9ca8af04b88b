//! Verification: everything that is stored against its name and its row. Reads only.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use sos_formats::hash::{Blake3, HashAlgo};
use sos_formats::manifest::{Kind, Node, Root};
use sos_formats::store_path::StorePath;

use crate::cas::{copy_hashed, file_mode};
use crate::db;
use crate::error::{Result, StoreError};
use crate::gc::hash_of;
use crate::objects::{ObjectKind, PathInfo};
use crate::store::Store;
use crate::temp::list_dir;
use crate::tree_id::tree_id;

/// What to look at.
#[derive(Clone, Copy, Debug, Default)]
pub struct CheckOptions {
    /// Read every file and compare it with its hash; otherwise only look that everything is there.
    pub contents: bool,
}

/// What a check found.
#[derive(Clone, Debug, Default)]
pub struct CheckReport {
    /// Objects that were looked at.
    pub paths: usize,
    /// Contents that were looked at.
    pub blobs: usize,
    /// Manifest nodes that were looked at.
    pub nodes: usize,
    /// What is wrong, in order.
    pub problems: Vec<Problem>,
    /// Manifest nodes that are damaged, or have something damaged below them.
    pub damaged_nodes: BTreeSet<Blake3>,
    /// What is not wrong but needless, left by killed processes: the next collection takes it.
    pub orphans: Vec<PathBuf>,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The database says so itself.
    #[error("the database is damaged: {detail}")]
    Database {
        /// In SQLite's words.
        detail: String,
    },
    /// A valid object is not there.
    #[error("`{path}` is registered, but its tree is missing")]
    MissingTree {
        /// The object.
        path: StorePath,
    },
    /// A valid object is not what was registered.
    #[error("`{path}` is damaged: {detail}")]
    DamagedTree {
        /// The object.
        path: StorePath,
        /// In which way.
        detail: String,
    },
    /// A rootfs object lacks something.
    #[error("`{path}` is damaged: {detail}")]
    DamagedRootfs {
        /// The object.
        path: StorePath,
        /// What it lacks.
        detail: String,
    },
    /// A stored content is not what its name says.
    #[error("{} is damaged: {detail}", .file.display())]
    DamagedBlob {
        /// The file.
        file: PathBuf,
        /// In which way.
        detail: String,
    },
    /// A manifest node is not what its name says.
    #[error("{} is damaged: {detail}", .file.display())]
    DamagedNode {
        /// The file.
        file: PathBuf,
        /// In which way.
        detail: String,
    },
    /// A manifest node is noted as complete and is not there.
    #[error("the manifest node {hash} is noted and missing")]
    MissingNode {
        /// Its id.
        hash: Blake3,
    },
}

impl Store {
    /// Compares what is stored with what should be. Nothing is changed; damage is in the report, not an error.
    ///
    /// # Errors
    /// When the store cannot be read at all.
    pub fn check(&self, options: CheckOptions) -> Result<CheckReport> {
        let mut report = CheckReport::default();
        match self.db().integrity() {
            Ok(found) => report
                .problems
                .extend(found.into_iter().map(|detail| Problem::Database { detail })),
            Err(StoreError::DatabaseCorrupt { detail }) => {
                report.problems.push(Problem::Database { detail });
            }
            Err(err) => return Err(err),
        }
        // Contents first: what comes after says which objects are affected.
        self.check_blobs(options, &mut report)?;
        self.check_nodes(options, &mut report)?;
        match self.list() {
            Ok(objects) => self.check_objects(&objects, options, &mut report)?,
            Err(StoreError::DatabaseCorrupt { detail }) => {
                report.problems.push(Problem::Database { detail });
            }
            Err(err) => return Err(err),
        }
        self.find_leftovers(&mut report)?;
        report.problems.sort();
        report.problems.dedup();
        report.orphans.sort();
        Ok(report)
    }

    /// What the database says against itself; nothing when it is whole.
    ///
    /// # Errors
    /// When it cannot be read at all.
    pub fn check_database(&self) -> Result<Vec<String>> {
        match self.db().integrity() {
            Err(StoreError::DatabaseCorrupt { detail }) => Ok(vec![detail]),
            other => other,
        }
    }

    fn check_blobs(&self, options: CheckOptions, report: &mut CheckReport) -> Result<()> {
        let files = self.sharded(&self.root().join("cas"), report)?;
        report.blobs = files.len();
        let problems = in_parallel(&files, |(file, hash)| {
            let detail = blob_problem(file, hash, options.contents)?;
            Some(Problem::DamagedBlob {
                file: file.clone(),
                detail,
            })
        });
        report.problems.extend(problems);
        Ok(())
    }

    fn check_nodes(&self, options: CheckOptions, report: &mut CheckReport) -> Result<()> {
        let files = self.sharded(&self.root().join("man"), report)?;
        report.nodes = files.len();
        if options.contents {
            let problems = in_parallel(&files, |(file, hash)| {
                let detail = match self.get_manifest(hash) {
                    Ok(bytes) => match (Node::decode(&bytes), Root::decode(&bytes)) {
                        (Err(err), Err(_)) => err.to_string(),
                        _ => return None,
                    },
                    Err(StoreError::Corrupt { detail, .. }) => detail,
                    // Collected in this moment.
                    Err(StoreError::MissingNode { .. }) => return None,
                    Err(err) => err.to_string(),
                };
                Some(Problem::DamagedNode {
                    file: file.clone(),
                    detail,
                })
            });
            report.problems.extend(problems);
        }
        let present: BTreeSet<Blake3> = files.into_iter().map(|(_, hash)| hash).collect();
        match self.db().read(db::all_nodes) {
            Ok(noted) => {
                report.problems.extend(
                    noted
                        .difference(&present)
                        .map(|hash| Problem::MissingNode { hash: *hash }),
                );
            }
            Err(StoreError::DatabaseCorrupt { detail }) => {
                report.problems.push(Problem::Database { detail });
            }
            Err(err) => return Err(err),
        }
        Ok(())
    }

    /// The files of `cas/` or `man/` with the hashes that they are named by.
    fn sharded(&self, dir: &Path, report: &mut CheckReport) -> Result<Vec<(PathBuf, Blake3)>> {
        let mut files = Vec::new();
        for shard in list_dir(dir)? {
            if !shard.is_dir() {
                report.orphans.push(shard);
                continue;
            }
            for file in list_dir(&shard)? {
                match hash_of(&file) {
                    Some(hash) => files.push((file, hash)),
                    None => report.orphans.push(file),
                }
            }
        }
        Ok(files)
    }

    fn check_objects(
        &self,
        objects: &[PathInfo],
        options: CheckOptions,
        report: &mut CheckReport,
    ) -> Result<()> {
        report.paths = objects.len();
        let trees: Vec<&PathInfo> = objects
            .iter()
            .filter(|info| info.kind == ObjectKind::Tree)
            .collect();
        let problems = in_parallel(&trees, |info| self.tree_problem(info, options.contents));
        report.problems.extend(problems);
        // Nodes are shared between objects, so each is walked once; what is wrong below it is told for every object.
        let mut walked: BTreeMap<Blake3, Option<String>> = BTreeMap::new();
        for info in objects
            .iter()
            .filter(|info| info.kind == ObjectKind::Rootfs)
        {
            if let Some(detail) = self.rootfs_problem(info, &mut walked) {
                report.problems.push(Problem::DamagedRootfs {
                    path: info.path.clone(),
                    detail,
                });
            }
        }
        let damaged = walked.into_iter().filter(|(_, found)| found.is_some());
        report.damaged_nodes.extend(damaged.map(|(id, _)| id));
        Ok(())
    }

    fn tree_problem(&self, info: &PathInfo, contents: bool) -> Option<Problem> {
        let place = self.physical(&info.path);
        let damaged = |detail: String| {
            Some(Problem::DamagedTree {
                path: info.path.clone(),
                detail,
            })
        };
        match std::fs::symlink_metadata(&place) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => {
                return self.still_valid(
                    info,
                    Problem::MissingTree {
                        path: info.path.clone(),
                    },
                );
            }
            Err(err) => return damaged(err.to_string()),
            Ok(_) => {}
        }
        if !contents {
            return None;
        }
        if let Some(expected) = info.tree_id() {
            return match tree_id(&place) {
                Ok(found) if found == expected => None,
                Ok(found) => damaged(format!("its id is {found}, expected {expected}")),
                Err(err) => self.still_valid(
                    info,
                    Problem::DamagedTree {
                        path: info.path.clone(),
                        detail: told(&err),
                    },
                ),
            };
        }
        match self.hash_physical(&info.path, HashAlgo::Sha256) {
            Err(err) => {
                let detail = std::error::Error::source(&err)
                    .map_or_else(|| err.to_string(), |cause| format!("{err}: {cause}"));
                self.still_valid(
                    info,
                    Problem::DamagedTree {
                        path: info.path.clone(),
                        detail,
                    },
                )
            }
            Ok((hash, size)) => match info.nar_sha256 {
                Some(expected) if hash.as_sha256() != Some(expected) => damaged(format!(
                    "its NAR has hash {hash}, expected sha256:{expected}"
                )),
                Some(_) if size != info.nar_size => damaged(format!(
                    "its NAR has {size} bytes, expected {}",
                    info.nar_size
                )),
                Some(_) => None,
                None => damaged("it is registered without a hash".to_owned()),
            },
        }
    }

    /// Forgets a problem of an object that was collected in this moment.
    fn still_valid(&self, info: &PathInfo, problem: Problem) -> Option<Problem> {
        self.is_valid(&info.path).unwrap_or(true).then_some(problem)
    }

    fn rootfs_problem(
        &self,
        info: &PathInfo,
        walked: &mut BTreeMap<Blake3, Option<String>>,
    ) -> Option<String> {
        let Some(root_id) = info.root else {
            return Some("it is registered without a manifest".to_owned());
        };
        let root = match self.get_root(&root_id) {
            Ok(root) => root,
            Err(err) => return Some(told(&err)),
        };
        // Depth first, without recursion: a directory is done when all below it are.
        let mut stack = vec![(root.node, false)];
        while let Some((id, below_done)) = stack.pop() {
            if !below_done && walked.contains_key(&id) {
                continue;
            }
            let node = match self.get_node(&id) {
                Ok(node) => node,
                Err(err) => {
                    walked.insert(id, Some(told(&err)));
                    continue;
                }
            };
            let below = || {
                node.entries.iter().filter_map(|entry| match &entry.kind {
                    Kind::Dir { node } => Some(*node),
                    _ => None,
                })
            };
            if !below_done {
                // A node is not below itself: its id is the hash of what it holds.
                stack.push((id, true));
                stack.extend(below().map(|id| (id, false)));
                continue;
            }
            let files = node.entries.iter().filter_map(|entry| match &entry.kind {
                Kind::File { size, blob, .. } => Some((size, blob)),
                _ => None,
            });
            let mut found = None;
            for (size, blob) in files {
                if !self.cas().has(blob, false, *size) && !self.cas().has(blob, true, *size) {
                    found = Some(format!("the content {blob} is missing or has another size"));
                    break;
                }
            }
            let found = found.or_else(|| below().find_map(|id| walked.get(&id).cloned().flatten()));
            walked.insert(id, found);
        }
        walked.get(&root.node).cloned().flatten()
    }

    /// Looks for what killed processes have left.
    fn find_leftovers(&self, report: &mut CheckReport) -> Result<()> {
        for place in list_dir(&self.root().join("tree"))? {
            let base = place.file_name().and_then(|name| name.to_str());
            let path = base.and_then(|base| StorePath::from_base(base).ok());
            let known = match &path {
                Some(path) => self.is_valid(path).unwrap_or(true),
                None => false,
            };
            if !known {
                report.orphans.push(place);
            }
        }
        for place in list_dir(&self.root().join("tmp"))? {
            // Its owner has it locked; a lock that can be had is given back at once.
            let owned = place.is_dir() && matches!(crate::temp::lock_dir(&place), Ok(None));
            if !owned {
                report.orphans.push(place);
            }
        }
        Ok(())
    }
}

/// What is wrong with a file of `cas/`, if anything.
fn blob_problem(file: &Path, hash: &Blake3, contents: bool) -> Option<String> {
    let meta = match std::fs::symlink_metadata(file) {
        Ok(meta) => meta,
        // Collected in this moment.
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return None,
        Err(err) => return Some(err.to_string()),
    };
    if !meta.is_file() {
        return Some("it is not a regular file".to_owned());
    }
    let executable = file.to_string_lossy().ends_with(".x");
    // A changed mode must not hide changed content: whoever opened the file for writing has changed both.
    let mut details = Vec::new();
    if meta.mode() & 0o7777 != file_mode(executable) {
        details.push(format!(
            "it has mode {:o}, expected {:o}",
            meta.mode() & 0o7777,
            file_mode(executable)
        ));
    }
    if contents {
        let found = std::fs::File::open(file)
            .and_then(|mut data| copy_hashed(&mut data, &mut std::io::sink(), &[]));
        match found {
            Ok((found, _)) if found == *hash => {}
            Ok((found, _)) => details.push(format!("its content has hash {found}")),
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => return None,
            Err(err) => details.push(err.to_string()),
        }
    }
    (!details.is_empty()).then(|| details.join("; "))
}

fn told(err: &StoreError) -> String {
    match err {
        StoreError::Corrupt { path, detail } => format!("{}: {detail}", path.display()),
        other => other.to_string(),
    }
}

/// Looks at many things on all cores; the results come in the order of the things.
fn in_parallel<T: Sync>(items: &[T], look: impl Fn(&T) -> Option<Problem> + Sync) -> Vec<Problem> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism()
        .map_or(1, usize::from)
        .min(items.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let at = next.fetch_add(1, Ordering::Relaxed);
                    let Some(item) = items.get(at) else { return };
                    if let Some(problem) = look(item) {
                        db::lock(&found).push((at, problem));
                    }
                }
            });
        }
    });
    let mut found = found
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    found.sort();
    found.into_iter().map(|(_, problem)| problem).collect()
}
