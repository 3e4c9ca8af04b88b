//! Where something that a library makes was written by the library's user, for messages.

use crate::error::R;
use crate::eval::Vm;
use crate::heap::{Attrs, Sym, Value};
use crate::ir::Pos;

/// How a derivation came to be made.
#[derive(Clone, Copy, Default)]
pub(in crate::builtins) struct Call {
    /// Where `derivation` is called.
    pub(in crate::builtins) pos: Pos,
    /// Where the function was called that does so; none when what the user wrote does it.
    pub(in crate::builtins) site: Pos,
}

impl Call {
    /// As a number, for a thunk to carry.
    pub(in crate::builtins) fn pack(self) -> Value {
        Value::int(i64::from(self.pos.0) << 32 | i64::from(self.site.0))
    }

    pub(in crate::builtins) fn unpack(packed: Value) -> Self {
        let number = packed.as_int().unwrap_or_default();
        let half = |n: i64| Pos(u32::try_from(n & i64::from(u32::MAX)).unwrap_or_default());
        Self {
            pos: half(number >> 32),
            site: half(number),
        }
    }
}

/// Names of attributes that a derivation is known by: where one of them was written is where it was.
const KNOWN_BY: [&[u8]; 4] = [b"name", b"pname", b"version", b"src"];

/// Where the user of whoever calls `derivation` wrote it. A function that makes derivations stands in a file of its own and adds
/// to what it is given; one that is given no set tells nothing by its attributes, but was called somewhere.
pub(in crate::builtins) fn of_call(vm: &Vm, set: Attrs, call: Call) -> Pos {
    let by_user = |p: &Pos| vm.is_outside(*p) && !vm.is_same_file(*p, call.pos);
    if vm.is_outside(call.pos) {
        let known = KNOWN_BY
            .iter()
            .map(|name| of(vm, set, Sym::new(name)))
            .find(by_user);
        // Files are in the order in which they were met: the first is that of the recipe.
        let first = || set.shape().pos.iter().copied().filter(by_user).min();
        if let Some(pos) = known.or_else(first) {
            return pos;
        }
    }
    if vm.is_outside(call.site) {
        call.site
    } else {
        find(vm, set)
    }
}

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
