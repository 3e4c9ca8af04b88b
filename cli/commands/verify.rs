//! `sos verify`: builds again, under other conditions, and compares.

mod mirror;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::{Value, json};
use sos_engine::verify::{
    Condition, Conditions, Culprit, Different, OutputDifference, Verdict, Verified, VerifyOptions,
    VerifyProgress,
};
use sos_engine::{Cancel, Engine, EventSink, Graph, Wanted};
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::Store;
use sos_store::compare::{Difference, Snapshot};

use crate::args::{LockFlags, ProgressMode, TargetArgs};
use crate::commands::build;
use crate::evaluate::{self, Item, Mode};
use crate::failure::Failure;
use crate::interrupt;
use crate::render::live::{self, Frame};
use crate::render::{difference, output, size, text};
use crate::run::{self, RunOptions, Stream};
use crate::session::Session;
use crate::target;

/// Differing files that are listed for one output.
const LISTED_MAX: usize = 20;

/// Build targets again under other conditions and compare; say equal, or show the first file and byte that differ
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every build again runs at another second, with other process ids and in another place on the disk; varied besides are the number of cores, the order of directories, umask, locale, time zone, host name, the kernel's release and addresses in memory, as far as the derivation does not set them itself. The clock is not varied: what embeds the date shows when it is verified on another day than it was built; the record then says `date`.\n\nExamples:\n  sos verify                        what this directory makes\n  sos verify .#image --all          and everything it is made from\n  sos verify .#image --rounds 5     five times, with other values each time\n  sos verify .#tool --vary cores    only with another number of cores\n  sos verify .#tool --against https://cache.example   with what a mirror has\n\nExit status: 104 when something differs."
)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
    /// How often each is built again [default: 1; 0 with --against]
    #[arg(long, value_name = "N")]
    rounds: Option<u16>,
    /// Everything that the targets are built from as well; of a tree of bootstrap steps that is what is meant, as far as it was
    /// built
    #[arg(long)]
    all: bool,
    /// How many are built again at the same time
    #[arg(short, long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    jobs: u16,
    /// Vary only these; `none` leaves all as it is
    #[arg(long, value_name = "CONDITION,..", value_delimiter = ',', value_parser = condition_words())]
    vary: Option<Vec<String>>,
    /// Do not build still more to find out what makes a difference
    #[arg(long)]
    no_bisect: bool,
    /// Compare with what this mirror (a Nix binary cache) has
    #[arg(long, value_name = "URL")]
    against: Option<String>,
    /// Believe the mirror only what this key signed, `NAME:BASE64`; may be given several times
    #[arg(long, value_name = "KEY", requires = "against")]
    trusted_key: Vec<String>,
    /// Keep what came out otherwise in this directory, which must not exist
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Let `diffoscope` explain the difference, if it is installed
    #[arg(long)]
    diffoscope: bool,
    /// Lines of a difference in text that are shown
    #[arg(long, value_name = "N", default_value_t = 40)]
    lines: usize,
}

fn condition_words() -> clap::builder::PossibleValuesParser {
    let words = Condition::ALL.iter().map(|c| c.word());
    clap::builder::PossibleValuesParser::new(words.chain(["none"]))
}

/// Runs the verb.
///
/// # Errors
/// `not-reproducible` when something differs; else problems of recipes, of building, of the mirror.
pub(crate) fn run(session: &Session, args: &VerifyArgs) -> Result<(), Failure> {
    if let Some(dir) = args.keep.as_deref().filter(|dir| dir.exists()) {
        return Err(Failure::new(
            Diagnostic::error(
                "verify-keep-exists",
                Class::Usage,
                format!("`{}` exists already", dir.display()),
            )
            .help("name a directory that does not exist"),
        ));
    }
    if args.rounds == Some(0) && args.against.is_none() {
        return Err(Failure::new(
            Diagnostic::error(
                "verify-no-rounds",
                Class::Usage,
                "`--rounds 0` compares with nothing",
            )
            .help("name a mirror with `--against`, or at least one round"),
        ));
    }
    let targets = evaluate::targets(session, &args.target)?;
    let mode = Mode::building(args.lock).with_whole_graph();
    let evaluated = build::resolve(session, &args.target, &targets, &mode)?;
    evaluate::report_locks(session, &evaluated.locks);
    let store = session.store()?;
    let mut drvs = Vec::new();
    for item in evaluated.values.iter().flatten() {
        let drv = match item {
            Item::Derivation { drv, .. } => drv.clone(),
            Item::Object(path) => deriver(store, path)?,
        };
        if !drvs.contains(&drv) {
            drvs.push(drv);
        }
    }
    let options = RunOptions {
        offline: args.lock.offline,
        command: format!("verify{}", args.target.words()),
        project: target::project(&targets),
        ..RunOptions::default()
    };
    let engine = run::engine(session, &options, EventSink::null())?;
    // A tree of steps is verified step by step: each from the root that the one before has left.
    let tree = !args.all && evaluate::any_tree(session, &args.target, &targets, &mode)?;
    if args.all || tree {
        drvs = engine.derivations(&evaluated.graph, &drvs)?;
    }
    if tree {
        let (built, missing) = only_built(store, drvs)?;
        drvs = built;
        if missing > 0 && !session.global.quiet && !session.global.json {
            let missing = size::count(missing, "derivation");
            output::message(&format!("left out: {missing} that were not built yet"));
        }
    }
    make_present(session, &engine, &evaluated.graph, &drvs, &options)?;
    let rounds = args
        .rounds
        .map_or(usize::from(args.against.is_none()), usize::from);
    let mut all = Report::default();
    let outputs = if args.against.is_some() {
        outputs_of(&engine, &evaluated.graph, &drvs)?
    } else {
        Vec::new()
    };
    if rounds > 0 {
        verify(
            session,
            args,
            &Arc::new(engine),
            &Arc::new(evaluated.graph),
            &drvs,
            rounds,
            &mut all,
        )?;
    }
    if let Some(url) = &args.against {
        mirror::compare(session, args, url, &outputs, &mut all)?;
    }
    if session.global.json {
        output::json(&Value::Array(all.values))?;
    } else if all.same_date && !session.global.quiet {
        output::message(
            "the clock was not varied: what embeds today's date is found on another day",
        );
    }
    if all.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::from(all.problems))
}

/// An output that is there.
struct There {
    drv: StorePath,
    output: String,
    path: StorePath,
    /// By what a mirror knows the results of its derivation, if only their content names them.
    realisation: Option<String>,
}

fn outputs_of(engine: &Engine, graph: &Graph, drvs: &[StorePath]) -> Result<Vec<There>, Failure> {
    let mut all = Vec::new();
    for drv in drvs {
        let realisation = engine.realisation_hash(graph, drv)?;
        for (output, path) in engine.known_outputs(graph, drv)? {
            all.push(There {
                drv: drv.clone(),
                output,
                path,
                realisation: realisation.clone(),
            });
        }
    }
    Ok(all)
}

/// What was found, derivation by derivation.
#[derive(Default)]
struct Report {
    values: Vec<Value>,
    problems: Vec<Diagnostic>,
    /// Something is called equal that was built again on the day of its first build only.
    same_date: bool,
}

/// The derivation that a store object was built by.
fn deriver(store: &Store, path: &StorePath) -> Result<StorePath, Failure> {
    if let Some(record) = store.traces_of(path)?.into_iter().last() {
        return Ok(record.trace.drv);
    }
    if let Some(drv) = store.query(path)?.and_then(|info| info.deriver)
        && store.get_drv(&drv)?.is_some()
    {
        return Ok(drv);
    }
    Err(Failure::new(
        Diagnostic::error(
            "verify-no-deriver",
            Class::Other,
            format!(
                "nothing is known of how `{}` was built",
                path.absolute(store.store_dir())
            ),
        )
        .help("name the recipe that makes it"),
    ))
}

/// Those of `drvs` that were built here and whose results are there, and how many others there are.
fn only_built(store: &Store, drvs: Vec<StorePath>) -> Result<(Vec<StorePath>, usize), Failure> {
    let total = drvs.len();
    let mut built = Vec::new();
    for drv in drvs {
        if !store.drv_outputs(&drv)?.is_empty() {
            built.push(drv);
        }
    }
    let missing = total - built.len();
    Ok((built, missing))
}

/// Builds what is not there yet: what is to be compared, and what it is built from.
fn make_present(
    session: &Session,
    engine: &Engine,
    graph: &Graph,
    drvs: &[StorePath],
    options: &RunOptions,
) -> Result<(), Failure> {
    let mut wanted = Vec::new();
    for drv in drvs {
        let there = !engine.store().drv_outputs(drv)?.is_empty();
        wanted.push(Wanted {
            drv: drv.clone(),
            // Some output is enough to compare: a missing one would make all of them anew.
            outputs: if there {
                let outputs = engine.store().drv_outputs(drv)?;
                outputs.into_iter().map(|(output, _)| output).collect()
            } else {
                Vec::new()
            },
        });
        for (input, outputs) in engine.inputs_of(graph, drv)? {
            wanted.push(Wanted {
                drv: input,
                outputs: outputs.into_iter().collect(),
            });
        }
    }
    let stream = Stream::start(session, false);
    let report = run::build(session, graph.clone(), &wanted, options, stream)?;
    if report.success() {
        return Ok(());
    }
    Err(Failure::shown(report.failures.clone(), report.exit_code()))
}

fn wishes(args: &VerifyArgs) -> BTreeSet<Condition> {
    let all = Condition::ALL.into_iter();
    match &args.vary {
        None => all.collect(),
        Some(words) => all
            .filter(|c| words.iter().any(|word| word == c.word()))
            .collect(),
    }
}

fn verify(
    session: &Session,
    args: &VerifyArgs,
    engine: &Arc<Engine>,
    graph: &Arc<Graph>,
    drvs: &[StorePath],
    rounds: usize,
    all: &mut Report,
) -> Result<(), Failure> {
    let runtime = run::runtime()?;
    let cancel = Cancel::new();
    let seen = Arc::new(AtomicU8::new(0));
    let watch = runtime.spawn(interrupt::watch(
        cancel.clone(),
        seen.clone(),
        interrupt::First::Stops,
        false,
        |_| {},
    ));
    let quiet = session.global.quiet || session.global.json;
    let window = window(session);
    let unicode = session.terminal.unicode;
    let jobs = usize::from(args.jobs);
    let mut running = tokio::task::JoinSet::new();
    let mut waiting = drvs.iter().enumerate();
    // What is done is told in the order in which it was asked for.
    let mut done = BTreeMap::new();
    let mut next = 0;
    let mut result = Ok(());
    loop {
        while running.len() < jobs
            && result.is_ok()
            && let Some((index, drv)) = waiting.next()
        {
            let options = VerifyOptions {
                rounds,
                vary: wishes(args),
                bisect: !args.no_bisect,
            };
            let (engine, graph, drv) = (engine.clone(), graph.clone(), drv.clone());
            let (cancel, handle) = (cancel.clone(), runtime.handle().clone());
            let name = Derivation::name_from_path(&drv).to_owned();
            running.spawn_blocking_on(
                move || {
                    let mut progress = |progress: &VerifyProgress| {
                        if quiet {
                            return;
                        }
                        let line = line_of(&name, rounds, progress);
                        match window {
                            Some(columns) => live::draw(&Frame {
                                rows: &[
                                    text::cut(&text::one_row(&line, unicode), columns).to_owned()
                                ],
                                ..Frame::default()
                            }),
                            None => output::message(&line),
                        }
                    };
                    let verified =
                        engine.verify(&handle, &graph, &drv, &options, &cancel, &mut progress);
                    (index, verified)
                },
                runtime.handle(),
            );
        }
        let Some(ended) = runtime.block_on(running.join_next()) else {
            break;
        };
        let problem = match ended {
            Ok((index, Ok(verified))) => {
                done.insert(index, verified);
                None
            }
            Ok((_, Err(diagnostic))) => Some(Failure::from(diagnostic)),
            Err(panicked) => Some(Failure::new(Diagnostic::error(
                "bug-panic",
                Class::Bug,
                format!("a build again panicked: {panicked}"),
            ))),
        };
        if let Some(problem) = problem {
            // The others stop; the first reason is the one that counts.
            cancel.cancel();
            result = result.and(Err(problem));
        }
        if window.is_some() {
            live::clear();
        }
        while result.is_ok()
            && let Some(verified) = done.remove(&next)
        {
            next += 1;
            result = tell(session, args, &verified, all);
        }
    }
    watch.abort();
    match seen.load(Ordering::SeqCst) {
        0 => result,
        signal => Err(Failure::interrupted(signal)),
    }
}

/// What one derivation is at.
fn line_of(name: &str, rounds: usize, progress: &VerifyProgress) -> String {
    match progress {
        VerifyProgress::Round(number, conditions) => {
            format!("{name}: round {number} of {rounds}, {}", varied(conditions))
        }
        VerifyProgress::Narrowing {
            conditions,
            number,
            expected,
        } => format!(
            "{name}: looking for the reason, build {number} of about {expected}, {}",
            varied(conditions)
        ),
    }
}

/// The width of the terminal, if there is one to draw on: what goes on then is one row, drawn again.
fn window(session: &Session) -> Option<usize> {
    if session.terminal.progress != ProgressMode::Tty {
        return None;
    }
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    let columns = size.map(|size| usize::from(size.ws_col));
    columns.filter(|columns| *columns > 0)
}

/// `with other cores, directory order`: what is not as in the first build.
fn varied(conditions: &Conditions) -> String {
    let date = conditions.other_date.then(|| "date".to_owned());
    if conditions.set.is_empty() {
        return match date {
            Some(_) => "with nothing varied but the date".to_owned(),
            None => "with nothing varied on purpose".to_owned(),
        };
    }
    let words = conditions.set.iter().map(|c| c.word().replace('-', " "));
    let words: Vec<String> = date.into_iter().chain(words).collect();
    format!("with other {}", words.join(", "))
}

/// Says what became of one derivation.
fn tell(
    session: &Session,
    args: &VerifyArgs,
    verified: &Verified,
    all: &mut Report,
) -> Result<(), Failure> {
    let name = &verified.name;
    all.values.push(to_json(session, verified)?);
    let say = |text: &str| -> Result<(), Failure> {
        if session.global.json {
            return Ok(());
        }
        output::line(text)
    };
    match &verified.verdict {
        Verdict::Same => {
            let same_date = verified
                .rounds
                .iter()
                .all(|round| !round.conditions.other_date);
            all.same_date |= same_date && !verified.rounds.is_empty();
            let rounds = size::count(verified.rounds.len(), "round");
            say(&format!("{name}: equal after {rounds}"))
        }
        Verdict::Fixed => say(&format!(
            "{name}: equal by its hash, which every build of it is checked against; not built again"
        )),
        Verdict::Failed {
            diagnostic,
            culprit,
        } => {
            let mut problem = Diagnostic::error(
                "not-reproducible",
                Class::NotReproducible,
                format!("`{name}` was built before and fails when it is built again"),
            )
            .note(diagnostic.message.clone());
            for note in &diagnostic.notes {
                problem = problem.note(note.clone());
            }
            if let Some(reason) = reason(culprit, "fails") {
                problem = problem.note(reason);
            }
            all.problems.push(problem);
            Ok(())
        }
        Verdict::Different(different) => {
            let text = described(session, args, name, different)?;
            say(text.trim_end())?;
            if let Some(dir) = &args.keep {
                keep(dir, different)?;
            }
            all.problems.push(problem(session, name, different)?);
            Ok(())
        }
    }
}

/// Why builds differ, or fail, in a sentence.
fn reason(culprit: &Culprit, verb: &str) -> Option<String> {
    match culprit {
        Culprit::Unknown => None,
        Culprit::Itself => Some(format!(
            "it {verb} with nothing varied on purpose: by the time, by chance, or by what runs beside what"
        )),
        Culprit::Conditions(sets) => {
            let sets: Vec<String> = sets
                .iter()
                .map(|set| {
                    let clauses: Vec<&str> = set.iter().map(|c| c.clause()).collect();
                    clauses.join(" while ")
                })
                .collect();
            Some(format!("it {verb} when {}", sets.join(", and when ")))
        }
    }
}

fn problem(session: &Session, name: &str, different: &Different) -> Result<Diagnostic, Failure> {
    let dir = session.store_dir()?;
    let mut problem = Diagnostic::error(
        "not-reproducible",
        Class::NotReproducible,
        format!("`{name}` is not reproducible: something else came out when it was built again"),
    );
    for one in &different.outputs {
        if let Some(first) = one.differences.first() {
            problem = problem.note(format!(
                "first difference in {}: {}",
                one.path.absolute(&dir),
                difference::line(first)
            ));
        }
    }
    if let Some(reason) = reason(&different.culprit, "differs") {
        problem = problem.note(reason);
    }
    Ok(problem.help("`--keep DIR` keeps what came out"))
}

/// What a person reads of a rebuild that gave something else.
fn described(
    session: &Session,
    args: &VerifyArgs,
    name: &str,
    different: &Different,
) -> Result<String, Failure> {
    let store = session.store()?;
    let mut text = String::new();
    for one in &different.outputs {
        text.push_str(&format!(
            "{name}^{}: {} otherwise ({})\n",
            one.output,
            size::count(one.differences.len(), "path"),
            difference::counts(&one.differences)
        ));
        let sides = [(&one.recorded, "recorded"), (&one.rebuilt, "rebuilt")];
        text.push_str(&listed(store, sides, &one.differences, args.lines)?);
        if args.diffoscope {
            text.push_str(&diffoscope(store, one));
        }
    }
    Ok(text)
}

/// The paths that differ, and the first content that does.
fn listed(
    store: &Store,
    [old, new]: [(&Snapshot, &str); 2],
    differences: &[Difference],
    lines: usize,
) -> Result<String, Failure> {
    let mut text = String::new();
    for found in differences.iter().take(LISTED_MAX) {
        text.push_str(&format!("  {}\n", difference::line(found)));
    }
    if differences.len() > LISTED_MAX {
        let more = differences.len() - LISTED_MAX;
        text.push_str(&format!("  and {more} more\n"));
    }
    for found in differences {
        let shown = difference::contents(store, old, new, found, lines)?;
        if !shown.is_empty() {
            text.push_str(&shown);
            break;
        }
    }
    Ok(text)
}

/// What diffoscope says of two trees; a sentence when it cannot be asked.
fn diffoscope(store: &Store, one: &OutputDifference) -> String {
    let Some(rebuilt) = &one.rebuilt_at else {
        return "diffoscope: a root filesystem is not on disk as files\n".to_owned();
    };
    let run = std::process::Command::new("diffoscope")
        .arg("--exclude-directory-metadata=recursive")
        .args([&store.physical(&one.path), rebuilt])
        .output();
    match run {
        Ok(done) => String::from_utf8_lossy(&done.stdout).into_owned(),
        Err(e) => format!("diffoscope: {e}\n"),
    }
}

/// Copies what came out to a place that stays.
fn keep(dir: &Path, different: &Different) -> Result<(), Failure> {
    let failed = |e: &std::io::Error| Failure::io(&format!("cannot keep `{}`", dir.display()), e);
    std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
    for one in &different.outputs {
        let Some(from) = &one.rebuilt_at else {
            output::message(&format!(
                "`{}` is a root filesystem, which is not on disk as files: not kept",
                one.output
            ));
            continue;
        };
        let to = dir.join(format!("{}-{}", one.path.name(), one.output));
        copy(from, &to).map_err(|e| failed(&e))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut pending = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = pending.pop() {
        let meta = std::fs::symlink_metadata(&from)?;
        if meta.is_dir() {
            std::fs::create_dir(&to)?;
            for entry in std::fs::read_dir(&from)? {
                let name = entry?.file_name();
                pending.push((from.join(&name), to.join(&name)));
            }
        } else if meta.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&from)?, &to)?;
        } else if meta.is_file() {
            std::fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

fn to_json(session: &Session, verified: &Verified) -> Result<Value, Failure> {
    let dir = session.store_dir()?;
    let rounds: Vec<Value> = verified
        .rounds
        .iter()
        .map(|round| {
            json!({
                "varied": round.conditions.set.iter().map(|c| c.word()).collect::<Vec<_>>(),
                "otherDate": round.conditions.other_date,
                "same": round.same,
                "durationMs": u64::try_from(round.took.as_millis()).unwrap_or(u64::MAX),
            })
        })
        .collect();
    let outputs: serde_json::Map<String, Value> = verified
        .outputs
        .iter()
        .map(|(output, path)| (output.clone(), json!(path.absolute(&dir))))
        .collect();
    let mut value = json!({
        "drv": verified.drv.absolute(&dir), "name": verified.name, "outputs": outputs, "rounds": rounds,
    });
    let culprits = |culprit: &Culprit| match culprit {
        Culprit::Unknown => Value::Null,
        Culprit::Itself => json!([]),
        Culprit::Conditions(sets) => sets
            .iter()
            .map(|set| set.iter().map(|c| json!(c.word())).collect::<Value>())
            .collect(),
    };
    value["verdict"] = match &verified.verdict {
        Verdict::Same => json!("same"),
        Verdict::Fixed => json!("fixed"),
        Verdict::Failed {
            diagnostic,
            culprit,
        } => {
            value["error"] = diagnostic.to_json();
            value["dependsOn"] = culprits(culprit);
            json!("failed")
        }
        Verdict::Different(different) => {
            value["dependsOn"] = culprits(&different.culprit);
            value["differences"] = different
                .outputs
                .iter()
                .map(|one| {
                    let list: Vec<Value> =
                        one.differences.iter().map(difference::to_json).collect();
                    json!({ "output": one.output, "path": one.path.absolute(&dir), "files": list })
                })
                .collect();
            json!("different")
        }
    };
    Ok(value)
}
