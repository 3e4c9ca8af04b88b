//! Store directories with the inputs of a large closure mounted already: a run copies all of the mounts at once, which
//! takes a millisecond, and mounts by itself only what else it needs.
//!
//! A prepared directory serves one run at a time, which writes its outputs in it; they are moved away before the next one.
//! The mounts are in a namespace that is kept by an open descriptor; outside of it the directory holds empty entries.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sos_store::{Store, TempDir};

use super::child::Helper;
use super::namespaces;
use super::outcome::SandboxError;
use super::protocol::{Answer, Request, UsernsKind};
use super::spec::Input;

/// Closures below this are mounted as quickly as they are looked for here.
const MIN_INPUTS: usize = 64;
/// The most idle directories that are kept.
const MAX_IDLE: usize = 32;
/// As in Nix: builders may make entries, and remove only their own.
const DIR_MODE: u32 = 0o1775;

/// What tells that a path still is what was mounted: whoever repairs the store puts another directory there.
type Identity = (u64, u64);

/// One directory with its mounts.
#[derive(Debug)]
pub(super) struct Prepared {
    place: TempDir,
    namespace: OwnedFd,
    inputs: BTreeMap<String, Identity>,
}

#[derive(Default)]
struct State {
    idle: Vec<Prepared>,
    /// The closure of the run before.
    last: BTreeSet<String>,
}

/// The prepared directories of one store.
pub struct PreparedSets {
    store: Store,
    state: Mutex<State>,
}

impl PreparedSets {
    /// Prepares nothing yet.
    #[must_use]
    pub fn new(store: Store) -> Self {
        Self {
            store,
            state: Mutex::new(State::default()),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // What is inside is only ever replaced whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a directory with most of these inputs in it and none besides; none when that would not pay.
    pub(super) fn take(
        &self,
        inputs: &[Input],
        exe: Option<&Path>,
    ) -> Result<Option<Prepared>, SandboxError> {
        if inputs.len() < MIN_INPUTS {
            return Ok(None);
        }
        let wanted: BTreeMap<&str, &Input> = inputs.iter().map(|i| (i.base.as_str(), i)).collect();
        let (found, common) = {
            let mut state = self.state();
            let fits = |one: &Prepared| {
                one.inputs.len() * 2 >= wanted.len()
                    && one
                        .inputs
                        .keys()
                        .all(|base| wanted.contains_key(base.as_str()))
            };
            let at = (0..state.idle.len())
                .filter(|at| fits(&state.idle[*at]))
                .max_by_key(|at| state.idle[*at].inputs.len());
            let found = at.map(|at| state.idle.remove(at));
            let all: BTreeSet<String> = wanted.keys().map(|base| (*base).to_owned()).collect();
            let last = std::mem::replace(&mut state.last, all);
            let common: Vec<&Input> = inputs.iter().filter(|i| last.contains(&i.base)).collect();
            (found, common)
        };
        if let Some(found) = found {
            let same = |(base, was): (&String, &Identity)| {
                wanted
                    .get(base.as_str())
                    .and_then(|input| identity(&input.physical))
                    .is_some_and(|is| is == *was)
            };
            if found.inputs.iter().all(same) {
                return Ok(Some(found));
            }
        }
        // Only what two runs in a row need is worth it.
        if common.len() < MIN_INPUTS || common.len() * 2 < inputs.len() {
            return Ok(None);
        }
        self.prepare(&common, exe).map(Some)
    }

    fn prepare(&self, inputs: &[&Input], exe: Option<&Path>) -> Result<Prepared, SandboxError> {
        let failed = |e: io::Error| SandboxError::io("prepare a store directory", e);
        let place = self.store.temp_dir("inputs")?;
        let dir = place.path().join("store");
        fs::create_dir(&dir).map_err(failed)?;
        fs::set_permissions(&dir, Permissions::from_mode(DIR_MODE)).map_err(failed)?;
        let mut known = BTreeMap::new();
        let mut shown = Vec::with_capacity(inputs.len());
        for input in inputs {
            // A link is no mount but an entry, which the run could change.
            let link = input.physical.is_symlink();
            if let Some(identity) = identity(&input.physical).filter(|_| !link) {
                known.insert(input.base.clone(), identity);
                shown.push((*input).clone());
            }
        }
        let userns = namespaces::userns(UsernsKind::Single, exe)?;
        let mut helper = Helper::spawn(exe)?;
        let request = Request::Prepare { dir, inputs: shown };
        helper.send(&request, &[userns.as_fd()])?;
        match helper.receive()? {
            (Answer::Prepared, fds) => {
                helper.wait();
                let namespace = fds.into_iter().next().ok_or(SandboxError::Protocol)?;
                Ok(Prepared {
                    place,
                    namespace,
                    inputs: known,
                })
            }
            (Answer::Failed(failure), _) => Err(super::run::failure_error(failure)),
            _ => Err(SandboxError::Protocol),
        }
    }

    /// Takes a directory back after its run: what the run made goes to `outputs`.
    pub(super) fn give_back(&self, one: Prepared, outputs: &Path) -> Result<(), SandboxError> {
        one.empty_into(outputs)
            .map_err(|e| SandboxError::io("take the outputs out of the store directory", e))?;
        let mut state = self.state();
        if state.idle.len() >= MAX_IDLE {
            drop(state.idle.remove(0));
        }
        state.idle.push(one);
        Ok(())
    }
}

impl Prepared {
    pub(super) fn dir(&self) -> PathBuf {
        self.place.path().join("store")
    }

    pub(super) fn namespace(&self) -> &OwnedFd {
        &self.namespace
    }

    pub(super) fn has(&self, base: &str) -> bool {
        self.inputs.contains_key(base)
    }

    /// Moves everything that is no prepared input to another directory. The entries under the mounts cannot be reached by a
    /// run: they are covered.
    fn empty_into(&self, outputs: &Path) -> io::Result<()> {
        let dir = self.dir();
        // The run owns the directory and may have closed it.
        fs::set_permissions(&dir, Permissions::from_mode(DIR_MODE))?;
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_str().is_some_and(|name| self.has(name)) {
                continue;
            }
            move_to(&entry.path(), &outputs.join(&name))?;
        }
        Ok(())
    }
}

/// Renames; a directory that is closed to its owner must be opened for that, as its `..` changes.
fn move_to(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
            let mode = from.symlink_metadata()?.permissions().mode();
            fs::set_permissions(from, Permissions::from_mode(mode | 0o700))?;
            fs::rename(from, to)?;
            fs::set_permissions(to, Permissions::from_mode(mode))
        }
        other => other,
    }
}

fn identity(path: &Path) -> Option<Identity> {
    let meta = path.symlink_metadata().ok()?;
    Some((meta.dev(), meta.ino()))
}
