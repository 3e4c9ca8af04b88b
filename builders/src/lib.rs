//! Builtin builders: fetch, Debian, rootfs edits, OCI.
