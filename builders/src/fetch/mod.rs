//! Fetching fixed outputs: several sources in order, checked while streaming, resumed when cut.
//!
//! One [`Fetcher`] serves a whole run. It keeps the connections, remembers which servers do not answer, and knows
//! whether the network may be used at all. Three faces look at it: the builders `builtin:fetch` and Nix's
//! `builtin:fetchurl`, and the blocking [`Download`] that locking uses.

pub(crate) mod archive;
mod builder;
mod download;
mod failure;
mod fetcher;
mod from_git;
mod health;
mod limits;
mod observer;
mod output;
#[cfg(test)]
mod output_tests;
mod report;
mod sink;
mod transfer;
mod zip;

#[cfg(test)]
mod resume_tests;
#[cfg(test)]
pub(crate) mod test_server;
#[cfg(test)]
mod tests;

pub(crate) use archive::{commit_of_archive, unpack};
pub use builder::{FetchBuilder, FetchUrlBuilder};
pub use download::{Accept, Download, Downloaded};
pub use failure::Failure;
pub(crate) use failure::{ClearText, Placed};
pub use fetcher::{FetchError, Fetched, Fetcher, Request};
pub(crate) use fetcher::{Way, offline, redirects};
pub use limits::Limits;
pub use observer::{Observer, Quiet};
pub(crate) use report::unwritable;
pub use sink::{FileSink, MemorySink, Sink};
pub(crate) use transfer::{looks_like_html, send_failure};
