//! One rebuild in a private place, and what differs in it from what the store has.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use sos_formats::derivation::{Derivation, Method, Output};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::HashAlgo;
use sos_formats::store_path::StoreDir;
use sos_store::compare::Snapshot;
use sos_store::{ObjectKind, PathInfo, TempDir, tree_id};
use tokio::runtime::Handle;

use crate::cancel::Cancel;
use crate::choice::{Chosen, choose};
use crate::diagnose::{build_no_output, store_failed};
use crate::engine::Engine;
use crate::hashing::hash_plain;
use crate::output::{Made, Stop};
use crate::report::Reporter;
use crate::resolve::for_builder;
use crate::rewrite::{HashParts, digits};
use crate::work::{Attempt, place_failed, run_builder};

use super::conditions::{Conditions, Shape};
use super::{Came, OutputDifference, Subject};

/// Inputs up to this size in all are copied into memory, to list in another order.
const COPIED_BYTES_MAX: u64 = 128 << 20;

/// Who builds a derivation, as far as it decides what can be varied.
pub(super) fn shape(chosen: &Chosen<'_>, drv: &Derivation) -> Shape {
    let rootfs = drv.outputs.values().any(|output| {
        matches!(
            output,
            Output::Floating {
                method: Method::Rootfs,
                ..
            }
        )
    });
    match chosen {
        Chosen::Nix => Shape::Nix,
        Chosen::Step if rootfs => Shape::StepToRootfs,
        Chosen::Step => Shape::StepToTree,
        Chosen::InProcess(_) => Shape::InProcess,
    }
}

/// The hash of what the store has.
pub(super) fn recorded_hash(info: &PathInfo) -> String {
    match (info.tree_id().or(info.root), &info.nar_sha256) {
        (Some(id), _) => format!("blake3:{id}"),
        (None, Some(hash)) => format!("sha256:{hash}"),
        (None, None) => String::new(),
    }
}

fn damaged(dir: &StoreDir, info: &PathInfo, found: &str) -> Box<Diagnostic> {
    let path = info.path.absolute(dir);
    let message = format!("`{path}` cannot be verified: files of the store are damaged");
    Box::new(
        Diagnostic::error("store-corrupt", Class::Machine, message)
            .note(format!("its id is {found}, expected {}", recorded_hash(info)))
            .help("`sos store check` finds what is damaged, `sos store repair` removes it, to be built again"),
    )
}

impl Engine {
    /// Builds once more and compares.
    pub(super) fn again(
        &self,
        runtime: &Handle,
        subject: &Subject,
        conditions: &Conditions,
        cancel: &Cancel,
    ) -> Result<Came, Stop> {
        let (job, resolved) = (&subject.job, &subject.resolved);
        let mut options = self.options().clone();
        options.cores = conditions.cores(options.cores);
        options.keep_failed = false;
        options.keep_failed_states = 0;
        let worker = self.worker_for_rebuild(runtime, options, cancel)?;
        let chosen = choose(self.builders(), &resolved.drv, job.name.as_str())?;
        let place = self.store().temp_dir("verify").map_err(store_failed)?;
        fs::create_dir(place.path().join("out")).map_err(|e| place_failed(&place, &e))?;
        let reporter = Reporter::new(
            self.store().clone(),
            job.path.clone(),
            job.shown.clone(),
            job.name.clone(),
            job.pool,
            worker.events.clone(),
            cancel.clone(),
        );
        // The log of the build that counts stays.
        reporter.keep_nothing();
        let attempt = Attempt {
            worker: &worker,
            job,
            resolved,
            drv: for_builder(self.store().store_dir(), resolved),
            closure: &subject.closure,
            place: &place,
            reporter,
            since: self.clock().monotonic(),
            conditions: conditions.clone(),
            usual_cores: self.options().cores,
        };
        let made = run_builder(&attempt, &chosen)?;
        let log = attempt.reporter.finish();
        drop(attempt);
        if cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        let missing: Vec<String> = subject
            .recorded
            .keys()
            .filter(|output| !made.contains_key(*output))
            .cloned()
            .collect();
        if !missing.is_empty() {
            return Err(Box::new(build_no_output(job.name.as_str(), &missing, &log)).into());
        }
        self.compared(subject, &made, place)
    }

    fn compared(
        &self,
        subject: &Subject,
        made: &BTreeMap<String, Made>,
        place: TempDir,
    ) -> Result<Came, Stop> {
        let failed = |e: io::Error| Stop::from(place_failed(&place, &e));
        // During the build outputs have other names than the ones that were found for them afterwards.
        let mut parts = HashParts::default();
        for (output, path) in &subject.resolved.building {
            if let Some(info) = subject.recorded.get(output)
                && info.path != *path
            {
                parts.insert(digits(path.hash_str()), digits(info.path.hash_str()));
            }
        }
        let mut found = Vec::new();
        let mut hashes = BTreeMap::new();
        for (output, info) in &subject.recorded {
            let Some(one) = made.get(output) else {
                continue;
            };
            let (rebuilt, at, hash) = match one {
                Made::Rootfs(root) => {
                    if info.root.as_ref() == Some(root) {
                        continue;
                    }
                    let rebuilt = Snapshot::of_rootfs(self.store(), root).map_err(store_failed)?;
                    (rebuilt, None, format!("blake3:{root}"))
                }
                Made::Tree(at, _) => {
                    readable(at).map_err(failed)?;
                    if subject.shape == Shape::Nix && !parts.is_empty() {
                        parts.rewrite_tree(at).map_err(failed)?;
                    }
                    let rebuilt = Snapshot::of_tree(at).map_err(store_failed)?;
                    let hash = match info.tree_id() {
                        Some(_) => tree_id(at)
                            .map(|id| format!("blake3:{id}"))
                            .map_err(|e| e.to_string()),
                        None => hash_plain(at, HashAlgo::Sha256)
                            .map(|hash| hash.to_string())
                            .map_err(|e| e.to_string()),
                    };
                    let hash = hash.unwrap_or_else(|e| format!("none: {e}"));
                    (rebuilt, Some(at.clone()), hash)
                }
            };
            if info.kind == ObjectKind::Tree && hash == recorded_hash(info) {
                continue;
            }
            let recorded = Snapshot::of_object(self.store(), info).map_err(store_failed)?;
            let differences = recorded
                .compare(&rebuilt, self.store())
                .map_err(store_failed)?;
            if differences.is_empty() {
                // A file that is the same blob on both sides is equal to itself, whatever became of it on the disk.
                if info.tree_id().is_some() {
                    return Err(damaged(self.store().store_dir(), info, &hash).into());
                }
                continue;
            }
            hashes.insert(output.clone(), hash);
            found.push(OutputDifference {
                output: output.clone(),
                path: info.path.clone(),
                rebuilt_at: at,
                recorded,
                rebuilt,
                differences,
            });
        }
        if found.is_empty() {
            return Ok(Came::Same);
        }
        Ok(Came::Different(found, hashes, place))
    }

    /// Names of the inputs that a build is made from directly and that are small enough to be copied into memory.
    pub(crate) fn copied_inputs(attempt: &Attempt<'_>) -> Vec<String> {
        let store = &attempt.worker.store;
        let mut sized: Vec<(u64, String)> = attempt
            .resolved
            .drv
            .input_srcs
            .iter()
            .filter_map(|path| {
                let info = store.query(path).ok().flatten()?;
                (info.kind == ObjectKind::Tree).then(|| (info.nar_size, path.base()))
            })
            .collect();
        sized.sort();
        let mut left = COPIED_BYTES_MAX;
        let mut names = Vec::new();
        for (size, base) in sized {
            let Some(rest) = left.checked_sub(size) else {
                break;
            };
            left = rest;
            names.push(base);
        }
        names
    }
}

/// Makes everything in a tree readable; what a store object keeps of modes stays.
fn readable(root: &Path) -> io::Result<()> {
    let mut pending = vec![root.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path)?;
        let mode = meta.permissions().mode();
        let wanted = if meta.is_dir() {
            mode | 0o700
        } else if meta.is_file() {
            mode | 0o600
        } else {
            continue;
        };
        if wanted != mode {
            fs::set_permissions(&path, fs::Permissions::from_mode(wanted))?;
        }
        if meta.is_dir() {
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        }
    }
    Ok(())
}
