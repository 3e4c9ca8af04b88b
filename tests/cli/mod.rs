//! The verbs, one file a subject.

mod bad_input;
mod builds;
mod eval_cache;
mod language;
mod verbs;
