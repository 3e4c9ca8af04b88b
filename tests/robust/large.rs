//! A graph of nearly ten thousand derivations that are really built.

use std::process::Command;

use super::world_with_busybox;
use crate::support::{World, peer, say, slow};

/// Layers of 64, each derivation reading three of the layer before; `count` of them, all of which are needed, and one that needs the last.
fn layers(w: &World, name: &str, count: usize) -> String {
    let file = format!("{name}.nix");
    w.write(
        &file,
        &format!(
            r#"let
  mk = i: deps: derivation {{
    name = "{name}-${{toString i}}"; system = "x86_64-linux"; builder = "/bin/busybox"; inherit i deps;
    args = [ "sh" "-c" "echo $i > $out; for d in $deps; do read l < $d; echo $l >> $out; done" ];
  }};
  at = n: builtins.elemAt all n;
  all = builtins.genList (i: mk i (if i < 64 then [ ] else
    map (k: at ((i / 64 - 1) * 64 + builtins.bitAnd (i + k * 13) 63)) [ 0 1 2 ])) {count};
in mk {count} (builtins.genList (k: at ({count} - 64 + k)) 64)"#
        ),
    );
    w.sos(["eval", "--raw", "--file", &file, "drvPath"])
        .ok()
        .stdout
}

/// Bytes of memory that the process of a build takes at most; what its helpers take does not follow from the graph.
fn peak(w: &World, python: &std::path::Path, drv: &str) -> u64 {
    let sos = w.command_of(&["build", "--no-link", "--quiet", drv]);
    let mut watched = Command::new(python);
    watched
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/bench/peak.py"))
        .arg(sos.get_program())
        .args(sos.get_args())
        .current_dir(w.project())
        .env_clear();
    for (name, value) in sos.get_envs() {
        if let Some(value) = value {
            watched.env(name, value);
        }
    }
    let told = crate::support::run(&mut watched).ok().stdout;
    let kib = told
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse::<u64>().ok());
    kib.expect("a number") * 1024
}

#[test]
fn ten_thousand_derivations_are_built_and_weigh_little() {
    // Up to some thousands the caches fill that the database and the store keep, which have limits of their own: what they take is
    // no part of what a derivation weighs.
    const COUNTS: [usize; 2] = [3_200, 9_600];
    if !slow() {
        return;
    }
    let (Some(w), Some(python)) = (world_with_busybox(), peer("python3")) else {
        return;
    };
    let mut peaks = Vec::new();
    for count in COUNTS {
        let drv = layers(&w, &format!("of-{count}"), count);
        // Evaluation is not what is measured: a build that fails at its first derivation has written all of them down.
        let file = format!("of-{count}.nix");
        let without = "build.sandbox-paths=[]";
        let failed = w.sos(["--config", without, "build", "--no-link", "--file", &file]);
        assert_ne!(failed.code, 0);
        peaks.push(peak(&w, &python, drv.trim()));
        let again = w.events(&[drv.trim()]);
        let summary = again.summary();
        assert_eq!(
            (&summary["built"], &summary["cached"]),
            (&0.into(), &1.into())
        );
    }
    let each = peaks[1].saturating_sub(peaks[0]) / (COUNTS[1] - COUNTS[0]) as u64;
    say(&format!("{each} bytes of memory a derivation"));
    assert!(each < 1024, "{each} bytes a derivation: {peaks:?}");
    let checked = w.sos(["store", "check"]).ok().stdout;
    let built: usize = COUNTS.iter().map(|count| count + 1).sum();
    assert!(
        checked.contains(&format!("checked {built} paths")),
        "{checked}"
    );
}
