//! What is built first.

use super::builds::{recipe, world_with_busybox};
use crate::support::server::Server;

/// The names in the order in which their events of this kind came.
fn order<'a>(events: &'a [serde_json::Value], kind: &str) -> Vec<&'a str> {
    let of_kind = events.iter().filter(|e| e["type"] == kind);
    of_kind.filter_map(|e| e["name"].as_str()).collect()
}

#[test]
fn the_target_named_first_wins_among_equals() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    // Other names each time: how long a name took before would count.
    for (salt, first, second) in [("1", "a", "b"), ("2", "b", "a")] {
        let job = |name: &str| recipe(&format!("{name}{salt}"), "echo x > $out", "");
        w.write(
            "f.nix",
            &format!("{{ a = {}; b = {}; }}", job("a"), job("b")),
        );
        let targets = [format!("f.nix#{first}"), format!("f.nix#{second}")];
        let events = w.events(&["-j", "1", &targets[0], &targets[1]]).0;
        let expected = [first, second].map(|name| format!("{name}{salt}"));
        assert_eq!(order(&events, "build.started"), expected);
    }
}

#[test]
fn what_most_waits_for_goes_first() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    // Nothing is known of the past: each counts the same, and the longest chain is the most urgent.
    let lone = recipe("lone", "echo x > $out", "");
    let c1 = recipe("c1", "echo x > $out", "");
    let c2 = recipe("c2", "echo x > $out", &format!("dep = {c1};"));
    let c3 = recipe("c3", "echo x > $out", &format!("dep = {c2};"));
    w.write("f.nix", &format!("[ ({lone}) ({c3}) ]"));
    let events = w.events(&["-j", "1", "f.nix"]).0;
    assert_eq!(order(&events, "build.started")[0], "c1");
}

#[test]
fn fetches_begin_before_anything_needs_them() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("www/hello", "hello");
    let server = Server::start(&w.project().join("www"));
    let fetched = format!(
        "derivation {{ name = \"hello\"; system = \"builtin\"; builder = \"builtin:fetchurl\"; url = \"{}/hello\"; \
         outputHashMode = \"flat\"; outputHashAlgo = \"sha256\"; \
         outputHash = \"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824\"; }}",
        server.url()
    );
    let c1 = recipe("c1", "echo x > $out", "");
    let c2 = recipe("c2", "echo x > $out", &format!("dep = {c1};"));
    // What needs the fetch is the last of all, and there is one slot for builds.
    let last = recipe(
        "last",
        "echo x > $out",
        &format!("dep = {c2}; hello = {fetched};"),
    );
    w.write("f.nix", &last);
    let events = w.events(&["-j", "1", "f.nix"]).0;
    let at = |kind: &str, name: &str| {
        events
            .iter()
            .position(|e| e["type"] == kind && e["name"] == name)
            .unwrap_or_else(|| panic!("no {kind} of {name}"))
    };
    assert!(at("fetch.started", "hello") < at("build.finished", "c1"));
    assert!(at("fetch.finished", "hello") < at("build.started", "last"));
}
