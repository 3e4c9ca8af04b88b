//! Environments: frames of slots, each with a pointer to the frame around it.

use super::arena;
use super::value::Value;

/// A frame: one word with the parent (48 bits, the lowest of which says `KEPT`) and the number of slots (16 bits), then the slots.
/// A slot that was not set is zero. A frame too large for 16 bits has its number of slots in a word before the first.
///
/// The code that made a frame gives it back when it is done (`release`), and the next call uses it again, still in the processor's
/// cache. That is possible when nothing else refers to the frame: whatever does so for longer says it first (`keep`). A frame used
/// after it was given back shows wrong values, or none, but stays memory of values.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Env(usize);

const PTR: u64 = (1 << 48) - 8;
const KEPT: u64 = 1;

impl Env {
    /// What stands for a number of slots that 16 bits do not hold.
    pub(crate) const LARGE: u32 = 0xffff;
    /// No frame.
    pub(crate) const NONE: Env = Env(0);

    /// Makes a frame with `slots` slots. The first `set` of them must be set before the frame is used, the others are empty.
    #[inline(always)]
    pub(crate) fn new(parent: Env, slots: u32, set: u32) -> Env {
        debug_assert!(set <= slots);
        if slots >= Self::LARGE {
            return Self::large(parent, slots);
        }
        let p = arena::words_again(slots as usize + 1, set as usize + 1);
        // SAFETY: `p` has a word for the header, and the slots, all our own.
        unsafe { *p = (parent.0 as u64 & PTR) | (u64::from(slots) << 48) };
        Env(p as usize)
    }

    /// Makes a frame whose first slots hold values, given in two parts.
    #[inline(always)]
    pub(crate) fn filled(parent: Env, slots: u32, first: &[Value], rest: &[Value]) -> Env {
        let set = first.len() + rest.len();
        assert!(set <= slots as usize, "slots within the frame");
        let env = Env::new(parent, slots, set as u32);
        let mut p = (env.0 + 8) as *mut u64;
        for v in first.iter().chain(rest) {
            // SAFETY: the frame has a header word and at least `set` slots.
            unsafe {
                *p = v.word();
                p = p.add(1);
            }
        }
        env
    }

    #[cold]
    fn large(parent: Env, slots: u32) -> Env {
        let p = arena::words(slots as usize + 2);
        // SAFETY: `p` has a word for the number of slots, one for the header, and the slots, all our own.
        unsafe {
            *p = slots.into();
            let p = p.add(1);
            *p = (parent.0 as u64 & PTR) | (u64::from(Self::LARGE) << 48);
            Env(p as usize)
        }
    }

    /// Whether a frame that said `LARGE` has a slot.
    #[cold]
    fn large_has(self, idx: u32) -> bool {
        let p = self.0 as *const u64;
        // SAFETY: a frame that is not `NONE` points to its header word; a large one has its number of slots before that.
        unsafe { *p >> 48 == u64::from(Self::LARGE) && u64::from(idx) < *p.sub(1) }
    }

    /// Says that something refers to the frame that may outlive the code that made it.
    #[inline(always)]
    pub(crate) fn keep(self) {
        if self.0 != 0 {
            // SAFETY: a frame that is not `NONE` points to its header word.
            unsafe { *(self.0 as *mut u64) |= KEPT };
        }
    }

    /// Gives the frame back, unless something keeps it. Only for the code that made it, and only when it is done.
    #[inline(always)]
    pub(crate) fn release(self) {
        if self.0 == 0 {
            return;
        }
        let p = self.0 as *mut u64;
        // SAFETY: a frame that is not `NONE` points to its header word.
        let head = unsafe { *p };
        if head & KEPT == 0 {
            // SAFETY: a frame that nobody uses; with the address of another one in its header, it has no slots.
            unsafe { arena::give_back(p, (head >> 48) as usize + 1) };
        }
    }

    #[inline(always)]
    fn slot(self, idx: u32) -> *mut u64 {
        assert!(self.0 != 0, "a variable needs a frame");
        let p = self.0 as *mut u64;
        // SAFETY: a frame that is not `NONE` points to its header word; the header holds the number of slots behind it.
        unsafe {
            assert!(
                u64::from(idx) < *p >> 48 || self.large_has(idx),
                "slot within the frame"
            );
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
