//! Debian root filesystems from an archive that the test makes: what is built, what is refused, and the lock.

mod build;
mod lock;
mod mirror;
mod recipe;
mod templates;
mod trust;

use std::path::Path;

use crate::support::World;
use crate::support::tiny::Tiny;

/// The name of the recipe file that these tests use.
const FILE: &str = "tiny.rootfs.toml";

/// A world with the tiny archive and a recipe of it.
fn with_recipe(include: &[&str]) -> Option<Tiny> {
    let tiny = Tiny::new()?;
    tiny.world
        .write(FILE, &crate::support::tiny::recipe(include, ""));
    Some(tiny)
}

/// No lock was written, nothing is in the store.
#[track_caller]
fn nothing_happened(w: &World) {
    assert!(!w.project().join("sos.lock").exists(), "a lock was written");
    let listed = w.sos(["store", "ls"]).ok().stdout;
    assert!(listed.is_empty(), "{listed}");
    crate::support::store_is_clean(w);
    let left: Vec<_> = walkdir::WalkDir::new(w.project())
        .into_iter()
        .flatten()
        .map(|e| e.path().display().to_string())
        .filter(|p| p.contains(".sos.lock"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// Changes one byte in the middle of a file.
fn flip(file: &Path) {
    let mut bytes = std::fs::read(file).expect("a file");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x20;
    std::fs::write(file, bytes).expect("the file can be written");
}
