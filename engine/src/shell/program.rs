//! Which shell a person gets, when only what the build sees is there.

use std::path::Path;

use sos_formats::diagnostic::Diagnostic;
use sos_formats::store_path::StorePath;
use sos_store::Store;

use super::{ShellWish, no_shell};
use crate::nix_shape::may_exist;
use crate::work::Attempt;

/// Names of programs that are shells.
const SHELLS: [&str; 8] = ["bash", "sh", "dash", "ash", "ksh", "mksh", "zsh", "yash"];
/// Programs that are a shell when told so.
const BOXES: [&str; 2] = ["busybox", "toybox"];
/// Where objects and shown directories may have one, best first.
const PLACES: [&str; 5] = ["bin/bash", "bash", "bin/sh", "sh", "bin/busybox"];

/// A program that is a shell.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Program {
    path: Vec<u8>,
    /// What makes it a shell, if the program is more than one.
    applet: Option<&'static str>,
}

fn base(path: &[u8]) -> &[u8] {
    path.rsplit(|b| *b == b'/').next().unwrap_or(path)
}

impl Program {
    /// Takes a program for a shell.
    pub(super) fn of(path: &[u8]) -> Self {
        let is_box = BOXES.iter().any(|name| base(path) == name.as_bytes());
        Self {
            path: path.to_vec(),
            applet: is_box.then_some("sh"),
        }
    }

    /// Recognises a command whose program is a shell.
    pub(super) fn known(argv: &[Vec<u8>]) -> Option<Self> {
        let program = argv.first()?;
        let name = base(program);
        let known = SHELLS.iter().chain(&BOXES);
        known
            .into_iter()
            .any(|shell| shell.as_bytes() == name)
            .then(|| Self::of(program))
    }

    pub(super) fn path(&self) -> &[u8] {
        &self.path
    }

    /// Returns the arguments, from the name on, with which it runs a command or listens.
    pub(super) fn argv(&self, command: Option<&str>) -> Vec<Vec<u8>> {
        let mut argv = vec![self.path.clone()];
        argv.extend(self.applet.map(|applet| applet.as_bytes().to_vec()));
        if let Some(command) = command {
            argv.extend([b"-c".to_vec(), command.as_bytes().to_vec()]);
        }
        argv
    }

    /// Returns it as the first line of a script names it.
    pub(super) fn interpreter(&self) -> Vec<u8> {
        let mut line = self.path.clone();
        if let Some(applet) = self.applet {
            line.push(b' ');
            line.extend(applet.as_bytes());
        }
        line
    }
}

/// Returns the object that a wish for a shell names or reaches into, if it names one of the store.
pub(super) fn object(store: &Store, shell: &str) -> Option<StorePath> {
    let (path, _) = StorePath::split_absolute(store.store_dir(), shell).ok()?;
    Some(path)
}

/// The shell of a build in the Nix shape: what is wished, else the builder, else one of the inputs, else one that is shown.
pub(super) fn of_build(
    attempt: &Attempt<'_>,
    wish: &ShellWish,
) -> Result<Program, Box<Diagnostic>> {
    let store = &attempt.worker.store;
    let name = attempt.job.name.as_str();
    if let Some(shell) = &wish.shell {
        return wished(attempt, shell);
    }
    // Not when it is missing, which may be why somebody comes to look.
    if let Some(found) = Program::known(std::slice::from_ref(&attempt.drv.builder))
        && is_there(attempt, &attempt.drv.builder)
    {
        return Ok(found);
    }
    let direct = attempt.resolved.drv.input_srcs.iter();
    let objects: Vec<&StorePath> = direct
        .chain(attempt.closure.difference(&attempt.resolved.drv.input_srcs))
        .collect();
    for place in PLACES {
        let found = objects
            .iter()
            .find(|path| has(&store.physical(path), place));
        if let Some(path) = found {
            let inside = format!("{}/{place}", path.absolute(store.store_dir()));
            return Ok(Program::of(inside.as_bytes()));
        }
    }
    for place in PLACES {
        for (inside, outside) in &attempt.worker.options.sandbox_paths {
            if has(outside, place) {
                let path = inside.join(place);
                return Ok(Program::of(path.to_string_lossy().as_bytes()));
            }
            let path = inside.to_string_lossy();
            if outside.is_file() && Path::new(place).file_name() == inside.file_name() {
                return Ok(Program::of(path.as_bytes()));
            }
        }
    }
    Err(no_shell(
        name,
        "its builder is no shell, and none of its inputs has `bin/bash` or `bin/sh`",
        "give it one with `--shell STORE_PATH`, or show one of this machine to builds with the setting `build.sandbox-paths`",
    ))
}

/// Tells whether a program is below `physical`; a directory is none.
fn has(physical: &Path, place: &str) -> bool {
    may_exist(physical, place) && !physical.join(place).is_dir()
}

fn is_there(attempt: &Attempt<'_>, program: &[u8]) -> bool {
    let text = String::from_utf8_lossy(program);
    let store = &attempt.worker.store;
    if let Ok((path, rest)) = StorePath::split_absolute(store.store_dir(), &text) {
        return attempt.closure.contains(&path) && may_exist(&store.physical(&path), rest);
    }
    let mut shown = attempt.worker.options.sandbox_paths.iter();
    shown.any(|(inside, outside)| {
        Path::new(text.as_ref())
            .strip_prefix(inside)
            .is_ok_and(|rest| may_exist(outside, &rest.to_string_lossy()))
    })
}

/// The shell that was named: a program, or an object that has one.
fn wished(attempt: &Attempt<'_>, shell: &str) -> Result<Program, Box<Diagnostic>> {
    let store = &attempt.worker.store;
    if let Some(path) = object(store, shell)
        && shell.trim_end_matches('/') == path.absolute(store.store_dir())
        && store.physical(&path).is_dir()
    {
        let found = PLACES
            .into_iter()
            .find(|place| has(&store.physical(&path), place));
        return found
            .map(|place| {
                let inside = format!("{}/{place}", path.absolute(store.store_dir()));
                Program::of(inside.as_bytes())
            })
            .ok_or_else(|| {
                no_shell(
                    attempt.job.name.as_str(),
                    &format!("`{shell}` has neither `bin/bash` nor `bin/sh`"),
                    "name the program itself, as in `--shell STORE_PATH/bin/fish`",
                )
            });
    }
    if is_there(attempt, shell.as_bytes()) {
        return Ok(Program::of(shell.as_bytes()));
    }
    Err(no_shell(
        attempt.job.name.as_str(),
        &format!("there is no `{shell}` in it"),
        "`--shell` takes a store path, or a program that the build sees",
    ))
}

/// A word as a shell reads it back.
pub(super) fn quoted(word: &[u8]) -> Vec<u8> {
    let plain = |b: &u8| b.is_ascii_alphanumeric() || b"-_./:+,=@%".contains(b);
    if !word.is_empty() && word.iter().all(plain) {
        return word.to_vec();
    }
    let mut text = b"'".to_vec();
    for byte in word {
        if *byte == b'\'' {
            text.extend(b"'\\''");
        } else {
            text.push(*byte);
        }
    }
    text.push(b'\'');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shells_are_known_by_their_names() {
        let known = |words: &[&str]| {
            let argv: Vec<Vec<u8>> = words.iter().map(|w| w.as_bytes().to_vec()).collect();
            Program::known(&argv)
        };
        let bash = known(&["/nix/store/x/bin/bash", "-e"]).unwrap();
        assert_eq!(bash.argv(None), [b"/nix/store/x/bin/bash".to_vec()]);
        let busybox = known(&["/bin/busybox"]).unwrap();
        assert_eq!(
            busybox.argv(Some("ls")),
            ["/bin/busybox", "sh", "-c", "ls"].map(|w| w.as_bytes().to_vec())
        );
        assert_eq!(busybox.interpreter(), b"/bin/busybox sh");
        assert_eq!(known(&["/bin/python3"]), None);
        assert_eq!(known(&[]), None);
    }

    #[test]
    fn words_survive_a_shell() {
        assert_eq!(quoted(b"/bin/sh"), b"/bin/sh");
        assert_eq!(quoted(b""), b"''");
        assert_eq!(quoted(b"it's $x"), b"'it'\\''s $x'");
    }
}
