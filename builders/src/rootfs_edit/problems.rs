//! Everything in a recipe that does not fit the root file system, told at once: finding out takes a whole build.

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};

/// The problems so far.
#[derive(Default)]
pub(super) struct Problems(Vec<Diagnostic>);

impl Problems {
    /// Records a problem of the recipe, in `part` unless it says more exactly where; any other failure ends the edit.
    pub(super) fn keep<T>(
        &mut self,
        part: impl FnOnce() -> String,
        result: Result<T, BuilderError>,
    ) -> Result<Option<T>, BuilderError> {
        match result {
            Ok(value) => Ok(Some(value)),
            Err(BuilderError::Diagnostic(problem)) if problem.class == Class::Recipe => {
                let problem = if problem.subjects.is_empty() {
                    problem.about(part(), "")
                } else {
                    *problem
                };
                self.0.push(problem);
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    /// Tells whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Ends with all problems in one, each at its own place.
    pub(super) fn finish(mut self) -> Result<(), BuilderError> {
        if self.0.len() < 2 {
            return self.0.pop().map_or(Ok(()), |one| Err(one.into()));
        }
        let mut all = Diagnostic::error(
            "rootfs-edit",
            Class::Recipe,
            format!(
                "{} things in the recipe do not fit its packages",
                self.0.len()
            ),
        );
        for problem in self.0 {
            let mut text = problem.message;
            for more in problem.notes.iter().chain(&problem.helps) {
                text.push_str("; ");
                text.push_str(more);
            }
            for (subject, _) in problem.subjects.into_iter().take(1) {
                all = all.about(subject, std::mem::take(&mut text));
            }
        }
        Err(all.into())
    }
}
