//! Draws the event stream. One thread owns the terminal; nothing else writes while it runs.

mod json;
mod model;
mod plain;
mod rows;
mod tty;
mod work;

use std::iter;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use sos_engine::{Event, EventRecord, Status};
use sos_formats::diagnostic::Diagnostic;

use crate::args::ProgressMode;
use crate::render::again;
use crate::render::diagnostic::{self, Style};
use crate::render::terminal::Terminal;

/// Between two frames of the live region.
const FRAME: Duration = Duration::from_millis(100);
/// After what comes in numbers a display waits a moment, so that it takes the next ones together and not each for itself: waking it
/// costs who sends more than an event does.
const MOMENT: Duration = Duration::from_millis(5);
/// The shortest moment: lines that come faster than any display can show must not wait for one.
const SHORT_MOMENT: Duration = Duration::from_micros(100);
/// Events that a moment shall bring; the stream holds several times as many, so that who writes does not wait.
const PER_MOMENT: u32 = 256;
/// Events that are taken at once.
const TAKEN_MAX: usize = 8192;

/// A way to show events.
trait Sink: Send {
    /// Takes one event that came `now`, as time since the run began.
    fn event(&mut self, record: EventRecord, now: Duration);
    /// Called when everything that there was has been taken.
    fn flush(&mut self) {}
    /// Called about ten times a second.
    fn frame(&mut self, _now: Duration) {}
    /// Called when the stream has ended.
    fn finish(&mut self, now: Duration);
}

/// What the displays are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options {
    /// How the terminal is.
    pub(crate) terminal: Terminal,
    /// How diagnostics look.
    pub(crate) style: Style,
    /// Show the lines that builds write.
    pub(crate) logs: bool,
    /// Problems are told as JSON.
    pub(crate) json: bool,
}

impl Options {
    /// The text of a problem; one line of JSON for those who read nothing else.
    fn problem(&self, diagnostic: &Diagnostic) -> String {
        if self.json {
            return again::json(diagnostic).to_string();
        }
        diagnostic::shown(diagnostic, self.style, self.terminal.github)
    }
}

/// A running display.
pub(crate) struct Display {
    thread: Option<JoinHandle<()>>,
}

/// Starts the display that `options` asks for; it runs until every sender of the stream is gone.
pub(crate) fn spawn(receiver: Receiver<EventRecord>, options: Options) -> Display {
    let mut sink: Box<dyn Sink> = match options.terminal.progress {
        ProgressMode::Tty => Box::new(tty::Tty::new(options)),
        ProgressMode::Json => Box::new(json::Json::default()),
        ProgressMode::None => Box::new(Quiet(options)),
        ProgressMode::Plain | ProgressMode::Auto => Box::new(plain::Plain::new(options)),
    };
    let run = move || show(&receiver, sink.as_mut());
    Display {
        thread: std::thread::Builder::new()
            .name("display".into())
            .spawn(run)
            .ok(),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "elapsed time is shown to a person"
)]
fn show(receiver: &Receiver<EventRecord>, sink: &mut dyn Sink) {
    let start = Instant::now();
    let mut next = FRAME;
    let mut moment = MOMENT;
    loop {
        let wait = next.saturating_sub(start.elapsed());
        let (mut many, mut taken) = (false, 0);
        match receiver.recv_timeout(wait) {
            Ok(record) => {
                let now = start.elapsed();
                for record in iter::once(record).chain(receiver.try_iter().take(TAKEN_MAX)) {
                    many |= comes_in_numbers(&record.event);
                    taken += 1;
                    sink.event(record, now);
                }
                sink.flush();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => break,
        }
        let now = start.elapsed();
        if now >= next {
            sink.frame(now);
            sink.flush();
            next = start.elapsed() + FRAME;
        }
        if many {
            moment = (moment * PER_MOMENT / taken.max(1)).clamp(SHORT_MOMENT, MOMENT);
            std::thread::sleep(moment);
        }
    }
    sink.finish(start.elapsed());
}

/// Whether others like it follow at once: lines of builds, what waits, and what turns out to be there.
fn comes_in_numbers(event: &Event) -> bool {
    matches!(
        event,
        Event::BuildLog { .. }
            | Event::BuildQueued { .. }
            | Event::BuildFinished {
                status: Status::Cached,
                ..
            }
    )
}

impl Display {
    /// Waits until everything is drawn. Every sender must be gone, or this waits for ever.
    pub(crate) fn finish(mut self) {
        if let Some(thread) = self.thread.take() {
            // A display that panicked has nothing more to say; the run itself goes on.
            let _ignored = thread.join().is_err();
        }
    }
}

/// Shows problems only.
struct Quiet(Options);

impl Sink for Quiet {
    fn event(&mut self, record: EventRecord, _now: Duration) {
        if let Event::Diagnostic { diagnostic } = &record.event {
            crate::render::output::message(self.0.problem(diagnostic).trim_end());
        }
    }

    fn finish(&mut self, _now: Duration) {}
}
