//! Which name is in which slot, at every point of the lowering.

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
enum Scope {
    /// Where its names begin among all.
    Names(u32),
    /// Level and slot of the set.
    With(u32, u32),
}

/// A name in a scope.
struct Bound {
    name: Sym,
    level: u32,
    slot: u32,
    /// The binding of the same name that this one hides.
    outer: u32,
}

/// No binding.
const NONE: u32 = u32::MAX;

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

/// What `-`, `*`, `/` and the comparisons stand for. A program can define them anew.
const OPERATORS: [&[u8]; 4] = [b"__sub", b"__mul", b"__div", b"__lessThan"];

/// The scopes around the current point.
pub(crate) struct Scopes {
    /// The names of [`OPERATORS`].
    operators: [Sym; 4],
    /// Whether the program has given one of these another meaning somewhere.
    pub(super) redefined: bool,
    scopes: Vec<Scope>,
    /// The names of all scopes, from the outside in.
    names: Vec<Bound>,
    /// The innermost binding of each symbol. Looking a name up costs the same however deep it is.
    innermost: Vec<u32>,
    /// Bindings from this one on are out of sight.
    hidden: u32,
    level: u32,
    frame: Frame,
}

/// A `let` in a branch shares the frame of its block when it has at most this many variables.
const SMALL: u32 = 6;

impl Scopes {
    pub(super) fn new() -> Self {
        Self {
            operators: OPERATORS.map(Sym::new),
            redefined: false,
            scopes: Vec::new(),
            names: Vec::new(),
            innermost: Vec::new(),
            hidden: NONE,
            level: 0,
            frame: Frame {
                owner: false,
                next: 0,
                max: 0,
                conditional: false,
            },
        }
    }

    /// Whether a name is one that an operator stands for.
    pub(super) fn is_operator(&self, name: Sym) -> bool {
        self.operators.contains(&name)
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
        f.owner && (!f.conditional || n <= SMALL) && f.next.saturating_add(n) < Env::LARGE
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

    /// Enters a scope of names, each with its slot.
    pub(super) fn push_names(&mut self, names: impl Iterator<Item = (Sym, u32)>) {
        let begin = self.names.len() as u32;
        self.scopes.push(Scope::Names(begin));
        for (name, slot) in names {
            self.redefined |= self.is_operator(name);
            let i = name.index();
            if i >= self.innermost.len() {
                self.innermost.resize(i + 1, NONE);
            }
            let at = self.names.len() as u32;
            let outer = std::mem::replace(&mut self.innermost[i], at);
            self.names.push(Bound {
                name,
                level: self.level,
                slot,
                outer,
            });
        }
    }

    pub(super) fn push_with(&mut self, slot: u32) {
        self.scopes.push(Scope::With(self.level, slot));
    }

    pub(super) fn pop(&mut self) {
        if let Some(Scope::Names(begin)) = self.scopes.pop() {
            for b in self.names.drain(begin as usize..).rev() {
                self.innermost[b.name.index()] = b.outer;
            }
        }
    }

    /// Takes the names of the innermost scope away for a while (`inherit x` in a recursive set means the outer `x`).
    pub(super) fn hide(&mut self) {
        if let Some(Scope::Names(begin)) = self.scopes.last() {
            self.hidden = *begin;
        }
    }

    /// Puts them back.
    pub(super) fn unhide(&mut self) {
        self.hidden = NONE;
    }

    pub(super) fn find(&self, name: Sym) -> Found {
        let mut at = self.innermost.get(name.index()).copied().unwrap_or(NONE);
        while let Some(b) = self.names.get(at as usize) {
            if at < self.hidden {
                return Found::Slot(self.level - b.level, b.slot);
            }
            at = b.outer;
        }
        let withs = self.scopes.iter().rev().filter_map(|s| match s {
            Scope::With(level, slot) => Some((self.level - level, *slot)),
            Scope::Names(_) => None,
        });
        let withs: Vec<_> = withs.collect();
        if withs.is_empty() {
            Found::None
        } else {
            Found::With(withs)
        }
    }

    /// All visible names, for suggestions.
    pub(super) fn names(&self) -> Vec<Sym> {
        let visible = self.names.len().min(self.hidden as usize);
        self.names[..visible].iter().map(|b| b.name).collect()
    }
}
