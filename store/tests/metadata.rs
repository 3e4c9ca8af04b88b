//! Opening, blobs, logs, locks, roots, results, journal: what the store keeps beside objects.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_store::{
    Derived, GcOptions, NewBuilt, NewEvaluation, OpenOptions, Store, StoreError, Trace, TryLock,
};
use support::{object, open, options, some_path};

#[test]
fn a_store_is_made_private_and_opened_again() {
    let dir = support::tempdir();
    let store = open(dir.path());
    assert_eq!(
        std::fs::metadata(store.root()).unwrap().mode() & 0o777,
        0o700
    );
    assert_eq!(
        std::fs::read_to_string(store.root().join("version")).unwrap(),
        "1\n"
    );
    assert_eq!(
        std::fs::metadata(store.root().join("reserve"))
            .unwrap()
            .len(),
        8 << 20
    );
    let path = object(&store, dir.path(), "kept", "x", &[]);
    drop(store);
    let again = open(dir.path());
    assert!(again.is_valid(&path).unwrap());
    let reader = Store::open(OpenOptions {
        read_only: true,
        ..options(dir.path())
    })
    .unwrap();
    assert!(reader.is_valid(&path).unwrap());
    assert!(matches!(
        reader.put_blob_bytes(b"x"),
        Err(StoreError::ReadOnly)
    ));
    assert!(matches!(
        reader.put_drv(&path, b"x"),
        Err(StoreError::ReadOnly)
    ));
    assert!(matches!(
        reader.gc(Default::default()),
        Err(StoreError::ReadOnly)
    ));
}

/// A home directory on a linked disk, and a store that is a link itself.
#[test]
fn a_store_behind_links_is_where_they_lead() {
    let dir = support::tempdir();
    let real = dir.path().canonicalize().unwrap();
    std::fs::create_dir_all(real.join("big/s")).unwrap();
    std::os::unix::fs::symlink("big", real.join("disk")).unwrap();
    std::os::unix::fs::symlink("disk/s", real.join("link")).unwrap();
    let open = |root: &str, read_only| {
        Store::open(OpenOptions {
            root: real.join(root),
            read_only,
            ..options(&real)
        })
    };
    let store = open("disk/s", false).unwrap();
    assert_eq!(store.root(), real.join("big/s"));
    let path = object(&store, &real, "x", "x", &[]);
    store.add_indirect_root(&real.join("old"), &path).unwrap();
    // A link of before, when the root was not resolved, keeps its object, too.
    std::fs::remove_file(real.join("old")).unwrap();
    let through = real.join("link/tree").join(path.as_str());
    std::os::unix::fs::symlink(through, real.join("old")).unwrap();
    drop(store);
    for root in ["link", "disk/s", "big/s"] {
        for read_only in [true, false] {
            let store = open(root, read_only).unwrap();
            assert_eq!(store.root(), real.join("big/s"));
            assert!(store.is_valid(&path).unwrap());
        }
    }
    let store = open("link", false).unwrap();
    assert_eq!(store.gc(Default::default()).unwrap().removed, []);
    // Not there yet, below a link; and a link to nowhere.
    assert_eq!(
        open("disk/new/er", false).unwrap().root(),
        real.join("big/new/er")
    );
    std::os::unix::fs::symlink("gone", real.join("broken")).unwrap();
    assert_eq!(open("broken", false).unwrap_err().code(), "store-io");
}

#[test]
fn the_root_is_private_also_when_it_was_there() {
    let dir = support::tempdir();
    let root = dir.path().join("s");
    std::fs::create_dir(&root).unwrap();
    let mode = |path: &std::path::Path| std::fs::metadata(path).unwrap().mode() & 0o777;
    for _ in 0..2 {
        std::fs::set_permissions(&root, PermissionsExt::from_mode(0o777)).unwrap();
        drop(open(dir.path()));
        assert_eq!(mode(&root), 0o700);
    }
    assert_eq!(mode(&root.join("version")), 0o644);
    assert_eq!(mode(&root.join("reserve")), 0o644);
}

#[test]
fn newer_foreign_and_garbled_stores_are_refused() {
    let dir = support::tempdir();
    drop(open(dir.path()));
    let root = dir.path().join("s");
    for (text, code) in [
        ("2\n", "store-too-new"),
        ("", "store-not-a-store"),
        ("x", "store-not-a-store"),
        ("\u{0}\u{ff}", "store-not-a-store"),
    ] {
        std::fs::write(root.join("version"), text).unwrap();
        for read_only in [false, true] {
            let err = Store::open(OpenOptions {
                read_only,
                ..options(dir.path())
            })
            .unwrap_err();
            assert_eq!(err.code(), code, "{text:?}");
            let diagnostic = Diagnostic::from(err);
            assert_eq!(diagnostic.class, Class::Machine);
        }
    }
    std::fs::write(root.join("version"), "1\n").unwrap();
    let database = rusqlite::Connection::open(root.join("db/sos.sqlite")).unwrap();
    database.pragma_update(None, "user_version", 99).unwrap();
    drop(database);
    for read_only in [false, true] {
        let err = Store::open(OpenOptions {
            read_only,
            ..options(dir.path())
        })
        .unwrap_err();
        assert!(
            matches!(err, StoreError::TooNew { found: 99, .. }),
            "{err:?}"
        );
    }
    let foreign = dir.path().join("home");
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("letter"), "dear").unwrap();
    let err = Store::open(OpenOptions {
        root: foreign,
        ..options(dir.path())
    })
    .unwrap_err();
    assert_eq!(err.code(), "store-not-a-store");
    let err = Store::open(OpenOptions {
        root: dir.path().join("none"),
        read_only: true,
        ..options(dir.path())
    })
    .unwrap_err();
    assert_eq!(err.code(), "store-not-a-store");
}

#[test]
fn blobs_are_written_bit_by_bit() {
    let dir = support::tempdir();
    let store = open(dir.path());
    // More than the disk is given at once, then what is there already, then nothing.
    let big: Vec<u8> = (0..70 << 20).map(|n: u32| n.to_le_bytes()[1]).collect();
    for data in [&big[..], &big, b""] {
        let mut blob = store.blob_writer().unwrap();
        for part in data.chunks(3_000_001) {
            blob.write_all(part).unwrap();
        }
        let (hash, size) = blob.finish().unwrap();
        assert_eq!((hash, size), (Blake3::of(data), data.len() as u64));
        let path = store.blob_path(&hash, false);
        assert!(std::fs::read(&path).unwrap() == data);
        let meta = std::fs::metadata(path).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.mtime()), (0o444, 1));
    }
    // One that is not finished leaves nothing.
    let mut blob = store.blob_writer().unwrap();
    blob.write_all(b"lost").unwrap();
    drop(blob);
    assert!(!store.has_blob(&Blake3::of(b"lost")));
    let left = walkdir::WalkDir::new(store.root().join("tmp")).into_iter();
    let left: Vec<_> = left
        .map(|entry| entry.unwrap().into_path())
        .filter(|path| path.is_file())
        .collect();
    assert!(left.len() < 2, "more than the pins: {left:?}");
}

#[test]
fn blobs_come_in_every_way_and_only_once() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let big: Vec<u8> = (0..4_000_000u32)
        .map(|n| u8::try_from(n % 253).unwrap())
        .collect();
    for data in [&b""[..], b"small", &big] {
        let hash = Blake3::of(data);
        assert!(!store.has_blob(&hash));
        assert!(matches!(
            store.open_blob(&hash),
            Err(StoreError::MissingBlob { .. })
        ));
        assert_eq!(
            store.put_blob(&mut &data[..]).unwrap(),
            (hash, data.len() as u64)
        );
        assert_eq!(store.put_blob_bytes(data).unwrap(), hash);
        let file = dir.path().join("file");
        std::fs::write(&file, data).unwrap();
        std::fs::set_permissions(&file, PermissionsExt::from_mode(0o4711)).unwrap();
        assert_eq!(
            store.put_blob_file(&file, false).unwrap(),
            (hash, data.len() as u64)
        );
        assert!(file.exists());
        assert_eq!(
            store.put_blob_file(&file, true).unwrap(),
            (hash, data.len() as u64)
        );
        assert!(!file.exists());
        let meta = std::fs::metadata(store.blob_path(&hash, false)).unwrap();
        assert_eq!(
            (meta.mode() & 0o7777, meta.mtime(), meta.nlink()),
            (0o444, 1, 1)
        );
        let mut back = Vec::new();
        store
            .open_blob(&hash)
            .unwrap()
            .read_to_end(&mut back)
            .unwrap();
        assert_eq!(back, data);
    }
    // Taken as it is: the inode becomes the blob.
    let file = dir.path().join("taken");
    std::fs::write(&file, "fresh content").unwrap();
    let inode = std::fs::metadata(&file).unwrap().ino();
    let (hash, _) = store.put_blob_file(&file, true).unwrap();
    assert_eq!(
        std::fs::metadata(store.blob_path(&hash, false))
            .unwrap()
            .ino(),
        inode
    );
    // A blob that was cut short by a power failure is put right by the next one who has the content.
    let place = store.blob_path(&Blake3::of(&big), false);
    std::fs::remove_file(&place).unwrap();
    std::fs::write(&place, "cut").unwrap();
    store.put_blob_bytes(&big).unwrap();
    assert_eq!(std::fs::read(&place).unwrap(), big);
}

#[test]
fn a_build_that_wrote_nothing_is_found_by_its_name() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let path = object(&store, dir.path(), "quiet-1.0", "x", &[]);
    let drv = some_path("quiet-1.0.drv");
    assert!(store.built_named("quiet").unwrap().is_empty());
    assert!(!store.was_built(&drv).unwrap());
    let trace = Trace {
        key: [1; 32],
        drv: drv.clone(),
        output: "out".to_owned(),
        path,
        builder: "b".to_owned(),
        duration_ms: 1,
        started_secs: 1,
        log: None,
        host: None,
    };
    store.record_traces(&[trace]).unwrap();
    for name in ["quiet", "quiet-1.0"] {
        assert_eq!(store.built_named(name).unwrap(), std::slice::from_ref(&drv));
    }
    assert!(store.was_built(&drv).unwrap());
    assert!(store.read_log(&drv).unwrap().is_none());
}

#[test]
fn logs_are_read_while_they_are_written() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let drv = some_path("hello-2.12.drv");
    let read = || {
        let mut text = String::new();
        store
            .read_log(&drv)
            .unwrap()
            .unwrap()
            .read_to_string(&mut text)
            .unwrap();
        text
    };
    assert!(store.read_log(&drv).unwrap().is_none());
    let mut log = store.log_writer(&drv).unwrap();
    assert_eq!(read(), "");
    log.write_all(b"one\n").unwrap();
    log.flush().unwrap();
    assert_eq!(read(), "one\n");
    log.write_all("long line\n".repeat(5000).as_bytes())
        .unwrap();
    assert!(read().len() > 30_000);
    assert_eq!(log.size_bytes(), 50_004);
    log.finish().unwrap();
    assert_eq!(read().len(), 50_004);
    // A writer that is killed leaves what it had flushed.
    let mut second = store.log_writer(&drv).unwrap();
    second.write_all(b"again\n").unwrap();
    second.flush().unwrap();
    std::mem::forget(second);
    assert_eq!(read(), "again\n");
    assert_eq!(
        store.built_named("hello").unwrap(),
        std::slice::from_ref(&drv)
    );
    assert_eq!(store.built_named("hello-2.12").unwrap(), [drv]);
    assert!(store.built_named("hell").unwrap().is_empty());
}

#[test]
fn one_builder_at_a_time_and_it_is_known_who() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let drv = some_path("x.drv");
    let lock = store.lock_drv(&drv).unwrap();
    match open(dir.path()).try_lock_drv(&drv, &drv).unwrap() {
        TryLock::Held(Some(holder)) => assert_eq!(holder.pid, std::process::id()),
        other => panic!("{other:?}"),
    }
    drop(lock);
    assert!(matches!(
        store.try_lock_drv(&drv, &drv).unwrap(),
        TryLock::Acquired(_)
    ));
    assert_eq!(
        std::fs::read_dir(store.root().join("lock/drv"))
            .unwrap()
            .count(),
        0
    );
    // Many who wait all get it, one after the other.
    let inside = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let lock = store.lock_drv(&drv).unwrap();
                    assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                    inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                    drop(lock);
                }
            });
        }
    });
}

#[test]
fn roots_are_links_that_count_while_they_lead_somewhere() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let path = object(&store, dir.path(), "x", "x", &[]);
    for bad in ["", "../x", "/x", "a//b", "auto", "auto/x", "a/."] {
        assert!(
            matches!(store.add_root(bad, &path), Err(StoreError::RootName { .. })),
            "{bad}"
        );
    }
    store.add_root("profiles/web", &path).unwrap();
    let link = dir.path().join("out/result");
    store.add_indirect_root(&link, &path).unwrap();
    store.add_indirect_root(&link, &path).unwrap();
    assert_eq!(std::fs::read_to_string(&link).unwrap(), "x");
    let roots = store.roots().unwrap();
    assert_eq!(roots.len(), 2);
    assert!(roots.iter().all(|root| root.path == path));
    let in_the_way = dir.path().join("file");
    std::fs::write(&in_the_way, "mine").unwrap();
    assert!(matches!(
        store.add_indirect_root(&in_the_way, &path),
        Err(StoreError::NotALink { .. })
    ));
    std::fs::remove_file(&link).unwrap();
    store.remove_root("profiles/web").unwrap();
    store.remove_root("profiles/web").unwrap();
    assert!(store.roots().unwrap().is_empty());
}

#[test]
fn results_count_while_their_paths_are_valid() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let drv = some_path("x.drv");
    let (first, second) = (object(&store, dir.path(), "a", "a", &[]), some_path("gone"));
    store.put_drv(&drv, b"Derive(..)").unwrap();
    assert_eq!(
        store.get_drv(&drv).unwrap().as_deref(),
        Some(&b"Derive(..)"[..])
    );
    assert_eq!(store.get_drv(&some_path("y.drv")).unwrap(), None);
    store.set_drv_output(&drv, "out", &second).unwrap();
    assert_eq!(store.drv_output(&drv, "out").unwrap(), None);
    store.set_drv_output(&drv, "out", &first).unwrap();
    assert_eq!(store.drv_output(&drv, "out").unwrap(), Some(first.clone()));
    assert_eq!(
        store.drv_outputs(&drv).unwrap(),
        [("out".to_owned(), first.clone())]
    );
    let trace = |path: &_| Trace {
        key: [7; 32],
        drv: drv.clone(),
        output: "out".into(),
        path: Clone::clone(path),
        builder: "here".into(),
        duration_ms: 1234,
        started_secs: 5,
        log: Some(drv.clone()),
        host: None,
    };
    assert_eq!(store.trace(&[7; 32], "out").unwrap(), None);
    store.record_trace(&trace(&first)).unwrap();
    // Newer, but not valid.
    store.record_traces(&[trace(&second)]).unwrap();
    assert_eq!(store.trace(&[7; 32], "out").unwrap(), Some(first.clone()));
    assert_eq!(store.traces_of(&first).unwrap()[0].trace, trace(&first));
    let key = Blake3::of(b"sos eval");
    let new = NewEvaluation {
        result: b"result",
        inputs: b"inputs",
        graph: Some(b"graph"),
    };
    store.keep_evaluation(&key, new).unwrap();
    let found = store.evaluation(&key).unwrap().unwrap();
    assert_eq!(
        (&*found.result, &*found.inputs),
        (&b"result"[..], &b"inputs"[..])
    );
    store
        .evaluation_used(&key, &found, Some(b"better"))
        .unwrap();
    assert_eq!(store.evaluation(&key).unwrap().unwrap().inputs, b"better");
    assert_eq!(store.evaluation_graph(&key).unwrap().unwrap(), b"graph");
    assert!(store.evaluation(&Blake3::of(b"other")).unwrap().is_none());
}

#[test]
fn the_journal_keeps_order_and_durations_are_few() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let build = store.journal_begin("sos build").unwrap();
    store.journal_event(build, "{\"n\":1}").unwrap();
    store
        .journal_events(build, &["{\"n\":2}".into(), "{\"n\":3}".into()])
        .unwrap();
    store.journal_end(build, "ok").unwrap();
    let other = store.journal_begin("killed").unwrap();
    assert_eq!(
        store.build_events(build).unwrap(),
        ["{\"n\":1}", "{\"n\":2}", "{\"n\":3}"]
    );
    let builds = store.recent_builds(10).unwrap();
    assert_eq!((builds[0].id, builds[0].finished_secs), (other.0, None));
    assert_eq!(builds[1].status.as_deref(), Some("ok"));
    for n in 0..50 {
        store.record_duration("hello", "x86_64-linux", n).unwrap();
    }
    let history = store.duration_history("hello", "x86_64-linux").unwrap();
    assert_eq!((history.len(), history[0]), (20, 49));
    assert!(store.duration_history("hello", "other").unwrap().is_empty());
}

#[test]
fn a_store_of_before_gets_the_tables_of_the_journal() {
    let dir = support::tempdir();
    drop(open(dir.path()));
    let database = rusqlite::Connection::open(dir.path().join("s/db/sos.sqlite")).unwrap();
    database
        .execute_batch(
            "DROP TABLE target; DROP TABLE unfinished; DROP TABLE derived; DROP TABLE step; DROP TABLE seen; DROP TABLE source;
             DROP TABLE rebuild; ALTER TABLE trace DROP COLUMN host; ALTER TABLE node DROP COLUMN below;
             ALTER TABLE build DROP COLUMN project; ALTER TABLE build DROP COLUMN host;
             ALTER TABLE build DROP COLUMN pid; ALTER TABLE build DROP COLUMN start;
             ALTER TABLE build DROP COLUMN boot; ALTER TABLE build DROP COLUMN summary;
             INSERT INTO build (started, finished, status, command) VALUES (1, 2, 'done', 'old');
             PRAGMA user_version = 3;",
        )
        .unwrap();
    drop(database);
    let drv = some_path("x.drv");
    let check = |store: &Store| {
        let build = store.build_record(sos_store::BuildId(1)).unwrap().unwrap();
        assert_eq!(
            (build.command.as_str(), build.project.as_str()),
            ("old", "")
        );
        assert!(!build.is_running() && build.summary.is_none());
        assert!(store.steps_named("x").unwrap().is_empty());
        assert!(store.first_seen(&drv).unwrap().is_none());
        assert!(store.source_files(&drv).unwrap().is_none());
    };
    // Open for reading it stays as it is.
    let old = Store::open(OpenOptions {
        read_only: true,
        ..options(dir.path())
    });
    check(&old.unwrap());
    let store = open(dir.path());
    check(&store);
    let build = store.journal_begin("new").unwrap();
    let step = sos_store::Step {
        build,
        drv: drv.clone(),
        name: "x".to_owned(),
        attr: None,
        status: "built".to_owned(),
        queued_ms: 1,
        started_ms: Some(2),
        finished_ms: Some(3),
        cause: Some("{}".to_owned()),
        outputs: None,
        detail: Some("{\"inputs\":[]}".to_owned()),
    };
    store
        .journal_write(
            build,
            &[],
            std::slice::from_ref(&step),
            std::slice::from_ref(&drv),
        )
        .unwrap();
    assert_eq!(store.steps_named("x").unwrap(), [step]);
    assert_eq!(store.first_seen(&drv).unwrap(), Some(build));
    assert!(store.build_record(build).unwrap().unwrap().is_running());
}

#[test]
fn a_store_of_before_keeps_derivations_and_outputs() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let (drv, other) = (some_path("x.drv"), some_path("y.drv"));
    let out = object(&store, dir.path(), "out", "text", &[]);
    store.put_drv(&drv, b"the text").unwrap();
    store.set_drv_output(&drv, "out", &out).unwrap();
    let build = store.journal_begin("old").unwrap();
    store
        .journal_write(build, &[], &[], std::slice::from_ref(&drv))
        .unwrap();
    drop(store);
    let database = rusqlite::Connection::open(dir.path().join("s/db/sos.sqlite")).unwrap();
    database
        .execute_batch(
            "DROP TABLE target; DROP TABLE unfinished;
             CREATE TABLE d (hash20 BLOB PRIMARY KEY, name TEXT NOT NULL, aterm BLOB NOT NULL) WITHOUT ROWID;
             INSERT INTO d SELECT hash20, name, aterm FROM drv;
             DROP TABLE drv; ALTER TABLE d RENAME TO drv;
             CREATE TABLE o (drv TEXT NOT NULL, output TEXT NOT NULL, path TEXT NOT NULL,
                             PRIMARY KEY (drv, output)) WITHOUT ROWID;
             INSERT INTO o SELECT drv, output, path FROM drv_output;
             DROP TABLE drv_output; ALTER TABLE o RENAME TO drv_output;
             CREATE INDEX drv_output_path ON drv_output(path);
             DROP INDEX step_drv; CREATE INDEX step_drv ON step(drv, id);
             CREATE TABLE s (base TEXT PRIMARY KEY, build INTEGER NOT NULL) WITHOUT ROWID;
             INSERT INTO s SELECT base, build FROM seen;
             DROP TABLE seen; ALTER TABLE s RENAME TO seen;
             CREATE INDEX seen_build ON seen(build);
             PRAGMA user_version = 7;",
        )
        .unwrap();
    drop(database);
    let check = |store: &Store| {
        let text = store.get_drv(&drv).unwrap();
        assert_eq!(text.as_deref(), Some(&b"the text"[..]));
        assert_eq!(store.drv_output(&drv, "out").unwrap().as_ref(), Some(&out));
        assert_eq!(store.first_seen(&drv).unwrap(), Some(build));
        assert_eq!(store.get_drv(&other).unwrap(), None);
        assert_eq!(store.drv_output(&other, "out").unwrap(), None);
        assert_eq!(store.first_seen(&other).unwrap(), None);
    };
    // Open for reading it stays as it is.
    let old = Store::open(OpenOptions {
        read_only: true,
        ..options(dir.path())
    });
    check(&old.unwrap());
    let store = open(dir.path());
    check(&store);
    let later = store.journal_begin("new").unwrap();
    let both = [drv.clone(), other.clone()];
    store.journal_write(later, &[], &[], &both).unwrap();
    assert_eq!(store.first_seen(&drv).unwrap(), Some(build));
    assert_eq!(store.first_seen(&other).unwrap(), Some(later));
    store.set_drv_output(&drv, "out", &out).unwrap();
    let second = object(&store, dir.path(), "second", "another", &[]);
    store.set_drv_output(&drv, "out", &second).unwrap();
    let outputs = store.drv_outputs(&drv).unwrap();
    assert_eq!(outputs, [("out".to_owned(), second)]);
}

#[test]
fn every_error_has_a_code_and_full_disks_say_what_to_do() {
    let full = StoreError::DiskFull { path: "x".into() };
    assert!(full.is_disk_full());
    let diagnostic = Diagnostic::from(full);
    assert_eq!(
        (diagnostic.code, diagnostic.class),
        ("env-disk-full", Class::Machine)
    );
    assert!(diagnostic.helps[0].contains("sos gc"));
    let sqlite =
        rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_FULL), None);
    assert!(StoreError::from(sqlite).is_disk_full());
}

#[test]
fn what_was_built_under_a_name_is_found_again() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let path = object(&store, dir.path(), "x-1.0", "x", &[]);
    let note = |n: u32, aterm: &[u8]| {
        let drv = some_path(&format!("x-1.{n}.drv"));
        let built = NewBuilt {
            drv: &drv,
            identity: &some_path(&format!("x-1.{}.drv", n + 1000)),
            aterm,
            name: "x",
            system: "s",
        };
        store
            .record_equal_builds([([("out", &path)], built)])
            .unwrap();
        drv
    };
    let first = note(0, b"text");
    let found = store.built(&first).unwrap().unwrap();
    assert_eq!(found.aterm.as_deref(), Some(b"text".as_slice()));
    assert!(!found.collected);
    assert_eq!(store.built_as(&found.identity).unwrap(), Some(found));
    assert_eq!(store.drv_output(&first, "out").unwrap(), Some(path.clone()));
    let newest = (1..300).fold(first.clone(), |_, n| note(n, b"later"));
    assert_eq!(store.built_before("x", "s", 1).unwrap()[0].drv, newest);
    assert!(store.built_before("x", "other", 1).unwrap().is_empty());
    // Of many of one name the newest are compared with; what was built is known all the same.
    assert_eq!(store.built_before("x", "s", 1000).unwrap().len(), 256);
    assert_eq!(store.built(&first).unwrap().unwrap().aterm, None);
    // What a session added it holds until it ends.
    drop(store);
    let store = open(dir.path());
    store.gc(GcOptions::default()).unwrap();
    assert!(!store.is_valid(&path).unwrap());
    assert!(store.built(&newest).unwrap().unwrap().collected);
}

#[test]
fn what_was_worked_out_of_a_blob_goes_with_it() {
    let dir = support::tempdir();
    let store = open(dir.path());
    let path = object(&store, dir.path(), "kept", "kept text", &[]);
    store.add_root("kept", &path).unwrap();
    let value = |key: &[u8], source: &[u8]| Derived {
        key: Blake3::of(key),
        source: Blake3::of(source),
        value: key.to_vec(),
    };
    store.put_blob_bytes(b"loose text").unwrap();
    let values = [
        value(b"one", b"kept text"),
        value(b"two", b"loose text"),
        value(b"three", b"loose text"),
    ];
    store.keep_derived(&values).unwrap();
    let keys: Vec<Blake3> = values.iter().map(|v| v.key).collect();
    let found = |store: &Store| store.derived(&keys).unwrap();
    assert_eq!(
        found(&store),
        values
            .iter()
            .map(|v| Some(v.value.clone()))
            .collect::<Vec<_>>()
    );
    assert!(store.take_blob(&values[1].source).unwrap());
    assert!(!store.take_blob(&Blake3::of(b"never")).unwrap());
    drop(store);
    let store = open(dir.path());
    store.gc(GcOptions::default()).unwrap();
    assert_eq!(found(&store), [Some(b"one".to_vec()), None, None]);
}
