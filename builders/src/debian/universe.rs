//! All packages that the indexes of a request offer, with their relations ready to follow.
//!
//! Ids are given in the order in which names are first mentioned. apt breaks its last ties that way, so the order of
//! parsing is part of the outcome.

use std::collections::HashMap;

use sos_formats::deb::release::parse_sha256;
use sos_formats::deb::{Paragraph, Paragraphs, Relation, RelationOp, version};

/// A package by name; also a name that packages only mention or provide.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PackageId(u32);

/// One version of one package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct VersionId(u32);

impl PackageId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

impl VersionId {
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }
}

/// What a relation field means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    PreDepends,
    Depends,
    Conflicts,
    Breaks,
    Recommends,
    Suggests,
}

impl Kind {
    /// In the order in which apt reads them.
    const FIELDS: [(&'static str, Self); 6] = [
        ("Pre-Depends", Self::PreDepends),
        ("Depends", Self::Depends),
        ("Conflicts", Self::Conflicts),
        ("Breaks", Self::Breaks),
        ("Recommends", Self::Recommends),
        ("Suggests", Self::Suggests),
    ];

    pub(crate) fn is_negative(self) -> bool {
        matches!(self, Self::Conflicts | Self::Breaks)
    }

    /// Whether a package is broken when this does not hold.
    pub(crate) fn is_critical(self) -> bool {
        !matches!(self, Self::Recommends | Self::Suggests)
    }

    pub(crate) fn as_str(self) -> &'static str {
        Self::FIELDS
            .iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }
}

/// One alternative of a relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Atom<'a> {
    pub(crate) target: PackageId,
    pub(crate) condition: Option<(RelationOp, &'a str)>,
}

impl Atom<'_> {
    fn accepts(&self, have: Option<&str>) -> bool {
        match (self.condition, have) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((op, want)), Some(have)) => op.holds(have, want),
        }
    }
}

/// A relation: any one of its atoms satisfies it, or, when negative, its only atom must not be satisfied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dependency<'a> {
    pub(crate) kind: Kind,
    pub(crate) atoms: Vec<Atom<'a>>,
}

/// How a package behaves beside other architectures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum MultiArch {
    #[default]
    No,
    Same,
    Foreign,
    Allowed,
}

/// One version, as an index describes it.
#[derive(Debug, Clone)]
pub(crate) struct Candidate<'a> {
    pub(crate) package: PackageId,
    pub(crate) version: &'a str,
    pub(crate) arch: &'a str,
    pub(crate) multi_arch: MultiArch,
    /// 1 required, 2 important, 3 standard, 4 optional, 5 extra, 0 unknown.
    pub(crate) priority: u8,
    pub(crate) dependencies: Vec<Dependency<'a>>,
    pub(crate) path: &'a str,
    pub(crate) size_bytes: u64,
    pub(crate) sha256: [u8; 32],
    /// Which source offered it first.
    pub(crate) origin: usize,
    pin: i32,
}

/// A package that provides a name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Provider<'a> {
    pub(crate) owner: VersionId,
    pub(crate) version: Option<&'a str>,
}

/// What is known of one name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Package<'a> {
    pub(crate) name: &'a str,
    /// Highest version first.
    pub(crate) versions: Vec<VersionId>,
    pub(crate) providers: Vec<Provider<'a>>,
    /// apt keeps these flags by name: any version sets them.
    pub(crate) essential: bool,
    pub(crate) important: bool,
}

/// Why an index cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub(crate) struct IndexError {
    pub(crate) line: usize,
    pub(crate) problem: String,
}

/// How the architecture part of a relation is kept apart from the plain name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Qualifier {
    None,
    Any,
    Foreign,
}

/// Everything that can be chosen from.
#[derive(Debug, Default)]
pub(crate) struct Universe<'a> {
    arch: &'a str,
    packages: Vec<Package<'a>>,
    versions: Vec<Candidate<'a>>,
    names: HashMap<(&'a str, Qualifier), PackageId>,
    real: usize,
}

impl<'a> Universe<'a> {
    pub(crate) fn new(arch: &'a str) -> Self {
        Self {
            arch,
            ..Self::default()
        }
    }

    /// Adds the packages of one index. `pin` is the priority that apt would give its release.
    pub(crate) fn add_index(
        &mut self,
        text: &'a str,
        origin: usize,
        pin: i32,
    ) -> Result<(), IndexError> {
        for paragraph in Paragraphs::new(text) {
            let paragraph = paragraph.map_err(|err| IndexError {
                line: err.line(),
                problem: err.to_string(),
            })?;
            self.add(&paragraph, origin, pin)?;
        }
        Ok(())
    }

    pub(crate) fn package(&self, id: PackageId) -> &Package<'a> {
        &self.packages[id.index()]
    }

    pub(crate) fn version(&self, id: VersionId) -> &Candidate<'a> {
        &self.versions[id.index()]
    }

    pub(crate) fn name_of(&self, id: VersionId) -> &'a str {
        self.package(self.version(id).package).name
    }

    pub(crate) fn find(&self, name: &str) -> Option<PackageId> {
        self.names.get(&(name, Qualifier::None)).copied()
    }

    pub(crate) fn package_ids(&self) -> impl Iterator<Item = PackageId> + use<> {
        (0..u32::try_from(self.packages.len()).unwrap_or(u32::MAX)).map(PackageId)
    }

    /// The number of names that have a version.
    pub(crate) fn real_count(&self) -> usize {
        self.real
    }

    pub(crate) fn real_names(&self) -> impl Iterator<Item = &'a str> {
        self.packages
            .iter()
            .filter(|p| !p.versions.is_empty())
            .map(|p| p.name)
    }

    /// The version that would be installed when nothing else is said: highest pin, then highest version.
    pub(crate) fn default_candidate(&self, id: PackageId) -> Option<VersionId> {
        let versions = &self.package(id).versions;
        let mut best: Option<VersionId> = None;
        for version in versions
            .iter()
            .copied()
            .filter(|v| self.version(*v).pin > 0)
        {
            if best.is_none_or(|b| self.version(version).pin > self.version(b).pin) {
                best = Some(version);
            }
        }
        best
    }

    /// The version that one source added, if it added one.
    pub(crate) fn of_origin(&self, origin: usize) -> Option<VersionId> {
        let at = self.versions.iter().position(|v| v.origin == origin)?;
        u32::try_from(at).ok().map(VersionId)
    }

    /// The candidates that provide a name.
    pub(crate) fn providing(&self, id: PackageId) -> Vec<VersionId> {
        let mut found = Vec::new();
        for provider in &self.package(id).providers {
            let candidate = self.default_candidate(self.version(provider.owner).package);
            if candidate == Some(provider.owner) && !found.contains(&provider.owner) {
                found.push(provider.owner);
            }
        }
        found
    }

    /// Whether a relation of `owner` must not look at `other`: a package never conflicts with itself.
    fn ignores(&self, owner: PackageId, kind: Kind, other: PackageId) -> bool {
        kind.is_negative() && owner == other
    }

    /// Lists what satisfies an atom among the versions that `selected` names for each package, the real one first.
    pub(crate) fn matches(
        &self,
        owner: VersionId,
        kind: Kind,
        atom: &Atom<'_>,
        selected: impl Fn(PackageId) -> Option<VersionId>,
    ) -> Vec<VersionId> {
        let owner = self.version(owner).package;
        let mut found = Vec::new();
        let real = selected(atom.target).filter(|_| !self.ignores(owner, kind, atom.target));
        found.extend(real.filter(|v| atom.accepts(Some(self.version(*v).version))));
        for provider in self.package(atom.target).providers.iter().rev() {
            let package = self.version(provider.owner).package;
            let usable =
                selected(package) == Some(provider.owner) && !self.ignores(owner, kind, package);
            if usable && atom.accepts(provider.version) && !found.contains(&provider.owner) {
                found.push(provider.owner);
            }
        }
        found
    }

    /// Lists every version of any package that satisfies an atom, chosen or not.
    pub(crate) fn all_matches(
        &self,
        owner: VersionId,
        kind: Kind,
        atom: &Atom<'_>,
    ) -> Vec<VersionId> {
        let owner = self.version(owner).package;
        let mut found = Vec::new();
        if !self.ignores(owner, kind, atom.target) {
            found.extend(
                self.package(atom.target)
                    .versions
                    .iter()
                    .copied()
                    .filter(|v| atom.accepts(Some(self.version(*v).version))),
            );
        }
        for provider in self.package(atom.target).providers.iter().rev() {
            let ignored = self.ignores(owner, kind, self.version(provider.owner).package);
            if !ignored && atom.accepts(provider.version) && !found.contains(&provider.owner) {
                found.push(provider.owner);
            }
        }
        found
    }

    fn intern(&mut self, name: &'a str, qualifier: Qualifier) -> PackageId {
        let packages = &mut self.packages;
        *self.names.entry((name, qualifier)).or_insert_with(|| {
            let id = PackageId(u32::try_from(packages.len()).unwrap_or(u32::MAX));
            packages.push(Package {
                name,
                ..Package::default()
            });
            id
        })
    }

    fn add(&mut self, fields: &Paragraph<'a>, origin: usize, pin: i32) -> Result<(), IndexError> {
        let fail = |name: &str, why: &str| {
            let line = fields.field(name).map_or(fields.line(), |f| f.line);
            IndexError {
                line,
                problem: format!(
                    "field `{name}` of `{}` {why}",
                    fields.get("Package").unwrap_or("a package")
                ),
            }
        };
        let need = |name| {
            fields
                .get(name)
                .filter(|v| !v.is_empty())
                .ok_or_else(|| fail(name, "is missing"))
        };
        let (name, version, arch) = (need("Package")?, need("Version")?, need("Architecture")?);
        if arch != self.arch && arch != "all" {
            return Ok(());
        }
        version::check(version).map_err(|err| fail("Version", &err.to_string()))?;
        let sha256 = parse_sha256(need("SHA256")?).ok_or_else(|| fail("SHA256", "is no digest"))?;
        let size_bytes = need("Size")?
            .parse()
            .map_err(|_err| fail("Size", "is no number"))?;
        let path = need("Filename")?;
        if path.starts_with('/') || path.split('/').any(|part| part == ".." || part.is_empty()) {
            return Err(fail("Filename", "leaves the archive"));
        }
        let package = self.intern(name, Qualifier::None);
        let is_yes = |name| {
            fields
                .get(name)
                .is_some_and(|v| v.eq_ignore_ascii_case("yes"))
        };
        let known = &mut self.packages[package.index()];
        known.essential |= is_yes("Essential");
        known.important |= is_yes("Important") || is_yes("Protected");
        let versions = &self.versions;
        let order = |id: &VersionId| version::compare(version, versions[id.index()].version);
        if known.versions.iter().any(|id| order(id).is_eq()) {
            // The same version in two suites is one version, taken from the first.
            return Ok(());
        }
        let at = known
            .versions
            .iter()
            .position(|id| order(id).is_gt())
            .unwrap_or(known.versions.len());
        let id = VersionId(u32::try_from(self.versions.len()).unwrap_or(u32::MAX));
        self.real += usize::from(known.versions.is_empty());
        known.versions.insert(at, id);
        let multi_arch = match fields.get("Multi-Arch") {
            Some("same") => MultiArch::Same,
            Some("foreign") => MultiArch::Foreign,
            Some("allowed") => MultiArch::Allowed,
            _ => MultiArch::No,
        };
        let mut dependencies = Vec::new();
        for (field, kind) in Kind::FIELDS {
            let Some(text) = fields.get(field) else {
                continue;
            };
            for group in Relation::parse_list(text).map_err(|err| fail(field, &err.to_string()))? {
                let atoms = group.iter().map(|relation| self.atom(relation)).collect();
                dependencies.push(Dependency { kind, atoms });
            }
        }
        // Only mentioned here, but a mention gives a name its place in the order.
        for field in ["Replaces", "Enhances"] {
            let groups = Relation::parse_list(fields.get(field).unwrap_or_default())
                .map_err(|err| fail(field, &err.to_string()))?;
            for relation in groups.iter().flatten() {
                self.atom(relation);
            }
        }
        let provided = Relation::parse_list(fields.get("Provides").unwrap_or_default())
            .map_err(|err| fail("Provides", &err.to_string()))?;
        self.add_provides(id, name, version, multi_arch, &provided);
        self.versions.push(Candidate {
            package,
            version,
            arch,
            multi_arch,
            priority: priority_rank(fields.get("Priority")),
            dependencies,
            path,
            size_bytes,
            sha256,
            origin,
            pin,
        });
        Ok(())
    }

    fn atom(&mut self, relation: &Relation<'a>) -> Atom<'a> {
        let qualifier = match relation.arch {
            None | Some("native") => Qualifier::None,
            Some("any") => Qualifier::Any,
            Some(arch) if arch == self.arch => Qualifier::None,
            Some(_) => Qualifier::Foreign,
        };
        Atom {
            target: self.intern(relation.name, qualifier),
            condition: relation.version,
        }
    }

    fn add_provides(
        &mut self,
        owner: VersionId,
        name: &'a str,
        version: &'a str,
        multi_arch: MultiArch,
        provided: &[Vec<Relation<'a>>],
    ) {
        for relation in provided.iter().flatten() {
            // Only `=` gives a provided version; apt ignores anything else.
            let provided_version = match relation.version {
                None => None,
                Some((RelationOp::Equal, version)) => Some(version),
                Some(_) => continue,
            };
            if multi_arch == MultiArch::Allowed {
                self.provide(owner, relation.name, Qualifier::Any, provided_version);
            }
            // Its own name and version need no providing; that apt notes it for foreign ones shows in its scores.
            let own = relation.name == name && provided_version.is_none_or(|v| v == version);
            if !own || multi_arch == MultiArch::Foreign {
                self.provide(owner, relation.name, Qualifier::None, provided_version);
            }
        }
        if multi_arch == MultiArch::Allowed {
            self.provide(owner, name, Qualifier::Any, Some(version));
        }
    }

    fn provide(
        &mut self,
        owner: VersionId,
        name: &'a str,
        qualifier: Qualifier,
        version: Option<&'a str>,
    ) {
        let id = self.intern(name, qualifier);
        self.packages[id.index()]
            .providers
            .push(Provider { owner, version });
    }
}

fn priority_rank(text: Option<&str>) -> u8 {
    match text {
        Some("required") => 1,
        Some("important") => 2,
        Some("standard") => 3,
        Some("optional") => 4,
        Some(_) => 5,
        None => 0,
    }
}

#[cfg(test)]
pub(crate) mod tests;
