//! Tests of the evaluator through its public interface.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod api;
mod drvs;
mod errors;
mod flakes;
mod fuzz;
mod hints;
mod host;
mod language;
mod peer;
mod random;
mod suite;
