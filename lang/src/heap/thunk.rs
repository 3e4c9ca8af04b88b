//! Thunks: values that are computed when they are needed.

use super::env::Env;
use super::value::{FUN_PLACED, T_FUN};
use super::{Code, Native, Tag, Value, arena};
use crate::ir::{Expr, Pos};

const TH_EXPR: u64 = 0;
const TH_DONE: u64 = 1;
const TH_HOLE: u64 = 2;
const TH_APP: u64 = 3;
const TH_APP2: u64 = 4;
const TH_NATIVE: u64 = 5;

/// What state a thunk is in.
pub(crate) enum ThunkState {
    /// Evaluated: a value that is not a thunk.
    Done(Value),
    /// Being evaluated.
    Hole,
    /// Not evaluated yet.
    Pending,
}

/// A thunk: two to four words; when it is done the first says so and the second holds the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Thunk(*mut u64);

impl Thunk {
    /// Its state.
    #[inline(always)]
    pub(crate) fn state(self) -> ThunkState {
        // SAFETY: a thunk has at least two words; a done one holds a value in the second.
        unsafe {
            match *self.0 & 7 {
                TH_DONE => ThunkState::Done(Value::raw(*self.0.add(1))),
                TH_HOLE => ThunkState::Hole,
                _ => ThunkState::Pending,
            }
        }
    }

    /// The native code of a thunk that nobody has forced, with its arguments.
    pub(crate) fn native(self) -> Option<(*const Native, Value, Value)> {
        // SAFETY: the tag in the first word says how many words there are and what they hold.
        unsafe {
            let w = *self.0;
            (w & 7 == TH_NATIVE).then(|| {
                (
                    (w & !7) as *const Native,
                    Value::raw(*self.0.add(1)),
                    Value::raw(*self.0.add(2)),
                )
            })
        }
    }

    /// Takes the code out and marks the thunk as being evaluated. `None` when there is none to take.
    #[inline(always)]
    pub(crate) fn start(self) -> Option<Code> {
        // SAFETY: the tag in the first word says how many words there are and what they hold.
        unsafe {
            let w = *self.0;
            let p = w & !7;
            let code = match w & 7 {
                TH_EXPR => Code::Expr(&*(p as *const Expr), Env::from_raw(*self.0.add(1))),
                TH_APP => Code::App(Value::raw(p | T_FUN), Value::raw(*self.0.add(1))),
                TH_APP2 => Code::App2(
                    Value::raw(if p == 0 { *self.0.add(3) } else { p | T_FUN }),
                    Value::raw(*self.0.add(1)),
                    Value::raw(*self.0.add(2)),
                ),
                TH_NATIVE => Code::Native(
                    &*(p as *const Native),
                    Value::raw(*self.0.add(1)),
                    Value::raw(*self.0.add(2)),
                ),
                _ => return None,
            };
            *self.0 = TH_HOLE;
            Some(code)
        }
    }

    /// Puts the code back after an error.
    #[cold]
    pub(crate) fn restore(self, code: Code) {
        // SAFETY: only the first word was overwritten by `start`.
        unsafe {
            *self.0 = match code {
                Code::Expr(e, _) => std::ptr::from_ref(e) as u64 | TH_EXPR,
                Code::App(f, _) => (f.word() & !7) | TH_APP,
                Code::App2(f, ..) if f.tag() == Tag::Fun => (f.word() & !7) | TH_APP2,
                Code::App2(..) => TH_APP2,
                Code::Native(n, ..) => std::ptr::from_ref(n) as u64 | TH_NATIVE,
            };
        }
    }

    /// Stores the result.
    #[inline(always)]
    pub(crate) fn finish(self, v: Value) {
        debug_assert!(v.tag() != Tag::Thunk);
        // SAFETY: a thunk has at least two words; it is confined to one thread.
        unsafe {
            *self.0.add(1) = v.word();
            *self.0 = TH_DONE;
        }
    }
}

impl Value {
    #[inline(always)]
    fn thunk2(w0: u64, w1: u64) -> Value {
        Self::pair::<0>(w0, w1)
    }

    fn thunk4(w: [u64; 4]) -> Value {
        let p = arena::words(4);
        // SAFETY: four words of our own.
        unsafe { p.cast::<[u64; 4]>().write(w) };
        Value::ptr(p, 0)
    }

    /// A thunk that evaluates an expression.
    #[inline(always)]
    pub(crate) fn thunk(e: &'static Expr, env: Env) -> Value {
        env.keep();
        Self::thunk2(std::ptr::from_ref(e) as u64 | TH_EXPR, env.raw())
    }

    /// A thunk that calls `f` on `x`.
    #[inline]
    pub(crate) fn thunk_app(f: Value, x: Value) -> Value {
        if f.tag() == Tag::Fun {
            Self::thunk2((f.word() & !7) | TH_APP, x.word())
        } else {
            static CALL: Native = Native {
                run: |vm, a| vm.call(a[0], &[a[1]], Pos::NONE),
            };
            Self::thunk_native(&CALL, f, x)
        }
    }

    /// A thunk that calls `f` on `x` and `y`. The fourth word is there only when the first cannot hold `f`.
    pub(crate) fn thunk_app2(f: Value, x: Value, y: Value) -> Value {
        if f.tag() != Tag::Fun {
            return Self::thunk4([TH_APP2, x.word(), y.word(), f.word()]);
        }
        let p = arena::words(3);
        // SAFETY: three words of our own.
        unsafe {
            p.cast::<[u64; 3]>()
                .write([(f.word() & !7) | TH_APP2, x.word(), y.word()]);
        }
        Value::ptr(p, 0)
    }

    /// A thunk that runs Rust code.
    pub(crate) fn thunk_native(n: &'static Native, a: Value, b: Value) -> Value {
        Self::thunk4([
            std::ptr::from_ref(n) as u64 | TH_NATIVE,
            a.word(),
            b.word(),
            0,
        ])
    }

    /// `f` as a thunk is to call it: on a part of `whole`, a list or set, for the builtin that was called at `pos`. What it is good for
    /// is [`Value::without_place`]; nothing else must see it.
    pub(crate) fn placed(f: Value, pos: Pos, whole: Value) -> Value {
        let p = arena::words(3);
        // SAFETY: three words of our own.
        unsafe {
            p.cast::<[u64; 3]>().write([
                u64::from(pos.0) << 3 | FUN_PLACED,
                f.word(),
                whole.word(),
            ]);
        }
        Value::ptr(p, T_FUN)
    }

    /// The function that a thunk calls, and the place of the call if it is known.
    #[inline(always)]
    pub(crate) fn without_place(self) -> (Value, Pos) {
        match self.place() {
            None => (self, Pos::NONE),
            Some((f, pos, _)) => (f, pos),
        }
    }

    /// What [`Value::placed`] was given.
    #[inline(always)]
    pub(crate) fn place(self) -> Option<(Value, Pos, Value)> {
        if self.tag() != Tag::Fun {
            return None;
        }
        // SAFETY: the low bits of the first word say what the object holds.
        unsafe {
            let p = self.addr();
            let w = *p;
            (w & 7 == FUN_PLACED).then(|| {
                let pos = Pos((w >> 3) as u32);
                (Value::raw(*p.add(1)), pos, Value::raw(*p.add(2)))
            })
        }
    }

    /// The thunk, if it is one.
    #[inline(always)]
    pub(crate) fn as_thunk(self) -> Option<Thunk> {
        if self.word() & 7 == 0 {
            Some(Thunk(self.addr()))
        } else {
            None
        }
    }

    /// The value behind a thunk that is done; else the value itself.
    #[inline(always)]
    pub(crate) fn peel(self) -> Value {
        if let Some(t) = self.as_thunk()
            && let ThunkState::Done(v) = t.state()
        {
            return v;
        }
        self
    }
}
