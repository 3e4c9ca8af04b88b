//! `sos completions`: writes a completion script.

use clap::CommandFactory as _;

use crate::args::Cli;
use crate::failure::Failure;
use crate::render::output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell to write for
    #[arg(value_enum)]
    shell: clap_complete::Shell,
}

/// Writes the script to standard output.
pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "sos", &mut script);
    output::bytes(&script)
}
