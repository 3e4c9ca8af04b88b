//! Everything that is built says why, in the events, in the lines and in the plan.

use serde_json::Value;

use super::builds::{recipe, world_with_busybox};
use crate::support::archive::sha256;
use crate::support::server::Server;
use crate::support::{World, peer};

/// The cause of a script of one line that is another one.
fn script(was: &str, is: &str) -> String {
    let text = serde_json::json!({ "line": 1, "was": was, "is": is });
    serde_json::json!({ "kind": "recipe-changed", "text": text }).to_string()
}

/// Two derivations: `tool` writes what `version` says, `app` reads it, a source directory and a variable.
fn two(version: &str, flags: &str, script: &str) -> String {
    let tool = recipe("tool-1.0", &format!("echo {version} > $out"), "");
    let app = recipe(
        "app",
        &format!("read a < $tool; read b < $src/sub/main.c; echo $a $b $flags {script} > $out"),
        &format!("tool = {tool}; src = ./src; flags = \"{flags}\";"),
    );
    format!("{{ app = {app}; }}")
}

/// The cause of every build of a run, by name.
#[track_caller]
fn causes(w: &World) -> Vec<(String, Value)> {
    let planned = plan(w);
    let events = w.events(&["f.nix#app"]).0;
    let started: Vec<(String, Value)> = events
        .iter()
        .filter(|e| e["type"] == "build.started")
        .map(|e| {
            (
                e["name"].as_str().expect("a name").to_owned(),
                e["cause"].clone(),
            )
        })
        .collect();
    assert_eq!(planned, started, "the plan says the same");
    started
}

#[track_caller]
fn plan(w: &World) -> Vec<(String, Value)> {
    let plan = w.sos(["plan", "f.nix#app", "--json"]).ok().stdout;
    let plan: Value = serde_json::from_str(&plan).expect("a plan");
    plan["build"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|p| {
            (
                p["name"].as_str().expect("a name").to_owned(),
                p["cause"].clone(),
            )
        })
        .collect()
}

/// Leaves what a cause is of, without what was and is there.
fn without_values(cause: &mut Value) {
    let cause = cause.as_object_mut().expect("an object");
    for key in ["files", "old", "new", "from", "part"] {
        cause.remove(key);
    }
}

#[track_caller]
fn check(w: &World, expect: &[(&str, &str)]) {
    let found: Vec<(String, String)> = causes(w)
        .into_iter()
        .map(|(name, mut cause)| {
            // What it was compared with: there exactly when something was built before.
            let was = cause.as_object_mut().expect("an object").remove("was");
            assert_eq!(was.is_none(), cause["kind"] == "never-built", "{cause}");
            let at = cause.as_object_mut().expect("an object").remove("at");
            assert!(
                at.is_some_and(|at| at.as_str().is_some_and(|at| at.contains("/f.nix:"))),
                "{cause}"
            );
            without_values(&mut cause);
            let also = cause.get_mut("also").and_then(Value::as_array_mut);
            also.into_iter().flatten().for_each(without_values);
            (name, cause.to_string())
        })
        .collect();
    let found: Vec<(&str, &str)> = found
        .iter()
        .map(|(name, cause)| (name.as_str(), cause.as_str()))
        .collect();
    assert_eq!(found, expect);
}

#[test]
fn each_edit_has_its_cause() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let write = |version: &str, flags: &str, script: &str| {
        w.write("f.nix", &two(version, flags, script));
    };
    w.write("src/sub/main.c", "one\n");
    w.write("src/other.c", "same\n");
    write("1", "-O1", "");
    let never = r#"{"kind":"never-built"}"#;
    check(&w, &[("tool-1.0", never), ("app", never)]);
    check(&w, &[]);

    w.write("src/sub/main.c", "two\n");
    let maybe = w.sos(["plan", "f.nix#app", "--json"]).ok().stdout;
    let maybe: Value = serde_json::from_str(&maybe).expect("a plan");
    assert_eq!(
        maybe["build"][0]["maybe"], false,
        "its own source changed: {maybe}"
    );
    let source = r#"{"kind":"input-changed","input":"src","file":"sub/main.c"}"#;
    check(&w, &[("app", source)]);

    write("1", "-O2", "");
    let flags = r#"{"kind":"env-changed","name":"flags"}"#;
    check(&w, &[("app", flags)]);

    write("1", "-O2", "x");
    let reads = "read a < $tool; read b < $src/sub/main.c; echo $a $b $flags";
    let (was, is) = (format!("{reads}  > $out"), format!("{reads} x > $out"));
    check(&w, &[("app", &script(&was, &is))]);

    write("2", "-O2", "x");
    let tool = r#"{"kind":"input-changed","input":"tool-1.0"}"#;
    check(
        &w,
        &[
            ("tool-1.0", &script("echo 1 > $out", "echo 2 > $out")),
            ("app", tool),
        ],
    );

    // Two at once are both told.
    w.write("src/new.c", "\n");
    write("2", "-O3", "x");
    let both = r#"{"kind":"input-changed","input":"src","file":"new.c","also":[{"kind":"env-changed","name":"flags"}]}"#;
    check(&w, &[("app", both)]);
}

#[test]
fn another_builder_is_told() {
    let (Some(w), Some(busybox)) = (world_with_busybox(), peer("busybox")) else {
        return;
    };
    let with = |builder: &str| {
        let text = recipe("app", "echo x > $out", "");
        w.write(
            "f.nix",
            &format!("{{ app = {}; }}", text.replace("/bin/busybox", builder)),
        );
    };
    w.write(
        "../home/.config/sos/config.toml",
        &std::fs::read_to_string(w.root().join("home/.config/sos/config.toml"))
            .expect("a configuration")
            .replace(
                "\"]",
                &format!("\", \"/opt/busybox={}\"]", busybox.display()),
            ),
    );
    with("/bin/busybox");
    causes(&w);
    with("/opt/busybox");
    check(&w, &[("app", r#"{"kind":"builder-changed"}"#)]);
}

#[test]
fn what_was_lost_is_told_from_what_was_collected() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("src/sub/main.c", "one\n");
    w.write("f.nix", &two("1", "", ""));
    let path = w.events(&["f.nix#app"]).output();
    w.sos(["gc"]).ok();
    let collected = r#"{"kind":"gc-ed"}"#;
    check(&w, &[("tool-1.0", collected), ("app", collected)]);

    let place = w.physical(&path);
    std::fs::remove_file(&place).expect("an output");
    check(&w, &[("app", r#"{"kind":"output-missing"}"#)]);
}

#[test]
fn a_content_addressed_build_is_compared_by_what_its_inputs_became() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let floating =
        "__contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\";";
    let write = |salt: &str, text: &str| {
        let tool = recipe(
            "tool",
            &format!("echo {text} > $out"),
            &format!("salt = \"{salt}\"; {floating}"),
        );
        let app = recipe(
            "app",
            "read a < $tool; echo $a > $out",
            &format!("tool = {tool}; {floating}"),
        );
        w.write("f.nix", &format!("{{ app = {app}; }}"));
    };
    let kinds = || -> Vec<String> {
        let events = w.events(&["f.nix#app"]).0;
        let started = events.iter().filter(|e| e["type"] == "build.started");
        started
            .map(|e| format!("{} {}", e["name"], e["cause"]["kind"]))
            .collect()
    };
    write("1", "a");
    kinds();
    // The tool comes out the same, so the other is not built; then it is for what the tool became.
    write("2", "a");
    assert_eq!(kinds(), ["\"tool\" \"env-changed\""]);
    write("2", "b");
    assert_eq!(
        kinds(),
        ["\"tool\" \"recipe-changed\"", "\"app\" \"input-changed\""]
    );
}

#[test]
fn a_fetch_has_a_cause_too() {
    let w = World::new();
    let file = w.write("a.txt", "one\n");
    let fetch = |hash: &str| {
        w.write(
            "sos.nix",
            &format!(
                "{{ sos, ... }}: sos.fetchurl {{ name = \"one\"; url = \"file://{}\"; sha256 = \"{hash}\"; }}",
                file.display()
            ),
        );
        w.events(&[]).0
    };
    let cause = |events: &[Value]| {
        let mut started = events.iter().filter(|e| e["type"] == "fetch.started");
        started.next().expect("a fetch")["cause"]["kind"].clone()
    };
    let hash = |text: &str| {
        let file = w.write("hashed", text);
        let call = format!("builtins.hashFile \"sha256\" {}", file.display());
        w.sos(["eval", "--raw", "-E", &call]).ok().stdout
    };
    assert_eq!(cause(&fetch(&hash("one\n"))), "never-built");
    std::fs::write(&file, "two\n").expect("a file");
    assert_eq!(cause(&fetch(&hash("two\n"))), "recipe-changed");
}

#[test]
fn lines_and_plans_for_people_say_the_cause() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("src/sub/main.c", "one\n");
    w.write("f.nix", &two("1", "", ""));
    w.sos(["build", "--no-link", "f.nix#app"])
        .ok()
        .says(&["[1/2] built tool-1.0 in ", "s (never built)\n"]);
    w.write("src/sub/main.c", "two\n");
    let plan = w.sos(["plan", "f.nix#app"]).ok().stdout;
    assert!(
        plan.contains("app  about ") && plan.contains("  (src changed: sub/main.c)\n"),
        "{plan}"
    );
    w.sos(["build", "--no-link", "f.nix#app"])
        .ok()
        .says(&["[1/1] built app in ", " (src changed: sub/main.c)\n"]);
}

#[test]
fn another_project_is_no_earlier_build() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let app = |script: &str| format!("{{ app = {}; }}", recipe("app", script, ""));
    w.write("f.nix", &app("echo one > $out"));
    check(&w, &[("app", r#"{"kind":"never-built"}"#)]);
    w.write("other/f.nix", &app("echo two > $out"));
    let events = w.events(&["other/f.nix#app"]).0;
    let started = events.iter().find(|e| e["type"] == "build.started");
    let cause = &started.expect("it is built")["cause"];
    assert_eq!(cause["kind"], "never-built", "{cause}");
    w.write("f.nix", &app("echo three > $out"));
    check(
        &w,
        &[("app", &script("echo one > $out", "echo three > $out"))],
    );
}

#[test]
fn a_variable_that_comes_or_goes_is_told_with_its_value() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let build = |more: &str, script: &str| {
        w.write("f.nix", &recipe("app", script, more));
        w.sos(["build", "--no-link", "f.nix"]).ok().stderr
    };
    build("A = \"1\";", "echo x > $out");
    let line = build("A = \"2\";", "echo x > $out");
    assert!(line.contains("(`A` changed: 1 -> 2)"), "{line}");
    let line = build("", "echo x > $out");
    assert!(line.contains("(`A` removed: 2)"), "{line}");
    let line = build("B = \"3\";", "echo x > $out");
    assert!(line.contains("(`B` added: 3)"), "{line}");
    // Another set of outputs is told beside another script.
    build(
        "outputs = [ \"out\" \"two\" ];",
        "echo x > $out; echo y > $two",
    );
    let why = w.sos(["why", "app"]).ok().stdout;
    assert!(why.contains("`args`") && why.contains("`outputs`"), "{why}");
}

#[test]
fn what_failed_before_is_not_told_as_new() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let fail = |script: &str| {
        w.write("f.nix", &recipe("app", script, ""));
        w.sos(["build", "--no-link", "f.nix"]).fails(100).stderr
    };
    assert!(fail("exit 1").contains("(never built)"));
    let again = fail("exit 1");
    assert!(
        again.contains("(not built before; it failed in build 1)"),
        "{again}"
    );
    // An attempt to mend it is an attempt of the same thing.
    let edited = fail("exit 2");
    let failed = "an earlier form of it failed in build";
    let since = "since then recipe changed: `args`)";
    assert!(edited.contains(&format!("{failed} 2; {since}")), "{edited}");
    let plan = w.sos(["plan", "f.nix"]).ok().stdout;
    assert!(plan.contains("it failed in build 3)"), "{plan}");
    w.write("f.nix", &recipe("app", "echo x > $out", ""));
    w.sos(["build", "--no-link", "f.nix"])
        .ok()
        .says(&["built app", &format!("{failed} 3; {since}")]);
    let why = w.sos(["why", "app"]).ok().stdout;
    assert!(
        why.starts_with("app was built in build 4 ")
            && why.contains(&format!("it had not been built before; {failed} 3"))
            && why.contains("its recipe changed: `args`"),
        "{why}"
    );
    // What has the name and another place was never this one.
    let bad = recipe("twin", "exit 1", "");
    let good = recipe("twin", "echo x > $out", "");
    w.write("g.nix", &format!("{{ bad = {bad}; good = {good}; }}"));
    w.sos(["build", "--no-link", "g.nix#bad"]).fails(100);
    w.sos(["build", "--no-link", "g.nix#good"])
        .ok()
        .says(&["built twin", "(never built)"]);
}

#[test]
fn what_is_built_again_on_request_says_so() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("src/sub/main.c", "one");
    w.write("f.nix", &two("1", "a", ""));
    // Nothing is there yet: that is the cause, whatever was asked.
    let first = w.events(&["--rebuild", "f.nix#app"]);
    assert_eq!(kinds(&first), ["tool-1.0 never-built", "app never-built"]);
    assert_eq!(kinds(&w.events(&["f.nix#app"])), [""; 0]);
    // Only what is asked for is built again.
    let again = w.events(&["--rebuild", "f.nix#app"]);
    assert_eq!(kinds(&again), ["app forced"]);
    let plan = w.sos(["build", "-n", "--rebuild", "f.nix#app"]).ok().stdout;
    assert!(
        plan.contains("(asked to build again)") && plan.contains("1 to build"),
        "{plan}"
    );
    let why = w.sos(["why", "app"]).ok().stdout;
    assert!(
        why.contains("--rebuild") && !why.contains("first seen"),
        "{why}"
    );
    // Equal bytes are no news; others are, and what is there stays.
    let text = recipe(
        "odd",
        "read a < /proc/sys/kernel/random/uuid; echo $a > $out",
        "",
    );
    w.write("f.nix", &text);
    let was = w.sos(["build", "--no-link", "f.nix"]).ok().stdout;
    let is = w.sos(["build", "--no-link", "--rebuild", "f.nix"]).ok();
    assert_eq!(was, is.stdout);
    assert!(
        is.stderr.contains("warning[build-not-reproducible]")
            && is
                .stderr
                .contains("first difference: .: content differs from byte "),
        "{}",
        is.stderr
    );
    let path = was.trim();
    let info = w.sos(["store", "info", path]).ok().stdout;
    assert!(info.contains("varied place: DIFFERENT: sha256:"), "{info}");
    let builds = w.sos(["builds", "--json"]).ok().stdout;
    let builds: Value = serde_json::from_str(&builds).expect("JSON");
    let [new, old] = [0, 1].map(|at| builds[at]["build"].to_string());
    let diff = w.sos(["diff", &old, &new]).ok().stdout;
    assert!(diff.contains("1 build of it gave other content"), "{diff}");
    // The very command of the message.
    let kept = w.root().join("kept");
    let line = is.stderr.lines().find(|l| l.contains("--keep DIR"));
    let command = line
        .and_then(|line| line.split('`').nth(1))
        .expect("a command");
    let kept_text = kept.to_str().expect("text");
    let words = command.split(' ').skip(1);
    let words: Vec<&str> = words
        .map(|w| if w == "DIR" { kept_text } else { w })
        .collect();
    w.sos(&words).fails(104);
    assert!(kept.join("odd-out").is_file());
}

/// What was built, each with the kind of its cause.
fn kinds(events: &crate::support::Events) -> Vec<String> {
    let started = events.0.iter().filter(|e| e["type"] == "build.started");
    let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    started
        .map(|e| format!("{} {}", word(&e["name"]), word(&e["cause"]["kind"])))
        .collect()
}

/// What has to be there before a download changes nothing of it: that it is fetched again has another cause.
#[test]
fn what_comes_before_a_download_is_no_cause() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let served = w.root().join("served");
    std::fs::create_dir_all(&served).expect("a directory");
    std::fs::write(served.join("file"), "content\n").expect("a file");
    let server = Server::start(&served);
    let hash = sha256(b"content\n");
    let fetch = |salt: &str| {
        let first = recipe("first", &format!("echo {salt} > $out"), "");
        format!(
            r#"derivation {{ name = "file"; system = "builtin"; builder = "builtin:fetch"; __structuredAttrs = true;
  urls = [ "{}/file" ]; after = [ "${{{first}}}" ];
  outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "{hash}"; }}"#,
            server.url()
        )
    };
    w.write("f.nix", &fetch("one"));
    w.sos(["build", "f.nix", "--no-link"]).ok();
    w.sos(["gc", "-q"]).ok();
    w.write("f.nix", &fetch("two"));
    let run = w.sos(["build", "f.nix", "--no-link"]).ok();
    assert!(
        run.stderr.contains("fetched file") && run.stderr.contains(", garbage-collected)"),
        "{}",
        run.stderr
    );
    let why = w.sos(["why", "f.nix"]).ok().stdout;
    assert!(
        why.contains("garbage collection") && !why.contains("input first"),
        "{why}"
    );
}
