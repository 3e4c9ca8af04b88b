//! Where a derivation was written, for messages about its build.

use crate::error::R;
use crate::eval::Vm;
use crate::heap::{Attrs, Sym};
use crate::ir::Pos;

/// The attribute in which a library that comes with the program hands on the set that it was given.
pub(super) const NAME: &[u8] = b"__place";

/// Where the user wrote a derivation: its name, or else the first of its attributes. A library that comes with the
/// program hands on the set that it was given, as `__place`.
pub(super) fn find(vm: &Vm, set: Attrs) -> R<Pos> {
    let given = match set.get(Sym::new(NAME)).filter(|_| is_given(vm, set)) {
        Some(v) => vm.force_attrs(v, Pos::NONE)?,
        None => set,
    };
    let written = |p: &Pos| *p != Pos::NONE && !vm.is_library(*p);
    let named = given.shape().find(vm.s.name);
    let named = named.map(|i| given.shape().pos_at(i)).filter(written);
    let first = || given.shape().pos.iter().copied().filter(written).min();
    Ok(named.or_else(first).unwrap_or_default())
}

/// Whether the attribute is that of the library; with anybody else it is one like all others.
pub(super) fn is_given(vm: &Vm, set: Attrs) -> bool {
    let at = set.shape().find(Sym::new(NAME));
    at.is_some_and(|i| vm.is_library(set.shape().pos_at(i)))
}
