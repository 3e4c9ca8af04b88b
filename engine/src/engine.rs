//! The engine: a graph and wishes go in, outputs and events come out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic, Label};
use sos_formats::store_path::StorePath;
use sos_store::{BuildId, Store};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::builder::{Pool, Registry};
use crate::cancel::Cancel;
use crate::cause::{Asked, Causes, causes};
use crate::choice::pool_of;
use crate::clock::{Clock, SystemClock, millis};
use crate::diagnose::{store_failed, wrong_system};
use crate::event::{Event, EventSink};
use crate::graph::{Graph, Wanted, wanted_outputs};
use crate::journal::Journal;
use crate::needed::{Needed, Node, answer_at_once, find_needed, load};
use crate::options::BuildOptions;
use crate::report::Flusher;
use crate::resolve::{OutputPaths, is_dynamic, resolve};
use crate::run::{Counts, Done, NodePlan, Run, drive, schedule};
use crate::work::{Worker, history_key, systems};

/// Builds derivations into one store.
#[derive(Clone)]
pub struct Engine {
    store: Store,
    builders: Registry,
    options: BuildOptions,
    events: EventSink,
    clock: Arc<dyn Clock>,
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

/// What a build gave.
#[derive(Clone, Default, Debug)]
pub struct BuildReport {
    /// The wanted derivations in the order asked, each with the wanted outputs that are there.
    pub results: Vec<(StorePath, BTreeMap<String, StorePath>)>,
    /// Problems; each was also sent as an event.
    pub failures: Vec<Diagnostic>,
    /// What was counted.
    pub counts: Counts,
    /// How long it took.
    pub elapsed: Duration,
    /// Stopping was asked for.
    pub cancelled: bool,
    /// The number of the build in the journal; none when there was nothing to do.
    pub build: Option<BuildId>,
}

impl BuildReport {
    /// Tells whether everything that was wanted is there.
    #[must_use]
    pub fn success(&self) -> bool {
        self.failures.is_empty() && !self.cancelled
    }

    /// Returns the exit code: 0, 130, or that of the problems; those of failed builds are or-ed as Nix does.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        if self.cancelled {
            return i32::from(Class::Interrupted.exit_code());
        }
        let codes = self.failures.iter().map(|d| i32::from(d.class.exit_code()));
        let of_builds = codes.clone().filter(|code| (100..=104).contains(code));
        // What is wrong with the machine or with sos itself explains more than what failed because of it.
        codes
            .clone()
            .find(|code| !(100..=104).contains(code))
            .unwrap_or_else(|| of_builds.fold(0, |all, code| all | code))
    }
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
        }
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

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Tells what a build would do, without doing it.
    ///
    /// # Errors
    /// When the graph is incomplete or circular, or the store fails.
    pub fn plan(&self, graph: &Graph, wanted: &[Wanted]) -> Result<Plan, Box<Diagnostic>> {
        let needed = find_needed(&self.store, graph, wanted)?;
        let plans = self.node_plans(&needed)?;
        let schedule = schedule(&needed, &plans, self.options.jobs, self.options.io_jobs)?;
        let beside = needed.met();
        let mut plan = Plan {
            eta_ms: self.eta(&plans, schedule.critical_path_ms()),
            ..Plan::default()
        };
        for id in schedule.order() {
            let (node, node_plan) = (&needed.nodes[id], &plans[id]);
            let cause = self.planned_cause(&needed, &beside, node)?;
            let planned = Planned {
                drv: node.path.clone(),
                name: Derivation::name_from_path(&node.path).to_owned(),
                expected_ms: node_plan.expected_ms,
                needs: node
                    .needs
                    .iter()
                    .map(|id| needed.nodes[*id].path.clone())
                    .collect(),
                // Only what a build of an input can turn out to be may save one.
                maybe: is_dynamic(&node.drv)
                    && !node.needs.is_empty()
                    && cause.is_only_of_inputs(&node.drv.input_srcs),
                cause,
            };
            match node_plan.pool {
                Pool::Build => plan.to_build.push(planned),
                Pool::Io => plan.to_fetch.push(planned),
            }
        }
        let nodes: BTreeSet<&StorePath> = needed.nodes.iter().map(|n| &n.path).collect();
        plan.cached = needed
            .known
            .keys()
            .filter(|path| !nodes.contains(path))
            .cloned()
            .collect();
        Ok(plan)
    }

    /// Tells why a derivation would be built. What its inputs will be is not always known yet: those that are still to be
    /// built count as changed.
    fn planned_cause(
        &self,
        needed: &Needed,
        beside: &BTreeSet<StorePath>,
        node: &Node,
    ) -> Result<Causes, Box<Diagnostic>> {
        let dir = self.store.store_dir();
        let inputs = needed.expected_inputs(dir, node);
        let unresolved = |e: &dyn std::fmt::Display| {
            Box::new(Diagnostic::error(
                "build-unresolved",
                Class::Bug,
                format!(
                    "`{}` cannot be resolved: {e}",
                    Derivation::name_from_path(&node.path)
                ),
            ))
        };
        let inputs = inputs.map_err(|e| unresolved(&e))?;
        let resolved = resolve(dir, &node.path, &node.drv, &inputs).map_err(|e| unresolved(&e))?;
        let asked = Asked {
            path: &node.path,
            drv: &node.drv,
            resolved: &resolved,
            outputs: &node.outputs,
            beside,
            project: &self.options.project,
        };
        causes(&self.store, &asked).map_err(store_failed)
    }

    /// Builds what is wanted. Wishes that are there are answered at once, with nothing else touched.
    ///
    /// In-process builders get the runtime that this is awaited on.
    pub async fn build(&self, graph: &Graph, wanted: &[Wanted], cancel: Cancel) -> BuildReport {
        let since = self.clock.monotonic();
        match answer_at_once(&self.store, graph, wanted) {
            Ok(None) => {}
            Ok(Some(paths)) => {
                let mut done = Done {
                    paths,
                    ..Done::default()
                };
                done.counts.cached = done.paths.len();
                return self.report(graph, wanted, done, since, false);
            }
            Err(diagnostic) => return self.failed(graph, wanted, *diagnostic, since),
        }
        let (sender, receiver) = oneshot::channel();
        let (engine, graph, wanted) = (self.clone(), graph.clone(), wanted.to_vec());
        let runtime = Handle::current();
        let spawned = thread::Builder::new()
            .name("scheduler".to_owned())
            .spawn(move || {
                let report = engine.build_on(&runtime, &graph, &wanted, &cancel, since);
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
        graph: &Graph,
        wanted: &[Wanted],
        cancel: &Cancel,
        since: Duration,
    ) -> BuildReport {
        let journal = match self.store.journal_begin(&self.options.command) {
            Ok(build) => Arc::new(Journal::new(self.store.clone(), build)),
            Err(e) => return self.failed(graph, wanted, *store_failed(e), since),
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
        graph: &Graph,
        wanted: &[Wanted],
        cancel: &Cancel,
        since: Duration,
    ) -> BuildReport {
        match self.prepare(runtime, graph, wanted, cancel) {
            Err(diagnostic) => self.failed(graph, wanted, *diagnostic, since),
            Ok((needed, plans, worker)) => {
                let done = drive(&Run {
                    dir: self.store.store_dir(),
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
                self.report(graph, wanted, done, since, cancel.is_cancelled())
            }
        }
    }

    fn prepare(
        &self,
        runtime: &Handle,
        graph: &Graph,
        wanted: &[Wanted],
        cancel: &Cancel,
    ) -> Result<(Needed, Vec<NodePlan>, Worker), Box<Diagnostic>> {
        // The lease comes before the look at what is there: what is found must not be collected meanwhile.
        let lease = self.store.lease().map_err(store_failed)?;
        let needed = find_needed(&self.store, graph, wanted)?;
        self.check_systems(&needed)?;
        if needed
            .nodes
            .iter()
            .any(|n| n.drv.builder == b"builtin:step")
        {
            // Before anything is fetched for a step that cannot run.
            crate::probe::require_step_ids()?;
        }
        let plans = self.node_plans(&needed)?;
        let mut hold: Vec<StorePath> = needed
            .known
            .values()
            .flat_map(BTreeMap::values)
            .cloned()
            .collect();
        for node in &needed.nodes {
            // Itself, too: a collection forgets derivations without a result, and their logs.
            hold.push(node.path.clone());
            hold.extend(node.drv.input_srcs.iter().cloned());
        }
        lease.hold(&hold).map_err(store_failed)?;
        self.still_valid(&needed)?;
        self.keep_derivations(&needed)?;
        let count = |pool| plans.iter().filter(|p| p.pool == pool).count();
        let critical = schedule(&needed, &plans, 1, 1)?.critical_path_ms();
        self.events.emit(Event::Plan {
            build: count(Pool::Build),
            fetch: count(Pool::Io),
            cached: needed.cached(),
            eta_ms: self.eta(&plans, critical),
        });
        let worker = Worker {
            store: self.store.clone(),
            builders: self.builders.clone(),
            options: self.options.clone(),
            events: self.events.clone(),
            cancel: cancel.clone(),
            runtime: runtime.clone(),
            clock: self.clock.clone(),
            lease,
            beside: needed.met(),
            flusher: Flusher::default(),
        };
        Ok((needed, plans, worker))
    }

    /// Writes down what is going to be built: logs, traces and later questions refer to it.
    fn keep_derivations(&self, needed: &Needed) -> Result<(), Box<Diagnostic>> {
        let dir = self.store.store_dir();
        let mut texts = Vec::with_capacity(needed.nodes.len());
        for node in &needed.nodes {
            let name = Derivation::name_from_path(&node.path);
            let text = node.drv.to_aterm(dir, name).map_err(|e| {
                Box::new(Diagnostic::error(
                    "drv-malformed",
                    Class::Other,
                    format!("derivation `{name}` cannot be written: {e}"),
                ))
            })?;
            texts.push((&node.path, text));
        }
        self.store
            .put_drvs(texts.iter().map(|(path, text)| (*path, text.as_slice())))
            .map_err(store_failed)
    }

    /// Refuses sources that are not there, and what a collection took before the lease held it.
    fn still_valid(&self, needed: &Needed) -> Result<(), Box<Diagnostic>> {
        let mut asked = BTreeSet::new();
        for node in &needed.nodes {
            for path in &node.drv.input_srcs {
                if !asked.insert(path) || self.store.is_present(path).map_err(store_failed)? {
                    continue;
                }
                return Err(Box::new(
                    Diagnostic::error(
                        "build-missing-source",
                        Class::Other,
                        format!(
                            "source `{}` of `{}` is not in the store",
                            path.absolute(self.store.store_dir()),
                            Derivation::name_from_path(&node.path)
                        ),
                    )
                    .help("evaluate the recipe again, which adds its sources"),
                ));
            }
        }
        for path in needed.known.values().flat_map(BTreeMap::values) {
            if !self.store.is_valid(path).map_err(store_failed)? {
                return Err(Box::new(
                    Diagnostic::error(
                        "build-collected",
                        Class::Other,
                        format!(
                            "`{}` was removed by a garbage collection as the build began",
                            path.absolute(self.store.store_dir())
                        ),
                    )
                    .help("run the command again"),
                ));
            }
        }
        Ok(())
    }

    /// Refuses at once what cannot be built here; content-addressed ones may still turn out to be there.
    fn check_systems(&self, needed: &Needed) -> Result<(), Box<Diagnostic>> {
        let nodes = || {
            needed
                .nodes
                .iter()
                .filter(|node| !is_dynamic(&node.drv) && !self.options.can_build(&node.drv.system))
        };
        let places: Vec<Label> = nodes().filter_map(|node| node.place.clone()).collect();
        let wrong: Vec<(String, String)> = nodes()
            .map(|node| {
                (
                    Derivation::name_from_path(&node.path).to_owned(),
                    node.drv.system.clone(),
                )
            })
            .collect();
        match wrong_system(&wrong, &systems(&self.options)) {
            Some(diagnostic) if !self.options.keep_going => {
                Err(Box::new(diagnostic.with_labels(places)))
            }
            _ => Ok(()),
        }
    }

    fn node_plans(&self, needed: &Needed) -> Result<Vec<NodePlan>, Box<Diagnostic>> {
        let mut plans = Vec::with_capacity(needed.nodes.len());
        for node in &needed.nodes {
            let name = Derivation::name_from_path(&node.path);
            let mut past = self
                .store
                .duration_history(history_key(name), &node.drv.system)
                .map_err(store_failed)?;
            past.sort_unstable();
            plans.push(NodePlan {
                pool: pool_of(&self.builders, &node.drv, name),
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

    fn failed(
        &self,
        graph: &Graph,
        wanted: &[Wanted],
        diagnostic: Diagnostic,
        since: Duration,
    ) -> BuildReport {
        self.events.emit(Event::Diagnostic {
            diagnostic: Box::new(diagnostic.clone()),
        });
        let done = Done {
            failures: vec![diagnostic],
            ..Done::default()
        };
        self.report(graph, wanted, done, since, false)
    }

    fn report(
        &self,
        graph: &Graph,
        wanted: &[Wanted],
        done: Done,
        since: Duration,
        cancelled: bool,
    ) -> BuildReport {
        let mut report = BuildReport {
            results: self.results(graph, wanted, &done.paths),
            failures: done.failures,
            counts: done.counts,
            elapsed: self.options.spent + self.clock.monotonic().saturating_sub(since),
            cancelled,
            build: None,
        };
        // A stop that came when everything was done changes nothing.
        let counts = report.counts;
        if report.failures.is_empty() && counts.skipped == 0 && counts.failed == 0 {
            report.cancelled = false;
        }
        let dir = self.store.store_dir();
        self.events.emit(Event::Summary {
            built: counts.built,
            fetched: counts.fetched,
            fetched_bytes: counts.fetched_bytes,
            cached: counts.cached,
            failed: counts.failed,
            skipped: counts.skipped,
            elapsed_ms: millis(report.elapsed),
            exit_code: report.exit_code(),
            outputs: report
                .results
                .iter()
                .flat_map(|(_, outputs)| outputs.values())
                .map(|path| path.absolute(dir))
                .collect(),
        });
        report
    }

    fn results(
        &self,
        graph: &Graph,
        wanted: &[Wanted],
        paths: &OutputPaths,
    ) -> Vec<(StorePath, BTreeMap<String, StorePath>)> {
        let mut results = Vec::new();
        for want in wanted {
            let (Some(found), Ok(drv)) =
                (paths.get(&want.drv), load(&self.store, graph, &want.drv))
            else {
                continue;
            };
            let asked = wanted_outputs(want, &drv);
            let outputs: BTreeMap<String, StorePath> = found
                .iter()
                .filter(|(output, _)| asked.contains(*output))
                .map(|(output, path)| (output.clone(), path.clone()))
                .collect();
            results.push((want.drv.clone(), outputs));
        }
        results
    }
}
