//! Values: one tagged word, and the objects it can point to.

use std::marker::PhantomData;
use std::num::NonZeroU64;

use super::arena;
use super::env::Env;
use super::shape::Attrs;
use super::string::Str;
use crate::builtins::Prim;
use crate::ir::Lambda;

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
pub(super) const T_FUN: u64 = 5;
const T_IMM: u64 = 6;
const T_BOX: u64 = 7;

const BOX_FLOAT: u64 = 0;
const BOX_INT: u64 = 1;
const BOX_PATH: u64 = 2;

/// A list whose items lie in another one.
const LIST_PART: u64 = 1;

const FUN_CLOSURE: u64 = 0;
const FUN_PAPP: u64 = 1;
const FUN_PRIM: u64 = 2;
/// No function of the language: what a thunk calls, and where that was written.
pub(super) const FUN_PLACED: u64 = 3;

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
    pub(super) unsafe fn raw(w: u64) -> Value {
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
    pub(super) fn ptr<T>(p: *const T, tag: u64) -> Value {
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
    pub(super) fn addr(self) -> *mut u64 {
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
        Self::list_concat(&[items])
    }

    /// A list of several parts.
    pub(crate) fn list_concat(parts: &[&[Value]]) -> Value {
        let n: usize = parts.iter().map(|p| p.len()).sum();
        let p = arena::words(1 + n);
        // SAFETY: room for the header word and all parts.
        unsafe {
            *p = (n as u64) << 1;
            let mut at = p.add(1);
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
        let p = arena::words(1 + n);
        // SAFETY: room for the header word and the items; nobody sees the list before it is complete.
        unsafe {
            *p = (n as u64) << 1;
            for i in 0..n {
                *p.add(1 + i) = f(i)?.word();
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
            *p = (items.len() as u64) << 1 | LIST_PART;
            *p.add(1) = items.as_ptr() as u64;
        }
        Value::ptr(p, T_LIST)
    }

    /// A lambda with its environment.
    #[inline(always)]
    pub(crate) fn closure(l: &'static Lambda, env: Env) -> Value {
        env.keep();
        Self::pair::<T_FUN>(std::ptr::from_ref(l) as u64 | FUN_CLOSURE, env.raw())
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

    /// An object of two words. Where new memory is needed, code apart does it all: the usual way needs no room on the stack.
    #[inline(always)]
    pub(super) fn pair<const TAG: u64>(w0: u64, w1: u64) -> Value {
        let p = arena::words_at_hand(2);
        if p.is_null() {
            return Self::pair_in_new_memory::<TAG>(w0, w1);
        }
        // SAFETY: two words of our own.
        unsafe {
            *p = w0;
            *p.add(1) = w1;
        }
        Value::ptr(p, TAG)
    }

    #[cold]
    #[inline(never)]
    fn pair_in_new_memory<const TAG: u64>(w0: u64, w1: u64) -> Value {
        let p = arena::words(2);
        // SAFETY: two words of our own.
        unsafe {
            *p = w0;
            *p.add(1) = w1;
        }
        Value::ptr(p, TAG)
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
        // SAFETY: a list has a word with the number of items, then the items, or where they are; they are never written again.
        unsafe {
            let p = self.addr();
            let items = if *p & LIST_PART == 0 {
                p.add(1).cast::<Value>().cast_const()
            } else {
                *p.add(1) as *const Value
            };
            Some(std::slice::from_raw_parts(items, (*p >> 1) as usize))
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
                FUN_PRIM => Fun::Prim(&*((w & !7) as *const Prim)),
                _ => return Value::raw(*p.add(1)).as_fun(),
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
