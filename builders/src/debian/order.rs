//! The order of installation: what comes first, what must be configured before something else is unpacked, and why each
//! package is there.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::universe::{Dependency, Kind, PackageId, Universe, VersionId};

/// A set of packages that is installed in one go.
pub(crate) struct Set<'s, 'a> {
    universe: &'s Universe<'a>,
    chosen: BTreeMap<PackageId, VersionId>,
    /// Chosen too, and configured before.
    before: BTreeMap<PackageId, VersionId>,
}

impl<'s, 'a> Set<'s, 'a> {
    pub(crate) fn new(
        universe: &'s Universe<'a>,
        versions: &[VersionId],
        before: &[VersionId],
    ) -> Self {
        let map = |list: &[VersionId]| {
            list.iter()
                .map(|v| (universe.version(*v).package, *v))
                .collect()
        };
        Self {
            universe,
            chosen: map(versions),
            before: map(before),
        }
    }

    /// Orders the set by batch, and inside a batch so that what a package needs comes before it where there is no cycle.
    /// All of a batch and of those before can be configured before the next is unpacked.
    pub(crate) fn batches(&self) -> Vec<(VersionId, u32)> {
        let order = self.depth_first();
        let number = self.numbers(&order);
        let mut batches: Vec<_> = order
            .iter()
            .map(|v| (*v, number.get(v).copied().unwrap_or(0)))
            .collect();
        batches.sort_by_key(|(_, batch)| *batch);
        batches
    }

    /// Gives each package the length of the longest chain of Pre-Depends below it. A dependency must be at hand to configure a
    /// package, so it is never in a later batch; a pre-dependency must be configured, so it is in an earlier one.
    fn numbers(&self, order: &[VersionId]) -> BTreeMap<VersionId, u32> {
        let mut number: BTreeMap<VersionId, u32> = order.iter().map(|v| (*v, 0)).collect();
        // A cycle through a Pre-Depends has no such numbers; the bound then ends the search and dpkg decides.
        for _ in 0..=order.len() {
            let mut changed = false;
            for version in order {
                let mut own = number[version];
                for (needed, kind) in self.needs(*version) {
                    let least = number[&needed] + u32::from(kind == Kind::PreDepends);
                    own = own.max(least);
                }
                if own > number[version] && own as usize <= order.len() {
                    number.insert(*version, own);
                    changed = true;
                }
            }
            if !changed {
                break;
            }
        }
        number
    }

    fn depth_first(&self) -> Vec<VersionId> {
        let mut starts: Vec<_> = self.chosen.values().copied().collect();
        starts.sort_by_key(|v| (Reverse(self.weight(*v)), self.universe.name_of(*v)));
        let mut done = BTreeSet::new();
        let mut order = Vec::new();
        for start in starts {
            // An explicit stack: the depth of foreign data must not be the depth of ours.
            let mut stack = vec![(start, None::<std::vec::IntoIter<VersionId>>)];
            while let Some((version, needs)) = stack.pop() {
                let mut needs = match needs {
                    Some(needs) => needs,
                    None if !done.insert(version) => continue,
                    None => self
                        .needs(version)
                        .into_iter()
                        .map(|(v, _)| v)
                        .collect::<Vec<_>>()
                        .into_iter(),
                };
                match needs.find(|v| !done.contains(v)) {
                    Some(next) => {
                        stack.push((version, Some(needs)));
                        stack.push((next, None));
                    }
                    None => order.push(version),
                }
            }
        }
        order
    }

    /// How early apt would like to unpack a package: maintainer scripts see the order, so it is kept.
    fn weight(&self, version: VersionId) -> u32 {
        let found = self.universe.version(version);
        let essential = self.universe.package(found.package).essential;
        let pre_depends = found
            .dependencies
            .iter()
            .any(|d| d.kind == Kind::PreDepends);
        let priority = [0, 5, 4, 3, 1, 0]
            .get(usize::from(found.priority))
            .copied()
            .unwrap_or(0);
        200 * u32::from(essential) + 50 * u32::from(pre_depends) + priority
    }

    /// Lists what a package of the set needs from the set, Pre-Depends first.
    fn needs(&self, version: VersionId) -> Vec<(VersionId, Kind)> {
        let mut needs = Vec::new();
        for kind in [Kind::PreDepends, Kind::Depends] {
            for dependency in self
                .universe
                .version(version)
                .dependencies
                .iter()
                .filter(|d| d.kind == kind)
            {
                // What is configured before satisfies it already; of several in the set the first is enough.
                let satisfied = self.satisfying(version, dependency, &self.before);
                let in_set = self.satisfying(version, dependency, &self.chosen);
                if satisfied.is_empty() {
                    needs.extend(
                        in_set
                            .first()
                            .filter(|v| **v != version)
                            .map(|v| (*v, kind)),
                    );
                }
            }
        }
        needs
    }

    fn satisfying(
        &self,
        owner: VersionId,
        dependency: &Dependency<'_>,
        among: &BTreeMap<PackageId, VersionId>,
    ) -> Vec<VersionId> {
        let hits = |atom| {
            self.universe
                .matches(owner, dependency.kind, atom, |p| among.get(&p).copied())
        };
        dependency.atoms.iter().flat_map(hits).collect()
    }

    /// Says for each package of the set that is not a root which other one brought it: `depends:NAME` or `recommends:NAME`.
    pub(crate) fn reasons(&self, roots: &[VersionId]) -> BTreeMap<VersionId, String> {
        let mut reasons: BTreeMap<VersionId, String> = BTreeMap::new();
        let mut seen: BTreeSet<VersionId> = roots.iter().copied().collect();
        for kinds in [
            &[Kind::PreDepends, Kind::Depends][..],
            &[Kind::PreDepends, Kind::Depends, Kind::Recommends],
        ] {
            // Nearest first, so that the reason is the shortest one; recommendations only for what nothing needs.
            let mut queue: Vec<VersionId> = roots
                .iter()
                .copied()
                .chain(reasons.keys().copied())
                .collect();
            let mut next = 0;
            while let Some(owner) = queue.get(next).copied() {
                next += 1;
                for dependency in self
                    .universe
                    .version(owner)
                    .dependencies
                    .iter()
                    .filter(|d| kinds.contains(&d.kind))
                {
                    for version in self.satisfying(owner, dependency, &self.chosen) {
                        if seen.insert(version) {
                            let word = if dependency.kind == Kind::Recommends {
                                "recommends"
                            } else {
                                "depends"
                            };
                            reasons.insert(
                                version,
                                format!("{word}:{}", self.universe.name_of(owner)),
                            );
                            queue.push(version);
                        }
                    }
                }
            }
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::universe::tests::index;

    #[track_caller]
    fn check(packages: &[&str], before: &[&str], expected: &str) {
        let text = index(packages);
        let mut universe = Universe::new("amd64");
        universe.add_index(&text, 0, 500).expect("valid");
        let all: Vec<_> = universe
            .package_ids()
            .filter_map(|p| universe.default_candidate(p))
            .collect();
        let (before, chosen): (Vec<_>, Vec<_>) = all
            .into_iter()
            .partition(|v| before.contains(&universe.name_of(*v)));
        let batches = Set::new(&universe, &chosen, &before).batches();
        let shown: Vec<_> = batches
            .iter()
            .map(|(v, batch)| format!("{}:{batch}", universe.name_of(*v)))
            .collect();
        assert_eq!(shown.join(" "), expected);
    }

    #[test]
    fn needs_come_first() {
        check(
            &["a 1 ; Depends: b, c", "b 1 ; Depends: d", "c 1", "d 1"],
            &[],
            "d:0 b:0 c:0 a:0",
        );
    }

    #[test]
    fn a_pre_dependency_and_all_it_needs_is_configured_earlier() {
        let packages = [
            "a 1 ; Pre-Depends: init",
            "init 1 ; Depends: lib",
            "lib 1",
            "z 1 ; Depends: a",
            "y 1",
        ];
        check(&packages, &[], "lib:0 init:0 y:0 a:1 z:1");
        check(&packages, &["init", "lib"], "a:0 y:0 z:0");
    }

    #[test]
    fn chains_of_pre_dependencies_are_as_many_batches() {
        check(
            &[
                "a 1 ; Pre-Depends: b",
                "b 1 ; Depends: c",
                "c 1 ; Pre-Depends: d",
                "d 1",
            ],
            &[],
            "d:0 c:1 b:1 a:2",
        );
    }

    #[test]
    fn cycles_stay_together() {
        check(
            &[
                "a 1 ; Depends: b",
                "b 1 ; Depends: a ; Pre-Depends: c",
                "c 1",
            ],
            &[],
            "c:0 a:1 b:1",
        );
        // Broken by design, and still an order.
        check(
            &["a 1 ; Pre-Depends: b", "b 1 ; Pre-Depends: a"],
            &[],
            "b:1 a:2",
        );
    }

    #[test]
    fn reasons_are_the_nearest_need() {
        let text = index(&[
            "a 1 ; Depends: b ; Recommends: r",
            "b 1 ; Depends: c",
            "c 1",
            "r 1 ; Depends: c, s",
            "s 1",
        ]);
        let mut universe = Universe::new("amd64");
        universe.add_index(&text, 0, 500).expect("valid");
        let all: Vec<_> = universe
            .package_ids()
            .filter_map(|p| universe.default_candidate(p))
            .collect();
        let reasons = Set::new(&universe, &all, &[]).reasons(&all[..1]);
        let shown: Vec<_> = reasons
            .iter()
            .map(|(v, why)| format!("{} {why}", universe.name_of(*v)))
            .collect();
        assert_eq!(
            shown.join(", "),
            "b depends:a, c depends:b, r recommends:a, s depends:r"
        );
    }
}
