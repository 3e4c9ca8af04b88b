//! Crash points for tests: a process can be told to die, as by `kill -9`, at a named place.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

static ARMED: AtomicBool = AtomicBool::new(false);
static POINT: Mutex<Option<(String, u32)>> = Mutex::new(None);

/// The names of all crash points, in the order in which an addition and a collection pass them.
pub const POINTS: &[&str] = &[
    "ingest.staged",
    "commit.leased",
    "commit.synced",
    "commit.renamed",
    "commit.before-commit",
    "commit.done",
    "rootfs.nodes",
    "rootfs.before-commit",
    "gc.marked",
    "gc.rows-gone",
    "gc.trees-away",
    "gc.trees-gone",
    "gc.nodes-gone",
    "gc.files-aside",
];

/// Lets this process die when it passes `point` for the `nth` time (1 = the first).
pub fn arm(point: &str, nth: u32) {
    if let Ok(mut slot) = POINT.lock() {
        *slot = Some((point.to_owned(), nth.max(1)));
        ARMED.store(true, Ordering::SeqCst);
    }
}

/// Passes a named point; costs one atomic load when nothing is armed.
pub(crate) fn point(name: &str) {
    if !ARMED.load(Ordering::Relaxed) {
        return;
    }
    let Ok(mut slot) = POINT.lock() else { return };
    if let Some((wanted, left)) = slot.as_mut()
        && wanted == name
    {
        *left -= 1;
        if *left == 0 {
            // SIGKILL to ourselves: no destructor runs, no buffer is written.
            let _ = rustix::process::kill_process(
                rustix::process::getpid(),
                rustix::process::Signal::KILL,
            );
        }
    }
}
