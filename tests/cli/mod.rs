//! The verbs, one file a subject.

mod bad_input;
mod builds;
mod language;
mod verbs;
