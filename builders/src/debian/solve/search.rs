//! A complete search for the cases in which the greedy pass fails: conflict-driven, with the same preferences.
//!
//! One variable per package says whether its candidate is installed. Clauses are made when a package is first installed, so
//! only what can matter is ever looked at. A decision always installs the most preferred open solution of the oldest open
//! need, what the greedy pass chose before all else, so that the outcome stays near to it; what is never asked for stays away. Recommendations are tried one by one afterwards, and dropped if they conflict.

use std::collections::{BTreeMap, BTreeSet};

use super::explain::explain;
use super::{Solver, Unsatisfiable, Wish};
use crate::debian::universe::{Kind, PackageId, Universe, VersionId};

/// Where a clause comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    /// The package must be installed.
    Wanted(PackageId),
    /// The package must stay away.
    Excluded(PackageId),
    /// A relation of a version, by position.
    Relation(VersionId, usize),
    /// Follows from other clauses.
    Learned(Vec<usize>),
}

/// A package that is installed or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Literal {
    package: PackageId,
    installed: bool,
}

impl Literal {
    fn not(self) -> Self {
        Self {
            installed: !self.installed,
            ..self
        }
    }
}

/// At least one of the literals holds.
#[derive(Debug, Clone)]
pub(super) struct Clause {
    literals: Vec<Literal>,
    pub(super) origin: Origin,
}

/// Why a package has its value.
#[derive(Debug, Clone, Copy)]
struct Assigned {
    installed: bool,
    level: usize,
    reason: Option<usize>,
}

#[derive(Clone)]
struct Search<'s, 'u, 'a> {
    solver: &'s Solver<'u, 'a>,
    /// What the greedy pass chose.
    greedy: &'s BTreeSet<PackageId>,
    clauses: Vec<Clause>,
    /// The clauses that a value of a package can make false, by literal that would have to hold.
    watched: BTreeMap<Literal, Vec<usize>>,
    values: BTreeMap<PackageId, Assigned>,
    trail: Vec<Literal>,
    done: usize,
    levels: Vec<usize>,
    expanded: BTreeSet<PackageId>,
}

/// Finds a set that satisfies the wish, or says why there is none.
pub(super) fn search(
    universe: &Universe<'_>,
    wish: &Wish,
    greedy: &BTreeSet<PackageId>,
) -> Result<Vec<VersionId>, Unsatisfiable> {
    let mut solver = Solver::new(universe, wish);
    for version in &wish.wanted {
        let package = solver.package_of(*version);
        solver.state_mut(package).candidate = Some(*version);
    }
    let mut search = Search::new(&solver, greedy);
    let wanted = wish
        .installed
        .iter()
        .chain(&wish.wanted)
        .map(|v| (solver.package_of(*v), true));
    let excluded = wish.excluded.iter().map(|p| (*p, false));
    for (package, installed) in wanted.chain(excluded) {
        let origin = if installed {
            Origin::Wanted(package)
        } else {
            Origin::Excluded(package)
        };
        search.add(vec![Literal { package, installed }], origin);
    }
    search
        .solve(0)
        .map_err(|conflict| explain(&solver, &search.clauses, conflict))?;
    if wish.recommends {
        search = search.with_recommendations();
    }
    let installed = search
        .trail
        .iter()
        .filter(|l| l.installed)
        .map(|l| l.package);
    let new = installed.filter(|p| solver.state(*p).current.is_none());
    let mut versions: Vec<_> = new.filter_map(|p| solver.state(p).candidate).collect();
    versions.sort();
    Ok(versions)
}

impl<'s, 'u, 'a> Search<'s, 'u, 'a> {
    fn new(solver: &'s Solver<'u, 'a>, greedy: &'s BTreeSet<PackageId>) -> Self {
        Self {
            solver,
            greedy,
            clauses: Vec::new(),
            watched: BTreeMap::new(),
            values: BTreeMap::new(),
            trail: Vec::new(),
            done: 0,
            levels: Vec::new(),
            expanded: BTreeSet::new(),
        }
    }

    fn add(&mut self, literals: Vec<Literal>, origin: Origin) -> usize {
        let id = self.clauses.len();
        for literal in &literals {
            self.watched.entry(*literal).or_default().push(id);
        }
        self.clauses.push(Clause { literals, origin });
        id
    }

    fn value(&self, literal: Literal) -> Option<bool> {
        self.values
            .get(&literal.package)
            .map(|v| v.installed == literal.installed)
    }

    /// Completes the assignment without giving up what was decided at or below the level `base`.
    /// Fails with the clause that cannot hold.
    fn solve(&mut self, base: usize) -> Result<(), usize> {
        // Units may have been added since; looking at every clause once finds them.
        let mut check_all = true;
        loop {
            let conflict = if std::mem::take(&mut check_all) {
                self.propagate_all()
            } else {
                self.propagate()
            };
            if let Some(conflict) = conflict {
                if self.levels.len() <= base {
                    return Err(conflict);
                }
                let (learned, level, origin) = self.analyse(conflict);
                if level < base {
                    return Err(conflict);
                }
                self.undo(level);
                let id = self.add(learned, Origin::Learned(origin));
                let asserting = self.clauses[id].literals[0];
                self.assign(asserting, Some(id));
                continue;
            }
            let Some(literal) = self.next_decision() else {
                return Ok(());
            };
            self.levels.push(self.trail.len());
            self.assign(literal, None);
        }
    }

    fn assign(&mut self, literal: Literal, reason: Option<usize>) {
        let assigned = Assigned {
            installed: literal.installed,
            level: self.levels.len(),
            reason,
        };
        self.values.insert(literal.package, assigned);
        self.trail.push(literal);
    }

    fn undo(&mut self, level: usize) {
        let Some(start) = self.levels.get(level).copied() else {
            return;
        };
        for literal in self.trail.drain(start..) {
            self.values.remove(&literal.package);
        }
        self.levels.truncate(level);
        self.done = self.done.min(start);
    }

    fn propagate_all(&mut self) -> Option<usize> {
        (0..self.clauses.len())
            .find_map(|id| self.apply(id))
            .or_else(|| self.propagate())
    }

    fn propagate(&mut self) -> Option<usize> {
        while let Some(literal) = self.trail.get(self.done).copied() {
            self.done += 1;
            if literal.installed && self.expanded.insert(literal.package) {
                let first = self.clauses.len();
                self.expand(literal.package);
                for id in first..self.clauses.len() {
                    if let Some(conflict) = self.apply(id) {
                        return Some(conflict);
                    }
                }
            }
            let affected = self
                .watched
                .get(&literal.not())
                .cloned()
                .unwrap_or_default();
            for id in affected {
                if let Some(conflict) = self.apply(id) {
                    return Some(conflict);
                }
            }
        }
        None
    }

    /// Assigns the last open literal of a clause; gives the clause back if none can hold.
    fn apply(&mut self, id: usize) -> Option<usize> {
        let mut open = None;
        for literal in &self.clauses[id].literals {
            match self.value(*literal) {
                Some(true) => return None,
                Some(false) => {}
                None if open.is_some() => return None,
                None => open = Some(*literal),
            }
        }
        match open {
            None => Some(id),
            Some(literal) => {
                self.assign(literal, Some(id));
                None
            }
        }
    }

    /// Makes the clauses of a package that is now installed.
    fn expand(&mut self, package: PackageId) {
        let Some(version) = self.solver.state(package).candidate else {
            // Wanted without any version: the request was checked before, so this is only a safeguard.
            self.add(
                vec![Literal {
                    package,
                    installed: false,
                }],
                Origin::Excluded(package),
            );
            return;
        };
        let this = Literal {
            package,
            installed: false,
        };
        for (i, dependency) in self
            .solver
            .universe
            .version(version)
            .dependencies
            .iter()
            .enumerate()
        {
            if !dependency.kind.is_critical() {
                continue;
            }
            let origin = Origin::Relation(version, i);
            if dependency.kind.is_negative() {
                for atom in &dependency.atoms {
                    for hit in self.solver.hits_candidates(version, dependency.kind, atom) {
                        let other = Literal {
                            package: self.solver.package_of(hit),
                            installed: false,
                        };
                        self.add(vec![this, other], origin.clone());
                    }
                }
            } else {
                let solutions = self.solutions(version, i);
                // A package that satisfies its own need needs nothing.
                if !solutions.contains(&package) {
                    let installs = solutions.into_iter().map(|package| Literal {
                        package,
                        installed: true,
                    });
                    self.add(std::iter::once(this).chain(installs).collect(), origin);
                }
            }
        }
    }

    fn solutions(&self, version: VersionId, dependency: usize) -> Vec<PackageId> {
        let dependency = &self.solver.universe.version(version).dependencies[dependency];
        let mut packages = Vec::new();
        for version in self.solver.solutions(version, dependency) {
            let package = self.solver.package_of(version);
            if !packages.contains(&package) {
                packages.push(package);
            }
        }
        packages.sort_by_key(|package| !self.greedy.contains(package));
        packages
    }

    /// Finds the preferred solution of the oldest need that is still open.
    fn next_decision(&self) -> Option<Literal> {
        let open = self.clauses.iter().find(|clause| {
            let is_need = matches!(clause.origin, Origin::Relation(..))
                && clause.literals.iter().any(|l| l.installed);
            is_need
                && !clause.literals.iter().any(|l| self.value(*l) == Some(true))
                && self.value(clause.literals[0]) == Some(false)
        })?;
        open.literals
            .iter()
            .copied()
            .find(|l| l.installed && self.value(*l).is_none())
    }

    /// Learns from a conflict: a clause that would have prevented it, its assertion first, and the level to return to.
    fn analyse(&self, conflict: usize) -> (Vec<Literal>, usize, Vec<usize>) {
        let current = self.levels.len();
        let mut used = vec![conflict];
        let mut seen = BTreeSet::new();
        let mut below = Vec::new();
        let mut open = 0;
        let mut literals = self.clauses[conflict].literals.clone();
        let mut at = self.trail.len();
        let assertion = loop {
            for literal in literals.drain(..) {
                let Some(assigned) = self.values.get(&literal.package) else {
                    continue;
                };
                if assigned.level == 0 || !seen.insert(literal.package) {
                    continue;
                }
                if assigned.level == current {
                    open += 1;
                } else {
                    below.push((assigned.level, literal));
                }
            }
            // Walk back to the latest assignment that took part.
            let literal = loop {
                at -= 1;
                if seen.contains(&self.trail[at].package) {
                    break self.trail[at];
                }
            };
            open -= 1;
            if open == 0 {
                break literal.not();
            }
            if let Some(reason) = self.values.get(&literal.package).and_then(|v| v.reason) {
                used.push(reason);
                literals = self.clauses[reason]
                    .literals
                    .iter()
                    .copied()
                    .filter(|l| l.package != literal.package)
                    .collect();
            }
        };
        let level = below.iter().map(|(level, _)| *level).max().unwrap_or(0);
        let learned = std::iter::once(assertion)
            .chain(below.into_iter().map(|(_, l)| l))
            .collect();
        (learned, level, used)
    }

    /// Adds what installed packages recommend, as far as it fits.
    fn with_recommendations(mut self) -> Self {
        let mut tried = BTreeSet::new();
        loop {
            let installed = self.trail.iter().filter(|l| l.installed).map(|l| l.package);
            let open = installed
                .filter_map(|p| self.solver.state(p).candidate)
                .find_map(|version| {
                    let dependencies = self
                        .solver
                        .universe
                        .version(version)
                        .dependencies
                        .iter()
                        .enumerate();
                    let mut recommends = dependencies
                        .filter(|(_, d)| d.kind == Kind::Recommends)
                        .map(|(i, _)| (version, i));
                    recommends.find(|key| !tried.contains(key))
                });
            let Some((version, dependency)) = open else {
                return self;
            };
            tried.insert((version, dependency));
            let solutions = self.solutions(version, dependency);
            let is_installed = |p: &PackageId| {
                self.value(Literal {
                    package: *p,
                    installed: true,
                }) == Some(true)
            };
            if solutions.iter().any(is_installed) {
                continue;
            }
            for package in solutions {
                let literal = Literal {
                    package,
                    installed: true,
                };
                if self.value(literal) == Some(false) {
                    continue;
                }
                let mut attempt = self.clone();
                attempt.levels.push(attempt.trail.len());
                attempt.assign(literal, None);
                if attempt.solve(attempt.levels.len()).is_ok() {
                    self = attempt;
                    break;
                }
            }
        }
    }
}
