//! Builds again under other conditions: what differs is found, and its reason is named.

use serde_json::Value;

use super::builds::{recipe, world_with_busybox};
use crate::support::server::Server;
use crate::support::steps::{possible, steps};
use crate::support::{Run, World, peer};

/// A script that writes with programs of busybox.
fn with(name: &str, script: &str) -> String {
    recipe(name, &script.replace("BB", "/bin/busybox"), "")
}

#[track_caller]
fn verified(w: &World, file: &str, more: &[&str]) -> (Value, Run) {
    let run = w.sos(["verify", file, "--json"].iter().chain(more));
    let value: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|e| {
        panic!("{e}: {}\n{}", run.stdout, run.stderr);
    });
    (value[0].clone(), run)
}

#[test]
fn what_is_the_same_is_equal_and_remembered() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write(
        "f.nix",
        &with("plain", "BB mkdir $out; echo $out > $out/own; BB ln -s own $out/link; echo x > $out/x; BB chmod +x $out/x"),
    );
    let built = w.sos(["build", "f.nix", "--no-link"]).ok();
    let path = built.stdout.trim();
    let before = w.sos(["store", "info", path, "--json"]).ok().stdout;
    let run = w.sos(["verify", "f.nix", "--rounds", "3"]).ok();
    assert_eq!(run.stdout, "plain: equal after 3 rounds\n");
    assert!(!run.stderr.contains("built 0"), "{}", run.stderr);
    let clock = "the wall clock was not varied";
    assert!(run.stderr.contains(clock), "{}", run.stderr);
    let info = w.sos(["store", "info", path, "--json"]).ok().stdout;
    let (before, info): (Value, Value) = (
        serde_json::from_str(&before).expect("json"),
        serde_json::from_str(&info).expect("json"),
    );
    assert_eq!(before[0]["narHash"], info[0]["narHash"]);
    let rebuilds = info[0]["rebuilds"].as_array().expect("a list");
    assert_eq!(rebuilds.len(), 3);
    for one in rebuilds {
        assert_eq!(one["same"], true);
        assert_eq!(one["found"], info[0]["narHash"]);
        let varied = one["varied"].as_str().expect("a text");
        let words: Vec<&str> = varied.split(',').collect();
        assert!(
            words.contains(&"place") && words.contains(&"umask"),
            "{varied}"
        );
        assert!(
            !words.contains(&"time") && !words.contains(&"date"),
            "{varied}"
        );
    }
    // As if it had been built yesterday.
    if let Some(python) = peer("python3") {
        let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute('UPDATE trace SET started = started - 86400'); db.commit()";
        let mut shift = std::process::Command::new(python);
        shift
            .args(["-c", script])
            .arg(w.store().join("db/sos.sqlite"));
        crate::support::run(&mut shift).ok();
        let run = w.sos(["verify", "f.nix"]).ok();
        assert!(
            !run.stderr.contains(clock) && run.stderr.contains("with other date, "),
            "{}",
            run.stderr
        );
        let info = w.sos(["store", "info", path]).ok().stdout;
        assert!(info.contains("varied place,date,"), "{info}");
    }
    assert_eq!(info[0]["builds"].as_array().expect("a list").len(), 1);
    w.sos(["store", "check"]).ok();
}

#[test]
fn each_reason_is_named() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    for (reason, script) in [
        ("host-name", "BB hostname > $out"),
        ("kernel", "BB uname -r > $out"),
        ("umask", "umask > $out"),
        ("cores", "echo $NIX_BUILD_CORES > $out"),
        ("cores", "BB nproc > $out"),
        ("locale", "echo $LANG > $out"),
        ("timezone", "BB date +%H > $out"),
        ("directory", "echo $TMPDIR > $out"),
        ("directory", "BB pwd > $out"),
        (
            "uptime",
            "read up rest < /proc/uptime; test ''${up%%.*} -gt 300000000 && echo old > $out || echo new > $out",
        ),
        (
            "directory-order",
            "for f in 1 2 3 4 5 6 7 8 9; do echo > $f; done; BB find . > $out",
        ),
        (
            "addresses",
            "BB grep -F '[stack]' /proc/self/maps | BB cut -d- -f1 > $out",
        ),
    ] {
        w.write("f.nix", &with("odd", script));
        let (value, run) = verified(&w, "f.nix", &[]);
        let run = run.fails(104);
        assert_eq!(value["verdict"], "different", "{reason}: {}", run.stderr);
        assert_eq!(
            value["dependsOn"],
            serde_json::json!([[reason]]),
            "{script}"
        );
        assert!(run.stderr.contains("not-reproducible"), "{}", run.stderr);
    }
    // Nothing of what came out otherwise is valid.
    w.sos(["store", "check"]).ok();
}

/// A step has the directory that its recipe says; where it makes temporary files is varied.
#[test]
fn where_a_step_makes_temporary_files_is_a_reason() {
    let w = World::new();
    if possible(&w).is_none() {
        return;
    }
    let step = |script: &str| {
        let body = format!(
            r#"step "odd" {{ rootfs = "${{base "x"}}"; script = "{script}; echo x > $t; busybox rm $t"; }}"#
        );
        steps(&body).expect("busybox")
    };
    let name = r"t=\${TMPDIR:-/tmp}/x";
    w.write("f.nix", &step(&format!("{name}; echo $t > /etc/odd")));
    let (value, run) = verified(&w, "f.nix", &[]);
    assert_eq!(value["verdict"], "different", "{}", run.fails(104).stderr);
    assert_eq!(value["dependsOn"], serde_json::json!([["directory"]]));
    // What it makes there does not show by itself.
    w.write("f.nix", &step(name));
    let run = w.sos(["verify", "f.nix", "--rounds", "2"]).ok();
    assert_eq!(run.stdout, "odd: equal after 2 rounds\n");
    let path = w.sos(["build", "f.nix", "--no-link"]).ok().stdout;
    let info = w.sos(["store", "info", path.trim()]).ok().stdout;
    assert!(info.contains("directory"), "{info}");
}

#[test]
fn the_order_of_an_input_is_a_reason() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    for n in 0..9 {
        w.write(&format!("src/{n}"), "");
    }
    let script = "cd $src; /bin/busybox find . > $out";
    w.write("f.nix", &recipe("listed", script, "src = ./src;"));
    let (value, run) = verified(&w, "f.nix", &[]);
    run.fails(104);
    assert_eq!(value["dependsOn"], serde_json::json!([["directory-order"]]));
}

#[test]
fn time_and_chance_are_told_from_conditions() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    for script in [
        "BB date +%s > $out",
        "BB head -c 99 /dev/urandom > $out",
        "echo $$-$RANDOM > $out",
    ] {
        w.write("f.nix", &with("chance", script));
        let (value, run) = verified(&w, "f.nix", &[]);
        run.fails(104).says(&["with nothing varied on purpose"]);
        assert_eq!(value["dependsOn"], serde_json::json!([]), "{script}");
    }
}

#[test]
fn the_first_file_and_byte_are_shown() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "BB mkdir $out; echo same > $out/a; (echo one; BB hostname; echo three) > $out/b; \
        if test $(BB hostname) = localhost; then echo y > $out/only; BB ln -s here $out/l; else BB ln -s there $out/l; BB chmod +x $out/b; fi";
    w.write("f.nix", &with("files", script));
    let kept = w.root().join("kept");
    let run = w
        .sos(["verify", "f.nix", "--keep", kept.to_str().expect("text")])
        .fails(104)
        .says(&[
            "not-reproducible",
            "b: content differs from byte 4 on",
            "when the host name differs",
        ]);
    for part in [
        "files^out: 3 paths otherwise (1 content, 1 mode, 1 symlink target, 1 removed)",
        "  l: link to here -> there\n",
        "  only: removed\n",
        "mode 0644 -> 0755, now executable\n",
        " one\n-localhost\n+verify-1\n three\n",
    ] {
        assert!(run.stdout.contains(part), "no `{part}` in:\n{}", run.stdout);
    }
    let text = std::fs::read_to_string(kept.join("files-out/b")).expect("what came out is kept");
    assert_eq!(text, "one\nverify-1\nthree\n");
    w.sos(["verify", "f.nix", "--keep", kept.to_str().expect("text")])
        .fails(2)
        .says(&["verify-keep-exists"]);
    // What goes on is told in words, with the number of builds to come.
    w.sos(["verify", "f.nix"]).fails(104).says(&[
        "files: round 1 of 1, with other cores, directory, directory order, ",
        "files: looking for the reason, build 1 of about 11, with nothing varied on purpose\n",
    ]);
    let listed = w.sos(["builds", "--json"]).ok().stdout;
    assert!(
        !listed.contains("\"verify\""),
        "the targets are named: {listed}"
    );
    w.sos(["verify", "f.nix", "--vary", "cores,umask"]).ok();
    w.sos(["verify", "f.nix", "--vary", "none"]).ok();
}

#[test]
fn content_addressed_outputs_that_name_each_other_are_equal() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let more = "outputs = [ \"out\" \"lib\" ]; __contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\";";
    let script = "/bin/busybox mkdir $out $lib; echo $lib $out > $out/x; echo $lib > $lib/self; /bin/busybox ln -s $lib/self $out/$(/bin/busybox basename $lib)";
    w.write("f.nix", &recipe("pair", script, more));
    let (value, run) = verified(&w, "f.nix", &["--rounds", "2"]);
    run.ok();
    assert_eq!(value["verdict"], "same");
    assert_eq!(value["outputs"].as_object().expect("outputs").len(), 2);
}

#[test]
fn inputs_are_verified_when_all_is_asked_for() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let dep = with("dep", "BB hostname > $out");
    let fixed = recipe(
        "fixed",
        "echo hello > $out",
        "outputHashMode = \"flat\"; outputHashAlgo = \"sha256\"; outputHash = \"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03\";",
    );
    let top = recipe(
        "top",
        "echo $dep > $out",
        &format!("dep = {dep}; fixed = {fixed};"),
    );
    w.write("f.nix", &top);
    w.sos(["verify", "f.nix"]).ok();
    let run = w.sos(["verify", "f.nix", "--all"]).fails(104);
    for part in ["top: equal", "dep^out: ", "fixed: equal by its hash"] {
        assert!(run.stdout.contains(part), "no `{part}` in:\n{}", run.stdout);
    }
}

#[test]
fn a_build_that_fails_elsewhere_is_not_reproducible() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write(
        "f.nix",
        &with(
            "picky",
            "test $(BB hostname) = localhost || exit 1; echo > $out",
        ),
    );
    w.sos(["verify", "f.nix"]).fails(104).says(&[
        "fails when it is built again",
        "it fails when the host name differs",
    ]);
}

#[test]
fn a_mirror_of_nix_is_compared() {
    let (Some(w), Some(nix), Some(nix_build)) =
        (world_with_busybox(), peer("nix"), peer("nix-build"))
    else {
        return;
    };
    let Some(busybox) = peer("busybox") else {
        return;
    };
    // The same derivation built by real Nix, in a store of its own, with another result for `odd`.
    let same = with(
        "same",
        "BB mkdir $out; echo 1 > $out/a; echo $out > $out/self",
    );
    let odd = with(
        "odd",
        "BB mkdir $out; echo equal > $out/a; BB cat /proc/sys/kernel/random/uuid > $out/b",
    );
    let more =
        "__contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\";";
    let dep = recipe("dep", "echo dep > $out", more);
    let named = recipe(
        "named",
        "/bin/busybox mkdir $out; echo $out ${dep} > $out/a; /bin/busybox cat /proc/sys/kernel/random/uuid > $out/b",
        more,
    );
    w.write(
        "f.nix",
        &format!("rec {{ same = {same}; odd = {odd}; dep = {dep}; named = {named}; }}"),
    );
    let store = w.root().join("nix-store");
    let cache = w.root().join("cache");
    let secret = w.root().join("secret");
    let run = |args: &[&str]| {
        let done = std::process::Command::new(&nix)
            .args(["--extra-experimental-features", "nix-command"])
            .args(args)
            .env("HOME", w.root().join("home"))
            .output()
            .expect("nix runs");
        assert!(
            done.status.success(),
            "nix {args:?}: {}",
            String::from_utf8_lossy(&done.stderr)
        );
        String::from_utf8(done.stdout).expect("text")
    };
    let key = run(&["key", "generate-secret", "--key-name", "test-1"]);
    std::fs::write(&secret, &key).expect("the key");
    let public = std::process::Command::new(&nix)
        .args([
            "--extra-experimental-features",
            "nix-command",
            "key",
            "convert-secret-to-public",
        ])
        .stdin(std::fs::File::open(&secret).expect("the key"))
        .output()
        .expect("nix runs");
    let public = String::from_utf8(public.stdout).expect("text");
    let at = store.to_str().expect("text");
    let file = w.project().join("f.nix");
    let shown = format!("/bin/busybox={}", busybox.display());
    let nix_build = |attr: &str| {
        let done = std::process::Command::new(&nix_build)
            .args([
                "--store",
                at,
                "--no-out-link",
                "--option",
                "sandbox",
                "true",
            ])
            .args(["--option", "sandbox-paths", &shown])
            .args(["--extra-experimental-features", "ca-derivations"])
            .args(["--option", "build-users-group", ""])
            .args(["--option", "substituters", "", "-A", attr])
            .arg(&file)
            .env("HOME", w.root().join("home"))
            .output()
            .expect("nix-build runs");
        let errors = String::from_utf8_lossy(&done.stderr);
        assert!(done.status.success(), "{errors}");
        String::from_utf8(done.stdout).expect("text")
    };
    let paths = [nix_build("same"), nix_build("odd")];
    nix_build("named");
    let url = format!("file://{}", cache.display());
    let to = format!("{url}?secret-key={}", secret.display());
    run(&[
        "copy",
        "--store",
        at,
        "--to",
        &to,
        paths[0].trim(),
        paths[1].trim(),
    ]);
    let features = "nix-command ca-derivations";
    let source = file.to_str().expect("text");
    run(&[
        "--extra-experimental-features",
        features,
        "copy",
        "--store",
        at,
        "--to",
        &to,
        "--option",
        "substituters",
        "",
        "-f",
        source,
        "named",
        "dep",
    ]);
    let dep = w.sos(["verify", "f.nix#dep", "--against", &url]).ok();
    assert_eq!(dep.stdout, format!("dep^out: equal at {url}\n"));
    w.sos(["verify", "f.nix#named", "--against", &url])
        .fails(104)
        .says(&["it is `/nix/store/", "`named^out`"]);
    let equal = w
        .sos([
            "verify",
            "f.nix#same",
            "--against",
            &url,
            "--trusted-key",
            public.trim(),
        ])
        .ok();
    assert_eq!(equal.stdout, format!("same^out: equal at {url}\n"));
    let other = w
        .sos(["verify", "f.nix#odd", "--against", &url])
        .fails(104)
        .says(&["first difference in", "b: content differs from byte"]);
    assert!(
        other.stdout.contains("--- here/b\n+++ mirror/b\n"),
        "{}",
        other.stdout
    );
    let server = Server::start(&cache);
    let http = w
        .sos(["verify", "f.nix#same", "--against", &server.url()])
        .ok();
    assert_eq!(
        http.stdout,
        format!("same^out: equal at {}\n", server.url())
    );
    let info = w.sos(["store", "info", paths[1].trim()]).ok().stdout;
    assert!(
        info.contains(&format!("on {url}, varied mirror: DIFFERENT: sha256:")),
        "{info}"
    );
    // A mirror that lacks a path is told from an address without a mirror.
    w.write("g.nix", &with("absent", "echo > $out"));
    for (url, code, message) in [
        (
            url.clone(),
            "verify-not-there",
            "does not have `/nix/store/",
        ),
        (
            server.url(),
            "verify-not-there",
            "does not have `/nix/store/",
        ),
        (
            format!("file://{}", w.root().join("nowhere").display()),
            "fetch-failed",
            "there is no binary cache at file://",
        ),
        (
            format!("{}/nar", server.url()),
            "fetch-failed",
            "there is no binary cache at http://",
        ),
    ] {
        let run = w.sos(["verify", "g.nix", "--against", &url]).fails(5);
        let run = run.says(&[code, message, "help: "]);
        assert!(!run.stderr.contains("to `urls`"), "{}", run.stderr);
    }
    // An archive that is not the one that was signed is not looked at, however right its record is.
    for entry in std::fs::read_dir(cache.join("nar")).expect("archives") {
        let path = entry.expect("an archive").path();
        let length = std::fs::metadata(&path).expect("an archive").len();
        let file = std::fs::File::options()
            .write(true)
            .open(&path)
            .expect("an archive");
        file.set_len(length / 2).expect("cut");
    }
    w.sos(["verify", "f.nix#odd", "--against", &url]).fails(5);
    let cut = w.sos(["verify", "f.nix#same", "--against", &url]).fails(5);
    assert!(!cut.stdout.contains("equal"), "{}", cut.stdout);
    for entry in std::fs::read_dir(cache.join("nar")).expect("archives") {
        let path = entry.expect("an archive").path();
        let length = std::fs::metadata(&path).expect("an archive").len();
        let junk = vec![b'x'; usize::try_from(length).expect("a small one")];
        std::fs::write(&path, junk).expect("junk");
    }
    let junk = w.sos(["verify", "f.nix#same", "--against", &url]).fails(5);
    assert!(!junk.stdout.contains("equal"), "{}", junk.stdout);
    junk.says(&["its archive is not"]);
    let wrong = "other-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    w.sos([
        "verify",
        "f.nix#same",
        "--against",
        &url,
        "--trusted-key",
        wrong,
    ])
    .fails(5)
    .says(&["trust-unsigned", "signatures found: test-1"]);
}

#[test]
fn the_journal_names_the_targets_of_every_verb() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("f.nix", &format!("{{ a = {}; }}", with("a", "echo > $out")));
    w.sos(["verify", "-f", "f.nix", "a"]).ok();
    w.write(
        "f.nix",
        &format!("{{ a = {}; }}", with("a", "echo x > $out")),
    );
    w.sos(["build", "--no-link", "-f", "f.nix", "-A", "a"]).ok();
    let list = w.sos(["builds"]).ok().stdout;
    let commands: Vec<&str> = list
        .lines()
        .map(|line| line.rsplit("  ").next().unwrap_or_default())
        .collect();
    assert_eq!(
        commands,
        ["build --file f.nix -A a", "verify --file f.nix a"],
        "{list}"
    );
}

#[test]
fn what_was_made_of_files_that_did_not_change_is_found_again() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    // The file is fetched after something that changes, but it is the same file: its new derivation is never built.
    let recipe = |salt: &str| {
        format!(
            r#"let
  sh = script: name: more: derivation ({{ inherit name; system = "x86_64-linux"; builder = "/bin/busybox"; args = [ "sh" "-c" script ]; }} // more);
  first = sh "echo {salt} > $out" "first" {{ }};
  file = sh "echo x > $out" "file" {{
    outputHashAlgo = "sha256"; outputHashMode = "flat"; after = first;
    outputHash = builtins.hashString "sha256" "x\n";
  }};
in sh "read line < $file; echo $line > $out" "last" {{ inherit file first; }}
"#
        )
    };
    for salt in ["one", "two"] {
        w.write("f.nix", &recipe(salt));
        w.sos(["build", "f.nix", "--no-link"]).ok();
        // The first time and from the cache of evaluations, by its recipe and by its name.
        for _ in 0..2 {
            let run = w.sos(["verify", "f.nix"]).ok();
            assert_eq!(run.stdout, "last: equal after 1 round\n");
            let graph = w.sos(["graph", "f.nix", "--format", "json"]).ok().stdout;
            assert!(graph.contains("-first.drv"), "{graph}");
            w.sos(["why", "f.nix", "--needs", "first"]).ok();
            for target in ["last", "f.nix"] {
                let shell = w.sos(["shell", target, "-c", "read line < $file; echo $line"]);
                assert_eq!(shell.ok().stdout, "x\n");
            }
        }
    }
}
