//! Whether trees that steps have left can be removed by this process: their files belong to the subordinate ids of who made them, and
//! these may be others by now, or those of the machine outside of this container.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::ids::{self, IdMap};

/// What the kernel shows for ids that this user namespace has none for.
const NOBODY: u32 = 65_534;
/// How many ids a namespace has that has all.
const ALL_IDS: &str = "4294967295";

/// Whose directories this process can change, itself or as root of the namespace of steps.
struct Owners {
    us: u32,
    /// None where no such namespace can be made.
    maps: Option<(IdMap, IdMap)>,
    /// Some ids of the machine are shown as [`NOBODY`].
    is_partial: bool,
}

impl Owners {
    fn of_process() -> Self {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        Self {
            us: rustix::process::geteuid().as_raw(),
            maps: ids::step_maps().ok(),
            is_partial: !map.split_whitespace().eq(["0", "0", ALL_IDS]),
        }
    }

    /// Root of the machine can change everything.
    fn are_all(&self) -> bool {
        self.us == 0 && !self.is_partial
    }

    fn have(&self, uid: u32, gid: u32) -> bool {
        let mapped = |(users, groups): &(IdMap, IdMap)| users.has(uid) && groups.has(gid);
        let unknown = self.is_partial && (uid == NOBODY || gid == NOBODY);
        uid == self.us || (!unknown && self.maps.as_ref().is_some_and(mapped))
    }
}

/// Tells whether a tree can be removed, as far as its owners tell. What cannot be looked at counts as removable: the removal says more.
pub(super) fn can_remove(tree: &Path) -> bool {
    let owners = Owners::of_process();
    if owners.are_all() {
        return true;
    }
    let mut pending: Vec<PathBuf> = vec![tree.to_owned()];
    while let Some(dir) = pending.pop() {
        // A file goes with its directory, whoever owns it.
        let Ok(meta) = fs::symlink_metadata(&dir) else {
            continue;
        };
        if !owners.have(meta.uid(), meta.gid()) {
            return false;
        }
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                pending.push(entry.path());
            }
        }
    }
    true
}
