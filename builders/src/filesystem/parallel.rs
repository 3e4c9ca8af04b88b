//! Work on many files at once.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sos_engine::BuilderError;

use crate::build::Build;

/// What is done with an item, and with a buffer that stays with its thread.
type Work<'a, T, R> = dyn Fn(&T, &mut Vec<u8>) -> Result<R, BuilderError> + Sync + 'a;

/// Works on every item, on as many threads as the build may use; the results come in the order of the items.
///
/// `weight` tells how much of the progress an item is.
pub(super) fn each<T: Sync, R: Send>(
    build: &dyn Build,
    items: &[T],
    weight: &(dyn Fn(&T) -> u64 + Sync),
    work: &Work<'_, T, R>,
) -> Result<Vec<R>, BuilderError> {
    let total: u64 = items.iter().map(weight).sum();
    let next = AtomicUsize::new(0);
    let done = AtomicU64::new(0);
    let stop = AtomicBool::new(false);
    let results: Vec<Mutex<Option<R>>> = items.iter().map(|_| Mutex::new(None)).collect();
    let failure: Mutex<Option<BuilderError>> = Mutex::new(None);
    let run = |go_on: &dyn Fn() -> bool| {
        let mut buffer = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let Some(item) = items.get(at) else {
                return;
            };
            let result = if go_on() {
                work(item, &mut buffer)
            } else {
                Err(BuilderError::Cancelled)
            };
            match result {
                Ok(result) => *lock(&results[at]) = Some(result),
                Err(error) => {
                    lock(&failure).get_or_insert(error);
                    stop.store(true, Ordering::Relaxed);
                }
            }
            done.fetch_add(weight(item), Ordering::Relaxed);
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..build.cores().clamp(1, items.len().max(1)) {
            scope.spawn(|| run(&|| true));
        }
        // This thread works too, and speaks with the engine.
        run(&|| {
            build.progress(done.load(Ordering::Relaxed), total);
            !build.cancelled()
        });
    });
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    let results = results
        .into_iter()
        .map(|result| result.into_inner().unwrap_or_else(PoisonError::into_inner));
    results
        .collect::<Option<Vec<R>>>()
        .ok_or(BuilderError::Cancelled)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
