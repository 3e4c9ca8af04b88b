//! `sos doctor`: examines this machine.

use std::collections::BTreeSet;

use sos_builders::fetch::{Download as _, Fetcher};
use sos_builders::mirrors::Mirrors;
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
    /// Namespaces, ids, disk, clock, store, mirrors
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
    let mut checks: Vec<Row> = probe::run(&session.config.store_dir, &Control::default())
        .into_iter()
        .map(Row::from)
        .collect();
    checks.push(clock());
    checks.extend(store(session));
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

/// One line of the answer.
struct Row {
    name: String,
    health: Health,
    found: String,
    fix: Option<String>,
}

impl Row {
    fn good(name: &str, found: impl Into<String>) -> Self {
        Self {
            name: name.to_owned(),
            health: Health::Good,
            found: found.into(),
            fix: None,
        }
    }

    fn new(name: &str, health: Health, found: impl Into<String>, fix: Option<String>) -> Self {
        Self {
            health,
            fix,
            ..Self::good(name, found)
        }
    }
}

impl From<Check> for Row {
    fn from(check: Check) -> Self {
        Self::new(check.name, check.health, check.found, check.fix)
    }
}

/// A clock that is far behind makes every certificate and every release file look like one of the future.
#[allow(
    clippy::disallowed_methods,
    reason = "the clock itself is what is looked at"
)]
fn clock() -> Row {
    /// When this program was first built: no machine that runs it can be before that.
    const FIRST_SECS: i64 = 1_767_225_600;
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
    let shown = sos_formats::deb::release::format_date(now);
    if now >= FIRST_SECS {
        return Row::good("clock", shown);
    }
    Row::new(
        "clock",
        Health::Bad,
        format!("it says {shown}, which is long ago: nothing that is signed today would be valid"),
        Some("sudo timedatectl set-ntp true   # or: sudo date -s YYYY-MM-DD".to_owned()),
    )
}

/// What can be said of the store; nothing is made where there is none.
fn store(session: &Session) -> Vec<Row> {
    let root = &session.config.store_dir;
    if !root.join("version").exists() {
        return vec![Row::good(
            "store",
            format!("there is none yet at {}", root.display()),
        )];
    }
    let store = match session.store() {
        Ok(store) => store,
        Err(failure) => {
            let d = failure.into_first();
            let fix = d.helps.first().cloned();
            return vec![Row::new("store", Health::Bad, d.message, fix)];
        }
    };
    let database = match store.check_database() {
        Ok(found) if found.is_empty() => Row::good("database", "whole"),
        Ok(found) => Row::new(
            "database",
            Health::Bad,
            found.join("; "),
            Some(format!("move {} away", root.display())),
        ),
        Err(e) => Row::new("database", Health::Bad, e.to_string(), None),
    };
    let locks = match store.locks_held() {
        Ok(held) if held.is_empty() => Row::good("locks", "none is held"),
        Ok(held) => Row::good(
            "locks",
            held.iter()
                .map(|(name, holder)| match holder {
                    Some(holder) => format!("{name} by process {}", holder.pid),
                    None => format!("{name} by another process"),
                })
                .collect::<Vec<_>>()
                .join(", "),
        ),
        Err(e) => Row::new("locks", Health::Warning, e.to_string(), None),
    };
    let reflink = match store.can_clone() {
        Ok(true) => Row::good("reflink", "files can share their data"),
        Ok(false) => Row::good(
            "reflink",
            "not on this file system: what is changed is copied first",
        ),
        Err(e) => Row::new("reflink", Health::Warning, e.to_string(), None),
    };
    vec![database, locks, reflink]
}

/// The largest release file that is looked at.
const MAX_RELEASE_BYTES: u64 = 16 << 20;

/// Asks each known mirror for something that an archive has.
fn mirrors(session: &Session) -> Vec<Row> {
    let mut names: BTreeSet<&str> = BTreeSet::from(["debian"]);
    names.extend(session.config.mirrors.keys().map(String::as_str));
    names.extend(session.env.mirrors.keys().map(String::as_str));
    let fetcher = Fetcher::new(Mirrors::default(), false);
    let mut rows = Vec::new();
    for name in names {
        let row = format!("mirror {name}");
        let urls = match session.mirrors().expand(&format!("mirror://{name}/")) {
            Ok(urls) => urls,
            Err(d) => {
                let fix = d.helps.first().cloned();
                rows.push(Row::new(&row, Health::Warning, d.message, fix));
                continue;
            }
        };
        for url in urls {
            let url = url.trim_end_matches('/');
            let file = format!("{url}/dists/stable/InRelease");
            let answer = fetcher.bytes(&[file], MAX_RELEASE_BYTES, None);
            rows.push(match answer {
                Ok(_) => Row::good(&row, format!("{url} answers")),
                // Whoever answers that there is no such file answers.
                Err(d) if answers(url, &d) => {
                    Row::good(&row, format!("{url} answers, and has no suite `stable`"))
                }
                Err(d) => Row::new(
                    &row,
                    Health::Warning,
                    d.notes.first().cloned().unwrap_or(d.message),
                    Some(format!(
                        "set `mirrors.{name}` to another one in the configuration"
                    )),
                ),
            });
        }
    }
    rows
}

fn answers(url: &str, d: &Diagnostic) -> bool {
    if let Some(directory) = url.strip_prefix("file://") {
        return std::path::Path::new(directory).is_dir();
    }
    d.notes.iter().any(|note| note.contains("answered 404"))
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
        (
            "color",
            c.color.clone().unwrap_or_else(|| "auto".to_owned()),
        ),
    ];
    rows.iter().try_for_each(|(key, value)| {
        let origin = c.origins.get(key).map_or("default", String::as_str);
        output::line(&format!("{key:<22} {value:<40} {origin}"))
    })
}
