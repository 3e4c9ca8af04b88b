//! What is said of steps that look for what others have, and of devices that nobody can make.

use super::small::{take_settings, world};
use super::write_tree;

#[test]
fn who_fails_for_want_of_what_others_have_is_told_whose_it_is() {
    let Some(w) = world() else { return };
    // What is asked for in vain is in no message of the script.
    let script = "D=/steps; N=b-1.0; test -f $D/x.h || test -f $D/$N/run || test -e ${D}/c/x && echo found || exit 9\n";
    w.write("tree/steps/a/pass2.sh", script);
    w.write("tree/steps/c/notes", "");
    let run = w.sos(["build", "--no-link", ".#rootfs"]).fails(100).says(&[
        "it looked for what it was not shown:",
        "/steps/b-1.0/run, of `b-1.0`",
        "/steps/c/x, of `c`",
        "note: `a-pass2` sees its own directory and no other: a link to `tree/steps/b-1.0/run` in `tree/steps/a` shows it there",
        "note: nothing is at `tree/steps/c/x`, and no step before left it",
    ]);
    // Each name is told once.
    for name in [" /steps/b-1.0/run", "`tree/steps/b-1.0/run", " /steps/c/x"] {
        assert_eq!(run.stderr.matches(name).count(), 1, "{}", run.stderr);
    }
    assert!(!run.stderr.contains(" /steps/a/"), "{}", run.stderr);
    assert!(!run.stderr.contains("x.h"), "{}", run.stderr);
    // The advice is right.
    std::os::unix::fs::symlink("../b-1.0/run", w.project().join("tree/steps/a/run"))
        .expect("a link");
    w.write("tree/steps/a/pass2.sh", "test -f run || exit 9\n");
    w.sos(["build", "--no-link", ".#rootfs"]).ok();

    // A file from outside, named by nobody.
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    w.write(
        "tree/steps/c/sources",
        &format!("f http://127.0.0.1:9/y-1.0.txt {digest}\n"),
    );
    w.write(
        "tree/steps/a/pass2.sh",
        "N=y; cat ${D:-/external/distfiles}/$N-1.0.txt 2>/dev/null\n",
    );
    let run = w.sos(["build", "--no-link", ".#rootfs"]).fails(100).says(&[
        "/external/distfiles/y-1.0.txt, of `c`",
        "a step sees the files from outside that it declares: have `a-pass2` declare it in its `sources`",
        "`extraDistfiles.\"a\" = [ \"y-1.0.txt\" ];`",
    ]);
    let told = run.stderr.matches("/external/distfiles/y-1.0.txt");
    assert_eq!(told.count(), 1, "{}", run.stderr);
}

#[test]
fn a_script_of_its_own_is_told_what_helps_it() {
    let Some(w) = world() else { return };
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    w.write(
        "tree/steps/c/sources",
        &format!("f http://127.0.0.1:9/y-1.0.txt {digest}\n"),
    );
    w.write(
        "tree/steps/improve/x.sh",
        "set -e; cat /external/distfiles/y-1.0.txt /steps/b-1.0/run\n",
    );
    let run = w.sos(["build", "--no-link", ".#rootfs"]).fails(100).says(&[
        "note: `improve-x` runs `tree/steps/improve/x.sh`",
        "/external/distfiles/y-1.0.txt, of `c`",
        ": show it to the step: `extraDistfiles.\"x\" = [ \"y-1.0.txt\" ];`",
        "note: `improve-x` sees its own script and no directory: a step of its own, by `build`, with a link to `tree/steps/b-1.0/run` in its directory sees that",
    ]);
    assert!(
        !run.stderr.contains("steps/improve` shows"),
        "{}",
        run.stderr
    );
    // The directory of scripts is no step.
    let wrong = r#"{ improve = [ "y-1.0.txt" ]; }"#;
    w.sos(["build", "--no-link", "--arg", "extra", wrong, "."])
        .fails(3)
        .says(&[
            "`extraDistfiles` gives files to `improve`, and there is no such step",
            "give them to one of the steps whose scripts are in `steps/improve`",
        ]);
    // One that the manifest does not have now is one all the same.
    w.write("tree/steps/improve/later.sh", "true\n");
    let later = r#"{ later = [ "y-1.0.txt" ]; }"#;
    w.sos(["plan", "--arg", "extra", later, ".#rootfs"]).ok();
}

#[test]
fn the_script_of_an_extension_is_named() {
    let Some(w) = world() else { return };
    take_settings(&w);
    w.write(
        "tree/steps/helpers.sh",
        "build() { cd ${SRCDIR}/$1; [ ! -e $2 ] || . ./$2; false; }\n",
    );
    write_tree(
        &w,
        &[
            ("steps/manifest", "improve: x\n"),
            ("steps-guix/manifest", "build: c-3\n"),
            ("steps-guix/c-3/pass1.sh", "false\n"),
        ],
    );
    let failed = || {
        let set = "BUILD_GUIX_ALSO=True";
        w.sos(["build", "--no-link", "--set", set, ".#rootfs"])
            .fails(100)
    };
    failed().says(&["note: `steps-guix-c-3-pass1` runs `tree/steps-guix/c-3/pass1.sh`"]);
    std::fs::remove_file(w.project().join("tree/steps-guix/c-3/pass1.sh")).expect("a file");
    w.write("tree/steps-guix/c-3/notes", "");
    failed().says(&[
        "note: `steps-guix-c-3-pass1` has no `tree/steps-guix/c-3/pass1.sh`: it runs the usual stages of `tree/steps/helpers.sh`",
    ]);
    // A script that the main tree lends.
    w.write("tree/steps-guix/manifest", "improve: y\n");
    w.write("tree/steps/improve/y.sh", "false\n");
    failed().says(&["note: `steps-guix-improve-y` runs `tree/steps/improve/y.sh`"]);
}

#[test]
fn who_goes_on_without_what_others_have_is_named_when_asked_for() {
    let Some(w) = world() else { return };
    w.write(
        "tree/steps/a/pass2.sh",
        "if [ -e /steps/b-1.0/run ]; then echo with; else echo without; fi > ${PREFIX}/a2
for f in $(seq 100) x.h; do [ -e \"/steps/include/$f\" ] || [ -e \"../$f\" ] || [ -e \"/external/distfiles/$f\" ] || :; done
[ -e /external/distfiles/y-1.0.txt ] || [ -e /steps/c/built ] || :\n",
    );
    w.write(
        "tree/steps/c/sources",
        "f http://127.0.0.1:9/y-1.0.txt 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n",
    );
    let quiet = w.sos(["build", "--no-link", ".#rootfs"]).ok();
    assert!(!quiet.stderr.contains("b-1.0/run"), "{}", quiet.stderr);
    let other = w.root().join("other");
    let watched = w
        .sos([
            "--store",
            other.to_str().expect("a plain path"),
            "build",
            "--no-link",
            "--watch-steps",
            ".#rootfs",
        ])
        .ok()
        .says(&[
            "warning[build-undeclared]: `a-pass2` went on without files that it looked for",
            "--> tree/steps/manifest:4:",
            "/external/distfiles/y-1.0.txt, of `c`",
            "/steps/b-1.0/run, of `b-1.0`",
            "/steps/c/built, of `c`",
        ]);
    // What nobody has, as a compiler asks for headers in every place, is no file that it did without.
    let told = watched.stderr.lines();
    let told = told.filter(|line| line.trim_start().starts_with("/"));
    assert_eq!(told.count(), 3, "{}", watched.stderr);
    // Being watched changes nothing.
    assert_eq!(watched.stdout, quiet.stdout);
}

#[test]
fn who_makes_devices_is_told_that_nobody_can() {
    let Some(w) = world() else { return };
    w.write("tree/steps/improve/x.sh", "set -e; mknod /dev-x c 1 3\n");
    w.sos(["build", "--no-link", ".#rootfs"]).fails(100).says(&[
        "it wanted to make devices, which nobody may do in a user namespace:",
        "/dev-x",
        "no step can make a device",
    ]);
}

#[test]
fn who_is_told_of_another_device_learns_what_is_one() {
    let Some(w) = world() else { return };
    let link = "set -e; : > /tmp/file; ln /tmp/file ${PREFIX}/file\n";
    w.write("tree/steps/improve/x.sh", link);
    w.sos(["build", "--no-link", ".#rootfs"]).fails(100).says(&[
        "nvalid cross-device link",
        "a directory that an earlier step has made cannot be renamed in a later one",
    ]);
}
