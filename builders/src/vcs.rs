//! The programs `git` and `hg`, with nothing of this machine's settings.

use std::collections::BTreeMap;
use std::process::{Command, Stdio};

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

/// A program that reads nothing, and sees of an environment only what it needs.
pub(crate) fn program(name: &str, environment: &BTreeMap<String, String>) -> Command {
    let mut command = Command::new(name);
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
            let mut command = Command::new("git");
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
