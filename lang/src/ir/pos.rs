//! Positions: one number for a place in any of the loaded files.

/// A place: the base of a file plus a byte offset in it. Zero is no place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub(crate) struct Pos(pub(crate) u32);

impl Pos {
    /// No place.
    pub(crate) const NONE: Pos = Pos(0);
}
