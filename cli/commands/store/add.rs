//! `sos store add`.

use std::path::{Path, PathBuf};

use sos_formats::derivation::Method;
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::failure::Failure;
use crate::render::output;
use crate::session::Session;

pub(super) fn add(
    session: &Session,
    files: &[PathBuf],
    name: Option<&str>,
    flat: bool,
) -> Result<(), Failure> {
    let store = session.store()?;
    let method = if flat {
        Method::Flat
    } else {
        Method::Recursive
    };
    for file in files {
        addable(file)?;
        let own = std::path::absolute(file)
            .ok()
            .and_then(|p| p.file_name().map(|n| n.to_string_lossy().into_owned()));
        let Some(name) = name.map(str::to_owned).or(own) else {
            return Err(Failure::new(
                Diagnostic::error(
                    "store-bad-path",
                    Class::Usage,
                    format!("`{}` has no name", file.display()),
                )
                .help("give one with `--name`"),
            ));
        };
        let path = store
            .add_path(Path::new(file), &name, method, None)
            .map_err(|error| {
                let mut diagnostic = Diagnostic::from(error);
                // There is no recipe here that could be wrong.
                if diagnostic.class == Class::Recipe {
                    diagnostic.class = Class::Other;
                }
                diagnostic
            })?;
        output::line(&path.absolute(store.store_dir()))?;
    }
    Ok(())
}

/// Refuses what is no file, directory or link, before the store is asked, which would blame the machine or a recipe.
fn addable(file: &Path) -> Result<(), Failure> {
    let shown = file.display();
    let meta = std::fs::symlink_metadata(file).map_err(|error| {
        if error.kind() == std::io::ErrorKind::NotFound {
            Failure::new(
                Diagnostic::error(
                    "store-no-file",
                    Class::Other,
                    format!("there is no `{shown}` to add"),
                )
                .help("name a file or a directory that exists"),
            )
        } else {
            Failure::new(Diagnostic::error(
                "store-no-file",
                Class::Other,
                format!("cannot look at `{shown}`: {error}"),
            ))
        }
    })?;
    if meta.is_file() || meta.is_dir() || meta.is_symlink() {
        return Ok(());
    }
    Err(Failure::new(
        Diagnostic::error(
            "store-special-file",
            Class::Other,
            format!("`{shown}` is neither a file, a directory nor a symlink"),
        )
        .help("the store keeps nothing else"),
    ))
}
