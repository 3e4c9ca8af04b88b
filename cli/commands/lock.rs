//! `sos lock`: pins what recipes leave open.

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::lock::SosLock;
use sos_lang::{Evaluator, Value};
use sos_recipes::LockMode;

use crate::args::TargetArgs;
use crate::evaluate::{self, Mode};
use crate::failure::Failure;
use crate::render::output;
use crate::session::Session;
use crate::target::{Source, Target};

/// Write sos.lock, or flake.lock: pin packages, downloads and inputs that the recipe leaves open
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --update only what is missing or stale is resolved. `--update` alone moves everything that the target uses;\n`--update web.rootfs.toml` moves one recipe, `--update URL` one download, `--update HOST/NAME:TAG` one image of a\nregistry, `--update INPUT` one input of a flake."
)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Resolve again what is pinned already; NAME is a recipe file, a URL, an image of a registry, or an input of a flake
    #[arg(long, value_name = "NAME", num_args = 0..=1)]
    update: Option<Vec<String>>,
}

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe, of the archive, of the network.
pub(crate) fn run(session: &Session, args: &LockArgs) -> Result<(), Failure> {
    let targets = evaluate::targets(session, &args.target)?;
    let lock = match &args.update {
        None => LockMode::Create,
        Some(names) => LockMode::Update(names.clone()),
    };
    let mode = Mode {
        lock,
        dry: true,
        offline: false,
        write_locks: true,
        only_lock: true,
        builds_here: false,
        whole_graph: false,
        calls: true,
    };
    let evaluated = if targets.iter().all(|t| matches!(t.source, Source::Flake(_))) {
        // A flake says what it changes itself, and need not hold anything that could be built.
        let nothing = |_: &Evaluator, _: Value, _: &Target| Ok(Vec::new());
        evaluate::values(session, &args.target, &targets, &mode, nothing)?
    } else {
        evaluate::items(session, &args.target, &targets, &mode)?
    };
    evaluate::report_locks(session, &evaluated.locks);
    for target in &targets {
        known(target, args.update.iter().flatten())?;
    }
    let flakes = targets.iter().any(|t| matches!(t.source, Source::Flake(_)));
    if evaluated.locks.is_empty() && !session.global.quiet && !flakes {
        output::message("the lock is up to date");
    }
    Ok(())
}

/// Refuses names that pin nothing: a misspelt one would look like success.
fn known<'a>(target: &Target, mut names: impl Iterator<Item = &'a String>) -> Result<(), Failure> {
    let Some(directory) = target.directory() else {
        return Ok(());
    };
    let path = directory.join(sos_recipes::LOCK_FILE);
    let lock = std::fs::read_to_string(&path)
        .ok()
        .and_then(|text| SosLock::parse(&text).ok())
        .unwrap_or_else(SosLock::new);
    let recipes = lock.rootfs_entries().iter().map(|e| e.recipe.as_str());
    let pinned: Vec<&str> = recipes
        .chain(lock.url_entries().iter().map(|e| e.url.as_str()))
        .chain(lock.image_entries().iter().map(|e| e.reference.as_str()))
        .collect();
    match names.find(|name| !pinned.contains(&name.as_str())) {
        None => Ok(()),
        Some(name) => Err(Failure::new(
            Diagnostic::error(
                "lock-unknown-name",
                Class::Usage,
                format!("`{name}` is not pinned in `{}`", path.display()),
            )
            .note(format!("pinned there: {}", pinned.join(", ")))
            .suggest(name, pinned.iter().copied()),
        )),
    }
}
