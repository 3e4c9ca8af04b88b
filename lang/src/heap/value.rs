//! Values: one tagged word, and the objects it can point to.

use std::marker::PhantomData;
use std::num::NonZeroU64;

use super::arena;
use super::env::Env;
use super::shape::Attrs;
use super::string::Str;
use super::{Code, Native};
use crate::builtins::Prim;
use crate::ir::{Expr, Lambda};

/// A value of the language, possibly not evaluated yet. A word of 8 bytes; copying it copies a reference.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct Value(NonZeroU64, PhantomData<*const ()>);

/// What the low three bits of a word say.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tag {
    Thunk,
    Int,
    Str,
    Attrs,
    List,
    Fun,
    /// null, true, false
    Imm,
    /// float, big integer, path
    Boxed,
}

const TAGS: [Tag; 8] = [
    Tag::Thunk,
    Tag::Int,
    Tag::Str,
    Tag::Attrs,
    Tag::List,
    Tag::Fun,
    Tag::Imm,
    Tag::Boxed,
];
const T_INT: u64 = 1;
const T_STR: u64 = 2;
const T_ATTRS: u64 = 3;
const T_LIST: u64 = 4;
const T_FUN: u64 = 5;
const T_IMM: u64 = 6;
const T_BOX: u64 = 7;

const BOX_FLOAT: u64 = 0;
const BOX_INT: u64 = 1;
const BOX_PATH: u64 = 2;

const FUN_CLOSURE: u64 = 0;
const FUN_PAPP: u64 = 1;
const FUN_PRIM: u64 = 2;

const TH_EXPR: u64 = 0;
const TH_DONE: u64 = 1;
const TH_HOLE: u64 = 2;
const TH_APP: u64 = 3;
const TH_APP2: u64 = 4;
const TH_NATIVE: u64 = 5;

/// A function value.
#[derive(Clone, Copy)]
pub(crate) enum Fun {
    /// A lambda with its environment.
    Closure(&'static Lambda, Env),
    /// A function that still waits for arguments.
    Partial(Value, &'static [Value]),
    /// A builtin.
    Prim(&'static Prim),
}

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
                    Value::raw(*self.0.add(3)),
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
    /// The value `null`.
    pub const NULL: Value = Value::imm(0);
    /// The value `false`.
    pub const FALSE: Value = Value::imm(1);
    /// The value `true`.
    pub const TRUE: Value = Value::imm(2);

    const fn imm(n: u64) -> Value {
        match NonZeroU64::new(n << 3 | T_IMM) {
            Some(w) => Value(w, PhantomData),
            None => unreachable!(),
        }
    }

    #[inline(always)]
    pub(super) fn word(self) -> u64 {
        self.0.get()
    }

    /// # Safety
    /// `w` must come from `word`.
    #[inline(always)]
    unsafe fn raw(w: u64) -> Value {
        // SAFETY: no word of a value is zero.
        Value(unsafe { NonZeroU64::new_unchecked(w) }, PhantomData)
    }

    /// # Safety
    /// `w` must be zero or come from `word`.
    #[inline(always)]
    pub(super) unsafe fn from_slot(w: u64) -> Option<Value> {
        NonZeroU64::new(w).map(|w| Value(w, PhantomData))
    }

    #[inline(always)]
    fn ptr<T>(p: *const T, tag: u64) -> Value {
        debug_assert!(p as u64 & 7 == 0);
        // SAFETY: object addresses are not zero.
        unsafe { Value::raw(p as u64 | tag) }
    }

    /// The kind of word.
    #[inline(always)]
    pub(crate) fn tag(self) -> Tag {
        TAGS[(self.word() & 7) as usize]
    }

    #[inline(always)]
    fn addr(self) -> *mut u64 {
        (self.word() & !7) as *mut u64
    }

    /// A truth value.
    #[inline(always)]
    pub fn bool(b: bool) -> Value {
        if b { Value::TRUE } else { Value::FALSE }
    }

    /// An integer.
    #[inline(always)]
    pub fn int(i: i64) -> Value {
        let w = (i << 3) as u64 | T_INT;
        if (w as i64) >> 3 == i {
            // SAFETY: the tag makes the word differ from zero.
            unsafe { Value::raw(w) }
        } else {
            Self::boxed(BOX_INT, i as u64)
        }
    }

    fn boxed(kind: u64, payload: u64) -> Value {
        let p = arena::words(2);
        // SAFETY: two words of our own.
        unsafe {
            *p = kind;
            *p.add(1) = payload;
        }
        Value::ptr(p, T_BOX)
    }

    /// A floating point number.
    pub fn float(f: f64) -> Value {
        Self::boxed(BOX_FLOAT, f.to_bits())
    }

    /// A string without context.
    pub fn string(bytes: &[u8]) -> Value {
        Self::from_str_obj(Str::new(bytes, 0))
    }

    /// A string with the context `ctx`.
    pub(crate) fn string_ctx(bytes: &[u8], ctx: u32) -> Value {
        Self::from_str_obj(Str::new(bytes, ctx))
    }

    pub(crate) fn from_str_obj(s: Str) -> Value {
        Value::ptr(s.address(), T_STR)
    }

    /// A path: an absolute, normalised name.
    pub(crate) fn path(bytes: &[u8]) -> Value {
        let s = Str::new(bytes, 0);
        Self::boxed(BOX_PATH, s.address() as u64)
    }

    pub(crate) fn attrs(a: Attrs) -> Value {
        Value::ptr(a.0, T_ATTRS)
    }

    /// A list.
    pub(crate) fn list(items: &[Value]) -> Value {
        let p = arena::words(2 + items.len());
        // SAFETY: room for two header words and the items.
        unsafe {
            *p = p.add(2) as u64;
            *p.add(1) = items.len() as u64;
            std::ptr::copy_nonoverlapping(items.as_ptr().cast::<u64>(), p.add(2), items.len());
        }
        Value::ptr(p, T_LIST)
    }

    /// A list of several parts.
    pub(crate) fn list_concat(parts: &[&[Value]]) -> Value {
        let n: usize = parts.iter().map(|p| p.len()).sum();
        let p = arena::words(2 + n);
        // SAFETY: room for two header words and all parts.
        unsafe {
            *p = p.add(2) as u64;
            *p.add(1) = n as u64;
            let mut at = p.add(2);
            for x in parts {
                std::ptr::copy_nonoverlapping(x.as_ptr().cast::<u64>(), at, x.len());
                at = at.add(x.len());
            }
        }
        Value::ptr(p, T_LIST)
    }

    /// A list of `n` items made one after the other.
    #[inline]
    pub(crate) fn list_build<E>(
        n: usize,
        mut f: impl FnMut(usize) -> Result<Value, E>,
    ) -> Result<Value, E> {
        let p = arena::words(2 + n);
        // SAFETY: room for two header words and the items; nobody sees the list before it is complete.
        unsafe {
            *p = p.add(2) as u64;
            *p.add(1) = n as u64;
            for i in 0..n {
                *p.add(2 + i) = f(i)?.word();
            }
        }
        Ok(Value::ptr(p, T_LIST))
    }

    /// The part of a list that begins at `from`; shares the items.
    pub(crate) fn list_tail(items: &'static [Value], from: usize) -> Value {
        let items = &items[from.min(items.len())..];
        let p = arena::words(2);
        // SAFETY: two words of our own; the items are never written again nor freed (only this module can make such slices of
        // values with static life, apart from leaked ones).
        unsafe {
            *p = items.as_ptr() as u64;
            *p.add(1) = items.len() as u64;
        }
        Value::ptr(p, T_LIST)
    }

    /// A lambda with its environment.
    #[inline(always)]
    pub(crate) fn closure(l: &'static Lambda, env: Env) -> Value {
        env.keep();
        let p = arena::words(2);
        // SAFETY: two words of our own.
        unsafe {
            *p = std::ptr::from_ref(l) as u64 | FUN_CLOSURE;
            *p.add(1) = env.raw();
        }
        Value::ptr(p, T_FUN)
    }

    /// A function with some of its arguments.
    pub(crate) fn partial(f: Value, args: &[&[Value]]) -> Value {
        let n: usize = args.iter().map(|p| p.len()).sum();
        let p = arena::words(2 + n);
        // SAFETY: room for two header words and the arguments.
        unsafe {
            *p = (n as u64) << 3 | FUN_PAPP;
            *p.add(1) = f.word();
            let mut at = p.add(2);
            for x in args {
                std::ptr::copy_nonoverlapping(x.as_ptr().cast::<u64>(), at, x.len());
                at = at.add(x.len());
            }
        }
        Value::ptr(p, T_FUN)
    }

    /// A builtin.
    pub(crate) fn prim(d: &'static Prim) -> Value {
        let p = arena::words(1);
        // SAFETY: one word of our own.
        unsafe { *p = std::ptr::from_ref(d) as u64 | FUN_PRIM };
        Value::ptr(p, T_FUN)
    }

    #[inline(always)]
    fn thunk2(w0: u64, w1: u64) -> Value {
        let p = arena::words(2);
        // SAFETY: two words of our own.
        unsafe {
            *p = w0;
            *p.add(1) = w1;
        }
        Value::ptr(p, 0)
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
                run: |vm, a| vm.call(a[0], &[a[1]], crate::ir::Pos::NONE),
            };
            Self::thunk_native(&CALL, f, x)
        }
    }

    /// A thunk that calls `f` on `x` and `y`.
    pub(crate) fn thunk_app2(f: Value, x: Value, y: Value) -> Value {
        Self::thunk4([TH_APP2, x.word(), y.word(), f.word()])
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

    /// Whether the word is an integer that fits into it; then `small_int` gives it.
    #[inline(always)]
    pub(crate) fn small_int(self) -> Option<i64> {
        if self.word() & 7 == T_INT {
            Some((self.word() as i64) >> 3)
        } else {
            None
        }
    }

    /// The integer, if it is one.
    #[inline(always)]
    pub(crate) fn as_int(self) -> Option<i64> {
        if let Some(i) = self.small_int() {
            return Some(i);
        }
        // SAFETY: boxed objects have two words.
        unsafe {
            if self.word() & 7 == T_BOX && *self.addr() == BOX_INT {
                Some(*self.addr().add(1) as i64)
            } else {
                None
            }
        }
    }

    /// The floating point number, if it is one.
    pub(crate) fn as_float(self) -> Option<f64> {
        // SAFETY: boxed objects have two words.
        unsafe {
            if self.word() & 7 == T_BOX && *self.addr() == BOX_FLOAT {
                Some(f64::from_bits(*self.addr().add(1)))
            } else {
                None
            }
        }
    }

    /// The bytes of the path, if it is one.
    pub(crate) fn as_path(self) -> Option<&'static [u8]> {
        // SAFETY: boxed objects have two words; that of a path is a string.
        unsafe {
            if self.word() & 7 == T_BOX && *self.addr() == BOX_PATH {
                Some(Str::at(*self.addr().add(1) as *const u64).bytes())
            } else {
                None
            }
        }
    }

    /// The truth value, if it is one.
    #[inline(always)]
    pub(crate) fn as_bool(self) -> Option<bool> {
        if self == Value::TRUE {
            Some(true)
        } else if self == Value::FALSE {
            Some(false)
        } else {
            None
        }
    }

    /// The string, if it is one.
    #[inline(always)]
    pub(crate) fn as_str(self) -> Option<Str> {
        if self.word() & 7 == T_STR {
            // SAFETY: the tag says that a string is there.
            Some(unsafe { Str::at(self.addr()) })
        } else {
            None
        }
    }

    /// The attribute set, if it is one.
    #[inline(always)]
    pub(crate) fn as_attrs(self) -> Option<Attrs> {
        if self.word() & 7 == T_ATTRS {
            Some(Attrs(self.addr()))
        } else {
            None
        }
    }

    /// The items of the list, if it is one.
    #[inline(always)]
    pub(crate) fn as_list(self) -> Option<&'static [Value]> {
        if self.word() & 7 != T_LIST {
            return None;
        }
        // SAFETY: a list has two words: where the items are and how many; they are never written again.
        unsafe {
            Some(std::slice::from_raw_parts(
                *self.addr() as *const Value,
                *self.addr().add(1) as usize,
            ))
        }
    }

    /// The function, if it is one.
    #[inline(always)]
    pub(crate) fn as_fun(self) -> Option<Fun> {
        if self.word() & 7 != T_FUN {
            return None;
        }
        // SAFETY: the low bits of the first word say what the object holds.
        unsafe {
            let p = self.addr();
            let w = *p;
            Some(match w & 7 {
                FUN_CLOSURE => {
                    Fun::Closure(&*((w & !7) as *const Lambda), Env::from_raw(*p.add(1)))
                }
                FUN_PAPP => {
                    let n = (w >> 3) as usize;
                    Fun::Partial(
                        Value::raw(*p.add(1)),
                        std::slice::from_raw_parts(p.add(2).cast::<Value>(), n),
                    )
                }
                _ => Fun::Prim(&*((w & !7) as *const Prim)),
            })
        }
    }

    /// A number that differs between different objects.
    pub(crate) fn identity(self) -> u64 {
        self.word()
    }
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Value({:?}, {:#x})", self.tag(), self.word())
    }
}
