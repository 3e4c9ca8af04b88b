//! What failed builds leave: their state, kept so that a shell can look at it.
//!
//! ```text
//! failed                     0700: there may be setuid programs in it; `sos gc` empties it
//!   <n>-<name>/state.json    which derivation, when, and how it ended; written last
//!   <n>-<name>/build, out    of the Nix shape: the build directory, and the store directory with the outputs
//!   <n>-<name>/upper, private    of a step: what it changed in its root, and its `/run/sos`
//! ```
//! The files of a step belong to ids of this machine, as those of a working tree do (see `sandbox/tree.rs`): its state names the map that
//! leads there, and who has another one leaves it alone.
//!
//! Whoever uses a state holds a lock on its directory. Without `--keep-failed` only the newest few are kept, and of one run the first
//! that failed: a state of which a person was told is not replaced by what fails a second later.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::Store;

use crate::output::Stop;
use crate::sandbox::{StepSpec, map_name, remove_tree};
use crate::work::{Attempt, place_failed};

/// The directory of the store that has them.
const DIR: &str = "failed";
const STATE: &str = "state.json";

/// What is written down of a state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    /// The derivation that failed, `<hash>-<name>.drv`.
    drv: String,
    name: String,
    /// How it failed, in words.
    pub(crate) message: String,
    /// When, in milliseconds since 1970.
    time_ms: u64,
    /// It was asked for with `--keep-failed`: it stays.
    asked: bool,
    /// The name of the id map that its files were made under; none of a build, whose files are the caller's.
    #[serde(default)]
    map: Option<String>,
}

impl State {
    /// Tells whether its files are of ids that this process has. What does not say so was kept by an older sos.
    fn is_ours(&self) -> bool {
        let map = self.map.as_deref();
        map.is_none_or(|map| map_name().is_ok_and(|ours| ours == map))
    }
}

/// A state that nobody else uses or removes while this value lives.
pub(crate) struct Kept {
    pub(crate) dir: PathBuf,
    pub(crate) state: State,
    _lock: File,
}

/// Returns a new place for the state of a build that is about to fail.
fn new_place(attempt: &Attempt<'_>) -> io::Result<PathBuf> {
    let failed = attempt.worker.store.root().join(DIR);
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&failed)?;
    fs::set_permissions(&failed, fs::Permissions::from_mode(0o700))?;
    let name = attempt.place.path().file_name().unwrap_or_default();
    let name = format!("{}-{}", name.to_string_lossy(), attempt.job.name);
    Ok(failed.join(name))
}

fn wanted(attempt: &Attempt<'_>) -> bool {
    let options = &attempt.worker.options;
    options.keep_failed || options.keep_failed_states > 0
}

/// Tells whether the state of a build that ended so can explain anything. What the machine lacks it does not, and on a full
/// disk it is in the way.
fn explains(diagnostic: &Diagnostic) -> bool {
    matches!(diagnostic.class, Class::BuildFailed | Class::TimedOut)
}

/// Takes one of the places for states that this run has.
fn has_place(attempt: &Attempt<'_>) -> bool {
    let most = attempt.worker.options.keep_failed_states;
    attempt.worker.states_kept.fetch_add(1, Ordering::SeqCst) < most
}

/// Moves what a build in the Nix shape has left to a lasting place, and says how to look at it.
pub(crate) fn keep_build(attempt: &Attempt<'_>, stop: Stop) -> Stop {
    let Stop::Problem(diagnostic) = stop else {
        return stop;
    };
    let asked = attempt.worker.options.keep_failed;
    if !wanted(attempt) || !(asked || (explains(&diagnostic) && has_place(attempt))) {
        return Stop::Problem(diagnostic);
    }
    let move_there = || {
        let to = new_place(attempt)?;
        fs::DirBuilder::new().mode(0o700).create(&to)?;
        for part in ["build", "out"] {
            fs::rename(attempt.place.path().join(part), to.join(part))?;
        }
        note(attempt, &to, &diagnostic, None)?;
        Ok(to)
    };
    let kept: io::Result<PathBuf> = move_there();
    let mut diagnostic = *diagnostic;
    match kept {
        Ok(kept) if asked => {
            let kept = kept.join("build");
            diagnostic = diagnostic.note(format!(
                "its build directory is kept at `{}`",
                kept.display()
            ));
        }
        Err(e) if asked => {
            diagnostic = diagnostic.note(format!("its build directory could not be kept: {e}"));
        }
        Ok(_) => {}
        Err(error) => {
            tracing::warn!(%error, "the state of a failed build is not kept");
            return Stop::Problem(Box::new(diagnostic));
        }
    }
    Stop::Problem(Box::new(advised(
        attempt,
        diagnostic,
        "as it stopped, but for `/tmp`, which was memory",
    )))
}

/// As [`keep_build`], for a build whose outputs were refused: part of them may have become files of the store already, which a
/// shell must not write to.
pub(crate) fn keep_refused(attempt: &Attempt<'_>, stop: Stop) -> Stop {
    if !matches!(&stop, Stop::Problem(problem) if wanted(attempt) && explains(problem)) {
        return stop;
    }
    if let Err(error) = unshare(&attempt.place.path().join("out")) {
        tracing::warn!(%error, "the state of a refused build is not kept");
        return stop;
    }
    keep_build(attempt, stop)
}

/// Makes every file below a directory one that has no other name.
fn unshare(top: &Path) -> io::Result<()> {
    let mut pending = vec![top.to_owned()];
    while let Some(path) = pending.pop() {
        let meta = fs::symlink_metadata(&path)?;
        if meta.is_dir() {
            fs::set_permissions(&path, fs::Permissions::from_mode(meta.mode() | 0o700))?;
            for entry in fs::read_dir(&path)? {
                pending.push(entry?.path());
            }
        } else if meta.is_file() && meta.nlink() > 1 {
            let mut own = path.clone().into_os_string();
            own.push(".sos-own");
            fs::copy(&path, &own)?;
            fs::set_permissions(&own, fs::Permissions::from_mode(meta.mode() | 0o600))?;
            fs::rename(&own, &path)?;
        }
    }
    Ok(())
}

/// Returns where a step shall leave its state if it fails.
pub(crate) fn place_for_step(attempt: &Attempt<'_>) -> Result<Option<PathBuf>, Stop> {
    if !wanted(attempt) {
        return Ok(None);
    }
    let place = new_place(attempt).map_err(|e| place_failed(attempt.place, &e))?;
    Ok(Some(place))
}

/// Deals with what a step has left at `kept`, and says how to look at it.
pub(crate) fn keep_step(
    attempt: &Attempt<'_>,
    spec: &StepSpec,
    kept: Option<&Path>,
    stop: Stop,
) -> Stop {
    let (Stop::Problem(diagnostic), Some(kept)) = (&stop, kept) else {
        return stop;
    };
    let mut diagnostic = (**diagnostic).clone();
    let asked = attempt.worker.options.keep_failed;
    if asked {
        let kept = kept.display();
        diagnostic = diagnostic.note(format!(
            "what it wrote is kept at `{kept}`: `upper` has what it changed in its root filesystem, `private/out` its `$out`"
        ));
    }
    if !(asked || (explains(&diagnostic) && has_place(attempt))) {
        discard(kept);
        return Stop::Problem(Box::new(diagnostic));
    }
    // The step has run, so there is one.
    let map = map_name().ok().map(str::to_owned);
    if let Err(error) = note(attempt, kept, &diagnostic, map) {
        tracing::warn!(%error, "the state of a failed step is not kept");
        if !asked {
            discard(kept);
        }
        return Stop::Problem(Box::new(diagnostic));
    }
    let state = state_of_step(spec);
    Stop::Problem(Box::new(advised(attempt, diagnostic, &state)))
}

/// How the sandbox of a failed step differs from what its program had.
fn state_of_step(spec: &StepSpec) -> String {
    let memory: Vec<String> = spec
        .tmpfs
        .iter()
        .map(|dir| format!("`{}`", dir.display()))
        .collect();
    let begins = format!("it begins in `{}`", spec.cwd.display());
    match memory.as_slice() {
        [] => format!("its root as it stopped; {begins}"),
        [one] => format!("its root as it stopped, but for {one}, which was memory; {begins}"),
        several => format!(
            "its root as it stopped, but for {}, which were memory; {begins}",
            several.join(" and ")
        ),
    }
}

fn advised(attempt: &Attempt<'_>, diagnostic: Diagnostic, state: &str) -> Diagnostic {
    diagnostic.help(format!(
        "`sos shell {} --at-failure` opens a shell in the same sandbox, {state}",
        attempt.job.name
    ))
}

/// Writes down whose state lies at `dir`, and removes those that it takes the place of.
fn note(
    attempt: &Attempt<'_>,
    dir: &Path,
    diagnostic: &Diagnostic,
    map: Option<String>,
) -> io::Result<()> {
    let options = &attempt.worker.options;
    let state = State {
        drv: attempt.job.path.base(),
        name: attempt.job.name.to_string(),
        message: diagnostic.message.clone(),
        time_ms: attempt.worker.clock.unix_ms(),
        asked: options.keep_failed,
        map,
    };
    let text = serde_json::to_string(&state).map_err(io::Error::other)?;
    fs::write(dir.join(STATE), text)?;
    prune(&attempt.worker.store, options.keep_failed_states);
    Ok(())
}

/// The names of the derivations whose states are kept, newest first.
pub(crate) fn names(store: &Store) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for (_, state) in states(store) {
        if !names.contains(&state.name) {
            names.push(state.name);
        }
    }
    names
}

/// Lists the states, newest first.
fn states(store: &Store) -> Vec<(PathBuf, State)> {
    let mut found: Vec<(PathBuf, State)> = fs::read_dir(store.root().join(DIR))
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let text = fs::read_to_string(entry.path().join(STATE)).ok()?;
            Some((entry.path(), serde_json::from_str(&text).ok()?))
        })
        .collect();
    found.sort_by(|(a_dir, a), (b_dir, b)| (b.time_ms, b_dir).cmp(&(a.time_ms, a_dir)));
    found
}

/// Removes all but the newest `most` states that were kept without being asked for, and all but the newest of each derivation. Those of
/// other id maps are not counted.
fn prune(store: &Store, most: usize) {
    let mut kept: Vec<String> = Vec::new();
    for (dir, state) in states(store) {
        if state.asked || !state.is_ours() {
            continue;
        }
        if kept.len() < most && !kept.contains(&state.drv) {
            kept.push(state.drv);
        } else {
            discard(&dir);
        }
    }
}

/// Removes a state, unless somebody uses it.
fn discard(dir: &Path) {
    match lock(dir) {
        Ok(Some(_lock)) => {
            if let Err(error) = remove_tree(dir) {
                tracing::warn!(dir = %dir.display(), %error, "the state of a failed build cannot be removed");
            }
        }
        Ok(None) => {}
        Err(error) => {
            tracing::warn!(dir = %dir.display(), %error, "the state of a failed build cannot be locked");
        }
    }
}

/// Locks a state; none when somebody else has it, or it is gone.
fn lock(dir: &Path) -> io::Result<Option<File>> {
    let file = match File::open(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Gone between the two steps is gone, too.
        Ok(()) if dir.exists() => Ok(Some(file)),
        Ok(()) | Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Takes the newest state of a derivation that this process can use; none when there is none at all.
pub(crate) fn take(store: &Store, drv: &StorePath) -> Result<Option<Kept>, Box<Diagnostic>> {
    let base = drv.base();
    let mut all = states(store);
    all.retain(|(_, state)| state.drv == base);
    // Of those that are ours the newest, or else the newest.
    all.sort_by_key(|(_, state)| !state.is_ours());
    let Some((dir, state)) = all.into_iter().next() else {
        return Ok(None);
    };
    if !state.is_ours() {
        return Err(Box::new(foreign(&state.name)));
    }
    match lock(&dir) {
        Ok(Some(lock)) => Ok(Some(Kept {
            dir,
            state,
            _lock: lock,
        })),
        Ok(None) => Err(Box::new(
            Diagnostic::error(
                "shell-state-in-use",
                Class::Other,
                format!(
                    "the state of the failed build of `{}` is in use by another shell",
                    state.name
                ),
            )
            .help("leave the other shell first, or enter a fresh sandbox without `--at-failure`"),
        )),
        Err(e) => Err(Box::new(Diagnostic::error(
            "shell-state-unreadable",
            Class::Machine,
            format!("cannot use `{}`: {e}", dir.display()),
        ))),
    }
}

fn foreign(name: &str) -> Diagnostic {
    Diagnostic::error(
        "shell-state-foreign",
        Class::Other,
        format!("the state of the failed build of `{name}` is of other subordinate ids than this user has now"),
    )
    .note("its files belong to the ids that `/etc/subuid` gave this user when it was kept, or to those of another container")
    .help("build it again: the state of that failure can be used; `sos gc` says what becomes of the old one")
}

/// Returns the derivation of that name, with or without its version, that failed last and whose state is kept.
#[must_use]
pub fn failed_named(store: &Store, name: &str) -> Option<StorePath> {
    let is_it = |state: &State| {
        let version = state.name.strip_prefix(name);
        version.is_some_and(|rest| {
            let mut rest = rest.chars();
            match rest.next() {
                None => true,
                Some('-') => rest.next().is_some_and(|c| c.is_ascii_digit()),
                Some(_) => false,
            }
        })
    };
    let found = states(store).into_iter().find(|(_, state)| is_it(state))?;
    StorePath::from_base(&found.1.drv).ok()
}

/// Returns the file that the failed step `drv`, whose state is kept, wrote at a path of its root filesystem. Links are not followed:
/// they would lead into the root of this machine.
#[must_use]
pub fn failed_file(store: &Store, drv: &StorePath, path: &str) -> Option<PathBuf> {
    let base = drv.base();
    let (dir, _) = states(store)
        .into_iter()
        .find(|(_, state)| state.drv == base)?;
    let mut found = dir.join("upper");
    for name in path.split('/').filter(|name| !name.is_empty()) {
        if name == ".." || !found.symlink_metadata().ok()?.is_dir() {
            return None;
        }
        found.push(name);
    }
    found.symlink_metadata().ok()?.is_file().then_some(found)
}

/// Tells whether the state of the failed build `drv` is kept.
#[must_use]
pub fn has_failed(store: &Store, drv: &StorePath) -> bool {
    let base = drv.base();
    states(store).iter().any(|(_, state)| state.drv == base)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_store::test_store;

    fn add(store: &Store, place: &str, drv: char, name: &str, time_ms: u64, asked: bool) {
        let dir = store.root().join(DIR).join(place);
        fs::create_dir_all(dir.join("build")).unwrap();
        let state = State {
            drv: format!("{}-{name}.drv", drv.to_string().repeat(32)),
            name: name.to_owned(),
            message: "it failed".to_owned(),
            time_ms,
            asked,
            map: None,
        };
        fs::write(dir.join(STATE), serde_json::to_string(&state).unwrap()).unwrap();
    }

    fn places(store: &Store) -> Vec<String> {
        let name = |dir: &Path| dir.file_name().unwrap().to_string_lossy().into_owned();
        states(store).iter().map(|(dir, _)| name(dir)).collect()
    }

    #[test]
    fn the_newest_few_are_kept() {
        let (_dir, store) = test_store();
        add(&store, "a", '1', "x-1.0", 1, false);
        add(&store, "b", '2', "y", 2, false);
        add(&store, "c", '1', "x-1.0", 3, false);
        add(&store, "d", '3', "z", 4, true);
        prune(&store, 2);
        // The older state of the same derivation went; what was asked for does not count.
        assert_eq!(places(&store), ["d", "c", "b"]);
        let used = take(
            &store,
            &StorePath::from_base(&format!("{}-y.drv", "2".repeat(32))).unwrap(),
        );
        let used = used.unwrap().unwrap();
        prune(&store, 0);
        assert_eq!(places(&store), ["d", "b"], "one is in use");
        drop(used);
        prune(&store, 0);
        assert_eq!(places(&store), ["d"]);
    }

    #[test]
    fn a_state_is_used_by_one_at_a_time() {
        let (_dir, store) = test_store();
        add(&store, "a", '1', "x", 1, false);
        let drv = StorePath::from_base(&format!("{}-x.drv", "1".repeat(32))).unwrap();
        let first = take(&store, &drv).unwrap();
        assert!(first.is_some());
        assert_eq!(take(&store, &drv).err().unwrap().code, "shell-state-in-use");
        drop(first);
        assert!(take(&store, &drv).unwrap().is_some());
    }

    #[test]
    fn what_a_failed_step_wrote_is_found_but_by_no_link() {
        let (_dir, store) = test_store();
        add(&store, "a", '1', "x", 1, false);
        let drv = StorePath::from_base(&format!("{}-x.drv", "1".repeat(32))).unwrap();
        let upper = store.root().join(DIR).join("a/upper");
        fs::create_dir_all(upper.join("usr/bin")).unwrap();
        fs::write(upper.join("usr/bin/p"), "p").unwrap();
        std::os::unix::fs::symlink("/etc", upper.join("usr/etc")).unwrap();
        std::os::unix::fs::symlink("p", upper.join("usr/bin/q")).unwrap();
        let found = |path| failed_file(&store, &drv, path);
        assert_eq!(found("/usr/bin/p"), Some(upper.join("usr/bin/p")));
        for path in [
            "/usr/etc/passwd",
            "/usr/bin/q",
            "/usr/bin",
            "/usr/../usr/bin/p",
            "/x",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
        assert!(has_failed(&store, &drv));
        fs::remove_file(store.root().join(DIR).join("a").join(STATE)).unwrap();
        assert_eq!(found("/usr/bin/p"), None);
    }

    #[test]
    fn names_with_and_without_version() {
        let (_dir, store) = test_store();
        add(&store, "a", '1', "zlib-1.3", 1, false);
        add(&store, "b", '2', "zlib-ng-2", 2, false);
        let found = |name| failed_named(&store, name).map(|drv| drv.base());
        assert_eq!(found("zlib"), found("zlib-1.3"));
        assert!(found("zlib").is_some_and(|base| base.ends_with("-zlib-1.3.drv")));
        assert_eq!(found("zli"), None);
        assert_eq!(found("ng"), None);
    }
}
