//! One evaluation: an evaluator for the targets of each directory, with its world around it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use sos_engine::{Graph, Wanted};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_lang::{Arguments, Evaluator, Host, Options, Plain, Value};
use sos_recipes::{Context, LockMode};
use sos_store::Store;

use super::missing::{known_attribute, missing};
use super::steps;
use super::{Each, Evaluated, Mode};
use crate::args::{ProgressMode, TargetArgs};
use crate::cache::{Cache, Cached, Hit, Recorder};
use crate::failure::Failure;
use crate::flake;
use crate::host::StoreHost;
use crate::pins::NetworkPins;
use crate::run;
use crate::search_path;
use crate::session::Session;
use crate::target::{Source, Target};

/// What an evaluation leaves behind for the next one, and has from the last one.
pub(super) struct Record {
    /// The recorder, once there is one.
    pub(super) recorder: RefCell<Option<Rc<Recorder>>>,
    /// Programs that will probably be read.
    pub(super) programs: RefCell<Vec<PathBuf>>,
}

/// Everything that one evaluation needs; plain data, so that it can move to the evaluator's thread.
pub(super) struct Job<'a> {
    pub(super) session: Session,
    store: Store,
    args: &'a TargetArgs,
    mode: &'a Mode,
    pub(super) here: PathBuf,
    /// Whether the derivations are wanted, with the places where they are written, and not values alone.
    pub(super) with_graph: bool,
}

impl<'a> Job<'a> {
    pub(super) fn new(
        session: &'a Session,
        args: &'a TargetArgs,
        mode: &'a Mode,
    ) -> Result<Self, Failure> {
        let here = std::env::current_dir()
            .map_err(|e| Failure::io("cannot tell the current directory", &e))?;
        Ok(Self {
            session: session.clone(),
            store: session.store()?.clone(),
            args,
            mode,
            here,
            with_graph: true,
        })
    }

    /// The recipes of a directory.
    pub(super) fn recipes(
        &self,
        project_dir: PathBuf,
        pins: Arc<NetworkPins>,
    ) -> sos_recipes::Session {
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
    pub(super) fn run<T>(
        &self,
        targets: &[Target],
        each: &Each<'_, T>,
        record: Option<&Record>,
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
            self.session.registries(),
            self.mode.offline,
            quiet,
        ));
        let host = Rc::new(self.host()?);
        let recorder = record.map(|record| {
            let recorder = Rc::new(Recorder::new(host.clone(), self.store.clone()));
            record.recorder.replace(Some(recorder.clone()));
            recorder
        });
        let world: Rc<dyn Host> = match &recorder {
            Some(recorder) => recorder.clone(),
            None => host.clone(),
        };
        let mut problems: Vec<Diagnostic> = Vec::new();
        for ((directory, pure), members) in groups {
            let roots = members.iter().filter_map(|i| targets[*i].directory());
            let roots: Vec<PathBuf> = roots.collect();
            let recipes = self.recipes(directory, pins.clone());
            let options = self.options(&recipes, pure, roots)?;
            let evaluator = Evaluator::new(world.clone(), options);
            let programs = record.map(|record| record.programs.take());
            if let Some(programs) = programs.filter(|programs| !programs.is_empty()) {
                evaluator.parse_ahead(programs, crate::cache::read_program);
            }
            for i in members {
                let target = &targets[i];
                let value = self
                    .value(&evaluator, target)
                    .and_then(|value| each(&evaluator, value, target));
                match value {
                    Ok(value) => values[i] = Some(value),
                    // The others may have problems of their own; what several need, and fails, is one.
                    Err(problem) if problem.class != Class::Interrupted => {
                        if !problems.contains(&problem) {
                            problems.push(*problem);
                        }
                        problems.extend(recipes.take_further_problems());
                    }
                    Err(end) => return Err(Failure::new(*end)),
                }
            }
            if !problems.is_empty() {
                continue;
            }
            tracing::debug!(ahead = evaluator.parsed_ahead(), "programs parsed ahead");
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
            if !self.with_graph {
                host.settle()?;
                continue;
            }
            let texts = host.graph()?.texts;
            let place = |drv: &StorePath| Some((drv.clone(), evaluator.drv_position(drv)?));
            out.graph.places.extend(texts.keys().filter_map(place));
            let parts = |drv: &StorePath| (drv.clone(), evaluator.drv_attributes(drv));
            let parts = texts.keys().map(parts).filter(|(_, all)| !all.is_empty());
            out.graph.parts.extend(parts);
            out.graph.texts.extend(texts);
        }
        if !problems.is_empty() {
            return Err(Failure::from(problems));
        }
        out.values = values.into_iter().flatten().collect();
        Ok(out)
    }

    /// The graph for a hit: when everything that is asked for is in the store, what was asked for is mostly enough. Nothing when more
    /// is needed than was kept.
    pub(super) fn graph_of<T: Cached>(
        &self,
        cache: &Cache,
        hit: &Hit<T>,
    ) -> Result<Option<Graph>, Failure> {
        let wanted: Vec<Wanted> = hit.values.iter().flat_map(T::wanted).collect();
        if !self.mode.whole_graph && sos_engine::all_there(&self.store, &hit.roots, &wanted)? {
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

    pub(super) fn host(&self) -> Result<StoreHost, Failure> {
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

    pub(super) fn options(
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
            Source::Flake(_) if !self.args.set.is_empty() => return Err(not_taken("flake")),
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
        if !self.args.set.is_empty() {
            self.takes_settings(evaluator, whole)?;
        }
        if target.attr.is_empty() {
            return self.called(evaluator, whole, target, &arguments);
        }
        let whole = evaluator.auto_call(whole, &arguments)?;
        let value = if steps::is_tree(evaluator, whole) {
            steps::select(evaluator, whole, target, &arguments)?
        } else {
            let found = evaluator.select_with(whole, &target.attr, &arguments);
            found.map_err(|why| match why.code {
                "eval-attr-missing" => missing(evaluator, whole, target, &arguments).unwrap_or(why),
                _ => why,
            })?
        };
        self.called(evaluator, value, target, &arguments)
    }

    /// What a target leads to, called if it is a function that is to be: who asks for a value as `nix-instantiate --eval` does gets
    /// the function itself, unless the command line has arguments for it or it is a recipe.
    fn called(
        &self,
        evaluator: &Evaluator,
        value: Value,
        target: &Target,
        arguments: &Arguments,
    ) -> Result<Value, Box<Diagnostic>> {
        let given = !self.args.arg.is_empty() || !self.args.argstr.is_empty();
        let may_be_recipe = !matches!(target.source, Source::Expression(_));
        if self.mode.calls
            || given
            || may_be_recipe && evaluator.asks_for_offered(value, arguments)?
        {
            return evaluator.auto_call(value, arguments);
        }
        Ok(value)
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
        let whole = evaluator.auto_call(whole, &self.arguments(evaluator)?)?;
        if target.attr.is_empty() {
            return Ok(whole);
        }
        let value = steps::select(evaluator, whole, target, &Arguments::default())?;
        evaluator.auto_call(value, &Arguments::default())
    }

    /// A recipe gets what `--set` says as its argument `settings`, and one that has none would not see it.
    fn takes_settings(&self, evaluator: &Evaluator, whole: Value) -> Result<(), Box<Diagnostic>> {
        let asks = "f: builtins.isFunction f && builtins.functionArgs f ? settings";
        let asks = evaluator.eval_str(asks, "--set", &self.here)?;
        let taken = evaluator.call(asks, &[whole])?;
        if matches!(evaluator.to_plain(taken)?, Plain::Bool(true)) {
            return Ok(());
        }
        Err(not_taken("recipe"))
    }

    pub(super) fn arguments(&self, evaluator: &Evaluator) -> Result<Arguments, Box<Diagnostic>> {
        let mut out = Arguments::default();
        out.offered.insert(
            "sos".to_owned(),
            evaluator.eval_str("import <sos>", "the sos library", Path::new("/"))?,
        );
        if !self.args.set.is_empty() {
            let settings = self.args.set.iter().map(|setting| Plain::Str {
                s: setting.clone().into_bytes(),
                context: Vec::new(),
            });
            let settings = Plain::List(settings.collect());
            out.offered
                .insert("settings".to_owned(), evaluator.from_plain(&settings));
        }
        for pair in self.args.arg.chunks_exact(2) {
            out.given.insert(
                pair[0].clone(),
                evaluator.eval_str(&pair[1], &format!("--arg {}", pair[0]), &self.here)?,
            );
        }
        for pair in self.args.argstr.chunks_exact(2) {
            out.given.insert(
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

/// The problem of `--set` for what does not take it.
fn not_taken(what: &str) -> Box<Diagnostic> {
    let message =
        format!("`--set` is for trees of bootstrap steps, and this {what} takes no `settings`");
    let problem = Diagnostic::error("argument-not-taken", Class::Usage, message);
    Box::new(problem.help(
        "a recipe takes them as `{ sos, settings ? [ ] }: sos.bootstrap { inherit settings; .. }`; other arguments are given by `--arg`",
    ))
}
