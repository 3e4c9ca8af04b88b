//! A live region at the foot of the terminal; what has ended scrolls away above it.

use std::fmt::Write as _;
use std::time::Duration;

use sos_engine::{Event, EventRecord};

use super::model::{Line, Model};
use super::plain::text;
use super::rows::{NAME_COLUMNS, Window, rows};
use super::{Options, Sink};
use crate::render::text::{colored, pad, printable};
use crate::render::{live, size};

/// The live display.
pub(super) struct Tty {
    options: Options,
    model: Model,
    /// Lines that wait for the next frame: one write a frame, however many lines a build prints.
    pending: String,
    drawn: bool,
    taskbar: Option<(u64, bool)>,
}

impl Tty {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            model: Model::default(),
            pending: String::new(),
            drawn: false,
            taskbar: None,
        }
    }

    fn paint(&self, code: &str, text: &str) -> String {
        if self.options.terminal.color {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }

    fn queue(&mut self, line: &Line) {
        let (ok, bad) = if self.options.terminal.unicode {
            ("✓", "✗")
        } else {
            ("ok", "!!")
        };
        let text = match line {
            Line::Finished {
                name,
                fetch,
                failed,
                cause,
                took,
                bytes,
                ..
            } => {
                let (mark, code) = if *failed { (bad, "31") } else { (ok, "32") };
                let what = match (failed, fetch) {
                    (true, _) => "failed",
                    (_, true) => "fetched",
                    _ => "built",
                };
                let how_much = if *fetch && !failed {
                    size::bytes(*bytes)
                } else {
                    size::duration(*took)
                };
                format!(
                    " {} {}  {what:<8}  {how_much:<10} {}",
                    self.paint(code, mark),
                    self.paint("36", &pad(name, NAME_COLUMNS)),
                    printable(cause.as_deref().unwrap_or_default()),
                )
                .trim_end()
                .to_owned()
            }
            Line::Log { .. } if !self.options.logs => return,
            Line::Log { name, line } => format!(
                "{} {}",
                self.paint("36", &format!("{name}>")),
                if self.options.terminal.color {
                    colored(line)
                } else {
                    printable(line)
                }
            ),
            other => text(other),
        };
        let _infallible = writeln!(self.pending, "{text}");
    }

    /// What the taskbar shall show, if that is new.
    fn taskbar(&mut self) -> Option<(u64, bool)> {
        if !self.options.terminal.taskbar {
            return None;
        }
        let percent = (self.model.done() * 100).checked_div(self.model.total());
        let percent = u64::try_from(percent.unwrap_or(0)).unwrap_or(0);
        let now = Some((percent, self.model.failed > 0));
        if self.taskbar == now {
            return None;
        }
        self.taskbar = now;
        now
    }
}

impl Sink for Tty {
    fn event(&mut self, record: EventRecord, now: Duration) {
        if let Event::Diagnostic { diagnostic } = &record.event {
            self.pending.push_str(&self.options.problem(diagnostic));
            return;
        }
        if let Some(line) = self.model.apply(record.event, now) {
            self.queue(&line);
        }
    }

    fn frame(&mut self, now: Duration) {
        // Nothing flickers up for a run that is over at once.
        let alive = !self.model.running.is_empty() && in_foreground();
        if !alive && !self.drawn {
            if !self.pending.is_empty() {
                live::message(self.pending.trim_end_matches('\n'));
                self.pending.clear();
            }
            return;
        }
        let rows = if alive {
            rows(&mut self.model, now, window(self.options))
        } else {
            Vec::new()
        };
        let taskbar = if alive { self.taskbar() } else { None };
        live::draw(&live::Frame {
            above: &self.pending,
            rows: &rows,
            taskbar,
        });
        self.pending.clear();
        self.drawn = alive;
    }

    fn finish(&mut self, _now: Duration) {
        live::clear();
        if !self.pending.is_empty() {
            live::message(self.pending.trim_end_matches('\n'));
        }
    }
}

/// The window behind standard error. Some terminals do not know their size.
fn window(options: Options) -> Window {
    let size = rustix::termios::tcgetwinsize(std::io::stderr()).ok();
    let known = |n: u16, usual: usize| if n == 0 { usual } else { usize::from(n) };
    Window {
        rows: size.map_or(24, |w| known(w.ws_row, 24)),
        columns: size.map_or(80, |w| known(w.ws_col, 80)),
        unicode: options.terminal.unicode,
        color: options.terminal.color,
    }
}

/// Whether the terminal is ours to draw on: a shell that has sent us to the background uses it for others.
fn in_foreground() -> bool {
    match rustix::termios::tcgetpgrp(std::io::stderr()) {
        Ok(foreground) => foreground == rustix::process::getpgrp(),
        // It is nobody's terminal.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::ProgressMode;
    use crate::render::diagnostic;
    use crate::render::terminal::Terminal;

    fn tty(color: bool, logs: bool) -> Tty {
        Tty::new(Options {
            terminal: Terminal {
                color,
                unicode: true,
                taskbar: true,
                progress: ProgressMode::Tty,
                github: false,
            },
            style: diagnostic::Style {
                color,
                show_trace: false,
            },
            logs,
            json: false,
        })
    }

    #[test]
    fn a_line_that_scrolls_away_says_the_cause() {
        let mut tty = tty(false, false);
        tty.queue(&Line::Finished {
            name: "glibc-2.39".into(),
            fetch: false,
            failed: false,
            cause: Some("source changed".into()),
            took: Duration::from_secs(161),
            bytes: 0,
            done: 1,
            total: 1,
        });
        assert_eq!(
            tty.pending,
            " ✓ glibc-2.39                    built     2m 41s     source changed\n"
        );
    }

    #[test]
    fn colours_of_a_log_end_with_the_line() {
        let line = Line::Log {
            name: "x".into(),
            line: "\u{1b}[31mred\u{1b}[2J".to_owned(),
        };
        let mut with = tty(true, true);
        with.queue(&line);
        assert_eq!(
            with.pending,
            "\u{1b}[36mx>\u{1b}[0m \u{1b}[31mred\u{1b}[0m\n"
        );
        let mut without = tty(false, true);
        without.queue(&line);
        assert_eq!(without.pending, "x> red\n");
    }

    #[test]
    fn the_taskbar_is_told_what_is_new() {
        let mut tty = tty(false, false);
        tty.model.to_build = 4;
        assert_eq!(tty.taskbar(), Some((0, false)));
        assert_eq!(tty.taskbar(), None);
        tty.model.built = 1;
        assert_eq!(tty.taskbar(), Some((25, false)));
        tty.model.failed = 1;
        assert_eq!(tty.taskbar(), Some((50, true)));
    }
}
