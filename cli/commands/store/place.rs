//! From the words of a person to an object of the store, and to what is inside it.

use std::path::PathBuf;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::{PathInfo, Store};

use crate::failure::Failure;

/// The name in the store of a path on disk that lies in it, as what the links of `sos build -o` lead to; any other path as it is.
pub(crate) fn logical(store: &Store, text: &str) -> String {
    let inside = || {
        let real = std::fs::canonicalize(text).ok()?;
        let root = std::fs::canonicalize(store.root()).ok()?;
        // Objects lie in one directory of the store, the texts that stand for root filesystems in another.
        let mut parts = real.strip_prefix(root).ok()?.components();
        parts.next()?;
        let rest = parts.as_path().to_str()?;
        Some(format!("{}/{rest}", store.store_dir()))
    };
    if text.starts_with(store.store_dir().as_str()) {
        return text.to_owned();
    }
    inside().unwrap_or_else(|| text.to_owned())
}

/// A store object and the path inside it, without a slash at either end.
pub(super) fn locate(store: &Store, text: &str) -> Result<(PathInfo, String), Failure> {
    let text = &logical(store, text);
    let (path, rest) = StorePath::split_absolute(store.store_dir(), text)?;
    let info = store.query(&path)?;
    let info = info.ok_or_else(|| not_there(store, &path))?;
    let rest = rest.trim_matches('/').to_owned();
    if rest.split('/').any(|part| part == "..") {
        return Err(Failure::new(Diagnostic::error(
            "store-bad-path",
            Class::Usage,
            format!("`{text}` leads out of its object"),
        )));
    }
    Ok((info, rest))
}

/// An object that was named and is not there.
pub(crate) fn not_there(store: &Store, path: &StorePath) -> Failure {
    Failure::new(
        Diagnostic::error(
            "store-not-valid",
            Class::Other,
            format!("`{}` is not in the store", path.absolute(store.store_dir())),
        )
        .help("`sos store ls` lists what is there"),
    )
}

/// Where an entry of a tree is on disk.
pub(super) fn place(store: &Store, info: &PathInfo, rest: &str) -> PathBuf {
    let object = store.physical(&info.path);
    // Joined with nothing it would end in a slash, and an object that is a file is not found by that name.
    if rest.is_empty() {
        object
    } else {
        object.join(rest)
    }
}

pub(super) fn missing(text: &str) -> Failure {
    Failure::new(Diagnostic::error(
        "store-no-entry",
        Class::Other,
        format!("there is no `{text}`"),
    ))
}
