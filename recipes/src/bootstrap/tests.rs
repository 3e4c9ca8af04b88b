//! Plans of small trees.

mod bad;
mod random;

use std::fs;

use serde_json::json;
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
fn pins_that_nobody_looks_at_are_told() {
    let digest = "0".repeat(64);
    let pins = ["a_0", "gone-1.0_0", "stale_0", "left-out_0"];
    let pins: String = pins
        .iter()
        .map(|name| format!("{digest}  {name}.tar.bz2\n"))
        .collect();
    let tree = Tree::new(
        "build: bash-1\nbuild: a\nbuild: gone-1.1\nbuild: left-out ( NEVER == True )\n",
        &[
            ("SHA256SUMS.pkgs", &pins),
            ("bash-1/pass1.kaem", ""),
            ("a/pass1.sh", ""),
            ("gone-1.1/pass1.sh", ""),
        ],
    );
    let plan = tree.plan(&[]).unwrap();
    let found = super::stale_pins(&TestHost::new(), tree.dir.path(), ".", &plan);
    let told = found.iter().map(|d| {
        let label = &d.labels[0];
        let line = label.file.line_column(label.span.start).0;
        format!("{}:{line} {}", label.file.name, d.message)
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        ["gone-1.0", "stale"].map(|name| {
            let line = if name == "stale" { 3 } else { 2 };
            format!("steps/SHA256SUMS.pkgs:{line} no step makes the package `{name}_0.tar.bz2`, whose digest is pinned")
        })
    );
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
