//! Where in a root lies what a step is shown. Nothing that the root has is put aside for it.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::rootfs::RootTree;
use sos_store::{RootPathProblem, StoreError};

use super::outcome::SandboxError;

/// Finds where programs of the step are led to by a path: without `/` at its beginning. `covered` are directories that they find
/// something else in.
///
/// # Errors
/// [`SandboxError::Blocked`] when something of the root is on the way that is no directory.
pub(super) fn place_of(
    root: &RootTree,
    inside: &Path,
    covered: &[&Path],
) -> Result<PathBuf, SandboxError> {
    let place = made(root, inside, inside)?;
    uncovered(place, inside, covered)
}

/// As [`place_of`], for a directory: a link in its place leads to it, as it leads programs of the step.
///
/// # Errors
/// As [`place_of`], also when something else than a directory is in its place.
pub(super) fn place_of_dir(
    root: &RootTree,
    inside: &Path,
    covered: &[&Path],
) -> Result<PathBuf, SandboxError> {
    // Of what lies in it all components of its own path are on the way.
    let mut place = made(root, inside, &inside.join("in-it"))?;
    place.pop();
    uncovered(place, inside, covered)
}

/// Finds where a path leads, for who shows `inside`.
fn made(root: &RootTree, inside: &Path, path: &Path) -> Result<PathBuf, SandboxError> {
    let place = root
        .resolve_made(path.as_os_str().as_bytes())
        .map_err(|error| match error {
            StoreError::RootPath { path, problem } => refused(blocked(inside, &path, problem)),
            other => other.into(),
        })?;
    Ok(PathBuf::from(OsString::from_vec(place)))
}

fn uncovered(place: PathBuf, inside: &Path, covered: &[&Path]) -> Result<PathBuf, SandboxError> {
    let hides = |dir: &&&Path| {
        dir.strip_prefix("/")
            .is_ok_and(|dir| place.starts_with(dir))
    };
    match covered.iter().find(hides) {
        Some(dir) => Err(refused(format!(
            "`{}` cannot be shown to the step: it would lie in `{}`, which is covered while a step runs",
            inside.display(),
            dir.display()
        ))),
        None => Ok(place),
    }
}

/// Says what of a root is in the way of a file.
fn blocked(inside: &Path, by: &[u8], problem: RootPathProblem) -> String {
    let is = match problem {
        RootPathProblem::NotADirectory => "is not a directory",
        RootPathProblem::TooManySymlinks => "is a link that leads in a circle, or too far",
        _ => "is missing, and a link leads over it",
    };
    format!(
        "`{}` cannot be shown to the step: `/{}` of its root {is}",
        inside.display(),
        String::from_utf8_lossy(by)
    )
}

fn refused(message: String) -> SandboxError {
    let diagnostic = Diagnostic::error("build-place-blocked", Class::BuildFailed, message)
        .note("nothing that an earlier step made is put aside for it")
        .help("let the step that made it leave a directory there, a link to one, or nothing");
    SandboxError::Blocked(Box::new(diagnostic))
}
