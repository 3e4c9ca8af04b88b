//! Runs the engine under a display.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use sos_builders::fetch::{Download, Fetcher};
use sos_builders::mirror::{Mirror, TrustedKey};
use sos_engine::{
    BuildOptions, BuildReport, Cancel, Engine, Event, EventSink, Graph, Substituter, Wanted, Whose,
};
use sos_formats::derivation::{Derivation, Method, Output};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::flake_ref::{self, Attr};
use sos_formats::hash::{Hash, HashAlgo};
use sos_formats::store_path::StorePath;
use sos_lang::FetchRequest;
use sos_recipes::LockReport;

use crate::args::ProgressMode;
use crate::failure::Failure;
use crate::interrupt;
use crate::render::progress;
use crate::session::Session;
use crate::{undeclared, unpinned};

/// The largest file that an evaluation may fetch without a hash.
const MAX_UNPINNED_BYTES: u64 = 1 << 30;

/// What the flags of a build say beyond the configuration.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunOptions {
    pub(crate) jobs: Option<usize>,
    pub(crate) keep_going: bool,
    pub(crate) rebuild: bool,
    pub(crate) keep_failed: bool,
    /// Watch what bootstrap steps look for in vain.
    pub(crate) watch_steps: bool,
    pub(crate) timeout_secs: Option<u64>,
    pub(crate) silent_timeout_secs: Option<u64>,
    pub(crate) max_log_bytes: Option<u64>,
    pub(crate) offline: bool,
    /// Ask no mirror for results.
    pub(crate) no_substitute: bool,
    /// What the run has taken so far.
    pub(crate) spent: Duration,
    /// As the journal shows it.
    pub(crate) command: String,
    /// The directory of the project that is built.
    pub(crate) project: String,
    /// The attribute paths by which derivations are asked for.
    pub(crate) attrs: BTreeMap<StorePath, String>,
    /// The command that pins anew what is built, for advice; empty when there is none in particular.
    pub(crate) relock: String,
    /// The locks that the evaluation has changed.
    pub(crate) locks: Vec<LockReport>,
}

/// The systems that builds on this machine can be for, its own first.
pub(crate) fn systems(session: &Session) -> Vec<String> {
    let mut all = vec![session.config.system.clone()];
    if session.config.system == "x86_64-linux" {
        all.push("i686-linux".to_owned());
    }
    all
}

/// An engine over the store of the session.
///
/// # Errors
/// When the store cannot be opened.
pub(crate) fn engine(
    session: &Session,
    options: &RunOptions,
    events: EventSink,
) -> Result<Engine, Failure> {
    let config = &session.config;
    let mut build = BuildOptions::new(&config.system, Session::exe());
    build.jobs = options.jobs.unwrap_or(config.jobs);
    build.cores = config.cores;
    build.keep_going = options.keep_going;
    build.rebuild = options.rebuild;
    build.keep_failed = options.keep_failed;
    build.watch_steps = options.watch_steps;
    build.whose = Some(Whose::new(undeclared::whose));
    build.keep_failed_states = config.keep_failed_states;
    build.timeout_secs = options.timeout_secs.or(config.timeout_secs);
    build.silent_timeout_secs = options.silent_timeout_secs.or(config.silent_timeout_secs);
    build.max_log_bytes = options.max_log_bytes.or(config.max_log_bytes);
    if let Some(features) = &config.system_features {
        build.system_features = features.iter().cloned().collect();
    }
    build.memory_max_bytes = config.memory_max_bytes;
    build.processes_max = config.pids_max;
    build.sandbox_paths.clone_from(&config.sandbox_paths);
    build.offline = options.offline;
    build.spent = options.spent;
    build.command.clone_from(&options.command);
    build.project.clone_from(&options.project);
    build.attrs.clone_from(&options.attrs);
    build.host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    build.impure_env.clone_from(&session.env.all);
    build.extra_platforms.extend(systems(session).split_off(1));
    let registry = sos_builders::registry(sos_builders::Config {
        mirrors: session.mirrors(),
        offline: options.offline,
        registries: session.registries(),
        relock: options.relock.clone(),
    });
    let engine = Engine::new(session.store()?.clone(), registry, build, events);
    if options.offline || options.no_substitute || config.substituters.is_empty() {
        return Ok(engine);
    }
    let keys = config.trusted_keys.iter().map(|key| TrustedKey::parse(key));
    let keys = keys.collect::<Result<Vec<_>, _>>()?;
    let fetcher = fetcher(session, false);
    let mirror = |url: &String| -> Arc<dyn Substituter> {
        Arc::new(Mirror::new(url, fetcher.clone(), keys.clone()))
    };
    Ok(engine.with_substituters(config.substituters.iter().map(mirror).collect()))
}

/// The events of one run from its first moment to its last, and the display that shows them.
pub(crate) struct Stream {
    events: EventSink,
    display: progress::Display,
    since: Instant,
}

impl Stream {
    /// Begins a run.
    #[allow(
        clippy::disallowed_methods,
        reason = "elapsed time is shown to a person"
    )]
    pub(crate) fn start(session: &Session, logs: bool) -> Self {
        let (events, receiver) = EventSink::channel();
        let display = progress::spawn(
            receiver,
            progress::Options {
                terminal: session.terminal,
                style: session.style(),
                logs,
                json: session.global.json,
            },
        );
        Self {
            events,
            display,
            since: Instant::now(),
        }
    }

    /// Tells what happens.
    pub(crate) fn emit(&self, event: Event) {
        self.events.emit(event);
    }

    /// The time since the run began.
    pub(crate) fn spent(&self) -> Duration {
        self.since.elapsed()
    }

    /// Ends a run that came to nothing before the engine was asked. Who reads the stream gets the problems and a summary there;
    /// everybody else gets the problems from whoever gets the failure.
    pub(crate) fn fail(self, session: &Session, failure: Failure) -> Failure {
        let stream = session.terminal.progress == ProgressMode::Json && !failure.shown;
        if stream {
            for diagnostic in &failure.diagnostics {
                self.emit(Event::Diagnostic {
                    diagnostic: Box::new(diagnostic.clone()),
                });
            }
            let spent = u64::try_from(self.spent().as_millis()).unwrap_or(u64::MAX);
            self.emit(Event::failed_before_building(
                i32::from(failure.code()),
                spent,
            ));
        }
        self.finish();
        if stream {
            failure.already_shown()
        } else {
            failure
        }
    }

    fn finish(self) {
        // The display ends when the last sender is gone.
        drop(self.events);
        self.display.finish();
    }
}

/// Builds, with Ctrl-C handled.
///
/// # Errors
/// `interrupted` after a signal; the problems of the build stand in the report and were shown already.
pub(crate) fn build(
    session: &Session,
    graph: Graph,
    wanted: &[Wanted],
    options: &RunOptions,
    stream: Stream,
) -> Result<BuildReport, Failure> {
    let made =
        engine(session, options, stream.events.clone()).and_then(|engine| Ok((engine, runtime()?)));
    let (engine, runtime) = match made {
        Ok(made) => made,
        Err(failure) => return Err(stream.fail(session, failure)),
    };
    let fresh = unpinned::fresh(&options.locks, &graph, engine.store().store_dir());
    let seen = Arc::new(AtomicU8::new(0));
    let draws = session.terminal.progress == ProgressMode::Tty;
    let streamed = session.terminal.progress == ProgressMode::Json;
    let events = stream.events.clone();
    // Who reads the stream finds the reason in it; everybody else gets it last, from whoever gets the failure.
    let told = move |signal| {
        if streamed {
            events.emit(Event::Diagnostic {
                diagnostic: Failure::interrupted(signal).into_first(),
            });
        }
    };
    let report = runtime.block_on(async {
        let cancel = Cancel::new();
        let first = interrupt::First::StartsNoMore;
        let watch = interrupt::watch(cancel.clone(), seen.clone(), first, draws, told);
        let watch = tokio::spawn(watch);
        let report = engine.build(graph, wanted, cancel).await;
        watch.abort();
        // It holds an end of the stream, which must be gone before the display can end.
        let _stopped = watch.await.is_err();
        report
    });
    let store = engine.store().clone();
    drop(engine);
    stream.finish();
    fresh.take_back(session, &store, &report);
    match seen.load(Ordering::SeqCst) {
        0 => Ok(report),
        signal if streamed => Err(Failure::interrupted(signal).already_shown()),
        signal => Err(Failure::interrupted(signal)),
    }
}

/// Builds outputs while a recipe is being evaluated (import from derivation); quiet unless it fails.
///
/// # Errors
/// The first problem.
pub(crate) fn realise(
    session: &Session,
    graph: &Graph,
    wanted: &[(StorePath, String)],
    offline: bool,
) -> Result<Vec<StorePath>, Box<Diagnostic>> {
    let options = RunOptions {
        offline,
        command: "import from derivation".to_owned(),
        ..RunOptions::default()
    };
    let run = || -> Result<BuildReport, Failure> {
        let engine = engine(session, &options, EventSink::null())?;
        let asked: Vec<Wanted> = wanted
            .iter()
            .map(|(drv, output)| Wanted {
                drv: drv.clone(),
                outputs: vec![output.clone()],
            })
            .collect();
        Ok(runtime()?.block_on(engine.build(graph.clone(), &asked, Cancel::new())))
    };
    let report = run().map_err(Failure::into_first)?;
    if let Some(first) = report.failures.into_iter().next() {
        return Err(Box::new(first));
    }
    report
        .results
        .iter()
        .zip(wanted)
        .map(|((_, outputs), (drv, output))| {
            outputs.get(output).cloned().ok_or_else(|| {
                Box::new(Diagnostic::error(
                    "build-no-output",
                    Class::BuildFailed,
                    format!(
                        "`{}` did not make its output `{output}`",
                        Derivation::name_from_path(drv)
                    ),
                ))
            })
        })
        .collect()
}

/// Fetches what `builtins.fetchurl` or `builtins.fetchTarball` asks for.
///
/// # Errors
/// Why it could not be fetched.
pub(crate) fn fetch(
    session: &Session,
    request: &FetchRequest,
    offline: bool,
    locked: bool,
) -> Result<StorePath, Box<Diagnostic>> {
    let Some(hash) = &request.sha256 else {
        if locked {
            return Err(Box::new(
                Diagnostic::error(
                    "lock-missing",
                    Class::Recipe,
                    format!(
                        "`{}` is not pinned by a hash, and `--locked` takes nothing else",
                        request.url
                    ),
                )
                .help("give its hash as `sha256`, or use `sos.fetchurl`, which `sos.lock` pins"),
            ));
        }
        return fetch_unpinned(session, request, offline);
    };
    let method = if request.unpack {
        Method::Recursive
    } else {
        Method::Flat
    };
    let attributes = serde_json::json!({
        "name": request.name,
        "urls": [request.url],
        "unpack": request.unpack,
        "outputHash": request.written,
    });
    let mut drv = Derivation {
        outputs: [(
            "out".to_owned(),
            Output::Fixed {
                method,
                hash: *hash,
            },
        )]
        .into(),
        input_drvs: BTreeMap::new(),
        input_srcs: std::collections::BTreeSet::new(),
        system: "builtin".to_owned(),
        builder: b"builtin:fetch".to_vec(),
        args: Vec::new(),
        env: [(b"__json".to_vec(), attributes.to_string().into_bytes())].into(),
    };
    let store_dir = session.store_dir().map_err(Failure::into_first)?;
    let broken = |e: &dyn std::fmt::Display| {
        Box::new(Diagnostic::error(
            "fetch-bad-name",
            Class::Recipe,
            format!("`{}` cannot name a store object: {e}", request.name),
        ))
    };
    let out = drv
        .output_path(&store_dir, &request.name, "out")
        .ok_or_else(|| broken(&"no path"))?;
    drv.env
        .insert(b"out".to_vec(), out.absolute(&store_dir).into_bytes());
    let path = drv
        .drv_path(&store_dir, &request.name)
        .map_err(|e| broken(&e))?;
    let mut graph = Graph::new();
    graph.insert(path.clone(), drv);
    realise(session, &graph, &[(path, "out".to_owned())], offline)?
        .pop()
        .ok_or_else(|| broken(&"nothing was fetched"))
}

/// A fetcher for what an evaluation asks for.
pub(crate) fn fetcher(session: &Session, offline: bool) -> Fetcher {
    Fetcher::new(session.mirrors(), offline)
}

/// The tree in an archive, with the hash that would pin it.
fn unpack_unpinned(
    session: &Session,
    request: &FetchRequest,
    offline: bool,
) -> Result<StorePath, Box<Diagnostic>> {
    let tarball = [("type", "tarball"), ("url", request.url.as_str())];
    let trees = crate::flake::trees(session, offline).map_err(Failure::into_first)?;
    let fetched = trees.fetch(&sos_builders::tree::Request {
        attrs: tarball
            .map(|(k, v)| (k.to_owned(), Attr::Str(v.to_owned())))
            .into(),
        name: request.name.clone(),
        base: None,
    })?;
    let hash = flake_ref::text(&fetched.attrs, "narHash").unwrap_or_default();
    crate::render::output::message(&format!(
        "warning: `{}` is not pinned; the hash of what is in it is {hash}",
        request.url
    ));
    Ok(fetched.path)
}

fn fetch_unpinned(
    session: &Session,
    request: &FetchRequest,
    offline: bool,
) -> Result<StorePath, Box<Diagnostic>> {
    if request.unpack {
        return unpack_unpinned(session, request, offline);
    }
    let fetcher = fetcher(session, offline);
    let bytes = fetcher.bytes(std::slice::from_ref(&request.url), MAX_UNPINNED_BYTES, None)?;
    let found = Hash::of(HashAlgo::Sha256, &bytes);
    let run = || -> Result<StorePath, Failure> {
        let store = session.store()?;
        let dir = store.temp_dir("fetch")?;
        let file = dir.path().join("file");
        std::fs::write(&file, &bytes)
            .map_err(|e| Failure::io(&format!("cannot write `{}`", file.display()), &e))?;
        Ok(store.add_path(&file, &request.name, Method::Flat, None)?)
    };
    let path = run().map_err(Failure::into_first)?;
    crate::render::output::message(&format!(
        "warning: `{}` is not pinned; its hash is {}",
        request.url,
        found.to_sri()
    ));
    Ok(path)
}

/// The runtime that builds and fetches run on.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| Failure::io("cannot start the runtime", &e))
}
