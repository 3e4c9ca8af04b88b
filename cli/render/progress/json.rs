//! One JSON object a line on standard output.

use std::time::Duration;

use sos_engine::EventRecord;

use super::Sink;
use crate::render::output;

/// Passes the stream on as it is.
#[derive(Default)]
pub(super) struct Json {
    /// Lines that are written at once.
    pending: Vec<u8>,
}

impl Sink for Json {
    fn event(&mut self, record: EventRecord, _now: Duration) {
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
