//! Which name is in which slot, at every point of the lowering.

use rustc_hash::FxHashMap;

use crate::heap::{Env, Sym};

/// What a name means.
pub(super) enum Found {
    /// A variable: levels up, slot.
    Slot(u32, u32),
    /// Only the enclosing `with`s can tell: levels up and slot of each, from the inside out.
    With(Vec<(u32, u32)>),
    /// Not a local name.
    None,
}

/// One scope.
pub(super) enum Scope {
    Names(FxHashMap<Sym, u32>, u32),
    With(u32, u32),
}

/// The frame of the block being lowered.
#[derive(Clone, Copy)]
pub(super) struct Frame {
    /// Whether the running block may put variables into the innermost frame.
    owner: bool,
    next: u32,
    max: u32,
    /// Inside a branch that may not be taken.
    conditional: bool,
}

/// The scopes around the current point.
pub(super) struct Scopes {
    scopes: Vec<Scope>,
    level: u32,
    frame: Frame,
}

/// A `let` in a branch shares the frame of its block when it has at most this many variables.
const SMALL: u32 = 6;

impl Scopes {
    pub(super) fn new() -> Self {
        Self {
            scopes: Vec::new(),
            level: 0,
            frame: Frame {
                owner: false,
                next: 0,
                max: 0,
                conditional: false,
            },
        }
    }

    /// Enters the code of a new frame; returns what `leave_frame` needs.
    pub(super) fn enter_frame(&mut self) -> Frame {
        self.level += 1;
        std::mem::replace(
            &mut self.frame,
            Frame {
                owner: true,
                next: 0,
                max: 0,
                conditional: false,
            },
        )
    }

    /// Leaves it; returns the number of slots it needs.
    pub(super) fn leave_frame(&mut self, outer: Frame) -> u32 {
        self.level -= 1;
        let n = self.frame.max;
        self.frame = outer;
        n
    }

    /// Enters code that runs later, in the environment of this point.
    pub(super) fn enter_delayed(&mut self) -> Frame {
        std::mem::replace(
            &mut self.frame,
            Frame {
                owner: false,
                next: 0,
                max: 0,
                conditional: false,
            },
        )
    }

    pub(super) fn leave_delayed(&mut self, outer: Frame) {
        self.frame = outer;
    }

    /// Whether `n` more variables can go into the innermost frame.
    pub(super) fn can_share(&self, n: u32) -> bool {
        let f = &self.frame;
        f.owner && (!f.conditional || n <= SMALL) && f.next.saturating_add(n) < Env::MAX_SLOTS
    }

    /// Takes slots of the innermost frame.
    pub(super) fn take(&mut self, n: u32) -> u32 {
        let first = self.frame.next;
        self.frame.next += n;
        self.frame.max = self.frame.max.max(self.frame.next);
        first
    }

    /// Begins a branch that may not be taken; of two branches only one is, so they can use the same slots.
    pub(super) fn begin_branch(&mut self) -> Frame {
        let before = self.frame;
        self.frame.conditional = true;
        before
    }

    /// Ends it; returns how many slots are used after it.
    pub(super) fn end_branch(&mut self, before: Frame) -> u32 {
        let used = self.frame.next;
        self.frame.next = before.next;
        self.frame.conditional = before.conditional;
        used
    }

    /// After branches: continues after the slots that any of them used.
    pub(super) fn join(&mut self, used: u32) {
        self.frame.next = self.frame.next.max(used);
    }

    pub(super) fn push_names(&mut self, names: FxHashMap<Sym, u32>) {
        self.scopes.push(Scope::Names(names, self.level));
    }

    pub(super) fn push_with(&mut self, slot: u32) {
        self.scopes.push(Scope::With(slot, self.level));
    }

    pub(super) fn pop(&mut self) {
        self.scopes.pop();
    }

    /// Takes the innermost scope away for a while (`inherit x` in a recursive set means the outer `x`).
    pub(super) fn hide(&mut self) -> Option<Scope> {
        self.scopes.pop()
    }

    /// Puts it back.
    pub(super) fn unhide(&mut self, s: Option<Scope>) {
        self.scopes.extend(s);
    }

    pub(super) fn find(&self, name: Sym) -> Found {
        let mut withs = Vec::new();
        for s in self.scopes.iter().rev() {
            match s {
                Scope::Names(map, level) => {
                    if let Some(&slot) = map.get(&name) {
                        return Found::Slot(self.level - level, slot);
                    }
                }
                Scope::With(slot, level) => withs.push((self.level - level, *slot)),
            }
        }
        if withs.is_empty() {
            Found::None
        } else {
            Found::With(withs)
        }
    }

    /// All visible names, for suggestions.
    pub(super) fn names(&self) -> Vec<Sym> {
        let mut v: Vec<Sym> = Vec::new();
        for s in &self.scopes {
            if let Scope::Names(map, _) = s {
                let mut names: Vec<(u32, Sym)> = map.iter().map(|(k, v)| (*v, *k)).collect();
                names.sort_unstable();
                v.extend(names.into_iter().map(|x| x.1));
            }
        }
        v
    }
}
