//! What is varied when something is built again.

use std::collections::BTreeSet;
use std::fmt;

use sos_formats::derivation::Derivation;

use crate::sandbox::spec::BUILD_DIR;
use crate::sandbox::{Vary, can_move_uptime};

/// One thing that a build could depend on and must not.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Condition {
    /// How many cores there are, and how many it is told of.
    Cores,
    /// What the build directory is called; for a step, which has the one of its recipe, the directory for temporary files.
    Directory,
    /// In which order directories list: the build directory, and the inputs that it is built from.
    Order,
    /// The file mode creation mask.
    Umask,
    /// Language and encoding.
    Locale,
    /// The time zone.
    Timezone,
    /// The host name.
    HostName,
    /// The release of the kernel, as `uname` tells it.
    Kernel,
    /// Where programs and libraries are in memory.
    Addresses,
    /// How long the machine has been up: the clocks that count from its start.
    Uptime,
}

impl Condition {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Cores,
        Self::Directory,
        Self::Order,
        Self::Umask,
        Self::Locale,
        Self::Timezone,
        Self::HostName,
        Self::Kernel,
        Self::Addresses,
        Self::Uptime,
    ];

    /// The word for it on a command line and in records.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Cores => "cores",
            Self::Directory => "directory",
            Self::Order => "directory-order",
            Self::Umask => "umask",
            Self::Locale => "locale",
            Self::Timezone => "timezone",
            Self::HostName => "host-name",
            Self::Kernel => "kernel",
            Self::Addresses => "addresses",
            Self::Uptime => "uptime",
        }
    }

    /// The end of "it differs when ...".
    #[must_use]
    pub fn clause(self) -> &'static str {
        match self {
            Self::Cores => "the number of cores differs",
            Self::Directory => {
                "the build directory, or the one for temporary files, has another name"
            }
            Self::Order => "directories list in another order",
            Self::Umask => "the umask differs",
            Self::Locale => "the locale differs",
            Self::Timezone => "the time zone differs",
            Self::HostName => "the host name differs",
            Self::Kernel => "the kernel's release differs",
            Self::Addresses => "addresses in memory differ",
            Self::Uptime => "the machine has been up for longer",
        }
    }
}

/// Who builds, as far as it decides what can be varied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Nix,
    StepToRootfs,
    StepToTree,
    InProcess,
}

/// What one build is given that differs from other builds.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Conditions {
    /// What is varied.
    pub set: BTreeSet<Condition>,
    /// The round, counted from 0: values change with it.
    pub round: usize,
    /// Whether it is on another day than the build that it is compared with. The clock itself is never varied.
    pub other_date: bool,
}

impl Conditions {
    /// Keeps of the wishes what can be varied for a derivation: never what it sets itself, nor what its output is made of.
    pub(crate) fn possible(
        wishes: &BTreeSet<Condition>,
        shape: Shape,
        drv: &Derivation,
    ) -> BTreeSet<Condition> {
        let sets = |name: &str| match shape {
            Shape::Nix => drv.env.contains_key(name.as_bytes()),
            _ => crate::attributes::as_json(drv)
                .is_ok_and(|json| json["env"].get(name).is_some() || json.get(name).is_some()),
        };
        let may = |condition: &Condition| match condition {
            Condition::Cores => true,
            _ if shape == Shape::InProcess => false,
            // A step has the directory that its recipe says, and may have one for temporary files besides.
            Condition::Directory => {
                shape == Shape::Nix || (!sets("TMPDIR") && has_temporary_files(drv))
            }
            // The changes of a step lie on the disk of the store, as its inputs do.
            Condition::Order => shape == Shape::Nix,
            // The modes of a root filesystem are part of the result.
            Condition::Umask => shape != Shape::StepToRootfs,
            Condition::Locale => !sets("LC_ALL") && !sets("LANG"),
            Condition::Timezone => !sets("TZ"),
            Condition::HostName => !sets("hostname") || shape == Shape::Nix,
            Condition::Kernel | Condition::Addresses => true,
            Condition::Uptime => can_move_uptime(),
        };
        wishes.iter().copied().filter(may).collect()
    }

    fn has(&self, condition: Condition) -> bool {
        self.set.contains(&condition)
    }

    /// How many cores a build is told of.
    pub(crate) fn cores(&self, usual: usize) -> usize {
        match (self.has(Condition::Cores), usual) {
            (false, _) => usual,
            (true, 1) => 2 + self.round,
            (true, usual) => 1 + self.round % (usual - 1),
        }
    }

    /// Where a step makes temporary files, which is `/tmp` otherwise.
    pub(crate) fn temporary(&self) -> Option<String> {
        self.has(Condition::Directory)
            .then(|| format!("/tmp/verify-{}", self.round + 1))
    }

    /// Variables besides the usual ones.
    pub(crate) fn environment(&self, is_step: bool) -> Vec<(&'static str, &'static str)> {
        let mut all = Vec::new();
        if self.has(Condition::Locale) {
            let locale = match (self.round % 3, is_step) {
                // What steps have otherwise.
                (0, true) => "C",
                (0, false) => "C.UTF-8",
                (1, _) => "en_US.UTF-8",
                _ => "tr_TR.UTF-8",
            };
            all.extend([("LANG", locale), ("LC_ALL", locale)]);
        }
        if self.has(Condition::Timezone) {
            // Written out, so that no database of zones is needed; far enough that it is another day there most of the time.
            let zone = ["<+14>-14", "<-12>12"][self.round % 2];
            all.push(("TZ", zone));
        }
        all
    }

    /// What a build in the Nix shape calls its directory.
    pub(crate) fn build_dir(&self) -> String {
        if self.has(Condition::Directory) {
            // Deeper and longer, so that what has room for the path only shows as well.
            format!("/verify-{}/directory/build", self.round + 1)
        } else {
            BUILD_DIR.to_owned()
        }
    }

    /// The host name, if it is varied.
    pub(crate) fn host_name(&self) -> Option<String> {
        self.has(Condition::HostName)
            .then(|| format!("verify-{}", self.round + 1))
    }

    /// What the sandbox does. `copied` are the inputs that are small enough to be copied into memory.
    pub(crate) fn vary(&self, usual_cores: usize, copied: impl FnOnce() -> Vec<String>) -> Vary {
        Vary {
            // Others may not even read: as far from 022 as builds live with.
            umask: self
                .has(Condition::Umask)
                .then_some([0o077, 0o002][self.round % 2]),
            random_addresses: self.has(Condition::Addresses),
            old_kernel: self.has(Condition::Kernel),
            // Years, so that even what counts in days differs.
            uptime_secs: self
                .has(Condition::Uptime)
                .then_some([315_360_000, 946_080_000][self.round % 2]),
            processors: self.has(Condition::Cores).then(|| self.cores(usual_cores)),
            reordered: self.has(Condition::Order).then(copied),
            temporary: None,
        }
    }
}

/// Tells whether a step has a memory filesystem at `/tmp`: what it makes there is no part of its result, whatever it is called.
fn has_temporary_files(drv: &Derivation) -> bool {
    crate::attributes::as_json(drv).is_ok_and(|json| match json.get("tmpfs") {
        None | Some(serde_json::Value::Null) => true,
        Some(dirs) => dirs
            .as_array()
            .is_some_and(|dirs| dirs.iter().any(|dir| dir == "/tmp")),
    })
}

impl fmt::Display for Conditions {
    /// The words with a comma between; `place` stands for what every build differs in.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("place")?;
        if self.other_date {
            f.write_str(",date")?;
        }
        for condition in &self.set {
            write!(f, ",{}", condition.word())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_derivation_sets_itself_is_not_varied() {
        let all = BTreeSet::from(Condition::ALL);
        let mut drv = Derivation::default();
        let possible = |drv: &Derivation, shape| Conditions::possible(&all, shape, drv);
        let mut here = all.clone();
        here.retain(|condition| *condition != Condition::Uptime || can_move_uptime());
        assert_eq!(possible(&drv, Shape::Nix), here);
        assert_eq!(
            possible(&drv, Shape::InProcess),
            BTreeSet::from([Condition::Cores])
        );
        let rootfs = possible(&drv, Shape::StepToRootfs);
        assert!(!rootfs.contains(&Condition::Umask) && !rootfs.contains(&Condition::Order));
        drv.env.insert(b"LANG".to_vec(), b"C".to_vec());
        drv.env.insert(b"TZ".to_vec(), b"UTC".to_vec());
        let left = possible(&drv, Shape::Nix);
        assert!(!left.contains(&Condition::Locale) && !left.contains(&Condition::Timezone));
        let json = br#"{"hostname": "box", "env": {"LC_ALL": "C"}}"#;
        drv.env = [(b"__json".to_vec(), json.to_vec())].into();
        let left = possible(&drv, Shape::StepToTree);
        assert!(!left.contains(&Condition::Locale) && !left.contains(&Condition::HostName));
        assert!(left.contains(&Condition::Timezone));
        let directory = |json: &str| {
            let drv = Derivation {
                env: [(b"__json".to_vec(), json.as_bytes().to_vec())].into(),
                ..Derivation::default()
            };
            possible(&drv, Shape::StepToRootfs).contains(&Condition::Directory)
        };
        assert!(directory("{}") && directory(r#"{"tmpfs": ["/run", "/tmp"]}"#));
        assert!(!directory(r#"{"env": {"TMPDIR": "/x"}}"#) && !directory(r#"{"tmpfs": []}"#));
    }

    #[test]
    fn the_number_of_cores_is_always_another() {
        for round in 0..5 {
            let conditions = Conditions {
                set: [Condition::Cores].into(),
                round,
                other_date: false,
            };
            for usual in 1..5 {
                assert_ne!(conditions.cores(usual), usual);
                assert!(conditions.cores(usual) > 0);
            }
        }
        assert_eq!(Conditions::default().cores(3), 3);
    }
}
