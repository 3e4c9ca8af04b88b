//! `kill -9` at any moment leaves no process.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sos_engine::sandbox::Control;

use crate::support::{Lab, nix_plan};

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
    let script =
        format!("sleep 100{mark} & setsid sleep 200{mark} & echo running; sleep 300{mark}");
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

/// Counts processes whose command line holds `mark`, besides zombies, which have none.
fn alive(mark: &str) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(mark))
        })
        .count()
}

/// Counts helpers of the victim by their open working place.
fn helpers_in(dir: &Path) -> usize {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline"))
                .is_ok_and(|line| line.ends_with(b"__sandbox\0"))
                && std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd == dir)
        })
        .count()
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
    let begin = Instant::now();
    while alive(mark) + helpers_in(dir) > 0 {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "processes are left"
        );
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[track_caller]
fn kill_running(kind: &str, mark: &str) {
    let dir = tempfile::tempdir().unwrap();
    let mut child = victim(kind, dir.path(), mark);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    assert_eq!(line, "running\n");
    assert!(alive(mark) > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    gone_soon(dir.path(), mark);
}

fn kill_build() {
    kill_running("nix", "7411");
}

fn kill_step() {
    kill_running("step", "7412");
}

fn kill_at_any_moment() {
    for (at, kind) in (0..24).map(|n| (n, if n % 4 == 3 { "step" } else { "nix" })) {
        let dir = tempfile::tempdir().unwrap();
        let mark = format!("7413{at}");
        let mut child = victim(kind, dir.path(), &mark);
        std::thread::sleep(Duration::from_millis(at * 3));
        child.kill().unwrap();
        child.wait().unwrap();
        gone_soon(dir.path(), &mark);
    }
}

fn kill_and_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = None;
    for at in 0..16u64 {
        let mark = format!("7414{at}");
        let mut child = victim("step", dir.path(), &mark);
        std::thread::sleep(Duration::from_millis(at * 5));
        child.kill().unwrap();
        child.wait().unwrap();
        gone_soon(dir.path(), &mark);
        if at % 4 == 3 {
            let lab = Lab::at(dir.path());
            let (root, log) = lab.step(
                lab.base,
                "busybox cat /etc/a /etc/b /etc/c; busybox ls -R /bin /etc /home /var >/home/all",
            );
            assert_eq!(log, "abc");
            assert_eq!(*expected.get_or_insert(root), root);
        }
    }
    let lab = Lab::at(dir.path());
    lab.store.sweep().unwrap();
    let left = std::fs::read_dir(lab.store.root().join("tmp"))
        .unwrap()
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".step"))
        .count();
    assert_eq!(left, 0);
}
