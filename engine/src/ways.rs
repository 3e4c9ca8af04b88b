//! The shortest ways from one thing to another, in any graph of store paths.

use std::collections::{BTreeMap, BTreeSet};

use sos_formats::diagnostic::Diagnostic;
use sos_formats::store_path::StorePath;
use sos_store::Store;

use crate::diagnose::store_failed;
use crate::graph::Graph;
use crate::needed::load;

/// Gives what a path leads to.
type Next<'a> = dyn Fn(&StorePath) -> Result<Vec<StorePath>, Box<Diagnostic>> + 'a;

/// Finds all shortest ways from any of `from` to the nearest path that is `wanted`, at most `limit`; each begins with one of `from`.
/// What is in `from` is no end itself.
fn shortest(
    from: &[StorePath],
    wanted: &dyn Fn(&StorePath) -> bool,
    next: &Next<'_>,
    limit: usize,
) -> Result<Vec<Vec<StorePath>>, Box<Diagnostic>> {
    let mut met: BTreeSet<StorePath> = from.iter().cloned().collect();
    let mut by: BTreeMap<StorePath, Vec<StorePath>> = BTreeMap::new();
    let mut level: Vec<StorePath> = met.iter().cloned().collect();
    let mut ends: BTreeSet<StorePath> = BTreeSet::new();
    while ends.is_empty() && !level.is_empty() {
        let mut below: BTreeSet<StorePath> = BTreeSet::new();
        for path in &level {
            for to in next(path)? {
                if met.contains(&to) {
                    continue;
                }
                if wanted(&to) {
                    ends.insert(to.clone());
                }
                by.entry(to.clone()).or_default().push(path.clone());
                below.insert(to);
            }
        }
        met.extend(below.iter().cloned());
        level = below.into_iter().collect();
    }
    let mut found = Vec::new();
    let mut todo: Vec<Vec<StorePath>> = ends.into_iter().rev().map(|end| vec![end]).collect();
    while let Some(way) = todo.pop() {
        let before = way.last().and_then(|path| by.get(path));
        match before {
            Some(before) => todo.extend(before.iter().rev().map(|path| {
                let mut longer = way.clone();
                longer.push(path.clone());
                longer
            })),
            None => {
                found.push(way.into_iter().rev().collect());
                if found.len() == limit {
                    break;
                }
            }
        }
    }
    Ok(found)
}

/// The shortest ways by which a derivation is built from something: through derivations, perhaps to a source.
///
/// # Errors
/// When a derivation is neither in the graph nor in the store, or the store fails.
pub fn ways_of_build(
    store: &Store,
    graph: &Graph,
    from: &StorePath,
    wanted: &dyn Fn(&StorePath) -> bool,
    limit: usize,
) -> Result<Vec<Vec<StorePath>>, Box<Diagnostic>> {
    let next = |path: &StorePath| {
        if !path.name().ends_with(".drv") {
            return Ok(Vec::new());
        }
        let drv = load(store, graph, path)?;
        let inputs = drv.input_drvs.keys().chain(&drv.input_srcs);
        Ok(inputs.cloned().collect())
    };
    shortest(std::slice::from_ref(from), wanted, &next, limit)
}

/// The shortest ways by which store objects refer to another one.
///
/// # Errors
/// When the store fails.
pub fn ways_of_references(
    store: &Store,
    from: &[StorePath],
    wanted: &dyn Fn(&StorePath) -> bool,
    limit: usize,
) -> Result<Vec<Vec<StorePath>>, Box<Diagnostic>> {
    let next = |path: &StorePath| {
        let info = store.query(path).map_err(store_failed)?;
        let references = info.map(|info| info.references).unwrap_or_default();
        Ok(references.into_iter().collect())
    };
    shortest(from, wanted, &next, limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(name: char) -> StorePath {
        StorePath::from_base(&format!("{}-{name}", "1".repeat(32))).unwrap()
    }

    #[track_caller]
    fn check(edges: &[&str], end: char, limit: usize, expect: &[&str]) {
        let next = |path: &StorePath| {
            let name = path.name();
            let to = edges.iter().filter(|e| e.starts_with(name));
            Ok(to
                .filter_map(|e| e.chars().nth(1))
                .map(self::path)
                .collect())
        };
        let wanted = |path: &StorePath| path.name() == end.to_string();
        let found = shortest(&[path('a')], &wanted, &next, limit).unwrap();
        let found: Vec<String> = found
            .iter()
            .map(|way| way.iter().map(StorePath::name).collect())
            .collect();
        assert_eq!(found, expect);
    }

    #[test]
    fn all_shortest_ways_are_found_and_no_longer_ones() {
        let edges = ["ab", "ac", "bd", "cd", "de", "ae", "ba", "ax", "xy", "yd"];
        check(&edges, 'd', 10, &["abd", "acd"]);
        check(&edges, 'd', 1, &["abd"]);
        check(&edges, 'e', 10, &["ae"]);
        check(&edges, 'z', 10, &[]);
        check(&edges, 'a', 10, &[]);
    }
}
