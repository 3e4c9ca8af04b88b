//! `sos doctor`: examines this machine.

use std::collections::BTreeSet;
use std::time::Duration;

use sos_builders::debian::verify::Keyring;
use sos_builders::fetch::{Download as _, Fetcher, Limits};
use sos_builders::mirror::{Mirror, TrustedKey};
use sos_builders::mirrors::Mirrors;
use sos_engine::Substituter as _;
use sos_engine::probe::{self, Check, Health};
use sos_engine::sandbox::Control;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::Store;

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
    checks.extend(substituters(session));
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

#[allow(
    clippy::disallowed_methods,
    reason = "the clock itself is what is looked at, and signatures end"
)]
fn now_secs() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX))
}

/// A clock that is far behind makes every certificate and every release file look like one of the future.
fn clock() -> Row {
    /// When this program was first built: no machine that runs it can be before that.
    const FIRST_SECS: i64 = 1_767_225_600;
    let now = now_secs();
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
    let warning = |refusal: sos_store::StoreError| {
        let d = Diagnostic::from(refusal);
        let fix = d.helps.first().cloned();
        Row::new("store", Health::Warning, d.message, fix)
    };
    if !root.join("version").exists() {
        if let Some(refusal) = Store::refusal_at(root) {
            return vec![warning(refusal)];
        }
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
    // Whoever writes nothing there needs no copies.
    if let Err(refusal) = store.require_writable() {
        return vec![warning(refusal), database, locks];
    }
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
    let fetcher = impatient();
    let keyrings = keyrings();
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
                Ok(bytes) => signed(&row, url, &bytes, now_secs(), &keyrings),
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

/// Fetches for somebody who waits for the answer: one try, and not for long.
fn impatient() -> Fetcher {
    let limits = Limits {
        connect: WAIT,
        answer: WAIT,
        stall: WAIT,
        retries: 0,
        ..Limits::default()
    };
    Fetcher::with_limits(Mirrors::default(), false, limits)
}

/// Asks each binary cache that builds ask, and looks at the keys that are believed.
fn substituters(session: &Session) -> Vec<Row> {
    let config = &session.config;
    let mut rows = Vec::new();
    let fetcher = impatient();
    for url in &config.substituters {
        let told = session.store_dir().map_err(Failure::into_first);
        let told = told.and_then(|dir| Mirror::new(url, fetcher.clone(), Vec::new()).about(&dir));
        rows.push(match told {
            Ok(()) => Row::good("binary cache", format!("{url} answers")),
            Err(d) => Row::new(
                "binary cache",
                Health::Warning,
                d.notes.first().cloned().unwrap_or(d.message),
                Some(format!(
                    "take `{url}` out of `substituters` in the configuration, or correct it"
                )),
            ),
        });
    }
    for key in &config.trusted_keys {
        if let Err(d) = TrustedKey::parse(key) {
            let fix = "write `NAME:BASE64` in `trusted-keys`, as `nix-store --generate-binary-cache-key` does";
            rows.push(Row::new(
                "trusted key",
                Health::Bad,
                d.message,
                Some(fix.to_owned()),
            ));
        }
    }
    if !config.substituters.is_empty() && config.trusted_keys.is_empty() {
        rows.push(Row::new(
            "trusted key",
            Health::Warning,
            "none: only what is named by its content is taken from a binary cache",
            Some("add the keys of the caches to `trusted-keys` in the configuration".to_owned()),
        ));
    }
    rows
}

/// How long one mirror may take for one step of its answer.
const WAIT: Duration = Duration::from_secs(5);

/// The largest keyring that is read.
const MAX_KEYRING_BYTES: u64 = 4 << 20;

/// Where machines have the keys of archives.
const KEYRINGS: [&str; 3] = [
    "/usr/share/keyrings",
    "/etc/apt/keyrings",
    "/etc/apt/trusted.gpg.d",
];

/// The keys that recipes use when they name none, and those of this machine, each with its place.
fn keyrings() -> Vec<(Option<String>, Keyring)> {
    let mut found: Vec<_> = Keyring::debian()
        .ok()
        .map(|own| (None, own))
        .into_iter()
        .collect();
    let mut files: Vec<_> = KEYRINGS
        .iter()
        .filter_map(|dir| std::fs::read_dir(dir).ok())
        .flat_map(|entries| entries.flatten().map(|entry| entry.path()))
        .collect();
    files.sort();
    for file in files {
        let small = std::fs::metadata(&file)
            .is_ok_and(|meta| meta.is_file() && meta.len() <= MAX_KEYRING_BYTES);
        let Some(bytes) = small.then(|| std::fs::read(&file).ok()).flatten() else {
            continue;
        };
        let place = file.display().to_string();
        // Whatever else lies there is no keyring.
        if let Ok(keyring) = Keyring::parse(&place, &bytes) {
            found.push((Some(place), keyring));
        }
    }
    found
}

/// Says by whose key the release file of a mirror is signed.
fn signed(
    row: &str,
    url: &str,
    bytes: &[u8],
    now: i64,
    keyrings: &[(Option<String>, Keyring)],
) -> Row {
    let mut first = None;
    for (place, keyring) in keyrings {
        match keyring.verify_clear_signed(bytes, now, "InRelease") {
            Ok(_) => {
                let by = place.as_ref().map_or_else(
                    || "the keys of Debian".to_owned(),
                    |place| format!("`{place}`, to be named as `keyring` in recipes"),
                );
                return Row::good(row, format!("{url} answers, signed by a key of {by}"));
            }
            Err(why) => {
                // That a known key signed something else says more than that another keyring does not have it.
                let told = why
                    .notes
                    .iter()
                    .any(|n| n.contains("changed after signing"));
                if told || first.is_none() {
                    first = Some(why);
                }
            }
        }
    }
    let why = first.map_or_else(
        || "there is no keyring to check it with".to_owned(),
        |why| {
            let signer = why.notes.first().filter(|note| note.contains("sign"));
            let signer = signer.map_or(String::new(), |note| format!(": {note}"));
            why.message
                .replace(" of the keyring `debian`", " known here")
                + &signer
        },
    );
    Row::new(
        row,
        Health::Warning,
        format!("{url} answers, and {why}"),
        Some("install the keyring of the archive, or name the file with its key as `keyring` in recipes".to_owned()),
    )
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
        ("build.keep-failed-states", c.keep_failed_states.to_string()),
        (
            "build.memory-max",
            c.memory_max_bytes
                .map_or("none".to_owned(), |n| n.to_string()),
        ),
        (
            "build.pids-max",
            c.pids_max.map_or("none".to_owned(), |n| n.to_string()),
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
        ("registry.plain-http", c.plain_http.to_string()),
        ("substituters", c.substituters.join(" ")),
        ("trusted-keys", c.trusted_keys.join(" ")),
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

#[cfg(test)]
mod tests {
    use super::*;

    /// A moment at which the keys of the fixtures are valid.
    const NOW_SECS: i64 = 1_795_132_800;
    const RELEASE: &[u8] = include_bytes!("../../builders/src/debian/fixtures/good.InRelease");
    const KEYS: &[u8] = include_bytes!("../../builders/src/debian/fixtures/keys.asc");

    #[test]
    fn a_mirror_is_good_when_a_known_key_has_signed() {
        let own = (None, Keyring::debian().unwrap());
        let place = "/usr/share/keyrings/x.gpg".to_owned();
        let other = (Some(place), Keyring::parse("x", KEYS).unwrap());
        let of = |keyrings: &[_], bytes: &[u8]| {
            let row = signed("mirror x", "http://m.example", bytes, NOW_SECS, keyrings);
            (row.health, row.found)
        };
        let known = [own, other];
        let (health, found) = of(&known, RELEASE);
        assert_eq!(health, Health::Good);
        assert!(found.contains("`/usr/share/keyrings/x.gpg`"), "{found}");
        let (health, found) = of(&known[..1], RELEASE);
        assert_eq!(health, Health::Warning);
        assert!(
            found.contains("is not signed by a key known here"),
            "{found}"
        );
        let changed = String::from_utf8(RELEASE.to_vec())
            .unwrap()
            .replace("Suite", "Sweet");
        let (health, found) = of(&known, changed.as_bytes());
        assert_eq!(health, Health::Warning);
        assert!(found.contains("changed after signing"), "{found}");
        let (_, found) = of(&[], RELEASE);
        assert!(found.contains("no keyring to check it with"), "{found}");
    }
}
