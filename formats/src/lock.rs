//! `sos.lock`: every outside input of a directory of recipes, pinned by hash.
//!
//! The lock is written by `sos lock` and by the first `sos build`, read by every later one, and never edited by hand. Building from
//! it needs no resolver and no package index: the digest of each file is the trust, so an expired signing key cannot break an old
//! build.
//!
//! # Format
//!
//! TOML, `version = 1` first, then `[[rootfs]]` sorted by (recipe, arch), then `[[url]]` sorted by URL, then `[[image]]`
//! sorted by reference. The text is canonical: reading
//! and writing an unchanged lock gives the same bytes, and nothing in it says when it was generated. Hosts that a `mirror://` name
//! resolved to are never written.

mod read;
mod request;
mod write;

pub use read::{LockError, MAX_LOCK_BYTES};
pub use request::{
    Keyring, LocalDeb, RootfsRequest, RootfsSource, UnknownVariant, Variant, Wanted,
};

use crate::hash::Sha256;

/// The version of the lock file that this program writes and reads.
pub const LOCK_VERSION: i64 = 1;

/// The content of one `sos.lock`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SosLock {
    rootfs: Vec<RootfsEntry>,
    url: Vec<UrlEntry>,
    image: Vec<ImageEntry>,
}

/// The pinned packages of one Debian root filesystem recipe for one architecture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootfsEntry {
    /// Path of the recipe file relative to the lock, or `inline:<name>` for a recipe written inside a Nix expression.
    pub recipe: String,
    /// Debian architecture.
    pub arch: String,
    /// [`RootfsRequest::digest`] of the recipe when it was resolved; a different one now means that the entry is stale.
    pub digest: String,
    /// What was resolved.
    pub locked: RootfsLocked,
}

/// The outcome of resolving a [`RootfsRequest`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RootfsLocked {
    /// Name and version of the resolver, since another one may choose differently.
    pub solver: String,
    /// The package indexes that were used, in the order of the recipe.
    pub suites: Vec<LockedSuite>,
    /// The packages, in install order.
    pub packages: Vec<LockedPackage>,
}

/// One suite of one archive as it was when the recipe was resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedSuite {
    /// Address of the archive as the recipe writes it, such as `mirror://debian`.
    pub uri: String,
    /// Name of the suite as the recipe writes it.
    pub suite: String,
    /// Components that were read.
    pub components: Vec<String>,
    /// The signed release file.
    pub inrelease: LockedRelease,
    /// The package indexes named by the release file, in the order they were read.
    pub index: Vec<LockedIndex>,
    /// Timestamp for a snapshot service (`20260711T101637Z`); a hint, tried when the mirror no longer has a package.
    pub snapshot: Option<String>,
}

/// Digest and signers of an `InRelease` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedRelease {
    /// Digest of the whole file.
    pub sha256: Sha256,
    /// Size of the file.
    pub size: u64,
    /// The `Date` field, in RFC 3339 form with a `Z`.
    pub date: String,
    /// Fingerprints (upper-case hex) of the keys whose signatures were good, sorted.
    pub keys: Vec<String>,
}

/// Digest of one package index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedIndex {
    /// Path relative to the directory of the release file, such as `main/binary-amd64/Packages.xz`.
    pub path: String,
    /// Digest of the file as it is on the mirror (compressed).
    pub sha256: Sha256,
    /// Size of that file.
    pub size: u64,
}

/// One pinned package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedPackage {
    /// Name of the package.
    pub name: String,
    /// Version, with its epoch.
    pub version: String,
    /// Architecture of the package itself, `all` included.
    pub arch: String,
    /// Digest of the `.deb`.
    pub sha256: Sha256,
    /// Size of the `.deb`.
    pub size: u64,
    /// Path of the `.deb`: in the archive's pool, or relative to the recipe when `suite` is absent.
    pub path: String,
    /// Index into [`RootfsLocked::suites`]; absent for a `.deb` that lies beside the recipe.
    pub suite: Option<usize>,
    /// When the package is installed.
    pub phase: Phase,
    /// Packages of one phase with the same number are unpacked together and then configured together, in ascending order.
    pub batch: u32,
    /// Why the package is here: `essential`, `variant`, `requested`, `depends:<package>` or `recommends:<package>`.
    pub reason: String,
    /// Whether the package was only pulled in by another one (apt's `Auto-Installed`).
    pub auto: bool,
}

/// The two stages of making a Debian root filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Extracted without dpkg so that dpkg itself can run, then installed by it.
    Essential,
    /// Installed by the dpkg of the essential set.
    Rest,
}

impl Phase {
    /// Returns the name of the phase as the lock writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Essential => "essential",
            Self::Rest => "rest",
        }
    }
}

/// A URL whose content was pinned because the recipe gave no hash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlEntry {
    /// The URL as the recipe writes it.
    pub url: String,
    /// Digest of the content.
    pub sha256: Sha256,
    /// Size of the content.
    pub size: u64,
}

/// An image of a registry that was pinned because the recipe gave no digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageEntry {
    /// The name as the recipe writes it, `HOST/NAME[:TAG]`.
    pub reference: String,
    /// Digest of the manifest or index that the registry had under that name.
    pub digest: Sha256,
}

impl SosLock {
    /// Returns an empty lock.
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads the text of a lock file.
    ///
    /// # Errors
    /// [`LockError`] when the text is not TOML, is of another version, has unknown or missing fields, or holds values that no
    /// resolver could have written.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        read::parse(text)
    }

    /// Returns the canonical text of the lock.
    pub fn to_text(&self) -> String {
        write::to_text(self)
    }

    /// Returns whether nothing is pinned.
    pub fn is_empty(&self) -> bool {
        self.rootfs.is_empty() && self.url.is_empty() && self.image.is_empty()
    }

    /// Returns the root filesystem entries, sorted by recipe and architecture.
    pub fn rootfs_entries(&self) -> &[RootfsEntry] {
        &self.rootfs
    }

    /// Returns the URL entries, sorted by URL.
    pub fn url_entries(&self) -> &[UrlEntry] {
        &self.url
    }

    /// Returns the entry of a recipe for an architecture.
    pub fn rootfs(&self, recipe: &str, arch: &str) -> Option<&RootfsEntry> {
        let at = self.find_rootfs(recipe, arch).ok()?;
        self.rootfs.get(at)
    }

    /// Adds an entry, or replaces the one of the same recipe and architecture.
    pub fn set_rootfs(&mut self, entry: RootfsEntry) {
        match self.find_rootfs(&entry.recipe, &entry.arch) {
            Ok(at) => self.rootfs[at] = entry,
            Err(at) => self.rootfs.insert(at, entry),
        }
    }

    /// Removes every entry of a recipe and says whether there was one.
    pub fn remove_rootfs(&mut self, recipe: &str) -> bool {
        let before = self.rootfs.len();
        self.rootfs.retain(|e| e.recipe != recipe);
        before != self.rootfs.len()
    }

    /// Returns the pinned content of a URL.
    pub fn url(&self, url: &str) -> Option<&UrlEntry> {
        let at = self.find_url(url).ok()?;
        self.url.get(at)
    }

    /// Adds a URL, or replaces its entry.
    pub fn set_url(&mut self, entry: UrlEntry) {
        match self.find_url(&entry.url) {
            Ok(at) => self.url[at] = entry,
            Err(at) => self.url.insert(at, entry),
        }
    }

    /// Removes a URL and says whether it was there.
    pub fn remove_url(&mut self, url: &str) -> bool {
        match self.find_url(url) {
            Ok(at) => {
                self.url.remove(at);
                true
            }
            Err(_) => false,
        }
    }

    /// Returns the image entries, sorted by reference.
    pub fn image_entries(&self) -> &[ImageEntry] {
        &self.image
    }

    /// Returns what an image of a registry is pinned to.
    pub fn image(&self, reference: &str) -> Option<&ImageEntry> {
        let at = self.find_image(reference).ok()?;
        self.image.get(at)
    }

    /// Adds an image, or replaces its entry.
    pub fn set_image(&mut self, entry: ImageEntry) {
        match self.find_image(&entry.reference) {
            Ok(at) => self.image[at] = entry,
            Err(at) => self.image.insert(at, entry),
        }
    }

    /// Takes the entry of an image out; tells whether there was one.
    pub fn remove_image(&mut self, reference: &str) -> bool {
        let found = self.find_image(reference);
        if let Ok(at) = found {
            self.image.remove(at);
        }
        found.is_ok()
    }

    fn find_image(&self, reference: &str) -> Result<usize, usize> {
        self.image
            .binary_search_by(|e| e.reference.as_str().cmp(reference))
    }

    fn find_rootfs(&self, recipe: &str, arch: &str) -> Result<usize, usize> {
        self.rootfs
            .binary_search_by(|e| (e.recipe.as_str(), e.arch.as_str()).cmp(&(recipe, arch)))
    }

    fn find_url(&self, url: &str) -> Result<usize, usize> {
        self.url.binary_search_by(|e| e.url.as_str().cmp(url))
    }
}

#[cfg(test)]
mod tests;
