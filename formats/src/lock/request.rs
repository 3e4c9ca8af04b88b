//! What a resolver is asked for: the part of a rootfs recipe that decides which packages are installed.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde_json::json;

use crate::diagnostic::Label;
use crate::hash::{Hash, HashAlgo, Sha256};

/// Everything of a recipe that can change the outcome of resolving it.
#[derive(Debug, Clone)]
pub struct RootfsRequest {
    /// Name of the root filesystem, for messages.
    pub name: String,
    /// Debian architecture.
    pub arch: String,
    /// Archives, in the order of the recipe; earlier ones win between equal versions.
    pub sources: Vec<RootfsSource>,
    /// The base selection.
    pub variant: Variant,
    /// Packages asked for, in the order of the recipe: `name`, `name (>= 1)`, `name=1.0`.
    pub include: Vec<Wanted>,
    /// Packages that must not be installed.
    pub exclude: Vec<Wanted>,
    /// Whether Recommends are followed.
    pub recommends: bool,
    /// Package files that lie beside the recipe.
    pub debs: Vec<LocalDeb>,
}

/// One archive of a recipe.
#[derive(Debug, Clone)]
pub struct RootfsSource {
    /// Address as the recipe writes it, such as `mirror://debian`.
    pub uri: String,
    /// Suites, in order.
    pub suites: Vec<Wanted>,
    /// Components, in order.
    pub components: Vec<Wanted>,
    /// The keys that may sign the release files.
    pub keyring: Keyring,
    /// A snapshot service, with `{timestamp}` in its address; not part of the digest, since it changes no choice.
    pub snapshot: Option<String>,
}

/// The keys that an archive's release files are checked against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Keyring {
    /// The keys of the Debian archive that this program carries or the system provides.
    Debian,
    /// A keyring file.
    File {
        /// The name as the recipe writes it, for messages.
        name: String,
        /// The content, binary or armoured.
        bytes: Vec<u8>,
    },
}

/// A word of the recipe and the place it was written at.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The text.
    pub text: String,
    /// Its place, when the recipe is a file.
    pub label: Option<Label>,
}

/// A package file that lies beside the recipe.
#[derive(Debug, Clone)]
pub struct LocalDeb {
    /// Path as the recipe writes it, relative to the recipe.
    pub path: Wanted,
    /// Where the file can be read.
    pub physical: PathBuf,
    /// Digest of the file.
    pub sha256: Sha256,
    /// Size of the file.
    pub size: u64,
}

/// The base selection of packages, named as mmdebstrap names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Variant {
    /// Only what is asked for, unpacked and not configured.
    Extract,
    /// Only what is asked for.
    Custom,
    /// The essential packages and their dependencies.
    Essential,
    /// The essential packages and apt.
    Apt,
    /// Essential, `Priority: required` and apt.
    Minbase,
    /// Minbase and build-essential.
    Buildd,
    /// Minbase and `Priority: important`, as debootstrap does without options.
    Important,
    /// Important and `Priority: standard`.
    Standard,
}

impl Variant {
    /// Every accepted spelling and what it means.
    pub const NAMES: &'static [(&'static str, Self)] = &[
        ("extract", Self::Extract),
        ("custom", Self::Custom),
        ("essential", Self::Essential),
        ("apt", Self::Apt),
        ("minbase", Self::Minbase),
        ("required", Self::Minbase),
        ("buildd", Self::Buildd),
        ("important", Self::Important),
        ("debootstrap", Self::Important),
        ("standard", Self::Standard),
    ];

    /// Returns the first spelling of the variant.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Extract => "extract",
            Self::Custom => "custom",
            Self::Essential => "essential",
            Self::Apt => "apt",
            Self::Minbase => "minbase",
            Self::Buildd => "buildd",
            Self::Important => "important",
            Self::Standard => "standard",
        }
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The error of [`Variant::from_str`]: no variant has this name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown variant `{0}`")]
pub struct UnknownVariant(pub String);

impl FromStr for Variant {
    type Err = UnknownVariant;

    fn from_str(s: &str) -> Result<Self, Self::Err> {
        let found = Self::NAMES.iter().find(|(name, _)| *name == s);
        found
            .map(|(_, v)| *v)
            .ok_or_else(|| UnknownVariant(s.to_owned()))
    }
}

impl RootfsSource {
    /// Returns the names of the components.
    pub fn component_names(&self) -> Vec<String> {
        self.components.iter().map(|c| c.text.clone()).collect()
    }
}

impl RootfsRequest {
    /// Returns the digest of the normalised request, `sha256-<base64>`: equal digests mean that an earlier outcome still holds.
    pub fn digest(&self) -> String {
        let texts = |list: &[Wanted]| list.iter().map(|w| w.text.clone()).collect::<Vec<_>>();
        let sources: Vec<_> = self
            .sources
            .iter()
            .map(|s| {
                let keyring = match &s.keyring {
                    Keyring::Debian => "debian".to_owned(),
                    Keyring::File { bytes, .. } => Hash::of(HashAlgo::Sha256, bytes).to_hex(),
                };
                json!([s.uri, texts(&s.suites), texts(&s.components), keyring])
            })
            .collect();
        let debs: Vec<_> = self
            .debs
            .iter()
            .map(|d| json!([d.path.text, d.sha256.to_string()]))
            .collect();
        // A list, not an object, and a format number first: the bytes must not depend on how a map is ordered.
        let normal = json!([
            1,
            self.arch,
            sources,
            self.variant.as_str(),
            texts(&self.include),
            texts(&self.exclude),
            self.recommends,
            debs,
        ]);
        Hash::of(HashAlgo::Sha256, normal.to_string().as_bytes()).to_sri()
    }
}
