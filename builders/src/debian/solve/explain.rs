//! Saying why nothing fits together: the relations that took part, from what was asked for to what cannot be.

use std::collections::BTreeSet;

use super::search::{Clause, Origin};
use super::{Solver, Unsatisfiable};
use crate::debian::universe::{Dependency, PackageId, VersionId};

/// More lines than this explain nothing any more.
const MAX_REASONS: usize = 20;

/// Turns the clauses behind a conflict into sentences.
pub(super) fn explain(
    solver: &Solver<'_, '_>,
    clauses: &[Clause],
    conflict: usize,
) -> Unsatisfiable {
    let mut involved = BTreeSet::new();
    let mut open = vec![conflict];
    // What was implied before any decision is not on record as a reason, so all relations that are forced take part.
    open.extend(
        (0..clauses.len())
            .filter(|id| matches!(clauses[*id].origin, Origin::Wanted(_) | Origin::Excluded(_))),
    );
    let mut seen = BTreeSet::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        match &clauses[id].origin {
            Origin::Learned(from) => open.extend(from),
            Origin::Relation(version, i) => {
                involved.insert((*version, *i));
            }
            Origin::Wanted(_) | Origin::Excluded(_) => {}
        }
    }
    let mut story = Story {
        solver,
        clauses,
        reasons: Vec::new(),
        told: BTreeSet::new(),
    };
    for (version, i) in involved {
        story.tell(version, i);
    }
    story.reasons.truncate(MAX_REASONS);
    Unsatisfiable {
        reasons: story.reasons,
    }
}

struct Story<'x, 'u, 'a> {
    solver: &'x Solver<'u, 'a>,
    clauses: &'x [Clause],
    reasons: Vec<String>,
    told: BTreeSet<(VersionId, usize)>,
}

impl Story<'_, '_, '_> {
    /// Tells how a package came in, then what is wrong with its relation.
    fn tell(&mut self, version: VersionId, dependency: usize) {
        if !self.told.insert((version, dependency)) {
            return;
        }
        for (parent, i) in self.path_to(version) {
            if self.told.insert((parent, i)) {
                let sentence = self.sentence(parent, i);
                self.reasons.push(sentence);
            }
        }
        let relation = &self.solver.universe.version(version).dependencies[dependency];
        if relation.kind.is_negative() {
            for hit in relation
                .atoms
                .iter()
                .flat_map(|a| self.solver.hits_candidates(version, relation.kind, a))
            {
                for (parent, i) in self.path_to(hit) {
                    if self.told.insert((parent, i)) {
                        let sentence = self.sentence(parent, i);
                        self.reasons.push(sentence);
                    }
                }
            }
        }
        let sentence = self.sentence(version, dependency);
        self.reasons.push(sentence);
    }

    /// Finds the shortest way from something wanted to a version along needs that were looked at.
    fn path_to(&self, version: VersionId) -> Vec<(VersionId, usize)> {
        let target = self.solver.package_of(version);
        let wanted = self.clauses.iter().filter_map(|c| match c.origin {
            Origin::Wanted(package) => Some(package),
            _ => None,
        });
        let mut queue: Vec<(PackageId, Vec<(VersionId, usize)>)> =
            wanted.map(|p| (p, Vec::new())).collect();
        let mut seen: BTreeSet<PackageId> = queue.iter().map(|(p, _)| *p).collect();
        let mut next = 0;
        while let Some((package, path)) = queue.get(next).cloned() {
            next += 1;
            if package == target {
                return path;
            }
            let Some(owner) = self.solver.state(package).candidate else {
                continue;
            };
            for (i, d) in self
                .solver
                .universe
                .version(owner)
                .dependencies
                .iter()
                .enumerate()
            {
                if d.kind.is_negative() || !d.kind.is_critical() {
                    continue;
                }
                for hit in self.solver.solutions(owner, d) {
                    let hit = self.solver.package_of(hit);
                    if seen.insert(hit) {
                        let mut path = path.clone();
                        path.push((owner, i));
                        queue.push((hit, path));
                    }
                }
            }
        }
        Vec::new()
    }

    fn sentence(&self, owner: VersionId, dependency: usize) -> String {
        let universe = self.solver.universe;
        let relation = &universe.version(owner).dependencies[dependency];
        let name = format!(
            "`{}` {}",
            universe.name_of(owner),
            universe.version(owner).version
        );
        let text = self.relation_text(relation);
        if relation.kind.is_negative() {
            let word = if relation.kind.as_str() == "Breaks" {
                "breaks"
            } else {
                "conflicts with"
            };
            return format!("{name} {word} {text}");
        }
        let solutions = self.solver.solutions(owner, relation);
        let offered = relation
            .atoms
            .iter()
            .flat_map(|a| universe.all_matches(owner, relation.kind, a))
            .count();
        let why = match (solutions.is_empty(), offered) {
            (false, _) => "",
            (true, 0) => match relation
                .atoms
                .iter()
                .find_map(|a| self.other_version(a.target))
            {
                Some(found) => {
                    return format!("{name} needs {text}, but only version {found} is available");
                }
                None => ", which no package provides",
            },
            (true, _) => ", which cannot be chosen",
        };
        format!("{name} needs {text}{why}")
    }

    fn other_version(&self, package: PackageId) -> Option<String> {
        let version = self.solver.universe.package(package).versions.first()?;
        Some(self.solver.universe.version(*version).version.to_owned())
    }

    fn relation_text(&self, relation: &Dependency<'_>) -> String {
        let atom = |a: &crate::debian::universe::Atom<'_>| {
            let name = self.solver.universe.package(a.target).name;
            match a.condition {
                None => format!("`{name}`"),
                Some((op, version)) => format!("`{name} ({} {version})`", op.as_str()),
            }
        };
        relation
            .atoms
            .iter()
            .map(atom)
            .collect::<Vec<_>>()
            .join(" or ")
    }
}
