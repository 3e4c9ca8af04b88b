//! HTTP mirrors of a store: a Nix binary cache, images by the OCI distribution API, OSTree repositories, distfiles, and a page that lists
//! them.
//!
//! | path | what it is | file |
//! |---|---|---|
//! | `/` | the page | `page.rs` |
//! | `/nix-cache-info`, `/<hash>.narinfo`, `/nar/…` | every valid tree of the store | `nix.rs` |
//! | `/realisations/…` | what came out of content-addressed targets | `nix.rs` |
//! | `/v2/…` | images that are offered | `oci/` |
//! | `/ostree/…` | commits that are offered, as one archive repository, or one outside the store | `ostree.rs`, `repository.rs` |
//! | `/<NAME>` | files pinned by the hash of their content | `distfiles.rs` |
//!
//! [`Offers`] says which targets are there and under which names; [`Mirror`] answers requests; [`Server`] speaks HTTP. Requests are
//! answered on threads that may block, and what is long is written as it is read: nothing is put on the disk for it. What is being
//! sent is either open already, or held by a lease, so that a collection beside it leaves it alone; where that fails, the connection
//! ends before the length that was promised.
#![forbid(unsafe_code)]

mod answer;
mod body;
mod distfiles;
mod error;
mod files;
mod guard;
mod mirror;
mod nix;
mod oci;
mod offers;
mod ostree;
mod page;
mod range;
mod repository;
mod request;
mod server;
mod sign;

pub use error::{Result, ServeError};
pub use mirror::{Mirror, MirrorOptions};
pub use offers::{Offered, Offers, Target};
pub use server::{Limits, Server};
pub use sign::SecretKey;
pub use sos_formats::narinfo::Compression;
