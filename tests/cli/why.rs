//! `sos why` and `sos builds`: what the journal answers days later.

use serde_json::Value;

use super::builds::{recipe, world_with_busybox};
use crate::support::{World, gate, start};

/// `image` is made of `layer`, that of `hello`, that of a source directory; `cut` gives the same whatever `hello` is.
fn chain(flags: &str) -> String {
    let floating =
        "__contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\";";
    let hello = recipe(
        "hello-1.0",
        "read a < $src/hello.c; echo $a $flags > $out",
        &format!("src = ./src; flags = \"{flags}\";"),
    );
    let layer = recipe("layer", "echo $hello > $out", "inherit hello;");
    let image = recipe("image", "read a < $layer; echo $a > $out", "inherit layer;");
    let cut = recipe(
        "cut",
        "echo same > $out",
        &format!("inherit hello; {floating}"),
    );
    let after = recipe(
        "after",
        "read a < $cut; echo $a > $out",
        &format!("inherit cut; {floating}"),
    );
    let all = recipe("all", "echo $image $after > $out", "inherit image after;");
    format!(
        "let hello = {hello};\n layer = {layer};\n image = {image};\n cut = {cut};\n after = {after};\n all = {all};\nin {{ inherit hello layer image cut after all; }}"
    )
}

fn world() -> Option<World> {
    let w = world_with_busybox()?;
    w.write("src/hello.c", "one\n");
    w.write("src/other.c", "same\n");
    w.write("sos.nix", &chain("-O1"));
    Some(w)
}

#[track_caller]
fn json(w: &World, args: &[&str]) -> Value {
    let out = w.sos(args.iter().chain(&["--json"])).ok().stdout;
    serde_json::from_str(&out).expect("JSON")
}

/// The first eight digits of what `b3sum` would say of a text.
fn digest(text: &str) -> String {
    blake3::hash(text.as_bytes()).to_hex()[..8].to_owned()
}

#[test]
fn the_way_leads_to_the_file_also_when_all_is_collected() {
    let Some(w) = world() else { return };
    let build = || w.sos(["build", "--no-link", ".#all"]).ok();
    build();
    w.write("src/hello.c", "two\n");
    // What will be, from the recipe.
    let (one, two) = (digest("one\n"), digest("two\n"));
    let file = format!("because input src changed: hello.c (was {one}, is {two})");
    assert_eq!(
        w.sos(["why", ".#image"]).ok().stdout,
        format!(
            "image will be rebuilt because input layer changed\n  layer because input hello-1.0 changed\n  hello-1.0 {file}; 2 others follow from it\n"
        )
    );
    build();
    // Nothing of the sources is left, and nothing is evaluated.
    w.sos(["gc"]).ok();
    std::fs::remove_dir_all(w.project().join("src")).expect("the sources");
    std::fs::remove_file(w.project().join("sos.nix")).expect("the recipe");
    let told = w.sos(["why", "image"]).ok().stdout;
    let (head, rest) = told.split_once(" (").expect("a time");
    assert_eq!(head, "image was rebuilt in build 2");
    let rest = rest.split_once(") ").expect("a time").1;
    assert_eq!(
        rest,
        format!(
            "because input layer changed\n  layer because input hello-1.0 changed\n  hello-1.0 {file}, first seen in build 2; 4 others follow from it; 1 stopped by identical outputs\n"
        )
    );
    // And as data, by the path of an output that is gone.
    let path = json(&w, &["builds", "2"])["outputs"][0].clone();
    let answer = &json(&w, &["why", path.as_str().expect("a path")])[0];
    assert_eq!(
        (&answer["name"], &answer["build"]),
        (&"all".into(), &2.into())
    );
    let root = &answer["reasons"][0]["root"];
    assert_eq!(root["cause"]["file"], "hello.c");
    assert_eq!(
        root["cause"]["files"][0]["was"],
        format!("blake3:{}", blake3::hash(b"one\n").to_hex())
    );
    assert_eq!(answer["reasons"][0]["firstSeen"], 2);
}

#[test]
fn the_file_is_named_after_a_collection_before_the_edit() {
    let Some(w) = world() else { return };
    w.sos(["build", "-o", "result", ".#hello"]).ok();
    w.sos(["gc"]).ok();
    assert!(!w.sos(["store", "ls"]).ok().stdout.contains("-src\n"));
    w.write("src/hello.c", "two\n");
    w.write("src/added.c", "new\n");
    std::fs::remove_file(w.project().join("src/other.c")).expect("a file");
    let plan = w.sos(["plan", ".#hello"]).ok().stdout;
    assert!(plan.contains("(src changed: added.c)"), "{plan}");
    w.sos(["build", "-o", "result", ".#hello"]).ok();
    let told = w.sos(["why", "hello"]).ok().stdout;
    let new = digest("new\n");
    assert!(
        told.contains(&format!(
            "input src changed: added.c (new, {new}) and 2 more files: hello.c, other.c"
        )),
        "{told}"
    );
}

#[test]
fn what_was_changed_back_is_told_by_what_it_is_compared_with() {
    let Some(w) = world() else { return };
    let build = |attr: &str| w.sos(["build", "--no-link", attr]).ok();
    build(".#image");
    // Built alone twice: what the image is compared with lies two builds back.
    w.write("sos.nix", &chain("-O2"));
    build(".#hello");
    w.write("src/hello.c", "two\n");
    build(".#hello");
    build(".#image");
    let told = w.sos(["why", "image"]).ok().stdout;
    assert!(
        told.contains("input src changed: hello.c")
            && told.contains("`flags` changed (was `-O1`, is `-O2`)"),
        "{told}"
    );
    assert!(
        told.contains("first seen in build 2") && told.contains("first seen in build 3"),
        "{told}"
    );
}

#[test]
fn every_rebuild_is_told_on_demand() {
    let Some(w) = world() else { return };
    for flags in ["-O1", "-O2", "-O3"] {
        w.write("sos.nix", &chain(flags));
        w.sos(["build", "--no-link", ".#hello"]).ok();
    }
    let builds = |args: &[&str]| -> Vec<i64> {
        let all = json(&w, args);
        let all = all.as_array().expect("a list").iter();
        all.map(|one| one["build"].as_i64().expect("a number"))
            .collect()
    };
    assert_eq!(builds(&["why", "hello", "--all"]), [3, 2, 1]);
    assert_eq!(builds(&["why", ".#hello", "--since", "1"]), [3, 2]);
    assert_eq!(builds(&["why", "hello"]), [3]);
    w.sos(["why", "hello", "--since", "3"])
        .ok()
        .says(&["`hello` was not built here since build 3"]);
    w.sos(["why", "hello", "--since", "9"])
        .fails(1)
        .says(&["error[build-unknown]", "the newest is build 3"]);
    let told = w.sos(["why", "hello", "--all"]).ok().stdout;
    assert!(
        told.ends_with("because it had not been built before, first seen in build 1\n"),
        "{told}"
    );
}

#[test]
fn what_stopped_is_told_with_what_it_turned_out_to_be() {
    let Some(w) = world() else { return };
    w.sos(["build", "--no-link", ".#after"]).ok();
    w.write("src/hello.c", "two\n");
    w.sos(["build", "--no-link", ".#after"]).ok();
    let told = w.sos(["why", ".#after"]).ok().stdout;
    assert!(
        told.starts_with("after was not rebuilt in build 2: its inputs came out identical\nafter was built in build 1 "),
        "{told}"
    );
}

#[test]
fn unknown_words_are_answered_with_near_ones() {
    let Some(w) = world() else { return };
    w.sos(["build", "--no-link", ".#image"]).ok();
    w.sos(["why", "helo"])
        .fails(1)
        .says(&["error[why-unknown]", "did you mean `hello`"]);
    w.sos(["log", "helo"])
        .fails(1)
        .says(&["error[log-not-found]", "did you mean `hello`"]);
    w.sos(["why", ".#imag"]).fails(3).says(&["image"]);
    w.sos(["why", "/nix/store/00000000000000000000000000000000-x"])
        .fails(1)
        .says(&["error[store-no-deriver]"]);
    w.sos(["why", "image", "--needs", "helo"])
        .fails(1)
        .says(&["error[why-not-needed]", "did you mean `hello`"]);
    w.sos(["why", "hello", "--needs", ".#image"])
        .fails(1)
        .says(&[
            "error[why-not-needed]: `hello-1.0` does not need `.#image`\n",
            "help: ask for something that it needs: `",
        ]);
    w.sos(["why", ".#hello", "--needs", "./nowhere"])
        .fails(3)
        .says(&["error[target-not-found]"]);
    w.sos(["builds", "77"])
        .fails(1)
        .says(&["error[build-unknown]", "the newest is build 1"]);
    w.sos(["log", "77"])
        .fails(1)
        .says(&["error[build-unknown]"]);
}

#[test]
fn the_shortest_ways_of_a_need_are_shown() {
    let Some(w) = world() else { return };
    w.sos(["build", "--no-link", ".#all"]).ok();
    let needs = |b: &str| w.sos(["why", ".#all", "--needs", b]).ok().stdout;
    assert_eq!(
        needs("hello"),
        "to be built: all -> after -> cut -> hello-1.0\nto be built: all -> image -> layer -> hello-1.0\nto run: all -> image -> hello-1.0\n"
    );
    assert_eq!(
        needs("image"),
        "to be built: all -> image\nto run: all -> image\n"
    );
    // By attribute, by the path of the output, by that of the derivation: the same.
    let image = json(&w, &["builds", "1"]);
    let steps = image["steps"].as_array().expect("a list");
    let step = steps.iter().find(|s| s["name"] == "image").expect("a step");
    for word in [
        ".#image",
        step["drv"].as_str().expect("a path"),
        step["outputs"]["out"]["path"].as_str().expect("a path"),
    ] {
        assert_eq!(needs(word), needs("image"), "{word}");
    }
    // Without a recipe, from what is in the store; a source is needed, too.
    std::fs::remove_file(w.project().join("sos.nix")).expect("the recipe");
    let ways = json(&w, &["why", "image", "--needs", "src"]);
    let way = ways[0]["build"][0].as_array().expect("a way");
    assert_eq!(way.len(), 4);
    assert!(way[3].as_str().expect("a path").ends_with("-src"));
    assert_eq!(ways[0]["run"], serde_json::json!([]));
}

#[test]
fn a_build_is_kept_with_all_that_it_did() {
    let Some(w) = world() else { return };
    w.sos(["builds"]).ok().says(&["nothing was built here yet"]);
    w.sos(["build", "--no-link", ".#all"]).ok();
    w.sos(["build", "--no-link", ".#all"]).ok();
    w.write("src/hello.c", "two\n");
    w.sos(["build", "--no-link", ".#all"]).ok();
    w.write("src/hello.c", "three\n");
    w.write(
        "sos.nix",
        &chain("$(exit 3)").replace("echo $a $flags > $out", "exit 3"),
    );
    w.sos(["build", "--no-link", ".#all"]).fails(100);
    // What finds everything there leaves no entry.
    let all = json(&w, &["builds"]);
    let facts = |at: usize| {
        let one = &all[at];
        [
            "build", "status", "exitCode", "built", "cached", "failed", "stopped", "skipped",
        ]
        .map(|key| one[key].to_string())
        .join(" ")
    };
    assert_eq!(facts(0), "3 \"failed\" 100 0 0 1 0 5");
    assert_eq!(facts(1), "2 \"done\" 0 5 1 0 0 0");
    assert_eq!(facts(2), "1 \"done\" 0 6 0 0 0 0");
    assert_eq!(all[0]["command"], "build .#all");
    assert_eq!(
        all[0]["project"].as_str().map(std::path::PathBuf::from),
        w.project().canonicalize().ok()
    );
    assert_eq!(
        json(&w, &["builds", "-n", "1"]).as_array().map(Vec::len),
        Some(1)
    );

    let detail = json(&w, &["builds", "2"]);
    let steps = detail["steps"].as_array().expect("a list");
    let step = |name: &str| steps.iter().find(|s| s["name"] == name).expect("a step");
    let hello = step("hello-1.0");
    assert_eq!(hello["status"], "built");
    assert_eq!(hello["cause"]["file"], "hello.c");
    // The source as its builder saw it, with the digest that the store has of it.
    let input = &hello["inputs"][0];
    let path = input["path"].as_str().expect("a path");
    let info = json(&w, &["store", "info", path]);
    assert_eq!(input["digest"], info[0]["narHash"]);
    assert_eq!(input["drv"], Value::Null);
    let image = step("image");
    assert_eq!(image["inputs"][0]["drv"], step("layer")["drv"]);
    assert_eq!(image["needs"][0], step("layer")["drv"]);
    assert!(image["outputs"]["out"]["bytes"].as_u64() > Some(100));
    for (earlier, later) in [("queued", "started"), ("started", "finished")] {
        assert!(image[earlier].as_str() <= image[later].as_str(), "{image}");
    }
    assert_eq!(step("after")["status"], "cached");
    assert_eq!(step("after")["started"], Value::Null);
    assert_eq!(step("all")["attr"], "sos.nix#all");
    let failed = json(&w, &["builds", "3"]);
    let statuses: Vec<&str> = failed["steps"]
        .as_array()
        .expect("a list")
        .iter()
        .filter_map(|s| s["status"].as_str())
        .collect();
    assert_eq!(statuses.iter().filter(|s| **s == "failed").count(), 1);
    assert_eq!(statuses.iter().filter(|s| **s == "skipped").count(), 5);

    let list = w.sos(["builds"]).ok().stdout;
    assert!(
        list.contains("1 failed, 5 skipped") && list.contains("5 built, 1 cached"),
        "{list}"
    );
    let text = w.sos(["builds", "2"]).ok().stdout;
    assert!(text.contains("input src changed: hello.c (was "), "{text}");
    // The name of the machine is in the journal and nowhere else.
    let host = detail["host"].as_str().expect("a name");
    assert!(!host.is_empty() && text.contains(host));
    w.sos(["store", "check"]).ok();
}

#[test]
fn a_build_that_was_killed_is_told_from_one_that_runs() {
    let Some(w) = world() else { return };
    gate(&w);
    w.write(
        "f.nix",
        &recipe("stuck", "read x < /go; echo $x > $out", ""),
    );
    let mut building = start(&mut w.command_of(&["build", "--no-link", "f.nix"]));
    let state = || {
        let out = w.sos(["builds", "1", "--json"]).stdout;
        let build: Value = serde_json::from_str(&out).unwrap_or_default();
        (build["status"].clone(), build["steps"][0]["status"].clone())
    };
    let runs = (0..100_000).any(|_| state() == ("running".into(), "running".into()));
    assert!(runs, "a build that runs is told as such");
    building.kill().expect("it runs");
    building.wait().expect("it ends");
    assert_eq!(state(), ("killed".into(), "killed".into()));
    let told = w.sos(["why", "stuck"]).ok().stdout;
    assert!(
        told.starts_with("stuck was being built in build 1 "),
        "{told}"
    );
    w.write("f.nix", &recipe("stuck", "echo x > $out", ""));
    w.sos(["build", "--no-link", "f.nix"]).ok();
    assert_eq!(json(&w, &["builds", "2"])["status"], "done");
}

#[test]
fn a_file_that_the_recipe_reads_is_named() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "echo ${builtins.readFile ./ver} > $out";
    w.write("f.nix", &recipe("told", script, "V = import ./value.nix;"));
    w.write("ver", "1");
    w.write("value.nix", "\"a\"");
    w.sos(["build", "--no-link", "f.nix"]).ok();
    w.write("ver", "2");
    w.sos(["build", "--no-link", "f.nix"]).ok();
    let why = w.sos(["why", "told"]).ok().stdout;
    assert!(
        why.contains("of the files that it reads, `ver` had changed"),
        "{why}"
    );
    w.write("value.nix", "\"b\"");
    w.write("ver", "3");
    w.sos(["build", "--no-link", "f.nix"]).ok();
    let why = w.sos(["why", "told"]).ok().stdout;
    assert!(
        why.contains("of the files that it reads, `value.nix`, `ver` had changed"),
        "{why}"
    );
    // The place of the derivation says it already.
    let text = std::fs::read_to_string(w.project().join("f.nix")).expect("the recipe");
    w.write("f.nix", &text.replace("echo", "echo more"));
    w.write("ver", "4");
    w.sos(["build", "--no-link", "f.nix"]).ok();
    let why = w.sos(["why", "told"]).ok().stdout;
    assert!(!why.contains("of the files"), "{why}");
}
