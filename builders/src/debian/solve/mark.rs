//! The greedy pass: installing what was asked for, and, depth first, what that needs.
//!
//! The order of the questions is apt's, because each answer depends on what was chosen before: alternatives that are chosen
//! already win, then the first alternative in writing, then among providers the preferences of [`Solver::prefer`].

use std::cmp::Ordering;

use super::Solver;
use super::state::Mode;
use crate::debian::universe::{Dependency, MultiArch, PackageId, VersionId};

/// apt gives up at the same depth; real archives stay far below.
const MAX_DEPTH: u32 = 3000;

impl Solver<'_, '_> {
    /// Installs what was asked for: all of it first, so that the needs of one can be met by another.
    pub(super) fn mark_wanted(&mut self, wanted: &[VersionId]) {
        let mut packages = Vec::new();
        for version in wanted {
            let package = self.package_of(*version);
            let state = self.state_mut(package);
            state.candidate = Some(*version);
            state.protected = true;
            packages.push(package);
            self.install(package, false, true, 0);
        }
        for package in packages {
            self.install(package, true, true, 0);
        }
    }

    /// Marks a package for installation; with `resolve` also what it needs. Says whether that worked.
    pub(super) fn install(
        &mut self,
        package: PackageId,
        resolve: bool,
        by_user: bool,
        depth: u32,
    ) -> bool {
        let state = self.state(package);
        let (protected, mode, current) = (state.protected, state.mode, state.current);
        let Some(candidate) = state.candidate else {
            return false;
        };
        let settled = protected && mode == Mode::Keep && current == Some(candidate);
        if !settled && !self.may_change(package, Mode::Install, by_user, depth) {
            return false;
        }
        if !protected && !self.is_incomplete(package) {
            // What was there before is complete as it is.
            if current == Some(candidate) || mode == Mode::Install {
                return true;
            }
        }
        if resolve && current != Some(candidate) && !self.is_possible(candidate) {
            if !protected {
                let state = self.state_mut(package);
                state.candidate = None;
                state.mode = Mode::Keep;
            }
            return false;
        }
        if by_user {
            self.choose(package, true);
        }
        let fail_early = !protected && !by_user;
        let mut failed = false;
        let mut needs = Vec::new();
        if resolve {
            let (positive, negative) = self.open_relations(candidate, protected);
            needs = positive;
            if !self.remove_conflicts(candidate, &negative, protected, by_user) {
                if fail_early {
                    return false;
                }
                failed = true;
            }
        }
        if !by_user {
            self.choose(package, false);
        }
        if !resolve {
            return !failed;
        }
        // A package must not be taken away again by what it needs.
        self.state_mut(package).protected = true;
        let met = self.install_needs(candidate, &needs, protected, by_user, depth);
        self.state_mut(package).protected = protected;
        if !met {
            if fail_early {
                self.discard(package);
                return false;
            }
            failed = true;
        }
        !failed
    }

    fn may_change(&self, package: PackageId, mode: Mode, by_user: bool, depth: u32) -> bool {
        if depth > MAX_DEPTH || self.universe.package(package).versions.is_empty() {
            return false;
        }
        let state = self.state(package);
        by_user || state.mode == mode || !state.protected
    }

    /// Whether each need of a version has at least one candidate or chosen package.
    fn is_possible(&self, version: VersionId) -> bool {
        let needs = self.universe.version(version).dependencies.iter();
        let mut needs = needs.filter(|d| d.kind.is_critical() && !d.kind.is_negative());
        needs.all(|d| {
            self.holds(version, d)
                || d.atoms
                    .iter()
                    .any(|atom| !self.hits_candidates(version, d.kind, atom).is_empty())
        })
    }

    fn choose(&mut self, package: PackageId, by_user: bool) {
        let state = self.state_mut(package);
        if state.protected && state.chosen == state.candidate {
            return;
        }
        state.chosen = state.candidate;
        if state.current.is_none() {
            state.auto = !by_user;
        }
        state.mode = if state.chosen == state.current {
            Mode::Keep
        } else {
            Mode::Install
        };
    }

    /// Takes a package back and never considers it again.
    fn discard(&mut self, package: PackageId) {
        let state = self.state_mut(package);
        if state.mode == Mode::Keep
            && state.chosen == state.candidate
            && state.candidate == state.current
        {
            return;
        }
        state.chosen = state.current;
        state.mode = Mode::Keep;
        state.candidate = state.chosen;
    }

    pub(super) fn keep(&mut self, package: PackageId) -> bool {
        if !self.may_change(package, Mode::Keep, false, 0) {
            return false;
        }
        let state = self.state_mut(package);
        if state.mode != Mode::Keep {
            state.mode = Mode::Keep;
            state.chosen = state.current;
        }
        true
    }

    /// Splits the relations of a version that still ask for something into needs and conflicts.
    fn open_relations(&self, version: VersionId, protected: bool) -> (Vec<usize>, Vec<usize>) {
        let dependencies = &self.universe.version(version).dependencies;
        let open = |(i, d): (usize, &Dependency<'_>)| {
            // A protected package looks at satisfied relations too, to protect in turn what it has no choice about.
            (self.is_important(d.kind) && (protected || !self.holds(version, d))).then_some(i)
        };
        let open = dependencies.iter().enumerate().filter_map(open);
        open.partition(|i| !dependencies[*i].kind.is_negative())
    }

    fn remove_conflicts(
        &mut self,
        owner: VersionId,
        conflicts: &[usize],
        protected: bool,
        by_user: bool,
    ) -> bool {
        let universe = self.universe;
        let mut all_removed = true;
        for dependency in conflicts
            .iter()
            .map(|i| &universe.version(owner).dependencies[*i])
        {
            for atom in &dependency.atoms {
                let mut hit = self.hits_candidates(owner, dependency.kind, atom);
                self.sort_providers(atom.target, &mut hit);
                for version in hit {
                    let package = self.package_of(version);
                    let state = self.state(package);
                    if state.candidate != Some(version) {
                        continue;
                    }
                    if state.current == Some(version)
                        || (state.mode == Mode::Install && !self.keep(package))
                    {
                        all_removed = false;
                        if !protected && !by_user {
                            return false;
                        }
                    } else if protected {
                        // The user wants the owner, so what it cannot live with is out of the question for good.
                        let state = self.state_mut(package);
                        state.candidate = state.chosen;
                        state.protected |= state.current.is_none();
                    }
                }
            }
        }
        all_removed
    }

    fn install_needs(
        &mut self,
        owner: VersionId,
        needs: &[usize],
        protected: bool,
        by_user: bool,
        depth: u32,
    ) -> bool {
        let universe = self.universe;
        let mut all_met = true;
        for dependency in needs
            .iter()
            .map(|i| &universe.version(owner).dependencies[*i])
        {
            let critical = dependency.kind.is_critical();
            let met = if self.holds(owner, dependency) {
                if !protected {
                    continue;
                }
                !critical || self.protect_only_solution(owner, dependency, depth)
            } else {
                self.install_one_of(owner, dependency, protected, depth) || !critical
            };
            if !met {
                all_met = false;
                if !protected && !by_user {
                    return false;
                }
            }
        }
        all_met
    }

    /// Protects what already satisfies a need when nothing else can.
    fn protect_only_solution(
        &mut self,
        owner: VersionId,
        dependency: &Dependency<'_>,
        depth: u32,
    ) -> bool {
        let mut solutions = Vec::new();
        for atom in &dependency.atoms {
            solutions.extend(self.hits_candidates(owner, dependency.kind, atom));
            solutions.extend(
                self.universe
                    .matches(owner, dependency.kind, atom, |p| self.state(p).current),
            );
        }
        solutions.sort();
        solutions.dedup();
        solutions.retain(|version| !self.is_barred(*version));
        let [only] = solutions[..] else { return true };
        let package = self.package_of(only);
        if self.state(package).protected {
            return true;
        }
        self.state_mut(package).protected = true;
        self.install(package, true, false, depth + 1)
    }

    /// Installs the first solution of a need that works.
    fn install_one_of(
        &mut self,
        owner: VersionId,
        dependency: &Dependency<'_>,
        protected: bool,
        depth: u32,
    ) -> bool {
        let solutions = self.solutions(owner, dependency);
        let alone = solutions.len() == 1 && dependency.kind.is_critical();
        for version in solutions {
            let package = self.package_of(version);
            if self.state(package).candidate != Some(version) {
                continue;
            }
            if protected && alone {
                if !self.install(package, false, false, depth + 1) {
                    continue;
                }
                self.state_mut(package).protected = true;
            }
            if self.install(package, true, false, depth + 1) {
                return true;
            }
        }
        false
    }

    /// Lists the candidates that would satisfy a need, best first.
    pub(super) fn solutions(
        &self,
        owner: VersionId,
        dependency: &Dependency<'_>,
    ) -> Vec<VersionId> {
        let mut here = Vec::new();
        let mut new = Vec::new();
        for atom in &dependency.atoms {
            let mut hit = self.hits_candidates(owner, dependency.kind, atom);
            self.sort_providers(atom.target, &mut hit);
            for version in hit {
                let list = if self.state(self.package_of(version)).current.is_some() {
                    &mut here
                } else {
                    &mut new
                };
                list.push(version);
            }
        }
        here.append(&mut new);
        here.dedup();
        here.retain(|version| !self.is_barred(*version));
        here
    }

    /// Whether the package must stay away.
    fn is_barred(&self, version: VersionId) -> bool {
        let state = self.state(self.package_of(version));
        state.protected && state.mode == Mode::Keep && state.current.is_none()
    }

    fn sort_providers(&self, target: PackageId, versions: &mut [VersionId]) {
        versions.sort_by(|a, b| self.prefer(target, *a, *b));
    }

    /// Orders two versions that both satisfy a relation with `target`.
    fn prefer(&self, target: PackageId, a: VersionId, b: VersionId) -> Ordering {
        let (pa, pb) = (self.package_of(a), self.package_of(b));
        let (sa, sb) = (self.state(pa), self.state(pb));
        let same_arch_here = |version: VersionId, package: PackageId| {
            self.universe.version(version).multi_arch == MultiArch::Same
                && self.state(package).current.is_some()
        };
        let priority = |version: VersionId| self.universe.version(version).priority;
        let first = |a: bool, b: bool| b.cmp(&a);
        first(sa.protected, sb.protected)
            .then_with(|| first(same_arch_here(a, pa), same_arch_here(b, pb)))
            .then_with(|| first(sa.current.is_some(), sb.current.is_some()))
            // The package that is meant by name comes before those that only provide it.
            .then_with(|| first(pa == target, pb == target))
            .then_with(|| {
                first(
                    self.universe.package(pa).essential,
                    self.universe.package(pb).essential,
                )
            })
            .then_with(|| {
                first(
                    self.universe.package(pa).important,
                    self.universe.package(pb).important,
                )
            })
            .then_with(|| priority(a).cmp(&priority(b)))
            .then_with(|| pb.cmp(&pa))
    }
}
