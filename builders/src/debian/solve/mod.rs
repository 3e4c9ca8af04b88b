//! Choosing packages as apt does.
//!
//! The first pass is greedy with apt's preferences (`mark`), then what it turned out not to need is dropped (`sweep`): this
//! gives the very set that `apt-get install` gives. Where the greedy choice left something broken, the lesser of two packages
//! that exclude each other is left out, again as apt does (`repair`). Where apt would begin to guess, a complete search with
//! the same preferences takes over (`search`): it finds a solution when there is one, and otherwise knows the reasons why
//! there is none.

mod explain;
mod mark;
mod repair;
mod search;
mod state;
mod sweep;

use std::collections::BTreeSet;

use super::universe::{PackageId, Universe, VersionId};
use state::State;

/// What is to be installed.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    /// Versions that are there already and stay.
    pub(crate) installed: Vec<VersionId>,
    /// Versions to install, in the order of the recipe.
    pub(crate) wanted: Vec<VersionId>,
    /// Versions to take instead of the default ones, if their package is needed.
    pub(crate) pinned: Vec<VersionId>,
    /// Packages that must stay away.
    pub(crate) excluded: BTreeSet<PackageId>,
    /// Whether recommendations are followed.
    pub(crate) recommends: bool,
}

/// A set of packages that fits together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// The new versions, in the order of their ids.
    pub(crate) versions: Vec<VersionId>,
    /// Whether no search was needed.
    pub(crate) greedy: bool,
}

/// Why nothing fits together: one line per step, from what was asked for to what cannot be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unsatisfiable {
    pub(crate) reasons: Vec<String>,
}

/// Chooses packages for a wish.
pub(crate) fn solve(universe: &Universe<'_>, wish: &Wish) -> Result<Choice, Unsatisfiable> {
    let mut solver = Solver::new(universe, wish);
    solver.mark_wanted(&wish.wanted);
    if solver.anything_broken() {
        solver.repair();
    }
    if !solver.anything_broken() && wish.wanted.iter().all(|v| solver.is_chosen(*v)) {
        solver.sweep();
        if !solver.anything_broken() {
            return Ok(Choice {
                versions: solver.new_versions(),
                greedy: true,
            });
        }
    }
    let chosen = solver.states.iter().filter_map(|s| s.chosen);
    let greedy = chosen.map(|v| universe.version(v).package).collect();
    let versions = search::search(universe, wish, &greedy)?;
    Ok(Choice {
        versions,
        greedy: false,
    })
}

/// The state of every package while choosing.
struct Solver<'u, 'a> {
    universe: &'u Universe<'a>,
    states: Vec<State>,
    recommends: bool,
}

impl<'u, 'a> Solver<'u, 'a> {
    fn new(universe: &'u Universe<'a>, wish: &Wish) -> Self {
        let mut states: Vec<State> = universe
            .package_ids()
            .map(|id| State::new(universe.default_candidate(id)))
            .collect();
        for version in &wish.pinned {
            states[universe.version(*version).package.index()].candidate = Some(*version);
        }
        for version in &wish.installed {
            states[universe.version(*version).package.index()].set_installed(*version);
        }
        for package in &wish.excluded {
            states[package.index()].protected = true;
        }
        Self {
            universe,
            states,
            recommends: wish.recommends,
        }
    }

    fn new_versions(&self) -> Vec<VersionId> {
        let mut versions: Vec<_> = self
            .states
            .iter()
            .filter(|s| s.is_new())
            .filter_map(|s| s.chosen)
            .collect();
        versions.sort();
        versions
    }

    fn is_chosen(&self, version: VersionId) -> bool {
        self.states[self.universe.version(version).package.index()].chosen == Some(version)
    }
}

#[cfg(test)]
pub(crate) mod tests;
