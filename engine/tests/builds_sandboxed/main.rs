//! Builds in the Nix shape, in real sandboxes. Needs user namespaces and a shell; says so when they are missing.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]
#![allow(
    clippy::print_stdout,
    reason = "a test program with its own main reports by itself"
)]

#[path = "../builds/support.rs"]
#[allow(dead_code, reason = "the other test program uses the rest")]
mod support;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use sos_engine::sandbox::{HELPER_ARGUMENT, child_main};
use sos_engine::{BuildOptions, Cancel, Event};
use sos_formats::derivation::{Derivation, Method, Output};
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::store_path::StorePath;
use sos_store::rootfs::RootTree;

use support::{How, Maker, World, codes, run, story};

const TESTS: [(&str, fn()); 19] = [
    ("steps_are_verified", steps_are_verified),
    ("a_program_makes_its_output", a_program_makes_its_output),
    (
        "content_addressed_as_nix_does",
        content_addressed_as_nix_does,
    ),
    (
        "the_environment_is_that_of_nix",
        the_environment_is_that_of_nix,
    ),
    (
        "structured_attributes_are_files",
        structured_attributes_are_files,
    ),
    ("a_bad_status_is_reported", a_bad_status_is_reported),
    ("nothing_made_is_reported", nothing_made_is_reported),
    (
        "a_missing_builder_is_reported",
        a_missing_builder_is_reported,
    ),
    ("a_hanging_build_is_stopped", a_hanging_build_is_stopped),
    ("a_stop_kills_the_build", a_stop_kills_the_build),
    ("a_wrong_hash_is_reported", a_wrong_hash_is_reported),
    ("a_step_changes_its_root", a_step_changes_its_root),
    ("a_step_makes_a_tree", a_step_makes_a_tree),
    ("a_step_that_fails_says_so", a_step_that_fails_says_so),
    (
        "the_timeout_of_a_step_is_named",
        the_timeout_of_a_step_is_named,
    ),
    (
        "a_failed_step_is_kept_if_asked",
        a_failed_step_is_kept_if_asked,
    ),
    (
        "outputs_that_are_no_files_are_refused",
        outputs_that_are_no_files_are_refused,
    ),
    ("steps_stop_at_equal_inputs", steps_stop_at_equal_inputs),
    (
        "a_failed_build_is_kept_if_asked",
        a_failed_build_is_kept_if_asked,
    ),
];

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let first = arguments.next();
    if first.as_deref() == Some(HELPER_ARGUMENT) {
        child_main();
    }
    let filter = first.filter(|a| !a.starts_with('-')).unwrap_or_default();
    if !has("/bin/sh") {
        return ExitCode::SUCCESS;
    }
    let mut failed = 0;
    for (name, test) in TESTS.iter().filter(|(name, _)| name.contains(&filter)) {
        let ok = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if ok { "ok" } else { "FAILED" });
        failed += usize::from(!ok);
    }
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Whether this machine has a program; without it a test says so, or fails under `SOS_REQUIRE_PEERS=1`.
fn has(program: &str) -> bool {
    let found = Path::new(program).exists();
    if !found {
        #[allow(
            clippy::disallowed_methods,
            reason = "a switch of the tests, never of the program"
        )]
        let required = std::env::var_os("SOS_REQUIRE_PEERS").is_some_and(|value| value == "1");
        assert!(!required, "SOS_REQUIRE_PEERS=1, but: no {program}");
        println!("skipped: no {program}");
    }
    found
}

/// A world whose sandboxes show the programs of this machine.
fn world() -> World {
    let mut world = World::new();
    let exe = std::env::current_exe().unwrap();
    world.options = BuildOptions::new("x86_64-linux", exe);
    for path in ["/bin", "/usr", "/lib", "/lib64"] {
        if let Ok(real) = Path::new(path).canonicalize() {
            world
                .options
                .sandbox_paths
                .push((PathBuf::from(path), real));
        }
    }
    world
}

fn shell(script: &str, outputs: &[&str], output: &Output) -> Derivation {
    let mut drv = Derivation {
        outputs: outputs
            .iter()
            .map(|o| ((*o).to_owned(), output.clone()))
            .collect(),
        system: "x86_64-linux".to_owned(),
        builder: b"/bin/sh".to_vec(),
        args: vec![b"-c".to_vec(), script.as_bytes().to_vec()],
        ..Derivation::default()
    };
    drv.env.insert(b"PATH".to_vec(), b"/bin:/usr/bin".to_vec());
    drv
}

fn floating() -> Output {
    Output::Floating {
        method: Method::Recursive,
        algo: HashAlgo::Sha256,
    }
}

fn build_one(world: &World, name: &str, drv: Derivation) -> (sos_engine::BuildReport, StorePath) {
    let mut maker = Maker::default();
    let path = maker.add_drv(name, drv);
    (world.build(&maker.graph, &[&path]).0, path)
}

/// Builds one derivation that writes a text to `$out`.
#[track_caller]
fn text_of(name: &str, drv: Derivation) -> String {
    let world = world();
    let (report, _) = build_one(&world, name, drv);
    assert_eq!(codes(&report), [""; 0], "{:?}", report.failures);
    world.read(&report.results[0].1["out"])
}

fn a_program_makes_its_output() {
    let script = "echo hello > $out; echo to the log; pwd";
    let world = world();
    let (report, drv) = build_one(&world, "x", shell(script, &["out"], &Output::Deferred));
    assert_eq!(codes(&report), [""; 0], "{:?}", report.failures);
    assert_eq!(world.read(&report.results[0].1["out"]), "hello\n");
    let mut log = String::new();
    let mut reader = world.store.read_log(&drv).unwrap().unwrap();
    std::io::Read::read_to_string(&mut reader, &mut log).unwrap();
    assert_eq!(log, "to the log\n/build\n");
}

/// The paths are those that `nix-build` of Nix 2.8 gives for derivations that write the same.
fn content_addressed_as_nix_does() {
    let world = world();
    let mut maker = Maker::default();
    let own = maker.add_drv(
        "self",
        shell(
            "mkdir $out; echo $out/bin > $out/self; ln -s $out/self $out/link",
            &["out"],
            &floating(),
        ),
    );
    let multi = maker.add_drv(
        "multi",
        shell(
            "echo $dev > $out; mkdir $dev; echo dev $dev > $dev/me",
            &["out", "dev"],
            &floating(),
        ),
    );
    let mut user = shell("", &["out"], &floating());
    let dev = sos_formats::store_path::downstream_placeholder(&multi, "dev");
    let script = format!("echo {} {dev} > $out", maker.reference(&own));
    user.args[1] = script.into_bytes();
    user.input_drvs = [
        (own.clone(), ["out".to_owned()].into()),
        (multi.clone(), ["dev".to_owned()].into()),
    ]
    .into();
    let user = maker.add_drv("user", user);
    let (report, _) = world.build(&maker.graph, &[&own, &multi, &user]);
    assert_eq!(codes(&report), [""; 0], "{:?}", report.failures);
    let paths: Vec<String> = report
        .results
        .iter()
        .flat_map(|(_, outputs)| outputs.values().map(StorePath::base))
        .collect();
    assert_eq!(
        paths,
        [
            "hs9xsm8w9dpkz0bkz9limq35x79xmgkm-self",
            "bfl9yqi2kbyrf5arx1nn2s8k4apfmya8-multi-dev",
            "69n0wx6kcccf15ms4igk8ax1jvx926xl-multi",
            "fy5q25sfylj7d9inbr7x5y19qw4467p2-user",
        ]
    );
}

fn the_environment_is_that_of_nix() {
    let mut drv = shell(
        "env | sort > $out; echo $PWD $0 >> $out; cat $bigPath >> $out",
        &["out"],
        &Output::Deferred,
    );
    drv.env.insert(b"big".to_vec(), b"as a file\n".to_vec());
    drv.env.insert(b"passAsFile".to_vec(), b"big".to_vec());
    let text = text_of("x", drv);
    for line in [
        "HOME=/homeless-shelter",
        "NIX_BUILD_TOP=/build",
        "NIX_STORE=/nix/store",
        "TMPDIR=/build",
        "/build sh",
        "as a file",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} in {text}");
    }
}

fn structured_attributes_are_files() {
    if !has("/bin/bash") {
        return;
    }
    let mut drv = shell("", &["out"], &Output::Deferred);
    drv.env.clear();
    drv.builder = b"/bin/bash".to_vec();
    let script = r#". $NIX_ATTRS_SH_FILE; echo "$word" "${list[1]}" > ${outputs[out]}
                    while read -r line; do echo "$line"; done < $NIX_ATTRS_JSON_FILE >> ${outputs[out]}"#;
    drv.args[1] = script.as_bytes().to_vec();
    drv.env.insert(
        b"__json".to_vec(),
        br#"{"word":"one two","list":[1,2]}"#.to_vec(),
    );
    let text = text_of("x", drv);
    assert!(text.starts_with("one two 2\n"), "{text}");
    assert!(
        text.contains(r#""word":"one two""#) || text.lines().count() == 1,
        "{text}"
    );
}

fn a_bad_status_is_reported() {
    let script = "echo 'x.c:1: error: first'; for i in $(seq 40); do echo line $i; done; exit 3";
    let world = world();
    let (report, _) = build_one(&world, "x-1", shell(script, &["out"], &floating()));
    assert_eq!(
        (codes(&report), report.exit_code()),
        (vec!["build-failed"], 100)
    );
    let failure = &report.failures[0];
    assert!(
        failure
            .message
            .starts_with("`x-1` failed with exit status 3 after ")
    );
    assert_eq!(
        failure.notes[0],
        "first error in the log:\nx.c:1: error: first"
    );
    assert!(
        failure.notes[1].starts_with("last 25 of 41 lines:\nline 16\n"),
        "{failure:?}"
    );
    assert!(world.store.list().unwrap().is_empty());
    let (report, _) = build_one(&world, "x-2", shell("kill -SEGV $$", &["out"], &floating()));
    assert!(
        report.failures[0]
            .message
            .contains("by signal 11 (segmentation fault)"),
        "{report:?}"
    );
}

fn nothing_made_is_reported() {
    let (report, _) = build_one(
        &world(),
        "x",
        shell("echo > $out", &["out", "doc"], &floating()),
    );
    assert_eq!(codes(&report), ["build-no-output"]);
    assert!(
        report.failures[0]
            .message
            .ends_with("did not make its output `doc`")
    );
}

fn a_missing_builder_is_reported() {
    let mut drv = shell("", &["out"], &floating());
    drv.builder = b"/opt/none/bash".to_vec();
    let (report, _) = build_one(&world(), "x", drv);
    assert_eq!(codes(&report), ["build-no-builder"]);
    assert_eq!(
        report.failures[0].message,
        "builder `/opt/none/bash` of `x` does not exist in its sandbox"
    );
}

fn a_hanging_build_is_stopped() {
    let mut world = world();
    world.options.timeout_secs = Some(1);
    let (report, _) = build_one(
        &world,
        "x",
        shell("echo on; sleep 1000", &["out"], &floating()),
    );
    assert_eq!(
        (codes(&report), report.exit_code()),
        (vec!["build-timeout"], 101)
    );
    assert!(report.elapsed < Duration::from_secs(60));
}

fn a_stop_kills_the_build() {
    let world = world();
    let mut maker = Maker::default();
    let drv = maker.add_drv("x", shell("echo on; sleep 1000", &["out"], &floating()));
    let (engine, events) = world.engine();
    let cancel = Cancel::new();
    let stop = cancel.clone();
    let listener = std::thread::spawn(move || {
        for event in events {
            if matches!(event.event, Event::BuildLog { .. }) {
                stop.cancel();
            }
        }
    });
    let report = run(&engine, &maker.graph, &[&drv], cancel);
    drop(engine);
    listener.join().unwrap();
    assert!(report.cancelled && report.failures.is_empty(), "{report:?}");
    assert!(world.store.list().unwrap().is_empty());
}

fn a_wrong_hash_is_reported() {
    let output = |text: &[u8]| Output::Fixed {
        method: Method::Flat,
        hash: Hash::of(HashAlgo::Sha256, text),
    };
    let good = shell("echo x > $out", &["out"], &output(b"x\n"));
    assert_eq!(text_of("x", good), "x\n");
    let mut bad = shell("echo y > $out", &["out"], &output(b"x\n"));
    let sri = Hash::of(HashAlgo::Sha256, b"x\n").to_sri();
    bad.env
        .insert(b"outputHash".to_vec(), sri.clone().into_bytes());
    let (report, _) = build_one(&world(), "x", bad);
    assert_eq!(
        (codes(&report), report.exit_code()),
        (vec!["hash-mismatch"], 102)
    );
    let found = Hash::of(HashAlgo::Sha256, b"y\n").to_sri();
    assert!(
        report.failures[0].notes[0].contains(&sri) && report.failures[0].notes[0].contains(&found)
    );
}

fn a_failed_build_is_kept_if_asked() {
    let mut world = world();
    world.options.keep_failed = true;
    let (report, _) = build_one(
        &world,
        "x",
        shell("echo half > done; exit 1", &["out"], &floating()),
    );
    let note = report.failures[0].notes.last().unwrap();
    let path = note.split('`').nth(1).unwrap();
    assert_eq!(
        std::fs::read_to_string(Path::new(path).join("done")).unwrap(),
        "half\n"
    );
}

const BUSYBOX: &str = "/bin/busybox";

/// A root with a shell, made by the test builder; none when this machine has no busybox.
fn root_with_shell(maker: &mut Maker) -> Option<StorePath> {
    if !has(BUSYBOX) {
        return None;
    }
    let attrs = json!({"rootfs": {BUSYBOX: BUSYBOX}});
    Some(maker.add("root", &How::FloatingRootfs, &[], attrs))
}

fn step(maker: &mut Maker, name: &str, how: &How, root: &StorePath, attrs: Value) -> StorePath {
    let mut attrs = attrs;
    attrs["rootfs"] = json!(maker.reference(root));
    maker.add_for("builtin:step", name, how, &[root], attrs)
}

fn a_step_changes_its_root() {
    let mut maker = Maker::default();
    let Some(root) = root_with_shell(&mut maker) else {
        return;
    };
    let script = "busybox mkdir /etc; echo $WORD > /etc/word; busybox chown 33:44 /etc/word; \
                  busybox chmod 4711 /etc/word; echo said";
    let attrs = json!({"script": script, "env": {"WORD": "hi"}, "epoch": 5});
    let drv = step(&mut maker, "changed", &How::FloatingRootfs, &root, attrs);
    let world = world();
    let (report, _) = world.build(&maker.graph, &[&drv]);
    assert_eq!(codes(&report), [""; 0], "{:?}", report.failures);
    let info = world
        .store
        .query(&report.results[0].1["out"])
        .unwrap()
        .unwrap();
    let tree = RootTree::load(&world.store, &info.root.unwrap()).unwrap();
    let word = tree.get("/etc/word").unwrap().unwrap();
    assert_eq!(
        (
            word.meta.mode,
            word.meta.uid,
            word.meta.gid,
            word.meta.mtime_secs
        ),
        (0o4711, 33, 44, 5)
    );
    assert_eq!(tree.read_file("/etc/word").unwrap(), b"hi\n");
    assert!(tree.get(BUSYBOX).unwrap().is_some());
    // Nothing of the sandbox itself is in the result.
    assert!(tree.get("/run/sos").unwrap().is_none());
    // A second store and another number of cores give the same object.
    let mut other = self::world();
    other.options.cores = 7;
    let (again, _) = other.build(&maker.graph, &[&drv]);
    assert_eq!(again.results, report.results);
}

/// Owners and modes count, not only content.
fn steps_are_verified() {
    use sos_engine::verify::{Condition, Culprit, Verdict};
    let mut maker = Maker::default();
    let Some(root) = root_with_shell(&mut maker) else {
        return;
    };
    let same = "busybox mkdir /etc; echo hi > /etc/word; busybox chown 33:44 /etc/word; busybox date > /tmp/x";
    let attrs = json!({"script": same, "epoch": 5});
    let good = step(&mut maker, "good", &How::FloatingRootfs, &root, attrs);
    let owned = "busybox mkdir /etc; echo hi > /etc/word; \
        if test $(busybox hostname) = localhost; then busybox chown 33:44 /etc/word; else busybox chmod 4700 /etc/word; fi";
    let attrs = json!({"script": owned, "epoch": 5});
    let odd = step(&mut maker, "odd", &How::FloatingRootfs, &root, attrs);
    let masked = json!({
        "rootfs": maker.reference(&root), "script": "umask > $out",
    });
    let tree = maker.add_for("builtin:step", "tree", &How::Floating, &[&root], masked);
    let world = world();
    let (report, _) = world.build(&maker.graph, &[&good, &odd, &tree]);
    assert_eq!(codes(&report), [""; 0], "{:?}", report.failures);
    let same = world.verify(&maker.graph, &good);
    assert!(matches!(same.verdict, Verdict::Same), "{same:?}");
    let varied = &same.rounds[0].conditions.set;
    assert!(varied.contains(&Condition::HostName) && !varied.contains(&Condition::Umask));
    let other = world.verify(&maker.graph, &odd);
    let Verdict::Different(different) = other.verdict else {
        panic!("{other:?}");
    };
    let culprit = vec![[Condition::HostName].into()];
    assert_eq!(different.culprit, Culprit::Conditions(culprit));
    let found = &different.outputs[0].differences;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].path, b"etc/word");
    let words: Vec<&str> = found[0].changes.iter().map(|c| c.word()).collect();
    assert_eq!(words, ["mode", "owner"]);
    let masked = world.verify(&maker.graph, &tree);
    let Verdict::Different(different) = masked.verdict else {
        panic!("{masked:?}");
    };
    let culprit = vec![[Condition::Umask].into()];
    assert_eq!(different.culprit, Culprit::Conditions(culprit));
}

fn a_step_makes_a_tree() {
    let mut maker = Maker::default();
    let Some(root) = root_with_shell(&mut maker) else {
        return;
    };
    let source = maker.add(
        "source",
        &How::Floating,
        &[],
        json!({"text": "from the input\n"}),
    );
    let attrs = json!({
        "rootfs": maker.reference(&root),
        "mounts": {"/src/file": maker.reference(&source)},
        "command": ["/bin/busybox", "sh", "-c", "busybox mkdir $out; busybox cp /src/file $out/copy"],
    });
    let drv = maker.add_for(
        "builtin:step",
        "tree",
        &How::Floating,
        &[&root, &source],
        attrs,
    );
    let world = world();
    let (report, _) = world.build(&maker.graph, &[&drv]);
    assert_eq!(codes(&report), [""; 0], "{:?}", report.failures);
    let copy = world
        .store
        .physical(&report.results[0].1["out"])
        .join("copy");
    assert_eq!(std::fs::read_to_string(copy).unwrap(), "from the input\n");
}

fn a_step_that_fails_says_so() {
    let mut maker = Maker::default();
    let Some(root) = root_with_shell(&mut maker) else {
        return;
    };
    let mut attempt = |attrs: Value| {
        let drv = step(&mut maker, "bad", &How::Floating, &root, attrs);
        let report = world().build(&maker.graph, &[&drv]).0;
        (report.failures[0].code, report.failures[0].message.clone())
    };
    let (code, message) = attempt(json!({"script": "echo no; exit 4"}));
    assert_eq!(code, "build-failed");
    assert!(
        message.starts_with("`bad` failed with exit status 4 after"),
        "{message}"
    );
    assert_eq!(attempt(json!({"script": "exit 0"})).0, "build-no-output");
    assert_eq!(attempt(json!({})).0, "build-bad-attributes");
    let (code, message) = attempt(json!({"script": "x", "user": "me"}));
    assert_eq!(code, "build-bad-attributes");
    assert!(message.contains("`user` is `me`"), "{message}");
    let mount =
        json!({"script": "x", "mounts": {"/x": "/nix/store/11111111111111111111111111111111-x"}});
    assert_eq!(attempt(mount).0, "build-bad-input");
}

fn the_timeout_of_a_step_is_named() {
    let mut maker = Maker::default();
    let Some(root) = root_with_shell(&mut maker) else {
        return;
    };
    let mut build = |limit: Option<u64>, own: u64| {
        let attrs = json!({"script": "busybox sleep 3", "timeout": own});
        let drv = step(&mut maker, "slow", &How::FloatingRootfs, &root, attrs);
        let mut world = world();
        world.options.timeout_secs = limit;
        world.build(&maker.graph, &[&drv]).0
    };
    let report = build(Some(60), 1);
    assert_eq!(report.exit_code(), 101);
    let failure = &report.failures[0];
    assert_eq!(
        failure.message,
        "`slow` took longer than the 1 second of its own `timeout`, and was stopped"
    );
    assert!(
        failure.helps.iter().all(|h| !h.contains("--timeout")),
        "{failure:?}"
    );
    let report = build(Some(1), 60);
    let failure = &report.failures[0];
    assert_eq!(
        failure.message,
        "`slow` took longer than 1 second, and was stopped"
    );
    // 0 is no limit.
    let report = build(Some(0), 0);
    assert_eq!(codes(&report), [""; 0], "{:?}", report.failures);
}

fn a_failed_step_is_kept_if_asked() {
    let mut maker = Maker::default();
    let Some(root) = root_with_shell(&mut maker) else {
        return;
    };
    let mut build = |how: &How, script: &str| {
        let drv = step(&mut maker, "bad", how, &root, json!({"script": script}));
        let mut world = world();
        world.options.keep_failed = true;
        let report = world.build(&maker.graph, &[&drv]).0;
        assert_eq!(codes(&report), ["build-failed"], "{:?}", report.failures);
        let note = report.failures[0].notes.last().unwrap();
        let kept = PathBuf::from(note.split('`').nth(1).unwrap());
        (world, kept)
    };
    let script = "busybox mkdir /etc; echo half > /etc/done; busybox chown 33:44 /etc/done; exit 1";
    let (world, kept) = build(&How::FloatingRootfs, script);
    assert_eq!(
        std::fs::read_to_string(kept.join("upper/etc/done")).unwrap(),
        "half\n"
    );
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&world.store.root().join("failed")), 0o700);
    let (_world, kept) = build(&How::Floating, "echo half > $out; exit 1");
    assert_eq!(
        std::fs::read_to_string(kept.join("private/out")).unwrap(),
        "half\n"
    );
}

fn outputs_that_are_no_files_are_refused() {
    for (script, outputs, place) in [
        ("mkfifo $out", ["out"].as_slice(), "$out"),
        (
            "mkdir -p $out/run; mkfifo $out/run/pipe",
            &["out"],
            "$out/run/pipe",
        ),
        (
            "mkdir $out $dev; echo $dev >$out/x; mkfifo $dev/p",
            &["out", "dev"],
            "$dev/p",
        ),
        (
            "mkdir $out; echo $out >$out/self; mkfifo $out/p",
            &["out"],
            "$out/p",
        ),
    ] {
        for output in [floating(), Output::Deferred] {
            let world = world();
            let (report, _) = build_one(&world, "x", shell(script, outputs, &output));
            assert_eq!(
                (codes(&report), report.exit_code()),
                (vec!["build-bad-output"], 100)
            );
            let failure = &report.failures[0];
            assert_eq!(
                failure.message,
                format!(
                    "the result of `x` is refused: `{place}` is a pipe, and can be no part of a store object"
                )
            );
            let root = world.store.root().display().to_string();
            assert!(!format!("{failure:?}").contains(&root), "{failure:?}");
        }
    }
}

fn steps_stop_at_equal_inputs() {
    let world = world();
    let build = |comment: &str| {
        let mut maker = Maker::default();
        let root = root_with_shell(&mut maker)?;
        let script = format!("# {comment}\necho compiled > /out.txt");
        let first = step(
            &mut maker,
            "first",
            &How::FloatingRootfs,
            &root,
            json!({"script": script}),
        );
        let second = step(
            &mut maker,
            "second",
            &How::FloatingRootfs,
            &first,
            json!({"script": "echo > /x"}),
        );
        let (report, events) = world.build(&maker.graph, &[&second]);
        assert_eq!(codes(&report), [""; 0], "{:?}", report.failures);
        Some(story(&events))
    };
    let Some(story) = build("one") else { return };
    assert_eq!(story, ["root built", "first built", "second built"]);
    assert_eq!(build("two").unwrap(), ["first built", "second cached"]);
}
