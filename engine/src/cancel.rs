//! Cancelling a run: one flag, and callbacks that wake whoever waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sos_formats::diagnostic::Class;

/// A request to stop, shared by everybody who works on one run.
#[derive(Clone, Default)]
pub struct Cancel {
    inner: Arc<Inner>,
}

type Callback = Arc<dyn Fn() + Send + Sync>;

#[derive(Default)]
struct Inner {
    cancelled: AtomicBool,
    signal: AtomicU8,
    callbacks: Mutex<(u64, BTreeMap<u64, Callback>)>,
}

impl Inner {
    fn callbacks(&self) -> MutexGuard<'_, (u64, BTreeMap<u64, Callback>)> {
        // A callback that panicked leaves the map whole: it is only called from a copy.
        self.callbacks
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cancel {
    /// Makes a request that nobody has made yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Asks everybody to stop; the second call does nothing.
    pub fn cancel(&self) {
        if self.inner.cancelled.swap(true, Ordering::SeqCst) {
            return;
        }
        let callbacks: Vec<Callback> = self.inner.callbacks().1.values().cloned().collect();
        for callback in callbacks {
            callback();
        }
    }

    /// Asks everybody to stop because of a signal, which decides the exit code.
    pub fn cancel_by(&self, signal: u8) {
        // The first one counts.
        let _later =
            self.inner
                .signal
                .compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
        self.cancel();
    }

    /// Returns the exit code of a run that was stopped: 128 and the signal, that of Ctrl-C when there was none.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self.inner.signal.load(Ordering::SeqCst) {
            0 => i32::from(Class::Interrupted.exit_code()),
            signal => 128 + i32::from(signal),
        }
    }

    /// Tells whether stopping was asked for.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.load(Ordering::SeqCst)
    }

    /// Calls `callback` when stopping is asked for (at once if it was already), until the guard is dropped.
    #[must_use]
    pub fn on_cancel(&self, callback: impl Fn() + Send + Sync + 'static) -> Subscription {
        let callback: Callback = Arc::new(callback);
        let id = {
            let mut callbacks = self.inner.callbacks();
            callbacks.0 += 1;
            let id = callbacks.0;
            callbacks.1.insert(id, callback.clone());
            id
        };
        // Asked between the insertion and now: the callback may run twice, which every user allows.
        if self.is_cancelled() {
            callback();
        }
        Subscription {
            inner: self.inner.clone(),
            id,
        }
    }
}

/// Keeps a callback registered while it lives.
pub struct Subscription {
    inner: Arc<Inner>,
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.inner.callbacks().1.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn callbacks_run_once_and_end_with_their_guard() {
        let cancel = Cancel::new();
        let count = Arc::new(AtomicUsize::new(0));
        let add = |n: usize| {
            let count = count.clone();
            cancel.on_cancel(move || {
                count.fetch_add(n, Ordering::SeqCst);
            })
        };
        let kept = add(1);
        drop(add(10));
        cancel.cancel();
        cancel.cancel();
        assert_eq!(count.load(Ordering::SeqCst), 1);
        drop(kept);
        let late = add(100);
        assert_eq!(count.load(Ordering::SeqCst), 101);
        drop(late);
        assert_eq!(cancel.exit_code(), 130);
        cancel.cancel_by(15);
        cancel.cancel_by(2);
        assert_eq!(cancel.exit_code(), 143);
    }
}
