//! From targets to a graph of derivations.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use sos_engine::{Graph, Wanted};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_lang::{Evaluator, Host, Options, Plain, Value};
use sos_recipes::{Context, LockMode, LockReport};
use sos_store::Store;

use crate::args::{LockFlags, ProgressMode, TargetArgs};
use crate::cache::{Cache, Cached, Hit, Recorder};
use crate::failure::Failure;
use crate::flake;
use crate::host::StoreHost;
use crate::pins::NetworkPins;
use crate::render::output;
use crate::run;
use crate::search_path;
use crate::session::Session;
use crate::target::{Source, Target};

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
    let job = Job::new(session, args, mode)?;
    // An evaluation that updates locks is there to ask the world anew.
    let usable = matches!(mode.lock, LockMode::Create | LockMode::Locked);
    let wanted = session.config.eval_cache && !args.no_eval_cache && usable;
    let cache = if wanted && !targets.is_empty() {
        let words = [
            format!("{args:?}"),
            format!("{targets:?}"),
            format!(
                "{:?} {} {} {}",
                mode.lock, mode.offline, mode.only_lock, mode.builds_here
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
        let recorder = RefCell::new(None);
        let evaluated = job.run(targets, &each, Some(&recorder))?;
        if let Some(recorder) = recorder.take()
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
    pub(crate) arguments: BTreeMap<String, Value>,
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
            job.session.auth(),
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
                        Some(one) if found.outputs.contains(one) => vec![one.clone()],
                        Some(one) => {
                            return Err(Box::new(
                                Diagnostic::error(
                                    "target-no-output",
                                    Class::Recipe,
                                    format!("`{}` has no output `{one}`", found.name),
                                )
                                .note(format!("its outputs are {}", found.outputs.join(", ")))
                                .suggest(one, found.outputs.iter().map(String::as_str)),
                            ));
                        }
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

/// Refuses an attribute that no rootfs recipe has before its packages are looked for.
fn known_attribute(target: &Target) -> Result<(), Box<Diagnostic>> {
    let first = target.attr.split('.').next().unwrap_or_default();
    let first = first.trim_matches('"');
    if first.is_empty() || sos_recipes::ROOTFS_ATTRS.contains(&first) {
        return Ok(());
    }
    let shown = [
        "rootfs", "oci", "ostree", "bootc", "disk", "ext4", "erofs", "squashfs", "packages",
    ];
    let problem = Diagnostic::error(
        "eval-attr-missing",
        Class::Recipe,
        format!("attribute `{first}` of `{}` not found", target.text),
    )
    .note(format!("a rootfs recipe has `{}`", shown.join("`, `")))
    .suggest(first, shown.into_iter());
    Err(Box::new(problem))
}

/// Names of a set that are listed.
const NAMES_SHOWN: usize = 10;

/// Says of an attribute that is missing where it was looked for and what is there. Nothing when it is there after all.
fn missing(
    evaluator: &Evaluator,
    whole: Value,
    target: &Target,
    arguments: &BTreeMap<String, Value>,
) -> Option<Box<Diagnostic>> {
    let parts = sos_lang::attr_path(&target.attr)?;
    let mut set = evaluator.auto_call(whole, arguments).ok()?;
    let mut way: Vec<&str> = Vec::new();
    for part in &parts {
        // An element of a list is named by its number: what the language says of it is enough.
        let names = evaluator.attr_names(set).ok()?;
        if let Some(value) = evaluator.attr(set, part).ok()? {
            set = evaluator.auto_call(value, arguments).ok()?;
            way.push(part);
            continue;
        }
        let file = match &target.source {
            Source::Nix(file) => {
                let here = std::env::current_dir().unwrap_or_default();
                let shown = file.strip_prefix(&here).unwrap_or(file);
                format!(" of `{}`", shown.display())
            }
            Source::Expression(_) => " of the expression".to_owned(),
            _ => String::new(),
        };
        let place = if way.is_empty() {
            file
        } else {
            format!(" of `{}`{}", way.join("."), file.replacen(" of", " in", 1))
        };
        let problem = Diagnostic::error(
            "eval-attr-missing",
            Class::Recipe,
            format!("attribute `{part}`{place} not found"),
        );
        let total = names.len();
        let listed = listed(evaluator, set, &names);
        let note = match total - listed.len() {
            _ if total == 0 => "the set is empty".to_owned(),
            0 => format!("it has `{}`", listed.join("`, `")),
            more => format!("it has `{}` and {more} more", listed.join("`, `")),
        };
        return Some(Box::new(
            problem
                .note(note)
                .suggest(part, names.iter().map(String::as_str)),
        ));
    }
    None
}

/// The first names of a set, those of derivations before the others.
fn listed(evaluator: &Evaluator, set: Value, names: &[String]) -> Vec<String> {
    let is_drv = |name: &String| {
        // A large set is not evaluated for the sake of a message.
        names.len() <= NAMES_LOOKED_AT
            && evaluator
                .attr(set, name)
                .ok()
                .flatten()
                .and_then(|value| evaluator.attr(value, "type").ok().flatten())
                .and_then(|kind| evaluator.to_str(kind).ok())
                .is_some_and(|(text, _)| text == b"derivation")
    };
    let (drvs, others): (Vec<&String>, Vec<&String>) = names.iter().partition(|name| is_drv(name));
    let all = drvs.into_iter().chain(others);
    all.take(NAMES_SHOWN).cloned().collect()
}

/// A set with more names is not looked into.
const NAMES_LOOKED_AT: usize = 200;

/// Everything that one evaluation needs; plain data, so that it can move to the evaluator's thread.
struct Job<'a> {
    session: Session,
    store: Store,
    args: &'a TargetArgs,
    mode: &'a Mode,
    here: PathBuf,
}

impl<'a> Job<'a> {
    fn new(session: &'a Session, args: &'a TargetArgs, mode: &'a Mode) -> Result<Self, Failure> {
        let here = std::env::current_dir()
            .map_err(|e| Failure::io("cannot tell the current directory", &e))?;
        Ok(Self {
            session: session.clone(),
            store: session.store()?.clone(),
            args,
            mode,
            here,
        })
    }

    /// The recipes of a directory.
    fn recipes(&self, project_dir: PathBuf, pins: Arc<NetworkPins>) -> sos_recipes::Session {
        sos_recipes::Session::new(Context {
            project_dir,
            shown_from: self.here.clone(),
            mode: self.mode.lock.clone(),
            lock_command: format!("sos lock{}", self.args.words()),
            pins,
            systems: if self.mode.builds_here {
                run::systems(&self.session)
            } else {
                Vec::new()
            },
        })
    }

    /// Evaluates. With a place for one, everything that is read goes through a recorder.
    fn run<T>(
        &self,
        targets: &[Target],
        each: &Each<'_, T>,
        record: Option<&RefCell<Option<Rc<Recorder>>>>,
    ) -> Result<Evaluated<T>, Failure> {
        let mut out = Evaluated {
            values: Vec::new(),
            graph: Graph::new(),
            locks: Vec::new(),
            further: Vec::new(),
        };
        // Targets of one directory share an evaluator, and with it the lock and everything evaluated once.
        let mut groups: BTreeMap<(PathBuf, bool), Vec<usize>> = BTreeMap::new();
        for (i, target) in targets.iter().enumerate() {
            let directory = target.directory().unwrap_or_else(|| self.here.clone());
            groups
                .entry((directory, self.is_pure(target)))
                .or_default()
                .push(i);
        }
        let mut values: Vec<Option<T>> = targets.iter().map(|_| None).collect();
        let global = &self.session.global;
        let quiet = global.quiet || global.json || global.progress == Some(ProgressMode::Json);
        let pins = Arc::new(NetworkPins::new(
            self.session.mirrors(),
            self.session.auth(),
            self.mode.offline,
            quiet,
        ));
        let host = Rc::new(self.host()?);
        let recorder = record.map(|place| {
            let recorder = Rc::new(Recorder::new(host.clone(), self.store.clone()));
            place.replace(Some(recorder.clone()));
            recorder
        });
        let world: Rc<dyn Host> = match &recorder {
            Some(recorder) => recorder.clone(),
            None => host.clone(),
        };
        for ((directory, pure), members) in groups {
            let roots = members.iter().filter_map(|i| targets[*i].directory());
            let roots: Vec<PathBuf> = roots.collect();
            let recipes = self.recipes(directory, pins.clone());
            let options = self.options(&recipes, pure, roots)?;
            let evaluator = Evaluator::new(world.clone(), options);
            for i in members {
                let target = &targets[i];
                let value = self
                    .value(&evaluator, target)
                    .and_then(|value| each(&evaluator, value, target));
                match value {
                    Ok(value) => values[i] = Some(value),
                    Err(first) => {
                        let mut all = vec![*first];
                        all.extend(recipes.take_further_problems());
                        return Err(Failure::from(all));
                    }
                }
            }
            out.further.extend(recipes.take_further_problems());
            if self.mode.write_locks {
                out.locks.extend(recipes.finish()?);
            }
            if let Some(recorder) = &recorder {
                match recipes.locks_read() {
                    None => recorder.refuse("its locks are not written"),
                    Some(locks) => locks
                        .into_iter()
                        .for_each(|(path, text)| recorder.note_text(&path, text.as_deref())),
                }
            }
            let texts = host.graph()?.texts;
            let place = |drv: &StorePath| Some((drv.clone(), evaluator.drv_position(drv)?));
            out.graph.places.extend(texts.keys().filter_map(place));
            let parts = |drv: &StorePath| (drv.clone(), evaluator.drv_attributes(drv));
            let parts = texts.keys().map(parts).filter(|(_, all)| !all.is_empty());
            out.graph.parts.extend(parts);
            out.graph.texts.extend(texts);
        }
        out.values = values.into_iter().flatten().collect();
        Ok(out)
    }

    /// The graph for a hit: when everything that is asked for is in the store, what was asked for is enough. Nothing when more
    /// is needed than was kept.
    fn graph_of<T: Cached>(&self, cache: &Cache, hit: &Hit<T>) -> Result<Option<Graph>, Failure> {
        let wanted: Vec<Wanted> = hit.values.iter().flat_map(T::wanted).collect();
        if sos_engine::all_there(&self.store, &hit.roots, &wanted)? {
            return Ok(Some(hit.roots.clone()));
        }
        Ok(cache.graph(hit))
    }

    /// Flakes are pure unless it is said otherwise, everything else when it is said.
    fn is_pure(&self, target: &Target) -> bool {
        let access = &self.args.access;
        let flake = matches!(target.source, Source::Flake(_));
        access.pure_eval || (flake && !access.impure)
    }

    fn host(&self) -> Result<StoreHost, Failure> {
        let offline = self.mode.offline;
        let locked = self.mode.lock == LockMode::Locked;
        let realise = {
            let session = self.session.clone();
            move |graph: &Graph, wanted: &[(StorePath, String)]| {
                run::realise(&session, graph, wanted, offline)
            }
        };
        let session = self.session.clone();
        let fetch =
            move |request: &sos_lang::FetchRequest| run::fetch(&session, request, offline, locked);
        let host = StoreHost::new(
            self.store.clone(),
            &self.session.config.system,
            &self.session.env,
            self.mode.dry,
            Box::new(realise),
            Box::new(fetch),
        );
        Ok(host.with_trees(flake::trees(&self.session, offline)?))
    }

    fn options(
        &self,
        recipes: &sos_recipes::Session,
        pure: bool,
        roots: Vec<PathBuf>,
    ) -> Result<Options, Failure> {
        let from_env = self.session.env.nix_path.iter();
        let from_env = from_env.flat_map(|p| search_path::split(p));
        let nix_path = self
            .args
            .include
            .iter()
            .cloned()
            .chain(from_env)
            .filter(|e| !e.is_empty())
            .map(|e| search_path::entry(&e, &self.here))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Failure::io("cannot resolve a search path", &e))?;
        let access = &self.args.access;
        let uris = access.allowed_uris.iter();
        let mut options = Options {
            nix_path,
            pure,
            restricted: access.restrict_eval,
            // Restricted evaluation reads the search path and nothing else, as in Nix.
            roots: if pure { roots } else { Vec::new() },
            allowed_uris: uris
                .flat_map(|u| u.split_whitespace().map(str::to_owned))
                .collect(),
            extensions: vec![recipes.extension()],
            ..Options::default()
        };
        self.args.language.apply(&mut options);
        Ok(options)
    }

    /// The value of a target: its file, called with its arguments, and the attribute in it.
    fn value(&self, evaluator: &Evaluator, target: &Target) -> Result<Value, Box<Diagnostic>> {
        let whole = match &target.source {
            Source::Nix(file) => evaluator.eval_file(file)?,
            Source::Rootfs(file) => {
                known_attribute(target)?;
                let expression = sos_recipes::entry_expression(file).unwrap_or_default();
                evaluator.eval_str(&expression, sos_recipes::ENTRY_NAME, &self.here)?
            }
            Source::Bootstrap(dir) => return self.bootstrap(evaluator, dir, target),
            Source::Flake(reference) => {
                return flake::value(&self.session, evaluator, reference, target, self.mode);
            }
            Source::Expression(text) => evaluator.eval_str(text, "expression", &self.here)?,
            Source::StorePath(path) => {
                return Err(Box::new(Diagnostic::error(
                    "target-is-a-path",
                    Class::Usage,
                    format!("`{path}` is a store path, not a recipe"),
                )));
            }
            Source::Derivation(file) => {
                return Err(Box::new(Diagnostic::error(
                    "target-is-a-path",
                    Class::Usage,
                    format!("`{}` is a derivation, not a recipe", file.display()),
                )));
            }
        };
        let arguments = self.arguments(evaluator)?;
        let whole = evaluator.auto_call(whole, &arguments)?;
        if target.attr.is_empty() {
            return Ok(whole);
        }
        evaluator
            .select_with(whole, &target.attr, &arguments)
            .map_err(|why| match why.code {
                "eval-attr-missing" => missing(evaluator, whole, target, &arguments).unwrap_or(why),
                _ => why,
            })
    }

    /// The value of a target in a tree of bootstrap steps.
    fn bootstrap(
        &self,
        evaluator: &Evaluator,
        dir: &Path,
        target: &Target,
    ) -> Result<Value, Box<Diagnostic>> {
        let settings = &self.args.set;
        let expression = sos_recipes::bootstrap_expression(dir, settings).unwrap_or_default();
        let whole = evaluator.eval_str(&expression, sos_recipes::ENTRY_NAME, &self.here)?;
        if target.attr.is_empty() {
            return Ok(whole);
        }
        let names = |set: &str| -> Result<Vec<String>, Box<Diagnostic>> {
            match evaluator.attr(whole, set)? {
                Some(value) => evaluator.attr_names(value),
                None => Ok(Vec::new()),
            }
        };
        let commands = if target.attr.starts_with("stage0.") {
            names("stage0")?
        } else {
            Vec::new()
        };
        let attr = sos_recipes::bootstrap::attr_path(&target.attr, &names("steps")?, &commands);
        let arguments = BTreeMap::new();
        evaluator
            .select_with(whole, &attr, &arguments)
            .map_err(|why| match why.code {
                "eval-attr-missing" => missing(evaluator, whole, target, &arguments).unwrap_or(why),
                _ => why,
            })
    }

    fn arguments(&self, evaluator: &Evaluator) -> Result<BTreeMap<String, Value>, Box<Diagnostic>> {
        let mut out = BTreeMap::new();
        out.insert(
            "sos".to_owned(),
            evaluator.eval_str("import <sos>", "the sos library", Path::new("/"))?,
        );
        for pair in self.args.arg.chunks_exact(2) {
            out.insert(
                pair[0].clone(),
                evaluator.eval_str(&pair[1], &format!("--arg {}", pair[0]), &self.here)?,
            );
        }
        for pair in self.args.argstr.chunks_exact(2) {
            out.insert(
                pair[0].clone(),
                evaluator.from_plain(&Plain::Str {
                    s: pair[1].clone().into_bytes(),
                    context: Vec::new(),
                }),
            );
        }
        Ok(out)
    }
}
