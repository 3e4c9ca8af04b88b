//! The verbs, one file a subject.

mod bad_input;
mod builds;
mod eval_cache;
mod fetchers;
mod flakes;
mod language;
mod repl;
mod verbs;
