//! Every dependency comes from the registry and under a licence that `deny.toml` allows.

use std::collections::BTreeSet;

fn allowed() -> BTreeSet<String> {
    let text = include_str!("../../deny.toml");
    let config: toml::Table = toml::from_str(text).expect("deny.toml parses");
    config["licenses"]["allow"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|l| l.as_str().expect("a string").to_owned())
        .collect()
}

/// True when an SPDX expression can be satisfied from `allowed`: AND binds tighter than OR, `/` is an old OR.
fn satisfied(expression: &str, allowed: &BTreeSet<String>) -> bool {
    let expression = expression.replace('/', " OR ");
    let expression = expression.trim();
    if let Some(split) = top_level(expression, " OR ") {
        return satisfied(split.0, allowed) || satisfied(split.1, allowed);
    }
    if let Some(split) = top_level(expression, " AND ") {
        return satisfied(split.0, allowed) && satisfied(split.1, allowed);
    }
    match expression
        .strip_prefix('(')
        .and_then(|e| e.strip_suffix(')'))
    {
        Some(inner) => satisfied(inner, allowed),
        None => allowed.contains(expression),
    }
}

fn top_level<'a>(expression: &'a str, word: &str) -> Option<(&'a str, &'a str)> {
    let mut depth = 0_i32;
    for (at, c) in expression.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ if depth == 0 && expression[at..].starts_with(word) => {
                return Some((&expression[..at], &expression[at + word.len()..]));
            }
            _ => {}
        }
    }
    None
}

#[test]
fn expressions_are_read_as_spdx_says() {
    let allowed: BTreeSet<String> = ["MIT".to_owned(), "ISC".to_owned()].into();
    for (expression, expected) in [
        ("MIT", true),
        ("GPL-3.0", false),
        ("GPL-3.0 OR MIT", true),
        ("GPL-3.0/MIT", true),
        ("GPL-3.0 AND MIT", false),
        ("(GPL-3.0 OR ISC) AND MIT", true),
        ("MIT AND (GPL-3.0 OR LGPL-2.1)", false),
    ] {
        assert_eq!(satisfied(expression, &allowed), expected, "{expression}");
    }
}

#[test]
fn dependencies_are_permissive_and_from_the_registry() {
    let allowed = allowed();
    let metadata = super::metadata(true);
    let packages = metadata["packages"].as_array().expect("packages");
    assert!(packages.len() > 50, "cargo metadata lists the dependencies");
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or("none");
        assert!(
            satisfied(licence, &allowed),
            "`{name}` is under `{licence}`"
        );
        if let Some(source) = package["source"].as_str() {
            assert!(
                source.starts_with("registry+"),
                "`{name}` comes from `{source}`"
            );
        }
    }
}
