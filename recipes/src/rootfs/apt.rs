//! What the image's own apt is told of the archives: `apt` of a source is the address that the image will use.
//!
//! The address that a build takes packages from is a matter of the machine that builds, and does not get into an image.

use super::fields::Located;
use super::model::{FileKind, FileSpec, SourceSpec};
use crate::problems::Problems;

/// Where the sources go.
const SOURCES: &str = "/etc/apt/sources.list.d/sos.sources";
/// Where keyrings of the recipe go.
const KEYRINGS: &str = "/etc/apt/keyrings";
/// Where the package `debian-archive-keyring`, which apt depends on, has the keys of the Debian archive.
const DEBIAN_KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Adds the files that make apt know the sources which have an address for it.
pub(super) fn add(sources: &[SourceSpec], files: &mut Vec<FileSpec>, problems: &mut Problems) {
    let mut text = String::new();
    let mut first = None;
    for (i, source) in sources.iter().enumerate() {
        let Some(uri) = &source.apt else { continue };
        let signed_by = match &source.keyring {
            None => DEBIAN_KEYRING.to_owned(),
            Some(keyring) => {
                // Its name tells apt whether it is armoured. Two sources may have keyrings of one name.
                let name = keyring.value.shown();
                let path = format!("{KEYRINGS}/{i}-{}", base_name(&name));
                // apt knows binary keys by one ending only.
                let path = match path.strip_suffix(".pgp") {
                    Some(stem) => format!("{stem}.gpg"),
                    None => path,
                };
                files.push(placed(path.clone(), uri, FileKind::Source(keyring.clone())));
                path
            }
        };
        let words = |list: &[Located<String>]| {
            let words: Vec<&str> = list.iter().map(|l| l.value.as_str()).collect();
            words.join(" ")
        };
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: {}\nSigned-By: {signed_by}\n",
            uri.value,
            words(&source.suites),
            words(&source.components),
        ));
        first.get_or_insert(uri);
    }
    let Some(first) = first else { return };
    if let Some(other) = files.iter().find(|f| f.path.value == SOURCES) {
        let message = format!("`{SOURCES}` is placed, and made from `apt`");
        problems.duplicate(message, &other.path.place, &first.place);
        return;
    }
    let content = FileKind::Content(text, Vec::new());
    files.push(placed(SOURCES.to_owned(), first, content));
}

fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A file that root owns and everybody reads; problems with it are shown where the address was written.
fn placed(path: String, uri: &Located<String>, kind: FileKind) -> FileSpec {
    FileSpec {
        path: Located {
            value: path,
            place: uri.place.clone(),
        },
        kind,
        mode: Some(0o644),
        owner: Located {
            value: "root:root".to_owned(),
            place: None,
        },
    }
}
