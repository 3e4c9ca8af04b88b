//! Builds with in-process builders into a real store: no process, no network.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use serde_json::json;
use sos_engine::{BuilderError, Cancel};
use sos_formats::hash::{Hash, HashAlgo};
use sos_store::GcOptions;

use support::{How, Maker, World, codes, run, story};

fn sha256(text: &str) -> Hash {
    Hash::of(HashAlgo::Sha256, text.as_bytes())
}

#[test]
fn a_chain_is_built_and_then_answered_at_once() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add("a", &How::Floating, &[], json!({"text": "one\n"}));
    let read = maker.reference(&a);
    let b = maker.add(
        "b",
        &How::Floating,
        &[&a],
        json!({"text": "two\n", "read": [read]}),
    );
    let (report, events) = world.build(&maker.graph, &[&b]);
    assert_eq!(codes(&report), [""; 0]);
    assert_eq!(story(&events), ["a built", "b built"]);
    let out = &report.results[0].1["out"];
    assert_eq!(world.read(out), "two\none\n");
    assert_eq!(out.name(), "b");
    let info = world.store.query(out).unwrap().unwrap();
    assert!(info.ca.unwrap().starts_with("fixed:r:sha256:"));
    assert_eq!(info.deriver, Some(b.clone()));

    let (again, events) = world.build(&maker.graph, &[&b]);
    assert_eq!(again.results, report.results);
    assert_eq!(world.write.runs(), 2);
    assert_eq!(events.len(), 1, "only the summary: {events:?}");
    assert_eq!(again.build, None, "nothing is noted of it");
}

/// What was answered stays while the store is open, and what a collection took is built again.
#[test]
fn an_answer_is_held() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add("a", &How::Floating, &[], json!({"text": "one\n"}));
    let (first, _) = world.build(&maker.graph, &[&a]);
    let out = first.results[0].1["out"].clone();
    drop(world.store);
    let dir = world.dir;
    let open = || {
        let root = dir.path().join("store");
        let store_dir = sos_formats::store_path::StoreDir::default();
        sos_store::Store::open(sos_store::OpenOptions {
            root,
            store_dir,
            read_only: false,
        })
        .unwrap()
    };
    let asking = World {
        dir: dir.clone(),
        store: open(),
        write: world.write,
        options: world.options,
    };
    let (again, _) = asking.build(&maker.graph, &[&a]);
    assert_eq!(again.results, first.results);
    let collector = open();
    assert_eq!(collector.gc(GcOptions::default()).unwrap().removed, []);
    drop(asking.store);
    assert_eq!(collector.gc(GcOptions::default()).unwrap().removed, [out]);
}

/// A program that ends as soon as it has the report leaves no working directory behind.
#[test]
fn nothing_uses_the_store_after_the_report() {
    let mut maker = Maker::default();
    let good = maker.add("good", &How::Floating, &[], json!({"text": "x"}));
    let bad = maker.add("bad", &How::Floating, &[], json!({"fail": "no"}));
    let none = maker.add("none", &How::Floating, &[], json!({}));
    for round in 0..20 {
        for drv in [&good, &bad, &none] {
            let world = World::new();
            let (engine, _events) = world.engine();
            let _report = run(&engine, &maker.graph, &[drv], Cancel::new());
            let tmp = world.store.root().join("tmp");
            drop((engine, world.store));
            let left = std::fs::read_dir(tmp).unwrap().count();
            assert_eq!(left, 0, "{} in round {round}", drv.name());
        }
    }
}

#[test]
fn an_equal_result_stops_the_rebuild() {
    let world = World::new();
    let build = |salt: &str, text: &str| {
        let mut maker = Maker::default();
        let a = maker.add(
            "a",
            &How::Floating,
            &[],
            json!({"text": text, "salt": salt}),
        );
        let read = maker.reference(&a);
        let b = maker.add(
            "b",
            &How::Floating,
            &[&a],
            json!({"text": "", "read": [read]}),
        );
        let read = maker.reference(&b);
        let c = maker.add(
            "c",
            &How::Floating,
            &[&b],
            json!({"text": "", "read": [read]}),
        );
        story(&world.build(&maker.graph, &[&c]).1)
    };
    assert_eq!(build("1", "x"), ["a built", "b built", "c built"]);
    assert_eq!(build("2", "x"), ["a built", "b cached", "c cached"]);
    assert_eq!(build("2", "y"), ["a built", "b built", "c built"]);
    // What was built before is found again, also when something else was built in between.
    assert_eq!(build("1", "x"), [""; 0]);
}

#[test]
fn input_addressed_outputs_keep_their_paths_and_find_references() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add("a", &How::Input, &[], json!({"text": "a"}));
    let reference = maker.reference(&a);
    let b = maker.add(
        "b",
        &How::Input,
        &[&a],
        json!({"text": format!("see {reference}")}),
    );
    let expected = maker.reference(&b);
    let (report, _) = world.build(&maker.graph, &[&b]);
    let out = &report.results[0].1["out"];
    assert_eq!(out.absolute(world.store.store_dir()), expected);
    let info = world.store.query(out).unwrap().unwrap();
    let names: Vec<&str> = info.references.iter().map(|p| p.name()).collect();
    assert_eq!((names, info.ca), (vec!["a"], None));
}

#[test]
fn a_deferred_derivation_is_resolved_and_remembered() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add("a", &How::Floating, &[], json!({"text": "a"}));
    let read = maker.reference(&a);
    let b = maker.add(
        "b",
        &How::Input,
        &[&a],
        json!({"text": "b", "read": [read]}),
    );
    assert!(maker.graph.drvs[&b].is_deferred());
    let (report, _) = world.build(&maker.graph, &[&b]);
    assert_eq!(world.read(&report.results[0].1["out"]), "ba");
    let (_, events) = world.build(&maker.graph, &[&b]);
    assert_eq!(events.len(), 1);
}

#[test]
fn every_wrong_hash_is_reported_and_nothing_is_kept() {
    let world = World::new();
    let mut maker = Maker::default();
    let good = maker.add(
        "good",
        &How::Fixed(sha256("good")),
        &[],
        json!({"text": "good"}),
    );
    let bad1 = maker.add("bad1", &How::Fixed(sha256("x")), &[], json!({"text": "y"}));
    let bad2 = maker.add("bad2", &How::Fixed(sha256("x")), &[], json!({"text": "z"}));
    let top = maker.add(
        "top",
        &How::Floating,
        &[&bad1, &bad2, &good],
        json!({"text": ""}),
    );
    let (report, _) = world.build(&maker.graph, &[&top]);
    assert_eq!(codes(&report), ["hash-mismatch"]);
    assert_eq!(report.exit_code(), 102);
    let notes = report.failures[0].notes.join("\n");
    for (name, found) in [("bad1", "y"), ("bad2", "z")] {
        assert!(notes.contains(&format!("`{name}`")), "{notes}");
        // In the notation of the recipe, which is hexadecimal here.
        assert!(notes.contains(&sha256(found).to_hex()), "{notes}");
    }
    let dir = world.store.store_dir();
    let valid = |drv| {
        let path =
            maker.graph.drvs[drv].output_path(dir, drv.name().trim_end_matches(".drv"), "out");
        world.store.is_valid(&path.unwrap()).unwrap()
    };
    assert!(valid(&good) && !valid(&bad1) && !valid(&bad2));
}

#[test]
fn a_failure_shows_its_log_and_registers_nothing() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add(
        "a",
        &How::Floating,
        &[],
        json!({"say": "cc: error: no", "fail": "make ended with 2"}),
    );
    let (report, events) = world.build(&maker.graph, &[&a]);
    assert_eq!(codes(&report), ["build-failed"]);
    assert_eq!(report.failures[0].message, "`a` failed: make ended with 2");
    assert!(report.failures[0].notes[0].contains("cc: error: no"));
    assert_eq!(
        (report.exit_code(), story(&events)),
        (100, vec!["a failed".to_owned()])
    );
    assert!(world.store.list().unwrap().is_empty());
    let mut log = String::new();
    std::io::Read::read_to_string(&mut world.store.read_log(&a).unwrap().unwrap(), &mut log)
        .unwrap();
    assert_eq!(log, "cc: error: no\n");
    // It is tried again, not remembered as failed.
    world.build(&maker.graph, &[&a]);
    assert_eq!(world.write.runs(), 2);
}

#[test]
fn an_output_that_is_not_made_is_named() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add("a", &How::Floating, &[], json!({}));
    let (report, _) = world.build(&maker.graph, &[&a]);
    assert_eq!(codes(&report), ["build-no-output"]);
    assert!(
        report.failures[0]
            .message
            .ends_with("did not make its output `out`")
    );
}

#[test]
fn unknown_builders_and_foreign_systems_are_refused() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add_for("builtin:wirte", "a", &How::Floating, &[], json!({}));
    let (report, _) = world.build(&maker.graph, &[&a]);
    assert_eq!(codes(&report), ["build-unknown-builtin"]);
    assert_eq!(report.failures[0].helps, ["did you mean `builtin:write`?"]);

    let mut foreign = World::new();
    foreign.options.system = "aarch64-linux".to_owned();
    let mut maker = Maker::default();
    let a = maker.add("a", &How::Input, &[], json!({"text": ""}));
    let b = maker.add("b", &How::Floating, &[], json!({"text": ""}));
    let (report, _) = foreign.build(&maker.graph, &[&a]);
    assert_eq!(
        (codes(&report), report.exit_code()),
        (vec!["env-wrong-system"], 4)
    );
    let (report, _) = foreign.build(&maker.graph, &[&b]);
    assert_eq!(codes(&report), ["env-wrong-system"]);
    assert_eq!(foreign.write.runs(), 0);
}

#[test]
fn allowed_references_are_enforced() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add("a", &How::Input, &[], json!({"text": "a"}));
    let reference = maker.reference(&a);
    let checks = json!({"out": {"allowedReferences": []}});
    let b = maker.add(
        "b",
        &How::Input,
        &[&a],
        json!({"text": reference, "outputChecks": checks}),
    );
    let (report, _) = world.build(&maker.graph, &[&b]);
    assert_eq!(codes(&report), ["build-bad-output"]);
    assert!(report.failures[0].message.contains("`allowedReferences`"));
}

#[test]
fn a_rootfs_is_registered_by_its_manifest() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add("root", &How::FloatingRootfs, &[], json!({"hook": "rootfs"}));
    // A tree where a root is declared is refused.
    world.write.hook("rootfs", |ctx| {
        std::fs::write(ctx.out_path("out"), "tree").map_err(|e| BuilderError::io("out", e))
    });
    let (report, _) = world.build(&maker.graph, &[&a]);
    assert_eq!(codes(&report), ["build-bad-output"]);

    let files = json!({"/bin/tool": "/proc/self/exe"});
    let a = maker.add("root", &How::FloatingRootfs, &[], json!({"rootfs": files}));
    let (report, _) = world.build(&maker.graph, &[&a]);
    assert_eq!(codes(&report), [""; 0]);
    let info = world
        .store
        .query(&report.results[0].1["out"])
        .unwrap()
        .unwrap();
    assert!(info.root.is_some());
}

#[test]
fn a_panic_in_a_builder_is_reported_as_a_defect() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add("a", &How::Floating, &[], json!({"hook": "panic"}));
    world.write.hook("panic", |_| panic!("boom"));
    let (report, _) = world.build(&maker.graph, &[&a]);
    assert_eq!(
        (codes(&report), report.exit_code()),
        (vec!["bug-panic"], 70)
    );
    assert_eq!(
        std::fs::read_dir(world.store.root().join("lock/drv"))
            .unwrap()
            .count(),
        0
    );
}

#[test]
fn a_stop_ends_running_builds_and_registers_nothing() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add(
        "a",
        &How::Floating,
        &[],
        json!({"hook": "stop", "text": "a"}),
    );
    let b = maker.add("b", &How::Floating, &[&a], json!({"text": "b"}));
    let cancel = Cancel::new();
    let stop = cancel.clone();
    world.write.hook("stop", move |ctx| {
        stop.cancel();
        assert!(ctx.cancelled());
        Ok(())
    });
    let (report, events) = world.build_until(&maker.graph, &[&b], cancel);
    assert!(report.cancelled && report.failures.is_empty());
    assert_eq!(
        (report.exit_code(), story(&events)),
        (130, vec!["a cancelled".to_owned()])
    );
    assert!(world.store.list().unwrap().is_empty());
}

#[test]
fn two_engines_on_one_store_build_once() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add(
        "a",
        &How::Floating,
        &[],
        json!({"hook": "wait", "text": "a"}),
    );
    // The first builder goes on when the second engine says that it waits.
    let waiting = Arc::new(AtomicBool::new(false));
    let started = Arc::new(std::sync::Barrier::new(2));
    let (seen, inside) = (waiting.clone(), started.clone());
    world.write.hook("wait", move |_| {
        inside.wait();
        while !seen.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        Ok(())
    });
    let second = world.second();
    thread::scope(|scope| {
        let first = scope.spawn(|| world.build(&maker.graph, &[&a]).0);
        started.wait();
        let (engine, events) = second.engine();
        let listener = scope.spawn(move || {
            let mut pid = None;
            for event in events {
                if let sos_engine::Event::BuildWaiting { pid: holder, .. } = event.event {
                    pid = holder;
                    waiting.store(true, Ordering::SeqCst);
                }
            }
            pid
        });
        let late = run(&engine, &maker.graph, &[&a], Cancel::new());
        drop(engine);
        assert_eq!(listener.join().unwrap(), Some(std::process::id()));
        let early = first.join().unwrap();
        assert_eq!(early.results, late.results);
        assert_eq!((early.counts.built, late.counts.cached), (1, 1));
    });
    assert_eq!(world.write.runs(), 1);
}

#[test]
fn the_journal_keeps_the_history_but_not_the_lines() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add(
        "a",
        &How::Floating,
        &[],
        json!({"text": "a", "say": "hello"}),
    );
    let (report, _) = world.build(&maker.graph, &[&a]);
    let events = world.store.build_events(report.build.unwrap()).unwrap();
    let text = events.join("\n");
    assert!(
        text.contains("build.started")
            && text.contains("build.finished")
            && text.contains("summary")
    );
    assert!(!text.contains("hello"));
    let builds = world.store.recent_builds(1).unwrap();
    assert_eq!(builds[0].status.as_deref(), Some("done"));
}

#[test]
fn a_plan_says_what_would_be_done_and_does_nothing() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add("a", &How::Floating, &[], json!({"text": "a"}));
    let b = maker.add("b", &How::Floating, &[&a], json!({"text": "b"}));
    let (engine, _events) = world.engine();
    let wanted = [sos_engine::Wanted {
        drv: b.clone(),
        outputs: Vec::new(),
    }];
    let plan = engine.plan(&maker.graph, &wanted).unwrap();
    let names: Vec<&str> = plan.to_build.iter().map(|p| p.name.as_str()).collect();
    assert_eq!((names, plan.cached.len()), (vec!["a", "b"], 0));
    assert_eq!(world.write.runs(), 0);
    world.build(&maker.graph, &[&a]);
    let plan = engine.plan(&maker.graph, &wanted).unwrap();
    assert_eq!((plan.to_build.len(), plan.cached), (1, vec![a]));
}

#[test]
fn what_is_not_in_the_graph_is_named() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add("a", &How::Floating, &[], json!({"text": "a"}));
    let b = maker.add("b", &How::Floating, &[&a], json!({"text": "b"}));
    let lost = maker.graph.drvs.remove(&a).unwrap();
    let (report, _) = world.build(&maker.graph, &[&b]);
    assert_eq!(codes(&report), ["graph-missing-derivation"]);
    // What the store knows need not be in the graph.
    maker.graph.drvs.insert(a.clone(), lost);
    world.build(&maker.graph, &[&a]);
    maker.graph.drvs.remove(&a);
    let (report, _) = world.build(&maker.graph, &[&b]);
    assert_eq!(codes(&report), [""; 0]);
    let (engine, _events) = world.engine();
    let wanted = sos_engine::Wanted {
        drv: b,
        outputs: vec!["uot".to_owned()],
    };
    let refused = engine.plan(&maker.graph, &[wanted]).unwrap_err();
    assert_eq!(refused.code, "build-unknown-output");
    assert_eq!(refused.helps, ["did you mean `out`?"]);
}

#[test]
fn one_content_is_fetched_once_whoever_asks() {
    let mut world = World::new();
    world.options.jobs = 2;
    let mut maker = Maker::default();
    let how = How::Fixed(sha256("x"));
    let a = maker.add("src", &how, &[], json!({"text": "x", "url": "one"}));
    let b = maker.add("src", &how, &[], json!({"text": "x", "url": "two"}));
    assert_ne!(a, b);
    let (report, _) = world.build(&maker.graph, &[&a, &b]);
    assert_eq!(codes(&report), [""; 0]);
    assert_eq!(world.write.runs(), 1);
    assert_eq!(report.results[0].1, report.results[1].1);
}

#[test]
fn a_silent_build_does_not_keep_the_log_of_an_earlier_one() {
    let world = World::new();
    let mut maker = Maker::default();
    let a = maker.add(
        "a",
        &How::Floating,
        &[],
        json!({"hook": "once", "text": "a"}),
    );
    let first = AtomicBool::new(true);
    world.write.hook("once", move |ctx| {
        if first.swap(false, Ordering::SeqCst) {
            ctx.log("half of it");
            return Err(BuilderError::failed("not now"));
        }
        Ok(())
    });
    let log = || {
        let mut text = String::new();
        let mut reader = world.store.read_log(&a).unwrap().unwrap();
        std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
        text
    };
    world.build(&maker.graph, &[&a]);
    assert_eq!(log(), "half of it\n");
    let (report, _) = world.build(&maker.graph, &[&a]);
    assert_eq!((codes(&report), log()), (vec![], String::new()));
}

#[test]
fn builders_of_this_process_are_verified() {
    use sos_engine::verify::{Condition, Culprit, Verdict};
    let world = World::new();
    let mut maker = Maker::default();
    let good = maker.add("good", &How::Floating, &[], json!({"text": "same\n"}));
    let count = maker.add("count", &How::Floating, &[], json!({"hook": "count"}));
    let cores = maker.add("cores", &How::Floating, &[], json!({"hook": "cores"}));
    let flaky = maker.add(
        "flaky",
        &How::Floating,
        &[],
        json!({"hook": "flaky", "text": "x"}),
    );
    let put = |ctx: &sos_engine::BuilderCtx<'_>, n: usize| {
        let place = ctx.out_path("out");
        std::fs::write(place, n.to_string()).map_err(|e| BuilderError::io("write", e))
    };
    let runs = std::sync::atomic::AtomicUsize::new(0);
    world.write.hook("count", move |ctx| {
        put(ctx, runs.fetch_add(1, Ordering::SeqCst))
    });
    world.write.hook("cores", move |ctx| put(ctx, ctx.cores));
    let tries = std::sync::atomic::AtomicUsize::new(0);
    world.write.hook("flaky", move |_| {
        match tries.fetch_add(1, Ordering::SeqCst) {
            0 => Ok(()),
            _ => Err(BuilderError::failed("no more")),
        }
    });
    let (report, _) = world.build(&maker.graph, &[&good, &count, &cores, &flaky]);
    assert_eq!(codes(&report), [""; 0], "{:?}", report.failures);
    let before = world.store.list().unwrap().len();
    let verify = |drv| world.verify(&maker.graph, drv).verdict;
    assert!(matches!(verify(&good), Verdict::Same));
    let Verdict::Different(different) = verify(&count) else {
        panic!("a count differs");
    };
    assert_eq!(different.culprit, Culprit::Itself);
    let Verdict::Different(different) = verify(&cores) else {
        panic!("cores differ");
    };
    let culprit = vec![[Condition::Cores].into()];
    assert_eq!(different.culprit, Culprit::Conditions(culprit));
    let Verdict::Failed { culprit, .. } = verify(&flaky) else {
        panic!("it fails");
    };
    assert_eq!(culprit, Culprit::Itself);
    assert_eq!(world.store.list().unwrap().len(), before);
    let path = &report.results[1].1["out"];
    let rebuilds = world.store.rebuilds_of(path).unwrap();
    assert_eq!(rebuilds.len(), 1);
    assert!(!rebuilds[0].rebuild.same);
    // What was compared with it is forgotten with it.
    drop(different);
    assert!(world.store.traces_of(path).unwrap()[0].trace.host.is_some());
}
