//! Bump allocation of 8-byte words in big chunks that are never returned.

use std::alloc::{Layout, handle_alloc_error};
use std::cell::Cell;

/// Size of an ordinary chunk. Big, so that the kernel can back it with huge pages.
const CHUNK: usize = 32 << 20;
/// Mappings of this size can hold huge pages.
const HUGE: usize = 4 << 20;
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
    let p = map(bytes);
    a.total.set(a.total.get() + bytes);
    if !alone {
        a.next.set(p as usize + size);
        a.end.set(p as usize + bytes);
    }
    p.cast()
}

/// Fresh zeroed pages from the system, straight: an allocator would zero them again or keep books about them.
fn map(bytes: usize) -> *mut u8 {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: an anonymous mapping at an address of the kernel's choice touches no memory of ours.
    let p = unsafe {
        libc::mmap(
            std::ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if p == libc::MAP_FAILED {
        handle_alloc_error(Layout::new::<[u64; 512]>());
    }
    if bytes >= HUGE {
        // SAFETY: the range is the mapping just made; the call is only advice.
        unsafe { libc::madvise(p, bytes, libc::MADV_HUGEPAGE) };
    }
    p.cast()
}

/// Bytes taken from the system by this thread's arena.
pub(crate) fn bytes_used() -> usize {
    ARENA.with(|a| a.total.get() - (a.end.get() - a.next.get()))
}
