//! `sos explain`: says of the code of a problem what it means, how it comes to it, and what to do.

use std::fmt::Write as _;

use serde_json::json;
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::explain::{self, Explained};
use crate::failure::Failure;
use crate::render::output;

/// Say what the code of a problem means, what causes it, and what helps; without a code, list them all
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  sos explain build-no-builder\n  sos explain --json")]
pub(crate) struct ExplainArgs {
    /// The code, as it stands in brackets behind `error` or `warning`
    #[arg(value_name = "CODE")]
    code: Option<String>,
}

/// Writes the text to standard output.
///
/// # Errors
/// `explain-unknown` when nothing has that code.
pub(crate) fn run(args: &ExplainArgs, json: bool) -> Result<(), Failure> {
    let Some(asked) = &args.code else {
        let all: Vec<Explained> = explain::all().collect();
        if json {
            let all: Vec<_> = all.iter().map(as_json).collect();
            return output::json(&json!(all));
        }
        return all
            .iter()
            .try_for_each(|one| output::line(&format!("{}  {}", one.code, one.meaning)));
    };
    // As it is copied from an error: `error[code]`, `[code]` or the code.
    let code = asked.rsplit('[').next().unwrap_or(asked);
    let code = code.trim_end_matches([']', ':']).trim();
    let Some(one) = explain::find(code) else {
        let problem = Diagnostic::error(
            "explain-unknown",
            Class::Usage,
            format!("no problem has the code `{code}`"),
        )
        .suggest(code, explain::all().map(|one| one.code))
        .help("`sos explain` lists all of them");
        return Err(Failure::new(problem));
    };
    if json {
        return output::json(&as_json(&one));
    }
    let mut text = String::new();
    // Writing to a string does not fail.
    let _infallible = writeln!(text, "{}: {}", one.code, one.meaning).is_err();
    for (head, lines) in [("cause", one.cause), ("help", one.fix)] {
        let _infallible = write!(text, "\n{head}: {lines}").is_err();
    }
    output::line(&text)
}

fn as_json(one: &Explained) -> serde_json::Value {
    json!({ "code": one.code, "meaning": one.meaning, "cause": one.cause, "help": one.fix })
}
