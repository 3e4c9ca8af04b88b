//! An evaluation can be stopped at each of its calls, and what comes after goes on as if nothing had been.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;

use super::Evaluator;
use crate::host::Options;
use crate::ir::Pos;

#[allow(dead_code, reason = "the other tests need more of it")]
#[path = "../../tests/it/host.rs"]
mod host;

/// Stops that are tried for each program: all when it makes fewer calls, else some between the first and the last.
const STOPS: u64 = 150;

/// Ways to be in the middle of something.
const PROGRAMS: &[&str] = &[
    "let f = n: if n == 0 then 0 else 1 + f (n - 1); in f 60",
    "let f = n: acc: if n == 0 then acc else f (n - 1) (acc + n); in f 60 0",
    "let a = { x, y ? x + 1, ... }@all: [ x y (all.z or 3) ]; in map a [ { x = 1; } { x = 2; z = 5; } ]",
    "builtins.foldl' (a: b: a + b) 0 (builtins.genList (x: x * x) 40)",
    "builtins.sort (a: b: a < b) (map (x: x * 7 - x * x) [ 1 9 4 3 8 2 7 5 ])",
    "builtins.genericClosure { startSet = [ { key = 0; } ]; operator = x: if x.key > 9 then [ ] else map (d: { key = x.key + d; }) [ 1 2 ]; }",
    "builtins.groupBy (x: if x > 3 then \"a\" else \"b\") (builtins.genList (x: x) 9)",
    "builtins.concatMap (x: builtins.filter (y: y > x) [ 1 2 3 ]) [ 0 1 2 ]",
    "with { a = 1; f = x: x + 1; }; [ (f a) (f (f a)) ]",
    "rec { a = f 2; f = x: b + x; b = builtins.length (map f2 [ 1 2 ]); f2 = y: y; }",
    "builtins.mapAttrs (n: v: n + toString (v + 1)) { a = 1; b = 2; c = 3; }",
    "let s = { __functor = self: x: self.by + x; by = 3; }; in [ (s 1) (map s [ 1 2 ]) ]",
    "builtins.toJSON { a = [ 1 { b = { __toString = x: \"t\"; }; } ]; c = map (x: { d = x; }) [ 1 2 ]; }",
    "builtins.toXML { a = [ 1 { b = 2; } ]; c = map (x: { d = x; }) [ 1 2 ]; }",
    "builtins.deepSeq (map (x: [ { y = x; } ]) [ 1 2 3 ]) (toString [ 1 [ 2 ] { __toString = _: \"t\"; } ])",
    "map (x: (builtins.tryEval (if x > 1 then throw \"no\" else x)).value) [ 0 1 2 3 ]",
    "[ (map (x: { a = x; }) [ 1 2 ] == map (x: { a = x; }) [ 1 2 ]) ([ [ 1 ] ] < [ [ 2 ] ]) ]",
    "let d = n: derivation { name = \"d${toString n}\"; system = \"s\"; builder = \"b\"; args = map toString [ n ]; needs = if n == 0 then [ ] else map d [ (n - 1) ]; }; in (d 3).drvPath",
    "(derivation { name = \"s\"; system = \"s\"; builder = \"b\"; __structuredAttrs = true; a = map (x: { b = x; }) [ 1 2 ]; }).outPath",
    "map (f: import f { x = 2; }) [ /p/a.nix /p/b.nix ]",
    "builtins.scopedImport { y = map (x: x) [ 4 ]; } /p/c.nix",
    "assert map (x: x) [ 1 ] == [ 1 ]; builtins.addErrorContext \"c\" (let x = (y: y) 1; in x)",
    "builtins.replaceStrings [ \"a\" ] [ ((x: x) \"b\") ] (builtins.concatStringsSep \"a\" (map toString [ 1 2 ]))",
    "builtins.zipAttrsWith (n: vs: map (x: x + 1) vs) [ { a = 1; } { a = 2; b = 3; } ]",
    "let f = x: { __overrides = { b = x; }; }; in rec { a = b; b = 1; inherit (f 2) __overrides; }",
];

fn evaluator() -> Evaluator {
    let files = [
        ("/p/a.nix", "{ x }: let f = y: y + x; in map f [ 1 2 ]"),
        ("/p/b.nix", "args: [ args.x (import ./a.nix args) ]"),
        ("/p/c.nix", "map (z: z) y"),
    ];
    Evaluator::new(host::MemoryHost::new(&files), Options::default())
}

/// A set with the value of the program, all of it evaluated, as text; and how many calls that took.
fn whole(program: &str) -> (String, u64) {
    let evaluator = evaluator();
    evaluator.vm.calls_left.set(Some(u64::MAX));
    let set = evaluator.eval_str(&wrapped(program), "it.nix", Path::new("/p"));
    let set = set.and_then(|set| evaluator.force_deep(set)).unwrap();
    let calls = u64::MAX - evaluator.vm.calls_left.get().unwrap();
    (evaluator.print(set), calls)
}

fn wrapped(program: &str) -> String {
    format!("{{ it = {program}; }}")
}

#[test]
fn an_evaluation_can_be_stopped_at_any_call_and_done_again() {
    let check = |program: &'static str| {
        let (expected, calls) = whole(program);
        assert!(calls > 0, "{program}");
        // One evaluator for all of it: what a stop leaves behind would add up.
        let evaluator = evaluator();
        let kept = evaluator.eval_str("(x: [ x x ]) 41", "kept.nix", Path::new("/p"));
        let kept = kept.unwrap();
        let interrupter = evaluator.interrupter();
        for stop in (0..calls).step_by(calls.div_ceil(STOPS) as usize) {
            let text = wrapped(program);
            let set = evaluator.eval_str(&text, "it.nix", Path::new("/p"));
            let set = set.unwrap();
            evaluator.vm.calls_left.set(Some(stop));
            // What an earlier round evaluated is not always evaluated again.
            let asked = match evaluator.force_deep(set) {
                Ok(_) => false,
                Err(stopped) => {
                    assert_eq!(stopped.code, "eval-interrupted", "{program}: {stop}");
                    true
                }
            };
            evaluator.vm.calls_left.set(None);
            assert_eq!(interrupter.clear(), asked, "{program}: {stop}");
            assert_eq!(evaluator.vm.depth(), 0, "{program}: {stop}");
            assert!(evaluator.vm.site.get() == Pos::NONE, "{program}: {stop}");
            let names = [("kept".to_owned(), kept)].into();
            let more = evaluator.eval_with("map (x: x + 1) kept", "more", Path::new("/p"), &names);
            let more = more.and_then(|v| evaluator.force_deep(v)).unwrap();
            assert_eq!(evaluator.print(more), "[ 42 42 ]");
            let again = evaluator.force_deep(set).unwrap();
            assert_eq!(evaluator.print(again), expected, "{program}: {stop}");
        }
    };
    crate::with_big_stack(move || PROGRAMS.iter().for_each(|program| check(program)));
}

#[test]
fn what_failed_at_the_border_leaves_no_depth_behind() {
    crate::with_big_stack(|| {
        let evaluator = evaluator();
        let bad = "[ [ [ { a = throw \"no\"; } ] ] ]";
        let bad = evaluator.eval_str(bad, "it.nix", Path::new("/p")).unwrap();
        assert_eq!(evaluator.force_deep(bad).unwrap_err().code, "eval-throw");
        assert_eq!(evaluator.vm.depth(), 0);
        assert_eq!(evaluator.to_json(bad).unwrap_err().code, "eval-throw");
        assert_eq!(evaluator.vm.depth(), 0);
        assert!(evaluator.to_xml(bad, false).is_err());
        assert!(evaluator.to_plain(bad).is_err());
        assert!(evaluator.derivations(bad).is_err());
        assert!(evaluator.eval_file(Path::new("/none.nix")).is_err());
        assert_eq!(evaluator.vm.depth(), 0);
    });
}
