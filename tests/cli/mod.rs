//! The verbs, one file a subject.

mod bad_input;
mod builds;
mod damage;
mod events;
mod language;
mod verbs;
