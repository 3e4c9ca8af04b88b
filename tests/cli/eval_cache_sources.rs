//! A flake is copied to the store whole. Until the program sees the name of that object, only the files that it read count.

use std::os::unix::fs::symlink;

use super::eval_cache::{eval, grow_old, sees, settled, world};
use crate::support::{World, peer};

/// A flake whose `x` is `code`, beside a few files.
fn flake(code: &str) -> (World, String) {
    let w = world();
    w.write(
        "flake.nix",
        &format!("{{ outputs = {{ self }}: {{ x = {code}; }}; }}"),
    );
    w.write("read/a.nix", "\"a\"");
    w.write("other/b", "b");
    let target = format!("path:{}#x", w.project().display());
    (w, target)
}

/// Checks that what `code` gives stays known when a file that it does not read is edited.
#[track_caller]
fn stays_known(code: &str) {
    let (w, target) = flake(code);
    let before = settled(&w, &[&target]);
    w.write("other/b", "c");
    w.write("new", "n");
    assert_eq!(eval(&w, &[&target]), (before.clone(), true), "{code}");
    grow_old(&w);
    assert_eq!(eval(&w, &[&target]), (before, true), "{code}");
}

/// Checks that `code` gives something else when a file that it does not read is edited.
#[track_caller]
fn depends_on_all(code: &str) {
    let (w, target) = flake(code);
    let before = settled(&w, &[&target]);
    w.write("other/b", "c");
    let (after, hit) = eval(&w, &[&target]);
    assert!(!hit && after != before, "{code}: {before} {after}");
}

/// Checks that `code` is evaluated again when `file` is written.
#[track_caller]
fn depends_on(code: &str, file: &str, text: &str, after: &str) {
    let (w, target) = flake(code);
    settled(&w, &[&target]);
    w.write(file, text);
    sees(&w, &[&target], after);
}

#[test]
fn files_that_are_not_read_do_not_count() {
    for code in [
        "import ./read/a.nix",
        "import (./read + \"/a.nix\")",
        "builtins.readDir ./read",
        "builtins.pathExists ./nothing",
        "baseNameOf ./read/a.nix",
        "builtins.isPath ./. && ./read == ./read/../read && ./read != ./other",
        "builtins.attrNames self.sourceInfo",
        "self ? outPath",
        "(derivation { name = \"d\"; system = \"x\"; builder = \"/b\"; src = ./read; one = ./read/a.nix; }).drvPath",
        "builtins.path { path = ./read; name = \"r\"; }",
        "builtins.hashFile \"sha256\" ./read/a.nix",
        "builtins.toJSON ./read",
        "builtins.substring 0 60 ./read",
    ] {
        stays_known(code);
    }
}

#[test]
fn the_name_of_the_object_is_all_of_it() {
    for code in [
        "self.outPath",
        "\"${self}/read\"",
        "self.narHash",
        "builtins.hashString \"sha256\" (toString ./read)",
        "toString ./.",
        "baseNameOf ./.",
        "./read",
        "[ ./read ]",
        "builtins.toXML ./read",
        "(builtins.unsafeGetAttrPos \"a\" { a = 1; }).file",
        "__curPos.file",
        "(derivation { name = \"d\"; system = \"x\"; builder = \"/b\"; src = self; }).drvPath",
        "(derivation { name = \"d\"; system = \"x\"; builder = \"/b\"; src = ./.; }).drvPath",
        "(derivation { name = \"d\"; system = \"x\"; builder = \"/b\"; src = builtins.path { path = ./.; name = \"n\"; }; }).drvPath",
        "builtins.filterSource (p: t: true) ./.",
        "builtins.concatStringsSep \"\" (map toString [ ./read ])",
    ] {
        depends_on_all(code);
    }
    // The answer can be the same, but all had to be looked at.
    for code in [
        "./read < /nix/store/zzz",
        "./read == /elsewhere",
        "builtins.seq self.lastModified 1",
    ] {
        let (w, target) = flake(code);
        let before = settled(&w, &[&target]);
        w.write("other/b", "c");
        assert_eq!(eval(&w, &[&target]), (before, false), "{code}");
    }
}

#[test]
fn everything_that_is_read_of_it_counts() {
    let a = "import ./read/a.nix";
    depends_on(a, "read/a.nix", "\"z\"", "\"z\"");
    let exists = "builtins.pathExists ./new";
    depends_on(exists, "new", "", "true");
    let names = "builtins.attrNames (builtins.readDir ./read)";
    depends_on(names, "read/b", "", "[ \"a.nix\" \"b\" ]");
    depends_on("1", "flake.nix", "{ outputs = _: { x = 2; }; }", "2");
    let copied = "builtins.hashString \"md5\" \"${./read}\" == \"x\"";
    let (w, target) = flake(copied);
    settled(&w, &[&target]);
    w.write("read/b", "");
    let (_, hit) = eval(&w, &[&target]);
    assert!(!hit);
    let code = "builtins.hasAttr \"b\" (builtins.readDir (builtins.path { path = ./read; name = \"r\"; }))";
    depends_on(code, "read/b", "", "true");
}

#[test]
fn where_the_flake_is_counts() {
    let (w, _) = flake("import ./read/a.nix");
    let other = w.root().join("other");
    std::fs::create_dir_all(other.join("read")).expect("mkdir");
    std::fs::copy(w.project().join("flake.nix"), other.join("flake.nix")).expect("copy");
    std::fs::write(other.join("read/a.nix"), "\"there\"").expect("write");
    let link = w.root().join("link");
    symlink(w.project(), &link).expect("link");
    let target = format!("path:{}#x", link.display());
    assert_eq!(settled(&w, &[&target]), "\"a\"");
    std::fs::remove_file(&link).expect("remove");
    symlink(&other, &link).expect("link");
    sees(&w, &[&target], "\"there\"");
}

#[test]
fn links_in_it_are_followed() {
    let (w, target) = flake("import ./link.nix");
    symlink("read/a.nix", w.project().join("link.nix")).expect("link");
    assert_eq!(settled(&w, &[&target]), "\"a\"");
    w.write("read/a.nix", "\"z\"");
    sees(&w, &[&target], "\"z\"");
    w.write("read/c.nix", "\"c\"");
    std::fs::remove_file(w.project().join("link.nix")).expect("remove");
    symlink("read/c.nix", w.project().join("link.nix")).expect("link");
    sees(&w, &[&target], "\"c\"");
}

#[test]
fn of_a_repository_what_git_tracks_counts() {
    let Some(git) = peer("git") else {
        return;
    };
    let (w, _) = flake("import ./read/a.nix + self.shortRev or self.dirtyShortRev");
    let git = |args: &[&str]| {
        let done = std::process::Command::new(&git)
            .args(["-c", "user.name=a", "-c", "user.email=a@b.example"])
            .args(args)
            .current_dir(w.project())
            .output()
            .expect("git runs");
        assert!(done.status.success(), "{done:?}");
    };
    git(&["init", "-q"]);
    git(&["add", "."]);
    git(&["commit", "-q", "-m", "first"]);
    // A second working tree of the same repository.
    let beside = w.root().join("beside");
    git(&["worktree", "add", "-q", &beside.display().to_string()]);
    for tree in [w.project().as_path(), &beside] {
        let target = format!("git+file://{}#x", tree.display());
        let args = [target.as_str()];
        grow_old(&w);
        let clean = settled(&w, &args);
        assert!(!clean.contains("dirty"), "{clean}");
        // Not tracked.
        std::fs::create_dir(tree.join("target")).expect("mkdir");
        std::fs::write(tree.join("target/x"), "").expect("write");
        assert_eq!(eval(&w, &args), (clean.clone(), true));
        // Tracked, and not read.
        std::fs::write(tree.join("other/b"), "changed").expect("write");
        let (dirty, hit) = eval(&w, &args);
        assert!(!hit && dirty.contains("dirty"), "{dirty}");
        std::fs::remove_file(tree.join("other/b")).expect("remove");
        settled(&w, &args);
        std::fs::write(tree.join("other/b"), "b").expect("write");
        sees(&w, &args, &clean);
    }
}

#[test]
fn an_input_inside_of_the_flake_is_a_part_of_it() {
    let w = world();
    w.write(
        "flake.nix",
        "{ inputs.i.url = \"path:./i\"; outputs = { self, i }: { x = i.x; }; }",
    );
    w.write(
        "i/flake.nix",
        "{ inputs.j.url = \"path:./j\"; outputs = { self, j }: { x = import ./x.nix + j.y; }; }",
    );
    w.write("i/x.nix", "\"1\"");
    w.write("i/j/flake.nix", "{ outputs = _: { y = \"1\"; }; }");
    let target = format!("path:{}#x", w.project().display());
    // Writes the lock.
    eval(&w, &[&target]);
    settled(&w, &[&target]);
    grow_old(&w);
    assert_eq!(settled(&w, &[&target]), "\"11\"");
    for (file, text, answer) in [
        ("i/x.nix", "\"2\"", "\"21\""),
        (
            "i/j/flake.nix",
            "{ outputs = _: { y = \"2\"; }; }",
            "\"22\"",
        ),
        ("i/flake.nix", "{ outputs = _: { x = \"3\"; }; }", "\"3\""),
    ] {
        w.write(file, text);
        let (found, hit) = eval(&w, &[&target]);
        assert_eq!((&*found, hit), (answer, false), "{file}");
        // The lock has changed with it.
        eval(&w, &[&target]);
        grow_old(&w);
        assert_eq!(settled(&w, &[&target]), answer);
    }
}
