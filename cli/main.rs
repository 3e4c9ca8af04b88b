//! The `sos` command: arguments, diagnostics, exit codes; wires the crates together.

#![forbid(unsafe_code)]

mod args;
mod boot;
mod bug;
mod cache;
mod commands;
mod config;
mod console;
mod derivation_file;
mod environment;
mod evaluate;
mod explain;
mod failure;
mod find;
mod flake;
mod graph;
mod host;
mod interrupt;
mod pins;
mod render;
mod repl;
mod run;
mod search_path;
mod session;
mod sources;
mod target;
mod undeclared;
mod unpinned;

use std::process::ExitCode;

use clap::Parser as _;

use args::{Cli, Command, ProgressMode};
use environment::Environment;
use failure::Failure;
use render::diagnostic::{self, Style};
use render::terminal::Terminal;
use render::{again, live, output};
use session::Session;
use sos_engine::{Event, EventSink};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // The child of every build is this program again; it must not parse options or start threads.
    if std::env::args_os()
        .nth(1)
        .is_some_and(|argument| argument == sos_engine::sandbox::HELPER_ARGUMENT)
    {
        sos_engine::sandbox::child_main();
    }
    let env = Environment::read();
    bug::write_reports(&env);
    if let Err(failure) = bug::caught(|| {
        bug::on_trial();
        Ok(())
    }) {
        return end(&failure, &Look::plain());
    }
    let mut cli = Cli::parse();
    cli.global.config = args::every_config(std::env::args_os(), cli.global.config);
    again::given(&cli.global);
    log_to_stderr(&env, cli.global.verbose);
    let terminal = Terminal::decide(&cli.global, None, &env);
    let mut look = Look {
        style: Style {
            color: terminal.color,
            show_trace: cli.global.show_trace,
        },
        terminal,
        json: cli.global.json,
    };
    match bug::caught(|| dispatch(cli, env, &mut look)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => end(&failure, &look),
    }
}

/// How failures are shown.
struct Look {
    style: Style,
    terminal: Terminal,
    json: bool,
}

impl Look {
    /// Before anything is known of the terminal.
    fn plain() -> Self {
        Self {
            style: Style {
                color: false,
                show_trace: false,
            },
            terminal: Terminal {
                color: false,
                unicode: false,
                taskbar: false,
                progress: ProgressMode::Plain,
                github: false,
            },
            json: false,
        }
    }
}

fn end(failure: &Failure, look: &Look) -> ExitCode {
    report(failure, look.style, look.terminal, look.json);
    ExitCode::from(failure.code())
}

/// Runs the verb. `look` learns what the configuration says of it.
fn dispatch(cli: Cli, env: Environment, look: &mut Look) -> Result<(), Failure> {
    if let Command::Completions(args) = &cli.command {
        return commands::completions::run(args);
    }
    if let Command::Schema(args) = &cli.command {
        return commands::schema::run(args);
    }
    if let Command::Man(args) = &cli.command {
        return commands::man::run(args);
    }
    if let Command::Explain(args) = &cli.command {
        return commands::explain::run(args, cli.global.json);
    }
    let session = Session::new(cli.global, env)?;
    (look.style, look.terminal) = (session.style(), session.terminal);
    match cli.command {
        Command::Boot(args) => commands::boot::run(&session, &args),
        Command::Build(args) => commands::build::run(&session, &args),
        Command::Check(args) => commands::check::run(&session, &args),
        Command::Eval(args) => commands::eval::run(&session, &args),
        Command::Export(args) => commands::export::run(&session, &args),
        Command::Repl(args) => commands::repl::run(&session, &args),
        Command::Parse(args) => commands::parse::run(&session, &args),
        Command::Lock(args) => commands::lock::run(&session, &args),
        Command::Plan(args) => commands::plan::run(&session, &args),
        Command::Provision(args) => commands::provision::run(&session, &args),
        Command::Graph(args) => commands::graph::run(&session, &args),
        Command::Why(args) => commands::why::run(&session, &args),
        Command::Builds(args) => commands::builds::run(&session, &args),
        Command::Log(args) => commands::log::run(&session, &args),
        Command::Shell(args) => commands::shell::run(&session, &args),
        Command::Diff(args) => commands::diff::run(&session, &args),
        Command::Verify(args) => commands::verify::run(&session, &args),
        Command::Store(args) => commands::store::run(&session, &args),
        Command::Gc(args) => commands::gc::run(&session, &args),
        Command::Recipe(args) => commands::recipe::run(&session, &args),
        Command::Serve(args) => commands::serve::run(&session, &args),
        Command::Doctor(args) => commands::doctor::run(&session, &args),
        Command::Init(args) => commands::init::run(&args),
        Command::Completions(args) => commands::completions::run(&args),
        Command::Explain(args) => commands::explain::run(&args, session.global.json),
        Command::Man(args) => commands::man::run(&args),
        Command::Schema(args) => commands::schema::run(&args),
    }
}

/// Shows what went wrong; the last thing on the screen is the error itself.
fn report(failure: &Failure, style: Style, terminal: Terminal, json: bool) {
    if failure.shown {
        return;
    }
    if terminal.progress == ProgressMode::Json {
        // What reads the stream waits for its last line, also when nothing could be built.
        let (events, records) = EventSink::channel();
        for d in &failure.diagnostics {
            let mut diagnostic = Box::new(d.clone());
            again::advice(&mut diagnostic);
            events.emit(Event::Diagnostic { diagnostic });
        }
        events.emit(Event::failed_before_building(i32::from(failure.code()), 0));
        drop(events);
        let lines: String = records
            .iter()
            .map(|record| record.to_json() + "\n")
            .collect();
        // Standard error still says it when standard output is gone.
        let _ignored = output::bytes(lines.as_bytes()).is_err();
        return;
    }
    for d in failure.diagnostics.iter().take(diagnostic::MAX_DIAGNOSTICS) {
        if json {
            output::message(&again::json(d).to_string());
            continue;
        }
        output::message(diagnostic::shown(d, style, terminal.github).trim_end());
    }
    let hidden = failure
        .diagnostics
        .len()
        .saturating_sub(diagnostic::MAX_DIAGNOSTICS);
    if hidden > 0 && !json {
        let problems = if hidden == 1 { "problem" } else { "problems" };
        output::message(&format!("and {hidden} more {problems}"));
    }
}

fn log_to_stderr(env: &Environment, verbose: u8) {
    let filter = env.log.clone().unwrap_or_else(|| {
        if verbose > 1 {
            "debug".to_owned()
        } else {
            "off".to_owned()
        }
    });
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::new(filter))
        .with_writer(|| live::Lines)
        .init();
}
