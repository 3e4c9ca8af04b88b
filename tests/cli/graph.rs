//! `sos graph`: what it says is so, and what it draws can be read by those who read such files.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::builds::{recipe, world_with_busybox};
use crate::support::{World, peer, run};

/// Reads a document with a parser of XML that is not ours, and returns how often each kind of element is in it.
fn elements(document: &str, name: &str) -> Option<usize> {
    let python = peer("python3")?;
    let script = "import sys, xml.dom.minidom as m; print(len(m.parseString(sys.stdin.buffer.read()).getElementsByTagName(sys.argv[1])))";
    let mut child = Command::new(python)
        .args(["-c", script, name])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut input = child.stdin.take().expect("its input");
    input.write_all(document.as_bytes()).expect("it reads");
    drop(input);
    let out = child.wait_with_output().expect("it ends");
    assert!(out.status.success(), "not well-formed");
    let count = String::from_utf8_lossy(&out.stdout).trim().parse();
    Some(count.expect("a number"))
}

/// Checks a graph with Graphviz, if it is there.
fn graphviz_reads(w: &World, text: &str) {
    let Some(dot) = peer("dot") else { return };
    let file = w.write("g.dot", text);
    run(Command::new(dot).arg("-Tplain").arg(file)).ok();
}

fn json(w: &World, args: &[&str]) -> Value {
    let out = w.sos(["graph", "--format", "json"].iter().chain(args)).ok();
    serde_json::from_str(&out.stdout).expect("JSON")
}

/// The nodes as `name state`, those on the longest way marked.
fn states(graph: &Value) -> BTreeSet<String> {
    let nodes = graph["nodes"].as_array().expect("nodes");
    let text = |node: &Value| {
        let mark = if node["critical"] == true { " *" } else { "" };
        let word = |key: &str| node[key].as_str().unwrap_or_default().to_owned();
        format!("{} {}{mark}", word("name"), word("state"))
    };
    nodes.iter().map(text).collect()
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|w| (*w).to_owned()).collect()
}

#[test]
fn the_state_of_everything() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let leaf = recipe("leaf", "echo leaf > $out", "");
    let other = recipe("other", "echo other > $out", &format!("leaf = {leaf};"));
    let bad = recipe(
        "bad",
        "test -e /fixed || exit 1; echo > $out",
        &format!("leaf = {leaf};"),
    );
    let top = recipe(
        "top",
        "echo $leaf > $out",
        &format!("a = {other}; b = {bad}; leaf = {leaf};"),
    );
    w.write("f.nix", &top);
    // Both ways are as long as far as anybody knows: one of them is marked.
    let before = states(&json(&w, &["f.nix"]));
    assert_eq!(before.iter().filter(|node| node.ends_with('*')).count(), 3);
    let words: BTreeSet<String> = before.iter().map(|n| n.replace(" *", "")).collect();
    assert_eq!(
        words,
        set(&[
            "leaf to-build",
            "other to-build",
            "bad to-build",
            "top to-build"
        ])
    );
    w.sos(["build", "--no-link", "-k", "f.nix"]).fails(100);
    let graph = json(&w, &["f.nix"]);
    let now = states(&graph);
    assert_eq!(
        now,
        set(&[
            "leaf built",
            "other built",
            "bad failed *",
            "top to-build *"
        ])
    );
    let took = |name: &str| {
        let nodes = graph["nodes"].as_array().expect("nodes");
        let node = nodes.iter().find(|n| n["name"] == name).expect("a node");
        (node["ms"].is_u64(), node["bytes"].as_u64().unwrap_or(0))
    };
    assert!(took("leaf").0 && took("leaf").1 > 0 && !took("top").0);
    let roots = graph["roots"].as_array().expect("roots");
    assert!(roots.len() == 1 && roots[0].as_str().is_some_and(|r| r.ends_with("-top.drv")));
    // One step is one step, and says what is deeper.
    let near = json(&w, &["f.nix", "--depth", "0"]);
    assert_eq!(states(&near), set(&["top to-build *"]));
    assert_eq!(near["nodes"][0]["hidden"], 3);
    // What nobody needs any more is not to be built.
    w.write(
        "one.nix",
        &recipe("one", "echo > $out", &format!("dep = {leaf};")),
    );
    w.sos(["build", "--no-link", "one.nix"]).ok();
    w.sos(["build", "--no-link", "-o", "kept", "one.nix"])
        .ok()
        .says(&["warning: `--no-link` is there too: no link `kept` is made"]);
    assert!(!w.project().join("kept").exists());
    let path = w.sos(["build", "one.nix"]).ok().stdout;
    // The build that failed keeps what it has made.
    w.sos(["gc"]).ok();
    let kept = states(&json(&w, &["one.nix"]));
    assert_eq!(kept, set(&["leaf built *", "one built *"]));
    w.sos(["gc", "--unfinished"]).ok();
    let states_now = states(&json(&w, &["one.nix"]));
    assert_eq!(states_now, set(&["leaf not-needed", "one built *"]));
    // By the path of its result, too.
    assert_eq!(states(&json(&w, &[path.trim()])), states_now);
}

#[test]
fn what_a_result_refers_to() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let deep = recipe("deep", "echo deep > $out", "");
    let lib = recipe("lib", "echo $deep > $out", &format!("deep = {deep};"));
    let unused = recipe("unused", "echo > $out", "");
    w.write(
        "f.nix",
        &recipe(
            "app",
            "mkdir $out; echo $lib $out > $out/x",
            &format!("lib = {lib}; unused = {unused};"),
        ),
    );
    w.sos(["graph", "--runtime", "f.nix"])
        .fails(1)
        .says(&["error[graph-not-built]", "sos build"]);
    let app = w.sos(["build", "--no-link", "f.nix"]).ok().stdout;
    let graph = json(&w, &["--runtime", "f.nix"]);
    let nodes = graph["nodes"].as_array().expect("nodes");
    // The store says the same.
    for node in nodes {
        let path = node["path"].as_str().expect("a path");
        let info = w.sos(["store", "info", "--json", path]).ok().stdout;
        let info: Value = serde_json::from_str(&info).expect("JSON");
        let info = info.get(0).unwrap_or(&info);
        let refs = |value: &Value| -> BTreeSet<String> {
            let list = value.as_array().expect("references");
            list.iter()
                .filter_map(Value::as_str)
                .filter(|p| *p != path)
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(refs(&node["needs"]), refs(&info["references"]), "{path}");
    }
    assert_eq!(
        states(&graph),
        set(&["app built", "lib built", "deep built"])
    );
    assert_eq!(
        json(&w, &["--runtime", app.trim()])["nodes"],
        graph["nodes"]
    );
    let near = json(&w, &["--runtime", "--depth", "1", "f.nix"]);
    assert_eq!(states(&near), set(&["app built", "lib built"]));
}

#[test]
fn every_form_can_be_read() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    let leaf = recipe("leaf", "echo leaf > $out", "");
    w.write(
        "f.nix",
        &recipe("top-1.0", "echo > $out", &format!("leaf = {leaf};")),
    );
    let form = |form: &str| w.sos(["graph", "f.nix", "--format", form]).ok().stdout;
    let dot = w.sos(["graph", "f.nix"]).ok().stdout;
    assert_eq!(dot, form("dot"));
    assert!(dot.contains("n1 -> n0"), "{dot}");
    graphviz_reads(&w, &dot);
    let svg = form("svg");
    assert!(svg.contains("prefers-color-scheme:dark") && svg.contains(">top-1.0</text>"));
    if let Some(boxes) = elements(&svg, "rect") {
        assert_eq!(boxes, 2);
    }
    let html = form("html");
    assert!(
        html.contains("default-src 'none'")
            && !html.contains("http://www.w3.org/1999")
            && !html.contains("src=")
    );
    // The picture is the same in the page, which brings the style along itself.
    let inside = html
        .split_once("<svg")
        .and_then(|(_, rest)| rest.split_once("</svg>"))
        .expect("a picture")
        .0;
    let places = |text: &str| text.matches("translate(").count();
    assert_eq!(places(inside), places(&svg));
    assert_eq!(form("html"), html, "and always the same");
}

/// A recipe of a graph with so many nodes: layers that need two of the layer below, and a top that needs the last layer.
fn layers(w: &World, layers: usize, width: usize) {
    w.write(
        "many.nix",
        &format!(
            "let make = name: deps: derivation {{ inherit name deps; system = \"x86_64-linux\"; builder = \"/bin/busybox\"; args = [ \"false\" ]; }};
  mod = a: b: a - (a / b) * b;
  numbers = builtins.genList (k: k) {width};
  layer = l: if l == 0 then map (k: make \"n0-${{toString k}}\" []) numbers
    else let below = layer (l - 1); in map (k: make \"n${{toString l}}-${{toString k}}\" [ (builtins.elemAt below k) (builtins.elemAt below (mod (k * 7) {width})) ]) numbers;
in make \"top\" (layer ({layers} - 1))"
        ),
    );
}

#[test]
fn a_large_graph_is_folded() {
    let Some(w) = world_with_busybox() else {
        return;
    };
    layers(&w, 10, 100);
    let whole = json(&w, &["many.nix"]);
    assert_eq!(whole["nodes"].as_array().map(Vec::len), Some(1001));
    let run = w.sos(["graph", "many.nix", "--format", "svg"]).ok();
    assert!(run.stderr.contains("1001 nodes"), "{}", run.stderr);
    let folded = run.stdout;
    if let Some(boxes) = elements(&folded, "rect") {
        assert!((20..=400).contains(&boxes), "{boxes}");
    }
    assert!(folded.contains("class=\"group\"") && folded.contains("to build</text>"));
    assert_eq!(
        w.sos(["graph", "many.nix", "--format", "svg"]).ok().stdout,
        folded
    );
    let dot = w.sos(["graph", "many.nix"]).ok().stdout;
    graphviz_reads(&w, &dot);
    let all = w
        .sos(["graph", "many.nix", "--format", "svg", "--all"])
        .ok()
        .stdout;
    if let Some(boxes) = elements(&all, "rect") {
        assert_eq!(boxes, 1001);
    }
    let html = w.sos(["graph", "many.nix", "--format", "html"]).ok().stdout;
    assert!(html.contains("1001 nodes are too many") && html.contains("<details>"));
}
