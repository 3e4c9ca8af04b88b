//! What this machine can do for the sandbox, and what to do when it cannot: for `sos doctor` and for early clear errors.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use sos_formats::diagnostic::{Class, Diagnostic};

use crate::sandbox::{Control, Exit, SandboxError, cgroup, ids, self_test};

/// Free space below which a build of a root filesystem is likely to fail.
const FREE_BYTES_WANTED: u64 = 2 << 30;

/// Free inodes below which it is: a small one has ten thousand files, and is there several times while it is made.
const FREE_INODES_WANTED: u64 = 100_000;

/// How one check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// As it should be.
    Good,
    /// Something works less well.
    Warning,
    /// Something cannot work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug)]
pub struct Check {
    /// Short stable name, `user-namespaces`.
    pub name: &'static str,
    /// What came out.
    pub health: Health,
    /// What was found, for people.
    pub found: String,
    /// What to do about it: commands, one a line.
    pub fix: Option<String>,
}

impl Check {
    fn good(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            health: Health::Good,
            found: found.into(),
            fix: None,
        }
    }

    fn from_error(name: &'static str, error: SandboxError) -> Self {
        let diagnostic = error.into_diagnostic();
        let fix = diagnostic.helps.join("\n");
        Self {
            name,
            health: Health::Bad,
            found: diagnostic.message,
            fix: (!fix.is_empty()).then_some(fix),
        }
    }
}

/// Looks at everything that the sandbox needs; `store_root` is where the store is or will be.
///
/// The namespace checks really make a sandbox, so they take some hundredths of a second.
#[must_use]
pub fn run(store_root: &Path, control: &Control) -> Vec<Check> {
    let mut checks = vec![
        user_namespaces(control),
        subordinate_ids("subordinate-uids", "/etc/subuid", "uid_map"),
        subordinate_ids("subordinate-gids", "/etc/subgid", "gid_map"),
        map_program("newuidmap"),
        map_program("newgidmap"),
    ];
    let steps_possible = checks.iter().all(|c| c.health != Health::Bad);
    if steps_possible {
        checks.push(overlay(store_root, control));
    }
    checks.push(seccomp());
    checks.push(free_space(store_root));
    checks.push(free_inodes(store_root));
    checks.push(cgroups());
    checks
}

fn user_namespaces(control: &Control) -> Check {
    const NAME: &str = "user-namespaces";
    match self_test::nix(control) {
        Ok(Exit::Code(0)) => Check::good(NAME, "an ordinary build sandbox works"),
        Ok(other) => Check {
            name: NAME,
            health: Health::Bad,
            found: format!("a trial run in a sandbox ended with {other:?}"),
            fix: None,
        },
        Err(error) => Check::from_error(NAME, error),
    }
}

fn overlay(store_root: &Path, control: &Control) -> Check {
    const NAME: &str = "overlayfs";
    match self_test::step(store_root, control) {
        Ok(Exit::Code(0)) => Check::good(NAME, "a root filesystem under an overlay works"),
        Ok(other) => Check {
            name: NAME,
            health: Health::Bad,
            found: format!("a trial step ended with {other:?}"),
            fix: None,
        },
        Err(error) => Check::from_error(NAME, error),
    }
}

fn subordinate_ids(name: &'static str, file: &'static str, map: &str) -> Check {
    if rustix::process::geteuid().is_root() {
        return match ids::of_root(map) {
            Ok(_) => Check::good(name, "not needed: the caller is root"),
            Err(error) => Check::from_error(name, error),
        };
    }
    let have: u64 = ids::caller_ranges(file)
        .iter()
        .map(|r| u64::from(r.1))
        .sum();
    if have >= u64::from(ids::STEP_IDS) - 1 {
        Check::good(name, format!("{have} ids in {file}"))
    } else {
        Check::from_error(
            name,
            no_subordinate_ids(file, u32::try_from(have).unwrap_or(u32::MAX)),
        )
    }
}

fn map_program(name: &'static str) -> Check {
    if rustix::process::geteuid().is_root() {
        return Check::good(name, "not needed: the caller is root");
    }
    let Some(path) = ids::find_map_program(name) else {
        return Check::from_error(name, no_map_program(name));
    };
    let privileged = fs::metadata(&path)
        .is_ok_and(|m| m.permissions().mode() & 0o4000 != 0 && m.uid() == 0)
        || has_capability(&path);
    if privileged {
        Check::good(name, path.display().to_string())
    } else {
        Check {
            name,
            health: Health::Bad,
            found: format!("{} is not setuid root", path.display()),
            fix: Some(format!("sudo chmod 4755 {}", path.display())),
        }
    }
}

/// Some distributions give the program a file capability instead of the setuid bit.
fn has_capability(path: &Path) -> bool {
    let mut value = [0u8; 64];
    rustix::fs::getxattr(path, "security.capability", &mut value).is_ok()
}

fn seccomp() -> Check {
    const NAME: &str = "seccomp";
    let found = fs::read_to_string("/proc/sys/kernel/seccomp/actions_avail").unwrap_or_default();
    if found.split_ascii_whitespace().any(|a| a == "errno") {
        Check::good(NAME, "system call filters work")
    } else {
        Check {
            name: NAME,
            health: Health::Bad,
            found: "the kernel has no system call filters".to_owned(),
            fix: Some("use a kernel with CONFIG_SECCOMP_FILTER=y".to_owned()),
        }
    }
}

fn free_space(store_root: &Path) -> Check {
    const NAME: &str = "free-space";
    // The store may not exist yet: the nearest directory above it is on the same filesystem.
    let Some(stat) = store_root
        .ancestors()
        .find_map(|dir| rustix::fs::statvfs(dir).ok())
    else {
        return Check {
            name: NAME,
            health: Health::Warning,
            found: format!("cannot look at {}", store_root.display()),
            fix: None,
        };
    };
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let found = format!("{} MiB free for {}", free >> 20, store_root.display());
    if free >= FREE_BYTES_WANTED {
        Check::good(NAME, found)
    } else {
        Check {
            name: NAME,
            health: Health::Warning,
            found,
            fix: Some("sos gc".to_owned()),
        }
    }
}

fn free_inodes(store_root: &Path) -> Check {
    const NAME: &str = "free-inodes";
    let stat = store_root
        .ancestors()
        .find_map(|dir| rustix::fs::statvfs(dir).ok());
    match stat {
        Some(stat) if stat.f_files == 0 => {
            Check::good(NAME, "this file system makes inodes as they are needed")
        }
        Some(stat) if stat.f_favail >= FREE_INODES_WANTED => {
            Check::good(NAME, format!("{} free", stat.f_favail))
        }
        Some(stat) => Check {
            name: NAME,
            health: Health::Warning,
            found: format!("{} free for {}", stat.f_favail, store_root.display()),
            fix: Some("sos gc".to_owned()),
        },
        None => Check {
            name: NAME,
            health: Health::Warning,
            found: format!("cannot look at {}", store_root.display()),
            fix: None,
        },
    }
}

fn cgroups() -> Check {
    const LIMITS: &str = "`build.memory-max` and `build.pids-max`";
    const NAME: &str = "resource-limits";
    match cgroup::Hierarchy::find(Path::new("/")) {
        Ok(found) => Check::good(
            NAME,
            format!(
                "{LIMITS} hold for each build as a whole, by control groups in {}",
                found.places()
            ),
        ),
        Err(why) if cgroup::is_exempt() => Check {
            name: NAME,
            health: Health::Warning,
            found: format!(
                "`build.memory-max` holds for each process only, and `build.pids-max` for nothing, since the kernel holds root to no such limit: {why}"
            ),
            fix: Some("systemd-run --scope -p Delegate=yes sos build ..   # or build as another user than root".to_owned()),
        },
        Err(why) => Check::good(
            NAME,
            format!(
                "`build.memory-max` holds for each process, `build.pids-max` for all builds that run at once: {why}"
            ),
        ),
    }
}

/// Says that a limit that was asked for is not kept on this machine.
pub(crate) fn unenforced_processes() -> Option<Diagnostic> {
    if !cgroup::is_exempt() || cgroup::Hierarchy::usable().is_some() {
        return None;
    }
    let why = cgroup::Hierarchy::find(Path::new("/")).err();
    let warning = Diagnostic::warning(
        "env-limit-not-enforced",
        Class::Machine,
        "`build.pids-max` is not enforced: the kernel does not hold root to it, and there is no control group to use",
    );
    Some(
        why.into_iter()
            .fold(warning, Diagnostic::note)
            .help("build as another user than root, or where control groups can be made: `systemd-run --scope -p Delegate=yes sos ..`"),
    )
}

fn machine(diagnostic: Diagnostic) -> SandboxError {
    SandboxError::Machine(Box::new(diagnostic))
}

fn sysctl_is(name: &str, value: &str) -> bool {
    fs::read_to_string(Path::new("/proc/sys").join(name.replace('.', "/")))
        .is_ok_and(|text| text.trim() == value)
}

/// Says that a user namespace cannot be made, and the switch that forbids it.
pub(crate) fn no_user_namespaces(error: Option<&io::Error>) -> SandboxError {
    let mut diagnostic = Diagnostic::error(
        "env-no-user-namespaces",
        Class::Machine,
        "this machine does not let you create user namespaces, which the build sandbox needs"
            .to_owned(),
    );
    if let Some(error) = error {
        diagnostic = diagnostic.note(format!("the kernel said: {error}"));
    }
    let switches = [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "15000"),
    ];
    let mut known = false;
    for (name, bad, good) in switches {
        if sysctl_is(name, bad) {
            known = true;
            diagnostic = diagnostic.help(format!(
                "sudo sysctl -w {name}={good} && echo {name}={good} | sudo tee -a /etc/sysctl.d/60-sos.conf"
            ));
        }
    }
    if !known {
        diagnostic = diagnostic.help(
            "inside a container, start it with a seccomp profile that allows `unshare` (for Docker: --security-opt seccomp=unconfined)"
                .to_owned(),
        );
    }
    machine(diagnostic)
}

/// Tells whether the caller has the subordinate ids that steps need; asks the files only, so it costs nothing.
pub(crate) fn require_step_ids() -> Result<(), Box<Diagnostic>> {
    if rustix::process::geteuid().is_root() {
        let all = ids::step_maps().map(|_maps| ());
        return all.map_err(|error| {
            // Ids would be of no use then.
            let none = sysctl_is("user.max_user_namespaces", "0");
            let first = if none {
                no_user_namespaces(None)
            } else {
                error
            };
            Box::new(first.into_diagnostic())
        });
    }
    let mut missing = ["/etc/subuid", "/etc/subgid"]
        .into_iter()
        .filter_map(|file| {
            let have: u64 = ids::caller_ranges(file)
                .iter()
                .map(|r| u64::from(r.1))
                .sum();
            let enough = have >= u64::from(ids::STEP_IDS) - 1;
            (!enough).then(|| {
                no_subordinate_ids(file, u32::try_from(have).unwrap_or(u32::MAX)).into_diagnostic()
            })
        });
    let Some(mut first) = missing.next() else {
        return Ok(());
    };
    // Both at once: a second failure after the first is mended would be one too many.
    first.helps.extend(missing.flat_map(|d| d.helps));
    Err(Box::new(first))
}

/// Says that the caller has too few subordinate ids.
pub(crate) fn no_subordinate_ids(file: &'static str, have: u32) -> SandboxError {
    let name = ids::caller_name();
    let first = ids::free_range(&fs::read_to_string(file).unwrap_or_default());
    let (option, word) = if file == "/etc/subuid" {
        ("--add-subuids", "user")
    } else {
        ("--add-subgids", "group")
    };
    machine(
        Diagnostic::error(
            "env-no-subordinate-ids",
            Class::Machine,
            format!(
                "{name} has {have} subordinate {word} ids in {file}, and root filesystems need {}",
                ids::STEP_IDS
            ),
        )
        .help(format!(
            "sudo usermod {option} {first}-{} {name}",
            first + ids::STEP_IDS - 1
        )),
    )
}

/// Says that the ids could not be mapped although they look right.
pub(crate) fn no_id_maps(why: &str) -> SandboxError {
    machine(
        Diagnostic::error(
            "env-no-subordinate-ids",
            Class::Machine,
            "the ids that root filesystems need cannot be mapped".to_owned(),
        )
        .note(why.to_owned())
        .help(
            "check /etc/subuid and /etc/subgid; root needs the ids 0 to 65535 in its own namespace"
                .to_owned(),
        ),
    )
}

/// Says that `newuidmap` or `newgidmap` is missing.
pub(crate) fn no_map_program(name: &str) -> SandboxError {
    machine(
        Diagnostic::error(
            "env-no-newuidmap",
            Class::Machine,
            format!("`{name}` is not installed, and root filesystems need it"),
        )
        .help(
            "sudo apt install uidmap   # Fedora: shadow-utils, Arch: shadow, Alpine: shadow-uidmap"
                .to_owned(),
        ),
    )
}
