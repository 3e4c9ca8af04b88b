//! Trees that are addressed by what their files hold, of which some is known before.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::{FileExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use sos_formats::derivation::Method;
use sos_formats::hash::{Blake3, Hash, Sha256};
use sos_formats::manifest::{Entry, Kind, Meta, Node, Root};
use sos_formats::store_path::make_fixed;
use sos_store::{
    CheckOptions, IngestOptions, Ingested, Known, PathInfo, Problem, Registration, Store,
    StoreError, tree_id,
};
use support::{open, sample_tree, tempdir};

/// Its id is part of the paths of what users have built.
const SAMPLE: &str = "ea161ba9214a849ece7bacd15998f7e23d3e543357f386d95c42900aa1b0c420";

fn ingest(store: &Store, tree: &Path, known: &Known, take: bool) -> Ingested {
    let options = IngestOptions {
        take,
        tree: Some(known),
        ..IngestOptions::default()
    };
    store.ingest(tree, options).unwrap()
}

fn commit(store: &Store, tree: Ingested) -> PathInfo {
    let hash = Hash::from(tree.tree.unwrap());
    let none = BTreeSet::new();
    let path = make_fixed(store.store_dir(), "t", Method::Tree, &hash, &none, false).unwrap();
    let registration = Registration {
        path,
        references: none,
        deriver: None,
        ca: Some(format!("fixed:tree:blake3:{}", hash.to_nix32())),
    };
    store.commit_tree(tree, registration).unwrap()
}

fn node(mut entries: Vec<Entry>) -> Node {
    entries.sort();
    Node::new(entries).unwrap()
}

/// The manifest of a tree, by another walk than that of the store.
fn manifest(tree: &Path) -> Node {
    let entries = std::fs::read_dir(tree).unwrap().map(|entry| {
        let entry = entry.unwrap();
        let (kind, mode) = match entry.file_type().unwrap() {
            kind if kind.is_dir() => {
                let node = manifest(&entry.path()).id();
                (Kind::Dir { node }, 0o555)
            }
            kind if kind.is_symlink() => {
                let target = std::fs::read_link(entry.path()).unwrap();
                let target = target.into_os_string().into_encoded_bytes();
                (Kind::Symlink { target }, 0o444)
            }
            _ => {
                let data = std::fs::read(entry.path()).unwrap();
                let runs = entry.metadata().unwrap().permissions().mode() & 0o100 != 0;
                let kind = Kind::File {
                    size: data.len() as u64,
                    blob: Blake3::of(&data),
                    hardlink: None,
                };
                (kind, if runs { 0o555 } else { 0o444 })
            }
        };
        Entry {
            name: entry.file_name().into_encoded_bytes(),
            meta: Meta {
                mode,
                ..Meta::default()
            },
            kind,
        }
    });
    node(entries.collect())
}

#[test]
fn the_id_is_that_of_a_manifest_of_all_that_a_nar_tells() {
    let dir = tempdir();
    let tree = dir.path().join("tree");
    sample_tree(&tree);
    let root = Root {
        meta: Meta {
            mode: 0o555,
            ..Meta::default()
        },
        node: manifest(&tree).id(),
    };
    let id = tree_id(&tree).unwrap();
    assert_eq!(id, root.id());
    assert_eq!(id.to_hex(), SAMPLE);
    let at = |path: &str| tree.join(path);
    let changes: [(&str, &dyn Fn()); 5] = [
        ("a byte", &|| std::fs::write(at("big"), "x").unwrap()),
        ("a name", &|| {
            std::fs::rename(at("empty"), at("full")).unwrap();
        }),
        ("a directory", &|| std::fs::remove_dir(at("void")).unwrap()),
        ("the right to run", &|| {
            let mode = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(at("bin/tool"), mode).unwrap();
        }),
        ("where a link leads", &|| {
            std::fs::remove_file(at("link")).unwrap();
            symlink("bin", at("link")).unwrap();
        }),
    ];
    let mut seen = BTreeSet::from([id]);
    for (what, change) in changes {
        change();
        assert!(seen.insert(tree_id(&tree).unwrap()), "{what}");
    }
    // What a NAR does not tell is not in it.
    let before = tree_id(&tree).unwrap();
    std::fs::set_permissions(at(".hidden"), PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::File::open(at(".hidden"))
        .unwrap()
        .set_modified(std::time::SystemTime::UNIX_EPOCH)
        .unwrap();
    assert_eq!(tree_id(&tree).unwrap(), before);
}

#[test]
fn a_file_or_a_link_alone_has_an_id_that_no_directory_has() {
    let dir = tempdir();
    let at = |path: &str| dir.path().join(path);
    std::fs::create_dir(at("dir")).unwrap();
    std::fs::write(at("dir/alone"), "text").unwrap();
    std::fs::write(at("file"), "text").unwrap();
    symlink("text", at("link")).unwrap();
    let entry = Entry {
        name: b"alone".to_vec(),
        meta: Meta {
            mode: 0o444,
            ..Meta::default()
        },
        kind: Kind::File {
            size: 4,
            blob: Blake3::of(b"text"),
            hardlink: None,
        },
    };
    let around = |mode| Root {
        meta: Meta {
            mode,
            ..Meta::default()
        },
        node: node(vec![entry.clone()]).id(),
    };
    let id = tree_id(&at("file")).unwrap();
    assert_eq!(id, around(0).id());
    let directory = tree_id(&at("dir")).unwrap();
    assert_eq!(directory, around(0o555).id());
    let mut seen = BTreeSet::from([id, directory]);
    assert!(seen.insert(tree_id(&at("link")).unwrap()));
    std::fs::set_permissions(at("file"), PermissionsExt::from_mode(0o755)).unwrap();
    assert!(seen.insert(tree_id(&at("file")).unwrap()));
    // However it comes into the store.
    let store = open(dir.path());
    let copied = commit(&store, ingest(&store, &at("file"), &Known::new(), false));
    let place = store.root().join("tmp/mine");
    std::fs::copy(at("file"), &place).unwrap();
    let taken = commit(&store, ingest(&store, &place, &Known::new(), true));
    assert_eq!(taken, copied);
    assert_eq!(taken.tree_id(), tree_id(&at("file")).ok());
    let nar = store.nar_sha256(&taken).unwrap();
    let mut dump = Vec::new();
    store.nar_dump(&taken.path, &mut dump).unwrap();
    assert_eq!(nar, Sha256::of(&dump));
}

#[test]
fn a_tree_is_the_same_however_it_comes_into_the_store() {
    let dir = tempdir();
    let store = open(dir.path());
    let tree = dir.path().join("tree");
    sample_tree(&tree);
    let copied = ingest(&store, &tree, &Known::new(), false);
    let nar = store.ingest(&tree, IngestOptions::default()).unwrap();
    assert_eq!((copied.nar_sha256, copied.nar_size), (None, nar.nar_size));
    assert_eq!(copied.tree.unwrap().to_hex(), SAMPLE);
    let copied = commit(&store, copied);
    assert_eq!(
        tree_id(&store.physical(&copied.path)).unwrap().to_hex(),
        SAMPLE
    );
    let place = store.root().join("tmp/mine");
    sample_tree(&place);
    let taken = commit(&store, ingest(&store, &place, &Known::new(), true));
    assert_eq!(taken, copied);
}

/// A directory with a file that is a link of a blob of the store, and a file that is not.
fn linked(store: &Store, at: &Path, data: &[u8]) -> (Blake3, PathBuf) {
    let blob = store.put_blob_bytes(data).unwrap();
    std::fs::create_dir_all(at).unwrap();
    let place = store.blob_path(&blob, false);
    std::fs::hard_link(&place, at.join("linked")).unwrap();
    std::fs::write(at.join("other"), "another file").unwrap();
    (blob, place)
}

#[test]
fn only_links_of_the_blobs_that_are_named_are_not_read() {
    let dir = tempdir();
    let store = open(dir.path());
    let data = vec![b'a'; 3_000_001];
    let tree = store.root().join("tmp/tree");
    let (blob, place) = linked(&store, &tree, &data);
    let expected = tree_id(&tree).unwrap();
    let known = Known::from([("linked".into(), blob), ("other".into(), blob)]);
    // As after a power failure; what is read would be seen to be other bytes.
    let mode = |mode| std::fs::set_permissions(&place, PermissionsExt::from_mode(mode)).unwrap();
    let put = |byte: &[u8]| {
        mode(0o644);
        let file = std::fs::OpenOptions::new()
            .write(true)
            .open(&place)
            .unwrap();
        file.write_at(byte, 5).unwrap();
        mode(0o444);
    };
    put(b"b");
    assert_ne!(tree_id(&tree).unwrap(), expected);
    let copied = ingest(&store, &tree, &known, false);
    assert_ne!(copied.tree, Some(expected));
    let made = ingest(&store, &tree, &known, true);
    assert_eq!(made.tree, Some(expected));
    put(b"a");
    let mut nar = Vec::new();
    let info = commit(&store, made);
    store.nar_dump(&info.path, &mut nar).unwrap();
    assert_eq!(info.nar_size, nar.len() as u64);
    assert_eq!(tree_id(&store.physical(&info.path)).unwrap(), expected);
}

#[test]
fn the_hash_of_the_nar_is_taken_when_it_is_asked_for_and_kept() {
    let dir = tempdir();
    let store = open(dir.path());
    let tree = store.root().join("tmp/tree");
    linked(&store, &tree, b"some data");
    let info = commit(&store, ingest(&store, &tree, &Known::new(), true));
    assert_eq!(info.nar_sha256, None);
    let mut nar = Vec::new();
    store.nar_dump(&info.path, &mut nar).unwrap();
    let expected = Sha256::of(&nar);
    assert_eq!(store.nar_sha256(&info).unwrap(), expected);
    let kept = store.query(&info.path).unwrap().unwrap();
    assert_eq!(kept.nar_sha256, Some(expected));
    assert_eq!(kept.tree_id(), tree_id(&store.physical(&info.path)).ok());
}

#[test]
fn damage_is_found_and_no_hash_is_given_of_it() {
    let dir = tempdir();
    let store = open(dir.path());
    let tree = store.root().join("tmp/tree");
    linked(&store, &tree, b"some data");
    let info = commit(&store, ingest(&store, &tree, &Known::new(), true));
    let check = || {
        store
            .check(CheckOptions { contents: true })
            .unwrap()
            .problems
    };
    assert_eq!(check().len(), 0);
    let file = store.physical(&info.path).join("other");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&file, "another fish").unwrap();
    let problems = check();
    let found = problems
        .iter()
        .any(|one| matches!(one, Problem::DamagedTree { path, .. } if *path == info.path));
    assert!(found, "{problems:?}");
    let asked = store.nar_sha256(&info);
    assert!(
        matches!(asked, Err(StoreError::Corrupt { .. })),
        "{asked:?}"
    );
}
