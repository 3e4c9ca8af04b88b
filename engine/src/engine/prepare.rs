//! What comes before the first build: the look at what is needed, and everything that is refused at once.

use std::borrow::Cow;
use std::panic::resume_unwind;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::thread;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use tokio::runtime::Handle;

use super::Engine;
use crate::builder::Pool;
use crate::cancel::Cancel;
use crate::diagnose::{store_failed, wrong_system};
use crate::event::Event;
use crate::features;
use crate::graph::{Graph, Wanted};
use crate::needed::Needed;
use crate::nix_shape::refuse_wishes;
use crate::report::Flusher;
use crate::run::{NodePlan, schedule};
use crate::sandbox::{Session, start_early};
use crate::source_drvs;
use crate::substitute::{Mirrors, Taken};
use crate::work::{Worker, systems};

impl Engine {
    pub(super) fn prepare(
        &self,
        runtime: &Handle,
        graph: &Graph,
        wanted: &[Wanted],
        cancel: &Cancel,
    ) -> Result<(Needed, Vec<NodePlan>, Worker, Taken), Box<Diagnostic>> {
        // The lease comes before the look at what is there: what is found must not be collected meanwhile.
        let lease = self.store.lease().map_err(store_failed)?;
        let found = || self.look(graph, wanted);
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
        self.check_wishes(graph, &needed)?;
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
            let kept = scope.spawn(|| self.keep_derivations(&needed, graph));
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
            states_kept: AtomicUsize::new(0),
            _session: session,
        };
        Ok((needed, plans, worker, taken))
    }

    /// Writes down what is going to be built, and what its sources hold: logs, traces and later questions refer to it.
    fn keep_derivations(&self, needed: &Needed, graph: &Graph) -> Result<(), Box<Diagnostic>> {
        if let Err(error) = self.store.note_sources(needed.sources.keys()) {
            // A build is worth more than its journal.
            tracing::warn!(%error, "the files of the sources are not noted");
        }
        let dir = self.store.store_dir();
        let mut texts = Vec::with_capacity(needed.nodes.len());
        for node in needed.nodes.iter().filter(|node| !node.is_kept()) {
            texts.push((&node.path, node.text(dir)?));
        }
        // And what is not built anew: whoever looks into a derivation later, by its name, finds those that it was made of.
        let known = needed.known.keys();
        texts.extend(
            known.filter_map(|path| Some((path, Cow::Borrowed(&**graph.texts.get(path)?)))),
        );
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

    /// Refuses before anything is built what cannot be built anywhere.
    fn check_wishes(&self, graph: &Graph, needed: &Needed) -> Result<(), Box<Diagnostic>> {
        if self.options.keep_going {
            return Ok(());
        }
        for node in needed.nodes.iter().filter(|node| node.wishing) {
            let drv = node.drv(self.store.store_dir())?;
            refuse_wishes(node.name(), &drv, &self.options.sandbox_paths).map_err(|refused| {
                let place = graph.places.get(&node.path).cloned();
                Box::new(refused.with_labels(place))
            })?;
        }
        Ok(())
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
}
