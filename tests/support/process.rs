//! Which processes a run has, and whether they are gone.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, kill_process, pidfd_open};

/// How long the kernel may take to end what was killed; generous, since the tests share the machine.
const GRACE: Duration = Duration::from_secs(15);

/// The number of a process that has ended.
pub(crate) fn ended() -> u32 {
    let mut child = std::process::Command::new("true").spawn().expect("started");
    let pid = child.id();
    child.wait().expect("ended");
    pid
}

/// One process; the time of its start tells it from a later one of the same number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pid: i32,
    parent: i32,
    state: char,
    started: u64,
    name: String,
}

impl Process {
    /// Whether it was started by that one.
    pub(crate) fn is_child_of(&self, parent: Pid) -> bool {
        self.parent == parent.as_raw_nonzero().get()
    }

    /// Whether it was started by that other one.
    pub(crate) fn has_parent(&self, parent: &Self) -> bool {
        self.parent == parent.pid
    }

    /// Whether it runs a program whose name begins so.
    pub(crate) fn runs(&self, program: &str) -> bool {
        self.name.starts_with(program)
    }

    /// Whether it is that one, whatever that one did since.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }

    /// Sends it a signal; it may be gone already.
    pub(crate) fn signal(&self, signal: Signal) {
        let _ = kill_process(number(self.pid), signal);
    }
}

/// Signals that a process has been sent and not taken yet, as a mask.
pub(crate) fn pending(of: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", of.as_raw_nonzero()));
    let status = status.expect("a process");
    let masks = status.lines().filter_map(|line| {
        let (key, mask) = line.split_once(':')?;
        matches!(key, "ShdPnd" | "SigPnd").then(|| u64::from_str_radix(mask.trim(), 16))
    });
    masks
        .map(|mask| mask.expect("a mask"))
        .fold(0, |all, one| all | one)
}

/// Fails if a process uses files of `dir`.
#[track_caller]
pub(crate) fn none_uses(dir: &Path) {
    let users = using(dir);
    assert!(users.is_empty(), "processes survive: {users:?}");
}

/// The number of a child as the kernel calls take it.
pub(crate) fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Sends a signal to a child, which may be gone already.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let _ = kill_process(pid(child), signal);
}

fn number(pid: i32) -> Pid {
    Pid::from_raw(pid).expect("processes have numbers above 0")
}

fn read(pid: i32) -> Option<Process> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name stands in parentheses and may hold any character.
    let (head, tail) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = tail.split_whitespace().collect();
    Some(Process {
        pid,
        parent: fields.get(1)?.parse().ok()?,
        state: fields.first()?.chars().next()?,
        started: fields.get(19)?.parse().ok()?,
        name: head.split_once('(')?.1.to_owned(),
    })
}

fn all() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc");
    entries
        .flatten()
        .filter_map(|e| read(e.file_name().to_str()?.parse().ok()?))
        .collect()
}

/// Every live descendant of a process, not itself.
pub(crate) fn descendants(of: Pid) -> Vec<Process> {
    let mut children: BTreeMap<i32, Vec<Process>> = BTreeMap::new();
    for process in all() {
        children.entry(process.parent).or_default().push(process);
    }
    let mut found = Vec::new();
    let mut open = vec![of.as_raw_nonzero().get()];
    while let Some(parent) = open.pop() {
        for process in children.remove(&parent).unwrap_or_default() {
            open.push(process.pid);
            found.push(process);
        }
    }
    found
}

/// Waits for the end of a run that must succeed, and returns the page faults of all processes that it has waited for: none when it
/// has started none, since no process lives without a page of its own. The kernel counts them, so nothing that ends quickly is missed.
#[track_caller]
pub(crate) fn children_of(child: Child) -> u64 {
    // The pipes hold more than such a run says. It stays a zombie, whose books can be read, until it is collected.
    let ended = rustix::process::waitid(
        WaitId::Pid(pid(&child)),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    );
    ended.expect("a child");
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("its books");
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    // Behind the name: state, parent, group, session, terminal, its group, flags, faults, faults of its children.
    let faults = fields.split_whitespace().nth(8).expect("a count");
    super::finish(child, GRACE).ok();
    faults.parse().expect("a number")
}

/// Those of `processes` that still run; what is dead and only waits to be collected does not.
fn alive(processes: &[Process]) -> Vec<&Process> {
    processes
        .iter()
        .filter(|p| {
            read(p.pid)
                .is_some_and(|now| now.started == p.started && !matches!(now.state, 'Z' | 'X'))
        })
        .collect()
}

/// Processes that have files of `dir` mounted, open as program, or as working directory: sandboxed builds clean their environment,
/// but they cannot hide where their files are from.
fn using(dir: &Path) -> Vec<Process> {
    let needle = dir
        .file_name()
        .and_then(|n| n.to_str())
        .expect("a directory with a name");
    let me = i32::try_from(std::process::id()).expect("a process number");
    let uses = |p: &Process| {
        let text = |file: &str| {
            std::fs::read(format!("/proc/{}/{file}", p.pid))
                .map(|b| String::from_utf8_lossy(&b).into_owned())
                .unwrap_or_default()
        };
        let link = |file: &str| {
            std::fs::read_link(format!("/proc/{}/{file}", p.pid))
                .map(|l| l.display().to_string())
                .unwrap_or_default()
        };
        ["mountinfo", "cmdline"]
            .iter()
            .any(|f| text(f).contains(needle))
            || ["cwd", "exe", "root"]
                .iter()
                .any(|f| link(f).contains(needle))
    };
    all()
        .into_iter()
        .filter(|p| p.pid != me && !matches!(p.state, 'Z' | 'X') && uses(p))
        .collect()
}

/// Fails unless every one of `processes`, and everything that uses files of `dir`, is gone soon.
#[track_caller]
pub(crate) fn all_gone(processes: &[Process], dir: &Path) {
    let until = Instant::now() + GRACE;
    loop {
        let (left, users) = (alive(processes), using(dir));
        let Some(first) = left.first().copied().or(users.first()) else {
            return;
        };
        assert!(
            Instant::now() < until,
            "processes survive: {left:?} {users:?}"
        );
        // One that is gone by now has no descriptor.
        let Ok(process) = pidfd_open(number(first.pid), PidfdFlags::empty()) else {
            continue;
        };
        let time = until.saturating_duration_since(Instant::now());
        let time = Timespec::try_from(time).expect("a time");
        poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&time))
            .expect("it can be waited for");
    }
}

/// Waits until `ready` says yes; fails after a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut ready: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(60);
    while !ready() {
        assert!(
            Instant::now() < until,
            "{what} did not happen within a minute"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}
