//! `sos man`: writes manual pages from the options themselves.

use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::args::Cli;
use crate::failure::Failure;
use crate::render::output;

/// Print manual pages, or write all of them into a directory
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  sos man build | man -l -\n  sos man --out ~/.local/share/man/man1"
)]
pub(crate) struct ManArgs {
    /// The verb whose page is printed, as in `sos man store ls` [default: the page of sos itself]
    #[arg(value_name = "VERB")]
    verb: Vec<String>,
    /// Write every page into this directory, as `sos.1`, `sos-build.1` and so on
    #[arg(long, value_name = "DIR", conflicts_with = "verb")]
    out: Option<PathBuf>,
}

/// Writes one page to standard output, or all into a directory.
///
/// # Errors
/// `man-unknown` for a verb that is none; `io` when a page cannot be written.
pub(crate) fn run(args: &ManArgs) -> Result<(), Failure> {
    let mut command = Cli::command();
    command.build();
    if let Some(dir) = &args.out {
        fs::create_dir_all(dir)
            .map_err(|e| Failure::io(&format!("cannot make `{}`", dir.display()), &e))?;
        return write_all(&command, "sos", dir);
    }
    let mut name = "sos".to_owned();
    let mut found = &command;
    for verb in &args.verb {
        let Some(below) = found.find_subcommand(verb) else {
            let verbs = found.get_subcommands().filter(|c| !c.is_hide_set());
            let problem = Diagnostic::error(
                "man-unknown",
                Class::Usage,
                format!("`{name}` has no verb `{verb}`"),
            )
            .suggest(verb, verbs.map(clap::Command::get_name));
            return Err(Failure::new(problem));
        };
        name = format!("{name}-{}", below.get_name());
        found = below;
    }
    output::bytes(&page(found, &name)?)
}

fn write_all(command: &clap::Command, name: &str, dir: &Path) -> Result<(), Failure> {
    let file = dir.join(format!("{name}.1"));
    fs::write(&file, page(command, name)?)
        .map_err(|e| Failure::io(&format!("cannot write `{}`", file.display()), &e))?;
    for below in command.get_subcommands() {
        // `help` is made by the reader of options and explains itself.
        if below.get_name() != "help" {
            write_all(below, &format!("{name}-{}", below.get_name()), dir)?;
        }
    }
    Ok(())
}

fn page(command: &clap::Command, name: &str) -> Result<Vec<u8>, Failure> {
    let mut text = Vec::new();
    let command = command.clone().display_name(name.to_owned());
    clap_mangen::Man::new(command)
        .manual("sos")
        .render(&mut text)
        .map_err(|e| Failure::io("cannot write a page", &e))?;
    Ok(text)
}
