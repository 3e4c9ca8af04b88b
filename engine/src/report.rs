//! What a running build says: its log, its phases, its progress.

mod flush;

use std::collections::VecDeque;
use std::io::Write;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use sos_formats::store_path::StorePath;
use sos_store::{LogWriter, Store};

use crate::builder::Pool;
use crate::cancel::Cancel;
use crate::event::{Event, EventSink, Text};

pub(crate) use flush::Flusher;

/// Lines of a failed build that are shown.
pub const TAIL_LINES: usize = 25;

/// Bytes after which a line without an end is shown as one; the log keeps it whole.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Takes what a build says, from any thread.
#[derive(Clone)]
pub struct Reporter {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    drv_path: StorePath,
    drv: Text,
    name: Text,
    pool: Pool,
    events: EventSink,
    cancel: Cancel,
    log: Mutex<Log>,
    last_progress: AtomicU64,
    /// There is no log, neither a new one nor an old one to replace.
    silent: bool,
}

#[derive(Default)]
struct Log {
    // Made with the first byte: most trivial builds say nothing.
    writer: Option<LogWriter>,
    lost: Option<String>,
    partial: Vec<u8>,
    excerpt: Excerpt,
    bytes: u64,
}

/// What is shown of a log when the build fails.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Excerpt {
    /// The last lines, at most [`TAIL_LINES`].
    pub tail: VecDeque<String>,
    /// The first line with `error:`, if it is above the tail.
    pub first_error: Option<String>,
    /// Lines in all.
    pub lines: u64,
    /// The last phase that the build named.
    pub phase: Option<String>,
    pub(crate) first_error_at: u64,
}

impl Excerpt {
    fn push(&mut self, line: &str) {
        self.lines += 1;
        if self.first_error_at == 0 && line.to_ascii_lowercase().contains("error:") {
            self.first_error_at = self.lines;
            self.first_error = Some(line.to_owned());
        }
        if self.tail.len() == TAIL_LINES {
            self.tail.pop_front();
        }
        self.tail.push_back(line.to_owned());
    }

    fn finished(&self) -> Self {
        let mut shown = self.clone();
        let above = shown.lines - shown.tail.len() as u64;
        if shown.first_error_at > above {
            shown.first_error = None;
        }
        shown
    }
}

impl Reporter {
    pub(crate) fn new(
        store: Store,
        drv_path: StorePath,
        drv: Text,
        name: Text,
        pool: Pool,
        events: EventSink,
        cancel: Cancel,
    ) -> Self {
        Self::with(store, drv_path, drv, name, pool, events, cancel, false)
    }

    /// Makes one for what is planned and not built: it touches no log.
    pub(crate) fn silent(store: Store, drv_path: StorePath, name: Text) -> Self {
        let (events, cancel) = (EventSink::null(), Cancel::new());
        let drv = name.clone();
        Self::with(
            store,
            drv_path,
            drv,
            name,
            Pool::Build,
            events,
            cancel,
            true,
        )
    }

    #[allow(
        clippy::too_many_arguments,
        reason = "the parts of one value, named by its two makers"
    )]
    fn with(
        store: Store,
        drv_path: StorePath,
        drv: Text,
        name: Text,
        pool: Pool,
        events: EventSink,
        cancel: Cancel,
        silent: bool,
    ) -> Self {
        Self {
            inner: Arc::new(Inner {
                store,
                drv_path,
                drv,
                name,
                pool,
                events,
                cancel,
                log: Mutex::new(Log::default()),
                last_progress: AtomicU64::new(u64::MAX),
                silent,
            }),
        }
    }

    /// Writes a line to the log.
    pub fn log(&self, line: &str) {
        let mut bytes = line.as_bytes().to_vec();
        bytes.push(b'\n');
        self.write(&bytes);
    }

    /// Tells how far the build is; `total` is 0 when unknown.
    pub fn progress(&self, done: u64, total: u64) {
        // A thousand steps are as much as any display can use.
        let step = done
            .saturating_mul(1000)
            .checked_div(total)
            .unwrap_or(done >> 16);
        if self.inner.last_progress.swap(step, Ordering::Relaxed) == step {
            return;
        }
        let (drv, name) = (self.inner.drv.clone(), self.inner.name.clone());
        self.inner.events.emit(match self.inner.pool {
            Pool::Build => Event::BuildProgress {
                drv,
                name,
                done,
                total,
            },
            Pool::Io => Event::FetchProgress {
                drv,
                name,
                done,
                total,
            },
        });
    }

    /// Tells whether the build shall stop.
    #[must_use]
    pub fn cancelled(&self) -> bool {
        self.inner.cancel.is_cancelled()
    }

    /// Returns the request to stop that this build obeys.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.inner.cancel
    }

    /// Takes raw output of the build, in any pieces.
    pub fn write(&self, bytes: &[u8]) {
        let mut log = self.lock();
        log.bytes += bytes.len() as u64;
        self.keep(&mut log, bytes);
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|b| *b == b'\n') {
            let mut line = mem::take(&mut log.partial);
            line.extend_from_slice(&rest[..at]);
            rest = &rest[at + 1..];
            self.line(&mut log, &line);
        }
        log.partial.extend_from_slice(rest);
        if log.partial.len() > LINE_BYTES_MAX {
            let line = mem::take(&mut log.partial);
            self.line(&mut log, &line);
        }
    }

    /// Ends the log and returns what to show of it. A log that could not be kept is told in the excerpt.
    pub(crate) fn finish(&self) -> Excerpt {
        let mut log = self.lock();
        if !log.partial.is_empty() {
            let line = mem::take(&mut log.partial);
            self.line(&mut log, &line);
        }
        // A build that says nothing must not seem to have said what an earlier one did.
        if log.bytes == 0 && self.inner.store.log_path(&self.inner.drv_path).exists() {
            self.keep(&mut log, b"");
        }
        if let Some(writer) = log.writer.take()
            && let Err(e) = writer.finish()
        {
            log.lost.get_or_insert_with(|| e.to_string());
        }
        let mut excerpt = log.excerpt.finished();
        if let Some(lost) = &log.lost {
            excerpt
                .tail
                .push_back(format!("(sos could not keep the whole log: {lost})"));
        }
        excerpt
    }

    /// Lets others read what was written so far.
    fn flush(&self) {
        let mut log = self.lock();
        if let Some(writer) = &mut log.writer
            && let Err(e) = writer.flush_pending()
        {
            log.lost = Some(e.to_string());
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.inner
            .log
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, log: &mut Log, bytes: &[u8]) {
        if log.lost.is_some() || self.inner.silent {
            return;
        }
        if log.writer.is_none() {
            match self.inner.store.log_writer(&self.inner.drv_path) {
                Ok(writer) => log.writer = Some(writer),
                Err(e) => log.lost = Some(e.to_string()),
            }
        }
        if let Some(writer) = &mut log.writer
            && let Err(e) = writer.write_all(bytes)
        {
            log.lost = Some(e.to_string());
        }
    }

    fn line(&self, log: &mut Log, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        // A line that was drawn over itself shows its last state.
        let text = text.rsplit('\r').next().unwrap_or(text);
        if let Some(phase) = phase_of(text) {
            log.excerpt.phase = Some(phase.clone());
            self.inner.events.emit(Event::BuildPhase {
                drv: self.inner.drv.clone(),
                name: self.inner.name.clone(),
                phase,
            });
            return;
        }
        log.excerpt.push(text);
        self.inner.events.emit(Event::BuildLog {
            drv: self.inner.drv.clone(),
            name: self.inner.name.clone(),
            line: text.to_owned(),
        });
    }
}

/// Reads the line by which builders announce a phase: `@nix { "action": "setPhase", "phase": "..." }`.
fn phase_of(line: &str) -> Option<String> {
    let json: Value = serde_json::from_str(line.strip_prefix("@nix ")?).ok()?;
    if json.get("action")?.as_str()? != "setPhase" {
        return None;
    }
    Some(json.get("phase")?.as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phases() {
        let line = r#"@nix { "action": "setPhase", "phase": "buildPhase" }"#;
        assert_eq!(phase_of(line).as_deref(), Some("buildPhase"));
        assert_eq!(phase_of("@nix { broken"), None);
        assert_eq!(phase_of("make: setPhase"), None);
    }

    #[test]
    fn excerpt_keeps_the_first_error_above_the_tail() {
        let mut excerpt = Excerpt::default();
        excerpt.push("a.c:1: error: early");
        for i in 0..30 {
            excerpt.push(&format!("line {i}"));
        }
        let shown = excerpt.finished();
        assert_eq!(shown.lines, 31);
        assert_eq!(shown.tail.len(), TAIL_LINES);
        assert_eq!(shown.first_error.as_deref(), Some("a.c:1: error: early"));
        let mut near = Excerpt::default();
        near.push("Error: late");
        assert_eq!(near.finished().first_error, None);
    }
}
