//! The command line: global options and verbs. Doc comments are the help texts.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands;

/// A declarative build system for operating systems.
#[derive(Debug, Parser)]
#[command(name = "sos", version, propagate_version = true, max_term_width = 100)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every verb takes.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// Say more; twice for tracing of the program itself
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Say less: only problems and results
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// When to colour [default: auto]
    #[arg(long, global = true, value_name = "WHEN", value_enum)]
    pub(crate) color: Option<When>,
    /// How to show progress [default: tty on a terminal, else plain]
    #[arg(long, global = true, value_name = "HOW", value_enum)]
    pub(crate) progress: Option<ProgressMode>,
    /// Print the result as JSON and no progress
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Directory of the store [default: $XDG_DATA_HOME/sos]
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) store: Option<PathBuf>,
    /// Set a configuration value, as in `--config build.jobs=4`
    #[arg(long, global = true, value_name = "KEY=VALUE")]
    pub(crate) config: Vec<String>,
    /// Print the whole evaluation trace above an error
    #[arg(long, global = true)]
    pub(crate) show_trace: bool,
}

/// Answers to "when?".
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    /// On a terminal
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// The sinks of the event stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ProgressMode {
    /// Like tty on a terminal, else like plain
    Auto,
    /// A live region at the foot of the terminal
    Tty,
    /// One line an event
    Plain,
    /// One JSON object a line, on standard output
    Json,
    /// Nothing
    None,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Build(commands::build::BuildArgs),
    Check(commands::check::CheckArgs),
    Eval(commands::eval::EvalArgs),
    Parse(commands::parse::ParseArgs),
    Lock(commands::lock::LockArgs),
    Plan(commands::plan::PlanArgs),
    Log(commands::log::LogArgs),
    Store(commands::store::StoreArgs),
    Gc(commands::gc::GcArgs),
    Doctor(commands::doctor::DoctorArgs),
    Init(commands::init::InitArgs),
    Completions(commands::completions::CompletionsArgs),
}

/// What to build or evaluate.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TargetArgs {
    /// `[FILE|DIR][#ATTR][^OUTPUT]` or a store path; with --file or --expr: attribute paths
    #[arg(value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Take the attributes named as targets from this Nix file
    #[arg(short, long, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Take the attributes named as targets from this expression
    #[arg(
        short = 'E',
        long = "expr",
        value_name = "EXPR",
        conflicts_with = "file"
    )]
    pub(crate) expression: Option<String>,
    /// Pass the expression EXPR as argument NAME to a recipe that is a function
    #[arg(long, num_args = 2, value_names = ["NAME", "EXPR"])]
    pub(crate) arg: Vec<String>,
    /// Pass the string STRING as argument NAME to a recipe that is a function
    #[arg(long, num_args = 2, value_names = ["NAME", "STRING"])]
    pub(crate) argstr: Vec<String>,
    /// Add a place for `<...>` look-ups: PATH or PREFIX=PATH
    #[arg(short = 'I', long = "include", value_name = "PATH")]
    pub(crate) include: Vec<String>,
}

/// How recipes are pinned.
#[derive(Debug, Clone, Copy, Default, Args)]
pub(crate) struct LockFlags {
    /// Refuse to change `sos.lock`: what it does not pin is an error
    #[arg(long)]
    pub(crate) locked: bool,
    /// Use no network at all
    #[arg(long)]
    pub(crate) offline: bool,
}
