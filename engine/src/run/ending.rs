//! How jobs end: what is counted, what is told, and which problems are shown.

use std::any::Any;
use std::collections::BTreeMap;

use sos_formats::diagnostic::{Class, Diagnostic, Label};
use sos_formats::store_path::StorePath;

use super::{Done, Driver, Running};
use crate::builder::Pool;
use crate::clock::millis;
use crate::diagnose::{hash_mismatches, unfetched};
use crate::event::{Event, Status, Text};
use crate::executor::Outcome;
use crate::schedule::Mode;

impl Driver<'_> {
    pub(super) fn ended(&mut self, id: usize, outcome: Outcome) {
        let Some(running) = self.running.remove(&id) else {
            return;
        };
        let duration_ms = millis(self.run.clock.monotonic().saturating_sub(running.since));
        match outcome {
            Outcome::Done {
                outputs,
                status,
                bytes,
            } => {
                let counts = &mut self.done.counts;
                match status {
                    Status::Built => counts.built += 1,
                    Status::Fetched => {
                        counts.fetched += 1;
                        counts.fetched_bytes += bytes;
                    }
                    _ => counts.cached += 1,
                }
                self.tell(&running, status, duration_ms, bytes, &outputs);
                let names = &mut self.names;
                self.done.made[id] = outputs
                    .into_iter()
                    .map(|(name, path)| (names.get(&name), path))
                    .collect();
                self.schedule.succeed(id);
            }
            Outcome::Failed(diagnostic) if diagnostic.class == Class::Fetch => {
                self.tell(&running, Status::Failed, duration_ms, 0, &BTreeMap::new());
                self.unfetched.push(self.placed(id, *diagnostic));
                // The others are tried, so that one error names everything that is missing.
                self.failed(id, Mode::FixedOnly);
            }
            Outcome::Failed(diagnostic) => {
                self.tell(&running, Status::Failed, duration_ms, 0, &BTreeMap::new());
                let class = diagnostic.class;
                let diagnostic = self.placed(id, self.told_apart(id, *diagnostic));
                self.problem(diagnostic);
                self.failed(
                    id,
                    if class == Class::HashMismatch {
                        Mode::FixedOnly
                    } else {
                        Mode::Nothing
                    },
                );
            }
            Outcome::Mismatched(list) => {
                self.tell(&running, Status::Failed, duration_ms, 0, &BTreeMap::new());
                self.mismatches.extend(list);
                self.mismatched_at.extend(self.place(id));
                self.failed(id, Mode::FixedOnly);
            }
            Outcome::Locked(locked) => self.wait(id, &running, locked),
            Outcome::Cancelled => {
                self.tell(
                    &running,
                    Status::Cancelled,
                    duration_ms,
                    0,
                    &BTreeMap::new(),
                );
                self.done.counts.stopped += 1;
                self.schedule.fail(id);
                self.schedule.narrow(Mode::Nothing);
            }
        }
    }

    fn failed(&mut self, id: usize, mode: Mode) {
        self.done.counts.failed += 1;
        let path = self.run.needed.nodes[id].path.clone();
        self.done.failed.insert(path);
        self.schedule.fail(id);
        if !self.run.keep_going {
            self.schedule.narrow(mode);
        }
    }

    pub(super) fn place(&self, id: usize) -> Option<Label> {
        let path = &self.run.needed.nodes[id].path;
        self.run.graph.places.get(path).cloned()
    }

    /// Lets commands name the derivation by its path, if another one of this run has its name.
    fn told_apart(&self, id: usize, mut diagnostic: Diagnostic) -> Diagnostic {
        let nodes = &self.run.needed.nodes;
        let name = nodes[id].name();
        let mut others = nodes.iter().enumerate().filter(|(other, _)| *other != id);
        if others.any(|(_, node)| node.name() == name) {
            let path = nodes[id].path.absolute(self.run.dir);
            for help in &mut diagnostic.helps {
                for verb in ["log", "shell"] {
                    *help = help.replace(
                        &format!("`sos {verb} {name}"),
                        &format!("`sos {verb} {path}"),
                    );
                }
            }
        }
        diagnostic
    }

    /// Adds the place of the derivation, unless it has no part in the problem.
    fn placed(&self, id: usize, diagnostic: Diagnostic) -> Diagnostic {
        let path = &self.run.needed.nodes[id].path;
        let diagnostic = match self.run.graph.parts.get(path) {
            Some(parts) => diagnostic.placed(parts),
            None => diagnostic,
        };
        match diagnostic.class {
            // The machine lacks what this one asks for.
            Class::Machine
                if matches!(diagnostic.code, "env-wrong-system" | "env-missing-feature") =>
            {
                diagnostic.with_labels(self.place(id))
            }
            Class::Machine | Class::Bug | Class::Interrupted => diagnostic,
            _ if !diagnostic.labels.is_empty() => diagnostic,
            _ => diagnostic.with_labels(self.place(id)),
        }
    }

    pub(super) fn problem(&mut self, diagnostic: Diagnostic) {
        // What runs at once fills the disk at once: that it is full is one problem.
        if diagnostic.code == "env-disk-full"
            && self.done.failures.iter().any(|d| d.code == diagnostic.code)
        {
            return;
        }
        self.run.events.emit(Event::Diagnostic {
            diagnostic: Box::new(diagnostic.clone()),
        });
        self.done.failures.push(diagnostic);
    }

    fn tell(
        &self,
        running: &Running,
        status: Status,
        duration_ms: u64,
        bytes: u64,
        outputs: &BTreeMap<String, StorePath>,
    ) {
        let (drv, name) = (running.shown.clone(), running.name.clone());
        let outputs = outputs
            .iter()
            .map(|(output, path)| (output.clone(), path.absolute(self.run.dir)))
            .collect();
        // A build that was not needed, because a mirror had the result.
        let pool = if status == Status::Fetched {
            Pool::Io
        } else {
            running.pool
        };
        self.run.events.emit(match pool {
            Pool::Build => Event::BuildFinished {
                drv,
                name,
                status,
                duration_ms,
                outputs,
            },
            Pool::Io => Event::FetchFinished {
                drv,
                name,
                status,
                duration_ms,
                bytes,
                outputs,
            },
        });
    }

    pub(super) fn finish(mut self) -> Done {
        for diagnostic in unfetched(std::mem::take(&mut self.unfetched)) {
            self.problem(diagnostic);
        }
        if let Some(diagnostic) = hash_mismatches(&self.mismatches) {
            let places = std::mem::take(&mut self.mismatched_at);
            self.problem(diagnostic.with_labels(places));
        }
        self.done.counts.skipped += self.schedule.never_ran().count();
        self.done
    }
}

pub(super) fn panicked(name: &Text, panic: &(dyn Any + Send)) -> Box<Diagnostic> {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    Box::new(
        Diagnostic::error(
            "bug-panic",
            Class::Bug,
            format!("the builder of `{name}` panicked: {text}"),
        )
        .help("this is a defect of sos: please report it with the recipe and this message"),
    )
}
