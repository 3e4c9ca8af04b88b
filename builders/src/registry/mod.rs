//! Registries that speak the distribution protocol of OCI: images go there and come from there.
//!
//! Plain http is spoken on this machine, and with those who are named for it. Credentials are read when a registry asks for them, and go to no other host.

mod access;
mod auth;
mod challenge;
mod client;
#[cfg(test)]
mod odd_tests;
mod pull;
mod push;
mod reference;
mod referrers;
mod resolve;
#[cfg(test)]
mod test_registry;
#[cfg(test)]
mod tests;
mod words;

pub use access::{Access, PlainHttp};
pub use auth::AuthFiles;
pub use pull::OciPullBuilder;
pub use push::{Pushed, push};
pub use reference::Reference;
pub use resolve::{Resolved, resolve};
