//! The command line: global options and verbs. Doc comments are the help texts.

use std::ffi::OsString;
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
    #[arg(long, global = true, overrides_with = "no_show_trace")]
    pub(crate) show_trace: bool,
    /// Take `--show-trace` back
    #[arg(long, global = true, hide = true, overrides_with = "show_trace")]
    pub(crate) no_show_trace: bool,
}

/// The values of every `--config` of a command line, in their order: where an option may stand before and after the verb, clap keeps
/// only what stands after it. What cannot be told apart from the value of another option is left as clap has it.
pub(crate) fn every_config(
    words: impl Iterator<Item = OsString>,
    parsed: Vec<String>,
) -> Vec<String> {
    let mut all = Vec::new();
    let mut words = words.skip(1).map(|word| word.into_string().ok());
    while let Some(word) = words.next() {
        match word.as_deref() {
            Some("--") => break,
            Some("--config") => all.extend(words.next().flatten()),
            Some(word) => all.extend(word.strip_prefix("--config=").map(str::to_owned)),
            None => {}
        }
    }
    if all.ends_with(&parsed) { all } else { parsed }
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
    Export(commands::export::ExportArgs),
    Boot(commands::boot::BootArgs),
    Provision(commands::provision::ProvisionArgs),
    Repl(commands::repl::ReplArgs),
    Parse(commands::parse::ParseArgs),
    Lock(commands::lock::LockArgs),
    Plan(commands::plan::PlanArgs),
    Graph(commands::graph::GraphArgs),
    Why(commands::why::WhyArgs),
    Builds(commands::builds::BuildsArgs),
    Log(commands::log::LogArgs),
    Shell(commands::shell::ShellArgs),
    Verify(commands::verify::VerifyArgs),
    Diff(commands::diff::DiffArgs),
    Store(commands::store::StoreArgs),
    Gc(commands::gc::GcArgs),
    Recipe(commands::recipe::RecipeArgs),
    Serve(commands::serve::ServeArgs),
    Doctor(commands::doctor::DoctorArgs),
    Init(commands::init::InitArgs),
    Completions(commands::completions::CompletionsArgs),
    Explain(commands::explain::ExplainArgs),
    #[command(hide = true)]
    Man(commands::man::ManArgs),
    #[command(hide = true)]
    Schema(commands::schema::SchemaArgs),
}

/// What to build or evaluate.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct TargetArgs {
    /// `[FILE|DIR|FLAKE][#ATTR][^OUTPUT]` or a store path; with --file or --expr: attribute paths
    #[arg(value_name = "TARGET")]
    pub(crate) targets: Vec<String>,
    /// Take the attributes named as targets from this Nix file, or from the `default.nix` in this directory
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
    #[arg(long, num_args = 2, value_names = ["NAME", "EXPR"], allow_hyphen_values = true)]
    pub(crate) arg: Vec<String>,
    /// Pass the string STRING as argument NAME to a recipe that is a function
    #[arg(long, num_args = 2, value_names = ["NAME", "STRING"], allow_hyphen_values = true)]
    pub(crate) argstr: Vec<String>,
    /// Give a variable of a tree of bootstrap steps a value, as in `--set ARCH=amd64`
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) set: Vec<String>,
    /// Add a place for `<...>` look-ups: PATH or PREFIX=PATH
    #[arg(short = 'I', long = "include", value_name = "PATH")]
    pub(crate) include: Vec<String>,
    /// Take this attribute path of the targets; may be given several times
    #[arg(short = 'A', long, value_name = "ATTR")]
    pub(crate) attr: Vec<String>,
    #[command(flatten)]
    pub(crate) language: LanguageArgs,
    /// Evaluate even if nothing has changed since the last time
    #[arg(long)]
    pub(crate) no_eval_cache: bool,
    #[command(flatten)]
    pub(crate) access: AccessFlags,
}

impl TargetArgs {
    /// The words that name the same targets on another command line, each after a blank; empty for the default one.
    pub(crate) fn words(&self) -> String {
        let mut words: Vec<String> = Vec::new();
        if let Some(file) = &self.file {
            words.extend(["--file".to_owned(), file.display().to_string()]);
        }
        if let Some(expression) = &self.expression {
            words.extend(["--expr".to_owned(), expression.clone()]);
        }
        for (flag, values, count) in [
            ("--arg", &self.arg, 2),
            ("--argstr", &self.argstr, 2),
            ("--set", &self.set, 1),
            ("-I", &self.include, 1),
            ("-A", &self.attr, 1),
        ] {
            for values in values.chunks(count) {
                words.push(flag.to_owned());
                words.extend(values.iter().cloned());
            }
        }
        words.extend(self.targets.iter().cloned());
        words
            .iter()
            .map(|word| format!(" {}", quoted(word)))
            .collect()
    }
}

/// A word as a shell reads it back.
pub(crate) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./#^:+,=@%".contains(c);
    if !word.is_empty() && !word.starts_with('#') && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', "'\\''"))
}

/// What an evaluation may look at.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct AccessFlags {
    /// Evaluate without clock, environment, search path, and files outside the recipe's directory; flakes always are
    #[arg(long)]
    pub(crate) pure_eval: bool,
    /// Let flakes see what pure evaluation hides
    #[arg(long, conflicts_with = "pure_eval")]
    pub(crate) impure: bool,
    /// Read only what the search path holds, and URLs that --allowed-uris names
    #[arg(long)]
    pub(crate) restrict_eval: bool,
    /// Beginnings of URLs that --restrict-eval allows, separated by blanks
    #[arg(long, value_name = "URIS")]
    pub(crate) allowed_uris: Vec<String>,
}

/// What the language accepts.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct LanguageArgs {
    /// What to do about URLs without quotes
    #[arg(long, value_name = "LEVEL", value_enum, help_heading = LANGUAGE)]
    lint_url_literals: Option<LintLevel>,
    /// What to do about relative paths that do not begin with a dot
    #[arg(long, value_name = "LEVEL", value_enum, help_heading = LANGUAGE)]
    lint_short_path_literals: Option<LintLevel>,
    /// What to do about paths that begin with `/` or `~/`
    #[arg(long, value_name = "LEVEL", value_enum, help_heading = LANGUAGE)]
    lint_absolute_path_literals: Option<LintLevel>,
    /// Turn on features of the language: `pipe-operators`, `parse-toml-timestamps`
    #[arg(long, value_name = "FEATURES", help_heading = LANGUAGE)]
    extra_experimental_features: Vec<String>,
    /// How deep calls may nest
    #[arg(long, value_name = "NUMBER", help_heading = LANGUAGE, value_parser = clap::value_parser!(u32).range(1..))]
    max_call_depth: Option<u32>,
}

const LANGUAGE: &str = "Language options";

/// Answers to "what is done about it?".
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LintLevel {
    /// Nothing
    Ignore,
    /// Say it
    Warn,
    /// Refuse it
    Fatal,
}

impl LanguageArgs {
    /// Puts what the flags say into the options of an evaluator.
    pub(crate) fn apply(&self, options: &mut sos_lang::Options) {
        let level = |level: Option<LintLevel>| match level {
            None | Some(LintLevel::Ignore) => sos_lang::Lint::Ignore,
            Some(LintLevel::Warn) => sos_lang::Lint::Warn,
            Some(LintLevel::Fatal) => sos_lang::Lint::Fatal,
        };
        // What other features stand for is always on here, or not part of the language.
        let has = |name: &str| {
            let mut words = self
                .extra_experimental_features
                .iter()
                .flat_map(|f| f.split_whitespace());
            words.any(|word| word == name)
        };
        options.dialect = sos_lang::Dialect {
            pipe_operators: has("pipe-operators"),
            url_literals: level(self.lint_url_literals),
            short_path_literals: level(self.lint_short_path_literals),
            absolute_path_literals: level(self.lint_absolute_path_literals),
        };
        options.toml_timestamps = has("parse-toml-timestamps");
        if let Some(depth) = self.max_call_depth {
            options.max_call_depth = depth;
        }
    }
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
