//! The verbs, one file a subject.

mod builds;
mod bad_input;
mod language;
mod verbs;
