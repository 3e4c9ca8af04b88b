//! A signal stops what runs and says how far it came. What Ctrl-C does on a terminal: `cli/screen/stops.rs`.

use std::process::Child;
use std::time::Duration;

use rustix::process::Signal;

use super::{job, world_with_busybox};
use crate::support::process::{
    Process, all_gone, descendants, none_uses, pending, pid, signal, wait_until,
};
use crate::support::{finish, gate, left_nothing, start};

/// Interrupts a build once its builder runs.
fn interrupted(by: Signal, code: i32) {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write(
        "f.nix",
        &job(
            "endless",
            "echo begun; /bin/busybox sleep 500 & /bin/busybox sleep 500; echo x > $out",
        ),
    );
    let child = start(w.command().args(["build", "--no-link", "-L", "f.nix"]));
    // The two `sleep`s, the shell, and what the sandbox itself needs.
    wait_until("the builder", || descendants(pid(&child)).len() >= 3);
    let family = descendants(pid(&child));
    signal(&child, by);
    let run = finish(child, Duration::from_secs(60)).fails(code);
    all_gone(&family, w.root());
    let last = run
        .stderr
        .trim_end()
        .lines()
        .rev()
        .take(3)
        .collect::<Vec<_>>()
        .join("\n");
    assert!(
        run.stderr.contains("built 0, cached 0, stopped 1 in ")
            && run.stderr.contains("interrupted"),
        "a summary and a reason: {}",
        run.stderr
    );
    assert!(last.contains("interrupted"), "the reason is last: {last}");
    left_nothing(&w, "endless");
    let list = w.sos(["builds"]).ok().stdout;
    assert!(
        list.contains("1 stopped") && !list.contains("skipped"),
        "{list}"
    );
    w.sos(["diff", "1", "1"])
        .fails(1)
        .says(&["error[diff-no-result]: build 1 gave nothing: it was interrupted"]);
    // Nothing is in the way of the next run.
    w.write("f.nix", &job("endless", "echo x > $out"));
    w.sos(["build", "--no-link", "f.nix"]).ok();
}

#[test]
fn a_terminal_that_goes_ends_with_129() {
    interrupted(Signal::HUP, 129);
}

#[test]
fn termination_ends_with_143() {
    interrupted(Signal::TERM, 143);
}

#[test]
fn what_was_built_before_a_stop_is_kept() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let first = job("first", "echo x > $out");
    w.write(
        "f.nix",
        &format!(
            "let first = {first}; in ({}) // {{ inherit first; }}",
            job("second", "read x < ${first}; /bin/busybox sleep 500")
        ),
    );
    let child = start(w.command().args(["build", "--no-link", "f.nix"]));
    wait_until("the first build", || {
        w.sos(["store", "ls"]).stdout.contains("-first\n")
    });
    wait_until("the second build", || descendants(pid(&child)).len() >= 2);
    signal(&child, Signal::TERM);
    finish(child, Duration::from_secs(60))
        .fails(143)
        .says(&["built 1"]);
    w.sos(["build", "--no-link", "f.nix#first"])
        .ok()
        .says(&["built 0"]);
}

/// Waits until a builder of one process runs. Returns all processes of the build, and the one of them that starts the others.
fn running(child: &Child) -> (Vec<Process>, Process) {
    // The launcher, the first process of the run, the builder.
    wait_until("the builder", || descendants(pid(child)).len() >= 3);
    let family = descendants(pid(child));
    let launcher = family.iter().find(|p| p.is_child_of(pid(child)));
    let launcher = launcher.expect("a launcher").clone();
    (family, launcher)
}

/// The same for the next try, when all of the one before are gone.
fn running_again(child: &Child, before: &[Process]) -> (Vec<Process>, Process) {
    wait_until("the end of the first try", || {
        let now = descendants(pid(child));
        !now.iter().any(|p| before.iter().any(|old| p.is(old)))
    });
    running(child)
}

/// Stops every process below the launcher, so that a run cannot end when it is asked to.
fn freeze(family: &[Process], launcher: &Process) {
    for process in family.iter().filter(|p| *p != launcher) {
        process.signal(Signal::STOP);
    }
}

#[test]
fn the_second_signal_ends_at_once() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &job("endless", "/bin/busybox sleep 500"));
    let child = start(w.command().args(["build", "--no-link", "f.nix"]));
    let (family, launcher) = running(&child);
    freeze(&family, &launcher);
    signal(&child, Signal::TERM);
    wait_until("the first signal", || pending(pid(&child)) == 0);
    signal(&child, Signal::INT);
    let run = finish(child, Duration::from_secs(60)).fails(130);
    // The first one alone would wait for the run, which cannot end, and then kill it and tell what was built.
    assert!(!run.stderr.contains("built 0"), "{}", run.stderr);
    all_gone(&family, w.root());
    w.write("f.nix", &job("endless", "echo x > $out"));
    w.sos(["build", "--no-link", "f.nix"]).ok();
}

#[test]
fn what_was_built_before_a_kill_is_in_the_journal() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let mut graph = String::new();
    for (name, script, needs) in [
        ("ka", "echo x > $out", "[ ]"),
        ("kb", "echo x > $out", "ka"),
        ("kc", "echo x > $out", "kb"),
        ("kd", "/bin/busybox sleep 500", "kc"),
    ] {
        let made =
            job(name, script).replace("derivation {", &format!("derivation {{ n = {needs};"));
        graph.push_str(&format!("{name} = {made};\n"));
    }
    w.write("f.nix", &format!("let {graph} in kd"));
    let child = start(w.command().args(["build", "--no-link", "f.nix"]));
    let states = || {
        let shown = w.sos(["builds", "1", "--json"]).stdout;
        let build: serde_json::Value = serde_json::from_str(&shown).unwrap_or_default();
        let steps = build["steps"].as_array().cloned().unwrap_or_default();
        let state = |step: &serde_json::Value| {
            let text = |key: &str| step[key].as_str().unwrap_or_default().to_owned();
            (text("name"), text("status"))
        };
        let mut all: Vec<(String, String)> = steps.iter().map(state).collect();
        all.sort();
        all
    };
    let expect = |last: &str| {
        ["ka", "kb", "kc", "kd"].map(|name| {
            let state = if name == "kd" { last } else { "built" };
            (name.to_owned(), state.to_owned())
        })
    };
    // Nothing more happens, and it is told all the same.
    wait_until("the journal", || states() == expect("running"));
    signal(&child, Signal::KILL);
    finish(child, Duration::from_secs(60)).fails(-1);
    assert_eq!(states(), expect("killed"));
    let why = w.sos(["why", "kb"]).ok().stdout;
    assert!(why.starts_with("kb was built in build 1 "), "{why}");
}

#[test]
fn a_build_whose_sandbox_was_killed_begins_again() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let go = gate(&w);
    w.write(
        "f.nix",
        &job("first", "echo begun; read x < /go; echo $x > $out"),
    );
    let child = start(w.command().args(["build", "--no-link", "f.nix"]));
    let (family, launcher) = running(&child);
    launcher.signal(Signal::KILL);
    let _second = running_again(&child, &family);
    // Only the second try is there to read it.
    std::fs::write(&go, "went\n").expect("the gate");
    let run = finish(child, Duration::from_secs(60)).ok();
    assert!(
        run.stderr.contains("warning[build-tried-again]"),
        "{}",
        run.stderr
    );
    assert_eq!(
        w.sos(["store", "cat", run.stdout.trim()]).ok().stdout,
        "went\n"
    );
    let log = w.sos(["log", "first"]).ok().stdout;
    assert!(log.ends_with("the build begins again\nbegun\n"), "{log}");
}

#[test]
fn a_launcher_that_is_killed_takes_its_runs_along_and_is_replaced() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let first = job("first", "/bin/busybox sleep 500");
    let second = job("second", "echo x > $out");
    w.write("f.nix", &format!("[ ({first}) ({second}) ]"));
    let child = start(
        w.command()
            .args(["build", "--no-link", "-k", "-j", "1", "f.nix"]),
    );
    let (family, launcher) = running(&child);
    launcher.signal(Signal::KILL);
    let (family, launcher) = running_again(&child, &family);
    launcher.signal(Signal::KILL);
    let run = finish(child, Duration::from_secs(60)).fails(4);
    all_gone(&family, w.root());
    assert!(run.stderr.contains("killed twice"), "{}", run.stderr);
    assert!(run.stderr.contains("built 1"), "{}", run.stderr);
    left_nothing(&w, "first");
}

#[test]
fn a_failing_build_leaves_no_process_and_no_mount() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let before = mounts();
    w.write(
        "f.nix",
        &job(
            "failing",
            "(trap \"\" TERM HUP INT; while :; do /bin/busybox sleep 1; done) & /bin/busybox setsid /bin/busybox sleep 500 & echo $$ > /tmp/x; exit 3",
        ),
    );
    let child = start(w.command().args(["build", "--no-link", "f.nix"]));
    finish(child, Duration::from_secs(60))
        .fails(100)
        .says(&["error[build-failed]"]);
    // At once: what a run leaves is gone before it is over.
    none_uses(w.root());
    assert_eq!(mounts(), before);
    left_nothing(&w, "failing");
}

#[test]
fn a_killed_run_leaves_no_process_and_no_mount() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let before = mounts();
    w.write(
        "f.nix",
        &job("endless", "(trap \"\" TERM HUP INT; while :; do /bin/busybox sleep 1; done) & /bin/busybox sleep 500"),
    );
    let child = start(w.command().args(["build", "--no-link", "f.nix"]));
    wait_until("the builder", || descendants(pid(&child)).len() >= 5);
    let family = descendants(pid(&child));
    signal(&child, Signal::KILL);
    finish(child, Duration::from_secs(60));
    all_gone(&family, w.root());
    assert_eq!(mounts(), before);
    w.write("f.nix", &job("endless", "echo x > $out"));
    w.sos(["build", "--no-link", "f.nix"]).ok();
}

/// The mounts of this machine, as this process sees them.
fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").expect("mounts")
}
