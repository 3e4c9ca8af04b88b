//! `sos builds`: what was built here, and what one of the builds did.

use serde_json::{Value, json};
use sos_engine::{StepDetail, rfc3339, why};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StoreDir;
use sos_store::{BuildId, BuildRecord, Step, Store};

use crate::failure::Failure;
use crate::render::why::{cause_text, moment};
use crate::render::{output, size};
use crate::session::Session;

/// List the builds that were made here, newest first, or say all about one
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A run that finds everything there leaves no entry. The newest 1000 builds are kept, as long as they have no more than 200,000 derivations together."
)]
pub(crate) struct BuildsArgs {
    /// The number of a build: tells what it did with each derivation, why, and what that took
    #[arg(value_name = "BUILD")]
    build: Option<i64>,
    /// List this many
    #[arg(short, long, value_name = "N", default_value = "20", value_parser = clap::value_parser!(u32).range(1..), conflicts_with = "build")]
    number: u32,
}

/// Runs the verb.
///
/// # Errors
/// `build-unknown` when the journal has no build of that number.
pub(crate) fn run(session: &Session, args: &BuildsArgs) -> Result<(), Failure> {
    let store = session.store()?;
    if let Some(number) = args.build {
        let record = find(store, number)?;
        let steps = store.steps_of_build(BuildId(number))?;
        return if session.global.json {
            let mut all = summary(&record);
            let dir = store.store_dir();
            let running = record.is_running();
            let step = |step| step_json(step, running, dir);
            all["steps"] = steps.iter().map(step).collect();
            output::json(&all)
        } else {
            output::bytes(detail_text(&record, steps).as_bytes())
        };
    }
    let builds = store.recent_builds(args.number)?;
    if session.global.json {
        return output::json(&builds.iter().map(summary).collect::<Value>());
    }
    if builds.is_empty() {
        output::message("nothing was built here yet");
        return Ok(());
    }
    let rows: Vec<[String; 5]> = builds.iter().map(row).collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let (first, third, fourth, fifth) = (width(0), width(2), width(3), width(4));
    let mut text = String::new();
    for (row, build) in rows.iter().zip(&builds) {
        let [number, when, took, status, counts] = row;
        text.push_str(&format!(
            "{number:>first$}  {when}  {took:>third$}  {status:<fourth$}  {counts:<fifth$}  {}\n",
            build.command
        ));
    }
    output::bytes(text.as_bytes())
}

/// Finds a build by its number.
///
/// # Errors
/// `build-unknown` when the journal has none of that number.
pub(crate) fn find(store: &Store, number: i64) -> Result<BuildRecord, Failure> {
    if let Some(record) = store.build_record(BuildId(number))? {
        return Ok(record);
    }
    let newest = store.recent_builds(1)?;
    let problem = Diagnostic::error(
        "build-unknown",
        Class::Other,
        format!("there is no build {number} in the journal"),
    );
    Err(Failure::new(match newest.first() {
        Some(newest) => problem
            .note(format!("the newest is build {}", newest.id))
            .help("`sos builds` lists them"),
        None => problem.note("nothing was built here yet"),
    }))
}

/// How a build ended, in one word.
pub(crate) fn status(build: &BuildRecord) -> &str {
    match &build.status {
        Some(status) => status,
        None if build.is_running() => "running",
        // Whoever is killed says nothing.
        None => "killed",
    }
}

/// What the last event of a build says.
fn last_event(build: &BuildRecord) -> Value {
    let text = build.summary.as_deref().unwrap_or_default();
    serde_json::from_str(text).unwrap_or_default()
}

fn row(build: &BuildRecord) -> [String; 5] {
    let summary = last_event(build);
    let took = summary["elapsed_ms"].as_u64();
    [
        build.id.to_string(),
        moment(secs_to_ms(build.started_secs)),
        took.map_or_else(|| "-".to_owned(), took_text),
        status(build).to_owned(),
        counts(&summary),
    ]
}

/// `14 built, 3 fetched, 204 cached`: what is zero is left out.
fn counts(summary: &Value) -> String {
    let mut parts = Vec::new();
    for key in ["built", "fetched", "cached", "failed", "stopped", "skipped"] {
        match summary[key].as_u64() {
            None | Some(0) => {}
            Some(n) => parts.push(format!("{n} {key}")),
        }
    }
    if parts.is_empty() {
        return "-".to_owned();
    }
    parts.join(", ")
}

fn took_text(ms: u64) -> String {
    size::duration(std::time::Duration::from_millis(ms))
}

fn secs_to_ms(secs: i64) -> u64 {
    u64::try_from(secs).unwrap_or(0).saturating_mul(1000)
}

fn summary(build: &BuildRecord) -> Value {
    let last = last_event(build);
    json!({
        "build": build.id,
        "command": build.command,
        "project": build.project,
        "host": build.host,
        "status": status(build),
        "started": rfc3339(secs_to_ms(build.started_secs)),
        "finished": build.finished_secs.map(|secs| rfc3339(secs_to_ms(secs))),
        "durationMs": last["elapsed_ms"],
        "exitCode": last["exit_code"],
        "built": last["built"],
        "fetched": last["fetched"],
        "fetchedBytes": last["fetched_bytes"],
        "cached": last["cached"],
        "failed": last["failed"],
        "stopped": last["stopped"],
        "skipped": last["skipped"],
        "outputs": last["outputs"],
    })
}

/// How long the builder of a step ran.
fn took(step: &Step) -> Option<u64> {
    Some(step.finished_ms?.saturating_sub(step.started_ms?))
}

/// How a step ended; what ran when its run was killed did not end.
fn step_status(step: &Step, running: bool) -> &str {
    match step.status.as_str() {
        "running" | "queued" if !running => "killed",
        status => status,
    }
}

fn step_json(step: &Step, running: bool, dir: &StoreDir) -> Value {
    let parse = |text: &Option<String>| -> Value {
        let text = text.as_deref().unwrap_or("null");
        serde_json::from_str(text).unwrap_or_default()
    };
    let absolute = |base: &str| format!("{}/{base}", dir.as_str());
    let detail: StepDetail = why::detail_of(step).unwrap_or_default();
    let inputs: Vec<Value> = detail
        .inputs
        .iter()
        .map(|input| {
            json!({
                "path": absolute(&input.path),
                "digest": input.digest,
                "drv": input.drv.as_deref().map(absolute),
            })
        })
        .collect();
    let needs: Vec<String> = detail.needs.iter().map(|need| absolute(need)).collect();
    let mut outputs = parse(&step.outputs);
    for (_, output) in outputs.as_object_mut().into_iter().flatten() {
        output["path"] = absolute(output["path"].as_str().unwrap_or_default()).into();
    }
    json!({
        "drv": step.drv.absolute(dir),
        "name": step.name,
        "attr": step.attr,
        "status": step_status(step, running),
        "queued": rfc3339(step.queued_ms),
        "started": step.started_ms.map(rfc3339),
        "finished": step.finished_ms.map(rfc3339),
        "durationMs": took(step),
        "cause": parse(&step.cause),
        "builder": detail.builder,
        "resolved": detail.identity.as_deref().map(absolute),
        "inputs": inputs,
        "needs": needs,
        "waitedFor": detail.waited_for,
        "outputs": outputs,
    })
}

fn detail_text(build: &BuildRecord, mut steps: Vec<Step>) -> String {
    let summary = last_event(build);
    let mut text = format!("build {}: {}\n", build.id, build.command);
    let mut fact = |name: &str, value: &str| {
        if !value.is_empty() {
            text.push_str(&format!("  {name:<9} {value}\n"));
        }
    };
    fact("project", &build.project);
    fact("host", &build.host);
    fact("started", &moment(secs_to_ms(build.started_secs)));
    let took_all = summary["elapsed_ms"].as_u64().map(took_text);
    fact("took", &took_all.unwrap_or_default());
    let code = summary["exit_code"].as_i64();
    let code = code.map_or_else(String::new, |code| format!(" (exit {code})"));
    fact("status", &format!("{}{code}", status(build)));
    fact("counts", &counts(&summary));
    for path in summary["outputs"].as_array().into_iter().flatten() {
        fact("result", path.as_str().unwrap_or_default());
    }
    steps.sort_by_key(|step| (step.started_ms.or(step.finished_ms), step.finished_ms));
    let width = steps.iter().map(|s| s.name.chars().count()).max();
    let width = width.unwrap_or(0).min(48);
    for step in &steps {
        let causes = why::causes_of(step);
        let reason = match (&causes, step.status.as_str()) {
            (Some(causes), _) => cause_text(&causes.first, causes.at.as_ref(), &causes.read),
            (None, "cached") => "what it would have made was there".to_owned(),
            (None, _) => String::new(),
        };
        let took = took(step).map_or_else(|| "-".to_owned(), took_text);
        let line = format!(
            "{:<9} {:<width$}  {took:>7}  {reason}",
            step_status(step, build.is_running()),
            step.name
        );
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}
