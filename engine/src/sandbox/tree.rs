//! Cached working trees: root filesystems as files, owned by the ids of the step namespace. They lie in a directory of the store:
//!
//! ```text
//! work                   0700: a setuid program in a tree would give others the caller's rights
//!   lock                 held while slots are chosen
//!   <n>/lock             shared: the tree is in use; exclusive: it is being changed
//!   <n>/state            "ready-2 <root id> <map>" or "changing <root id> <map>"
//!   <n>/tree/            the files
//!   <n>/next-<root id>/  the upper layer of a step that made that root of this one
//!   gone-<n>/            a slot that a garbage collection removes
//! ```
//! The files of a tree belong to ids of this machine: `map` is the name of what leads there ([`ids::map_name`]). Who has another one
//! leaves the tree alone, and makes one of their own; a garbage collection takes it if it can be removed all the same.
//!
//! A tree is what its state says only while that is `ready-2`. Whoever is killed in the middle leaves `changing` and
//! no lock, and the next one who takes the slot begins with an empty tree.
//!
//! The next step mostly begins with the root that the last one has left. Its tree is made by moving the new files of that step's upper
//! layer: to write them again would cost as much as the step did, and so would removing them.

use std::cmp::Reverse;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use sos_formats::hash::Blake3;
use sos_formats::manifest::Root;
use sos_store::Store;

use super::difference;
use super::ids;
use super::lock::{LOCK_PAUSE, check_cancelled, find_lock, open_lock, try_lock, wait_for};
use super::outcome::{Control, SandboxError};
use super::owners;
use super::worker::Worker;

/// The most trees that are kept when none of them is in use.
const MAX_TREES: usize = 4;
/// The state of a tree that is complete. The number is raised when a manifest gives other files than before.
const READY: &str = "ready-2";
/// How the names of upper layers begin that are kept beside a tree.
const NEXT: &str = "next-";
/// How the names of slots begin that are being removed.
const TAKEN: &str = "gone-";
/// A difference of fewer entries than this is always cheaper than a new tree.
const SMALL_DIFFERENCE: u64 = 500;

/// A tree that is complete and stays as it is while this value lives.
pub(super) struct WorkTree {
    slot: Slot,
    _in_use: File,
}

impl WorkTree {
    pub(super) fn path(&self) -> PathBuf {
        self.slot.tree()
    }

    /// Keeps the upper layer of a step on this tree, which made `root`, for who begins with that. What was kept before is moved to
    /// `old`, which must be a directory. Where the layer cannot be moved it stays where it is.
    pub(super) fn keep_next(
        &self,
        store: &Store,
        root: &Blake3,
        upper: &Path,
        old: &Path,
        control: &Control,
    ) -> Result<(), SandboxError> {
        // Others may use the tree, but nobody changes it.
        let _choosing = lock_choice(&store.work_dir(), control)?;
        for (number, next) in self.slot.nexts()?.into_iter().enumerate() {
            if fs::rename(&next, old.join(format!("next-{number}"))).is_err() {
                return Ok(());
            }
        }
        // A step may have given its `/` to somebody else: then only the system's root may move it.
        fs::rename(upper, self.slot.next(root)).ok();
        Ok(())
    }
}

#[derive(Clone)]
struct Slot {
    dir: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ready(Blake3),
    Changing(Blake3),
    /// Of another id map.
    Foreign,
    Unknown,
}

impl Slot {
    fn tree(&self) -> PathBuf {
        self.dir.join("tree")
    }

    fn next(&self, root: &Blake3) -> PathBuf {
        self.dir.join(format!("{NEXT}{root}"))
    }

    /// The upper layers that were kept.
    fn nexts(&self) -> Result<Vec<PathBuf>, SandboxError> {
        let is_next = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.starts_with(NEXT))
        };
        Ok(list(&self.dir)?.into_iter().filter(is_next).collect())
    }

    fn state(&self, map: &str) -> State {
        let text = fs::read_to_string(self.dir.join("state")).unwrap_or_default();
        parse_state(&text, map)
    }

    fn set_state(&self, state: &str, root: &Blake3, map: &str) -> Result<(), SandboxError> {
        let (new, at) = (self.dir.join("state.new"), self.dir.join("state"));
        fs::write(&new, format!("{state} {root} {map}\n"))
            .and_then(|()| fs::rename(&new, &at))
            .map_err(|e| SandboxError::io(format!("write {}", at.display()), e))
    }

    fn last_used(&self) -> SystemTime {
        fs::metadata(self.dir.join("lock"))
            .and_then(|m| m.modified())
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }

    fn open_lock(&self) -> Result<File, SandboxError> {
        open_lock(&self.dir.join("lock"))
    }
}

fn parse_state(text: &str, map: &str) -> State {
    // A file that was cut short has no line.
    let words = text
        .strip_suffix('\n')
        .map(|line| line.split(' ').collect());
    let words: Vec<&str> = words.unwrap_or_default();
    let [state, root, of] = words[..] else {
        return State::Unknown;
    };
    match (state, root.parse()) {
        (_, Ok(Blake3(_))) if of != map => State::Foreign,
        (READY, Ok(root)) => State::Ready(root),
        ("changing", Ok(root)) => State::Changing(root),
        _ => State::Unknown,
    }
}

/// What is to be done with a slot that was chosen.
enum Choice {
    /// It is the tree that is wanted, and locked for use.
    Use(Slot, File),
    /// It is locked for change; it holds this manifest, or nothing that can be used.
    Change(Slot, File, Option<Blake3>),
    /// Somebody else is making what is wanted.
    Wait,
}

/// Returns a working tree of the manifest `root`, moved or made for it if there is none.
pub(super) fn acquire(
    store: &Store,
    root: &Blake3,
    worker: &mut Worker,
    control: &Control,
) -> Result<WorkTree, SandboxError> {
    let trees = Trees {
        store,
        dir: store.work_dir(),
        map: ids::map_name()?,
        control,
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&trees.dir)
        .map_err(|e| SandboxError::io(format!("create {}", trees.dir.display()), e))?;
    loop {
        check_cancelled(control)?;
        let choice = {
            let _choosing = trees.lock_choice()?;
            trees.choose(root, worker)?
        };
        match choice {
            Choice::Use(slot, lock) => {
                return Ok(WorkTree {
                    slot,
                    _in_use: lock,
                });
            }
            Choice::Wait => std::thread::sleep(LOCK_PAUSE),
            Choice::Change(slot, lock, old) => {
                trees.change(&slot, old.as_ref(), root, worker)?;
                mark_used(&lock);
                // Nobody takes a slot for change while the choice is locked, so none can come between
                // the end of the exclusive lock and the begin of the shared one.
                let _choosing = trees.lock_choice()?;
                if try_lock(&lock, FlockOperation::NonBlockingLockShared)? {
                    return Ok(WorkTree {
                        slot,
                        _in_use: lock,
                    });
                }
            }
        }
    }
}

/// Finds the slots below `work` that nobody uses and that were last used before `before`. With `take` those that can be removed are
/// renamed, so that they are slots no more, and with them comes what a killed taker has renamed; only one may take at a time. Without it
/// nothing is made or changed.
pub(super) fn idle(
    work: &Path,
    before: Option<SystemTime>,
    take: bool,
    control: &Control,
) -> Result<Vec<PathBuf>, SandboxError> {
    if !work.is_dir() {
        return Ok(Vec::new());
    }
    let open = |path: PathBuf| match take {
        true => open_lock(&path).map(Some),
        false => find_lock(&path),
    };
    let choosing = open(work.join("lock"))?;
    if let Some(lock) = &choosing {
        wait_for(lock, control)?;
    }
    let mut found = taken(work)?;
    for slot in slots(work)? {
        if before.is_some_and(|before| slot.last_used() >= before) {
            continue;
        }
        let lock = open(slot.dir.join("lock"))?;
        if let Some(lock) = &lock
            && !try_lock(lock, FlockOperation::NonBlockingLockExclusive)?
        {
            continue;
        }
        found.push(if take && can_remove(&slot.dir) {
            put_away(work, &slot.dir, found.len())?
        } else {
            slot.dir
        });
    }
    Ok(found)
}

/// Renames a slot, which is locked as the choice is: whoever waits for that looks for slots anew, and nobody else can have this one in
/// mind. Numbers are tried from `number` on.
fn put_away(work: &Path, slot: &Path, mut number: usize) -> Result<PathBuf, SandboxError> {
    let away = loop {
        let away = work.join(format!("{TAKEN}{number}"));
        if away.symlink_metadata().is_err() {
            break away;
        }
        number += 1;
    };
    fs::rename(slot, &away)
        .map_err(|e| SandboxError::io(format!("rename {}", slot.display()), e))?;
    Ok(away)
}

/// Tells whether a slot, or another tree that a step has left, can be removed here.
pub(super) fn can_remove(dir: &Path) -> bool {
    let slot = Slot {
        dir: dir.to_owned(),
    };
    let is_ours = |map| matches!(slot.state(map), State::Ready(_) | State::Changing(_));
    ids::map_name().is_ok_and(is_ours) || owners::can_remove(dir)
}

fn list(dir: &Path) -> Result<Vec<PathBuf>, SandboxError> {
    let mut found = fs::read_dir(dir)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<PathBuf>>>()
        })
        .map_err(|e| SandboxError::io(format!("list {}", dir.display()), e))?;
    found.sort();
    Ok(found)
}

fn slots(work: &Path) -> Result<Vec<Slot>, SandboxError> {
    let is_slot = |dir: &PathBuf| {
        let number = dir.file_name().and_then(|name| name.to_str());
        number.is_some_and(|number| number.parse::<u32>().is_ok())
    };
    let dirs = list(work)?.into_iter().filter(is_slot);
    Ok(dirs.map(|dir| Slot { dir }).collect())
}

fn taken(work: &Path) -> Result<Vec<PathBuf>, SandboxError> {
    let is_taken = |dir: &PathBuf| {
        let name = dir.file_name().and_then(|name| name.to_str());
        name.is_some_and(|name| name.starts_with(TAKEN))
    };
    Ok(list(work)?.into_iter().filter(is_taken).collect())
}

fn lock_choice(work: &Path, control: &Control) -> Result<File, SandboxError> {
    let lock = open_lock(&work.join("lock"))?;
    wait_for(&lock, control)?;
    Ok(lock)
}

struct Trees<'a> {
    store: &'a Store,
    dir: PathBuf,
    /// The name of the id map of this process.
    map: &'static str,
    control: &'a Control,
}

impl Trees<'_> {
    fn lock_choice(&self) -> Result<File, SandboxError> {
        lock_choice(&self.dir, self.control)
    }

    /// The slots that may be used: all but those of other id maps, and of root, who once made some in stores of others. A slot without
    /// a state can be anybody's.
    fn slots(&self) -> Result<Vec<Slot>, SandboxError> {
        let mut slots = slots(&self.dir)?;
        let us = rustix::process::geteuid().as_raw();
        let is_ours = |slot: &Slot| fs::metadata(&slot.dir).is_ok_and(|meta| meta.uid() == us);
        slots.retain(|slot| {
            is_ours(slot)
                && match slot.state(self.map) {
                    State::Ready(_) | State::Changing(_) => true,
                    State::Foreign => false,
                    State::Unknown => owners::can_remove(&slot.dir),
                }
        });
        Ok(slots)
    }

    fn choose(&self, root: &Blake3, worker: &mut Worker) -> Result<Choice, SandboxError> {
        let slots = self.slots()?;
        for slot in &slots {
            match slot.state(self.map) {
                State::Ready(id) if id == *root => {
                    let lock = slot.open_lock()?;
                    if try_lock(&lock, FlockOperation::NonBlockingLockShared)? {
                        mark_used(&lock);
                        return Ok(Choice::Use(slot.clone(), lock));
                    }
                }
                State::Changing(id) if id == *root => {
                    let lock = slot.open_lock()?;
                    if !try_lock(&lock, FlockOperation::NonBlockingLockShared)? {
                        return Ok(Choice::Wait);
                    }
                }
                _ => {}
            }
        }
        self.choose_for_change(slots, root, worker)
    }

    fn choose_for_change(
        &self,
        slots: Vec<Slot>,
        root: &Blake3,
        worker: &mut Worker,
    ) -> Result<Choice, SandboxError> {
        let used = slots.len();
        let mut free = Vec::new();
        for slot in slots {
            let lock = slot.open_lock()?;
            if try_lock(&lock, FlockOperation::NonBlockingLockExclusive)? {
                free.push((slot, lock));
            }
        }
        let was_made_of = |slot: &Slot| {
            matches!(slot.state(self.map), State::Ready(old) if self.store.get_root(&old).is_ok())
                && slot.next(root).is_dir()
        };
        if let Some(at) = free.iter().position(|(slot, _)| was_made_of(slot)) {
            let (slot, lock) = free.swap_remove(at);
            if let State::Ready(old) = slot.state(self.map) {
                slot.set_state("changing", root, self.map)?;
                return Ok(Choice::Change(slot, lock, Some(old)));
            }
        }
        let new = self.store.get_root(root)?;
        // The tree of the step before is mostly the one, and then nothing is counted to the end of the others.
        free.sort_by_key(|(slot, _)| Reverse(slot.last_used()));
        let best = match self.nearest(&free, &new, SMALL_DIFFERENCE + 1) {
            Some(best) => Some(best),
            None => self.nearest(&free, &new, u64::MAX),
        };
        if let Some((cost, at, id)) = best
            && (cost <= SMALL_DIFFERENCE
                || cost <= difference::cost(self.store, None, &new, cost.saturating_mul(2))? / 2)
        {
            let (slot, lock) = free.swap_remove(at);
            slot.set_state("changing", root, self.map)?;
            return Ok(Choice::Change(slot, lock, Some(id)));
        }
        // A new tree is cheaper. Slots that hold nothing usable come first, then those not used for longest.
        free.sort_by_key(|(slot, _)| {
            (
                matches!(slot.state(self.map), State::Ready(_)),
                slot.last_used(),
            )
        });
        let mut free = free.into_iter();
        let mut over = (used + 1).saturating_sub(MAX_TREES);
        let mut chosen = None;
        for (slot, lock) in free.by_ref() {
            let usable = matches!(slot.state(self.map), State::Ready(_));
            if usable && over == 0 {
                break;
            }
            over = over.saturating_sub(1);
            if chosen.is_none() {
                chosen = Some((slot, lock));
            } else {
                worker.remove_tree(&slot.dir)?;
            }
        }
        let (slot, lock) = match chosen {
            Some(chosen) => chosen,
            None => self.new_slot()?,
        };
        slot.set_state("changing", root, self.map)?;
        Ok(Choice::Change(slot, lock, None))
    }

    /// Finds the tree with the fewest entries that differ from `new`, below `limit`: how many, which one, what it holds.
    fn nearest(
        &self,
        free: &[(Slot, File)],
        new: &Root,
        mut limit: u64,
    ) -> Option<(u64, usize, Blake3)> {
        let mut best = None;
        for (at, (slot, _)) in free.iter().enumerate() {
            let State::Ready(id) = slot.state(self.map) else {
                continue;
            };
            // A manifest that was collected can be no starting point.
            let Ok(old) = self.store.get_root(&id) else {
                continue;
            };
            match difference::cost(self.store, Some(&old), new, limit) {
                Ok(cost) if cost < limit => {
                    best = Some((cost, at, id));
                    limit = cost;
                }
                _ => {}
            }
        }
        best
    }

    fn new_slot(&self) -> Result<(Slot, File), SandboxError> {
        for number in 0u32.. {
            let dir = self.dir.join(number.to_string());
            match fs::create_dir(&dir) {
                Ok(()) => {
                    let slot = Slot { dir };
                    let lock = slot.open_lock()?;
                    if try_lock(&lock, FlockOperation::NonBlockingLockExclusive)? {
                        return Ok((slot, lock));
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(SandboxError::io(format!("create {}", dir.display()), e)),
            }
        }
        Err(SandboxError::io(
            "find a free working tree",
            io::Error::from(io::ErrorKind::StorageFull),
        ))
    }

    /// Makes the tree of a slot, which is locked and marked as changing, what `root` says.
    fn change(
        &self,
        slot: &Slot,
        old: Option<&Blake3>,
        root: &Blake3,
        worker: &mut Worker,
    ) -> Result<(), SandboxError> {
        let new = self.store.get_root(root)?;
        let old: Option<Root> = old.map(|id| self.store.get_root(id)).transpose()?;
        let tree = slot.tree();
        let mut left = None;
        if old.is_none() {
            worker.remove_tree(&tree)?;
            fs::create_dir(&tree)
                .map_err(|e| SandboxError::io(format!("create {}", tree.display()), e))?;
        } else {
            left = Some(slot.next(root)).filter(|left| left.is_dir());
        }
        worker.base(&tree)?;
        let check = &mut || check_cancelled(self.control);
        difference::apply(
            self.store,
            worker,
            old.as_ref(),
            &new,
            left.as_deref(),
            check,
        )?;
        // They belong to the tree that this one was.
        for next in slot.nexts()? {
            worker.remove_tree(&next)?;
        }
        slot.set_state(READY, root, self.map)
    }
}

/// Notes the time of last use. Nothing depends on it but which tree is looked at first, and which goes first.
#[allow(
    clippy::disallowed_methods,
    reason = "when a cached tree was last used; reaches no output"
)]
fn mark_used(lock: &File) {
    let _unset = lock.set_modified(SystemTime::now());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_states_count() {
        let id = Blake3::of(b"x");
        let parse = |text: &str| parse_state(text, "map");
        let text = format!("{READY} {id} map\n");
        assert_eq!(parse(&text), State::Ready(id));
        // Of an older sos.
        assert_eq!(parse(&format!("ready {id} map\n")), State::Unknown);
        assert_eq!(parse(&format!("{READY} {id}\n")), State::Unknown);
        assert_eq!(parse(&format!("changing {id} map\n")), State::Changing(id));
        for state in [READY, "changing"] {
            let of_others = format!("{state} {id} other\n");
            assert_eq!(parse(&of_others), State::Foreign);
        }
        for cut in 0..text.len() {
            assert_eq!(parse(&text[..cut]), State::Unknown);
        }
        assert_eq!(parse("gone x map\n"), State::Unknown);
    }
}
