//! The event stream tells the whole run, and the summary its whole time.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _};
use std::process::Command;
use std::time::Duration;

use rustix::process::Signal;

use super::builds::{recipe, world_with_busybox};
use super::screen::{Stage, WAIT};
use crate::support::process::signal;
use crate::support::{World, finish, peer, run, skip, start};

#[test]
fn evaluation_is_in_the_stream_and_in_the_time() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("streamed", "echo x > $out", ""));
    for built in [1, 0] {
        let events = w.events(&["f.nix"]).0;
        let at = |kind: &str| events.iter().position(|e| e["type"] == kind);
        assert_eq!(at("eval.started"), Some(0), "{events:?}");
        let finished = &events[at("eval.finished").expect("an end of the evaluation")];
        assert_eq!(finished["targets"][0], "f.nix");
        assert_eq!(finished["drvs"], 1);
        let summary = events.last().expect("events");
        assert_eq!(summary["built"], built);
        // Whatever the machine: the whole is not less than its part.
        assert!(
            summary["elapsed_ms"].as_u64() >= finished["duration_ms"].as_u64(),
            "{events:?}"
        );
        let numbers: Vec<_> = events.iter().filter_map(|e| e["seq"].as_u64()).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
    }
}

#[test]
fn the_journal_begins_with_the_evaluation() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("noted", "echo x > $out", ""));
    w.events(&["f.nix"]);
    let store = sos_store::Store::open(sos_store::OpenOptions {
        root: w.store(),
        store_dir: sos_formats::store_path::StoreDir::default(),
        read_only: true,
    })
    .expect("the store of the build");
    let build = store.recent_builds(1).expect("builds")[0].id;
    let events = store
        .build_events(sos_store::BuildId(build))
        .expect("events");
    let types: Vec<String> = events
        .iter()
        .map(|json| {
            let event: serde_json::Value = serde_json::from_str(json).expect("JSON");
            event["type"].as_str().expect("a type").to_owned()
        })
        .collect();
    let expected = [
        "eval.started",
        "eval.finished",
        "plan",
        "build.started",
        "build.finished",
        "summary",
    ];
    assert_eq!(types, expected);
}

#[test]
fn what_waits_is_told_with_what_it_waits_for() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write(
        "f.nix",
        &format!(
            "let first = {}; in {}",
            recipe("first", "echo x > $out", ""),
            recipe(
                "second",
                "read l < $first; echo $l > $out",
                "inherit first;"
            )
        ),
    );
    let events = w.events(&["f.nix"]).0;
    let queued = |name: &str| {
        events
            .iter()
            .find(|e| e["type"] == "build.queued" && e["name"] == name)
            .expect("queued")
    };
    assert_eq!(queued("second")["needs"][0], queued("first")["drv"]);
    assert_eq!(queued("first")["needs"], serde_json::json!([]));
}

#[test]
fn a_recipe_that_is_wrong_ends_the_same_stream() {
    let w = World::new();
    w.write("f.nix", "{ a = 1; }");
    let run = w.sos(["build", "f.nix#b", "--progress", "json"]).fails(3);
    let events: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(|l| serde_json::from_str(l).expect("a JSON object a line"))
        .collect();
    let types: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    assert_eq!(types, ["eval.started", "diagnostic", "summary"]);
    let numbers: Vec<_> = events.iter().filter_map(|e| e["seq"].as_u64()).collect();
    assert_eq!(numbers, [1, 2, 3]);
    assert_eq!(events[2]["exit_code"], 3);
}

/// Reads the stream of a running build, line by line, until one is of that type.
fn until(lines: &mut impl Iterator<Item = String>, kind: &str) -> Vec<String> {
    let mut read = Vec::new();
    for line in lines {
        let event: serde_json::Value = serde_json::from_str(&line).expect("a JSON object");
        let found = event["type"] == kind;
        read.push(line);
        if found {
            return read;
        }
    }
    panic!("no {kind} in {read:#?}");
}

/// Checks a schema and lines with a validator that others wrote, once as it is and once with nothing allowed that it does not name.
const VALIDATE: &str = r#"
import json, sys
from jsonschema import Draft202012Validator as Validator
schema = json.load(open(sys.argv[1]))
Validator.check_schema(schema)
strict = dict(schema, unevaluatedProperties=False)
for line in open(sys.argv[2]):
    for validator in (Validator(schema), Validator(strict)):
        errors = [error.message for error in validator.iter_errors(json.loads(line))]
        if errors:
            sys.exit(line + "\n".join(errors))
for wrong in (
    {}, {"v": 1, "seq": 1, "t": "x"},
    {"v": 1, "seq": 1, "t": "x", "type": "no.such"},
    {"v": 2, "seq": 1, "t": "x", "type": "eval.started", "targets": []},
    {"v": 1, "seq": 1, "t": "x", "type": "eval.started"},
    {"v": 1, "seq": 1, "t": "x", "type": "build.log", "drv": "x", "name": "x", "line": 5},
):
    if Validator(schema).is_valid(wrong):
        sys.exit("valid: " + json.dumps(wrong))
"#;

#[test]
fn every_event_is_as_the_schema_says() {
    let (Some(mut stage), Some(python)) = (Stage::new(), peer("python3")) else {
        return;
    };
    if run(Command::new(&python).args(["-c", "import jsonschema"])).code != 0 {
        skip("no jsonschema of Python");
        return;
    }
    let data = stage.world.write("data", &"x".repeat(1 << 20));
    let phase = r#"echo '@nix {"action":"setPhase","phase":"buildPhase"}'"#;
    let fetch = format!(
        "sos.fetchurl {{ url = \"file://{}\"; sha256 = \"{}\"; }}",
        data.display(),
        sha256(&data)
    );
    let good = recipe(
        "good",
        &format!("{phase}; echo made; {WAIT}; echo x > $out"),
        &format!("data = {fetch};"),
    );
    stage.world.write(
        "sos.nix",
        &format!(
            "{{ sos, ... }}: {{ good = {good}; bad = {}; wrong = sos.fetchurl {{ url = \"file://{}\"; sha256 = \"{}\"; }}; }}\n",
            recipe("bad", "echo error: it is bad; exit 1", ""),
            data.display(),
            "0".repeat(64)
        ),
    );
    let build = |attribute: &str| {
        let target = format!(".#{attribute}");
        let mut command = stage.world.command();
        command.args(["build", "--no-link", "--progress", "json", "-k", &target]);
        command
    };
    let mut lines: Vec<String> = Vec::new();
    for (attribute, code) in [("bad", 100), ("wrong", 102), ("none", 3)] {
        let run = run(&mut build(attribute)).fails(code);
        lines.extend(run.stdout.lines().map(str::to_owned));
    }
    // Two processes that want the same thing: the second one waits for the first.
    let stream = |child: &mut std::process::Child| {
        let out = child.stdout.take().expect("its output");
        BufReader::new(out).lines().map(|line| line.expect("text"))
    };
    let mut first = start(&mut build("good"));
    let mut of_first = stream(&mut first);
    lines.extend(until(&mut of_first, "build.log"));
    let mut second = start(&mut build("good"));
    let mut of_second = stream(&mut second);
    lines.extend(until(&mut of_second, "build.waiting"));
    stage.open();
    lines.extend(of_first);
    lines.extend(of_second);
    for child in [first, second] {
        finish(child, Duration::from_secs(60)).ok();
    }

    let types: BTreeSet<String> = lines
        .iter()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"))
        .map(|event| event["type"].as_str().expect("a type").to_owned())
        .collect();
    let schema = stage.world.sos(["schema", "events"]).ok().stdout;
    let named: serde_json::Value = serde_json::from_str(&schema).expect("JSON");
    let named: BTreeSet<String> = named["oneOf"]
        .as_array()
        .expect("alternatives")
        .iter()
        .map(|one| one["properties"]["type"]["const"].as_str().expect("a type"))
        // Only builders that come with sos tell how far they are: other tests have images.
        .filter(|kind| *kind != "build.progress")
        .map(str::to_owned)
        .collect();
    assert_eq!(types, named, "all of them were met");

    let schema = stage.world.write("schema.json", &schema);
    let lines = stage.world.write("lines", &(lines.join("\n") + "\n"));
    run(Command::new(python)
        .args(["-c", VALIDATE])
        .args([schema, lines]))
    .ok();
}

fn sha256(file: &std::path::Path) -> String {
    let sum = run(Command::new("sha256sum").arg(file)).ok().stdout;
    sum.split(' ').next().expect("a sum").to_owned()
}

#[test]
fn a_signal_is_in_the_stream_and_its_summary_is_last() {
    for (by, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let Some(stage) = Stage::new() else {
            return;
        };
        stage.jobs(2, &format!("echo begun; {WAIT}; echo x > $out"));
        let words = ["build", "--no-link", "--progress", "json", "f.nix"];
        let mut build = start(&mut stage.world.command_of(&words));
        let mut out = BufReader::new(build.stdout.take().expect("its output"));
        let mut text = String::new();
        while !text.contains("\"build.log\"") {
            assert!(out.read_line(&mut text).expect("text") > 0, "{text}");
        }
        signal(&build, by);
        if by == Signal::INT {
            while !text.contains("\"diagnostic\"") {
                assert!(out.read_line(&mut text).expect("text") > 0, "{text}");
            }
            // The first one lets what runs come to its end.
            signal(&build, by);
        }
        out.read_to_string(&mut text).expect("text");
        let run = finish(build, Duration::from_secs(60)).fails(code);
        let events: Vec<serde_json::Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("a JSON object a line"))
            .collect();
        let summaries = events.iter().filter(|e| e["type"] == "summary").count();
        assert_eq!(summaries, 1, "{text}");
        let last = events.last().expect("events");
        assert_eq!(last["type"], "summary");
        assert_eq!(last["exit_code"], code);
        assert_eq!(last["outputs"], serde_json::json!([]));
        let reason = events.iter().find(|e| e["type"] == "diagnostic");
        assert_eq!(
            reason.expect("a reason")["diagnostic"]["code"],
            "interrupted"
        );
        let numbers: Vec<_> = events.iter().filter_map(|e| e["seq"].as_u64()).collect();
        assert_eq!(numbers, (1..=numbers.len() as u64).collect::<Vec<_>>());
        assert!(!run.stderr.contains("error"), "{}", run.stderr);
    }
}
