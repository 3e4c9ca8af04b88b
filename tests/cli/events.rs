//! The event stream tells the whole run, and the summary its whole time.

use super::builds::{recipe, world_with_busybox};
use crate::support::World;

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
