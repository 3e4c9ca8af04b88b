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
        &["did you mean 'package'?"],
    );
    check(
        "let package = 1; in pakage",
        "eval-undefined-variable",
        "pakage",
        &["did you mean 'package'?"],
    );
    check("1 + { }", "eval-type", "+", &[]);
    check("{ a = 1; b = 2; a = 3; }", "parse-syntax", "a", &[]);
    check("let x = 1;\nin x.y", "eval-type", "y", &[]);
    check("assert 1 + 1 == 3; 1", "eval-assert", "1 + 1 == 3", &[]);
    check("throw \"no\"", "eval-throw", "throw", &[]);
    check("let a = b; b = a; in a", "eval-cycle", "b", &[]);
    check("builtins.elemAt [ 1 ] 5", "eval-value", "builtins", &[]);
    check("(x: x) 1 2", "eval-type", "(", &[]);
    check("{ a = ; }", "parse-syntax", ";", &[]);
}
