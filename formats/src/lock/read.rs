//! Reading a lock, strictly: a lock is made by a program, so anything unexpected in it is damage or a newer version.

use std::ops::Range;
use std::str::FromStr as _;

use serde::Deserialize;
use toml::Spanned;

use super::{
    ImageEntry, LOCK_VERSION, LockedIndex, LockedPackage, LockedRelease, LockedSuite, Phase,
    RootfsEntry, RootfsLocked, SosLock, UrlEntry,
};
use crate::hash::Sha256;

/// The largest lock that is read.
pub const MAX_LOCK_BYTES: usize = 64 << 20;

/// Why a lock file cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// The file is larger than [`MAX_LOCK_BYTES`].
    #[error("the lock is {0} bytes long, the limit is {MAX_LOCK_BYTES}")]
    TooLarge(usize),
    /// The text is not TOML, or not of the shape of a lock.
    #[error("{message}")]
    Shape {
        /// What the parser says.
        message: String,
        /// Where, in bytes.
        span: Option<Range<usize>>,
    },
    /// The lock was written by another version of the program.
    #[error("the lock is of version {found}, this program reads version {LOCK_VERSION}")]
    Version {
        /// The version in the file.
        found: i64,
        /// Where it is written.
        span: Range<usize>,
    },
    /// A field holds a value that is never written there.
    #[error("{field} `{found}` is not {expected}")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What was expected.
        expected: &'static str,
        /// Where it is written.
        span: Range<usize>,
    },
    /// Two entries pin the same thing.
    #[error("`{what}` is pinned twice")]
    Duplicate {
        /// Recipe, package, URL or image.
        what: String,
    },
}

impl LockError {
    /// Returns the place of the problem, in bytes of the text.
    pub fn span(&self) -> Option<Range<usize>> {
        match self {
            Self::TooLarge(_) | Self::Duplicate { .. } => None,
            Self::Shape { span, .. } => span.clone(),
            Self::Version { span, .. } | Self::Value { span, .. } => Some(span.clone()),
        }
    }
}

/// Read first, so that a lock of a newer version is refused for its version and not for a field that this one does not know.
#[derive(Deserialize)]
struct VersionOnly {
    version: Spanned<i64>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLock {
    #[serde(rename = "version")]
    _version: i64,
    #[serde(default)]
    rootfs: Vec<RawRootfs>,
    #[serde(default)]
    url: Vec<RawUrl>,
    #[serde(default)]
    image: Vec<RawImage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRootfs {
    recipe: Spanned<String>,
    arch: String,
    digest: String,
    solver: String,
    #[serde(default)]
    suite: Vec<RawSuite>,
    #[serde(default)]
    package: Vec<RawPackage>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSuite {
    uri: String,
    suite: String,
    components: Vec<String>,
    inrelease: RawRelease,
    index: Vec<RawIndex>,
    snapshot: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRelease {
    sha256: Spanned<String>,
    size: u64,
    date: String,
    keys: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawIndex {
    path: Spanned<String>,
    sha256: Spanned<String>,
    size: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPackage {
    name: Spanned<String>,
    version: Spanned<String>,
    arch: Spanned<String>,
    sha256: Spanned<String>,
    size: u64,
    path: Spanned<String>,
    suite: Option<Spanned<u64>>,
    phase: Spanned<String>,
    batch: u32,
    reason: String,
    auto: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawUrl {
    url: String,
    sha256: Spanned<String>,
    size: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawImage {
    #[serde(rename = "ref")]
    reference: String,
    digest: Spanned<String>,
}

pub(super) fn parse(text: &str) -> Result<SosLock, LockError> {
    if text.len() > MAX_LOCK_BYTES {
        return Err(LockError::TooLarge(text.len()));
    }
    let head: VersionOnly = toml::from_str(text).map_err(shape)?;
    if *head.version.get_ref() != LOCK_VERSION {
        return Err(LockError::Version {
            found: *head.version.get_ref(),
            span: head.version.span(),
        });
    }
    let raw: RawLock = toml::from_str(text).map_err(shape)?;
    let mut lock = SosLock::new();
    for entry in raw.rootfs {
        let entry = rootfs(entry)?;
        if lock.rootfs(&entry.recipe, &entry.arch).is_some() {
            return Err(LockError::Duplicate { what: entry.recipe });
        }
        lock.set_rootfs(entry);
    }
    for entry in raw.url {
        if lock.url(&entry.url).is_some() {
            return Err(LockError::Duplicate { what: entry.url });
        }
        lock.set_url(UrlEntry {
            url: entry.url,
            sha256: sha256(&entry.sha256)?,
            size: entry.size,
        });
    }
    for entry in raw.image {
        if lock.image(&entry.reference).is_some() {
            return Err(LockError::Duplicate {
                what: entry.reference,
            });
        }
        lock.set_image(ImageEntry {
            reference: entry.reference,
            digest: image_digest(&entry.digest)?,
        });
    }
    Ok(lock)
}

#[allow(
    clippy::needless_pass_by_value,
    reason = "the signature that map_err wants"
)]
fn shape(e: toml::de::Error) -> LockError {
    LockError::Shape {
        message: e.message().to_owned(),
        span: e.span(),
    }
}

fn rootfs(raw: RawRootfs) -> Result<RootfsEntry, LockError> {
    let suites = raw
        .suite
        .into_iter()
        .map(suite)
        .collect::<Result<Vec<_>, _>>()?;
    let mut packages = Vec::with_capacity(raw.package.len());
    for p in raw.package {
        packages.push(package(p, suites.len())?);
    }
    let mut names: Vec<_> = packages
        .iter()
        .map(|p: &LockedPackage| (p.name.as_str(), p.arch.as_str()))
        .collect();
    names.sort_unstable();
    if let Some(pair) = names.windows(2).find(|w| w[0] == w[1]) {
        return Err(LockError::Duplicate {
            what: format!("{}:{}", pair[0].0, pair[0].1),
        });
    }
    let locked = RootfsLocked {
        solver: raw.solver,
        suites,
        packages,
    };
    Ok(RootfsEntry {
        recipe: raw.recipe.into_inner(),
        arch: raw.arch,
        digest: raw.digest,
        locked,
    })
}

fn suite(raw: RawSuite) -> Result<LockedSuite, LockError> {
    let inrelease = LockedRelease {
        sha256: sha256(&raw.inrelease.sha256)?,
        size: raw.inrelease.size,
        date: raw.inrelease.date,
        keys: raw.inrelease.keys,
    };
    let index = raw
        .index
        .into_iter()
        .map(|i| {
            Ok(LockedIndex {
                sha256: sha256(&i.sha256)?,
                path: clean_path(i.path)?,
                size: i.size,
            })
        })
        .collect::<Result<_, LockError>>()?;
    Ok(LockedSuite {
        uri: raw.uri,
        suite: raw.suite,
        components: raw.components,
        inrelease,
        index,
        snapshot: raw.snapshot,
    })
}

fn package(raw: RawPackage, suites: usize) -> Result<LockedPackage, LockError> {
    let phase = match raw.phase.get_ref().as_str() {
        "essential" => Phase::Essential,
        "rest" => Phase::Rest,
        _ => return Err(value("phase", &raw.phase, "`essential` or `rest`")),
    };
    let suite = match raw.suite {
        None => None,
        Some(n) => match usize::try_from(*n.get_ref()) {
            Ok(i) if i < suites => Some(i),
            _ => {
                let found = n.get_ref().to_string();
                return Err(LockError::Value {
                    field: "suite",
                    found,
                    expected: "the number of a locked suite",
                    span: n.span(),
                });
            }
        },
    };
    Ok(LockedPackage {
        name: word("name", raw.name)?,
        version: word("version", raw.version)?,
        arch: word("arch", raw.arch)?,
        sha256: sha256(&raw.sha256)?,
        size: raw.size,
        path: clean_path(raw.path)?,
        suite,
        phase,
        batch: raw.batch,
        reason: raw.reason,
        auto: raw.auto,
    })
}

fn sha256(text: &Spanned<String>) -> Result<Sha256, LockError> {
    Sha256::from_str(text.get_ref()).map_err(|_why| value("sha256", text, "64 hexadecimal digits"))
}

/// The digest of a manifest, with the name of its algorithm as registries write it.
fn image_digest(text: &Spanned<String>) -> Result<Sha256, LockError> {
    let digits = text.get_ref().strip_prefix("sha256:");
    digits
        .and_then(|digits| Sha256::from_str(digits).ok())
        .ok_or_else(|| value("digest", text, "`sha256:` and 64 hexadecimal digits"))
}

/// Names, versions and architectures become file names and arguments of dpkg.
fn word(field: &'static str, text: Spanned<String>) -> Result<String, LockError> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || b".+-~:_".contains(&b);
    let t = text.get_ref();
    if t.is_empty() || t.starts_with(['-', '.']) || !t.bytes().all(ok) {
        return Err(value(
            field,
            &text,
            "a word of letters, digits and `.+-~:_`",
        ));
    }
    Ok(text.into_inner())
}

/// Paths are joined to the address of a mirror or to the directory of the recipe, and must stay below it.
fn clean_path(text: Spanned<String>) -> Result<String, LockError> {
    let t = text.get_ref();
    let clean = t
        .split('/')
        .all(|part| !part.is_empty() && part != "." && part != "..")
        && !t.bytes().any(|b| b < 0x20);
    if !clean {
        return Err(value("path", &text, "a clean relative path"));
    }
    Ok(text.into_inner())
}

fn value(field: &'static str, text: &Spanned<String>, expected: &'static str) -> LockError {
    LockError::Value {
        field,
        found: text.get_ref().clone(),
        expected,
        span: text.span(),
    }
}
