//! `sos log`: prints the whole log of a build.

use std::io::Read;
use std::path::Path;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;

use crate::args::TargetArgs;
use crate::commands::build;
use crate::evaluate::{self, Item, Mode};
use crate::failure::Failure;
use crate::render::output;
use crate::session::Session;
use sos_recipes::LockMode;

/// Bytes passed on at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Print the whole log of a build, by target or by name
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A NAME is that of a derivation, with or without its version: `sos log hello`, `sos log hello-1.0`."
)]
pub(crate) struct LogArgs {
    /// A target, the name of a derivation, or the store path of one or of its output
    #[arg(value_name = "TARGET|NAME", default_value = ".")]
    target: String,
}

/// Runs the verb.
///
/// # Errors
/// `log-not-found` when nothing of that name was built here.
pub(crate) fn run(session: &Session, args: &LogArgs) -> Result<(), Failure> {
    let drv = find(session, &args.target)?;
    let store = session.store()?;
    let Some(mut log) = store.read_log(&drv)? else {
        if store.was_built(&drv)? {
            output::message(&format!(
                "`{}` was built here and wrote nothing to its log",
                Derivation::name_from_path(&drv)
            ));
            return Ok(());
        }
        return Err(Failure::new(
            Diagnostic::error(
                "log-not-found",
                Class::Other,
                format!("there is no log of `{}`", args.target),
            )
            .note(format!(
                "`{}` was cached, or was not built here",
                drv.name()
            )),
        ));
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        let n = log
            .read(&mut chunk)
            .map_err(|e| Failure::io("cannot read the log", &e))?;
        if n == 0 {
            return Ok(());
        }
        output::bytes(&chunk[..n])?;
    }
}

fn find(session: &Session, text: &str) -> Result<StorePath, Failure> {
    let store = session.store()?;
    let prefix = format!("{}/", store.store_dir().as_str());
    if text.starts_with(&prefix) {
        let path = StorePath::from_absolute(store.store_dir(), text)?;
        if path.name().ends_with(".drv") {
            return Ok(path);
        }
        if let Some(trace) = store.traces_of(&path)?.into_iter().next() {
            return Ok(trace.trace.drv);
        }
    } else {
        // A name first: it costs no evaluation, and a file of that name is said with `./`.
        if let Some(drv) = store.built_named(text)?.into_iter().next() {
            return Ok(drv);
        }
        let place = text.split(['#', '^']).next().unwrap_or_default();
        if place.is_empty() || place.contains(['.', '/']) || Path::new(place).is_file() {
            let args = TargetArgs {
                targets: vec![text.to_owned()],
                ..TargetArgs::default()
            };
            let targets = evaluate::targets(session, &args)?;
            let mode = Mode {
                lock: LockMode::Locked,
                dry: true,
                offline: true,
                write_locks: false,
                only_lock: false,
                builds_here: false,
            };
            let evaluated = build::resolve(session, &args, &targets, &mode)?;
            if let Some(Item::Derivation { drv, .. }) =
                evaluated.values.into_iter().flatten().next()
            {
                return Ok(drv);
            }
        }
    }
    Err(Failure::new(
        Diagnostic::error(
            "log-not-found",
            Class::Other,
            format!("nothing called `{text}` was built here"),
        )
        .help("`sos store ls` lists what is in the store"),
    ))
}
