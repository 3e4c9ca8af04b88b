//! Every code of a problem is explained, and nothing else is.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::support::World;

/// Words that begin as codes do and are none, each with what it is.
const NO_CODES: &[&str] = &[
    // A command of git.
    "check-attr",
    // An attribute of git, a feature and a setting of the language.
    "export-ignore",
    "fetch-closure",
    "parse-toml-timestamps",
    // A package of Debian, a file of an image, a header of registries, a state in a graph.
    "build-essential",
    "oci-layout",
    "oci-filters-applied",
    "oci-chunk-min-length",
    // A transport of images.
    "oci-archive",
    "not-needed",
];

/// What begins the codes of the tree: the first part of each one that is explained.
fn families(explained: &BTreeSet<String>) -> BTreeSet<String> {
    let begin = |code: &String| code.split('-').next().unwrap_or_default().to_owned();
    explained.iter().map(begin).collect()
}

fn explained() -> BTreeSet<String> {
    let told = World::new().sos(["explain", "--json"]).ok().stdout;
    let told: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    let all = told.as_array().expect("a list").iter();
    all.map(|one| one["code"].as_str().expect("a code").to_owned())
        .collect()
}

/// String literals of a source before its tests, each with the text before it.
fn literals(text: &str) -> Vec<(&str, &str)> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or("");
    let mut found = Vec::new();
    for line_start in text.match_indices('"').map(|(at, _)| at) {
        let rest = &text[line_start + 1..];
        let is_code = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let end = rest.find(|c| !is_code(c)).unwrap_or(rest.len());
        if end > 0 && rest[end..].starts_with('"') {
            found.push((text[..line_start].trim_end(), &rest[..end]));
        }
    }
    found
}

/// Codes that the tree uses, each with a file.
fn used(families: &BTreeSet<String>) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let out = Command::new("git")
        .args([
            "ls-files",
            "-z",
            "--cached",
            "--others",
            "--exclude-standard",
            "*.rs",
        ])
        .current_dir(root)
        .output()
        .expect("git runs");
    let listed = String::from_utf8(out.stdout).expect("names of files");
    let mut used = BTreeMap::new();
    for name in listed.split('\0').filter(|name| !name.is_empty()) {
        if name.starts_with("tests/") || name.contains("/tests") || name.contains("_tests") {
            continue;
        }
        // What is listed may have been deleted.
        let text = fs::read_to_string(root.join(name)).unwrap_or_default();
        for (before, literal) in literals(&text) {
            let made =
                before.ends_with("Diagnostic::error(") || before.ends_with("Diagnostic::warning(");
            let (first, rest) = literal.split_once('-').unwrap_or((literal, ""));
            let alike = families.contains(first) && !rest.is_empty();
            if (made || alike) && !NO_CODES.contains(&literal) {
                used.entry(literal.to_owned()).or_insert(name.to_owned());
            }
        }
    }
    used
}

#[test]
fn every_code_is_explained_and_nothing_else() {
    let explained = explained();
    assert!(explained.len() > 200, "{}", explained.len());
    let used = used(&families(&explained));
    let missing: Vec<_> = used
        .iter()
        .filter(|(code, _)| !explained.contains(*code))
        .collect();
    assert!(missing.is_empty(), "used and not explained: {missing:#?}");
    let idle: Vec<_> = explained
        .iter()
        .filter(|code| !used.contains_key(*code))
        .collect();
    assert!(idle.is_empty(), "explained and not used: {idle:?}");
}
