//! `sos store check` and `repair`.

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::CheckOptions;

use crate::failure::Failure;
use crate::render::{again, output, size};
use crate::session::Session;

/// Takes away what is damaged.
pub(super) fn repair(session: &Session) -> Result<(), Failure> {
    let store = session.store()?;
    let found = store.check(CheckOptions { contents: true })?;
    let done = store.repair(&found)?;
    for path in &done.paths {
        output::line(&path.absolute(store.store_dir()))?;
    }
    if !session.global.quiet {
        output::message(&if found.problems.is_empty() {
            "nothing is damaged".to_owned()
        } else {
            again::text(&format!(
                "removed {} and {}; `sos build` makes them again",
                size::count(done.paths.len(), "object"),
                size::count(done.files, "damaged file")
            ))
        });
    }
    if done.left.is_empty() {
        return Ok(());
    }
    let diagnostic = done.left.iter().fold(
        Diagnostic::error(
            "store-corrupt",
            Class::Machine,
            "the database of the store is damaged, which cannot be repaired",
        ),
        |diagnostic, problem| diagnostic.note(problem.to_string()),
    );
    Err(Failure::new(diagnostic.help(format!(
        "move `{}` away; `sos build` makes a new store",
        store.root().display()
    ))))
}

pub(super) fn check(session: &Session, contents: bool) -> Result<(), Failure> {
    let store = session.store()?;
    let report = store.check(CheckOptions { contents })?;
    if session.global.json {
        let problems: Vec<_> = report.problems.iter().map(ToString::to_string).collect();
        output::json(
            &serde_json::json!({ "paths": report.paths, "blobs": report.blobs, "problems": problems }),
        )?;
    } else if !session.global.quiet {
        output::message(&format!(
            "checked {} and {}",
            size::count(report.paths, "path"),
            size::count(report.blobs, "blob")
        ));
    }
    if report.problems.is_empty() {
        return Ok(());
    }
    let mut diagnostic = Diagnostic::error(
        "store-corrupt",
        Class::Other,
        format!(
            "the store has {}",
            size::count(report.problems.len(), "problem")
        ),
    );
    for problem in report
        .problems
        .iter()
        .take(crate::render::diagnostic::MAX_DIAGNOSTICS)
    {
        diagnostic = diagnostic.note(problem.to_string());
    }
    Err(Failure::new(diagnostic.help(
        "`sos store repair` removes what is damaged, then `sos build` makes it again",
    )))
}
