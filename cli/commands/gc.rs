//! `sos gc`: frees what nothing needs.

use std::time::Duration;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::{GcOptions, GcReport};

use crate::failure::Failure;
use crate::render::bar::Bar;
use crate::render::{output, size};
use crate::session::Session;

/// Free what no root needs; says what and how much first
#[derive(Debug, clap::Args)]
#[command(
    after_help = "What the finished steps of a build have made that failed, or was stopped or killed, is kept: the next `sos build` of the same target goes on there. It goes with the first collection after that target was built, after 90 days, or with --unfinished.\n\nThe states of failed builds (`sos shell TARGET --at-failure`) go with any collection, unless a shell is in them; --older-than keeps newer ones.\n\nLogs of builds whose results are gone, and of builds that failed, stay for 30 days, and at most 128 MiB of them; with --older-than they go by that age."
)]
pub(crate) struct GcArgs {
    /// Only say what would be freed
    #[arg(short = 'n', long)]
    dry_run: bool,
    /// Stop when this much is freed: bytes, or with K, M, G, T
    #[arg(long, value_name = "SIZE", value_parser = size::parse)]
    max_free: Option<u64>,
    /// Take only what was registered longer ago: 30d, 12h, 10m
    #[arg(long, value_name = "AGE", value_parser = parse_age)]
    older_than: Option<Duration>,
    /// Take also what the finished steps of builds have made that have not come to their end
    #[arg(long)]
    unfinished: bool,
}

/// Runs the verb.
///
/// # Errors
/// When the store cannot be changed.
pub(crate) fn run(session: &Session, args: &GcArgs) -> Result<(), Failure> {
    let store = session.store()?;
    if !args.dry_run {
        store.require_writable()?;
    }
    let options = |dry_run| GcOptions {
        dry_run,
        max_free: args.max_free,
        older_than: args.older_than,
        unfinished: args.unfinished,
    };
    let ahead = store.gc(options(true))?;
    let dir = session.store_dir()?;
    let json = |report: &GcReport| {
        let paths: Vec<_> = report.removed.iter().map(|p| p.absolute(&dir)).collect();
        output::json(
            &serde_json::json!({ "paths": paths, "bytes": report.freed_bytes, "unfinished": report.unfinished, "failed_states": report.failed_states, "problems": report.problems, "left": report.left }),
        )
    };
    if session.global.json && args.dry_run {
        return json(&ahead);
    }
    if (args.dry_run || session.global.verbose > 0) && !session.global.json {
        for path in &ahead.removed {
            output::line(&path.absolute(&dir))?;
        }
    }
    if args.dry_run {
        output::message(&format!("would free {}", amount(&ahead)));
        tell_states(&ahead, "would remove");
        tell_kept(&ahead);
        return Ok(());
    }
    if !session.global.quiet && !session.global.json {
        let (what, bytes) = (of_what(&ahead), size::bytes(ahead.freed_bytes));
        output::message(&format!("freeing {what}, about {bytes}"));
    }
    let bar = Bar::bytes(session, "freed", ahead.freed_bytes);
    let done = store.gc_with(options(false), &mut |freed| bar.at(freed))?;
    drop(bar);
    if session.global.json {
        json(&done)?;
    } else {
        output::message(&format!("freed {}", amount(&done)));
        tell_states(&done, "removed");
        tell_kept(&done);
    }
    if done.problems.is_empty() {
        return Ok(());
    }
    let count = size::count(done.problems.len(), "thing");
    let mut diagnostic = Diagnostic::error(
        "gc-incomplete",
        Class::Other,
        format!("{count} could not be collected"),
    );
    for problem in &done.problems {
        diagnostic = diagnostic.note(problem.as_str());
    }
    Err(Failure::new(
        diagnostic.help("`sos store check` says what is damaged"),
    ))
}

/// Says that no shell leads to what failed builds have left any more, as their failures have promised.
fn tell_states(report: &GcReport, what: &str) {
    if report.failed_states > 0 {
        let states = size::count(report.failed_states, "kept state");
        output::message(&format!(
            "{what} {states} of failed builds, which `sos shell NAME --at-failure` enters; the next failure keeps one again"
        ));
    }
}

/// Says what is kept for the next run: on a full disk it may have to go. And what only somebody else can remove.
fn tell_kept(report: &GcReport) {
    if !report.left.is_empty() {
        let count = size::count(report.left.len(), "tree");
        let places = report.left.iter().map(|dir| dir.display().to_string());
        let places: Vec<String> = places.collect();
        output::message(&format!(
            "left {count} with files of subordinate ids that this user does not have now; root of the machine can remove: {}",
            places.join(", ")
        ));
    }
    if report.unfinished > 0 {
        let paths = size::count(report.unfinished, "path");
        output::message(&format!(
            "kept {paths} of builds that have not come to their end; `sos gc --unfinished` frees these too"
        ));
    }
}

/// What else than objects takes room.
const REST: &str = "logs, caches and leftovers";

/// What a collection frees, in words.
fn of_what(report: &GcReport) -> String {
    match report.removed.len() {
        0 if report.freed_bytes > 0 => REST.to_owned(),
        paths => size::count(paths, "path"),
    }
}

/// The same with how much it is.
fn amount(report: &GcReport) -> String {
    let bytes = size::bytes(report.freed_bytes);
    match report.removed.len() {
        0 if report.freed_bytes > 0 => format!("{bytes} of {REST}"),
        paths => format!("{bytes} in {}", size::count(paths, "path")),
    }
}

fn parse_age(text: &str) -> Result<Duration, String> {
    let bad = || format!("`{text}` is no age; write 30d, 12h or 10m");
    let (at, unit) = text.char_indices().last().ok_or_else(bad)?;
    let secs = match unit {
        'd' => 86_400,
        'h' => 3_600,
        'm' => 60,
        's' => 1,
        _ => return Err(bad()),
    };
    let number: u64 = text[..at].parse().map_err(|_e| bad())?;
    number
        .checked_mul(secs)
        .map(Duration::from_secs)
        .ok_or_else(bad)
}

impl From<sos_formats::store_path::StorePathError> for Failure {
    fn from(error: sos_formats::store_path::StorePathError) -> Self {
        Self::new(Diagnostic::error(
            "store-bad-path",
            Class::Usage,
            error.to_string(),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_ages_are_read() {
        assert_eq!(size::parse("12"), Ok(12));
        assert_eq!(size::parse("2G"), Ok(2 << 30));
        assert_eq!(size::parse("5MiB"), Ok(5 << 20));
        assert!(size::parse("many").is_err() && size::parse("99999999T").is_err());
        assert_eq!(parse_age("2d"), Ok(Duration::from_secs(172_800)));
        assert!(parse_age("").is_err() && parse_age("5y").is_err());
    }
}
