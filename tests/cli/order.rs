//! What is built first.

use std::process::Command;

use super::builds::{recipe, world_with_busybox};
use crate::support::server::Server;
use crate::support::{peer, run};

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

/// Two runs beside each other: the kernel decides between their builds, as whoever started them has said.
#[test]
fn builds_have_the_priority_of_their_run() {
    let (Some(w), Some(nice)) = (world_with_busybox(), peer("nice")) else {
        return;
    };
    let script = "set -- $(/bin/busybox cat /proc/self/stat); echo ''${19} > $out";
    for more in ["", "-n3", "-n7"] {
        let salt = format!("salt = \"{more}\";");
        w.write("f.nix", &recipe("nice", script, &salt));
        // What this test itself was given counts for all.
        let sos = w.command_of(&["build", "--no-link", "f.nix"]);
        let mut command = w.command();
        let built = if more.is_empty() {
            run(command.args(sos.get_args()))
        } else {
            let mut command = Command::new(&nice);
            command
                .arg(more)
                .arg(sos.get_program())
                .args(sos.get_args());
            let vars = sos
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?)));
            let dir = sos.get_current_dir().expect("a directory");
            run(command.env_clear().envs(vars).current_dir(dir))
        };
        let path = built.ok().stdout;
        let own = std::fs::read_to_string("/proc/self/stat").expect("of this process");
        let (_, fields) = own.rsplit_once(')').expect("a name");
        let own: i32 = fields
            .split_whitespace()
            .nth(16)
            .expect("a number")
            .parse()
            .expect("it");
        let added: i32 = more.trim_start_matches("-n").parse().unwrap_or(0);
        let seen = w.sos(["store", "cat", path.trim()]).ok().stdout;
        assert_eq!(seen.trim(), (own + added).min(19).to_string(), "{more}");
    }
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
