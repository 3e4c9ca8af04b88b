//! `sos repl`: expressions in, values out.

use crate::args::{LockFlags, TargetArgs};
use crate::evaluate::{self, Mode};
use crate::failure::Failure;
use crate::repl;
use crate::session::Session;

/// Evaluate expressions one after the other
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sos repl                        ask away; :? lists the commands\n  sos repl sos.nix                with the attributes of a file as names\n  echo '1 + 2' | sos repl         without a terminal"
)]
pub(crate) struct ReplArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
}

/// Runs the verb.
///
/// # Errors
/// When the terminal cannot be used; problems of expressions are shown and forgotten.
pub(crate) fn run(session: &Session, args: &ReplArgs) -> Result<(), Failure> {
    let mode = Mode::of(args.lock);
    let mut files = args.target.targets.clone();
    files.extend(args.target.file.iter().map(|f| f.display().to_string()));
    evaluate::interactive(session, &args.target, &mode, |world| {
        repl::talk(session, world, &files, args.target.expression.as_deref())
    })
}
