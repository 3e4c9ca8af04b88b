//! Strings of bytes with a context.

use super::arena;

/// A string: one word with length (36 bits) and context (28 bits), then the bytes.
#[derive(Clone, Copy)]
pub(crate) struct Str(*const u64);

const LEN_BITS: u32 = 36;

impl Str {
    fn alloc(len: usize, ctx: u32) -> *mut u64 {
        assert!(len < 1 << LEN_BITS, "a string fits into memory");
        let p = arena::words(1 + len.div_ceil(8));
        // SAFETY: `p` has at least one word of our own.
        unsafe { *p = len as u64 | (u64::from(ctx) << LEN_BITS) };
        p
    }

    /// Makes a string.
    pub(crate) fn new(bytes: &[u8], ctx: u32) -> Str {
        let p = Self::alloc(bytes.len(), ctx);
        // SAFETY: room for the bytes lies behind the header.
        unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), p.add(1).cast::<u8>(), bytes.len());
        };
        Str(p)
    }

    /// Makes a string of several parts.
    pub(crate) fn concat(parts: &[&[u8]], ctx: u32) -> Str {
        let p = Self::alloc(parts.iter().map(|x| x.len()).sum(), ctx);
        // SAFETY: room for all parts lies behind the header.
        unsafe {
            let mut at = p.add(1).cast::<u8>();
            for x in parts {
                std::ptr::copy_nonoverlapping(x.as_ptr(), at, x.len());
                at = at.add(x.len());
            }
        }
        Str(p)
    }

    /// The bytes.
    #[inline(always)]
    pub(crate) fn bytes(self) -> &'static [u8] {
        // SAFETY: the header holds the number of bytes behind it; they are never written again.
        unsafe {
            let len = (*self.0 & ((1 << LEN_BITS) - 1)) as usize;
            std::slice::from_raw_parts(self.0.add(1).cast::<u8>(), len)
        }
    }

    /// The context.
    #[inline(always)]
    pub(crate) fn ctx(self) -> u32 {
        // SAFETY: a string points to its header.
        unsafe { (*self.0 >> LEN_BITS) as u32 }
    }

    #[inline(always)]
    pub(super) fn address(self) -> *const u64 {
        self.0
    }

    /// # Safety
    /// `p` must come from `address`.
    #[inline(always)]
    pub(super) unsafe fn at(p: *const u64) -> Str {
        Str(p)
    }
}
