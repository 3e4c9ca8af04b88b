//! Stopping a run, in two degrees: first nothing more is started, then what runs is ended, too. For each there is a flag, and
//! callbacks that wake whoever waits.

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
    /// Nothing more is started.
    stopping: Degree,
    /// What runs ends.
    cancelled: Degree,
    signal: AtomicU8,
}

impl Inner {
    fn degree(&self, stopping: bool) -> &Degree {
        if stopping {
            &self.stopping
        } else {
            &self.cancelled
        }
    }
}

#[derive(Default)]
struct Degree {
    reached: AtomicBool,
    callbacks: Mutex<(u64, BTreeMap<u64, Callback>)>,
}

impl Degree {
    fn is_reached(&self) -> bool {
        self.reached.load(Ordering::SeqCst)
    }

    /// The second time does nothing.
    fn reach(&self) {
        if self.reached.swap(true, Ordering::SeqCst) {
            return;
        }
        let callbacks: Vec<Callback> = self.callbacks().1.values().cloned().collect();
        for callback in callbacks {
            callback();
        }
    }

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

    /// Asks everybody to stop what they do; the second call does nothing.
    pub fn cancel(&self) {
        self.inner.stopping.reach();
        self.inner.cancelled.reach();
    }

    /// Asks everybody to stop because of a signal, which decides the exit code.
    pub fn cancel_by(&self, signal: u8) {
        self.note_signal(signal);
        self.cancel();
    }

    /// Asks everybody to begin nothing more, because of a signal; what runs may come to its end.
    pub fn stop_starting_by(&self, signal: u8) {
        self.note_signal(signal);
        self.inner.stopping.reach();
    }

    fn note_signal(&self, signal: u8) {
        // The first one counts.
        let _later =
            self.inner
                .signal
                .compare_exchange(0, signal, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Returns the exit code of a run that was stopped: 128 and the signal, that of Ctrl-C when there was none.
    #[must_use]
    pub fn exit_code(&self) -> i32 {
        match self.inner.signal.load(Ordering::SeqCst) {
            0 => i32::from(Class::Interrupted.exit_code()),
            signal => 128 + i32::from(signal),
        }
    }

    /// Tells whether what runs is to end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.inner.cancelled.is_reached()
    }

    /// Tells whether nothing more is to be started, be it that what runs may come to its end or not.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.inner.stopping.is_reached()
    }

    /// Calls `callback` when what runs is to end (at once if it was already), until the guard is dropped.
    #[must_use]
    pub fn on_cancel(&self, callback: impl Fn() + Send + Sync + 'static) -> Subscription {
        self.subscribe(false, &(Arc::new(callback) as Callback))
    }

    /// Calls `callback` when nothing more is to be started, as [`Self::on_cancel`] does.
    #[must_use]
    pub fn on_stopping(&self, callback: impl Fn() + Send + Sync + 'static) -> Subscription {
        self.subscribe(true, &(Arc::new(callback) as Callback))
    }

    fn subscribe(&self, stopping: bool, callback: &Callback) -> Subscription {
        let degree = self.inner.degree(stopping);
        let id = {
            let mut callbacks = degree.callbacks();
            callbacks.0 += 1;
            let id = callbacks.0;
            callbacks.1.insert(id, callback.clone());
            id
        };
        // Asked between the insertion and now: the callback may run twice, which every user allows.
        if degree.is_reached() {
            callback();
        }
        Subscription {
            inner: self.inner.clone(),
            stopping,
            id,
        }
    }
}

/// Keeps a callback registered while it lives.
pub struct Subscription {
    inner: Arc<Inner>,
    stopping: bool,
    id: u64,
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let degree = self.inner.degree(self.stopping);
        degree.callbacks().1.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn what_runs_ends_only_in_the_second_degree() {
        let cancel = Cancel::new();
        let count = Arc::new(AtomicUsize::new(0));
        let add = |n: usize| {
            let count = count.clone();
            move || {
                count.fetch_add(n, Ordering::SeqCst);
            }
        };
        let stopping = cancel.on_stopping(add(1));
        let cancelled = cancel.on_cancel(add(10));
        assert!(!cancel.is_stopping());
        cancel.stop_starting_by(2);
        assert!(cancel.is_stopping() && !cancel.is_cancelled());
        assert_eq!(count.load(Ordering::SeqCst), 1);
        cancel.cancel_by(15);
        assert!(cancel.is_stopping() && cancel.is_cancelled());
        assert_eq!(count.load(Ordering::SeqCst), 11);
        assert_eq!(cancel.exit_code(), 130);
        drop((stopping, cancelled));
    }

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
