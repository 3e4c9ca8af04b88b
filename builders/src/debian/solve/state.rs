//! What is decided about each package so far, and the questions asked of it.

use super::Solver;
use crate::debian::universe::{Atom, Dependency, Kind, PackageId, VersionId};

/// What happens to a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Keep,
    Install,
}

/// The decisions about one package.
#[derive(Debug, Clone)]
pub(super) struct State {
    /// The version that is there already.
    pub(super) current: Option<VersionId>,
    /// The version that would be installed; none once it turned out to be impossible.
    pub(super) candidate: Option<VersionId>,
    /// The version that will be there in the end.
    pub(super) chosen: Option<VersionId>,
    pub(super) mode: Mode,
    /// Nothing but the user changes a protected package.
    pub(super) protected: bool,
    /// Only pulled in by others.
    pub(super) auto: bool,
}

impl State {
    pub(super) fn new(candidate: Option<VersionId>) -> Self {
        Self {
            current: None,
            candidate,
            chosen: None,
            mode: Mode::Keep,
            protected: false,
            auto: false,
        }
    }

    pub(super) fn set_installed(&mut self, version: VersionId) {
        self.current = Some(version);
        self.candidate = Some(version);
        self.chosen = Some(version);
    }

    /// Whether it is installed now and was not before.
    pub(super) fn is_new(&self) -> bool {
        self.mode == Mode::Install && self.current.is_none()
    }
}

impl Solver<'_, '_> {
    pub(super) fn state(&self, package: PackageId) -> &State {
        &self.states[package.index()]
    }

    pub(super) fn state_mut(&mut self, package: PackageId) -> &mut State {
        &mut self.states[package.index()]
    }

    pub(super) fn package_of(&self, version: VersionId) -> PackageId {
        self.universe.version(version).package
    }

    /// Whether a relation has to hold for a package to be installed as the user wants it.
    pub(super) fn is_important(&self, kind: Kind) -> bool {
        kind.is_critical() || (kind == Kind::Recommends && self.recommends)
    }

    /// Lists the chosen versions that an atom hits.
    pub(super) fn hits_chosen(
        &self,
        owner: VersionId,
        kind: Kind,
        atom: &Atom<'_>,
    ) -> Vec<VersionId> {
        self.universe
            .matches(owner, kind, atom, |p| self.state(p).chosen)
    }

    /// Lists the candidates that an atom hits.
    pub(super) fn hits_candidates(
        &self,
        owner: VersionId,
        kind: Kind,
        atom: &Atom<'_>,
    ) -> Vec<VersionId> {
        self.universe
            .matches(owner, kind, atom, |p| self.state(p).candidate)
    }

    /// Whether a relation holds among the chosen versions.
    pub(super) fn holds(&self, owner: VersionId, dependency: &Dependency<'_>) -> bool {
        let hit = dependency
            .atoms
            .iter()
            .any(|atom| !self.hits_chosen(owner, dependency.kind, atom).is_empty());
        hit != dependency.kind.is_negative()
    }

    /// Whether a chosen package lacks something it cannot be without.
    pub(super) fn is_broken(&self, package: PackageId) -> bool {
        self.lacks(package, Kind::is_critical)
    }

    /// Whether a chosen package lacks something it should have.
    pub(super) fn is_incomplete(&self, package: PackageId) -> bool {
        self.lacks(package, |kind| self.is_important(kind))
    }

    fn lacks(&self, package: PackageId, matters: impl Fn(Kind) -> bool) -> bool {
        let Some(version) = self.state(package).chosen else {
            return false;
        };
        let dependencies = &self.universe.version(version).dependencies;
        dependencies
            .iter()
            .any(|d| matters(d.kind) && !self.holds(version, d))
    }

    pub(super) fn anything_broken(&self) -> bool {
        self.universe
            .package_ids()
            .any(|package| self.is_broken(package))
    }
}
