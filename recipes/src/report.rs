//! What a session changed in a lock, in words.

use std::collections::BTreeMap;
use std::path::PathBuf;

use sos_formats::lock::{ImageEntry, RootfsEntry, UrlEntry};

/// One lock file that was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockReport {
    /// The file.
    pub path: PathBuf,
    /// Whether there was none before.
    pub created: bool,
    /// What is different in it.
    pub changes: Vec<Change>,
}

/// One entry that is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The packages of a root filesystem.
    Rootfs {
        /// The entry that was there.
        before: Option<RootfsEntry>,
        /// The entry that is there now.
        after: RootfsEntry,
    },
    /// The content of a URL.
    Url {
        /// The entry that was there.
        before: Option<UrlEntry>,
        /// The entry that is there now.
        after: UrlEntry,
    },
    /// What a name of a registry leads to.
    Image {
        /// The entry that was there.
        before: Option<ImageEntry>,
        /// The entry that is there now.
        after: ImageEntry,
    },
}

/// The versions of a package before and after.
#[derive(Default)]
struct Versions<'a> {
    old: Option<&'a str>,
    new: Option<&'a str>,
}

impl Change {
    /// Says in one line what changed.
    pub fn summary(&self) -> String {
        match self {
            Self::Rootfs {
                before: None,
                after,
            } => {
                let n = after.locked.packages.len();
                format!(
                    "{}: {n} {} pinned",
                    after.recipe,
                    if n == 1 { "package" } else { "packages" }
                )
            }
            Self::Rootfs {
                before: Some(_),
                after,
            } => {
                let lines = self.details();
                let count = |sign: &str| lines.iter().filter(|l| l.starts_with(sign)).count();
                let (added, removed, changed) = (count("+"), count("-"), count("~"));
                format!(
                    "{}: packages: {added} added, {removed} removed, {changed} changed",
                    after.recipe
                )
            }
            Self::Url {
                before: None,
                after,
            } => format!("{}: pinned", after.url),
            Self::Url {
                before: Some(_),
                after,
            } => format!("{}: content changed", after.url),
            Self::Image {
                before: None,
                after,
            } => format!("{}: pinned to sha256:{}", after.reference, after.digest),
            Self::Image {
                before: Some(before),
                after,
            } => format!(
                "{}: sha256:{} -> sha256:{}",
                after.reference, before.digest, after.digest
            ),
        }
    }

    /// Returns one line for each package that came (`+ name version`), went (`- name version`) or moved (`~ name old -> new`), by name.
    pub fn details(&self) -> Vec<String> {
        let Self::Rootfs {
            before: Some(before),
            after,
        } = self
        else {
            return Vec::new();
        };
        let mut packages: BTreeMap<&str, Versions<'_>> = BTreeMap::new();
        for p in &before.locked.packages {
            packages.entry(&p.name).or_default().old = Some(&p.version);
        }
        for p in &after.locked.packages {
            packages.entry(&p.name).or_default().new = Some(&p.version);
        }
        let line = |(name, versions): (&&str, &Versions<'_>)| match (versions.old, versions.new) {
            (None, Some(new)) => Some(format!("+ {name} {new}")),
            (Some(old), None) => Some(format!("- {name} {old}")),
            (Some(old), Some(new)) if old != new => Some(format!("~ {name} {old} -> {new}")),
            _ => None,
        };
        packages.iter().filter_map(line).collect()
    }
}
