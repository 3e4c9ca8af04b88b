//! Builtin builders: fetch, Debian, rootfs edits, OCI.

pub mod debian;
pub mod mirrors;
