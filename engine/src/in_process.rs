//! A build by a builder of this process.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_store::is_disk_full;

use crate::attributes::as_json;
use crate::builder::{Builder, BuilderError};
use crate::context::BuilderCtx;
use crate::diagnose::mismatch;
use crate::nix_shape::build_took_too_long;
use crate::output::{Made, Stop};
use crate::work::Attempt;

/// Runs a builder of this process and collects what it made.
pub(crate) fn run(
    attempt: &Attempt<'_>,
    builder: &dyn Builder,
) -> Result<BTreeMap<String, Made>, Stop> {
    let worker = attempt.worker;
    let attrs = as_json(&attempt.drv)
        .map_err(|e| attempt.failed("build-bad-attributes", Class::Recipe, &e))?;
    let mut ctx = BuilderCtx {
        drv: &attempt.drv,
        drv_path: &attempt.job.path,
        name: attempt.job.name.as_str(),
        attrs,
        store: &worker.store,
        runtime: worker.runtime.clone(),
        cores: worker.options.cores,
        options: &worker.options,
        place: attempt.place.path(),
        rootfs: BTreeMap::new(),
        known: BTreeMap::new(),
        closure: OnceLock::new(),
        reporter: attempt.reporter.clone(),
    };
    if let Some(secs) = worker.options.timeout_secs {
        let end = attempt.since.saturating_add(Duration::from_secs(secs));
        attempt.reporter.ends_at(worker.clock.clone(), end);
    }
    builder
        .build(&mut ctx)
        .map_err(|e| stopped(attempt).unwrap_or_else(|| builder_failed(attempt, e)))?;
    let mut made = BTreeMap::new();
    for output in attempt.drv.outputs.keys() {
        if let Some(root) = ctx.rootfs.remove(output) {
            made.insert(output.clone(), Made::Rootfs(root));
            continue;
        }
        let place = ctx.out_path(output);
        if place.symlink_metadata().is_ok() {
            let known = ctx.known.remove(output).unwrap_or_default();
            made.insert(output.clone(), Made::Tree(place, known));
        }
    }
    Ok(made)
}

/// What a builder is told that has had all of its time, whatever it says of that itself.
fn stopped(attempt: &Attempt<'_>) -> Option<Stop> {
    let (worker, reporter) = (attempt.worker, &attempt.reporter);
    if !reporter.is_over_time() || worker.cancel.is_cancelled() {
        return None;
    }
    let secs = worker.options.timeout_secs;
    let problem = build_took_too_long(attempt.job.name.as_str(), secs, &reporter.finish());
    Some(Stop::Problem(Box::new(problem)))
}

fn builder_failed(attempt: &Attempt<'_>, error: BuilderError) -> Stop {
    match error {
        BuilderError::Cancelled => Stop::Cancelled,
        BuilderError::Diagnostic(diagnostic) => Stop::Problem(diagnostic),
        BuilderError::HashMismatch(found) => Stop::Mismatch(vec![mismatch(
            &attempt.job.drv,
            &attempt.job.path,
            &found.expected,
            found.found.as_ref(),
            &found.detail,
        )]),
        BuilderError::Store(error) => {
            let diagnostic = Diagnostic::from(error);
            Stop::Problem(Box::new(
                diagnostic.note(format!("while building `{}`", attempt.job.name)),
            ))
        }
        BuilderError::Io { context, source } if is_disk_full(&source) => Stop::Problem(Box::new(
            Diagnostic::error(
                "env-disk-full",
                Class::Machine,
                format!("the disk is full: {context}"),
            )
            .note(format!(
                "while building `{}`; nothing was added to the store",
                attempt.job.name
            ))
            .help("`sos gc` frees what nothing needs any more"),
        )),
        error => attempt.failed("build-failed", Class::BuildFailed, &error.to_string()),
    }
}
