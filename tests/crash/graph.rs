//! Kills in the middle of a graph of plain Nix derivations.

use std::fmt::Write as _;

use super::rounds;
use crate::support::{World, one_at_a_time, peer, seed, slow};

/// Forty derivations in four layers; each reads three of the layer before, works a little, and writes.
fn graph(salt: u32, busybox: &str) -> String {
    let mut text = format!(
        "let\n  mk = name: inputs: derivation {{ inherit name inputs; salt = \"{salt}\"; system = \"x86_64-linux\"; builder = \"{busybox}\";\n    \
         args = [ \"sh\" \"-c\" \"{busybox} mkdir $out; {busybox} cat /dev/null $inputs; {busybox} sleep 0.03; {busybox} dd if=/dev/zero of=$out/zeros bs=4096 count=50 2>/dev/null; echo $name $salt > $out/name\" ]; }};\n"
    );
    for layer in 0..4 {
        for i in 0..10 {
            let inputs: Vec<String> = (0..3)
                .filter(|_| layer > 0)
                .map(|k| format!("\"${{d{}_{}}}/name\"", layer - 1, (i + k) % 10))
                .collect();
            let _ = writeln!(
                text,
                "  d{layer}_{i} = mk \"d{layer}-{i}\" [ {} ];",
                inputs.join(" ")
            );
        }
    }
    let last: Vec<String> = (0..10).map(|i| format!("d3_{i}")).collect();
    let _ = writeln!(text, "in [ {} ]", last.join(" "));
    text
}

#[test]
fn a_killed_build_of_a_graph_leaves_nothing_half_done() {
    let Some(busybox) = peer("busybox") else {
        return;
    };
    let _alone = one_at_a_time();
    let w = World::new();
    w.write(
        "../home/.config/sos/config.toml",
        &format!("[build]\nsandbox-paths = [\"{}\"]\n", busybox.display()),
    );
    let busybox = busybox.display().to_string();
    let seed = seed("crash::graph");
    rounds(&w, seed, if slow() { 100 } else { 20 }, &|round| {
        w.write("graph.nix", &graph(round, &busybox));
        ["build", "--no-link", "-j", "4", "graph.nix"]
            .map(str::to_owned)
            .to_vec()
    });
    // What the kills interrupted came out as it always does.
    let last = w
        .sos(["build", "--no-link", "graph.nix"])
        .ok()
        .says(&["built 0"]);
    let first = last.stdout.lines().next().expect("ten paths").to_owned();
    assert_eq!(
        w.sos(["store", "cat", &format!("{first}/name")])
            .ok()
            .stdout,
        "d3-0 21\n".replace("21", if slow() { "101" } else { "21" })
    );
}
