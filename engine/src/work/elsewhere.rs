//! What is taken from mirrors once its inputs are there.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use sos_formats::derivation::{Derivation, DrvHashes, Method, Output};
use sos_formats::store_path::StorePath;

use super::Worker;
use crate::diagnose::store_failed;
use crate::event::{Event, Status};
use crate::executor::{Job, Outcome};
use crate::output::Stop;
use crate::resolve::{Resolved, is_dynamic};
use crate::substitute::{Mirrors, Watch, may_come_from_elsewhere};

impl Worker {
    /// Takes from mirrors what is known by name only since the inputs are there.
    pub(super) fn take_from_mirrors(
        &self,
        job: &Job,
        resolved: &Resolved,
    ) -> Result<Option<Outcome>, Stop> {
        let Some(mirrors) = self.mirrors.as_ref().filter(|mirrors| !mirrors.are_off()) else {
            return Ok(None);
        };
        // One without inputs, or with known names, was asked for before.
        if job.forced
            || !is_dynamic(&job.drv)
            || job.drv.input_drvs.is_empty()
            || !may_come_from_elsewhere(&job.drv)
        {
            return Ok(None);
        }
        let dir = self.store.store_dir();
        let mut outputs = BTreeMap::new();
        for output in &job.outputs {
            let path = match resolved.known_path(dir, job.name.as_str(), output) {
                Some(path) => path,
                None => match realisation(mirrors, job, resolved, output) {
                    Ok(path) => path,
                    Err(lacking) => {
                        mirrors.miss(&job.path, lacking);
                        return Ok(None);
                    }
                },
            };
            outputs.insert(output.clone(), path);
        }
        let paths: BTreeSet<StorePath> = outputs.values().cloned().collect();
        mirrors.ask_all(&paths);
        if !paths.iter().all(|path| mirrors.has(path)) {
            mirrors.miss_paths(&job.path, &paths);
            return Ok(None);
        }
        mirrors.gather(paths).map_err(store_failed)?;
        let order = mirrors.order(outputs.values()).map_err(store_failed)?;
        let Some(order) = order else {
            return Ok(None);
        };
        self.events.emit(Event::FetchStarted {
            drv: job.shown.clone(),
            name: job.name.clone(),
            cause: self.cause(job, resolved)?,
        });
        let watch = Watch::new(
            &self.events,
            &self.cancel,
            job.shown.clone(),
            job.name.clone(),
        );
        let Some(bytes) = mirrors.take(&order, &watch) else {
            return Ok(None);
        };
        self.record_outputs(job, resolved, &outputs)?;
        Ok(Some(Outcome::Done {
            outputs,
            status: Status::Fetched,
            bytes,
        }))
    }
}

/// Which path mirrors have for an output of a content-addressed derivation whose inputs are known.
fn realisation(
    mirrors: &Mirrors,
    job: &Job,
    resolved: &Resolved,
    output: &str,
) -> Result<StorePath, Vec<String>> {
    // No binary cache has root filesystems.
    if matches!(
        resolved.drv.outputs.get(output),
        Some(Output::Floating {
            method: Method::Rootfs,
            ..
        })
    ) {
        return Err(Vec::new());
    }
    // There are no input derivations any more, so nobody asks.
    let mut no_inputs =
        |_: &StorePath| -> Result<Derivation, Infallible> { Ok(Derivation::default()) };
    let mut hashes = DrvHashes::new(mirrors.store_dir().clone());
    match hashes.realisation_hash(&resolved.drv, job.name.as_str(), &mut no_inputs) {
        Ok(hash) => mirrors.realisation(&hash, output),
        Err(_) => Err(Vec::new()),
    }
}
