//! `sos check --fix`: edits that are safe to make: a misspelt name with one name near, and hashes of downloads that were seen.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use sos_formats::diagnostic::{Class, Diagnostic, Label, SourceFile};
use sos_store::{BuildId, Store};

use crate::failure::Failure;
use crate::render::output;
use crate::session::Session;
use crate::target::Target;

/// Builds of the journal that are looked through for hashes.
const BUILDS: u32 = 100;
/// A text that is shorter is no hash, and may stand for anything.
const MIN_HASH_CHARS: usize = 32;

/// One text to put in place of another.
struct Edit {
    at: usize,
    from: String,
    to: String,
}

/// Makes the edits that `problems` and the journal tell of, in files of the targets. Gives the number of edits.
///
/// # Errors
/// `check-unwritable` when a file cannot be written.
pub(super) fn apply(
    session: &Session,
    targets: &[Target],
    problems: &[Diagnostic],
) -> Result<usize, Failure> {
    let mut files: BTreeMap<PathBuf, Vec<Edit>> = BTreeMap::new();
    let roots = roots(targets);
    for problem in problems {
        if let Some((label, edit)) = spelling(problem)
            && let Some(path) = editable(&label.file, &roots)
        {
            files.entry(path).or_default().push(edit);
        }
    }
    let mut hashes = wrong_hashes(session.store()?)?;
    // What an evaluation has seen itself is newer than any build.
    for hash in problems.iter().flat_map(|problem| &problem.hashes) {
        hashes.insert(hash.expected.clone(), Some(hash.found.clone()));
    }
    for path in recipes(targets, problems, &roots) {
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        for (from, to) in &hashes {
            let found = text.match_indices(from.as_str());
            let found = found.filter(|(at, _)| stands_alone(&text, *at, from.len()));
            // What stands twice, as zeros do, cannot be told apart.
            if let ([at], Some(to)) = (found.map(|(at, _)| at).collect::<Vec<_>>().as_slice(), to) {
                files.entry(path.clone()).or_default().push(Edit {
                    at: *at,
                    from: from.clone(),
                    to: to.clone(),
                });
            }
        }
    }
    let mut made = 0;
    for (path, edits) in files {
        made += edit(&path, edits)?;
    }
    Ok(made)
}

/// The directories whose files may be edited: those of the targets.
fn roots(targets: &[Target]) -> BTreeSet<PathBuf> {
    let found = targets.iter().filter_map(Target::directory);
    found.filter_map(|dir| dir.canonicalize().ok()).collect()
}

/// The file on the disk, when it is one of the user's and still what was read.
fn editable(file: &Arc<SourceFile>, roots: &BTreeSet<PathBuf>) -> Option<PathBuf> {
    let path = Path::new(&file.name).canonicalize().ok()?;
    let own = roots.iter().any(|root| path.starts_with(root));
    let same = own && std::fs::read_to_string(&path).ok()? == file.text;
    same.then_some(path)
}

/// The files in which a hash may be put right: those of the targets, and those that the problems point into.
fn recipes(
    targets: &[Target],
    problems: &[Diagnostic],
    roots: &BTreeSet<PathBuf>,
) -> BTreeSet<PathBuf> {
    let own = targets.iter().filter_map(Target::file).map(Path::to_owned);
    let labels = problems.iter().flat_map(|problem| &problem.labels);
    let named = labels.filter_map(|label| editable(&label.file, roots));
    own.filter_map(|file| file.canonicalize().ok())
        .chain(named)
        .collect()
}

/// The edit that puts a misspelt name right, if only one name is near and the name stands where the problem points.
fn spelling(problem: &Diagnostic) -> Option<(&Label, Edit)> {
    let (wrong, right) = problem.spelling.as_ref()?;
    problem.labels.iter().find_map(|label| {
        let shown = label.file.text.get(label.span.clone())?;
        // A name may be written in quotes.
        let inside = shown.find(wrong.as_str())?;
        let rest = shown.len() - wrong.len();
        let quoted = rest == 2 && inside == 1 && shown.starts_with(['"', '\'']);
        (rest == 0 || quoted).then(|| {
            let edit = Edit {
                at: label.span.start + inside,
                from: wrong.clone(),
                to: right.clone(),
            };
            (label, edit)
        })
    })
}

/// Whether what stands around a text is no part of the same word.
fn stands_alone(text: &str, at: usize, length: usize) -> bool {
    let part = |c: char| c.is_ascii_alphanumeric();
    !text[..at].ends_with(part) && !text[at + length..].starts_with(part)
}

/// Hashes that did not match in the builds of the journal, each with what was found; without what was fetched since. One
/// that several derivations have has none.
fn wrong_hashes(store: &Store) -> Result<BTreeMap<String, Option<String>>, Failure> {
    let mut hashes: BTreeMap<String, (String, Option<String>)> = BTreeMap::new();
    let mut fetched: BTreeSet<String> = BTreeSet::new();
    for build in store.recent_builds(BUILDS)? {
        let events = store.build_events(BuildId(build.id))?;
        let events: Vec<Value> = events
            .iter()
            .filter_map(|json| serde_json::from_str(json).ok())
            .collect();
        for event in &events {
            let pairs = event["diagnostic"]["hashes"].as_array();
            for pair in pairs.into_iter().flatten() {
                let text = |key: &str| pair[key].as_str().unwrap_or_default().to_owned();
                let (name, expected) = (text("name"), text("expected"));
                if fetched.contains(&name) || expected.len() < MIN_HASH_CHARS {
                    continue;
                }
                // The newest is what was seen last.
                let (of, found) = hashes
                    .entry(expected)
                    .or_insert_with(|| (name.clone(), Some(text("found"))));
                if *of != name {
                    *found = None;
                }
            }
        }
        // Only what is newer than a mismatch says that it is over.
        let good = |event: &&Value| matches!(event["status"].as_str(), Some("built" | "fetched"));
        let names = events
            .iter()
            .filter(good)
            .filter_map(|e| e["name"].as_str());
        fetched.extend(names.map(str::to_owned));
    }
    Ok(hashes
        .into_iter()
        .map(|(expected, (_, found))| (expected, found))
        .collect())
}

/// Edits one file; a reader sees the old one or the new one.
fn edit(path: &Path, mut edits: Vec<Edit>) -> Result<usize, Failure> {
    let failed = |e: std::io::Error| {
        let shown = path.display();
        Failure::new(Diagnostic::error(
            "check-unwritable",
            Class::Machine,
            format!("`{shown}` cannot be edited: {e}"),
        ))
    };
    let text = std::fs::read_to_string(path).map_err(failed)?;
    edits.sort_by_key(|edit| edit.at);
    edits.dedup_by_key(|edit| edit.at);
    let here = std::env::current_dir().unwrap_or_default();
    let file = SourceFile::new(
        path.strip_prefix(&here)
            .unwrap_or(path)
            .display()
            .to_string(),
        text.as_str(),
    );
    let mut new = text.clone();
    let mut made = Vec::new();
    // From the end, so that places before stay where they are.
    for edit in edits.iter().rev() {
        let span = edit.at..edit.at + edit.from.len();
        if new.get(span.clone()) != Some(edit.from.as_str()) {
            continue;
        }
        new.replace_range(span, &edit.to);
        let (line, column) = file.line_column(edit.at);
        made.push(format!(
            "changed {}:{line}:{column}: `{}` to `{}`",
            file.name, edit.from, edit.to
        ));
    }
    if made.is_empty() {
        return Ok(0);
    }
    write(path, new.as_bytes()).map_err(failed)?;
    for line in made.iter().rev() {
        output::message(line);
    }
    Ok(made.len())
}

/// Puts a new file with the same permissions in place of the old one.
fn write(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mode = std::fs::metadata(path)?.permissions();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let aside = path.with_file_name(format!(".{name}.sos-fix"));
    // What a killed run has left is in the way.
    match std::fs::remove_file(&aside) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let written = std::fs::File::create_new(&aside).and_then(|mut file| {
        file.write_all(bytes)?;
        file.set_permissions(mode)?;
        file.sync_all()
    });
    let done = written.and_then(|()| std::fs::rename(&aside, path));
    if done.is_err() {
        drop(std::fs::remove_file(&aside));
    }
    done
}
