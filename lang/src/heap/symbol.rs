//! Interned names.

use std::cell::RefCell;
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

thread_local! {
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
