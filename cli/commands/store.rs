//! `sos store`: looks into the store and verifies it.

mod add;
mod check;
mod info;
mod look;
mod place;

use std::path::PathBuf;

use crate::failure::Failure;
use crate::session::Session;

pub(super) use info::kind;
pub(super) use place::{logical, not_there};

/// Look into the store, add to it, verify it
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArgs {
    #[command(subcommand)]
    command: StoreCommand,
}

#[derive(Debug, clap::Subcommand)]
enum StoreCommand {
    /// List the objects of the store, or the entries of a directory in one
    Ls {
        /// `/nix/store/...`, or a path in it
        path: Option<String>,
        /// With type, mode, owner and size
        #[arg(short, long)]
        long: bool,
    },
    /// Print a file of a store object
    Cat {
        /// `/nix/store/.../file`
        path: String,
    },
    /// Say what is known of store objects
    Info {
        /// `/nix/store/...`
        #[arg(required = true)]
        paths: Vec<String>,
        /// Sizes of whole closures as well
        #[arg(short = 'S', long)]
        closure_size: bool,
        /// Print only where the object is on disk
        #[arg(long, conflicts_with = "closure_size")]
        physical: bool,
        /// Print only the size
        #[arg(long, conflicts_with_all = ["closure_size", "physical"])]
        size: bool,
    },
    /// Add files or directories as sources; print their paths
    Add {
        /// What to add
        #[arg(required = true)]
        files: Vec<PathBuf>,
        /// Name of the object [default: that of the file]
        #[arg(long)]
        name: Option<String>,
        /// Hash a file by its content, not as an archive
        #[arg(long)]
        flat: bool,
    },
    /// Verify the store: every object, every blob, the database
    Check {
        /// Trust the content of files; check only that everything is there
        #[arg(long)]
        no_contents: bool,
    },
    /// Remove what `check` finds damaged, so that the next build makes it again; print what is gone
    Repair,
}

/// Runs the verb.
///
/// # Errors
/// `store-not-valid` for a path that is not there; `store-corrupt` when verification finds something.
pub(crate) fn run(session: &Session, args: &StoreArgs) -> Result<(), Failure> {
    match &args.command {
        StoreCommand::Ls { path: None, long } => look::list(session, *long),
        StoreCommand::Ls {
            path: Some(path),
            long,
        } => look::entries(session, path, *long),
        StoreCommand::Cat { path } => look::cat(session, path),
        StoreCommand::Info {
            paths,
            closure_size,
            physical,
            size,
        } => info::info(session, paths, *closure_size, *physical, *size),
        StoreCommand::Add { files, name, flat } => add::add(session, files, name.as_deref(), *flat),
        StoreCommand::Check { no_contents } => check::check(session, !no_contents),
        StoreCommand::Repair => check::repair(session),
    }
}
