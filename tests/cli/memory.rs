//! What a run holds in memory: a plan and a build of large graphs, and a build after a large evaluation. Each is measured in a process
//! of its own, by what the kernel says of it.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout};

use serde_json::Value;

use crate::support::{World, gate, slow, start, world_with_busybox};

/// A graph of layers of 250, in which each derivation reads three of the layer before. Those of the first layer wait at the gate.
const GRAPH: &str = r#"n:
let
  width = 250;
  make = i: above: derivation {
    name = "bench-${toString i}";
    system = "x86_64-linux";
    builder = "/bin/busybox";
    args = [ "sh" "-c" "read x < /go; echo $x > $out" ];
    deps = if above == [ ] then [ ] else
      map (k: let v = i * 7 + k * 13; in builtins.elemAt above (v - v / width * width)) [ 0 1 2 ];
  };
  layer = number: above:
    if number == n / width then above
    else layer (number + 1) (builtins.genList (k: make (number * width + k) above) width);
in derivation {
  name = "top";
  system = "x86_64-linux";
  builder = "/bin/busybox";
  deps = layer 0 [ ];
}
"#;

/// Nodes of the two graphs whose difference is taken: what every process needs is in both, pages of the program and of the database
/// that the first thousands of nodes bring in among them.
fn sizes() -> (u64, u64) {
    if slow() {
        (20_000, 100_000)
    } else {
        (20_000, 60_000)
    }
}

/// Bytes that a field of the books of a process tells.
fn bytes(child: &Running, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", child.0.id()));
    let status = status.expect("a process");
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    let (_, value) = lines.find(|(name, _)| *name == field).expect("a field");
    let number = value.trim().trim_end_matches(" kB");
    number.parse::<u64>().expect("a number") * 1024
}

/// A process that is ended when it has been looked at, or when the test fails.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill().is_err();
        let _gone = self.0.wait().is_err();
    }
}

/// A build whose first builder runs, and waits at the gate.
struct Waiting {
    child: Running,
    /// It would end if nobody could read what it tells.
    _events: BufReader<ChildStdout>,
    /// The target.
    top: String,
}

fn waiting(w: &World, target: &str) -> Waiting {
    let args = [
        "build",
        "--no-link",
        "-j",
        "1",
        "--progress",
        "json",
        target,
    ];
    let mut child = Running(start(&mut w.command_of(&args)));
    let mut events = BufReader::new(child.0.stdout.take().expect("its output"));
    let mut top = None;
    let mut line = String::new();
    while events.read_line(&mut line).expect("a line") > 0 {
        let event: Value = serde_json::from_str(&line).expect("an event");
        if event["type"] == "build.queued" && event["name"] == "top" {
            top = event["drv"].as_str().map(str::to_owned);
        }
        if event["type"] == "build.started" {
            return Waiting {
                child,
                _events: events,
                top: top.expect("the target"),
            };
        }
        line.clear();
    }
    panic!("no builder was started");
}

/// The most that a plan and a build of a graph of `count` have held, the latter until its first builder runs.
fn held(w: &World, count: u64) -> (u64, u64) {
    w.write("f.nix", &format!("({GRAPH}) {count}"));
    // It writes the derivations down; afterwards no evaluation is needed, whose memory is its own affair.
    let top = waiting(w, "f.nix").top;
    let built = bytes(&waiting(w, &top).child, "VmHWM");
    // The allocator keeps some megabytes more in one run than in another: the least is what is needed.
    let planned = (0..3).map(|_| planned(w, &top)).min();
    (planned.expect("three plans"), built)
}

/// The most that a plan has held.
fn planned(w: &World, top: &str) -> u64 {
    let mut child = Running(start(&mut w.command_of(&["plan", top])));
    // It is printed when all of it is known, and the pipe has no room for all: it still runs.
    let mut one = [0];
    let mut out = child.0.stdout.take().expect("its output");
    out.read_exact(&mut one).expect("a plan");
    bytes(&child, "VmHWM")
}

#[test]
fn a_node_of_a_graph_takes_less_than_a_kilobyte() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    gate(&w);
    let (small, large) = sizes();
    let (before, after) = (held(&w, small), held(&w, large));
    let nodes = large - small;
    let each = |before: u64, after: u64| after.saturating_sub(before) / nodes;
    let (plan, build) = (each(before.0, after.0), each(before.1, after.1));
    assert!(
        plan < 1024 && build < 1024,
        "bytes a node: {plan} for a plan, {build} for a build"
    );
    // Else nothing was measured: the path of each is known, and that is longer.
    assert!(plan > 64 && build > 64, "{before:?} {after:?}");
}

#[test]
fn a_build_does_not_hold_the_memory_of_its_evaluation() {
    const MIB: u64 = 1 << 20;
    let Some(w) = world_with_busybox() else {
        return;
    };
    gate(&w);
    w.write(
        "f.nix",
        r#"builtins.deepSeq (builtins.genList (i: { a = i; b = [ i ]; }) 1000000) (derivation {
  name = "top"; system = "x86_64-linux"; builder = "/bin/busybox"; args = [ "sh" "-c" "read x < /go" ]; })"#,
    );
    let build = waiting(&w, "f.nix");
    let (most, now) = (bytes(&build.child, "VmHWM"), bytes(&build.child, "RssAnon"));
    drop(build);
    assert!(most > 96 * MIB, "a small evaluation: {} MiB", most / MIB);
    // The allocator keeps some of what it was given back for a while.
    assert!(
        now * 2 < most,
        "{} of {} MiB are held",
        now / MIB,
        most / MIB
    );
}
