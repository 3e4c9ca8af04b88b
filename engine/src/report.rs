//! What a running build says: its log, its phases, its progress.

mod flush;

use std::borrow::Cow;
use std::collections::VecDeque;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use sos_formats::diagnostic::{Class, Diagnostic, Label};
use sos_formats::store_path::StorePath;
use sos_store::{LogWriter, Store};

use crate::builder::Pool;
use crate::cancel::Cancel;
use crate::clock::Clock;
use crate::event::{Event, EventSink, Text};

pub(crate) use flush::Flusher;

/// Lines of a failed build that are shown.
pub const TAIL_LINES: usize = 25;

/// Bytes after which a line without an end is shown as one; the log keeps it whole.
const LINE_BYTES_MAX: usize = 64 * 1024;

/// Columns of a line that are quoted when the build fails.
const QUOTED_COLUMNS_MAX: usize = 500;
/// Columns that a control character takes at most where it is shown by its number.
const ESCAPED_COLUMNS: usize = 8;

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
    /// Where a person wrote what is built: warnings are shown there.
    place: OnceLock<Label>,
    /// When a builder of this process has had all of its time, by this clock.
    deadline: OnceLock<(Arc<dyn Clock>, Duration)>,
}

#[derive(Default)]
struct Log {
    // Made with the first byte: most trivial builds say nothing.
    writer: Option<LogWriter>,
    lost: Option<String>,
    partial: Vec<u8>,
    excerpt: Excerpt,
    bytes: u64,
    unkept: bool,
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
    /// Why the log is not kept whole.
    pub(crate) lost: Option<String>,
}

impl Excerpt {
    fn push(&mut self, line: &str) {
        self.lines += 1;
        if self.first_error_at == 0 && says_error(line) {
            self.first_error_at = self.lines;
            self.first_error = Some(quoted(line, String::new()));
        }
        // The place of the line that goes is that of the one that comes: nothing is allocated for most lines.
        let room = if self.tail.len() == TAIL_LINES {
            self.tail.pop_front()
        } else {
            None
        };
        self.tail.push_back(quoted(line, room.unwrap_or_default()));
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

/// Tells whether a line has `error:` in it, however it is written.
fn says_error(line: &str) -> bool {
    let mut words = line.as_bytes().windows(b"error:".len());
    words.any(|word| word.eq_ignore_ascii_case(b"error:"))
}

/// What is quoted of a line, written into `room`.
fn quoted(line: &str, mut room: String) -> String {
    room.clear();
    let mut left = QUOTED_COLUMNS_MAX;
    let end = line.char_indices().find(|(_, c)| {
        let columns = if c.is_control() { ESCAPED_COLUMNS } else { 1 };
        let fits = left >= columns;
        left = left.saturating_sub(columns);
        !fits
    });
    match end {
        None => room.push_str(line),
        Some((end, _)) => {
            room.push_str(&line[..end]);
            room.push_str("...");
        }
    }
    room
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
                place: OnceLock::new(),
                deadline: OnceLock::new(),
            }),
        }
    }

    /// Tells where a person wrote what is built.
    pub(crate) fn placed(self, place: Option<Label>) -> Self {
        if let Some(place) = place {
            self.inner.place.get_or_init(|| place);
        }
        self
    }

    /// Writes a line to the log.
    pub fn log(&self, line: &str) {
        let mut bytes = line.as_bytes().to_vec();
        bytes.push(b'\n');
        self.write(&bytes);
    }

    /// Tells of something that does not stop the build, with a line in its log.
    pub fn warn(&self, warning: Diagnostic) {
        let fixes: String = warning.helps.iter().map(|fix| format!("; {fix}")).collect();
        self.log(&format!(
            "warning[{}]: {}{fixes}",
            warning.code, warning.message
        ));
        let warning = match self.inner.place.get() {
            Some(place) if warning.labels.is_empty() && warning.class != Class::Machine => {
                warning.with_labels(Some(place.clone()))
            }
            _ => warning,
        };
        self.inner.events.emit(Event::Diagnostic {
            diagnostic: Box::new(warning.note(format!("while building `{}`", self.inner.name))),
        });
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
        self.inner.cancel.is_cancelled() || self.is_over_time()
    }

    /// Lets it be stopped at this time of the clock; for builders of this process, which ask. The first time counts.
    pub(crate) fn ends_at(&self, clock: Arc<dyn Clock>, moment: Duration) {
        let _set_before = self.inner.deadline.set((clock, moment));
    }

    /// Whether all of its time has passed.
    pub(crate) fn is_over_time(&self) -> bool {
        let deadline = self.inner.deadline.get();
        deadline.is_some_and(|(clock, moment)| clock.monotonic() >= *moment)
    }

    /// Returns the request to stop that this build obeys.
    #[must_use]
    pub fn cancel(&self) -> &Cancel {
        &self.inner.cancel
    }

    /// Leaves the log in the store as it is: what is said from now on is only shown.
    pub(crate) fn keep_nothing(&self) {
        self.lock().unkept = true;
    }

    /// Takes raw output of the build, in any pieces.
    pub fn write(&self, bytes: &[u8]) {
        let mut log = self.lock();
        log.bytes += bytes.len() as u64;
        self.keep(&mut log, bytes);
        let mut rest = bytes;
        while let Some(at) = rest.iter().position(|b| *b == b'\n') {
            let line = &rest[..at];
            rest = &rest[at + 1..];
            if log.partial.is_empty() {
                self.line(&mut log, line);
                continue;
            }
            let mut whole = mem::take(&mut log.partial);
            whole.extend_from_slice(line);
            self.line(&mut log, &whole);
            whole.clear();
            log.partial = whole;
        }
        log.partial.extend_from_slice(rest);
        if log.partial.len() > LINE_BYTES_MAX {
            let mut line = mem::take(&mut log.partial);
            // A character is not torn.
            let next = line.split_off(whole_characters(&line));
            self.line(&mut log, &line);
            log.partial = next;
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
        excerpt.lost.clone_from(&log.lost);
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
        if log.unkept || log.lost.is_some() {
            return;
        }
        if log.writer.is_none() {
            match self.inner.store.log_writer(&self.inner.drv_path) {
                Ok(writer) => log.writer = Some(writer),
                Err(e) => log.lost = Some(e.to_string()),
            }
        }
        if let Some(writer) = &mut log.writer
            && let Err(e) = writer.add(bytes)
        {
            log.lost = Some(e.to_string());
        }
    }

    fn line(&self, log: &mut Log, line: &[u8]) {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_end_matches('\r');
        let shown = match message_of(text) {
            Message::Phase(phase) => {
                log.excerpt.phase = Some(phase.clone());
                self.inner.events.emit(Event::BuildPhase {
                    drv: self.inner.drv.clone(),
                    name: self.inner.name.clone(),
                    phase,
                });
                return;
            }
            Message::Silent => return,
            Message::Text(text) => text,
        };
        // A line that was drawn over itself shows its last state.
        log.excerpt
            .push(shown.rsplit('\r').next().unwrap_or(&shown));
        self.inner.events.emit(Event::BuildLog {
            drv: self.inner.drv.clone(),
            name: self.inner.name.clone(),
            line: shown.into_owned(),
        });
    }
}

/// The bytes of `line` that end with a whole character, if it is text that was cut anywhere.
fn whole_characters(line: &[u8]) -> usize {
    let tail = line.len().saturating_sub(3);
    let starts = |at: &usize| line[*at] >= 0xc0;
    let Some(last) = (tail..line.len()).rev().find(starts) else {
        return line.len();
    };
    let length = match line[last] {
        0xc0..=0xdf => 2,
        0xe0..=0xef => 3,
        _ => 4,
    };
    if last + length > line.len() {
        last
    } else {
        line.len()
    }
}

/// What a line of a build is.
#[derive(PartialEq, Eq, Debug)]
enum Message<'a> {
    /// Text for people.
    Text(Cow<'a, str>),
    /// The name of a phase that begins.
    Phase(String),
    /// For other programs, as the beginning of an activity.
    Silent,
}

/// Reads a line. Builders tell Nix more than text by lines like `@nix { "action": "setPhase", "phase": "buildPhase" }`.
fn message_of(line: &str) -> Message<'_> {
    let Some(json) = line.strip_prefix("@nix ") else {
        return Message::Text(line.into());
    };
    let Ok(json) = serde_json::from_str::<Value>(json) else {
        return Message::Text(line.into());
    };
    let text = |key: &str| json.get(key).and_then(Value::as_str);
    match (text("action"), text("phase"), text("msg")) {
        (Some("setPhase"), Some(phase), _) => Message::Phase(phase.to_owned()),
        (Some("msg"), _, Some(text)) => Message::Text(text.to_owned().into()),
        (Some("start" | "stop" | "result"), ..) => Message::Silent,
        _ => Message::Text(line.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_for_nix_are_understood() {
        let phase = r#"@nix { "action": "setPhase", "phase": "buildPhase" }"#;
        assert_eq!(message_of(phase), Message::Phase("buildPhase".to_owned()));
        let text = r#"@nix {"action":"msg","level":0,"msg":"hello"}"#;
        assert_eq!(message_of(text), Message::Text("hello".into()));
        let other = r#"@nix {"action":"start","id":1,"level":3,"type":105,"text":""}"#;
        assert_eq!(message_of(other), Message::Silent);
        for line in [
            "@nix { broken",
            "make: setPhase",
            "@nix 5",
            r#"@nix {"action":"setPhase"}"#,
        ] {
            assert_eq!(message_of(line), Message::Text(line.into()));
        }
    }

    #[test]
    fn no_character_is_torn() {
        for (text, whole) in [("abc", 3), ("aé", 3), ("日本", 6), ("🦀", 4)] {
            assert_eq!(whole_characters(text.as_bytes()), whole);
        }
        for cut in ["a\u{e9}", "a日", "a🦀"] {
            for end in 2..cut.len() {
                assert_eq!(whole_characters(&cut.as_bytes()[..end]), 1, "{cut} {end}");
            }
        }
        assert_eq!(whole_characters(b"a\x80\x80\x80\x80"), 5, "no text at all");
    }

    #[test]
    fn long_lines_are_quoted_in_part() {
        let mut excerpt = Excerpt::default();
        excerpt.push(&"é".repeat(2000));
        assert_eq!(excerpt.tail[0], format!("{}...", "é".repeat(500)));
        // What is shown by its number takes more room.
        excerpt.push(&"\u{1}".repeat(2000));
        assert_eq!(excerpt.tail[1], format!("{}...", "\u{1}".repeat(62)));
        excerpt.push(&"x".repeat(500));
        assert_eq!(excerpt.tail[2], "x".repeat(500));
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
