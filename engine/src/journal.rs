//! The journal: the events of a build, kept in the store.

use std::mem;
use std::sync::{Mutex, PoisonError};

use sos_store::{BuildId, Store};

/// Events that are written at once: a transaction for each would cost more than trivial builds do.
const BATCH_EVENTS: usize = 64;

/// Takes the events of one build.
pub(crate) struct Journal {
    store: Store,
    build: BuildId,
    waiting: Mutex<Vec<String>>,
}

impl Journal {
    /// Writes into a build that was begun.
    pub(crate) fn new(store: Store, build: BuildId) -> Self {
        Self {
            store,
            build,
            waiting: Mutex::new(Vec::new()),
        }
    }

    /// Returns the number of the build.
    pub(crate) fn build(&self) -> BuildId {
        self.build
    }

    /// Adds an event as JSON.
    pub(crate) fn add(&self, json: String) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(json);
        if waiting.len() >= BATCH_EVENTS {
            self.write(&mem::take(&mut *waiting));
        }
    }

    /// Writes what is left and how it ended.
    pub(crate) fn end(&self, status: &str) {
        let waiting = mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
        self.write(&waiting);
        if let Err(error) = self.store.journal_end(self.build, status) {
            tracing::warn!(%error, "the journal of this build is not ended");
        }
    }

    fn write(&self, events: &[String]) {
        // A build is worth more than its journal.
        if let Err(error) = self.store.journal_events(self.build, events) {
            tracing::warn!(%error, "events are missing in the journal");
        }
    }
}
