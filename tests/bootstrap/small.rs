//! Steps of our own writing, in a root of busybox.

use super::write_tree;
use crate::support::{Run, World, peer, steps};

/// What our steps are run by, in a few lines: each has a script, which finds itself in its own directory.
pub(super) const HELPERS: &str = r#"
build() {
  cd "/steps/$1"
  . "./$2"
  mkdir -p /external/repo
  echo "$1 $JOBS_SEEN" > "/external/repo/$1_0.tar.bz2"
  cd /steps
}
uninstall() { rm -rf "$@"; }
"#;

pub(super) fn recipe() -> Option<String> {
    let busybox = peer("busybox")?;
    Some(format!(
        r#"{{ sos, extra ? {{ }} }}:
let
  busybox = builtins.path {{ path = {}; name = "busybox"; }};
in
sos.bootstrap {{
  tree = ./tree;
  shell = [ "/bin/sh" ];
  extraDistfiles = extra;
  start = sos.run {{
    name = "start";
    rootfs = null;
    result = "rootfs";
    epoch = 0;
    mounts."/busybox" = busybox;
    shell = [ "/busybox" "sh" "-eu" ];
    script = ''
      /busybox mkdir -p /bin /usr/bin /external/distfiles
      /busybox cp /busybox /bin/busybox
      /bin/busybox --install -s /bin
      /bin/ln -s /bin/busybox /usr/bin/sh
    '';
  }};
}}
"#,
        busybox.display()
    ))
}

/// A world with the recipe and a tree of two builds, an improvement and a removal.
pub(super) fn world() -> Option<World> {
    let w = World::new();
    steps::possible(&w)?;
    w.write("sos.nix", &recipe()?);
    write_tree(
        &w,
        &[
            (
                "steps/manifest",
                "build: a\nbuild: b-1.0\nimprove: x\nbuild: a\nuninstall: /usr/b\n",
            ),
            ("steps/bootstrap.cfg", "ARCH=amd64\nJOBS=1\n"),
            ("steps/env", "PREFIX=/usr\nexport PATH=/bin\n"),
            ("steps/helpers.sh", HELPERS),
            (
                "steps/a/pass1.sh",
                "cp files/a ${PREFIX}/a; echo changed >> files/a; mkdir build; echo left > build/x\n",
            ),
            (
                "steps/a/pass2.sh",
                "cat build/x files/a > ${PREFIX}/a2; ls /steps > ${PREFIX}/seen; ls /external/distfiles >> ${PREFIX}/seen\n",
            ),
            ("steps/a/files/a", "one\n"),
            (
                "steps/b-1.0/pass1.sh",
                "ls -l run > ${PREFIX}/b; cat linked >> ${PREFIX}/b\n",
            ),
            ("steps/b-1.0/run", "#!/bin/sh\n"),
            ("steps/improve/x.sh", "echo x > ${PREFIX}/x\n"),
        ],
    );
    std::os::unix::fs::symlink("../a/files/a", w.project().join("tree/steps/b-1.0/linked")).ok()?;
    Some(w)
}

/// Makes the recipe one that `--set` can be given to.
pub(super) fn take_settings(w: &World) {
    let recipe = recipe()
        .expect("busybox")
        .replace("extra ? { } }", "extra ? { }, settings ? [ ] }")
        .replace("tree = ./tree;", "tree = ./tree; inherit settings;");
    w.write("sos.nix", &recipe);
}

/// What a root has at a path.
#[track_caller]
pub(super) fn content(w: &World, root: &str, path: &str) -> String {
    w.sos(["store", "cat", &format!("{root}/{path}")])
        .ok()
        .stdout
}

#[test]
fn steps_run_one_after_the_other_and_see_only_what_is_theirs() {
    let Some(w) = world() else { return };
    let root = w
        .sos(["build", "--no-link", ".#rootfs"])
        .ok()
        .stdout
        .trim()
        .to_owned();
    assert_eq!(content(&w, &root, "usr/a"), "one\n");
    assert_eq!(content(&w, &root, "usr/x"), "x\n");
    // What a pass makes and changes in its directory is there in the next one.
    assert_eq!(content(&w, &root, "usr/a2"), "left\none\nchanged\n");
    // Other steps are not to be seen.
    let seen = content(&w, &root, "usr/seen");
    assert!(
        seen.contains("a\n") && seen.contains("helpers.sh"),
        "{seen}"
    );
    assert!(!seen.contains("b-1.0"), "{seen}");
    // It was removed by the last step, and is there after the step that made it.
    let gone = w.sos(["store", "cat", &format!("{root}/usr/b")]);
    assert_ne!(gone.code, 0, "{}", gone.stdout);
    let before = w
        .sos(["build", "--no-link", ".#steps.\"b-1.0\".\"1\""])
        .ok()
        .stdout;
    let before = content(&w, before.trim(), "usr/b");
    assert!(
        before.starts_with("-rw-r--r--") && before.ends_with("one\n"),
        "{before}"
    );
}

#[test]
fn a_recipe_of_steps_is_as_good_as_their_directory() {
    let Some(w) = world() else { return };
    // Whoever verifies nothing is told so.
    w.sos(["verify", "."])
        .fails(1)
        .says(&["none of the steps was built yet", "`sos build` makes them"]);
    w.sos(["build", "--no-link", ".#rootfs"]).ok();
    for name in [
        ".#b-1.0",
        ".#steps.b-1.0",
        ".#steps.b-1.0.1",
        ".#steps.a.1",
        ".#a",
    ] {
        w.sos(["build", "--no-link", name]).ok().says(&["built 0,"]);
    }
    w.sos(["build", "--no-link", ".#steps.a.7"])
        .fails(3)
        .says(&["step `a` has no pass 7", "its passes are 1, 2"]);
    w.sos(["build", "--no-link", ".#steps.b-1.0.2"])
        .fails(3)
        .says(&["step `b-1.0` has no pass 2", "its only pass is 1"]);
    w.sos(["build", "--no-link", ".#steps.a.pass7"])
        .fails(3)
        .says(&["step `a` has no pass 7", "its passes are 1, 2"]);
    w.sos(["build", "--no-link", ".#a.pass2"])
        .fails(3)
        .says(&["pass 2 of `a` is `steps.a.2`"]);
    for (asked, name) in [
        (".#steps.nope.1", "nope"),
        (".#nope.1", "nope"),
        (".#steps.\"nope-1\".\"1\"", "nope-1"),
        // A version, for all that can be told.
        (".#steps.nope-1.2", "nope-1.2"),
    ] {
        let run = w.sos(["build", "--no-link", asked]).fails(3);
        run.says(&[&format!("no step of `.` is called `{name}`\n")]);
    }
    w.sos(["build", "--no-link", ".#steps.b-1.1.1"])
        .fails(3)
        .says(&["is called `b-1.1`\n", "did you mean `b-1.0`?"]);
    for name in [".#b-1.1", ".#steps.b-1.1"] {
        w.sos(["build", "--no-link", name])
            .fails(3)
            .says(&["no step of `.` is called `b-1.1`", "did you mean `b-1.0`?"]);
    }
    // The plan is that of the tree that the recipe names, with the shell that it gives.
    let shown = w.sos(["recipe", "show", "."]).ok().stdout;
    assert_eq!(shown.lines().count(), 5, "{shown}");
    assert!(shown.contains("bash build     b-1.0 pass 1"), "{shown}");
    let bare = w.sos(["recipe", "show", "--shell", "tree"]).ok().stdout;
    assert_eq!(shown, bare);
    w.sos(["check", "."]).ok();
    // All steps are verified, each on its own, and not the last one alone.
    let verified = w.sos(["verify", ".", "--jobs", "2"]).ok().stdout;
    for step in ["a-pass1", "b-1.0-pass1", "improve-x", "a-pass2", "start"] {
        let line = format!("{step}: equal");
        assert!(verified.contains(&line), "no {line} in {verified}");
    }
    // A directory whose steps have their own recipe is what that says.
    w.write(
        "own/sos.nix",
        &recipe().expect("busybox").replace("./tree", "../."),
    );
    std::fs::rename(w.project().join("tree/steps"), w.project().join("steps")).expect("steps");
    std::fs::rename(w.project().join("sos.nix"), w.project().join("other.nix")).expect("a file");
    std::fs::rename(
        w.project().join("own/sos.nix"),
        w.project().join("steps/sos.nix"),
    )
    .expect("a file");
    for place in [".", "steps"] {
        let again = w.sos(["recipe", "show", place]).ok().stdout;
        assert_eq!(again, shown, "{place}");
        w.sos(["check", place]).ok();
        w.sos(["recipe", "pins", place]).ok();
    }
}

#[test]
fn two_digests_of_one_name_are_refused_wherever_they_are() {
    let Some(w) = world() else { return };
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    w.write(
        "tree/steps/a/sources",
        &format!("f http://127.0.0.1:9/x {digest}\n"),
    );
    let other = digest.replace("9f86", "9f87");
    w.write(
        "tree/steps/b-1.0/sources",
        &format!("f http://127.0.0.1:9/y {digest}\nf http://127.0.0.1:9/x {other}\n"),
    );
    for verb in [
        &["recipe", "show", "."][..],
        &["recipe", "show", "--shell", "tree"],
        &["check", "."],
        &["build", "--no-link", "."],
    ] {
        w.sos(verb).fails(3).says(&[
            "error[bootstrap-two-digests]: `x` has two digests",
            "tree/steps/b-1.0/sources:2:1",
            "tree/steps/a/sources:1:1",
        ]);
    }
}

#[test]
fn a_plan_warns_of_files_that_a_script_names_and_does_not_get() {
    let Some(w) = world() else { return };
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let sources = format!("f http://127.0.0.1:9/x.txt {digest}\n");
    w.write("tree/steps/b-1.0/sources", &sources);
    w.write(
        "tree/steps/a/pass2.sh",
        "# /external/distfiles/x.txt\n[ -e ${DISTFILES}/x.txt ] || exit 3\n",
    );
    let warned = "warning[bootstrap-undeclared]: `a` names the file `x.txt`, which it does not declare and `b-1.0` does";
    w.sos(["recipe", "show", "."])
        .ok()
        .says(&[warned, "tree/steps/a/pass2.sh:2:19"]);
    // What is given is there.
    let recipe = recipe().expect("busybox");
    let given = recipe.replace("= extra;", "= { a = [ \"x.txt\" ]; };");
    assert_ne!(given, recipe);
    w.write("sos.nix", &given);
    let shown = w.sos(["recipe", "show", "."]).ok();
    assert_eq!(shown.stderr, "");
}

#[test]
fn a_file_with_another_digest_is_no_reason_to_change_the_tree() {
    let Some(mut w) = world() else { return };
    w.write("mirror/x.txt", "other");
    w.set(
        "SOS_MIRRORS_DISTFILES",
        &format!("file://{}", w.project().join("mirror").display()),
    );
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    w.write(
        "tree/steps/b-1.0/sources",
        &format!("f http://127.0.0.1:9/x.txt {digest}\n"),
    );
    let run = w.sos(["build", "--no-link", ".#rootfs"]).fails(102).says(&[
        "the file `x.txt`, which `b-1.0-pass1` needs, does not match its hash",
        "tree/steps/manifest:2:",
    ]);
    assert!(!run.stderr.contains("--fix"), "{}", run.stderr);
    assert!(!run.stderr.contains("if you trust"), "{}", run.stderr);
}

#[test]
fn an_edit_to_one_step_leaves_those_before_it_alone() {
    let Some(w) = world() else { return };
    w.sos(["build", "--no-link", ".#rootfs"]).ok();
    let built = |w: &World| {
        let plan = w.sos(["plan", "--format", "json", ".#rootfs"]).ok().stdout;
        let plan: serde_json::Value = serde_json::from_str(&plan).expect("as the test has it");
        let names = plan["build"].as_array().expect("a list").iter();
        names
            .map(|d| d["name"].as_str().expect("as the test has it").to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(built(&w), Vec::<String>::new());
    // A comment: the step is done again, and its layer is the same.
    w.write("tree/steps/improve/x.sh", "# why\necho x > ${PREFIX}/x\n");
    let run = w.sos(["build", "--no-link", ".#rootfs"]).ok();
    assert!(run.stderr.contains("built 1,"), "{}", run.stderr);
    // Other content: the steps after it are done again, those before it are not.
    w.write("tree/steps/improve/x.sh", "echo y > ${PREFIX}/x\n");
    let run = w.sos(["build", "--no-link", ".#rootfs"]).ok();
    assert!(run.stderr.contains("built 3,"), "{}", run.stderr);
}

#[test]
fn a_failing_step_is_where_the_next_run_begins() {
    let Some(w) = world() else { return };
    w.write(
        "tree/steps/b-1.0/pass1.sh",
        "echo kept > kept; echo lost > /tmp/lost; echo the last words\nfalse\n",
    );
    let failed = w.sos(["build", "--no-link", ".#rootfs"]).fails(100).says(&[
        "b-1.0-pass1",
        "the last words",
        "`sos shell b-1.0-pass1 --at-failure` opens a shell in the same sandbox, its root as it stopped, but for `/tmp` and `/run`, which were memory; it begins in `/`",
    ]);
    let entered = |run: &Run| {
        let line = run
            .stderr
            .lines()
            .find(|line| line.contains("--at-failure"));
        let command = line.and_then(|line| line.split('`').nth(1));
        let mut words: Vec<&str> = command.expect("a command").split(' ').skip(1).collect();
        words.extend(["-q", "-c", "pwd; cat steps/b-1.0/kept; ls /tmp /run"]);
        let inside = w.sos(&words).ok().stdout;
        assert!(inside.starts_with("/\nkept\n"), "{inside}");
        assert!(!inside.contains("lost"), "{inside}");
    };
    entered(&failed);
    // Another store, in the words that are needed to get there again; for programs as well as for people.
    let other = w.root().join("another store").display().to_string();
    let build = ["--store", &other, "build", "--no-link", ".#rootfs"];
    let failed = w.sos(build).fails(100).says(&[
        &format!("`sos --store '{other}' shell b-1.0-pass1 --at-failure`"),
        &format!("`sos --store '{other}' log b-1.0-pass1`"),
    ]);
    assert!(!failed.stderr.contains("`sos shell"), "{}", failed.stderr);
    let plain = w.root().join("store2").display().to_string();
    let config = format!("store.dir={plain}");
    let failed = w
        .sos(["--config", &config, "build", "--no-link", ".#rootfs"])
        .fails(100);
    entered(&failed);
    let json = w.sos([&build[..], &["--json"]].concat()).fails(100);
    assert_eq!(json.stdout, "", "nothing was made");
    let problem: serde_json::Value = serde_json::from_str(json.stderr.trim()).expect("JSON");
    assert_eq!(problem["code"], "build-failed");
    assert_eq!(problem["exitCode"], 100);
    let helps = problem["helps"].to_string();
    let shell = format!("`sos --store '{other}' shell b-1.0-pass1 --at-failure`");
    assert!(helps.contains(&shell), "{helps}");
    w.write("tree/steps/b-1.0/pass1.sh", "echo > ${PREFIX}/b\n");
    let run = w.sos(["build", "--no-link", ".#rootfs"]).ok();
    assert!(run.stderr.contains("built 4,"), "{}", run.stderr);
}

#[test]
fn what_needs_no_build_is_not_called_unbuilt() {
    let Some(mut w) = world() else { return };
    w.set("SOS_MIRRORS_DISTFILES", "file:///nonexistent");
    // There before any tree asks for it.
    w.write("x.txt", "test");
    w.sos(["store", "add", "--flat", "x.txt"]).ok();
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let sources = format!("f http://127.0.0.1:9/x.txt {digest}\n");
    w.write("tree/steps/b-1.0/sources", &sources);
    w.sos(["build", "--no-link", "."]).ok();
    let run = w.sos(["verify", "-v", "."]).ok();
    assert!(!run.stderr.contains("left out"), "{}", run.stderr);
    let fixed = "x.txt: equal by its hash";
    assert!(run.stdout.contains(fixed), "{}", run.stdout);
    // What is to be built is told, and named when that is asked for.
    w.write("tree/steps/b-1.0/pass1.sh", "true\n");
    let run = w.sos(["verify", "."]).ok();
    let run = run.says(&["left out: 4 derivations that were not built yet; `-v` names them\n"]);
    assert!(!run.stderr.contains("built 1"), "{}", run.stderr);
    assert!(run.stdout.contains("a-pass1: equal"), "{}", run.stdout);
    assert!(!run.stdout.contains("b-1.0"), "{}", run.stdout);
    let run = w.sos(["verify", "-v", "."]).ok();
    let named = run.says(&["left out: 4 derivations that were not built yet\n"]);
    for name in ["b-1.0-pass1", "improve-x", "a-pass2", "uninstall"] {
        let line = format!("\n  {name}");
        assert!(named.stderr.contains(&line), "{}", named.stderr);
    }
    // A file whose step is first without it: nothing is built for its sake.
    w.write("tree/steps/a/pass1.sh", "true\n");
    let run = w.sos(["verify", "."]).ok();
    assert!(run.stdout.contains(fixed), "{}", run.stdout);
    assert!(!run.stderr.contains("built a-pass1"), "{}", run.stderr);
}

#[test]
fn a_missing_file_is_named_with_its_digest_and_addresses() {
    let Some(w) = world() else { return };
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let sources = format!(
        "f http://127.0.0.1:9/x.tar.gz {digest}\nf http://127.0.0.1:9/second.tar.gz {digest}\n"
    );
    w.write("tree/steps/b-1.0/sources", &sources);
    let run = w.sos(["build", "--no-link", ".#rootfs"]);
    assert_eq!(run.code, 5, "{}", run.stderr);
    let run = run.says(&[
        "`x.tar.gz`",
        "b-1.0-pass1",
        digest,
        "http://127.0.0.1:9/x.tar.gz",
        "SOS_MIRRORS_DISTFILES",
    ]);
    assert!(
        !run.stderr.contains("second.tar.gz`, which"),
        "{}",
        run.stderr
    );
    // What comes before it was built.
    w.sos(["build", "--no-link", "--offline", ".#steps.a.\"1\""])
        .ok()
        .says(&["built 0,"]);
    // Another step before it, of equal or of other content, is no reason why it is fetched.
    for text in ["# why\ncp files/a ${PREFIX}/a\n", "echo > ${PREFIX}/a\n"] {
        w.write("tree/steps/a/pass1.sh", text);
        let run = w.sos(["build", "--no-link", ".#rootfs"]).fails(5);
        let run = run.says(&["an earlier form of it failed in build"]);
        assert!(!run.stderr.contains("since then"), "{}", run.stderr);
    }
}

#[test]
fn files_come_from_a_flat_mirror_and_only_those_that_are_declared() {
    let Some(mut w) = world() else { return };
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    w.write("mirror/x.txt", "test");
    w.set(
        "SOS_MIRRORS_DISTFILES",
        &format!("file://{}", w.project().join("mirror").display()),
    );
    w.write(
        "tree/steps/b-1.0/sources",
        &format!("f http://127.0.0.1:9/x.txt {digest}\n"),
    );
    w.write(
        "tree/steps/b-1.0/pass1.sh",
        "cat /external/distfiles/x.txt > ${PREFIX}/b\n",
    );
    let root = w
        .sos(["build", "--no-link", ".#steps.\"b-1.0\""])
        .ok()
        .stdout;
    assert_eq!(content(&w, root.trim(), "usr/b"), "test");
    // Several are told apart alike wherever they are given, and asked in their order.
    let second = format!("file://{}", w.project().join("mirror").display());
    w.set("SOS_MIRRORS_DISTFILES", "");
    for (n, between) in [" ", ",", ", "].iter().enumerate() {
        let config = format!("mirrors.distfiles=file:///nonexistent{between}{second}");
        let store = w.root().join(format!("store{n}"));
        let run = w.sos([
            "--store",
            store.to_str().expect("a plain path"),
            "--config",
            &config,
            "build",
            "--no-link",
            ".#distfiles",
        ]);
        // The size is that of the file, which has four bytes.
        run.ok().says(&["(4 B, never built)", "built 0, fetched 1"]);
    }
    w.set("SOS_MIRRORS_DISTFILES", &second);
    let root = w.sos(["build", "--no-link", ".#rootfs"]).ok().stdout;
    assert!(!content(&w, root.trim(), "usr/seen").contains("x.txt"));
    // Who looks for it without declaring it is told by name.
    let looks = "cat /external/distfiles/x.txt\n";
    w.write("tree/steps/a/pass2.sh", looks);
    w.sos(["build", "--no-link", ".#rootfs"])
        .fails(100)
        .says(&[
            "/external/distfiles/x.txt, of `b-1.0`",
            "have `a-pass2` declare it in its `sources`, or show it to the step: `extraDistfiles.\"a\" = [ \"x.txt\" ];`",
        ]);
    w.write(
        "tree/steps/a/pass2.sh",
        "ls /external/distfiles > ${PREFIX}/seen\n",
    );
    let extra = r#"{ a = [ "x.txt" ]; }"#;
    let root = w
        .sos(["build", "--no-link", "--arg", "extra", extra, ".#rootfs"])
        .ok()
        .stdout;
    assert!(content(&w, root.trim(), "usr/seen").contains("x.txt"));
}

#[test]
fn a_store_with_some_files_stops_where_an_empty_one_does() {
    let Some(mut w) = world() else { return };
    w.set("SOS_MIRRORS_DISTFILES", "file:///nonexistent");
    let digest = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
    let other = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752";
    let url = "f http://127.0.0.1:9";
    w.write("x.txt", "test");
    w.sos(["store", "add", "--flat", "x.txt"]).ok();
    w.write(
        "tree/steps/a/sources",
        &format!("{url}/missing.txt {other}\n"),
    );
    w.write(
        "tree/steps/b-1.0/sources",
        &format!("{url}/x.txt {digest}\n{url}/late.txt {other}\n"),
    );
    let run = w
        .sos(["build", "--no-link", "--offline", ".#rootfs"])
        .fails(5)
        .says(&["`missing.txt`, which `a-pass1` needs"]);
    assert!(!run.stderr.contains("late.txt"), "{}", run.stderr);
    // Files from outside are pins like others; one that was not fetched is none that is missing.
    let table = w.sos(["recipe", "pins", "."]).ok().stdout;
    let row = |name: &str| {
        table
            .lines()
            .find(|line| line.ends_with(name))
            .unwrap_or("")
    };
    let x = row("/external/distfiles/x.txt");
    assert!(x.starts_with("equal      source   b-1.0-pass1"), "{table}");
    assert!(
        row("/late.txt").starts_with("not built  source "),
        "{table}"
    );
    assert!(
        table.contains("3 pins: 1 equal, 0 different, 0 missing, 2 not built"),
        "{table}"
    );
    // One is one.
    std::fs::remove_file(w.project().join("tree/steps/b-1.0/sources")).expect("a file");
    w.write(
        "tree/steps/a/sources",
        "f http://127.0.0.1:9/one.txt 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\n",
    );
    let table = w.sos(["recipe", "pins", "."]).ok().stdout;
    assert!(
        table.ends_with("\n1 pin: 0 equal, 0 different, 0 missing, 1 not built\n"),
        "{table}"
    );
}

#[test]
fn an_extension_is_built_in_its_own_directory() {
    let Some(w) = world() else { return };
    take_settings(&w);
    // As upstream's helpers do, by a variable.
    w.write(
        "tree/steps/helpers.sh",
        "build() { cd ${SRCDIR}/$1; . ./$2; }\nuninstall() { rm -rf \"$@\"; }\n",
    );
    w.write(
        "tree/steps/env",
        "PREFIX=/usr\nSRCDIR=/steps\nexport PATH=/bin\n",
    );
    w.write("tree/steps-guix/manifest", "build: foo\nimprove: x\n");
    w.write(
        "tree/steps-guix/foo/pass1.sh",
        "pwd > ${PREFIX}/foo; cat here >> ${PREFIX}/foo\n",
    );
    w.write("tree/steps-guix/foo/here", "here\n");
    let build = || {
        let set = [
            "build",
            "--no-link",
            "--set",
            "BUILD_GUIX_ALSO=True",
            ".#rootfs",
        ];
        let run = w.sos(set).ok();
        (content(&w, run.stdout.trim(), "usr/foo"), run.stderr)
    };
    let (foo, told) = build();
    assert_eq!(foo, "/steps-guix/foo\nhere\n");
    // A step of that name is in both trees.
    for name in ["improve-x", "steps-guix-improve-x", "steps-guix-foo-pass1"] {
        assert!(told.contains(&format!(" built {name} in ")), "{told}");
    }
    // Its steps are told from those of the main tree by what they are asked for by.
    let set = ["--set", "BUILD_GUIX_ALSO=True"];
    let shown = w.sos([&["recipe", "show", "."][..], &set].concat()).ok();
    let of_extra = shown.stdout.split("(#steps-guix.").skip(1);
    let names: Vec<_> = of_extra.filter_map(|row| row.split(')').next()).collect();
    assert_eq!(names, ["foo.1", "improve-x"], "{}", shown.stdout);
    for name in names {
        let target = format!(".#steps-guix.{name}");
        w.sos([&["plan", &target][..], &set].concat()).ok();
    }
    // What it brings itself goes before.
    w.write(
        "tree/steps-guix/env",
        "PREFIX=/usr\nexport PATH=/bin OWN=1\n",
    );
    w.write(
        "tree/steps-guix/foo/pass1.sh",
        "echo ${OWN} > ${PREFIX}/foo\n",
    );
    assert_eq!(build().0, "1\n");
}

#[test]
fn every_tree_has_the_start_that_its_jump_leaves() {
    let Some(w) = world() else { return };
    write_tree(
        &w,
        &[
            ("steps/manifest", "jump: j\n"),
            ("steps/jump/j.sh", "true\n"),
            ("steps-more/manifest", "jump: j\n"),
            ("steps-two/manifest", "jump: j\n"),
        ],
    );
    let set = [
        "--set",
        "EXTRA_BUILDS=more,two",
        "--shell",
        "--scripts",
        "tree",
    ];
    let shown = w.sos([&["recipe", "show"][..], &set].concat()).ok().stdout;
    for (name, tree) in [
        ("init.1", "steps"),
        ("init.1 of steps-more", "steps-more"),
        ("init.1 of steps-two", "steps-two"),
    ] {
        let start = format!("\n==> {name} <==\n#!/bin/bash\nbash /{tree}/1.sh\n");
        assert!(shown.contains(&start), "no {start} in {shown}");
    }
}

#[test]
fn what_every_tree_has_is_no_step_of_that_name() {
    let Some(w) = world() else { return };
    write_tree(
        &w,
        &[
            (
                "steps/manifest",
                "build: rootfs\nimprove: x\nbuild: improve-x\nbuild: a\n",
            ),
            ("steps/rootfs/pass1.sh", "true\n"),
            ("steps/improve-x/pass1.sh", "true\n"),
        ],
    );
    let drv = |attr: &str| {
        let value = format!(".#{attr}.drvPath");
        w.sos(["eval", "--raw", &value]).ok().stdout
    };
    assert_eq!(drv("rootfs"), drv("steps.a"));
    assert_eq!(drv("rootfs.1"), drv("steps.rootfs"));
    assert!(drv("rootfs") != drv("steps.rootfs"));
    w.sos(["recipe", "show", "."]).ok().says(&[
        "warning[bootstrap-name-taken]: `#rootfs` is no step, but what every tree has of that name\n --> tree/steps/manifest:1:1",
        "`#steps.rootfs` is the step",
        "`#improve-x` is both `improve: x` and `build: improve-x`\n --> tree/steps/manifest:3:1",
    ]);
}

#[test]
fn a_link_in_the_place_of_the_steps_is_told() {
    let Some(w) = world() else { return };
    let steps = w.project().join("tree/steps");
    std::fs::rename(&steps, w.project().join("tree/real")).expect("a directory");
    std::os::unix::fs::symlink("real", &steps).expect("a link");
    w.sos(["recipe", "show", "--shell", "tree"])
        .fails(3)
        .says(&["error[bootstrap-bad-link]: `tree/steps` is a link, and must be a directory"]);
}

#[test]
fn what_a_tree_lacks_is_said_once_and_without_the_library() {
    let Some(w) = world() else { return };
    let wrong = r#"{ zzz = [ "x.txt" ]; }"#;
    w.sos(["build", "--no-link", "--arg", "extra", wrong, "."])
        .fails(3)
        .says(&["`extraDistfiles` gives files to `zzz`, and there is no such step"]);
    for part in ["env", "helpers.sh"] {
        let path = w.project().join("tree/steps").join(part);
        let text = std::fs::read(&path).expect("a file");
        std::fs::remove_file(&path).expect("a file");
        let run = w.sos(["build", "--no-link", "."]).fails(3);
        let message = format!("there is no `tree/steps/{part}`");
        assert_eq!(run.stderr.matches(&message).count(), 1, "{}", run.stderr);
        assert!(!run.stderr.contains("sos-builtin"), "{}", run.stderr);
        std::fs::write(&path, text).expect("a file");
    }
}

#[test]
fn what_a_plan_says_of_targets_and_of_nothing() {
    let Some(w) = world() else { return };
    let shown = w.sos(["recipe", "show", "."]).ok().stdout;
    assert!(shown.contains("improve   x (#improve-x)\n"), "{shown}");
    assert!(
        shown.contains("uninstall /usr/b (#uninstall--usr-b)\n"),
        "{shown}"
    );
    w.sos(["build", "--no-link", ".#improve-x"]).ok();
    w.sos(["build", "--no-link", ".#uninstall--usr-b"]).ok();
    w.write("tree/steps/manifest", "# nothing\n");
    assert_eq!(w.sos(["recipe", "show", "."]).ok().stdout, "no steps\n");
}

#[test]
fn scripts_are_shown_when_asked_for() {
    let Some(w) = world() else { return };
    let json = |words: &[&str]| -> serde_json::Value {
        let words = [&["recipe", "show", "--json", "--shell", "tree"], words].concat();
        serde_json::from_str(&w.sos(words).ok().stdout).expect("JSON")
    };
    let plain = json(&[]);
    assert!(plain.get("scripts").is_none());
    let full = json(&["--scripts"]);
    assert_eq!(
        full["scripts"]["steps/0.sh"],
        "#!/bin/bash\nset -e\ncd /steps\n. ./bootstrap.cfg\n. ./env\n. ./helpers.sh\nbuild a pass1.sh\nbuild b-1.0 pass1.sh\n. /steps/improve/x.sh\nbuild a pass2.sh\nuninstall /usr/b\n"
    );
    assert_eq!(
        full["scripts"]["steps/bootstrap.cfg"],
        "ARCH=amd64\nJOBS=1\n"
    );
    let linked = serde_json::json!({ "at": "/steps/b-1.0/linked", "source": "steps/a/files/a" });
    let inputs = full["steps"][1]["inputs"].as_array().expect("a list");
    assert!(inputs.contains(&linked), "{inputs:?}");
    let text = w
        .sos(["recipe", "show", "--shell", "--scripts", "tree"])
        .ok();
    assert!(
        text.stdout.contains("\n==> steps/0.sh <==\n#!/bin/bash\n"),
        "{}",
        text.stdout
    );
}

#[test]
fn bad_links_are_named_before_anything_is_built() {
    let Some(w) = world() else { return };
    let link = w.project().join("tree/steps/b-1.0/bad");
    w.write("tree/outside", "");
    for (target, what) in [
        ("bad", "is a circle of links"),
        ("/etc/passwd", "leads out of the tree"),
        ("../../outside", "leads out of `steps`"),
    ] {
        std::os::unix::fs::symlink(target, &link).expect("a link");
        let message = format!("error[bootstrap-bad-link]: `tree/steps/b-1.0/bad` {what}");
        for words in [&["recipe", "show", "."][..], &["build", "--no-link", "."]] {
            let run = w
                .sos(words)
                .fails(3)
                .says(&[&message, "tree/steps/manifest:2:8"]);
            assert!(!run.stderr.contains("sos-builtin"), "{}", run.stderr);
        }
        std::fs::remove_file(&link).expect("a link");
    }
    // Nothing but a name was mistyped.
    w.sos(["recipe", "show", "--shell", "--set", "ARCh=x86", "tree"])
        .fails(2)
        .says(&[
            "nothing in this tree reads the variable `ARCh`",
            "did you mean `ARCH`?",
        ]);
}

#[test]
fn packages_are_taken_as_the_step_wrote_them() {
    let Some(w) = world() else { return };
    let package = w
        .sos(["build", "--no-link", ".#steps.a.\"1\".package"])
        .ok()
        .stdout;
    assert_eq!(w.sos(["store", "cat", package.trim()]).ok().stdout, "a \n");
    w.sos(["build", "--no-link", ".#rootfs.oci"]).ok();
}
