//! A rootfs recipe after reading: every value checked, every default filled in.

use std::path::PathBuf;

use sos_formats::lock::Variant;
use sos_lang::ContextElem;

use super::bootc::BootcSpec;
use super::disk::DiskSpec;
use super::fields::Located;
use crate::tree::Place;

/// A whole recipe.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RootfsRecipe {
    pub(crate) name: String,
    pub(crate) arch: String,
    pub(crate) arch_place: Place,
    pub(crate) variant: Variant,
    pub(crate) recommends: bool,
    /// Seconds since 1970; when absent, the newest date of the locked archives.
    pub(crate) epoch: Option<i64>,
    pub(crate) sources: Vec<SourceSpec>,
    pub(crate) include: Vec<Located<String>>,
    pub(crate) exclude: Vec<Located<String>>,
    pub(crate) debs: Vec<Located<FileRef>>,
    /// Lines for `debconf-set-selections`.
    pub(crate) debconf: Vec<String>,
    pub(crate) disk: DiskSpec,
    pub(crate) bootc: BootcSpec,
    pub(crate) edit: EditSpec,
}

impl RootfsRecipe {
    /// Returns the place for what concerns the recipe as a whole: its first suite.
    pub(crate) fn anchor(&self) -> Place {
        let suite = self.sources.first().and_then(|s| s.suites.first());
        suite.and_then(|s| s.place.clone())
    }
}

/// What is changed in a root filesystem after its packages are there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EditSpec {
    pub(crate) files: Vec<FileSpec>,
    pub(crate) users: Vec<Account>,
    pub(crate) groups: Vec<GroupSpec>,
    pub(crate) services: Services,
    pub(crate) hostname: Option<String>,
    pub(crate) timezone: Option<Located<String>>,
    pub(crate) locale: Option<String>,
    /// Absent: emptied by the cleanup when there is one.
    pub(crate) machine_id: Option<MachineId>,
    /// Absent: nothing is removed.
    pub(crate) cleanup: Option<Cleanup>,
}

/// One archive.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SourceSpec {
    pub(crate) uri: String,
    pub(crate) suites: Vec<Located<String>>,
    pub(crate) components: Vec<Located<String>>,
    /// Absent: the keys of the Debian archive.
    pub(crate) keyring: Option<Located<FileRef>>,
    pub(crate) snapshot: Option<String>,
    /// The address that apt inside the image uses; absent: it does not know this archive.
    pub(crate) apt: Option<Located<String>>,
}

/// How a recipe names a file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FileRef {
    /// Relative to the directory of the recipe.
    Relative(String),
    /// A path value of the Nix language.
    Path(PathBuf),
    /// A text of the Nix language that names something in the store.
    Store(String, Vec<ContextElem>),
}

/// One entry to place into the root filesystem.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FileSpec {
    pub(crate) path: Located<String>,
    pub(crate) kind: FileKind,
    /// Absent: 0644, or 0755 for directories and for sources that are executable.
    pub(crate) mode: Option<u16>,
    pub(crate) owner: Located<String>,
}

/// What a placed entry is made from.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FileKind {
    Source(Located<FileRef>),
    Content(String, Vec<ContextElem>),
    Symlink(String),
    Directory,
}

/// A user to create.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Account {
    pub(crate) name: Located<String>,
    /// Absent: the first that is free after the packages are there.
    pub(crate) uid: Option<Located<u32>>,
    /// Primary group: the name of an existing one, or absent for a group of the user's own.
    pub(crate) group: Option<Located<String>>,
    /// Id of the user's own group; the uid when absent.
    pub(crate) gid: Option<u32>,
    pub(crate) groups: Vec<Located<String>>,
    pub(crate) home: String,
    pub(crate) shell: String,
    pub(crate) system: bool,
    pub(crate) comment: String,
    pub(crate) create_home: bool,
}

/// A group to create.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct GroupSpec {
    pub(crate) name: Located<String>,
    /// Absent: the first that is free after the packages are there.
    pub(crate) gid: Option<Located<u32>>,
    pub(crate) system: bool,
}

/// systemd units to change.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Services {
    pub(crate) enable: Vec<Located<String>>,
    pub(crate) disable: Vec<Located<String>>,
    pub(crate) mask: Vec<Located<String>>,
}

/// What `/etc/machine-id` holds in the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MachineId {
    /// An empty file: systemd makes an id at each boot, or keeps one when the root is writable.
    Empty,
    /// The word that makes systemd treat the next boot as the first.
    Uninitialized,
    /// No file.
    Absent,
}

impl MachineId {
    /// Every value and its name.
    pub(crate) const NAMES: &'static [(&'static str, Self)] = &[
        ("empty", Self::Empty),
        ("uninitialized", Self::Uninitialized),
        ("absent", Self::Absent),
    ];

    /// Returns the name of the value.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Uninitialized => "uninitialized",
            Self::Absent => "absent",
        }
    }
}

/// What is removed at the end.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cleanup {
    pub(crate) logs: bool,
    pub(crate) apt_lists: bool,
    pub(crate) ssh_host_keys: bool,
    pub(crate) docs: bool,
    pub(crate) paths: Vec<String>,
}

impl Default for Cleanup {
    fn default() -> Self {
        // What differs from build to build or must not be shared by two machines goes away unless the recipe keeps it.
        Self {
            logs: true,
            apt_lists: true,
            ssh_host_keys: true,
            docs: false,
            paths: Vec::new(),
        }
    }
}
