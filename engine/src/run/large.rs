//! A graph of 100,000 derivations: what it weighs while it is planned and run.
//!
//! Counted is every byte that is asked of the allocator on the thread of the test, which is the one that plans and decides:
//! whatever the engine holds of the graph. Not counted are the store's database, the display, and what the caller keeps
//! besides the graph. The jobs find their outputs done, so no thread and no process is started.

#![allow(
    unsafe_code,
    reason = "an allocator that counts, in tests only; all it does is to pass on"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeSet;

use sos_formats::derivation::{Derivation, Output};

use super::*;
use crate::builder::Registry;
use crate::clock::SystemClock;
use crate::engine::Engine;
use crate::event::Status;
use crate::graph::{Graph, Wanted};
use crate::needed::find_needed;
use crate::options::BuildOptions;
use crate::test_store::test_store;

struct Counting;

thread_local! {
    static NOW: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    // The thread may be ending.
    let _late = NOW.try_with(|now| {
        now.set(now.get() + bytes);
        let _late = PEAK.try_with(|peak| peak.set(peak.get().max(now.get())));
    });
}

fn signed(bytes: usize) -> isize {
    isize::try_from(bytes).unwrap_or(isize::MAX)
}

// SAFETY: everything is passed on to the allocator of the system as it comes.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(signed(layout.size()));
        // SAFETY: the caller keeps the promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-signed(layout.size()));
        // SAFETY: the caller keeps the promises.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(signed(size) - signed(layout.size()));
        // SAFETY: the caller keeps the promises.
        unsafe { System.realloc(at, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Returns what `work` gives, the bytes that stay allocated, and the most that were at once.
fn weighed<T>(work: impl FnOnce() -> T) -> (T, isize, isize) {
    let before = NOW.get();
    PEAK.set(before);
    let value = work();
    (value, NOW.get() - before, PEAK.get() - before)
}

/// Finds every job done.
struct Finds;

impl Executor for Finds {
    fn look(&self, job: &Job) -> Option<Outcome> {
        assert_eq!(job.inputs.len(), job.drv.input_drvs.len());
        // As long as the path of the derivation, and another one for each.
        let base = job.path.as_str().strip_suffix(".drv").unwrap();
        Some(Outcome::Done {
            outputs: [("out".to_owned(), StorePath::from_base(base).unwrap())].into(),
            status: Status::Cached,
            bytes: 0,
        })
    }

    fn execute(&self, job: &Job) -> Outcome {
        panic!("`{}` was started", job.name)
    }

    fn wait(&self, _: &Locked, _: &dyn Fn() -> bool, _: &mut dyn FnMut(&str)) {}
}

/// Layers of `width`; each derivation reads three of the layer before. As texts, as a caller gives large graphs.
fn layers(count: usize, width: usize) -> (Graph, Vec<Wanted>) {
    let dir = StoreDir::default();
    let mut graph = Graph::new();
    let mut above: Vec<StorePath> = Vec::new();
    let mut layer: Vec<StorePath> = Vec::new();
    for id in 0..count {
        let name = format!("bench-{id}");
        let mut drv = Derivation {
            system: "x86_64-linux".to_owned(),
            builder: b"/usr/bin/busybox".to_vec(),
            ..Derivation::default()
        };
        let text = b"echo $i $salt > $out; for d in $deps; do read l < $d; done";
        drv.args = vec![b"sh".to_vec(), b"-c".to_vec(), text.to_vec()];
        drv.env.insert(b"name".to_vec(), name.clone().into_bytes());
        drv.outputs.insert(
            "out".to_owned(),
            Output::Floating {
                method: sos_formats::derivation::Method::Recursive,
                algo: sos_formats::hash::HashAlgo::Sha256,
            },
        );
        for k in 0..3 {
            if let Some(input) = above.get((id * 7 + k * 13) % width) {
                drv.input_drvs
                    .insert(input.clone(), ["out".to_owned()].into());
            }
        }
        let text = drv.to_aterm(&dir, &name).unwrap();
        let path = drv.drv_path_of_aterm(&dir, &name, &text).unwrap();
        graph.texts.insert(path.clone(), text.into());
        layer.push(path);
        if layer.len() == width {
            above = std::mem::take(&mut layer);
        }
    }
    let wanted = above.iter().map(|drv| Wanted {
        drv: drv.clone(),
        outputs: Vec::new(),
    });
    let wanted = wanted.collect();
    (graph, wanted)
}

// Without optimisation the same takes minutes; a node weighs the same.
const COUNT: usize = if cfg!(debug_assertions) {
    10_000
} else {
    100_000
};

#[test]
fn a_graph_that_is_looked_at_weighs_little_more_than_its_text() {
    let (_dir, store) = test_store();
    let (graph, wanted) = layers(COUNT, 250);
    let options = BuildOptions::new("x86_64-linux", "/sos".into());
    let engine = Engine::new(store, Registry::new(), options, EventSink::null());
    let (nodes, held, most) = weighed(|| engine.dag(&graph, &wanted, None).unwrap());
    assert!(nodes.len() > COUNT * 9 / 10, "{}", nodes.len());
    let count = signed(nodes.len());
    let (held, most) = (held / count, most / count);
    assert!(most < 512, "bytes a node: {held} held, {most} at most");
}

#[test]
fn a_node_weighs_less_than_a_kilobyte() {
    let (_dir, store) = test_store();
    let ((graph, wanted), given, _) = weighed(|| layers(COUNT, 250));
    let (needed, held, finding) =
        weighed(|| find_needed(&store, &Registry::new(), &graph, &wanted, false).unwrap());
    let met: BTreeSet<&StorePath> = needed.nodes.iter().map(|node| &node.path).collect();
    assert!(met.len() > COUNT * 9 / 10, "{}", met.len());
    let count = signed(met.len());
    drop(met);
    let plans: Vec<NodePlan> = needed
        .nodes
        .iter()
        .map(|_| NodePlan {
            pool: Pool::Build,
            slot: Pool::Build,
            expected_ms: Some(7),
        })
        .collect();
    let (done, _, running) = weighed(|| {
        drive(&Run {
            dir: &StoreDir::default(),
            graph: &graph,
            needed: &needed,
            plans: &plans,
            build_slots: 2,
            io_slots: 16,
            keep_going: false,
            executor: Arc::new(Finds),
            events: &EventSink::null(),
            clock: &SystemClock::new(),
            cancel: &Cancel::new(),
        })
    });
    assert_eq!(signed(done.counts.cached), count);
    assert!(done.failures.is_empty());
    let most = given + finding.max(held + signed(plans.len() * size_of::<NodePlan>()) + running);
    let each = |bytes: isize| bytes / count;
    let told = format!(
        "bytes a node: {} given, {} held (most {} while finding), {} while running, {} in all",
        each(given),
        each(held),
        each(finding),
        each(running),
        each(most)
    );
    assert!(each(most) < 1024, "{told}");
}
