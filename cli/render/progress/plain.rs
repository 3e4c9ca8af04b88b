//! One complete line an event, for logs and pipes: no cursor moves, no carriage return.

use std::time::{Duration, Instant};

use sos_engine::{Event, EventRecord};

use super::model::{Line, Model};
use super::{Options, Sink};
use crate::render::text::printable;
use crate::render::{diagnostic, output, size};

/// After this long without a line, one says what still runs.
const HEARTBEAT: Duration = Duration::from_secs(30);

/// The plain display.
pub(super) struct Plain {
    options: Options,
    model: Model,
    start: Instant,
    last_line: Duration,
}

impl Plain {
    #[allow(
        clippy::disallowed_methods,
        reason = "elapsed time is shown to a person"
    )]
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            model: Model::default(),
            start: Instant::now(),
            last_line: Duration::ZERO,
        }
    }

    fn say(&mut self, text: &str) {
        output::message(text);
        self.last_line = self.start.elapsed();
    }
}

impl Sink for Plain {
    fn event(&mut self, record: &EventRecord) {
        if let Event::Diagnostic { diagnostic } = &record.event {
            let text = diagnostic::render(diagnostic, self.options.style);
            self.say(text.trim_end());
            if self.options.terminal.github {
                output::message(diagnostic::github(diagnostic).trim_end());
            }
            return;
        }
        match self.model.apply(&record.event, self.start.elapsed()) {
            Some(Line::Log { name, line }) if self.options.logs => {
                self.say(&format!("{name}> {}", printable(&line)));
            }
            Some(Line::Log { .. }) | None => {}
            Some(line) => self.say(&text(&line)),
        }
    }

    fn tick(&mut self) {
        let now = self.start.elapsed();
        if now.saturating_sub(self.last_line) < HEARTBEAT || self.model.running.is_empty() {
            return;
        }
        let mut names: Vec<_> = self
            .model
            .running
            .values()
            .map(|r| {
                format!(
                    "{} ({})",
                    r.name,
                    size::duration(now.saturating_sub(r.started))
                )
            })
            .collect();
        names.truncate(5);
        let line = format!(
            "[{}/{}] still running: {}",
            self.model.done(),
            self.model.total(),
            names.join(", ")
        );
        self.say(&line);
    }

    fn finish(&mut self) {}
}

/// The text of one line, without marks that a terminal would need.
pub(super) fn text(line: &Line) -> String {
    match line {
        Line::Finished {
            name,
            fetch,
            failed,
            cause,
            took,
            bytes,
            done,
            total,
        } => {
            let verb = match (failed, fetch) {
                (true, _) => "failed",
                (_, true) => "fetched",
                _ => "built",
            };
            let size = (*fetch && !failed).then(|| size::bytes(*bytes));
            let notes: Vec<String> = size.into_iter().chain(cause.clone()).collect();
            let notes = if notes.is_empty() {
                String::new()
            } else {
                format!(" ({})", printable(&notes.join(", ")))
            };
            format!(
                "[{done}/{total}] {verb} {name} in {}{notes}",
                size::duration(*took)
            )
        }
        Line::Waiting {
            name,
            pid: Some(pid),
            command,
        } => {
            let command = command.as_ref().map(|c| format!(" (`{c}`)"));
            let command = command.unwrap_or_default();
            format!("waiting for process {pid}{command}, which builds {name}")
        }
        Line::Waiting {
            name, pid: None, ..
        } => {
            format!("waiting for another process, which builds {name}")
        }
        Line::Log { name, line } => format!("{name}> {line}"),
        Line::Summary(text) => text.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_what_and_how_long() {
        let line = Line::Finished {
            name: "glibc-2.39".into(),
            fetch: false,
            failed: false,
            cause: Some("source changed".into()),
            took: Duration::from_secs(161),
            bytes: 0,
            done: 14,
            total: 87,
        };
        assert_eq!(
            text(&line),
            "[14/87] built glibc-2.39 in 2m 41s (source changed)"
        );
    }
}
