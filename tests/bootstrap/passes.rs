//! What a step finds of what the steps before have left: in its own directory, and of times.

use super::small::{content, world};
use super::write_tree;
use crate::support::is_root;

#[test]
fn what_a_pass_removes_in_its_own_directory_is_back_in_the_next() {
    let Some(w) = world() else { return };
    write_tree(
        &w,
        &[
            ("steps/a/files/one", "1\n"),
            ("steps/a/files/two", "2\n"),
            ("steps/a/files/three", "3\n"),
            (
                "steps/a/pass1.sh",
                "set -e; cd files; rm a one; echo changed > two; mv three four; echo made > five\n",
            ),
            (
                "steps/a/pass2.sh",
                "set -e; cd files; for f in *; do echo \"$f: $(cat $f)\"; done > ${PREFIX}/seen\n",
            ),
        ],
    );
    let root = w.sos(["build", "--no-link", ".#rootfs"]).ok().stdout;
    assert_eq!(
        content(&w, root.trim(), "usr/seen"),
        "a: one\nfive: made\nfour: 3\none: 1\nthree: 3\ntwo: changed\n"
    );
}

#[test]
fn no_step_leaves_a_time() {
    let Some(w) = world() else { return };
    write_tree(
        &w,
        &[
            ("steps/manifest", "build: a\nimprove: x\n"),
            (
                "steps/a/pass1.sh",
                "set -e; echo > ${PREFIX}/old; touch -d @-5 ${PREFIX}/old; stat -c %Y ${PREFIX}/old > ${PREFIX}/set\n",
            ),
            (
                "steps/improve/x.sh",
                "stat -c %Y ${PREFIX}/old > ${PREFIX}/time\n",
            ),
        ],
    );
    let root = w.sos(["build", "--no-link", ".#rootfs"]).ok().stdout;
    assert_eq!(content(&w, root.trim(), "usr/set"), "-5\n");
    assert_eq!(content(&w, root.trim(), "usr/time"), "0\n");
    // Of all files, as upstream sets them, in whatever zone.
    let times = |zone: &str| {
        // The kernel lets nobody but root set the time of /proc.
        let but = if is_root() { "" } else { "! -path /proc" };
        let script =
            format!("TZ={zone} find / -xdev {but} -exec touch -h -t 197001010000.00 {{}} +\n");
        w.write("tree/steps/improve/x.sh", &script);
        w.sos(["build", "--no-link", ".#rootfs"]).ok().stdout
    };
    let here = times("UTC");
    assert_eq!(times("EAST-14"), here);
    assert_eq!(times("WEST+12"), here);
}
