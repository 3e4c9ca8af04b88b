//! Flakes: their locks, their values, and the same answers as Nix itself.

use std::path::Path;
use std::process::Command;

use crate::support::{World, peer, run, skip};

/// Commits everything below a directory; nothing when git is missing.
pub(super) fn repository(dir: &Path) -> Option<()> {
    peer("git")?;
    std::fs::create_dir_all(dir).expect("a directory");
    if !dir.join(".git").exists() {
        git(dir, &["init", "-q", "-b", "main"]);
    }
    git(dir, &["add", "-A"]);
    git(dir, &["commit", "-q", "--allow-empty", "-m", "change"]);
    Some(())
}

/// Runs git as somebody with a name and a date.
#[track_caller]
pub(super) fn git(dir: &Path, args: &[&str]) -> String {
    run(Command::new("git")
        .args(["-c", "user.name=n", "-c", "user.email=n@mirror.example"])
        .args(["-c", "protocol.file.allow=always"])
        .args(args)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .env("GIT_AUTHOR_DATE", "2024-01-02T03:04:05Z")
        .env("GIT_COMMITTER_DATE", "2024-01-02T03:04:05Z"))
    .ok()
    .stdout
    .trim()
    .to_owned()
}

/// Nix with a store of its own in the world; nothing when it is missing or cannot work here.
pub(super) fn nix(w: &World, args: &[&str]) -> Option<String> {
    let nix = peer("nix")?;
    let root = w.root().join("nix");
    let out = run(Command::new(nix)
        .args(args)
        .current_dir(w.project())
        .env("HOME", w.root().join("home"))
        .env("NIX_REMOTE", format!("local?root={}", root.display()))
        .env("NIX_PATH", "")
        // Old versions fetch submodules with a git that does not copy from this machine unless told to.
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "protocol.file.allow")
        .env("GIT_CONFIG_VALUE_0", "always")
        .env(
            "NIX_CONFIG",
            "experimental-features = nix-command flakes\nflake-registry =\nsubstituters =\nbuild-users-group =\nwarn-dirty = false",
        ));
    if out.stderr.contains("unrecognised") || out.stderr.contains("is disabled") {
        skip("this nix has no flakes");
        return None;
    }
    Some(out.ok().stdout.trim().to_owned())
}

const SYSTEM: &str = "x86_64-linux";

/// A flake with inputs of every kind that needs no network.
fn tangle(w: &World) -> Option<()> {
    let top = w.project().display().to_string();
    w.write("repo/data", "seen\n");
    repository(&w.project().join("repo"))?;
    w.write("pack/f", "1\n");
    run(Command::new("tar")
        .args(["czf", "pack.tar.gz", "pack"])
        .current_dir(w.project()))
    .ok();
    w.write(
        "leaf/flake.nix",
        "{ outputs = { self }: { v = \"leaf\"; }; }",
    );
    w.write(
        "other/flake.nix",
        "{ outputs = { self }: { v = \"other\"; }; }",
    );
    w.write(
        "mid/flake.nix",
        &format!("{{ inputs.leaf.url = \"path:{top}/leaf\"; inputs.same.follows = \"leaf\"; inputs.data = {{ url = \"path:{top}/pack\"; flake = false; }}; outputs = {{ self, leaf, same, data }}: {{ v = leaf.v + same.v; inherit data; }}; }}"),
    );
    w.write(
        "top/flake.nix",
        &format!(
            "{{ description = \"tangle\";
  inputs = {{
    mid.url = \"path:{top}/mid\";
    mid2 = {{ url = \"path:{top}/mid\"; inputs.leaf.follows = \"other\"; }};
    other = {{ type = \"path\"; path = \"{top}/other\"; }};
    repo = {{ url = \"git+file://{top}/repo\"; flake = false; }};
    pack = {{ url = \"file://{top}/pack.tar.gz\"; flake = false; }};
    deep.follows = \"mid/leaf\";
    sub.url = \"path:./sub\";
  }};
  outputs = {{ self, mid, mid2, other, repo, pack, deep, sub }}: {{
    packages.{SYSTEM}.default = derivation {{
      name = \"tangle\"; system = \"{SYSTEM}\"; builder = \"/bin/sh\";
      a = mid.v; b = mid2.v; c = other; d = repo; e = pack; f = deep; g = mid.data; h = sub; inherit self;
      rev = repo.rev; count = repo.revCount; date = repo.lastModifiedDate;
    }};
    legacyPackages.{SYSTEM}.old = derivation {{ name = \"old\"; system = \"{SYSTEM}\"; builder = \"/bin/sh\"; }};
    number = 7;
    info = removeAttrs self.sourceInfo [ \"outPath\" ];
  }};
}}"
        ),
    );
    w.write(
        "top/sub/flake.nix",
        "{ outputs = { self }: { v = \"sub\"; }; }",
    );
    Some(())
}

#[test]
fn locks_and_paths_are_those_of_nix() {
    let w = World::new();
    if tangle(&w).is_none() {
        return;
    }
    let drv = "./top#packages.x86_64-linux.default.drvPath";
    let Some(theirs) = nix(&w, &["eval", "--raw", drv]) else {
        return;
    };
    let lock = w.project().join("top/flake.lock");
    let their_lock = std::fs::read_to_string(&lock).expect("nix wrote a lock");
    std::fs::remove_file(&lock).expect("the lock is ours");
    let first = w.sos(["eval", "--raw", drv]).ok();
    let first = first.says(&["creating lock file", "Added input 'mid2'"]);
    assert_eq!(std::fs::read_to_string(&lock).expect("a lock"), their_lock);
    // The time of the directory is part of nothing that the derivation names.
    assert_eq!(first.stdout, theirs);
    let again = w.sos(["eval", "--raw", drv]).ok();
    assert_eq!((again.stdout, again.stderr.as_str()), (theirs, ""));
    for attr in ["info", "number", "old.drvPath"] {
        let target = format!("./top#{attr}");
        let theirs = nix(&w, &["eval", "--json", &target]).expect("nix is here");
        let ours = w.sos(["eval", "--json", &target]).ok().stdout;
        assert_eq!(ours.trim(), theirs, "{attr}");
    }
}

#[test]
fn a_flake_in_a_repository_is_what_git_tracks() {
    let w = World::new();
    w.write(
        "dir/flake.nix",
        "{ outputs = { self }: { a = removeAttrs self.sourceInfo [ \"outPath\" ]; out = self.outPath; d = self.dirtyShortRev or \"clean\"; }; }",
    );
    w.write("f", "1");
    if repository(&w.project()).is_none() {
        return;
    }
    let ours = |t: &str| w.sos(["eval", "--json", t]).ok().stdout.trim().to_owned();
    let clean = ours("./dir#a");
    if let Some(theirs) = nix(&w, &["eval", "--json", "./dir#a"]) {
        assert_eq!(clean, theirs);
    }
    assert_eq!(ours("./dir#d"), "\"clean\"");
    let out = ours("./dir#out");
    assert!(out.ends_with("-source/dir\""), "{out}");
    w.write("untracked", "x");
    assert_eq!(ours("./dir#a"), clean);
    w.write("f", "2");
    let dirty = w.sos(["eval", "--json", "./dir#d"]).ok();
    assert!(dirty.stdout.contains("-dirty"), "{}", dirty.stdout);
    dirty.says(&["is dirty"]);
    w.write("new/flake.nix", "{ outputs = _: { }; }");
    w.sos(["eval", "./new#x"])
        .fails(3)
        .says(&["does not contain a 'new/flake.nix' file", "git add"]);
}

/// What lies in the tree of a flake is as fixed as that, whether its lock tells of it or not.
#[test]
fn an_input_inside_a_locked_flake_needs_no_pin() {
    let w = World::new();
    w.write(
        "r/flake.nix",
        "{ inputs.s.url = \"path:./sub\"; outputs = { self, s }: { v = s.v + 1; }; }",
    );
    w.write("r/sub/flake.nix", "{ outputs = { self }: { v = 41; }; }");
    let repo = w.project().join("r");
    if repository(&repo).is_none() {
        return;
    }
    let pure = || {
        let commit = git(&repo, &["rev-parse", "HEAD"]);
        let at = repo.display();
        let text = format!("(builtins.getFlake \"git+file://{at}?rev={commit}\").v");
        let told = w.sos(["eval", "--pure-eval", "-E", &text]).ok();
        assert_eq!(told.stdout, "42\n");
    };
    pure();
    assert_eq!(w.sos(["eval", "./r#v"]).ok().stdout, "42\n");
    git(&repo, &["add", "flake.lock"]);
    git(&repo, &["commit", "-qm", "a lock"]);
    pure();
}

#[test]
fn a_new_lock_becomes_visible_to_git() {
    let w = World::new();
    let top = w.project().display().to_string();
    w.write("a/x", "1");
    w.write(
        "r/flake.nix",
        &format!("{{ inputs.a = {{ url = \"path:{top}/a\"; flake = false; }}; outputs = {{ self, a }}: {{ v = builtins.readFile (a + \"/x\"); }}; }}"),
    );
    let repo = w.project().join("r");
    if repository(&repo).is_none() {
        return;
    }
    assert_eq!(w.sos(["eval", "--raw", "./r#v"]).ok().stdout, "1");
    assert_eq!(git(&repo, &["status", "--short"]), "A flake.lock");
    // What is locked stays, whatever happens to the directory.
    w.write("a/x", "2");
    assert_eq!(w.sos(["eval", "--raw", "./r#v"]).ok().stdout, "1");
}

#[test]
fn a_lock_that_lacks_something_is_refused_or_kept_in_memory() {
    let w = World::new();
    let top = w.project().display().to_string();
    w.write("a/x", "1");
    let flake = w.write(
        "t/flake.nix",
        &format!("{{ inputs.a = {{ url = \"path:{top}/a\"; flake = false; }}; outputs = {{ self, a }}: {{ v = builtins.readFile (a + \"/x\"); packages.{SYSTEM}.default = derivation {{ name = \"t\"; system = \"{SYSTEM}\"; builder = \"/bin/sh\"; inherit a; }}; }}; }}"),
    );
    let lock = flake.with_file_name("flake.lock");
    w.sos(["eval", "--locked", "./t#v"]).fails(3).says(&[
        "error[eval-flake]",
        "requires lock file changes",
        "--locked",
    ]);
    assert!(!lock.exists());
    // A plan changes nothing.
    w.sos(["plan", "./t"]).ok();
    assert!(!lock.exists());
    assert_eq!(w.sos(["eval", "--raw", "./t#v"]).ok().stdout, "1");
    assert!(lock.exists());
    w.sos(["eval", "--locked", "--raw", "./t#v"]).ok();
    // getFlake never writes.
    std::fs::remove_file(&lock).expect("the lock is ours");
    let call = format!("(builtins.getFlake \"path:{top}/t\").v");
    assert_eq!(w.sos(["eval", "--raw", "-E", &call]).ok().stdout, "1");
    assert!(!lock.exists());
    w.sos(["eval", "--pure-eval", "-E", &call])
        .fails(3)
        .says(&["cannot call 'getFlake' on unlocked flake reference"]);
}

#[test]
fn what_is_wrong_with_a_flake_is_said() {
    let w = World::new();
    let top = w.project().display().to_string();
    let check = |flake: &str, lock: Option<&str>, code: i32, says: &[&str]| {
        let file = w.write("bad/flake.nix", flake);
        let lock_file = file.with_file_name("flake.lock");
        drop(std::fs::remove_file(&lock_file));
        if let Some(text) = lock {
            w.write("bad/flake.lock", text);
        }
        w.sos(["eval", "./bad#x"]).fails(code).says(says);
        assert_eq!(lock_file.exists(), lock.is_some(), "{flake}");
    };
    for (input, at) in [
        (
            "inputs.x.url = \"nixpkgs\"; outputs = _: { };",
            "flake.nix:2:3",
        ),
        (
            "inputs = { x.url = \"flake:nixpkgs\"; }; outputs = _: { };",
            "flake.nix:2:14",
        ),
        (
            "inputs.x = { type = \"indirect\"; id = \"nixpkgs\"; }; outputs = _: { };",
            "flake.nix:2:3",
        ),
    ] {
        check(
            &format!("{{\n  {input}\n}}\n"),
            None,
            3,
            &[
                "cannot find flake 'flake:nixpkgs' of the input 'x' in the flake registries",
                at,
                "`nixpkgs` is the name of a flake in a registry, and sos has none",
                "`github:owner/name`",
            ],
        );
    }
    check(
        "{\n  outputs =\n    { self, nope }: { };\n}",
        None,
        3,
        &[
            "of the input 'nope'",
            "flake.nix:3:13",
            "`nope` is the name of a flake",
        ],
    );
    let ok = "{ outputs = _: { y = 1; }; }";
    check(
        "{ outputs = 1; }",
        None,
        3,
        &["error[eval-type]", "flake.nix:1"],
    );
    check("1", None, 3, &["must be an attribute set"]);
    check("{ }", None, 3, &["lacks attribute 'outputs'"]);
    check(
        "{ outputs = _: { }; z = 1; }",
        None,
        3,
        &["unsupported attribute 'z'", "flake.nix:1:"],
    );
    check(
        "{ outputs = { self, nope }: { }; }",
        None,
        3,
        &["cannot find flake 'flake:nope'"],
    );
    check(
        "{ inputs.a.url = \"x+y:z\"; outputs = _: { }; }",
        None,
        3,
        &["input 'x+y:z' is unsupported", "flake.nix:1:"],
    );
    check(
        "{ inputs.a.urk = \"path:/x\"; outputs = _: { }; }",
        None,
        3,
        &["unexpected flake input attribute 'urk'"],
    );
    check(
        "{ inputs.a.follows = \"b/c\"; outputs = _: { }; }",
        None,
        3,
        &["follows a non-existent input 'b/c'"],
    );
    check(
        &format!("{{ inputs.a.url = \"path:{top}/bad\"; outputs = _: {{ }}; }}"),
        None,
        3,
        &["circular import"],
    );
    check(
        &format!("{{ inputs.a.url = \"path:{top}/none\"; outputs = _: {{ }}; }}"),
        None,
        3,
        &["does not exist"],
    );
    check(
        "{ inputs.a.url = \"path:../other\"; outputs = _: { }; }",
        None,
        3,
        &["leads out of the tree"],
    );
    check(
        "{ inputs.a.url = \"http://127.0.0.1:1/a.tar.gz\"; outputs = _: { }; }",
        None,
        5,
        &["fetch-failed"],
    );
    check(
        ok,
        Some("{"),
        3,
        &["cannot read the lock", "not valid JSON"],
    );
    check(ok, Some("{\"version\":4}"), 3, &["unsupported version 4"]);
    check(
        ok,
        None,
        3,
        &[
            "error[flake-no-attribute]",
            "'packages.x86_64-linux.x', 'legacyPackages.x86_64-linux.x' or 'x'",
        ],
    );
    check(
        "{ outputs = _: { x = abort \"no\"; }; }",
        None,
        3,
        &["error[eval-abort]"],
    );
}

#[test]
fn a_locked_input_with_another_content_is_a_mismatch() {
    let w = World::new();
    let top = w.project().display().to_string();
    w.write("a/x", "1");
    w.write(
        "t/flake.nix",
        &format!("{{ inputs.a = {{ url = \"path:{top}/a\"; flake = false; }}; outputs = {{ self, a }}: {{ v = a.outPath; }}; }}"),
    );
    w.sos(["eval", "./t#v"]).ok();
    w.write("a/x", "2");
    // Another machine, which does not have what was locked.
    let other = w.root().join("other").display().to_string();
    w.sos(["eval", "--store", &other, "./t#v"])
        .fails(102)
        .says(&[
            "NAR hash mismatch in input",
            "expected 'sha256-",
            "but got 'sha256-",
        ]);
}

#[test]
fn flakes_are_pure() {
    let w = World::new();
    let file = w.write(
        "p/flake.nix",
        "{ outputs = { self }: { host = builtins.readFile /etc/hostname; link = builtins.readFile ./link; up = import ../x; home = builtins.getEnv \"HOME\"; path = <nixpkgs>; pure = !(builtins ? currentSystem); here = builtins.readFile ./f; made = builtins.readFile (builtins.toFile \"t\" \"text\"); }; }",
    );
    w.write("p/f", "mine");
    std::os::unix::fs::symlink("/etc/passwd", file.with_file_name("link")).expect("a link");
    let eval = |attr: &str| w.sos(["eval", "--json", &format!("./p#{attr}")]);
    for (attr, why) in [
        (
            "host",
            "access to absolute path '/etc/hostname' is forbidden in pure evaluation mode",
        ),
        (
            "link",
            "access to canonical path '/etc/passwd' is forbidden in pure evaluation mode",
        ),
        ("up", "is forbidden in pure evaluation mode"),
        ("path", "cannot look up '<nixpkgs>' in pure evaluation mode"),
    ] {
        eval(attr).fails(3).says(&[why]);
    }
    for (attr, value) in [
        ("home", "\"\""),
        ("pure", "true"),
        ("here", "\"mine\""),
        ("made", "\"text\""),
    ] {
        assert_eq!(eval(attr).ok().stdout.trim(), value, "{attr}");
    }
    let impure = w.sos(["eval", "--impure", "--raw", "./p#home"]).ok().stdout;
    assert!(impure.ends_with("/home"), "{impure}");
}

#[test]
fn a_flake_of_a_forge_comes_from_the_mirror_that_is_configured() {
    let mut w = World::new();
    let source = w.root().join("source");
    std::fs::create_dir_all(&source).expect("a directory");
    std::fs::write(
        source.join("flake.nix"),
        "{ outputs = { self }: { v = \"forge\"; r = self.rev; t = self.lastModified; }; }",
    )
    .expect("a file");
    if repository(&source).is_none() {
        return;
    }
    let rev = git(&source, &["rev-parse", "HEAD"]);
    for name in ["main", rev.as_str()] {
        let archive = w.root().join(format!("o-r-{name}.tar.gz"));
        let prefix = format!("r-{name}/");
        git(
            &source,
            &[
                "archive",
                "--format=tar.gz",
                "--prefix",
                &prefix,
                "-o",
                &archive.display().to_string(),
                "HEAD",
            ],
        );
    }
    let template = format!(
        "file://{}/{{owner}}-{{repo}}-{{rev}}.tar.gz",
        w.root().display()
    );
    w.set("SOS_MIRRORS_GITHUB", &template);
    w.write(
        "flake.nix",
        "{ inputs.r.url = \"github:o/r/main\"; outputs = { self, r }: { inherit (r) v r t; }; }",
    );
    assert_eq!(w.sos(["eval", "--raw", ".#v"]).ok().stdout, "forge");
    assert_eq!(w.sos(["eval", "--raw", ".#r"]).ok().stdout, rev);
    assert_eq!(w.sos(["eval", ".#t"]).ok().stdout, "1704164645\n");
    let lock = std::fs::read_to_string(w.project().join("flake.lock")).expect("a lock");
    assert!(lock.contains(&format!("\"rev\": \"{rev}\"")), "{lock}");
    assert_eq!(
        w.sos(["eval", "--raw", &format!("github:o/r/{rev}#v")])
            .ok()
            .stdout,
        "forge"
    );
    w.sos(["eval", "github:o/none#v"]).fails(5);
}

#[test]
fn packages_of_a_flake_are_built() {
    let Some(w) = super::builds::world_with_busybox() else {
        return;
    };
    let drv = super::builds::recipe("from-flake", "echo $word > $out", "word = self.lib.word;");
    w.write(
        "flake.nix",
        &format!("{{ outputs = {{ self }}: {{ lib.word = \"built\"; packages.{SYSTEM} = {{ default = {drv}; other = {drv}; }}; }}; }}"),
    );
    let out = w.sos(["build", "--no-link"]).ok().stdout;
    assert_eq!(w.sos(["store", "cat", out.trim()]).ok().stdout, "built\n");
    let top = w.project().display().to_string();
    for target in [
        ".#other".to_owned(),
        format!("path:{top}"),
        "path:.#default".to_owned(),
    ] {
        assert_eq!(
            w.sos(["build", "--no-link", &target]).ok().stdout,
            out,
            "{target}"
        );
    }
    w.sos(["build", "--no-link", ".#othre"])
        .fails(3)
        .says(&["does not provide attribute", "other"]);
    // A recipe of sos comes first.
    w.write("sos.nix", "{ }");
    w.sos(["build", "--no-link"]).fails(3);
}

#[test]
fn inputs_are_pinned_anew_when_asked() {
    let w = World::new();
    let top = w.project().display().to_string();
    let input = |n: &str| format!("{n} = {{ url = \"path:{top}/{n}\"; flake = false; }};");
    w.write("a/x", "1");
    w.write("b/x", "1");
    w.write(
        "t/flake.nix",
        &format!("{{ inputs = {{ {} {} }}; outputs = {{ self, a, b }}: {{ v = builtins.readFile (a + \"/x\") + builtins.readFile (b + \"/x\"); }}; }}", input("a"), input("b")),
    );
    w.sos(["lock", "./t"]).ok().says(&["creating lock file"]);
    w.write("a/x", "2");
    w.write("b/x", "2");
    let value = || w.sos(["eval", "--raw", "./t#v"]).ok().stdout;
    assert_eq!(value(), "11");
    w.sos(["lock", "./t", "--update", "b"])
        .ok()
        .says(&["updating lock file", "Updated input 'b'"]);
    assert_eq!(value(), "12");
    w.sos(["lock", "./t", "--update"]).ok();
    assert_eq!(value(), "22");
    w.sos(["lock", "./t", "--update", "c"])
        .fails(3)
        .says(&["has no input 'c'"]);
}

#[test]
fn filters_see_the_names_that_the_flake_sees() {
    let w = World::new();
    w.write(
        "flake.nix",
        "{ outputs = { self }: { v = builtins.readDir (builtins.filterSource (p: t: p != toString ./no && p != \"${self}/never\") ./.); }; }",
    );
    w.write("no", "");
    w.write("never", "");
    w.write("yes", "");
    let listed = w.sos(["eval", "--strict", ".#v"]).ok().stdout;
    assert_eq!(
        listed,
        "{ \"flake.nix\" = \"regular\"; yes = \"regular\"; }\n"
    );
}
