//! A live region at the foot of the terminal; what has ended scrolls away above it.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use sos_engine::{Event, EventRecord};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::model::{Line, Model, Running};
use super::plain::text;
use super::{Options, Sink};
use crate::render::text::printable;
use crate::render::{diagnostic, output, size};

/// Rows of the live region at most, the headline among them.
const MAX_ROWS: usize = 10;
/// Smaller windows get the headline only.
const MIN_ROWS: u16 = 8;
const MIN_COLUMNS: u16 = 60;
/// Names are cut in the middle to this width.
const NAME_COLUMNS: usize = 28;

/// The live display.
pub(super) struct Tty {
    options: Options,
    model: Model,
    start: Instant,
    bars: MultiProgress,
    rows: Vec<ProgressBar>,
    /// Lines that wait for the next frame: one write a frame, however many lines a build prints.
    pending: String,
}

impl Tty {
    #[allow(
        clippy::disallowed_methods,
        reason = "elapsed time is shown to a person"
    )]
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            model: Model::default(),
            start: Instant::now(),
            bars: MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)),
            rows: Vec::new(),
            pending: String::new(),
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
        let (ok, bad, down) = if self.options.terminal.unicode {
            ("✓", "✗", "↓")
        } else {
            ("ok", "!!", "<-")
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
                let (mark, code) = match (failed, fetch) {
                    (true, _) => (bad, "31"),
                    (_, true) => (down, "32"),
                    _ => (ok, "32"),
                };
                let what = if *fetch {
                    size::bytes(*bytes)
                } else {
                    "built".to_owned()
                };
                let what = if *failed { "failed".to_owned() } else { what };
                format!(
                    " {} {}  {what:>9}  {:<9} {}",
                    self.paint(code, mark),
                    pad(name, NAME_COLUMNS),
                    size::duration(*took),
                    printable(cause.as_deref().unwrap_or_default()),
                )
                .trim_end()
                .to_owned()
            }
            Line::Log { .. } if !self.options.logs => return,
            Line::Log { name, line } => format!(
                "{} {}",
                self.paint("36", &format!("{name}>")),
                printable(line)
            ),
            other => text(other),
        };
        let _infallible = writeln!(self.pending, "{text}");
    }

    fn draw(&mut self, now: Duration) {
        let (height, width) = window();
        let dot = if self.options.terminal.unicode {
            " · "
        } else {
            ", "
        };
        let width = usize::from(width).saturating_sub(1);
        let mut lines = vec![cut(&format!("━ {}", self.model.headline(now, dot)), width)];
        if !self.options.terminal.unicode {
            lines[0] = lines[0].replace('━', "-");
        }
        if height >= MIN_ROWS && width + 1 >= usize::from(MIN_COLUMNS) {
            let room = (usize::from(height) / 3).min(MAX_ROWS);
            let mut running: Vec<&Running> = self.model.running.values().collect();
            running.sort_by_key(|r| (r.fetch, r.started));
            let shown = running.len().min(room.saturating_sub(1));
            for r in &running[..shown] {
                lines.push(cut(&row(r, now, self.options.terminal.unicode), width));
            }
            if running.len() > shown {
                lines.push(format!("   {} more", running.len() - shown));
            }
            if let Some(next) = self.model.next(dot).filter(|_| lines.len() < room) {
                lines.push(cut(&format!("   {next}"), width));
            }
        }
        while self.rows.len() < lines.len() {
            let bar = ProgressBar::new_spinner();
            // The template is a constant; indicatif offers no infallible way to say it.
            bar.set_style(
                ProgressStyle::with_template("{msg}")
                    .unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            self.rows.push(self.bars.add(bar));
        }
        while self.rows.len() > lines.len() {
            if let Some(bar) = self.rows.pop() {
                bar.finish_and_clear();
                self.bars.remove(&bar);
            }
        }
        for (bar, line) in self.rows.iter().zip(lines) {
            bar.set_message(line);
            bar.tick();
        }
    }

    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let text = std::mem::take(&mut self.pending);
        self.bars
            .suspend(|| output::message(text.trim_end_matches('\n')));
    }
}

impl Sink for Tty {
    fn event(&mut self, record: &EventRecord) {
        if let Event::Diagnostic { diagnostic } = &record.event {
            self.pending
                .push_str(&diagnostic::render(diagnostic, self.options.style));
            return;
        }
        if let Some(line) = self.model.apply(&record.event, self.start.elapsed()) {
            self.queue(&line);
        }
    }

    fn tick(&mut self) {
        self.flush();
        // Nothing flickers up for a run that is over at once.
        if !self.model.running.is_empty() || !self.rows.is_empty() {
            self.draw(self.start.elapsed());
        }
    }

    fn finish(&mut self) {
        for bar in self.rows.drain(..) {
            bar.finish_and_clear();
        }
        let cleared = self.bars.clear();
        drop(cleared);
        self.flush();
    }
}

fn row(r: &Running, now: Duration, unicode: bool) -> String {
    let took = size::duration(now.saturating_sub(r.started));
    let name = pad(&r.name, NAME_COLUMNS);
    if r.fetch {
        let mark = if unicode { "↓" } else { "<-" };
        let percent = r
            .done
            .saturating_mul(100)
            .checked_div(r.total)
            .map_or(String::new(), |p| format!("{p}%"));
        return format!(
            " {mark} {name}  fetch {percent:>4}  {}/{}",
            size::bytes(r.done),
            if r.total == 0 {
                "?".to_owned()
            } else {
                size::bytes(r.total)
            }
        );
    }
    const FRAMES: [&str; 10] = ["⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"];
    let frame = usize::try_from(now.as_millis() / 100 % 10).unwrap_or(0);
    let mark = if unicode { FRAMES[frame] } else { "*" };
    let expected = r.expected_ms.map_or("?".to_owned(), |ms| {
        format!("~{}", size::duration(Duration::from_millis(ms)))
    });
    let phase = if r.phase.is_empty() {
        "build"
    } else {
        &r.phase
    };
    let percent = r
        .done
        .saturating_mul(100)
        .checked_div(r.total)
        .map_or(String::new(), |p| format!(" {p}%"));
    format!(
        " {mark} {name}  {phase}{percent}  {took} / {expected}  {}",
        printable(&r.line)
    )
}

/// Rows and columns of the terminal behind standard error.
fn window() -> (u16, u16) {
    rustix::termios::tcgetwinsize(std::io::stderr())
        .map_or((24, 80), |w| (w.ws_row.max(1), w.ws_col.max(1)))
}

/// `text` in exactly `columns` columns, cut in the middle when it is longer.
fn pad(text: &str, columns: usize) -> String {
    let width = text.width();
    if width <= columns {
        return format!("{text}{}", " ".repeat(columns - width));
    }
    let head = cut(text, columns / 2);
    let mut tail = String::new();
    let mut used = head.width() + 2;
    for c in text.chars().rev() {
        let w = c.width().unwrap_or(0);
        if used + w > columns {
            break;
        }
        used += w;
        tail.insert(0, c);
    }
    let out = format!("{head}..{tail}");
    let missing = columns.saturating_sub(out.width());
    format!("{out}{}", " ".repeat(missing))
}

/// The start of `text` that fits into `columns` columns.
fn cut(text: &str, columns: usize) -> String {
    let mut used = 0;
    text.chars()
        .take_while(|c| {
            used += c.width().unwrap_or(0);
            used <= columns
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::ProgressMode;
    use crate::render::terminal::Terminal;

    #[test]
    fn a_line_that_scrolls_away_says_the_cause() {
        let mut tty = Tty::new(Options {
            terminal: Terminal {
                color: false,
                unicode: true,
                progress: ProgressMode::Tty,
                github: false,
            },
            style: diagnostic::Style {
                color: false,
                show_trace: false,
            },
            logs: false,
        });
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
        let words: Vec<&str> = tty.pending.split_whitespace().collect();
        let expected = ["✓", "glibc-2.39", "built", "2m", "41s", "source", "changed"];
        assert_eq!(words, expected);
        assert!(
            tty.pending.ends_with("2m 41s    source changed\n"),
            "{}",
            tty.pending
        );
    }

    #[test]
    fn long_names_are_cut_in_the_middle() {
        assert_eq!(pad("abc", 5), "abc  ");
        assert_eq!(pad("abcdefghijkl", 8), "abcd..kl");
        assert_eq!(pad("日本語日本語日本語", 10).width(), 10);
    }

    #[test]
    fn wide_characters_count_twice() {
        assert_eq!(cut("日本語", 5), "日本");
    }
}
