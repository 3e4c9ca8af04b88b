//! `--against`: what a mirror has, compared with what is here.

use serde_json::json;
use sos_builders::mirror::{Mirror, TrustedKey};
use sos_engine::{Clock as _, SystemClock};
use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::compare::Snapshot;
use sos_store::{ObjectKind, Rebuild};

use super::{Report, There, VerifyArgs, listed};
use crate::failure::Failure;
use crate::render::{again, difference, output};
use crate::run;
use crate::session::Session;

/// Compares every output with what the mirror has; what it does not have is a problem, too.
pub(super) fn compare(
    session: &Session,
    args: &VerifyArgs,
    url: &str,
    outputs: &[There],
    all: &mut Report,
) -> Result<(), Failure> {
    let store = session.store()?;
    let dir = store.store_dir();
    let keys: Result<Vec<TrustedKey>, _> = args
        .trusted_key
        .iter()
        .map(|key| TrustedKey::parse(key))
        .collect();
    let mirror = Mirror::new(url, run::fetcher(session, args.lock.offline), keys?);
    let clock = SystemClock::new();
    for there in outputs {
        let There {
            drv,
            output: name,
            path,
            ..
        } = there;
        let Some(info) = store.query(path)? else {
            continue;
        };
        let shown = format!("{}^{name}", Derivation::name_from_path(drv));
        let mut value = json!({ "path": path.absolute(dir), "output": name, "mirror": url });
        let say = |text: String| -> Result<(), Failure> {
            if session.global.json {
                return Ok(());
            }
            output::line(&text)
        };
        if info.kind == ObjectKind::Rootfs {
            say(format!(
                "{shown}: not compared, a root filesystem is in no binary cache"
            ))?;
            value["verdict"] = "skipped".into();
            all.values.push(value);
            continue;
        }
        let started_ms = clock.unix_ms();
        // What is named by its content may have another name there: that is a difference already.
        let named = match &there.realisation {
            Some(hash) => mirror.realisation(hash, name)?,
            None => None,
        };
        let named = named.unwrap_or_else(|| path.clone());
        let theirs = match mirror.info(dir, &named) {
            Ok(theirs) => theirs,
            Err(diagnostic) => {
                value["verdict"] = "unknown".into();
                value["error"] = again::json(&diagnostic);
                all.values.push(value);
                let asked = path.absolute(dir);
                let diagnostic = if diagnostic.message.contains(&asked) {
                    *diagnostic
                } else {
                    diagnostic.note(format!("asked for `{asked}`"))
                };
                all.problems.push(diagnostic);
                continue;
            }
        };
        let same = named == *path && theirs.nar_hash == store.nar_sha256(&info)?;
        // What its record says is a promise until its archive is read.
        if same && let Err(diagnostic) = mirror.check(store, &theirs) {
            value["verdict"] = "unknown".into();
            value["error"] = again::json(&diagnostic);
            all.values.push(value);
            let note = format!(
                "its record of `{}` is what was built here, its archive is not",
                path.absolute(dir)
            );
            all.problems.push(diagnostic.note(note));
            continue;
        }
        store.record_rebuilds(&[Rebuild {
            path: path.clone(),
            drv: drv.clone(),
            output: name.clone(),
            same,
            found: format!("sha256:{}", theirs.nar_hash),
            conditions: "mirror".to_owned(),
            host: url.to_owned(),
            started_secs: i64::try_from(started_ms / 1000).unwrap_or(i64::MAX),
            duration_ms: 0,
        }])?;
        if same {
            say(format!("{shown}: equal at {url}"))?;
            value["verdict"] = "same".into();
            all.values.push(value);
            continue;
        }
        value["verdict"] = "different".into();
        let archive = mirror.nar(store, &theirs)?;
        let ours = Snapshot::of_object(store, &info)?;
        let other = Snapshot::of_tree(archive.staged_path())?;
        let differences = ours.compare(&other, store)?;
        value["files"] = differences.iter().map(difference::to_json).collect();
        value["theirs"] = named.absolute(dir).into();
        all.values.push(value);
        let mut problem = Diagnostic::error(
            "not-reproducible",
            Class::NotReproducible,
            format!("{url} has something else than what was built here of `{shown}`"),
        );
        if named != *path {
            problem = problem.note(format!("it is `{}` there", named.absolute(dir)));
        }
        if let Some(first) = differences.first() {
            say(format!(
                "{shown}: other than at {url} ({})",
                difference::counts(&differences)
            ))?;
            let sides = [(&ours, "here"), (&other, "mirror")];
            let text = listed(store, sides, &differences, args.lines)?;
            say(text.trim_end().to_owned())?;
            problem = problem.note(format!(
                "first difference in {}: {}",
                path.absolute(dir),
                difference::line(first)
            ));
        } else {
            problem = problem
                .note("the files are the same: the object here is not what its record says")
                .help("`sos store check` looks for damage");
        }
        all.problems.push(problem);
    }
    Ok(())
}
