//! `sos eval`, `sos check` and `sos parse`.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{World, one_at_a_time, say, shared};

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
