//! From targets to a graph of derivations.

mod job;
mod missing;
mod steps;

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use sos_engine::{Graph, Wanted};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_lang::{Arguments, Evaluator, Value};
use sos_recipes::{LockMode, LockReport};

use crate::args::{LockFlags, TargetArgs};
use crate::cache::{Cache, Cached};
use crate::failure::Failure;
use crate::host::StoreHost;
use crate::pins::NetworkPins;
use crate::render::output;
use crate::session::Session;
use crate::target::Target;
use job::{Job, Record};
pub(crate) use steps::{any_tree, asked};

/// How to evaluate.
#[derive(Debug, Clone)]
pub(crate) struct Mode {
    /// What may happen to the locks.
    pub(crate) lock: LockMode,
    /// Nothing is added to the store.
    pub(crate) dry: bool,
    /// No network.
    pub(crate) offline: bool,
    /// Locks that changed are written.
    pub(crate) write_locks: bool,
    /// The locks are all that is wanted: flakes need no output to look at.
    pub(crate) only_lock: bool,
    /// What is evaluated is to be built on this machine.
    pub(crate) builds_here: bool,
    /// All derivations are looked at, also below what the store has.
    pub(crate) whole_graph: bool,
    /// A function that a target leads to is called also when the command line gives it nothing.
    pub(crate) calls: bool,
}

impl Mode {
    /// How an evaluation goes that may end in a build, here or elsewhere.
    pub(crate) fn of(flags: LockFlags) -> Self {
        let lock = if flags.locked {
            LockMode::Locked
        } else {
            LockMode::Create
        };
        Self {
            lock,
            dry: false,
            offline: flags.offline,
            write_locks: true,
            only_lock: false,
            builds_here: false,
            whole_graph: false,
            calls: true,
        }
    }

    /// How a value is asked for: a function that is no recipe is one.
    pub(crate) fn showing(flags: LockFlags) -> Self {
        Self {
            calls: false,
            ..Self::of(flags)
        }
    }

    /// With the whole graph, also where all that is asked for is in the store.
    pub(crate) fn with_whole_graph(self) -> Self {
        Self {
            whole_graph: true,
            ..self
        }
    }

    /// How a build on this machine evaluates.
    pub(crate) fn building(flags: LockFlags) -> Self {
        Self {
            builds_here: true,
            ..Self::of(flags)
        }
    }

    /// How a plan evaluates: as a build, but nothing is written.
    pub(crate) fn planning(flags: LockFlags) -> Self {
        Self {
            dry: true,
            write_locks: false,
            ..Self::of(flags)
        }
    }
}

/// What evaluation gave for every target.
pub(crate) struct Evaluated<T> {
    /// One value a target, in their order.
    pub(crate) values: Vec<T>,
    /// The derivations that were made.
    pub(crate) graph: Graph,
    /// The locks that changed.
    pub(crate) locks: Vec<LockReport>,
    /// Problems of recipes that a caller went on after.
    pub(crate) further: Vec<Diagnostic>,
}

/// What is done with the value of a target.
type Each<'a, T> = dyn Fn(&Evaluator, Value, &Target) -> Result<T, Box<Diagnostic>> + Sync + 'a;

/// What a target stands for in the store.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    /// Outputs of a derivation; none named means the default one.
    Derivation {
        drv: StorePath,
        outputs: Vec<String>,
    },
    /// A store object that is there.
    Object(StorePath),
}

impl Item {
    /// What the engine is asked for; nothing for what is there.
    pub(crate) fn wanted(&self) -> Option<Wanted> {
        match self {
            Self::Derivation { drv, outputs } => Some(Wanted {
                drv: drv.clone(),
                outputs: outputs.clone(),
            }),
            Self::Object(_) => None,
        }
    }
}

/// The targets of a command line.
///
/// # Errors
/// As [`Target::parse`].
pub(crate) fn targets(session: &Session, args: &TargetArgs) -> Result<Vec<Target>, Failure> {
    let store_dir = session.store_dir()?;
    let attrs: Vec<&str> = if args.targets.is_empty() {
        vec![""]
    } else {
        args.targets.iter().map(String::as_str).collect()
    };
    // `-A x` is one more attribute of the file or expression, or the attribute of every target.
    let attrs: Vec<&str> = match (args.file.is_some() || args.expression.is_some(), &args.attr) {
        (true, more) if !more.is_empty() => {
            let all = args.targets.iter().chain(more);
            all.map(String::as_str).collect()
        }
        _ => attrs,
    };
    let parsed: Result<Vec<_>, _> = match (&args.file, &args.expression) {
        (Some(file), _) => attrs
            .iter()
            .map(|attr| Target::of_file(file, attr))
            .collect(),
        (_, Some(expression)) => attrs
            .iter()
            .map(|attr| Ok(Target::expression(expression, attr)))
            .collect(),
        _ if args.attr.is_empty() => attrs
            .iter()
            .map(|text| Target::parse(text, store_dir.as_str()))
            .collect(),
        _ => attrs
            .iter()
            .flat_map(|text| args.attr.iter().map(move |attr| (text, attr)))
            .map(|(text, attr)| Ok(Target::parse(text, store_dir.as_str())?.below(attr)))
            .collect(),
    };
    Ok(parsed?)
}

/// Evaluates every target and hands its value to `each`, which runs on the evaluator's own thread.
///
/// # Errors
/// Every problem of the first target that fails.
pub(crate) fn values<T: Send>(
    session: &Session,
    args: &TargetArgs,
    targets: &[Target],
    mode: &Mode,
    each: impl Fn(&Evaluator, Value, &Target) -> Result<T, Box<Diagnostic>> + Send + Sync,
) -> Result<Evaluated<T>, Failure> {
    let job = Job::new(session, args, mode)?;
    sos_lang::with_big_stack(|| job.run(targets, &each, None))
}

/// As [`values`], but answered from the cache of evaluations when nothing that the evaluation reads has changed. `asked` says
/// what `each` makes of a value.
///
/// # Errors
/// As [`values`].
pub(crate) fn cached<T: Cached + Send + Sync>(
    session: &Session,
    args: &TargetArgs,
    targets: &[Target],
    mode: &Mode,
    asked: &str,
    each: impl Fn(&Evaluator, Value, &Target) -> Result<T, Box<Diagnostic>> + Send + Sync,
) -> Result<Evaluated<T>, Failure> {
    let mut job = Job::new(session, args, mode)?;
    job.with_graph = T::WITH_GRAPH;
    // An evaluation that updates locks is there to ask the world anew.
    let usable = matches!(mode.lock, LockMode::Create | LockMode::Locked);
    let wanted = session.config.eval_cache && !args.no_eval_cache && usable;
    let cache = if wanted && !targets.is_empty() {
        let words = [
            format!("{args:?}"),
            format!("{targets:?}"),
            format!(
                "{:?} {} {} {} {}",
                mode.lock, mode.offline, mode.only_lock, mode.builds_here, mode.calls
            ),
            asked.to_owned(),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        Cache::open(session, &words, &job.here, mode.dry)
    } else {
        None
    };
    let Some(cache) = cache else {
        return sos_lang::with_big_stack(|| job.run(targets, &each, None));
    };
    if let Some(hit) = cache.find::<T>(session, &job.host()?)
        && let Some(graph) = job.graph_of(&cache, &hit)?
    {
        tracing::debug!("the evaluation is that of before");
        return Ok(Evaluated {
            values: hit.values,
            graph,
            locks: Vec::new(),
            further: Vec::new(),
        });
    }
    sos_lang::with_big_stack(|| {
        let record = Record {
            recorder: RefCell::default(),
            programs: RefCell::new(cache.programs_before()),
        };
        let mut evaluated = job.run(targets, &each, Some(&record))?;
        evaluated.graph.changed = cache.changed();
        if let Some(recorder) = record.recorder.take()
            && evaluated.further.is_empty()
        {
            cache.keep(&recorder, &evaluated.values, &evaluated.graph);
        }
        Ok(evaluated)
    })
}

/// An evaluator with its world, for a person who asks one thing after the other.
pub(crate) struct Interactive {
    pub(crate) evaluator: Evaluator,
    pub(crate) host: Rc<StoreHost>,
    /// What functions get that are not called with anything else.
    pub(crate) arguments: Arguments,
    /// Where relative paths start.
    pub(crate) here: PathBuf,
}

/// Hands an evaluator to `talk`, on a thread of its own.
///
/// # Errors
/// What `talk` fails with; locks that cannot be written at the end.
pub(crate) fn interactive(
    session: &Session,
    args: &TargetArgs,
    mode: &Mode,
    talk: impl FnOnce(&Interactive) -> Result<(), Failure> + Send,
) -> Result<(), Failure> {
    let job = Job::new(session, args, mode)?;
    sos_lang::with_big_stack(move || {
        let pins = NetworkPins::new(
            job.session.mirrors(),
            job.session.registries(),
            mode.offline,
            session.global.quiet,
        );
        let recipes = job.recipes(job.here.clone(), Arc::new(pins));
        let host = Rc::new(job.host()?);
        let pure = args.access.pure_eval;
        let options = job.options(&recipes, pure, vec![job.here.clone()])?;
        let evaluator = Evaluator::new(host.clone(), options);
        let arguments = job.arguments(&evaluator)?;
        talk(&Interactive {
            evaluator,
            host,
            arguments,
            here: job.here.clone(),
        })?;
        report_locks(session, &recipes.finish()?);
        Ok(())
    })
}

/// Evaluates every target to what is to be built.
///
/// # Errors
/// As [`values`]; `target-not-buildable` for a value that is no derivation and holds none.
pub(crate) fn items(
    session: &Session,
    args: &TargetArgs,
    targets: &[Target],
    mode: &Mode,
) -> Result<Evaluated<Vec<Item>>, Failure> {
    cached(
        session,
        args,
        targets,
        mode,
        "items",
        |evaluator, value, target| {
            let found = evaluator.derivations(value)?;
            if found.is_empty() {
                return Err(Box::new(
                    Diagnostic::error(
                        "target-not-buildable",
                        Class::Recipe,
                        match evaluator.type_of(value)? {
                            kind @ ("set" | "list") => {
                                format!("`{}` is a {kind} without a derivation in it", target.text)
                            }
                            kind => {
                                format!("`{}` is no derivation: its type is {kind}", target.text)
                            }
                        },
                    )
                    .note("what can be built is a derivation, or a set or list of them"),
                ));
            }
            found
                .into_iter()
                .map(|found| {
                    let outputs = match &target.output {
                        None => found.outputs.into_iter().take(1).collect(),
                        Some(all) if all == "*" => found.outputs,
                        Some(some) => chosen(some, &found.name, &found.outputs)?,
                    };
                    Ok(Item::Derivation {
                        drv: found.drv_path,
                        outputs,
                    })
                })
                .collect()
        },
    )
}

/// The outputs that a target names, `dev` or `man,dev`, each once.
///
/// # Errors
/// `target-no-output`
pub(crate) fn chosen(
    named: &str,
    name: &str,
    outputs: &[String],
) -> Result<Vec<String>, Box<Diagnostic>> {
    let mut chosen: Vec<String> = Vec::new();
    for one in named.split(',') {
        if !outputs.iter().any(|output| output == one) {
            return Err(Box::new(
                Diagnostic::error(
                    "target-no-output",
                    Class::Recipe,
                    format!("`{name}` has no output `{one}`"),
                )
                .note(format!("its outputs are {}", outputs.join(", ")))
                .suggest(one, outputs.iter().map(String::as_str)),
            ));
        }
        if chosen.iter().all(|output| output != one) {
            chosen.push(one.to_owned());
        }
    }
    Ok(chosen)
}

/// Says which locks were written.
pub(crate) fn report_locks(session: &Session, locks: &[LockReport]) {
    if session.global.quiet || session.global.json {
        return;
    }
    for lock in locks {
        let here = std::env::current_dir().unwrap_or_default();
        let path = lock
            .path
            .strip_prefix(&here)
            .unwrap_or(&lock.path)
            .display();
        output::message(&format!(
            "{} {path}",
            if lock.created { "wrote" } else { "changed" }
        ));
        for change in &lock.changes {
            output::message(&format!("  {}", change.summary()));
            for line in change.details() {
                output::message(&format!("    {line}"));
            }
        }
    }
}
