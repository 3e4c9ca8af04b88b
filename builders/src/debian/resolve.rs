//! From a request to a lock: fetch, verify, choose, order.

use std::collections::BTreeMap;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Sha256;
use sos_formats::lock::{LockedPackage, Phase, RootfsLocked, RootfsRequest, RootfsSource, Wanted};

use super::archive::Archive;
use super::local;
use super::order::Set;
use super::select::{Selection, select};
use super::solve::{Unsatisfiable, Wish, solve};
use super::suite::Suite;
use super::universe::{Universe, VersionId};

/// The name and version of the resolver, for the lock: another one may choose differently.
pub const SOLVER: &str = "sos-apt 1";

/// The greedy pass goes as deep as the longest chain of needs.
const STACK_BYTES: usize = 256 << 20;

/// A package file beside the recipe is what the recipe wants, whatever versions the archives have.
const LOCAL_PIN: i32 = 1001;

impl Archive {
    /// Resolves a request against the archives as this run sees them.
    ///
    /// # Errors
    /// Every independent problem: of the words of the recipe, of the archives, or the reasons why nothing fits together.
    pub fn resolve(&self, request: &RootfsRequest) -> Result<RootfsLocked, Vec<Diagnostic>> {
        let suites = fetch_all(request, self)?;
        on_big_stack(|| resolve_from(request, suites))
    }
}

fn on_big_stack<T: Send>(
    work: impl FnOnce() -> Result<T, Vec<Diagnostic>> + Send,
) -> Result<T, Vec<Diagnostic>> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("resolve".into())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, work);
        let failed = |message: &str| vec![Diagnostic::error("deb-resolver", Class::Bug, message)];
        match thread {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|_panic| Err(failed("the resolver stopped unexpectedly"))),
            Err(_) => Err(vec![Diagnostic::error(
                "deb-resolver",
                Class::Machine,
                "cannot start a thread for the resolver",
            )]),
        }
    })
}

/// Fetches all suites at once, in the order of the recipe.
fn fetch_all(request: &RootfsRequest, archive: &Archive) -> Result<Vec<Suite>, Vec<Diagnostic>> {
    let pairs: Vec<(&RootfsSource, &Wanted)> = request
        .sources
        .iter()
        .flat_map(|s| s.suites.iter().map(move |w| (s, w)))
        .collect();
    let results: Vec<Result<Suite, Box<Diagnostic>>> = std::thread::scope(|scope| {
        let fetch = |(source, suite): &(&RootfsSource, &Wanted)| {
            Suite::fetch(archive, source, suite, &request.arch)
        };
        let threads: Vec<_> = pairs
            .iter()
            .map(|pair| scope.spawn(move || fetch(pair)))
            .collect();
        let stopped = || {
            Box::new(Diagnostic::error(
                "deb-resolver",
                Class::Bug,
                "fetching an index stopped unexpectedly",
            ))
        };
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_panic| Err(stopped())))
            .collect()
    });
    let mut suites = Vec::new();
    let mut problems: Vec<Diagnostic> = Vec::new();
    for result in results {
        match result {
            Ok(suite) => suites.push(suite),
            // One unreachable server is one problem, however many suites it has.
            Err(problem) if problems.iter().any(|p| p.message == problem.message) => {}
            Err(problem) => problems.push(*problem),
        }
    }
    if problems.is_empty() {
        Ok(suites)
    } else {
        Err(problems)
    }
}

fn resolve_from(
    request: &RootfsRequest,
    suites: Vec<Suite>,
) -> Result<RootfsLocked, Vec<Diagnostic>> {
    let mut stanzas = Vec::new();
    let mut problems = Vec::new();
    for deb in &request.debs {
        match local::stanza(deb) {
            Ok(text) => stanzas.push(text),
            Err(problem) => problems.push(*problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    let mut universe = Universe::new(&request.arch);
    for (origin, suite) in suites.iter().enumerate() {
        for (text, index) in suite.indexes.iter().zip(&suite.locked.index) {
            universe.add_index(text, origin, suite.pin).map_err(|err| {
                let message = format!(
                    "`{}` of `{}` cannot be read: {err}",
                    index.path, suite.locked.suite
                );
                vec![Diagnostic::error("deb-bad-index", Class::Fetch, message)]
            })?;
        }
    }
    let mut local = Vec::new();
    for (i, text) in stanzas.iter().enumerate() {
        let path = &request.debs[i].path;
        let fail = |why: String| {
            let message = format!("`{}` cannot be installed: {why}", path.text);
            vec![super::suite::labelled(
                Diagnostic::error("deb-bad-package", Class::Recipe, message),
                path.label.as_ref(),
            )]
        };
        universe
            .add_index(text, suites.len() + i, LOCAL_PIN)
            .map_err(|err| fail(err.to_string()))?;
        let added = universe.of_origin(suites.len() + i);
        local.push(added.ok_or_else(|| {
            fail(format!(
                "it is for another architecture than `{}`, or given twice",
                request.arch
            ))
        })?);
    }
    let names: Vec<_> = suites.iter().map(|s| s.name.as_str()).collect();
    let place = format!("{} ({})", names.join(", "), request.arch);
    let selection = select(&universe, request, &place, &local)?;
    let (first, second) = choose(&universe, request, &selection)?;
    let mut locked = RootfsLocked {
        solver: SOLVER.into(),
        suites: Vec::new(),
        packages: Vec::new(),
    };
    let lock = Lock {
        universe: &universe,
        request,
        selection: &selection,
        suites: suites.len(),
    };
    lock.phase(&mut locked.packages, Phase::Essential, &first, &[]);
    lock.phase(&mut locked.packages, Phase::Rest, &second, &first);
    locked.suites = suites.into_iter().map(|s| s.locked).collect();
    Ok(locked)
}

/// Solves both phases, the second on top of the first.
fn choose(
    universe: &Universe<'_>,
    request: &RootfsRequest,
    selection: &Selection,
) -> Result<(Vec<VersionId>, Vec<VersionId>), Vec<Diagnostic>> {
    let wish = Wish {
        installed: Vec::new(),
        wanted: selection.first.clone(),
        pinned: selection.requested.iter().copied().collect(),
        excluded: selection.excluded.clone(),
        recommends: request.recommends,
    };
    let first = solve(universe, &wish)
        .map_err(|err| vec![unsatisfiable(universe, request, selection, &err)])?
        .versions;
    let wanted = selection
        .second
        .iter()
        .copied()
        .filter(|v| !first.contains(v))
        .collect();
    let second = solve(
        universe,
        &Wish {
            installed: first.clone(),
            wanted,
            ..wish
        },
    );
    let second = second
        .map_err(|err| vec![unsatisfiable(universe, request, selection, &err)])?
        .versions;
    Ok((first, second))
}

fn unsatisfiable(
    universe: &Universe<'_>,
    request: &RootfsRequest,
    selection: &Selection,
    err: &Unsatisfiable,
) -> Diagnostic {
    let mut diagnostic = Diagnostic::error(
        "deb-unsatisfiable",
        Class::Recipe,
        format!("the packages of `{}` do not fit together", request.name),
    );
    for word in &request.include {
        let named =
            |v: &VersionId| word.text.split([' ', '=', '(']).next() == Some(universe.name_of(*v));
        let mentioned = |v: &VersionId| {
            err.reasons
                .iter()
                .any(|r| r.contains(&format!("`{}`", universe.name_of(*v))))
        };
        if selection.requested.iter().any(|v| named(v) && mentioned(v)) {
            diagnostic = diagnostic.with_labels(word.label.clone());
        }
    }
    for reason in &err.reasons {
        diagnostic = diagnostic.note(reason.clone());
    }
    diagnostic.help("leave out or exclude one of the packages named above, or add the suite that has the missing one")
}

struct Lock<'l, 'a> {
    universe: &'l Universe<'a>,
    request: &'l RootfsRequest,
    selection: &'l Selection,
    suites: usize,
}

impl Lock<'_, '_> {
    fn phase(
        &self,
        packages: &mut Vec<LockedPackage>,
        phase: Phase,
        versions: &[VersionId],
        before: &[VersionId],
    ) {
        let set = Set::new(self.universe, versions, before);
        let asked = if phase == Phase::Essential {
            &self.selection.first
        } else {
            &self.selection.second
        };
        let roots: Vec<VersionId> = asked
            .iter()
            .copied()
            .filter(|v| versions.contains(v))
            .collect();
        let mut reasons: BTreeMap<VersionId, String> = if phase == Phase::Essential {
            set.reasons(&roots)
        } else {
            // Recommendations of what was there before are reasons, too.
            let all: Vec<VersionId> = roots.iter().chain(before).copied().collect();
            set.reasons(&all)
        };
        for (version, batch) in set.batches() {
            let reason = match reasons.remove(&version) {
                _ if self.selection.requested.contains(&version) => "requested".into(),
                _ if self.selection.essential.contains(&version) => "essential".into(),
                _ if roots.contains(&version) => "variant".into(),
                Some(reason) => reason,
                None => "depends".into(),
            };
            // dpkg installs the first phase without apt, which therefore takes all of it for wanted.
            let auto = phase == Phase::Rest && !roots.contains(&version);
            packages.push(self.package(
                version,
                phase,
                if phase == Phase::Essential { 0 } else { batch },
                reason,
                auto,
            ));
        }
    }

    fn package(
        &self,
        version: VersionId,
        phase: Phase,
        batch: u32,
        reason: String,
        auto: bool,
    ) -> LockedPackage {
        let found = self.universe.version(version);
        let local = found
            .origin
            .checked_sub(self.suites)
            .and_then(|i| self.request.debs.get(i));
        LockedPackage {
            name: self.universe.name_of(version).to_owned(),
            version: found.version.to_owned(),
            arch: found.arch.to_owned(),
            sha256: Sha256(found.sha256),
            size: found.size_bytes,
            path: local.map_or_else(|| found.path.to_owned(), |deb| deb.path.text.clone()),
            suite: local.is_none().then_some(found.origin),
            phase,
            batch,
            reason,
            auto,
        }
    }
}

#[cfg(test)]
mod tests;
