//! Taking out what does not fit: after the greedy pass, of two packages that exclude each other the lesser one goes.
//!
//! What counts is apt's score: priority, being essential, and how much depends on a package. Nothing is put in its place
//! here; when more than leaving out is needed, the search takes over.

use std::cmp::Reverse;

use super::Solver;
use super::state::Mode;
use crate::debian::universe::{Dependency, Kind, PackageId, VersionId};

/// apt gives up after as many rounds.
const MAX_ROUNDS: usize = 20;

impl Solver<'_, '_> {
    /// Leaves out packages until nothing is broken, or until that does not help.
    pub(super) fn repair(&mut self) {
        let scores = self.scores();
        let score = |package: PackageId| scores[package.index()];
        let mut packages: Vec<PackageId> = self.universe.package_ids().collect();
        packages.sort_by_key(|package| Reverse(score(*package)));
        for _ in 0..MAX_ROUNDS {
            let mut changed = false;
            for package in &packages {
                changed |= self.repair_one(*package, &score);
            }
            if !changed {
                return;
            }
        }
    }

    fn repair_one(&mut self, package: PackageId, score: &impl Fn(PackageId) -> i64) -> bool {
        let universe = self.universe;
        let Some(version) = self.state(package).chosen else {
            return false;
        };
        let broken =
            |solver: &Self, d: &&Dependency<'_>| d.kind.is_critical() && !solver.holds(version, d);
        let dependencies: Vec<_> = universe
            .version(version)
            .dependencies
            .iter()
            .filter(|d| broken(self, d))
            .collect();
        let protected = self.state(package).protected;
        let mut lesser = Vec::new();
        for dependency in dependencies {
            if !dependency.kind.is_negative() {
                if !protected {
                    return self.leave_out(package);
                }
                continue;
            }
            for hit in dependency
                .atoms
                .iter()
                .flat_map(|atom| self.hits_chosen(version, dependency.kind, atom))
            {
                let other = self.package_of(hit);
                if score(package) > score(other) {
                    lesser.push(other);
                } else if !protected {
                    return self.leave_out(package);
                }
            }
        }
        let mut changed = false;
        for other in lesser {
            changed |= self.leave_out(other);
        }
        changed
    }

    fn leave_out(&mut self, package: PackageId) -> bool {
        let was_there = self.state(package).mode == Mode::Install;
        was_there && self.keep(package)
    }

    /// Scores every package by what the chosen ones are and say.
    fn scores(&self) -> Vec<i64> {
        let universe = self.universe;
        let chosen: Vec<VersionId> = self.states.iter().filter_map(|s| s.chosen).collect();
        let mut scores = vec![0; self.states.len()];
        for version in &chosen {
            let found = universe.version(*version);
            let package = universe.package(found.package);
            let priority = [0, 3, 2, 1, -1, -2]
                .get(usize::from(found.priority))
                .copied()
                .unwrap_or(0);
            scores[found.package.index()] += priority
                + if package.essential || package.important {
                    100
                } else {
                    0
                };
            for dependency in &found.dependencies {
                self.score_relation(*version, dependency, &mut scores);
            }
        }
        // One level further: what important packages need is important.
        let own = scores.clone();
        for version in &chosen {
            let found = universe.version(*version);
            let parent = own[found.package.index()].max(0);
            let needs = found
                .dependencies
                .iter()
                .filter(|d| matches!(d.kind, Kind::PreDepends | Kind::Depends | Kind::Recommends));
            for atom in needs.flat_map(|d| &d.atoms) {
                if self.state(atom.target).chosen.is_some() {
                    scores[atom.target.index()] += parent;
                }
            }
        }
        let inherited: Vec<(PackageId, i64)> = universe
            .package_ids()
            .map(|p| (p, (scores[p.index()] - own[p.index()]).abs()))
            .collect();
        for (package, transfer) in inherited.into_iter().filter(|(_, transfer)| *transfer > 0) {
            let mut owners: Vec<VersionId> = universe
                .package(package)
                .providers
                .iter()
                .map(|p| p.owner)
                .collect();
            owners.sort();
            owners.dedup();
            for owner in owners.into_iter().filter(|owner| self.is_chosen(*owner)) {
                scores[self.package_of(owner).index()] += transfer;
            }
        }
        for package in universe.package_ids() {
            let known = universe.package(package);
            let state = self.state(package);
            let is_wanted = state.protected && state.chosen.is_some() && !state.auto;
            let wanted = if is_wanted { 10_000 } else { 0 };
            scores[package.index()] += wanted
                + if known.essential || known.important {
                    5_000
                } else {
                    0
                };
        }
        scores
    }

    fn score_relation(&self, owner: VersionId, dependency: &Dependency<'_>, scores: &mut [i64]) {
        let weight = match dependency.kind {
            Kind::PreDepends | Kind::Depends | Kind::Recommends => 1,
            Kind::Conflicts | Kind::Breaks => -1,
            Kind::Suggests => return,
        };
        for atom in &dependency.atoms {
            let target = self.state(atom.target).chosen;
            let hits = self.hits_chosen(owner, dependency.kind, atom);
            let is_hit = target.is_some_and(|v| hits.contains(&v));
            if atom.condition.is_some() && !is_hit {
                continue;
            }
            if is_hit || atom.target != self.package_of(owner) {
                scores[atom.target.index()] += weight;
            }
            // A package that provides its own name counts twice.
            let providers = &self.universe.package(atom.target).providers;
            let own =
                |v: &VersionId| target == Some(*v) && !providers.iter().any(|p| p.owner == *v);
            for hit in hits.into_iter().filter(|v| !own(v)) {
                scores[self.package_of(hit).index()] += weight;
            }
        }
    }
}
