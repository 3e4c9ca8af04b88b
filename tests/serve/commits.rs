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

/// Signed commits, a signed summary and static deltas, from an export on to a client that verifies all of it: through `sos serve`,
/// and by `file://`.
#[test]
fn signed_deltas_of_an_export_are_verified_by_ostree() {
    let w = world();
    let Some(keys) = Keys::new(&w) else { return };
    let signed = ["--sign-gpg", "signer.secret"];
    let export = |target: &str, more: &[&str]| {
        w.sos([&["export", target, "ostree:out"], &signed[..], more].concat())
            .ok();
    };
    let out = w.project().join("out");
    let tip = || ostree(&out, &["rev-parse", "os/main"]);
    export(".#one", &["--deltas"]);
    let Some(one) = tip() else { return };
    export(".#two", &["--deltas"]);
    let two = tip().expect("installed");
    let serving = Serving::start(&w, &["--repository", "out"]);
    for (number, url) in [
        format!("{}/ostree", serving.url),
        format!("file://{}", out.display()),
    ]
    .into_iter()
    .enumerate()
    {
        let client = |name: &str, key: &str| {
            let repo = w.root().join(format!("{name}-{number}"));
            let own = |args: &[&str]| ostree(&repo, args).expect("installed");
            // One that keeps archives takes no deltas.
            own(&["init", "--mode=bare-user"]);
            own(&[
                "remote",
                "add",
                &format!("--gpg-import={}", w.project().join(key).display()),
                "--set=gpg-verify-summary=true",
                "sos",
                &url,
            ]);
            repo
        };
        // From nothing, and from the one before, by deltas alone.
        for (name, before) in [("new", None), ("old", Some(&one))] {
            let repo = client(name, "signer");
            let own = |args: &[&str]| ostree(&repo, args).expect("installed");
            if let Some(before) = before {
                own(&["pull", "sos", &format!("os/main@{}", before.trim())]);
            }
            own(&["pull", "--require-static-deltas", "sos", "os/main"]);
            own(&["fsck"]);
            assert_eq!(own(&["rev-parse", "sos:os/main"]), two);
            assert_eq!(own(&["cat", "sos:os/main", "/etc/motd"]), "two");
            let shown = own(&["show", "sos:os/main"]);
            assert!(shown.contains("Good signature"), "{shown}");
        }
        // Who knows another key takes nothing.
        let repo = client("other", "other");
        let mut pull = Command::new(&keys.ostree);
        pull.arg(format!("--repo={}", repo.display()));
        let refused = run(pull.args(["pull", "sos", "os/main"]));
        assert_ne!(refused.code, 0, "{}", refused.stdout);
        assert!(refused.stderr.contains("ignature"), "{}", refused.stderr);
    }
    // What is not for others stays where it is.
    std::fs::write(out.join("state/secret"), "x").expect("written");
    for absent in [
        "state/secret",
        "objects/../state/secret",
        "tmp",
        ".lock",
        "",
    ] {
        serving.get(&format!("/ostree/{absent}"), &[]).is(404);
    }
    let config = serving.get("/ostree/config", &[]).is(200).text();
    assert!(config.contains("mode=archive-z2"), "{config}");
    serving
        .stop(rustix::process::Signal::TERM)
        .ok()
        .says(&["ref    os/main  in http://"]);
    let refused = |args: &[&str], parts: &[&str]| {
        w.sos([&["serve", "--listen", "127.0.0.1:0"], args].concat())
            .fails(2)
            .says(parts);
    };
    refused(
        &["--repository", "out", ".#other"],
        &["error[serve-repository-alone]"],
    );
    refused(&["--repository", "."], &["error[serve-no-repository]"]);
    w.sos(["export", ".#bare", "ostree:bare"]).ok();
    refused(
        &["--repository", "bare"],
        &["error[serve-no-repository]", "`bare-user`"],
    );
}

/// Two keys of OpenPGP, `signer` and `other`, each with its `.secret` beside it.
struct Keys {
    ostree: std::path::PathBuf,
}

impl Keys {
    fn new(w: &World) -> Option<Self> {
        let (gpg, ostree) = (peer("gpg")?, peer("ostree")?);
        // The socket of its agent has a short limit for its path.
        let home = tempfile::tempdir().expect("a directory");
        let with = |args: &[&str]| {
            let mut command = Command::new(&gpg);
            command.arg("--homedir").arg(home.path());
            run(command.args(["--batch", "--yes"]).args(args)).ok();
        };
        for name in ["signer", "other"] {
            let id = format!("{name}@example.org");
            let file = |ending: &str| w.project().join(format!("{name}{ending}"));
            let (public, secret) = (file(""), file(".secret"));
            let output = |path: &Path| path.display().to_string();
            with(&[
                "--passphrase",
                "",
                "--quick-gen-key",
                &id,
                "rsa2048",
                "sign",
                "never",
            ]);
            with(&["--output", &output(&public), "--export", &id]);
            with(&["--output", &output(&secret), "--export-secret-keys", &id]);
        }
        Some(Self { ostree })
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
