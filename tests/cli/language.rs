//! `sos eval`, `sos check` and `sos parse`.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{World, one_at_a_time, peer, say, shared};

/// The values of `../shared/bench/lang`, as real Nix gives them.
#[test]
fn the_shared_programs_have_the_values_of_nix() {
    let Some(expected) = shared("bench/lang/EXPECTED.tsv") else {
        return;
    };
    let _alone = one_at_a_time();
    let directory = expected.parent().expect("a directory").to_owned();
    let text = std::fs::read_to_string(&expected).expect("the values");
    let library = std::env::var("BENCH_LIB")
        .ok()
        .filter(|lib| !lib.is_empty());
    let mut cases: Vec<(&str, &str)> = text.lines().filter_map(|l| l.split_once('\t')).collect();
    assert_eq!(cases.len(), 22, "{}", expected.display());
    if library.is_none() {
        say("skipped: BENCH_LIB is not set, which `modules` of ../shared/bench/lang needs");
        cases.retain(|(name, _)| *name != "modules");
    }
    let w = World::new();
    let next = AtomicUsize::new(0);
    let work = || {
        while let Some((name, value)) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            let file = directory.join(format!("{name}.nix")).display().to_string();
            let mut arguments = vec!["eval", "--strict", "--file", &file];
            let include = library.as_ref().map(|lib| format!("lib={lib}"));
            if let Some(include) = &include {
                arguments.extend(["-I", include]);
            }
            assert_eq!(w.sos(arguments).ok().stdout.trim_end(), *value, "{name}");
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
}

#[test]
fn values_are_printed_as_nix_prints_them() {
    let w = World::new();
    for (expression, printed) in [
        ("1 + 2", "3"),
        (
            "{ b = 1; a = [ true null \"x\\n\" ]; }",
            "{ a = [ true null \"x\\n\" ]; b = 1; }",
        ),
        ("x: x", "<LAMBDA>"),
        ("1.5", "1.5"),
    ] {
        assert_eq!(
            w.sos(["eval", "--strict", "-E", expression]).ok().stdout,
            format!("{printed}\n"),
            "{expression}"
        );
    }
}

#[test]
fn a_file_and_an_attribute_of_it() {
    let w = World::new();
    let file = w.write("f.nix", "{ a.b = \"deep\"; }");
    assert_eq!(
        w.sos(["eval", "--strict", "--file", &file.display().to_string()])
            .ok()
            .stdout,
        "{ a = { b = \"deep\"; }; }\n"
    );
    assert_eq!(w.sos(["eval", "f.nix#a.b"]).ok().stdout, "\"deep\"\n");
    assert_eq!(w.sos(["eval", "--raw", "f.nix#a.b"]).ok().stdout, "deep");
    assert_eq!(
        w.sos(["eval", "--json", "f.nix#a"]).ok().stdout,
        "{\"b\":\"deep\"}\n"
    );
}

#[test]
fn functions_get_their_arguments() {
    let w = World::new();
    w.write("f.nix", "{ x ? 1, y ? \"d\" }: [ x y ]");
    assert_eq!(
        w.sos([
            "eval", "--strict", "f.nix", "--arg", "x", "1 + 1", "--argstr", "y", "z"
        ])
        .ok()
        .stdout,
        "[ 2 \"z\" ]\n"
    );
}

/// What `sos eval` prints, and real Nix, where there is one, for the same words.
fn as_nix_instantiate(w: &World, words: &[&str], printed: &str) {
    let ours = w.sos([&["eval"], words].concat()).ok().stdout;
    assert_eq!(ours.trim_end(), printed, "{words:?}");
    let Some(nix) = peer("nix-instantiate") else {
        return;
    };
    let out = std::process::Command::new(nix)
        .args(["--eval", "--readonly-mode"])
        .args(words)
        .current_dir(w.project())
        .env("NIX_STATE_DIR", w.root().join("nix-state"))
        .env("HOME", w.root())
        .output()
        .expect("nix-instantiate runs");
    let theirs = String::from_utf8_lossy(&out.stdout).into_owned();
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert_eq!(theirs.trim_end(), printed, "{words:?}: {said}");
}

#[test]
fn functions_are_called_where_nix_instantiate_calls_them() {
    let w = World::new();
    w.write(
        "f.nix",
        "{ x ? 1 }: { a = x; f = { x ? 1, ... }@all: all; }",
    );
    w.write(
        "functor.nix",
        "{ __functor = _: { x ? 1 }: { a = x; }; b = 2; }",
    );
    w.write("needs.nix", "{ x }: x");
    w.write("any.nix", "{ ... }@all: builtins.attrNames all");
    let set = "{ __functor = <LAMBDA>; b = 2; }";
    for (words, printed) in [
        (&["f.nix"][..], "<LAMBDA>"),
        (&["f.nix", "--arg", "x", "2", "-A", "a"], "2"),
        (
            &["f.nix", "--strict", "--argstr", "y", "2", "-A", "f"],
            "{ y = \"2\"; }",
        ),
        (&["f.nix", "-A", "a"], "1"),
        // On the way to an attribute functions are called; what is found is printed.
        (&["f.nix", "-A", "f"], "<LAMBDA>"),
        (&["functor.nix", "--strict"], set),
        (&["functor.nix", "-A", "a"], "1"),
        (
            &["functor.nix", "--strict", "--arg", "x", "3"],
            "{ a = 3; }",
        ),
        (&["needs.nix"], "<LAMBDA>"),
        (&["needs.nix", "--arg", "x", "4"], "4"),
        (&["any.nix"], "<LAMBDA>"),
        (&["any.nix", "--strict", "--arg", "x", "4"], "[ \"x\" ]"),
        (&["-E", "{ x ? 1 }: x"], "<LAMBDA>"),
        (&["-E", "{ sos ? 1 }: sos"], "<LAMBDA>"),
        (&["-E", "{ x ? 1 }: x", "--arg", "x", "5"], "5"),
        (
            &["-E", "{ ... }@all: { a = all ? sos; }", "-A", "a"],
            "false",
        ),
    ] {
        as_nix_instantiate(&w, words, printed);
    }
    assert_eq!(w.sos(["eval", "f.nix#a"]).ok().stdout, "1\n");
}

#[test]
fn a_recipe_is_called_because_it_asks_for_sos() {
    let w = World::new();
    w.write(
        "sos.nix",
        "{ sos, ... }@all: { names = builtins.attrNames all; f = { sos, x ? 3 }: x; }",
    );
    w.write(
        "any.nix",
        "{ ... }@all: { names = builtins.attrNames all; }",
    );
    let names = |words: &[&str]| w.sos([&["eval", "--strict"], words].concat()).ok().stdout;
    assert_eq!(names(&["."]), "{ f = <LAMBDA>; names = [ \"sos\" ]; }\n");
    assert_eq!(names(&[".#names"]), "[ \"sos\" ]\n");
    assert_eq!(names(&[".#f"]), "3\n");
    assert_eq!(names(&["any.nix#names"]), "[ ]\n");
    // Others get what the command line says, and no library.
    assert_eq!(names(&["any.nix#names", "--arg", "x", "1"]), "[ \"x\" ]\n");
}

#[test]
fn what_is_built_is_called_as_nix_build_does() {
    let w = World::new();
    w.write("pkgs.nix", "{ }: { system = \"x86_64-linux\"; }");
    w.write(
        "default.nix",
        "{ pkgs ? import ./pkgs.nix { }, name ? \"d\" }: let
           make = name: derivation { inherit name; inherit (pkgs) system; builder = \"/bin/sh\"; };
         in { a = make name; f = { n ? \"n\" }: make n; }",
    );
    for (target, more, name) in [
        ("default.nix#a", &[][..], "-d.drv"),
        ("default.nix#f", &[], "-n.drv"),
        ("default.nix#a", &["--argstr", "name", "e"], "-e.drv"),
    ] {
        w.sos([&["plan", target], more].concat()).ok();
        let run = w.sos([&["plan", "--json", target], more].concat()).ok();
        assert!(run.stdout.contains(name), "{target}: {}", run.stdout);
    }
    assert_eq!(
        w.sos(["eval", "--raw", "default.nix#a.name"]).ok().stdout,
        "d"
    );
}

#[test]
fn store_path_follows_links_into_the_store() {
    let w = World::new();
    let file = w.write("file", "hello");
    let added = w.sos(["store", "add", &file.display().to_string()]).ok();
    let object = added.stdout.trim().to_owned();
    let link = w.project().join("link");
    std::os::unix::fs::symlink(w.physical(&object), &link).expect("a link");
    let call = |path: &str| format!("builtins.storePath {path}");
    let quoted = format!("\"{object}\"");
    let shown = format!("{quoted}\n");
    for restricted in [&[][..], &["--restrict-eval"]] {
        let of_object = call(&quoted);
        let run = w.sos([&["eval", "-E", &of_object], restricted].concat());
        assert_eq!(run.ok().stdout, shown);
    }
    let linked = w.sos(["eval", "-E", &call("./link")]);
    assert_eq!(linked.ok().stdout, shown);
    w.sos(["eval", "-E", &call(&format!("\"{object}/none\""))])
        .fails(3)
        .says(&["/none"]);
    w.sos(["eval", "-E", &call("/etc/passwd")])
        .fails(3)
        .says(&["'/etc/passwd' is not in the Nix store"]);
    w.sos(["eval", "--restrict-eval", "-E", &call("./link")])
        .fails(3)
        .says(&["is forbidden in restricted mode"]);
    w.sos(["eval", "--pure-eval", "-E", &call(&quoted)])
        .fails(3)
        .says(&["not allowed in pure evaluation mode"]);
}

#[test]
fn a_missing_attribute_names_its_neighbour() {
    let w = World::new();
    w.write(
        "site.nix",
        "let s = { package = { name = \"x\"; }; }; in {\n  name = s.pakage.name;\n}\n",
    );
    w.sos(["eval", "--strict", "site.nix"]).fails(3).says(&[
        "error[eval-attr-missing]",
        "pakage",
        "site.nix:2:12",
        "package",
    ]);
}

#[test]
fn a_target_that_is_missing_names_what_is_there() {
    let w = World::new();
    let drv = |name: &str| {
        format!("derivation {{ name = \"{name}\"; system = \"x86_64-linux\"; builder = \"b\"; }}")
    };
    let many: String = (0..12).map(|n| format!("n{n:02} = {n}; ")).collect();
    w.write(
        "sos.nix",
        &format!(
            "{{ zlib = {}; some.more = {{ {many} tool = {}; }}; none = {{ }}; }}",
            drv("zlib"),
            drv("tool")
        ),
    );
    w.sos(["build", ".#zlb"]).fails(3).says(&[
        "error[eval-attr-missing]: attribute `zlb` of `sos.nix` not found",
        "note: it has `zlib`, `none`, `some`\n",
        "did you mean `zlib`?",
    ]);
    w.sos(["build", ".#some.more.x"]).fails(3).says(&[
        "attribute `x` of `some.more` in `sos.nix` not found",
        "note: it has `tool`, `n00`, `n01`, ",
        "`n08` and 3 more\n",
    ]);
    w.sos(["plan", ".#none.x"])
        .fails(3)
        .says(&["of `none` in `sos.nix`", "note: the set is empty"]);
    w.sos(["build", "-E", "{ a = 1; }", "b"])
        .fails(3)
        .says(&["attribute `b` of the expression not found", "it has `a`"]);
}

#[test]
fn a_syntax_error_has_a_place() {
    let w = World::new();
    w.write("bad.nix", "{ a = 1;\n  b = ; }\n");
    w.sos(["eval", "bad.nix"])
        .fails(3)
        .says(&["error[parse-syntax]", "bad.nix:2:"]);
    w.sos(["check", "bad.nix"])
        .fails(3)
        .says(&["error[parse-syntax]", "bad.nix:2:"]);
}

#[test]
fn infinite_recursion_is_an_error_not_a_crash() {
    let w = World::new();
    w.sos(["eval", "-E", "let a = b; b = a; in a"])
        .fails(3)
        .says(&["error["]);
    w.sos(["eval", "-E", "let f = x: f (x + 1) + 1; in f 0"])
        .fails(3)
        .says(&["error["]);
}

#[test]
fn derivations_have_the_paths_of_nix() {
    let w = World::new();
    let expression =
        "derivation { name = \"foo\"; system = \"x86_64-linux\"; builder = \"/bin/sh\"; }";
    let out = w
        .sos(["eval", "--raw", "-E", &format!("({expression}).drvPath")])
        .ok()
        .stdout;
    assert_eq!(out, "/nix/store/9d794zbx10n43fa6zaqf33pfymdrm4r2-foo.drv");
    let out = w
        .sos(["eval", "--raw", "-E", &format!("({expression}).outPath")])
        .ok()
        .stdout;
    assert_eq!(out, "/nix/store/xpcvxsx5sw4rbq666blz6sxqlmsqphmr-foo");
}

#[test]
fn the_forms_of_nix_instantiate() {
    let w = World::new();
    w.write(
        "f.nix",
        "{ x, y ? 1 }: { sum = x + y; list = [ 1 { text = \"a\\nb\"; } ]; lib = <lib>; }",
    );
    let args = ["eval", "--file", "f.nix", "--arg", "x", "-3", "-A"];
    let with = |more: &[&str]| w.sos(args.iter().chain(more)).ok().stdout;
    assert_eq!(with(&["sum"]), "-2\n");
    assert_eq!(with(&["sum", "-A", "list.0"]), "-2\n1\n");
    assert_eq!(with(&["list.1.text", "--raw"]), "a\nb");
    assert_eq!(with(&["list", "--json"]), "[1,{\"text\":\"a\\nb\"}]\n");
    assert!(with(&["list", "--xml", "--no-location"]).contains("<int value=\"1\" />"));
    let dir = w.write("lib/default.nix", "1");
    let dir = dir.parent().unwrap().display().to_string();
    assert_eq!(
        with(&["lib", "-I", &format!("lib={dir}")]),
        format!("{dir}\n")
    );
    assert_eq!(
        w.sos([
            "eval", "-A", "sum", "f.nix", "--argstr", "x", "a", "--arg", "y", "\"b\""
        ])
        .ok()
        .stdout,
        "\"ab\"\n"
    );
}

#[test]
fn exit_codes_of_nix_instantiate_where_asked_for() {
    let w = World::new();
    w.sos(["eval", "-E", "throw \"x\""]).fails(3);
    w.sos(["eval", "--eval", "-E", "throw \"x\""])
        .fails(1)
        .says(&["error[eval-throw]: x"]);
    w.write("bad.nix", "{ a = ; }");
    w.sos(["parse", "bad.nix"])
        .fails(1)
        .says(&["error[parse-syntax]"]);
    w.write("good.nix", "1 + 2");
    assert_eq!(w.sos(["parse", "good.nix"]).ok().stdout, "(1 + 2)\n");
}

#[test]
fn lints_warn_or_refuse_and_features_are_asked_for() {
    let w = World::new();
    let lint = "--lint-short-path-literals";
    w.sos(["eval", lint, "warn", "-E", "a/b"])
        .ok()
        .says(&["warning: relative path literal 'a/b'"]);
    w.sos(["eval", lint, "fatal", "-E", "a/b"])
        .fails(3)
        .says(&["error[parse-syntax]: relative path literal 'a/b'"]);
    w.sos(["eval", "-E", "1 |> (x: x)"])
        .fails(3)
        .says(&["pipe-operators"]);
    let feature = ["eval", "--extra-experimental-features", "pipe-operators"];
    assert_eq!(
        w.sos(feature.iter().chain(&["-E", "1 |> (x: x)"]))
            .ok()
            .stdout,
        "1\n"
    );
    w.sos([
        "eval",
        "--max-call-depth",
        "50",
        "-E",
        "let f = n: if n == 0 then 0 else 1 + f (n - 1); in f 60",
    ])
    .fails(3)
    .says(&["max-call-depth exceeded"]);
}

#[test]
fn what_contains_itself_has_no_end_and_is_an_error() {
    let w = World::new();
    for whole in ["builtins.toXML x", "builtins.toJSON x"] {
        w.sos(["eval", "-E", &format!("let x = [ x ]; in {whole}")])
            .fails(3)
            .says(&["error[eval-too-deep]"]);
    }
}

#[test]
fn objects_that_are_one_file_are_read_and_imported() {
    let w = World::new();
    w.write("one.nix", "1 + 1");
    for (expression, printed) in [
        ("builtins.readFile (builtins.toFile \"x\" \"y\")", "\"y\""),
        ("import (builtins.toFile \"x.nix\" \"1 + 2\")", "3"),
        ("import \"${./one.nix}\"", "2"),
        ("builtins.pathExists (builtins.toFile \"x\" \"y\")", "true"),
        (
            "builtins.readFileType (builtins.toFile \"x\" \"y\")",
            "\"regular\"",
        ),
        (
            "builtins.hashFile \"md5\" (builtins.toFile \"x\" \"y\")",
            "\"415290769594460e2e485922904f345d\"",
        ),
    ] {
        assert_eq!(
            w.sos(["eval", "--strict", "-E", expression]).ok().stdout,
            format!("{printed}\n"),
            "{expression}"
        );
    }
}

#[test]
fn a_directory_given_as_the_file_means_its_default_nix() {
    let w = World::new();
    w.write("both/default.nix", "{ x = \"default\"; l = [ 1 2 ]; }");
    w.write("both/flake.nix", "{ outputs = _: { x = \"flake\"; }; }");
    assert_eq!(
        w.sos(["eval", "-f", "both", "x"]).ok().stdout,
        "\"default\"\n"
    );
    let run = w.sos(["eval", "-f", "both", "l.5"]).fails(3);
    assert!(
        run.stderr.contains("list index 5") && !run.stderr.contains("empty"),
        "{}",
        run.stderr
    );
    assert_eq!(
        w.sos(["eval", "-E", "builtins.readFile \"/dev/null\""])
            .ok()
            .stdout,
        "\"\"\n"
    );
    // What the library of recipes is made with is nothing that a program sees.
    let names =
        "builtins.filter (n: builtins.match \"__.*\" n != null) (builtins.attrNames builtins)";
    assert_eq!(
        w.sos(["eval", "--strict", "-E", names]).ok().stdout,
        "[ ]\n"
    );
}

#[test]
fn the_trace_is_what_the_user_wrote() {
    let w = World::new();
    w.write(
        "lib.nix",
        "rec {\n  check = p: if p > 9 then throw \"port ${toString p} is too large\" else p;\n  mkService = { port }: check port;\n}\n",
    );
    w.write(
        "main.nix",
        "let lib = import ./lib.nix; in\n{\n  services = [\n    (lib.mkService { port = 99; })\n  ];\n  told = builtins.addErrorContext \"while making the option foo\" (throw \"bad\");\n}\n",
    );
    let short = w
        .sos(["eval", "--strict", "main.nix", "-A", "services"])
        .fails(3);
    let at = |text: &str, part: &str| {
        text.find(part)
            .unwrap_or_else(|| panic!("no `{part}` in\n{text}"))
    };
    let text = &short.stderr;
    // Where it is thrown, then where the helper was called, then the user's own line.
    let places = [
        "lib.nix:2:28",
        "from call site, lib.nix:3:25",
        "from call site, main.nix:4:6",
    ];
    let order: Vec<usize> = places.iter().map(|place| at(text, place)).collect();
    assert!(order.is_sorted(), "{text}");
    let whole = w
        .sos([
            "eval",
            "--strict",
            "--show-trace",
            "main.nix",
            "-A",
            "services",
        ])
        .fails(3);
    // The whole trace is above, and the error comes last.
    assert!(
        at(&whole.stderr, "main.nix:4:6") < at(&whole.stderr, "error[eval-throw]"),
        "{}",
        whole.stderr
    );
    at(&whole.stderr, "lib.nix:3:25");
    // What the program says to its reader is always shown.
    let told = w.sos(["eval", "main.nix", "-A", "told"]).fails(3);
    at(&told.stderr, "while making the option foo");
}

/// Problems of targets that have nothing to do with each other are told together, and one that several share once.
#[test]
fn all_targets_tell_of_their_problems() {
    let w = World::new();
    w.write("d/f.nix", "{ z = throw \"of another file\"; }");
    w.write(
        "f.nix",
        "rec { a = throw \"of a\"; b = 1 + \"\"; c = 1; e = a; f = a; }",
    );
    let targets = ["f.nix#c", "f.nix#e", "f.nix#b", "f.nix#f", "d/f.nix#z"];
    let told = w.sos(["eval"].iter().chain(&targets)).fails(3);
    assert_eq!(told.stdout, "");
    let heads: Vec<&str> = told
        .stderr
        .lines()
        .filter(|line| line.starts_with("error["))
        .collect();
    assert_eq!(heads.len(), 3, "{heads:#?}");
    told.says(&[
        "of a",
        "cannot add a string to an integer",
        "of another file",
    ]);
}

#[test]
fn a_misspelt_attribute_shows_the_one_that_is_meant() {
    let w = World::new();
    w.write("f.nix", "let s = {\n  package = 1;\n};\nin s.pakage");
    let told = w.sos(["eval", "f.nix"]).fails(3);
    told.says(&[
        "2 |   package = 1;",
        "------- `package` is defined here",
        "4 | in s.pakage",
        "^^^^^^ no such attribute",
    ]);
    let told = w.sos(["eval", "--raw", "-E", "1"]).fails(3);
    told.says(&["cannot coerce an integer to a string", "leave out `--raw`"]);
}
