//! From a recipe's words to wishes: which packages a variant means, and which versions the recipe asks for.

use std::collections::BTreeSet;

use sos_formats::deb::{Relation, version};
use sos_formats::diagnostic::{Class, Diagnostic, suggest};
use sos_formats::lock::{RootfsRequest, Variant, Wanted};

use super::suite::labelled;
use super::universe::{PackageId, Universe, VersionId};

/// What a recipe asks for, as versions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Selection {
    /// The essential packages of the suite, or everything where the variant knows no essential packages.
    pub(crate) first: Vec<VersionId>,
    /// What is installed by the dpkg of the first.
    pub(crate) second: Vec<VersionId>,
    /// Which of them the recipe names itself.
    pub(crate) requested: BTreeSet<VersionId>,
    /// Which of them are essential.
    pub(crate) essential: BTreeSet<VersionId>,
    /// What must stay away.
    pub(crate) excluded: BTreeSet<PackageId>,
}

/// Selects versions; gives every problem with the recipe's words at once. `local` are the packages that lie beside the recipe.
pub(crate) fn select(
    universe: &Universe<'_>,
    request: &RootfsRequest,
    place: &str,
    local: &[VersionId],
) -> Result<Selection, Vec<Diagnostic>> {
    let search = Words { universe, place };
    let mut problems = Vec::new();
    let mut excluded = BTreeSet::new();
    for word in &request.exclude {
        match search.package(word) {
            Ok(packages) => excluded.extend(packages),
            Err(problem) => problems.push(*problem),
        }
    }
    let mut requested: Vec<VersionId> = Vec::new();
    for word in &request.include {
        match search.version(word) {
            Ok(version) if excluded.contains(&universe.version(version).package) => {
                let message = format!(
                    "package `{}` is both included and excluded",
                    universe.name_of(version)
                );
                problems.push(labelled(
                    Diagnostic::error("deb-excluded", Class::Recipe, message),
                    word.label.as_ref(),
                ));
            }
            Ok(version) => push_new(&mut requested, version),
            Err(problem) => problems.push(*problem),
        }
    }
    for version in local {
        push_new(&mut requested, *version);
    }
    let mut selection = Selection {
        excluded,
        requested: requested.iter().copied().collect(),
        ..Selection::default()
    };
    let knows_essential = !matches!(request.variant, Variant::Extract | Variant::Custom);
    if knows_essential {
        selection.first = by_rank(universe, |package| universe.package(package).essential);
        selection.essential = selection.first.iter().copied().collect();
        for version in &selection.first {
            if selection
                .excluded
                .contains(&universe.version(*version).package)
            {
                let name = universe.name_of(*version);
                let message = format!("package `{name}` is essential and cannot be excluded");
                let word = request.exclude.iter().find(|word| word.text == name);
                problems.push(
                    Diagnostic::error("deb-excluded", Class::Recipe, message)
                        .with_labels(word.and_then(|word| word.label.clone()))
                        .help("the variant `custom` installs no essential packages by itself"),
                );
            }
        }
        selection.second.clone_from(&requested);
    } else {
        selection.first.clone_from(&requested);
    }
    // As mmdebstrap: what the recipe names first, then what the variant adds.
    let named = |name: &str| {
        universe
            .find(name)
            .and_then(|p| universe.default_candidate(p))
    };
    if request.variant == Variant::Apt {
        selection
            .first
            .extend(named("apt").filter(|v| !selection.essential.contains(v)));
    }
    if request.variant == Variant::Buildd {
        match named("build-essential") {
            Some(version) => push_new(&mut selection.second, version),
            None => problems.push(*search.unknown("build-essential", None)),
        }
    }
    let highest = match request.variant {
        Variant::Minbase | Variant::Buildd => 1,
        Variant::Important => 2,
        Variant::Standard => 3,
        Variant::Extract | Variant::Custom | Variant::Essential | Variant::Apt => 0,
    };
    if highest > 0 {
        let of_variant = by_rank(universe, |package| {
            let in_first = universe
                .package(package)
                .versions
                .iter()
                .find(|v| universe.version(**v).origin == 0);
            let priority = in_first.map_or(0, |v| universe.version(*v).priority);
            (1..=highest).contains(&priority)
                && !universe.package(package).essential
                && !selection.excluded.contains(&package)
        });
        for version in of_variant.into_iter().chain(named("apt")) {
            if !selection
                .excluded
                .contains(&universe.version(version).package)
            {
                push_new(&mut selection.second, version);
            }
        }
    }
    if problems.is_empty() {
        Ok(selection)
    } else {
        Err(problems)
    }
}

fn push_new(list: &mut Vec<VersionId>, version: VersionId) {
    if !list.contains(&version) {
        list.push(version);
    }
}

/// The candidates of packages that the first suite has, as a variant means no others.
fn by_rank(universe: &Universe<'_>, wanted: impl Fn(PackageId) -> bool) -> Vec<VersionId> {
    let in_first = |p: &PackageId| {
        universe
            .package(*p)
            .versions
            .iter()
            .any(|v| universe.version(*v).origin == 0)
    };
    let packages = universe
        .package_ids()
        .filter(in_first)
        .filter(|p| wanted(*p));
    packages
        .filter_map(|p| universe.default_candidate(p))
        .collect()
}

struct Words<'w, 'a> {
    universe: &'w Universe<'a>,
    place: &'w str,
}

impl Words<'_, '_> {
    /// Reads `name`, `name=version` or `name (op version)`.
    fn relation<'t>(&self, word: &'t Wanted) -> Result<Relation<'t>, Box<Diagnostic>> {
        let text = word.text.trim();
        let parsed = match text.split_once('=').filter(|(name, _)| !name.contains('(')) {
            Some((name, version)) => Relation::parse(name).map(|r| Relation {
                version: Some((sos_formats::deb::RelationOp::Equal, version.trim())),
                ..r
            }),
            None => Relation::parse(text),
        };
        let bad = |why: String| {
            let message = format!("`{text}` names no package: {why}");
            let help = "write `name`, `name=version` or `name (>= version)`";
            let diagnostic =
                Diagnostic::error("deb-bad-package-name", Class::Recipe, message).help(help);
            Box::new(labelled(diagnostic, word.label.as_ref()))
        };
        let relation = parsed.map_err(|err| bad(err.problem.to_owned()))?;
        if let Some((_, wanted)) = relation.version {
            version::check(wanted).map_err(|err| bad(err.to_string()))?;
        }
        Ok(relation)
    }

    /// Finds the packages that a name means: itself, or those that provide it.
    fn package(&self, word: &Wanted) -> Result<Vec<PackageId>, Box<Diagnostic>> {
        let relation = self.relation(word)?;
        let found = self.universe.find(relation.name);
        let package = found.filter(|p| !self.universe.package(*p).versions.is_empty());
        let providing = || {
            found
                .map(|p| self.universe.providing(p))
                .unwrap_or_default()
        };
        match package {
            Some(package) => Ok(vec![package]),
            None if !providing().is_empty() => Ok(providing()
                .into_iter()
                .map(|v| self.universe.version(v).package)
                .collect()),
            None => Err(self.unknown(relation.name, Some(word))),
        }
    }

    /// Finds the version that a word asks for.
    fn version(&self, word: &Wanted) -> Result<VersionId, Box<Diagnostic>> {
        let relation = self.relation(word)?;
        let Some(package) = self.universe.find(relation.name) else {
            return Err(self.unknown(relation.name, Some(word)));
        };
        let versions = &self.universe.package(package).versions;
        if versions.is_empty() {
            return self.provider(package, relation.name, word);
        }
        if let Some(candidate) = self
            .universe
            .default_candidate(package)
            .filter(|v| relation.accepts_version(self.universe.version(*v).version))
        {
            return Ok(candidate);
        }
        let fitting = versions
            .iter()
            .copied()
            .find(|v| relation.accepts_version(self.universe.version(*v).version));
        fitting.ok_or_else(|| {
            let known: Vec<_> = versions
                .iter()
                .map(|v| self.universe.version(*v).version)
                .collect();
            let message = format!(
                "no version of `{}` in {} satisfies `{}`",
                relation.name,
                self.place,
                word.text.trim()
            );
            let diagnostic = Diagnostic::error("deb-unknown-version", Class::Recipe, message);
            Box::new(labelled(
                diagnostic.note(format!("there is {}", known.join(", "))),
                word.label.as_ref(),
            ))
        })
    }

    fn provider(
        &self,
        package: PackageId,
        name: &str,
        word: &Wanted,
    ) -> Result<VersionId, Box<Diagnostic>> {
        let providing = self.universe.providing(package);
        match providing[..] {
            [] => Err(self.unknown(name, Some(word))),
            [only] => Ok(only),
            _ => {
                let mut names: Vec<_> = providing
                    .iter()
                    .map(|v| self.universe.name_of(*v))
                    .collect();
                names.sort_unstable();
                let message = format!(
                    "`{name}` is provided by several packages, so it does not say which one to install"
                );
                let diagnostic = Diagnostic::error("deb-virtual-package", Class::Recipe, message);
                Err(Box::new(labelled(
                    diagnostic.help(format!("name one of {}", names.join(", "))),
                    word.label.as_ref(),
                )))
            }
        }
    }

    fn unknown(&self, name: &str, word: Option<&Wanted>) -> Box<Diagnostic> {
        let message = format!("no package `{name}` in {}", self.place);
        let mut diagnostic = Diagnostic::error("deb-unknown-package", Class::Recipe, message);
        for known in suggest(name, self.universe.real_names()) {
            diagnostic =
                diagnostic.help(format!("a package with a similar name exists: `{known}`"));
        }
        diagnostic = diagnostic.note(format!(
            "{} packages searched",
            grouped(self.universe.real_count())
        ));
        Box::new(labelled(diagnostic, word.and_then(|w| w.label.as_ref())))
    }
}

/// Writes a number with commas between thousands.
fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::debian::universe::tests::index;

    fn request(variant: Variant, include: &[&str], exclude: &[&str]) -> RootfsRequest {
        let words = |list: &[&str]| {
            list.iter()
                .map(|t| Wanted {
                    text: (*t).to_owned(),
                    label: None,
                })
                .collect()
        };
        RootfsRequest {
            name: "t".into(),
            arch: "amd64".into(),
            sources: Vec::new(),
            variant,
            include: words(include),
            exclude: words(exclude),
            recommends: false,
            debs: Vec::new(),
        }
    }

    /// Shows both phases, or the codes and messages of the problems.
    #[track_caller]
    fn check(request: &RootfsRequest, expected: &str) {
        let text = index(&[
            "dpkg 1 ; Essential: yes ; Priority: required",
            "apt 1 ; Priority: important",
            "mount 1 ; Priority: required",
            "nano 1 ; Priority: important",
            "bash-completion 1 ; Priority: standard",
            "nginx 1.22 ; Priority: optional",
            "exim 1 ; Provides: mta, only",
            "postfix 1 ; Provides: mta",
        ]);
        let updates = index(&[
            "mount 2 ; Priority: optional",
            "nginx 1.30",
            "late 1 ; Priority: required",
        ]);
        let mut universe = Universe::new("amd64");
        universe.add_index(&text, 0, 500).expect("valid");
        universe.add_index(&updates, 1, 500).expect("valid");
        let show = |list: &[VersionId]| {
            list.iter()
                .map(|v| format!("{}={}", universe.name_of(*v), universe.version(*v).version))
                .collect::<Vec<_>>()
                .join(" ")
        };
        let shown = match select(&universe, request, "test main (amd64)", &[]) {
            Ok(s) => format!("{} + {}", show(&s.first), show(&s.second)),
            Err(problems) => problems
                .iter()
                .map(|d| format!("{}: {} [{}]", d.code, d.message, d.helps.join("; ")))
                .collect::<Vec<_>>()
                .join("\n"),
        };
        assert_eq!(shown, expected);
    }

    #[test]
    fn variants() {
        check(&request(Variant::Essential, &[], &[]), "dpkg=1 + ");
        check(
            &request(Variant::Apt, &["nginx"], &[]),
            "dpkg=1 apt=1 + nginx=1.30",
        );
        check(
            &request(Variant::Minbase, &["nginx"], &[]),
            "dpkg=1 + nginx=1.30 mount=2 apt=1",
        );
        check(
            &request(Variant::Standard, &[], &["nano"]),
            "dpkg=1 + apt=1 mount=2 bash-completion=1",
        );
        check(&request(Variant::Custom, &["nginx"], &[]), "nginx=1.30 + ");
    }

    #[test]
    fn words() {
        check(
            &request(Variant::Custom, &["nginx=1.22", "only"], &[]),
            "nginx=1.22 exim=1 + ",
        );
        check(
            &request(Variant::Custom, &["nginx (<< 1.30)"], &[]),
            "nginx=1.22 + ",
        );
        check(
            &request(Variant::Custom, &["nginx (>> 2)"], &[]),
            "deb-unknown-version: no version of `nginx` in test main (amd64) satisfies `nginx (>> 2)` []",
        );
        check(
            &request(Variant::Custom, &["mta"], &[]),
            "deb-virtual-package: `mta` is provided by several packages, so it does not say which one to install [name one of exim, postfix]",
        );
        check(
            &request(
                Variant::Custom,
                &["ngnix", "a b", "nginx"],
                &["nginx", "zzzz"],
            ),
            "deb-unknown-package: no package `zzzz` in test main (amd64) []\n\
             deb-unknown-package: no package `ngnix` in test main (amd64) [a package with a similar name exists: `nginx`]\n\
             deb-bad-package-name: `a b` names no package: expected `(operator version)` [write `name`, `name=version` or `name (>= version)`]\n\
             deb-excluded: package `nginx` is both included and excluded []",
        );
        check(
            &request(Variant::Essential, &[], &["dpkg"]),
            "deb-excluded: package `dpkg` is essential and cannot be excluded [the variant `custom` installs no essential packages by itself]",
        );
    }

    #[test]
    fn numbers_are_grouped() {
        assert_eq!(
            (grouped(0), grouped(999), grouped(63_440)),
            ("0".into(), "999".into(), "63,440".into())
        );
    }
}
