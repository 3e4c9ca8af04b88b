//! `sos completions`: writes a completion script.

use clap::CommandFactory as _;
use clap_complete::aot::Shell as Common;

use crate::args::Cli;
use crate::failure::Failure;
use crate::render::output;

/// Print a completion script for a shell
#[derive(Debug, clap::Args)]
pub(crate) struct CompletionsArgs {
    /// The shell to write for
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Shell {
    Bash,
    Elvish,
    Fish,
    Nushell,
    Powershell,
    Zsh,
}

/// Writes the script to standard output.
pub(crate) fn run(args: &CompletionsArgs) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = Cli::command();
    let common = match args.shell {
        Shell::Bash => Common::Bash,
        Shell::Elvish => Common::Elvish,
        Shell::Fish => Common::Fish,
        Shell::Powershell => Common::PowerShell,
        Shell::Zsh => Common::Zsh,
        Shell::Nushell => {
            let nushell = clap_complete_nushell::Nushell;
            clap_complete::generate(nushell, &mut command, "sos", &mut script);
            return output::bytes(&script);
        }
    };
    clap_complete::generate(common, &mut command, "sos", &mut script);
    output::bytes(&script)
}
