//! What is to be compared: the derivations behind the targets, and their outputs, which are built first if they are not there.

use sos_engine::{Engine, Graph, Wanted, all_there};
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::Store;

use crate::failure::Failure;
use crate::run::{self, RunOptions, Stream};
use crate::session::Session;

/// An output that is there.
pub(super) struct There {
    pub(super) drv: StorePath,
    pub(super) output: String,
    pub(super) path: StorePath,
    /// By what a mirror knows the results of its derivation, if only their content names them.
    pub(super) realisation: Option<String>,
}

pub(super) fn outputs_of(
    engine: &Engine,
    graph: &Graph,
    drvs: &[StorePath],
) -> Result<Vec<There>, Failure> {
    let mut all = Vec::new();
    for drv in drvs {
        let realisation = engine.realisation_hash(graph, drv)?;
        for (output, path) in engine.known_outputs(graph, drv)? {
            all.push(There {
                drv: drv.clone(),
                output,
                path,
                realisation: realisation.clone(),
            });
        }
    }
    Ok(all)
}

/// The derivation that a store object was built by.
pub(super) fn deriver(store: &Store, path: &StorePath) -> Result<StorePath, Failure> {
    if let Some(record) = store.traces_of(path)?.into_iter().last() {
        return Ok(record.trace.drv);
    }
    if let Some(drv) = store.query(path)?.and_then(|info| info.deriver)
        && store.get_drv(&drv)?.is_some()
    {
        return Ok(drv);
    }
    Err(Failure::new(
        Diagnostic::error(
            "verify-no-deriver",
            Class::Other,
            format!(
                "nothing is known of how `{}` was built",
                path.absolute(store.store_dir())
            ),
        )
        .help("name the recipe that makes it"),
    ))
}

/// Those of `drvs` whose results are there, and those that would have to be built first. What is known by its hash is among the former
/// if it is there, whoever fetched it, and else in neither: there is nothing in it to verify.
pub(super) fn only_built(
    engine: &Engine,
    graph: &Graph,
    drvs: Vec<StorePath>,
) -> Result<(Vec<StorePath>, Vec<StorePath>), Failure> {
    let mut was_any_built = false;
    let (mut there, mut missing) = (Vec::new(), Vec::new());
    for drv in drvs {
        if !engine.store().drv_outputs(&drv)?.is_empty() {
            was_any_built = true;
            there.push(drv);
        } else if !engine.is_fixed(graph, &drv)? {
            missing.push(drv);
        } else if !engine.known_outputs(graph, &drv)?.is_empty() {
            there.push(drv);
        }
    }
    if !was_any_built {
        let message = "none of the steps was built yet: there is nothing to compare with";
        let problem = Diagnostic::error("verify-not-built", Class::Other, message)
            .help("`sos build` makes them; then verify again");
        return Err(Failure::new(problem));
    }
    Ok((there, missing))
}

/// Builds what is not there yet: what is to be compared, and what it is built from.
pub(super) fn make_present(
    session: &Session,
    engine: &Engine,
    graph: &Graph,
    drvs: &[StorePath],
    options: &RunOptions,
) -> Result<(), Failure> {
    let mut wanted = Vec::new();
    for drv in drvs {
        let there = !engine.store().drv_outputs(drv)?.is_empty();
        wanted.push(Wanted {
            drv: drv.clone(),
            // Some output is enough to compare: a missing one would make all of them anew.
            outputs: if there {
                let outputs = engine.store().drv_outputs(drv)?;
                outputs.into_iter().map(|(output, _)| output).collect()
            } else {
                Vec::new()
            },
        });
        // Nothing is built again of what is known by its hash; a file from outside would wait for the steps before it.
        if engine.is_fixed(graph, drv)? {
            continue;
        }
        for (input, outputs) in engine.inputs_of(graph, drv)? {
            wanted.push(Wanted {
                drv: input,
                outputs: outputs.into_iter().collect(),
            });
        }
    }
    // What is there is no news, and no run of the journal.
    if all_there(session.store()?, graph, &wanted)? {
        return Ok(());
    }
    let stream = Stream::start(session, false);
    let report = run::build(session, graph.clone(), &wanted, options, stream)?;
    if report.success() {
        return Ok(());
    }
    Err(Failure::shown(report.failures.clone(), report.exit_code()))
}
