//! `sos check`: parses, validates and evaluates; builds and fetches nothing.

use sos_recipes::LockMode;

use crate::args::TargetArgs;
use crate::evaluate::{self, Mode};
use crate::failure::Failure;
use crate::render::{output, size};
use crate::session::Session;

/// Check recipes: all problems at once, nothing built or fetched
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    target: TargetArgs,
}

/// Runs the verb.
///
/// # Errors
/// The problems of every target.
pub(crate) fn run(session: &Session, args: &CheckArgs) -> Result<(), Failure> {
    let targets = evaluate::targets(session, &args.target)?;
    let mode = Mode { lock: LockMode::Preview, dry: true, offline: true };
    let mut problems = Vec::new();
    let mut derivations = 0;
    for target in &targets {
        match evaluate::items(session, &args.target, std::slice::from_ref(target), &mode) {
            Ok(evaluated) => derivations += evaluated.graph.drvs.len(),
            Err(failure) => problems.extend(failure.diagnostics),
        }
    }
    if session.global.json {
        output::json(&serde_json::json!(problems.iter().map(sos_formats::diagnostic::Diagnostic::to_json).collect::<Vec<_>>()))?;
        return if problems.is_empty() { Ok(()) } else { Err(Failure::from(problems).already_shown()) };
    }
    if !problems.is_empty() {
        return Err(Failure::from(problems));
    }
    if !session.global.quiet {
        output::message(&format!("{} checked, {}", size::count(targets.len(), "target"), size::count(derivations, "derivation")));
    }
    Ok(())
}
