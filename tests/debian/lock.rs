//! `sos.lock`: written by the first build, kept by the others, moved only on request.

use std::path::Path;

use super::{FILE, nothing_happened, with_recipe};
use crate::support::archive::Package;
use crate::support::tiny::recipe;

fn read(project: &Path) -> String {
    std::fs::read_to_string(project.join("sos.lock")).expect("a lock beside the recipe")
}

#[test]
fn the_first_build_writes_the_lock_beside_the_recipe_and_says_so() {
    let Some(tiny) = with_recipe(&[]) else { return };
    let w = &tiny.world;
    w.write("deep/keys/archive.asc", &tiny.signer.public());
    w.write("deep/x.rootfs.toml", &recipe(&["greeter"], ""));
    w.sos(["build", "--no-link", "deep/x.rootfs.toml"])
        .ok()
        .says(&["wrote deep/sos.lock", "x.rootfs.toml: 3 packages pinned"]);
    assert!(!w.project().join("sos.lock").exists());
    let lock = read(&w.project().join("deep"));
    for part in [
        "version = 1",
        "recipe = \"x.rootfs.toml\"",
        "name = \"greeter\"",
        "version = \"1.5-2\"",
        "uri = \"mirror://debian\"",
        &tiny.signer.fingerprint(),
    ] {
        assert!(lock.contains(part), "no `{part}` in\n{lock}");
    }
    // A second run changes nothing, not even the time of the file, and says nothing of it.
    let before = std::fs::metadata(w.project().join("deep/sos.lock"))
        .expect("the lock")
        .modified()
        .expect("a time");
    let again = w.sos(["build", "--no-link", "deep/x.rootfs.toml"]).ok();
    assert!(!again.stderr.contains("sos.lock"), "{}", again.stderr);
    assert_eq!(read(&w.project().join("deep")), lock);
    assert_eq!(
        std::fs::metadata(w.project().join("deep/sos.lock"))
            .expect("the lock")
            .modified()
            .expect("a time"),
        before
    );
    w.sos(["build", "--no-link", "--locked", "deep/x.rootfs.toml"])
        .ok();
}

#[test]
fn locking_again_gives_the_same_bytes() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let w = &tiny.world;
    w.sos(["lock", FILE]).ok().says(&["wrote sos.lock"]);
    let lock = read(&w.project());
    w.sos(["lock", FILE]).ok().says(&["up to date"]);
    w.sos(["lock", FILE, "--update"]).ok().says(&["up to date"]);
    assert_eq!(read(&w.project()), lock);
    std::fs::remove_file(w.project().join("sos.lock")).expect("the lock");
    w.sos(["lock", FILE]).ok();
    assert_eq!(read(&w.project()), lock);
    // `sos lock` builds nothing.
    assert!(!w.sos(["store", "ls"]).ok().stdout.contains("-rootfs"));
}

#[test]
fn locked_refuses_where_there_is_no_lock_and_where_it_is_stale() {
    let Some(tiny) = with_recipe(&[]) else { return };
    let w = &tiny.world;
    w.sos(["build", "--locked", FILE])
        .fails(3)
        .says(&["error[lock-missing]", "sos lock"]);
    nothing_happened(w);
    w.sos(["lock", FILE]).ok();
    let lock = read(&w.project());
    w.write(FILE, &recipe(&["greeter"], ""));
    w.sos(["build", "--locked", FILE])
        .fails(3)
        .says(&["error[lock-stale]", FILE, "sos lock"]);
    assert_eq!(read(&w.project()), lock);
    // Without the flag, the recipe is what counts.
    w.sos(["build", "--no-link", FILE]).ok().says(&[
        "changed sos.lock",
        "+ greeter 1.5-2",
        "+ greeter-data 2:1.0~rc1+b2",
    ]);
    assert!(read(&w.project()).contains("name = \"greeter\""));
    w.sos(["build", "--no-link", "--locked", FILE]).ok();
}

#[test]
fn what_does_not_choose_packages_needs_no_new_lock() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let w = &tiny.world;
    w.sos(["lock", FILE]).ok();
    w.write(
        FILE,
        &recipe(
            &["greeter"],
            "hostname = \"other\"\n[[user]]\nname = \"deploy\"\nuid = 1000\n",
        ),
    );
    w.sos(["build", "--no-link", "--locked", FILE]).ok();
}

#[test]
fn an_archive_that_moved_on_changes_the_lock_only_on_request() {
    let Some(mut tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    tiny.world.sos(["build", "--no-link", FILE]).ok();
    let lock = read(&tiny.world.project());
    tiny.archive.add(
        &Package::new("greeter", "1.6-1")
            .field("Depends", "greeter-words")
            .file("usr/bin/greeter", 0o755, "#!/bin/sh\necho new\n"),
    );
    tiny.archive
        .add(&Package::new("greeter-words", "3").file("usr/share/words", 0o644, "hello\n"));
    tiny.publish();
    let w = &tiny.world;
    w.sos(["build", "--no-link", FILE]).ok().says(&["built 0"]);
    assert_eq!(read(&w.project()), lock);
    w.sos(["lock", FILE, "--update"]).ok().says(&[
        "changed sos.lock",
        "~ greeter 1.5-2 -> 1.6-1",
        "+ greeter-words 3",
        "- greeter-data 2:1.0~rc1+b2",
        "1 added, 1 removed, 1 changed",
    ]);
    let path = w
        .sos(["build", "--no-link", "--locked", FILE])
        .ok()
        .stdout
        .trim()
        .to_owned();
    assert_eq!(
        w.sos(["store", "cat", &format!("{path}/usr/bin/greeter")])
            .ok()
            .stdout,
        "#!/bin/sh\necho new\n"
    );
}

#[test]
fn one_recipe_of_two_is_updated_by_name() {
    let Some(mut tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    tiny.world.write(
        "other.rootfs.toml",
        &recipe(&["greeter"], "").replace("name = \"tiny\"", "name = \"other\""),
    );
    let nix = "{ sos, ... }: { a = sos.debian.rootfs ./tiny.rootfs.toml; b = sos.debian.rootfs ./other.rootfs.toml; }";
    tiny.world.write("sos.nix", nix);
    tiny.world.sos(["lock"]).ok().says(&[
        "tiny.rootfs.toml: 3 packages",
        "other.rootfs.toml: 3 packages",
    ]);
    tiny.archive.add(&Package::new("greeter-data", "3:1").file(
        "usr/share/greeter/text",
        0o644,
        "hello\n",
    ));
    tiny.publish();
    let run = tiny
        .world
        .sos(["lock", ".", "--update", "other.rootfs.toml"])
        .ok()
        .says(&["other.rootfs.toml", "~ greeter-data 2:1.0~rc1+b2 -> 3:1"]);
    assert!(!run.stderr.contains("tiny.rootfs.toml"), "{}", run.stderr);
}

#[test]
fn a_damaged_lock_is_an_error_with_a_place() {
    let Some(tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    let w = &tiny.world;
    w.sos(["lock", FILE]).ok();
    let text = read(&w.project()).replace("version = \"1.5-2\"", "version = 1.5-2");
    w.write("sos.lock", &text);
    w.sos(["build", FILE])
        .fails(3)
        .says(&["error[lock-damaged]", "sos.lock:", "sos lock"]);
    assert_eq!(
        read(&w.project()),
        text,
        "a damaged lock is not overwritten"
    );
}

#[test]
fn check_and_plan_write_no_lock_and_ask_no_mirror() {
    let Some(mut tiny) = with_recipe(&["greeter"]) else {
        return;
    };
    tiny.world.set("SOS_MIRRORS_DEBIAN", "http://127.0.0.1:9");
    tiny.world.sos(["check", FILE]).ok();
    nothing_happened(&tiny.world);
}
