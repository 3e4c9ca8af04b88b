//! What an error says, and where.

use std::path::Path;

use sos_lang::{Evaluator, Options};

use crate::host::MemoryHost;

/// Code, message, the marked text and the helps of the error.
#[track_caller]
fn check(text: &str, code: &str, marked: &str, helps: &[&str]) {
    let text = text.to_owned();
    let got = sos_lang::with_big_stack(move || {
        let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
        let d = e
            .eval_str(&text, "site.nix", Path::new("/"))
            .and_then(|v| e.force_deep(v))
            .unwrap_err();
        let at = d
            .labels
            .first()
            .map(|l| l.file.text[l.span.clone()].to_owned());
        (d.code, at, d.helps.clone())
    });
    assert_eq!(
        got,
        (
            code_of(code),
            Some(marked.to_owned()),
            helps.iter().map(|h| (*h).to_owned()).collect()
        )
    );
}

fn code_of(c: &str) -> &'static str {
    c.to_owned().leak()
}

#[test]
fn places_and_suggestions() {
    check(
        "let s = { package = 1; }; in s.pakage",
        "eval-attr-missing",
        "pakage",
        &["did you mean `package`?"],
    );
    check(
        "let package = 1; in pakage",
        "eval-undefined-variable",
        "pakage",
        &["did you mean `package`?"],
    );
    check("1 + { }", "eval-type", "{ }", &[]);
    check("{ a = 1; b = 2; a = 3; }", "parse-syntax", "a", &[]);
    check("let x = 1;\nin x.y", "eval-type", "y", &[]);
    check("assert 1 + 1 == 3; 1", "eval-assert", "1 + 1 == 3", &[]);
    check("throw \"no\"", "eval-throw", "throw", &[]);
    check("let a = b; b = a; in a", "eval-cycle", "b", &[]);
    check(
        "builtins.elemAt [ 1 ] 5",
        "eval-value",
        "builtins.elemAt",
        &[],
    );
    check("(x: x) 1 2", "eval-type", "(", &[]);
    check("{ a = ; }", "parse-syntax", ";", &[]);
}

#[test]
fn a_wrong_operand_or_argument_is_the_place() {
    for (text, marked) in [
        ("1 + \"x\"", "\"x\""),
        ("(x: x + (2 * 3)) true", "x"),
        ("\"x\" + 1", "1"),
        ("null - 1", "null"),
        ("1 - (toString 1)", "toString 1"),
        ("[ 1 ] ++ 2", "2"),
        ("1 // { }", "1"),
        ("true && \"x\"", "\"x\""),
        ("1 || true", "1"),
        ("!1", "1"),
        ("-\"x\"", "\"x\""),
        ("builtins.substring 0 \"a\" \"abc\"", "\"a\""),
        ("builtins.elemAt 1 [ 2 ]", "[ 2 ]"),
        ("map (x: x) { a = 1; }", "{ a = 1; }"),
        ("let f = builtins.head; in f \"text\"", "\"text\""),
        ("{ a = [ (builtins.length { b = 1; }) ]; }", "{ b = 1; }"),
        // Which of two that are equal is meant is not known.
        ("null * null", "*"),
        // What is not written in the call is not shown there.
        ("let f = builtins.elemAt 1; in f 2", "f"),
    ] {
        check(text, "eval-type", marked, &[]);
    }
}

#[test]
fn derivations_that_need_each_other_are_named() {
    let text =
        "let make = name: v: derivation { inherit name v; system = \"s\"; builder = \"b\"; };
        d = make \"d\" e; e = make \"e\" [ \"${d}\" ]; in d.drvPath";
    let message = sos_lang::with_big_stack(move || {
        let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
        let failed = e.eval_str(text, "site.nix", Path::new("/"));
        failed.and_then(|v| e.force(v)).unwrap_err().message
    });
    assert_eq!(
        message,
        "infinite recursion encountered: `drvPath` needs `d`, which needs `v`, which needs `e`, which needs `v`, which is `drvPath`"
    );
}

#[test]
fn files_that_import_each_other_are_named() {
    let message = |file: &'static str| {
        sos_lang::with_big_stack(move || {
            let files = [
                ("/p/a.nix", "(import ./b.nix) + 1"),
                ("/p/b.nix", "1 + import ./a.nix"),
                ("/p/self.nix", "import ./self.nix"),
                ("/p/lazy.nix", "{ me = import ./lazy.nix; x = 1; }"),
                ("/p/asks.nix", "(import ./lazy.nix).me.me.x"),
            ];
            let e = Evaluator::new(MemoryHost::new(&files), Options::default());
            let value = e.eval_file(Path::new(file)).and_then(|v| e.force(v));
            value.map(|v| e.print(v)).map_err(|d| (d.code, d.message))
        })
    };
    let cycle = "infinite recursion encountered";
    let says = |what| Err(("eval-cycle", format!("{cycle}: {what}")));
    assert_eq!(
        message("/p/a.nix"),
        says("`/p/a.nix` imports `/p/b.nix`, which imports `/p/a.nix`")
    );
    assert_eq!(message("/p/self.nix"), says("`/p/self.nix` imports itself"));
    assert_eq!(message("/p/asks.nix"), Ok("1".to_owned()));
}

/// The frames of the error of a file.
fn frames(file: &'static str) -> Vec<String> {
    sos_lang::with_big_stack(move || {
        let files = [
            ("/p/syntax.nix", "{ a = ; }"),
            ("/p/throws.nix", "throw \"no\""),
            ("/p/imports.nix", "[ (import ./throws.nix) ]"),
        ];
        let e = Evaluator::new(MemoryHost::new(&files), Options::default());
        let failed = e.eval_file(Path::new(file)).and_then(|v| e.force_deep(v));
        let frames = failed.unwrap_err().trace;
        frames.into_iter().map(|f| f.message).collect()
    })
}

#[test]
fn frames_say_more_than_the_place() {
    assert!(frames("/p/syntax.nix").is_empty());
    assert!(frames("/p/throws.nix").iter().all(|f| !f.contains("file")));
    let imports = frames("/p/imports.nix");
    assert!(imports.iter().any(|f| f.contains("import")), "{imports:?}");
}

/// The message, and the marked texts with what is said of each.
#[track_caller]
fn check_labels(text: &str, message: &str, labels: &[(&str, &str)]) {
    let text = text.to_owned();
    let (found, places) = sos_lang::with_big_stack(move || {
        let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
        let d = e
            .eval_str(&text, "site.nix", Path::new("/"))
            .and_then(|v| e.force_deep(v))
            .unwrap_err();
        let places: Vec<(String, String)> = d
            .labels
            .iter()
            .map(|l| (l.file.text[l.span.clone()].to_owned(), l.text.clone()))
            .collect();
        (d.message, places)
    });
    let labels: Vec<(String, String)> = labels
        .iter()
        .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()))
        .collect();
    assert_eq!((found.as_str(), places), (message, labels));
}

#[test]
fn an_infinite_recursion_names_its_cycle() {
    check_labels(
        "let a = a; in a",
        "infinite recursion encountered: `a` needs itself",
        &[("a", "`a` needs itself")],
    );
    check_labels(
        "let a = 1 + b; b = 2 * c; c = a - 1; in a",
        "infinite recursion encountered: `a` needs `b`, which needs `c`, which needs `a`",
        &[
            ("a", "`c` needs `a`"),
            ("b", "`a` needs `b`"),
            ("c", "`b` needs `c`"),
        ],
    );
    check_labels(
        "let f = x: x + 1; a = f a; in a",
        "infinite recursion encountered: `a` needs itself",
        &[("a", "`a` needs itself")],
    );
    check_labels(
        "let d = { outPath = \"${d}\"; }; in \"${d}\"",
        "infinite recursion encountered: `outPath` needs itself",
        &[("d", "`outPath` needs itself")],
    );
    // A function that looks at its argument only later.
    check_labels(
        "let f = x: [ 1 ] ++ x; a = f a; in a",
        "infinite recursion encountered: `a` needs `x`, which is `a`",
        &[("x", "`a` needs `x`")],
    );
}

#[test]
fn a_cycle_through_elements_and_attributes_names_them() {
    let itself = "infinite recursion encountered: element 0 of `l` needs itself";
    for (text, marked) in [
        (
            "let l = [ (builtins.head l) ]; in builtins.head l",
            "builtins.head",
        ),
        (
            "let l = map (x: builtins.head l) [ 1 ]; in l",
            "builtins.head",
        ),
        (
            "let l = builtins.genList (i: builtins.elemAt l i) 3; in l",
            "builtins.elemAt",
        ),
        (
            "let l = [ (builtins.foldl' builtins.add 0 l) ]; in l",
            "builtins.foldl'",
        ),
        (
            "let l = [ (builtins.filter builtins.isInt l) ]; in l",
            "builtins.filter",
        ),
        ("let l = [ (l == [ 1 ]) ]; in l", "=="),
        // In a list inside of it.
        ("let l = [ [ (toString l) ] ]; in l", "toString"),
    ] {
        let label = "element 0 of `l` needs itself";
        check_labels(text, itself, &[(marked, label)]);
    }
    check_labels(
        "let a = builtins.head s.l; s = { l = [ (a + 1) ]; }; in a",
        "infinite recursion encountered: `a` needs element 0 of `s.l`, which needs `a`",
        &[
            ("a", "element 0 of `s.l` needs `a`"),
            ("builtins.head", "`a` needs element 0 of `s.l`"),
        ],
    );
    check_labels(
        "let s = { a = builtins.getAttr \"a\" s; }; in s.a",
        "infinite recursion encountered: `a` needs itself",
        &[("builtins.getAttr", "`a` needs itself")],
    );
    // A list without a name, and a builtin that no call of the user's hands it to.
    check_labels(
        "let l = map builtins.head [ (map (x: x) l) ]; in builtins.head l",
        "infinite recursion encountered: element 0 of `l` needs element 0 of a list, which needs `x`, which is element 0 of `l`",
        &[
            ("x", "element 0 of a list needs `x`"),
            ("map", "element 0 of `l` needs element 0 of a list"),
        ],
    );
}

#[test]
fn a_name_for_another_one_is_part_of_the_cycle() {
    // `z` is not evaluated by itself: it is `x`.
    check_labels(
        "rec { x = y.z; y = { z = x; }; }",
        "infinite recursion encountered: `x` needs `z`, which is `x`",
        &[("z", "`x` needs `z`")],
    );
    check_labels(
        "(rec { x = y.z; y = { z = x; }; }).x",
        "infinite recursion encountered: `x` needs `z`, which is `x`",
        &[("z", "`x` needs `z`")],
    );
}

#[test]
fn a_message_holds_no_more_of_a_number_than_one_reads() {
    for (number, kind) in [
        ("9".repeat(5000), "integer"),
        ("1".repeat(5000) + ".5e999999", "float"),
    ] {
        let message = format!("invalid {kind} '{}…'", &number[..100]);
        let failed = sos_lang::with_big_stack(move || {
            let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
            let failed = e.eval_str(&number, "site.nix", Path::new("/"));
            failed.map(|_| ()).unwrap_err().message
        });
        assert_eq!(failed, message);
    }
}

#[test]
fn what_calls_itself_through_an_attribute_is_shown() {
    let itself = |name: &str| {
        format!("stack overflow; max-call-depth exceeded: `{name}` leads back to itself")
    };
    let back = |name: &str| format!("`{name}` leads back to itself");
    check_labels(
        "let a = { __toString = self: \"${self}\"; }; in \"${a}\"",
        &itself("__toString"),
        &[("self", ""), ("__toString", &back("__toString"))],
    );
    check_labels(
        "let a = { outPath = b; }; b = { outPath = a; }; in \"${a}\"",
        &itself("outPath"),
        &[
            ("a", ""),
            ("outPath", &back("outPath")),
            ("outPath", &back("outPath")),
        ],
    );
    for functor in ["self: self", "self: x: self x"] {
        let text = format!("let a = {{ __functor = {functor}; }}; in a 1");
        let place = if functor == "self: self" { "a" } else { "self" };
        check_labels(
            &text,
            &itself("__functor"),
            &[(place, ""), ("__functor", &back("__functor"))],
        );
    }
    check(
        "let a = { __toString = self: toString self; }; in toString a",
        "eval-too-deep",
        "toString",
        &["calls may nest 10000 deep; `--max-call-depth` allows more where this has an end"],
    );
}

#[test]
fn an_error_in_an_element_shows_it() {
    let string = "expected an integer but found a string: \"x\"";
    let each = ("map", "for each element");
    for text in [
        "map (builtins.add 1) [ 1 \"x\" ]",
        "let f = builtins.add 1; in map f [ 1 \"x\" ]",
        "map (builtins.add 1) (map (builtins.add 1) [ \"x\" ])",
        "map { __functor = self: builtins.add 1; } [ \"x\" ]",
    ] {
        check_labels(text, string, &[("\"x\"", "this is a string"), each]);
    }
    check_labels(
        "let l = [ 1 \"x\" ]; in map (builtins.add 1) l",
        string,
        &[("map", ""), ("l", "element 1 of this is a string")],
    );
    check_labels(
        "map (builtins.elemAt [ 1 2 ]) [ 0 5 ]",
        "'builtins.elemAt' called with index 5 on a list of size 2",
        &[("map", ""), ("5", "for this element")],
    );
    check_labels(
        "map ({ a }: a) [ { a = 1; } { } ]",
        "function 'anonymous lambda' called without required argument 'a'",
        &[
            ("map", ""),
            ("a", "required here"),
            ("{ }", "for this element"),
        ],
    );
    check_labels(
        "builtins.genList (builtins.elemAt [ 1 ]) 2",
        "'builtins.elemAt' called with index 1 on a list of size 1",
        &[("builtins.genList", "for the number 1")],
    );
    check_labels(
        "builtins.mapAttrs (n: builtins.add 1) { a = \"x\"; }",
        string,
        &[("builtins.mapAttrs", ""), ("a", "this is a string")],
    );
    check_labels(
        "builtins.zipAttrsWith builtins.add [ { a = 1; } ]",
        "expected an integer but found a string: \"a\"",
        &[("builtins.zipAttrsWith", "for the attribute `a`")],
    );
    // The builtin that failed is still running: the element is the place, as another argument would be.
    check_labels(
        "builtins.foldl' builtins.add 0 [ 1 \"x\" ]",
        string,
        &[("\"x\"", "this is a string")],
    );
    check_labels(
        "builtins.listToAttrs [ { name = 1; value = 2; } ]",
        "expected a string but found an integer: 1",
        &[
            ("builtins.listToAttrs", ""),
            ("{ name = 1; value = 2; }", "for this element"),
        ],
    );
    // Something else that is called `map` may do anything with its arguments; what it says is not made up.
    check_labels(
        "let each = map (builtins.add 1); in each [ \"x\" ]",
        string,
        &[("each", "")],
    );
}

#[test]
fn misspelt_arguments_are_shown_where_they_are_given() {
    check_labels(
        "({ host, port }: host) { host = 1; prt = 2; }",
        "function 'anonymous lambda' called without required argument 'port'",
        &[
            ("(", ""),
            ("port", "required here"),
            ("prt", "`prt` is given instead"),
        ],
    );
    check_labels(
        "({ host }: host) { host = 1; hots = 2; }",
        "function 'anonymous lambda' called with unexpected argument 'hots'",
        &[
            ("(", ""),
            ("hots", "given here"),
            ("{", "the function takes only the names listed here"),
        ],
    );
}

#[test]
fn what_is_open_is_shown() {
    check_labels(
        "{ a = \"text; }",
        "syntax error, unexpected end of file, expecting '\"'",
        &[("", ""), ("\"", "this string has no end")],
    );
    check_labels(
        "[ (1 + 2 ]",
        "syntax error, unexpected ']', expecting ')'",
        &[("]", ""), ("(", "this parenthesis is not closed")],
    );
}

/// The first label of the error that a text makes: what it marks, and what it says there.
fn label(text: String) -> (String, String) {
    sos_lang::with_big_stack(move || {
        let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
        let d = e.eval_str(&text, "site.nix", Path::new("/")).unwrap_err();
        let label = d.labels.first().expect("a place");
        (
            label.file.text[label.span.clone()].to_owned(),
            label.text.clone(),
        )
    })
}

#[test]
fn a_chain_without_blanks_is_told_how_to_get_some() {
    let (marked, said) = label(vec!["1"; 100_000].join("+"));
    assert!(["1", "+"].contains(&marked.as_str()), "{marked}");
    assert!(said.contains("as around each `+`, are enough"), "{said}");
    // They are.
    let value = sos_lang::with_big_stack(move || {
        let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
        let v = e.eval_str(&vec!["1"; 2000].join(" + "), "site.nix", Path::new("/"));
        v.map(|v| e.print(v)).map_err(|d| d.message.clone())
    });
    assert_eq!(value.as_deref(), Ok("2000"));
}

#[test]
fn names_of_files_in_the_store_are_told_apart_from_paths() {
    for (name, says) in [
        (
            ".",
            "invalid name for a file in the store: name '.' is not valid",
        ),
        ("a b", "name 'a b' contains illegal character ' '"),
        ("", "name must not be empty"),
    ] {
        let text = format!("builtins.toFile \"{name}\" \"x\"");
        let d = sos_lang::with_big_stack(move || {
            let e = Evaluator::new(MemoryHost::new(&[]), Options::default());
            e.eval_str(&text, "site.nix", Path::new("/")).unwrap_err()
        });
        assert_eq!(d.code, "eval-value");
        assert!(d.message.contains(says), "{}", d.message);
        assert!(d.helps[0].contains("letters, digits"), "{:?}", d.helps);
    }
}
