//! Whether something can be made where it should go.

use std::io::ErrorKind;
use std::path::Path;

use sos_builders::export;
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::failure::Failure;

/// What has to be above a place before something is made there.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Above {
    /// Its directory.
    IsThere,
    /// Nothing that is in the way of one: directories are made.
    CanBe,
}

/// Looks whether one file could be made at a place, which stands behind `scheme`.
///
/// # Errors
/// `export-exists` when something is there; `export-no-place` when a directory is named, or something is missing or in the way.
pub(super) fn check_file(place: &Path, scheme: &str) -> Result<(), Failure> {
    let text = place.display().to_string();
    let name = text.trim_end_matches('/');
    if name.len() < text.len() {
        let message = format!(
            "`{text}` cannot be made: it names a directory, and `{scheme}:` writes one file"
        );
        let help = if place.is_dir() {
            format!("name a file in it: `{scheme}:{name}/NAME`")
        } else {
            format!("write `{scheme}:{name}`")
        };
        return Err(Failure::new(
            Diagnostic::error("export-no-place", Class::Usage, message).help(help),
        ));
    }
    if std::fs::symlink_metadata(place).is_ok() {
        return Err(Failure::new(export::taken(place, false)));
    }
    check_place(place, Above::IsThere)
}

/// Looks whether something could be made at a place. What can be seen before a build should not stop the end of one.
///
/// # Errors
/// `export-no-place` with what is missing or in the way.
pub(super) fn check_place(place: &Path, above: Above) -> Result<(), Failure> {
    let absolute = std::path::absolute(place)
        .map_err(|error| Failure::io(&format!("cannot look at `{}`", place.display()), &error))?;
    let bad = |what: String, help: String| {
        let message = format!("`{}` cannot be made: {what}", place.display());
        Err(Failure::new(
            Diagnostic::error("export-no-place", Class::Usage, message).help(help),
        ))
    };
    // What is missing is told before what is above it.
    for dir in absolute.ancestors().skip(1) {
        let shown = dir.display();
        match std::fs::metadata(dir) {
            Ok(there) if there.is_dir() => return Ok(()),
            Ok(_) => {
                return bad(
                    format!("`{shown}` is a file, and no directory"),
                    "name a place in a directory".to_owned(),
                );
            }
            Err(error) if error.kind() == ErrorKind::NotFound && above == Above::IsThere => {
                return bad(
                    format!("there is no directory `{shown}`"),
                    format!("make it first: `mkdir -p {shown}`, or name another place"),
                );
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => {}
            Err(error) => {
                return bad(
                    format!("`{shown}`: {error}"),
                    "name a place that you may look into".to_owned(),
                );
            }
        }
    }
    Ok(())
}
