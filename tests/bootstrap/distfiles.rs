//! Files from outside as steps have them: copies of their own, and for who cleans up all that are there.

use super::small::{content, world};
use super::write_tree;
use crate::support::{World, is_root};

/// Of `test` and of `test2`.
const TEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const TEST2: &str = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752";
/// As upstream's, with the directories by name.
const ENV: &str = "PREFIX=/usr\nSRCDIR=/steps\nDISTFILES=/external/distfiles\nexport PATH=/bin\n";

/// The small world with a mirror that has `one.txt` and `two.txt`.
fn with_mirror() -> Option<World> {
    let mut w = world()?;
    w.write("mirror/one.txt", "test");
    w.write("mirror/two.txt", "test2");
    w.set(
        "SOS_MIRRORS_DISTFILES",
        &format!("file://{}", w.project().join("mirror").display()),
    );
    w.write("tree/steps/env", ENV);
    Some(w)
}

fn line(name: &str, digest: &str) -> String {
    format!("f http://127.0.0.1:9/{name} {digest}\n")
}

fn build(w: &World) -> (String, String) {
    let run = w.sos(["build", "--no-link", ".#rootfs"]).ok();
    (run.stdout.trim().to_owned(), run.stderr)
}

/// Names that a root has in one of its directories.
#[track_caller]
fn is_in(w: &World, root: &str, path: &str) -> bool {
    w.sos(["store", "cat", &format!("{root}/{path}")]).code == 0
}

#[test]
fn a_step_may_do_what_it_likes_with_its_files() {
    let Some(w) = with_mirror() else { return };
    let sources = line("one.txt", TEST) + &line("two.txt", TEST2);
    w.write("tree/steps/a/sources", &sources);
    w.write(
        "tree/steps/a/pass1.sh",
        "cd ${DISTFILES}; chmod 600 one.txt; mv one.txt ${PREFIX}/a; echo more >> two.txt; rm two.txt; echo own > own.txt\n",
    );
    w.write(
        "tree/steps/a/pass2.sh",
        "cat ${DISTFILES}/*.txt > ${PREFIX}/a2; chmod 600 ${DISTFILES}/*\n",
    );
    let (root, _) = build(&w);
    assert_eq!(content(&w, &root, "usr/a"), "test");
    // The next pass has them again, with what the one before has made itself.
    assert_eq!(content(&w, &root, "usr/a2"), "testown\ntest2");
    assert_eq!(content(&w, &root, "external/distfiles/own.txt"), "own\n");
    for name in ["one.txt", "two.txt"] {
        let path = format!("external/distfiles/{name}");
        assert!(!is_in(&w, &root, &path), "{path}");
    }
    w.sos(["store", "check"]).ok();
}

#[test]
fn a_file_is_what_the_tree_pins_whatever_was_written_there() {
    let Some(w) = with_mirror() else { return };
    let see = |name: &str| format!("cat ${{DISTFILES}}/one.txt > ${{PREFIX}}/{name}\n");
    write_tree(
        &w,
        &[
            (
                "steps/manifest",
                "build: a\nbuild: b-1.0\nbuild: c\nimprove: x\n",
            ),
            (
                "steps/a/pass1.sh",
                "mkdir -p ${DISTFILES}; echo evil > ${DISTFILES}/one.txt\n",
            ),
            ("steps/b-1.0/sources", &line("one.txt", TEST)),
            (
                "steps/b-1.0/pass1.sh",
                &(see("b") + "rm ${DISTFILES}/one.txt\n"),
            ),
            ("steps/c/sources", &line("one.txt", TEST)),
            ("steps/c/pass1.sh", &see("c")),
            ("steps/improve/x.sh", &see("x")),
        ],
    );
    let (root, _) = build(&w);
    for (name, text) in [("b", "test"), ("c", "test"), ("x", "evil\n")] {
        assert_eq!(content(&w, &root, &format!("usr/{name}")), text, "{name}");
    }
    let kept = content(&w, &root, "external/distfiles/one.txt");
    assert_eq!(kept, "evil\n");
}

#[test]
fn links_to_a_larger_disk_are_followed_and_stay() {
    let Some(w) = with_mirror() else { return };
    for link in [
        "rm -r /external; ln -s big /external",
        "rm -r /external/distfiles; ln -s /big/distfiles /external/distfiles",
    ] {
        let first = format!("{link}; echo > ${{PREFIX}}/a\n");
        let links = "ls -ld /external /external/distfiles";
        write_tree(
            &w,
            &[
                ("steps/manifest", "build: c\nbuild: b-1.0\nimprove: x\n"),
                ("steps/helpers.sh", "build() { cd /steps/$1; . ./$2; }\n"),
                ("steps/c/pass1.sh", &first),
                ("steps/b-1.0/sources", &line("one.txt", TEST)),
                (
                    "steps/b-1.0/pass1.sh",
                    "cd ${DISTFILES}; cat one.txt > ${PREFIX}/b; echo own > own; rm one.txt; chmod 711 .\n",
                ),
                (
                    "steps/improve/x.sh",
                    &format!(
                        "{links} > ${{PREFIX}}/x; cat /external/distfiles/own >> ${{PREFIX}}/x\n"
                    ),
                ),
            ],
        );
        let (root, _) = build(&w);
        assert_eq!(content(&w, &root, "usr/b"), "test", "{link}");
        assert_eq!(content(&w, &root, "big/distfiles/own"), "own\n", "{link}");
        let seen = content(&w, &root, "usr/x");
        assert!(seen.contains(" -> "), "{link}: {seen}");
        assert!(seen.ends_with("\nown\n"), "{link}: {seen}");
    }
    // A file is in the way, and is not put aside.
    w.write(
        "tree/steps/c/pass1.sh",
        "rm -r /external; echo > /external\n",
    );
    let run = w.sos(["build", "--no-link", ".#rootfs"]).fails(100);
    run.says(&[
        "error[build-place-blocked]: `/external/distfiles/one.txt` cannot be shown to the step: `/external` of its root is not a directory",
        "while building `b-1.0-pass1`",
    ]);
}

/// The script of a step that is not that of the tree, since an earlier step made it.
#[test]
fn a_script_that_an_earlier_step_left_is_told_when_it_fails() {
    let Some(w) = world() else { return };
    w.write("tree/steps/manifest", "build: a\nbuild: b-1.0\n");
    let other = "mkdir /steps/b-1.0; echo 'exit 7' > /steps/b-1.0/pass1.sh\n";
    w.write("tree/steps/a/pass1.sh", other);
    let failed = w.sos(["build", "--no-link", ".#rootfs"]).fails(100);
    failed.says(&[
        "failed with exit status 7",
        "of the files of its own it found these as an earlier step left them: `/steps/b-1.0/pass1.sh`\n",
        "note: `b-1.0-pass1` runs `/steps/b-1.0/pass1.sh` as an earlier step left it in the root, and not `",
    ]);
    w.write("tree/steps/a/pass1.sh", "");
    w.write("tree/steps/b-1.0/pass1.sh", "exit 7\n");
    let failed = w.sos(["build", "--no-link", ".#rootfs"]).fails(100);
    assert!(
        !failed.stderr.contains("earlier step left"),
        "{}",
        failed.stderr
    );
    failed.says(&["note: `b-1.0-pass1` runs `"]);
}

/// What an earlier step leaves in the place of the directory of a step.
#[test]
fn what_is_in_the_way_of_the_directory_of_a_step_is_told() {
    let Some(w) = world() else { return };
    let build = |left: &str| {
        w.write("tree/steps/a/pass1.sh", &format!("{left}\n"));
        w.sos(["build", "--no-link", ".#rootfs"])
    };
    w.write("tree/steps/manifest", "build: a\nbuild: b-1.0\n");
    let own = "`/steps/b-1.0` cannot be shown to the step: ";
    for (left, why) in [
        (
            "echo > /steps/b-1.0",
            "`/steps/b-1.0` of its root is not a directory",
        ),
        ("ln -s /tmp /steps/b-1.0", "it would lie in `/tmp`"),
        ("ln -s /dev /steps/b-1.0", "it would lie in `/dev`"),
        (
            "ln -s b-1.0 /steps/b-1.0",
            "is a link that leads in a circle",
        ),
    ] {
        build(left).fails(100).says(&[
            &format!("error[build-place-blocked]: {own}"),
            why,
            "while building `b-1.0-pass1`",
        ]);
    }
    // A link to where nothing is leads there, for its programs and for what they are shown.
    for left in [
        "ln -s /big/own /steps/b-1.0",
        "mkdir -p /big/own; ln -s ../big/own /steps/b-1.0",
    ] {
        let root = build(left).ok().stdout;
        assert!(content(&w, root.trim(), "usr/b").contains(" run"), "{left}");
    }
}

#[test]
fn who_cleans_up_sees_what_there_is_and_what_comes_later() {
    let Some(w) = with_mirror() else { return };
    // The last one is left out, and nobody has its file.
    let late = "build: late ( NEVER == True )\n";
    let manifest = format!("build: a\nimprove: tidy\nbuild: b-1.0\n{late}");
    let nobodys = line("three.txt", &TEST.replace("9f86", "9f87"));
    write_tree(
        &w,
        &[
            ("steps/manifest", &manifest),
            (
                "steps/a/sources",
                &(line("one.txt", TEST) + &line("two.txt", TEST2)),
            ),
            ("steps/a/pass1.sh", "echo > ${PREFIX}/a\n"),
            ("steps/b-1.0/sources", &line("two.txt", TEST2)),
            (
                "steps/b-1.0/pass1.sh",
                "cat ${DISTFILES}/two.txt > ${PREFIX}/b; ls ${SRCDIR} > ${PREFIX}/seen\n",
            ),
            ("steps/late/sources", &nobodys),
            (
                "steps/improve/tidy.sh",
                r#"
later=$(sed -n '/^build: b-/,$s/^build: \([^ ]*\).*/\1/p' "${SRCDIR}/manifest")
keep=
for package in ${later}; do
  while read kind url digest; do keep="${keep} $(basename "${url}")"; done < "${SRCDIR}/${package}/sources"
done
echo "later:${keep}" > ${PREFIX}/tidy
for file in "${DISTFILES}/"*; do
  name=$(basename "${file}")
  case "${keep} " in
    *" ${name} "*) echo "keep ${name}" >> ${PREFIX}/tidy ;;
    *) rm "${file}"; echo "remove ${name}" >> ${PREFIX}/tidy ;;
  esac
done
"#,
            ),
        ],
    );
    let (root, _) = build(&w);
    assert_eq!(
        content(&w, &root, "usr/tidy"),
        "later: two.txt three.txt\nremove one.txt\nkeep two.txt\n"
    );
    // Who comes later has its file, and what was shown for the cleaning is in no root.
    assert_eq!(content(&w, &root, "usr/b"), "test2");
    let seen = content(&w, &root, "usr/seen");
    assert!(
        !seen.contains("manifest") && !seen.contains("late"),
        "{seen}"
    );
    for path in [
        "steps/manifest",
        "steps/b-1.0/sources",
        "external/distfiles/one.txt",
    ] {
        assert!(!is_in(&w, &root, path), "{path}");
    }
    // What it was shown is in its key alone: it is done again, and makes the same.
    w.write("tree/steps/manifest", &format!("{manifest}# why\n"));
    let (same, told) = build(&w);
    assert!(told.contains("built 1,"), "{told}");
    assert_eq!(same, root);
    w.write("tree/steps/late/sources", &nobodys.replace("9f87", "9f88"));
    let (same, told) = build(&w);
    assert!(told.contains("built 1,"), "{told}");
    assert_eq!(same, root);
    // And the plan says what it is shown.
    let plan = w.sos(["recipe", "show", "--json", "."]).ok().stdout;
    let plan: serde_json::Value = serde_json::from_str(&plan).expect("JSON");
    let inputs = plan["steps"][1]["inputs"].as_array().expect("a list");
    let at = inputs.iter().map(|input| input["at"].as_str());
    let at: Vec<&str> = at.map(|at| at.expect("a path")).collect();
    assert_eq!(
        at,
        [
            "/steps/helpers.sh",
            "/steps/improve/tidy.sh",
            "/steps/manifest",
            "/steps/a/sources",
            "/steps/b-1.0/sources",
            "/steps/late/sources",
        ]
    );
}

#[test]
fn the_times_of_all_files_can_be_set_at_the_end() {
    let Some(w) = with_mirror() else { return };
    let times = |script: &str| {
        w.write("tree/steps/improve/x.sh", script);
        build(&w).0
    };
    // In the directory of a step, below the root, as everything that it is shown.
    // The kernel lets nobody but root set the time of /proc.
    let but = if is_root() { "" } else { "! -path /proc" };
    let all = times(&format!(
        "find / -xdev {but} -exec touch -h -t 197001010000.00 {{}} +\n"
    ));
    for path in [
        "steps/helpers.sh",
        "steps/SHA256SUMS.pkgs",
        "steps/improve/x.sh",
    ] {
        assert!(!is_in(&w, &all, path), "{path}");
    }
    // Times are 0 after each step: nothing has changed.
    assert_eq!(times("true\n"), all);
}
