//! Pure byte formats and ids of sos: no I/O of its own, no clock, no async.
//!
//! Readers take foreign bytes: every one of them is bounded (declared sizes are checked before memory is
//! taken, depth is limited, nothing recurses on input depth) and answers with an error, never with a panic.
#![forbid(unsafe_code)]

pub mod architecture;
pub mod builder_hex0;
pub mod calendar;
pub mod crc32c;
pub mod deb;
pub mod deflate;
pub mod derivation;
pub mod diagnostic;
pub mod file_name;
pub mod flake_lock;
pub mod flake_ref;
pub mod gpt;
pub mod gvariant;
pub mod hash;
pub mod iso9660;
pub mod label;
pub mod lock;
pub mod manifest;
pub mod nar;
pub mod narinfo;
pub mod nix32;
pub mod ostree;
pub mod payload;
pub mod store_path;
pub mod tar;
pub mod uuid;

/// A byte string that need not be UTF-8: names, link targets, environment values.
pub type Bytes = Vec<u8>;
