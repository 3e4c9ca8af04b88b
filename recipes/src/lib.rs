//! Recipe front ends and the `sos` language library.
//!
//! A front end reads one recipe format, checks all of it, and lowers it to plain data; the library, written in the Nix language,
//! makes derivations of that data. What a recipe leaves open (which packages, which content) is answered from `sos.lock`.
#![forbid(unsafe_code)]

pub mod bootstrap;
#[cfg(test)]
mod example_tests;
mod library;
#[cfg(test)]
mod library_tests;
mod locks;
mod plain;
mod problems;
mod report;
mod rootfs;
mod session;
#[cfg(test)]
mod session_tests;
pub mod templates;
#[cfg(test)]
mod test_host;
mod tree;

pub use library::LIBRARY;
pub use locks::{LOCK_FILE, LockMode, Pins};
pub use report::{Change, LockReport};
pub use session::{Context, Session};

use std::path::Path;

/// Suffix of the recipe files of Debian root filesystems.
pub const ROOTFS_SUFFIX: &str = ".rootfs.toml";

/// What of a rootfs recipe a person may want: itself, its images, its commit, its disk and what belongs to that, its packages.
pub const ROOTFS_TARGETS: &[&str] = &[
    "rootfs",
    "oci",
    "ostree",
    "bootc",
    "disk",
    "qcow2",
    "uki",
    "netboot",
    "iso",
    "provision",
    "ext4",
    "erofs",
    "squashfs",
    "packages",
];

/// What else it has, as every derivation, or as what other expressions look at.
pub const ROOTFS_ATTRS: &[&str] = &[
    "arch",
    "epoch",
    "name",
    "system",
    "builder",
    "type",
    "out",
    "outPath",
    "outputName",
    "drvPath",
    "drvAttrs",
    "all",
];

/// Returns the expression that a tree of bootstrap steps stands for, with variables as `NAME=value`.
///
/// # Example
/// ```
/// # use std::path::Path;
/// let text = sos_recipes::bootstrap_expression(Path::new("/p"), &["ARCH=amd64".to_owned()]);
/// assert_eq!(
///     text.as_deref(),
///     Some(
///         r#"{ ... }@given: (import <sos>).bootstrap ({ tree = /. + "/p"; settings = [ "ARCH=amd64" ]; } // given)"#
///     )
/// );
/// ```
pub fn bootstrap_expression(tree: &Path, settings: &[String]) -> Option<String> {
    let tree = quoted(tree.to_str()?);
    let settings: String = settings.iter().map(|s| format!("{} ", quoted(s))).collect();
    Some(format!(
        "{{ ... }}@given: (import <sos>).bootstrap ({{ tree = /. + {tree}; settings = [ {settings}]; }} // given)"
    ))
}

/// A string of the language. Not a path literal: a name may hold characters that a literal cannot.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        if matches!(c, '"' | '\\' | '$') {
            out.push('\\');
        }
        out.push(c);
    }
    out.push('"');
    out
}

/// What the text of [`entry_expression`] is to be called: like a file of the library, so that no message points into it.
pub const ENTRY_NAME: &str = "/.sos-builtin/recipe";

/// Returns the expression that a recipe file stands for, or nothing when the file is not of a known recipe format.
///
/// # Example
/// ```
/// # use std::path::Path;
/// let text = sos_recipes::entry_expression(Path::new("/p/web.rootfs.toml"));
/// assert_eq!(text.as_deref(), Some(r#"(import <sos>).debian.rootfs (/. + "/p/web.rootfs.toml")"#));
/// assert_eq!(sos_recipes::entry_expression(Path::new("/p/default.nix")), None);
/// ```
pub fn entry_expression(file: &Path) -> Option<String> {
    let name = file.to_str()?;
    if !name.ends_with(ROOTFS_SUFFIX) {
        return None;
    }
    Some(format!(
        "(import <sos>).debian.rootfs (/. + {})",
        quoted(name)
    ))
}
