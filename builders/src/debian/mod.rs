//! Debian archives: verified indexes, a resolver that chooses as apt does, locks, and unpacking.

mod archive;
pub(crate) mod codec;
mod local;
mod order;
mod resolve;
mod select;
mod solve;
mod suite;
mod universe;
mod unpack;
pub mod verify;

pub use archive::Archive;
pub use resolve::SOLVER;
pub use unpack::UnpackBuilder;
