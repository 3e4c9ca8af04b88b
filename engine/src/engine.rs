//! The engine: a graph and wishes go in, outputs and events come out.

use std::collections::{BTreeMap, BTreeSet};
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::{BuildId, NewBuild, Store};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::builder::{Pool, Registry};
use crate::cancel::Cancel;
use crate::cause::{Asked, Causes, History, causes, forced, is_first};
use crate::clock::{Clock, SystemClock, millis};
use crate::diagnose::{store_failed, wrong_system};
use crate::event::{Event, EventSink};
use crate::features;
use crate::graph::{Graph, Wanted, wanted_outputs};
use crate::journal::Journal;
use crate::needed::{Made, Needed, Node, answer_at_once, find_needed, load};
use crate::options::BuildOptions;
use crate::report::Flusher;
use crate::resolve::{OutputPaths, resolve};
use crate::run::{Counts, Done, NodePlan, Run, drive, schedule};
use crate::sandbox::{Session, start_early};
use crate::source_drvs;
use crate::substitute::{Mirrors, Substituter, Taken};
use crate::work::{Worker, history_key, systems};

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
    /// The exit code, if stopping decides it.
    pub stopped_code: Option<i32>,
    /// The number of the build in the journal; none when there was nothing to do.
    pub build: Option<BuildId>,
}

impl BuildReport {
    /// Tells whether everything that was wanted is there.
    #[must_use]
    pub fn success(&self) -> bool {
        self.failures.is_empty() && !self.cancelled
    }

    /// Returns the exit code: 0, 128 and a signal, or that of the problems; those of failed builds are or-ed as Nix does.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        if self.cancelled {
            return self
                .stopped_code
                .unwrap_or_else(|| i32::from(Class::Interrupted.exit_code()));
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

    fn plan_at_once(&self, graph: &Graph, wanted: &[Wanted]) -> Result<Plan, Box<Diagnostic>> {
        let needed = find_needed(
            &self.store,
            &self.builders,
            graph,
            wanted,
            self.options.rebuild,
        )?;
        let plans = self.node_plans(&needed)?;
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

    fn prepare(
        &self,
        runtime: &Handle,
        graph: &Graph,
        wanted: &[Wanted],
        cancel: &Cancel,
    ) -> Result<(Needed, Vec<NodePlan>, Worker, Taken), Box<Diagnostic>> {
        // The lease comes before the look at what is there: what is found must not be collected meanwhile.
        let lease = self.store.lease().map_err(store_failed)?;
        let found = || {
            let needed = find_needed(
                &self.store,
                &self.builders,
                graph,
                wanted,
                self.options.rebuild,
            )?;
            let plans = self.node_plans(&needed)?;
            Ok::<_, Box<Diagnostic>>((needed, plans))
        };
        let (mut needed, mut plans) = self.store.snapshot(found).map_err(store_failed)??;
        let mut taken = Taken::default();
        let mut mirrors = None;
        if !needed.nodes.is_empty() {
            mirrors = Mirrors::of(&self.store, &self.events, cancel, &self.substituters);
        }
        if let Some(mirrors) = &mirrors {
            taken = self.take_from_mirrors(mirrors, &needed, graph, wanted)?;
            if taken.count > 0 {
                (needed, plans) = self.store.snapshot(found).map_err(store_failed)??;
            }
        }
        self.check_systems(graph, &needed)?;
        self.check_features(graph, &needed)?;
        if needed.has_step {
            // Before anything is fetched for a step that cannot run.
            crate::probe::require_step_ids()?;
        }
        let session = Session::open();
        if needed.has_program {
            start_early(&self.options.sos_exe);
        }
        let limited = self.options.processes_max.is_some_and(|count| count > 0);
        if limited
            && (needed.has_program || needed.has_step)
            && let Some(warning) = crate::probe::unenforced_processes()
        {
            self.events.emit(Event::Diagnostic {
                diagnostic: Box::new(warning),
            });
        }
        let nodes = needed.nodes.iter().map(|node| &node.path);
        // The derivations, too: a collection forgets those without a result, and their logs.
        let hold: Vec<StorePath> = needed
            .known_paths()
            .chain(nodes)
            .chain(needed.sources.keys())
            .cloned()
            .collect();
        lease.hold(&hold).map_err(store_failed)?;
        source_drvs::add(&self.store, graph, &needed)?;
        self.still_valid(&needed)?;
        // What is written down and what is looked up have nothing to do with each other.
        let history = thread::scope(|scope| {
            let kept = scope.spawn(|| self.keep_derivations(&needed));
            let history = self
                .store
                .snapshot(|| self.history(&needed, graph, wanted))
                .map_err(store_failed);
            let kept = kept.join().unwrap_or_else(|panic| resume_unwind(panic));
            kept.and(history?)
        })?;
        let count = |pool| plans.iter().filter(|p| p.pool == pool).count();
        let critical = schedule(&needed, &plans, 1, 1)?.critical_path_ms();
        self.events.emit(Event::Plan {
            build: count(Pool::Build),
            fetch: count(Pool::Io) + taken.count,
            cached: needed.cached().saturating_sub(taken.count),
            eta_ms: self.eta(&plans, critical),
            jobs: self.options.jobs,
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
            history,
            mirrors,
            flusher: Flusher::default(),
            found: Mutex::default(),
            prepared: Arc::new(crate::sandbox::PreparedSets::new(self.store.clone())),
            _session: session,
        };
        Ok((needed, plans, worker, taken))
    }

    /// Writes down what is going to be built, and what its sources hold: logs, traces and later questions refer to it.
    fn keep_derivations(&self, needed: &Needed) -> Result<(), Box<Diagnostic>> {
        if let Err(error) = self.store.note_sources(needed.sources.keys()) {
            // A build is worth more than its journal.
            tracing::warn!(%error, "the files of the sources are not noted");
        }
        let dir = self.store.store_dir();
        let mut texts = Vec::with_capacity(needed.nodes.len());
        for node in needed.nodes.iter().filter(|node| !node.is_kept()) {
            texts.push((&node.path, node.text(dir)?));
        }
        self.store
            .put_drvs(texts.iter().map(|(path, text)| (*path, &**text)))
            .map_err(store_failed)
    }

    /// Refuses sources that are not there, and what a collection took before the lease held it.
    fn still_valid(&self, needed: &Needed) -> Result<(), Box<Diagnostic>> {
        for (path, user) in &needed.sources {
            if self.store.is_present(path).map_err(store_failed)? {
                continue;
            }
            return Err(Box::new(
                Diagnostic::error(
                    "build-missing-source",
                    Class::Other,
                    format!(
                        "source `{}` of `{}` is not in the store",
                        path.absolute(self.store.store_dir()),
                        needed.nodes[*user as usize].name()
                    ),
                )
                .help("evaluate the recipe again, which adds its sources"),
            ));
        }
        for path in needed.known_paths() {
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
    fn check_systems(&self, graph: &Graph, needed: &Needed) -> Result<(), Box<Diagnostic>> {
        let nodes = || {
            needed
                .nodes
                .iter()
                .filter(|node| !node.dynamic && !self.options.can_build(&node.system))
        };
        let wrong: Vec<(String, String)> = nodes()
            .map(|node| (node.name().to_owned(), node.system.to_string()))
            .collect();
        let places = nodes().filter_map(|node| graph.places.get(&node.path).cloned());
        match wrong_system(&wrong, &systems(&self.options)) {
            Some(diagnostic) if !self.options.keep_going => {
                Err(Box::new(diagnostic.with_labels(places)))
            }
            _ => Ok(()),
        }
    }

    /// Refuses at once what needs another machine, as [`Self::check_systems`] does.
    fn check_features(&self, graph: &Graph, needed: &Needed) -> Result<(), Box<Diagnostic>> {
        if self.options.keep_going {
            return Ok(());
        }
        let here = &self.options.system_features;
        let mut asked = Vec::new();
        let mut places = Vec::new();
        for node in needed
            .nodes
            .iter()
            .filter(|node| node.demanding && !node.dynamic)
        {
            let features = features::required(&*node.drv(self.store.store_dir())?);
            if features.iter().all(|feature| here.contains(feature)) {
                continue;
            }
            asked.push((node.name().to_owned(), features));
            places.extend(graph.places.get(&node.path).cloned());
        }
        match features::missing(&asked, here) {
            Some(diagnostic) => Err(Box::new(diagnostic.with_labels(places))),
            None => Ok(()),
        }
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
        self.report(graph, wanted, done, since, None)
    }

    fn report(
        &self,
        graph: &Graph,
        wanted: &[Wanted],
        done: Done,
        since: Duration,
        stopped: Option<i32>,
    ) -> BuildReport {
        let mut report = BuildReport {
            results: self.results(graph, wanted, &done.paths),
            failures: done.failures,
            counts: done.counts,
            elapsed: self.options.spent + self.clock.monotonic().saturating_sub(since),
            cancelled: stopped.is_some(),
            stopped_code: stopped,
            build: None,
        };
        // A stop that came when everything was done changes nothing.
        let counts = report.counts;
        if report.failures.is_empty() && counts.skipped + counts.stopped + counts.failed == 0 {
            report.cancelled = false;
        }
        let dir = self.store.store_dir();
        // What is asked for twice is one result.
        let mut told = BTreeSet::new();
        self.events.emit(Event::Summary {
            built: counts.built,
            fetched: counts.fetched,
            fetched_bytes: counts.fetched_bytes,
            cached: counts.cached,
            failed: counts.failed,
            stopped: counts.stopped,
            skipped: counts.skipped,
            elapsed_ms: millis(report.elapsed),
            exit_code: report.exit_code(),
            outputs: report
                .results
                .iter()
                .flat_map(|(_, outputs)| outputs.values())
                .filter(|path| told.insert(*path))
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

/// Returns the outputs of what was wanted, as far as they are there.
fn paths_of(wanted: &[Wanted], needed: &Needed, made: &[Made]) -> OutputPaths {
    let wanted: BTreeSet<&StorePath> = wanted.iter().map(|want| &want.drv).collect();
    let built = needed.nodes.iter().map(|node| &node.path).zip(made);
    let mut paths = OutputPaths::new();
    for (drv, made) in needed.known.iter().chain(built) {
        if wanted.contains(drv) && !made.is_empty() {
            let outputs = paths.entry(drv.clone()).or_default();
            outputs.extend(
                made.iter()
                    .map(|(name, path)| (name.to_string(), path.clone())),
            );
        }
    }
    paths
}
