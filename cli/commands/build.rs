//! `sos build`: builds targets and prints the paths of their outputs.

use std::path::PathBuf;

use sos_engine::{BuildReport, Event, Wanted};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;

use crate::args::{LockFlags, ProgressMode, TargetArgs};
use crate::commands::{out_link, plan};
use crate::derivation_file;
use crate::evaluate::{self, Item, Mode};
use crate::failure::Failure;
use crate::render::{output, size};
use crate::run::{self, RunOptions, Stream};
use crate::session::Session;
use crate::target::{self, Source, Target};
use crate::undeclared;

/// Build targets; print the paths of their outputs, in the order of the arguments
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sos build                       the recipe in this directory\n  sos build .#image -o result     one attribute of it, linked as ./result\n  sos build ./web.rootfs.toml#oci a Debian root filesystem as an image\n  sos build ./f.nix#a^dev         one output of a plain Nix derivation\n  sos build /nix/store/HASH-x.drv a derivation that `nix-instantiate` wrote"
)]
pub(crate) struct BuildArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
    /// Say what would be built and fetched, and stop
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// After a failure, build what does not depend on it
    #[arg(short, long)]
    keep_going: bool,
    /// Build the targets even if they are there; a warning, and exit status 0, if they come out otherwise: `sos verify` looks for the
    /// reason, and fails
    #[arg(long)]
    rebuild: bool,
    /// Build everything here: ask none of the `substituters` of the configuration
    #[arg(long)]
    no_substitute: bool,
    /// Builds at once [default: the number of cores]
    #[arg(short, long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Name of the link to the result, which also keeps it from being collected [default: result, for results that are files]
    #[arg(short = 'o', long, value_name = "LINK")]
    out_link: Option<PathBuf>,
    /// Make no link, whatever `--out-link` says
    #[arg(long)]
    no_link: bool,
    /// Show the lines that builds write
    #[arg(short = 'L', long)]
    logs: bool,
    /// Keep the directory of a failed build
    #[arg(long)]
    keep_failed: bool,
    /// Warn of files of other steps that a bootstrap step looked for and did without; slower, and only of steps that are built now
    #[arg(long)]
    watch_steps: bool,
    /// Stop a build or a download after this many seconds; 0 is no limit [setting: build.timeout]
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Stop a build that writes nothing for this many seconds; 0 is no limit [setting: build.silent-timeout]
    #[arg(long, value_name = "SECONDS")]
    silent_timeout: Option<u64>,
    /// Stop a build that writes more log than this many bytes, or `10M`, `1.5G`; 0 is no limit [setting: build.max-log-size]
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_log_size: Option<u64>,
}

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe, of fetching, of building.
pub(crate) fn run(session: &Session, args: &BuildArgs) -> Result<(), Failure> {
    let targets = evaluate::targets(session, &args.target)?;
    // The cache leaves out what something is made from that is there.
    let no_eval_cache = args.target.no_eval_cache || args.rebuild;
    let target_args = TargetArgs {
        no_eval_cache,
        ..args.target.clone()
    };
    if args.dry_run {
        return plan::show(
            session,
            &target_args,
            &targets,
            args.lock,
            plan::Format::Text,
            args.rebuild,
        );
    }
    if let (Some(link), true, false) = (&args.out_link, args.no_link, session.global.quiet) {
        output::message(&format!(
            "warning: `--no-link` is there too: no link `{}` is made",
            link.display()
        ));
    }
    if let Some(link) = args.out_link.as_deref().filter(|_| !args.no_link) {
        out_link::check(link)?;
    }
    let stream = Stream::start(session, args.logs);
    let evaluated = match evaluated(
        session,
        &target_args,
        &Mode::building(args.lock),
        &targets,
        &stream,
    ) {
        Ok(evaluated) => evaluated,
        Err(failure) => return Err(stream.fail(session, failure)),
    };
    let wanted = wanted(&evaluated.values);
    let named = targets
        .iter()
        .map(|t| t.text.as_str())
        .collect::<Vec<_>>()
        .join(" ");
    let options = RunOptions {
        jobs: args.jobs.map(usize::from),
        keep_going: args.keep_going,
        rebuild: args.rebuild,
        keep_failed: args.keep_failed,
        watch_steps: args.watch_steps,
        timeout_secs: args.timeout,
        silent_timeout_secs: args.silent_timeout,
        max_log_bytes: args.max_log_size,
        offline: args.lock.offline,
        no_substitute: args.no_substitute,
        spent: stream.spent(),
        command: format!("build{}", args.target.words()),
        project: target::project(&targets),
        attrs: target::attrs(&targets, &evaluated.values),
        locks: evaluated.locks.clone(),
        // The targets of a file or an expression are named otherwise.
        relock: if args.target.file.is_none() && args.target.expression.is_none() {
            format!("sos lock {named} --update")
        } else {
            String::new()
        },
    };
    let steps = undeclared::steps(&evaluated.graph);
    let report = run::build(session, evaluated.graph, &wanted, &options, stream)?;
    let paths = paths(&evaluated.values, &report);
    let linked = if args.no_link {
        Ok(())
    } else {
        out_link::make(session, args.out_link.as_deref(), &paths)
    };
    // As with any other failure, standard output stays empty when there is nothing to be had.
    if report.success() || !paths.is_empty() {
        print(session, &paths)?;
    }
    linked?;
    if report.success() {
        Ok(())
    } else {
        if !session.global.quiet && !session.global.json {
            let dir = session.store_dir()?;
            for note in undeclared::notes(&steps, &dir, &report.failures) {
                output::message(&note);
            }
        }
        Err(Failure::shown(report.failures.clone(), report.exit_code()))
    }
}

/// Evaluates the targets, and tells so in the stream.
pub(super) fn evaluated(
    session: &Session,
    args: &TargetArgs,
    mode: &Mode,
    targets: &[Target],
    stream: &Stream,
) -> Result<evaluate::Evaluated<Vec<Item>>, Failure> {
    let texts = || targets.iter().map(|t| t.text.clone()).collect();
    stream.emit(Event::EvalStarted { targets: texts() });
    let evaluated = resolve(session, args, targets, mode)?;
    stream.emit(Event::EvalFinished {
        targets: texts(),
        drvs: evaluated.graph.texts.len(),
        duration_ms: u64::try_from(stream.spent().as_millis()).unwrap_or(u64::MAX),
    });
    evaluate::report_locks(session, &evaluated.locks);
    Ok(evaluated)
}

/// Evaluates recipes, and takes store paths and derivations as they are.
pub(crate) fn resolve(
    session: &Session,
    args: &TargetArgs,
    targets: &[Target],
    mode: &Mode,
) -> Result<evaluate::Evaluated<Vec<Item>>, Failure> {
    let recipes: Vec<Target> = targets
        .iter()
        .filter(|t| !matches!(t.source, Source::StorePath(_) | Source::Derivation(_)))
        .cloned()
        .collect();
    let mut evaluated = evaluate::items(session, args, &recipes, mode)?;
    if recipes.len() < targets.len() {
        let mut from_recipes = std::mem::take(&mut evaluated.values).into_iter();
        for target in targets {
            let items = match &target.source {
                Source::StorePath(path) => vec![object(
                    session,
                    path,
                    target.output.as_deref(),
                    &mut evaluated.graph,
                )?],
                Source::Derivation(file) => vec![derivation_file::load(
                    session.store()?,
                    file,
                    target.output.as_deref(),
                    mode.dry,
                    &mut evaluated.graph,
                )?],
                _ => from_recipes.next().unwrap_or_default(),
            };
            evaluated.values.push(items);
        }
    }
    Ok(evaluated)
}

/// A store path on the command line: an object that is there, or a derivation that was built here before.
fn object(
    session: &Session,
    text: &str,
    output: Option<&str>,
    graph: &mut sos_engine::Graph,
) -> Result<Item, Failure> {
    let store = session.store()?;
    let path =
        StorePath::from_absolute(store.store_dir(), text.trim_end_matches('/')).map_err(|e| {
            Diagnostic::error(
                "store-bad-path",
                Class::Usage,
                format!("`{text}` is not a store path: {e}"),
            )
        })?;
    if path.name().ends_with(".drv") {
        if let Some(aterm) = store.get_drv(&path)? {
            let drv = sos_formats::derivation::Derivation::parse_aterm(&aterm, store.store_dir())
                .map_err(|e| {
                Diagnostic::error(
                    "drv-malformed",
                    Class::Other,
                    format!("the derivation `{text}` cannot be read: {e}"),
                )
            })?;
            let outputs = output.map_or_else(
                || drv.outputs.keys().cloned().collect(),
                |o| vec![o.to_owned()],
            );
            graph.insert(path.clone(), drv);
            return Ok(Item::Derivation { drv: path, outputs });
        }
    } else if store.is_valid(&path)? {
        return Ok(Item::Object(path));
    }
    Err(Failure::new(
        Diagnostic::error(
            "store-not-valid",
            Class::Other,
            format!("`{text}` is not in the store"),
        )
        .help("name the recipe that makes it; `sos store ls` lists what is there"),
    ))
}

/// What the engine is asked for.
pub(crate) fn wanted(items: &[Vec<Item>]) -> Vec<Wanted> {
    items.iter().flatten().filter_map(Item::wanted).collect()
}

/// The paths that are there, in the order of the arguments, with the name of their output.
pub(super) fn paths(items: &[Vec<Item>], report: &BuildReport) -> Vec<(StorePath, String)> {
    let mut results = report.results.iter();
    let mut out = Vec::new();
    for item in items.iter().flatten() {
        match item {
            Item::Object(path) => out.push((path.clone(), "out".to_owned())),
            Item::Derivation { outputs, .. } => {
                let Some((_, made)) = results.next() else {
                    continue;
                };
                out.extend(
                    outputs
                        .iter()
                        .filter_map(|o| made.get(o).map(|p| (p.clone(), o.clone()))),
                );
            }
        }
    }
    out
}

fn print(session: &Session, paths: &[(StorePath, String)]) -> Result<(), Failure> {
    let dir = session.store_dir()?;
    if session.global.json {
        let list: Vec<_> = paths
            .iter()
            .map(|(p, o)| serde_json::json!({ "path": p.absolute(&dir), "output": o }))
            .collect();
        return output::json(&serde_json::json!(list));
    }
    if session.terminal.progress == ProgressMode::Json {
        // The summary of the stream names them.
        return Ok(());
    }
    paths
        .iter()
        .try_for_each(|(p, _)| output::line(&p.absolute(&dir)))
}
