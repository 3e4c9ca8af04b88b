//! Environments: frames of slots, each with a pointer to the frame around it.

use super::arena;
use super::value::Value;

/// A frame: one word with the parent (48 bits) and the number of slots (16 bits), then the slots. A slot that was not set is zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Env(usize);

const PTR: u64 = (1 << 48) - 1;

impl Env {
    /// The biggest number of slots in a frame.
    pub(crate) const MAX_SLOTS: u32 = 0xffff;
    /// No frame.
    pub(crate) const NONE: Env = Env(0);

    /// Makes a frame with `slots` empty slots.
    #[inline(always)]
    pub(crate) fn new(parent: Env, slots: u32) -> Env {
        debug_assert!(slots <= Self::MAX_SLOTS);
        let n = (slots & Self::MAX_SLOTS) as usize;
        let p = arena::words(n + 1);
        // SAFETY: `p` has n + 1 words of our own.
        unsafe { *p = (parent.0 as u64 & PTR) | ((n as u64) << 48) };
        Env(p as usize)
    }

    #[inline(always)]
    fn slot(self, idx: u32) -> *mut u64 {
        assert!(self.0 != 0, "a variable needs a frame");
        let p = self.0 as *mut u64;
        // SAFETY: a frame that is not `NONE` points to its header word; the header holds the number of slots behind it.
        unsafe {
            assert!(u64::from(idx) < *p >> 48, "slot within the frame");
            p.add(1 + idx as usize)
        }
    }

    /// Reads a slot; `None` when it was not set yet.
    #[inline(always)]
    pub(crate) fn get(self, idx: u32) -> Option<Value> {
        // SAFETY: `slot` checked the bounds; slots hold zero or a word that `set` put there.
        unsafe { Value::from_slot(*self.slot(idx)) }
    }

    /// Writes a slot.
    #[inline(always)]
    pub(crate) fn set(self, idx: u32, v: Value) {
        // SAFETY: `slot` checked the bounds; frames are confined to one thread and no reference into them is handed out.
        unsafe { *self.slot(idx) = v.word() };
    }

    /// The frame `depth` levels up.
    #[inline(always)]
    pub(crate) fn up(self, depth: u32) -> Env {
        let mut e = self;
        for _ in 0..depth {
            assert!(e.0 != 0, "an outer frame");
            // SAFETY: a frame that is not `NONE` points to its header word.
            e = Env(unsafe { *(e.0 as *const u64) & PTR } as usize);
        }
        e
    }

    #[inline(always)]
    pub(super) fn raw(self) -> u64 {
        self.0 as u64
    }

    /// # Safety
    /// `w` must come from `raw`.
    #[inline(always)]
    pub(super) unsafe fn from_raw(w: u64) -> Env {
        Env(w as usize)
    }
}
