//! Interned names.

use std::cell::{Cell, RefCell};
use std::hash::{Hash, Hasher};

use hashbrown::HashTable;
use rustc_hash::FxHasher;

use super::string::Str;
use super::value::Value;

/// An interned name. The order of symbols is the order of their first use, not of their bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sym(pub(super) u32);

struct Table {
    map: HashTable<u32>,
    names: Vec<(Str, u64)>,
}

/// Entries of the table of recent texts.
const RECENT: usize = 256;

/// A text by its address and length, and its symbol.
#[derive(Clone, Copy)]
struct Recent {
    address: usize,
    len: usize,
    sym: Sym,
}

thread_local! {
    /// The texts that became symbols lately, by address: the same few strings of the program come again and again.
    static RECENTLY: [Cell<Recent>; RECENT] = const {
        [const { Cell::new(Recent { address: 0, len: 0, sym: Sym(0) }) }; RECENT]
    };
    static TABLE: RefCell<Table> = const { RefCell::new(Table { map: HashTable::new(), names: Vec::new() }) };
}

fn hash(b: &[u8]) -> u64 {
    let mut h = FxHasher::default();
    b.hash(&mut h);
    h.finish()
}

impl Sym {
    /// Interns a name.
    pub(crate) fn new(name: &[u8]) -> Sym {
        let h = hash(name);
        TABLE.with_borrow_mut(|t| {
            let Table { map, names } = t;
            if let Some(&i) = map.find(h, |&i| {
                names[i as usize].1 == h && names[i as usize].0.bytes() == name
            }) {
                return Sym(i);
            }
            let i = names.len() as u32;
            names.push((Str::new(name, 0), h));
            map.insert_unique(h, i, |&i| names[i as usize].1);
            Sym(i)
        })
    }

    /// Interns a text that lives, unchanged, as long as this thread.
    #[inline]
    pub(crate) fn of(name: &'static [u8]) -> Sym {
        Self::recent(name, |name| Some(Self::new(name))).unwrap_or_else(|| Self::new(name))
    }

    /// The same for a text that may never have been interned.
    #[inline]
    pub(crate) fn known(name: &'static [u8]) -> Option<Sym> {
        Self::recent(name, Self::find)
    }

    #[inline]
    fn recent(name: &'static [u8], look: impl FnOnce(&[u8]) -> Option<Sym>) -> Option<Sym> {
        let (address, len) = (name.as_ptr().addr(), name.len());
        RECENTLY.with(|table| {
            let entry = &table[address / 8 % RECENT];
            let seen = entry.get();
            if seen.address == address && seen.len == len {
                return Some(seen.sym);
            }
            let sym = look(name)?;
            entry.set(Recent { address, len, sym });
            Some(sym)
        })
    }

    /// Looks a name up that may never have been interned.
    pub(crate) fn find(name: &[u8]) -> Option<Sym> {
        let h = hash(name);
        TABLE.with_borrow(|t| {
            t.map
                .find(h, |&i| {
                    t.names[i as usize].1 == h && t.names[i as usize].0.bytes() == name
                })
                .map(|&i| Sym(i))
        })
    }

    /// The names of this thread's symbols from the one with a number on, in their order. They live as long as the process: the thread
    /// that parses ahead is none of those whose heap is given back ([`super::on_thread`]).
    pub(crate) fn names_from(first: usize) -> Vec<&'static [u8]> {
        TABLE.with_borrow(|t| {
            let new = t.names.get(first..).unwrap_or_default();
            new.iter().map(|name| name.0.bytes()).collect()
        })
    }

    /// A bit that this symbol shares with every sixty-fourth.
    #[inline(always)]
    pub(super) fn bit(self) -> u64 {
        1 << (self.0 % 64)
    }

    /// A small number of its own, for tables.
    #[inline(always)]
    pub(crate) fn index(self) -> usize {
        self.0 as usize
    }

    /// The name as a string value without context.
    pub(crate) fn value(self) -> Value {
        Value::from_str_obj(self.str())
    }

    fn str(self) -> Str {
        TABLE.with_borrow(|t| t.names[self.0 as usize].0)
    }

    /// The bytes of the name.
    pub(crate) fn bytes(self) -> &'static [u8] {
        self.str().bytes()
    }

    /// The name for messages.
    pub(crate) fn text(self) -> std::borrow::Cow<'static, str> {
        String::from_utf8_lossy(self.bytes())
    }
}

impl std::fmt::Debug for Sym {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.text())
    }
}
