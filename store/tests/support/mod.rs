//! What the tests of the store share.
#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use sos_formats::derivation::Method;
use sos_formats::hash::{Hash, Sha256};
use sos_formats::store_path::{StoreDir, StorePath, make_fixed};
use sos_store::{
    IngestOptions, Ingested, OpenOptions, PathInfo, PlainRemover, Registration, Remover, Store,
};

/// A directory that goes away with this value, read-only trees and all.
pub(crate) struct TestDir(tempfile::TempDir);

/// Makes a directory for a test.
pub(crate) fn tempdir() -> TestDir {
    TestDir(tempfile::tempdir().unwrap())
}

impl TestDir {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        // Nothing to be done about a failure; the directory is in the system's own place for such.
        PlainRemover.remove_tree(self.0.path()).ok();
    }
}

/// Opens the store `s` below a directory.
pub(crate) fn open(dir: &Path) -> Store {
    Store::open(options(dir)).unwrap()
}

/// How to open the store `s` below a directory.
pub(crate) fn options(dir: &Path) -> OpenOptions {
    OpenOptions {
        root: dir.join("s"),
        store_dir: StoreDir::default(),
        read_only: false,
    }
}

/// Makes a tree with a bit of everything that a NAR can hold.
pub(crate) fn sample_tree(at: &Path) {
    std::fs::create_dir_all(at.join("bin/deep/er")).unwrap();
    std::fs::write(at.join("bin/tool"), "#!/bin/sh\necho hi\n").unwrap();
    std::fs::set_permissions(at.join("bin/tool"), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::write(at.join("bin/deep/er/data"), vec![7; 3000]).unwrap();
    std::fs::write(at.join("bin/deep/er/same"), vec![7; 3000]).unwrap();
    std::fs::write(
        at.join("big"),
        (0..3_000_000u32)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect::<Vec<_>>(),
    )
    .unwrap();
    std::fs::write(at.join("empty"), "").unwrap();
    std::fs::write(at.join(".hidden"), "h").unwrap();
    std::fs::create_dir(at.join("void")).unwrap();
    std::os::unix::fs::symlink("bin/tool", at.join("link")).unwrap();
    std::os::unix::fs::symlink("/nowhere", at.join("void.link")).unwrap();
}

/// A store path for a name, by content nobody has.
pub(crate) fn some_path(name: &str) -> StorePath {
    let hash = Hash::from(Sha256::of(name.as_bytes()));
    make_fixed(
        &StoreDir::default(),
        name,
        Method::Recursive,
        &hash,
        &BTreeSet::new(),
        false,
    )
    .unwrap()
}

/// Registers a staged tree under a path.
pub(crate) fn commit(
    store: &Store,
    tree: Ingested,
    path: &StorePath,
    references: &[StorePath],
) -> PathInfo {
    let registration = Registration {
        path: path.clone(),
        references: references.iter().cloned().collect(),
        deriver: None,
        ca: None,
    };
    store.commit_tree(tree, registration).unwrap()
}

/// Makes an object of one file with that text.
pub(crate) fn object(
    store: &Store,
    dir: &Path,
    name: &str,
    text: &str,
    references: &[StorePath],
) -> StorePath {
    let src = dir.join(format!("src-{name}"));
    std::fs::write(&src, text).unwrap();
    let path = some_path(name);
    let tree = store.ingest(&src, IngestOptions::default()).unwrap();
    commit(store, tree, &path, references);
    path
}

/// Says why a test is skipped; fails instead under `SOS_REQUIRE_PEERS=1`.
#[allow(clippy::print_stdout, reason = "says what was not tested")]
#[allow(clippy::disallowed_methods, reason = "the test's own switch")]
pub(crate) fn skip(why: &str) {
    let required = std::env::var_os("SOS_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!required, "SOS_REQUIRE_PEERS=1, but: {why}");
    println!("skipped: {why}");
}

/// Whether a peer tool is here; a test that needs it is skipped where it is not.
pub(crate) fn peer(tool: &str) -> bool {
    // Being there is enough: as an ordinary user some tools fail at their own set-up even for this.
    let found = Command::new(tool).arg("--version").output().is_ok();
    if !found {
        skip(&format!("no {tool}"));
    }
    found
}

/// Every name below a directory, relative, sorted.
pub(crate) fn names_below(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = walkdir::WalkDir::new(dir)
        .min_depth(1)
        .into_iter()
        .map(|entry| entry.unwrap().path().strip_prefix(dir).unwrap().to_owned())
        .collect();
    found.sort();
    found
}
