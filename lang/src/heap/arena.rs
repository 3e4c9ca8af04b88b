//! Bump allocation of 8-byte words in big chunks that are never returned.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::Cell;

/// Size of an ordinary chunk. Big, so that the kernel can back it with huge pages.
const CHUNK: usize = 32 << 20;
/// The first chunk is small: most programs need little.
const FIRST: usize = 2 << 20;

struct Arena {
    next: Cell<usize>,
    end: Cell<usize>,
    total: Cell<usize>,
}

thread_local! {
    static ARENA: Arena = const { Arena { next: Cell::new(0), end: Cell::new(0), total: Cell::new(0) } };
}

/// Returns `n` zeroed words. The memory is valid, and exclusively the caller's, until the process ends.
#[inline(always)]
pub(super) fn words(n: usize) -> *mut u64 {
    ARENA.with(|a| {
        let next = a.next.get();
        let size = n * 8;
        if a.end.get() - next >= size {
            a.next.set(next + size);
            next as *mut u64
        } else {
            grow(a, size)
        }
    })
}

#[cold]
#[inline(never)]
fn grow(a: &Arena, size: usize) -> *mut u64 {
    let chunk = if a.total.get() == 0 { FIRST } else { CHUNK };
    // A big object gets a chunk of its own, so that the rest of the current chunk is not lost.
    let alone = size > chunk / 4;
    let bytes = if alone { size.max(8) } else { chunk };
    let align = if bytes >= CHUNK { 2 << 20 } else { 4096 };
    let Ok(layout) = Layout::from_size_align(bytes, align) else {
        handle_alloc_error(Layout::new::<u64>());
    };
    // SAFETY: the layout has a size that is not zero.
    let p = unsafe { alloc_zeroed(layout) };
    if p.is_null() {
        handle_alloc_error(layout);
    }
    a.total.set(a.total.get() + bytes);
    if !alone {
        a.next.set(p as usize + size);
        a.end.set(p as usize + bytes);
    }
    p.cast()
}

/// Bytes taken from the system by this thread's arena.
pub(crate) fn bytes_used() -> usize {
    ARENA.with(|a| a.total.get() - (a.end.get() - a.next.get()))
}
