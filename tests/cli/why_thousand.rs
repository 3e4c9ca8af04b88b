//! A thousand derivations, edits of any kind, and for every single rebuild the question why.
//!
//! What must be answered is computed here from the edits and the graph alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use serde_json::Value;

use super::builds::world_with_busybox;
use crate::support::{World, one_at_a_time, peer, say, seed};

const NODES: usize = 1000;
const SOURCES: usize = 200;
/// Rounds of edits; before the last one everything that the result does not hold is collected.
const ROUNDS: usize = 4;
const EDITS: usize = 8;
/// The round that begins in a copy of the project.
const COPIED: usize = 1;

/// What one derivation is made of.
#[derive(Clone)]
struct Node {
    name: String,
    deps: Vec<usize>,
    /// All of them are called `source`.
    sources: Vec<usize>,
    flags: String,
    script: String,
    builder: &'static str,
    /// Its path follows from its content.
    floating: bool,
    /// It writes what only its script says.
    stable: bool,
}

/// One edit, as `sos why` has to name it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Edit {
    File(usize, String),
    Flags(usize),
    Script(usize),
    Builder(usize),
}

/// Small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit as u64).expect("it is below a usize")
    }
}

fn is_twin(node: usize) -> bool {
    node % 10 == 7
}

fn graph(random: &mut Random) -> Vec<Node> {
    let mut nodes = Vec::new();
    for i in 0..NODES {
        let mut deps = BTreeSet::new();
        // Whatever shares its name with others is needed by somebody, who may need several of them.
        if i > 0 && is_twin(i - 1) {
            deps.insert(i - 1);
        }
        for _ in 0..random.below(3) {
            let back = 1 + random.below(60);
            if back <= i {
                deps.insert(i - back);
            }
        }
        let mut sources = BTreeSet::new();
        if random.below(5) < 2 {
            sources.extend((0..=random.below(2)).map(|_| random.below(SOURCES)));
        }
        let floating = random.below(7) == 0;
        nodes.push(Node {
            name: if is_twin(i) {
                "twin".to_owned()
            } else {
                format!("n{i}")
            },
            deps: deps.into_iter().collect(),
            sources: sources.into_iter().collect(),
            flags: "f".to_owned(),
            script: format!("echo s{i}"),
            builder: "/bin/busybox",
            floating,
            stable: floating && random.below(2) == 0,
        });
    }
    nodes
}

fn recipe(nodes: &[Node]) -> String {
    let mut text = String::from(
        "let\n mk = name: builder: script: more: derivation ({ inherit name builder; system = \"x86_64-linux\"; args = [ \"sh\" \"-c\" script ]; } // more);\n \
         source = path: builtins.path { inherit path; name = \"source\"; };\n \
         ca = { __contentAddressed = true; outputHashMode = \"recursive\"; outputHashAlgo = \"sha256\"; };\n",
    );
    for (i, node) in nodes.iter().enumerate() {
        let variables = ["src", "data"].iter().zip(&node.sources);
        let reads: String = variables
            .clone()
            .map(|(variable, _)| format!("read {variable}_l < ${variable}/a.c; "))
            .collect();
        let script = if node.stable {
            format!("{} > $out", node.script)
        } else {
            format!(
                "{reads}{} $src_l $data_l $FLAGS_{i} $deps > $out",
                node.script
            )
        };
        let deps: String = node.deps.iter().map(|d| format!("n{d} ")).collect();
        let source: String = variables
            .map(|(variable, s)| format!("{variable} = source ./s/src{s}; "))
            .collect();
        let more = if node.floating { " // ca" } else { "" };
        let _ = writeln!(
            text,
            " n{i} = mk \"{}\" \"{}\" \"{script}\" ({{ deps = [ {deps}]; {source}FLAGS_{i} = \"{}\"; }}{more});",
            node.name, node.builder, node.flags
        );
    }
    let all: String = (0..NODES)
        .filter(|i| !is_twin(*i))
        .map(|i| format!("n{i} "))
        .collect();
    text + &format!(
        "in {{ all = mk \"all\" \"/bin/busybox\" \"echo $deps > $out\" {{ deps = [ {all}]; }}; }}\n"
    )
}

/// Changes something that was never so before, and says what.
fn edit(w: &World, place: &str, nodes: &mut [Node], random: &mut Random, stamp: &str) -> Edit {
    let node = random.below(NODES);
    match random.below(if is_twin(node) { 4 } else { 6 }) {
        0..=2 => {
            let source = random.below(SOURCES);
            let file = ["a.c", "sub/b.c", "sub/deep/c.h", "added"][random.below(4)];
            let file = if file == "added" {
                format!("new-{stamp}")
            } else {
                file.to_owned()
            };
            w.write(&format!("{place}s/src{source}/{file}"), &content(stamp));
            Edit::File(source, file)
        }
        3 => {
            nodes[node].flags = stamp.to_owned();
            Edit::Flags(node)
        }
        4 => {
            nodes[node].script = format!("echo {stamp}");
            Edit::Script(node)
        }
        _ => {
            nodes[node].builder = if nodes[node].builder == "/bin/busybox" {
                "/opt/busybox"
            } else {
                "/bin/busybox"
            };
            Edit::Builder(node)
        }
    }
}

fn content(stamp: &str) -> String {
    format!("{stamp}\n")
}

/// What has to be named for a derivation.
#[derive(Clone, Default)]
struct Expected {
    /// At least: what reached it by changing contents.
    surely: BTreeSet<Edit>,
    /// At most: all that is behind it.
    perhaps: BTreeSet<Edit>,
    /// What it made is another thing than before.
    differs: bool,
}

fn expected(nodes: &[Node], edits: &BTreeSet<Edit>) -> Vec<Expected> {
    let mut all: Vec<Expected> = Vec::new();
    for (i, node) in nodes.iter().enumerate() {
        let mut one = Expected::default();
        for edit in edits {
            let (is_own, shows) = match edit {
                Edit::File(source, file) => (node.sources.contains(source), file == "a.c"),
                Edit::Flags(n) => (*n == i, true),
                Edit::Script(n) => (*n == i, true),
                Edit::Builder(n) => (*n == i, false),
            };
            if is_own {
                one.surely.insert(edit.clone());
                one.perhaps.insert(edit.clone());
                let shows = shows && (!node.stable || matches!(edit, Edit::Script(_)));
                one.differs |= !node.floating || shows;
            }
        }
        for dep in &node.deps {
            if all[*dep].differs {
                // Of several edits of a dependency it is not told which of them made the difference.
                if all[*dep].perhaps.len() == 1 {
                    one.surely.extend(all[*dep].perhaps.iter().cloned());
                }
                one.perhaps.extend(all[*dep].perhaps.iter().cloned());
                one.differs |= !node.stable;
            }
        }
        all.push(one);
    }
    all
}

/// What `sos why` named, in the words of this test; `None` for what was collected.
fn named(
    answer: &Value,
    number: &BTreeMap<String, usize>,
    written: &BTreeMap<String, Edit>,
) -> BTreeSet<Option<Edit>> {
    let mut found = BTreeSet::new();
    for reason in answer["reasons"].as_array().expect("a list") {
        let root = &reason["root"];
        let cause = &root["cause"];
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let node = || {
            let node = number.get(root["name"].as_str().expect("a name"));
            *node.unwrap_or_else(|| panic!("nobody edited this: {answer:#}"))
        };
        match cause["kind"].as_str().expect("a kind") {
            "input-changed" => {
                assert_eq!(
                    cause["input"], "source",
                    "the way ends elsewhere: {answer:#}"
                );
                let files = cause["files"].as_array().expect("the files that changed");
                assert!(!files.is_empty(), "{answer:#}");
                for file in files {
                    let edit = written.get(&text(&file["is"]));
                    let edit = edit.unwrap_or_else(|| panic!("nobody wrote this: {answer:#}"));
                    let Edit::File(_, name) = edit else {
                        panic!("only files are written: {edit:?}");
                    };
                    assert_eq!(file["file"], name.as_str(), "{answer:#}");
                    found.insert(Some(edit.clone()));
                }
            }
            "env-changed" => {
                let name = text(&cause["name"]);
                let node = name.strip_prefix("FLAGS_").map(str::parse);
                let node = node.unwrap_or_else(|| panic!("not an edited variable: {answer:#}"));
                found.insert(Some(Edit::Flags(node.expect("a number"))));
            }
            "recipe-changed" => {
                found.insert(Some(Edit::Script(node())));
            }
            "builder-changed" => {
                found.insert(Some(Edit::Builder(node())));
            }
            "gc-ed" => {
                found.insert(None);
            }
            _ => panic!("no edit has this cause: {answer:#}"),
        }
    }
    found
}

/// Copies a directory with all that is in it; links are left out.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("its type");
        let to = to.join(entry.file_name());
        if kind.is_dir() {
            copy(&entry.path(), &to);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), to).expect("a copy");
        }
    }
}

#[test]
fn every_rebuild_of_a_thousand_derivations_names_what_was_edited() {
    let (Some(w), Some(busybox)) = (world_with_busybox(), peer("busybox")) else {
        return;
    };
    let _alone = one_at_a_time();
    let busybox = busybox.display();
    w.write(
        "../home/.config/sos/config.toml",
        &format!(
            "[build]\nsandbox-paths = [\"/bin/busybox={busybox}\", \"/opt/busybox={busybox}\"]\n"
        ),
    );
    let mut random = Random(seed("why_thousand") | 1);
    let mut nodes = graph(&mut random);
    for source in 0..SOURCES {
        for file in ["a.c", "sub/b.c", "sub/deep/c.h"] {
            w.write(
                &format!("s/src{source}/{file}"),
                &format!("{source} {file}\n"),
            );
        }
    }
    let number: BTreeMap<String, usize> = nodes
        .iter()
        .enumerate()
        .filter(|(i, _)| !is_twin(*i))
        .map(|(i, node)| (node.name.clone(), i))
        .collect();
    w.write("sos.nix", &recipe(&nodes));
    w.sos(["build", "-o", "result", ".#all"])
        .ok()
        .says(&["built 1001"]);
    let (mut rebuilt, mut exact) = (0, 0);
    // What each content stands for.
    let mut written: BTreeMap<String, Edit> = BTreeMap::new();
    let mut place = "";
    for round in 0..ROUNDS {
        let is_last = round + 1 == ROUNDS;
        if is_last {
            w.sos(["gc"]).ok();
        }
        if round == COPIED {
            // From here on in a copy of the project, where nothing was ever built.
            place = "../copy/";
            copy(&w.project(), &w.project().join(place));
            w.sos(["build", "-o", "result", "../copy#all"])
                .ok()
                .says(&["built 0, cached 1"]);
        }
        let mut edits = BTreeSet::new();
        for n in 0..EDITS {
            let stamp = format!("r{round}e{n}");
            let edit = edit(&w, place, &mut nodes, &mut random, &stamp);
            if let Edit::File(..) = edit {
                let digest = blake3::hash(content(&stamp).as_bytes()).to_hex();
                written.insert(format!("blake3:{digest}"), edit.clone());
            }
            edits.insert(edit);
        }
        let expect = expected(&nodes, &edits);
        w.write(&format!("{place}sos.nix"), &recipe(&nodes));
        let events = w.events(&["-o", "result", &format!("./{place}#all")]);
        let started: Vec<(String, String)> = events
            .0
            .iter()
            .filter(|e| e["type"] == "build.started" && e["name"] != "all")
            .map(|e| {
                let text = |key: &str| e[key].as_str().expect("a text").to_owned();
                (text("drv"), text("name"))
            })
            .collect();
        let mut names: Vec<&str> = started.iter().map(|(_, name)| name.as_str()).collect();
        let mut wanted: Vec<&str> = nodes
            .iter()
            .zip(&expect)
            .filter(|(_, expect)| !expect.perhaps.is_empty())
            .map(|(node, _)| node.name.as_str())
            .collect();
        names.sort_unstable();
        wanted.sort_unstable();
        if !is_last {
            assert_eq!(names, wanted, "what is rebuilt after {edits:?}");
        }
        // Another process, which has nothing but the journal.
        let mut args = vec!["why", "--json"];
        args.extend(started.iter().map(|(drv, _)| drv.as_str()));
        let answers: Value = serde_json::from_str(&w.sos(args).ok().stdout).expect("JSON");
        let answers = answers.as_array().expect("a list");
        assert_eq!(answers.len(), started.len());
        for (answer, (_, name)) in answers.iter().zip(&started) {
            let mut found = named(answer, &number, &written);
            let was_collected = found.remove(&None);
            assert!(!was_collected || is_last, "{answer:#}");
            let found: BTreeSet<Edit> = found.into_iter().flatten().collect();
            let Some(expect) = number.get(name).map(|i| &expect[*i]) else {
                // Which of the twins it is only its own edits tell.
                assert!(
                    was_collected || (!found.is_empty() && found.is_subset(&edits)),
                    "{answer:#}"
                );
                rebuilt += 1;
                continue;
            };
            assert!(
                was_collected || expect.surely.is_subset(&found),
                "{name}: not all of {:?} is in {found:?}\n{answer:#}",
                expect.surely
            );
            assert!(
                found.is_subset(&expect.perhaps),
                "{name}: more than {:?} is in {found:?}\n{answer:#}",
                expect.perhaps
            );
            assert!(was_collected || !found.is_empty(), "{answer:#}");
            rebuilt += 1;
            exact += usize::from(found == expect.perhaps);
        }
    }
    say(&format!(
        "why_thousand: {rebuilt} rebuilds explained, {exact} of them by all edits behind them"
    ));
    assert!(rebuilt > 100, "the edits reach something");
}
