//! What `sos verify` says of each derivation, to people and to programs, and what it keeps.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use sos_engine::verify::{Culprit, Different, OutputDifference, Verdict, Verified};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::Store;
use sos_store::compare::{Difference, Snapshot};

use super::VerifyArgs;
use crate::failure::Failure;
use crate::render::{again, difference, output, size};
use crate::session::Session;

/// Differing files that are listed for one output.
const LISTED_MAX: usize = 20;

/// What was found, derivation by derivation.
#[derive(Default)]
pub(super) struct Report {
    pub(super) values: Vec<Value>,
    pub(super) problems: Vec<Diagnostic>,
    /// Something is called equal that was built again on the day of its first build only.
    pub(super) same_date: bool,
    /// Names of downloads that were told of: several derivations may be of one file.
    pub(super) fixed: BTreeSet<String>,
}

/// Says what became of one derivation.
pub(super) fn tell(
    session: &Session,
    args: &VerifyArgs,
    verified: &Verified,
    all: &mut Report,
) -> Result<(), Failure> {
    let name = &verified.name;
    all.values.push(to_json(session, verified)?);
    let say = |text: &str| -> Result<(), Failure> {
        if session.global.json {
            return Ok(());
        }
        output::line(text)
    };
    match &verified.verdict {
        Verdict::Same => {
            let same_date = verified
                .rounds
                .iter()
                .all(|round| !round.conditions.other_date);
            all.same_date |= same_date && !verified.rounds.is_empty();
            let rounds = size::count(verified.rounds.len(), "round");
            say(&format!("{name}: equal after {rounds}"))
        }
        Verdict::Fixed if !all.fixed.insert(name.clone()) => Ok(()),
        Verdict::Fixed => say(&format!(
            "{name}: equal by its hash, which every build of it is checked against; not built again"
        )),
        Verdict::Failed {
            diagnostic,
            culprit,
        } => {
            let mut problem = Diagnostic::error(
                "not-reproducible",
                Class::NotReproducible,
                format!("`{name}` was built before and fails when it is built again"),
            )
            .note(diagnostic.message.clone());
            for note in &diagnostic.notes {
                problem = problem.note(note.clone());
            }
            if let Some(reason) = reason(culprit, "fails") {
                problem = problem.note(reason);
            }
            all.problems.push(problem);
            Ok(())
        }
        Verdict::Different(different) => {
            let text = described(session, args, name, different)?;
            say(text.trim_end())?;
            if let Some(dir) = &args.keep {
                keep(dir, different)?;
            }
            all.problems.push(problem(session, name, different)?);
            Ok(())
        }
    }
}

/// Why builds differ, or fail, in a sentence.
fn reason(culprit: &Culprit, verb: &str) -> Option<String> {
    match culprit {
        Culprit::Unknown => None,
        Culprit::Itself => Some(format!(
            "it {verb} with nothing varied on purpose: by the time, by chance, or by what runs beside what"
        )),
        Culprit::Conditions(sets) => {
            let sets: Vec<String> = sets
                .iter()
                .map(|set| {
                    let clauses: Vec<&str> = set.iter().map(|c| c.clause()).collect();
                    clauses.join(" while ")
                })
                .collect();
            Some(format!("it {verb} when {}", sets.join(", and when ")))
        }
    }
}

fn problem(session: &Session, name: &str, different: &Different) -> Result<Diagnostic, Failure> {
    let dir = session.store_dir()?;
    let mut problem = Diagnostic::error(
        "not-reproducible",
        Class::NotReproducible,
        format!("`{name}` is not reproducible: something else came out when it was built again"),
    );
    for one in &different.outputs {
        if let Some(first) = one.differences.first() {
            problem = problem.note(format!(
                "first difference in {}: {}",
                one.path.absolute(&dir),
                difference::line(first)
            ));
        }
    }
    if let Some(reason) = reason(&different.culprit, "differs") {
        problem = problem.note(reason);
    }
    Ok(problem.help("`--keep DIR` keeps what came out"))
}

/// What a person reads of a rebuild that gave something else.
fn described(
    session: &Session,
    args: &VerifyArgs,
    name: &str,
    different: &Different,
) -> Result<String, Failure> {
    let store = session.store()?;
    let mut text = String::new();
    for one in &different.outputs {
        text.push_str(&format!(
            "{name}^{}: {} otherwise ({})\n",
            one.output,
            size::count(one.differences.len(), "path"),
            difference::counts(&one.differences)
        ));
        let sides = [(&one.recorded, "recorded"), (&one.rebuilt, "rebuilt")];
        text.push_str(&listed(store, sides, &one.differences, args.lines)?);
        if args.diffoscope {
            text.push_str(&diffoscope(store, one));
        }
    }
    Ok(text)
}

/// The paths that differ, and the first content that does.
pub(super) fn listed(
    store: &Store,
    [old, new]: [(&Snapshot, &str); 2],
    differences: &[Difference],
    lines: usize,
) -> Result<String, Failure> {
    let mut text = String::new();
    for found in differences.iter().take(LISTED_MAX) {
        text.push_str(&format!("  {}\n", difference::line(found)));
    }
    if differences.len() > LISTED_MAX {
        let more = differences.len() - LISTED_MAX;
        text.push_str(&format!("  and {more} more\n"));
    }
    for found in differences {
        let shown = difference::contents(store, old, new, found, lines)?;
        if !shown.is_empty() {
            text.push_str(&shown);
            break;
        }
    }
    Ok(text)
}

/// What diffoscope says of two trees; a sentence when it cannot be asked.
fn diffoscope(store: &Store, one: &OutputDifference) -> String {
    let Some(rebuilt) = &one.rebuilt_at else {
        return "diffoscope: a root filesystem is not on disk as files\n".to_owned();
    };
    let run = std::process::Command::new("diffoscope")
        .arg("--exclude-directory-metadata=recursive")
        .args([&store.physical(&one.path), rebuilt])
        .output();
    match run {
        Ok(done) => String::from_utf8_lossy(&done.stdout).into_owned(),
        Err(e) => format!("diffoscope: {e}\n"),
    }
}

/// Copies what came out to a place that stays.
fn keep(dir: &Path, different: &Different) -> Result<(), Failure> {
    let failed = |e: &std::io::Error| Failure::io(&format!("cannot keep `{}`", dir.display()), e);
    std::fs::create_dir_all(dir).map_err(|e| failed(&e))?;
    for one in &different.outputs {
        let Some(from) = &one.rebuilt_at else {
            output::message(&format!(
                "`{}` is a root filesystem, which is not on disk as files: not kept",
                one.output
            ));
            continue;
        };
        let to = dir.join(format!("{}-{}", one.path.name(), one.output));
        copy(from, &to).map_err(|e| failed(&e))?;
    }
    Ok(())
}

fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut pending = vec![(from.to_owned(), to.to_owned())];
    while let Some((from, to)) = pending.pop() {
        let meta = std::fs::symlink_metadata(&from)?;
        if meta.is_dir() {
            std::fs::create_dir(&to)?;
            for entry in std::fs::read_dir(&from)? {
                let name = entry?.file_name();
                pending.push((from.join(&name), to.join(&name)));
            }
        } else if meta.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&from)?, &to)?;
        } else if meta.is_file() {
            std::fs::copy(&from, &to)?;
        }
    }
    Ok(())
}

fn to_json(session: &Session, verified: &Verified) -> Result<Value, Failure> {
    let dir = session.store_dir()?;
    let rounds: Vec<Value> = verified
        .rounds
        .iter()
        .map(|round| {
            json!({
                "varied": round.conditions.set.iter().map(|c| c.word()).collect::<Vec<_>>(),
                "otherDate": round.conditions.other_date,
                "same": round.same,
                "durationMs": u64::try_from(round.took.as_millis()).unwrap_or(u64::MAX),
            })
        })
        .collect();
    let outputs: serde_json::Map<String, Value> = verified
        .outputs
        .iter()
        .map(|(output, path)| (output.clone(), json!(path.absolute(&dir))))
        .collect();
    let mut value = json!({
        "drv": verified.drv.absolute(&dir), "name": verified.name, "outputs": outputs, "rounds": rounds,
    });
    let culprits = |culprit: &Culprit| match culprit {
        Culprit::Unknown => Value::Null,
        Culprit::Itself => json!([]),
        Culprit::Conditions(sets) => sets
            .iter()
            .map(|set| set.iter().map(|c| json!(c.word())).collect::<Value>())
            .collect(),
    };
    value["verdict"] = match &verified.verdict {
        Verdict::Same => json!("same"),
        Verdict::Fixed => json!("fixed"),
        Verdict::Failed {
            diagnostic,
            culprit,
        } => {
            value["error"] = again::json(diagnostic);
            value["dependsOn"] = culprits(culprit);
            json!("failed")
        }
        Verdict::Different(different) => {
            value["dependsOn"] = culprits(&different.culprit);
            value["differences"] = different
                .outputs
                .iter()
                .map(|one| {
                    let list: Vec<Value> =
                        one.differences.iter().map(difference::to_json).collect();
                    json!({ "output": one.output, "path": one.path.absolute(&dir), "files": list })
                })
                .collect();
            json!("different")
        }
    };
    Ok(value)
}
