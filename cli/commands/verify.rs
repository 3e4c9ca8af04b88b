//! `sos verify`: builds again, under other conditions, and compares.

mod mirror;
mod subject;
mod told;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use serde_json::Value;
use sos_engine::verify::{Condition, Conditions, VerifyOptions, VerifyProgress};
use sos_engine::{Cancel, Engine, EventSink, Graph};
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;

use self::subject::{There, deriver, make_present, only_built, outputs_of};
use self::told::{Report, listed, tell};
use crate::args::{LockFlags, ProgressMode, TargetArgs};
use crate::commands::build;
use crate::evaluate::{self, Item, Mode};
use crate::failure::Failure;
use crate::interrupt;
use crate::render::live::{self, Frame};
use crate::render::{output, size, text};
use crate::run::{self, RunOptions};
use crate::session::Session;
use crate::target;

/// Build targets again under other conditions and compare; say equal, or show the first file and byte that differ
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Every build again runs at another second, with other process ids and in another place on the disk; varied besides are the number of cores, the name of the build directory, the order of directories, umask, locale, time zone, host name, the kernel's release, addresses in memory and the uptime, as far as the derivation does not set them itself and the kernel can. A step has the directory of its recipe; `TMPDIR` is varied instead, if it has a memory filesystem at `/tmp`. The order of its directories is not varied, since they are what its result is made of, and for a root filesystem the umask is not. The wall clock is the machine's: a round begins at least a second after the build that it is compared with has ended, so a written time differs, and what embeds the date shows on another day than that of the build; the record then says `date`.\n\nExamples:\n  sos verify                        what this directory makes\n  sos verify .#image --all          and everything it is made from\n  sos verify .#image --rounds 5     five times, with other values each time\n  sos verify .#tool --vary cores    only with another number of cores\n  sos verify .#tool --against https://cache.example   with what a mirror has\n\nExit status: 104 when something differs."
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
    #[arg(short, long, value_name = "N", default_value_t = 1, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=256))]
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
        locks: evaluated.locks.clone(),
        ..RunOptions::default()
    };
    let engine = run::engine(session, &options, EventSink::null())?;
    // A tree of steps is verified step by step: each from the root that the one before has left.
    let tree = !args.all && evaluate::any_tree(session, &args.target, &targets, &mode)?;
    if args.all || tree {
        drvs = engine.derivations(&evaluated.graph, &drvs)?;
    }
    if tree {
        let (there, missing) = only_built(&engine, &evaluated.graph, drvs)?;
        drvs = there;
        if !session.global.quiet && !session.global.json {
            left_out(&missing, session.global.verbose > 0);
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
            "the wall clock was not varied: rounds are a second later than the build, and what embeds today's date is found on another day",
        );
    }
    if all.problems.is_empty() {
        return Ok(());
    }
    Err(Failure::from(all.problems))
}

/// Says what is not verified because it was never built; with `named` also what that is.
fn left_out(missing: &[StorePath], named: bool) {
    if missing.is_empty() {
        return;
    }
    let were = if missing.len() == 1 { "was" } else { "were" };
    let mut text = format!(
        "left out: {} that {were} not built yet",
        size::count(missing.len(), "derivation")
    );
    if named {
        let names = missing.iter().map(Derivation::name_from_path);
        text.extend(names.map(|name| format!("\n  {name}")));
    } else {
        text.push_str("; `-v` names them");
    }
    output::message(&text);
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
