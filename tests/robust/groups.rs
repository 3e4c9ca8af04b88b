//! Limits on memory and processes, with the kernel's own controllers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{job, world_with_busybox};
use rustix::process::Signal;

use crate::support::process::{all_gone, descendants, pid, signal, wait_until};
use crate::support::{World, finish, is_root, left_nothing, left_to_root, run, say, skip};

/// Where control groups of version 2 are mounted with the controllers that limits need; else why not.
fn hierarchy() -> Result<PathBuf, String> {
    let mounts = fs::read_to_string("/proc/self/mounts").map_err(|e| e.to_string())?;
    let at = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind) = (words.next()?, words.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(at))
    });
    let at = at.ok_or("no hierarchy of version 2 is mounted")?;
    let there = fs::read_to_string(at.join("cgroup.controllers")).map_err(|e| e.to_string())?;
    for name in ["memory", "pids"] {
        if !there.split_whitespace().any(|one| one == name) {
            return Err(format!(
                "`{}` has no controller `{name}`: version 1 has it, or the kernel lacks it",
                at.display()
            ));
        }
    }
    Ok(at)
}

/// A group that is handed to one `sos`, and removed with all that is left in it.
struct Delegated(PathBuf);

impl Delegated {
    fn new(top: &Path) -> std::io::Result<Self> {
        fs::write(top.join("cgroup.subtree_control"), "+memory +pids")?;
        let dir = top.join(format!("test-of-sos-{}", std::process::id()));
        fs::create_dir(&dir)?;
        Ok(Self(dir))
    }

    /// Builds in the group.
    fn build(&self, w: &World, setting: &str) -> crate::support::Run {
        let sos = w.command_of(&["--config", setting, "build", "--no-link", "f.nix"]);
        let mut inside = Command::new("sh");
        inside
            .args(["-c", "echo 0 > \"$0\" && exec \"$@\""])
            .arg(self.0.join("cgroup.procs"))
            .arg(sos.get_program())
            .args(sos.get_args())
            .current_dir(w.project())
            .env_clear();
        for (name, value) in sos.get_envs() {
            if let Some(value) = value {
                inside.env(name, value);
            }
        }
        run(&mut inside)
    }
}

impl Drop for Delegated {
    fn drop(&mut self) {
        let groups = fs::read_dir(&self.0).into_iter().flatten().flatten();
        for group in groups.filter(|group| group.path().is_dir()) {
            let _busy = fs::remove_dir(group.path());
        }
        let _busy = fs::remove_dir(&self.0);
    }
}

/// Whether `sos` can use control groups, and where those of version 1 are that it makes.
fn groups_of_root(w: &World) -> (bool, Vec<String>) {
    let doctor = w.sos(["doctor"]).stdout;
    let found = doctor.contains("hold for each build as a whole");
    let at = |controller: &str| {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mut lines = mounts.lines();
        let of_it = |line: &&str| {
            let mut words = line.split(' ').skip(2);
            words.next() == Some("cgroup")
                && words
                    .next()
                    .is_some_and(|o| o.split(',').any(|one| one == controller))
        };
        lines
            .find(of_it)
            .and_then(|line| line.split(' ').nth(1))
            .map(str::to_owned)
    };
    (
        found,
        ["memory", "pids"].into_iter().filter_map(at).collect(),
    )
}

/// The groups of one `sos` that are there.
fn left_of(tops: &[String], pid: u32) -> Vec<PathBuf> {
    let mut pending: Vec<PathBuf> = tops.iter().map(PathBuf::from).collect();
    let mut found = Vec::new();
    while let Some(dir) = pending.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            if !entry.path().is_dir() {
                continue;
            }
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with(&format!("sos-{pid}-")) {
                found.push(entry.path());
            }
            pending.push(entry.path());
        }
    }
    found
}

#[test]
fn root_is_held_to_a_number_of_processes_or_told_that_it_is_not() {
    if !is_root() {
        return left_to_root("the limit of processes for root");
    }
    let Some(w) = world_with_busybox() else {
        return;
    };
    let many =
        "i=0; while [ $i -lt 100 ]; do /bin/busybox sleep 1000 & i=$((i + 1)); done; echo x > $out";
    w.write("f.nix", &job("many", many));
    let build = [
        "--config",
        "build.pids-max=32",
        "build",
        "--no-link",
        "f.nix",
    ];
    let (found, tops) = groups_of_root(&w);
    let built = w.sos(build);
    if !found {
        built
            .ok()
            .says(&["warning[env-limit-not-enforced]", "`build.pids-max`"]);
        return;
    }
    built.fails(100).says(&["build-failed", "many"]);
    left_nothing(&w, "many");
    // What `kill -9` leaves the next one with a limit removes.
    w.write("f.nix", &job("endless", "/bin/busybox sleep 500"));
    let child = crate::support::start(w.command().args(build));
    let of = pid(&child);
    let number = of.as_raw_nonzero().get().unsigned_abs();
    wait_until("the builder", || descendants(of).len() >= 3);
    let family = descendants(of);
    signal(&child, Signal::KILL);
    finish(child, std::time::Duration::from_secs(60)).fails(-1);
    all_gone(&family, w.root());
    w.write("f.nix", &job("small", "echo x > $out"));
    w.sos(build).ok();
    let left = left_of(&tops, number);
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn memory_and_processes_are_limited_by_the_kernel() {
    let top = match hierarchy() {
        Ok(top) => top,
        // Nothing that could be installed would change it.
        Err(why) => return say(&format!("skipped, limits by control groups: {why}")),
    };
    if !is_root() {
        return left_to_root("limits by control groups");
    }
    let Some(w) = world_with_busybox() else {
        return;
    };
    let group = match Delegated::new(&top) {
        Ok(group) => group,
        Err(e) => return skip(&format!("no group can be made in `{}`: {e}", top.display())),
    };
    let memory = "/bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1; echo x > $out";
    let processes =
        "i=0; while [ $i -lt 100 ]; do /bin/busybox sleep 1000 & i=$((i + 1)); done; echo x > $out";
    for (name, script, narrow, wide) in [
        (
            "hungry",
            memory,
            "build.memory-max=67108864",
            "build.memory-max=1073741824",
        ),
        (
            "many",
            processes,
            "build.pids-max=32",
            "build.pids-max=1000",
        ),
    ] {
        w.write("f.nix", &job(name, script));
        group
            .build(&w, narrow)
            .fails(100)
            .says(&["build-failed", name]);
        left_nothing(&w, name);
        group.build(&w, wide).ok();
    }
}
