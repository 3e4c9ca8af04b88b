//! One complete line an event, for logs and pipes: no cursor moves, no carriage return.

use std::time::Duration;

use sos_engine::{Event, EventRecord};

use super::model::{Line, Model};
use super::{Options, Sink};
use crate::render::text::{colored, printable};
use crate::render::{output, size};

/// After this long without a line, one says what still runs.
const HEARTBEAT: Duration = Duration::from_secs(30);
/// Names in that line.
const NAMED: usize = 5;

/// The plain display.
pub(super) struct Plain {
    options: Options,
    model: Model,
    last_line: Duration,
    /// Lines that are written at once.
    pending: String,
}

impl Plain {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            model: Model::default(),
            last_line: Duration::ZERO,
            pending: String::new(),
        }
    }

    fn say(&mut self, text: &str, now: Duration) {
        self.pending.push_str(text);
        self.pending.push('\n');
        self.last_line = now;
    }
}

impl Sink for Plain {
    fn event(&mut self, record: EventRecord, now: Duration) {
        if let Event::Diagnostic { diagnostic } = &record.event {
            let text = self.options.problem(diagnostic);
            self.say(text.trim_end(), now);
            return;
        }
        match self.model.apply(record.event, now) {
            Some(Line::Log { name, line }) if self.options.logs => {
                let line = if self.options.terminal.color {
                    colored(&line)
                } else {
                    printable(&line)
                };
                self.say(&format!("{name}> {line}"), now);
            }
            Some(Line::Log { .. }) | None => {}
            Some(line) => self.say(&text(&line), now),
        }
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            output::message(self.pending.trim_end_matches('\n'));
            self.pending.clear();
        }
    }

    fn frame(&mut self, now: Duration) {
        if now.saturating_sub(self.last_line) < HEARTBEAT || self.model.running.is_empty() {
            return;
        }
        let mut running: Vec<_> = self.model.running.values().collect();
        running.sort_by_key(|r| r.started);
        let mut names: Vec<_> = running
            .iter()
            .take(NAMED)
            .map(|r| {
                let took = size::seconds(now.saturating_sub(r.started));
                format!("{} ({took})", r.name)
            })
            .collect();
        if running.len() > NAMED {
            names.push(format!("{} more", running.len() - NAMED));
        }
        let line = format!(
            "[{}/{}] still running: {}",
            self.model.done(),
            self.model.total(),
            names.join(", ")
        );
        self.say(&line, now);
    }

    fn finish(&mut self, _now: Duration) {
        self.flush();
    }
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
    use sos_engine::Cause;

    use super::*;
    use crate::args::ProgressMode;
    use crate::render::diagnostic;
    use crate::render::terminal::Terminal;

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

    #[test]
    fn after_thirty_silent_seconds_it_says_what_runs() {
        let mut plain = Plain::new(Options {
            terminal: Terminal {
                color: false,
                unicode: true,
                taskbar: false,
                progress: ProgressMode::Plain,
                github: false,
            },
            style: diagnostic::Style {
                color: false,
                show_trace: false,
            },
            logs: true,
            json: false,
        });
        let secs = Duration::from_secs;
        let mut at = |time: u64, event: Option<Event>| {
            if let Some(event) = event {
                let (v, seq, t) = (1, 1, 0.into());
                plain.event(EventRecord { v, seq, t, event }, secs(time));
            }
            plain.frame(secs(time));
            std::mem::take(&mut plain.pending)
        };
        let started = |name: &str| {
            Some(Event::BuildStarted {
                drv: name.into(),
                name: name.into(),
                builder: "sandbox".into(),
                cause: Cause::NeverBuilt.into(),
                expected_ms: None,
            })
        };
        assert_eq!(at(40, None), "", "nothing runs");
        assert_eq!(at(41, started("b")), "[0/1] still running: b (0s)\n");
        assert_eq!(at(50, started("a")), "");
        let line = Event::BuildLog {
            drv: "b".into(),
            name: "b".into(),
            line: "one\u{1b}[2J".to_owned(),
        };
        assert_eq!(at(60, Some(line)), "b> one\n");
        assert_eq!(at(89, None), "");
        assert_eq!(at(90, None), "[0/2] still running: b (49s), a (40s)\n");
        assert_eq!(at(91, None), "");
        for name in ["c", "d", "e", "f", "g"] {
            at(95, started(name));
        }
        let line = at(120, None);
        assert!(line.ends_with("e (25s), 2 more\n"), "{line}");
    }
}
