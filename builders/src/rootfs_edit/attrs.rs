//! What a derivation says about an edit.

use serde::Deserialize;

/// All attributes of `builtin:rootfs-edit`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct EditAttrs {
    /// The rootfs object to begin with; absent is an empty one.
    pub(super) rootfs: Option<String>,
    /// No time in the result is later; what is made here has this time.
    pub(super) epoch: i64,
    pub(super) files: Vec<FileAttrs>,
    pub(super) users: Vec<UserAttrs>,
    pub(super) groups: Vec<GroupAttrs>,
    pub(super) hostname: Option<String>,
    pub(super) services: Option<ServiceAttrs>,
    pub(super) machine_id: Option<MachineId>,
    pub(super) timezone: Option<String>,
    pub(super) locale: Option<String>,
    pub(super) cleanup: Option<CleanupAttrs>,
    pub(super) extended_states: Option<Vec<AutoInstalled>>,
}

/// One thing to place; exactly one of `source`, `content`, `symlink` and `dir` is given.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct FileAttrs {
    pub(super) path: String,
    pub(super) source: Option<String>,
    pub(super) content: Option<String>,
    pub(super) symlink: Option<String>,
    pub(super) dir: bool,
    /// Octal digits.
    pub(super) mode: Option<String>,
    /// `user:group`, by name or number.
    pub(super) owner: Option<String>,
}

/// One user to make.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct UserAttrs {
    pub(super) name: String,
    /// Absent: the first that is free.
    pub(super) uid: Option<u32>,
    /// The id of the user's own group.
    pub(super) gid: Option<u32>,
    /// An existing primary group instead of one of the user's own.
    pub(super) group: Option<String>,
    /// Further groups.
    pub(super) groups: Vec<String>,
    pub(super) home: Option<String>,
    pub(super) shell: Option<String>,
    pub(super) system: bool,
    pub(super) comment: String,
    /// Absent: yes for people, no for system users.
    pub(super) create_home: Option<bool>,
}

/// One group to make.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct GroupAttrs {
    pub(super) name: String,
    /// Absent: the first that is free.
    pub(super) gid: Option<u32>,
    pub(super) system: bool,
}

/// Units to change.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct ServiceAttrs {
    pub(super) enable: Vec<String>,
    pub(super) disable: Vec<String>,
    pub(super) mask: Vec<String>,
}

/// What `/etc/machine-id` shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum MachineId {
    Empty,
    Uninitialized,
    Absent,
}

/// What to remove.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct CleanupAttrs {
    pub(super) logs: bool,
    pub(super) apt_lists: bool,
    pub(super) ssh_host_keys: bool,
    pub(super) docs: bool,
    /// Further paths; `*` and `?` stay within a name, `**` crosses directories.
    pub(super) paths: Vec<String>,
}

/// A package that apt may remove when nothing needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(super) struct AutoInstalled {
    pub(super) package: String,
    pub(super) arch: String,
}
