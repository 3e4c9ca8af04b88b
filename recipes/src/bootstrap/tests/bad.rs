//! What is said of bad trees.

use super::{DIGEST, OTHER, Tree};

#[test]
fn bad_links_are_found_wherever_a_step_has_them() {
    #[track_caller]
    fn check(link: &str, target: &str, expect: &str) {
        let files = [
            ("a/pass1.kaem", ""),
            ("a/files/x", ""),
            ("improve/i.sh", ""),
        ];
        let tree = Tree::new("build: a\nimprove: i\n", &files);
        tree.link(&format!("steps/{link}"), target);
        assert_eq!(tree.problems(), expect, "{link} -> {target}");
    }
    let bad = "steps/manifest:1:8 bootstrap-bad-link:";
    check(
        "a/files/l",
        "l",
        &format!("{bad} `steps/a/files/l` is a circle of links"),
    );
    check(
        "a/files/l",
        "../../a",
        &format!("{bad} `steps/a/files/l` is a circle of links"),
    );
    check(
        "a/files/l",
        "/etc/passwd",
        &format!("{bad} `steps/a/files/l` leads out of the tree"),
    );
    check(
        "a/l",
        "../../../x",
        &format!("{bad} `steps/a/l` leads nowhere"),
    );
    check(
        "a/l",
        "../../..",
        &format!("{bad} `steps/a/l` leads out of the tree"),
    );
}

#[test]
fn a_variable_that_is_nearly_one_is_refused() {
    let tree = Tree::new("build: a ( ARCHS == x )\n", &[]);
    let problem = &tree.plan(&[("ARCh", "amd64")]).unwrap_err()[0];
    assert_eq!(
        problem.message,
        "nothing in this tree reads the variable `ARCh`"
    );
    assert_eq!(problem.helps, ["did you mean `ARCH`?"]);
    // Those that only predicates or sos itself read are known, too.
    let other = Tree::new("build: a ( KEEP_M4 == x )\n", &[]);
    for (wrong, right) in [
        ("KEEPM4", "KEEP_M4"),
        ("EXTRA_BUILD", "EXTRA_BUILDS"),
        ("BUILD_GUIX_ALS0", "BUILD_GUIX_ALSO"),
    ] {
        let problem = &other.plan(&[(wrong, "y")]).unwrap_err()[0];
        assert_eq!(problem.helps, [format!("did you mean `{right}`?")]);
    }
    // What something reads is a variable, and so is what is called like none.
    assert!(tree.plan(&[("ARCHS", "y")]).is_ok());
    assert!(tree.plan(&[("COLOUR", "red")]).is_ok());
}

#[test]
fn bad_manifests_say_where() {
    #[track_caller]
    fn check(manifest: &str, expect: &str) {
        let tree = Tree::new(manifest, &[("a/pass1.kaem", "")]);
        assert_eq!(tree.problems(), expect, "{manifest:?}");
    }
    let long = "x".repeat(64);
    check(
        "build: a (\tA == B )\n",
        "steps/manifest:1:11 bootstrap-syntax: expected `(`, found `(\tA`",
    );
    for (manifest, column, found) in [
        // The tab has joined two words, and what is missed is where the second should be.
        (
            "build: a ( A\t== B )\n",
            13,
            "expected `==` or `!=` after `A\t==`, found `B`",
        ),
        (
            "build: a ( A ==\tB )\n",
            16,
            "expected `==` or `!=` after `A`, found `==\tB`",
        ),
        (
            "build: a ( A == B\t)\n",
            18,
            "the line ends where `)`, `&&` or `||` is expected",
        ),
        // Another word, where one may be: upstream's generator leaves the step out.
        ("build: a ( \tA == B )\n", 12, "a tab within a predicate"),
        ("build: a ( A == B\t )\n", 18, "a tab within a predicate"),
        ("define: V = ( A\t )\n", 16, "a tab within a predicate"),
    ] {
        let expect = format!("steps/manifest:1:{column} bootstrap-syntax: {found}");
        check(manifest, &expect);
        let tree = Tree::new(manifest, &[("a/pass1.kaem", "")]);
        let problem = &tree.plan(&[]).unwrap_err()[0];
        assert_eq!(problem.labels[0].text, "this tab", "{manifest:?}");
        assert!(
            problem.helps[0].contains("a tab is part of one"),
            "{manifest:?}"
        );
    }
    check(
        "build: a ( A == B ) ( C == D )\n",
        "steps/manifest:1:21 bootstrap-syntax: the line goes on after its predicate, with `(`",
    );
    // Blanks at the end of a line are nothing, with a comment behind them or without.
    for end in ["", " ", "  ", "  # why", " # why", "  #"] {
        let tree = Tree::new(
            &format!("build: a ( A != B ){end}\n"),
            &[("a/pass1.kaem", "")],
        );
        assert_eq!(tree.plan(&[]).unwrap().steps.len(), 1, "{end:?}");
    }
    check(
        "build: a ( A == B )  x\n",
        "steps/manifest:1:22 bootstrap-syntax: the line goes on after its predicate, with `x`",
    );
    check(
        "define: V = ( A ) ( A == B ) x\n",
        "steps/manifest:1:30 bootstrap-syntax: the line goes on after its predicate, with `x`",
    );
    check(
        "build: a  ( A == B )\n",
        "steps/manifest:1:10 bootstrap-syntax: expected `(`, found a second blank",
    );
    check(
        " build: a\n",
        "steps/manifest:1:1 bootstrap-syntax: a line begins with a blank, and a directive is expected there",
    );
    check(
        "build: a\0b\n",
        "steps/manifest:1:8 bootstrap-syntax: `a\\0b` cannot be the name of a step",
    );
    check(
        "build: a ( A == B\n",
        "steps/manifest:1:18 bootstrap-syntax: the line ends where `)`, `&&` or `||` is expected",
    );
    check(
        &format!("#\nbuild: a ( A == {long} )\n"),
        "steps/manifest:2:17 bootstrap-syntax: a word of 64 bytes is too long: upstream's generator takes 63",
    );
    // Once, whatever else the line may lack.
    check(
        &format!("{long}\n"),
        "steps/manifest:1:1 bootstrap-syntax: a word of 64 bytes is too long: upstream's generator takes 63",
    );
    check(
        "buidl: a\n",
        "steps/manifest:1:1 bootstrap-syntax: unknown directive `buidl:`",
    );
    check(
        "build: b\n",
        "steps/manifest:1:8 bootstrap-missing: there is no `steps/b`",
    );
    check(
        "build: a\nbuild: a\n",
        "steps/manifest:2:8 bootstrap-missing: there is no `steps/a/pass2.kaem`",
    );
    check(
        "improve: x\n",
        "steps/manifest:1:10 bootstrap-missing: there is no `steps/improve/x.sh`",
    );
    check(
        "build: a\r\n",
        "steps/manifest:1:9 bootstrap-syntax: a carriage return in a manifest is part of the word before it",
    );
    check(
        "build:\n",
        "steps/manifest:1:7 bootstrap-syntax: the line ends where a name is expected",
    );
    check(
        "build: ../a\n",
        "steps/manifest:1:8 bootstrap-syntax: `../a` cannot be the name of a step",
    );
    // What would be run from elsewhere, as the name of a step would.
    for (line, column) in [
        ("improve: ../a/pass1", 10),
        ("improve: a/../../x", 10),
        ("improve: ..", 10),
        ("improve: /etc/x", 10),
        ("jump: ../a/pass1", 7),
        ("jump: sub/linux", 7),
    ] {
        let name = line.rsplit(' ').next().unwrap_or_default();
        check(
            &format!("{line}\n"),
            &format!(
                "steps/manifest:1:{column} bootstrap-syntax: `{name}` cannot be the name of a script"
            ),
        );
    }
    check(
        "improve: \n",
        "steps/manifest:1:10 bootstrap-syntax: the line ends where a name is expected",
    );
    check(
        "uninstall: a-1.0 /usr/x ../b c\n",
        "steps/manifest:1:25 bootstrap-syntax: `../b` cannot be the name of a package",
    );
    check(
        "uninstall: ..\n",
        "steps/manifest:1:12 bootstrap-syntax: `..` cannot be the name of a package",
    );
    check(
        "build: a ( A && B )\n",
        "steps/manifest:1:14 bootstrap-syntax: expected `==` or `!=` after `A`, found `&&`",
    );
    check(
        "define: A B\n",
        "steps/manifest:1:11 bootstrap-syntax: expected `=` after `A`",
    );
    check(
        "define: = = x\n",
        "steps/manifest:1:9 bootstrap-syntax: `=` cannot be the name of a variable",
    );
    check(
        "define: A =\n",
        "steps/manifest:1:12 bootstrap-syntax: the line ends where a value is expected",
    );
    // All of them at once.
    check(
        "buidl: a\nbuild: b\n",
        "steps/manifest:1:1 bootstrap-syntax: unknown directive `buidl:`\nsteps/manifest:2:8 bootstrap-missing: there is no `steps/b`",
    );
}

#[test]
fn what_is_not_shown_is_counted_in_words() {
    let notes = |lines: usize| {
        let tree = Tree::new(&"nothing: a\n".repeat(lines), &[]);
        tree.plan(&[]).unwrap_err().pop().unwrap().notes
    };
    assert_eq!(notes(51), ["1 more problem is not shown"]);
    assert_eq!(notes(52), ["2 more problems are not shown"]);
}

/// What is said beside a problem: how it is repaired.
#[test]
fn bad_trees_say_what_to_do() {
    #[track_caller]
    fn check(manifest: &str, expect: &str) {
        let tree = Tree::new(
            manifest,
            &[("ab-1.0/pass1.kaem", ""), ("improve/net.sh", "")],
        );
        let problems = tree.plan(&[]).unwrap_err();
        assert_eq!(problems[0].helps, [expect], "{manifest:?}");
    }
    check("build: ab-1.1\n", "did you mean `ab-1.0`?");
    check("improve: nte\n", "did you mean `net`?");
    check(
        " build: ab-1.0\n",
        "words are separated by exactly one blank: remove this one",
    );
    check(
        "build: ab-1.0 ( ( A == B ) )\n",
        "parentheses do not nest: `a && b || c` is `a && (b || c)`, and a `define:` can hold a part",
    );
}

#[test]
fn a_name_has_one_digest_in_all_steps() {
    let (first, second) = (
        format!("f http://h/y {OTHER}\nf http://h/x {DIGEST}\n"),
        format!("f http://g/x {OTHER}\n"),
    );
    let files = [
        ("a/pass1.kaem", ""),
        ("a/sources", first.as_str()),
        ("b/pass1.kaem", ""),
        ("b/sources", second.as_str()),
    ];
    let tree = Tree::new("build: a\nbuild: b\n", &files);
    assert_eq!(
        tree.problems(),
        "steps/b/sources:1:1 bootstrap-two-digests: `x` has two digests"
    );
    // What is not built does not count.
    let tree = Tree::new("build: a\nbuild: b ( A == B )\n", &files);
    assert_eq!(tree.plan(&[]).unwrap().steps.len(), 1);
    let same = [("a/pass1.kaem", ""), ("a/sources", first.as_str())];
    let again = [("c/pass1.kaem", ""), ("c/sources", first.as_str())];
    let tree = Tree::new("build: a\nbuild: c\n", &[same, again].concat());
    assert_eq!(tree.plan(&[]).unwrap().steps.len(), 2);
}

#[test]
fn bad_sources_say_where() {
    #[track_caller]
    fn check(sources: &str, expect: &str) {
        let files = [("a/pass1.kaem", ""), ("a/sources", sources)];
        let tree = Tree::new("build: a\n", &files);
        assert_eq!(tree.problems(), expect, "{sources:?}");
    }
    let upper = DIGEST.to_uppercase();
    check(
        &format!("f http://h/x {DIGEST}\nf http://g/x {OTHER}\n"),
        "steps/a/sources:2:1 bootstrap-two-digests: `x` has two digests",
    );
    check(
        &format!("f http://h/x {upper}\n"),
        &format!(
            "steps/a/sources:1:14 bootstrap-sources: the digest `{upper}` has upper-case letters"
        ),
    );
    check(
        &format!("f http://h/x {DIGEST}\r\n"),
        "steps/a/sources:1:78 bootstrap-sources: a carriage return in a list of sources is part of the word before it",
    );
    check(
        "f http://h/x abc\n",
        "steps/a/sources:1:14 bootstrap-sources: `abc` is no SHA-256 digest: it has 3 bytes",
    );
    check(
        "f http://h/x a\n",
        "steps/a/sources:1:14 bootstrap-sources: `a` is no SHA-256 digest: it has 1 byte",
    );
    check(
        &format!("g http://h/x.git~v1 _ {DIGEST}\n"),
        "steps/a/sources:1:21 bootstrap-sources: a source without address needs a name",
    );
    check(
        &format!("g http://h/x.git~ _ {DIGEST} x\n"),
        "steps/a/sources:1:3 bootstrap-sources: `http://h/x.git~` names no revision",
    );
    check(
        &format!("f y {DIGEST} x\n"),
        "steps/a/sources:1:3 bootstrap-sources: `y` is no address",
    );
    for (line, message) in [
        ("f ://h/x", "`://h/x` is no address"),
        ("f 7z://h/x", "`7z://h/x` is no address"),
        ("f x/http://h/x", "`x/http://h/x` is no address"),
        ("g h/x.git~v1 _", "`h/x.git` is no address of a repository"),
        (
            "g ://h/x.git~v1 _",
            "`://h/x.git` is no address of a repository",
        ),
    ] {
        check(
            &format!("{line} {DIGEST} x\n"),
            &format!("steps/a/sources:1:3 bootstrap-sources: {message}"),
        );
    }
    check(
        &format!("g http://h/x.git _ {DIGEST} x\n"),
        "steps/a/sources:1:3 bootstrap-sources: `http://h/x.git` names no revision",
    );
    check(
        "f http://h/x\n",
        "steps/a/sources:1:13 bootstrap-sources: a source without digest",
    );
    check(
        &format!("h http://h/x {DIGEST}\n"),
        "steps/a/sources:1:1 bootstrap-sources: unknown kind of source `h`",
    );
    let long = "x".repeat(212);
    check(
        &format!(
            "f http://h/{long} {DIGEST}\nf http://h/{} {DIGEST}\n",
            &long[1..]
        ),
        "steps/a/sources:1:3 bootstrap-sources: the name of the file has 212 bytes as a store path has it, and at most 211 are possible",
    );
    check(
        &format!("f http://h/ {DIGEST}\n"),
        "steps/a/sources:1:3 bootstrap-sources: `` cannot be the name of a file",
    );
    check(
        &format!("f http://h/x {DIGEST} ../x\n"),
        "steps/a/sources:1:79 bootstrap-sources: `../x` cannot be the name of a file",
    );
}

#[test]
fn bad_settings_say_where() {
    #[track_caller]
    fn check(cfg: &str, expect: &str) {
        let tree = Tree::new("", &[("bootstrap.cfg", cfg)]);
        assert_eq!(tree.problems(), expect, "{cfg:?}");
    }
    let line = "bootstrap-syntax: a line of `bootstrap.cfg` is not `NAME=value`:";
    check(
        "ARCH=x86\n# x\n",
        &format!("steps/bootstrap.cfg:2:1 {line} comments are not allowed here"),
    );
    check(
        "ARCH\n",
        &format!("steps/bootstrap.cfg:1:1 {line} there is no `=` in it"),
    );
    check(
        "\nARCH=x86\n",
        &format!("steps/bootstrap.cfg:1:1 {line} empty lines are not allowed here"),
    );
    check(
        "ARCH=x86\r\n",
        &format!("steps/bootstrap.cfg:1:1 {line} it ends with a carriage return"),
    );
    check(
        "",
        "steps/bootstrap.cfg:1:1 bootstrap-syntax: `bootstrap.cfg` is empty: upstream's programs take no such file",
    );
    for value in ["a b", "$(x)", "a;b", "`x`", "~/x", "\"a$b\"", "\"a"] {
        check(
            &format!("ARCH=x86\nX={value}\n"),
            &format!(
                "steps/bootstrap.cfg:2:1 {line} the value has what means something to a shell"
            ),
        );
    }
    check(
        "ARCH=mips\n",
        "steps/bootstrap.cfg:1:1 bootstrap-arch: ARCH is `mips`, which no system runs",
    );
    check(
        "JOBS=1\nARCH=AMD64\n",
        "steps/bootstrap.cfg:2:1 bootstrap-arch: ARCH is `AMD64`, which no system runs",
    );
    check(
        "ARCH=\n",
        "steps/bootstrap.cfg:1:1 bootstrap-arch: ARCH is ``, which no system runs",
    );
    assert!(Tree::new("", &[]).plan(&[("ARCH", "")]).is_err());
    // Said elsewhere.
    let problem = &Tree::new("", &[]).plan(&[("ARCH", "AMD64")]).unwrap_err()[0];
    assert!(problem.labels.is_empty());
    assert_eq!(problem.helps, ["did you mean `amd64`?"]);
    check(
        "CONFIGURATOR=True\n",
        "bootstrap-configurator: CONFIGURATOR is not False: the configurator would ask for values while the system is built",
    );
}

#[test]
fn what_a_shell_would_run_is_no_value() {
    let tree = Tree::new(
        "",
        &[(
            "bootstrap.cfg",
            "ARCH=x86\nMIRRORS=\"http://h:1 http://g:2\"\nX=\n",
        )],
    );
    assert!(tree.plan(&[("Y", "http://h/a?b=c%20d,e+f@g")]).is_err());
    assert!(
        tree.plan(&[("Y", "http://h/a=c%20d,e+f@g"), ("Z", "")])
            .is_ok()
    );
    for (name, value, why) in [
        (
            "X",
            "1\necho injected",
            "there is a control character in the value",
        ),
        (
            "X",
            "1 echo hi",
            "the value has what means something to a shell",
        ),
        ("A B", "x", "what is before `=` is no name of a variable"),
        (
            "steps cfg",
            "1",
            "what is before `=` is no name of a variable",
        ),
    ] {
        let problem = &tree.plan(&[(name, value)]).unwrap_err()[0];
        assert_eq!(problem.code, "usage-bad-value");
        assert!(problem.message.ends_with(why), "{}", problem.message);
        assert!(!problem.message.contains('\n'));
    }
}

#[test]
fn bad_pins_say_where() {
    let tree = Tree::new(
        "",
        &[(
            "SHA256SUMS.pkgs",
            &format!("{DIGEST}  a_0.tar.bz2\nabc  b_0.tar.bz2\n"),
        )],
    );
    insta::assert_snapshot!(tree.problems(), @"steps/SHA256SUMS.pkgs:2:1 bootstrap-bad-pin: a pin is not 64 digits of 0-9 and a-f and a name");
}

#[test]
fn a_carriage_return_is_no_part_of_a_pin() {
    // `sha256sum` of stage0 would look for a file whose name ends with it.
    for name in ["SHA256SUMS.pkgs", "a/a.x86.checksums", "a/a.checksums"] {
        let pins = format!("{DIGEST}  x\r\n");
        let tree = Tree::new("build: a\n", &[("a/pass1.kaem", ""), (name, &pins)]);
        let expect = format!(
            "steps/{name}:1:68 bootstrap-bad-pin: a carriage return in a list of pins is part of the name before it"
        );
        assert_eq!(tree.problems(), expect);
    }
}

#[test]
fn a_mark_before_a_text_is_named() {
    let line = format!("f http://h/x {DIGEST}\n");
    let pin = format!("{DIGEST}  x\n");
    for (name, text) in [
        ("manifest", "build: a\nimprove: i\n"),
        ("bootstrap.cfg", "ARCH=x86\n"),
        ("SHA256SUMS.pkgs", &pin),
        ("a/sources", &line),
        ("a/a.x86.checksums", &pin),
        ("a/pass1.kaem", "set -ex\n"),
        ("improve/i.sh", "set -e\n"),
    ] {
        let files = [("a/pass1.kaem", ""), ("improve/i.sh", "")];
        let tree = Tree::new("build: a\nimprove: i\n", &files);
        tree.write(&format!("steps/{name}"), &format!("\u{feff}{text}"));
        assert_eq!(
            tree.problems(),
            format!(
                "steps/{name}:1:1 bootstrap-syntax: `steps/{name}` begins with a byte order mark"
            )
        );
        let problem = &tree.plan(&[]).unwrap_err()[0];
        let expect = format!("`sed -i '1s/^\\xef\\xbb\\xbf//' steps/{name}` removes it");
        assert_eq!(problem.helps, [expect]);
    }
}

#[test]
fn a_directory_is_no_script() {
    let files = [("a/pass1.kaem/x", ""), ("improve/i.sh/x", "")];
    let tree = Tree::new("build: a\nimprove: i\n", &files);
    assert_eq!(
        tree.problems(),
        "steps/manifest:1:8 bootstrap-syntax: `steps/a/pass1.kaem` is a directory, and no script\nsteps/manifest:2:10 bootstrap-syntax: `steps/improve/i.sh` is a directory, and no script"
    );
}

#[test]
fn an_extension_that_is_not_there_is_told_where_it_is_asked_for() {
    let tree = Tree::new("", &[]);
    let asked = |value: &str| tree.plan(&[("EXTRA_BUILDS", value)]).unwrap_err().remove(0);
    let none = asked("gix");
    assert_eq!(
        none.message,
        "there is no extension `gix`: there is no `steps-gix/manifest`"
    );
    assert!(none.notes[0].starts_with("this tree has none"));
    tree.write("steps-guix/manifest", "");
    assert_eq!(asked("gix").helps, ["did you mean `guix`?"]);
    assert_eq!(asked("other").notes[0], "this tree has `guix`");
    tree.write("steps/bootstrap.cfg", "ARCH=x86\nEXTRA_BUILDS=guix,gix\n");
    let message =
        "bootstrap-missing: there is no extension `gix`: there is no `steps-gix/manifest`";
    assert_eq!(
        tree.problems(),
        format!("steps/bootstrap.cfg:2:19 {message}")
    );
    tree.write("steps/bootstrap.cfg", "ARCH=x86\n");
    tree.write("steps/manifest", "#\ndefine: EXTRA_BUILDS = gix\n");
    assert_eq!(tree.problems(), format!("steps/manifest:2:24 {message}"));
}

#[test]
fn an_extension_is_asked_for_once() {
    let tree = Tree::new("", &[]);
    tree.write("steps-more/manifest", "");
    tree.write("steps/bootstrap.cfg", "ARCH=x86\nEXTRA_BUILDS=more,more\n");
    let message = "bootstrap-syntax: the extension `more` is asked for twice";
    assert_eq!(
        tree.problems(),
        format!("steps/bootstrap.cfg:2:19 {message}")
    );
    tree.write("steps/bootstrap.cfg", "ARCH=x86\n");
    let asked = tree.plan(&[("EXTRA_BUILDS", "more,more")]).unwrap_err();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].message, "the extension `more` is asked for twice");
    assert!(tree.plan(&[("EXTRA_BUILDS", "more")]).is_ok());
}

#[test]
fn architectures_have_other_names_elsewhere() {
    let tree = Tree::new("", &[]);
    for (other, known) in [
        ("x86_64", "amd64"),
        ("x86_64-linux", "amd64"),
        ("i686", "x86"),
        ("i386", "x86"),
        ("arm64", "aarch64"),
        ("ARM64", "aarch64"),
    ] {
        let problem = &tree.plan(&[("ARCH", other)]).unwrap_err()[0];
        assert_eq!(problem.helps, [format!("did you mean `{known}`?")]);
    }
}
