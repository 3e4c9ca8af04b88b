//! Machines that lack something, and runs that meet each other or a person at the keyboard.

mod disk;
mod groups;
mod history;
mod interrupt;
mod large;
mod limits;
mod namespaces;
mod steps;
mod together;

use std::path::Path;
use std::process::Command;

use crate::support::{World, peer, run, skip, world_with_busybox};

/// A derivation that runs a script.
fn job(name: &str, script: &str) -> String {
    format!(
        "derivation {{ name = \"{name}\"; system = \"x86_64-linux\"; builder = \"/bin/busybox\"; args = [ \"sh\" \"-c\" ''{script}'' ]; }}"
    )
}

/// `unshare` with these options, running a shell script in which `$SOS` is the program; nothing where the machine does not allow it.
fn unshared(w: &World, options: &[&str], script: &str) -> Option<Command> {
    let unshare = peer("unshare")?;
    if run(Command::new(&unshare).args(options).arg("true")).code != 0 {
        skip(&format!(
            "`unshare {}` is not allowed here",
            options.join(" ")
        ));
        return None;
    }
    let sos = w.command();
    let mut command = Command::new(unshare);
    command.args(options).args(["sh", "-c", script]).env_clear();
    command
        .envs(sos.get_envs().filter_map(|(k, v)| Some((k, v?))))
        .env("SOS", sos.get_program())
        .current_dir(w.project());
    Some(command)
}

/// The text of a file that a script left.
fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}
