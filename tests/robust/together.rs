//! Two runs at once share their work.

use std::time::Duration;

use super::{job, world_with_busybox};
use crate::support::{finish, start, store_is_clean};

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
