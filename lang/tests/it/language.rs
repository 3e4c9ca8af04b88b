//! The language: one line per behaviour.

use crate::host::eval;

#[track_caller]
fn check(expr: &str, expected: &str) {
    assert_eq!(eval(expr), Ok(expected.to_owned()), "{expr}");
}

#[track_caller]
fn fails(expr: &str, expected: &str) {
    assert_eq!(eval(expr), Err(expected.to_owned()), "{expr}");
}

#[test]
fn variables_and_scopes() {
    check("let a = 1; b = a + 1; in [ a b ]", "[ 1 2 ]");
    check("let f = x: let y = x + 1; in z: x + y + z; in f 1 2", "5");
    check(
        "let f = c: if c then let a = 1; in (_: a) else let b = 2; in (_: b); in [ (f true null) (f false null) ]",
        "[ 1 2 ]",
    );
    check(
        "let f = x: (let a = x; in y: a + y) 1 + (let b = x * 10; in y: b + y) 2; in f 5",
        "58",
    );
    check("let a = 0; in with { a = 1; b = 2; }; [ a b ]", "[ 0 2 ]");
    check(
        "with { a = 1; b = 1; }; with { a = 2; }; [ a b ]",
        "[ 2 1 ]",
    );
    check("let inherit (s) a b; s = { a = 1; b = 2; }; in a + b", "3");
    check("let or = 1; in { or = 2; }.or", "2");
    fails(
        "let x = 1; in y",
        "eval-undefined-variable: undefined variable 'y'",
    );
    fails(
        "if true then 1 else nope",
        "eval-undefined-variable: undefined variable 'nope'",
    );
}

#[test]
fn functions() {
    check("(a: b: c: a + b * c) 1 2 3", "7");
    check(
        "let f = (a: b: c: a + b * c) 1; in [ (f 2 3) (f 0 0) ]",
        "[ 7 1 ]",
    );
    check(
        "({ a, b ? a + 1, ... }@s: [ a b s.c ]) { a = 1; c = 3; }",
        "[ 1 2 3 ]",
    );
    check("{ __functor = s: x: s.k + x; k = 1; } 2", "3");
    check(
        "builtins.functionArgs ((x: { a, b ? 1 }: x) 1)",
        "{ a = false; b = true; }",
    );
    fails(
        "({ a }: a) { }",
        "eval-argument: function 'anonymous lambda' called without required argument 'a'",
    );
    fails(
        "let f = { abc }: abc; in f { abc = 1; abd = 2; }",
        "eval-argument: function 'f' called with unexpected argument 'abd'",
    );
}

#[test]
fn deep_but_allowed() {
    check(
        "let f = n: if n == 0 then 0 else 1 + f (n - 1); in f 9000",
        "9000",
    );
    check(
        "(builtins.foldl' (acc: i: { v = i + acc.v; }) { v = 0; } (builtins.genList (x: x) 8000)).v",
        "31996000",
    );
}

#[test]
fn too_deep() {
    fails(
        "let f = n: 1 + f (n + 1); in f 0",
        "eval-too-deep: stack overflow; max-call-depth exceeded: `f` leads back to itself",
    );
    fails(
        "let f = n: f (n + 1); in f 0",
        "eval-too-deep: stack overflow; max-call-depth exceeded: `f` leads back to itself",
    );
    fails(
        "let a = [ a ]; f = x: [ (f x) ]; in builtins.deepSeq (f 1) 1",
        "eval-too-deep: stack overflow; max-call-depth exceeded",
    );
}

/// Generated files have more names than a program that somebody writes.
#[test]
fn very_many_names() {
    for (count, last) in [
        (65_534, 65_533),
        (65_535, 65_534),
        (65_536, 65_535),
        (70_000, 69_999),
    ] {
        let names = || (1..count).map(|i| format!("v{i} = v{} + 1;", i - 1));
        let names: String = std::iter::once("v0 = 0;".to_owned())
            .chain(names())
            .collect();
        // Each forces the one before: not all at once, which would be too deep.
        let forced = "builtins.foldl' (_: x: x) 0";
        let all = |of: &str| {
            let list: Vec<String> = (0..count).map(|i| format!("{of}v{i}")).collect();
            format!("{forced} [ {} ]", list.join(" "))
        };
        check(&format!("let {names} in {}", all("")), &last.to_string());
        check(
            &format!("let s = rec {{ {names} }}; in {}", all("s.")),
            &last.to_string(),
        );
        check(
            &format!("(let {names} in x: {} + x) 1", all("")),
            &(last + 1).to_string(),
        );
    }
}

#[test]
fn nested_more_than_anybody_writes() {
    let deep = "parse-too-deep: the expression is nested too deeply";
    for opening in ["[", "(", "{ a = ", "- ", "!", "\"${", "x: "] {
        fails(&opening.repeat(200_000), deep);
    }
    let dense = format!("1{}", "+1".repeat(100_000));
    let many = "parse-too-deep: the expression has too many tokens that nothing separates";
    fails(&dense, many);
    // What is long, and not nested, is none of that.
    check(&format!("1{}", " + 1".repeat(20_000)), "20001");
    let long = "a".repeat(1_000_000);
    check(&format!("builtins.stringLength \"{long}\""), "1000000");
    check(
        &format!("builtins.length [ {} ]", "{ } ".repeat(20_000)),
        "20000",
    );
}

#[test]
fn laziness_and_errors() {
    check(
        "let x = throw \"a\"; in [ (builtins.tryEval x).success (builtins.tryEval x).success ]",
        "[ false false ]",
    );
    check("(builtins.tryEval (assert 1 == 2; 1)).success", "false");
    check("(builtins.tryEval <no-such-thing>).success", "false");
    fails(
        "builtins.tryEval (abort \"x\")",
        "eval-abort: evaluation aborted with the following error message: 'x'",
    );
    fails(
        "builtins.tryEval { }.a",
        "eval-attr-missing: attribute 'a' missing",
    );
    fails(
        "let x = x + 1; in x",
        "eval-cycle: infinite recursion encountered: `x` needs itself",
    );
    fails(
        "assert 1 == 2; 1",
        "eval-assert: an integer with value '1' is not equal to an integer with value '2'",
    );
    fails(
        "assert false || false; 1",
        "eval-assert: assertion '(false || false)' failed",
    );
}

#[test]
fn integers_do_not_wrap() {
    fails(
        "9223372036854775807 + 1",
        "eval-arithmetic: integer overflow in adding 9223372036854775807 + 1",
    );
    fails(
        "(-9223372036854775807 - 1) / (-1)",
        "eval-arithmetic: integer overflow in dividing -9223372036854775808 / -1",
    );
    check("4611686018427387904 * 1", "4611686018427387904");
    check("-9223372036854775807 - 1", "-9223372036854775808");
    check(
        "[ (1152921504606846975 + 1) (-1152921504606846976 - 1) ]",
        "[ 1152921504606846976 -1152921504606846977 ]",
    );
}

#[test]
fn functions_are_equal_only_to_themselves_inside() {
    check(
        "let f = x: x; in [ (f == f) ([ f ] == [ f ]) ({ a = f; } == { a = f; }) ]",
        "[ false true true ]",
    );
    check("let x = { y = x; }; in x == x", "true");
}

#[test]
fn values_of_the_newest_nix() {
    check(
        "builtins.toJSON [ 1.0 0.1 1.0e5 1.0e-4 1.0e-5 1.0e-7 123456789012345680.0 ]",
        "\"[1.0,0.1,100000.0,0.0001,1e-05,1e-07,1.2345678901234568e+17]\"",
    );
    check(
        "builtins.replaceStrings [ \"a\" ] [ (throw \"x\") ] \"b\"",
        "\"b\"",
    );
    check(
        "let s = rec { ${\"a\" + \"\"} = 1; __overrides = { b = 2; }; b = 1; c = b; }; in s.a + s.c",
        "3",
    );
    check(
        "{ x.y.a = 1; x = { y.b = 2; }; }",
        "{ x = { y = { a = 1; b = 2; }; }; }",
    );
    check(
        "builtins.convertHash { hash = \"sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\"; toHashFormat = \"base16\"; }",
        "\"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\"",
    );
}

#[test]
fn sharing_of_inherit_from() {
    check(
        "let n = builtins.foldl' (a: b: a + b) 0 [ 1 2 ]; s = { inherit ({ a = n; b = n; }) a b; }; in s.a + s.b",
        "6",
    );
}

#[test]
fn odd_bytes_and_line_ends() {
    check("\"a\r\nb\"", "\"a\\nb\"");
    check("# comment\r1", "1");
    fails(
        "1\u{a0}+ 1",
        "parse-syntax: syntax error, unexpected character U+00A0",
    );
    fails(
        "\u{b}1",
        "parse-syntax: syntax error, unexpected character U+000B",
    );
}

#[test]
fn what_rnix_accepts_and_nix_does_not() {
    for e in [
        "[ x: x ]",
        "{a,a}: 1",
        "a@{a}: 1",
        "{ a=1; a.b=2; }",
        "let ${\"a\" + \"\"}=1; in 1",
        "{ inherit ${\"a\" + \"\"}; }",
        "9223372036854775808",
        "1.5e400",
        "f: f x: x",
        "/a/",
        "1 |> 2",
    ] {
        assert!(eval(e).is_err_and(|m| m.starts_with("parse-syntax")), "{e}");
    }
}

#[test]
fn source_bytes_need_not_be_utf8() {
    let out = sos_lang::with_big_stack(|| {
        let e = sos_lang::Evaluator::new(
            crate::host::MemoryHost::new(&[]),
            sos_lang::Options::default(),
        );
        let v = e
            .eval_bytes(b"# \xff\n\"a\xe9b\"", "x.nix", std::path::Path::new("/"))
            .unwrap();
        e.print_bytes(v)
    });
    assert_eq!(out, b"\"a\xe9b\"");
}

#[test]
fn nothing_panics_on_nonsense() {
    let open = "(".repeat(5_000);
    let not = "!".repeat(5_000);
    let minus = "-".repeat(5_000);
    let lists = "[".repeat(5_000);
    for e in [
        open.as_str(),
        &not,
        &minus,
        &lists,
        "",
        "{",
        "\"",
        "''",
        "\"${",
        "''${",
        "${",
        "<",
        "a.",
        "?",
        "/*",
        "let",
        "let in",
        "x@",
        "{x@",
        "inherit",
        ";",
    ] {
        assert!(eval(e).is_err(), "{:.20}", e);
    }
}
