//! Runs with a fake executor: no process, no store, no sleep.

use std::collections::BTreeSet;
use std::sync::mpsc::Receiver;
use std::sync::{Condvar, Mutex};

use sos_formats::derivation::{Derivation, Method, Output};
use sos_formats::diagnostic::SourceFile;
use sos_formats::hash::{Hash, HashAlgo};

use super::*;
use crate::event::{EventRecord, Status};
use crate::needed::{Held, Node};

struct Still;

impl Clock for Still {
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    fn unix_ms(&self) -> u64 {
        0
    }
}

type Answer = fn() -> Outcome;
type Hook = Box<dyn Fn(&str) + Send + Sync>;

/// Answers from a table; a job that it has no answer for succeeds.
#[derive(Default)]
struct Fake {
    answers: Mutex<BTreeMap<String, Vec<Answer>>>,
    started: Mutex<Vec<String>>,
    inputs: Mutex<BTreeMap<String, Vec<StorePath>>>,
    /// What is found done, and what of it is gone when it is settled.
    found: BTreeSet<&'static str>,
    lost: Mutex<Vec<&'static str>>,
    settled: Mutex<usize>,
    on_start: Option<Hook>,
}

impl Fake {
    fn answer(self, name: &str, answers: &[Answer]) -> Self {
        let mut reversed = answers.to_vec();
        reversed.reverse();
        self.answers
            .lock()
            .unwrap()
            .insert(name.to_owned(), reversed);
        self
    }

    fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }
}

impl Executor for Fake {
    fn look(&self, job: &Job) -> Option<Outcome> {
        let name = job.name.to_string();
        self.found.contains(&*name).then(|| Outcome::Done {
            outputs: [("out".to_owned(), path(&name))].into(),
            status: Status::Cached,
            bytes: 0,
        })
    }

    fn settle(&self) -> Result<Vec<StorePath>, Box<Diagnostic>> {
        *self.settled.lock().unwrap() += 1;
        let lost = std::mem::take(&mut *self.lost.lock().unwrap());
        Ok(lost
            .iter()
            .map(|name| path(&format!("{name}.drv")))
            .collect())
    }

    fn execute(&self, job: &Job) -> Outcome {
        let name = job.name.to_string();
        self.started.lock().unwrap().push(name.clone());
        let inputs = job.inputs.values().flat_map(BTreeMap::values).cloned();
        self.inputs
            .lock()
            .unwrap()
            .insert(name.clone(), inputs.collect());
        if let Some(hook) = &self.on_start {
            hook(&name);
        }
        let answer = self
            .answers
            .lock()
            .unwrap()
            .get_mut(&name)
            .and_then(Vec::pop);
        answer.map_or_else(|| built(&name), |answer| answer())
    }

    fn wait(&self, _: &Locked, _: &dyn Fn() -> bool, line: &mut dyn FnMut(&str)) {
        line("a line of the other");
    }
}

fn path(name: &str) -> StorePath {
    StorePath::from_base(&format!("{}-{name}", "1".repeat(32))).unwrap()
}

fn built(name: &str) -> Outcome {
    Outcome::Done {
        outputs: [("out".to_owned(), path(name))].into(),
        status: Status::Built,
        bytes: 0,
    }
}

fn fails() -> Outcome {
    Outcome::Failed(Box::new(Diagnostic::error(
        "build-failed",
        Class::BuildFailed,
        "no",
    )))
}

fn wrong_hash() -> Outcome {
    Outcome::Mismatched(vec![Mismatch {
        name: "x".to_owned(),
        expected: "a".to_owned(),
        found: "b".to_owned(),
        detail: String::new(),
        is_hash: true,
    }])
}

fn locked() -> Outcome {
    Outcome::Locked(Locked {
        lock: path("lock"),
        pid: Some(7),
        command: Some("sos build x".into()),
        log_of: None,
    })
}

/// Makes nodes from `(name, names of what it needs)`; a name that begins with `f` has a fixed output.
fn graph(nodes: &[(&str, &[&str])]) -> Needed {
    let mut needed = Needed::default();
    for (name, needs) in nodes {
        let mut drv = Derivation::default();
        if name.starts_with('f') {
            drv.outputs.insert(
                "out".to_owned(),
                Output::Fixed {
                    method: Method::Flat,
                    hash: Hash::of(HashAlgo::Sha256, name.as_bytes()),
                },
            );
        }
        for need in *needs {
            drv.input_drvs
                .insert(path(&format!("{need}.drv")), ["out".to_owned()].into());
        }
        let needs = needs
            .iter()
            .map(|need| nodes.iter().position(|(name, _)| name == need).unwrap())
            .map(|id| u32::try_from(id).unwrap())
            .collect();
        needed.nodes.push(Node {
            path: path(&format!("{name}.drv")),
            fixed: drv.is_fixed(),
            held: Held::Parsed(Arc::new(drv)),
            outputs: ["out".into()].into(),
            needs,
            system: "x86_64-linux".into(),
            pool: Pool::Build,
            slot: Pool::Build,
            wishing: false,
            dynamic: name.starts_with('d'),
            demanding: false,
            forced: false,
        });
    }
    needed
}

struct Ran {
    done: Done,
    fake: Arc<Fake>,
    events: Receiver<EventRecord>,
}

impl Ran {
    fn types(&self, wanted: &str) -> usize {
        self.events
            .try_iter()
            .filter(|e| e.to_json().contains(&format!(r#""type":"{wanted}""#)))
            .count()
    }

    fn codes(&self) -> Vec<&'static str> {
        self.done.failures.iter().map(|d| d.code).collect()
    }
}

fn run_with(needed: &Needed, fake: Fake, keep_going: bool, cancel: &Cancel) -> Ran {
    run_placed(needed, &Graph::new(), fake, keep_going, cancel)
}

fn run_placed(
    needed: &Needed,
    graph: &Graph,
    fake: Fake,
    keep_going: bool,
    cancel: &Cancel,
) -> Ran {
    let (events, receiver) = EventSink::channel_with_clock(Box::new(Still));
    let plans: Vec<NodePlan> = needed
        .nodes
        .iter()
        .map(|_| NodePlan {
            pool: Pool::Build,
            slot: Pool::Build,
            expected_ms: None,
        })
        .collect();
    let fake = Arc::new(fake);
    let done = drive(&Run {
        dir: &StoreDir::default(),
        graph,
        needed,
        plans: &plans,
        build_slots: 1,
        io_slots: 1,
        keep_going,
        executor: fake.clone(),
        events: &events,
        clock: &Still,
        cancel,
    });
    Ran {
        done,
        fake,
        events: receiver,
    }
}

fn run(needed: &Needed, fake: Fake) -> Ran {
    run_with(needed, fake, false, &Cancel::new())
}

#[test]
fn inputs_come_first_and_their_paths_are_passed_on() {
    let ran = run(
        &graph(&[("top", &["a", "b"]), ("a", &[]), ("b", &["a"])]),
        Fake::default(),
    );
    assert_eq!(ran.fake.started(), ["a", "b", "top"]);
    assert_eq!(
        ran.fake.inputs.lock().unwrap()["top"],
        [path("a"), path("b")]
    );
    assert_eq!(ran.done.counts.built, 3);
    assert_eq!(ran.types("build.finished"), 3);
}

#[test]
fn a_failure_stops_the_rest() {
    let needed = graph(&[("a", &[]), ("b", &[]), ("top", &["a", "b"])]);
    let ran = run(&needed, Fake::default().answer("a", &[fails]));
    assert_eq!(ran.fake.started(), ["a"]);
    assert_eq!(ran.codes(), ["build-failed"]);
    assert_eq!((ran.done.counts.failed, ran.done.counts.skipped), (1, 2));
}

#[test]
fn keep_going_skips_only_what_needs_the_failure() {
    let needed = graph(&[("a", &[]), ("b", &[]), ("c", &["a"]), ("d", &["b"])]);
    let fake = Fake::default().answer("a", &[fails]);
    let ran = run_with(&needed, fake, true, &Cancel::new());
    let mut started = ran.fake.started();
    started.sort();
    assert_eq!(started, ["a", "b", "d"]);
    assert_eq!((ran.done.counts.built, ran.done.counts.skipped), (2, 1));
}

#[test]
fn all_wrong_hashes_of_a_run_are_one_problem() {
    let needed = graph(&[
        ("f1", &[]),
        ("f2", &[]),
        ("f3", &[]),
        ("a", &["f1", "f2"]),
        ("b", &[]),
    ]);
    let fake = Fake::default()
        .answer("f1", &[wrong_hash])
        .answer("f3", &[wrong_hash]);
    let ran = run(&needed, fake);
    assert_eq!(ran.fake.started(), ["f1", "f2", "f3"]);
    assert_eq!(ran.codes(), ["hash-mismatch"]);
    assert_eq!(
        ran.done.failures[0].message,
        "2 outputs do not match their hashes"
    );
    assert_eq!(ran.done.counts.failed, 2);
}

#[test]
fn a_lock_of_another_process_is_waited_for_and_validity_read_again() {
    let cached: Answer = || Outcome::Done {
        outputs: [("out".to_owned(), path("a"))].into(),
        status: Status::Cached,
        bytes: 0,
    };
    let needed = graph(&[("a", &[]), ("top", &["a"])]);
    let ran = run(
        &needed,
        Fake::default().answer("a", &[locked, locked, cached]),
    );
    assert_eq!(ran.fake.started(), ["a", "a", "a", "top"]);
    assert_eq!((ran.done.counts.built, ran.done.counts.cached), (1, 1));
    let told: Vec<String> = ran.events.try_iter().map(|e| e.to_json()).collect();
    let says = |what: &str| told.iter().filter(|json| json.contains(what)).count();
    assert_eq!(says(r#""pid":7,"command":"sos build x""#), 2, "{told:?}");
    assert_eq!(says(r#""line":"a line of the other""#), 2);
}

#[test]
fn nothing_starts_after_a_stop() {
    let cancel = Cancel::new();
    let stopper = cancel.clone();
    let fake = Fake {
        on_start: Some(Box::new(move |name| {
            if name == "a" {
                stopper.cancel();
            }
        })),
        ..Fake::default()
    }
    .answer("a", &[|| Outcome::Cancelled]);
    let ran = run_with(&graph(&[("a", &[]), ("b", &[])]), fake, true, &cancel);
    assert_eq!(ran.fake.started(), ["a"]);
    let counts = ran.done.counts;
    assert_eq!((counts.stopped, counts.skipped), (1, 1));
    assert!(ran.done.failures.is_empty());
}

#[test]
fn what_runs_comes_to_its_end_when_nothing_more_is_to_start() {
    let cancel = Cancel::new();
    let stopper = cancel.clone();
    let fake = Fake {
        on_start: Some(Box::new(move |name| {
            if name == "a" {
                stopper.stop_starting_by(2);
            }
        })),
        ..Fake::default()
    };
    let ran = run_with(&graph(&[("a", &[]), ("b", &[])]), fake, true, &cancel);
    assert_eq!(ran.fake.started(), ["a"]);
    let counts = ran.done.counts;
    assert_eq!((counts.built, counts.stopped, counts.skipped), (1, 0, 1));
    assert!(ran.done.failures.is_empty());
}

#[test]
fn a_panic_is_a_defect_and_no_crash() {
    let needed = graph(&[("a", &[]), ("b", &[])]);
    let fake = Fake::default().answer("a", &[|| panic!("out of cheese")]);
    let ran = run_with(&needed, fake, true, &Cancel::new());
    assert_eq!(ran.codes(), ["bug-panic"]);
    assert!(ran.done.failures[0].message.contains("out of cheese"));
    assert_eq!(ran.done.counts.built, 1);
}

#[test]
fn a_circle_is_named() {
    let ran = run(&graph(&[("a", &["b"]), ("b", &["a"])]), Fake::default());
    assert_eq!(ran.codes(), ["graph-cycle"]);
    assert_eq!(ran.done.failures[0].notes, ["`a` needs `b` needs `a`"]);
    assert!(ran.fake.started().is_empty());
}

#[test]
fn jobs_run_at_once_up_to_the_slots() {
    // Both jobs wait for each other: this ends only if they run at the same time.
    let meeting = Arc::new((Mutex::new(0), Condvar::new()));
    let inside = meeting.clone();
    let fake = Fake {
        on_start: Some(Box::new(move |_| {
            let (count, changed) = &*inside;
            let mut here = count.lock().unwrap();
            *here += 1;
            changed.notify_all();
            while *here < 2 {
                here = changed.wait(here).unwrap();
            }
        })),
        ..Fake::default()
    };
    let needed = graph(&[("a", &[]), ("b", &[])]);
    let plan = NodePlan {
        pool: Pool::Build,
        slot: Pool::Build,
        expected_ms: Some(1),
    };
    let done = drive(&Run {
        dir: &StoreDir::default(),
        graph: &Graph::new(),
        needed: &needed,
        plans: &[plan, plan],
        build_slots: 2,
        io_slots: 1,
        keep_going: false,
        executor: Arc::new(fake),
        events: &EventSink::null(),
        clock: &Still,
        cancel: &Cancel::new(),
    });
    assert_eq!(done.counts.built, 2);
}

#[test]
fn problems_are_shown_where_the_derivation_was_written() {
    let needed = graph(&[("fa", &[]), ("b", &[]), ("c", &[])]);
    let file = SourceFile::new("x.nix", "0123456789");
    let mut written = Graph::new();
    for (at, node) in needed.nodes.iter().enumerate() {
        let place = Label::new(&file, at..at + 1, "");
        written.places.insert(node.path.clone(), place);
    }
    let fake = Fake::default()
        .answer("fa", &[wrong_hash])
        .answer("b", &[fails])
        .answer(
            "c",
            &[|| Outcome::Failed(Box::new(Diagnostic::error("disk", Class::Machine, "full")))],
        );
    let ran = run_placed(&needed, &written, fake, true, &Cancel::new());
    let mut places: Vec<_> = ran
        .done
        .failures
        .iter()
        .map(|d| (d.code, d.labels.first().map(|l| l.span.start)))
        .collect();
    places.sort_unstable();
    assert_eq!(
        places,
        [
            ("build-failed", Some(1)),
            ("disk", None),
            ("hash-mismatch", Some(0))
        ]
    );
}

#[test]
fn a_full_disk_is_one_problem_however_many_meet_it() {
    let full: Answer = || {
        Outcome::Failed(Box::new(Diagnostic::error(
            "env-disk-full",
            Class::Machine,
            "the disk is full",
        )))
    };
    let fake = Fake::default()
        .answer("a", &[full])
        .answer("b", &[full])
        .answer("c", &[fails]);
    let needed = graph(&[("a", &[]), ("b", &[]), ("c", &[])]);
    let ran = run_with(&needed, fake, true, &Cancel::new());
    assert_eq!(ran.done.counts.failed, 3);
    let mut codes = ran.codes();
    codes.sort_unstable();
    assert_eq!(codes, ["build-failed", "env-disk-full"]);
    assert_eq!(ran.types("diagnostic"), 2);
}

#[test]
fn what_is_found_done_starts_nothing_and_is_settled_at_once() {
    let needed = graph(&[
        ("d1", &[]),
        ("d2", &["d1"]),
        ("d3", &["d2"]),
        ("top", &["d3"]),
    ]);
    let fake = Fake {
        found: ["d1", "d2", "d3", "top"].into(),
        ..Fake::default()
    };
    let ran = run(&needed, fake);
    // Only what waits for its inputs is looked for: the last one was not there when the run began.
    assert_eq!(ran.fake.started(), ["top"]);
    assert_eq!((ran.done.counts.built, ran.done.counts.cached), (1, 3));
    assert_eq!(*ran.fake.settled.lock().unwrap(), 1);
}

#[test]
fn what_a_collection_takes_before_it_is_settled_is_built() {
    let needed = graph(&[("d1", &[]), ("d2", &["d1"]), ("top", &["d2"])]);
    let fake = Fake {
        found: ["d1", "d2"].into(),
        lost: Mutex::new(vec!["d1"]),
        ..Fake::default()
    };
    // Found again the second time.
    let ran = run(&needed, fake);
    assert_eq!(ran.fake.started(), ["top"]);
    assert_eq!((ran.done.counts.built, ran.done.counts.cached), (1, 2));
    assert_eq!(ran.fake.inputs.lock().unwrap()["top"], [path("d2")]);
}
