//! One JSON object a line on standard output.

use sos_engine::EventRecord;

use super::Sink;
use crate::render::output;

/// Passes the stream on as it is.
pub(super) struct Json;

impl Sink for Json {
    fn event(&mut self, record: &EventRecord) {
        // A reader that went away does not stop the build.
        let _ignored = output::line(&record.to_json()).is_err();
    }

    fn tick(&mut self) {}

    fn finish(&mut self) {}
}
