//! `sos export`: results as other programs take them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::support::steps::ROOTFS;
use crate::support::{World, is_root, peer, run as run_command};

const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
in rec {
  first = edit {
    name = "first";
    files = [
      { path = "/etc/motd"; content = "hello\n"; mode = "0640"; }
      { path = "/usr/bin/tool"; content = "#!/bin/sh\n"; mode = "4755"; }
    ];
  };
  second = edit {
    name = "second";
    rootfs = "${first}";
    epoch = 1700000001;
    files = [ { path = "/etc/motd"; content = "goodbye\n"; } ];
  };
  one = sos.ostree { name = "one"; ref = "os/main"; rootfs = first; epoch = 1700000000; version = "1"; subject = "first"; };
  two = sos.ostree { name = "two"; ref = "os/main"; rootfs = second; epoch = 1700000001; version = "2"; subject = "second"; parent = one; };
  bare = sos.ostree { name = "bare"; rootfs = first; mode = "bare-user"; };
  tree = sos.ociLayer { rootfs = first; epoch = 1700000000; };
}
"##;

fn world() -> World {
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    w
}

fn ostree(repo: &Path, args: &[&str]) -> Option<String> {
    let mut command = std::process::Command::new(peer("ostree")?);
    command.arg(format!("--repo={}", repo.display())).args(args);
    Some(run_command(&mut command).ok().stdout)
}

#[test]
fn commits_go_into_a_repository_one_after_the_other() {
    let w = world();
    let repo = w.project().join("repo");
    let first = w.sos(["export", ".#one", "ostree:repo"]).ok().stdout;
    let commit = first
        .split_whitespace()
        .next()
        .expect("a commit")
        .to_owned();
    assert_eq!(first, format!("{commit} os/main\n"));
    // What is there is not written again.
    w.sos(["export", ".#one", "ostree:repo"])
        .ok()
        .says(&["wrote 0 objects"]);
    let second = w
        .sos(["export", ".#two", "ostree:repo:os/next"])
        .ok()
        .stdout;
    assert!(second.ends_with(" os/next\n"), "{second}");
    if ostree(&repo, &["fsck"]).is_none() {
        return;
    }
    let refs = ostree(&repo, &["refs"]).expect("installed");
    let mut refs: Vec<&str> = refs.lines().collect();
    refs.sort_unstable();
    assert_eq!(refs, ["os/main", "os/next"]);
    let log = ostree(&repo, &["log", "os/next"]).expect("installed");
    assert!(log.contains(&format!("\ncommit {commit}\n")), "{log}");
    let summary = ostree(&repo, &["summary", "-v"]).expect("installed");
    assert!(
        summary.contains("os/main") && summary.contains("os/next"),
        "{summary}"
    );
    let motd = ostree(&repo, &["cat", "os/next", "/etc/motd"]).expect("installed");
    assert_eq!(motd, "goodbye\n");
}

#[test]
fn what_does_not_fit_is_refused_and_leaves_nothing() {
    let w = world();
    w.sos(["export", ".#one", "ostree:repo"]).ok();
    w.sos(["export", ".#bare", "ostree:repo"]).fails(2).says(&[
        "error[export-repository-mode]",
        "`archive`",
        "`bare-user`",
    ]);
    w.write("other/file", "");
    w.sos(["export", ".#one", "ostree:other"])
        .fails(2)
        .says(&["error[export-not-a-repository]"]);
    w.sos(["export", ".#first", "ostree:new"])
        .fails(2)
        .says(&["error[export-no-commit]", "`sos.ostree"]);
    w.sos(["export", ".#tree", "ostree:new"])
        .fails(2)
        .says(&["error[export-no-commit]"]);
    w.sos(["export", ".#one", "ostree:new:a b"])
        .fails(2)
        .says(&["error[export-destination]", "`a b` is not a ref"]);
    w.sos(["export", ".#one", "tape:x"])
        .fails(2)
        .says(&["error[export-destination]", "`dir:DIR`"]);
    w.sos(["export", ".#one", "dir:other"])
        .fails(2)
        .says(&["error[export-exists]"]);
    assert!(!w.project().join("new").exists());
}

#[test]
fn a_root_filesystem_becomes_a_directory() {
    let w = world();
    let told = w.sos(["export", ".#first", "dir:out"]).ok();
    let mode = |path: &str| {
        let meta = std::fs::metadata(w.project().join("out").join(path)).expect("a file");
        meta.permissions().mode() & 0o7777
    };
    assert_eq!(mode("etc/motd"), 0o640);
    if is_root() {
        assert_eq!(mode("usr/bin/tool"), 0o4755);
    } else {
        assert_eq!(mode("usr/bin/tool"), 0o755);
        told.says(&["without the rights of 1 program"]);
    }
    w.sos(["export", ".#tree", "dir:layer"]).ok();
    let text = std::fs::read_to_string(w.project().join("layer/layer.json")).expect("a file");
    assert!(text.contains("mediaType"), "{text}");
}
