//! The programs `git` and `hg`, with nothing of this machine's settings, and how they end.
//!
//! None outlives `sos`, nor does what they have started. What an evaluation runs is in the group of the terminal: Ctrl-C ends it there and then. What a build runs is
//! not, since the first Ctrl-C lets builds come to their end.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process_group};
use sos_engine::sandbox::ends_with_us;

/// Variables that they, and the programs that they speak through, need of the user's environment.
const KEPT: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "SUDO_UID",
    "SSH_AUTH_SOCK",
    "SSL_CERT_FILE",
    "GIT_SSL_CAINFO",
    "http_proxy",
    "https_proxy",
    "all_proxy",
    "no_proxy",
    "HTTPS_PROXY",
    "ALL_PROXY",
    "NO_PROXY",
];

/// What in the environment would lead `git` to another repository than the one that it is told.
const LEADING: &[&str] = &[
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_CONFIG_PARAMETERS",
    "GIT_CONFIG_COUNT",
];

/// A program that ends with this one.
fn bound(name: &str) -> Command {
    let mut command = Command::new(name);
    ends_with_us(&mut command);
    command
}

/// A program that a build runs, beside `git`: out of the reach of the terminal's keys. Who starts it calls [`end`] when the build
/// is to end.
pub(crate) fn of_build(name: &str) -> Command {
    let mut command = bound(name);
    command.process_group(0);
    command
}

/// `git` for a build, with the environment of this process; else as [`git`] and [`of_build`] have it.
pub(crate) fn git_of_build() -> Command {
    let mut command = git(None);
    command.process_group(0);
    command
}

/// Ends what [`of_build`] or [`git_of_build`] made, with everything that it started.
pub(crate) fn end(child: &mut Child) {
    // It is not waited for yet, so its number is still its own, and that of its group.
    let group = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    let _gone = group.map(|group| kill_process_group(group, Signal::KILL));
    let _collected = child.wait();
}

/// Whether a program complains of a full disk; it speaks English, as `LC_ALL=C` has it.
pub(crate) fn has_no_room(said: &str) -> bool {
    said.contains("No space left on device") || said.contains("Disk quota exceeded")
}

/// A program that reads nothing, and sees of an environment only what it needs.
pub(crate) fn program(name: &str, environment: &BTreeMap<String, String>) -> Command {
    let mut command = bound(name);
    command.env_clear().stdin(Stdio::null());
    for name in KEPT {
        if let Some(value) = environment.get(*name) {
            command.env(name, value);
        }
    }
    command
}

/// `git` on no repository, which asks nobody and runs nothing that a configuration names. Without an environment it has that of this
/// process.
pub(crate) fn git(environment: Option<&BTreeMap<String, String>>) -> Command {
    let mut command = match environment {
        Some(environment) => program("git", environment),
        None => {
            let mut command = bound("git");
            for name in LEADING {
                command.env_remove(name);
            }
            command.stdin(Stdio::null());
            command
        }
    };
    command
        .envs([
            ("LC_ALL", "C"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_CONFIG_SYSTEM", "/dev/null"),
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_ATTR_NOSYSTEM", "1"),
            ("GIT_TERMINAL_PROMPT", "0"),
            ("GIT_ASKPASS", "true"),
            ("SSH_ASKPASS_REQUIRE", "never"),
            ("GIT_SSH_COMMAND", "ssh -oBatchMode=yes"),
            ("GIT_OPTIONAL_LOCKS", "0"),
            ("GIT_NO_REPLACE_OBJECTS", "1"),
            ("GIT_NO_LAZY_FETCH", "1"),
            ("GIT_ALLOW_PROTOCOL", "file:git:http:https:ssh"),
        ])
        // What the configuration of a repository could make git run.
        .args(["-c", "core.fsmonitor=false"])
        .args(["-c", "core.hooksPath=/dev/null"])
        .args(["-c", "gc.auto=0"])
        .args(["-c", "maintenance.auto=false"])
        .args(["-c", "http.followRedirects=initial"]);
    command
}
