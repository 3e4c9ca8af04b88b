//! `sos eval`: prints a value.

use sos_formats::diagnostic::Diagnostic;

use crate::args::{LockFlags, TargetArgs};
use crate::evaluate::{self, Mode};
use crate::failure::Failure;
use crate::render::output;
use crate::session::Session;

/// Print the value of a target
#[derive(Debug, clap::Args)]
pub(crate) struct EvalArgs {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    lock: LockFlags,
    /// Evaluate all of it, not only the outermost value
    #[arg(long)]
    strict: bool,
    /// Print a string as it is, without quotes and without a newline
    #[arg(long, conflicts_with_all = ["strict", "xml"])]
    raw: bool,
    /// Print as XML
    #[arg(long)]
    xml: bool,
    /// Leave places out of the XML
    #[arg(long, requires = "xml")]
    no_location: bool,
    /// Exit with 1 on every failure, as `nix-instantiate --eval` does
    #[arg(long, hide = true)]
    eval: bool,
}

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe.
pub(crate) fn run(session: &Session, args: &EvalArgs) -> Result<(), Failure> {
    let done = print(session, args);
    if args.eval {
        return done.map_err(|failure| failure.with_code(1));
    }
    done
}

fn print(session: &Session, args: &EvalArgs) -> Result<(), Failure> {
    let targets = evaluate::targets(session, &args.target)?;
    let json = session.global.json;
    let evaluated = evaluate::cached(
        session,
        &args.target,
        &targets,
        &Mode::showing(args.lock),
        &format!("{args:?}"),
        |evaluator, value, _| {
            if args.raw {
                return evaluator
                    .to_str(value)
                    .map(|text| text.0)
                    .map_err(|error| Box::new(no_string(*error)));
            }
            if json {
                return evaluator
                    .to_json(value)
                    .map(|text| with_newline(text.into_bytes()));
            }
            let value = if args.strict || args.xml {
                evaluator.force_deep(value)?
            } else {
                evaluator.force(value)?
            };
            if args.xml {
                evaluator.to_xml(value, !args.no_location)
            } else {
                Ok(with_newline(evaluator.print_bytes(value)))
            }
        },
    )?;
    evaluate::report_locks(session, &evaluated.locks);
    evaluated
        .values
        .iter()
        .try_for_each(|text| output::bytes(text))
}

/// Of a value that is no string, which has no place, the flag is what asks for one.
fn no_string(error: Diagnostic) -> Diagnostic {
    if error.labels.is_empty() && error.code == "eval-type" {
        return error.help("leave out `--raw`, which prints strings");
    }
    error
}

fn with_newline(mut text: Vec<u8>) -> Vec<u8> {
    text.push(b'\n');
    text
}
