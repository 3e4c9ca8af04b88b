//! Compared with libostree's own program, on random root filesystems.

use std::ffi::OsStr;
use std::path::Path;

use sos_formats::manifest::Meta;
use sos_store::rootfs::{FileSpec, RootTree, SpecKind};

use super::*;
use crate::build::fake::Fake;
use crate::export::{AddOptions, Owners, add_to_repository, write_rootfs};
use crate::peers::{peer, said};

pub(super) const EPOCH: i64 = 1_700_000_000;

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        let at = self.next(from.len() as u64);
        from[usize::try_from(at).unwrap_or(0)]
    }
}

fn meta(random: &mut Random, modes: &[u16]) -> Meta {
    Meta {
        mode: random.pick(modes),
        uid: random.pick(&[0, 0, 0, 33, 1000, 65_534, 3_000_000]),
        gid: random.pick(&[0, 0, 0, 33, 1000, 65_534]),
        mtime_secs: EPOCH - 5,
        ..Meta::default()
    }
}

/// Inserts a random tree; `capabilities` are xattrs that only root can read back.
pub(super) fn plant(fake: &Fake, seed: u64, capabilities: bool) -> Blake3 {
    let mut random = Random(seed);
    let mut tree = RootTree::empty_in(
        &fake.store,
        Meta {
            mode: 0o755,
            ..Meta::default()
        },
    );
    let mut dirs: Vec<String> = vec![String::new()];
    for at in 0..40 {
        let parent = dirs[usize::try_from(random.next(dirs.len() as u64)).unwrap_or(0)].clone();
        let name = match random.next(8) {
            0 => "n".repeat(255),
            1 => format!("größe {at}"),
            2 => format!("a\nb{at}"),
            _ => format!("d{at}"),
        };
        let path = format!("{parent}/{name}");
        if path.len() > 1500 || tree.get(&path).expect("look").is_some() {
            continue;
        }
        let meta = meta(&mut random, &[0o755, 0o700, 0o1777, 0o2755]);
        let kind = SpecKind::Dir;
        tree.insert(&path, FileSpec { meta, kind })
            .expect("a directory");
        dirs.push(path);
    }
    let mut last: Option<(Blake3, u64)> = None;
    let mut linkable: Option<String> = None;
    for at in 0..200_u64 {
        let parent = &dirs[usize::try_from(random.next(dirs.len() as u64)).unwrap_or(0)];
        let path = format!("{parent}/f{at}");
        if let Some(existing) = linkable.take_if(|_| at % 13 == 0) {
            tree.link(&existing, &path).expect("a second name");
            continue;
        }
        let mut meta = meta(&mut random, &[0o644, 0o755, 0o4755, 0o600, 0o000, 0o2711]);
        let kind = match random.next(10) {
            0 => SpecKind::Symlink {
                target: format!("../some/where {at}").into_bytes(),
            },
            1 if last.is_some() => {
                let (blob, size) = last.expect("a file");
                SpecKind::File {
                    size,
                    blob,
                    hardlink: None,
                }
            }
            _ => {
                let len = random.pick(&[0_u64, 1, 100, 5_000, 150_000]);
                let word = random.next(1 << 20).to_string();
                let bytes: Vec<u8> = (0..len)
                    .map(|i| word.as_bytes()[usize::try_from(i).unwrap_or(0) % word.len()])
                    .map(|b| b ^ u8::from(random.next(4) == 0))
                    .collect();
                let blob = fake.store.put_blob_bytes(&bytes).expect("a blob");
                last = Some((blob, len));
                SpecKind::File {
                    size: len,
                    blob,
                    hardlink: None,
                }
            }
        };
        if matches!(kind, SpecKind::File { .. }) && random.next(4) == 0 {
            meta.xattrs.insert(b"user.z=".to_vec(), b"a\0=b".to_vec());
            meta.xattrs.insert(b"user.a".to_vec(), vec![0xff; 300]);
            if capabilities {
                // cap_net_raw, as `setcap` writes it.
                let value = [
                    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                ];
                meta.xattrs
                    .insert(b"security.capability".to_vec(), value.to_vec());
            }
        }
        if matches!(kind, SpecKind::File { .. }) {
            linkable = Some(path.clone());
        }
        tree.insert(&path, FileSpec { meta, kind }).expect("a file");
    }
    tree.finish(&fake.store).expect("a root filesystem")
}

pub(super) fn attrs(mode: Mode) -> OstreeAttrs {
    OstreeAttrs {
        rootfs: "root".into(),
        branch: "test/amd64/main".into(),
        mode,
        subject: "a subject".into(),
        body: "more\nlines".into(),
        version: Some("1.2.3".into()),
        epoch: EPOCH,
        ..OstreeAttrs::default()
    }
}

/// Runs the peer, which must succeed; none where it is not installed.
pub(super) fn ostree<S: AsRef<OsStr>>(args: &[S]) -> Option<String> {
    let output = peer("ostree", args)?;
    assert!(output.status.success(), "{}", said(&output));
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn export(fake: &Fake, attrs: &OstreeAttrs, dest: &Path) -> String {
    let root = make(fake, attrs).expect("a repository");
    let exported =
        add_to_repository(&fake.store, &root, dest, &AddOptions::default()).expect("an export");
    let mut refs = exported.refs.into_values();
    refs.next().expect("a ref").to_string()
}

#[test]
fn both_modes_are_sound_and_name_the_same_commit() {
    for seed in 0..2 {
        let mut fake = Fake::new();
        let root = plant(&fake, seed, true);
        fake.roots.insert("root".into(), root);
        let archive = fake.path("archive");
        let bare = fake.path("bare");
        let commit = export(&fake, &attrs(Mode::Archive), &archive);
        assert_eq!(export(&fake, &attrs(Mode::BareUser), &bare), commit);
        for repo in [&archive, &bare] {
            let repo = format!("--repo={}", repo.display());
            if ostree(&[repo.as_str(), "fsck"]).is_none() {
                return;
            }
            let shown = ostree(&[&repo, "show", "test/amd64/main"]).expect("installed");
            assert!(
                shown.contains(&commit) && shown.contains("Version: 1.2.3"),
                "{shown}"
            );
        }
        let summary = ostree(&[
            format!("--repo={}", archive.display()).as_str(),
            "summary",
            "-v",
        ])
        .expect("installed");
        assert!(summary.contains(&commit), "{summary}");
    }
}

#[test]
fn the_commit_is_that_of_libostree() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can write files of other owners");
        return;
    }
    for seed in 10..13 {
        let mut fake = Fake::new();
        let root = plant(&fake, seed, true);
        fake.roots.insert("root".into(), root);
        let tree = fake.path("tree");
        let left_out = write_rootfs(&fake.store, &root, &tree, Owners::Kept).expect("a directory");
        assert_eq!(left_out, crate::export::LeftOut::default());
        let repo = format!("--repo={}", fake.path("peer").display());
        if ostree(&[repo.as_str(), "init", "--mode=archive"]).is_none() {
            return;
        }
        let ours = export(&fake, &attrs(Mode::Archive), &fake.path("archive"));
        assert_eq!(ours, commit_of_peer(&repo, &tree), "seed {seed}");
    }
}

/// Commits a directory with libostree as [`attrs`] says it; `repo` is the argument that names a repository.
fn commit_of_peer(repo: &str, tree: &Path) -> String {
    let commit = ostree(&[
        repo,
        "commit",
        "--branch=test/amd64/main",
        "--no-bindings",
        "--subject=a subject",
        "--body=more\nlines",
        "--add-metadata-string=version=1.2.3",
        &format!("--timestamp=@{EPOCH}"),
        &format!("--tree=dir={}", tree.display()),
    ]);
    commit.expect("installed").trim().to_owned()
}

/// Attributes without a value, of every namespace and of all that can have one. libostree reads none from a disk.
#[test]
fn attributes_without_a_value_are_refused_or_left_out_as_libostree_does() {
    let is_root = rustix::process::geteuid().is_root();
    let grown = |fake: &Fake, has_empty: bool| {
        let of = |mode: u16, names: &[&str]| {
            let mut meta = Meta {
                mode,
                ..Meta::default()
            };
            meta.xattrs.insert(b"user.m".to_vec(), b"value".to_vec());
            if mode == 0o777 {
                // A link has none of these.
                meta.xattrs.clear();
            }
            let names = names.iter().filter(|_| has_empty);
            // An ordinary user sets no others.
            for name in names.filter(|name| is_root || name.starts_with("user.")) {
                meta.xattrs.insert(name.as_bytes().to_vec(), Vec::new());
            }
            if !is_root {
                (meta.uid, meta.gid) = (
                    rustix::process::geteuid().as_raw(),
                    rustix::process::getegid().as_raw(),
                );
            }
            meta
        };
        let mut tree = RootTree::empty_in(&fake.store, of(0o755, &["user.a"]));
        let (meta, kind) = (of(0o755, &["trusted.z", "user.z"]), SpecKind::Dir);
        tree.insert("d", FileSpec { meta, kind }).expect("inserted");
        let file = of(0o644, &["security.e", "trusted.e", "user.a", "user.z"]);
        tree.write_file("d/f", "text", file).expect("a file");
        let target = b"f".to_vec();
        let (meta, kind) = (of(0o777, &["trusted.e"]), SpecKind::Symlink { target });
        tree.insert("d/l", FileSpec { meta, kind })
            .expect("inserted");
        tree.finish(&fake.store).expect("a root")
    };
    let mut fake = Fake::new();
    let root = grown(&fake, true);
    fake.roots.insert("root".into(), root);
    let tree = fake.path("tree");
    let owners = if is_root {
        Owners::Kept
    } else {
        Owners::Caller
    };
    write_rootfs(&fake.store, &root, &tree, owners).expect("a directory");
    let mut buffer = [0; 100];
    let len = rustix::fs::getxattr(tree.join("d/f"), "user.z", &mut buffer);
    assert_eq!(len, Ok(0), "the tree on the disk has them");
    let places = if is_root {
        "`/`, `/d`, `/d/f`, `/d/l`"
    } else {
        "`/`, `/d`, `/d/f`"
    };
    let refused = match make(&fake, &attrs(Mode::Archive)) {
        Err(BuilderError::Diagnostic(refused)) => refused,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused.code, "ostree-empty-xattr");
    assert_eq!(refused.notes, [format!("found {places}")]);
    assert!(refused.helps[1].starts_with("`empty-xattrs = \"drop\"` leaves them out"));
    let mut commits = Vec::new();
    for (mode, named) in [(Mode::Archive, "archive"), (Mode::BareUser, "bare-user")] {
        let repo = fake.path(named);
        let attrs = OstreeAttrs {
            empty_xattrs: EmptyXattrs::Drop,
            ..attrs(mode)
        };
        commits.push(export(&fake, &attrs, &repo));
        let peers = format!("--repo={}", fake.path(&format!("{named} peer")).display());
        if ostree(&[&peers, "init", &format!("--mode={named}")]).is_none() {
            continue;
        }
        let theirs = commit_of_peer(&peers, &tree);
        assert_eq!(commits.last().expect("ours"), &theirs, "{named}");
        // As a host has it: its checksums are those of what is read back from the disk.
        if is_root {
            let host = format!("--repo={}", fake.path(&format!("{named} host")).display());
            ostree(&[&host, "init", "--mode=bare"]);
            ostree(&[&host, "pull-local", &repo.display().to_string()]);
            ostree(&[&host, "fsck"]);
        }
    }
    assert!(fake.logged(&format!(
        "warning[ostree-empty-xattr]: extended attributes without a value are left out of the commit, as `empty-xattrs = \"drop\"` says: those of {places}"
    )));
    let mut without = Fake::new();
    let root = grown(&without, false);
    without.roots.insert("root".into(), root);
    commits.push(export(
        &without,
        &attrs(Mode::Archive),
        &without.path("archive"),
    ));
    assert!(!without.logged("warning"));
    commits.dedup();
    assert_eq!(commits.len(), 1, "{commits:?}");
}

#[test]
fn what_was_worked_out_is_not_worked_out_again() {
    let mut fake = Fake::new();
    let root = plant(&fake, 20, false);
    fake.roots.insert("root".into(), root);
    let first = make(&fake, &attrs(Mode::Archive)).expect("a repository");
    // With other cores and in another order of work.
    fake.cores = 7;
    assert_eq!(make(&fake, &attrs(Mode::Archive)).expect("again"), first);
    let other = Fake::new();
    let root = plant(&other, 20, false);
    let mut other = other;
    other.roots.insert("root".into(), root);
    other.cores = 1;
    assert_eq!(
        make(&other, &attrs(Mode::Archive)).expect("elsewhere"),
        first
    );
}

#[test]
fn a_commit_follows_its_parent() {
    let mut fake = Fake::new();
    let first = plant(&fake, 30, false);
    fake.roots.insert("root".into(), first);
    let before = make(&fake, &attrs(Mode::Archive)).expect("a repository");
    let mut tree = RootTree::load(&fake.store, &first).expect("the tree");
    let blob = fake.store.put_blob_bytes(b"new").expect("a blob");
    tree.insert(
        "new",
        FileSpec {
            meta: Meta {
                mode: 0o644,
                ..Meta::default()
            },
            kind: SpecKind::File {
                size: 3,
                blob,
                hardlink: None,
            },
        },
    )
    .expect("a file");
    let second = tree.finish(&fake.store).expect("a root filesystem");
    fake.roots.insert("root".into(), second);
    fake.roots.insert("before".into(), before);
    let mut after = attrs(Mode::Archive);
    after.parent = Some("before".into());
    let repo = fake.path("archive");
    let commit = export(&fake, &after, &repo);
    let repo = format!("--repo={}", repo.display());
    let Some(log) = ostree(&[repo.as_str(), "log", "test/amd64/main"]) else {
        return;
    };
    assert_eq!(log.matches("\ncommit ").count(), 1, "{log}");
    assert!(log.starts_with(&format!("commit {commit}")), "{log}");
    let difference = ostree(&[repo.as_str(), "diff", "test/amd64/main"]).expect("installed");
    assert_eq!(difference.trim(), "A    /new");
    let mut wrong = after.clone();
    wrong.mode = Mode::BareUser;
    let error = make(&fake, &wrong).expect_err("another mode").to_string();
    assert!(error.contains("another mode"), "{error}");
    wrong = after;
    wrong.branch = "other".into();
    let error = make(&fake, &wrong).expect_err("another ref").to_string();
    assert!(error.contains("no ref `other`"), "{error}");
}

#[test]
fn what_a_commit_cannot_hold_is_named() {
    let mut fake = Fake::new();
    let mut tree = RootTree::empty_in(&fake.store, Meta::default());
    let mut put = |path: &[u8], kind| {
        let meta = Meta::default();
        tree.insert(path, FileSpec { meta, kind })
            .expect("inserted");
    };
    put(b"dev", SpecKind::Dir);
    put(b"dev/null", SpecKind::CharDev { major: 1, minor: 3 });
    put(b"pipe", SpecKind::Fifo);
    put(b"disk", SpecKind::BlockDev { major: 8, minor: 0 });
    put(b"\xff", SpecKind::Dir);
    let root = tree.finish(&fake.store).expect("a root filesystem");
    fake.roots.insert("root".into(), root);
    let error = make(&fake, &attrs(Mode::Archive)).expect_err("special files");
    let BuilderError::Diagnostic(diagnostic) = error else {
        panic!("{error}");
    };
    assert_eq!(diagnostic.code, "ostree-special-file");
    assert!(format!("{diagnostic:?}").contains("found `/disk`, `/pipe`"));

    for (change, part) in [
        (serde_json::json!({"ref": "a b"}), "`a b` is not a ref"),
        (serde_json::json!({"epoch": -1}), "must not be negative"),
        (
            serde_json::json!({"metadata": {"version": "1"}}),
            "must not hold `version`",
        ),
        (serde_json::json!({"bootable": true}), "needs a kernel"),
    ] {
        let mut fake = Fake::new();
        let root = plant(&fake, 1, false);
        fake.roots.insert("root".into(), root);
        let mut attrs = serde_json::json!({"rootfs": "root", "ref": "a", "subject": "s"});
        for (key, value) in change.as_object().expect("object") {
            attrs[key] = value.clone();
        }
        let attrs: OstreeAttrs = serde_json::from_value(attrs).expect("attributes");
        let error = make(&fake, &attrs).expect_err(part).to_string();
        assert!(error.contains(part), "{error}");
    }
}
