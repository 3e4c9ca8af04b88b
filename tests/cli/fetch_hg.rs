//! `fetchMercurial` and flakes in Mercurial repositories: the same answers as Nix, and what is said of bad ones.

use std::path::Path;
use std::process::Command;

use super::eval_cache::{eval, grow_old, settled, world};
use super::flakes::nix;
use crate::support::{World, left_nothing, peer, run, store_is_clean};

/// Runs hg as somebody with a name and a date, on the repository in `r`.
#[track_caller]
fn hg(w: &World, args: &[&str]) -> String {
    run(Command::new("hg")
        .args(args)
        .current_dir(w.project().join("r"))
        .env("HGRCPATH", "")
        .env("HGPLAIN", "1")
        .env("HGUSER", "n"))
    .ok()
    .stdout
    .trim()
    .to_owned()
}

#[track_caller]
fn commit(w: &World) -> String {
    hg(
        w,
        &["commit", "--message", "change", "--date", "1704164645 0"],
    );
    hg(w, &["log", "--rev", ".", "--template", "{node}"])
}

/// A repository with two revisions on `default`, one tagged `v1`, and one on the branch `feat-1`. Gives the ids of the first and the last.
fn repository(w: &World) -> Option<(String, String)> {
    peer("hg")?;
    w.write("r/a", "1\n");
    w.write("r/dir/run", "#!/bin/sh\n");
    w.write("r/eol", "a\r\nb\n");
    std::os::unix::fs::symlink("a", w.project().join("r/l")).expect("a link");
    run(Command::new("chmod")
        .arg("+x")
        .arg(w.project().join("r/dir/run")))
    .ok();
    hg(w, &["init"]);
    // What the repository wants to be run or changed does not count.
    w.write(
        "r/.hg/hgrc",
        "[encode]\neol = tr -d x\n[decode]\neol = tr a-z A-Z\n[defaults]\nlog = --verbose\n",
    );
    hg(w, &["add", "--quiet"]);
    let first = commit(w);
    hg(w, &["tag", "--local", "near"]);
    hg(w, &["tag", "v1", "--date", "1704164646 0"]);
    hg(w, &["branch", "--quiet", "feat-1"]);
    w.write("r/a", "2\n");
    let last = commit(w);
    hg(w, &["update", "--quiet", "default"]);
    Some((first, last))
}

/// What sos says of a tree; the same as Nix where it is installed.
#[track_caller]
fn same_as_nix(w: &World, argument: &str) -> serde_json::Value {
    let call = format!(
        "let t = builtins.fetchMercurial {argument}; in removeAttrs t [ \"outPath\" ] // {{ path = t.outPath; }}"
    );
    let ours = w.sos(["eval", "--json", "-E", &call]).ok().stdout;
    let ours: serde_json::Value = serde_json::from_str(&ours).expect("JSON");
    // What Nix remembers of a repository is an hour old, and says the wrong branch of a revision.
    let _none = std::fs::remove_dir_all(w.root().join("home/.cache/nix"));
    if let Some(theirs) = nix(w, &["eval", "--impure", "--json", "--expr", &call]) {
        let theirs: serde_json::Value = serde_json::from_str(&theirs).expect("JSON");
        assert_eq!(ours, theirs, "{argument}");
    }
    ours
}

#[test]
fn revisions_are_those_of_nix() {
    let w = World::new();
    let Some((first, last)) = repository(&w) else {
        return;
    };
    let url = format!("file://{}/r", w.project().display());
    let now = same_as_nix(&w, "./r");
    assert_eq!(now["branch"], "default");
    assert_eq!(now["revCount"], 1);
    assert_eq!(same_as_nix(&w, &format!("\"{url}\"")), now);
    let path = w.project().join("r").display().to_string();
    assert_eq!(same_as_nix(&w, &format!("\"{path}\"")), now);
    let tagged = same_as_nix(&w, "{ url = ./r; rev = \"v1\"; }");
    assert_eq!(tagged["rev"], *first);
    assert_eq!(tagged["shortRev"], first[..12]);
    let branch = same_as_nix(&w, "{ url = ./r; rev = \"feat-1\"; name = \"other\"; }");
    assert_eq!(branch["rev"], *last);
    assert!(branch["path"].as_str().expect("text").ends_with("-other"));
    for rev in [&first, &last, &last.to_uppercase(), &last[..12]] {
        same_as_nix(&w, &format!("{{ url = \"{url}\"; rev = \"{rev}\"; }}"));
    }
    // A name of this repository alone: a copy of it, as Nix makes one, does not know it.
    let near = "(builtins.fetchMercurial { url = ./r; rev = \"near\"; }).rev";
    assert_eq!(w.sos(["eval", "--raw", "-E", near]).ok().stdout, first);
    let read = format!(
        "builtins.readFile (builtins.fetchMercurial {{ url = \"{url}\"; rev = \"{last}\"; }} + \"/a\")"
    );
    let pure = w.sos(["eval", "--pure-eval", "--raw", "-E", &read]);
    assert_eq!(pure.ok().stdout, "2\n");
    assert_eq!(hg(&w, &["status"]), "");
    store_is_clean(&w);
}

#[test]
fn a_working_copy_with_changes_is_taken_as_it_is() {
    let w = World::new();
    if repository(&w).is_none() {
        return;
    }
    // Neither is a change of what is tracked.
    w.write("r/untracked", "x");
    let clean = same_as_nix(&w, "./r");
    assert_eq!(clean["revCount"], 1);
    w.write("r/new/added", "y");
    hg(&w, &["add", "new/added"]);
    std::fs::remove_file(w.project().join("r/dir/run")).expect("a file");
    let unclean = same_as_nix(&w, "./r");
    assert_eq!(unclean["rev"], "0".repeat(40));
    assert_eq!(unclean.get("revCount"), None);
    let list = "let t = builtins.fetchMercurial ./r; in toString (builtins.attrNames (builtins.readDir t) ++ builtins.attrNames (builtins.readDir \"${t}/new\"))";
    let out = w.sos(["eval", "--raw", "-E", list]).ok();
    assert_eq!(out.stdout, ".hgtags a eol l new added");
    out.says(&["Mercurial tree '", "/r' is unclean"]);
    // A name means a revision, whatever the working copy holds.
    let named = same_as_nix(&w, "{ url = ./r; rev = \"default\"; }");
    assert_eq!(named, clean);
    hg(&w, &["branch", "--quiet", "next"]);
    // Nix 2.8 stops with a failed assertion on a changed tree of another branch than `default`.
    let branch = "(builtins.fetchMercurial ./r).branch";
    assert_eq!(w.sos(["eval", "--raw", "-E", branch]).ok().stdout, "next");
    store_is_clean(&w);
}

#[test]
fn a_new_revision_is_seen_and_a_pinned_one_is_known() {
    let w = world();
    let Some((first, _)) = repository(&w) else {
        return;
    };
    w.write("now.nix", "(builtins.fetchMercurial ./r).rev");
    w.write(
        "pinned.nix",
        &format!("builtins.readFile (builtins.fetchMercurial {{ url = ./r; rev = \"{first}\"; }} + \"/a\")"),
    );
    grow_old(&w);
    let (before, _) = eval(&w, &["now.nix"]);
    assert_eq!(eval(&w, &["now.nix"]), (before.clone(), false));
    assert_eq!(settled(&w, &["pinned.nix"]), "\"1\\n\"");
    w.write("r/a", "3\n");
    let unclean = format!("\"{}\"", "0".repeat(40));
    assert_eq!(eval(&w, &["now.nix"]), (unclean, false));
    let new = commit(&w);
    assert_eq!(eval(&w, &["now.nix"]), (format!("\"{new}\""), false));
    assert_eq!(eval(&w, &["pinned.nix"]), ("\"1\\n\"".to_owned(), true));
}

#[test]
fn a_flake_may_lie_in_a_mercurial_repository() {
    let w = World::new();
    if repository(&w).is_none() {
        return;
    }
    w.write("r/flake.nix", "{ outputs = { self }: { v = builtins.readFile ./a; info = removeAttrs self.sourceInfo [ \"outPath\" ]; }; }");
    hg(&w, &["add", "flake.nix"]);
    commit(&w);
    let url = format!("hg+file://{}/r", w.project().display());
    let ours = w.sos(["eval", "--raw", &format!("{url}#v")]).ok().stdout;
    assert_eq!(ours, "1\n");
    let call = format!("builtins.fetchTree \"{url}\"");
    let ours = w
        .sos([
            "eval",
            "--json",
            "--impure",
            "-E",
            &format!("let t = {call}; in removeAttrs t [ \"outPath\" ] // {{ path = t.outPath; }}"),
        ])
        .ok()
        .stdout;
    let ours: serde_json::Value = serde_json::from_str(&ours).expect("JSON");
    if let Some(theirs) = nix(
        &w,
        &[
            "eval",
            "--impure",
            "--json",
            "--expr",
            &format!("let t = {call}; in removeAttrs t [ \"outPath\" ] // {{ path = t.outPath; }}"),
        ],
    ) {
        let theirs: serde_json::Value = serde_json::from_str(&theirs).expect("JSON");
        assert_eq!(ours, theirs);
    }
    // As an input it is pinned in the same way.
    let flake = format!("{{ inputs.r.url = \"{url}\"; outputs = {{ self, r }}: {{ v = r.v; }}; }}");
    w.write("top/flake.nix", &flake);
    w.sos(["eval", "--raw", "./top#v"]).ok();
    let lock = w.project().join("top/flake.lock");
    let mine = std::fs::read_to_string(&lock).expect("a lock");
    std::fs::remove_file(&lock).expect("a lock");
    let top = format!("path:{}/top#v", w.project().display());
    if nix(&w, &["eval", "--raw", &top]).is_some() {
        assert_eq!(mine, std::fs::read_to_string(&lock).expect("a lock"));
    }
}

/// Serves the repository in `r` until it is dropped.
struct Serve(std::process::Child, String);

impl Serve {
    fn start(w: &World, place: &Path) -> Self {
        use std::io::BufRead as _;
        let mut child = Command::new("hg")
            .args([
                "serve",
                "--address",
                "127.0.0.1",
                "--port",
                "0",
                "--accesslog",
                "/dev/null",
            ])
            .args(["--print-url", "--repository"])
            .arg(place)
            .current_dir(w.project())
            .env("HGRCPATH", "")
            .env("PYTHONUNBUFFERED", "1")
            .stdout(std::process::Stdio::piped())
            .spawn()
            .expect("hg serves");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        std::io::BufReader::new(out)
            .read_line(&mut line)
            .expect("a line");
        Self(child, line.trim().trim_end_matches('/').to_owned())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn a_remote_repository_is_copied_once_and_kept_for_offline() {
    let w = World::new();
    let Some((first, last)) = repository(&w) else {
        return;
    };
    let server = Serve::start(&w, &w.project().join("r"));
    let url = server.1.clone();
    let tree = |rev: &str| {
        format!(
            "builtins.toJSON (builtins.fetchMercurial {{ url = \"{url}\"; rev = \"{rev}\"; }}).rev"
        )
    };
    let fetch = |rev: &str, more: &[&str]| {
        let call = tree(rev);
        w.sos([&["eval", "--raw", "-E", &call], more].concat())
    };
    fetch(&first, &["--offline"])
        .fails(5)
        .says(&["error[fetch-offline]"]);
    assert_eq!(fetch("v1", &[]).ok().stdout, format!("\"{first}\""));
    same_as_nix(&w, &format!("\"{url}\""));
    // The copy has this one too, and knows it without the server; what a name means now it cannot know.
    fetch(&last, &["--offline"]).ok();
    fetch("default", &["--offline"])
        .fails(5)
        .says(&["error[fetch-offline]"]);
    w.write("r/a", "4\n");
    let new = commit(&w);
    assert_eq!(fetch("default", &[]).ok().stdout, format!("\"{new}\""));
    drop(server);
    fetch("default", &[]).fails(5).says(&["error[hg-failed]"]);
    fetch(&new, &[]).ok();
    store_is_clean(&w);
}

#[test]
fn what_mercurial_cannot_give_is_said() {
    let mut w = World::new();
    if repository(&w).is_none() {
        return;
    }
    let fails = |w: &World, argument: &str, says: &[&str]| {
        let call = format!("(builtins.fetchMercurial {argument}).outPath");
        w.sos(["eval", "-E", &call]).fails(3).says(says);
    };
    fails(&w, "./r/dir", &["error[hg-no-repository]", "expression:1:"]);
    fails(&w, "./nowhere", &["is not a Mercurial repository"]);
    let ones = format!("{{ url = ./r; rev = \"{}\"; }}", "1".repeat(40));
    fails(&w, &ones, &["error[hg-no-revision]"]);
    fails(
        &w,
        "{ url = ./r; rev = \"none\"; }",
        &["unknown revision 'none'"],
    );
    // Names are no expressions over revisions.
    fails(
        &w,
        "{ url = ./r; rev = \"tip-v1\"; }",
        &["unknown revision 'tip-v1'"],
    );
    fails(
        &w,
        "{ url = ./r; rev = \"all()\"; }",
        &["invalid Mercurial branch/tag name"],
    );
    fails(
        &w,
        "{ url = ./r; ref = \"v1\"; }",
        &["unsupported argument 'ref'"],
    );
    fails(&w, "{ url = ./r; name = \"a b\"; }", &["illegal character"]);
    fails(&w, "{ }", &["'url' argument required"]);
    fails(&w, "\"bundle://x\"", &["error[hg-url]"]);
    for argument in ["./r", "{ url = ./r; rev = \"v1\"; }"] {
        let call = format!("builtins.fetchMercurial {argument}");
        w.sos(["eval", "--pure-eval", "-E", &call])
            .fails(3)
            .says(&["in pure evaluation mode, 'fetchMercurial' requires a Mercurial revision"]);
    }
    left_nothing(&w, "source");
    let empty = w.project().join("empty").display().to_string();
    std::fs::create_dir(&empty).expect("a directory");
    w.set("PATH", &empty);
    w.sos(["eval", "-E", "(builtins.fetchMercurial ./r).rev"])
        .fails(4)
        .says(&["error[hg-missing]", "mercurial is not installed"]);
}
