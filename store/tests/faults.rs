//! Faults: `kill -9` at named and random moments, two processes at once, full disks, read-only mounts, bit flips.
//!
//! Children are this very test binary, asked by a variable to run [`child`] only.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::mount::MountFlags;
use sos_formats::derivation::Method;
use sos_formats::manifest::Meta;
use sos_formats::store_path::StorePath;
use sos_store::rootfs::RootTree;
use sos_store::{CheckOptions, GcOptions, IngestOptions, OpenOptions, Store, StoreError};
use support::{commit, open, options, sample_tree, some_path};

const JOB: &str = "SOS_STORE_TEST_JOB";

/// Starts a child on a job: its words are the job's arguments.
fn start(words: &[&str]) -> Child {
    child_command(words).spawn().unwrap()
}

fn child_command(words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "child", "--nocapture"])
        .env(JOB, words.join("\n"));
    command.stdout(Stdio::null()).stderr(Stdio::inherit());
    command
}

#[test]
#[allow(
    clippy::disallowed_methods,
    reason = "how a test tells its child what to do"
)]
fn child() {
    let Ok(job) = std::env::var(JOB) else { return };
    let words: Vec<&str> = job.lines().collect();
    match words.as_slice() {
        ["work", dir, point, nth] => {
            sos_store::fault::arm(point, nth.parse().unwrap());
            work(Path::new(dir)).unwrap();
        }
        ["work-forever", dir] => loop {
            work(Path::new(dir)).unwrap();
        },
        ["add", dir] => {
            for round in 0..5 {
                let store = open(Path::new(dir));
                add_trees(&store, Path::new(dir), round).unwrap();
            }
        }
        ["full", dir] => full_disk(Path::new(dir)),
        ["read-only", dir] => read_only(Path::new(dir)),
        other => panic!("{other:?}"),
    }
}

fn meta() -> Meta {
    Meta {
        mode: 0o755,
        ..Meta::default()
    }
}

/// A bit of everything that writes.
fn work(dir: &Path) -> Result<(), StoreError> {
    let store = Store::open(options(dir))?;
    let source = store.add_path(&dir.join("src"), "source", Method::Recursive, None)?;
    let staged = store.temp_dir("out")?;
    let built = staged.path().join("x");
    sample_tree(&built);
    let tree = store.ingest(
        &built,
        IngestOptions {
            take: true,
            ..Default::default()
        },
    )?;
    let registration = sos_store::Registration {
        path: some_path("built"),
        references: BTreeSet::from([source]),
        deriver: None,
        ca: None,
    };
    store.commit_tree(tree, registration)?;
    let mut root = RootTree::empty(meta());
    root.mkdir_p("etc/x", &meta())?;
    for name in ["etc/a", "etc/x/b", "c"] {
        root.write_file(name, name.repeat(50), meta())?;
    }
    let id = root.finish(&store)?;
    let system = store.add_rootfs(id, "system", None)?;
    let drv = some_path("x.drv");
    let lock = store.lock_drv(&drv)?;
    let mut log = store.log_writer(&drv)?;
    std::io::Write::write_all(&mut log, b"hello\n").unwrap();
    log.finish()?;
    drop(lock);
    store.add_root("system", &system.path)?;
    store.set_drv_output(&drv, "out", &system.path)?;
    // The tree, too, keeps the store open.
    drop((staged, root, store));
    // All but the system is garbage now.
    Store::open(options(dir))?.gc(GcOptions::default())?;
    Ok(())
}

/// Opens the store after a crash: it must be sound, do the same work, and have no rubbish after a collection.
fn recover(dir: &Path, what: &str) {
    let store = open(dir);
    let report = store.check(CheckOptions { contents: true }).unwrap();
    assert!(report.problems.is_empty(), "{what}: {:?}", report.problems);
    drop(store);
    work(dir).unwrap();
    let store = open(dir);
    let report = store.check(CheckOptions { contents: true }).unwrap();
    assert!(report.problems.is_empty(), "{what}: {:?}", report.problems);
    assert!(report.orphans.is_empty(), "{what}: {:?}", report.orphans);
    assert_eq!(report.paths, 1, "{what}");
}

#[test]
fn killed_at_every_named_point() {
    for point in sos_store::fault::POINTS {
        let dir = support::tempdir();
        sample_tree(&dir.path().join("src"));
        let mut killed = 0;
        for nth in ["1", "2"] {
            let status = start(&["work", dir.path().to_str().unwrap(), point, nth])
                .wait()
                .unwrap();
            if status.signal() == Some(9) {
                killed += 1;
            } else {
                assert!(status.success(), "{point} {nth}: {status}");
            }
            recover(dir.path(), point);
        }
        assert!(killed > 0, "nothing passes {point}");
    }
}

#[test]
fn killed_at_random_moments() {
    let dir = support::tempdir();
    sample_tree(&dir.path().join("src"));
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for round in 0..15 {
        let mut child = start(&["work-forever", dir.path().to_str().unwrap()]);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        std::thread::sleep(Duration::from_millis(10 + state % 250));
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(dir.path());
        let report = store.check(CheckOptions { contents: true }).unwrap();
        assert!(report.problems.is_empty(), "{round}: {:?}", report.problems);
    }
    recover(dir.path(), "at random");
}

fn add_trees(store: &Store, dir: &Path, round: usize) -> Result<(), StoreError> {
    for n in 0..4 {
        let path = some_path(&format!("same-{round}-{n}"));
        let tree = store.ingest(&dir.join("src"), IngestOptions::default())?;
        commit(store, tree, &path, &[]);
        assert!(store.is_valid(&path)?);
    }
    store.add_path(&dir.join("src"), "source", Method::Recursive, None)?;
    let mut root = RootTree::empty(meta());
    root.write_file("f", round.to_string(), meta())?;
    let id = root.finish(store)?;
    store.add_rootfs(id, "system", None)?;
    Ok(())
}

#[test]
fn processes_and_threads_add_the_same_things_at_once() {
    let dir = support::tempdir();
    sample_tree(&dir.path().join("src"));
    let place = dir.path().to_str().unwrap();
    // No store yet: they also make it together.
    let mut children: Vec<Child> = (0..3).map(|_| start(&["add", place])).collect();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let store = open(dir.path());
                for round in 0..5 {
                    add_trees(&store, dir.path(), round).unwrap();
                }
            });
        }
    });
    for child in &mut children {
        assert!(child.wait().unwrap().success());
    }
    let store = open(dir.path());
    let report = store.check(CheckOptions { contents: true }).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
    assert!(report.orphans.is_empty(), "{:?}", report.orphans);
    assert_eq!(report.paths, 5 * 4 + 1 + 5);
}

/// Runs a job with a small file system of its own, in a mount namespace; `None` when that cannot be had.
fn in_small_filesystem(job: &str, mount: &str) -> Option<bool> {
    let dir = support::tempdir();
    let place = dir.path().to_str().unwrap();
    let mut flags = vec!["--mount"];
    if !rustix::process::geteuid().is_root() {
        flags.extend(["--user", "--map-root-user"]);
    }
    let possible = Command::new("unshare")
        .args(&flags)
        .args(["sh", "-c"])
        .arg(format!("{mount} {place}"))
        .status();
    if !possible.is_ok_and(|status| status.success()) {
        return None;
    }
    let child = child_command(&[job, place]);
    let status = Command::new("unshare")
        .args(&flags)
        .args(["sh", "-c", &format!("{mount} \"$0\" && exec \"$@\""), place])
        .arg(child.get_program())
        .args(child.get_args())
        .env(JOB, format!("{job}\n{place}"))
        .status()
        .unwrap();
    Some(status.success())
}

#[test]
fn a_full_disk_is_told_and_a_collection_frees_it() {
    match in_small_filesystem(
        "full",
        "mount -t tmpfs -o size=64m,mode=700,nosuid,nodev tmpfs",
    ) {
        None => support::skip("no mount namespaces for this user"),
        Some(passed) => assert!(passed),
    }
}

/// In a file system of 64 MiB: fill it in every way, then collect, then go on.
fn full_disk(dir: &Path) {
    let store = open(dir);
    assert!(store.root().join("reserve").exists());
    let source = dir.join("src");
    sample_tree(&source);
    let kept = store
        .add_path(&source, "kept", Method::Recursive, None)
        .unwrap();
    store.add_root("kept", &kept).unwrap();
    let mut nar = Vec::new();
    store.nar_dump(&kept, &mut nar).unwrap();
    let mut made = 0;
    let err = loop {
        let name = format!("dead{made}");
        let text = format!("{made}").repeat(700_000);
        let file = store.temp_dir("x").unwrap();
        let src = file.path().join("f");
        let result = std::fs::write(&src, text)
            .map_err(|_full| StoreError::DiskFull { path: src.clone() })
            .and_then(|()| {
                store.ingest(
                    &src,
                    IngestOptions {
                        take: true,
                        ..Default::default()
                    },
                )
            })
            .and_then(|tree| {
                let registration = sos_store::Registration {
                    path: some_path(&name),
                    references: BTreeSet::new(),
                    deriver: None,
                    ca: None,
                };
                store.commit_tree(tree, registration)
            });
        match result {
            Ok(_) => made += 1,
            Err(err) => break err,
        }
    };
    assert!(err.is_disk_full(), "{err:?}");
    assert!(made > 3);
    // The last byte, too.
    let filler = dir.join("filler");
    let mut file = std::fs::File::create(&filler).unwrap();
    while std::io::Write::write_all(&mut file, &[1; 4096]).is_ok() {}
    drop(file);
    let big = vec![3; 3_000_000];
    let full = |what: &str, result: Result<(), StoreError>| match result {
        Err(err) => assert!(err.is_disk_full(), "{what}: {err:?}"),
        Ok(()) => panic!("{what}: room where there is none"),
    };
    full("blob", store.put_blob_bytes(&big).map(drop));
    full("stream", store.put_blob(&mut big.as_slice()).map(drop));
    full("file", store.put_blob_file(&filler, false).map(drop));
    full(
        "nar",
        store.ingest_nar(&mut nar.as_slice(), u64::MAX).map(drop),
    );
    full(
        "tree",
        store.ingest(&source, IngestOptions::default()).map(drop),
    );
    full("drv", store.put_drv(&some_path("big.drv"), &big).map(drop));
    full(
        "text",
        store.add_text("text", &big, &BTreeSet::new()).map(drop),
    );
    let mut root = RootTree::empty(meta());
    root.write_file("f", big, meta()).unwrap();
    full("rootfs", root.finish(&store).map(drop));
    drop((root, store));
    let store = open(dir);
    assert!(
        store
            .check(CheckOptions { contents: true })
            .unwrap()
            .problems
            .is_empty()
    );
    let mut told = Vec::new();
    let report = store
        .gc_with(GcOptions::default(), &mut |bytes| told.push(bytes))
        .unwrap();
    assert_eq!(report.removed.len(), made);
    assert!(report.freed_bytes > 3_000_000, "{report:?}");
    assert_eq!(told.last(), Some(&report.freed_bytes));
    assert!(store.is_valid(&kept).unwrap());
    let check = store.check(CheckOptions { contents: true }).unwrap();
    assert!(
        check.problems.is_empty() && check.orphans.is_empty(),
        "{check:?}"
    );
    std::fs::remove_file(filler).unwrap();
    store.put_blob_bytes(&vec![4; 3_000_000]).unwrap();
    drop(store);
    drop(open(dir));
    assert!(dir.join("s/reserve").exists(), "the reserve is made again");
}

#[test]
fn a_read_only_mount_can_be_queried() {
    match in_small_filesystem(
        "read-only",
        "mount -t tmpfs -o size=64m,mode=700,nosuid,nodev tmpfs",
    ) {
        None => support::skip("no mount namespaces for this user"),
        Some(passed) => assert!(passed),
    }
}

fn read_only(dir: &Path) {
    let source = dir.join("src");
    sample_tree(&source);
    let remount = |read_only: bool| {
        let flags = if read_only {
            MountFlags::RDONLY
        } else {
            MountFlags::empty()
        };
        rustix::mount::mount_remount(dir, flags | MountFlags::NOSUID | MountFlags::NODEV, c"")
            .unwrap();
    };
    let look = |path: &StorePath| {
        let store = Store::open(OpenOptions {
            read_only: true,
            ..options(dir)
        })
        .unwrap();
        assert!(store.is_valid(path).unwrap());
        let mut out = Vec::new();
        store.nar_dump(path, &mut out).unwrap();
        assert!(!out.is_empty());
        assert!(
            store
                .check(CheckOptions { contents: true })
                .unwrap()
                .problems
                .is_empty()
        );
        assert_eq!(
            store
                .compute_path(&source, "source", Method::Recursive, None)
                .unwrap(),
            *path
        );
    };
    let path = {
        let store = open(dir);
        store
            .add_path(&source, "source", Method::Recursive, None)
            .unwrap()
    };
    // Closed cleanly: there is no write-ahead log.
    remount(true);
    look(&path);
    let store = Store::open(options(dir)).unwrap();
    assert!(store.is_read_only());
    // What is here already is used, what is not is refused.
    assert_eq!(
        store
            .add_path(&source, "source", Method::Recursive, None)
            .unwrap(),
        path
    );
    store
        .lease()
        .unwrap()
        .hold(std::slice::from_ref(&path))
        .unwrap();
    store
        .journal_event(store.journal_begin("x").unwrap(), "{}")
        .unwrap();
    let refused = store.add_path(&source, "other", Method::Recursive, None);
    assert!(matches!(refused, Err(StoreError::ReadOnly)));
    drop(store);
    remount(false);
    // Killed: there is one.
    let status = start(&["work", dir.to_str().unwrap(), "commit.done", "1"])
        .wait()
        .unwrap();
    assert_eq!(status.signal(), Some(9));
    assert!(dir.join("s/db/sos.sqlite-wal").exists());
    remount(true);
    look(&path);
}

/// Changes one byte of a file, whatever its mode.
fn flip(file: &Path, at: usize) {
    let mode = std::fs::metadata(file).unwrap().permissions();
    std::fs::set_permissions(file, PermissionsExt::from_mode(0o644)).unwrap();
    let mut bytes = std::fs::read(file).unwrap();
    let at = at % bytes.len().max(1);
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).unwrap();
    std::fs::set_permissions(file, mode).unwrap();
}

fn filled(dir: &Path) -> (Store, StorePath, StorePath) {
    let source = dir.join("src");
    sample_tree(&source);
    let store = open(dir);
    let tree = store
        .add_path(&source, "source", Method::Recursive, None)
        .unwrap();
    let mut root = RootTree::empty(meta());
    root.mkdir_p("etc", &meta()).unwrap();
    root.write_file("etc/f", "only here", meta()).unwrap();
    let id = root.finish(&store).unwrap();
    let system = store.add_rootfs(id, "system", None).unwrap().path;
    (store, tree, system)
}

#[test]
fn damage_is_found_wherever_it_is() {
    type Damage = fn(&Store, &StorePath, &StorePath);
    fn man(store: &Store, system: &StorePath, below: bool) -> PathBuf {
        let root = store.query(system).unwrap().unwrap().root.unwrap();
        let id = if below {
            store.get_root(&root).unwrap().node
        } else {
            root
        };
        let hex = id.to_hex();
        store.root().join("man").join(&hex[..2]).join(&hex[2..])
    }
    fn only_blob(store: &Store) -> PathBuf {
        store.blob_path(&sos_formats::hash::Blake3::of(b"only here"), false)
    }
    let cases: [(&str, usize, Damage); 12] = [
        // A content, and the tree that shares it.
        ("tree file", 2, |store, tree, _| {
            flip(&store.physical(tree).join("big"), 1_000_000);
        }),
        ("exec file", 2, |store, tree, _| {
            flip(&store.physical(tree).join("bin/tool"), 3);
        }),
        ("blob", 1, |store, _, _| flip(&only_blob(store), 2)),
        ("blob cut short", 2, |store, _, _| {
            std::fs::remove_file(only_blob(store)).unwrap();
            std::fs::write(only_blob(store), "o").unwrap();
            std::fs::set_permissions(only_blob(store), PermissionsExt::from_mode(0o444)).unwrap();
        }),
        ("blob missing", 1, |store, _, _| {
            std::fs::remove_file(only_blob(store)).unwrap();
        }),
        ("blob mode", 1, |store, _, _| {
            std::fs::set_permissions(only_blob(store), PermissionsExt::from_mode(0o777)).unwrap();
        }),
        ("root of a manifest", 2, |store, _, system| {
            flip(&man(store, system, false), 20);
        }),
        ("node of a manifest", 2, |store, _, system| {
            flip(&man(store, system, true), 20);
        }),
        // Missing, and noted as complete.
        ("node missing", 2, |store, _, system| {
            std::fs::remove_file(man(store, system, true)).unwrap();
        }),
        ("tree missing", 1, |store, tree, _| {
            let place = store.physical(tree);
            std::fs::rename(&place, store.root().join("elsewhere")).unwrap();
        }),
        ("file missing in a tree", 1, |store, tree, _| {
            std::fs::remove_file(store.physical(tree).join(".hidden")).unwrap();
        }),
        ("mode in a tree", 2, |store, tree, _| {
            let place = store.physical(tree).join(".hidden");
            std::fs::set_permissions(place, PermissionsExt::from_mode(0o755)).unwrap();
        }),
    ];
    for (what, expected, damage) in cases {
        let dir = support::tempdir();
        let (store, tree, system) = filled(dir.path());
        let before = store.check(CheckOptions { contents: true }).unwrap();
        assert!(before.problems.is_empty(), "{:?}", before.problems);
        assert!(before.orphans.is_empty(), "{:?}", before.orphans);
        if !rustix::process::geteuid().is_root() {
            // Only root may change what is read-only: make way for the others.
            for entry in walkdir::WalkDir::new(store.root().join("tree")) {
                let entry = entry.unwrap();
                if entry.file_type().is_dir() {
                    std::fs::set_permissions(entry.path(), PermissionsExt::from_mode(0o755))
                        .unwrap();
                }
            }
        }
        damage(&store, &tree, &system);
        let after = store.check(CheckOptions { contents: true }).unwrap();
        assert_eq!(
            after.problems.len(),
            expected,
            "{what}: {:?}",
            after.problems
        );
    }
}

#[test]
fn a_damaged_database_is_an_error_or_found_and_never_a_panic() {
    let dir = support::tempdir();
    let (store, tree, _) = filled(dir.path());
    drop(store);
    let file = dir.path().join("s/db/sos.sqlite");
    let sound = std::fs::read(&file).unwrap();
    let mut noticed = 0;
    let mut offsets: Vec<usize> = (0..100).collect();
    offsets.extend((100..sound.len()).step_by(sound.len() / 120));
    for offset in offsets {
        std::fs::write(&file, &sound).unwrap();
        flip(&file, offset);
        let result = Store::open(options(dir.path())).and_then(|store| {
            store.query(&tree)?;
            store.add_text("x", b"x", &BTreeSet::new())?;
            store.list()?;
            store.check(CheckOptions { contents: false })
        });
        noticed += usize::from(!result.is_ok_and(|report| report.problems.is_empty()));
        for suffix in ["-wal", "-shm"] {
            std::fs::remove_file(dir.path().join(format!("s/db/sos.sqlite{suffix}"))).ok();
        }
    }
    assert!(noticed > 10, "{noticed}");
    for length in [0, 1, 100, 4096, sound.len() / 2] {
        std::fs::write(&file, &sound[..length]).unwrap();
        // An empty file is an empty database: everything in the store is rubbish then, and nothing is trusted.
        let opened = Store::open(options(dir.path())).and_then(|store| store.is_valid(&tree));
        assert!(!matches!(opened, Ok(true)) || length > 4096, "{length}");
        for suffix in ["-wal", "-shm"] {
            std::fs::remove_file(dir.path().join(format!("s/db/sos.sqlite{suffix}"))).ok();
        }
    }
}

#[test]
fn a_damaged_log_of_the_database_loses_the_end_and_nothing_else() {
    let dir = support::tempdir();
    drop(filled(dir.path()));
    let status = start(&[
        "work",
        dir.path().to_str().unwrap(),
        "rootfs.before-commit",
        "1",
    ])
    .wait()
    .unwrap();
    assert_eq!(status.signal(), Some(9));
    let wal = dir.path().join("s/db/sos.sqlite-wal");
    let length = usize::try_from(std::fs::metadata(&wal).unwrap().len()).unwrap();
    flip(&wal, length / 2);
    recover(dir.path(), "damaged write-ahead log");
}
