//! One JSON object a line on standard output.

use std::time::Duration;

use sos_engine::{Event, EventRecord};

use super::Sink;
use crate::render::{again, output};

/// Passes the stream on; the commands that it names are those that can be typed again.
#[derive(Default)]
pub(super) struct Json {
    /// Lines that are written at once.
    pending: Vec<u8>,
}

impl Sink for Json {
    fn event(&mut self, mut record: EventRecord, _now: Duration) {
        if let Event::Diagnostic { diagnostic } = &mut record.event {
            again::advice(diagnostic);
        }
        record.write_json(&mut self.pending);
        self.pending.push(b'\n');
    }

    fn flush(&mut self) {
        if !self.pending.is_empty() {
            // A reader that went away does not stop the build.
            let _ignored = output::bytes(&self.pending).is_err();
            self.pending.clear();
        }
    }

    fn finish(&mut self, _now: Duration) {
        self.flush();
    }
}
