//! `sos why`: why something was built, or will be; what needs what.

use std::collections::BTreeSet;
use std::io::IsTerminal as _;
use std::path::Path;

use serde_json::{Value, json};
use sos_engine::{Causes, EventSink, Graph, Text, rfc3339, why};
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::{BuildId, Step, Store};

use crate::args::TargetArgs;
use crate::commands::{build, builds};
use crate::console;
use crate::evaluate::Mode;
use crate::failure::Failure;
use crate::find::{self, Meaning, Recipe};
use crate::render::output;
use crate::render::why::{moment, reasons_text};
use crate::render::wrap::wrapped;
use crate::run::{self, RunOptions};
use crate::session::Session;
use crate::target::{self, Target};

/// Changes that are shown of one build.
const CHANGES: usize = 20;

/// Names of what is needed that are listed in place of one that is not.
const NAMES: usize = 10;

/// Ways that are shown of one kind.
const WAYS: usize = 10;

/// Say why something was rebuilt, or will be: which file, variable or script changed, and in which build
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sos why .#image             why it was rebuilt the last time, or will be now\n  sos why hello               the same by name, without evaluating anything\n  sos why .#image --needs zlib  how it comes to need zlib, to be built and to run\n\nTARGET may also be the name of a derivation, with or without its version, or the store path of one or of its output."
)]
pub(crate) struct WhyArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Say by which way the target needs this: a name, a store path or a target
    #[arg(long, value_name = "B", conflicts_with_all = ["since", "all"])]
    needs: Option<String>,
    /// Tell every rebuild after this build
    #[arg(long, value_name = "BUILD")]
    since: Option<i64>,
    /// Tell every rebuild that the journal has, with all that changed
    #[arg(long, conflicts_with = "since")]
    all: bool,
}

/// Runs the verb.
///
/// # Errors
/// `why-unknown` when nothing of that name was built here, `why-not-built` when the journal has no build of it,
/// `why-not-needed` when there is no way from one to the other.
pub(crate) fn run(session: &Session, args: &WhyArgs) -> Result<(), Failure> {
    if let Some(needed) = &args.needs {
        return needs(session, &args.target, needed);
    }
    let store = session.store()?;
    if let Some(number) = args.since {
        builds::find(store, number)?;
    }
    let subjects = subjects(session, &args.target)?;
    let told = store.snapshot(|| -> Result<Vec<Answer>, Failure> {
        let mut explainer = why::Explainer::new(store).at_most(at_most(session, args));
        let mut told = Vec::new();
        for asked in &subjects {
            told.extend(answers(session, &mut explainer, args, asked)?);
        }
        Ok(told)
    })??;
    if session.global.json {
        return output::json(&told.iter().map(|one| one.to_json(store)).collect::<Value>());
    }
    let text: String = told.iter().map(|one| one.to_text(args.all)).collect();
    if std::io::stdout().is_terminal() {
        let (_, columns) = console::size();
        return output::bytes(wrapped(&text, usize::from(columns)).as_bytes());
    }
    output::bytes(text.as_bytes())
}

/// Changes that are looked into; a person reads no thousand of them.
fn at_most(session: &Session, args: &WhyArgs) -> usize {
    if args.all || session.global.json {
        usize::MAX
    } else {
        CHANGES
    }
}

/// What one word of the command line means.
enum Subject {
    /// A derivation; without a recipe nothing is planned.
    Drv(StorePath),
    /// Everything of a name.
    Name(String),
    /// What a recipe makes now.
    Recipe(Box<Recipe>),
}

fn subjects(session: &Session, args: &TargetArgs) -> Result<Vec<Subject>, Failure> {
    let store = session.store()?;
    let mode = Mode::planning(crate::args::LockFlags::default()).with_whole_graph();
    if args.targets.is_empty() || args.file.is_some() || args.expression.is_some() {
        let recipe = find::evaluate(session, args, &mode)?;
        return Ok(vec![Subject::Recipe(Box::new(recipe))]);
    }
    let mut all = Vec::new();
    for text in &args.targets {
        let is_known = args.attr.is_empty() && !store.steps_named(text)?.is_empty();
        all.push(match find::meaning(store, text, is_known)? {
            Meaning::Drv(drv) => Subject::Drv(drv),
            Meaning::Name if is_known => Subject::Name(text.clone()),
            Meaning::Name => return Err(find::unknown(store, "why-unknown", text)?),
            Meaning::Target => {
                let one = TargetArgs {
                    targets: vec![text.clone()],
                    ..args.clone()
                };
                Subject::Recipe(Box::new(find::evaluate(session, &one, &mode)?))
            }
        });
    }
    Ok(all)
}

/// Why one derivation was built, or will be.
struct Answer {
    drv: StorePath,
    /// The step of the journal; none for a plan.
    step: Option<Step>,
    causes: Option<Causes>,
    reasons: why::Reasons,
    /// What else there is to say.
    note: Option<String>,
}

fn answers(
    session: &Session,
    explainer: &mut why::Explainer<'_>,
    args: &WhyArgs,
    subject: &Subject,
) -> Result<Vec<Answer>, Failure> {
    let store = session.store()?;
    let was_tried = |step: &Step| step.started_ms.is_some();
    if args.all || args.since.is_some() {
        let names = match subject {
            Subject::Drv(drv) => vec![name(drv)],
            Subject::Name(name) => vec![name.clone()],
            Subject::Recipe(recipe) => recipe.derivations().iter().map(name).collect(),
        };
        let mut all = Vec::new();
        for name in names {
            let after = args.since.unwrap_or(0);
            let steps = store.steps_named(&name)?.into_iter();
            let steps: Vec<Step> = steps
                .filter(|step| was_tried(step) && step.build.0 > after)
                .collect();
            if steps.is_empty() {
                let since = match args.since {
                    Some(build) => format!(" since build {build}"),
                    None => String::new(),
                };
                output::message(&format!("`{name}` was not built here{since}"));
            }
            for step in steps {
                all.push(past(explainer, step)?);
            }
        }
        return Ok(all);
    }
    match subject {
        Subject::Name(name) => {
            let steps = store.steps_named(name)?;
            match steps.iter().find(|step| was_tried(step)) {
                Some(step) => {
                    let answer = past(explainer, step.clone())?;
                    Ok(vec![noting_untried(store, &steps, answer)?])
                }
                None => Err(not_built(name, untried(store, &steps)?)),
            }
        }
        Subject::Drv(drv) => Ok(vec![last(store, explainer, drv)?]),
        Subject::Recipe(recipe) => {
            let engine = run::engine(
                session,
                &RunOptions {
                    project: target::project(&recipe.targets),
                    attrs: recipe.attrs(),
                    ..RunOptions::default()
                },
                EventSink::null(),
            )?;
            let plan = engine.plan(&recipe.graph, &build::wanted(&recipe.values))?;
            let mut explainer = why::Explainer::new(store)
                .at_most(at_most(session, args))
                .with_plan(&plan);
            let mut all = Vec::new();
            for drv in recipe.derivations() {
                all.push(match explainer.planned(&drv)? {
                    Some((causes, reasons)) => {
                        let newest = store.steps_of_drv(&drv, BuildId(i64::MAX), 1)?;
                        Answer {
                            drv,
                            step: None,
                            causes: Some(causes),
                            reasons,
                            note: untried(store, &newest)?,
                        }
                    }
                    None => last(store, &mut explainer, &drv)?,
                });
            }
            Ok(all)
        }
    }
}

fn past(explainer: &mut why::Explainer<'_>, step: Step) -> Result<Answer, Failure> {
    Ok(Answer {
        drv: step.drv.clone(),
        causes: why::causes_of(&step),
        reasons: explainer.step(&step)?,
        step: Some(step),
        note: None,
    })
}

/// Why a derivation that is there was built the last time.
fn last(
    store: &Store,
    explainer: &mut why::Explainer<'_>,
    drv: &StorePath,
) -> Result<Answer, Failure> {
    let steps = store.steps_of_drv(drv, BuildId(i64::MAX), u32::MAX)?;
    if let Some(step) = steps.iter().find(|step| step.started_ms.is_some()) {
        return noting_untried(store, &steps, past(explainer, step.clone())?);
    }
    let identity = |step: &Step| why::detail_of(step).and_then(|detail| detail.identity);
    if let Some(stopped) = steps.first()
        && let Some(same) = identity(stopped)
    {
        // What it turned out to be was built before, for another derivation.
        let mut others = store.steps_named(&stopped.name)?.into_iter();
        let made =
            others.find(|step| step.started_ms.is_some() && identity(step).as_ref() == Some(&same));
        if let Some(made) = made {
            let note = format!(
                "{} was not rebuilt in build {}: its inputs came out identical",
                stopped.name, stopped.build.0
            );
            return Ok(Answer {
                note: Some(note),
                ..past(explainer, made)?
            });
        }
    }
    Err(not_built(&name(drv), untried(store, &steps)?))
}

fn not_built(name: &str, untried: Option<String>) -> Failure {
    let why = untried.unwrap_or_else(|| {
        "it was there before the journal was kept, or its build is among those that are forgotten"
            .to_owned()
    });
    Failure::new(
        Diagnostic::error(
            "why-not-built",
            Class::Other,
            format!("the journal has no build of `{name}`"),
        )
        .note(why)
        .help("`sos builds` lists what the journal has"),
    )
}

/// Adds that it was to be built again since then, and was not tried.
fn noting_untried(store: &Store, steps: &[Step], answer: Answer) -> Result<Answer, Failure> {
    let note = untried(store, steps)?;
    Ok(Answer {
        note: note.or(answer.note),
        ..answer
    })
}

/// What kept the newest of these steps, newest first, from being tried, if it was not.
fn untried(store: &Store, steps: &[Step]) -> Result<Option<String>, Failure> {
    let Some(newest) = steps.first() else {
        return Ok(None);
    };
    let Some(failed) = why::kept_from(store, newest)? else {
        return Ok(None);
    };
    let shown: Vec<&str> = failed.iter().take(NAMES).map(String::as_str).collect();
    let why = match shown.as_slice() {
        [] => "that run was stopped before its turn came".to_owned(),
        _ => format!("it needs {}, which failed", shown.join(" and ")),
    };
    Ok(Some(format!(
        "{} was not tried in build {}: {why}",
        newest.name, newest.build.0
    )))
}

fn name(drv: &StorePath) -> String {
    Derivation::name_from_path(drv).to_owned()
}

impl Answer {
    fn to_text(&self, whole: bool) -> String {
        let mut text = String::new();
        if let Some(note) = &self.note {
            text.push_str(&format!("{note}\n"));
        }
        let is_new = matches!(
            self.causes.as_ref().map(|causes| &causes.first),
            Some(sos_engine::Cause::NeverBuilt | sos_engine::Cause::FailedBefore { .. })
        );
        let again = if is_new { "" } else { "re" };
        let name = name(&self.drv);
        let head = match &self.step {
            None => format!("{name} will be {again}built "),
            Some(step) => {
                let when = moment(step.queued_ms);
                let did = match step.status.as_str() {
                    "failed" => "was tried and failed".to_owned(),
                    "fetched" => "was fetched".to_owned(),
                    "running" | "cancelled" => format!("was being {again}built"),
                    _ => format!("was {again}built"),
                };
                format!("{name} {did} in build {} ({when}) ", step.build.0)
            }
        };
        text.push_str(&head);
        let is_planned = self.step.is_none();
        text.push_str(&reasons_text(&self.reasons.told, is_planned, whole));
        if self.reasons.more > 0 {
            // What is planned is no rebuild that the journal has.
            let flag = if is_planned { "--json" } else { "--all" };
            text.push_str(&format!(
                "\n  and {} more; {flag} shows them",
                self.reasons.more
            ));
        }
        if self.reasons.told.is_empty() {
            text.push_str("for a reason that the journal does not have");
        }
        for cause in self.causes.iter().flat_map(Causes::all) {
            if let sos_engine::Cause::MirrorMiss { urls } = cause {
                text.push_str(&format!("\n  {} did not have it", urls.join(" and ")));
            }
        }
        text.push('\n');
        text
    }

    fn to_json(&self, store: &Store) -> Value {
        let dir = store.store_dir();
        let reason = |reason: &why::Reason| {
            let way: Vec<Value> = reason
                .way
                .iter()
                .map(|link| {
                    json!({
                        "drv": link.drv.absolute(dir),
                        "name": name(&link.drv),
                        "cause": link.cause,
                        "at": link.at.as_ref().map(Text::as_str),
                        "read": link.read,
                    })
                })
                .collect();
            json!({
                "way": way,
                "root": way.last(),
                "firstSeen": reason.first_seen.map(|build| build.0),
                "others": reason.others,
                "stopped": reason.stopped,
                "untried": reason.untried,
            })
        };
        let reasons: Vec<Value> = self.reasons.told.iter().map(reason).collect();
        json!({
            "name": name(&self.drv),
            "drv": self.drv.absolute(dir),
            "planned": self.step.is_none(),
            "build": self.step.as_ref().map(|step| step.build.0),
            "attr": self.step.as_ref().and_then(|step| step.attr.clone()),
            "status": self.step.as_ref().map(|step| step.status.clone()),
            "started": self.step.as_ref().and_then(|step| step.started_ms).map(rfc3339),
            "cause": self.causes,
            "reasons": reasons,
            "note": self.note,
        })
    }
}

/// Shows how targets come to need something.
fn needs(session: &Session, args: &TargetArgs, needed: &str) -> Result<(), Failure> {
    let store = session.store()?;
    let wanted = Needed::of(session, store, needed)?;
    let mut all = Vec::new();
    for subject in subjects(session, args)? {
        let (drvs, graph) = match subject {
            Subject::Drv(drv) => (vec![drv], Graph::new()),
            Subject::Name(name) => {
                let newest = store.steps_named(&name)?.into_iter().next();
                (newest.into_iter().map(|s| s.drv).collect(), Graph::new())
            }
            Subject::Recipe(recipe) => (recipe.derivations(), recipe.graph),
        };
        for drv in drvs {
            let (build, run) = ways(store, &graph, &drv, &wanted)?;
            if build.is_empty() && run.is_empty() {
                return Err(not_needed(store, &graph, &drv, needed)?);
            }
            all.push((drv, build, run));
        }
    }
    let dir = store.store_dir();
    if session.global.json {
        let list = |ways: &[Vec<StorePath>]| -> Vec<Vec<String>> {
            let way = |way: &Vec<StorePath>| way.iter().map(|path| path.absolute(dir)).collect();
            ways.iter().map(way).collect()
        };
        let one = |(drv, build, run): &(StorePath, Ways, Ways)| json!({ "drv": drv.absolute(dir), "name": name(drv), "build": list(build), "run": list(run) });
        return output::json(&all.iter().map(one).collect::<Value>());
    }
    let mut text = String::new();
    for (_, build, run) in &all {
        for (title, ways) in [("to be built", build), ("to run", run)] {
            for way in ways {
                let names: Vec<String> = way.iter().map(name).collect();
                text.push_str(&format!("{title}: {}\n", names.join(" -> ")));
            }
            if ways.is_empty() {
                text.push_str(&format!(
                    "{title}: not needed, as far as can be told here\n"
                ));
            }
        }
    }
    output::bytes(text.as_bytes())
}

/// What is looked for.
enum Needed {
    Named(String),
    Paths(Vec<StorePath>),
}

impl Needed {
    fn of(session: &Session, store: &Store, text: &str) -> Result<Self, Failure> {
        let of_drv = |drv: StorePath| -> Result<Vec<StorePath>, Failure> {
            let outputs = store.drv_outputs(&drv)?.into_iter();
            Ok(outputs.map(|(_, path)| path).chain([drv]).collect())
        };
        if text.starts_with(&format!("{}/", store.store_dir().as_str())) {
            let path = StorePath::from_absolute(store.store_dir(), text.trim_end_matches('/'))?;
            // A source has no derivation; an output stands for the one that made it.
            let maker = match find::meaning(store, text, false) {
                Ok(Meaning::Drv(drv)) => of_drv(drv)?,
                _ => Vec::new(),
            };
            return Ok(Self::Paths(maker.into_iter().chain([path]).collect()));
        }
        let place = Path::new(text);
        if !text.contains(['#', '/', '^']) && !place.exists() {
            return Ok(Self::Named(text.to_owned()));
        }
        // A file or directory that is no recipe is meant as a source, which has its name.
        if !text.contains(['#', '^'])
            && place.exists()
            && Target::parse(text, store.store_dir().as_str()).is_err()
            && let Some(name) = place
                .canonicalize()
                .ok()
                .as_deref()
                .and_then(Path::file_name)
        {
            return Ok(Self::Named(name.to_string_lossy().into_owned()));
        }
        let args = TargetArgs {
            targets: vec![text.to_owned()],
            ..TargetArgs::default()
        };
        let mode = Mode::planning(crate::args::LockFlags::default());
        let recipe = find::evaluate(session, &args, &mode)?;
        let mut all = Vec::new();
        for drv in recipe.derivations() {
            all.extend(of_drv(drv)?);
        }
        Ok(Self::Paths(all))
    }

    fn is(&self, path: &StorePath) -> bool {
        match self {
            Self::Named(name) => find::is_named(path, name),
            Self::Paths(paths) => paths.contains(path),
        }
    }
}

type Ways = Vec<Vec<StorePath>>;

fn ways(
    store: &Store,
    graph: &Graph,
    drv: &StorePath,
    wanted: &Needed,
) -> Result<(Ways, Ways), Failure> {
    let is_wanted = |path: &StorePath| wanted.is(path);
    let build = sos_engine::ways_of_build(store, graph, drv, &is_wanted, WAYS)?;
    let outputs: Vec<StorePath> = store
        .drv_outputs(drv)?
        .into_iter()
        .map(|(_, path)| path)
        .collect();
    let run = sos_engine::ways_of_references(store, &outputs, &is_wanted, WAYS)?;
    Ok((build, run))
}

fn not_needed(
    store: &Store,
    graph: &Graph,
    drv: &StorePath,
    needed: &str,
) -> Result<Failure, Failure> {
    let met = std::cell::RefCell::new(BTreeSet::new());
    let note = |path: &StorePath| {
        met.borrow_mut().insert(path.clone());
        false
    };
    sos_engine::ways_of_build(store, graph, drv, &note, WAYS)?;
    let met = met.into_inner();
    let full: BTreeSet<String> = met.iter().map(name).collect();
    let short = full.iter().map(|name| find::short(name));
    let listed: Vec<&str> = full.iter().take(NAMES).map(String::as_str).collect();
    let dots = if full.len() > listed.len() {
        ", …"
    } else {
        ""
    };
    let help = if listed.is_empty() {
        "it needs nothing: ask for what needs it, the other way round".to_owned()
    } else {
        format!(
            "ask for something that it needs: `{}`{dots}",
            listed.join("`, `")
        )
    };
    let names: BTreeSet<&str> = short.chain(full.iter().map(String::as_str)).collect();
    Ok(Failure::new(
        Diagnostic::error(
            "why-not-needed",
            Class::Other,
            format!("`{}` does not need `{needed}`", name(drv)),
        )
        .note(format!(
            "neither to be built, from {} derivations and sources, nor to run",
            met.len()
        ))
        .suggest(needed, names.into_iter())
        .help(help),
    ))
}
