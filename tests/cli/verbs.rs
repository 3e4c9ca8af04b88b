//! What holds for every verb, and the small ones.

use super::builds::{recipe, world_with_busybox};
use crate::support::{World, peer, skip};

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
        "parse",
        "lock",
        "log",
        "plan",
        "store",
        "gc",
        "serve",
        "doctor",
        "explain",
        "init",
        "completions",
    ] {
        assert!(
            help.contains(&format!("\n  {verb} ")),
            "`sos --help` names {verb}"
        );
        assert!(
            w.sos([verb, "--help"]).ok().stdout.contains("Usage:"),
            "{verb}"
        );
    }
}

#[test]
fn completions_name_the_verbs() {
    let w = World::new();
    for shell in ["bash", "zsh", "fish", "nushell"] {
        assert!(
            w.sos(["completions", shell]).ok().stdout.contains("doctor"),
            "{shell}"
        );
    }
}

#[test]
fn a_code_is_explained_as_it_is_copied() {
    let w = World::new();
    for code in ["env-disk-full", "error[env-disk-full]:", "[env-disk-full]"] {
        let told = w.sos(["explain", code]).ok().stdout;
        assert!(
            told.starts_with("env-disk-full: ")
                && told.contains("\ncause: ")
                && told.contains("\nhelp: "),
            "{told}"
        );
    }
    assert!(w.sos(["explain"]).ok().stdout.contains("\nbuild-timeout  "));
    w.sos(["explain", "env-disk-ful"])
        .fails(2)
        .says(&["explain-unknown", "env-disk-full"]);
}

#[test]
fn every_verb_has_a_manual_page_that_man_accepts() {
    let w = World::new();
    w.sos(["man", "--out", "pages"]).ok();
    let pages: Vec<_> = std::fs::read_dir(w.project().join("pages"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    for name in ["sos.1", "sos-build.1", "sos-store-ls.1", "sos-explain.1"] {
        assert!(pages.iter().any(|p| p.ends_with(name)), "{name}: {pages:?}");
    }
    let one = w.sos(["man", "store", "ls"]).ok().stdout;
    assert!(one.contains(".TH sos-store-ls 1"), "{one}");
    w.sos(["man", "stroe"])
        .fails(2)
        .says(&["man-unknown", "store"]);
    // What formats pages for people says nothing about them.
    let Some(groff) = peer("groff") else {
        return skip("groff is not installed");
    };
    for page in pages {
        let out = std::process::Command::new(&groff)
            .args(["-man", "-Tutf8", "-wall", "-z"])
            .arg(&page)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success() && said.is_empty(), "{page:?}: {said}");
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
    let mut w = World::new();
    let archive = w.root().join("mirror");
    std::fs::create_dir(&archive).expect("a directory");
    w.set(
        "SOS_MIRRORS_DEBIAN",
        &format!("file://{}", archive.display()),
    );
    w.set("SOS_MIRRORS_OTHER", "http://127.0.0.1:9/other");
    let run = w.sos(["doctor"]);
    assert!(run.code == 0 || run.code == 4, "{run:?}");
    assert!(run.stdout.contains("there is none yet"), "{}", run.stdout);
    assert!(!w.store().exists(), "doctor makes no store");
    w.sos(["store", "ls"]).ok();
    let run = w.sos(["doctor"]);
    let line = |name: &str| {
        let found = run
            .stdout
            .lines()
            .find(|l| l[6..].trim_start().starts_with(name));
        found.unwrap_or_else(|| panic!("no `{name}`:\n{}", run.stdout))
    };
    for name in [
        "user-namespaces",
        "free-space",
        "free-inodes",
        "clock",
        "database",
        "locks",
        "reflink",
    ] {
        line(name);
    }
    assert!(line("mirror debian").contains("answers, and has no suite"));
    assert!(line("mirror other").starts_with("warn"));
}

#[test]
fn doctor_checks_the_signature_of_a_mirror() {
    let mut w = World::new();
    let archive = w.root().join("mirror");
    let release = archive.join("dists/stable/InRelease");
    std::fs::create_dir_all(release.parent().expect("a parent")).expect("directories");
    w.set(
        "SOS_MIRRORS_DEBIAN",
        &format!("file://{}", archive.display()),
    );
    let stranger = crate::support::archive::Signer::new("stranger");
    let signed = stranger.sign("Origin: Test\nSuite: stable\n");
    for (text, why) in [
        (
            signed.as_str(),
            "is not signed by a key known here: signed by ",
        ),
        ("Origin: Test\n", "is not a signed release file"),
    ] {
        std::fs::write(&release, text).expect("a release file");
        let out = w.sos(["doctor"]).stdout;
        let mut lines = out.lines().skip_while(|l| !l.contains("mirror debian"));
        let line = lines.next().expect("the mirror");
        assert!(line.starts_with("warn") && line.contains(why), "{line}");
        assert!(lines.next().expect("a way out").contains("`keyring`"));
    }
}

#[test]
fn a_defect_of_sos_ends_with_70_and_leaves_a_report() {
    let w = World::new();
    let run = w
        .sos(["__panic"])
        .fails(70)
        .says(&["error[bug-panic]", "a trial"]);
    let report = run
        .stderr
        .split('`')
        .nth(1)
        .expect("the place of the report");
    let text = std::fs::read_to_string(report).expect("the report");
    assert!(
        text.contains("a trial") && text.contains("cli/bug.rs"),
        "{text}"
    );
}

#[test]
fn what_cannot_be_added_is_no_fault_of_a_recipe_or_of_the_machine() {
    let w = World::new();
    w.sos(["store", "add", "nope"])
        .fails(1)
        .says(&["error[store-no-file]", "nope"]);
    std::fs::create_dir(w.project().join("d")).expect("a directory");
    rustix::fs::mknodat(
        rustix::fs::CWD,
        w.project().join("d/pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .expect("a pipe");
    for what in ["d/pipe", "d"] {
        w.sos(["store", "add", what])
            .fails(1)
            .says(&["error[store-special-file]", "d/pipe"]);
    }
    assert_eq!(w.sos(["store", "ls"]).ok().stdout, "");
}

#[test]
fn settings_of_the_display_are_checked_and_used() {
    let mut w = World::new();
    w.sos(["--config", "jobs=3", "store", "ls"])
        .fails(2)
        .says(&["`jobs`", "`build.jobs`"]);
    w.sos(["--config", "build.jobs=many", "store", "ls"])
        .fails(2)
        .says(&["expected a whole number"]);
    w.sos(["--config", "color=allways", "store", "ls"])
        .fails(2)
        .says(&["`color`", "auto, always, never", "did you mean `always`"]);
    let colored = |run: crate::support::Run| run.stderr.contains('\u{1b}');
    assert!(colored(w.sos([
        "--config",
        "color=always",
        "build",
        "nope"
    ])));
    assert!(!colored(w.sos(["build", "nope"])));
    w.write("sos.toml", "color = \"always\"\n");
    assert!(colored(w.sos(["build", "nope"])));
    assert!(!colored(w.sos(["--color", "never", "build", "nope"])));
    let settings = w.sos(["doctor", "config"]).ok().stdout;
    assert!(settings.contains("color "), "{settings}");
    w.set("SOS_PROGRESS", "bogus");
    w.sos(["store", "ls"])
        .fails(2)
        .says(&["SOS_PROGRESS", "bogus", "plain"]);
}

#[test]
fn links_to_results_name_them() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("thing", "echo hello > $out", ""));
    let path = w.sos(["build", "f.nix", "-o", "kept"]).ok().stdout;
    let same = w.sos(["store", "info", "kept", "--json"]).ok().stdout;
    assert!(same.contains(path.trim()), "{same}");
    assert_eq!(w.sos(["store", "cat", "kept"]).ok().stdout, "hello\n");
}
