//! What happens after a step was killed, after a pin has changed, and what a step can see of the machine.

use std::io::{BufRead as _, BufReader};

use rustix::process::Signal;

use super::small::{content, recipe, world};
use super::write_tree;
use crate::support::process::{all_gone, descendants, pid, signal};
use crate::support::{World, one_at_a_time, peer, start, steps};

/// The names of what a run built, in order.
fn built(w: &World, target: &str) -> (Vec<String>, String) {
    let events = w.events(&[target]);
    let of_kind = |e: &&serde_json::Value| e["type"] == "build.finished" && e["status"] == "built";
    let names = events.0.iter().filter(of_kind);
    let names = names.map(|e| e["name"].as_str().unwrap_or_default().to_owned());
    (names.collect(), events.output())
}

#[test]
fn after_a_kill_the_step_begins_again_with_the_same_root() {
    let _alone = one_at_a_time();
    let Some(w) = world() else { return };
    // It says that it runs, has changed its root by then, and runs much longer than this test looks at it.
    let step = "echo half > ${PREFIX}/b; echo begun\ni=0; while [ $i -lt ${ROUNDS} ]; do i=$((i+1)); done\necho whole > ${PREFIX}/b\n";
    let with = |rounds: &str| step.replace("${ROUNDS}", rounds);
    w.write("tree/steps/b-1.0/pass1.sh", &with("1000000000"));
    let mut command = w.command();
    command.args(["build", "--no-link", "--progress", "json", ".#rootfs"]);
    let mut child = start(&mut command);
    let stdout = child.stdout.take().expect("a pipe");
    let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.contains("build.log") && line.contains("begun")));
    let below = descendants(pid(&child));
    assert!(!below.is_empty());
    signal(&child, Signal::KILL);
    child.wait().expect("a child");
    all_gone(&below, w.root());
    // What the steps before it have made is kept for the run that goes on.
    w.sos(["gc"])
        .ok()
        .says(&["of builds that have not come to their end"]);
    // Shorter now, or the test would not end; the directory of the step is its own, so nothing else is touched by that.
    w.write("tree/steps/b-1.0/pass1.sh", &with("10"));
    let (names, root) = built(&w, ".#rootfs");
    assert_eq!(names.first().map(String::as_str), Some("b-1.0-pass1"));
    assert_eq!(names.len(), 4, "{names:?}");
    let b = w
        .sos(["build", "--no-link", ".#steps.\"b-1.0\""])
        .ok()
        .stdout;
    assert_eq!(content(&w, b.trim(), "usr/b"), "whole\n");
    // Nobody was killed in the other store, and the roots are the same.
    let other = w.root().join("other");
    let there = w
        .sos([
            "--store",
            other.to_str().expect("a plain path"),
            "build",
            "--no-link",
            ".#rootfs",
        ])
        .ok()
        .stdout;
    assert_eq!(there.trim(), root);
    w.sos(["store", "check"]).ok();
}

#[test]
fn a_collection_keeps_the_steps_of_a_failed_run_until_it_is_done() {
    let Some(w) = world() else { return };
    w.write("tree/steps/b-1.0/pass1.sh", "exit 1\n");
    w.sos(["build", "--no-link", ".#rootfs"]).fails(100);
    let a = || {
        let plan = w.sos(["plan", ".#rootfs"]).ok().stdout;
        plan.lines().any(|line| line.contains("a-pass1"))
    };
    assert!(!a(), "it is there");
    let hint = "`sos gc --unfinished`";
    w.sos(["gc", "-n"]).ok().says(&[hint]);
    w.sos(["gc"]).ok().says(&[hint]);
    assert!(!a(), "it is still there");
    // Its state is gone.
    w.sos(["shell", ".#b-1.0", "--at-failure"])
        .fails(1)
        .says(&["until `sos gc`"]);
    w.sos(["gc", "--unfinished"]).ok();
    assert!(a(), "it went");
    // Nothing is built for a shell that there cannot be.
    w.sos(["shell", ".#b-1.0", "--at-failure"])
        .fails(1)
        .says(&["error[shell-no-state]"]);
    assert!(a(), "it was built");
    w.sos(["build", "--no-link", ".#rootfs"]).fails(100);
    assert!(!a(), "it is there again");
    // At its end nothing of it is left: nobody has made a link.
    w.write("tree/steps/b-1.0/pass1.sh", "true\n");
    w.sos(["build", "--no-link", ".#rootfs"]).ok();
    let said = w.sos(["gc"]).ok();
    assert!(!said.stderr.contains(hint), "{}", said.stderr);
    assert!(a(), "it went with the rest");
}

#[test]
fn a_changed_byte_of_a_pin_fails_at_its_step() {
    let w = World::new();
    if steps::possible(&w).is_none() {
        return;
    }
    let Some(recipe) = recipe() else { return };
    w.write("sos.nix", &recipe);
    let helpers = r#"
build() {
  cd "/steps/$1"
  . "./$2"
  mkdir -p /external/repo
  echo "$1" > "/external/repo/$1_0.tar.bz2"
  cd /external/repo
  sha256sum -c /steps/SHA256SUMS.pkgs
}
"#;
    // `echo a`, `echo b`, `echo c`.
    let sums = "\
87428fc522803d31065e7bce3cf03fe475096631e5e07bbd7a0fde60c4cf25c7  a_0.tar.bz2
0263829989b6fd954f72baaf2fc64bc2e2f01d692d4de72986ea808f6e99813f  b_0.tar.bz2
a3a5e715f0cc574a73c3f9bebb6bc24f32ffd5b67b387244c2c909da779a1478  c_0.tar.bz2
";
    write_tree(
        &w,
        &[
            ("steps/manifest", "build: a\nbuild: b\nbuild: c\n"),
            ("steps/bootstrap.cfg", "ARCH=amd64\n"),
            ("steps/env", "export PATH=/bin\n"),
            ("steps/helpers.sh", helpers),
            ("steps/SHA256SUMS.pkgs", sums),
            ("steps/a/pass1.sh", "true\n"),
            ("steps/b/pass1.sh", "true\n"),
            ("steps/c/pass1.sh", "true\n"),
        ],
    );
    w.sos(["build", "--no-link", ".#rootfs"]).ok();
    let table = w.sos(["recipe", "pins", "."]).ok().stdout;
    assert!(
        table.starts_with("state      kind     of       sha256  ") && table.contains("3 equal"),
        "{table}"
    );
    w.write(
        "tree/steps/SHA256SUMS.pkgs",
        &sums.replace("0263829", "0263828"),
    );
    w.sos(["build", "--no-link", ".#rootfs"])
        .fails(100)
        .says(&["b-pass1", "FAILED", "built 0,", "failed 1"])
        // Where it is written that it runs, and what.
        .says(&[
            "tree/steps/manifest:2:",
            "`b-pass1` runs `tree/steps/b/pass1.sh`",
        ]);
    let pins = w.sos(["recipe", "pins", "."]);
    let table = pins
        .fails(102)
        .says(&["`/external/repo/b_0.tar.bz2` of `b-pass1` is different"])
        .stdout;
    let (right, wrong) = ("0263829989b6", "0263828989b6");
    let different = table.lines().skip_while(|l| !l.starts_with("different"));
    let [pin, found] = different.take(2).collect::<Vec<_>>()[..] else {
        panic!("{table}");
    };
    assert!(
        pin.contains(wrong) && pin.ends_with("b_0.tar.bz2"),
        "{table}"
    );
    assert!(found.contains(right), "{table}");
    assert!(
        table.contains("1 equal, 1 different, 0 missing, 1 not built"),
        "{table}"
    );
    // The pin of a step that is not there concerns nobody.
    w.write(
        "tree/steps/SHA256SUMS.pkgs",
        &format!(
            "{sums}0263829989b6fd954f72baaf2fc64bc2e2f01d692d4de72986ea808f6e99813f  d_0.tar.bz2\n"
        ),
    );
    w.sos(["build", "--no-link", ".#rootfs"])
        .ok()
        .says(&["built 0,"]);
}

#[test]
fn a_root_without_a_shell_is_entered_with_one_of_this_machine() {
    let Some(busybox) = peer("busybox") else {
        return;
    };
    let w = World::new();
    if steps::possible(&w).is_none() {
        return;
    }
    // As kaem, it is no shell by its name, and there is nothing else in the root.
    let recipe = steps::steps(&format!(
        r#"rootfs "step" {{
  name = "bare-step";
  command = [ "/tools/kaem" ];
  bare = true;
  env.PATH = "/tools";
  mounts."/tools/kaem" = "${{builtins.path {{ path = {}; name = "kaem"; }}}}";
}}"#,
        busybox.display()
    ));
    let recipe = recipe.expect("busybox");
    w.write("f.nix", &recipe);
    w.sos(["build", "--no-link", "f.nix"])
        .fails(100)
        .says(&["`sos shell bare-step --at-failure`"]);
    let inside = "echo changed > /file; cat /file; ls -A / ; echo $PATH";
    let shell = w
        .sos(["shell", "bare-step", "--at-failure", "-c", inside])
        .ok()
        .says(&["has no shell", "of this machine, shown at `/.sos-shell`"]);
    assert!(shell.stdout.starts_with("changed\n"), "{}", shell.stdout);
    assert!(
        shell.stdout.ends_with("/tools:/.sos-shell\n"),
        "{}",
        shell.stdout
    );
    // What was changed stays in the state; what was lent leaves nothing in it.
    let state = std::fs::read_dir(w.store().join("failed"))
        .expect("the states")
        .flatten()
        .next()
        .expect("the state");
    assert!(state.path().join("upper/file").is_file());
    assert!(!state.path().join("upper/.sos-shell").exists());
    // Nobody has one where PATH leads to none.
    assert!(
        w.sos(["shell", "bare-step", "-q", "-c", "true"])
            .ok()
            .stderr
            .is_empty()
    );
}
