//! The interface for other crates.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use sos_lang::{Arguments, Evaluator, ExtBuiltin, Extension, Options, Plain, with_big_stack};

use crate::host::MemoryHost;

const DRV: &str =
    "name: derivation { inherit name; system = \"x86_64-linux\"; builder = \"/bin/sh\"; }";

#[test]
fn derivations_are_found_as_nix_build_finds_them() {
    let got = with_big_stack(|| {
        let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
        let text = format!(
            "let d = {DRV}; in {{ b = d \"b\"; a = [ (d \"x\") ]; c = {{ d = d \"no\"; }}; r = {{ recurseForDerivations = true; q = d \"q\"; }}; n = 1; }}"
        );
        let v = e.eval_str(&text, "x.nix", Path::new("/")).unwrap();
        e.derivations(v)
            .unwrap()
            .into_iter()
            .map(|d| (d.attr, d.name, d.outputs))
            .collect::<Vec<_>>()
    });
    let want = |a: &str, n: &str| (a.to_owned(), n.to_owned(), vec!["out".to_owned()]);
    assert_eq!(got, [want("b", "b"), want("r.q", "q")]);
}

#[test]
fn selection_and_arguments() {
    with_big_stack(|| {
        let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
        let v = e
            .eval_str(
                "{ n ? 1 }: { a.\"b c\" = [ { x = n; } ]; }",
                "x.nix",
                Path::new("/"),
            )
            .unwrap();
        let v = e.select(v, "a.\"b c\".0.x").unwrap();
        assert_eq!(e.print(v), "1");
        let v = e
            .eval_str("{ n, m ? 2 }: n + m", "x.nix", Path::new("/"))
            .unwrap();
        let five = || BTreeMap::from([("n".to_owned(), e.from_plain(&Plain::Int(5)))]);
        let given = Arguments {
            given: five(),
            ..Arguments::default()
        };
        let offered = Arguments {
            offered: five(),
            ..Arguments::default()
        };
        for arguments in [&given, &offered] {
            let v = e.auto_call(v, arguments).unwrap();
            assert_eq!(e.print(v), "7");
        }
        // What is only offered comes to none that does not name it.
        for (text, with_given, with_offered, asks) in [
            ("{ ... }@all: all ? n", "true", "false", false),
            ("{ n ? 0, ... }@all: all.n", "5", "5", true),
            ("_: { n ? 0 }: n", "<LAMBDA>", "<LAMBDA>", false),
            ("(_: { n ? 0 }: n) 1", "5", "5", true),
            ("{ __functor = _: { n }: n; }", "5", "5", false),
            ("n: n", "<LAMBDA>", "<LAMBDA>", false),
        ] {
            let v = e.eval_str(text, "x.nix", Path::new("/")).unwrap();
            assert_eq!(
                e.print(e.auto_call(v, &given).unwrap()),
                with_given,
                "{text}"
            );
            assert_eq!(
                e.print(e.auto_call(v, &offered).unwrap()),
                with_offered,
                "{text}"
            );
            assert_eq!(e.asks_for_offered(v, &offered).unwrap(), asks, "{text}");
        }
        // On the way functions are called, at the end of it they are not.
        let v = e
            .eval_str("{ n }: { f = { n }: n; }", "x.nix", Path::new("/"))
            .unwrap();
        let v = e.select_with(v, "f", &given).unwrap();
        assert_eq!(e.print(v), "<LAMBDA>");
    });
}

#[test]
fn extensions_add_builtins_and_files() {
    let ext = || Extension {
        builtins: vec![ExtBuiltin {
            name: "sosDouble",
            doc: "Doubles a number.",
            fun: Arc::new(|_, p| match p {
                Plain::Int(i) => Ok(Plain::Int(i * 2)),
                other => Ok(other),
            }),
        }],
        search: vec![(
            "sos".into(),
            &[
                (
                    "default.nix",
                    "{ four = sosDouble 2; sub = import ./sub/x.nix; }",
                ),
                ("sub/x.nix", "7"),
            ],
        )],
    };
    let got = with_big_stack(|| {
        let options = Options {
            extensions: vec![ext()],
            ..Options::default()
        };
        let e = Evaluator::new(MemoryHost::new(&[]), options);
        let v = e.eval_str("let s = import <sos>; in [ s.four s.sub (import <sos/sub/x.nix>) (builtins.pathExists <sos/sub>) ]", "x", Path::new("/")).unwrap();
        let v = e.force_deep(v).unwrap();
        e.print(v)
    });
    assert_eq!(got, "[ 4 7 7 true ]");
}

#[test]
fn import_from_derivation_builds() {
    let got = with_big_stack(|| {
        let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
        let v = e
            .eval_str(
                &format!("import (({DRV}) \"gen\")"),
                "x.nix",
                Path::new("/"),
            )
            .unwrap();
        e.print(v)
    });
    assert_eq!(got, "\"built gen out\"");
}

#[test]
fn files_read_are_remembered() {
    with_big_stack(|| {
        let e = Evaluator::new(
            MemoryHost::new(&[
                ("/src/default.nix", "import ./b.nix + builtins.readFile ./c"),
                ("/src/b.nix", "\"b\""),
                ("/src/c", "c"),
            ]),
            Options::default(),
        );
        let v = e.eval_file(Path::new("/src")).unwrap();
        assert_eq!(e.print(v), "\"bc\"");
        let read: Vec<String> = e
            .files_read()
            .iter()
            .map(|p| p.display().to_string())
            .collect();
        assert_eq!(read, ["/src/b.nix", "/src/c", "/src/default.nix"]);
    });
}

#[test]
fn plain_data_both_ways() {
    with_big_stack(|| {
        let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
        let v = e
            .eval_str(
                "{ a = [ 1 2.5 null true \"x\" ]; p = /a; t = builtins.toFile \"t\" \"x\"; }",
                "x",
                Path::new("/"),
            )
            .unwrap();
        let p = e.to_plain(v).unwrap();
        let back = e.from_plain(&p);
        assert_eq!(e.to_plain(back).unwrap(), p);
        assert_eq!(e.to_json(back).unwrap(), "{\"a\":[1,2.5,null,true,\"x\"],\"p\":\"/a\",\"t\":\"/nix/store/2r2vsmkhbqpkx5c3jz2sspsc5ivkw0s3-t\"}".replace("2r2vsmkhbqpkx5c3jz2sspsc5ivkw0s3-t", &tail(&p)));
        assert!(
            e.to_plain(e.eval_str("x: x", "x", Path::new("/")).unwrap())
                .is_err()
        );
    });
}

fn tail(p: &Plain) -> String {
    let Plain::Attrs(m) = p else {
        return String::new();
    };
    let Plain::Str { s, context } = &m["t"] else {
        return String::new();
    };
    assert_eq!(context.len(), 1);
    String::from_utf8_lossy(s)
        .rsplit('/')
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn pure_evaluation_has_no_clock() {
    let got = with_big_stack(|| {
        let e = Evaluator::new(
            MemoryHost::new(&[]),
            Options {
                pure: true,
                ..Options::default()
            },
        );
        let v = e.eval_str("[ (builtins ? currentTime) (builtins ? currentSystem) (builtins.getEnv \"HOME\") builtins.nixPath ]", "x", Path::new("/")).unwrap();
        let v = e.force_deep(v).unwrap();
        e.print(v)
    });
    assert_eq!(got, "[ false false \"\" [ ] ]");
}

#[test]
fn fetchers_ask_the_host() {
    with_big_stack(|| {
        let host = MemoryHost::new(&[]);
        let e = Evaluator::new(host.clone(), Options::default());
        let v = e
            .eval_str(
                "builtins.fetchTarball { url = \"http://mirror.example/a.tar\"; }",
                "x",
                Path::new("/"),
            )
            .unwrap();
        assert!(e.to_str(v).unwrap().1.len() == 1);
        let asked = host.fetched.borrow();
        assert_eq!((asked[0].name.as_str(), asked[0].unpack), ("source", true));
    });
}

#[test]
fn a_derivation_knows_where_it_was_written() {
    with_big_stack(|| {
        let text = "let make = args: derivation (args // { system = \"s\"; builder = \"/b\"; }); in [\n\
            (make { name = \"one\"; })\n\
            (derivation { system = \"s\"; __place = \"p\"; builder = \"/c\"; name = \"two\"; }) ]";
        let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
        let v = e.eval_str(text, "x.nix", Path::new("/")).unwrap();
        let places: Vec<_> = e
            .derivations(v)
            .unwrap()
            .iter()
            .map(|d| e.drv_position(&d.drv_path).unwrap())
            .map(|l| l.file.line_column(l.span.start))
            .collect();
        assert_eq!(places, [(2, 2), (3, 60)]);
        // To anybody but the library it is an attribute like all others.
        let aterm = e.print(e.select(v, "1.drvAttrs").unwrap());
        assert!(aterm.contains("__place"));
    });
}

#[test]
fn a_derivation_made_by_a_function_is_where_that_was_called() {
    with_big_stack(|| {
        let files = [
            // Takes a set and adds to it, as wrappers do.
            (
                "/wrap.nix",
                "args: derivation (args // { name = \"${args.pname}-1\"; system = \"s\"; builder = \"/b\"; })",
            ),
            // Takes words.
            (
                "/words.nix",
                "name: x: let all = { inherit name x; system = \"s\"; builder = \"/b\"; }; in derivation all",
            ),
            // A recipe of its own, in a file of its own.
            (
                "/own.nix",
                "{ }: derivation {\n name = \"own\"; system = \"s\"; builder = \"/b\"; }",
            ),
            (
                "/all.nix",
                "let wrap = import ./wrap.nix; words = import ./words.nix; call = f: a: import f a;\n\
                here = n: derivation { name = n; system = \"s\"; builder = \"/b\"; };\nin [\n\
                (wrap { pname = \"wrapped\"; })\n\
                (words \"worded\" 1)\n\
                (import ./own.nix { })\n\
                (call ./own.nix { })\n\
                (here \"beside\") ]",
            ),
        ];
        let e = Evaluator::new(MemoryHost::new(&files), Options::default());
        let v = e.eval_file(Path::new("/all.nix")).unwrap();
        let places: Vec<_> = e
            .derivations(v)
            .unwrap()
            .iter()
            .map(|d| e.drv_position(&d.drv_path).unwrap())
            .map(|l| (l.file.name.clone(), l.file.line_column(l.span.start).0))
            .collect();
        let all = |line| ("/all.nix".to_owned(), line);
        let own = ("/own.nix".to_owned(), 2);
        assert_eq!(places, [all(4), all(5), own.clone(), own, all(8)]);
    });
}
