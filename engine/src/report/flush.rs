//! Brings what builds have written to where others can read it, also while they are silent: somebody may follow the log.

use std::sync::{Arc, Condvar, Mutex, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::{Inner, Reporter};

/// How far a reader of a running build may be behind.
const BEHIND: Duration = Duration::from_millis(250);

/// Flushes the logs of running builds.
#[derive(Default)]
pub(crate) struct Flusher {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    over: bool,
    logs: Vec<Weak<Inner>>,
}

impl Flusher {
    /// Flushes the log of a build until that ends.
    pub(crate) fn watch(&self, reporter: &Reporter) {
        let mut state = self.shared.lock();
        state.logs.push(Arc::downgrade(&reporter.inner));
        drop(state);
        self.shared.changed.notify_all();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = self.shared.clone();
            let spawned = thread::Builder::new().name("logs".to_owned());
            // Without it logs are as whole, and a reader is behind by a block.
            *thread = spawned.spawn(move || shared.run()).ok();
        }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.shared.lock().over = true;
        self.shared.changed.notify_all();
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        // It may hold the store for a moment, which must be closed when the run is over.
        if let Some(thread) = thread.take() {
            let _panicked = thread.join().is_err();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self) {
        let mut state = self.lock();
        while !state.over {
            state.logs.retain(|log| log.strong_count() > 0);
            if state.logs.is_empty() {
                state = self
                    .changed
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            state = self
                .changed
                .wait_timeout(state, BEHIND)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            let logs = state.logs.clone();
            drop(state);
            for inner in logs.iter().filter_map(Weak::upgrade) {
                Reporter { inner }.flush();
            }
            state = self.lock();
        }
    }
}
