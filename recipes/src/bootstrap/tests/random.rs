//! Random manifests, and those of upstream, against an independent reader.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::super::{Mode, Settings, left_behind, plan};
use super::{DIGEST, OTHER, Tree};
use crate::test_host::TestHost;

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
                "mode": r.one(&Mode::NAMES),
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
        mode: Mode::parse(job["mode"].as_str().unwrap()).filter(|_| defaults),
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
    for mode in Mode::NAMES {
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
    let left = left_behind(&TestHost::new(), &upstream, ".", &plan);
    let left: Vec<&str> = left.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(left, [""; 0]);
}
