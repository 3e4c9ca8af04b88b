//! What happens during a run, as one stream of plain data for every display and for the journal.

mod schema;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sos_formats::diagnostic::Diagnostic;

use crate::cause::Causes;
use crate::clock::{Clock, SystemClock, rfc3339};
use crate::journal::Journal;
use crate::resolve::{OutputPaths, Resolved};

pub use schema::event_schema;

/// Version of the event objects; fields are only ever added within one version.
pub const EVENT_VERSION: u32 = 1;

/// Events that wait for a slow display before the builds wait too.
const CHANNEL_EVENTS: usize = 1024;

/// Text that many events share.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, JsonSchema)]
#[schemars(inline, with = "String")]
pub struct Text(Arc<str>);

impl Text {
    /// Returns the text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Text {
    fn from(s: &str) -> Self {
        Self(s.into())
    }
}

impl From<String> for Text {
    fn from(s: String) -> Self {
        Self(s.into())
    }
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for Text {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d).map(Self::from)
    }
}

/// Milliseconds since 1970. Most events are never written, and their times need no text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, JsonSchema)]
#[schemars(inline, with = "String")]
pub struct Time(u64);

impl From<u64> for Time {
    fn from(unix_ms: u64) -> Self {
        Self(unix_ms)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&rfc3339(self.0))
    }
}

/// How a derivation ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Status {
    /// A builder ran.
    Built,
    /// A fetching builder ran.
    Fetched,
    /// A result that was there is used: the same inputs were built before.
    Cached,
    /// The builder failed, or its result was refused.
    Failed,
    /// It was stopped on request.
    Cancelled,
    /// Something that it needs failed.
    Skipped,
}

/// One thing that happened.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(tag = "type")]
pub enum Event {
    /// Evaluation of the targets began; it resolves what the lock does not pin.
    #[serde(rename = "eval.started")]
    EvalStarted {
        /// The targets as the user wrote them.
        targets: Vec<String>,
    },
    /// Evaluation of the targets ended well.
    #[serde(rename = "eval.finished")]
    EvalFinished {
        /// The targets as the user wrote them.
        targets: Vec<String>,
        /// Derivations in their graph.
        drvs: usize,
        /// Milliseconds it took.
        duration_ms: u64,
    },
    /// What will be done.
    #[serde(rename = "plan")]
    Plan {
        /// Derivations to build, at most.
        build: usize,
        /// Derivations to fetch, at most.
        fetch: usize,
        /// Wanted or needed derivations that are present.
        cached: usize,
        /// Milliseconds expected, if the past tells.
        eta_ms: Option<u64>,
        /// Builds that run at once.
        jobs: usize,
    },
    /// A derivation waits for its inputs or for a slot.
    #[serde(rename = "build.queued")]
    BuildQueued {
        /// Path of the derivation.
        drv: Text,
        /// Its name.
        name: Text,
        /// Paths of the derivations that it waits for.
        needs: Vec<Text>,
        /// Milliseconds expected, if the past tells.
        expected_ms: Option<u64>,
    },
    /// Another process builds this derivation.
    #[serde(rename = "build.waiting")]
    BuildWaiting {
        /// Path of the derivation.
        drv: Text,
        /// Its name.
        name: Text,
        /// The process that holds the lock, if it can be told.
        pid: Option<u32>,
        /// The command of that process.
        command: Option<Text>,
    },
    /// A builder was started.
    #[serde(rename = "build.started")]
    BuildStarted {
        /// Path of the derivation.
        drv: Text,
        /// Its name.
        name: Text,
        /// The builder.
        builder: Text,
        /// Why it is built.
        cause: Causes,
        /// Milliseconds expected, if the past tells.
        expected_ms: Option<u64>,
    },
    /// A build entered a phase that it named.
    #[serde(rename = "build.phase")]
    BuildPhase {
        /// Path of the derivation.
        drv: Text,
        /// Its name.
        name: Text,
        /// The phase.
        phase: String,
    },
    /// An in-process build came further.
    #[serde(rename = "build.progress")]
    BuildProgress {
        /// Path of the derivation.
        drv: Text,
        /// Its name.
        name: Text,
        /// Units done.
        done: u64,
        /// Units in all; 0 if unknown.
        total: u64,
    },
    /// A build wrote a line.
    #[serde(rename = "build.log")]
    BuildLog {
        /// Path of the derivation.
        drv: Text,
        /// Its name.
        name: Text,
        /// The line without its end.
        line: String,
    },
    /// A derivation ended.
    #[serde(rename = "build.finished")]
    BuildFinished {
        /// Path of the derivation.
        drv: Text,
        /// Its name.
        name: Text,
        /// How it ended.
        status: Status,
        /// Milliseconds it took.
        duration_ms: u64,
        /// Its outputs.
        outputs: BTreeMap<String, String>,
    },
    /// A fetch was started.
    #[serde(rename = "fetch.started")]
    FetchStarted {
        /// Path of the derivation.
        drv: Text,
        /// Its name.
        name: Text,
        /// Why it is fetched.
        cause: Causes,
    },
    /// A fetch came further.
    #[serde(rename = "fetch.progress")]
    FetchProgress {
        /// Path of the derivation.
        drv: Text,
        /// Its name.
        name: Text,
        /// Bytes done.
        done: u64,
        /// Bytes in all; 0 if unknown.
        total: u64,
    },
    /// A fetch ended.
    #[serde(rename = "fetch.finished")]
    FetchFinished {
        /// Path of the derivation.
        drv: Text,
        /// Its name.
        name: Text,
        /// How it ended.
        status: Status,
        /// Milliseconds it took.
        duration_ms: u64,
        /// Bytes of the outputs: of a file its own, of a directory those of its archive.
        bytes: u64,
        /// Its outputs.
        outputs: BTreeMap<String, String>,
    },
    /// A problem to show.
    #[serde(rename = "diagnostic")]
    Diagnostic {
        /// The problem.
        #[serde(serialize_with = "serialize_diagnostic")]
        #[schemars(schema_with = "schema::diagnostic")]
        diagnostic: Box<Diagnostic>,
    },
    /// The run ended.
    #[serde(rename = "summary")]
    Summary {
        /// Derivations built.
        built: usize,
        /// Derivations fetched.
        fetched: usize,
        /// Bytes fetched.
        fetched_bytes: u64,
        /// Derivations that were present.
        cached: usize,
        /// Derivations that failed.
        failed: usize,
        /// Derivations whose builder was running when the run was stopped.
        stopped: usize,
        /// Derivations not tried because of a failure or a stop.
        skipped: usize,
        /// Milliseconds it took.
        elapsed_ms: u64,
        /// The exit code that the run leads to.
        exit_code: i32,
        /// Results, in the order asked.
        outputs: Vec<String>,
    },
}

impl Event {
    /// Makes the summary of a run that ended before anything was built, for the last line of the stream.
    #[must_use]
    pub fn failed_before_building(exit_code: i32, elapsed_ms: u64) -> Self {
        Self::Summary {
            built: 0,
            fetched: 0,
            fetched_bytes: 0,
            cached: 0,
            failed: 0,
            stopped: 0,
            skipped: 0,
            elapsed_ms,
            exit_code,
            outputs: Vec::new(),
        }
    }

    /// Tells whether the journal keeps it: lines and percentages are not history.
    #[must_use]
    pub fn is_history(&self) -> bool {
        !matches!(
            self,
            Self::BuildLog { .. }
                | Self::BuildProgress { .. }
                | Self::FetchProgress { .. }
                | Self::BuildQueued { .. }
        )
    }
}

/// An event with its place in the stream.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(title = "event of a run", rename = "event")]
pub struct EventRecord {
    /// Always [`EVENT_VERSION`].
    pub v: u32,
    /// Counts from 1 without gaps.
    pub seq: u64,
    /// When; RFC 3339 in UTC when it is written.
    pub t: Time,
    /// What.
    #[serde(flatten)]
    pub event: Event,
}

impl EventRecord {
    /// Writes the JSON object on one line, without its end.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        // Every part of an event can be written as JSON, and memory is always there.
        let _infallible = serde_json::to_writer(out, self).is_err();
    }

    /// Returns the JSON object on one line.
    #[must_use]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

/// The end of the stream that engine and command line write to.
#[derive(Clone)]
pub struct EventSink {
    inner: Arc<SinkInner>,
    journal: Option<Arc<Journal>>,
}

/// Events before the journal of a build is begun that are kept for it.
const EARLY_EVENTS_MAX: usize = 64;

struct SinkInner {
    // An evaluation comes before the build whose history it is part of.
    early: Mutex<Vec<EventRecord>>,
    // The number and the send are one step, so that the stream is in the order of its numbers.
    sender: Option<Mutex<SyncSender<EventRecord>>>,
    seq: AtomicU64,
    clock: Box<dyn Clock>,
}

impl EventSink {
    /// Makes a bounded stream and the end to read it from.
    #[must_use]
    pub fn channel() -> (Self, Receiver<EventRecord>) {
        Self::channel_with_clock(Box::new(SystemClock::new()))
    }

    /// Makes a stream that takes its times from `clock`.
    #[must_use]
    pub fn channel_with_clock(clock: Box<dyn Clock>) -> (Self, Receiver<EventRecord>) {
        let (sender, receiver) = sync_channel(CHANNEL_EVENTS);
        (Self::over(Some(Mutex::new(sender)), clock), receiver)
    }

    /// Makes a sink that forgets everything.
    #[must_use]
    pub fn null() -> Self {
        Self::over(None, Box::new(SystemClock::new()))
    }

    fn over(sender: Option<Mutex<SyncSender<EventRecord>>>, clock: Box<dyn Clock>) -> Self {
        Self {
            inner: Arc::new(SinkInner {
                early: Mutex::default(),
                sender,
                seq: AtomicU64::new(0),
                clock,
            }),
            journal: None,
        }
    }

    /// Makes a handle of the same stream whose events are also kept in a journal.
    pub(crate) fn with_journal(&self, journal: Arc<Journal>) -> Self {
        let mut early = self
            .inner
            .early
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        for record in early.drain(..) {
            journal.add(record.to_json());
        }
        drop(early);
        Self {
            inner: self.inner.clone(),
            journal: Some(journal),
        }
    }

    /// Sends an event; waits while the reader is behind, and goes on when it is gone.
    pub fn emit(&self, event: Event) {
        if let Some(journal) = &self.journal {
            journal.note(&event, self.inner.clock.unix_ms());
        }
        let early = matches!(
            event,
            Event::EvalStarted { .. } | Event::EvalFinished { .. }
        );
        let keep = early || (self.journal.is_some() && event.is_history());
        let Some(record) = self.send(event, keep) else {
            return;
        };
        if let Some(journal) = &self.journal {
            journal.add(record.to_json());
            return;
        }
        let mut early = self
            .inner
            .early
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if early.len() < EARLY_EVENTS_MAX {
            early.push(record);
        }
    }

    /// Tells the journal what a derivation is built from, once that is known.
    pub(crate) fn note_inputs(&self, drv: &Text, resolved: &Resolved, inputs: &OutputPaths) {
        if let Some(journal) = &self.journal {
            journal.note_inputs(drv, resolved, inputs);
        }
    }

    fn send(&self, event: Event, keep: bool) -> Option<EventRecord> {
        let Some(sender) = &self.inner.sender else {
            return keep.then(|| self.record(event));
        };
        let sender = sender.lock().unwrap_or_else(PoisonError::into_inner);
        let record = self.record(event);
        let kept = keep.then(|| record.clone());
        // A reader that went away is no reason to stop building.
        let _gone = sender.send(record).is_err();
        kept
    }

    fn record(&self, event: Event) -> EventRecord {
        EventRecord {
            v: EVENT_VERSION,
            seq: self.inner.seq.fetch_add(1, Ordering::SeqCst) + 1,
            t: self.inner.clock.unix_ms().into(),
            event,
        }
    }
}

fn serialize_diagnostic<S: Serializer>(diagnostic: &Diagnostic, s: S) -> Result<S::Ok, S::Error> {
    diagnostic.to_json().serialize(s)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sos_formats::diagnostic::Class;

    use super::*;

    struct Fixed;

    impl Clock for Fixed {
        fn monotonic(&self) -> Duration {
            Duration::ZERO
        }

        fn unix_ms(&self) -> u64 {
            0
        }
    }

    #[test]
    fn records_are_flat_objects_in_order() {
        let (sink, events) = EventSink::channel_with_clock(Box::new(Fixed));
        sink.emit(Event::BuildPhase {
            drv: "/nix/store/x.drv".into(),
            name: "x".into(),
            phase: "check".to_owned(),
        });
        sink.emit(Event::Diagnostic {
            diagnostic: Box::new(Diagnostic::error("a-b", Class::Other, "no")),
        });
        drop(sink);
        let lines: Vec<String> = events.iter().map(|e| e.to_json()).collect();
        assert_eq!(
            lines[0],
            r#"{"v":1,"seq":1,"t":"1970-01-01T00:00:00.000Z","type":"build.phase","drv":"/nix/store/x.drv","name":"x","phase":"check"}"#
        );
        assert!(lines[1].contains(r#""seq":2"#) && lines[1].contains(r#""code":"a-b""#));
    }

    #[test]
    fn a_reader_that_left_stops_nobody() {
        let (sink, events) = EventSink::channel();
        drop(events);
        for _ in 0..2 * CHANNEL_EVENTS {
            sink.emit(Event::EvalStarted {
                targets: Vec::new(),
            });
        }
    }
}
