//! Where something that a library makes was written by the library's user, for messages.

use crate::error::R;
use crate::eval::Vm;
use crate::heap::{Attrs, Sym};
use crate::ir::Pos;

/// The attribute in which a library that comes with the program hands on the set that it was given.
pub(in crate::builtins) const NAME: &[u8] = b"__place";

/// The set that a library was given, when it hands one on; with anybody else the attribute is one like all others.
pub(in crate::builtins) fn given(vm: &Vm, set: Attrs) -> R<Option<Attrs>> {
    let at = set.shape().find(Sym::new(NAME));
    let Some(at) = at.filter(|i| vm.is_library(set.shape().pos_at(*i))) else {
        return Ok(None);
    };
    vm.force_attrs(set.values()[at], Pos::NONE).map(Some)
}

/// Where the user wrote a set: its name, or else the first of its attributes.
pub(in crate::builtins) fn find(vm: &Vm, given: Attrs) -> Pos {
    let written = |p: &Pos| vm.is_outside(*p);
    let first = || given.shape().pos.iter().copied().filter(written).min();
    let named = of(vm, given, vm.s.name);
    if named == Pos::NONE {
        first().unwrap_or_default()
    } else {
        named
    }
}

/// Where the user wrote an attribute; no place when it has none or is not there.
pub(in crate::builtins) fn of(vm: &Vm, given: Attrs, name: Sym) -> Pos {
    let at = given.shape().find(name);
    let pos = at.map(|i| given.shape().pos_at(i));
    pos.filter(|p| vm.is_outside(*p)).unwrap_or_default()
}
