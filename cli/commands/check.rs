//! `sos check`: parses, validates and evaluates; builds and fetches nothing.

use sos_formats::diagnostic::Diagnostic;
use sos_lang::{Evaluator, Value};
use sos_recipes::LockMode;

use crate::args::TargetArgs;
use crate::commands::fix;
use crate::evaluate::{self, Mode};
use crate::failure::Failure;
use crate::render::{output, size};
use crate::session::Session;
use crate::target::Target;

/// Check recipes: all problems at once, nothing built or fetched
#[derive(Debug, clap::Args)]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    target: TargetArgs,
    /// Apply safe edits: misspelt names with one name near, and hashes of what builds have downloaded; then check again
    #[arg(long)]
    fix: bool,
}

/// Rounds of edits: one may bring the next problem to light.
const ROUNDS: usize = 20;

/// Runs the verb.
///
/// # Errors
/// The problems of every target.
pub(crate) fn run(session: &Session, args: &CheckArgs) -> Result<(), Failure> {
    let targets = evaluate::targets(session, &args.target)?;
    let mode = Mode {
        lock: LockMode::Preview,
        dry: true,
        offline: true,
        write_locks: false,
        only_lock: false,
        builds_here: true,
        whole_graph: false,
        calls: true,
    };
    let (mut problems, mut derivations) = look(session, args, &targets, &mode);
    if args.fix {
        for _ in 0..ROUNDS {
            if fix::apply(session, &targets, &problems)? == 0 {
                break;
            }
            (problems, derivations) = look(session, args, &targets, &mode);
        }
    }
    if session.global.json {
        output::json(&serde_json::json!(
            problems.iter().map(Diagnostic::to_json).collect::<Vec<_>>()
        ))?;
        return if problems.is_empty() {
            Ok(())
        } else {
            Err(Failure::from(problems).already_shown())
        };
    }
    if !problems.is_empty() {
        return Err(Failure::from(problems));
    }
    if !session.global.quiet {
        output::message(&format!(
            "{} checked, {}",
            size::count(targets.len(), "target"),
            size::count(derivations, "derivation")
        ));
    }
    Ok(())
}

/// Evaluates every target; gives all problems, and the number of derivations.
fn look(
    session: &Session,
    args: &CheckArgs,
    targets: &[Target],
    mode: &Mode,
) -> (Vec<Diagnostic>, usize) {
    let mut problems = Vec::new();
    let mut derivations = 0;
    for target in targets {
        match evaluate::values(
            session,
            &args.target,
            std::slice::from_ref(target),
            mode,
            each_attribute,
        ) {
            Ok(evaluated) => {
                derivations += evaluated.graph.texts.len();
                problems.extend(evaluated.values.into_iter().flatten());
                problems.extend(evaluated.further);
            }
            Err(failure) => problems.extend(failure.diagnostics),
        }
    }
    (problems, derivations)
}

/// Evaluates the derivations of each attribute by itself, so that a problem in one does not hide those of the others.
fn each_attribute(
    evaluator: &Evaluator,
    value: Value,
    _: &Target,
) -> Result<Vec<Diagnostic>, Box<Diagnostic>> {
    let is_derivation = evaluator.attr(value, "type")?.is_some();
    if is_derivation || evaluator.type_of(value)? != "set" {
        evaluator.derivations(value)?;
        return Ok(Vec::new());
    }
    let mut problems = Vec::new();
    for name in evaluator.attr_names(value)? {
        let found = evaluator
            .attr(value, &name)
            .and_then(|attribute| match attribute {
                // Functions, strings and numbers are not to be built; that they can be evaluated is enough.
                Some(attribute) => match evaluator.type_of(attribute)? {
                    "set" | "list" => evaluator.derivations(attribute).map(drop),
                    _ => Ok(()),
                },
                None => Ok(()),
            });
        problems.extend(found.err().map(|first| *first));
    }
    Ok(problems)
}
