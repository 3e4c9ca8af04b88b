//! Against a tree made as the kernel's file system looks, and against the real one where this user may divide it.

use std::process::{Command, Stdio};

use super::*;

const INFO: &str = "24 1 0:22 / /proc rw - proc proc rw\n\
    30 1 0:26 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
    31 1 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n";

/// A machine with a delegated group in it.
fn machine(info: &str, group: &str, controllers: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("sys/fs/cgroup/user.slice/run.scope");
    fs::create_dir_all(dir.path().join("proc/self")).unwrap();
    fs::create_dir_all(&own).unwrap();
    fs::write(dir.path().join("proc/self/mountinfo"), info).unwrap();
    fs::write(dir.path().join("proc/self/cgroup"), group).unwrap();
    fs::write(own.join("cgroup.controllers"), controllers).unwrap();
    fs::write(own.join("cgroup.procs"), "").unwrap();
    fs::write(own.join("cgroup.subtree_control"), "").unwrap();
    (dir, own)
}

const SCOPE: &str = "4:memory:/x\n0::/user.slice/run.scope\n";

fn limits() -> Limits {
    Limits {
        memory_bytes: Some(1 << 30),
        processes: Some(64),
        ..Limits::default()
    }
}

#[test]
fn a_delegated_group_is_divided() {
    let (dir, own) = machine(INFO, SCOPE, "cpu memory pids\n");
    let parent = Parent::find(dir.path()).unwrap();
    assert_eq!(parent.dir, own);
    parent.prepare().unwrap();
    let read = |path: &Path| fs::read_to_string(path).unwrap();
    assert_eq!(read(&own.join("cgroup.subtree_control")), "+memory +pids");
    let group = parent.group(&limits()).unwrap();
    assert_eq!(read(&group.dirs[0].join("memory.max")), "1073741824");
    assert_eq!(read(&group.dirs[0].join("memory.oom.group")), "1");
    assert_eq!(read(&group.dirs[0].join("pids.max")), "64");
    group.add(77).unwrap();
    assert_eq!(read(&group.dirs[0].join("cgroup.procs")), "77");
    let other = parent.group(&limits()).unwrap();
    assert_ne!(group.dirs, other.dirs);
}

#[test]
fn the_top_of_a_mount_may_be_a_group() {
    let info = INFO.replace(" 0:27 / ", " 0:27 /user.slice ");
    let (dir, own) = machine(&info, SCOPE, "memory pids");
    let other = dir.path().join("sys/fs/cgroup/run.scope");
    fs::rename(&own, &other).unwrap();
    assert_eq!(Parent::find(dir.path()).unwrap().dir, other);
}

#[test]
fn a_group_with_others_in_it_is_left_alone() {
    let (dir, own) = machine(INFO, SCOPE, "memory pids");
    let me = std::process::id();
    fs::write(own.join("cgroup.type"), "domain\n").unwrap();
    fs::write(own.join("cgroup.procs"), format!("{me}\n")).unwrap();
    assert!(Parent::find(dir.path()).is_ok());
    fs::write(own.join("cgroup.procs"), format!("{me}\n1\n")).unwrap();
    let error = Parent::find(dir.path()).unwrap_err();
    assert!(error.contains("holds 1 other processes"), "{error}");
}

#[track_caller]
fn refused(info: &str, group: &str, controllers: &str, expect: &str) {
    let (dir, _) = machine(info, group, controllers);
    let error = Parent::find(dir.path()).unwrap_err();
    assert!(error.contains(expect), "{error}");
}

#[test]
fn what_cannot_be_divided_says_why() {
    refused("", SCOPE, "memory pids", "no hierarchy of version 2");
    refused(
        INFO,
        "4:memory:/x\n",
        "memory pids",
        "no group of version 2",
    );
    refused(INFO, SCOPE, "cpu pids", "no controller `memory`");
    refused(INFO, SCOPE, "", "no controller `memory`");
    refused(INFO, "0::/../x\n", "memory pids", "not in what is mounted");
    refused(
        &INFO.replace(" 0:27 / ", " 0:27 /other "),
        SCOPE,
        "memory pids",
        "not in what is mounted",
    );
}

#[test]
fn only_groups_of_dead_processes_are_stale() {
    let me = ProcessId::current();
    assert!(!is_stale(&name_of("0")));
    assert!(is_stale(&format!(
        "sos-{}-{}-0",
        me.pid,
        me.start_ticks + 1
    )));
    assert!(is_stale("sos-4194303-1-self"));
    for foreign in ["user.slice", "sos-x-1-0", "sos-1", "sos--1-1"] {
        assert!(!is_stale(foreign), "{foreign}");
    }
}

/// The life of a group in the kernel's own hierarchy; limits need controllers, which it may lack.
#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "looks for the hierarchy of this machine"
)]
fn the_kernel_kills_and_removes_groups() {
    let info = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let Some((at, _)) = mount_point(&info) else {
        return;
    };
    let parent = Parent { dir: at };
    let Ok(group) = parent.group(&Limits::default()) else {
        // Somebody else's.
        return;
    };
    let mut child = Command::new("sleep")
        .arg("1000")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    group.add(child.id()).unwrap();
    let dir = group.dirs[0].clone();
    let inside = fs::read_to_string(dir.join("cgroup.procs")).unwrap();
    assert_eq!(inside.trim(), child.id().to_string());
    // As a killed sos leaves it.
    let stale = parent.dir.join("sos-4194303-1-0");
    fs::create_dir(&stale).unwrap();
    parent.clear_stale();
    assert!(!stale.exists());
    assert!(dir.exists());
    drop(group);
    use std::os::unix::process::ExitStatusExt as _;
    assert_eq!(child.wait().unwrap().signal(), Some(libc::SIGKILL));
    parent.clear_stale();
    remove(&dir);
    assert!(!dir.exists());
}
