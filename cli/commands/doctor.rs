//! `sos doctor`: examines this machine.

use sos_engine::probe::{self, Check, Health};
use sos_engine::sandbox::Control;
use sos_formats::diagnostic::{Class, Diagnostic};

use crate::failure::Failure;
use crate::render::output;
use crate::session::Session;

/// Examine this machine: what builds need, what is missing, and how to get it
#[derive(Debug, clap::Args)]
pub(crate) struct DoctorArgs {
    /// What to examine
    #[arg(value_enum, default_value = "machine")]
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum What {
    /// Namespaces, ids, disk, mirrors
    Machine,
    /// Each configuration value, with where it came from
    Config,
}

/// Runs the verb.
///
/// # Errors
/// `env-doctor` when something that builds need is missing.
pub(crate) fn run(session: &Session, args: &DoctorArgs) -> Result<(), Failure> {
    if args.what == What::Config {
        return config(session);
    }
    let mut checks = probe::run(&session.config.store_dir, &Control::default());
    checks.extend(mirrors(session));
    if session.global.json {
        let list: Vec<_> = checks.iter().map(|c| serde_json::json!({ "name": c.name, "health": word(c.health), "found": c.found, "fix": c.fix })).collect();
        output::json(&serde_json::json!(list))?;
    } else {
        for check in &checks {
            output::line(&format!(
                "{:4}  {:<20} {}",
                word(check.health),
                check.name,
                check.found
            ))?;
            for line in check.fix.iter().flat_map(|f| f.lines()) {
                output::line(&format!("      {:<20} fix: {line}", ""))?;
            }
        }
    }
    let bad = checks.iter().filter(|c| c.health == Health::Bad).count();
    if bad == 0 {
        return Ok(());
    }
    Err(Failure::new(Diagnostic::error(
        "env-doctor",
        Class::Machine,
        format!("{bad} of {} checks failed", checks.len()),
    )))
}

fn word(health: Health) -> &'static str {
    match health {
        Health::Good => "ok",
        Health::Warning => "warn",
        Health::Bad => "fail",
    }
}

/// Where packages of Debian would come from.
fn mirrors(session: &Session) -> Option<Check> {
    let check = match session.mirrors().expand("mirror://debian/") {
        Ok(urls) => Check {
            name: "mirror debian",
            health: Health::Good,
            found: format!("{} (configured, not tried)", urls.join(" ")),
            fix: None,
        },
        Err(d) => Check {
            name: "mirror debian",
            health: Health::Warning,
            found: d.message,
            fix: d.helps.into_iter().next(),
        },
    };
    Some(check)
}

fn config(session: &Session) -> Result<(), Failure> {
    let c = &session.config;
    let rows = [
        ("store.dir", c.store_dir.display().to_string()),
        ("store.logical-dir", c.logical_dir.clone()),
        ("eval.cache", c.eval_cache.to_string()),
        ("build.jobs", c.jobs.to_string()),
        ("build.cores", c.cores.to_string()),
        (
            "build.timeout",
            c.timeout_secs.map_or("none".to_owned(), |s| s.to_string()),
        ),
        (
            "build.silent-timeout",
            c.silent_timeout_secs
                .map_or("none".to_owned(), |s| s.to_string()),
        ),
        (
            "build.sandbox-paths",
            c.sandbox_paths
                .iter()
                .map(|(i, o)| format!("{}={}", i.display(), o.display()))
                .collect::<Vec<_>>()
                .join(" "),
        ),
        ("build.system", c.system.clone()),
        (
            "mirrors",
            c.mirrors
                .iter()
                .map(|(n, u)| format!("{n}: {}", u.join(" ")))
                .collect::<Vec<_>>()
                .join("; "),
        ),
        (
            "progress",
            c.progress.clone().unwrap_or_else(|| "auto".to_owned()),
        ),
    ];
    rows.iter().try_for_each(|(key, value)| {
        let origin = c.origins.get(key).map_or("default", String::as_str);
        output::line(&format!("{key:<22} {value:<40} {origin}"))
    })
}
