//! Runs in real sandboxes. The test program is its own helper, so it has no harness: `[[test]] harness = false`.
//!
//! Works as root and as an ordinary user with subordinate ids; without user namespaces each test says `skipped`.
#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test program with its own harness"
)]

mod exact;
mod layers;
mod nix;
mod orphans;
mod step;
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};

use sos_engine::sandbox::{HELPER_ARGUMENT, child_main};

type Test = (&'static str, fn());

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some(HELPER_ARGUMENT) => child_main(),
        Some(orphans::ARGUMENT) => return orphans::be_killed(&arguments[1..]),
        _ => {}
    }
    let tests: Vec<Test> = [
        nix::TESTS,
        step::TESTS,
        layers::TESTS,
        exact::TESTS,
        orphans::TESTS,
    ]
    .concat();
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with('-')).collect();
    let exact = arguments.iter().any(|a| a == "--exact");
    let chosen: Vec<Test> = tests
        .into_iter()
        .filter(|(name, _)| {
            filters.is_empty()
                || filters.iter().any(|f| {
                    if exact {
                        name == f
                    } else {
                        name.contains(f.as_str())
                    }
                })
        })
        .collect();
    if arguments.iter().any(|a| a == "--list") {
        for (name, _) in chosen {
            println!("{name}: test");
        }
        return;
    }
    if let Err(why) = support::possible() {
        support::skip(&format!("no sandbox: {why}"));
        return;
    }
    let no_steps = support::steps_possible().err();
    if let Some(why) = &no_steps {
        support::skip(&format!("no steps: {why}"));
    }
    let mut failed = 0;
    for (name, test) in &chosen {
        if let Some(why) = &no_steps
            && !name.starts_with("nix::")
            && *name != "orphans::kill_while_a_build_runs"
        {
            println!("test {name} ... skipped: {why}");
            continue;
        }
        let good = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if good { "ok" } else { "FAILED" });
        failed += u32::from(!good);
    }
    println!("{} tests, {failed} failed", chosen.len());
    assert_eq!(failed, 0, "some tests failed");
}
