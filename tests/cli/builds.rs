//! Plain Nix files build, and real Nix agrees on every path.

use std::path::Path;
use std::process::Command;

use crate::support::process::children_of;
pub(super) use crate::support::world_with_busybox;
use crate::support::{World, peer, run, shared, start};

/// A recipe of one derivation whose builder is the static busybox, run with a script.
pub(super) fn recipe(name: &str, script: &str, more: &str) -> String {
    format!(
        "derivation {{ name = \"{name}\"; system = \"x86_64-linux\"; builder = \"/bin/busybox\"; args = [ \"sh\" \"-c\" ''{script}'' ]; {more} }}"
    )
}

#[test]
fn a_derivation_builds_and_its_log_is_kept() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write(
        "f.nix",
        &recipe("greeting", "echo making; echo hello > $out", ""),
    );
    let built = w.sos(["build", "f.nix"]).ok().says(&["built 1"]);
    let path = built.stdout.trim().to_owned();
    assert_eq!(w.sos(["store", "cat", &path]).ok().stdout, "hello\n");
    assert_eq!(w.sos(["log", "greeting"]).ok().stdout, "making\n");
    assert_eq!(w.sos(["log", "f.nix"]).ok().stdout, "making\n");
    w.sos(["build", "f.nix"]).ok().says(&["built 0"]);
}

#[test]
fn a_build_has_no_more_memory_than_it_may() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "/bin/busybox dd if=/dev/zero of=/dev/null bs=200M count=1; echo x > $out";
    w.write("f.nix", &recipe("large", &format!("set -e; {script}"), ""));
    let build = |limit: &str| {
        let limit = format!("build.memory-max={limit}");
        w.sos(["--config", &limit, "build", "--no-link", "f.nix"])
    };
    build("\"64M\"").fails(100).says(&["build-failed"]);
    build("\"64 megabytes\"")
        .fails(2)
        .says(&["config-invalid", "`4G`"]);
    build("\"4G\"").ok();
    let doctor = w.sos(["doctor"]);
    assert!(doctor.stdout.contains("`build.memory-max`"), "{doctor:?}");
    let shown = w
        .sos(["--config", "build.pids-max=77", "doctor", "config"])
        .ok();
    assert!(shown.stdout.contains("77"), "{shown:?}");
}

#[test]
fn what_was_built_is_imported_and_read_while_evaluating() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let file = recipe("made.nix", "echo '{ x = 41; }' > $out", "");
    let tree = recipe("tree", "mkdir $out; echo 1 > $out/y.nix", "");
    let expression = format!(
        "[ ((import ({file})).x + import \"${{{tree}}}/y.nix\") (builtins.readFile ({file})) ]"
    );
    assert_eq!(
        w.sos(["eval", "--strict", "-E", &expression]).ok().stdout,
        "[ 42 \"{ x = 41; }\\n\" ]\n"
    );
}

#[test]
fn the_second_build_starts_no_process() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("once", "echo x > $out", ""));
    let processes = || children_of(start(&mut w.command_of(&["build", "--no-link", "f.nix"])));
    assert!(processes() > 0, "a builder is a process");
    assert_eq!(processes(), 0);
}

#[test]
fn a_target_that_is_named_twice_has_one_result() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("once", "echo x > $out", ""));
    let built = w
        .sos(["build", "--no-link", "f.nix", "f.nix", "f.nix"])
        .ok();
    assert_eq!(built.stdout.lines().count(), 3, "a path a target");
    let shown = w.sos(["builds", "1", "--json"]).ok().stdout;
    let build: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(build["outputs"].as_array().expect("a list").len(), 1);
}

#[test]
fn a_killed_build_leaves_no_lock_for_ever() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("once", "echo x > $out", ""));
    // As after `kill -9`: the file is there, and nobody holds it.
    let locks = w.store().join("lock/drv");
    std::fs::create_dir_all(&locks).expect("a directory");
    let left = locks.join(format!("{}-x.drv", "1".repeat(32)));
    std::fs::write(&left, "4194303 x\n").expect("a file");
    w.sos(["build", "--no-link", "f.nix"]).ok();
    assert!(!left.exists());
}

#[test]
fn a_collection_of_logs_says_so() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "/bin/busybox head -c 100000 /dev/urandom; exit 1";
    w.write("f.nix", &recipe("loud", script, ""));
    let failed = w.sos(["build", "--no-link", "f.nix"]).fails(100);
    let longest = failed.stderr.lines().map(|line| line.chars().count()).max();
    assert!(longest < Some(600), "{longest:?}");
    for args in [&["gc", "-n"][..], &["gc"]] {
        let run = w.sos(args).ok().says(&["logs, caches and leftovers"]);
        assert!(!run.stderr.contains("0 paths"), "{}", run.stderr);
    }
    // The log of a failure is what a person comes back for: it goes when it is old, and then that is told.
    w.sos(["log", "loud"]).ok();
    let logs = std::fs::read_dir(w.store().join("log")).expect("logs");
    let mut aged = 0;
    for shard in logs.flatten() {
        for log in std::fs::read_dir(shard.path()).expect("logs").flatten() {
            let log = std::fs::File::options().write(true).open(log.path());
            let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
            log.and_then(|log| log.set_modified(old)).expect("a time");
            aged += 1;
        }
    }
    assert_eq!(aged, 1);
    w.sos(["gc"]).ok().says(&["logs, caches and leftovers"]);
    w.sos(["log", "loud"]).fails(1).says(&[
        "error[log-not-found]: there is no log of `loud` any more",
        "sos gc",
        "sos builds 1",
    ]);
    w.sos(["log", "1"]).ok().says(&["no log of `loud` is kept"]);
}

#[test]
fn a_result_link_is_a_root() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("kept", "echo x > $out", ""));
    let path = w
        .sos(["build", "f.nix", "-o", "result"])
        .ok()
        .stdout
        .trim()
        .to_owned();
    assert_eq!(
        std::fs::read_to_string(w.project().join("result")).expect("the link leads to the content"),
        "x\n"
    );
    w.sos(["gc"]).ok();
    w.sos(["store", "info", &path]).ok();
    std::fs::remove_file(w.project().join("result")).expect("the link");
    w.sos(["gc"]).ok();
    w.sos(["store", "info", &path]).fails(1);
}

#[test]
fn several_targets_and_outputs_in_argument_order() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let two = recipe(
        "two",
        "echo o > $out; echo d > $dev",
        "outputs = [ \"out\" \"dev\" ];",
    );
    w.write(
        "f.nix",
        &format!(
            "{{ a = {}; b = {two}; }}",
            recipe("one", "echo 1 > $out", "")
        ),
    );
    let out = w
        .sos(["build", "f.nix#b^dev", "f.nix#a", "--no-link"])
        .ok()
        .stdout;
    let lines: Vec<&str> = out.lines().collect();
    assert_eq!(lines.len(), 2, "{out}");
    assert!(
        lines[0].ends_with("-two-dev") && lines[1].ends_with("-one"),
        "{out}"
    );
}

#[test]
fn a_dry_run_builds_nothing() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("planned", "echo x > $out", ""));
    for args in [["build", "-n", "f.nix"], ["plan", "-n", "f.nix"]] {
        let run = w.sos(args).ok();
        assert!(
            format!("{}{}", run.stdout, run.stderr).contains("planned"),
            "{run:?}"
        );
    }
    assert!(!w.sos(["store", "ls"]).ok().stdout.contains("planned\n"));
}

#[test]
fn the_event_stream_is_json_and_ends_with_a_summary() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &recipe("streamed", "echo x > $out", ""));
    let out = w
        .sos(["build", "f.nix", "--no-link", "--progress", "json"])
        .ok()
        .stdout;
    let events: Vec<serde_json::Value> = out
        .lines()
        .map(|l| serde_json::from_str(l).expect("a JSON object a line"))
        .collect();
    let types: Vec<&str> = events.iter().filter_map(|e| e["type"].as_str()).collect();
    assert!(
        types.contains(&"build.started") && types.contains(&"build.finished"),
        "{types:?}"
    );
    let last = events.last().expect("events");
    assert_eq!(last["type"], "summary");
    assert_eq!(last["exit_code"], 0);
    assert!(
        last["outputs"][0]
            .as_str()
            .expect("a path")
            .ends_with("-streamed")
    );
    assert!(
        events
            .windows(2)
            .all(|w| w[0]["seq"].as_u64() < w[1]["seq"].as_u64()),
        "numbers ascend"
    );
}

/// A thousand derivations in layers; each reads some of the layer before, and writes what it read.
fn thousand(builder: &Path) -> String {
    /// Derivations of one layer.
    const WIDTH: usize = 32;
    let mut text = format!(
        "let\n  mk = i: deps: derivation {{\n    name = \"node-${{toString i}}\";\n    system = \"x86_64-linux\";\n    builder = \"{}\";\n    \
         args = [ \"sh\" \"-c\" ''echo $i > $out; for d in $deps; do read l < $d; echo $l >> $out; done'' ];\n    inherit i deps;\n  }};\n",
        builder.display()
    );
    let reads = |i: usize, count: usize| -> String {
        let layer = i / WIDTH * WIDTH;
        let before = (0..count).filter(|_| layer > 0).map(|k| {
            let j = layer - WIDTH + (i * 5 + k * 11) % WIDTH;
            format!("d{j} ")
        });
        before.collect()
    };
    for i in 0..1000 {
        text.push_str(&format!("  d{i} = mk {i} [ {}];\n", reads(i, i % 4)));
    }
    let top: String = (1000 - WIDTH..1000).map(|i| format!("d{i} ")).collect();
    text + &format!("in mk 1000 [ {top}]\n")
}

#[test]
fn a_thousand_derivations_have_the_paths_of_nix_build() {
    let (Some(busybox), Some(nix_build)) = (peer("busybox"), peer("nix-build")) else {
        return;
    };
    let w = World::new();
    w.write("dag.nix", &thousand(&busybox));
    builds_as_nix_does(&w, &busybox, &nix_build);
}

#[test]
fn the_shared_graph_has_the_paths_of_nix_build() {
    let Some(generator) = shared("bench/engine/gen_dag.py") else {
        return;
    };
    let (Some(python), Some(busybox), Some(nix_instantiate)) =
        (peer("python3"), peer("busybox"), peer("nix-instantiate"))
    else {
        return;
    };
    let w = World::new();
    let file = w.project().join("dag.nix");
    run(Command::new(python)
        .arg(generator)
        .args(["layers", "1000", "--builder"])
        .arg(&busybox)
        .arg("-o")
        .arg(&file))
    .ok();
    // The path of the last one has those of all others in it; that they build is what the other graph is for.
    let ours = w
        .sos(["eval", "--raw", "-E", "(import ./dag.nix).outPath"])
        .ok();
    let mut nix = Command::new(nix_instantiate);
    nix.env("HOME", w.root().join("home"))
        .args(["--store", "dummy://", "--eval", "--expr"])
        .arg(format!("(import {}).outPath", file.display()));
    assert_eq!(
        format!("\"{}\"", ours.stdout.trim()),
        run(&mut nix).ok().stdout.trim()
    );
}

/// Builds `dag.nix` of the project with both programs; path and content must be equal.
fn builds_as_nix_does(w: &World, busybox: &Path, nix_build: &Path) {
    let file = w.project().join("dag.nix");
    let sandbox_path = format!("build.sandbox-paths=[\"{}\"]", busybox.display());
    let ours = w
        .sos(["--config", &sandbox_path, "build", "--no-link", "dag.nix"])
        .ok();
    let path = ours.stdout.trim();
    // Real Nix computes every one of the thousand paths for the last one; building it compares the content as well.
    let nix = |store: &Path| {
        let mut command = Command::new(nix_build);
        command
            .env("HOME", w.root().join("home"))
            .env_remove("NIX_REMOTE")
            .args([
                "--no-out-link",
                "--option",
                "sandbox",
                "true",
                "--option",
                "build-users-group",
                "",
                "-j",
                "2",
                "--option",
                "sandbox-paths",
            ])
            .arg(busybox)
            .arg("--store")
            .arg(store)
            .arg(&file);
        run(&mut command).ok().stdout
    };
    let store = w.root().join("nix");
    assert_eq!(path, nix(&store).trim());
    let content =
        std::fs::read_to_string(store.join(path.trim_start_matches('/'))).expect("what Nix built");
    assert_eq!(w.sos(["store", "cat", path]).ok().stdout, content);
    w.sos(["--config", &sandbox_path, "build", "--no-link", "dag.nix"])
        .ok()
        .says(&["built 0"]);
}

#[test]
fn an_equal_result_stops_the_rebuild() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let ca =
        "__contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\";";
    let graph = |salt: &str| {
        format!(
            "let first = {}; in {}",
            recipe(
                "first",
                "echo same > $out",
                &format!("salt = \"{salt}\"; {ca}")
            ),
            recipe(
                "second",
                "read l < $first; echo $l again > $out",
                &format!("inherit first; {ca}")
            )
        )
    };
    w.write("f.nix", &graph("1"));
    let one = w
        .sos(["build", "--no-link", "f.nix"])
        .ok()
        .says(&["built 2"])
        .stdout;
    w.write("f.nix", &graph("2"));
    let two = w
        .sos(["build", "--no-link", "f.nix"])
        .ok()
        .says(&["built 1"])
        .stdout;
    assert_eq!(one, two);
}

#[test]
fn structured_attributes_are_written_as_nix_writes_them() {
    let (Some(w), Some(nix), Some(busybox)) =
        (world_with_busybox(), peer("nix-build"), peer("busybox"))
    else {
        return;
    };
    // The text is given as it is, so that both builders read the same derivation: what the evaluators write for floats differs, as
    // Nix 2.8 rounds to six digits and newer versions do not.
    let json = r#"{"PATH":"/bin","z":[3,3.0,1.5,1e100,1.0E15,-3.0,0.0,-0.0,0.0001,0.00001,0.0000999],
        "a":{"y":1.23457e+06,"x":9007199254740993.0},"b":[1234567890123456.0,123456789012345.0,5e-324,1.7976931348623157e308],
        "c":[18446744073709551615,18446744073709551616,-9223372036854775808],"d":"\u00e4\u0001/\u2028","e":[],"f":{},"g":null}"#;
    let script = r#"out=$(/bin/busybox sed 's/.*"outputs":{"out":"\([^"]*\)".*/\1/' .attrs.json)
        /bin/busybox cat .attrs.json .attrs.sh > $out"#;
    w.write(
        "f.nix",
        &recipe("attrs", script, &format!("__json = ''{json}'';")),
    );
    let mut nix = Command::new(nix);
    nix.arg("--store")
        .arg(w.root().join("nix-store"))
        .args(["--no-out-link", "--option", "sandbox", "true"])
        .args(["--option", "build-users-group", ""])
        .args(["--option", "substituters", ""])
        .args(["--option", "sandbox-paths"])
        .arg(format!("/bin/busybox={}", busybox.display()))
        .arg(w.project().join("f.nix"))
        .env("HOME", w.root().join("home"));
    let theirs = run(&mut nix).ok().stdout;
    let path = w.sos(["build", "--no-link", "f.nix"]).ok().stdout;
    assert_eq!(path, theirs);
    let at = w
        .root()
        .join("nix-store")
        .join(theirs.trim().trim_start_matches('/'));
    let theirs = std::fs::read_to_string(at).expect("what Nix wrote");
    assert!(theirs.contains("3,3.0,1.5,1e+100"), "{theirs}");
    assert_eq!(w.sos(["store", "cat", path.trim()]).ok().stdout, theirs);
}

#[test]
fn what_a_program_makes_is_built_even_if_its_content_is_known() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let known = "outputHashMode = \"flat\"; outputHashAlgo = \"sha256\"; outputHash = \"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03\";";
    w.write(
        "f.nix",
        &recipe("known", "echo said; echo hello > $out", known),
    );
    let events = w.events(&["f.nix"]);
    assert_eq!(events.names("build.finished"), ["known"]);
    assert_eq!(events.names("fetch.started"), Vec::<&str>::new());
    assert_eq!(events.summary()["built"], 1);
    assert_eq!(events.summary()["fetched"], 0);
}

#[test]
fn a_variable_that_is_too_large_is_named() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let text =
        "text = builtins.concatStringsSep \"\" (builtins.genList (i: \"0123456789abcdef\") 20000);";
    let script = "test -z \"$textPath\" || read -n 4 start < $textPath; echo $start > $out";
    w.write("f.nix", &recipe("large", script, text));
    w.sos(["build", "--no-link", "f.nix"]).fails(100).says(&[
        "error[build-exec]",
        "the variable `text` with 320000 bytes",
        "`passAsFile = [ \"text\" ];`",
    ]);
    let passed = format!("{text} passAsFile = [ \"text\" ];");
    w.write("f.nix", &recipe("large", script, &passed));
    let path = w.sos(["build", "--no-link", "f.nix"]).ok().stdout;
    assert_eq!(w.sos(["store", "cat", path.trim()]).ok().stdout, "0123\n");
    w.write(
        "f.nix",
        &recipe("long", &format!(": {}", "x".repeat(200_000)), ""),
    );
    w.sos(["build", "--no-link", "f.nix"])
        .fails(100)
        .says(&["the largest is an argument with 200002 bytes"]);
}

#[test]
fn what_cannot_be_built_is_refused_before_anything_is() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let good = recipe("good", "echo x > $out", "");
    for (more, why) in [
        ("__noChroot = true;", "asks for no sandbox"),
        ("__json = \"[1]\";", "`__json` is not an object"),
        (
            "__structuredAttrs = true; outputChecks.out.maxSize = \"much\";",
            "is not a number of bytes",
        ),
        ("exportReferencesGraph = \"g\";", "odd number of words"),
    ] {
        // What is wrong needs the good one, so that it would come last.
        let bad = recipe("bad", "echo x > $out", &format!("{more} dep = {good};"));
        w.write("f.nix", &bad);
        let run = w.sos(["build", "--no-link", "f.nix"]).fails(3);
        assert!(
            run.stderr.contains("error[build-bad-attributes]"),
            "{}",
            run.stderr
        );
        assert!(run.stderr.contains(why), "{}", run.stderr);
        w.sos(["log", "good"]).fails(1);
    }
    w.sos(["build", "-j", "-1", "f.nix"])
        .fails(2)
        .says(&["-1 is not in 1..=65535"]);
}
