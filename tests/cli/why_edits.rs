//! `sos why` names the edit where names, directories and recipe files could mislead it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::builds::{recipe, world_with_busybox};
use crate::support::World;
use crate::support::terminal::Terminal;

/// Rounds of edits where the order of hashes decides what a wrong pairing would be.
const ROUNDS: usize = 6;

/// What `sos why` says was changed, one line for each.
#[track_caller]
fn roots(w: &World, name: &str) -> BTreeSet<String> {
    let out = w.sos(["why", "--json", name]).ok().stdout;
    let told: Value = serde_json::from_str(&out).expect("JSON");
    let mut found = BTreeSet::new();
    for reason in told[0]["reasons"].as_array().expect("a list") {
        let cause = &reason["root"]["cause"];
        let text = |key: &str| cause[key].as_str().unwrap_or("-").to_owned();
        let files = cause["files"].as_array();
        match files {
            Some(files) => {
                for file in files {
                    let sides = ["was", "is"].map(|side| file[side].is_string());
                    let name = file["file"].as_str().expect("a name");
                    found.insert(format!("{} {name} {sides:?}", text("input")));
                }
            }
            None => {
                let kind = text("kind");
                found.insert(format!(
                    "{kind} {} {} {}",
                    text("name"),
                    text("old"),
                    text("new")
                ));
            }
        }
    }
    found
}

fn build(w: &World, target: &str) -> String {
    w.sos(["build", "--no-link", target]).ok().stderr
}

#[test]
fn sources_of_one_name_are_told_apart() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let source = |dir: &str| format!("(builtins.path {{ path = ./{dir}; name = \"source\"; }})");
    let (p, q) = (source("p"), source("q"));
    let script = "read a < $src/pa; read b < $data/qb; echo $a $b > $out";
    let apart = recipe("apart", script, &format!("src = {p}; data = {q};"));
    let script = "for s in $srcs; do for f in $s/*; do read a < $f; echo $a >> $out; done; done";
    let listed = recipe("listed", script, &format!("srcs = [ {p} {q} ];"));
    w.write(
        "sos.nix",
        &format!("{{ apart = {apart}; listed = {listed}; }}"),
    );
    for (file, text) in [
        ("p/same", "p"),
        ("q/same", "q"),
        ("p/pa", "0"),
        ("q/qb", "0"),
    ] {
        w.write(file, text);
    }
    let all = || w.sos(["build", "--no-link", ".#apart", ".#listed"]).ok();
    all();
    let expect: BTreeSet<String> = ["pa", "qb"]
        .map(|file| format!("source {file} [true, true]"))
        .into();
    for round in 0..ROUNDS {
        for file in ["p/pa", "q/qb"] {
            w.write(file, &format!("{file} {round}"));
        }
        all();
        for name in ["apart", "listed"] {
            assert_eq!(roots(&w, name), expect, "{name} in round {round}");
        }
    }
}

#[test]
fn derivations_of_one_name_are_told_apart() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    for deps in ["inherit x y;", "deps = [ x y ];"] {
        let mut before = None;
        for round in 0..ROUNDS {
            let stage = |variable: &str| {
                let more = format!("{variable} = \"{round}\";");
                recipe("stage", &format!("echo ${variable} > $out"), &more)
            };
            let z = recipe("z", "echo $x $y $deps > $out", deps);
            let (x, y) = (stage("a"), stage("b"));
            w.write("sos.nix", &format!("let x = {x}; y = {y}; in {z}"));
            let line = build(&w, ".");
            assert!(
                !line.contains("came new") && !line.contains("removed"),
                "{line}"
            );
            if let Some(before) = before {
                let expect: BTreeSet<String> = ["a", "b"]
                    .map(|name| format!("env-changed {name} {before} {round}"))
                    .into();
                assert_eq!(roots(&w, "z"), expect, "{deps} in round {round}");
            }
            before = Some(round);
        }
    }
}

/// A project in a directory: `all` is made of `leaf`, which has a source and a variable.
fn project(w: &World, dir: &str, flags: &str, file: &str) {
    let leaf = recipe(
        "leaf",
        "read a < $src/deep/f.c; echo $a $flags > $out",
        "src = ./src; inherit flags;",
    );
    let all = recipe("all", "read a < $leaf; echo $a > $out", "inherit leaf;");
    let text = format!("let flags = import ./flags.nix; leaf = {leaf}; in {{ all = {all}; }}");
    w.write(&format!("{dir}/v.nix"), &text);
    w.write(&format!("{dir}/flags.nix"), &format!("\"{flags}\""));
    w.write(&format!("{dir}/src/deep/f.c"), file);
    w.write(&format!("{dir}/src/same.c"), "same");
}

#[test]
fn the_file_is_named_in_a_copy_of_the_project() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    project(&w, "one", "-O1", "1");
    build(&w, "one/v.nix#all");
    // Another checkout, where all of it is found.
    project(&w, "two", "-O1", "1");
    assert!(build(&w, "two/v.nix#all").contains("built 0, cached 1"));
    // The first one goes its own way, and the second is still what it was.
    project(&w, "one", "-O9", "9");
    build(&w, "one/v.nix#all");
    project(&w, "two", "-O1", "2");
    let plan = w.sos(["plan", "two/v.nix#all"]).ok().stdout;
    assert!(plan.contains("(src changed: deep/f.c)"), "{plan}");
    let lines = build(&w, "two/v.nix#all");
    assert!(!lines.contains("never built"), "{lines}");
    let file: BTreeSet<String> = ["src deep/f.c [true, true]".to_owned()].into();
    assert_eq!(roots(&w, "all"), file);
    // Edited before anything was built or found in its directory, as where each run of a service has a directory of its own.
    project(&w, "three", "-O2", "2");
    let lines = build(&w, "three/v.nix#all");
    assert!(!lines.contains("never built"), "{lines}");
    let flags: BTreeSet<String> = ["env-changed flags -O1 -O2".to_owned()].into();
    assert_eq!(roots(&w, "all"), flags);
    // What was there before counts again once it is built again.
    project(&w, "three", "-O1", "2");
    assert!(build(&w, "three/v.nix#all").contains("built 0, cached 1"));
    project(&w, "three", "-O1", "3");
    build(&w, "three/v.nix#all");
    assert_eq!(roots(&w, "all"), file);
}

#[test]
fn a_target_of_the_same_words_elsewhere_is_not_taken_for_a_copy() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    project(&w, "one", "-O1", "1");
    build(&w, "one/v.nix#all");
    let part = recipe("part", "echo part > $out", "");
    let all = recipe("all", "echo $part > $out", &format!("part = {part};"));
    w.write("other/v.nix", &format!("{{ all = {all}; }}"));
    let lines = build(&w, "other/v.nix#all");
    assert_eq!(lines.matches("(never built)").count(), 2, "{lines}");
}

#[test]
fn another_recipe_file_of_the_project_is_no_earlier_form() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write(
        "shared.nix",
        &format!(
            "flags: {}",
            recipe("shared", "echo $flags > $out", "inherit flags;")
        ),
    );
    w.write(
        "mk.nix",
        &format!(
            "script: {}",
            recipe("made", "eval $script > $out", "inherit script;")
        ),
    );
    let file = |p: &str, flags: &str| {
        let part = recipe("part", &format!("echo {p} > $out"), "");
        let more = format!(
            "p = \"{p}\"; part = {part}; shared = import ./shared.nix \"{flags}\"; made = map (import ./mk.nix) [ \"echo {p}\" \"echo {p} again\" ];"
        );
        let all = recipe(
            "all",
            &format!("echo {p} $part $shared $made > $out"),
            &more,
        );
        w.write(&format!("{p}.nix"), &format!("{{ all = {all}; }}"));
    };
    file("one", "-O1");
    build(&w, "one.nix#all");
    file("two", "-O1");
    let plan = w.sos(["plan", "two.nix#all"]).ok().stdout;
    assert_eq!(plan.matches("(never built)").count(), 4, "{plan}");
    let lines = build(&w, "two.nix#all");
    assert_eq!(lines.matches("(never built)").count(), 4, "{lines}");
    assert!(lines.contains("built 4"), "{lines}");
    // Its own next form is known.
    file("two", "-O2");
    let lines = build(&w, "two.nix#all");
    assert!(
        lines.contains("built shared in") && lines.contains("`flags` changed: -O1 -> -O2"),
        "{lines}"
    );
    assert!(!lines.contains("never built"), "{lines}");
}

#[test]
fn what_is_written_in_one_file_is_known_from_another_recipe() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let shared = |flags: &str| {
        let text = recipe(
            "shared",
            "echo $flags > $out",
            &format!("flags = \"{flags}\";"),
        );
        w.write("shared.nix", &text);
    };
    let user = |name: &str| recipe(name, "echo $s > $out", "s = import ./shared.nix;");
    w.write("one.nix", &user("one"));
    w.write("two.nix", &user("two"));
    shared("-O1");
    build(&w, "one.nix");
    shared("-O2");
    let lines = build(&w, "two.nix");
    assert!(lines.contains("`flags` changed: -O1 -> -O2"), "{lines}");
}

#[test]
fn the_file_is_named_when_an_input_comes_or_goes() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let (s, e) = (
        recipe("s", "echo s > $out", ""),
        recipe("e", "echo e > $out", ""),
    );
    let app = recipe(
        "app",
        "echo $dep > $out",
        "dep = builtins.elemAt [ e s [ s e ] ] (import ./v.nix - 1);",
    );
    w.write("f.nix", &format!("let s = {s}; e = {e}; in {app}"));
    w.write("v.nix", "2");
    build(&w, "f.nix");
    w.write("v.nix", "1");
    build(&w, "f.nix");
    let told = w.sos(["why", "app"]).ok().stdout;
    let read = "; of the files that it reads, `v.nix` had changed";
    // It may be the same one with another name, or another one.
    let (_, rest) = told.split_once("input s became e (f.nix:1:").expect("both");
    let (_, rest) = rest.split_once(')').expect("its place");
    assert!(rest.starts_with(read), "{told}");
    // Something beside it is no other form of it.
    w.write("v.nix", "3");
    build(&w, "f.nix");
    let told = w.sos(["why", "app"]).ok().stdout;
    let came = "input s came new (f.nix:1:";
    let (_, rest) = told.split_once(came).expect("what came new");
    let (_, rest) = rest.split_once(')').expect("its place");
    assert!(rest.starts_with(read), "{told}");
}

#[test]
fn a_text_of_the_recipe_is_told_with_its_line_and_file() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let cfg = "builtins.toFile \"cfg\" \"first\\nlevel = ${toString (import ./v.nix)}\\n\"";
    w.write(
        "f.nix",
        &recipe(
            "app",
            "read a < $cfg; echo $a > $out",
            &format!("cfg = {cfg};"),
        ),
    );
    w.write("v.nix", "1");
    build(&w, "f.nix");
    w.write("v.nix", "2");
    build(&w, "f.nix");
    let told = w.sos(["why", "app"]).ok().stdout;
    assert!(
        told.contains("text cfg changed: line 2 (was `level = 1`, is `level = 2`) (f.nix:1:")
            && told.contains("of the files that it reads, `v.nix` had changed"),
        "{told}"
    );
    // Where the earlier text is gone, the file still tells.
    w.sos(["gc"]).ok();
    w.write("v.nix", "3");
    build(&w, "f.nix");
    let told = w.sos(["why", "app"]).ok().stdout;
    assert!(
        told.contains("text cfg changed (was ") && told.contains("`v.nix` had changed"),
        "{told}"
    );
    // A file of the project is no text of the recipe.
    w.write(
        "f.nix",
        &recipe("app", "read a < $cfg; echo $a > $out", "cfg = ./v.nix;"),
    );
    build(&w, "f.nix");
    w.write("v.nix", "4");
    build(&w, "f.nix");
    let told = w.sos(["why", "app"]).ok().stdout;
    assert!(told.contains("input v.nix changed (was "), "{told}");
}

#[test]
fn the_line_of_a_build_says_which_part_of_the_recipe_changed() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "echo y > \"$two\"; echo x > $out";
    w.write("f.nix", &recipe("o", script, ""));
    build(&w, "f.nix");
    w.write(
        "f.nix",
        &recipe("o", script, "outputs = [ \"out\" \"two\" ];"),
    );
    let lines = build(&w, "f.nix");
    assert!(lines.contains("(recipe changed: `outputs`)"), "{lines}");
    let more = "outputs = [ \"out\" \"two\" ];";
    w.write(
        "f.nix",
        &recipe("o", &format!("{script}; echo more >> $out"), more),
    );
    let lines = build(&w, "f.nix");
    assert!(lines.contains("(recipe changed: `args`)"), "{lines}");
}

#[test]
fn names_of_files_do_not_drive_the_terminal() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("src/plain", "1");
    w.write(
        "f.nix",
        &recipe("app", "echo $src > $out", "src = ./src; top = true;"),
    );
    build(&w, "f.nix");
    w.write("src/a\u{1b}[31m\nb\r\u{9b}2J", "2");
    let planned = w.sos(["plan", "f.nix"]).ok().stdout;
    let will_be = w.sos(["why", "f.nix"]).ok().stdout;
    build(&w, "f.nix");
    let was = w.sos(["why", "f.nix"]).ok().stdout;
    let whole = w.sos(["builds", "2"]).ok().stdout;
    for (verb, text) in [
        ("plan", &planned),
        ("why, planned", &will_be),
        ("why", &was),
        ("builds", &whole),
    ] {
        assert!(text.contains("src changed"), "{verb}: {text:?}");
        let drives = |c: char| c.is_control() && c != '\n';
        assert!(!text.contains(drives), "{verb}: {text:?}");
        // Nor does a name go on in a line of its own.
        let mut lines = text.lines().filter(|line| line.contains("2J"));
        assert!(
            lines.all(|line| line.contains("src changed")),
            "{verb}: {text:?}"
        );
    }
    assert!(was.contains(r"a\x1b[31m\nb\r"), "{was:?}");
}

#[test]
fn the_line_of_a_script_is_named() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let long = |flag: &str| format!("{} {flag} {}", "-W".repeat(60), "-f".repeat(60));
    let write = |args: &str, phase: &str, flag: &str| {
        let phase = format!("set -e\n\tbegin\n\t{phase}\nend");
        let flags = long(flag);
        let more = format!("buildPhase = ''{phase}''; inherit flags;");
        let script = format!("\n echo one\n echo {args}\n echo x > $out\n");
        let text = recipe("scripted", &script, &more);
        w.write("sos.nix", &format!("let flags = \"{flags}\"; in {text}"));
        w.sos(["build", "--no-link"]).ok();
    };
    let why = || w.sos(["why", "scripted"]).ok().stdout;
    write("two", "a", "-O1");
    write("zwei", "a", "-O1");
    let told = why();
    let line = "`args`: line 2 (was `echo two`, is `echo zwei`) (sos.nix:1:";
    assert!(told.contains(line), "{told}");
    // Of the next build, which has another one.
    write("zwei", "b c", "-O1");
    let told = why();
    let line = "`buildPhase`: line 3 (was `a`, is `b c`) (sos.nix:1:";
    assert!(told.contains(line), "{told}");
    write("zwei", "b c", "-g3");
    let told = why();
    let line = format!("`flags` changed: line 1 (was `…{}", "-W".repeat(14));
    assert!(told.contains(&line), "{told}");
    assert!(
        told.contains(" -O1 -f") && told.contains(" -g3 -f"),
        "{told}"
    );
}

#[test]
fn a_renamed_derivation_is_known_again() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let write = |name: &str, flags: &str| {
        let leaf = recipe(name, "echo $flags > $out", &format!("flags = \"{flags}\";"));
        let top = recipe("top", "read a < $leaf; echo $a > $out", "inherit leaf;");
        w.write("sos.nix", &format!("let leaf = {leaf}; in {top}"));
    };
    write("first", "1");
    build(&w, ".");
    write("second", "2");
    let plan = w.sos(["plan"]).ok().stdout;
    assert!(!plan.contains("never built"), "{plan}");
    let lines = build(&w, ".");
    assert!(!lines.contains("never built"), "{lines}");
    let changes: BTreeSet<String> = ["env-changed flags 1 2", "env-changed name first second"]
        .map(str::to_owned)
        .into();
    assert_eq!(roots(&w, "top"), changes);
    assert_eq!(roots(&w, "second"), changes);
    let told = w.sos(["why", "top"]).ok().stdout;
    assert!(told.contains("because input first became second"), "{told}");
}

#[test]
fn what_was_not_tried_says_what_failed() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let write = |script: &str| {
        let leaf = recipe("leaf", script, "");
        let mid = recipe("mid", "read a < $leaf; echo $a > $out", "inherit leaf;");
        let top = recipe("top", "read a < $mid; echo $a > $out", "inherit mid;");
        w.write(
            "sos.nix",
            &format!("let leaf = {leaf}; mid = {mid}; in {top}"),
        );
    };
    write("exit 3");
    w.sos(["build", "--no-link"]).fails(100);
    let failed = "top was not tried in build 1: it needs leaf, which failed";
    let told = w.sos(["why", "top"]).fails(1).stderr;
    assert!(told.contains(failed), "{told}");
    let told = w.sos(["why"]).ok().stdout;
    assert!(told.starts_with(failed), "{told}");
    let told = w.sos(["why", "leaf"]).ok().stdout;
    assert!(
        told.contains("; 2 others were not tried") && !told.contains("identical"),
        "{told}"
    );
    write("echo x > $out");
    build(&w, ".");
    assert!(!w.sos(["why", "top"]).ok().stdout.contains("not tried"));
    write("echo begun; exit 4");
    w.sos(["build", "--no-link"]).fails(100);
    let told = w.sos(["why", "top"]).ok().stdout;
    assert!(
        told.starts_with(
            "top was not tried in build 3: it needs leaf, which failed\ntop was built in build 2"
        ),
        "{told}"
    );
}

#[test]
fn an_answer_is_broken_between_words() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.write("sos.nix", &recipe("one", "echo one > $out", ""));
    build(&w, ".");
    w.write("sos.nix", &recipe("one", "echo another > $out", ""));
    build(&w, ".");
    let words = |text: &str| {
        text.split_whitespace()
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    let whole = w.sos(["why", "one"]).ok().stdout;
    assert_eq!(whole.lines().count(), 1, "{whole}");
    for columns in [32, 40, 100] {
        let Some(mut terminal) = Terminal::start(&w.command_of(&["why", "one"]), 24, columns)
        else {
            return;
        };
        assert_eq!(terminal.finish(), 0);
        let rows = terminal.history().join("\n");
        assert_eq!(words(&rows), words(&whole), "{columns} columns: {rows}");
    }
}
