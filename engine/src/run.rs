//! Drives one run: starts jobs as the schedule allows; how they end is dealt with in `ending`.

mod ending;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use sos_formats::diagnostic::{Class, Diagnostic, Label};
use sos_formats::store_path::{StoreDir, StorePath};

use self::ending::panicked;
use crate::builder::Pool;
use crate::cancel::Cancel;
use crate::clock::Clock;
use crate::diagnose::{Mismatch, graph_cycle};
use crate::event::{Event, EventSink, Text};
use crate::executor::{Executor, Job, Locked, Outcome};
use crate::graph::Graph;
use crate::needed::{Made, Names, Needed};
use crate::resolve::OutputPaths;
use crate::schedule::{Mode, Schedule, Task};

/// Stack of a thread that runs a builder: decoders of foreign formats may recurse.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// What a run counts.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Counts {
    /// Derivations built.
    pub built: usize,
    /// Derivations fetched.
    pub fetched: usize,
    /// Bytes fetched.
    pub fetched_bytes: u64,
    /// Derivations that were there, or that stopped at an identical build.
    pub cached: usize,
    /// Derivations that failed.
    pub failed: usize,
    /// Derivations whose builder was running when the run was stopped.
    pub stopped: usize,
    /// Derivations that were not tried, because of a failure or a stop.
    pub skipped: usize,
}

/// How to run a node, decided by the engine.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NodePlan {
    /// Whether it counts as built or as fetched.
    pub(crate) pool: Pool,
    /// Whose slot it takes.
    pub(crate) slot: Pool,
    /// Milliseconds expected, if the past tells.
    pub(crate) expected_ms: Option<u64>,
}

/// What a run is made of.
pub(crate) struct Run<'a> {
    pub(crate) dir: &'a StoreDir,
    /// Where derivations were written.
    pub(crate) graph: &'a Graph,
    pub(crate) needed: &'a Needed,
    pub(crate) plans: &'a [NodePlan],
    pub(crate) build_slots: usize,
    pub(crate) io_slots: usize,
    pub(crate) keep_going: bool,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) events: &'a EventSink,
    pub(crate) clock: &'a dyn Clock,
    pub(crate) cancel: &'a Cancel,
}

/// What a run gave.
#[derive(Default)]
pub(crate) struct Done {
    /// Outputs of each node that was done.
    pub(crate) made: Vec<Made>,
    /// Paths of what was wanted.
    pub(crate) paths: OutputPaths,
    /// Problems, in the order they were met; all wrong hashes are one of them.
    pub(crate) failures: Vec<Diagnostic>,
    /// The derivations that failed, other than for a stop.
    pub(crate) failed: BTreeSet<StorePath>,
    /// What was counted.
    pub(crate) counts: Counts,
}

enum Message {
    Finished(usize, Box<Outcome>),
    Unlocked(usize),
    Stopping,
}

struct Running {
    shown: Text,
    name: Text,
    pool: Pool,
    since: Duration,
}

struct Driver<'a> {
    run: &'a Run<'a>,
    schedule: Schedule,
    sender: Sender<Message>,
    running: BTreeMap<usize, Running>,
    waiting: Vec<JoinHandle<()>>,
    mismatches: Vec<Mismatch>,
    mismatched_at: Vec<Label>,
    unfetched: Vec<Diagnostic>,
    stop: Arc<AtomicBool>,
    names: Names,
    /// What was found done since the last time that it was settled.
    looked: Vec<usize>,
    done: Done,
}

/// The most that is found done before it is settled.
const LOOKED_MAX: usize = 1024;

/// Returns milliseconds that a job is assumed to take when the past does not tell.
const UNKNOWN_COST_MS: u64 = 1000;

/// Makes the schedule of a run, or tells the circle that makes it impossible.
pub(crate) fn schedule(
    needed: &Needed,
    plans: &[NodePlan],
    build_slots: usize,
    io_slots: usize,
) -> Result<Schedule, Box<Diagnostic>> {
    let tasks: Vec<Task<'_>> = needed
        .nodes
        .iter()
        .zip(plans)
        .map(|(node, plan)| Task {
            needs: &node.needs,
            pool: plan.slot,
            cost_ms: plan.expected_ms.unwrap_or(UNKNOWN_COST_MS),
            fixed: node.fixed,
        })
        .collect();
    Schedule::new(&tasks, build_slots, io_slots).map_err(|cycle| {
        let names: Vec<&str> = cycle.iter().map(|id| needed.nodes[*id].name()).collect();
        Box::new(graph_cycle(&names))
    })
}

/// Runs everything that is needed. Blocks until nothing runs any more.
pub(crate) fn drive(run: &Run<'_>) -> Done {
    let schedule = match schedule(run.needed, run.plans, run.build_slots, run.io_slots) {
        Ok(schedule) => schedule,
        Err(cycle) => {
            run.events.emit(Event::Diagnostic {
                diagnostic: cycle.clone(),
            });
            return Done {
                failures: vec![*cycle],
                ..Done::default()
            };
        }
    };
    let (sender, receiver) = channel();
    let on_stopping = sender.clone();
    let _subscription = run.cancel.on_stopping(move || {
        // The driver may be gone already.
        let _gone = on_stopping.send(Message::Stopping).is_err();
    });
    let mut driver = Driver {
        run,
        schedule,
        sender,
        running: BTreeMap::new(),
        waiting: Vec::new(),
        mismatches: Vec::new(),
        mismatched_at: Vec::new(),
        unfetched: Vec::new(),
        stop: Arc::new(AtomicBool::new(false)),
        names: Names::default(),
        looked: Vec::new(),
        done: Done {
            made: vec![Made::default(); run.needed.nodes.len()],
            ..Done::default()
        },
    };
    driver.done.counts.cached = run.needed.cached();
    driver.announce();
    driver.work(&receiver);
    driver.stop.store(true, Ordering::SeqCst);
    // They have the store, too; one that still waits looks at `stop` every now and then.
    for waiting in driver.waiting.drain(..) {
        let _panicked = waiting.join().is_err();
    }
    driver.finish()
}

impl Driver<'_> {
    fn announce(&self) {
        let nodes = &self.run.needed.nodes;
        let shown: Vec<Text> = nodes
            .iter()
            .map(|node| node.path.absolute(self.run.dir).into())
            .collect();
        for ((node, plan), drv) in nodes.iter().zip(self.run.plans).zip(&shown) {
            self.run.events.emit(Event::BuildQueued {
                drv: drv.clone(),
                name: node.name().into(),
                needs: node.needs().map(|id| shown[id].clone()).collect(),
                expected_ms: plan.expected_ms,
            });
        }
    }

    fn work(&mut self, receiver: &Receiver<Message>) {
        loop {
            if self.run.cancel.is_stopping() {
                self.schedule.narrow(Mode::Nothing);
            }
            if self.start_some() {
                while let Ok(message) = receiver.try_recv() {
                    self.handle(message);
                }
                continue;
            }
            if self.settle() {
                continue;
            }
            if self.schedule.is_over() {
                return;
            }
            // This driver holds a sender, so the channel cannot close.
            match receiver.recv() {
                Ok(message) => self.handle(message),
                Err(_) => return,
            }
        }
    }

    fn handle(&mut self, message: Message) {
        match message {
            Message::Finished(id, outcome) => self.ended(id, *outcome),
            Message::Unlocked(id) => self.schedule.unpark(id),
            Message::Stopping => self.schedule.narrow(Mode::Nothing),
        }
    }

    /// Makes what was found done last. A garbage collection may have been faster: then its nodes are to be done again, and
    /// this tells so.
    fn settle(&mut self) -> bool {
        if self.looked.is_empty() {
            return false;
        }
        let looked = std::mem::take(&mut self.looked);
        let lost = match self.run.executor.settle() {
            Ok(lost) => lost,
            Err(diagnostic) => {
                self.problem(*diagnostic);
                self.schedule.narrow(Mode::Nothing);
                return false;
            }
        };
        for id in &looked {
            if lost.contains(&self.run.needed.nodes[*id].path) {
                self.done.made[*id] = Made::default();
                self.done.counts.cached -= 1;
                self.schedule.take_back(*id);
            }
        }
        !lost.is_empty()
    }

    /// Starts what may be started: everything that turns out to be done, and the first that does not. Tells whether there was any.
    fn start_some(&mut self) -> bool {
        let Some(first) = self.schedule.start_next() else {
            return false;
        };
        let mut next = Some(first);
        let mut to_run = None;
        let executor = self.run.executor.clone();
        if self.run.needed.nodes[first].dynamic {
            executor.at_once(&mut || {
                while let Some(id) = next.take() {
                    to_run = self.look(id);
                    if to_run.is_none() && self.looked.len() < LOOKED_MAX {
                        next = self.schedule.start_next();
                    }
                }
            });
        } else {
            to_run = self.look(first);
        }
        if self.looked.len() >= LOOKED_MAX {
            self.settle();
        }
        if let Some((id, job, running)) = to_run {
            self.start(id, job, running);
        }
        true
    }

    /// Ends a node that cannot run, or turns out to be done; gives the others back.
    fn look(&mut self, id: usize) -> Option<(usize, Job, Running)> {
        let node = &self.run.needed.nodes[id];
        let running = Running {
            shown: node.path.absolute(self.run.dir).into(),
            name: node.name().into(),
            pool: self.run.plans[id].pool,
            since: self.run.clock.monotonic(),
        };
        let job = match self.job(id) {
            Ok(job) => job,
            Err(diagnostic) => {
                self.running.insert(id, running);
                self.ended(id, Outcome::Failed(diagnostic));
                return None;
            }
        };
        if node.dynamic
            && let Some(outcome) = self.run.executor.look(&job)
        {
            self.running.insert(id, running);
            self.ended(id, outcome);
            self.looked.push(id);
            return None;
        }
        Some((id, job, running))
    }

    fn start(&mut self, id: usize, job: Job, running: Running) {
        if self.settle() {
            // An input of this one may be among what is gone.
            self.schedule.put_back(id);
            return;
        }
        self.running.insert(id, running);
        let name = job.name.clone();
        let (executor, sender) = (self.run.executor.clone(), self.sender.clone());
        let spawned = thread::Builder::new()
            .name(format!("build {name}"))
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let outcome = catch_unwind(AssertUnwindSafe(|| executor.execute(&job)))
                    .unwrap_or_else(|panic| Outcome::Failed(panicked(&job.name, panic.as_ref())));
                // Before the last message: what still holds the store when the program ends leaves its working directory there.
                drop((executor, job));
                let _gone = sender
                    .send(Message::Finished(id, Box::new(outcome)))
                    .is_err();
            });
        if let Err(e) = spawned {
            let failure = Diagnostic::error(
                "env-no-thread",
                Class::Machine,
                format!("cannot start a thread for `{name}`: {e}"),
            )
            .help("raise the limit of processes (`ulimit -u`), or build less at once with `-j`");
            self.ended(id, Outcome::Failed(Box::new(failure)));
        }
    }

    fn job(&self, id: usize) -> Result<Job, Box<Diagnostic>> {
        let (node, plan) = (&self.run.needed.nodes[id], &self.run.plans[id]);
        let drv = node.drv(self.run.dir)?;
        let mut inputs = OutputPaths::new();
        let mut pass_on = |input: &StorePath, made: &Made| {
            let paths = inputs.entry(input.clone()).or_default();
            paths.extend(
                made.iter()
                    .map(|(name, path)| (name.to_string(), path.clone())),
            );
        };
        for input in drv.input_drvs.keys() {
            if let Some(made) = self.run.needed.known.get(input) {
                pass_on(input, made);
            }
        }
        for need in node.needs() {
            pass_on(&self.run.needed.nodes[need].path, &self.done.made[need]);
        }
        Ok(Job {
            path: node.path.clone(),
            outputs: node.outputs.iter().map(ToString::to_string).collect(),
            inputs,
            shown: node.path.absolute(self.run.dir).into(),
            name: node.name().into(),
            pool: plan.pool,
            expected_ms: plan.expected_ms,
            forced: node.forced,
            place: self.place(id),
            drv,
        })
    }

    /// Gives the slot away while another process builds the same thing; what it made is looked for afterwards.
    fn wait(&mut self, id: usize, running: &Running, locked: Locked) {
        self.run.events.emit(Event::BuildWaiting {
            drv: running.shown.clone(),
            name: running.name.clone(),
            pid: locked.pid,
            command: locked.command.clone(),
        });
        self.schedule.park(id);
        let (executor, sender) = (self.run.executor.clone(), self.sender.clone());
        let (cancel, over) = (self.run.cancel.clone(), self.stop.clone());
        let (events, drv, name) = (
            self.run.events.clone(),
            running.shown.clone(),
            running.name.clone(),
        );
        let spawned = thread::Builder::new()
            .name(format!("wait {}", running.name))
            .spawn(move || {
                let stop = || cancel.is_stopping() || over.load(Ordering::SeqCst);
                executor.wait(&locked, &stop, &mut |line| {
                    events.emit(Event::BuildLog {
                        drv: drv.clone(),
                        name: name.clone(),
                        line: line.to_owned(),
                    });
                });
                drop((executor, events));
                let _gone = sender.send(Message::Unlocked(id)).is_err();
            });
        match spawned {
            Ok(waiting) => self.waiting.push(waiting),
            // Without a thread to wait on, the job itself asks again.
            Err(_) => self.schedule.unpark(id),
        }
    }
}

#[cfg(test)]
mod large;
#[cfg(test)]
mod tests;
