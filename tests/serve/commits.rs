//! One OSTree repository of all commits: `ostree` pulls from it.

use std::path::Path;
use std::process::Command;

use super::Serving;
use crate::support::steps::ROOTFS;
use crate::support::{World, peer, run};

const RECIPE: &str = r##"{ sos, ... }: let
  edit = import ./rootfs.nix "rootfs-edit";
  tree = text: edit {
    name = "tree";
    files = [
      { path = "/etc/motd"; content = text; mode = "0640"; }
      { path = "/usr/bin/tool"; content = "#!/bin/sh\n"; mode = "4755"; }
    ];
  };
  commit = ref: text: more: sos.ostree ({ name = text; inherit ref; rootfs = tree text; epoch = 1700000000; } // more);
in rec {
  one = commit "os/main" "one" { version = "1"; };
  two = commit "os/main" "two" { version = "2"; parent = one; };
  fork = commit "os/main" "fork" { };
  other = commit "os/other" "other" { };
  bare = commit "os/main" "bare" { mode = "bare-user"; };
}
"##;

fn world() -> World {
    let w = World::new();
    w.write("sos.nix", RECIPE);
    w.write("rootfs.nix", ROOTFS);
    w
}

fn ostree(repo: &Path, args: &[&str]) -> Option<String> {
    let mut command = Command::new(peer("ostree")?);
    command.arg(format!("--repo={}", repo.display())).args(args);
    Some(run(&mut command).ok().stdout)
}

#[test]
fn ostree_pulls_and_mirrors_all_commits() {
    let w = world();
    let serving = Serving::start(&w, &[".#two", ".#other", ".#one"]);
    let url = format!("{}/ostree", serving.url);
    let repo = w.root().join("repo");
    if ostree(&repo, &["init", "--mode=archive"]).is_none() {
        return;
    }
    let own = |args: &[&str]| ostree(&repo, args).expect("installed");
    own(&["remote", "add", "--no-gpg-verify", "sos", &url]);
    own(&["pull", "sos", "os/main"]);
    own(&["fsck"]);
    assert_eq!(own(&["cat", "sos:os/main", "/etc/motd"]), "two");
    let listed = own(&["ls", "-X", "sos:os/main", "/usr/bin/tool"]);
    assert!(listed.starts_with("-04755 0 0"), "{listed}");
    let refs = own(&["remote", "refs", "sos"]);
    assert_eq!(refs, "sos:os/main\nsos:os/other\n");
    // The history of a commit is there too.
    own(&["pull", "--depth=-1", "sos", "os/main"]);
    assert_eq!(own(&["log", "sos:os/main"]).matches("\ncommit ").count(), 1);
    let copy = w.root().join("copy");
    let own = |args: &[&str]| ostree(&copy, args).expect("installed");
    own(&["init", "--mode=archive"]);
    own(&["remote", "add", "--no-gpg-verify", "sos", &url]);
    own(&["pull", "--mirror", "sos"]);
    own(&["fsck"]);
    assert_eq!(own(&["refs"]).lines().count(), 2);
    assert_eq!(own(&["cat", "os/other", "/etc/motd"]), "other");
    let summary = own(&["summary", "-v"]);
    assert!(
        summary.contains("os/main") && summary.contains("os/other"),
        "{summary}"
    );
}

#[test]
fn one_repository_is_served_as_it_is() {
    let w = world();
    w.sos(["export", ".#one", "ostree:out"]).ok();
    let serving = Serving::start(&w, &[".#one"]);
    let out = w.project().join("out");
    let mut objects = 0;
    for entry in walkdir::WalkDir::new(&out) {
        let entry = entry.expect("a file");
        let below = entry.path().strip_prefix(&out).expect("below it");
        if !entry.file_type().is_file() || below.starts_with("state") {
            continue;
        }
        let reply = serving
            .get(&format!("/ostree/{}", below.display()), &[])
            .is(200);
        let bytes = std::fs::read(entry.path()).expect("a file");
        assert!(reply.body == bytes, "{}", below.display());
        if below.starts_with("objects") {
            objects += 1;
            assert!(reply.head.contains("immutable"), "{}", reply.head);
        } else {
            assert!(!reply.head.contains("immutable"), "{}", reply.head);
        }
    }
    assert!(objects > 4, "{objects}");
    for absent in [
        "",
        "objects/00/11.commit",
        "refs/heads/os",
        "refs/heads/x",
        "objects",
        "tmp",
        "../config",
    ] {
        serving.get(&format!("/ostree/{absent}"), &[]).is(404);
    }
}

#[test]
fn two_commits_for_one_ref_are_refused() {
    let w = world();
    let serve = |args: &[&str]| {
        let all = [&["serve", "--listen", "127.0.0.1:0"], args].concat();
        w.sos(all)
    };
    serve(&[".#two", ".#fork"]).fails(2).says(&[
        "error[serve-ref-taken]",
        "`os/main`",
        "-two`",
        "-fork`",
        "help: ",
    ]);
    let both = Serving::start(&w, &[".#two", ".#other"]);
    let page = both.get("/", &[]).is(200).text();
    assert!(
        page.contains("os/main") && page.contains("os/other"),
        "{page}"
    );
    // A repository in another mode is nothing that can be pulled from.
    let serving = Serving::start(&w, &[".#bare"]);
    serving.get("/ostree/config", &[]).is(404);
    let said = serving.stop(rustix::process::Signal::TERM).ok();
    said.says(&["warning: ", "-bare` is a root filesystem", "mode `archive`"]);
}
