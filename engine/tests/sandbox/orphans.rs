//! `kill -9` at any moment leaves no process.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use sos_engine::sandbox::Control;

use crate::support::{Lab, nix_plan};

/// How long the kernel may take to end what was killed.
const LIMIT: Duration = Duration::from_secs(20);

/// Makes the test program a `sos` that is to be killed.
pub(crate) const ARGUMENT: &str = "__be_killed";

pub(crate) const TESTS: &[(&str, fn())] = &[
    ("orphans::kill_while_a_build_runs", kill_build),
    ("orphans::kill_while_a_step_runs", kill_step),
    ("orphans::kill_at_any_moment", kill_at_any_moment),
    (
        "orphans::a_killed_step_leaves_a_store_that_works",
        kill_and_go_on,
    ),
];

/// The victim: `<nix|step> <directory> <mark>`; its program tells when it runs, and never ends.
pub(crate) fn be_killed(arguments: &[String]) {
    let (dir, mark) = (Path::new(&arguments[1]), &arguments[2]);
    let script = format!("sleep 1{mark} & setsid sleep 2{mark} & echo running; sleep 3{mark}");
    if arguments[0] == "nix" {
        let plan = nix_plan(dir, &script);
        let mut log = |_: &[u8]| println!("running");
        sos_engine::sandbox::run(&plan.spec, &mut log, &Control::default()).unwrap();
    } else {
        let lab = Lab::at(dir);
        let plan = lab.plan(lab.base, &script);
        let mut log = |_: &[u8]| println!("running");
        sos_engine::sandbox::run_step(&lab.store, &plan, &mut log, &Control::default()).unwrap();
    }
}

fn processes() -> impl Iterator<Item = PathBuf> {
    let entries = std::fs::read_dir("/proc").unwrap();
    entries.flatten().map(|entry| entry.path())
}

/// A number that no other process of the machine has in its command line: of this process, and of the run that is killed.
fn mark(run: u64) -> String {
    format!("{:07}{run:02}", std::process::id())
}

/// Processes whose command line holds `mark`, besides zombies, which have none.
fn alive(mark: &str) -> Vec<PathBuf> {
    processes()
        .filter(|process| {
            std::fs::read(process.join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
        })
        .collect()
}

/// What a process is and waits for, for the message of a failed test.
fn described(process: &Path) -> String {
    let file = |name| {
        let text = std::fs::read(process.join(name)).unwrap_or_default();
        String::from_utf8_lossy(&text).replace('\0', " ")
    };
    let status = file("status");
    let wanted = |line: &&str| {
        ["State", "PPid", "ShdPnd", "SigPnd"]
            .iter()
            .any(|name| line.starts_with(name))
    };
    let status: Vec<&str> = status.lines().filter(wanted).collect();
    format!(
        "{} `{}` {status:?}, waits in {} {}",
        process.display(),
        file("cmdline"),
        file("wchan"),
        file("stack"),
    )
}

/// Helpers of the victim, by their open working place.
fn helpers_in(dir: &Path) -> Vec<PathBuf> {
    processes()
        .filter(|process| {
            std::fs::read(process.join("cmdline")).is_ok_and(|line| line.ends_with(b"__sandbox\0"))
                && std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd == dir)
        })
        .collect()
}

fn victim(kind: &str, dir: &Path, mark: &str) -> std::process::Child {
    Command::new("/proc/self/exe")
        .args([ARGUMENT, kind])
        .arg(dir)
        .arg(mark)
        .current_dir(dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[track_caller]
fn gone_soon(dir: &Path, mark: &str) {
    let until = Instant::now() + LIMIT;
    while let Some(left) = [alive(mark), helpers_in(dir)].concat().first() {
        let number = left.file_name().unwrap().to_str().unwrap().parse();
        let pid = Pid::from_raw(number.unwrap()).unwrap();
        // One that is gone by now has no descriptor.
        let Ok(process) = pidfd_open(pid, PidfdFlags::empty()) else {
            continue;
        };
        let time = until.saturating_duration_since(Instant::now());
        let ended = poll(
            &mut [PollFd::new(&process, PollFlags::IN)],
            Some(&Timespec::try_from(time).unwrap()),
        );
        assert!(ended.unwrap() > 0, "a process is left: {}", described(left));
    }
}

/// How far a run has come: the pages that it and its descendants have touched for the first time.
fn touched(process: &Path) -> u64 {
    let Ok(stat) = std::fs::read_to_string(process.join("stat")) else {
        return 0;
    };
    // Behind the name: state, parent, group, session, terminal, its group, flags, faults, faults of children that are gone.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields);
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let own: u64 = fields[7..9].iter().map(|n| n.parse::<u64>().unwrap()).sum();
    let tasks = std::fs::read_dir(process.join("task"))
        .into_iter()
        .flatten();
    let children = tasks.flatten().filter_map(|task| {
        let numbers = std::fs::read_to_string(task.path().join("children")).ok()?;
        let below = numbers.split_whitespace();
        Some(
            below
                .map(|n| touched(&Path::new("/proc").join(n)))
                .sum::<u64>(),
        )
    });
    own + children.sum::<u64>()
}

/// Kills a victim when it has come this far, or else when its program runs. Returns how far it was.
#[track_caller]
fn kill_at(kind: &str, dir: &Path, mark: &str, far: u64) -> u64 {
    let mut child = victim(kind, dir, mark);
    let process = PathBuf::from(format!("/proc/{}", child.id()));
    let output = child.stdout.take().unwrap();
    let now = Timespec::default();
    let runs = || poll(&mut [PollFd::new(&output, PollFlags::IN)], Some(&now)).unwrap() > 0;
    while touched(&process) < far && !runs() {}
    let reached = touched(&process);
    child.kill().unwrap();
    child.wait().unwrap();
    gone_soon(dir, mark);
    reached
}

/// Kills a run in each of so many equal parts of its way to the program; the first one measures that.
fn moments(kind: &str, count: u64, mut then: impl FnMut(&Path, u64)) {
    let dir = tempfile::tempdir().unwrap();
    let whole = kill_at(kind, dir.path(), &mark(count), u64::MAX);
    assert!(whole > count, "{whole} pages");
    for at in 0..count {
        kill_at(kind, dir.path(), &mark(at), whole * at / count);
        then(dir.path(), at);
    }
}

#[track_caller]
fn kill_running(kind: &str) {
    let mark = &mark(0);
    let dir = tempfile::tempdir().unwrap();
    let mut child = victim(kind, dir.path(), mark);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "running\n");
    assert!(!alive(mark).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    gone_soon(dir.path(), mark);
}

fn kill_build() {
    kill_running("nix");
}

fn kill_step() {
    kill_running("step");
}

fn kill_at_any_moment() {
    moments("nix", 18, |_, _| {});
    moments("step", 6, |_, _| {});
}

fn kill_and_go_on() {
    let mut expected = None;
    moments("step", 16, |dir, at| {
        if at % 4 == 3 {
            let lab = Lab::at(dir);
            let (root, log) = lab.step(
                lab.base,
                "busybox cat /etc/a /etc/b /etc/c; busybox ls -R /bin /etc /home /var >/home/all",
            );
            assert_eq!(log, "abc");
            assert_eq!(*expected.get_or_insert(root), root);
        }
        if at == 15 {
            let lab = Lab::at(dir);
            lab.store.sweep().unwrap();
            assert_eq!(lab.unfinished(), 0);
        }
    });
}
