//! Bump allocation of 8-byte words in big chunks, which are returned all at once when the thread that made them has ended.
//!
//! What a short evaluation costs is to a good part what the system needs to zero the pages that it touches. Huge pages make that
//! three times cheaper where the machine's memory is at hand, and several times dearer on a virtual machine whose host took the memory
//! back while it was free. Which of the two it is shows only when a page is touched: so the arena looks how long that took.

use std::alloc::{Layout, handle_alloc_error};
use std::cell::{Cell, RefCell};

/// Addresses to reserve at once; memory is behind them only when they are used.
const CHUNK: usize = 64 << 20;
/// A chunk is opened for use in steps of this size, that of a huge page.
const STEP: usize = 2 << 20;
/// A step with small pages is opened in parts, whose pages come all at once: a third less work than a fault for each.
const PART: usize = 256 << 10;
/// CPU nanoseconds after which a huge page was dearer than the small pages in its place: zeroing 512 of them takes about as long.
const SLOW: i64 = 700_000;
/// How many steps with small pages follow a slow huge page: doubled each time, up to the second number.
const PATIENCE: (u32, u32) = (16, 64);

/// Objects of fewer words can be given back.
pub(super) const SIZES: usize = 25;

struct Arena {
    next: Cell<usize>,
    /// End of what is opened.
    end: Cell<usize>,
    /// End of the chunk.
    last: Cell<usize>,
    total: Cell<usize>,
    /// Parts to come that get small pages. Those of the first step do: most programs need little.
    small: Cell<usize>,
    patience: Cell<u32>,
    /// What was given back, by number of words: the first word of each holds the next.
    free: [Cell<usize>; SIZES],
}

/// A part of the address space that this thread has from the system.
struct Mapping {
    start: usize,
    bytes: usize,
}

/// All that a thread has from the system; dropping it gives it back.
pub(super) struct Mappings(Vec<Mapping>);

impl Mappings {
    /// Takes what this thread has; what it asks for from now on comes from elsewhere, and stays until the process ends.
    ///
    /// # Safety
    /// It must be dropped when that thread has ended, destructors of its thread-local values included. Nothing of the heap can be used
    /// by another thread: handles are not `Send`.
    pub(super) unsafe fn of_this_thread() -> Self {
        ARENA.with(|a| {
            for field in [&a.next, &a.end, &a.last] {
                field.set(0);
            }
            a.free.iter().for_each(|first| first.set(0));
        });
        Self(MAPPED.take())
    }
}

impl Drop for Mappings {
    fn drop(&mut self) {
        for mapping in &self.0 {
            // SAFETY: the range is a mapping of ours, of a thread that is gone, as whoever took it has promised.
            let failed = unsafe { libc::munmap(mapping.start as *mut libc::c_void, mapping.bytes) };
            debug_assert_eq!(failed, 0);
        }
    }
}

thread_local! {
    static ARENA: Arena = const {
        Arena {
            next: Cell::new(0),
            end: Cell::new(0),
            last: Cell::new(0),
            total: Cell::new(0),
            small: Cell::new(STEP / PART),
            patience: Cell::new(PATIENCE.0),
            free: [const { Cell::new(0) }; SIZES],
        }
    };
}

thread_local! {
    /// Apart from the arena, which is reached without a look whether it still lives: it has nothing to drop.
    static MAPPED: RefCell<Vec<Mapping>> = const { RefCell::new(Vec::new()) };
}

/// Returns `n` zeroed words. The memory is valid, and exclusively the caller's, until the thread has ended.
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

/// The next `n` words, if they are at hand; else null.
#[inline(always)]
pub(super) fn words_at_hand(n: usize) -> *mut u64 {
    ARENA.with(|a| {
        let next = a.next.get();
        if a.end.get() - next < n * 8 {
            return std::ptr::null_mut();
        }
        a.next.set(next + n * 8);
        next as *mut u64
    })
}

/// Returns `n` words, zeroed only from the word `set` on: those before it must be written. The memory may be some that was given back.
#[inline(always)]
pub(super) fn words_again(n: usize, set: usize) -> *mut u64 {
    ARENA.with(|a| {
        if let Some(first) = a.free.get(n) {
            let p = first.get() as *mut u64;
            if !p.is_null() {
                // SAFETY: n words that were given back: the first holds the next, none is in use.
                unsafe {
                    first.set(*p as usize);
                    for i in set..n {
                        *p.add(i) = 0;
                    }
                }
                return p;
            }
        }
        words(n)
    })
}

/// Gives back `n` words from `words` or `words_again`.
///
/// # Safety
/// Nothing may use them any more.
#[inline(always)]
pub(super) unsafe fn give_back(p: *mut u64, n: usize) {
    ARENA.with(|a| {
        if let Some(first) = a.free.get(n) {
            // SAFETY: the caller says that the words are ours alone.
            unsafe { *p = first.get() as u64 };
            first.set(p as usize);
        }
    });
}

#[cold]
#[inline(never)]
fn grow(a: &Arena, size: usize) -> *mut u64 {
    // A big object gets a mapping of its own, so that the rest of the current chunk is not lost.
    if size > CHUNK / 4 {
        a.total.set(a.total.get() + size);
        let p = map(size);
        advise_huge(p, size);
        return p.cast();
    }
    if a.last.get() - a.next.get() < size {
        // One step more, so that the chunk can begin where a huge page can.
        let start = (map(CHUNK + STEP) as usize).next_multiple_of(STEP);
        a.next.set(start);
        a.end.set(start);
        a.last.set(start + CHUNK);
    }
    // Whole steps fill a chunk: what is opened never reaches beyond it.
    debug_assert!(a.next.get() <= a.end.get() && a.end.get() <= a.last.get());
    let p = a.next.get();
    while a.end.get() - p < size {
        let end = a.end.get();
        let bytes = open(a, end as *mut u8);
        a.end.set(end + bytes);
        a.total.set(a.total.get() + bytes);
    }
    a.next.set(p + size);
    p as *mut u64
}

/// Opens a step with a huge page, unless the last of those was slow, else a part of one. Returns its size in bytes.
///
/// A step that was begun in parts goes on in parts: a large object can leave the rest of a chunk behind in the middle of a step, and
/// the parts that are still to come then end in the middle of one of the next chunk, whose last step would end beyond it.
fn open(a: &Arena, at: *mut u8) -> usize {
    if a.small.get() > 0 || !at.addr().is_multiple_of(STEP) {
        a.small.set(a.small.get().saturating_sub(1));
        // SAFETY: the part lies within a mapping of ours that nobody uses yet. Where the call is not known, faults do its work.
        unsafe { libc::madvise(at.cast(), PART, libc::MADV_POPULATE_WRITE) };
        return PART;
    }
    advise_huge(at, STEP);
    let before = cpu_nanoseconds();
    // SAFETY: the step lies within a mapping of ours that nobody uses yet.
    unsafe { at.write_volatile(0) };
    let patience = a.patience.get();
    if cpu_nanoseconds() - before > SLOW {
        a.small.set(patience as usize * (STEP / PART));
        a.patience.set((patience * 2).min(PATIENCE.1));
    } else {
        a.patience.set(PATIENCE.0);
    }
    STEP
}

/// CPU time of this thread; it decides about pages, never about a result.
fn cpu_nanoseconds() -> i64 {
    let mut t = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the call writes a `timespec` that is ours.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
    t.tv_sec * 1_000_000_000 + t.tv_nsec
}

fn advise_huge(p: *mut u8, bytes: usize) {
    // SAFETY: the range belongs to a mapping of ours; the call is only advice.
    unsafe { libc::madvise(p.cast(), bytes, libc::MADV_HUGEPAGE) };
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
    let start = p as usize;
    // Of a thread that is ending it stays.
    let _late = MAPPED.try_with(|mapped| mapped.borrow_mut().push(Mapping { start, bytes }));
    p.cast()
}

/// Bytes taken from the system by this thread's arena.
pub(crate) fn bytes_used() -> usize {
    ARENA.with(|a| a.total.get() - (a.end.get() - a.next.get()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_had_is_taken_from_it() {
        // In chunks and, the last one, by itself.
        let (places, had) = std::thread::spawn(|| {
            let place = |size: usize| words(size / 8) as usize;
            let places = [8, CHUNK / 5, CHUNK / 5, CHUNK / 2].map(place);
            // SAFETY: dropped below, when the thread has ended.
            let had = unsafe { Mappings::of_this_thread() };
            let is_in = |at: usize| {
                let mut all = had.0.iter();
                all.any(|one| (one.start..one.start + one.bytes).contains(&at))
            };
            assert!(places.into_iter().all(is_in));
            // What is asked for afterwards is none of it.
            assert!(!is_in(place(8)));
            (places.len(), had)
        })
        .join()
        .unwrap();
        assert_eq!((places, had.0.len()), (4, 2));
    }

    /// Where objects of a size lie, when they fill three chunks of which the first has small pages only.
    fn places(size: usize, small: usize) -> Vec<(usize, usize)> {
        std::thread::spawn(move || {
            ARENA.with(|a| a.small.set(small));
            let count = 3 * CHUNK / size;
            (0..count)
                .map(|_| {
                    let p = words(size / 8) as usize;
                    let last = ARENA.with(|a| {
                        assert!(a.next.get() <= a.end.get() && a.end.get() <= a.last.get());
                        a.last.get()
                    });
                    (p, last)
                })
                .collect()
        })
        .join()
        .unwrap()
    }

    #[test]
    fn objects_stay_within_their_chunk() {
        // 800,008 bytes leave half of the last step of a chunk behind, as lists of 100,000 items do.
        for (size, small) in [(800_008, 256), (800_008, 8), (2_400_008, 300)] {
            let places = places(size, small);
            for (p, last) in &places {
                assert!(p + size <= *last && last - CHUNK <= *p, "{size} {small}");
            }
            assert!(
                places
                    .windows(2)
                    .all(|w| w[0].0 + size <= w[1].0 || w[1].0 + size <= w[0].0)
            );
        }
    }
}
