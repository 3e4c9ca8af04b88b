//! Which variables are in the keys of which steps.

use super::small::{HELPERS, content, take_settings, world};

#[test]
fn variables_are_for_recipes_that_take_settings() {
    let Some(w) = world() else { return };
    w.sos(["build", "--no-link", "--set", "JOBS=2", ".#rootfs"])
        .fails(2)
        .says(&["argument-not-taken", "`settings`"]);
    take_settings(&w);
    w.write("tree/steps/improve/x.sh", "echo ${COLOUR} > ${PREFIX}/x\n");
    let root = w
        .sos(["build", "--no-link", "--set", "COLOUR=red", ".#rootfs"])
        .ok()
        .stdout;
    assert_eq!(content(&w, root.trim(), "usr/x"), "red\n");
    // A variable is a change for the steps that name it, and for those after them when they make something else.
    let build = |set: &str| {
        let run = w.sos(["build", "--no-link", "--set", set, ".#rootfs"]).ok();
        run.stderr
    };
    w.write("tree/steps/b-1.0/pass1.sh", "# SHAPE\necho > ${PREFIX}/b\n");
    build("SHAPE=round");
    assert!(build("SHAPE=round").contains("built 0,"));
    let other = build("SHAPE=square");
    assert!(other.contains("built 1,"), "{other}");
    let nobody = build("SIZE=7");
    assert!(nobody.contains("built 1,"), "{nobody}");
    let nobody = build("SIZE=8");
    assert!(nobody.contains("built 0,"), "{nobody}");
}

#[test]
fn names_that_are_put_together_are_found() {
    let Some(w) = world() else { return };
    take_settings(&w);
    w.write(
        "tree/steps/improve/x.sh",
        "eval \"echo \\$VA\"\"R\" > ${PREFIX}/x\n",
    );
    let root = w
        .sos(["build", "--no-link", "--set", "VAR=1", ".#rootfs"])
        .ok()
        .stdout;
    assert_eq!(content(&w, root.trim(), "usr/x"), "1\n");
}

#[test]
fn a_variable_is_in_the_keys_of_those_who_can_see_it() {
    let Some(w) = world() else { return };
    take_settings(&w);
    w.write(
        "tree/steps/manifest",
        "build: a\nbuild: b-1.0\nimprove: x\n",
    );
    let built = |value: &str, steps: usize| {
        let set = format!("VALUE={value}");
        let run = w
            .sos(["build", "--no-link", "--set", &set, ".#rootfs"])
            .ok();
        let count = format!("built {steps},");
        assert!(run.stderr.contains(&count), "{value}: {}", run.stderr);
        run.stdout.trim().to_owned()
    };
    built("0", 5);
    // Nobody names it.
    built("1", 0);
    // One that takes a name from somewhere, and makes the same whatever it is.
    w.write("tree/steps/b-1.0/names", "echo ${!1}\n");
    built("2", 1);
    built("3", 1);
    std::fs::remove_file(w.project().join("tree/steps/b-1.0/names")).expect("a file");
    built("3", 0);
    // What each step reads may put names together for each.
    w.write(
        "tree/steps/helpers.sh",
        &format!("{HELPERS}of() {{ eval \"echo \\$$1\"; }}\n"),
    );
    built("4", 3);
    w.write("tree/steps/b-1.0/pass1.sh", "of VA\"\"LUE > ${PREFIX}/b\n");
    let root = built("5", 3);
    assert_eq!(content(&w, &root, "usr/b"), "5\n");
    // A name that is left for those who come later.
    w.write("tree/steps/helpers.sh", HELPERS);
    w.write(
        "tree/steps/manifest",
        "improve: x\nbuild: a\nbuild: b-1.0\n",
    );
    w.write(
        "tree/steps/improve/x.sh",
        "echo 'SEEN=${VALUE}' >> /steps/env\n",
    );
    w.write("tree/steps/b-1.0/pass1.sh", "echo ${SEEN} > ${PREFIX}/b\n");
    for value in ["6", "7"] {
        let root = built(value, 3);
        assert_eq!(content(&w, &root, "usr/b"), format!("{value}\n"));
    }
}

#[test]
fn the_number_of_jobs_is_in_no_key() {
    let Some(w) = world() else { return };
    take_settings(&w);
    // One that names it, and one that is shown the whole file.
    w.write("tree/steps/improve/x.sh", "echo ${JOBS} > ${PREFIX}/x\n");
    w.write(
        "tree/steps/a/pass2.sh",
        "cat /steps/bootstrap.cfg > ${PREFIX}/a2\n",
    );
    let root = w.sos(["build", "--no-link", ".#rootfs"]).ok().stdout;
    assert_eq!(content(&w, root.trim(), "usr/x"), "1\n");
    for set in ["JOBS=7", "MIRRORS=http://127.0.0.1:1"] {
        w.sos(["build", "--no-link", "--set", set, ".#rootfs"])
            .ok()
            .says(&["built 0,"]);
    }
    // Predicates see what was said.
    w.write("tree/steps/manifest", "build: a ( JOBS == 7 )\n");
    let shown = w
        .sos(["recipe", "show", "--set", "JOBS=7", "."])
        .ok()
        .stdout;
    assert!(shown.contains("build     a pass 1"), "{shown}");
}
