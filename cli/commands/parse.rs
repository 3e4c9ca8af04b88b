//! `sos parse`: prints the expression that a file is read as.

use std::io::Read as _;
use std::path::PathBuf;

use sos_lang::{Evaluator, Options};

use crate::args::LanguageArgs;
use crate::failure::Failure;
use crate::host::StoreHost;
use crate::render::output;
use crate::session::Session;

/// Parse a Nix file and print the expression in canonical form
#[derive(Debug, clap::Args)]
pub(crate) struct ParseArgs {
    /// The file, or `-` for standard input
    file: PathBuf,
    #[command(flatten)]
    language: LanguageArgs,
}

/// Runs the verb.
///
/// # Errors
/// `parse-syntax` and the other problems of the text; as with `nix-instantiate --parse` the exit code is always 1.
pub(crate) fn run(session: &Session, args: &ParseArgs) -> Result<(), Failure> {
    print(session, args).map_err(|failure| failure.with_code(1))
}

fn print(session: &Session, args: &ParseArgs) -> Result<(), Failure> {
    let mut source = Vec::new();
    let name = args.file.display().to_string();
    let here = std::env::current_dir()
        .map_err(|e| Failure::io("cannot tell the current directory", &e))?;
    let (name, base) = if name == "-" {
        std::io::stdin()
            .lock()
            .read_to_end(&mut source)
            .map_err(|e| Failure::io("cannot read standard input", &e))?;
        ("«stdin»".to_owned(), here)
    } else {
        source = std::fs::read(&args.file)
            .map_err(|e| Failure::io(&format!("cannot read `{name}`"), &e))?;
        let base = here
            .join(&args.file)
            .parent()
            .map_or(here, std::path::Path::to_path_buf);
        (name, base)
    };
    let store = session.store()?.clone();
    let session = session.clone();
    let language = args.language.clone();
    let printed = sos_lang::with_big_stack(move || {
        let host = std::rc::Rc::new(StoreHost::pure(store, &session));
        let mut options = Options::default();
        language.apply(&mut options);
        Evaluator::new(host, options).parse_canonical(&source, &name, &base)
    })?;
    output::bytes(&printed)?;
    output::line("")
}
