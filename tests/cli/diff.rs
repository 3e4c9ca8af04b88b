//! Two builds, outputs or images side by side.

use serde_json::Value;

use super::builds::{recipe, world_with_busybox};
use crate::support::{World, peer};

fn write(w: &World, version: &str, script: &str) {
    let dep = recipe(&format!("dep-{version}"), "echo $name > $out", "");
    let script = script.replace("BB", "/bin/busybox");
    let app = recipe(
        "app",
        &format!("/bin/busybox mkdir $out; echo $dep > $out/dep; {script}"),
        &format!("dep = {dep};"),
    );
    w.write("f.nix", &app);
}

#[test]
fn results_targets_and_builds_are_compared() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    write(
        &w,
        "1.0",
        "echo one > $out/text; echo gone > $out/gone; BB ln -s a $out/l",
    );
    let old = w.sos(["build", "f.nix", "-o", "old"]).ok();
    write(
        &w,
        "2.0",
        "echo two > $out/text; BB chmod +x $out/text; BB ln -s b $out/l",
    );
    w.sos(["diff", "old", "f.nix"])
        .fails(1)
        .says(&["diff-not-built", "sos build f.nix"]);
    w.sos(["build", "f.nix", "-o", "new"]).ok();
    let text = w.sos(["diff", "old", "new", "--files"]).ok().stdout;
    for part in [
        "closure: 1 change\n  dep: 1.0 -> 2.0\n",
        "  gone: removed\n",
        "  l: link to a -> b\n",
        "  text: content differs from byte 0 on, of 4; mode 0644 -> 0755, now executable\n",
        "-one\n+two\n",
        "variable dep: ",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    for (a, b) in [("old", "f.nix"), (old.stdout.trim(), "new"), ("1", "2")] {
        let json = w.sos(["diff", a, b, "--format", "json"]).ok().stdout;
        let json: Value = serde_json::from_str(&json).expect("json");
        let names: Vec<&str> = json["files"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|f| f["path"].as_str().expect("a path"))
            .collect();
        assert_eq!(names, ["dep", "gone", "l", "text"], "{a} {b}");
        assert_eq!(json["closure"][0]["new"], "2.0");
    }
    let page = w
        .sos(["diff", "old", "new", "--files", "--format", "html"])
        .ok();
    assert!(
        page.stdout.starts_with("<!doctype html>"),
        "{}",
        page.stdout
    );
    assert!(page.stdout.contains("<span class=\"add\">+two</span>"));
    let same = w.sos(["diff", "new", "new"]).ok().stdout;
    assert!(same.ends_with("files: equal\n"), "{same}");
}

#[test]
fn directories_and_their_programs_are_compared() {
    let w = World::new();
    w.write("a/bin/x", "text");
    w.write("b/bin/x", "te\u{0}t");
    w.write("b/var/lib/dpkg/status", "Package: hello\nStatus: install ok installed\nVersion: 2.10-3\nArchitecture: amd64\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n");
    let text = w.sos(["diff", "a", "b", "--files"]).ok().stdout;
    for part in [
        "packages: 1 change\n  hello: added, 2.10-3\n",
        "bin/x: content differs from byte 2 on, of 4\n",
        "-00000000  74 65 78 74",
        "+00000000  74 65 00 74",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    w.sos(["diff", "a", "nowhere"]).fails(3);
    w.sos(["diff", "a", "77"]).fails(1).says(&[
        "build-unknown",
        "no build 77",
        "nothing was built here yet",
    ]);
}

#[test]
fn images_of_other_programs_are_compared_layer_by_layer() {
    let Some(umoci) = peer("umoci") else {
        return;
    };
    let w = World::new();
    let layout = w.project().join("images");
    let run = |args: &[&str]| {
        let done = std::process::Command::new(&umoci)
            .args(args)
            .current_dir(w.project())
            .env("HOME", w.root().join("home"))
            .output()
            .expect("umoci runs");
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "umoci {args:?}: {errors}");
    };
    w.write("one", "first\n");
    w.write("two", "second\n");
    w.write("tree/in/it", "deep\n");
    run(&["init", "--layout", "images"]);
    run(&["new", "--image", "images:a"]);
    run(&[
        "insert",
        "--rootless",
        "--image",
        "images:a",
        "one",
        "/etc/name",
    ]);
    run(&[
        "insert",
        "--rootless",
        "--image",
        "images:a",
        "tree",
        "/srv",
    ]);
    run(&["tag", "--image", "images:a", "b"]);
    run(&[
        "insert",
        "--rootless",
        "--image",
        "images:b",
        "two",
        "/etc/name",
    ]);
    run(&[
        "insert",
        "--rootless",
        "--image",
        "images:b",
        "--whiteout",
        "/srv/in",
    ]);
    run(&[
        "config",
        "--image",
        "images:b",
        "--config.workingdir",
        "/srv",
    ]);
    let text = w
        .sos(["diff", "images:a", "images:b", "--files"])
        .ok()
        .stdout;
    for part in [
        "a  images:a (image)",
        "image configuration WorkingDir: ",
        "  etc/name: content differs from byte 0 on, 6 -> 7 bytes",
        "  srv/in: removed\n",
        "  srv/in/it: removed\n",
        "--- a/etc/name\n+++ b/etc/name\n@@ -1 +1 @@\n-first\n+second\n",
    ] {
        assert!(text.contains(part), "no `{part}` in:\n{text}");
    }
    w.sos(["diff", "images", "images:b"])
        .fails(1)
        .says(&["it has several images", "tags are: a, b"]);
    w.sos(["diff", "images:a", "images:none"])
        .fails(1)
        .says(&["no image of the tag `none`"]);
    // A layer that is not what its digest says.
    for entry in std::fs::read_dir(layout.join("blobs/sha256")).expect("blobs") {
        let path = entry.expect("a blob").path();
        let mut bytes = std::fs::read(&path).expect("a blob");
        if bytes.starts_with(&[0x1f, 0x8b]) {
            bytes.push(0);
            std::fs::remove_file(&path).expect("a blob");
            std::fs::write(&path, bytes).expect("a blob");
        }
    }
    w.sos(["diff", "images:a", "images:b"])
        .fails(1)
        .says(&["oci-bad-layout", "has other bytes than its digest says"]);
}

#[test]
fn a_build_without_a_result_is_told_from_one_that_is_unknown() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("app", "echo x > $out", ""));
    w.sos(["build", "--no-link", "f.nix"]).ok();
    w.sos(["diff", "1", "99"]).fails(1).says(&[
        "error[build-unknown]: there is no build 99 in the journal",
        "the newest is build 1",
        "help: `sos builds`",
    ]);
    w.write("f.nix", &recipe("app", "exit 1", ""));
    w.sos(["build", "--no-link", "f.nix"]).fails(100);
    w.sos(["diff", "1", "2"]).fails(1).says(&[
        "error[diff-no-result]: build 2 gave nothing: it failed",
        "help: `sos builds 2`",
    ]);
}
