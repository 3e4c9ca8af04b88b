//! `sos lock`: pins what recipes leave open.

use sos_recipes::LockMode;

use crate::args::TargetArgs;
use crate::evaluate::{self, Mode};
use crate::failure::Failure;
use crate::render::output;
use crate::session::Session;

/// Write sos.lock: pin packages and downloads that the recipe leaves open
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Without --update only what is missing or stale is resolved. `--update` alone moves everything that the target uses;\n`--update web.rootfs.toml` moves one recipe, `--update URL` one download."
)]
pub(crate) struct LockArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Resolve again what is pinned already; NAME is a recipe file or a URL
    #[arg(long, value_name = "NAME", num_args = 0..)]
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
    };
    let evaluated = evaluate::items(session, &args.target, &targets, &mode)?;
    evaluate::report_locks(session, &evaluated.locks);
    if evaluated.locks.is_empty() && !session.global.quiet {
        output::message("the lock is up to date");
    }
    Ok(())
}
