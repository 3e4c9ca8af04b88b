//! Control groups: one for each run, where this process was given a part of the hierarchy to divide, or, of version 1, where it
//! may make groups, as root may.
//!
//! Used only when a limit is asked for. Of version 2 the kernel forbids a group with controllers for its children to hold processes
//! itself (the root excepted), so this process moves into a group of its own first.

use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sos_store::ProcessId;

use super::spec::Limits;

mod legacy;

use legacy::Legacy;

/// The controllers that limits need.
const CONTROLLERS: [&str; 2] = ["memory", "pids"];
/// How the groups of this program are called: `sos-<process>-<start>-<number>`.
const PREFIX: &str = "sos-";
/// The group that this process itself moves to.
const SELF: &str = "self";
/// How often a group is tried to be removed, while the kernel still lets go of its last process.
const REMOVE_TRIES: u32 = 50;
const REMOVE_PAUSE: Duration = Duration::from_millis(2);

/// Where runs get groups of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Hierarchy {
    /// In a group of version 2.
    Two(Parent),
    /// In groups of version 1, one a controller.
    One(Legacy),
}

impl Hierarchy {
    /// Finds groups that may be divided; the error says in words why there are none. Changes nothing.
    ///
    /// `root` is `/` but in tests.
    pub(crate) fn find(root: &Path) -> Result<Self, String> {
        let why = match Parent::find(root) {
            Ok(parent) => return Ok(Self::Two(parent)),
            Err(why) => why,
        };
        let legacy = Legacy::find(root).map_err(|legacy| format!("{why}, and {legacy}"))?;
        Ok(Self::One(legacy))
    }

    /// Where they are.
    pub(crate) fn places(&self) -> String {
        match self {
            Self::Two(parent) => parent.dir.display().to_string(),
            Self::One(legacy) => legacy.places(),
        }
    }

    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Two(parent) => parent.prepare(),
            Self::One(legacy) => {
                legacy.clear_stale();
                Ok(())
            }
        }
    }

    fn group(&self, limits: &Limits) -> io::Result<Group> {
        match self {
            Self::Two(parent) => parent.group(limits),
            Self::One(legacy) => legacy.group(limits),
        }
    }

    /// The one that this process uses.
    pub(crate) fn usable() -> Option<&'static Self> {
        static USED: OnceLock<Option<Hierarchy>> = OnceLock::new();
        let used = USED.get_or_init(|| {
            let found = Self::find(Path::new("/")).ok()?;
            match found.prepare() {
                Ok(()) => Some(found),
                Err(e) => {
                    tracing::debug!("{} cannot be divided: {e}", found.places());
                    None
                }
            }
        });
        used.as_ref()
    }
}

/// Tells whether the kernel does not hold this user to a limit of processes that is set without groups: root outside of all user
/// namespaces is held to none.
pub(crate) fn is_exempt() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let mut words = map.split_ascii_whitespace();
    rustix::process::geteuid().is_root() && words.next() == Some("0") && words.next() == Some("0")
}

/// A group of version 2 in which runs get groups of their own.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Parent {
    dir: PathBuf,
}

impl Parent {
    /// Finds the group of this process, if it may be divided; the error says in words why not. Changes nothing.
    ///
    /// `root` is `/` but in tests.
    pub(crate) fn find(root: &Path) -> Result<Self, String> {
        let read = |file: &str| fs::read_to_string(root.join(file)).unwrap_or_default();
        let (mount, shown) = mount_point(&read("proc/self/mountinfo"))
            .ok_or("no hierarchy of version 2 is mounted")?;
        let groups = read("proc/self/cgroup");
        let group = groups
            .lines()
            .find_map(|line| line.strip_prefix("0::"))
            .ok_or("this process is in no group of version 2")?;
        let below = Path::new(group)
            .strip_prefix(&shown)
            .ok()
            .filter(|below| {
                below
                    .components()
                    .all(|c| matches!(c, Component::Normal(_)))
            })
            .ok_or_else(|| format!("its group `{group}` is not in what is mounted"))?;
        let mount = root.join(mount.strip_prefix("/").unwrap_or(&mount));
        let dir = mount.join(below);
        let there = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        let has = |name: &&str| there.split_ascii_whitespace().any(|c| c == *name);
        if let Some(missing) = CONTROLLERS.iter().find(|name| !has(name)) {
            return Err(format!(
                "the group `{}` has no controller `{missing}`",
                dir.display()
            ));
        }
        for place in [
            dir.clone(),
            dir.join("cgroup.procs"),
            dir.join("cgroup.subtree_control"),
        ] {
            if rustix::fs::access(&place, rustix::fs::Access::WRITE_OK).is_err() {
                return Err(format!("`{}` is not yours to write", place.display()));
            }
        }
        // Only the top of all groups may hold processes and hand controllers down; it is the one without a type.
        let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        let me = std::process::id().to_string();
        let others = procs.lines().filter(|pid| *pid != me).count();
        if others > 0 && dir.join("cgroup.type").exists() {
            return Err(format!(
                "the group `{}` holds {others} other processes",
                dir.display()
            ));
        }
        Ok(Self { dir })
    }

    /// Makes it ready to have children with limits: clears away what killed processes left, moves this process aside,
    /// and hands the controllers down.
    fn prepare(&self) -> io::Result<()> {
        self.clear_stale();
        let handed_down = self.dir.join("cgroup.subtree_control");
        let wanted: String = CONTROLLERS.map(|name| format!("+{name}")).join(" ");
        let first = fs::write(&handed_down, &wanted);
        // Busy: it holds processes, ourselves for one.
        if !matches!(&first, Err(e) if e.kind() == io::ErrorKind::ResourceBusy) {
            return first;
        }
        let aside = self.dir.join(name_of(SELF));
        fs::create_dir_all(&aside)?;
        fs::write(aside.join("cgroup.procs"), "0")?;
        fs::write(handed_down, wanted)
    }

    /// Ends and removes the groups of runs whose `sos` is gone.
    fn clear_stale(&self) {
        clear_stale(&self.dir);
    }

    /// Makes the group of one run.
    fn group(&self, limits: &Limits) -> io::Result<Group> {
        let dir = self.dir.join(new_name());
        fs::create_dir(&dir)?;
        let group = Group {
            dirs: vec![dir.clone()],
        };
        let set = |file: &str, value: &str| fs::write(dir.join(file), value);
        if let Some(bytes) = limits.memory_bytes {
            set("memory.max", &bytes.to_string())?;
            // What a run has too much must not go to the disk instead; a kernel without swap has no such file.
            if dir.join("memory.swap.max").exists() {
                set("memory.swap.max", "0")?;
            }
            // All of a run ends, not the one process that asked last.
            set("memory.oom.group", "1")?;
        }
        if let Some(count) = limits.processes {
            set("pids.max", &count.to_string())?;
        }
        Ok(group)
    }
}

/// The group of one run; whatever is in it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Group {
    /// Of version 1 it is one for each limit.
    dirs: Vec<PathBuf>,
}

impl Group {
    /// Makes a group for a run with limits; none when there are no limits, or no hierarchy to use.
    pub(super) fn for_run(limits: &Limits) -> io::Result<Option<Self>> {
        if limits.memory_bytes.is_none() && limits.processes.is_none() {
            return Ok(None);
        }
        Hierarchy::usable().map(|h| h.group(limits)).transpose()
    }

    /// Moves a process in, with all that it will start.
    pub(super) fn add(&self, pid: u32) -> io::Result<()> {
        for dir in &self.dirs {
            fs::write(dir.join("cgroup.procs"), pid.to_string())?;
        }
        Ok(())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        for dir in &self.dirs {
            remove(dir);
        }
    }
}

/// Ends and removes the groups below `dir` whose `sos` is gone.
fn clear_stale(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(is_stale) {
            remove(&entry.path());
        }
    }
}

/// A name for the group of a run.
fn new_name() -> String {
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    name_of(&NUMBER.fetch_add(1, Ordering::Relaxed).to_string())
}

/// Kills what is in a group and removes it. What cannot be removed is tried again by the next `sos`.
fn remove(dir: &Path) {
    // A kernel before 5.14 has no such file, and version 1 has none; then the namespaces of the run have ended everything.
    if dir.join("cgroup.kill").exists() {
        let _refused = fs::write(dir.join("cgroup.kill"), "1");
    }
    for _ in 0..REMOVE_TRIES {
        match fs::remove_dir(dir) {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy => std::thread::sleep(REMOVE_PAUSE),
            _ => return,
        }
    }
}

fn name_of(what: &str) -> String {
    let me = ProcessId::current();
    format!("{PREFIX}{}-{}-{what}", me.pid, me.start_ticks)
}

/// Tells whether a name is that of a group whose process has ended.
fn is_stale(name: &str) -> bool {
    let Some(rest) = name.strip_prefix(PREFIX) else {
        return false;
    };
    let mut parts = rest.splitn(3, '-');
    let (Some(Ok(pid)), Some(Ok(start_ticks)), Some(_)) = (
        parts.next().map(str::parse),
        parts.next().map(str::parse),
        parts.next(),
    ) else {
        return false;
    };
    // Groups do not outlive a boot.
    let process = ProcessId {
        pid,
        start_ticks,
        boot_id: ProcessId::current().boot_id,
    };
    !process.is_alive()
}

/// Finds where the hierarchy is mounted, and which group is its top there.
fn mount_point(mountinfo: &str) -> Option<(PathBuf, PathBuf)> {
    mountinfo.lines().find_map(|line| {
        let (place, kind) = line.split_once(" - ")?;
        if kind.split_ascii_whitespace().next()? != "cgroup2" {
            return None;
        }
        let mut fields = place.split_ascii_whitespace().skip(3);
        let (top, at) = (fields.next()?, fields.next()?);
        // A place with a space in it is written with a backslash, and is none that anybody has.
        Some((PathBuf::from(at), PathBuf::from(top)))
    })
}

#[cfg(test)]
mod tests;
