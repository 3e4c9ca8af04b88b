//! A second evaluation is answered from the cache, and one changed byte of anything that it read is seen. Every run is a process
//! of its own.

use std::os::unix::fs::symlink;
use std::path::Path;

use super::builds::{recipe, world_with_busybox};
use crate::support::process::wait_until;
use crate::support::{Run, World, peer};

/// What the log says of a hit.
const HIT: &str = "the evaluation is that of before";

/// A world whose runs say whether they evaluated.
pub(super) fn world() -> World {
    let mut w = World::new();
    w.set("SOS_LOG", "sos=debug");
    w
}

/// Runs `sos eval` and tells what it printed and whether it was a hit.
#[track_caller]
pub(super) fn eval(w: &World, args: &[&str]) -> (String, bool) {
    let run = w.sos([&["eval"], args].concat()).ok();
    (run.stdout.trim_end().to_owned(), is_hit(&run))
}

fn is_hit(run: &Run) -> bool {
    run.stderr.contains(HIT)
}

/// Evaluates twice, and checks that the second time is a hit with the same answer.
#[track_caller]
pub(super) fn settled(w: &World, args: &[&str]) -> String {
    eval(w, args);
    let (before, _) = eval(w, args);
    let (again, hit) = eval(w, args);
    assert!(hit, "`{before}` was evaluated again");
    assert_eq!(before, again);
    again
}

/// Checks that a change is seen: the answer is another one, and it is evaluated.
#[track_caller]
pub(super) fn sees(w: &World, args: &[&str], answer: &str) {
    let (found, hit) = eval(w, args);
    assert_eq!(found, answer);
    assert!(!hit, "the answer is right, but comes from the cache");
    assert_eq!(settled(w, args), answer);
}

/// Waits until every file of the project is known by `stat`, by the program's own rule: nobody can set the time that it goes by.
pub(super) fn grow_old(w: &World) {
    wait_until("the age of all files", || {
        let now = sos_store::now_nanos();
        walkdir::WalkDir::new(w.project()).into_iter().all(|entry| {
            let meta = entry.expect("a file").metadata().expect("stat");
            !sos_store::StatKey::of(&meta).is_racy(now)
        })
    });
}

#[test]
fn a_byte_of_a_file() {
    let w = world();
    w.write("f.nix", "import ./g.nix + builtins.readFile ./t");
    w.write("g.nix", "\"a\"");
    let text = w.write("t", "b");
    assert_eq!(settled(&w, &["f.nix"]), "\"ab\"");
    w.write("g.nix", "\"c\"");
    sees(&w, &["f.nix"], "\"cb\"");
    // The same size and the same modification time, when all files are old enough to be known by `stat`.
    grow_old(&w);
    settled(&w, &["f.nix"]);
    let modified = text.metadata().expect("stat").modified().expect("a time");
    std::fs::write(&text, "d").expect("write");
    let file = std::fs::File::options()
        .write(true)
        .open(&text)
        .expect("open");
    file.set_modified(modified).expect("set the time");
    assert_eq!(
        text.metadata().expect("stat").modified().expect("a time"),
        modified
    );
    sees(&w, &["f.nix"], "\"cd\"");
    // Touched, but the same: no evaluation.
    std::fs::write(&text, "d").expect("write");
    assert!(eval(&w, &["f.nix"]).1);
}

#[test]
fn names_in_a_directory_and_files_that_appear() {
    let w = world();
    w.write(
        "f.nix",
        "builtins.attrNames (builtins.readDir ./d) ++ [ (builtins.pathExists ./later) ]",
    );
    w.write("d/a", "");
    let args = ["--strict", "f.nix"];
    assert_eq!(settled(&w, &args), "[ \"a\" false ]");
    w.write("d/b", "");
    sees(&w, &args, "[ \"a\" \"b\" false ]");
    w.write("later", "");
    sees(&w, &args, "[ \"a\" \"b\" true ]");
    std::fs::remove_file(w.project().join("d/a")).expect("remove");
    sees(&w, &args, "[ \"b\" true ]");
    // The type of an entry.
    w.write("f.nix", "builtins.readDir ./d");
    sees(&w, &args, "{ b = \"regular\"; }");
    std::fs::remove_file(w.project().join("d/b")).expect("remove");
    w.write("d/b/c", "");
    sees(&w, &args, "{ b = \"directory\"; }");
}

#[test]
fn where_links_lead() {
    let w = world();
    w.write("one/x", "1");
    w.write("two/x", "2");
    w.write("f.nix", "builtins.readFile ./link/x");
    let link = w.project().join("link");
    symlink("one", &link).expect("link");
    assert_eq!(settled(&w, &["f.nix"]), "\"1\"");
    std::fs::remove_file(&link).expect("remove");
    symlink("two", &link).expect("link");
    sees(&w, &["f.nix"], "\"2\"");
    std::fs::remove_file(&link).expect("remove");
    w.sos(["eval", "f.nix"]).fails(3);
    // An error is not kept.
    symlink("one", &link).expect("link");
    assert_eq!(eval(&w, &["f.nix"]).0, "\"1\"");
}

#[test]
fn variables_options_and_arguments() {
    let mut w = world();
    w.write(
        "f.nix",
        "{ sos, a ? \"none\" }: [ (builtins.getEnv \"COLOUR\") a (import <dep>) builtins.currentSystem ]",
    );
    w.write("one/dep/default.nix", "1");
    w.write("two/dep/default.nix", "2");
    let args = ["--strict", "-I", "one", "f.nix"];
    let plain = settled(&w, &args);
    assert!(plain.starts_with("[ \"\" \"none\" 1 "), "{plain}");
    w.set("COLOUR", "red");
    let red = plain.replacen("\"\"", "\"red\"", 1);
    sees(&w, &args, &red);
    w.set("UNRELATED", "yes");
    assert!(eval(&w, &args).1, "a variable that nothing reads");
    let given = |w: &World, more: &[&str]| eval(w, &[&args[..], more].concat());
    let expected = red.replacen("none", "x", 1);
    assert_eq!(given(&w, &["--argstr", "a", "x"]), (expected, false));
    let expected = red.replacen("\"none\"", "5", 1);
    assert_eq!(given(&w, &["--arg", "a", "2 + 3"]), (expected, false));
    let expected = red.replacen(" 1 ", " 2 ", 1);
    let two = ["--strict", "-I", "two", "f.nix"];
    assert_eq!(eval(&w, &two), (expected.clone(), false));
    w.set("NIX_PATH", "two");
    assert_eq!(eval(&w, &["--strict", "f.nix"]), (expected.clone(), false));
    w.set("NIX_PATH", "one");
    assert_eq!(eval(&w, &["--strict", "f.nix"]), (red.clone(), false));
    let other = given(&w, &["--config", "build.system=riscv64-linux"]);
    assert!(other.0.contains("riscv64-linux") && !other.1, "{other:?}");
    // A file that comes before the one that was found.
    w.set("NIX_PATH", "new:one");
    assert_eq!(settled(&w, &["--strict", "f.nix"]), red);
    w.write("new/dep/default.nix", "3");
    sees(&w, &["--strict", "f.nix"], &red.replacen(" 1 ", " 3 ", 1));
}

#[test]
fn the_lock_file() {
    let w = world();
    let lock = |digit: char| {
        let digest = String::from(digit).repeat(64);
        format!("{}sha256 = \"{digest}\"\nsize = 1\n", LOCK_HEAD)
    };
    w.write("f.nix", "{ sos }: (sos.fetchurl { url = \"https://a.example/x\"; }).outputHash or (sos.fetchurl { url = \"https://a.example/x\"; }).drvPath");
    w.write("sos.lock", &lock('1'));
    let args = ["--locked", "f.nix"];
    let first = settled(&w, &args);
    w.write("sos.lock", &lock('2'));
    let (second, hit) = eval(&w, &args);
    assert!(first != second && !hit, "{first} {second}");
    std::fs::remove_file(w.project().join("sos.lock")).expect("remove");
    w.sos(["eval", "--locked", "f.nix"]).fails(3);
}

/// The beginning of a lock with one URL.
const LOCK_HEAD: &str = "version = 1\n\n[[url]]\nurl = \"https://a.example/x\"\n";

#[test]
fn a_source_tree_in_the_store() {
    let w = world();
    w.write("src/a", "a");
    w.write("src/sub/b", "b");
    w.write("f.nix", "\"${./src}\"");
    let args = ["--raw", "f.nix"];
    let first = settled(&w, &args);
    let changed = |what: &str| {
        let (found, hit) = eval(&w, &args);
        assert!(found != first && !hit, "{what}");
        assert_eq!(settled(&w, &args), found);
    };
    w.write("src/sub/b", "c");
    changed("a byte");
    w.write("src/sub/b", "b");
    assert_eq!(eval(&w, &args).0, first);
    w.write("src/sub/new", "");
    changed("a new file");
    std::fs::remove_file(w.project().join("src/sub/new")).expect("remove");
    assert_eq!(eval(&w, &args).0, first);
    set_executable(&w.project().join("src/a"));
    changed("an executable bit");
    // A filter: what it left out does not count, a name that it was not asked about does.
    w.write(
        "f.nix",
        "\"${builtins.path { path = ./src; name = \"s\"; filter = p: t: baseNameOf p != \"out\"; }}\"",
    );
    w.write("src/out", "1");
    let filtered = settled(&w, &args);
    w.write("src/out", "2");
    assert_eq!(eval(&w, &args), (filtered.clone(), true));
    w.write("src/in", "");
    let (found, hit) = eval(&w, &args);
    assert!(found != filtered && !hit);
}

#[test]
fn an_object_that_was_collected_is_made_again() {
    let w = world();
    w.write("src/a", "a");
    w.write("f.nix", "\"${./src} ${builtins.toFile \"t\" \"text\"}\"");
    let before = settled(&w, &["--raw", "f.nix"]);
    w.sos(["gc"]).ok();
    let object = before.split(' ').next().expect("a path");
    w.sos(["store", "info", object]).fails(1);
    assert_eq!(eval(&w, &["--raw", "f.nix"]), (before.clone(), false));
    w.sos(["store", "info", object]).ok();
    assert!(eval(&w, &["--raw", "f.nix"]).1);
}

#[test]
fn small_sources_are_in_the_store_when_they_are_needed() {
    let w = world();
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        w.write(name, name);
    }
    // What was just named is read from the store in the same evaluation.
    w.write(
        "f.nix",
        "let all = map (n: \"${./. + \"/${n}\"}\") [ \"a\" \"b\" \"c\" \"d\" \"e\" ];
         in builtins.concatStringsSep \" \" (all ++ map builtins.readFile all)",
    );
    let args = ["--no-eval-cache", "--raw", "f.nix"];
    let (first, _) = eval(&w, &args);
    let words: Vec<&str> = first.split(' ').collect();
    assert_eq!(words[5..], names);
    for round in ["new", "not changed, but collected"] {
        for object in &words[..5] {
            w.sos(["store", "info", object]).ok();
        }
        w.sos(["gc"]).ok();
        w.sos(["store", "info", words[0]]).fails(1);
        grow_old(&w);
        assert_eq!(eval(&w, &args).0, first, "{round}");
        assert_eq!(eval(&w, &args).0, first, "{round}, known");
    }
    // An evaluation that fails leaves the store in order, and a file that is gone is an error of its own.
    w.write("g.nix", "\"${./a}\" + throw \"${./b} no\"");
    w.sos(["eval", "--no-eval-cache", "g.nix"]).fails(3);
    std::fs::remove_file(w.project().join("c")).expect("remove");
    w.sos([&["eval"], &args[..]].concat()).fails(3);
    w.sos(["store", "check"]).ok();
}

fn set_executable(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn what_cannot_be_kept_is_not_and_messages_are_said_again() {
    let w = world();
    for expression in [
        "builtins.currentTime > 0",
        "[ builtins.currentTime ] != [ ]",
    ] {
        for _ in 0..2 {
            let (found, hit) = eval(&w, &["-E", expression]);
            // The second one never needs the time.
            assert_eq!(
                (found.as_str(), hit && expression.contains('>')),
                ("true", false)
            );
        }
    }
    for _ in 0..3 {
        let run = w.sos(["eval", "-E", "builtins.trace \"listen\" 1"]).ok();
        assert!(run.stderr.contains("listen"), "{}", run.stderr);
    }
    assert!(eval(&w, &["-E", "builtins.trace \"listen\" 1"]).1);
    for how in [&["--no-eval-cache"][..], &["--config", "eval.cache=false"]] {
        assert!(!eval(&w, &[how, &["-E", "builtins.trace \"listen\" 1"]].concat()).1);
    }
}

#[test]
fn a_build_of_what_is_there_and_of_what_is_not() {
    let Some(mut w) = world_with_busybox() else {
        return;
    };
    w.set("SOS_LOG", "sos=debug");
    w.write("text", "one");
    let inner = recipe("inner", "cat $text > $out", "text = ./text;");
    w.write(
        "f.nix",
        &recipe(
            "outer",
            "echo 1; echo $dep > $out",
            &format!("dep = {inner};"),
        ),
    );
    let args = ["build", "f.nix", "--no-link"];
    // A plan evaluates, and a build after it: the source must be in the store.
    assert!(!is_hit(&w.sos(["plan", "f.nix"]).ok()));
    let planned = w.sos(["plan", "f.nix"]).ok();
    assert!(
        is_hit(&planned) && planned.stdout.contains("inner"),
        "{planned:?}"
    );
    let built = w.sos(args).ok().says(&["built 2"]);
    assert!(!is_hit(&built));
    let again = w.sos(args).ok().says(&["built 0"]);
    assert!(is_hit(&again) && again.stdout == built.stdout, "{again:?}");
    // The results go, the sources too: it must be evaluated and built.
    w.sos(["gc"]).ok();
    let rebuilt = w.sos(args).ok().says(&["built 2"]);
    assert_eq!(rebuilt.stdout, built.stdout);
    w.write("text", "two");
    let other = w.sos(args).ok();
    assert!(!is_hit(&other));
    assert_ne!(other.stdout, built.stdout);
}

#[test]
fn an_import_from_a_derivation() {
    let Some(mut w) = world_with_busybox() else {
        return;
    };
    w.set("SOS_LOG", "sos=debug");
    let made = recipe("made", "echo 41 > $out", "");
    w.write("f.nix", &format!("import ({made}) + 1"));
    let args = ["f.nix"];
    assert_eq!(settled(&w, &args), "42");
    w.sos(["gc"]).ok();
    assert_eq!(eval(&w, &args), ("42".to_owned(), false));
    w.write(
        "f.nix",
        &format!("import ({}) + 1", made.replace("41", "42")),
    );
    sees(&w, &args, "43");
}

#[test]
fn a_failed_build_names_its_place_again() {
    let Some(mut w) = world_with_busybox() else {
        return;
    };
    w.set("SOS_LOG", "sos=debug");
    w.write("f.nix", &recipe("failing", "exit 3", ""));
    let place = |run: &Run| run.stderr.contains("f.nix:1:");
    let first = w.sos(["build", "f.nix"]).fails(100);
    let second = w.sos(["build", "f.nix"]).fails(100);
    assert!(!is_hit(&first) && is_hit(&second));
    assert_eq!(place(&first), place(&second), "{}", second.stderr);
}

#[test]
fn a_flake_in_a_directory() {
    let w = world();
    w.write(
        "flake.nix",
        "{ outputs = { self }: { x = import ./x.nix; }; }",
    );
    w.write("x.nix", "1");
    let place = format!("path:{}#x", w.project().display());
    let args = [place.as_str()];
    assert_eq!(settled(&w, &args), "1");
    w.write("x.nix", "2");
    sees(&w, &args, "2");
    // Old enough to be known by `stat`, and reached through a link.
    let link = w.root().join("link");
    symlink(w.project(), &link).expect("link");
    let through = format!("path:{}#x", link.display());
    grow_old(&w);
    assert_eq!(settled(&w, &[&through]), "2");
    w.write("x.nix", "3");
    sees(&w, &[&through], "3");
    sees(&w, &args, "3");
    w.write(
        "flake.nix",
        "{ outputs = { self }: { x = self ? lastModified && self.lastModified > 5; }; }",
    );
    sees(&w, &args, "true");
}

#[test]
fn a_flake_in_a_repository() {
    let Some(git) = peer("git") else {
        return;
    };
    let w = world();
    let git = |args: &[&str]| {
        let done = std::process::Command::new(&git)
            .args(["-c", "user.name=a", "-c", "user.email=a@b.example"])
            .args(args)
            .current_dir(w.project())
            .output()
            .expect("git runs");
        assert!(done.status.success(), "{done:?}");
    };
    w.write("flake.nix", "{ outputs = { self }: { x = import ./x.nix + (if self ? rev then \" clean\" else \" dirty\"); }; }");
    w.write("x.nix", "\"1\"");
    git(&["init", "-q"]);
    git(&["add", "."]);
    let args = [".#x"];
    assert_eq!(settled(&w, &args), "\"1 dirty\"");
    // The warning is said again.
    let again = w.sos(["eval", ".#x"]).ok().says(&["is dirty"]);
    assert!(is_hit(&again));
    git(&["commit", "-qm", "one"]);
    sees(&w, &args, "\"1 clean\"");
    w.write("unrelated", "");
    assert!(eval(&w, &args).1, "a file that git does not track");
    grow_old(&w);
    settled(&w, &args);
    w.write("x.nix", "\"2\"");
    sees(&w, &args, "\"2 dirty\"");
    git(&["checkout", "-q", "x.nix"]);
    sees(&w, &args, "\"1 clean\"");
    git(&["commit", "-qm", "two", "--allow-empty"]);
    assert!(!eval(&w, &args).1, "another revision");
}

#[test]
fn a_file_that_became_a_pipe_or_a_device_is_not_waited_for() {
    let w = world();
    w.write("f.nix", "builtins.readFile ./t");
    let text = w.write("t", "b");
    assert_eq!(settled(&w, &["f.nix"]), "\"b\"");
    std::fs::remove_file(&text).expect("remove");
    let made = std::process::Command::new("mkfifo").arg(&text).status();
    assert!(made.expect("mkfifo").success());
    let run = w.sos(["eval", "f.nix"]).fails(3);
    assert!(
        run.stderr.contains("neither a file nor a directory"),
        "{}",
        run.stderr
    );
    std::fs::remove_file(&text).expect("remove");
    symlink("/dev/zero", &text).expect("link");
    w.sos(["eval", "f.nix"]).fails(3);
    std::fs::remove_file(&text).expect("remove");
    symlink("/dev/null", &text).expect("link");
    assert_eq!(eval(&w, &["f.nix"]).0, "\"\"");
}

#[test]
fn what_changes_without_a_trace_is_read_again() {
    let w = world();
    w.write("up.nix", "builtins.readFile \"/proc/uptime\"");
    let first = eval(&w, &["up.nix"]).0;
    wait_until("the next hundredth of a second", || {
        std::fs::read_to_string("/proc/uptime").expect("the time")
            != first.trim_matches('"').replace("\\n", "\n")
    });
    let (second, hit) = eval(&w, &["up.nix"]);
    assert!(!hit && first != second, "{first} {second}");
}
