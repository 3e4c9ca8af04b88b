//! The problems of a run, put into words.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

use sos_formats::derivation::Derivation;
use sos_formats::diagnostic::{Class, Diagnostic, WrongHash};
use sos_formats::hash::Hash;
use sos_formats::store_path::StorePath;
use sos_store::StoreError;

use crate::report::Excerpt;

/// Problems of one kind that are listed one by one.
const LISTED_MAX: usize = 50;

/// Turns a failure of the store into words.
pub(crate) fn store_failed(error: StoreError) -> Box<Diagnostic> {
    Box::new(Diagnostic::from(error))
}

/// Formats a duration as people say it: `340ms`, `14.2s`, `2m 41s`, `1h 3m`.
#[must_use]
pub fn duration_text(duration: Duration) -> String {
    let secs = duration.as_secs();
    match secs {
        0 => format!("{}ms", duration.subsec_millis()),
        1..60 => format!("{secs}.{}s", duration.subsec_millis() / 100),
        60..3600 => format!("{}m {}s", secs / 60, secs % 60),
        _ => format!("{}h {}m", secs / 3600, secs / 60 % 60),
    }
}

fn log_help(name: &str) -> String {
    format!("`sos log {name}` shows the whole log")
}

/// How the note begins that a log has lost something.
pub(crate) const LOG_NOT_WHOLE: &str = "the log is not kept whole";

/// Adds the end of the log, and the first error above it, as notes.
fn with_excerpt(mut diagnostic: Diagnostic, name: &str, log: &Excerpt) -> Diagnostic {
    if let Some(lost) = &log.lost {
        diagnostic = diagnostic.note(format!("{LOG_NOT_WHOLE}: {lost}"));
    }
    if log.tail.is_empty() {
        return diagnostic.note("it wrote nothing to its log");
    }
    if let Some(error) = &log.first_error {
        diagnostic = diagnostic.note(format!("first error in the log:\n{error}"));
    }
    let shown = log.tail.len() as u64;
    let mut text = if shown < log.lines {
        format!("last {shown} of {} lines:", log.lines)
    } else {
        "its log:".to_owned()
    };
    for line in &log.tail {
        text.push('\n');
        text.push_str(line);
    }
    let diagnostic = diagnostic.note(text);
    match log.lost {
        Some(_) => diagnostic,
        None => diagnostic.help(log_help(name)),
    }
}

fn in_phase(log: &Excerpt) -> String {
    log.phase
        .as_ref()
        .map_or_else(String::new, |phase| format!(" in phase {phase}"))
}

/// A builder ended with a bad status.
pub(crate) fn build_failed(name: &str, how: &str, took: Duration, log: &Excerpt) -> Diagnostic {
    let phase = in_phase(log);
    let took = duration_text(took);
    let diagnostic = Diagnostic::error(
        "build-failed",
        Class::BuildFailed,
        format!("`{name}` failed{phase} {how} after {took}"),
    );
    with_excerpt(diagnostic, name, log)
}

/// Less room than this is none: file systems keep some blocks back, and programs write in larger pieces.
const NO_ROOM_BYTES: u64 = 1 << 20;
/// With this much room, what a program says of a full disk is about another one.
const LITTLE_ROOM_BYTES: u64 = 64 << 20;

/// A builder ended with a bad status because the disk under it is full: not its fault, and the message says so.
pub(crate) fn disk_full(name: &str, store_root: &Path, log: &Excerpt) -> Option<Diagnostic> {
    let (room, no_inodes) = room(store_root)?;
    let told = || {
        let mut lines = log.tail.iter().chain(&log.first_error);
        lines.any(|line| line.contains("No space left on device"))
    };
    if !no_inodes && room >= NO_ROOM_BYTES && (room >= LITTLE_ROOM_BYTES || !told()) {
        return None;
    }
    let diagnostic = full(store_root, (room, no_inodes)).note(format!(
        "`{name}` was being built; nothing was added to the store"
    ));
    Some(with_excerpt(diagnostic, name, log))
}

/// A builder succeeded, and there is no room for what it made.
pub(crate) fn disk_full_of_outputs(
    name: &str,
    outputs: &[&str],
    store_root: &Path,
    problem: &Diagnostic,
) -> Diagnostic {
    let outputs: Vec<String> = outputs.iter().map(|output| format!("`{output}`")).collect();
    let noun = if outputs.len() == 1 {
        "output"
    } else {
        "outputs"
    };
    full(store_root, room(store_root).unwrap_or_default())
        .note(format!(
            "`{name}` was built, and its {noun} {} was being added; nothing was added to the store",
            outputs.join(", ")
        ))
        .note(problem.message.clone())
}

/// The bytes that are free on a disk, and whether it can take no more files.
fn room(store_root: &Path) -> Option<(u64, bool)> {
    let stat = rustix::fs::statvfs(store_root).ok()?;
    let room = stat.f_bavail.saturating_mul(stat.f_frsize);
    Some((room, stat.f_files > 0 && stat.f_favail == 0))
}

fn full(store_root: &Path, (room, no_inodes): (u64, bool)) -> Diagnostic {
    let free = if no_inodes {
        "no file can be made".to_owned()
    } else {
        format!("{} KiB free", room >> 10)
    };
    Diagnostic::error(
        "env-disk-full",
        Class::Machine,
        format!(
            "the disk holding the store `{}` is full ({free})",
            store_root.display()
        ),
    )
    .help("`sos gc -n` tells what can be freed, `sos gc` frees it")
}

/// A builder took too long, was silent too long, or wrote too much.
pub(crate) fn build_timeout(name: &str, what: &str, help: &str, log: &Excerpt) -> Diagnostic {
    stopped("build-timeout", Class::TimedOut, name, what, log).help(help)
}

/// A builder wrote more than its log may hold; no timeout, as in Nix.
pub(crate) fn build_log_limit(name: &str, limit: &str, log: &Excerpt) -> Diagnostic {
    let what = format!("wrote more than {limit} bytes of log");
    stopped("build-log-limit", Class::BuildFailed, name, &what, log).help(
        "let the builder write less, or allow more with `--max-log-size SIZE`, or the setting `build.max-log-size`",
    )
}

fn stopped(code: &'static str, class: Class, name: &str, what: &str, log: &Excerpt) -> Diagnostic {
    let phase = in_phase(log);
    let diagnostic = Diagnostic::error(
        code,
        class,
        format!("`{name}`{phase} {what}, and was stopped"),
    );
    with_excerpt(diagnostic, name, log)
}

/// A builder succeeded without making an output.
pub(crate) fn build_no_output(name: &str, missing: &[String], log: &Excerpt) -> Diagnostic {
    let list: Vec<String> = missing.iter().map(|o| format!("`{o}`")).collect();
    let (noun, which) = if list.len() == 1 {
        ("output", "it")
    } else {
        ("outputs", "each of them")
    };
    let first = missing.first().map_or("out", String::as_str);
    let diagnostic = Diagnostic::error(
        "build-no-output",
        Class::BuildFailed,
        format!(
            "the builder of `{name}` succeeded but did not make its {noun} {}",
            list.join(", ")
        ),
    );
    with_excerpt(diagnostic, name, log).help(format!(
        "let the builder write a file or a directory at `${first}` ({which} must exist when it ends)"
    ))
}

/// A builder is not there.
pub(crate) fn build_no_builder(
    name: &str,
    builder: &str,
    inputs: usize,
    providers: &[String],
) -> Diagnostic {
    let diagnostic = Diagnostic::error(
        "build-no-builder",
        Class::BuildFailed,
        format!("builder `{builder}` of `{name}` does not exist in its sandbox"),
    );
    let base = builder.rsplit('/').next().unwrap_or(builder);
    if let Some(found) = providers.first() {
        return diagnostic
            .note("the sandbox holds only declared inputs")
            .help(format!("use `{found}`, which is an input"));
    }
    let note = match inputs {
        0 => "the sandbox holds only declared inputs, and there are none".to_owned(),
        1 => format!("the sandbox holds only declared inputs; the one input has no `bin/{base}`"),
        n => format!(
            "the sandbox holds only declared inputs; none of the {n} inputs has `bin/{base}`"
        ),
    };
    diagnostic.note(note).help(format!(
        "name a program of an input, as in `builder = \"${{{base}}}/bin/{base}\"`, or show a path of this machine to builds with the setting `build.sandbox-paths`"
    ))
}

/// Derivations for systems that this machine does not run.
pub(crate) fn wrong_system(
    drvs: &[(String, String)],
    here: &BTreeSet<String>,
) -> Option<Diagnostic> {
    let (name, system) = drvs.first()?;
    let here: Vec<&str> = here.iter().map(String::as_str).collect();
    let mut diagnostic = Diagnostic::error(
        "env-wrong-system",
        Class::Machine,
        format!(
            "`{name}` needs {system}; this machine builds {}",
            here.join(", ")
        ),
    );
    if drvs.len() > 1 {
        let mut others = String::from("so do:");
        for (name, system) in drvs[1..].iter().take(LISTED_MAX) {
            let _infallible = write!(others, " `{name}` ({system})");
        }
        if drvs.len() > LISTED_MAX + 1 {
            let _infallible = write!(others, " and {} more", drvs.len() - 1 - LISTED_MAX);
        }
        diagnostic = diagnostic.note(others);
    }
    Some(diagnostic.help(format!(
        "build it on a machine that runs {system}, or change `system` in the recipe"
    )))
}

/// Refuses a derivation each build of which may give something else.
pub(crate) fn refuse_impure(name: &str, drv: &Derivation) -> Result<(), Box<Diagnostic>> {
    if !drv.is_impure() {
        return Ok(());
    }
    Err(Box::new(
        Diagnostic::error(
            "build-impure",
            Class::Recipe,
            format!("`{name}` has `__impure = true`, and impure derivations are not built"),
        )
        .note("each build may give something else, so that nothing that uses it could be kept")
        .help("pin what it gives with `outputHash`, which allows it the network too, or build it as it is without `__impure`"),
    ))
}

/// Derivations that need each other in a circle.
pub(crate) fn graph_cycle(names: &[&str]) -> Diagnostic {
    let first = names.first().copied().unwrap_or("?");
    let mut way = String::new();
    for name in names {
        let _infallible = write!(way, "`{name}` needs ");
    }
    let _infallible = write!(way, "`{first}`");
    Diagnostic::error(
        "graph-cycle",
        Class::Recipe,
        format!("`{first}` needs itself"),
    )
    .note(way)
}

/// One output whose content is not what its derivation says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Mismatch {
    /// The derivation.
    pub(crate) name: String,
    /// The hash as the recipe gives it.
    pub(crate) expected: String,
    /// What was found, in the same notation or in words.
    pub(crate) found: String,
    /// Where it came from.
    pub(crate) detail: String,
    /// What was found is a hash that can stand in the recipe in place of the other.
    pub(crate) is_hash: bool,
}

/// All wrong contents of a run, as one problem.
pub(crate) fn hash_mismatches(list: &[Mismatch]) -> Option<Diagnostic> {
    let first = list.first()?;
    let message = if list.len() == 1 {
        format!("`{}` does not match its hash", first.name)
    } else {
        format!("{} outputs do not match their hashes", list.len())
    };
    let mut diagnostic = Diagnostic::error("hash-mismatch", Class::HashMismatch, message);
    for mismatch in list.iter().take(LISTED_MAX) {
        let mut note = format!(
            "`{}`\n  expected {}\n  found    {}",
            mismatch.name, mismatch.expected, mismatch.found
        );
        if !mismatch.detail.is_empty() {
            let _infallible = write!(note, "\n  {}", mismatch.detail);
        }
        diagnostic = diagnostic.note(note);
    }
    let hashes = list.iter().filter(|one| one.is_hash);
    diagnostic.hashes.extend(hashes.map(|one| WrongHash {
        name: one.name.clone(),
        expected: one.expected.clone(),
        found: one.found.clone(),
    }));
    if list.len() > LISTED_MAX {
        diagnostic = diagnostic.note(format!("and {} more", list.len() - LISTED_MAX));
    }
    Some(diagnostic.help(
        "if you trust what was found, put its hash in the recipe (`sos check --fix` does); otherwise the source was changed or the download is broken",
    ))
}

/// All failed downloads of a run, as one problem for each kind of failure.
pub(crate) fn unfetched(list: Vec<Diagnostic>) -> Vec<Diagnostic> {
    let mut kinds: Vec<Vec<Diagnostic>> = Vec::new();
    for diagnostic in list {
        match kinds
            .iter_mut()
            .find(|kind| kind[0].code == diagnostic.code)
        {
            Some(kind) => kind.push(diagnostic),
            None => kinds.push(vec![diagnostic]),
        }
    }
    kinds.into_iter().filter_map(together).collect()
}

fn together(mut kind: Vec<Diagnostic>) -> Option<Diagnostic> {
    if kind.len() < 2 {
        return kind.pop();
    }
    let first = kind.first()?;
    let message = format!("{} downloads failed", kind.len());
    let mut all = Diagnostic::error(first.code, first.class, message);
    for diagnostic in kind.iter().take(LISTED_MAX) {
        let mut note = diagnostic.message.clone();
        for line in &diagnostic.notes {
            let _infallible = write!(note, "\n  {line}");
        }
        all = all.note(note).with_labels(diagnostic.labels.clone());
        for help in &diagnostic.helps {
            if !all.helps.contains(help) {
                all = all.help(help.clone());
            }
        }
    }
    if kind.len() > LISTED_MAX {
        all = all.note(format!("and {} more", kind.len() - LISTED_MAX));
    }
    Some(all)
}

/// Writes `hash` in the notation of `pattern`, the hash as a recipe gives it.
#[must_use]
pub fn in_notation_of(pattern: &str, hash: &Hash) -> String {
    hash.in_notation_of(pattern)
}

/// Returns the hash of a fixed output as its derivation was given it, and the same in `found`'s words.
pub(crate) fn mismatch(
    drv: &Derivation,
    drv_path: &StorePath,
    expected: &Hash,
    found: Option<&Hash>,
    detail: &str,
) -> Mismatch {
    let written = written_hash(drv).filter(|text| {
        // What is written must mean this hash, else it is not what the user will look for.
        Hash::parse_any(text, Some(expected.algo())).is_ok_and(|hash| hash == *expected)
    });
    let (expected_text, pattern) = match written {
        Some(text) => (text.clone(), text),
        None => (expected.to_sri(), expected.to_sri()),
    };
    Mismatch {
        name: Derivation::name_from_path(drv_path).to_owned(),
        expected: expected_text,
        found: match found {
            Some(hash) if hash.algo() == expected.algo() => in_notation_of(&pattern, hash),
            Some(hash) => hash.to_sri(),
            None => "something else".to_owned(),
        },
        detail: detail.to_owned(),
        is_hash: found.is_some_and(|hash| hash.algo() == expected.algo()),
    }
}

/// Returns the hash of a fixed output as the recipe has it.
#[must_use]
pub fn written_hash(drv: &Derivation) -> Option<String> {
    if let Some(hash) = drv.env.get(b"outputHash".as_slice()) {
        return String::from_utf8(hash.clone()).ok();
    }
    let json = drv.env.get(b"__json".as_slice())?;
    let json: serde_json::Value = serde_json::from_slice(json).ok()?;
    Some(json.get("outputHash")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use sos_formats::hash::HashAlgo;

    use super::*;

    #[test]
    fn durations() {
        let text = |ms| duration_text(Duration::from_millis(ms));
        assert_eq!(text(420), "420ms");
        assert_eq!(text(14_900), "14.9s");
        assert_eq!(text(161_000), "2m 41s");
        assert_eq!(text(3_780_000), "1h 3m");
    }

    #[test]
    fn hashes_are_shown_in_the_notation_of_the_recipe() {
        let hash = Hash::of(HashAlgo::Sha256, b"x");
        let other = Hash::of(HashAlgo::Sha256, b"y");
        for (pattern, expected) in [
            (other.to_sri(), hash.to_sri()),
            (other.to_hex(), hash.to_hex()),
            (other.to_nix32(), hash.to_nix32()),
            (other.to_base64(), hash.to_base64()),
            (
                format!("sha256:{}", other.to_nix32()),
                format!("sha256:{}", hash.to_nix32()),
            ),
        ] {
            assert_eq!(in_notation_of(&pattern, &hash), expected);
        }
    }

    #[test]
    fn failed_downloads_are_one_problem_for_each_kind() {
        let one = |code, name: &str| {
            Diagnostic::error(code, Class::Fetch, format!("no {name}"))
                .note(format!("where {name} was looked for"))
                .help("a way out")
        };
        assert_eq!(unfetched(vec![one("a", "x")]), [one("a", "x")]);
        let all = unfetched(vec![one("a", "x"), one("b", "y"), one("a", "z")]);
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].message, "2 downloads failed");
        assert_eq!(all[0].notes[1], "no z\n  where z was looked for");
        assert_eq!(all[0].helps, ["a way out"]);
        assert_eq!(all[1], one("b", "y"));
    }

    #[test]
    fn many_mismatches_are_one_problem() {
        let one = |name: &str| Mismatch {
            name: name.to_owned(),
            expected: "a".to_owned(),
            found: "b".to_owned(),
            detail: String::new(),
            is_hash: true,
        };
        assert_eq!(hash_mismatches(&[]), None);
        let both = hash_mismatches(&[one("x"), one("y")]).unwrap();
        assert_eq!(both.message, "2 outputs do not match their hashes");
        assert_eq!(both.notes.len(), 2);
        assert_eq!(both.hashes.len(), 2);
    }

    #[test]
    fn a_failure_shows_the_end_of_its_log() {
        let log = Excerpt {
            tail: ["cc: boom".to_owned()].into(),
            first_error: None,
            lines: 1,
            ..Excerpt::default()
        };
        let shown = build_failed(
            "zlib-1.3",
            "with exit status 2",
            Duration::from_secs(14),
            &log,
        );
        assert_eq!(
            shown.message,
            "`zlib-1.3` failed with exit status 2 after 14.0s"
        );
        assert_eq!(shown.notes, ["its log:\ncc: boom"]);
        assert_eq!(shown.helps, ["`sos log zlib-1.3` shows the whole log"]);
        let lost = Excerpt {
            lost: Some("no room".to_owned()),
            ..log
        };
        let shown = with_excerpt(
            Diagnostic::error("a", Class::Other, "no"),
            "zlib-1.3",
            &lost,
        );
        assert_eq!(
            (shown.notes.len(), shown.helps.len()),
            (2, 0),
            "who cannot show it whole does not say so"
        );
    }
}
