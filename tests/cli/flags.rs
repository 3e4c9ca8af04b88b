//! Flags of single verbs: logs that are followed, plans as graphs, edits that `check` makes.

use std::io::{BufRead as _, BufReader, Read as _};

use super::builds::{recipe, world_with_busybox};
use crate::support::{Run, World, finish, peer, start};

#[test]
fn a_running_log_is_followed_to_its_end() {
    let (Some(w), Some(busybox)) = (world_with_busybox(), peer("busybox")) else {
        return;
    };
    let gate = w.root().join("gate");
    std::fs::create_dir(&gate).expect("a directory");
    w.write(
        "../home/.config/sos/config.toml",
        &format!(
            "[build]\nsandbox-paths = [\"/bin/busybox={}\", \"/gate={}\"]\n",
            busybox.display(),
            gate.display()
        ),
    );
    let script = "echo one; while ! busybox test -e /gate/open; do busybox sleep 0.05; done; echo two; echo x > $out";
    w.write(
        "f.nix",
        &recipe("slow", &script.replace("busybox ", "/bin/busybox "), ""),
    );
    let build = start(&mut w.command_of(&["build", "--no-link", "f.nix"]));
    // Until the build has its lock, there is nothing to follow.
    let locks = w.store().join("lock/drv");
    while std::fs::read_dir(&locks).map_or(0, Iterator::count) == 0 {
        std::thread::yield_now();
    }
    let mut follower = start(&mut w.command_of(&["log", "-f", "f.nix"]));
    let mut out = BufReader::new(follower.stdout.take().expect("its output"));
    let mut line = String::new();
    out.read_line(&mut line).expect("a line");
    assert_eq!(line, "one\n", "seen while the build is silent");
    std::fs::write(gate.join("open"), "").expect("a file");
    let mut rest = String::new();
    out.read_to_string(&mut rest).expect("the rest");
    assert_eq!(rest, "two\n");
    let limit = std::time::Duration::from_secs(60);
    finish(follower, limit).ok();
    finish(build, limit).ok();
    assert_eq!(w.sos(["log", "-f", "f.nix"]).ok().stdout, "one\ntwo\n");
}

#[test]
fn raw_is_what_the_build_wrote() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = r"printf '\033[31mred\033[0m\033[2J\033]0;title\007\n'; echo x > $out";
    w.write("f.nix", &recipe("loud", script, ""));
    w.sos(["build", "--no-link", "f.nix"]).ok();
    assert_eq!(w.sos(["log", "f.nix"]).ok().stdout, "red\n");
    assert_eq!(
        w.sos(["log", "f.nix", "--color", "always"]).ok().stdout,
        "\u{1b}[31mred\u{1b}[0m\u{1b}[0m\n"
    );
    assert_eq!(
        w.sos(["log", "f.nix", "--raw"]).ok().stdout,
        "\u{1b}[31mred\u{1b}[0m\u{1b}[2J\u{1b}]0;title\u{7}\n"
    );
}

#[test]
fn the_log_of_the_last_failure_needs_no_name() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    w.sos(["log", "--failed"])
        .fails(1)
        .says(&["error[log-not-found]", "no build failed here"]);
    for (name, script) in [
        ("first", "echo early; exit 1"),
        ("second", "echo late; exit 1"),
        ("third", "echo fine; echo x > $out"),
    ] {
        w.write("f.nix", &recipe(name, script, ""));
        w.sos(["build", "--no-link", "f.nix"]);
    }
    assert_eq!(w.sos(["log", "--failed"]).ok().stdout, "late\n");
    w.sos(["log", "--failed", "f.nix"]).fails(2);
}

#[test]
fn a_plan_can_be_drawn() {
    let w = World::new();
    let app = recipe(
        "app",
        "x",
        &format!("tool = {};", recipe("tool", "echo \\\"", "")),
    );
    w.write("f.nix", &app);
    let dot = w.sos(["plan", "f.nix", "--format", "dot"]).ok().stdout;
    let ids: Vec<&str> = dot
        .lines()
        .filter_map(|line| line.trim().split_once(" [label = "))
        .map(|(id, _)| id)
        .collect();
    assert_eq!(ids.len(), 2, "{dot}");
    assert!(
        ids[0].ends_with("-tool.drv\"") && ids[1].ends_with("-app.drv\""),
        "{dot}"
    );
    assert!(
        dot.contains(&format!("  {} -> {};\n", ids[0], ids[1])),
        "{dot}"
    );
    assert!(
        dot.contains("[label = \"tool\\nnever built\", style = solid]"),
        "{dot}"
    );
}

/// The text of a file of the project.
fn text(w: &World, name: &str) -> String {
    std::fs::read_to_string(w.project().join(name)).expect("a file")
}

#[test]
fn misspelt_names_are_put_right_and_nothing_else() {
    let w = World::new();
    let wrong = "let\n  s = { package = \"p\"; };\n  f = { name, system }: derivation { inherit name system; builder = \"/b\"; };\nin\nf { nmae = s.pakage; system = \"x\"; } # pakage\n";
    w.write("f.nix", wrong);
    w.sos(["check", "f.nix"]).fails(3);
    assert_eq!(text(&w, "f.nix"), wrong, "only when asked");
    w.sos(["check", "--fix", "f.nix"]).ok().says(&[
        "changed f.nix:5:14: `pakage` to `package`",
        "changed f.nix:5:5: `nmae` to `name`",
        "1 target checked",
    ]);
    let right = wrong
        .replace("nmae", "name")
        .replacen("s.pakage", "s.package", 1);
    assert_eq!(text(&w, "f.nix"), right);

    // Two names are near: neither is taken.
    let open = "{ a = 1; }.${\"x\"} or (let s = { foo1 = 1; foo2 = 2; }; in s.foo3)\n";
    w.write("g.nix", open);
    w.sos(["check", "--fix", "g.nix"])
        .fails(3)
        .says(&["did you mean `foo1` or `foo2`?"]);
    assert_eq!(text(&w, "g.nix"), open);

    w.write(
        "x.rootfs.toml",
        "name = \"x\"\nsuite = \"bookworm\"\nvariant = \"essential\"\nepoch = 1\nmachine_id = \"y\"\n",
    );
    let run: Run = w.sos(["check", "--fix", "x.rootfs.toml"]);
    assert!(
        run.stderr
            .contains("changed x.rootfs.toml:5:1: `machine_id` to `machine-id`"),
        "{}",
        run.stderr
    );
    assert!(text(&w, "x.rootfs.toml").contains("\nmachine-id = \"y\"\n"));
}

#[test]
fn hashes_that_a_build_has_seen_are_written_as_they_were() {
    let w = World::new();
    let file = w.write("a.txt", "a\n");
    let other = w.write("b.txt", "b\n");
    let fetch = |name: &str, file: &std::path::Path, hash: &str| {
        format!(
            "sos.fetchurl {{ name = \"{name}\"; url = \"file://{}\"; sha256 = \"{hash}\"; }}",
            file.display()
        )
    };
    let sri = "sha256-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let (nix32, hex) = ("0".repeat(51) + "1", "0".repeat(63) + "1");
    let wrong = format!(
        "{{ sos, ... }}: {{ a = {}; b = {}; c = builtins.fetchurl {{ url = \"file://{}\"; sha256 = \"{hex}\"; }}; }}\n",
        fetch("one", &file, sri),
        fetch("two", &other, &nix32),
        other.display()
    );
    w.write("sos.nix", &wrong);
    // Nothing is known yet, and nothing is downloaded for it.
    w.sos(["check", "--fix", ".#a"]).ok();
    assert_eq!(text(&w, "sos.nix"), wrong);
    w.sos(["build", "-k", ".#a", ".#b"]).fails(102);
    w.sos(["check", "--fix", ".#a"])
        .ok()
        .says(&["changed sos.nix:1:", "`sha256-AAAA"]);
    w.sos(["build", "--no-link", ".#a", ".#b"]).ok();
    // In the notation of the recipe, also of what the language itself fetches.
    w.sos(["eval", ".#c"]).fails(102).says(&[&hex]);
    w.sos(["check", "--fix", ".#a"]).ok();
    w.sos(["eval", ".#c"]).ok();
    let right = text(&w, "sos.nix");
    let hashes: Vec<usize> = right
        .split("sha256 = \"")
        .skip(1)
        .filter_map(|rest| rest.find('"'))
        .collect();
    assert_eq!(hashes, [sri.len(), 52, 64], "{right}");
}

#[test]
fn one_wrong_hash_for_two_files_is_left_to_people() {
    let w = World::new();
    let zeros = "0".repeat(64);
    let fetch = |name: &str| {
        let file = w.write(name, name);
        format!(
            "(sos.fetchurl {{ url = \"file://{}\"; sha256 = \"{zeros}\"; }})",
            file.display()
        )
    };
    let wrong = format!("{{ sos, ... }}: [ {} {} ]\n", fetch("a"), fetch("b"));
    w.write("sos.nix", &wrong);
    w.sos(["build", "-k"]).fails(102);
    w.sos(["check", "--fix"]).ok();
    assert_eq!(text(&w, "sos.nix"), wrong);
}

#[test]
fn configuration_before_and_after_the_verb_counts() {
    let w = World::new();
    let system = |args: &[&str]| w.sos(args).ok().stdout;
    let both = [
        "--config",
        "build.system=riscv64-linux",
        "eval",
        "--config=build.jobs=1",
        "-E",
        "builtins.currentSystem",
    ];
    assert_eq!(system(&both), "\"riscv64-linux\"\n");
    let run = w
        .sos([
            "--config",
            "build.nonsense=1",
            "eval",
            "--config",
            "build.jobs=1",
            "-E",
            "1",
        ])
        .fails(2);
    assert!(run.stderr.contains("nonsense"), "{}", run.stderr);
    // What stands last counts.
    let twice = [
        "--config",
        "build.system=one",
        "eval",
        "--config",
        "build.system=two",
        "-E",
        "builtins.currentSystem",
    ];
    assert_eq!(system(&twice), "\"two\"\n");
    // A text is a list.
    let lists = [
        "--config",
        "substituters=file:///none/a file:///none/b",
        "--config",
        "trusted-keys=no-key other-key",
        "doctor",
    ];
    let told = w.sos(lists).stdout;
    for word in [
        "`file:///none/a`",
        "`file:///none/b`",
        "no-key",
        "other-key",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
}

#[test]
fn several_outputs_limits_of_none_and_rounds_of_none() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = "for o in $out $dev $man; do echo $o > $o; done; echo XX; printf \"a\\rb\\n\"";
    w.write(
        "f.nix",
        &recipe("many", script, "outputs = [ \"out\" \"dev\" \"man\" ];"),
    );
    let limits = [
        "--timeout",
        "0",
        "--silent-timeout",
        "0",
        "--max-log-size",
        "1.5M",
    ];
    let run = w
        .sos([&["build", "--no-link", "f.nix^man,dev,man"], &limits[..]].concat())
        .ok();
    let names: Vec<&str> = run
        .stdout
        .lines()
        .map(|l| l.rsplit_once("-many").expect("a path").1)
        .collect();
    assert_eq!(names, ["-man", "-dev"]);
    let run = w.sos(["build", "--no-link", "f.nix^man,doc"]).fails(3);
    assert!(run.stderr.contains("no output `doc`"), "{}", run.stderr);
    let run = w.sos(["verify", "f.nix", "--rounds", "0"]).fails(2);
    assert!(run.stderr.contains("verify-no-rounds"), "{}", run.stderr);
    assert!(
        w.sos(["log", "f.nix", "-A", "nothing"])
            .fails(3)
            .stderr
            .contains("nothing")
    );
}

#[test]
fn names_of_files_cannot_be_mistaken_for_others() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let script = r"mkdir $out; cd $out; echo > 'a
b'; echo > ab; echo > $(printf '\033]0;title\007')";
    w.write("f.nix", &recipe("odd", script, ""));
    let path = w.sos(["build", "--no-link", "f.nix"]).ok().stdout;
    let mut command = w.command();
    command.args(["store", "ls", path.trim()]);
    let Some(mut terminal) = crate::support::terminal::Terminal::start(&command, 24, 80) else {
        return;
    };
    assert_eq!(terminal.finish(), 0);
    assert_eq!(
        terminal.rows()[..3],
        [r"\x1b]0;title\x07", r"a\nb", "ab"].map(str::to_owned)
    );
    assert!(
        terminal.seen().strange.is_empty(),
        "{:?}",
        terminal.seen().strange
    );
}
