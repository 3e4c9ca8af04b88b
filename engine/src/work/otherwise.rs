//! What comes out otherwise than the last time it was built: told, and remembered.

use std::collections::BTreeMap;

use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::store_path::StorePath;
use sos_store::compare::Snapshot;
use sos_store::{Rebuild, StoreError};

use super::attempt::Remembered;
use super::{Worker, host};
use crate::diagnose::store_failed;
use crate::event::Event;
use crate::executor::Job;
use crate::output::{Other, Registered};
use crate::verify::Conditions;

impl Worker {
    /// Says so when an earlier build of the same gave something else that is still there. Both are remembered.
    pub(super) fn tell_other_results(
        &self,
        job: &Job,
        made: &Remembered<'_>,
        outputs: &BTreeMap<String, Registered>,
    ) -> Result<(), Box<Diagnostic>> {
        let dir = self.store.store_dir();
        for (output, one) in outputs {
            let earlier = self.store.trace(&made.key, output).map_err(store_failed)?;
            let is = one.path.absolute(dir);
            let (note, first, help) = match (earlier.filter(|was| *was != one.path), &one.other) {
                (Some(earlier), _) => {
                    let was = earlier.absolute(dir);
                    (
                        format!("output `{output}` was `{was}`, is `{is}`"),
                        self.first_difference(&earlier, &one.path)
                            .map_err(store_failed)?,
                        format!(
                            "`sos diff {was} {is}` compares the two, `sos verify {is}` looks for the reason"
                        ),
                    )
                }
                (None, Some(other)) => {
                    self.record_other(job, made, output, &one.path, other)
                        .map_err(store_failed)?;
                    (
                        format!(
                            "output `{output}` is in the store with other content, which stays: `{is}`"
                        ),
                        other.first.clone(),
                        format!(
                            "`sos verify {is} --keep DIR` looks for the reason and keeps what comes out otherwise"
                        ),
                    )
                }
                (None, None) => continue,
            };
            let mut warning = Diagnostic::warning(
                "build-not-reproducible",
                Class::NotReproducible,
                format!(
                    "`{}` gave something else than the last time it was built",
                    job.name
                ),
            )
            .note(note);
            if let Some(first) = first {
                warning = warning.note(format!("first difference: {first}"));
            }
            self.events.emit(Event::Diagnostic {
                diagnostic: Box::new(warning.help(help)),
            });
        }
        Ok(())
    }

    /// The first path at which two objects differ; none when one of them is not there any more.
    fn first_difference(
        &self,
        old: &StorePath,
        new: &StorePath,
    ) -> Result<Option<String>, StoreError> {
        let mut sides = Vec::new();
        for path in [old, new] {
            match self.store.query(path)? {
                Some(info) if self.store.is_present(path)? => {
                    sides.push(Snapshot::of_object(&self.store, &info)?);
                }
                _ => return Ok(None),
            }
        }
        let differences = sides[0].compare(&sides[1], &self.store)?;
        Ok(differences.first().map(ToString::to_string))
    }

    /// Remembers content that came out and is not kept.
    fn record_other(
        &self,
        job: &Job,
        made: &Remembered<'_>,
        output: &str,
        path: &StorePath,
        other: &Other,
    ) -> Result<(), StoreError> {
        self.store.record_rebuilds(&[Rebuild {
            path: path.clone(),
            drv: job.path.clone(),
            output: output.to_owned(),
            same: false,
            found: other.hash.clone(),
            conditions: Conditions::default().to_string(),
            host: host(),
            started_secs: i64::try_from(made.started_ms / 1000).unwrap_or(i64::MAX),
            duration_ms: made.duration_ms,
        }])
    }
}
