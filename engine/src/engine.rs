//! The engine: a graph and wishes go in, outputs and events come out.

mod prepare;
mod report;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::{NewBuild, Store};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::builder::{Pool, Registry};
use crate::cancel::Cancel;
use crate::cause::{Asked, Causes, History, causes, forced, is_first};
use crate::clock::{Clock, SystemClock};
use crate::diagnose::store_failed;
use crate::event::EventSink;
use crate::graph::{Graph, Wanted};
use crate::journal::Journal;
use crate::needed::{Needed, Node, answer_at_once, find_needed};
use crate::options::BuildOptions;
use crate::report::Flusher;
use crate::resolve::{OutputPaths, resolve};
use crate::run::{Done, NodePlan, Run, drive, schedule};
use crate::sandbox::Session;
use crate::substitute::Substituter;
use crate::work::{Worker, history_key};

use report::paths_of;

pub use report::BuildReport;

/// Durations of the past whose median is expected, the newest ones.
const MEDIAN_OF: usize = 10;

/// Builds derivations into one store.
#[derive(Clone)]
pub struct Engine {
    store: Store,
    builders: Registry,
    options: BuildOptions,
    events: EventSink,
    clock: Arc<dyn Clock>,
    substituters: Vec<Arc<dyn Substituter>>,
}

/// A derivation in a plan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Planned {
    /// The derivation.
    pub drv: StorePath,
    /// Its name.
    pub name: String,
    /// Milliseconds expected, if the past tells.
    pub expected_ms: Option<u64>,
    /// Those of the plan that must be done before.
    pub needs: Vec<StorePath>,
    /// Why it would be built.
    pub cause: Causes,
    /// Whether it may turn out to be there once its inputs are: content-addressed derivations stop at equal inputs.
    pub maybe: bool,
}

/// What a build would do.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Plan {
    /// Derivations to build, inputs before what needs them.
    pub to_build: Vec<Planned>,
    /// Derivations to fetch.
    pub to_fetch: Vec<Planned>,
    /// Derivations that are wanted or needed and are there.
    pub cached: Vec<StorePath>,
    /// Milliseconds until everything is done, if the past tells.
    pub eta_ms: Option<u64>,
}

impl Engine {
    /// Makes an engine.
    #[must_use]
    pub fn new(store: Store, builders: Registry, options: BuildOptions, events: EventSink) -> Self {
        Self {
            store,
            builders,
            options,
            events,
            clock: Arc::new(SystemClock::new()),
            substituters: Vec::new(),
        }
    }

    /// Makes it ask these mirrors for what is not there before it builds it, the most wanted first.
    #[must_use]
    pub fn with_substituters(mut self, substituters: Vec<Arc<dyn Substituter>>) -> Self {
        self.substituters = substituters;
        self
    }

    /// Returns the store that it builds into.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Returns how it may use the machine.
    #[must_use]
    pub fn options(&self) -> &BuildOptions {
        &self.options
    }

    pub(crate) fn builders(&self) -> &Registry {
        &self.builders
    }

    pub(crate) fn events(&self) -> &EventSink {
        &self.events
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        self.clock.as_ref()
    }

    /// Makes what runs single builds with other options; it registers nothing.
    pub(crate) fn worker_for_rebuild(
        &self,
        runtime: &Handle,
        options: BuildOptions,
        cancel: &Cancel,
    ) -> Result<Worker, Box<Diagnostic>> {
        Ok(Worker {
            store: self.store.clone(),
            builders: self.builders.clone(),
            options,
            events: self.events.clone(),
            cancel: cancel.clone(),
            runtime: runtime.clone(),
            clock: self.clock.clone(),
            lease: self.store.lease().map_err(store_failed)?,
            history: History::default(),
            mirrors: None,
            found: Mutex::default(),
            prepared: Arc::new(crate::sandbox::PreparedSets::new(self.store.clone())),
            states_kept: AtomicUsize::new(0),
            _session: Session::open(),
            flusher: Flusher::default(),
        })
    }

    /// Tells what a build would do, without doing it.
    ///
    /// # Errors
    /// When the graph is incomplete or circular, or the store fails.
    pub fn plan(&self, graph: &Graph, wanted: &[Wanted]) -> Result<Plan, Box<Diagnostic>> {
        self.store
            .snapshot(|| self.plan_at_once(graph, wanted))
            .map_err(store_failed)?
    }

    /// Finds what must be done for what is wanted, and how.
    fn look(
        &self,
        graph: &Graph,
        wanted: &[Wanted],
    ) -> Result<(Needed, Vec<NodePlan>), Box<Diagnostic>> {
        let needed = find_needed(
            &self.store,
            &self.builders,
            graph,
            wanted,
            self.options.rebuild,
        )?;
        let plans = self.node_plans(&needed)?;
        Ok((needed, plans))
    }

    fn plan_at_once(&self, graph: &Graph, wanted: &[Wanted]) -> Result<Plan, Box<Diagnostic>> {
        let (needed, plans) = self.look(graph, wanted)?;
        let schedule = schedule(&needed, &plans, self.options.jobs, self.options.io_jobs)?;
        let history = self.history(&needed, graph, wanted)?;
        let mut plan = Plan {
            eta_ms: self.eta(&plans, schedule.critical_path_ms()),
            ..Plan::default()
        };
        for id in schedule.order() {
            let (node, node_plan) = (&needed.nodes[id], &plans[id]);
            let drv = node.drv(self.store.store_dir())?;
            let cause = self.planned_cause(&needed, &history, node, &drv)?;
            let planned = Planned {
                drv: node.path.clone(),
                name: node.name().to_owned(),
                expected_ms: node_plan.expected_ms,
                needs: node
                    .needs()
                    .map(|id| needed.nodes[id].path.clone())
                    .collect(),
                // Only what a build of an input can turn out to be may save one.
                maybe: node.dynamic
                    && !node.needs.is_empty()
                    && cause.is_only_of_inputs(&drv.input_srcs),
                cause,
            };
            match node_plan.pool {
                Pool::Build => plan.to_build.push(planned),
                Pool::Io => plan.to_fetch.push(planned),
            }
        }
        plan.cached = needed.only_known().cloned().collect();
        Ok(plan)
    }

    /// What the causes of a run are told from.
    pub(crate) fn history(
        &self,
        needed: &Needed,
        graph: &Graph,
        wanted: &[Wanted],
    ) -> Result<History, Box<Diagnostic>> {
        let (project, attrs) = (&self.options.project, &self.options.attrs);
        History::of(&self.store, project, needed, graph, wanted, attrs).map_err(store_failed)
    }

    /// Tells why a derivation would be built. What its inputs will be is not always known yet: those that are still to be
    /// built count as changed.
    pub(crate) fn planned_cause(
        &self,
        needed: &Needed,
        history: &History,
        node: &Node,
        drv: &Derivation,
    ) -> Result<Causes, Box<Diagnostic>> {
        if node.forced {
            return Ok(forced(&self.store, history, &node.path));
        }
        if let Some(first) = is_first(&self.store, history, &node.path).map_err(store_failed)? {
            return Ok(first);
        }
        let dir = self.store.store_dir();
        let inputs = needed.expected_inputs(dir, node, drv)?;
        let resolved = resolve(dir, &node.path, drv, &inputs).map_err(|e| {
            Box::new(Diagnostic::error(
                "build-unresolved",
                Class::Bug,
                format!("`{}` cannot be resolved: {e}", node.name()),
            ))
        })?;
        let outputs: BTreeSet<String> = node.outputs.iter().map(ToString::to_string).collect();
        let asked = Asked {
            path: &node.path,
            drv,
            resolved: &resolved,
            inputs: &inputs,
            outputs: &outputs,
            history,
        };
        causes(&self.store, &asked).map_err(store_failed)
    }

    /// Builds what is wanted. Wishes that are there are answered at once, with nothing else touched. The graph is taken, so that
    /// the texts in it can go once they are in the store.
    ///
    /// In-process builders get the runtime that this is awaited on.
    pub async fn build(&self, graph: Graph, wanted: &[Wanted], cancel: Cancel) -> BuildReport {
        let since = self.clock.monotonic();
        let there = if self.options.rebuild {
            Ok(None)
        } else {
            answer_at_once(&self.store, &graph, wanted)
        };
        match there {
            Ok(None) => {}
            Ok(Some(paths)) => {
                self.note_targets(wanted, &paths);
                let mut done = Done {
                    paths,
                    ..Done::default()
                };
                done.counts.cached = done.paths.len();
                return self.report(&graph, wanted, done, since, None);
            }
            Err(diagnostic) => return self.failed(&graph, wanted, *diagnostic, since),
        }
        let (sender, receiver) = oneshot::channel();
        let (engine, wanted) = (self.clone(), wanted.to_vec());
        let runtime = Handle::current();
        let spawned = thread::Builder::new()
            .name("scheduler".to_owned())
            .spawn(move || {
                let report = engine.build_on(&runtime, graph, &wanted, &cancel, since);
                // Whoever gets the report may end the program: the store must be closed by then, if this was its last user.
                drop(engine);
                let _gone = sender.send(report).is_err();
            });
        if let Err(e) = spawned {
            let diagnostic = Diagnostic::error(
                "env-no-thread",
                Class::Machine,
                format!("cannot start the scheduler: {e}"),
            );
            return BuildReport {
                failures: vec![diagnostic],
                ..BuildReport::default()
            };
        }
        receiver.await.unwrap_or_else(|_| BuildReport {
            failures: vec![Diagnostic::error(
                "bug-panic",
                Class::Bug,
                "the scheduler panicked",
            )],
            ..BuildReport::default()
        })
    }

    fn build_on(
        &self,
        runtime: &Handle,
        graph: Graph,
        wanted: &[Wanted],
        cancel: &Cancel,
        since: Duration,
    ) -> BuildReport {
        let begun = self.store.journal_begin_build(&NewBuild {
            command: &self.options.command,
            project: &self.options.project,
            host: &self.options.host,
        });
        let journal = match begun {
            Ok(build) => Arc::new(Journal::new(
                self.store.clone(),
                build,
                self.options.attrs.clone(),
            )),
            Err(e) => return self.failed(&graph, wanted, *store_failed(e), since),
        };
        let mut engine = self.clone();
        engine.events = self.events.with_journal(journal.clone());
        let mut report = engine.build_journaled(runtime, graph, wanted, cancel, since);
        journal.end(if report.success() {
            "done"
        } else if report.cancelled {
            "interrupted"
        } else {
            "failed"
        });
        report.build = Some(journal.build());
        report
    }

    fn build_journaled(
        &self,
        runtime: &Handle,
        mut graph: Graph,
        wanted: &[Wanted],
        cancel: &Cancel,
        since: Duration,
    ) -> BuildReport {
        match self.prepare(runtime, &graph, wanted, cancel) {
            Err(diagnostic) => self.failed(&graph, wanted, *diagnostic, since),
            Ok((mut needed, plans, worker, taken)) => {
                self.note_begun(wanted);
                needed.are_kept(&self.store);
                graph.drvs.clear();
                graph.texts.clear();
                let graph = &graph;
                let mut done = drive(&Run {
                    dir: self.store.store_dir(),
                    graph,
                    needed: &needed,
                    plans: &plans,
                    build_slots: self.options.jobs,
                    io_slots: self.options.io_jobs,
                    keep_going: self.options.keep_going,
                    executor: Arc::new(worker),
                    events: &self.events,
                    clock: self.clock.as_ref(),
                    cancel,
                });
                done.paths = paths_of(wanted, &needed, &done.made);
                self.note_targets(wanted, &done.paths);
                let counts = &mut done.counts;
                // What came from mirrors looks as if it had been there.
                counts.cached = counts.cached.saturating_sub(taken.count);
                counts.fetched += taken.count;
                counts.fetched_bytes += taken.bytes;
                let stopped = cancel.is_stopping().then(|| cancel.exit_code());
                self.report(graph, wanted, done, since, stopped)
            }
        }
    }

    /// Notes what the targets that are there are now: the next form of each is compared with it, also when it was not built here.
    fn note_targets(&self, wanted: &[Wanted], paths: &OutputPaths) {
        let there = wanted.iter().filter(|want| paths.contains_key(&want.drv));
        let ended = there.clone().map(|want| (self.asked_as(want), &want.drv));
        if let Err(error) = self.store.end_targets(&self.options.project, ended) {
            tracing::warn!(%error, "what the targets were made of is kept");
        }
        let targets = there.filter_map(|want| {
            let attr = self.options.attrs.get(&want.drv)?;
            Some((attr.as_str(), &want.drv))
        });
        if let Err(error) = self.store.note_targets(&self.options.project, targets) {
            // A build is worth more than its journal.
            tracing::warn!(%error, "the targets are not noted");
        }
    }

    /// Notes what the run is for before anything of it is built: whatever ends it, a collection leaves what it has made until then.
    fn note_begun(&self, wanted: &[Wanted]) {
        let targets = wanted.iter().map(|want| (self.asked_as(want), &want.drv));
        if let Err(error) = self.store.begin_targets(&self.options.project, targets) {
            // As on a full disk: the build may free some.
            tracing::warn!(%error, "the run is not noted");
        }
    }

    /// By what a target is known from run to run.
    fn asked_as<'a>(&'a self, want: &'a Wanted) -> &'a str {
        let attr = self.options.attrs.get(&want.drv);
        attr.map_or(want.drv.as_str(), String::as_str)
    }

    fn node_plans(&self, needed: &Needed) -> Result<Vec<NodePlan>, Box<Diagnostic>> {
        let mut plans = Vec::with_capacity(needed.nodes.len());
        for node in &needed.nodes {
            let mut past = self
                .store
                .duration_history(history_key(node.name()), &node.system)
                .map_err(store_failed)?;
            past.truncate(MEDIAN_OF);
            past.sort_unstable();
            plans.push(NodePlan {
                pool: node.pool,
                slot: node.slot,
                expected_ms: past.get(past.len() / 2).copied(),
            });
        }
        Ok(plans)
    }

    /// Returns the expected time of a run: the longest way or the work by slots, if at least half of it is known.
    fn eta(&self, plans: &[NodePlan], critical_ms: u64) -> Option<u64> {
        let known: Vec<u64> = plans.iter().filter_map(|p| p.expected_ms).collect();
        if plans.is_empty() || known.len() * 2 < plans.len() {
            return None;
        }
        let slots = u64::try_from(self.options.jobs.max(1)).unwrap_or(1);
        Some(critical_ms.max(known.iter().sum::<u64>() / slots))
    }
}
