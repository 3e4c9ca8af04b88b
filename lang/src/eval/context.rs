//! String contexts: interned sets of what a string depends on. Zero is the empty set.

use hashbrown::HashTable;
use rustc_hash::{FxHashMap, FxHasher};
use std::hash::{Hash, Hasher};

use super::Vm;
use crate::host::ContextElem;

/// All elements and sets seen so far.
#[derive(Default)]
pub(crate) struct Contexts {
    /// With their hashes: the table is built anew as it grows.
    elems: Vec<(u64, ContextElem)>,
    elem_ids: HashTable<u32>,
    /// With their hashes.
    sets: Vec<(u64, Box<[u32]>)>,
    set_ids: HashTable<u32>,
    unions: FxHashMap<(u32, u32), u32>,
}

fn hash<T: Hash + ?Sized>(s: &T) -> u64 {
    let mut h = FxHasher::default();
    s.hash(&mut h);
    h.finish()
}

impl Contexts {
    fn elem(&mut self, e: ContextElem) -> u32 {
        let h = hash(&e);
        let Self {
            elems, elem_ids, ..
        } = self;
        if let Some(&i) = elem_ids.find(h, |&i| {
            let (hash, elem) = &elems[i as usize];
            *hash == h && *elem == e
        }) {
            return i;
        }
        let i = elems.len() as u32;
        elems.push((h, e));
        elem_ids.insert_unique(h, i, |&i| elems[i as usize].0);
        i
    }

    /// `ids` must be sorted, without duplicates.
    fn set(&mut self, ids: &[u32]) -> u32 {
        if ids.is_empty() {
            return 0;
        }
        let h = hash(ids);
        let Self { sets, set_ids, .. } = self;
        if let Some(&i) = set_ids.find(h, |&i| {
            let (hash, set) = &sets[i as usize];
            *hash == h && **set == *ids
        }) {
            return i + 1;
        }
        let i = sets.len() as u32;
        sets.push((h, ids.into()));
        set_ids.insert_unique(h, i, |&i| sets[i as usize].0);
        i + 1
    }

    fn ids(&self, set: u32) -> &[u32] {
        match set.checked_sub(1) {
            Some(i) => &self.sets[i as usize].1,
            None => &[],
        }
    }

    /// Shows every element of a context, in no order that means anything.
    pub(crate) fn each<'a>(&'a self, set: u32, mut f: impl FnMut(&'a ContextElem)) {
        for &i in self.ids(set) {
            f(&self.elems[i as usize].1);
        }
    }

    fn union(&mut self, a: u32, b: u32) -> u32 {
        let key = (a.min(b), a.max(b));
        if let Some(&r) = self.unions.get(&key) {
            return r;
        }
        let mut v = [self.ids(a), self.ids(b)].concat();
        v.sort_unstable();
        v.dedup();
        let r = self.set(&v);
        self.unions.insert(key, r);
        r
    }
}

/// Collects the contexts of many strings and interns the result once.
#[derive(Default)]
pub(crate) struct Collector {
    one: u32,
    more: Vec<u32>,
}

impl Collector {
    pub(crate) fn add(&mut self, ctx: u32) {
        if ctx == 0 || ctx == self.one {
            return;
        }
        if self.one == 0 {
            self.one = ctx;
        } else if self.more.last() != Some(&ctx) {
            self.more.push(ctx);
        }
    }

    pub(crate) fn finish(mut self, vm: &Vm) -> u32 {
        if self.more.is_empty() {
            return self.one;
        }
        if let [b] = self.more[..] {
            return vm.ctx_union(self.one, b);
        }
        self.more.push(self.one);
        self.more.sort_unstable();
        self.more.dedup();
        let mut c = vm.contexts.borrow_mut();
        let mut ids: Vec<u32> = self
            .more
            .iter()
            .flat_map(|&s| c.ids(s).iter().copied())
            .collect();
        ids.sort_unstable();
        ids.dedup();
        c.set(&ids)
    }
}

impl Vm {
    /// The union of two contexts.
    #[inline(always)]
    pub(crate) fn ctx_union(&self, a: u32, b: u32) -> u32 {
        if a == b || b == 0 {
            a
        } else if a == 0 {
            b
        } else {
            self.contexts.borrow_mut().union(a, b)
        }
    }

    /// The context with these elements.
    pub(crate) fn ctx_of(&self, elems: impl IntoIterator<Item = ContextElem>) -> u32 {
        let mut c = self.contexts.borrow_mut();
        let mut ids: Vec<u32> = elems.into_iter().map(|e| c.elem(e)).collect();
        ids.sort_unstable();
        ids.dedup();
        c.set(&ids)
    }

    /// The context with one element.
    pub(crate) fn ctx_one(&self, elem: ContextElem) -> u32 {
        let mut c = self.contexts.borrow_mut();
        let id = c.elem(elem);
        c.set(&[id])
    }

    /// The elements of a context, sorted.
    pub(crate) fn ctx_elems(&self, ctx: u32) -> Vec<ContextElem> {
        let c = self.contexts.borrow();
        let mut v: Vec<ContextElem> = c
            .ids(ctx)
            .iter()
            .map(|&i| c.elems[i as usize].1.clone())
            .collect();
        v.sort_unstable();
        v
    }
}
