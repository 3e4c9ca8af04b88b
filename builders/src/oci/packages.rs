//! Which package a file of a root filesystem belongs to, as dpkg's lists say it.
//!
//! dpkg writes paths as they are in packages, not as they are in the filesystem: names that were diverted lie elsewhere, and
//! `/bin/ls` is `/usr/bin/ls` where `/bin` is a link. Configuration files are in the lists like any other.
//!
//! # Source
//! `dpkg` manual pages `dpkg-divert(1)`, `dpkg-query(1)`, and `/var/lib/dpkg` of Debian 12.

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::deb::Paragraphs;
use sos_store::rootfs::{KindView, RootTree};

const DPKG: &str = "var/lib/dpkg";
/// A larger list is none.
const MAX_LIST_BYTES: u64 = 256 << 20;

/// How often what is in a layer changes, as far as a package itself says so; most stable first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tier {
    /// What every system has.
    Base,
    /// All else.
    Usual,
    /// What was already updated within its release, and will be again.
    Updated,
}

impl Tier {
    /// All of them.
    pub(super) const ALL: [Self; 3] = [Self::Base, Self::Usual, Self::Updated];

    /// Its name, for people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Usual => "usual",
            Self::Updated => "updated",
        }
    }
}

/// What is installed, and what belongs to it.
#[derive(Debug, Default)]
pub(super) struct Packages {
    /// Every package, by name.
    pub(super) tiers: BTreeMap<String, Tier>,
    /// The package of each path, as it is in the filesystem.
    pub(super) owners: BTreeMap<Bytes, String>,
}

/// Reads dpkg's database; empty where there is none.
pub(super) fn read(tree: &RootTree) -> Result<Packages, BuilderError> {
    let mut packages = Packages::default();
    let Some(status) = text(tree, &format!("{DPKG}/status"))? else {
        return Ok(packages);
    };
    for paragraph in Paragraphs::new(&status) {
        let paragraph = paragraph.map_err(|error| {
            BuilderError::failed(format!("`/{DPKG}/status` of the root filesystem: {error}"))
        })?;
        let Some(name) = paragraph.get("Package") else {
            continue;
        };
        let tier = tier(
            paragraph.get("Essential") == Some("yes"),
            paragraph.get("Priority").unwrap_or_default(),
            paragraph.get("Version").unwrap_or_default(),
        );
        packages.tiers.entry(name.to_owned()).or_insert(tier);
    }
    let diversions = diversions(tree)?;
    let mut places = Places {
        tree,
        known: BTreeMap::new(),
    };
    let info = format!("{DPKG}/info");
    if !matches!(
        tree.get(&info)?.map(|entry| entry.kind),
        Some(KindView::Dir)
    ) {
        return Ok(packages);
    }
    for file in tree.list(&info)? {
        let Some((package, kind)) = owner_of_info(&file) else {
            continue;
        };
        if !packages.tiers.contains_key(package) {
            continue;
        }
        let path = [info.as_bytes(), b"/", &file].concat();
        packages.owners.insert(path.clone(), package.to_owned());
        if kind != "list" {
            continue;
        }
        let list = text(tree, &String::from_utf8_lossy(&path))?.unwrap_or_default();
        for line in list.lines().filter(|line| line.len() > 2) {
            let mut at = line;
            if let Some((to, by)) = diversions.get(line)
                && by != package
            {
                at = to;
            }
            if let Some(place) = places.real(at.trim_start_matches('/').as_bytes()) {
                // The same file in several packages is that of the first one by name, whatever the order of lists.
                packages
                    .owners
                    .entry(place)
                    .and_modify(|other| {
                        if package < other.as_str() {
                            package.clone_into(other);
                        }
                    })
                    .or_insert_with(|| package.to_owned());
            }
        }
    }
    Ok(packages)
}

/// Finds the tier of a package.
fn tier(essential: bool, priority: &str, version: &str) -> Tier {
    // `+deb12u3`: the third update within Debian 12.
    let updated = version.split('+').skip(1).any(|part| {
        part.strip_prefix("deb")
            .and_then(|rest| rest.split_once('u'))
            .is_some_and(|(release, number)| {
                release.parse::<u32>().is_ok() && number.starts_with(|c: char| c.is_ascii_digit())
            })
    });
    if updated {
        Tier::Updated
    } else if essential || matches!(priority, "required" | "important") {
        Tier::Base
    } else {
        Tier::Usual
    }
}

/// Splits the name of a file about a package: `libc6:amd64.list`.
fn owner_of_info(file: &[u8]) -> Option<(&str, &str)> {
    let (package, kind) = std::str::from_utf8(file).ok()?.rsplit_once('.')?;
    Some((package.split(':').next().unwrap_or(package), kind))
}

/// Reads where diverted names lie, and who diverted them.
fn diversions(tree: &RootTree) -> Result<BTreeMap<String, (String, String)>, BuilderError> {
    let list = text(tree, &format!("{DPKG}/diversions"))?.unwrap_or_default();
    let mut lines = list.lines();
    let mut found = BTreeMap::new();
    while let (Some(from), Some(to), Some(by)) = (lines.next(), lines.next(), lines.next()) {
        found.insert(from.to_owned(), (to.to_owned(), by.to_owned()));
    }
    Ok(found)
}

fn text(tree: &RootTree, path: &str) -> Result<Option<String>, BuilderError> {
    match tree.get(path)?.map(|entry| entry.kind) {
        Some(KindView::File { size, .. }) if size <= MAX_LIST_BYTES => {
            let bytes = tree.read_file(path)?;
            Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
        }
        Some(KindView::File { .. }) => Err(BuilderError::failed(format!(
            "`/{path}` of the root filesystem is larger than any list of dpkg"
        ))),
        _ => Ok(None),
    }
}

/// Finds the real directories of paths.
struct Places<'a> {
    tree: &'a RootTree,
    known: BTreeMap<Bytes, Option<Bytes>>,
}

impl Places<'_> {
    /// Gives the path without links on the way; nothing when its directory is not there.
    fn real(&mut self, path: &[u8]) -> Option<Bytes> {
        let at = path.iter().rposition(|byte| *byte == b'/');
        let Some(at) = at else {
            return Some(path.to_vec());
        };
        let (dir, name) = (&path[..at], &path[at + 1..]);
        let tree = self.tree;
        let real = self
            .known
            .entry(dir.to_vec())
            .or_insert_with(|| tree.resolve(dir).ok());
        real.as_ref().map(|real| super::contents::join(real, name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::build::fake::Fake;
    use sos_formats::manifest::Meta;
    use sos_store::rootfs::{FileSpec, SpecKind};

    #[test]
    fn tiers() {
        for (essential, priority, version, expected) in [
            (true, "required", "5.2.15-2+b2", Tier::Base),
            (false, "important", "1.0", Tier::Base),
            (false, "optional", "3.0-1~deb12u1", Tier::Usual),
            (false, "optional", "3.0.11-1~deb12u2+deb12u1", Tier::Updated),
            (true, "required", "2.36-9+deb12u4", Tier::Updated),
            (false, "optional", "1+debug", Tier::Usual),
        ] {
            assert_eq!(tier(essential, priority, version), expected, "{version}");
        }
    }

    #[test]
    fn lists_diversions_and_links() {
        let fake = Fake::new();
        let meta = Meta {
            mode: 0o755,
            ..Meta::default()
        };
        let mut tree = RootTree::empty_in(&fake.store, meta.clone());
        for dir in ["usr/bin", "etc", "var/lib/dpkg/info"] {
            tree.mkdir_p(dir, &meta).expect("a directory");
        }
        let kind = SpecKind::Symlink {
            target: b"usr/bin".to_vec(),
        };
        let spec = FileSpec {
            meta: meta.clone(),
            kind,
        };
        tree.insert("bin", spec).expect("a link");
        for (path, text) in [
            ("usr/bin/sh", ""),
            ("usr/bin/sh.distrib", ""),
            ("etc/x.conf", ""),
            (
                "var/lib/dpkg/status",
                "Package: bash\nEssential: yes\nStatus: install ok installed\nVersion: 1\n\nPackage: dash\nVersion: 1+deb12u1\n",
            ),
            (
                "var/lib/dpkg/diversions",
                "/bin/sh\n/bin/sh.distrib\ndash\n",
            ),
            (
                "var/lib/dpkg/info/bash.list",
                "/.\n/bin\n/bin/sh\n/etc\n/etc/x.conf\n/usr/share/doc/bash/README\n",
            ),
            ("var/lib/dpkg/info/bash.conffiles", "/etc/x.conf\n"),
            ("var/lib/dpkg/info/dash:amd64.list", "/.\n/bin/sh\n"),
            ("var/lib/dpkg/info/format", "1\n"),
        ] {
            tree.write_file(path, text.as_bytes().to_vec(), meta.clone())
                .expect("a file");
        }
        let found = read(&tree).expect("a database");
        let owner = |path: &str| found.owners.get(path.as_bytes()).map(String::as_str);
        assert_eq!(owner("usr/bin/sh"), Some("dash"));
        assert_eq!(owner("usr/bin/sh.distrib"), Some("bash"));
        assert_eq!(owner("etc/x.conf"), Some("bash"));
        assert_eq!(owner("var/lib/dpkg/info/dash:amd64.list"), Some("dash"));
        assert_eq!(owner("var/lib/dpkg/info/format"), None);
        // Left out when it was unpacked.
        assert_eq!(owner("usr/share/doc/bash/README"), None);
        assert_eq!(found.tiers["bash"], Tier::Base);
        assert_eq!(found.tiers["dash"], Tier::Updated);
    }
}
