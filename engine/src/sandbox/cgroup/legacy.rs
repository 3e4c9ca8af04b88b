//! Control groups of version 1: each controller has a hierarchy of its own, and whoever may write to a group may make groups in it.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use super::super::spec::Limits;
use super::{Group, clear_stale, new_name};

/// The groups of this process, one a controller; both are one where the controllers share a hierarchy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Legacy {
    memory: PathBuf,
    pids: PathBuf,
}

impl Legacy {
    /// Finds the groups of this process, if groups can be made in them; the error says in words why not. Changes nothing.
    pub(super) fn find(root: &Path) -> Result<Self, String> {
        Ok(Self {
            memory: own_group(root, "memory")?,
            pids: own_group(root, "pids")?,
        })
    }

    /// Where they are.
    pub(super) fn places(&self) -> String {
        format!("{} and {}", self.memory.display(), self.pids.display())
    }

    /// Removes what killed processes left.
    pub(super) fn clear_stale(&self) {
        clear_stale(&self.memory);
        clear_stale(&self.pids);
    }

    /// Makes the groups of one run, one for each limit. Where memory runs out, a process of it ends and not all of them: this
    /// version cannot do more.
    pub(super) fn group(&self, limits: &Limits) -> io::Result<Group> {
        let name = new_name();
        let mut group = Group { dirs: Vec::new() };
        let mut make = |parent: &Path| {
            let dir = parent.join(&name);
            if !group.dirs.contains(&dir) {
                fs::create_dir(&dir)?;
                group.dirs.push(dir.clone());
            }
            Ok::<_, io::Error>(dir)
        };
        if let Some(bytes) = limits.memory_bytes {
            let dir = make(&self.memory)?;
            fs::write(dir.join("memory.limit_in_bytes"), bytes.to_string())?;
            // Memory and what goes to the disk instead; a kernel may not count that.
            let with_swap = dir.join("memory.memsw.limit_in_bytes");
            if with_swap.exists() {
                fs::write(with_swap, bytes.to_string())?;
            }
        }
        if let Some(count) = limits.processes {
            let dir = make(&self.pids)?;
            fs::write(dir.join("pids.max"), count.to_string())?;
        }
        Ok(group)
    }
}

/// The group of this process in the hierarchy of a controller.
fn own_group(root: &Path, controller: &str) -> Result<PathBuf, String> {
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
    let has = |list: &str| list.split(',').any(|one| one == controller);
    let mounts = read("proc/self/mountinfo");
    let (at, top) = mounts
        .lines()
        .find_map(|line| {
            let (place, kind) = line.split_once(" - ")?;
            let mut kind = kind.split_ascii_whitespace();
            if kind.next()? != "cgroup" || !has(kind.last()?) {
                return None;
            }
            let mut fields = place.split_ascii_whitespace().skip(3);
            let (top, at) = (fields.next()?, fields.next()?);
            Some((PathBuf::from(at), PathBuf::from(top)))
        })
        .ok_or_else(|| format!("no hierarchy of version 1 has the controller `{controller}`"))?;
    let groups = read("proc/self/cgroup");
    let group = groups
        .lines()
        .find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (list, group) = rest.split_once(':')?;
            has(list).then_some(group)
        })
        .ok_or_else(|| format!("this process is in no group of `{controller}`"))?;
    let is_plain = |path: &&Path| path.components().all(|c| matches!(c, Component::Normal(_)));
    let below = Path::new(group)
        .strip_prefix(&top)
        .ok()
        .filter(is_plain)
        .ok_or_else(|| {
            format!("its group `{group}` of `{controller}` is not in what is mounted")
        })?;
    let dir = root.join(at.strip_prefix("/").unwrap_or(&at)).join(below);
    if rustix::fs::access(&dir, rustix::fs::Access::WRITE_OK).is_err() {
        return Err(format!("`{}` is not yours to write", dir.display()));
    }
    Ok(dir)
}

#[cfg(test)]
mod tests {
    use super::*;

    const INFO: &str = "30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
        31 1 0:27 /box /sys/fs/cgroup/pids rw,nosuid - cgroup cgroup rw,cpu,pids\n";

    fn machine(info: &str, groups: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("proc/self")).unwrap();
        for place in ["memory/a", "pids/b"] {
            fs::create_dir_all(dir.path().join("sys/fs/cgroup").join(place)).unwrap();
        }
        fs::write(dir.path().join("proc/self/mountinfo"), info).unwrap();
        fs::write(dir.path().join("proc/self/cgroup"), groups).unwrap();
        dir
    }

    const GROUPS: &str = "8:cpu,pids:/box/b\n4:memory:/a\n0::/\n";

    #[test]
    fn a_limit_has_a_group_of_its_controller() {
        let dir = machine(INFO, GROUPS);
        let legacy = Legacy::find(dir.path()).unwrap();
        assert!(legacy.memory.ends_with("memory/a") && legacy.pids.ends_with("pids/b"));
        let limits = Limits {
            processes: Some(64),
            ..Limits::default()
        };
        let group = legacy.group(&limits).unwrap();
        assert_eq!(group.dirs.len(), 1);
        let max = fs::read_to_string(group.dirs[0].join("pids.max")).unwrap();
        assert_eq!(max, "64");
        let both = Limits {
            memory_bytes: Some(1 << 20),
            ..limits
        };
        let group = legacy.group(&both).unwrap();
        assert_eq!(group.dirs.len(), 2);
        let max = fs::read_to_string(group.dirs[0].join("memory.limit_in_bytes")).unwrap();
        assert_eq!(max, "1048576");
        // As a killed sos leaves it.
        let stale = legacy.pids.join("sos-4194303-1-0");
        fs::create_dir(&stale).unwrap();
        legacy.clear_stale();
        assert!(!stale.exists());
    }

    #[track_caller]
    fn refused(info: &str, groups: &str, expect: &str) {
        let dir = machine(info, groups);
        let error = Legacy::find(dir.path()).unwrap_err();
        assert!(error.contains(expect), "{error}");
    }

    #[test]
    fn what_is_missing_is_told() {
        refused("", GROUPS, "has the controller `memory`");
        refused(
            &INFO.replace(",pids", ""),
            GROUPS,
            "has the controller `pids`",
        );
        refused(INFO, "4:memory:/a\n", "no group of `pids`");
        refused(
            INFO,
            "8:pids:/other\n4:memory:/a\n",
            "not in what is mounted",
        );
    }
}
