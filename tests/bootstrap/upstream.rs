//! live-bootstrap as it is, as far as it goes without a file from outside: stage0, the seed and the first two steps.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use super::upstream;
use crate::support::{World, run, say, slow, steps};

fn files(path: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(path).expect("as the test has it");
    let pair = |line: &str| {
        let (digest, name) = line.split_once("  ").expect("as the test has it");
        (name.trim_start_matches('/').to_owned(), digest.to_owned())
    };
    text.lines().map(pair).collect()
}

/// The digest of a file of a root, computed by coreutils.
fn digest(w: &World, root: &str, path: &str) -> String {
    let out = w.root().join("digested");
    let place = format!("{root}/{path}");
    let cat = w
        .command()
        .args(["store", "cat", place.trim_end_matches('/')])
        .output()
        .expect("as the test has it");
    assert!(
        cat.status.success(),
        "{}",
        String::from_utf8_lossy(&cat.stderr)
    );
    std::fs::write(&out, cat.stdout).expect("as the test has it");
    let sum = Command::new("sha256sum")
        .arg(&out)
        .output()
        .expect("as the test has it");
    String::from_utf8(sum.stdout)
        .expect("as the test has it")
        .split(' ')
        .next()
        .expect("as the test has it")
        .to_owned()
}

#[test]
fn it_runs_to_the_first_file_that_is_missing() {
    let Some(tree) = upstream() else { return };
    let mut w = World::new();
    if steps::possible(&w).is_none() {
        return;
    }
    // Nothing may be asked of the network.
    w.set("SOS_MIRRORS_DISTFILES", "file:///nonexistent");
    let target = tree.display().to_string();
    let build = [
        "build",
        "--no-link",
        "--offline",
        "--set",
        "ARCH=amd64",
        target.as_str(),
    ];
    let missing = [
        "mes-0.27.1.tar.gz",
        "mes-0.27.1-pass1",
        "183a40ea47ea49f8a1e3bd1b9d12e676374d64d63bc79e7bc1ae7d673dfdf25d",
        "https://",
    ];
    w.sos(build).fails(5).says(&missing);
    let again = Instant::now();
    w.sos(build).fails(5).says(&missing);
    eprintln!("the same again took {:?}", again.elapsed());

    // Every command of stage0 for itself gives what upstream says, and so does the whole.
    let whole = format!("{target}#stage0");
    let whole = w
        .sos(["build", "--no-link", "--set", "ARCH=amd64", &whole])
        .ok()
        .stdout;
    let answers = files(&tree.join("seed/stage0-posix/amd64.answers"));
    assert_eq!(answers.len(), 19);
    for (path, expect) in &answers {
        assert_eq!(&digest(&w, whole.trim(), path), expect, "{path}");
        let name = path.rsplit('/').next().expect("as the test has it");
        let one = format!("{target}#stage0.{name}");
        let one = w
            .sos(["build", "--no-link", "--set", "ARCH=amd64", &one])
            .ok()
            .stdout;
        assert_eq!(&digest(&w, one.trim(), ""), expect, "{path}");
    }
    // The root in which they were compared is the one that the steps began with.
    for name in ["amd64.answers", "\"amd64.answers\""] {
        let one = format!("{target}#stage0.{name}");
        let run = w.sos(["build", "--no-link", "--set", "ARCH=amd64", &one]);
        let root = run.ok().says(&["built 0,"]).stdout;
        assert!(root.trim().ends_with("-stage0-amd64.answers"), "{root}");
    }
    let last = format!("{target}#simple-patch-1.0");
    let root = w
        .sos([
            "build",
            "--no-link",
            "--offline",
            "--set",
            "ARCH=amd64",
            &last,
        ])
        .ok()
        .stdout;
    for (step, path) in [
        ("checksum-transcriber-1.0", "usr/bin/checksum-transcriber"),
        ("simple-patch-1.0", "usr/bin/simple-patch"),
    ] {
        let pins = files(&tree.join(format!("steps/{step}/{step}.amd64.checksums")));
        let expect = pins
            .iter()
            .find(|(name, _)| name == path)
            .expect("as the test has it");
        assert_eq!(digest(&w, root.trim(), path), expect.1);
    }
    for tool in ["configurator", "script-generator"] {
        let pins = files(&tree.join(format!("seed/{tool}.amd64.checksums")));
        assert_eq!(digest(&w, root.trim(), tool), pins[0].1);
    }
}

#[test]
fn edits_are_done_again_where_they_are_and_no_further() {
    let Some(tree) = upstream() else { return };
    let mut w = World::new();
    if steps::possible(&w).is_none() {
        return;
    }
    w.set("SOS_MIRRORS_DISTFILES", "file:///nonexistent");
    let copy = w.project().join("up");
    run(Command::new("cp").arg("-a").arg(&tree).arg(&copy)).ok();
    let last = [
        "build",
        "--no-link",
        "--offline",
        "--set",
        "ARCH=amd64",
        "up#simple-patch-1.0",
    ];
    w.sos(last).ok();
    // A comment in a source of one command: that one runs again, and makes the same.
    let source = copy.join("seed/stage0-posix/AMD64/cc_amd64.M1");
    append(&source, "# why\n");
    w.sos(last).ok().says(&["built 1,"]);
    w.sos(last).ok().says(&["built 0,"]);
    // A byte of a pin: its step fails, and nothing before it runs again.
    let pin = copy.join("steps/simple-patch-1.0/simple-patch-1.0.amd64.checksums");
    let right = std::fs::read_to_string(&pin).expect("pins");
    let first = right.chars().next().expect("a digit");
    let other = if first == '0' { "1" } else { "0" };
    std::fs::write(&pin, format!("{other}{}", &right[1..])).expect("pins");
    w.sos(last)
        .fails(100)
        .says(&["simple-patch-1.0-pass1", "built 0,", "failed 1"]);
    std::fs::write(&pin, right).expect("pins");
    w.sos(last).ok().says(&["built 0,"]);
    // Another variable: the root with it, the seed, which copies it, and two steps; stage0 and its answers know of none.
    let set = [&last[..5], &["--set", "BUILD_KERNELS=True", last[5]]].concat();
    w.sos(set).ok().says(&["built 4,"]);
}

fn append(file: &Path, text: &str) {
    let mut all = std::fs::read_to_string(file).expect("a source");
    all.push_str(text);
    std::fs::write(file, all).expect("a source");
}

/// Minutes: `int $0x80` costs a hundred times what `syscall` does in a virtual machine.
#[test]
fn stage0_of_x86_has_its_digests() {
    let Some(tree) = upstream() else { return };
    if !slow() {
        say("skipped: stage0 of x86 takes minutes; SOS_TEST_SLOW=1 runs it");
        return;
    }
    let w = World::new();
    if steps::possible(&w).is_none() {
        return;
    }
    let target = format!("{}#stage0", tree.display());
    let build = [
        "build",
        "--no-link",
        "--offline",
        "--set",
        "ARCH=x86",
        &target,
    ];
    let whole = w.sos(build).ok().stdout;
    let answers = files(&tree.join("seed/stage0-posix/x86.answers"));
    assert_eq!(answers.len(), 19);
    for (path, expect) in &answers {
        assert_eq!(&digest(&w, whole.trim(), path), expect, "{path}");
    }
}

#[test]
fn the_seed_of_another_architecture_is_looked_for_before_it_is_built() {
    let Some(tree) = upstream() else { return };
    let w = World::new();
    let target = format!("{}#stage0", tree.display());
    let plan = |dir: &[&str]| {
        let words = [&["plan", &target, "--set", "ARCH=aarch64"], dir].concat();
        w.sos(words)
    };
    plan(&[]).fails(3).says(&[
        "error[bootstrap-missing]",
        "POSIX/aarch64/kaem-optional-seed",
        "`--set ARCH_DIR=AArch64`",
    ]);
    for (dir, said) in [
        ("ARCH_DIR=", "ARCH_DIR is ``, and there is no "),
        ("ARCH_DIR=foo", "ARCH_DIR is `foo`, and "),
    ] {
        plan(&["--set", dir]).fails(3).says(&[
            said,
            "one of `AArch64`, `AMD64`, ",
            "`--set ARCH_DIR=AArch64`",
        ]);
    }
    plan(&["--set", "ARCH_DIR=AArch64"]).ok();
}
