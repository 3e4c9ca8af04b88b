//! `sos recipe`: what a recipe says, without building anything.

mod payload;
mod pins;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_recipes::bootstrap::{self, Mode, Plan, Settings};

use crate::evaluate;
use crate::failure::Failure;
use crate::host::StoreHost;
use crate::render::again;
use crate::render::diagnostic;
use crate::render::output;
use crate::session::Session;

/// Show what a recipe says
#[derive(Debug, clap::Args)]
pub(crate) struct RecipeArgs {
    #[command(subcommand)]
    command: RecipeCommand,
}

#[derive(Debug, clap::Subcommand)]
enum RecipeCommand {
    Show(ShowArgs),
    Pins(Box<pins::PinsArgs>),
    Payload(payload::PayloadArgs),
}

/// Print the steps of a tree of bootstrap steps: scripts, files from outside, pins
#[derive(Debug, clap::Args)]
struct ShowArgs {
    /// The directory that holds `steps/manifest`, or a recipe that calls `sos.bootstrap`
    #[arg(value_name = "TREE", default_value = ".")]
    tree: PathBuf,
    /// Give a variable a value, as in `--set ARCH=amd64`
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    /// Start with the variables of this way to run [default: steps/bootstrap.cfg, or else chroot]
    #[arg(long, value_name = "MODE", value_parser = Mode::NAMES)]
    mode: Option<String>,
    /// The first step is run by a shell that the root brings, and not by kaem
    #[arg(long)]
    shell: bool,
    /// Print also the texts of the scripts that upstream's generator writes for this plan
    #[arg(long)]
    scripts: bool,
}

/// Runs the verb.
///
/// # Errors
/// Problems of the recipe.
pub(crate) fn run(session: &Session, args: &RecipeArgs) -> Result<(), Failure> {
    match &args.command {
        RecipeCommand::Show(args) => show(session, args),
        RecipeCommand::Pins(args) => pins::run(session, args),
        RecipeCommand::Payload(args) => payload::run(session, args),
    }
}

fn show(session: &Session, args: &ShowArgs) -> Result<(), Failure> {
    let settings = Settings {
        mode: args.mode.as_deref().and_then(Mode::parse),
        arch: None,
        set: pairs(&args.set)?,
        bash: args.shell,
    };
    let found = plan(session, &args.tree, &settings)?;
    if !session.global.quiet {
        let style = session.style();
        for warning in &found.warnings {
            if session.global.json {
                output::message(&again::json(warning).to_string());
            } else {
                output::message(diagnostic::render(warning, style).trim_end());
            }
        }
    }
    let scripts = match args.scripts {
        true => Some(found.plan.scripts(&found.host, &found.root, &found.shown)?),
        false => None,
    };
    if session.global.json {
        let mut json = found.plan.to_json();
        if let Some(scripts) = scripts {
            json["scripts"] = serde_json::json!(scripts);
        }
        return output::json(&json);
    }
    let mut text: String = found.plan.steps.iter().map(line).collect();
    if found.plan.steps.is_empty() {
        text.push_str("no steps\n");
    }
    for (path, script) in scripts.into_iter().flatten() {
        text.push_str(&format!("\n==> {path} <==\n{script}"));
    }
    output::bytes(text.as_bytes())
}

/// A plan, and where it is from.
struct Found {
    plan: Plan,
    warnings: Vec<Diagnostic>,
    host: StoreHost,
    root: PathBuf,
    /// How messages name the root.
    shown: String,
    /// What the plan was made with.
    settings: Settings,
}

/// Reads the plan of a tree, or of the one that a recipe builds, and says what is strange in it.
fn plan(session: &Session, tree: &Path, settings: &Settings) -> Result<Found, Failure> {
    let here = std::env::current_dir()
        .map_err(|e| Failure::io("cannot tell the current directory", &e))?;
    let words = settings.set.iter().map(|(n, v)| format!("{n}={v}"));
    let words: Vec<String> = words.collect();
    let (root, settings, extra) = match evaluate::asked(session, tree, &words)? {
        Some(asked) => {
            let set = pairs(&asked.settings)?;
            let bash = settings.bash || asked.shell;
            (
                asked.tree,
                Settings {
                    set,
                    bash,
                    ..settings.clone()
                },
                asked.extra,
            )
        }
        None => (here.join(tree), settings.clone(), BTreeMap::new()),
    };
    let host = StoreHost::pure(session.store()?.clone(), session);
    // A tree below this directory is named from here, as it is in other messages.
    let shown = match root.strip_prefix(&here) {
        Ok(below) => below.display().to_string(),
        Err(_) => root.display().to_string(),
    };
    let plan = bootstrap::plan(&host, &root, &shown, &settings)?;
    let mut warnings = bootstrap::undeclared(&host, &root, &shown, &plan, &extra);
    warnings.extend(bootstrap::left_behind(&host, &root, &shown, &plan));
    warnings.extend(bootstrap::taken_names(&host, &root, &shown, &plan));
    warnings.extend(bootstrap::stale_pins(&host, &root, &shown, &plan));
    Ok(Found {
        plan,
        warnings,
        host,
        root,
        shown,
        settings,
    })
}

/// Reads `NAME=VALUE` words.
///
/// # Errors
/// `usage-bad-value` for a word without `=`.
pub(crate) fn pairs(words: &[String]) -> Result<Vec<(String, String)>, Failure> {
    let pair = |word: &String| {
        let pair = word.split_once('=').filter(|(name, _)| !name.is_empty());
        pair.map(|(name, value)| (name.to_owned(), value.to_owned()))
            .ok_or_else(|| {
                let message =
                    format!("`--set {word}` is not `NAME=VALUE`, as in `--set ARCH=amd64`");
                Failure::new(Diagnostic::error("usage-bad-value", Class::Usage, message))
            })
    };
    words.iter().map(pair).collect()
}

fn line(step: &bootstrap::Step) -> String {
    let pass = step
        .pass
        .map_or(String::new(), |pass| format!(" pass {pass}"));
    let package = match &step.package {
        Some(package) if package.sha256.is_some() => format!(" -> {}", package.file),
        Some(package) => format!(" -> {} (no pin)", package.file),
        None => String::new(),
    };
    // A build is asked for by its own name; one of an extension, whose passes are counted by themselves, in a longer way.
    let target = match (step.tree.as_str(), step.target(), step.pass) {
        ("steps", target, _) if target == step.name => String::new(),
        ("steps", target, _) => format!(" (#{target})"),
        (tree, target, Some(pass)) => format!(" (#{tree}.{target}.{pass})"),
        (tree, target, None) => format!(" (#{tree}.{target})"),
    };
    format!(
        "{:>4} {:4} {:9} {}{pass}{package}{target}\n",
        step.index + 1,
        step.shell(),
        step.kind.as_str(),
        step.name
    )
}
