//! `sos schema`: writes a JSON schema of what sos reads or writes.

use crate::failure::Failure;
use crate::render::output;

/// Print a JSON schema
#[derive(Debug, clap::Args)]
pub(crate) struct SchemaArgs {
    /// The schema to print
    #[arg(value_enum)]
    name: Name,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// One line of `--progress json`
    Events,
}

/// Writes the schema to standard output.
pub(crate) fn run(args: &SchemaArgs) -> Result<(), Failure> {
    match args.name {
        Name::Events => output::json(&sos_engine::event_schema()),
    }
}
