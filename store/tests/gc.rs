//! Garbage collection: what goes, what stays, and beside running builds.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use sos_formats::manifest::Meta;
use sos_formats::store_path::StorePath;
use sos_store::rootfs::RootTree;
use sos_store::{CheckOptions, GcOptions, PlainRemover, Remover, Store, StoreError, Trace};
use support::{names_below, object, open, some_path};

fn meta() -> Meta {
    Meta {
        mode: 0o755,
        ..Meta::default()
    }
}

fn rootfs(store: &Store, name: &str, files: &[(&str, &str)]) -> StorePath {
    let mut tree = RootTree::empty(meta());
    for (path, text) in files {
        let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
        tree.mkdir_p(parent, &meta()).unwrap();
        tree.write_file(path, *text, meta()).unwrap();
    }
    let id = tree.finish(store).unwrap();
    store.add_rootfs(id, name, None).unwrap().path
}

fn assert_clean(store: &Store) {
    let report = store.check(CheckOptions { contents: true }).unwrap();
    assert!(report.problems.is_empty(), "{:?}", report.problems);
}

fn files_of(store: &Store, area: &str) -> usize {
    names_below(&store.root().join(area))
        .iter()
        .filter(|name| name.components().count() == 2)
        .count()
}

/// Says that everything below `work/` is idle.
struct Idle;

impl Remover for Idle {
    fn remove_tree(&self, path: &Path) -> io::Result<()> {
        PlainRemover.remove_tree(path)
    }

    fn idle_caches(&self, work: &Path, _: Option<SystemTime>, _: bool) -> io::Result<Vec<PathBuf>> {
        std::fs::read_dir(work)?
            .map(|entry| Ok(entry?.path()))
            .collect()
    }
}

#[test]
fn caches_and_history_go_too() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let built = |name: &str, text: &str, root: bool| {
        let path = object(&store, dir.path(), name, text, &[]);
        let drv = some_path(&format!("{name}.drv"));
        let trace = Trace {
            key: [7; 32],
            drv: drv.clone(),
            output: "out".to_owned(),
            path: path.clone(),
            builder: "b".to_owned(),
            duration_ms: 1,
            started_secs: 1,
            log: Some(drv.clone()),
            host: None,
        };
        store.record_traces(&[trace]).unwrap();
        let mut log = store.log_writer(&drv).unwrap();
        log.write_all(text.as_bytes()).unwrap();
        log.finish().unwrap();
        if root {
            store.add_root(name, &path).unwrap();
        }
        drv
    };
    let kept = built("kept", "kept", true);
    let dead = built("dead", "dead", false);
    // A build that runs, or has failed and is still looked at, by a process that lives.
    let held = some_path("held.drv");
    store.put_drv(&held, b"x").unwrap();
    drop(store.log_writer(&held).unwrap());
    let failed = some_path("failed.drv");
    store.put_drv(&failed, b"x").unwrap();
    drop(store.log_writer(&failed).unwrap());
    // Long ago: nobody comes back to look at it.
    let old = some_path("old.drv");
    for drv in [&dead, &old] {
        if drv == &old {
            drop(store.log_writer(drv).unwrap());
        }
        let log = std::fs::File::options()
            .write(true)
            .open(store.log_path(drv))
            .unwrap();
        log.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))
            .unwrap();
    }
    for n in 0..1010 {
        let build = store.journal_begin(&format!("build {n}")).unwrap();
        store.journal_event(build, "{}").unwrap();
        store.journal_end(build, "done").unwrap();
    }
    let root = store.root().to_owned();
    for place in ["work/0/tree", "failed/1-x"] {
        std::fs::create_dir_all(root.join(place)).unwrap();
        std::fs::write(root.join(place).join("f"), vec![1; 100_000]).unwrap();
    }
    std::fs::write(root.join("failed/1-x/g"), vec![1; 100_000]).unwrap();
    drop(store);
    let building = open(dir.path());
    building.hold(std::slice::from_ref(&held)).unwrap();
    let store = open(dir.path());
    store.set_remover(Arc::new(Idle));
    let gc = |dry_run, older_than, max_free| {
        store
            .gc(GcOptions {
                dry_run,
                older_than,
                max_free,
                unfinished: false,
            })
            .unwrap()
    };
    // What is young stays, when only old things are asked for.
    let hour = Some(Duration::from_secs(3600));
    gc(false, hour, None);
    assert!(root.join("failed/1-x/f").exists());
    assert!(store.read_log(&failed).unwrap().is_some());
    std::fs::create_dir_all(root.join("work/0")).unwrap();
    let planned = gc(true, None, None);
    assert!(root.join("failed/1-x/f").exists() && store.read_log(&dead).unwrap().is_some());
    // Objects are last: with this there is room enough.
    let first = gc(false, None, Some(100_000));
    assert_eq!(first.removed, []);
    assert!(first.freed_bytes >= 200_000, "{first:?}");
    assert!(names_below(&root.join("work")).is_empty());
    assert!(names_below(&root.join("failed")).is_empty());
    let done = gc(false, None, None);
    assert_eq!(done.removed, [some_path("dead")]);
    assert_eq!(planned.freed_bytes, first.freed_bytes + done.freed_bytes);
    for (drv, is_there) in [
        (&kept, true),
        (&held, true),
        (&dead, false),
        (&old, false),
        (&failed, true),
    ] {
        assert_eq!(store.read_log(drv).unwrap().is_some(), is_there, "{drv}");
    }
    let builds = store.recent_builds(2000).unwrap();
    assert_eq!(builds.len(), 1000);
    assert_eq!(builds.last().unwrap().command, "build 10");
    assert_eq!(done.problems, [""; 0]);
    drop(building);
}

#[test]
fn only_what_no_root_reaches_goes() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let base = object(&store, dir.path(), "base", "base", &[]);
    let top = object(
        &store,
        dir.path(),
        "top",
        "top",
        std::slice::from_ref(&base),
    );
    let dead = object(
        &store,
        dir.path(),
        "dead",
        &"dead".repeat(5000),
        std::slice::from_ref(&base),
    );
    let dead_too = object(
        &store,
        dir.path(),
        "dead2",
        "dead too",
        std::slice::from_ref(&dead),
    );
    let system = rootfs(
        &store,
        "system",
        &[("etc/host", "one"), ("usr/share/doc", "same")],
    );
    let old_system = rootfs(
        &store,
        "old",
        &[("etc/host", "two"), ("usr/share/doc", "same")],
    );
    store.add_root("top", &top).unwrap();
    store
        .add_indirect_root(&dir.path().join("result"), &system)
        .unwrap();
    let drv = some_path("dead.drv");
    store.put_drv(&drv, b"x").unwrap();
    store.set_drv_output(&drv, "out", &dead).unwrap();
    // Everything was touched by this store, so nothing goes while it is open.
    assert!(store.gc(GcOptions::default()).unwrap().removed.is_empty());
    drop(store);
    let store = open(dir.path());
    let planned = store
        .gc(GcOptions {
            dry_run: true,
            ..GcOptions::default()
        })
        .unwrap();
    let before = (files_of(&store, "cas"), files_of(&store, "man"));
    let done = store.gc(GcOptions::default()).unwrap();
    let mut expected = vec![dead.clone(), dead_too.clone(), old_system.clone()];
    expected.sort();
    assert_eq!(done.removed, expected);
    assert_eq!(
        (planned.removed, planned.freed_bytes),
        (done.removed, done.freed_bytes)
    );
    assert!(done.freed_bytes >= 20_000);
    assert!(done.problems.is_empty());
    // Two contents of trees, one of the old rootfs; its root, its top and its etc.
    assert_eq!(
        (files_of(&store, "cas"), files_of(&store, "man")),
        (before.0 - 3, before.1 - 3)
    );
    for (path, valid) in [
        (&base, true),
        (&top, true),
        (&system, true),
        (&dead, false),
        (&dead_too, false),
        (&old_system, false),
    ] {
        assert_eq!(store.is_valid(path).unwrap(), valid, "{path}");
    }
    assert!(!store.physical(&dead).exists());
    assert_eq!(store.drv_output(&drv, "out").unwrap(), None);
    assert_eq!(store.get_drv(&drv).unwrap(), None);
    assert_clean(&store);
    let orphans = store.check(CheckOptions::default()).unwrap().orphans;
    assert!(orphans.is_empty(), "{orphans:?}");
    assert_eq!(store.gc(GcOptions::default()).unwrap(), Default::default());
    // What is gone can be made again.
    std::fs::remove_file(dir.path().join("result")).unwrap();
    assert_eq!(store.gc(GcOptions::default()).unwrap().removed, [system]);
    assert_eq!(
        rootfs(
            &store,
            "old",
            &[("etc/host", "two"), ("usr/share/doc", "same")]
        ),
        old_system
    );
    assert_clean(&store);
}

#[test]
fn leases_age_and_a_goal_limit_what_goes() {
    let dir = support::tempdir();
    let maker = open(dir.path());
    let paths: Vec<_> = (0..6)
        .map(|n| {
            object(
                &maker,
                dir.path(),
                &format!("o{n}"),
                &format!("{n}").repeat(100_000),
                &[],
            )
        })
        .collect();
    drop(maker);
    let holder = open(dir.path());
    let lease = holder.lease().unwrap();
    lease.hold(&paths[..2]).unwrap();
    let store = open(dir.path());
    let young = GcOptions {
        older_than: Some(Duration::from_secs(3600)),
        ..GcOptions::default()
    };
    assert!(store.gc(young).unwrap().removed.is_empty());
    let some = store
        .gc(GcOptions {
            max_free: Some(150_000),
            ..GcOptions::default()
        })
        .unwrap();
    assert_eq!(some.removed.len(), 2);
    assert!(some.freed_bytes >= 150_000);
    assert_eq!(store.gc(GcOptions::default()).unwrap().removed.len(), 2);
    assert!(store.is_valid(&paths[0]).unwrap() && store.is_valid(&paths[1]).unwrap());
    drop(lease);
    assert_eq!(store.gc(GcOptions::default()).unwrap().removed.len(), 2);
    assert_clean(&store);
}

#[test]
fn what_a_run_has_made_stays_until_it_is_at_its_end() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let made = ["one", "two", "other"].map(|name| object(&store, dir.path(), name, name, &[]));
    let drvs = ["one.drv", "two.drv", "top.drv", "other.drv"].map(some_path);
    // The top of the run needs the second, which needs the first; the last is for another target.
    for (drv, input) in [
        (&drvs[0], None),
        (&drvs[1], Some(&drvs[0])),
        (&drvs[2], Some(&drvs[1])),
        (&drvs[3], None),
    ] {
        let input =
            input.map(|path| format!("(\"{}\",[\"out\"])", path.absolute(store.store_dir())));
        let text = format!(
            "Derive([(\"out\",\"\",\"r:sha256\",\"\")],[{}],[],\"s\",\"b\",[],[])",
            input.unwrap_or_default()
        );
        store.put_drv(drv, text.as_bytes()).unwrap();
    }
    let results = [
        (&drvs[0], &made[0]),
        (&drvs[1], &made[1]),
        (&drvs[3], &made[2]),
    ];
    let results = results.map(|(drv, path)| (drv, "out", path));
    store.set_drv_outputs(results).unwrap();
    let begin = |attr: &str, drv| store.begin_targets("/p", [(attr, drv)]).unwrap();
    begin("f.nix#top", &drvs[2]);
    begin("f.nix#other", &drvs[3]);
    drop(store);
    // As after a kill: nobody has said anything more. Twice, since what is found by must stay as well.
    let store = open(dir.path());
    let there = || made.clone().map(|path| store.is_valid(&path).unwrap());
    for _ in 0..2 {
        let report = store.gc(GcOptions::default()).unwrap();
        assert_eq!((report.removed.len(), report.unfinished), (0, 3));
    }
    assert_eq!(there(), [true; 3]);
    // One is there, the other is another one now.
    store
        .end_targets("/p", [("f.nix#other", &drvs[3])])
        .unwrap();
    store
        .begin_targets("/p", [("f.nix#top", &drvs[0])])
        .unwrap();
    let report = store.gc(GcOptions::default()).unwrap();
    assert_eq!((report.removed.len(), report.unfinished), (2, 1));
    assert_eq!(there(), [true, false, false]);
    let all = GcOptions {
        unfinished: true,
        ..GcOptions::default()
    };
    assert_eq!(store.gc(all).unwrap().removed, [made[0].clone()]);
    assert_clean(&store);
}

#[test]
fn one_collection_at_a_time() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let lock = std::fs::File::create(store.root().join("lock/gc")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    assert!(matches!(
        store.gc(GcOptions::default()),
        Err(StoreError::GcRunning)
    ));
}

#[test]
fn leftovers_are_swept() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let kept = object(&store, dir.path(), "kept", "kept", &[]);
    let tree = store.root().join("tree").join(some_path("half").base());
    std::fs::create_dir(&tree).unwrap();
    std::fs::write(tree.join("f"), "half").unwrap();
    std::fs::write(store.root().join("tree/not a store path"), "x").unwrap();
    std::fs::create_dir_all(store.root().join("tmp/1.2.3/x")).unwrap();
    // A collection was killed with a content in its hands.
    let blob = store.put_blob_bytes(b"in its hands").unwrap();
    let place = store.blob_path(&blob, false);
    std::fs::rename(&place, place.with_extension("gc")).unwrap();
    assert!(
        store.open_blob(&blob).is_ok(),
        "a pinned blob is put back when it is asked for"
    );
    std::fs::rename(&place, place.with_extension("gc")).unwrap();
    let report = store.check(CheckOptions { contents: true }).unwrap();
    assert!(report.problems.is_empty());
    assert_eq!(report.orphans.len(), 4, "{:?}", report.orphans);
    store.gc(GcOptions::default()).unwrap();
    assert!(
        store
            .check(CheckOptions { contents: true })
            .unwrap()
            .orphans
            .is_empty()
    );
    assert!(store.is_valid(&kept).unwrap() && store.has_blob(&blob));
}

#[test]
fn a_damaged_manifest_keeps_all_contents() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let system = rootfs(&store, "system", &[("etc/host", "one")]);
    store.add_root("system", &system).unwrap();
    let loose = store.put_blob_bytes(b"loose").unwrap();
    let root = store.query(&system).unwrap().unwrap().root.unwrap();
    drop(store);
    let hex = root.to_hex();
    let file = dir.path().join("s/man").join(&hex[..2]).join(&hex[2..]);
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, "rubbish").unwrap();
    let store = open(dir.path());
    let report = store.gc(GcOptions::default()).unwrap();
    assert_eq!((report.removed_files, report.problems.len()), (0, 1));
    assert!(store.has_blob(&loose));
}

/// Builders that add, look and drop, beside a collector that never rests.
#[test]
fn builds_and_collections_at_once() {
    let dir = support::tempdir();
    let stop = AtomicBool::new(false);
    drop(open(dir.path()));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..3)
            .map(|worker| {
                let dir = dir.path();
                scope.spawn(move || {
                    for round in 0..12 {
                        // A new store each time: what it made before is garbage.
                        let store = open(dir);
                        let base = object(
                            &store,
                            &dir_of(dir, worker),
                            &format!("base{}", round % 3),
                            &format!("b{}", round % 3),
                            &[],
                        );
                        let top = object(
                            &store,
                            &dir_of(dir, worker),
                            &format!("top{worker}"),
                            &format!("t{}", round % 2),
                            std::slice::from_ref(&base),
                        );
                        let system = rootfs(
                            &store,
                            "system",
                            &[
                                ("a/b", "shared"),
                                ("c", if round % 2 == 0 { "even" } else { "odd" }),
                            ],
                        );
                        let lease = store.lease().unwrap();
                        lease.hold(&[top.clone(), system.clone()]).unwrap();
                        for path in [&base, &top, &system] {
                            assert!(
                                store.is_valid(path).unwrap(),
                                "{path} was collected under our hands"
                            );
                        }
                        assert!(store.physical(&base).exists() && store.physical(&top).exists());
                        let root = store.query(&system).unwrap().unwrap().root.unwrap();
                        let tree = RootTree::load(&store, &root).unwrap();
                        assert_eq!(tree.read_file("a/b").unwrap(), b"shared");
                    }
                })
            })
            .collect();
        let collector = scope.spawn(|| {
            let store = open(dir.path());
            let mut removed = 0;
            while !stop.load(Ordering::Relaxed) {
                let report = store.gc(GcOptions::default()).unwrap();
                assert!(report.problems.is_empty(), "{:?}", report.problems);
                removed += report.removed.len();
            }
            removed
        });
        let failed = workers
            .into_iter()
            .map(std::thread::ScopedJoinHandle::join)
            .filter(Result::is_err)
            .count();
        stop.store(true, Ordering::Relaxed);
        assert!(collector.join().unwrap() > 0);
        assert_eq!(failed, 0);
    });
    let store = open(dir.path());
    assert_clean(&store);
    store.gc(GcOptions::default()).unwrap();
    assert_eq!((files_of(&store, "cas"), files_of(&store, "man")), (0, 0));
}

fn dir_of(dir: &Path, worker: usize) -> PathBuf {
    let own = dir.join(format!("w{worker}"));
    std::fs::create_dir_all(&own).unwrap();
    own
}
