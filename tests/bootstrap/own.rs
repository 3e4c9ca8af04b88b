//! This repository's own tree of steps, built from a real mirror: it takes minutes, and is for the rounds that do.

use std::path::Path;
use std::process::Command;

use super::small::content;
use crate::support::user::User;
use crate::support::{Run, World, one_at_a_time, peer, run, say, skip, slow, steps};

/// The tree as git has it.
fn copy(w: &World) {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for dir in ["steps", "seeds"] {
        run(Command::new("cp")
            .arg("-a")
            .arg(here.join(dir))
            .arg(w.project()))
        .ok();
    }
}

/// The tree in a project, when there is time for it, and what it needs.
fn world() -> Option<World> {
    if !slow() {
        say("skipped: our own tree takes minutes; SOS_TEST_SLOW=1 builds it");
        return None;
    }
    let mut w = World::new();
    steps::possible(&w)?;
    if let Ok(value) = std::env::var("SOS_MIRRORS_DEBIAN") {
        w.set("SOS_MIRRORS_DEBIAN", &value);
    }
    copy(&w);
    Some(w)
}

/// The path that the first build printed, unless nothing could be fetched.
#[track_caller]
fn root_of(first: Run) -> Option<String> {
    if [4, 5].contains(&first.code) && first.stderr.contains("mirror") {
        skip(&format!(
            "mirror://debian cannot be reached: {}",
            first.stderr
        ));
        return None;
    }
    Some(first.ok().stdout.trim().to_owned())
}

#[test]
fn our_own_tree_ends_in_a_root_of_its_own() {
    let _alone = one_at_a_time();
    let Some(w) = world() else { return };
    let first = w.sos(["build", "--no-link", "steps#rootfs"]);
    let Some(root) = root_of(first) else { return };
    w.sos(["recipe", "pins", "steps"]).ok();
    assert!(content(&w, &root, "etc/bootstrap-packages").contains("tcc-0.9.27_2.tar.bz2"));

    // The tarball is what tar says it is: nothing of the libc of the seed, and every program stands alone.
    let (Some(tar), Some(readelf)) = (peer("tar"), peer("readelf")) else {
        return;
    };
    let tarball = w
        .sos(["build", "--no-link", "steps#rootfs.tar"])
        .ok()
        .stdout;
    let out = w.root().join("out");
    std::fs::create_dir(&out).expect("a directory");
    run(Command::new(tar)
        .arg("-xzf")
        .arg(w.physical(tarball.trim()))
        .arg("-C")
        .arg(&out))
    .ok();
    let mut programs = 0;
    for entry in walkdir::WalkDir::new(&out).into_iter().flatten() {
        let name = entry.file_name().to_string_lossy();
        assert!(
            !name.starts_with("ld-linux") && !name.starts_with("libc.so"),
            "{}",
            entry.path().display()
        );
        let in_bin = entry.path().parent().is_some_and(|p| p.ends_with("bin"));
        let begins = entry.file_type().is_file()
            && std::fs::read(entry.path()).is_ok_and(|b| b.starts_with(b"\x7fELF"));
        if in_bin && begins {
            let headers = run(Command::new(&readelf).arg("-lW").arg(entry.path())).ok();
            assert!(
                !headers.stdout.contains("INTERP"),
                "{}",
                entry.path().display()
            );
            programs += 1;
        }
    }
    assert!(programs > 8, "{programs}");
    for image in ["oci", "ostree"] {
        w.sos(["build", "--no-link", &format!("steps#rootfs.{image}")])
            .ok();
    }
}

#[test]
fn an_ordinary_user_builds_our_own_tree() {
    let _alone = one_at_a_time();
    let Some(mut w) = world() else { return };
    let Some(user) = User::new("own", true) else {
        return;
    };
    let _program = w.with_program_for(&user);
    let as_user = |words: &[&str]| run(user.becomes(&mut w.command_of(words)));
    let store = w.root().join("home/of-user").display().to_string();
    let first = as_user(&["--store", &store, "build", "--no-link", "steps#rootfs"]);
    let Some(root) = root_of(first) else { return };
    // Every package of it is byte for byte what the pins say, which root has made.
    let pins = as_user(&["--store", &store, "recipe", "pins", "steps"]).ok();
    assert!(
        pins.stdout.contains("equal      package"),
        "{}",
        pins.stdout
    );
    let list = format!("{root}/etc/bootstrap-packages");
    let list = as_user(&["--store", &store, "store", "cat", &list]).ok();
    assert!(
        list.stdout.contains("tcc-0.9.27_2.tar.bz2"),
        "{}",
        list.stdout
    );
    as_user(&["--store", &store, "store", "check"]).ok();
}

#[test]
fn less_is_built_when_less_is_asked_for() {
    let w = World::new();
    copy(&w);
    let shown = |set: &str| {
        w.sos(["recipe", "show", "--shell", "--set", set])
            .ok()
            .stdout
    };
    let all = shown("PROFILE=full");
    assert!(
        all.contains("build     flex-2.6.4 pass 1 -> flex-2.6.4_0.tar.bz2"),
        "{all}"
    );
    for gone in ["uninstall flex-2.6.4", "uninstall m4-1.4.19"] {
        assert!(all.contains(gone), "{all}");
    }
    assert!(!all.contains("no pin"), "{all}");
    assert_eq!(all.lines().count(), 19, "{all}");
    let small = shown("PROFILE=small");
    assert!(!small.contains("flex") && !small.contains("m4-"), "{small}");
    assert_eq!(small.lines().count(), 15, "{small}");
    let without = shown("LEXER=False");
    assert!(
        !without.contains("flex") && without.contains("uninstall m4-"),
        "{without}"
    );
    let kept = shown("KEEP_LEXER=True");
    assert!(!kept.contains("uninstall"), "{kept}");
}
