//! What an error says, and where.

use std::path::Path;

use crate::host::MemoryHost;

/// Code, message, the marked text and the helps of the error.
#[track_caller]
fn check(text: &str, code: &str, marked: &str, helps: &[&str]) {
    let text = text.to_owned();
    let got = sos_lang::with_big_stack(move || {
        let e = sos_lang::Evaluator::new(MemoryHost::new(&[]), sos_lang::Options::default());
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
    check("1 + { }", "eval-type", "+", &[]);
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

/// The frames of the error of a file.
fn frames(file: &'static str) -> Vec<String> {
    sos_lang::with_big_stack(move || {
        let files = [
            ("/p/syntax.nix", "{ a = ; }"),
            ("/p/throws.nix", "throw \"no\""),
            ("/p/imports.nix", "[ (import ./throws.nix) ]"),
        ];
        let e = sos_lang::Evaluator::new(MemoryHost::new(&files), sos_lang::Options::default());
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
        let e = sos_lang::Evaluator::new(MemoryHost::new(&[]), sos_lang::Options::default());
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
    // A function that looks at its argument only later.
    check_labels(
        "let f = x: [ 1 ] ++ x; a = f a; in a",
        "infinite recursion encountered: `a` needs `x`, which is `a`",
        &[("x", "`a` needs `x`")],
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
