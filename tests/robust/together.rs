//! Two runs at once share their work.

use std::time::Duration;

use super::{job, world_with_busybox};
use crate::support::process::{pid, wait_until};
use crate::support::terminal::Terminal;
use crate::support::{finish, gate, peer, start, start_to, store_is_clean};

/// Five builds in a row and five beside each other, each slow enough to be met.
fn graph() -> String {
    let slow = |name: &str, read: &str| {
        job(
            name,
            &format!("{read} /bin/busybox sleep 0.2; echo {name} > $out"),
        )
    };
    let mut text = format!("let\n  c0 = {};\n", slow("c0", ""));
    for i in 1..5 {
        text.push_str(&format!(
            "  c{i} = {};\n",
            slow(&format!("c{i}"), &format!("read x < ${{c{}}};", i - 1))
        ));
        text.push_str(&format!("  w{i} = {};\n", slow(&format!("w{i}"), "")));
    }
    text + "in [ c4 w1 w2 w3 w4 ]\n"
}

#[test]
fn the_same_target_twice_at_once_is_built_once() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &graph());
    let runs: Vec<_> = (0..2)
        .map(|_| {
            start(w.command().args([
                "build",
                "--no-link",
                "--progress",
                "json",
                "-j",
                "2",
                "f.nix",
            ]))
        })
        .collect();
    let summaries: Vec<serde_json::Value> = runs
        .into_iter()
        .map(|child| {
            let run = finish(child, Duration::from_secs(120)).ok();
            serde_json::from_str(run.stdout.lines().last().expect("a summary")).expect("JSON")
        })
        .collect();
    assert_eq!(summaries[0]["outputs"], summaries[1]["outputs"]);
    let built: u64 = summaries
        .iter()
        .map(|s| s["built"].as_u64().expect("a number"))
        .sum();
    assert_eq!(built, 9, "{summaries:?}");
    store_is_clean(&w);
}

#[test]
fn a_collection_beside_a_build_takes_nothing_away() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &graph());
    let mut build = start(w.command().args(["build", "--no-link", "f.nix"]));
    while build.try_wait().expect("a child").is_none() {
        w.sos(["gc", "-q"]);
    }
    let run = finish(build, Duration::from_secs(120)).ok();
    assert_eq!(run.stdout.lines().count(), 5);
    store_is_clean(&w);
}

#[test]
fn whoever_waits_sees_who_builds_and_what_it_says() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    // It ends when the other one has shown what it says.
    let gate = w.root().join("gate");
    std::fs::create_dir(&gate).expect("a directory");
    let shown = format!(
        "build.sandbox-paths=[\"/bin/busybox={}\", \"/gate={}\"]",
        peer("busybox").expect("busybox").display(),
        gate.display()
    );
    w.write(
        "f.nix",
        &job("slow", "echo line one; echo line two; while ! [ -e /gate/open ]; do /bin/busybox sleep 0.05; done; echo x > $out"),
    );
    let args = [
        "build",
        "--no-link",
        "--progress",
        "json",
        "--config",
        &shown,
        "f.nix",
    ];
    let builds = start(w.command().args(args));
    wait_until("the builder", || {
        w.sos(["log", "f.nix"]).stdout.contains("line two")
    });
    let mut command = w.command();
    let events = std::fs::File::create(w.root().join("events")).expect("a file");
    let waits = start_to(command.args(args), events);
    let events = || std::fs::read_to_string(w.root().join("events")).expect("events");
    wait_until("the lines of the other", || events().contains("line two"));
    std::fs::write(gate.join("open"), "").expect("a file");
    let holder = pid(&builds).as_raw_nonzero().get();
    finish(builds, Duration::from_secs(60)).ok();
    finish(waits, Duration::from_secs(60)).ok();
    let events: Vec<serde_json::Value> = events()
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let of = |kind: &str| -> Vec<&serde_json::Value> {
        events.iter().filter(|e| e["type"] == kind).collect()
    };
    let waiting = of("build.waiting");
    assert_eq!(waiting[0]["pid"], holder, "{waiting:?}");
    let command = waiting[0]["command"].as_str().expect("a command");
    assert!(command.starts_with("sos build --no-link"), "{command}");
    let lines: Vec<&str> = of("build.log")
        .iter()
        .filter_map(|e| e["line"].as_str())
        .collect();
    assert_eq!(lines, ["line one", "line two"]);
    assert_eq!(of("summary")[0]["built"], 0, "{events:?}");
}

#[test]
fn whoever_waits_at_a_terminal_sees_the_other_build_run() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let go = gate(&w);
    let script = "echo line one; echo line two; read x < /go; echo x > $out";
    w.write("f.nix", &job("slow", script));
    let builds = start(&mut w.command_of(&["build", "--no-link", "f.nix"]));
    wait_until("the builder", || {
        w.sos(["log", "f.nix"]).stdout.contains("line two")
    });
    let mut waits = w.command_of(&["build", "--no-link", "f.nix"]);
    waits.env("TERM", "xterm-256color");
    let terminal = Terminal::start(&waits, 24, 100);
    let Some(mut terminal) = terminal else {
        std::fs::write(&go, "\n").expect("it goes on");
        finish(builds, Duration::from_secs(60)).ok();
        return;
    };
    let holder = pid(&builds).as_raw_nonzero();
    terminal.wait_for_text(&format!("waiting for process {holder} (`sos build"));
    // Its row is there as that of a build of its own would be, with what was said last.
    terminal.wait_for_text("slow  elsewhere");
    terminal.wait_for_text("line two");
    std::fs::write(&go, "\n").expect("it goes on");
    finish(builds, Duration::from_secs(60)).ok();
    assert_eq!(terminal.finish(), 0);
    let rows = terminal.history().join("\n");
    assert!(rows.contains("built 0, cached 1"), "{rows}");
    assert!(
        !rows.contains("elsewhere"),
        "the rows are taken away: {rows}"
    );
}
