//! After a change, the programs that were read before are parsed ahead on another thread. What that thread finds can be anything but
//! the answer.

use std::process::Command;

use super::eval_cache::world;
use crate::support::World;

/// Evaluates; returns the answer and how many programs were parsed ahead.
#[track_caller]
fn eval(w: &World, args: &[&str]) -> (String, usize) {
    let run = w.sos([&["eval"], args].concat()).ok();
    let ahead = run
        .stderr
        .lines()
        .filter_map(|line| line.split_once("programs parsed ahead"))
        .filter_map(|(_, rest)| rest.split_once("ahead="))
        .filter_map(|(_, number)| number.trim().parse::<usize>().ok())
        .sum();
    (run.stdout.trim_end().to_owned(), ahead)
}

/// A comment that makes any program a large one.
fn padding() -> String {
    format!("# {}\n", "x".repeat(16 << 10))
}

/// Sixty large programs with names that the one before does not have, and one that imports them all.
fn programs(w: &World, directory: &str) {
    for i in 0..60 {
        w.write(
            &format!("{directory}/p{i}.nix"),
            &format!("{}{{ n{i} ? {i}, ... }}@a{i}: let m{i} = n{i}; in rec {{ v{i} = m{i} + (a{i}.b or 0); w = v{i}; }}.w", padding()),
        );
    }
    w.write(
        &format!("{directory}/all.nix"),
        "{ sos ? null, b ? 0 }: builtins.foldl' (sum: i: sum + import (./. + \"/p${toString i}.nix\") { inherit b; }) 0 (builtins.genList (i: i) 60)",
    );
}

/// The thread is not always the first. Twenty attempts without one tree are no accident.
fn some_ahead(w: &World, args: &[&str], edit: impl Fn(usize) -> String) {
    let mut used = 0;
    for i in 0..20 {
        let expected = edit(i);
        let (found, ahead) = eval(w, args);
        assert_eq!(found, expected);
        used += ahead;
        if i >= 2 && used > 0 {
            return;
        }
    }
    panic!("nothing was ever parsed ahead");
}

#[test]
fn after_a_change() {
    let w = world();
    programs(&w, ".");
    assert_eq!(eval(&w, &["all.nix"]), ("1770".to_owned(), 0));
    // The program that changes each time is read last, so that most of the others are there when they are needed.
    some_ahead(&w, &["all.nix"], |i| {
        w.write("p59.nix", &format!("_: {i} + 1000"));
        (1770 - 59 + 1000 + i).to_string()
    });
    // Another question in the same directory.
    some_ahead(&w, &["all.nix", "--arg", "b", "1"], |i| {
        w.write("p59.nix", &format!("_: {i} + 2000"));
        (1770 + 59 - 59 + 2000 + i).to_string()
    });
}

#[test]
fn a_flake_whose_object_has_another_name_each_time() {
    let w = world();
    programs(&w, "flake");
    w.write(
        "flake/flake.nix",
        "{ outputs = _: { sum = import ./all.nix { }; }; }",
    );
    assert_eq!(eval(&w, &["./flake#sum"]).0, "1770");
    some_ahead(&w, &["./flake#sum"], |i| {
        w.write("flake/p59.nix", &format!("_: {i} + 1000"));
        (1770 - 59 + 1000 + i).to_string()
    });
}

#[test]
fn files_that_became_something_else() {
    let w = world();
    programs(&w, ".");
    eval(&w, &["all.nix"]);
    let at = |name: &str| w.project().join(name);
    // A pipe that nobody writes to, a directory, nothing, a program with an error, one that warns of nothing and is endless.
    for name in ["p3.nix", "p4.nix", "p5.nix"] {
        std::fs::remove_file(at(name)).expect("remove");
    }
    assert!(
        Command::new("mkfifo")
            .arg(at("p3.nix"))
            .status()
            .expect("mkfifo")
            .success()
    );
    w.write("p4.nix/default.nix", "_: 40");
    w.write("p6.nix", "{ a = ; }");
    let file = std::fs::File::create(at("p7.nix")).expect("create");
    file.set_len(64 << 20).expect("a long file");
    w.write(
        "all.nix",
        "builtins.foldl' (sum: i: sum + import (./. + \"/p${toString i}.nix\") { }) 0 (builtins.genList (i: i + 8) 52 ++ [ 4 ])",
    );
    assert_eq!(eval(&w, &["all.nix"]).0, (1770 - 28 + 40).to_string());
    // What is wrong is said as ever, with its place.
    w.write("all.nix", "import ./p8.nix { } + import ./p6.nix { }");
    let run = w.sos(["eval", "all.nix"]).fails(3);
    assert!(run.stderr.contains("p6.nix:1:7"), "{}", run.stderr);
}
