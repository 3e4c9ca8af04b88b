//! `sos diff`: how two builds, outputs or images differ.

mod html;
mod side;

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use sos_formats::derivation::Derivation;
use sos_formats::store_path::StorePath;
use sos_store::Store;
use sos_store::compare::{Change, Difference};

use crate::args::{LockFlags, TargetArgs};
use crate::failure::Failure;
use crate::render::text::printable;
use crate::render::{again, difference, output, size};
use crate::session::Session;

use side::Side;

/// Say how two builds, outputs or images differ: versions, sizes, files, modes, inputs
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A side is a store path, a link to a result, a target, the number of a build, an image layout (DIR or DIR:TAG), or any directory.\n\nExamples:\n  sos diff result-old result          what two results hold\n  sos diff 41 42                      what two builds gave\n  sos diff .#a .#b --files            with the lines of text files that differ\n  sos diff old-image new-image:latest --format html > diff.html"
)]
pub(crate) struct DiffArgs {
    /// The first side
    #[arg(value_name = "A")]
    a: String,
    /// The second side
    #[arg(value_name = "B")]
    b: String,
    #[command(flatten)]
    lock: LockFlags,
    /// How to print it
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    /// What differs in the contents of files, too
    #[arg(long)]
    files: bool,
    /// Lines of a difference in text that are shown
    #[arg(long, value_name = "N", default_value_t = 40)]
    lines: usize,
    /// Entries of a list that are shown; 0 shows all
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// Times of files count, too
    #[arg(long)]
    times: bool,
}

/// Forms of a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people
    Text,
    /// For programs
    Json,
    /// A page of its own
    Html,
}

/// A name whose version, or whose value, is another on the other side.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Changed {
    name: String,
    old: Option<String>,
    new: Option<String>,
}

/// Everything that differs.
struct Comparison {
    a: Side,
    b: Side,
    /// Packages of a system inside, then objects of the closure.
    packages: Vec<Changed>,
    closure: Vec<Changed>,
    inputs: Vec<Changed>,
    files: Vec<Difference>,
    /// What differs in the contents of files, by their place in `files`.
    contents: BTreeMap<usize, String>,
    /// Both sides are one object, of which so many builds gave other content that was not kept.
    not_kept: usize,
}

/// Runs the verb.
///
/// # Errors
/// When a side cannot be found or read.
pub(crate) fn run(session: &Session, args: &DiffArgs) -> Result<(), Failure> {
    let store = session.store()?;
    let [a, b] = [&args.a, &args.b].map(|text| side::find(session, text, args.lock));
    let (a, b) = (a?, b?);
    let mut files = a.files.compare(&b.files, store)?;
    if !args.times {
        for found in &mut files {
            found.changes.retain(|c| !matches!(c, Change::Time(..)));
        }
        files.retain(|found| !found.changes.is_empty());
    }
    let mut contents = BTreeMap::new();
    if args.files {
        for (at, found) in files.iter().enumerate() {
            if args.limit > 0 && contents.len() >= args.limit {
                break;
            }
            let shown =
                difference::contents(store, (&a.files, "a"), (&b.files, "b"), found, args.lines)?;
            if !shown.is_empty() {
                contents.insert(at, shown);
            }
        }
    }
    let comparison = Comparison {
        packages: changed(&a.packages, &b.packages),
        closure: changed(&a.closure, &b.closure),
        inputs: match (&a.drv, &b.drv) {
            (Some(old), Some(new)) => inputs(old, new),
            _ => Vec::new(),
        },
        files,
        contents,
        not_kept: not_kept(store, &a, &b)?,
        a,
        b,
    };
    if session.global.json || args.format == Format::Json {
        return output::json(&to_json(&comparison));
    }
    match args.format {
        Format::Html => output::bytes(html::page(&comparison).as_bytes()),
        _ => output::bytes(text(&comparison, args.limit).as_bytes()),
    }
}

/// How many builds again of the one object that both sides are gave other content.
fn not_kept(store: &Store, a: &Side, b: &Side) -> Result<usize, Failure> {
    let path = StorePath::from_absolute(store.store_dir(), &a.path).ok();
    let Some(path) = path.filter(|_| a.path == b.path) else {
        return Ok(0);
    };
    let rebuilds = store.rebuilds_of(&path)?;
    Ok(rebuilds.iter().filter(|one| !one.rebuild.same).count())
}

/// The names whose values differ, in order.
fn changed(old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<Changed> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    names
        .into_iter()
        .filter(|name| old.get(*name) != new.get(*name))
        .map(|name| Changed {
            name: name.clone(),
            old: old.get(name).cloned(),
            new: new.get(name).cloned(),
        })
        .collect()
}

/// What two derivations are made from, as far as it differs.
fn inputs(old: &Derivation, new: &Derivation) -> Vec<Changed> {
    let of = |drv: &Derivation| -> BTreeMap<String, String> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut all = BTreeMap::new();
        all.insert("system".to_owned(), drv.system.clone());
        all.insert("builder".to_owned(), text(&drv.builder));
        for (at, arg) in drv.args.iter().enumerate() {
            all.insert(format!("argument {at}"), text(arg));
        }
        for (name, value) in &drv.env {
            // The attributes of sos's own derivations are one document: compared one by one.
            if name == b"__json"
                && let Ok(Value::Object(map)) = serde_json::from_slice(value)
            {
                for (name, value) in map {
                    all.insert(format!("attribute {name}"), value.to_string());
                }
                continue;
            }
            let name = text(name);
            // Where an output will be follows from all the rest, and what stands at its own place is told there.
            let follows = drv.outputs.contains_key(&name);
            if !follows && !["system", "builder"].contains(&name.as_str()) {
                all.insert(format!("variable {name}"), text(value));
            }
        }
        let mut named = |kind: &str, path: &StorePath, value: String| {
            // Two inputs of one name are told apart by their number.
            let mut key = format!("{kind} {}", Derivation::name_from_path(path));
            while all.contains_key(&key) {
                key.push('\'');
            }
            all.insert(key, value);
        };
        for (input, outputs) in &drv.input_drvs {
            let outputs: Vec<&str> = outputs.iter().map(String::as_str).collect();
            named(
                "input",
                input,
                format!("{}^{}", input.base(), outputs.join(",")),
            );
        }
        for source in &drv.input_srcs {
            named("source", source, source.base());
        }
        all
    };
    changed(&of(old), &of(new))
}

fn side_json(side: &Side) -> Value {
    json!({
        "name": side.name, "kind": side.kind, "path": side.path, "files": side.files.entries.len(),
        "bytes": side.files.size_bytes(), "closureBytes": side.closure_bytes,
    })
}

fn to_json(comparison: &Comparison) -> Value {
    let list = |all: &[Changed]| -> Value {
        all.iter()
            .map(|c| json!({ "name": c.name, "old": c.old, "new": c.new }))
            .collect()
    };
    let files: Value = comparison
        .files
        .iter()
        .enumerate()
        .map(|(at, found)| {
            let mut value = difference::to_json(found);
            if let Some(contents) = comparison.contents.get(&at) {
                value["diff"] = contents.clone().into();
            }
            value
        })
        .collect();
    json!({
        "a": side_json(&comparison.a), "b": side_json(&comparison.b),
        "packages": list(&comparison.packages), "closure": list(&comparison.closure),
        "inputs": list(&comparison.inputs), "files": files, "notKept": comparison.not_kept,
    })
}

/// How much of a value is shown in a line.
const VALUE_CHARS: usize = 200;

fn shown(value: &str) -> String {
    let value = printable(&value.replace('\n', " "));
    if value.chars().count() <= VALUE_CHARS {
        return value;
    }
    let cut: String = value.chars().take(VALUE_CHARS).collect();
    format!("{cut}...")
}

fn line(changed: &Changed) -> String {
    match (&changed.old, &changed.new) {
        (Some(old), Some(new)) => format!("{}: {} -> {}", changed.name, shown(old), shown(new)),
        (None, Some(new)) => format!("{}: added, {}", changed.name, shown(new)),
        (Some(old), None) => format!("{}: removed, {}", changed.name, shown(old)),
        (None, None) => changed.name.clone(),
    }
}

/// The sizes of both sides, a line each.
fn sizes(comparison: &Comparison) -> Vec<(&'static str, String)> {
    let (a, b) = (&comparison.a, &comparison.b);
    let mut all = vec![
        (
            "size",
            difference::sizes(a.files.size_bytes(), b.files.size_bytes()),
        ),
        ("entries", {
            let (old, new) = (a.files.entries.len(), b.files.entries.len());
            if old == new {
                old.to_string()
            } else {
                format!("{old} -> {new}")
            }
        }),
    ];
    if let (Some(old), Some(new)) = (a.closure_bytes, b.closure_bytes) {
        all.push(("closure", difference::sizes(old, new)));
    }
    all
}

fn text(comparison: &Comparison, limit: usize) -> String {
    let (a, b) = (&comparison.a, &comparison.b);
    let mut out = format!("a  {} ({})\nb  {} ({})\n", a.name, a.kind, b.name, b.kind);
    for (what, value) in sizes(comparison) {
        out.push_str(&format!("{what}: {value}\n"));
    }
    for (title, list) in [
        ("packages", &comparison.packages),
        ("closure", &comparison.closure),
        ("inputs", &comparison.inputs),
    ] {
        if list.is_empty() {
            continue;
        }
        out.push_str(&format!("{title}: {}\n", size::count(list.len(), "change")));
        cut(&mut out, limit, list.iter().map(line));
    }
    if comparison.files.is_empty() {
        out.push_str("files: equal\n");
        if comparison.not_kept > 0 {
            out.push_str(&again::text(&format!(
                "both sides are one object; {} of it gave other content, which was not kept: `sos store info {}` lists them\n",
                size::count(comparison.not_kept, "build"),
                comparison.a.path
            )));
        }
        return out;
    }
    out.push_str(&format!(
        "files: {} ({})\n",
        size::count(comparison.files.len(), "path"),
        difference::counts(&comparison.files)
    ));
    cut(
        &mut out,
        limit,
        comparison.files.iter().map(difference::line),
    );
    for contents in comparison.contents.values() {
        out.push('\n');
        out.push_str(contents);
    }
    out
}

/// Adds lines, no more than `limit`.
fn cut(out: &mut String, limit: usize, lines: impl ExactSizeIterator<Item = String>) {
    let all = lines.len();
    let limit = if limit == 0 { all } else { limit };
    for line in lines.take(limit) {
        out.push_str(&format!("  {line}\n"));
    }
    if all > limit {
        out.push_str(&format!(
            "  and {} more; `--limit 0` shows all\n",
            all - limit
        ));
    }
}

/// The arguments that name one target.
fn target_args(text: &str) -> TargetArgs {
    TargetArgs {
        targets: vec![text.to_owned()],
        ..TargetArgs::default()
    }
}

#[cfg(test)]
mod tests {
    use sos_formats::derivation::Output;

    use super::*;

    #[test]
    fn inputs_are_compared_by_name() {
        let drv = |version: &str, json: &str| Derivation {
            system: "x86_64-linux".to_owned(),
            builder: b"builtin:x".to_vec(),
            args: vec![version.as_bytes().to_vec()],
            outputs: ["out", "dev"]
                .map(|name| (name.to_owned(), Output::Deferred))
                .into(),
            env: [
                ("__json", json),
                ("out", &format!("/{version}-x")),
                ("dev", &format!("/{version}-x-dev")),
                ("builder", "builtin:x"),
                ("doc", version),
            ]
            .map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec()))
            .into(),
            ..Derivation::default()
        };
        let found = inputs(
            &drv("1", r#"{"a": 1, "b": 2}"#),
            &drv("2", r#"{"a": 1, "c": 3}"#),
        );
        let lines: Vec<String> = found.iter().map(line).collect();
        assert_eq!(
            lines,
            [
                "argument 0: 1 -> 2",
                "attribute b: removed, 2",
                "attribute c: added, 3",
                "variable doc: 1 -> 2"
            ]
        );
    }
}
