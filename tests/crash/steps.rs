//! Kills in the middle of a chain of steps: while a working tree moves, while a step runs, while its layer is read.

use super::rounds;
use crate::support::steps::{chain, possible};
use crate::support::{World, one_at_a_time, seed, slow};

#[test]
fn a_killed_chain_of_steps_leaves_nothing_half_done() {
    let _alone = one_at_a_time();
    let w = World::new();
    if possible(&w).is_none() {
        return;
    }
    let seed = seed("crash::steps");
    let count = if slow() { 60 } else { 12 };
    rounds(&w, seed, count, &|round| {
        // Two heads in turn: the working tree moves by a difference, or far. Every third round it is made anew.
        let salt = format!("{} {round}", round % 2);
        w.write("chain.nix", &chain(&salt, 5).expect("busybox"));
        if round % 3 == 0 {
            w.sos(["gc", "-q"]).ok();
        }
        ["build", "--no-link", "chain.nix"]
            .map(str::to_owned)
            .to_vec()
    });
    // What came out in the end is what a store makes in which nothing was ever killed.
    let other = w.root().join("other-store");
    let other = other.to_str().expect("a plain path");
    let salt = format!("{} {}", count % 2, count);
    w.write("chain.nix", &chain(&salt, 5).expect("busybox"));
    let here = w.sos(["build", "--no-link", "chain.nix"]).ok();
    let there = w
        .sos(["--store", other, "build", "--no-link", "chain.nix"])
        .ok();
    assert_eq!(here.stdout, there.stdout);
}
