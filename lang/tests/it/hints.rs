//! What an error says beyond its place: what calls itself without end, what is not set, what a text was taken for.

use std::path::Path;

use sos_formats::diagnostic::Diagnostic;
use sos_lang::{Evaluator, Options};

use crate::host::MemoryHost;

/// The error of a file `/p/site.nix` with this text.
fn error(text: &str, pure: bool) -> Diagnostic {
    let text = text.to_owned();
    sos_lang::with_big_stack(move || {
        let options = Options {
            pure,
            roots: vec!["/p".into()],
            ..Options::default()
        };
        let host = MemoryHost::new(&[("/p/site.nix", text.as_str())]);
        let e = Evaluator::new(host, options);
        let value = e.eval_file(Path::new("/p/site.nix"));
        *value.and_then(|v| e.force_deep(v)).unwrap_err()
    })
}

/// The marked texts of an error, with what is said of each.
fn labels(d: &Diagnostic) -> Vec<(&str, &str)> {
    let marked = d.labels.iter();
    marked
        .map(|l| (&l.file.text[l.span.clone()], l.text.as_str()))
        .collect()
}

#[test]
fn functions_that_call_themselves_without_end_are_named() {
    let deep = |text: &str| error(text, false);
    for (text, what) in [
        ("let f = x: 1 + f x; in f 1", "`f` leads back to itself"),
        // A call that ends in the next one leaves nothing behind.
        ("let f = x: f (x + 1); in f 1", "`f` leads back to itself"),
        (
            "let s = { f = x: 1 + s.f x; }; in s.f 1",
            "`s.f` leads back to itself",
        ),
        // Long ways to it count for nothing.
        (
            "let g = n: if n == 0 then 1 + f 0 else 1 + g (n - 1); f = x: 1 + f x; in g 50",
            "`f` leads back to itself",
        ),
        (
            "let f = x: 1 + g x; g = y: 2 * h y; h = z: f z - 3; in f 1",
            "`f` leads to `g`, which leads to `h`, which leads back to `f`",
        ),
        // What calls it is a builtin: it is known by its own name.
        (
            "let f = x: y: builtins.foldl' f x [ x ]; in f 1 2",
            "`f` leads back to itself",
        ),
        (
            "let a = { __toString = self: show self; }; show = s: \"<${s}>\"; in \"${a}\"",
            "`__toString` leads to `show`, which leads back to `__toString`",
        ),
    ] {
        let d = deep(text);
        let message = format!("stack overflow; max-call-depth exceeded: {what}");
        assert_eq!((d.code, d.message), ("eval-too-deep", message), "{text}");
        assert_eq!(
            d.helps,
            ["calls may nest 10000 deep; `--max-call-depth` allows more where this has an end"]
        );
    }
    let d = deep("let f = x: 1 + f x; in f 1");
    assert_eq!(labels(&d), [("f", "`f` leads back to itself")]);
    let d = deep("let f = x: 1 + g x; g = y: 2 * f y; in f 1");
    assert_eq!(labels(&d), [("g", "leads to `g`"), ("f", "leads to `f`")]);
    // Nothing calls itself here.
    let d = deep("let x = { a = x; }; in builtins.toJSON x");
    assert_eq!(d.message, "stack overflow; max-call-depth exceeded");
}

#[test]
fn an_empty_path_shows_the_variable_that_is_not_set() {
    let message = "string '' doesn't represent an absolute path";
    let d = error(
        "let dir = builtins.getEnv \"NOT_SET\"; in import dir",
        false,
    );
    assert_eq!(d.message, message);
    assert_eq!(
        labels(&d),
        [
            ("import", ""),
            ("builtins.getEnv", "`NOT_SET` is empty here: it is not set")
        ]
    );
    // What another text is has nothing to do with it.
    let d = error(
        "let dir = builtins.getEnv \"NOT_SET\"; in import \"x${dir}\"",
        false,
    );
    assert_eq!((labels(&d).len(), d.helps.len()), (1, 0));
    let d = error("builtins.toPath (builtins.getEnv \"HOME\")", true);
    assert_eq!(d.message, message);
    let says = "`HOME` is empty here: pure evaluation hides it";
    assert!(labels(&d).contains(&("builtins.getEnv", says)), "{d:?}");
    assert_eq!(d.helps, ["`--impure` shows the environment"]);
}

#[test]
fn a_repository_that_is_no_url_is_shown_as_it_is_written() {
    for (text, written, meant) in [
        ("fetchGit { url = \"x\"; }", "x", Some("x")),
        ("fetchGit \"file:./x/y\"", "file:./x/y", Some("x/y")),
        ("fetchMercurial \"x\"", "x", Some("x")),
        ("fetchGit \"what is this\"", "what is this", None),
    ] {
        let d = error(text, false);
        assert_eq!(d.message, format!("'{written}' is not a valid URL"));
        let help = meant.map(|meant| {
            format!("write `./{meant}` without quotes for the path beside this file: `/p/{meant}`")
        });
        assert_eq!(d.helps, help.as_slice());
    }
}
