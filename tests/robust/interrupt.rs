//! Ctrl-C stops what runs and says how far it came.

use std::time::Duration;

use rustix::process::Signal;

use super::{job, world_with_busybox};
use crate::support::process::{all_gone, descendants, pid, signal, wait_until};
use crate::support::{finish, left_nothing, start};

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
        run.stderr.contains("built 0") && run.stderr.contains("interrupted"),
        "a summary and a reason: {}",
        run.stderr
    );
    assert!(last.contains("interrupted"), "the reason is last: {last}");
    left_nothing(&w, "endless");
    // Nothing is in the way of the next run.
    w.write("f.nix", &job("endless", "echo x > $out"));
    w.sos(["build", "--no-link", "f.nix"]).ok();
}

#[test]
fn ctrl_c_ends_with_130() {
    interrupted(Signal::INT, 130);
}

#[test]
fn termination_ends_with_143() {
    interrupted(Signal::TERM, 143);
}

#[test]
fn what_was_built_before_ctrl_c_is_kept() {
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
    signal(&child, Signal::INT);
    finish(child, Duration::from_secs(60))
        .fails(130)
        .says(&["built 1"]);
    w.sos(["build", "--no-link", "f.nix#first"])
        .ok()
        .says(&["built 0"]);
}
