//! Flakes, their locks and references, and what an evaluation may look at.

use std::path::{Path, PathBuf};
use std::rc::Rc;

use sos_formats::flake_ref::FlakeRef;
use sos_lang::{Evaluator, FlakeLocks, Options, with_big_stack};

use crate::host::MemoryHost;

fn pure() -> Options {
    Options {
        pure: true,
        ..Options::default()
    }
}

/// The value of an attribute of the flake in `/top`, and the lock that was written.
fn flake(
    files: &[(&str, &str)],
    attr: &str,
    locks: FlakeLocks,
) -> (Result<String, String>, Option<String>, usize) {
    with_big_stack(|| {
        let host = MemoryHost::new(files);
        let got = of_host(&host, attr, locks);
        let lock = host
            .texts
            .borrow()
            .get(Path::new("/top/flake.lock"))
            .cloned();
        let lock = lock.map(|l| String::from_utf8(l).unwrap());
        let fetched = host.fetched.borrow().len();
        (got, lock, fetched)
    })
}

fn of_host(host: &Rc<MemoryHost>, attr: &str, locks: FlakeLocks) -> Result<String, String> {
    let e = Evaluator::new(host.clone(), pure());
    let (reference, _) = FlakeRef::parse("path:/top", true).unwrap();
    e.eval_flake(&reference, locks, None)
        .and_then(|v| e.select(v, attr))
        .and_then(|v| e.force_deep(v))
        .map(|v| e.print(v))
        .map_err(|d| format!("{}: {}", d.code, d.message))
}

const LEAF: (&str, &str) = (
    "/leaf/flake.nix",
    "{ outputs = { self }: { v = \"leaf\"; }; }",
);

#[test]
fn inputs_are_locked_and_called() {
    let files = [
        LEAF,
        ("/other/flake.nix", "{ outputs = _: { v = \"other\"; }; }"),
        (
            "/mid/flake.nix",
            "{ inputs.leaf.url = \"path:/leaf\"; inputs.again.follows = \"leaf\"; outputs = i: { v = i.leaf.v + i.again.v; }; }",
        ),
        ("/data/x", "7"),
        (
            "/top/flake.nix",
            "{ inputs = { mid.url = \"path:/mid\"; mid2 = { url = \"path:/mid\"; inputs.leaf.url = \"path:/other\"; }; data = { url = \"path:/data\"; flake = false; }; deep.follows = \"mid/leaf\"; };
               outputs = { self, mid, mid2, data, deep }: { all = [ mid.v mid2.v deep.v (import (data + \"/x\")) self._type mid2.inputs.again.v (data ? outputs) ]; }; }",
        ),
    ];
    let (got, lock, _) = flake(&files, "all", FlakeLocks::Write);
    assert_eq!(
        got.unwrap(),
        "[ \"leafleaf\" \"otherother\" \"leaf\" 7 \"flake\" \"other\" false ]"
    );
    let lock = lock.unwrap();
    for part in [
        "\"leaf_2\"",
        "\"again\": [\n          \"mid\",\n          \"leaf\"\n        ]",
        "\"flake\": false",
        "\"version\": 7",
    ] {
        assert!(lock.contains(part), "no {part} in {lock}");
    }
    // With that lock nothing is written, and only what is needed is fetched.
    let mut locked = files.to_vec();
    locked.push(("/top/flake.lock", &lock));
    let (got, written, fetched) = flake(&locked, "all", FlakeLocks::Refuse);
    assert!(got.is_ok(), "{got:?}");
    assert_eq!(written, None);
    assert!(fetched <= 6, "{fetched}");
}

#[test]
fn inputs_that_no_output_needs_are_not_fetched() {
    let files = [
        LEAF,
        (
            "/top/flake.nix",
            "{ inputs.leaf.url = \"path:/leaf\"; outputs = { self, leaf }: { one = 1; v = leaf.v; }; }",
        ),
    ];
    let (_, lock, _) = flake(&files, "one", FlakeLocks::Write);
    let lock = lock.unwrap();
    let mut locked = files.to_vec();
    locked.push(("/top/flake.lock", &lock));
    let (got, _, fetched) = flake(&locked, "one", FlakeLocks::Write);
    assert_eq!((got.as_deref(), fetched), (Ok("1"), 1));
}

#[test]
fn a_lock_of_newer_versions_of_nix_keeps_paths_inside_their_tree() {
    let lock = r#"{"version":7,"root":"root","nodes":{"root":{"inputs":{"sub":"sub"}},"sub":{"locked":{"path":"./sub","type":"path"},"original":{"path":"./sub","type":"path"},"parent":[]}}}"#;
    let files = [
        (
            "/top/sub/flake.nix",
            "{ outputs = { self }: { up = import ../up.nix; }; }",
        ),
        ("/top/up.nix", "\"up\""),
        (
            "/top/flake.nix",
            "{ inputs.sub.url = \"path:./sub\"; outputs = { self, sub }: { v = [ sub.up (sub.outPath == self.outPath + \"/./sub\") ]; }; }",
        ),
        ("/top/flake.lock", lock),
    ];
    let (got, written, _) = flake(&files, "v", FlakeLocks::Write);
    assert_eq!(got.unwrap(), "[ \"up\" true ]");
    assert_eq!(written, None);
}

#[test]
fn a_lock_is_written_refused_or_kept() {
    let files = [
        LEAF,
        (
            "/top/flake.nix",
            "{ inputs.leaf.url = \"path:/leaf\"; outputs = { self, leaf }: { v = leaf.v; }; }",
        ),
    ];
    let (got, lock, _) = flake(&files, "v", FlakeLocks::Keep);
    assert_eq!((got.as_deref(), lock), (Ok("\"leaf\""), None));
    let (got, lock, _) = flake(&files, "v", FlakeLocks::Refuse);
    assert!(
        got.unwrap_err()
            .starts_with("eval-flake: flake 'path:/top' requires lock file changes")
    );
    assert_eq!(lock, None);
}

#[test]
fn what_is_wrong_is_said() {
    let check = |text: &str, why: &str| {
        let (got, _, _) = flake(&[("/top/flake.nix", text)], "x", FlakeLocks::Write);
        let got = got.unwrap_err();
        assert!(got.contains(why), "{text}: {got}");
    };
    check("{ }", "lacks attribute 'outputs'");
    check("{ inputs = 1; outputs = _: { }; }", "eval-type");
    check(
        "{ inputs.a.url = \"path:/top\"; outputs = _: { }; }",
        "found circular import of flake 'path:/top'",
    );
    check(
        "{ inputs.a.url = \"path:/a#b\"; outputs = _: { }; }",
        "unexpected fragment 'b'",
    );
    check(
        "{ inputs.a.type = \"zip\"; outputs = _: { }; }",
        "cannot find a fetcher",
    );
    check(
        "{ inputs.a.follows = \"b\"; inputs.b.follows = \"a\"; outputs = _: { }; }",
        "follows a non-existent input",
    );
    check(
        "{ outputs = { self, nope }: { }; }",
        "cannot find flake 'flake:nope' of the input 'nope' in the flake registries",
    );
}

fn eval(options: impl FnOnce() -> Options + Send, expression: &str) -> Result<String, String> {
    let files = [
        ("/in/a", "inside"),
        ("/out/a", "outside"),
        ("/in/n/default.nix", "5"),
    ];
    with_big_stack(|| {
        let e = Evaluator::new(MemoryHost::new(&files), options());
        e.eval_str(expression, "test.nix", Path::new("/in"))
            .and_then(|v| e.force_deep(v))
            .map(|v| e.print(v))
            .map_err(|d| format!("{}: {}", d.code, d.message))
    })
}

#[test]
fn references_have_two_forms() {
    let ok = |expression: &str, value: &str| {
        assert_eq!(eval(Options::default, expression).unwrap(), value);
    };
    ok(
        "builtins.parseFlakeRef \"github:NixOS/nixpkgs/23.05?dir=lib\"",
        "{ dir = \"lib\"; owner = \"NixOS\"; ref = \"23.05\"; repo = \"nixpkgs\"; type = \"github\"; }",
    );
    ok(
        "builtins.flakeRefToString { type = \"github\"; owner = \"NixOS\"; repo = \"nixpkgs\"; ref = \"23.05\"; dir = \"lib\"; }",
        "\"github:NixOS/nixpkgs/23.05?dir=lib\"",
    );
    ok(
        "builtins.flakeRefToString (builtins.parseFlakeRef \"path:/a?lastModified=1\")",
        "\"path:/a?lastModified=1\"",
    );
    let error = eval(
        Options::default,
        "builtins.flakeRefToString { type = \"path\"; path = [ ]; }",
    );
    assert!(
        error
            .unwrap_err()
            .contains("may only contain integers, Booleans, and strings")
    );
}

#[test]
fn trees_say_what_they_are() {
    let got = eval(
        Options::default,
        "let t = builtins.fetchGit { url = \"/out\"; name = \"n\"; }; in [ t.shortRev t.lastModifiedDate t.submodules (builtins.hasContext t.outPath) (builtins.readFile (t + \"/a\")) ]",
    );
    assert_eq!(
        got.unwrap(),
        "[ \"abababa\" \"20240102030405\" false true \"outside\" ]"
    );
    for (expression, why) in [
        (
            "builtins.fetchTree { }",
            "argument 'type' is missing in call to 'fetchTree'",
        ),
        (
            "builtins.fetchTree { type = \"path\"; path = \"/out\"; name = \"x\"; }",
            "argument 'name' isn't supported",
        ),
        (
            "builtins.fetchTree { type = \"path\"; path = { }; }",
            "a string, Boolean or Integer is expected",
        ),
        (
            "builtins.fetchTree { type = \"path\"; path = \"/out\"; lastModified = 0 - 1; }",
            "negative value",
        ),
        (
            "builtins.fetchTree \"path:./x\"",
            "because it uses a relative path",
        ),
        (
            "builtins.fetchMercurial { url = /out; x = 1; }",
            "unsupported argument 'x' to 'fetchMercurial'",
        ),
        (
            "builtins.fetchMercurial { name = \"x\"; }",
            "'url' argument required",
        ),
        (
            "builtins.fetchMercurial { url = /out; rev = \"a b\"; }",
            "invalid Mercurial branch/tag name 'a b'",
        ),
        (
            "builtins.fetchMercurial { url = /out; name = \"a b\"; }",
            "when fetching a Mercurial tree",
        ),
        (
            "builtins.fetchClosure { }",
            "experimental Nix feature 'fetch-closure' is disabled",
        ),
    ] {
        let got = eval(Options::default, expression).unwrap_err();
        assert!(got.contains(why), "{expression}: {got}");
    }
}

#[test]
fn only_roots_may_be_read() {
    let restricted = || Options {
        restricted: true,
        nix_path: vec![("src".into(), PathBuf::from("/in"))],
        allowed_uris: vec!["http://a.example/x".into()],
        ..Options::default()
    };
    assert_eq!(
        eval(restricted, "builtins.readFile <src/a>").unwrap(),
        "\"inside\""
    );
    assert_eq!(eval(restricted, "import ./n").unwrap(), "5");
    assert_eq!(
        eval(restricted, "builtins.pathExists /out/a").unwrap(),
        "false"
    );
    assert_eq!(
        eval(restricted, "builtins.getEnv \"HOME\"").unwrap(),
        "\"\""
    );
    assert!(eval(restricted, "(builtins.fetchurl \"http://a.example/x/y\")").is_ok());
    for (expression, what) in [
        (
            "builtins.readFile /out/a",
            "access to absolute path '/out/a' is forbidden in restricted mode",
        ),
        (
            "builtins.readFile ../out/a",
            "access to absolute path '/out/a' is forbidden in restricted mode",
        ),
        (
            "\"${/out}\"",
            "access to absolute path '/out' is forbidden in restricted mode",
        ),
        ("builtins.readDir /out", "'/out' is forbidden"),
        ("builtins.path { path = /out; }", "'/out' is forbidden"),
        (
            "builtins.hashFile \"sha256\" /out/a",
            "'/out/a' is forbidden",
        ),
        (
            "builtins.fetchurl \"http://a.example/xy\"",
            "access to URI 'http://a.example/xy' is forbidden in restricted mode",
        ),
    ] {
        let got = eval(restricted, expression).unwrap_err();
        assert!(got.contains(what), "{expression}: {got}");
    }
    for url in [
        "file:///in/../out/a",
        "file:///in/%2e%2e/out/a",
        "file:///in/.%2E/out/a",
        "file:///in%2f..%2fout/a",
    ] {
        let call = format!("builtins.fetchurl \"{url}\"");
        let got = eval(restricted, &call).unwrap_err();
        assert!(
            got.contains("is forbidden in restricted mode"),
            "{url}: {got}"
        );
    }
    let roots = || Options {
        roots: vec!["/in".into()],
        ..pure()
    };
    assert_eq!(eval(roots, "builtins.readFile ./a").unwrap(), "\"inside\"");
    let got = eval(roots, "builtins.readFile /out/a").unwrap_err();
    assert_eq!(
        got,
        "eval-impure: access to absolute path '/out/a' is forbidden in pure evaluation mode (use '--impure' to override)"
    );
}

#[test]
fn the_beginning_of_a_url_ends_where_a_name_ends() {
    let fetch = |allowed: &'static [&'static str], url: &str| {
        let options = move || Options {
            restricted: true,
            allowed_uris: allowed.iter().map(|a| (*a).to_owned()).collect(),
            ..Options::default()
        };
        eval(
            options,
            &format!("(builtins.fetchurl {{ url = \"{url}\"; name = \"n\"; }})"),
        )
    };
    let foo: &[&str] = &["https://a.example/foo"];
    for url in [
        "https://a.example/foo",
        "https://a.example/foo/",
        "https://a.example/foo/bar",
        "https://a.example/foo/bar/?x=1#y",
        "https://a.example/foo/..bar/a..b/...",
        "https://a.example/foo//bar",
        "https://a.example/foo/./bar",
        "https://a.example/foo/%20",
    ] {
        let got = fetch(foo, url);
        assert!(got.is_ok(), "{url}: {got:?}");
    }
    for url in [
        // Another name that begins like it.
        "https://a.example/foobar",
        "https://a.example/foo.bar",
        "https://a.example/foo?x",
        "https://a.example/fo",
        "https://a.example/",
        // Another host, another scheme.
        "https://a.example.org/foo",
        "https://b.example/foo",
        "http://a.example/foo",
        "https://a.example@b.example/foo",
        "https://user@a.example/foo",
        // Upwards, as servers and readers of URLs understand it.
        "https://a.example/foo/..",
        "https://a.example/foo/../bar",
        "https://a.example/foo/bar/../../baz",
        "https://a.example/foo/%2e%2e/bar",
        "https://a.example/foo/.%2E/bar",
        "https://a.example/foo/..%2fbar",
        "https://a.example/foo%2f..%2fbar",
        "https://a.example/foo/%252e%252e/bar",
        "https://a.example/foo/..\\\\bar",
        "https://a.example/foo/..%5cbar",
        "https://a.example/foo/..;x/bar",
        "https://a.example/foo/..?x",
        "https://a.example/foo/..#x",
        "https://a.example/foo/.\\t./bar",
        "https://a.example/foo/.\\n./bar",
    ] {
        let got = fetch(foo, url).unwrap_err();
        assert!(
            got.contains("is forbidden in restricted mode"),
            "{url}: {got}"
        );
    }
    // With a slash at its end it is a directory, and not what has its name.
    let dir: &[&str] = &["https://a.example/foo/"];
    assert!(fetch(dir, "https://a.example/foo/bar").is_ok());
    assert!(fetch(dir, "https://a.example/foo/").is_ok());
    assert!(fetch(dir, "https://a.example/foo").is_err());
    assert!(fetch(dir, "https://a.example/foo/../bar").is_err());
    // A whole scheme or host; nothing allows nothing.
    assert!(fetch(&["https:"], "https://a.example/foo").is_ok());
    assert!(fetch(&["https://"], "https://a.example/foo").is_ok());
    assert!(fetch(&["https://a.example"], "https://a.example/foo").is_ok());
    assert!(fetch(&["https://a.example"], "https://a.example.org/foo").is_err());
    assert!(fetch(&["https://a.example"], "https://a.example:8080/foo").is_err());
    assert!(fetch(&[""], "https://a.example/foo").is_err());
    assert!(fetch(&[], "https://a.example/foo").is_err());
    assert!(fetch(&["ftp:", "https:"], "https://a.example/foo").is_ok());
}

/// The helps of an error in pure evaluation.
fn pure_helps(text: &'static str) -> (String, Vec<String>) {
    with_big_stack(move || {
        let e = Evaluator::new(MemoryHost::new(&[]), pure());
        let failed = e.eval_str(text, "x.nix", Path::new("/in"));
        let d = failed.and_then(|v| e.force_deep(v)).unwrap_err();
        (d.message, d.helps)
    })
}

#[test]
fn what_pure_evaluation_refuses_names_the_option() {
    for text in [
        "builtins.currentTime",
        "builtins.currentSystem",
        "builtins.readFile /etc/hostname",
        "<nixpkgs>",
        "builtins.fetchurl \"http://a.example/x\"",
        "builtins.fetchTarball \"http://a.example/x.tar\"",
        "builtins.fetchGit \"http://a.example/x.git\"",
        "builtins.fetchTree \"path:/out\"",
        "builtins.getFlake \"path:/out\"",
        "builtins.storePath \"/nix/store/9d794zbx10n43fa6zaqf33pfymdrm4r2-x\"",
    ] {
        let (message, helps) = pure_helps(text);
        let named = |t: &String| t.contains("--impure");
        assert!(
            named(&message) || helps.iter().any(named),
            "{text}: {message} {helps:?}"
        );
    }
    // What is wrong in any mode does not.
    let (message, helps) = pure_helps("builtins.currentTim");
    assert!(!message.contains("--impure") && !helps.iter().any(|h| h.contains("--impure")));
}

#[test]
fn pure_evaluation_fetches_only_what_cannot_change() {
    for (expression, who) in [
        ("builtins.fetchGit \"/out\"", "fetchGit"),
        ("builtins.fetchTree \"path:/out\"", "fetchTree"),
        ("builtins.getFlake \"path:/out\"", "getFlake"),
    ] {
        let got = eval(pure, expression).unwrap_err();
        assert!(
            got.starts_with("eval-impure: ") && got.contains(who),
            "{got}"
        );
    }
    let rev = "ab".repeat(20);
    let locked = format!("(builtins.fetchGit {{ url = \"/out\"; rev = \"{rev}\"; }}).rev");
    assert_eq!(eval(pure, &locked).unwrap(), format!("\"{rev}\""));
}

#[test]
fn the_search_path_may_hold_urls() {
    let options = || Options {
        nix_path: vec![("n".into(), PathBuf::from("http://a.example/n.tar"))],
        ..Options::default()
    };
    // The host in memory gives a text for a URL.
    assert_eq!(
        eval(options, "builtins.readFile <n>").unwrap(),
        "\"http://a.example/n.tar\""
    );
}
