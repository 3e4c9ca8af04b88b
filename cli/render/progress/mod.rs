//! Draws the event stream. One thread owns the terminal; nothing else writes while it runs.

mod json;
mod model;
mod plain;
mod tty;

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use sos_engine::EventRecord;

use crate::args::ProgressMode;
use crate::render::diagnostic::Style;
use crate::render::terminal::Terminal;

/// Between two frames of the live region.
const FRAME: Duration = Duration::from_millis(100);

/// A way to show events.
trait Sink: Send {
    /// Takes one event.
    fn event(&mut self, record: &EventRecord);
    /// Called about ten times a second, and once more at the end.
    fn tick(&mut self);
    /// Called when the stream has ended.
    fn finish(&mut self);
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
}

/// A running display.
pub(crate) struct Display {
    thread: Option<JoinHandle<()>>,
}

/// Starts the display that `options` asks for; it runs until every sender of the stream is gone.
pub(crate) fn spawn(receiver: Receiver<EventRecord>, options: Options) -> Display {
    let mut sink: Box<dyn Sink> = match options.terminal.progress {
        ProgressMode::Tty => Box::new(tty::Tty::new(options)),
        ProgressMode::Json => Box::new(json::Json),
        ProgressMode::None => Box::new(Quiet(options)),
        ProgressMode::Plain | ProgressMode::Auto => Box::new(plain::Plain::new(options)),
    };
    let run = move || {
        loop {
            match receiver.recv_timeout(FRAME) {
                Ok(record) => {
                    sink.event(&record);
                    // A burst is taken whole before the next frame is drawn.
                    for record in receiver.try_iter() {
                        sink.event(&record);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            sink.tick();
        }
        sink.tick();
        sink.finish();
    };
    Display {
        thread: std::thread::Builder::new()
            .name("display".into())
            .spawn(run)
            .ok(),
    }
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
    fn event(&mut self, record: &EventRecord) {
        if let sos_engine::Event::Diagnostic { diagnostic } = &record.event {
            crate::render::output::message(
                crate::render::diagnostic::render(diagnostic, self.0.style).trim_end(),
            );
        }
    }
    fn tick(&mut self) {}
    fn finish(&mut self) {}
}
