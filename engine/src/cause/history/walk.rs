//! Which earlier derivation stood in the place of each one: two graphs are walked at once, from what was asked for by the same
//! attribute path.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use sos_formats::derivation::Derivation;
use sos_formats::store_path::StorePath;
use sos_store::{Store, StoreError};

use super::{built_of, inputs_of};
use crate::cause::alike::{Alike, read_kept};
use crate::cause::compare::{Side, is_same_elsewhere};
use crate::cause::pairing::Pairing;
use crate::cause::written::unversioned;
use crate::graph::Wanted;
use crate::needed::{Needed, Node};
use crate::resolve::resolve;

/// Projects elsewhere in which a target of the same words is looked at.
const ELSEWHERE: u32 = 16;

pub(super) fn before(
    store: &Store,
    project: &str,
    needed: &Needed,
    wanted: &[Wanted],
    attrs: &BTreeMap<StorePath, String>,
) -> Result<BTreeMap<StorePath, StorePath>, StoreError> {
    let walk = Walk {
        store,
        needed,
        nodes: needed.nodes.iter().map(|node| (&node.path, node)).collect(),
    };
    let mut found = BTreeMap::new();
    let mut todo = VecDeque::new();
    for want in wanted {
        let (Some(attr), Some(node)) = (attrs.get(&want.drv), walk.nodes.get(&want.drv)) else {
            continue;
        };
        if let Some(was) = walk.target(project, attr, node)?
            && was != want.drv
            && !found.contains_key(&want.drv)
        {
            found.insert(want.drv.clone(), was.clone());
            todo.push_back((want.drv.clone(), was));
        }
    }
    // Nearest first: a derivation that is reached on several ways gets what the shortest one says.
    while let Some((new, old)) = todo.pop_front() {
        let Some(node) = walk.nodes.get(&new) else {
            continue;
        };
        for (now, was) in walk.inputs(node, &old)? {
            if walk.nodes.contains_key(&now) && !found.contains_key(&now) {
                found.insert(now.clone(), was.clone());
                todo.push_back((now, was));
            }
        }
    }
    Ok(found)
}

/// What the two graphs are read from.
struct Walk<'a> {
    store: &'a Store,
    needed: &'a Needed,
    nodes: BTreeMap<&'a StorePath, &'a Node>,
}

impl Walk<'_> {
    /// A derivation of the run. One that cannot be read is an error when its turn comes.
    fn drv(&self, node: &Node) -> Option<Arc<Derivation>> {
        node.drv(self.store.store_dir()).ok()
    }

    /// What a target was the last time.
    fn target(
        &self,
        project: &str,
        attr: &str,
        node: &Node,
    ) -> Result<Option<StorePath>, StoreError> {
        if let Some(drv) = self.store.target(project, attr)? {
            return Ok(Some(drv));
        }
        // Of a store whose sos noted no targets.
        if let Some(step) = self.store.step_of_attr(project, attr)? {
            return Ok(Some(step.drv));
        }
        // The project may have been somewhere else: many projects have a target of the same words, and only one that is much alike
        // is taken for it.
        let elsewhere = self.store.targets_elsewhere(project, attr, ELSEWHERE)?;
        if elsewhere.is_empty() {
            return Ok(None);
        }
        let Some((resolved, from)) = self.resolved(node) else {
            return Ok(None);
        };
        for drv in elsewhere {
            if drv == node.path {
                return Ok(None);
            }
            let Some(old) = self.built(&drv)? else {
                continue;
            };
            let side = |drv, path| Side {
                name: Derivation::name_from_path(path),
                drv,
            };
            let from = |path: &StorePath| from.get(path).cloned();
            let read = |path: &StorePath| self.read(path);
            let alike = Alike::new(self.store, &drv, &from, None, &read);
            let is_same = is_same_elsewhere(
                self.store.store_dir(),
                &side(&old, &drv),
                &side(&resolved, &node.path),
                &|old, new| alike.in_common(old, new),
            );
            if is_same {
                return Ok(Some(drv));
            }
        }
        Ok(None)
    }

    /// Which derivations that one is made from now stand in the place of which ones that `old` was made from.
    fn inputs(
        &self,
        node: &Node,
        old: &StorePath,
    ) -> Result<Vec<(StorePath, StorePath)>, StoreError> {
        let Some(drv) = self.drv(node) else {
            return Ok(Vec::new());
        };
        let inputs = inputs_of(self.store, old)?;
        let was: BTreeSet<StorePath> = inputs.iter().filter_map(|(_, drv)| drv.clone()).collect();
        let (mut found, are_all) = pairs(&drv, &was);
        if !are_all {
            found.extend(self.of_texts(node, &drv, old, &inputs, &found)?);
        }
        Ok(found)
    }

    /// Pairs those that [`pairs`] left, by what is told in the two derivations.
    fn of_texts(
        &self,
        node: &Node,
        drv: &Derivation,
        old: &StorePath,
        inputs: &[(StorePath, Option<StorePath>)],
        found: &[(StorePath, StorePath)],
    ) -> Result<Vec<(StorePath, StorePath)>, StoreError> {
        let (Some((resolved, from)), Some(old_drv)) = (self.resolved(node), self.built(old)?)
        else {
            return Ok(Vec::new());
        };
        let was: BTreeMap<&StorePath, &StorePath> = inputs
            .iter()
            .filter_map(|(path, drv)| Some((path, drv.as_ref()?)))
            .collect();
        let drvs_before: BTreeSet<&StorePath> = was.values().copied().collect();
        let is_left = |drv: &StorePath| !found.iter().any(|(now, was)| drv == now || drv == was);
        let mut removed: Vec<StorePath> = was
            .iter()
            .filter(|(_, maker)| !drv.input_drvs.contains_key(**maker) && is_left(maker))
            .map(|(path, _)| (*path).clone())
            .collect();
        let mut added: Vec<StorePath> = from
            .iter()
            .filter(|(_, maker)| !drvs_before.contains(maker) && is_left(maker))
            .map(|(path, _)| path.clone())
            .collect();
        let made = |path: &StorePath| from.get(path).cloned();
        let read = |path: &StorePath| self.read(path);
        let alike = Alike::new(self.store, old, &made, None, &read);
        let in_common = |old: &StorePath, new: &StorePath| alike.in_common(old, new);
        let pairing = Pairing::new(self.store.store_dir(), &old_drv, &resolved, &in_common);
        let paired = pairing.pair(&mut removed, &mut added).into_iter();
        Ok(paired
            .filter_map(|(old, new)| Some((from.get(&new)?.clone(), (*was.get(&old)?).clone())))
            .collect())
    }

    /// A derivation of the run with every input a store path, and which derivation makes each.
    fn resolved(&self, node: &Node) -> Option<(Derivation, BTreeMap<StorePath, StorePath>)> {
        let dir = self.store.store_dir();
        let drv = self.drv(node)?;
        let inputs = self.needed.expected_inputs(dir, node, &drv).ok()?;
        let resolved = resolve(dir, &node.path, &drv, &inputs).ok()?;
        let made = inputs.into_iter().flat_map(|(drv, outputs)| {
            let paths = outputs.into_values();
            paths.map(move |path| (path, drv.clone()))
        });
        Some((resolved.drv, made.collect()))
    }

    /// A derivation as its builder saw it.
    fn built(&self, drv: &StorePath) -> Result<Option<Derivation>, StoreError> {
        let text = built_of(self.store, drv)?.and_then(|built| built.aterm);
        Ok(text.and_then(|text| Derivation::parse_aterm(&text, self.store.store_dir()).ok()))
    }

    fn read(&self, drv: &StorePath) -> Option<Derivation> {
        match self.nodes.get(drv) {
            Some(node) => self.drv(node).map(Arc::unwrap_or_clone),
            None => read_kept(self.store, drv),
        }
    }
}

/// Which new input stands in the place of which old one: by name, then by name without version, where there is one of each. Also
/// whether that is all that names can tell.
fn pairs(drv: &Derivation, old: &BTreeSet<StorePath>) -> (Vec<(StorePath, StorePath)>, bool) {
    let was = old
        .iter()
        .filter(|path| !drv.input_drvs.contains_key(*path));
    let now = drv.input_drvs.keys().filter(|path| !old.contains(*path));
    let (mut was, mut now): (Vec<&StorePath>, Vec<&StorePath>) = (was.collect(), now.collect());
    let mut found = Vec::new();
    let mut are_all = true;
    for name in [(|p| p) as fn(&str) -> &str, unversioned] {
        let mut groups: BTreeMap<&str, (Vec<&StorePath>, Vec<&StorePath>)> = BTreeMap::new();
        for path in &was {
            groups.entry(name(path.name())).or_default().0.push(path);
        }
        for path in &now {
            groups.entry(name(path.name())).or_default().1.push(path);
        }
        for (olds, news) in groups.values() {
            match (olds.as_slice(), news.as_slice()) {
                ([old], [new]) => {
                    found.push(((*new).clone(), (*old).clone()));
                    was.retain(|path| path != old);
                    now.retain(|path| path != new);
                }
                ([], _) | (_, []) => {}
                _ => are_all = false,
            }
        }
    }
    // What is left on both sides may have got another name.
    (found, are_all && (was.is_empty() || now.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(digit: char, name: &str) -> StorePath {
        StorePath::from_base(&format!("{}-{name}", digit.to_string().repeat(32))).unwrap()
    }

    #[test]
    fn inputs_are_paired_by_name_where_that_is_one() {
        let drv = Derivation {
            input_drvs: [
                path('1', "same.drv"),
                path('2', "libc-2.drv"),
                path('3', "tool.drv"),
                path('4', "twin.drv"),
                path('5', "twin.drv"),
            ]
            .map(|p| (p, BTreeSet::new()))
            .into(),
            ..Derivation::default()
        };
        let old = [
            path('1', "same.drv"),
            path('6', "libc-1.drv"),
            path('7', "tool.drv"),
            path('8', "twin.drv"),
            path('9', "gone.drv"),
        ]
        .into();
        let (found, are_all) = pairs(&drv, &old);
        assert_eq!(
            found,
            [
                (path('3', "tool.drv"), path('7', "tool.drv")),
                (path('2', "libc-2.drv"), path('6', "libc-1.drv")),
            ]
        );
        assert!(!are_all, "one of two twins is that of before");
    }
}
