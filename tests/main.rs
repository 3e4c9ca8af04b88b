//! Black-box tests of the `sos` binary, of the examples, and of the structure of the project.

#![allow(clippy::print_stderr, reason = "a skipped test says why")]

mod cli;
mod structure;
mod support;
