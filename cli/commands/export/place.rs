//! Whether something can be made where it should go.

use std::io::ErrorKind;
use std::path::Path;

use sos_builders::export;
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::failure::Failure;

/// Bytes that a name has at most, on every file system of Linux.
const MAX_NAME_BYTES: usize = 255;

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
    let name = without_end(&text);
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

/// A path without what only says that it is a directory.
fn without_end(text: &str) -> &str {
    let mut name = text.trim_end_matches('/');
    while let Some(above) = name.strip_suffix("/.") {
        name = above.trim_end_matches('/');
    }
    name
}

/// Looks whether a new directory could be made at a place, which stands behind `scheme`. One that ends in `.` is in a directory that has to
/// be there: then the place is, too.
///
/// # Errors
/// As [`check_place`].
pub(super) fn check_new(place: &Path, scheme: &str) -> Result<(), Failure> {
    let text = place.display().to_string();
    let name = without_end(&text);
    if name == text.trim_end_matches('/') {
        return check_place(place, Above::IsThere);
    }
    let message = format!("`{text}` cannot be made: it is in itself");
    Err(Failure::new(
        Diagnostic::error("export-no-place", Class::Usage, message)
            .help(format!("write `{scheme}:{name}`")),
    ))
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
    // Root may write there, and what a store has is known by its hash.
    let store =
        sos_store::store_of(place).or_else(|| absolute.parent().and_then(sos_store::store_of));
    if let Some(store) = store {
        return bad(
            format!(
                "it is in the store at `{}`, where nothing is changed",
                store.display()
            ),
            "name a place outside of it: `sos export` writes what is there to one as well"
                .to_owned(),
        );
    }
    let is_link = std::fs::symlink_metadata(place).is_ok_and(|there| there.is_symlink());
    // Repositories have a word of their own for it, and what is to be new is told that it is there.
    if is_link && above == Above::CanBe && !place.exists() {
        return bad(
            "it is a link that leads nowhere".to_owned(),
            "remove the link, or name a place that is not there yet".to_owned(),
        );
    }
    if let Some(name) = place.file_name()
        && name.len() > MAX_NAME_BYTES
    {
        let len = name.len();
        return bad(
            format!("names of files have at most {MAX_NAME_BYTES} bytes, and this one has {len}"),
            "name a shorter one".to_owned(),
        );
    }
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
