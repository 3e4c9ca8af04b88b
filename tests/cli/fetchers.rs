//! `fetchGit`, `fetchTree`, `fetchTarball`, imports from derivations, and what an evaluation may look at.

use std::process::Command;

use super::flakes::{git, nix, repository};
use crate::support::server::Server;
use crate::support::{World, left_nothing, peer, run, store_is_clean};

/// Everything that a tree says, as JSON.
fn said(expression: &str) -> String {
    format!("let t = {expression}; in removeAttrs t [ \"outPath\" ] // {{ path = t.outPath; }}")
}

/// What sos says of a tree; the same as Nix where it is installed.
#[track_caller]
fn same_as_nix(w: &World, expression: &str) -> serde_json::Value {
    let expression = said(expression);
    let ours = w.sos(["eval", "--json", "-E", &expression]).ok().stdout;
    if let Some(theirs) = nix(w, &["eval", "--impure", "--json", "--expr", &expression]) {
        let mut mine: serde_json::Value = serde_json::from_str(&ours).expect("JSON");
        // Newer versions of Nix say what a changed tree was made from; 2.8 does not.
        if let Some(o) = mine.as_object_mut() {
            o.retain(|k, _| !k.starts_with("dirty"));
        }
        let theirs: serde_json::Value = serde_json::from_str(&theirs).expect("JSON");
        assert_eq!(mine, theirs, "{expression}");
    }
    serde_json::from_str(&ours).expect("JSON")
}

#[test]
fn git_trees_are_those_of_nix() {
    let w = World::new();
    let repo = w.project().join("r");
    w.write("r/a", "1\n");
    w.write("r/dir/run", "#!/bin/sh\n");
    w.write("r/left-out", "x");
    w.write("r/.gitattributes", "left-out export-ignore\n");
    std::os::unix::fs::symlink("a", repo.join("l")).expect("a link");
    run(Command::new("chmod").arg("+x").arg(repo.join("dir/run"))).ok();
    if repository(&repo).is_none() {
        return;
    }
    let first = git(&repo, &["rev-parse", "HEAD"]);
    git(&repo, &["tag", "v1"]);
    w.write("r/a", "2\n");
    repository(&repo);
    let url = format!("file://{}", repo.display());
    let now = same_as_nix(&w, "builtins.fetchGit ./r");
    assert_eq!(now["revCount"], 2);
    for arguments in [
        "ref = \"v1\";".to_owned(),
        "ref = \"main\"; name = \"other\";".to_owned(),
        format!("rev = \"{first}\";"),
        format!("rev = \"{first}\"; allRefs = true; shallow = true;"),
        "submodules = true;".to_owned(),
    ] {
        same_as_nix(
            &w,
            &format!("builtins.fetchGit {{ url = \"{url}\"; {arguments} }}"),
        );
    }
    let old = w.sos(["eval", "--raw", "-E", &format!("builtins.readFile ((builtins.fetchGit {{ url = ./r; rev = \"{first}\"; }}) + \"/a\")")]).ok();
    assert_eq!(old.stdout, "1\n");
    w.write("r/a", "3\n");
    w.write("r/untracked", "x");
    let dirty = same_as_nix(&w, "builtins.fetchGit ./r");
    assert_eq!(dirty["rev"], "0".repeat(40));
    assert_eq!(
        dirty["dirtyShortRev"],
        format!("{}-dirty", now["shortRev"].as_str().expect("text"))
    );
    same_as_nix(&w, &format!("builtins.fetchTree \"git+{url}\""));
    // Nothing of git's own was changed by any of that.
    assert_eq!(git(&repo, &["status", "--short"]), "M a\n?? untracked");
    store_is_clean(&w);
}

#[test]
fn submodules_come_with_their_parent_when_asked_for() {
    let w = World::new();
    w.write("inner/f", "inner\n");
    let inner = w.project().join("inner");
    if repository(&inner).is_none() {
        return;
    }
    w.write("outer/g", "outer\n");
    let outer = w.project().join("outer");
    repository(&outer);
    git(
        &outer,
        &["submodule", "--quiet", "add", "../inner", "sub/mod"],
    );
    repository(&outer);
    let tree = |more: &str| format!("builtins.fetchGit {{ url = ./outer; {more} }}");
    same_as_nix(&w, &tree(""));
    let with = same_as_nix(&w, &tree("submodules = true;"));
    assert_eq!(with["submodules"], true);
    let read = format!(
        "builtins.readFile (({}) + \"/sub/mod/f\")",
        tree("submodules = true;")
    );
    assert_eq!(w.sos(["eval", "--raw", "-E", &read]).ok().stdout, "inner\n");
    // A flake may ask for its own submodules.
    w.write("outer/flake.nix", "{ inputs.self.submodules = true; outputs = { self }: { v = builtins.readFile ./sub/mod/f; }; }");
    repository(&outer);
    assert_eq!(w.sos(["eval", "--raw", "./outer#v"]).ok().stdout, "inner\n");
}

#[test]
fn what_git_cannot_give_is_said() {
    let w = World::new();
    w.write("r/a", "1\n");
    if repository(&w.project().join("r")).is_none() {
        return;
    }
    let fails = |arguments: &str, code: i32, says: &[&str]| {
        let call = format!("(builtins.fetchGit {{ {arguments} }}).outPath");
        w.sos(["eval", "-E", &call]).fails(code).says(says);
    };
    fails(
        "url = ./r; rev = \"1111111111111111111111111111111111111111\";",
        5,
        &["Cannot find Git revision", "expression:1:"],
    );
    fails(
        "url = ./r; ref = \"none\";",
        3,
        &["no branch or tag 'none'"],
    );
    fails(
        "url = ./r; rev = \"12\";",
        3,
        &["invalid Git commit hash '12'"],
    );
    fails(
        "url = ./r; ref = \"--upload-pack=x\";",
        3,
        &["invalid Git branch/tag name"],
    );
    fails(
        "url = ./r; nonsense = 1;",
        3,
        &["unsupported input attribute 'nonsense'"],
    );
    fails("url = ./nowhere;", 3, &["is not a Git repository"]);
    fails("url = \"ext::sh -c date\";", 3, &["error["]);
    fails(
        "url = \"git://127.0.0.1:1/r\";",
        5,
        &["git failed on the repository"],
    );
    fails("name = \"a b\"; url = ./r;", 3, &["illegal character"]);
    fails("", 3, &["'url' argument required"]);
    w.sos([
        "eval",
        "--offline",
        "-E",
        "builtins.fetchGit \"http://127.0.0.1:1/r\"",
    ])
    .fails(5)
    .says(&["error[fetch-offline]"]);
    left_nothing(&w, "source");
}

#[test]
fn archives_of_every_compression_are_unpacked() {
    let w = World::new();
    w.write("pack/f", "packed\n");
    w.write("pack/d/x", "");
    let mut hashes = Vec::new();
    for (ending, flag, tool) in [
        ("tar", "-c", "tar"),
        ("tar.gz", "-cz", "gzip"),
        ("tar.xz", "-cJ", "xz"),
        ("tar.bz2", "-cj", "bzip2"),
        ("tar.zst", "-c", "zstd"),
    ] {
        if peer(tool).is_none() {
            continue;
        }
        let name = format!("p.{ending}");
        let mut tar = Command::new("tar");
        tar.args([flag, "-f", &name]).current_dir(w.project());
        if tool == "zstd" {
            tar.arg("--zstd");
        }
        run(tar.arg("pack")).ok();
        let url = format!("file://{}/{name}", w.project().display());
        let tree = same_as_nix(
            &w,
            &format!("builtins.fetchTree {{ type = \"tarball\"; url = \"{url}\"; }}"),
        );
        hashes.push(tree["narHash"].as_str().expect("text").to_owned());
        let read = format!("builtins.readFile ((builtins.fetchTarball \"{url}\") + \"/f\")");
        w.sos(["eval", "--raw", "-E", &read])
            .ok()
            .says(&["is not pinned", &hashes[0]]);
    }
    if peer("zip").is_some() {
        run(Command::new("zip")
            .args(["-qr", "p.zip", "pack"])
            .current_dir(w.project()))
        .ok();
        let url = format!("file://{}/p.zip", w.project().display());
        let tree = same_as_nix(
            &w,
            &format!("builtins.fetchTree {{ type = \"tarball\"; url = \"{url}\"; }}"),
        );
        hashes.push(tree["narHash"].as_str().expect("text").to_owned());
    }
    hashes.dedup();
    assert_eq!(hashes.len(), 1, "{hashes:?}");
    let url = format!("file://{}/p.tar", w.project().display());
    let pinned = |hash: &str| {
        let call = format!("builtins.fetchTarball {{ url = \"{url}\"; sha256 = \"{hash}\"; }}");
        w.sos(["eval", "--pure-eval", "--raw", "-E", &call])
    };
    let sri = &hashes[0];
    let convert = |format: &str| {
        let call =
            format!("builtins.convertHash {{ hash = \"{sri}\"; toHashFormat = \"{format}\"; }}");
        w.sos(["eval", "--raw", "-E", &call]).ok().stdout
    };
    let path = pinned(sri).ok().stdout;
    for format in ["base16", "nix32"] {
        assert_eq!(pinned(&convert(format)).ok().stdout, path, "{format}");
    }
    pinned(&"0".repeat(52))
        .fails(102)
        .says(&["error[fetch-hash-mismatch]", &convert("nix32")]);
    pinned(&"0".repeat(64))
        .fails(102)
        .says(&["error[fetch-hash-mismatch]", &convert("base16")]);
    pinned("nonsense").fails(3);
    w.sos([
        "eval",
        "--pure-eval",
        "-E",
        &format!("builtins.fetchTarball \"{url}\""),
    ])
    .fails(3)
    .says(&["in pure evaluation mode, 'fetchTarball' requires a 'sha256' argument"]);
    // Two things at the top, and no archive at all.
    w.write("second", "");
    run(Command::new("tar")
        .args(["-cf", "two.tar", "pack", "second"])
        .current_dir(w.project()))
    .ok();
    for name in ["two.tar", "second"] {
        let url = format!("file://{}/{name}", w.project().display());
        w.sos(["eval", "-E", &format!("builtins.fetchTarball \"{url}\"")])
            .fails(5)
            .says(&["error[fetch-bad-archive]"]);
    }
    store_is_clean(&w);
}

#[test]
fn the_search_path_may_hold_urls() {
    let mut w = World::new();
    w.write("pack/default.nix", "{ v = 5; }");
    run(Command::new("tar")
        .args(["-czf", "p.tar.gz", "pack"])
        .current_dir(w.project()))
    .ok();
    let server = Server::start(&w.project());
    w.set(
        "NIX_PATH",
        &format!(
            "n={}/p.tar.gz:m={}/pack",
            server.url(),
            w.project().display()
        ),
    );
    let both =
        "[ (import <n>).v (import <m>).v (import <n>).v (builtins.length builtins.nixPath) ]";
    assert_eq!(
        w.sos(["eval", "--strict", "-E", both]).ok().stdout,
        "[ 5 5 5 2 ]\n"
    );
    assert_eq!(server.asked().len(), 1, "an evaluation sees one state");
}

#[test]
fn what_is_built_can_be_read_while_evaluating() {
    let Some(w) = super::builds::world_with_busybox() else {
        return;
    };
    let gen_drv = super::builds::recipe(
        "gen",
        "mkdir $out; echo '{ x = 41; }' > $out/x.nix; echo hello > $out/t",
        "",
    );
    let file = super::builds::recipe("gen.nix", "echo 7 > $out", "");
    w.write("f.nix", &format!("let d = {gen_drv}; f = {file}; s = builtins.unsafeDiscardOutputDependency d.drvPath; in {{
        a = (import \"${{d}}/x.nix\").x; b = builtins.readFile \"${{d}}/t\"; c = import f; d = builtins.readDir d; e = builtins.pathExists \"${{d}}/nope\";
        g = (import d.drvPath).outPath == d.outPath && (import d.drvPath).name == \"gen\";
        h = builtins.scopedImport {{ y = 3; }} (builtins.toFile \"s.nix\" \"y + 1\"); i = builtins.outputOf s \"out\" == d.outPath; j = builtins.storePath (import d.drvPath).outPath == d.outPath; }}"));
    for (attr, value) in [
        ("a", "41"),
        ("b", "\"hello\\n\""),
        ("c", "7"),
        ("d", "{ t = \"regular\"; \"x.nix\" = \"regular\"; }"),
        ("e", "false"),
        ("g", "true"),
        ("h", "4"),
        ("i", "true"),
    ] {
        let target = format!("f.nix#{attr}");
        assert_eq!(
            w.sos(["eval", "--strict", &target]).ok().stdout.trim(),
            value,
            "{attr}"
        );
    }
    // The same without clock and search path: what was built is allowed.
    assert_eq!(
        w.sos(["eval", "--pure-eval", "f.nix#a"]).ok().stdout,
        "41\n"
    );
}

#[test]
fn restricted_evaluation_reads_the_search_path_and_allowed_urls() {
    let w = World::new();
    w.write("in/f", "inside");
    w.write("out/f", "outside");
    std::os::unix::fs::symlink("../out/f", w.project().join("in/link")).expect("a link");
    let server = Server::start(&w.project().join("out"));
    let eval = |expression: &str, more: &[&str]| {
        let base = [
            "eval",
            "--restrict-eval",
            "-I",
            "src=./in",
            "--raw",
            "-E",
            expression,
        ];
        w.sos(base.iter().chain(more))
    };
    assert_eq!(eval("builtins.readFile <src/f>", &[]).ok().stdout, "inside");
    assert_eq!(eval("builtins.readFile ./in/f", &[]).ok().stdout, "inside");
    for (expression, why) in [
        ("builtins.readFile ./out/f", "access to absolute path"),
        ("builtins.readFile ./in/link", "access to canonical path"),
        ("builtins.readFile ./in/../out/f", "access to absolute path"),
        ("\"${./out}\"", "access to absolute path"),
        ("import ./out", "access to absolute path"),
        (
            "toString (builtins.path { path = ./out; })",
            "access to absolute path",
        ),
        ("builtins.readDir ./.", "access to absolute path"),
        (
            "builtins.fetchTarball \"http://mirror.example/x.tar\"",
            "access to URI 'http://mirror.example/x.tar' is forbidden in restricted mode",
        ),
        (
            "(builtins.fetchGit ./out).rev",
            "is forbidden in restricted mode",
        ),
        (
            &format!(
                "builtins.fetchurl \"file://{}/in/%2e%2e/out/f\"",
                w.project().display()
            ),
            "is forbidden in restricted mode",
        ),
    ] {
        eval(expression, &[])
            .fails(3)
            .says(&["error[eval-impure]", why]);
    }
    assert_eq!(eval("builtins.getEnv \"HOME\"", &[]).ok().stdout, "");
    let call = format!(
        "builtins.readFile (builtins.fetchurl \"{}/f\")",
        server.url()
    );
    eval(&call, &[]).fails(3);
    let url = format!("http://mirror.example/ {}/", server.url());
    assert_eq!(
        eval(&call, &["--allowed-uris", &url]).ok().stdout,
        "outside"
    );
}

#[test]
fn pure_evaluation_reads_the_recipe_and_nothing_else() {
    let w = World::new();
    w.write("f.nix", "{ a = import ./g.nix; b = builtins.readFile /etc/hostname; c = builtins ? currentTime; d = builtins.pathExists /etc; e = builtins.storePath /etc; }");
    w.write("g.nix", "1");
    let eval = |attr: &str| w.sos(["eval", "--pure-eval", &format!("f.nix#{attr}")]);
    assert_eq!(eval("a").ok().stdout, "1\n");
    assert_eq!(eval("c").ok().stdout, "false\n");
    assert_eq!(eval("d").ok().stdout, "false\n");
    eval("b")
        .fails(3)
        .says(&["access to absolute path '/etc/hostname' is forbidden in pure evaluation mode"]);
    eval("e")
        .fails(3)
        .says(&["not allowed in pure evaluation mode"]);
    w.sos(["eval", "--pure-eval", "-E", "builtins.fetchGit ./."])
        .fails(3)
        .says(&["in pure evaluation mode, 'fetchGit' will not fetch unlocked input"]);
}
