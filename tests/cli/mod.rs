//! The verbs, one file a subject.

mod bad_input;
mod builds;
mod causes;
mod damage;
mod eval_cache;
mod events;
mod fetchers;
mod flags;
mod flakes;
mod graph;
mod language;
mod repl;
mod shell;
mod verbs;
