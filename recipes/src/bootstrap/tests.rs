//! Plans of small trees, what is said of bad ones, and random manifests against an independent reader.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use sos_formats::diagnostic::Diagnostic;

use super::{Plan, Settings, plan};
use crate::test_host::TestHost;

const DIGEST: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const OTHER: &str = "60303ae22b998861bce3b28f33eec1be758a213c86c93c076dbe9f558c11c752";

/// A tree in a directory of its own: `steps/manifest` and files below `steps`.
struct Tree {
    dir: tempfile::TempDir,
}

impl Tree {
    fn new(manifest: &str, files: &[(&str, &str)]) -> Self {
        let tree = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        tree.write("steps/manifest", manifest);
        for (name, text) in files {
            tree.write(&format!("steps/{name}"), text);
        }
        tree
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn link(&self, name: &str, target: &str) {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(target, path).unwrap();
    }

    fn plan(&self, set: &[(&str, &str)]) -> Result<Plan, Vec<Diagnostic>> {
        let set = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
        let settings = Settings {
            set: set.collect(),
            ..Settings::default()
        };
        plan(&TestHost::new(), self.dir.path(), ".", &settings)
    }

    /// The steps, one to a line.
    #[track_caller]
    fn steps(&self, set: &[(&str, &str)]) -> String {
        let plan = self.plan(set).unwrap();
        let line = |s: &super::Step| {
            let script = s.script_real.as_deref().unwrap_or("-");
            let package = s.package.as_ref().map_or("", |p| p.file.as_str());
            format!(
                "{} {} {} {script} {package}",
                s.shell(),
                s.kind.as_str(),
                s.name
            )
        };
        plan.steps
            .iter()
            .map(|s| line(s).trim_end().to_owned() + "\n")
            .collect()
    }

    /// The problems, one to a line: place, code, message.
    fn problems(&self) -> String {
        let found = self.plan(&[]).unwrap_err();
        let line = |d: &Diagnostic| {
            let place = d.labels.first().map_or_else(String::new, |l| {
                let (line, column) = l.file.line_column(l.span.start);
                format!("{}:{line}:{column} ", l.file.name)
            });
            format!("{place}{}: {}", d.code, d.message)
        };
        found.iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn passes_count_every_directive_that_survives() {
    let tree = Tree::new(
        "build: a\nimprove: a\nbuild: a\nbuild: a ( X == y )\nuninstall: a b\nbuild: bash-1\nbuild: a\nbuild: ab\nbuild: a\n",
        &[
            ("a/pass1.kaem", ""),
            ("a/pass3.kaem", ""),
            ("a/pass4.kaem", ""),
            ("a/pass5.sh", ""),
            ("bash-1/pass1.kaem", ""),
            ("improve/a.sh", ""),
            ("ab/x", ""),
        ],
    );
    insta::assert_snapshot!(tree.steps(&[]), @r"
    kaem build a steps/a/pass1.kaem
    kaem improve a steps/improve/a.sh
    kaem build a steps/a/pass3.kaem
    kaem uninstall a b -
    kaem build bash-1 steps/bash-1/pass1.kaem
    bash build a - a_0.tar.bz2
    bash build ab - ab_0.tar.bz2
    bash build a steps/a/pass5.sh a_2.tar.bz2
    ");
    let with = tree.steps(&[("X", "y")]);
    assert!(with.contains("steps/a/pass4.kaem"), "{with}");
}

#[test]
fn links_are_followed_inside_the_tree() {
    let tree = Tree::new("build: a\nbuild: a\n", &[("a/pass1.kaem", "")]);
    tree.link("steps/a/pass2.kaem", "pass1.kaem");
    insta::assert_snapshot!(tree.steps(&[]), @r"
    kaem build a steps/a/pass1.kaem
    kaem build a steps/a/pass1.kaem
    ");
    let tree = Tree::new("build: a\n", &[("a/x", "")]);
    tree.link("steps/a/pass1.kaem", "/etc/passwd");
    insta::assert_snapshot!(tree.problems(), @"steps/manifest:1:8 bootstrap-bad-link: `steps/a/pass1.kaem` leads out of the tree");
    let tree = Tree::new("build: a\n", &[("a/x", "")]);
    tree.link("steps/a/pass1.kaem", "pass1.kaem");
    insta::assert_snapshot!(tree.problems(), @"steps/manifest:1:8 bootstrap-bad-link: `steps/a/pass1.kaem` is a circle of links");
}

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
fn what_a_step_finds_of_the_checkout_is_listed() {
    let tree = Tree::new(
        "build: bash-1\nbuild: a\nimprove: i\nbuild: a\nuninstall: a /x b\n",
        &[
            ("bash-1/pass1.kaem", ""),
            ("a/x", ""),
            ("improve/i.sh", ""),
            ("shared/f", ""),
        ],
    );
    tree.link("steps/a/linked", "../shared");
    let json = tree.plan(&[]).unwrap().to_json();
    let shown: Vec<String> = json["steps"]
        .as_array()
        .unwrap()
        .iter()
        .map(|step| {
            let inputs = step["inputs"].as_array().unwrap().iter();
            let inputs = inputs.map(|one| {
                format!(
                    "{}={}",
                    one["at"].as_str().unwrap(),
                    one["source"].as_str().unwrap()
                )
            });
            inputs.collect::<Vec<_>>().join(" ")
        })
        .collect();
    let helpers = "/steps/helpers.sh=steps/helpers.sh";
    let of_a = format!("{helpers} /steps/a=steps/a /steps/a/linked=steps/shared");
    assert_eq!(
        shown,
        [
            "/steps/bash-1=steps/bash-1",
            &of_a,
            &format!("{helpers} /steps/improve/i.sh=steps/improve/i.sh"),
            &of_a,
            helpers,
        ]
    );
    assert_eq!(json["steps"][4]["packages"], json!(["a_1.tar.bz2"]));
}

#[test]
fn a_variable_that_a_later_step_will_not_find_is_told_of() {
    let tree = Tree::new(
        "build: bash-1\nimprove: sets\nimprove: keeps\nbuild: a\nbuild: bash-2\nimprove: reads\n",
        &[
            ("bash-1/pass1.kaem", ""),
            ("bash-2/x", ""),
            ("improve/sets.sh", "LEFT=1\nOWN=2\nGONE=3\nunset GONE\n"),
            (
                "improve/keeps.sh",
                "TARGET=x\necho \"TARGET=${TARGET}\" >> /steps/env\n",
            ),
            (
                "a/pass1.sh",
                "OWN=3\necho ${LEFT} ${OWN} ${TARGET} ${GONE}\n",
            ),
            // Another script, and another shell for upstream as well.
            ("improve/reads.sh", "echo ${LEFT}\n"),
        ],
    );
    let plan = tree.plan(&[]).unwrap();
    let found = super::left_behind(&TestHost::new(), tree.dir.path(), ".", &plan);
    let told: Vec<&str> = found.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(
        told,
        ["`improve: sets` leaves the variable `LEFT`, which `build: a` reads and will not find"]
    );
    let place = |n: usize| {
        let label = &found[0].labels[n];
        let (line, column) = label.file.line_column(label.span.start);
        format!("{}:{line}:{column}", label.file.name)
    };
    assert_eq!(place(0), "steps/a/pass1.sh:2:8");
    assert_eq!(place(1), "steps/improve/sets.sh:1:1");
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
    // What something reads is a variable, and so is what is called like none.
    assert!(tree.plan(&[("ARCHS", "y")]).is_ok());
    assert!(tree.plan(&[("COLOUR", "red")]).is_ok());
}

#[test]
fn extensions_come_after_the_main_manifest_and_count_for_themselves() {
    let tree = Tree::new(
        "build: bash-1\nbuild: a\n",
        &[("a/x", ""), ("bash-1/pass1.kaem", "")],
    );
    tree.write("steps-guix/manifest", "build: a\nimprove: after\n");
    tree.write("steps-guix/a/pass1.sh", "");
    tree.write("steps/improve/after.sh", "");
    let with = tree.steps(&[("EXTRA_BUILDS", "guix")]);
    assert_eq!(with, tree.steps(&[("BUILD_GUIX_ALSO", "True")]));
    insta::assert_snapshot!(with, @r"
    kaem build bash-1 steps/bash-1/pass1.kaem
    bash build a - a_0.tar.bz2
    bash build a steps-guix/a/pass1.sh a_1.tar.bz2
    bash improve after steps/improve/after.sh
    ");
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
    check(
        "build: a  ( A == B )\n",
        "steps/manifest:1:10 bootstrap-syntax: expected `(`, found ``",
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
        "steps/a/sources:1:14 bootstrap-sources: `abc` is no SHA-256 digest",
    );
    check(
        &format!("g http://h/x.git~v1 _ {DIGEST}\n"),
        "steps/a/sources:1:21 bootstrap-sources: a source without address needs a name",
    );
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
fn several_addresses_are_one_file() {
    let sources =
        format!("f http://h/x {DIGEST}\n\nf http://g/y {DIGEST} x\ng http://r~v1 _ {OTHER} z\n");
    let tree = Tree::new(
        "build: a\n",
        &[("a/pass1.kaem", ""), ("a/sources", &sources)],
    );
    let plan = tree.plan(&[]).unwrap();
    let files = &plan.steps[0].distfiles;
    assert_eq!(files.len(), 2);
    assert_eq!(files[0].urls, ["http://h/x", "http://g/y"]);
    assert_eq!(files[1].git.as_deref(), Some("http://r~v1"));
    assert!(files[1].urls.is_empty());
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
        "bootstrap-arch: ARCH is `mips`, which no system runs",
    );
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
fn a_setting_replaces_every_variable_of_its_name() {
    let tree = Tree::new(
        "improve: i ( X == new )\n",
        &[
            ("bootstrap.cfg", "ARCH=x86\nX=old\nX=older\n"),
            ("improve/i.sh", ""),
        ],
    );
    let plan = tree.plan(&[("X", "new")]).unwrap();
    assert_eq!(plan.steps.len(), 1);
    assert_eq!(plan.variables.to_cfg(), "ARCH=x86\nX=new\nX=new\n");
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

/// Runs the reader of `../shared`, which nobody of this crate wrote, over many manifests at once: for each the steps, or null.
const DRIVER: &str = r#"
import importlib.util, json, sys
spec = importlib.util.spec_from_file_location("oracle", sys.argv[1])
o = importlib.util.module_from_spec(spec)
spec.loader.exec_module(o)
base = o.DirTree(sys.argv[2])
class Tree:
    def __init__(self, job):
        self.texts = {"steps/manifest": job["manifest"]}
        if job.get("sources") is not None: self.texts["steps/a/sources"] = job["sources"]
    def exists(self, p): return base.exists(p)
    def mode(self, p): return base.mode(p)
    def data(self, p): return self.texts[p].encode() if p in self.texts else base.data(p)
out = []
for job in json.load(sys.stdin):
    try:
        if job.get("cfg") is None: cfg = o.default_cfg(job["mode"], job["arch"], "1")
        else: cfg = o.parse_cfg(job["cfg"])
        for k, v in job["set"]:
            cfg = [(n, v if n == k else x) for n, x in cfg] if k in dict(cfg) else cfg + [(k, v)]
        steps, vs = o.plan(Tree(job), cfg)
        scripts = o.scripts(Tree(job), cfg)
        out.append({"steps": steps, "variables": vs.v, "scripts": scripts})
    except o.Bad:
        out.append(None)
json.dump(out, sys.stdout)
"#;

fn oracle() -> Option<PathBuf> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/checks/lb_manifest_oracle.py");
    if path.is_file() {
        return Some(path);
    }
    skip("no ../shared/checks/lb_manifest_oracle.py");
    None
}

/// Standard error of the test itself, which cargo hides unless it fails or is asked to show it.
#[allow(clippy::print_stderr, reason = "a test says what it skips")]
fn skip(why: &str) {
    eprintln!("skipped: {why}");
}

fn ask(oracle: &Path, tree: &Path, jobs: &Value) -> Vec<Value> {
    let mut child = Command::new("python3")
        .args(["-c", DRIVER])
        .args([oracle, tree])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let text = jobs.to_string();
    let writer = std::thread::spawn(move || stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Compares every field that both have, and the text of every generated script; one job, as here.
#[track_caller]
fn compare(job: &Value, want: &Value, tree: &Path) {
    let host = TestHost::new();
    let plan = plan(&host, tree, ".", &settings_of(job));
    let (plan, got) = match (want, plan) {
        (Value::Null, Err(problems)) => {
            // What is refused is refused at a place.
            for problem in &problems {
                assert!(!problem.labels.is_empty(), "{problem:#?}\n{job:#}");
            }
            return;
        }
        (Value::Null, Ok(_)) => panic!("accepted what the other refuses: {job:#}"),
        (_, Err(problems)) => panic!("refused: {problems:#?}\n{job:#}"),
        (_, Ok(plan)) => {
            let json = plan.to_json();
            (plan, json)
        }
    };
    assert_eq!(got["variables"], want["variables"], "{job:#}");
    let (ours, theirs) = (
        got["steps"].as_array().unwrap(),
        want["steps"].as_array().unwrap(),
    );
    assert_eq!(ours.len(), theirs.len(), "{job:#}");
    for (ours, theirs) in ours.iter().zip(theirs) {
        for (name, value) in theirs.as_object().unwrap() {
            assert_eq!(&ours[name], value, "{name} of {theirs:#} in {job:#}");
        }
    }
    let scripts = plan.scripts(&host, tree, ".").unwrap();
    assert_eq!(json!(scripts), want["scripts"], "{job:#}");
}

/// Numbers that follow from a seed: xorshift64*.
struct Random(u64);

impl Random {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33).unwrap() % n
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

fn random_predicate(r: &mut Random) -> String {
    const NAMES: &[&str] = &[
        "ARCH",
        "CHROOT",
        "V",
        "W",
        "NONE",
        "KERNEL_BOOTSTRAP",
        "True",
    ];
    const VALUES: &[&str] = &["True", "False", "x86", "amd64", "v", "", "V", "==", ")"];
    if r.chance(10) {
        return format!("( {} )", r.one(&["True", "False", "V", "x"]));
    }
    let mut out = String::from("(");
    loop {
        out.push_str(&format!(
            " {} {} {}",
            r.one(NAMES),
            r.one(&["==", "!="]),
            r.one(VALUES)
        ));
        if r.chance(60) {
            break;
        }
        out.push_str(&format!(" {}", r.one(&["&&", "||"])));
    }
    if !r.chance(2) {
        out.push_str(" )");
    }
    out
}

fn random_manifest(r: &mut Random) -> String {
    const STEPS: &[&str] = &["a", "ab", "a-1", "b", "bash-1", "bash-2.05b", "c"];
    let mut out = String::new();
    for _ in 0..r.below(14) {
        let mut line = match r.below(20) {
            0..=9 => format!("build: {}", r.one(STEPS)),
            10..=12 => format!("improve: {}", r.one(&["a", "b", "x", "reconfigure"])),
            13 => format!("jump: {}", r.one(&["a", "k"])),
            14 => format!("uninstall: {}", r.one(&["a", "a b", "/usr/bin/x a", "c"])),
            15..=18 => {
                let value = if r.chance(60) {
                    random_predicate(r)
                } else {
                    r.one(&["True", "False", "v", "x86"]).to_owned()
                };
                format!("define: {} = {value}", r.one(&["V", "W", "ARCH", "JOBS2"]))
            }
            _ => r
                .one(&["# build: a", "", "#", "build: a#b", "build: b # c"])
                .to_owned(),
        };
        if r.chance(40) && !line.starts_with('#') && !line.is_empty() {
            line = format!("{line} {}", random_predicate(r));
        }
        // An empty name to remove is refused here, and there it means nothing.
        if r.chance(1) && !line.starts_with("uninstall") {
            line = line.replacen(' ', r.one(&["  ", "\t"]), 1);
        }
        out.push_str(&line);
        out.push('\n');
    }
    if r.chance(20) {
        out.pop();
    }
    out
}

/// Lists of sources, most of them good.
fn random_sources(r: &mut Random) -> String {
    let mut out = String::new();
    for _ in 0..r.below(5) {
        let name = r.one(&["x", "y", "z.tar.gz"]);
        // A name with two digests is refused, so most have their own.
        let digest = if (name == "x") != r.chance(4) {
            DIGEST
        } else {
            OTHER
        };
        let host = r.one(&["h", "g", "h/d"]);
        let line = match r.below(40) {
            0 => format!("f http://{host}/{name} {}", &digest[1..]),
            1 => format!("f http://{host}/{name} {}", digest.to_uppercase()),
            2 => format!("h http://{host}/{name} {digest}"),
            3 => format!("f http://{host}/{name}"),
            4 => format!("g http://{host}/r~v1 _ {digest}"),
            5 => format!("f _ {digest}"),
            6..=9 => String::new(),
            10..=14 => format!("g http://{host}/r.git~v1.0 _ {digest} {name}"),
            15..=19 => format!("git http://{host}/r~x http://{host}/{name} {digest}"),
            20..=24 => format!("file  http://{host}/other\t{digest} {name} "),
            25..=26 => format!("f _ {digest} {name}"),
            _ => format!("f http://{host}/{name} {digest}"),
        };
        out.push_str(&line);
        out.push('\n');
    }
    if r.chance(20) {
        out.pop();
    }
    out
}

/// The text of a `bootstrap.cfg`, most of them good; names may come twice.
fn random_cfg(r: &mut Random) -> String {
    let mut out = String::new();
    for _ in 0..=r.below(6) {
        let name = r.one(&["ARCH", "V", "W", "CHROOT", "INTERACTIVE"]);
        let value = match name {
            "ARCH" => r.one(&["x86", "amd64"]),
            _ => r.one(&["True", "False", "v", ""]),
        };
        let line = match r.below(40) {
            0 => "# a comment".to_owned(),
            1 => name.to_owned(),
            _ => format!("{name}={value}"),
        };
        out.push_str(&line);
        out.push('\n');
    }
    out
}

#[test]
fn random_manifests_are_read_as_by_an_independent_reader() {
    let Some(oracle) = oracle() else { return };
    let tree = Tree::new("", &[]);
    for step in ["a", "ab", "a-1", "b", "bash-1", "bash-2.05b", "c"] {
        for pass in 1..=15 {
            tree.write(&format!("steps/{step}/pass{pass}.kaem"), "");
            // Some are absent, where the default stages do everything.
            if pass % 3 != 0 {
                tree.link(&format!("steps/{step}/pass{pass}.sh"), "pass1.kaem");
            }
        }
        tree.write(
            &format!("steps/{step}/sources"),
            &format!("f http://h/{step} {DIGEST}\n"),
        );
        tree.write(
            &format!("steps/{step}/{step}.amd64.checksums"),
            &format!("{OTHER}  /usr/bin/{step}\n"),
        );
    }
    tree.write("steps/b/patches/x", "");
    tree.link("steps/c/patches-pass2", "../b/patches");
    tree.write("steps/env", "PREFIX=/usr\n");
    // What a later bash does in a run with a person, and what an early one does.
    tree.write(
        "seed/script-generator.c",
        r#"void f() { if (x) { fputs("set -E\ntrap 'echo \"[TRAP]\"' ERR\n", out); } else { fputs("set -e\n" "trap 'TRAP' EXIT\n", out); } }"#,
    );
    for script in [
        "improve/a",
        "improve/b",
        "improve/x",
        "improve/reconfigure",
        "jump/a",
        "jump/k",
    ] {
        tree.write(&format!("steps/{script}.sh"), "");
    }
    tree.write(
        "steps/SHA256SUMS.pkgs",
        &format!("{DIGEST}  a_0.tar.bz2\n{OTHER}  ab_1.tar.bz2\n"),
    );
    let seed = 0x5eed_2026;
    let mut r = Random(seed);
    let jobs: Vec<Value> = (0..1500)
        .map(|_| {
            json!({
                "manifest": random_manifest(&mut r),
                "mode": r.one(&super::Mode::NAMES),
                "arch": r.one(&["x86", "amd64", "riscv64"]),
                "sources": random_sources(&mut r),
                "cfg": r.chance(30).then(|| random_cfg(&mut r)),
                "set": if r.chance(30) { json!([["V", "v"]]) } else if r.chance(20) { json!([["INTERACTIVE", "True"]]) } else { json!([]) },
            })
        })
        .collect();
    let want = ask(&oracle, tree.dir.path(), &Value::Array(jobs.clone()));
    let accepted = want.iter().filter(|w| !w.is_null()).count();
    assert!(
        (500..1450).contains(&accepted),
        "{accepted} of them are good"
    );
    for (job, want) in jobs.iter().zip(&want) {
        tree.write("steps/manifest", job["manifest"].as_str().unwrap());
        tree.write("steps/a/sources", job["sources"].as_str().unwrap());
        let cfg = "steps/bootstrap.cfg";
        match job["cfg"].as_str() {
            Some(text) => tree.write(cfg, text),
            None => fs::remove_file(tree.dir.path().join(cfg)).unwrap_or_default(),
        }
        compare(job, want, tree.dir.path());
    }
}

fn settings_of(job: &Value) -> Settings {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    let defaults = job["cfg"].is_null();
    Settings {
        mode: super::Mode::parse(job["mode"].as_str().unwrap()).filter(|_| defaults),
        arch: defaults.then(|| text(&job["arch"])),
        set: job["set"]
            .as_array()
            .unwrap()
            .iter()
            .map(|pair| (text(&pair[0]), text(&pair[1])))
            .collect(),
        bash: false,
    }
}

#[test]
fn the_plans_of_upstream_are_those_of_an_independent_reader() {
    let Some(oracle) = oracle() else { return };
    #[allow(
        clippy::disallowed_methods,
        reason = "a test is told of a checkout that is not in the tree"
    )]
    let Some(upstream) = std::env::var_os("SOS_LIVE_BOOTSTRAP").map(PathBuf::from) else {
        return skip("SOS_LIVE_BOOTSTRAP does not name a checkout of live-bootstrap");
    };
    let manifest = fs::read_to_string(upstream.join("steps/manifest")).unwrap();
    let mut jobs = Vec::new();
    for mode in super::Mode::NAMES {
        for arch in ["x86", "amd64", "riscv64"] {
            for set in [
                json!([]),
                json!([["BUILD_KERNELS", "True"], ["INTERACTIVE", "True"]]),
                json!([["INTERNAL_CI", "pass1"]]),
            ] {
                jobs.push(json!({ "manifest": manifest, "mode": mode, "arch": arch, "set": set }));
            }
        }
    }
    let want = ask(&oracle, &upstream, &Value::Array(jobs.clone()));
    for (job, want) in jobs.iter().zip(&want) {
        compare(job, want, &upstream);
    }
    let plan = plan(&TestHost::new(), &upstream, ".", &Settings::default()).unwrap();
    let left = super::left_behind(&TestHost::new(), &upstream, ".", &plan);
    let left: Vec<&str> = left.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(left, [""; 0]);
}

/// stage0 in small: two scripts of the smallest kaem, one of the full one, a compiler that runs other programs.
fn small_stage0() -> Tree {
    let tree = Tree::new("", &[]);
    for (name, text) in [
        (
            "kaem.amd64",
            "./seeds/kaem-optional-seed ./A/seed.kaem\n./A/artifact/kaem-0 ./A/mini.kaem # next\n./A/bin/kaem --verbose --file A/kaem.run\n",
        ),
        (
            "A/seed.kaem",
            "./seeds/hex0-seed ./A/hex0.hex0 ./A/artifact/hex0\n./A/artifact/hex0 ./A/kaem.hex0 ./A/artifact/kaem-0\n",
        ),
        (
            "A/mini.kaem",
            "./A/artifact/hex0 \\\n\t./A/tool.hex0 ./A/bin/tool\n./A/artifact/hex0 ./A/kaem.hex0 ./A/bin/kaem\n",
        ),
        (
            "A/kaem.run",
            "BINDIR=\"../A/bin\"\nFLAG=\" \"\nTMPDIR=../A/artifact\nM2LIBC=../lib\ncd extra\n${BINDIR}/kaem --file extra.kaem\ncd ..\n./A/bin/tool -c amd64.answers\n./A/bin/sha256sum -c amd64.answers\nexec ./A/bin/kaem --file ./after.kaem\n",
        ),
        (
            "extra/extra.kaem",
            "set -ex\nPATH=${BINDIR}\nM2LIBC_PATH=${M2LIBC}\nalias CC=\"${BINDIR}/tool ${FLAG} -f\"\nCC sum.c -o ${BINDIR}/sha256sum\nCC tool.c -o ${BINDIR}/second\n",
        ),
        ("seeds/hex0-seed", ""),
        ("seeds/kaem-optional-seed", ""),
        ("A/hex0.hex0", ""),
        ("A/kaem.hex0", ""),
        ("A/tool.hex0", ""),
        ("extra/sum.c", ""),
        ("extra/tool.c", ""),
        ("lib/x.h", ""),
        ("after.kaem", "no such command\n"),
    ] {
        tree.write(&format!("seed/stage0-posix/{name}"), text);
    }
    tree
}

#[test]
fn commands_of_stage0_need_what_they_name_and_what_they_run() {
    let tree = small_stage0();
    // What it makes is not clear: two words of it name nothing that is there.
    tree.write(
        "seed/stage0-posix/A/kaem.run",
        "./A/bin/tool ./A/new ./A/newer\n",
    );
    let host = TestHost::new();
    let read = || {
        let checkout = super::Checkout::open(&host, tree.dir.path(), ".").unwrap();
        super::stage0::read(&checkout, "amd64", "A")
    };
    let problem = read().unwrap_err();
    let (line, column) = problem.labels[0]
        .file
        .line_column(problem.labels[0].span.start);
    assert_eq!((problem.code, line, column), ("bootstrap-kaem", 1, 1));
    assert!(
        problem.message.contains("`A/new` nor `A/newer`"),
        "{}",
        problem.message
    );

    let fresh = small_stage0();
    let text = fs::read_to_string(fresh.dir.path().join("seed/stage0-posix/A/kaem.run")).unwrap();
    // `tool -c` is a command like others, and names no new file.
    tree.write(
        "seed/stage0-posix/A/kaem.run",
        &text.replace("./A/bin/tool -c amd64.answers\n", ""),
    );
    let stage0 = read().unwrap();
    let show = |made: &super::stage0::Made| {
        let inputs: Vec<&str> = made.inputs.keys().map(String::as_str).collect();
        format!(
            "{}: {} in {} with {} scratch {}\n",
            made.name,
            made.argv.join(" "),
            made.cwd,
            inputs.join(" "),
            made.scratch.join(" ")
        )
    };
    let shown: String = stage0.commands.iter().map(show).collect();
    insta::assert_snapshot!(shown.replace(" \n", "\n"), @r"
    hex0: /seeds/hex0-seed ./A/hex0.hex0 /run/sos/out in / with /A/hex0.hex0 /seeds/hex0-seed scratch
    kaem-0: /A/artifact/hex0 ./A/kaem.hex0 /run/sos/out in / with /A/artifact/hex0 /A/kaem.hex0 scratch
    tool: /A/artifact/hex0 ./A/tool.hex0 /run/sos/out in / with /A/artifact/hex0 /A/tool.hex0 scratch
    kaem: /A/artifact/hex0 ./A/kaem.hex0 /run/sos/out in / with /A/artifact/hex0 /A/kaem.hex0 scratch
    sha256sum: /A/bin/tool -f sum.c -o /run/sos/out in /extra with /A/bin/kaem /A/bin/tool /extra /lib scratch /A/artifact
    second: /A/bin/tool -f tool.c -o /run/sos/out in /extra with /A/bin/kaem /A/bin/tool /extra /lib scratch /A/artifact
    ");
    assert_eq!(stage0.answers, ["amd64.answers"]);
    let kept: Vec<&str> = stage0.bin.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        kept,
        [
            "A/bin/kaem",
            "A/bin/second",
            "A/bin/sha256sum",
            "A/bin/tool"
        ]
    );
}
