//! The evaluator recurses; it does so on a big stack, and stops before the end of it.

use std::cell::Cell;

/// Stack to reserve; only what is used is ever backed by memory. Smaller sizes are tried when the system refuses.
const SIZES: [usize; 4] = [4 << 30, 1 << 30, 256 << 20, 64 << 20];
/// Kept free for code that does not check.
const RESERVE: usize = 1 << 20;
/// Assumed of a stack of unknown size: the half of what test threads have.
const UNKNOWN: usize = 1 << 20;

thread_local! {
    static LIMIT: Cell<usize> = const { Cell::new(0) };
}

#[inline(always)]
fn here() -> usize {
    // Nothing is written: only the place counts.
    let x = std::mem::MaybeUninit::<u8>::uninit();
    x.as_ptr().addr()
}

/// The lowest address that the stack of this thread may reach.
pub(crate) fn limit() -> usize {
    let l = LIMIT.get();
    if l != 0 {
        l
    } else {
        here().saturating_sub(UNKNOWN)
    }
}

/// Whether the stack is used up.
#[inline(always)]
pub(crate) fn exhausted(limit: usize) -> bool {
    here() < limit
}

/// Runs code on a thread with a big stack and waits for it. What was evaluated there is gone afterwards, with its memory: a build that
/// follows may take hours.
pub(crate) fn on_big_stack<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    let mut f = Some(f);
    for size in SIZES {
        let thread = std::thread::Builder::new()
            .name("eval".into())
            .stack_size(size);
        let f = &mut f;
        let ran = crate::heap::on_thread(thread, move || {
            LIMIT.set(here().saturating_sub(size - RESERVE));
            f.take().map(|f| f())
        });
        match ran {
            Ok(Ok(Some(result))) => return result,
            Ok(Err(panic)) => std::panic::resume_unwind(panic),
            // A smaller stack may be had.
            Ok(Ok(None)) | Err(_) => {}
        }
    }
    // No thread at all can be had: the caller's stack must do.
    let f = f
        .take()
        .unwrap_or_else(|| unreachable!("the closure runs once"));
    f()
}
