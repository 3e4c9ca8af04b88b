//! Bad input gives one clear error with a place, the right exit code, and leaves nothing behind.

use std::os::unix::fs::PermissionsExt as _;

use super::builds::{recipe, world_with_busybox};
use crate::support::user::User;
use crate::support::{Run, World, left_nothing, run};

#[test]
fn a_builder_that_fails() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write(
        "f.nix",
        &recipe("broken", "echo about to fail; echo x > $out; exit 3", ""),
    );
    w.sos(["build", "f.nix"]).fails(100).says(&[
        "error[build-failed]",
        "broken",
        "exit status 3",
        "about to fail",
        "sos log",
    ]);
    left_nothing(&w, "broken");
}

#[test]
fn a_builder_that_hangs() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("stuck", "/bin/busybox sleep 600", ""));
    w.sos(["build", "f.nix", "--timeout", "1"])
        .fails(101)
        .says(&["error[build-timeout]", "stuck"]);
    left_nothing(&w, "stuck");
}

#[test]
fn a_builder_that_writes_nothing() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("lazy", "true", ""));
    w.sos(["build", "f.nix"])
        .fails(100)
        .says(&["error[build-no-output]", "lazy", "out"]);
    left_nothing(&w, "lazy");
}

#[test]
fn a_builder_that_is_not_there() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write(
        "f.nix",
        "derivation { name = \"x\"; system = \"x86_64-linux\"; builder = \"/bin/bash\"; }",
    );
    w.sos(["build", "f.nix"]).fails(100).says(&[
        "error[build-no-builder]",
        "/bin/bash",
        "only declared inputs",
    ]);
}

#[test]
fn a_system_that_is_not_this_one() {
    let w = World::new();
    w.write(
        "f.nix",
        "derivation { name = \"x\"; system = \"riscv64-linux\"; builder = \"/bin/sh\"; }",
    );
    w.sos(["build", "f.nix"]).fails(4).says(&[
        "error[env-wrong-system]",
        "riscv64-linux",
        "--> f.nix:1:14",
    ]);
    w.write(
        "sos.nix",
        "{ sos, ... }:\nsos.run {\n  name = \"step\";\n  rootfs = ./.;\n  arch = \"riscv64\";\n  script = \"true\";\n}\n",
    );
    w.sos(["build"]).fails(4).says(&[
        "error[env-wrong-system]: `step` needs riscv64-linux",
        "--> sos.nix:",
    ]);
}

#[test]
fn what_each_build_would_make_anew() {
    let w = World::new();
    w.write(
        "f.nix",
        "let d = a: derivation ({ system = \"x86_64-linux\"; builder = \"/bin/sh\"; } // a);\nin d { name = \"user\"; x = d { name = \"now\"; __impure = true; }; }\n",
    );
    // Its derivations can be looked at.
    let drv = w.sos(["eval", "--raw", "f.nix", "-A", "x.drvPath"]).ok();
    assert!(drv.stdout.ends_with("-now.drv"), "{}", drv.stdout);
    w.sos(["build", "f.nix"]).fails(3).says(&[
        "error[build-impure]: `now` has `__impure = true`",
        "--> f.nix:2:",
        "help: pin what it gives with `outputHash`",
    ]);
}

#[test]
fn every_wrong_argument_of_a_call_is_told_at_its_place() {
    let w = World::new();
    w.write(
        "sos.nix",
        "{ sos, ... }:\nsos.run {\n  name = \"step\";\n  rootfs = ./.;\n  script = [ \"true\" ];\n  timeout = \"5\";\n  mounts = 1;\n}\n",
    );
    let run = w.sos(["check"]).fails(3).says(&[
        "`script` of sos.run { name = \"step\"; } must be a string, and is a list",
        "--> sos.nix:5:3",
        "`timeout` of sos.run { name = \"step\"; } must be a whole number, and is a string",
        "--> sos.nix:6:3",
        "`mounts` of sos.run { name = \"step\"; } must be a set, and is a int",
        "--> sos.nix:7:3",
    ]);
    assert_eq!(run.stderr.matches("error[recipe-wrong-type]").count(), 3);
}

#[test]
fn a_missing_keyring_is_told_once() {
    let w = World::new();
    w.write(
        "x.rootfs.toml",
        "name = \"x\"\nsuite = \"test\"\nepoch = 1\nkeyring = \"keys/none.asc\"\napt = \"https://deb.example/debian\"\n",
    );
    let run = w
        .sos(["check", "x.rootfs.toml"])
        .fails(3)
        .says(&["keys/none.asc", "x.rootfs.toml:4:"]);
    assert_eq!(run.stderr.matches("error[").count(), 1, "{}", run.stderr);
}

#[test]
fn the_trace_shows_the_library_when_asked_and_the_error_last() {
    let w = World::new();
    w.write(
        "sos.nix",
        "{ sos, ... }: sos.run { name = \"x\"; rootfs = ./.; script = \"\"; result = \"disk\"; }",
    );
    let short = w.sos(["check"]).fails(3).stderr;
    assert!(!short.contains(".sos-builtin"), "{short}");
    assert!(short.contains("`--show-trace` shows them"), "{short}");
    let long = w.sos(["check", "--show-trace"]).fails(3).stderr;
    let last_frame = long
        .rfind("/.sos-builtin/")
        .expect("a frame of the library");
    let error = long.find("error[").expect("the error");
    assert!(last_frame < error, "{long}");
}

#[test]
fn every_wrong_hash_of_a_run_is_reported() {
    let w = World::new();
    let a = w.write("a.txt", "a\n");
    let b = w.write("b.txt", "b\n");
    let fetch = |name: &str, path: &std::path::Path| {
        format!(
            "sos.fetchurl {{ name = \"{name}\"; url = \"file://{}\"; sha256 = \"0000000000000000000000000000000000000000000000000000\"; }}",
            path.display()
        )
    };
    w.write(
        "sos.nix",
        &format!(
            "{{ sos, ... }}: [ ({}) ({}) ]",
            fetch("one", &a),
            fetch("two", &b)
        ),
    );
    w.sos(["build", "-k"])
        .fails(102)
        .says(&["hash-mismatch", "one", "two", "expected", "found"]);
    left_nothing(&w, "one");
}

#[test]
fn a_wrong_hash_is_told_in_the_notation_of_the_recipe() {
    let w = World::new();
    let a = w.write("a.txt", "a\n");
    let fetch = |hash: &str| {
        format!(
            "{{ sos, ... }}: sos.fetchurl {{ name = \"one\"; url = \"file://{}\"; sha256 = \"{hash}\"; }}",
            a.display()
        )
    };
    let wrong = "0".repeat(52);
    w.write("sos.nix", &fetch(&wrong));
    let run = w.sos(["build", "--no-link"]).fails(102).says(&[&wrong]);
    let found = run
        .stderr
        .split(|c: char| !c.is_ascii_alphanumeric())
        .find(|word| word.len() == 52 && **word != wrong)
        .expect("the other hash in the same notation")
        .to_owned();
    w.write("sos.nix", &fetch(&found));
    w.sos(["build", "--no-link"]).ok();
}

#[test]
fn the_hash_of_a_local_file_is_told_and_put_right_as_it_is_written() {
    let w = World::new();
    w.write("a.txt", "a\n");
    for (wrong, recursive) in [("0".repeat(52), true), ("0".repeat(64), false)] {
        let text = format!(
            "builtins.path {{ path = ./a.txt; sha256 = \"{wrong}\"; recursive = {recursive}; }}"
        );
        w.write("f.nix", &text);
        let run = w.sos(["eval", "f.nix"]).fails(102).says(&[&wrong]);
        let words = run.stderr.split(|c: char| !c.is_ascii_alphanumeric());
        let mut alike = words.filter(|word| word.len() == wrong.len() && **word != wrong);
        let found = alike.next().expect("the other hash in the same notation");
        w.write("f.nix", &text.replace(&wrong, found));
        w.sos(["eval", "f.nix"]).ok();
    }
    // What needs no store is known while checking.
    let text = format!(
        "derivation {{ name = \"x\"; system = \"x\"; builder = \"/b\"; src = builtins.path {{ path = ./a.txt; sha256 = \"{}\"; recursive = false; }}; }}",
        "0".repeat(64)
    );
    w.write("f.nix", &text);
    w.sos(["check", "f.nix"]).fails(102);
    w.sos(["check", "--fix", "f.nix"]).ok();
    w.sos(["eval", "f.nix"]).ok();
}

#[test]
fn a_cycle_is_named() {
    let w = World::new();
    w.write("f.nix", "let a = derivation { name = \"a\"; system = \"x\"; builder = b; }; b = derivation { name = \"b\"; system = \"x\"; builder = a; }; in a");
    w.sos(["build", "f.nix"]).fails(3).says(&["error[eval-"]);
}

#[test]
fn recipe_errors_come_all_at_once_with_their_places() {
    let w = World::new();
    w.write("x.rootfs.toml", "name = \"x\"\nsuit = \"bookworm\"\nvariant = \"tiny\"\nepoch = 1\n[[user]]\nname = \"Root User\"\n");
    let run = w.sos(["check", "x.rootfs.toml"]).fails(3);
    let run = run.says(&[
        "x.rootfs.toml:2:1",
        "suit",
        "suite",
        "x.rootfs.toml:3:",
        "tiny",
        "minbase",
        "x.rootfs.toml:6:",
        "Root User",
    ]);
    assert!(!w.project().join("sos.lock").exists());
    assert!(run.stdout.is_empty());
}

#[test]
fn locked_refuses_to_make_a_lock() {
    let w = World::new();
    w.write(
        "x.rootfs.toml",
        "name = \"x\"\nsuite = \"bookworm\"\nvariant = \"essential\"\nepoch = 1\n",
    );
    w.sos(["build", "--locked", "x.rootfs.toml"])
        .fails(3)
        .says(&["error[lock-missing]", "run `sos lock x.rootfs.toml` and"]);
    w.write("sos.nix", "{ sos, ... }: sos.debian.rootfs ./x.rootfs.toml");
    w.sos(["build", "--locked"])
        .fails(3)
        .says(&["error[lock-missing]", "run `sos lock` and"]);
    let expression = "import ./sos.nix { sos = import <sos>; }";
    w.sos(["build", "--locked", "-E", expression])
        .fails(3)
        .says(&[&format!("run `sos lock --expr '{expression}'` and")]);
    assert!(!w.project().join("sos.lock").exists());
}

#[test]
fn a_dead_mirror_is_named_and_no_lock_is_written() {
    let mut w = World::new();
    // Nothing listens on the discard port of loopback.
    w.set("SOS_MIRRORS_DEBIAN", "http://127.0.0.1:9/debian");
    w.write(
        "x.rootfs.toml",
        "name = \"x\"\nsuite = \"bookworm\"\nvariant = \"essential\"\nepoch = 1\n",
    );
    w.sos(["build", "x.rootfs.toml"])
        .fails(5)
        .says(&["error[fetch-", "127.0.0.1:9"]);
    assert!(!w.project().join("sos.lock").exists());
}

#[test]
fn offline_without_a_download_says_what_is_missing() {
    let w = World::new();
    w.write(
        "sos.nix",
        "{ sos, ... }: sos.fetchurl { url = \"http://mirror.example/x.tar.gz\"; sha256 = \"0000000000000000000000000000000000000000000000000000\"; }",
    );
    w.sos(["build", "--offline"])
        .fails(5)
        .says(&["error[fetch-offline]", "x.tar.gz"]);
}

#[test]
fn bytes_that_are_no_text_are_shown_where_they_stand() {
    let w = World::new();
    let rootfs = w.project().join("a.rootfs.toml");
    std::fs::write(&rootfs, b"suite = \"bookworm\"\nhostname = \"\xff\"\n").expect("write");
    w.sos(["check", "a.rootfs.toml"]).fails(3).says(&[
        "error[recipe-not-utf8]",
        "byte 0xff",
        "a.rootfs.toml:2:13",
        "help: `iconv",
    ]);
    std::fs::write(w.project().join("a.nix"), b"{ a = \xff; }\n").expect("write");
    w.sos(["eval", "--file", "a.nix"]).fails(3).says(&[
        "error[parse-syntax]",
        "byte 0xff is not UTF-8",
        "a.nix:1:7",
    ]);
}

#[test]
fn what_is_no_file_is_refused_at_once() {
    let w = World::new();
    let pipe = w.project().join("pipe.nix");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.expect("mkfifo").success());
    w.sos(["eval", "--file", "pipe.nix"])
        .fails(3)
        .says(&["pipe.nix", "neither a file nor a directory"]);
}

/// Runs sos as somebody whom modes keep from files, which they do not keep root from.
fn as_ordinary(w: &mut World, args: &[&str]) -> Option<Run> {
    if !crate::support::is_root() {
        return Some(w.sos(args));
    }
    let user = User::new("closed", false)?;
    let _copy = w.with_program_for(&user);
    Some(run(user.becomes(&mut w.command_of(args))))
}

#[test]
fn a_directory_that_cannot_be_read_is_not_called_empty() {
    let mut w = World::new();
    let dir = w.project().join("closed");
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o000)).expect("chmod");
    let Some(run) = as_ordinary(&mut w, &["build", "closed"]) else {
        return;
    };
    run.fails(4)
        .says(&["error[target-unreadable]", "closed", "ls -ld"]);
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o700)).expect("chmod");
}

#[test]
fn a_misspelt_argument_names_the_function_of_the_library() {
    let w = World::new();
    w.write(
        "sos.nix",
        "{ sos, ... }: { a = sos.run { name = \"a\"; rootfs = null; scrpt = \"true\"; }; }",
    );
    w.sos(["check", ".#a"])
        .fails(3)
        .says(&["'run'", "scrpt", "did you mean `script`"]);
}

#[test]
fn a_name_of_any_length_is_shown_in_part() {
    let w = World::new();
    w.write("f.nix", &"a".repeat(200_000));
    let run = w.sos(["eval", "--file", "f.nix"]).fails(3);
    let run = run.says(&["undefined variable", "aaa…"]);
    assert!(run.stderr.len() < 10_000, "{} bytes", run.stderr.len());
}

#[test]
fn a_link_without_a_directory_is_refused_before_the_build() {
    let w = World::new();
    w.write("f.nix", "{ a = throw \"evaluated\"; }");
    w.sos(["build", "f.nix#a", "-o", "nowhere/result"])
        .fails(2)
        .says(&["error[link-no-directory]", "`nowhere`", "mkdir -p nowhere"]);
    assert!(!w.project().join("nowhere").exists());
}

#[test]
fn a_link_that_cannot_be_made_is_refused_before_the_build() {
    let mut w = World::new();
    w.write("f.nix", "{ a = throw \"evaluated\"; }");
    w.write("plain", "");
    w.sos(["build", "f.nix#a", "-o", "plain"])
        .fails(1)
        .says(&["error[store-root-not-a-link]", "`plain` is there already"]);
    let dir = w.project().join("closed");
    std::fs::create_dir(&dir).expect("mkdir");
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o555)).expect("chmod");
    if let Some(run) = as_ordinary(&mut w, &["build", "f.nix#a", "-o", "closed/result"]) {
        run.fails(2)
            .says(&["error[link-not-writable]", "`closed`", "--no-link"]);
    }
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).expect("chmod");
}
