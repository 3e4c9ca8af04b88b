//! Rootfs manifests and the editable tree, held against a simple model.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeMap;

use proptest::prelude::*;
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind, Meta, Node, Root, hardlink_group};
use sos_store::rootfs::{FileSpec, KindView, RootTree, SpecKind};
use sos_store::{ObjectKind, RootPathProblem, StoreError};
use support::open;

fn meta(mode: u16) -> Meta {
    Meta {
        mode,
        mtime_secs: 100,
        ..Meta::default()
    }
}

fn spec(mode: u16, kind: SpecKind) -> FileSpec {
    FileSpec {
        meta: meta(mode),
        kind,
    }
}

fn problem<T: std::fmt::Debug>(result: Result<T, StoreError>) -> RootPathProblem {
    match result {
        Err(StoreError::RootPath { problem, .. }) => problem,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_tree_becomes_the_manifest_that_the_format_says() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let mut tree = RootTree::empty(meta(0o755));
    tree.mkdir_p("/usr/bin", &meta(0o755)).unwrap();
    tree.write_file("usr/bin/tool", *b"run", meta(0o4755))
        .unwrap();
    tree.insert(
        "bin",
        spec(
            0o777,
            SpecKind::Symlink {
                target: b"usr/bin".to_vec(),
            },
        ),
    )
    .unwrap();
    tree.insert(
        "null",
        spec(0o666, SpecKind::CharDev { major: 1, minor: 3 }),
    )
    .unwrap();
    let id = tree.finish(&store).unwrap();
    let file = Kind::File {
        size: 3,
        blob: Blake3::of(b"run"),
        hardlink: None,
    };
    let entry = |name: &[u8], mode, kind| Entry {
        name: name.to_vec(),
        meta: meta(mode),
        kind,
    };
    let bin = Node {
        entries: vec![entry(b"tool", 0o4755, file)],
    };
    let usr = Node {
        entries: vec![entry(b"bin", 0o755, Kind::Dir { node: bin.id() })],
    };
    let top = Node {
        entries: vec![
            entry(
                b"bin",
                0o777,
                Kind::Symlink {
                    target: b"usr/bin".to_vec(),
                },
            ),
            entry(b"null", 0o666, Kind::CharDev { major: 1, minor: 3 }),
            entry(b"usr", 0o755, Kind::Dir { node: usr.id() }),
        ],
    };
    assert_eq!(
        id,
        Root {
            meta: meta(0o755),
            node: top.id()
        }
        .id()
    );
    assert_eq!(store.get_node(&bin.id()).unwrap(), bin);
    let info = store.add_rootfs(id, "web", None).unwrap();
    assert_eq!(
        (info.kind, info.root, info.nar_size),
        (ObjectKind::Rootfs, Some(id), 3)
    );
    assert_eq!(store.query(&info.path).unwrap().unwrap(), info);
    assert_eq!(store.add_rootfs(id, "web", None).unwrap(), info);
}

#[test]
fn look_ups_follow_links_inside_the_root_only() {
    let mut tree = RootTree::empty(meta(0o755));
    tree.mkdir_p("usr/lib/x", &meta(0o755)).unwrap();
    let mut link = |path: &str, target: &str| {
        tree.insert(
            path,
            spec(
                0o777,
                SpecKind::Symlink {
                    target: target.into(),
                },
            ),
        )
        .unwrap();
    };
    link("lib", "usr/lib");
    link("abs", "/lib/x");
    link("up", "../../../usr");
    link("loop", "loop");
    link("usr/back", "../lib/./x/..");
    link("dangling", "not/there");
    for (path, expected) in [
        ("/lib/x", "usr/lib/x"),
        ("abs", "usr/lib/x"),
        ("abs/new", "usr/lib/x/new"),
        ("up/lib", "usr/lib"),
        ("usr/back/x", "usr/lib/x"),
        ("/", ""),
        ("../../lib", "usr/lib"),
        ("lib/../bin", "usr/bin"),
    ] {
        assert_eq!(
            String::from_utf8(tree.resolve(path).unwrap()).unwrap(),
            expected,
            "{path}"
        );
    }
    assert_eq!(tree.resolve_parent("usr/../lib").unwrap(), b"lib");
    assert_eq!(
        problem(tree.resolve("loop/x")),
        RootPathProblem::TooManySymlinks
    );
    assert_eq!(problem(tree.resolve("dangling")), RootPathProblem::Missing);
    tree.write_file("file", *b"", meta(0o644)).unwrap();
    assert_eq!(
        problem(tree.resolve("file/x")),
        RootPathProblem::NotADirectory
    );
    assert!(tree.get("lib/x").unwrap().is_none());
}

#[test]
fn who_makes_what_is_missing_is_led_to_where_links_lead() {
    let mut tree = RootTree::empty(meta(0o755));
    tree.mkdir_p("usr", &meta(0o755)).unwrap();
    tree.write_file("file", *b"", meta(0o644)).unwrap();
    for (path, target) in [
        ("nowhere", "not/there"),
        ("usr/far", "/nowhere/x"),
        ("last", "usr"),
        ("over", "gone/../usr"),
        ("loop", "loop"),
        ("usr/bad", "../file"),
    ] {
        let target = target.into();
        tree.insert(path, spec(0o777, SpecKind::Symlink { target }))
            .unwrap();
    }
    for (path, expected) in [
        ("a/b", "a/b"),
        ("usr/x/y", "usr/x/y"),
        ("nowhere/x", "not/there/x"),
        ("/usr/far/y", "not/there/x/y"),
        ("usr/../last/x", "usr/x"),
        // The last one is meant itself.
        ("last", "last"),
        ("file", "file"),
    ] {
        let made = tree.resolve_made(path).unwrap();
        assert_eq!(String::from_utf8(made).unwrap(), expected, "{path}");
    }
    for (path, by, expected) in [
        ("file/x/y", "file", RootPathProblem::NotADirectory),
        ("usr/bad/y", "file", RootPathProblem::NotADirectory),
        ("loop/x", "loop", RootPathProblem::TooManySymlinks),
        ("over/x", "gone", RootPathProblem::Missing),
    ] {
        match tree.resolve_made(path) {
            Err(StoreError::RootPath { path: at, problem }) => {
                assert_eq!(
                    (at.as_slice(), problem),
                    (by.as_bytes(), expected),
                    "{path}"
                );
            }
            other => panic!("{path}: {other:?}"),
        }
    }
}

#[test]
fn misuse_is_an_error_and_changes_nothing() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let mut tree = RootTree::empty(meta(0o755));
    tree.mkdir_p("a/b", &meta(0o755)).unwrap();
    tree.write_file("f", *b"x", meta(0o644)).unwrap();
    let before = tree.finish(&store).unwrap();
    assert_eq!(
        problem(tree.write_file("no/f", *b"", meta(0))),
        RootPathProblem::Missing
    );
    assert_eq!(
        problem(tree.write_file("f/g", *b"", meta(0))),
        RootPathProblem::NotADirectory
    );
    assert_eq!(
        problem(tree.write_file("f/g/h", *b"", meta(0))),
        RootPathProblem::NotADirectory
    );
    assert_eq!(
        problem(tree.write_file("a", *b"", meta(0))),
        RootPathProblem::IsADirectory
    );
    assert_eq!(
        problem(tree.write_file("", *b"", meta(0))),
        RootPathProblem::IsRoot
    );
    assert_eq!(problem(tree.remove("/")), RootPathProblem::IsRoot);
    assert_eq!(
        problem(tree.rename("a", "a/b/c")),
        RootPathProblem::IntoItself
    );
    assert_eq!(
        problem(tree.rename("a/b", "a")),
        RootPathProblem::IntoItself
    );
    assert_eq!(problem(tree.rename("zz", "y")), RootPathProblem::Missing);
    assert_eq!(problem(tree.link("a", "l")), RootPathProblem::NotAFile);
    assert_eq!(
        problem(tree.write_file("../x", *b"", meta(0))),
        RootPathProblem::BadName
    );
    assert_eq!(
        problem(tree.write_file("x\0y", *b"", meta(0))),
        RootPathProblem::BadName
    );
    assert_eq!(
        problem(tree.write_file("y".repeat(256), *b"", meta(0))),
        RootPathProblem::BadName
    );
    assert_eq!(
        problem(tree.write_file("m", *b"", meta(0o10000))),
        RootPathProblem::BadMeta
    );
    for (key, size, number, expected) in [
        ("", 1, 1, RootPathProblem::BadXattrKey),
        ("user.x", 65_537, 1, RootPathProblem::LargeXattr),
        ("user.x", 1, 1025, RootPathProblem::ManyXattrs),
    ] {
        let mut odd = meta(0o644);
        for i in 0..number {
            let key = if number == 1 {
                key.to_owned()
            } else {
                format!("{key}{i}")
            };
            odd.xattrs.insert(key.into_bytes(), vec![b'x'; size]);
        }
        assert_eq!(problem(tree.write_file("m", *b"", odd)), expected);
    }
    let empty_link = spec(0o777, SpecKind::Symlink { target: Vec::new() });
    assert_eq!(
        problem(tree.insert("l", empty_link)),
        RootPathProblem::BadTarget
    );
    assert_eq!(problem(tree.read_file("a")), RootPathProblem::NotAFile);
    assert_eq!(problem(tree.list("f")), RootPathProblem::NotADirectory);
    assert!(!tree.remove("zz").unwrap());
    assert_eq!(tree.finish(&store).unwrap(), before);
}

#[test]
fn edits_share_what_they_leave_alone() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let mut tree = RootTree::empty(meta(0o755));
    for name in ["etc", "usr/share/doc", "var/lib"] {
        tree.mkdir_p(name, &meta(0o755)).unwrap();
        tree.write_file(format!("{name}/f"), name, meta(0o644))
            .unwrap();
    }
    let first = tree.finish(&store).unwrap();
    store.add_rootfs(first, "one", None).unwrap();
    let nodes = || {
        support::names_below(&store.root().join("man"))
            .iter()
            .filter(|n| n.components().count() == 2)
            .count()
    };
    let before = nodes();
    let mut edited = RootTree::load(&store, &first).unwrap();
    edited.write_file("etc/f", *b"new", meta(0o644)).unwrap();
    assert!(edited.unchanged_node("usr").unwrap().is_some());
    assert!(edited.unchanged_node("etc").unwrap().is_none());
    let second = edited.finish(&store).unwrap();
    assert_ne!(first, second);
    // The root, the top directory and etc.
    assert_eq!(nodes(), before + 3);
    assert_eq!(
        edited.read_file("usr/share/doc/f").unwrap(),
        b"usr/share/doc"
    );
    // The same edit undone is the same rootfs.
    edited.write_file("etc/f", "etc", meta(0o644)).unwrap();
    assert_eq!(edited.finish(&store).unwrap(), first);
    let mut clamped = RootTree::load(&store, &first).unwrap();
    clamped.clamp_times(100).unwrap();
    assert_eq!(clamped.finish(&store).unwrap(), first);
    clamped.clamp_times(50).unwrap();
    clamped
        .walk(|_, meta, _| {
            assert_eq!(meta.mtime_secs, 50);
            Ok(())
        })
        .unwrap();
    assert_eq!(clamped.root_meta().mtime_secs, 50);
}

#[test]
fn hard_links_are_named_by_their_first_member() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let mut tree = RootTree::empty(meta(0o755));
    tree.mkdir_p("b", &meta(0o755)).unwrap();
    tree.mkdir_p("d", &meta(0o755)).unwrap();
    let file = |hardlink| {
        spec(
            0o644,
            SpecKind::File {
                size: 1,
                blob: Blake3::of(b"x"),
                hardlink,
            },
        )
    };
    store.put_blob_bytes(b"x").unwrap();
    tree.insert("d/two", file(Some([9; 16]))).unwrap();
    tree.insert("b/one", file(Some([9; 16]))).unwrap();
    tree.insert("alone", file(Some([8; 16]))).unwrap();
    let group = |tree: &RootTree, path: &str| match tree.get(path).unwrap().unwrap().kind {
        KindView::File { hardlink, .. } => hardlink,
        other => panic!("{other:?}"),
    };
    let id = tree.finish(&store).unwrap();
    assert_eq!(group(&tree, "alone"), None);
    assert_eq!(group(&tree, "b/one"), Some(hardlink_group(b"b/one")));
    assert_eq!(group(&tree, "d/two"), Some(hardlink_group(b"b/one")));
    // Edits far away find the members in directories that nobody has looked into.
    let mut tree = RootTree::load(&store, &id).unwrap();
    tree.rename("b", "c").unwrap();
    tree.finish(&store).unwrap();
    assert_eq!(group(&tree, "d/two"), Some(hardlink_group(b"c/one")));
    tree.link("d/two", "a").unwrap();
    tree.finish(&store).unwrap();
    assert_eq!(group(&tree, "c/one"), Some(hardlink_group(b"a")));
    tree.set_meta("a", meta(0o600)).unwrap();
    assert_eq!(tree.get("d/two").unwrap().unwrap().meta.mode, 0o600);
    tree.write_file("a", *b"other", meta(0o644)).unwrap();
    tree.remove("c").unwrap();
    tree.finish(&store).unwrap();
    assert_eq!(group(&tree, "d/two"), None);
    tree.insert("x", file(Some([7; 16]))).unwrap();
    tree.insert(
        "y",
        FileSpec {
            meta: meta(0o600),
            ..file(Some([7; 16]))
        },
    )
    .unwrap();
    assert_eq!(problem(tree.finish(&store)), RootPathProblem::UnequalLinks);
}

/// What is known of the directories of a registered root spares reading them: hard links and devices are found without.
#[test]
fn directories_without_links_and_devices_are_not_read() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let mut tree = RootTree::empty_in(&store, meta(0o755));
    for name in ["few", "none", "other"] {
        tree.mkdir_p(format!("{name}/deep"), &meta(0o755)).unwrap();
        tree.write_file(format!("{name}/deep/f"), name, meta(0o644))
            .unwrap();
    }
    tree.mkdir_p("many", &meta(0o755)).unwrap();
    for n in 0..100 {
        tree.write_file(format!("many/{n}"), format!("{n}"), meta(0o644))
            .unwrap();
        tree.link(format!("many/{n}"), format!("many/again-{n}"))
            .unwrap();
    }
    tree.link("few/deep/f", "few/deep/g").unwrap();
    tree.link("other/deep/f", "other/deep/g").unwrap();
    let null = SpecKind::CharDev { major: 1, minor: 3 };
    tree.insert("few/null", spec(0o666, null)).unwrap();
    let root = tree.finish(&store).unwrap();
    store.add_rootfs(root, "web", None).unwrap();
    drop((tree, store));
    // A store that has read nothing yet, in which the directories that are of no interest cannot be read.
    let store = open(dir.path());
    let mut tree = RootTree::load(&store, &root).unwrap();
    for path in ["none/deep", "other/deep"] {
        let node = tree.unchanged_node(path).unwrap().unwrap();
        let hex = node.to_hex();
        let (shard, rest) = hex.split_at(2);
        std::fs::remove_file(store.root().join("man").join(shard).join(rest)).unwrap();
    }
    let devices = tree.devices().unwrap();
    assert_eq!(devices.len(), 1);
    assert_eq!(devices[0].0, b"few/null");
    tree.link("few/deep/g", "few/h").unwrap();
    tree.link("many/7", "many/third").unwrap();
    let changed = tree.finish(&store).unwrap();
    let tree = RootTree::load(&store, &changed).unwrap();
    let names = |path: &str| tree.names_of(path).unwrap();
    assert_eq!(
        names("few/h"),
        [&b"few/deep/f"[..], b"few/deep/g", b"few/h"]
    );
    assert_eq!(
        names("many/third"),
        [&b"many/7"[..], b"many/again-7", b"many/third"]
    );
    // They do hold what they held: a look at all of them fails.
    assert!(tree.names_of("other/deep/f").is_err());
}

#[test]
fn an_incomplete_manifest_is_not_registered() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let mut tree = RootTree::empty_in(&store, meta(0o755));
    let missing = Blake3::of(b"nobody has this");
    tree.insert(
        "f",
        spec(
            0o644,
            SpecKind::File {
                size: 3,
                blob: missing,
                hardlink: None,
            },
        ),
    )
    .unwrap();
    let id = tree.finish(&store).unwrap();
    assert!(
        matches!(store.add_rootfs(id, "x", None), Err(StoreError::MissingBlob { hash }) if hash == missing)
    );
    let blob = store.put_blob_bytes(b"four").unwrap();
    tree.insert(
        "f",
        spec(
            0o644,
            SpecKind::File {
                size: 3,
                blob,
                hardlink: None,
            },
        ),
    )
    .unwrap();
    let id = tree.finish(&store).unwrap();
    assert!(matches!(
        store.add_rootfs(id, "x", None),
        Err(StoreError::Corrupt { .. })
    ));
    let node = Node {
        entries: vec![Entry {
            name: b"d".to_vec(),
            meta: meta(0o755),
            kind: Kind::Dir { node: missing },
        }],
    };
    let node = store.put_node(&node).unwrap();
    let id = store
        .put_root(&Root {
            meta: meta(0o755),
            node,
        })
        .unwrap();
    assert!(matches!(
        store.add_rootfs(id, "x", None),
        Err(StoreError::MissingNode { .. })
    ));
    assert!(store.list().unwrap().is_empty());
}

/// The simplest rootfs there is: paths to what they are; files have an inode number.
#[derive(Clone, Debug, Default)]
struct Model {
    entries: BTreeMap<Vec<u8>, ModelKind>,
    inodes: BTreeMap<u32, (Vec<u8>, u16)>,
    next: u32,
}

#[derive(Clone, Debug, PartialEq)]
enum ModelKind {
    Dir(u16),
    File(u32),
    Link(Vec<u8>, u16),
}

#[derive(Clone, Debug)]
enum Op {
    Mkdir(String, u16),
    Write(String, u8, u16),
    Symlink(String, String),
    Remove(String),
    Rename(String, String),
    Link(String, String),
    SetMode(String, u16),
    Finish,
}

impl Model {
    fn parent_is_dir(&self, path: &[u8]) -> bool {
        match path.iter().rposition(|&byte| byte == b'/') {
            None => true,
            Some(at) => matches!(self.entries.get(&path[..at]), Some(ModelKind::Dir(_))),
        }
    }

    fn below(&self, path: &[u8]) -> Vec<Vec<u8>> {
        let mut prefix = path.to_vec();
        prefix.push(b'/');
        self.entries
            .keys()
            .filter(|key| *key == path || key.starts_with(&prefix))
            .cloned()
            .collect()
    }

    fn remove(&mut self, path: &[u8]) -> bool {
        let gone = self.below(path);
        gone.iter().for_each(|key| drop(self.entries.remove(key)));
        !gone.is_empty()
    }

    /// Whether the operation works, doing it if so.
    fn apply(&mut self, op: &Op) -> bool {
        match op {
            Op::Mkdir(path, mode) => {
                let path = path.as_bytes();
                if !self.parent_is_dir(path) {
                    return false;
                }
                if !matches!(self.entries.get(path), Some(ModelKind::Dir(_))) {
                    self.remove(path);
                }
                self.entries.insert(path.to_vec(), ModelKind::Dir(*mode));
                true
            }
            Op::Write(path, byte, mode) => {
                let path = path.as_bytes();
                if !self.parent_is_dir(path)
                    || matches!(self.entries.get(path), Some(ModelKind::Dir(_)))
                {
                    return false;
                }
                self.next += 1;
                self.inodes
                    .insert(self.next, (vec![*byte; usize::from(*byte % 3)], *mode));
                self.entries
                    .insert(path.to_vec(), ModelKind::File(self.next));
                true
            }
            Op::Symlink(path, target) => {
                let path = path.as_bytes();
                if !self.parent_is_dir(path) {
                    return false;
                }
                self.remove(path);
                self.entries.insert(
                    path.to_vec(),
                    ModelKind::Link(target.as_bytes().to_vec(), 0o777),
                );
                true
            }
            Op::Remove(path) => {
                self.remove(path.as_bytes());
                true
            }
            Op::Rename(from, to) => {
                let (from, to) = (from.as_bytes(), to.as_bytes());
                if !self.entries.contains_key(from) {
                    return false;
                }
                if from == to {
                    return true;
                }
                let inside = |a: &[u8], b: &[u8]| a.starts_with(b) && a.get(b.len()) == Some(&b'/');
                if inside(to, from) || inside(from, to) || !self.parent_is_dir(to) {
                    return false;
                }
                let moved: Vec<_> = self
                    .below(from)
                    .into_iter()
                    .map(|key| (key.clone(), self.entries.remove(&key).unwrap()))
                    .collect();
                self.remove(to);
                for (key, kind) in moved {
                    let mut new = to.to_vec();
                    new.extend_from_slice(&key[from.len()..]);
                    self.entries.insert(new, kind);
                }
                true
            }
            Op::Link(from, to) => {
                let (from, to) = (from.as_bytes(), to.as_bytes());
                let Some(ModelKind::File(inode)) = self.entries.get(from).cloned() else {
                    return false;
                };
                if from == to {
                    return true;
                }
                let inside = from.starts_with(to) && from.get(to.len()) == Some(&b'/');
                if inside || !self.parent_is_dir(to) {
                    return false;
                }
                self.remove(to);
                self.entries.insert(to.to_vec(), ModelKind::File(inode));
                true
            }
            Op::SetMode(path, mode) => match self.entries.get_mut(path.as_bytes()) {
                None => false,
                Some(ModelKind::Dir(old) | ModelKind::Link(_, old)) => {
                    *old = *mode;
                    true
                }
                Some(ModelKind::File(inode)) => {
                    let inode = *inode;
                    self.inodes.get_mut(&inode).unwrap().1 = *mode;
                    true
                }
            },
            Op::Finish => true,
        }
    }

    /// The manifest, made from scratch.
    fn root(&self) -> Root {
        Root {
            meta: meta(0o755),
            node: self.node(b"", &self.groups()).id(),
        }
    }

    fn groups(&self) -> BTreeMap<u32, [u8; 16]> {
        let mut members: BTreeMap<u32, Vec<&Vec<u8>>> = BTreeMap::new();
        for (path, kind) in &self.entries {
            if let ModelKind::File(inode) = kind {
                members.entry(*inode).or_default().push(path);
            }
        }
        members
            .into_iter()
            .filter(|(_, paths)| paths.len() > 1)
            .map(|(inode, paths)| {
                // Depth first, entries in order: components are compared, not bytes.
                let first = paths
                    .into_iter()
                    .min_by_key(|path| path.split(|b| *b == b'/').collect::<Vec<_>>())
                    .unwrap();
                (inode, hardlink_group(first))
            })
            .collect()
    }

    fn node(&self, dir: &[u8], groups: &BTreeMap<u32, [u8; 16]>) -> Node {
        let entries = self.entries.iter().filter_map(|(path, kind)| {
            let at = path.iter().rposition(|&byte| byte == b'/');
            let (parent, name) = match at {
                Some(at) => (&path[..at], &path[at + 1..]),
                None => (&b""[..], &path[..]),
            };
            if parent != dir {
                return None;
            }
            let (mode, kind) = match kind {
                ModelKind::Dir(mode) => (
                    *mode,
                    Kind::Dir {
                        node: self.node(path, groups).id(),
                    },
                ),
                ModelKind::Link(target, mode) => (
                    *mode,
                    Kind::Symlink {
                        target: target.clone(),
                    },
                ),
                ModelKind::File(inode) => {
                    let (data, mode) = &self.inodes[inode];
                    let hardlink = groups.get(inode).copied();
                    (
                        *mode,
                        Kind::File {
                            size: data.len() as u64,
                            blob: Blake3::of(data),
                            hardlink,
                        },
                    )
                }
            };
            Some(Entry {
                name: name.to_vec(),
                meta: meta(mode),
                kind,
            })
        });
        Node::new(entries.collect()).unwrap()
    }
}

fn path_strategy() -> impl Strategy<Value = String> {
    proptest::collection::vec(
        prop_oneof![Just("a"), Just("b"), Just("a.b"), Just("c-")],
        1..4,
    )
    .prop_map(|v| v.join("/"))
}

fn op_strategy() -> impl Strategy<Value = Op> {
    let path = path_strategy;
    let mode = || 0u16..0o10000;
    prop_oneof![
        4 => (path(), mode()).prop_map(|(p, m)| Op::Mkdir(p, m)),
        5 => (path(), any::<u8>(), mode()).prop_map(|(p, b, m)| Op::Write(p, b, m)),
        1 => (path(), path()).prop_map(|(p, t)| Op::Symlink(p, t)),
        2 => path().prop_map(Op::Remove),
        2 => (path(), path()).prop_map(|(a, b)| Op::Rename(a, b)),
        4 => (path(), path()).prop_map(|(a, b)| Op::Link(a, b)),
        1 => (path(), mode()).prop_map(|(p, m)| Op::SetMode(p, m)),
        1 => Just(Op::Finish),
    ]
}

fn apply(tree: &mut RootTree, op: &Op) -> bool {
    match op {
        Op::Mkdir(path, mode) => tree.insert(path, spec(*mode, SpecKind::Dir)).is_ok(),
        Op::Write(path, byte, mode) => tree
            .write_file(path, vec![*byte; usize::from(*byte % 3)], meta(*mode))
            .is_ok(),
        Op::Symlink(path, target) => tree
            .insert(
                path,
                spec(
                    0o777,
                    SpecKind::Symlink {
                        target: target.clone().into_bytes(),
                    },
                ),
            )
            .is_ok(),
        Op::Remove(path) => tree.remove(path).is_ok(),
        Op::Rename(from, to) => tree.rename(from, to).is_ok(),
        Op::Link(from, to) => tree.link(from, to).is_ok(),
        Op::SetMode(path, mode) => tree.set_meta(path, meta(*mode)).is_ok(),
        Op::Finish => true,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_tree_does_what_the_model_does(ops in proptest::collection::vec(op_strategy(), 1..50), reload: bool) {
        let dir = support::tempdir();
        let store = open(dir.path());
        let mut model = Model::default();
        let mut tree = RootTree::empty(meta(0o755));
        for op in &ops {
            let expected = model.apply(op);
            prop_assert_eq!(apply(&mut tree, op), expected, "{:?}", op);
            if matches!(op, Op::Finish) {
                let id = tree.finish(&store).unwrap();
                prop_assert_eq!(id, model.root().id());
                if reload {
                    tree = RootTree::load(&store, &id).unwrap();
                }
            }
        }
        let id = tree.finish(&store).unwrap();
        prop_assert_eq!(id, model.root().id());
        let mut paths = Vec::new();
        RootTree::load(&store, &id).unwrap().walk(|path, _, _| { paths.push(path.to_vec()); Ok(()) }).unwrap();
        let mut expected: Vec<_> = model.entries.keys().cloned().collect();
        expected.sort_by(|a, b| a.split(|x| *x == b'/').cmp(b.split(|x| *x == b'/')));
        prop_assert_eq!(paths, expected);
        for (path, kind) in &model.entries {
            if let ModelKind::File(inode) = kind {
                prop_assert_eq!(&tree.read_file(path).unwrap(), &model.inodes[inode].0);
            }
        }
    }
}
