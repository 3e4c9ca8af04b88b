//! Black-box tests of the `sos` binary, of the examples, and of the structure of the project.

#![allow(clippy::print_stderr, reason = "a skipped test says why")]
#![allow(
    clippy::disallowed_methods,
    reason = "tests read the environment and measure time; no output depends on it"
)]

mod boot;
mod bootstrap;
mod cli;
mod crash;
mod debian;
mod demo;
mod nix;
mod robust;
mod serve;
mod structure;
mod support;
