//! Attribute sets: a shape (the sorted names) shared by many sets, and the values.

use std::cell::{OnceCell, RefCell};
use std::hash::{Hash, Hasher};

use hashbrown::HashTable;

use super::arena;
use super::kept::{Kept, keep};
use super::symbol::Sym;
use super::value::Value;
use crate::ir::Pos;

/// The names of an attribute set in the order of their symbols, with the place where each was written.
pub(crate) struct Shape {
    /// Sorted, without duplicates.
    pub(crate) syms: Kept<Sym>,
    /// Either empty (nothing known) or as long as `syms`.
    pub(crate) pos: Kept<Pos>,
    /// A bit per symbol, by its number modulo 64: most names that are not there are known to be so by this.
    mask: u64,
    order: OnceCell<Kept<u32>>,
    bare: OnceCell<&'static Shape>,
}

thread_local! {
    /// Shapes without places by their names.
    static BARE: RefCell<HashTable<&'static Shape>> = RefCell::default();
}

impl Shape {
    /// The shape with these names and no places: always the same one, so that what is remembered per shape serves all sets made
    /// of the same names. `syms` must be strictly ascending.
    pub(crate) fn of(syms: &[Sym]) -> &'static Shape {
        let hash = |syms: &[Sym]| {
            let mut h = rustc_hash::FxHasher::default();
            syms.hash(&mut h);
            h.finish()
        };
        BARE.with_borrow_mut(|known| {
            let h = hash(syms);
            if let Some(shape) = known.find(h, |s| *s.syms == *syms) {
                return *shape;
            }
            let shape = Shape::new(syms.into(), Kept::default());
            known.insert_unique(h, shape, |s| hash(&s.syms));
            shape
        })
    }

    /// Makes a shape. `syms` must be strictly ascending.
    pub(crate) fn new(syms: Kept<Sym>, pos: Kept<Pos>) -> &'static Shape {
        debug_assert!(syms.windows(2).all(|w| w[0] < w[1]));
        debug_assert!(pos.is_empty() || pos.len() == syms.len());
        keep(Shape {
            mask: syms.iter().fold(0, |m, s| m | s.bit()),
            syms,
            pos,
            order: OnceCell::new(),
            bare: OnceCell::new(),
        })
    }

    /// Number of names.
    #[inline(always)]
    pub(crate) fn len(&self) -> usize {
        self.syms.len()
    }

    /// Index of a name.
    #[inline]
    pub(crate) fn find(&self, s: Sym) -> Option<usize> {
        if self.mask & s.bit() == 0 {
            return None;
        }
        let syms = &*self.syms;
        if syms.len() <= 8 {
            return syms.iter().position(|&x| x == s);
        }
        syms.binary_search(&s).ok()
    }

    /// The same names without places.
    pub(crate) fn bare(&'static self) -> &'static Shape {
        if self.pos.is_empty() {
            return self;
        }
        self.bare.get_or_init(|| Shape::of(&self.syms))
    }

    /// Place of the attribute with this index.
    pub(crate) fn pos_at(&self, i: usize) -> Pos {
        self.pos.get(i).copied().unwrap_or(Pos::NONE)
    }

    /// Indices in the order of the bytes of the names.
    pub(crate) fn by_name(&self) -> &[u32] {
        self.order.get_or_init(|| {
            let mut v: Vec<(&'static [u8], u32)> = self
                .syms
                .iter()
                .enumerate()
                .map(|(i, s)| (s.bytes(), i as u32))
                .collect();
            v.sort_unstable();
            v.into_iter().map(|(_, i)| i).collect()
        })
    }
}

/// An attribute set: the word of the shape, then the values in the order of the shape.
#[derive(Clone, Copy)]
pub(crate) struct Attrs(pub(super) *const u64);

impl Attrs {
    /// Builds a set; `f` gives the value for each index of the shape.
    #[inline]
    pub(crate) fn build<E>(
        shape: &'static Shape,
        mut f: impl FnMut(usize) -> Result<Value, E>,
    ) -> Result<Attrs, E> {
        let n = shape.len();
        let p = arena::words(n + 1);
        // SAFETY: `p` has n + 1 words of our own; nobody sees them before all are written.
        unsafe {
            *p = std::ptr::from_ref(shape) as u64;
            for i in 0..n {
                *p.add(i + 1) = f(i)?.word();
            }
        }
        Ok(Attrs(p))
    }

    /// Builds a set from values in the order of the shape.
    pub(crate) fn new(shape: &'static Shape, values: &[Value]) -> Attrs {
        assert_eq!(shape.len(), values.len());
        let p = arena::words(values.len() + 1);
        // SAFETY: `p` has room for the header and the values; `Value` is a transparent word.
        unsafe {
            *p = std::ptr::from_ref(shape) as u64;
            std::ptr::copy_nonoverlapping(values.as_ptr().cast::<u64>(), p.add(1), values.len());
        }
        Attrs(p)
    }

    /// Builds a set from pairs in any order; the first of equal names wins.
    pub(crate) fn from_pairs(mut pairs: Vec<(Sym, Value, Pos)>) -> Attrs {
        pairs.sort_by_key(|p| p.0);
        pairs.dedup_by_key(|p| p.0);
        Self::from_sorted(&pairs)
    }

    /// Builds a set from pairs with strictly ascending names.
    pub(crate) fn from_sorted(pairs: &[(Sym, Value, Pos)]) -> Attrs {
        let syms: Vec<Sym> = pairs.iter().map(|p| p.0).collect();
        let shape = if pairs.iter().all(|p| p.2 == Pos::NONE) {
            Shape::of(&syms)
        } else {
            Shape::new(syms.into(), pairs.iter().map(|p| p.2).collect())
        };
        let p = arena::words(pairs.len() + 1);
        // SAFETY: as in `new`.
        unsafe {
            *p = std::ptr::from_ref(shape) as u64;
            for (i, x) in pairs.iter().enumerate() {
                *p.add(i + 1) = x.1.word();
            }
        }
        Attrs(p)
    }

    /// The set without attributes.
    pub(crate) fn empty() -> Attrs {
        thread_local! { static EMPTY: Attrs = Attrs::from_sorted(&[]); }
        EMPTY.with(|e| *e)
    }

    /// The shape.
    #[inline(always)]
    pub(crate) fn shape(self) -> &'static Shape {
        // SAFETY: the first word of a set is a leaked shape.
        unsafe { &*(*self.0 as *const Shape) }
    }

    /// Number of attributes.
    #[inline(always)]
    pub(crate) fn len(self) -> usize {
        self.shape().len()
    }

    /// The values in the order of the shape.
    #[inline(always)]
    pub(crate) fn values(self) -> &'static [Value] {
        // SAFETY: a set has as many values as its shape has names; they are never written again.
        unsafe { std::slice::from_raw_parts(self.0.add(1).cast::<Value>(), self.len()) }
    }

    /// The value of a name.
    #[inline]
    pub(crate) fn get(self, s: Sym) -> Option<Value> {
        self.shape().find(s).map(|i| self.values()[i])
    }

    /// Names and values in the order of symbols.
    pub(crate) fn iter(self) -> impl Iterator<Item = (Sym, Value)> {
        self.shape()
            .syms
            .iter()
            .copied()
            .zip(self.values().iter().copied())
    }

    /// Names and values in the order of the bytes of the names.
    pub(crate) fn iter_by_name(self) -> impl Iterator<Item = (Sym, Value)> {
        self.shape()
            .by_name()
            .iter()
            .map(move |&i| (self.shape().syms[i as usize], self.values()[i as usize]))
    }

    /// Name, value and place in the order of symbols.
    pub(crate) fn entries(self) -> impl Iterator<Item = (Sym, Value, Pos)> {
        self.iter()
            .enumerate()
            .map(move |(i, (s, v))| (s, v, self.shape().pos_at(i)))
    }
}
