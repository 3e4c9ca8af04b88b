//! What holds for every verb, and the small ones.

use crate::support::World;

#[test]
fn an_unknown_verb_suggests_the_nearest() {
    let w = World::new();
    w.sos(["biuld"]).fails(2).says(&["build"]);
    w.sos(["build", "--jbos", "1"]).fails(2);
}

#[test]
fn every_verb_has_help_and_an_example_of_use() {
    let w = World::new();
    let help = w.sos(["--help"]).ok().stdout;
    for verb in [
        "build",
        "check",
        "eval",
        "lock",
        "log",
        "plan",
        "store",
        "gc",
        "doctor",
        "init",
        "completions",
    ] {
        assert!(help.contains(verb), "`sos --help` names {verb}");
        assert!(
            w.sos([verb, "--help"]).ok().stdout.contains("Usage:"),
            "{verb}"
        );
    }
}

#[test]
fn completions_name_the_verbs() {
    let w = World::new();
    for shell in ["bash", "zsh", "fish"] {
        assert!(
            w.sos(["completions", shell]).ok().stdout.contains("doctor"),
            "{shell}"
        );
    }
}

#[test]
fn init_makes_a_project_that_checks() {
    let w = World::new();
    w.sos(["init", "fresh", "--template", "nix"]).ok();
    w.sos(["check", "fresh"]).ok();
    w.sos(["init", "fresh", "--template", "nix"])
        .fails(1)
        .says(&["sos.nix"]);
}

#[test]
fn a_missing_recipe_is_named() {
    let w = World::new();
    w.sos(["build", "nowhere"])
        .fails(3)
        .says(&["error[target-not-found]", "nowhere"]);
    w.sos(["build"])
        .fails(3)
        .says(&["error[target-not-found]", "sos init"]);
}

#[test]
fn configuration_errors_have_a_place_and_leave_nothing() {
    let w = World::new();
    w.write("sos.toml", "[build]\njbos = 3\n");
    w.sos(["store", "ls"])
        .fails(2)
        .says(&["error[config-invalid]", "sos.toml:2:1", "jobs"]);
    assert!(!w.store().exists(), "no store was made");
}

#[test]
fn the_store_takes_lists_shows_and_frees() {
    let w = World::new();
    w.write("tree/a", "hello\n");
    let path = w
        .sos(["store", "add", "tree"])
        .ok()
        .stdout
        .trim()
        .to_owned();
    assert!(
        path.starts_with("/nix/store/") && path.ends_with("-tree"),
        "{path}"
    );
    assert_eq!(w.sos(["store", "add", "tree"]).ok().stdout.trim(), path);
    assert!(w.sos(["store", "ls"]).ok().stdout.contains(&path));
    assert!(w.sos(["store", "ls", &path]).ok().stdout.contains('a'));
    assert_eq!(
        w.sos(["store", "cat", &format!("{path}/a")]).ok().stdout,
        "hello\n"
    );
    assert!(
        w.sos(["store", "info", "--json", &path])
            .ok()
            .stdout
            .contains("narHash")
    );
    w.sos(["store", "check"]).ok();
    let dry = w.sos(["gc", "-n"]).ok();
    assert!(
        dry.stderr.contains('1') || dry.stdout.contains('1'),
        "{dry:?}"
    );
    w.sos(["store", "info", &path]).ok();
    w.sos(["gc"]).ok();
    w.sos(["store", "info", &path]).fails(1);
}

#[test]
fn doctor_examines_this_machine() {
    let w = World::new();
    let run = w.sos(["doctor"]);
    assert!(run.code == 0 || run.code == 4, "{run:?}");
    assert!(run.stdout.contains("namespaces"), "{}", run.stdout);
}
