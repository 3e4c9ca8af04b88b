//! `jump`: what the machine starts with next is put in place, then its script runs.

use super::small::{content, world};
use super::write_tree;

#[test]
fn a_jump_puts_the_next_start_in_place_before_its_script_runs() {
    let Some(w) = world() else { return };
    write_tree(
        &w,
        &[
            (
                "steps/manifest",
                "improve: first\njump: j\nimprove: after\n",
            ),
            (
                "steps/improve/first.sh",
                "echo first > /init; chmod 700 /init\n",
            ),
            ("steps/jump/j.sh", "cat /init > ${PREFIX}/during\n"),
            (
                "steps/improve/after.sh",
                "ls -l /init /init.* | cut -c 1-10 > ${PREFIX}/modes; ls / | grep init > ${PREFIX}/names\n",
            ),
        ],
    );
    let next = "#!/bin/bash\nbash /steps/1.sh\n";
    let root = w.sos(["build", "--no-link", ".#rootfs"]).ok().stdout;
    let has = |path: &str| content(&w, root.trim(), path);
    assert_eq!(has("usr/during"), next);
    assert_eq!(has("init"), next);
    assert_eq!(has("init.bak"), "first\n");
    // The file that the generator leaves for it is lent to the jump alone.
    assert_eq!(has("usr/names"), "init\ninit.bak\n");
    assert_eq!(has("usr/modes"), "-rwxr-xr-x\n-rwx------\n");
    // The same lines are in what the generator would write.
    let shown = w
        .sos(["recipe", "show", "--shell", "--scripts", "tree"])
        .ok()
        .stdout;
    assert!(
        shown.contains(
            "mv /init /init.bak\ncp /init.1 /init\nchmod 755 /init\n. /steps/jump/j.sh\n"
        ),
        "{shown}"
    );
    assert!(shown.contains(next), "{shown}");
}

#[test]
fn a_jump_without_a_start_before_it_says_what_it_moves() {
    let Some(w) = world() else { return };
    write_tree(
        &w,
        &[
            ("steps/manifest", "jump: j\n"),
            ("steps/jump/j.sh", "true\n"),
        ],
    );
    w.sos(["build", "--no-link", ".#rootfs"]).fails(100).says(&[
        "note: `jump-j` runs `tree/steps/jump/j.sh`",
        "note: before it `jump-j` moves `/init` to `/init.bak`, as upstream's generator writes it: a step before makes one",
    ]);
}
