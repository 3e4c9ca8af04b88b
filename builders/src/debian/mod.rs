//! Debian archives: verified indexes, a resolver that chooses as apt does, locks, and unpacking.

pub mod verify;
