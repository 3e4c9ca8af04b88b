//! The arrows between crates point down only (ARCHITECTURE.md, "Crates").

use std::collections::{BTreeMap, BTreeSet};

/// Crate and the crates of this workspace that it may use.
const ALLOWED: &[(&str, &[&str])] = &[
    (
        "sos",
        &[
            "sos-formats",
            "sos-lang",
            "sos-store",
            "sos-engine",
            "sos-builders",
            "sos-recipes",
            "sos-serve",
        ],
    ),
    ("sos-formats", &[]),
    ("sos-lang", &["sos-formats"]),
    ("sos-store", &["sos-formats"]),
    ("sos-engine", &["sos-formats", "sos-store"]),
    ("sos-builders", &["sos-formats", "sos-store", "sos-engine"]),
    ("sos-recipes", &["sos-formats", "sos-lang"]),
    ("sos-serve", &["sos-formats", "sos-store"]),
];

/// Crates whose bytes are the identity stay free of async and of databases.
const FORBIDDEN: &[(&str, &[&str])] = &[
    (
        "sos-formats",
        &["tokio", "rusqlite", "rustix", "libc", "walkdir"],
    ),
    ("sos-lang", &["tokio", "rusqlite", "rustix", "walkdir"]),
    ("sos-recipes", &["tokio", "rusqlite"]),
    ("sos-store", &["tokio", "reqwest"]),
    (
        "sos-engine",
        &["reqwest", "pgp", "oci-spec", "rnix", "hyper"],
    ),
    ("sos-serve", &["reqwest", "rusqlite"]),
];

fn edges() -> BTreeMap<String, BTreeSet<String>> {
    let metadata = super::metadata(false);
    let mut out = BTreeMap::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = package["name"].as_str().expect("name").to_owned();
        let uses = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter()
            .filter(|d| d["kind"].is_null())
            .map(|d| d["name"].as_str().expect("name").to_owned())
            .collect();
        out.insert(name, uses);
    }
    out
}

#[test]
fn arrows_point_down_only() {
    let edges = edges();
    let known: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    for (name, uses) in &edges {
        assert!(
            known.contains(name.as_str()),
            "crate `{name}` is not in the drawing; add it here and to ARCHITECTURE.md"
        );
        let allowed = ALLOWED
            .iter()
            .find(|(n, _)| n == name)
            .map_or(&[][..], |(_, a)| a);
        for used in uses.iter().filter(|u| u.starts_with("sos")) {
            assert!(
                allowed.contains(&used.as_str()),
                "`{name}` may not use `{used}`"
            );
        }
    }
}

#[test]
fn heavy_libraries_stay_where_they_belong() {
    let edges = edges();
    for (name, forbidden) in FORBIDDEN {
        for library in *forbidden {
            assert!(
                !edges[*name].contains(*library),
                "`{name}` may not use `{library}`"
            );
        }
    }
}
