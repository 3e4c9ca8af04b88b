//! The rows at the foot of the terminal that are drawn again and again, and everything else that goes to standard error.
//!
//! The cursor waits at the start of the first of these rows. Whatever else is written erases from there to the end of the screen: a
//! window that changes its size, and with it how many rows a row takes, takes the cursor with it. It is never hidden, so that there
//! is nothing to restore after a program that was killed.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::text::{colored, printable};

static LIVE: Mutex<Live> = Mutex::new(Live {
    rows: 0,
    ascii: false,
    color: false,
    taskbar: false,
});

/// From the cursor to the end of the screen.
const ERASE: &str = "\r\u{1b}[J";
/// The bar of the taskbar is taken away.
const TASKBAR_OFF: &str = "\u{1b}]9;4;0;0\u{1b}\\";

struct Live {
    /// Rows that stand there now.
    rows: usize,
    /// The terminal shows bytes beyond ASCII as who knows what, and obeys some of them.
    ascii: bool,
    /// Colours may be written.
    color: bool,
    /// The taskbar shows a bar.
    taskbar: bool,
}

fn live() -> MutexGuard<'static, Live> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Says what the terminal can show: colours, and characters beyond ASCII.
pub(crate) fn can_show(color: bool, unicode: bool) {
    let mut live = live();
    (live.color, live.ascii) = (color, !unicode);
}

/// Text that others wrote, for [`message`]: its lines without anything that drives the terminal, with their colours where there are any.
pub(crate) fn foreign(text: &str) -> String {
    let color = live().color;
    let lines: Vec<String> = text
        .split('\n')
        .map(|line| {
            if color {
                colored(line)
            } else {
                printable(line)
            }
        })
        .collect();
    lines.join("\n")
}

/// Writes a line for the person to standard error, above what is drawn there.
pub(crate) fn message(text: &str) {
    let mut live = live();
    let mut out = live.erased();
    out.reserve(text.len() + 1);
    out.push_str(text);
    out.push('\n');
    live.write(&out);
}

/// What one frame shows.
#[derive(Debug, Default)]
pub(crate) struct Frame<'a> {
    /// Whole lines that scroll away above; empty or ended by a line feed.
    pub(crate) above: &'a str,
    /// The rows that stay, none wider than the window.
    pub(crate) rows: &'a [String],
    /// What the taskbar shows from now on, if that changes: percent, and whether something failed.
    pub(crate) taskbar: Option<(u64, bool)>,
}

/// Draws a frame in one write.
pub(crate) fn draw(frame: &Frame<'_>) {
    let mut live = live();
    let mut out = String::with_capacity(frame.above.len() + 1024);
    // Terminals that know this show the frame when it is whole.
    out.push_str("\u{1b}[?2026h");
    if !frame.above.is_empty() {
        out.push_str(&live.erased());
        out.push_str(frame.above);
    }
    if let Some((percent, failed)) = frame.taskbar {
        live.taskbar = true;
        let _infallible = write!(
            out,
            "\u{1b}]9;4;{};{percent}\u{1b}\\",
            if failed { 2 } else { 1 }
        );
    }
    if frame.rows.is_empty() {
        out.push_str(&live.erased());
    } else {
        // Should the terminal find a row wider than we do, it is cut and not wrapped.
        out.push_str("\u{1b}[?7l");
        for (at, row) in frame.rows.iter().enumerate() {
            out.push_str(if at == 0 { "\r" } else { "\r\n" });
            out.push_str(row);
            // What was there is written over, not erased before: that would flicker.
            out.push_str("\u{1b}[K");
        }
        out.push_str("\u{1b}[J\u{1b}[?7h\r");
        if frame.rows.len() > 1 {
            let _infallible = write!(out, "\u{1b}[{}A", frame.rows.len() - 1);
        }
        live.rows = frame.rows.len();
    }
    out.push_str("\u{1b}[?2026l");
    live.write(&out);
}

/// Takes away what is drawn.
pub(crate) fn clear() {
    let mut live = live();
    live.clear();
}

/// Takes away what is drawn, and keeps everybody from drawing while `f` runs.
pub(crate) fn without<T>(f: impl FnOnce() -> T) -> T {
    let mut live = live();
    live.clear();
    f()
}

/// Takes away what is drawn, unless somebody is writing: for the last moment of a program, which must not wait for a terminal that is
/// held.
pub(crate) fn clear_at_once() {
    if let Ok(mut live) = LIVE.try_lock() {
        live.clear();
    }
}

impl Live {
    /// What makes room for other lines.
    fn erased(&mut self) -> String {
        if std::mem::take(&mut self.rows) > 0 {
            return ERASE.to_owned();
        }
        String::new()
    }

    fn clear(&mut self) {
        let mut out = self.erased();
        if std::mem::take(&mut self.taskbar) {
            out.push_str(TASKBAR_OFF);
        }
        if !out.is_empty() {
            self.write(&out);
        }
    }

    fn write(&self, text: &str) {
        let mut error = std::io::stderr().lock();
        // Nothing can be said when standard error is closed.
        let _ignored = if self.ascii && !text.is_ascii() {
            let text: String = text
                .chars()
                .map(|c| if c.is_ascii() { c } else { '?' })
                .collect();
            error.write_all(text.as_bytes())
        } else {
            error.write_all(text.as_bytes())
        };
    }
}

/// Standard error for those who write to it by themselves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lines;

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let mut live = live();
        let erased = live.erased();
        live.write(&erased);
        std::io::stderr().lock().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}
