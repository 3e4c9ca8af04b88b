//! Dropping what was chosen on the way and is needed by nothing in the end.

use std::collections::BTreeSet;

use super::Solver;
use super::state::Mode;
use crate::debian::universe::{Kind, PackageId, VersionId};

impl Solver<'_, '_> {
    /// Takes back new automatic packages that nothing reaches, except those without which something would lack a need.
    pub(super) fn sweep(&mut self) {
        let reached = self.reached();
        let mut dropped = Vec::new();
        for package in self.universe.package_ids() {
            let state = self.state(package);
            if state.is_new() && state.auto && !reached.contains(&package) {
                dropped.push(package);
            }
        }
        for package in &dropped {
            let state = self.state_mut(*package);
            state.mode = Mode::Keep;
            state.chosen = None;
        }
        self.restore_needed(&mut dropped);
    }

    /// Puts back what another package turns out to miss, until nothing more is.
    fn restore_needed(&mut self, dropped: &mut Vec<PackageId>) {
        while let Some(at) = dropped.iter().position(|package| self.is_missed(*package)) {
            let package = dropped.remove(at);
            let state = self.state_mut(package);
            state.chosen = state.candidate;
            state.mode = Mode::Install;
        }
    }

    /// Whether a chosen package names this one, or something it provides, in a need that does not hold without it.
    fn is_missed(&self, package: PackageId) -> bool {
        let Some(candidate) = self.state(package).candidate else {
            return false;
        };
        let mut chosen = self.states.iter().filter_map(|s| s.chosen);
        chosen.any(|owner| {
            let mut needs = self.universe.version(owner).dependencies.iter();
            needs.any(|d| {
                !d.kind.is_negative()
                    && self.is_important(d.kind)
                    && d.atoms.iter().any(|atom| {
                        self.hits_candidates(owner, d.kind, atom)
                            .contains(&candidate)
                    })
                    && !self.holds(owner, d)
            })
        })
    }

    /// Finds every chosen package that is reached from what the user or the system wants.
    fn reached(&self) -> BTreeSet<PackageId> {
        let mut reached = BTreeSet::new();
        let mut open: Vec<VersionId> = Vec::new();
        for package in self.universe.package_ids() {
            let (state, known) = (self.state(package), self.universe.package(package));
            let root = !state.auto || known.essential || known.important;
            if let Some(version) = state.chosen.filter(|_| root) {
                reached.insert(package);
                open.push(version);
            }
        }
        while let Some(owner) = open.pop() {
            for dependency in &self.universe.version(owner).dependencies {
                // Suggestions keep what is there although they do not install it.
                if !matches!(
                    dependency.kind,
                    Kind::PreDepends | Kind::Depends | Kind::Recommends | Kind::Suggests
                ) {
                    continue;
                }
                for version in dependency
                    .atoms
                    .iter()
                    .flat_map(|atom| self.hits_chosen(owner, dependency.kind, atom))
                {
                    if reached.insert(self.package_of(version)) {
                        open.push(version);
                    }
                }
            }
        }
        reached
    }
}
