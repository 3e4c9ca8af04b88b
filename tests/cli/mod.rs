//! The verbs, one file a subject.

mod bad_input;
mod builds;
mod causes;
mod content_addressed;
mod damage;
mod diff;
mod disk;
mod eval_cache;
mod eval_cache_sources;
mod events;
mod export;
mod fetchers;
mod filesystem;
mod flags;
mod flakes;
mod graph;
mod language;
mod logs;
mod order;
mod repl;
mod screen;
mod shell;
mod verbs;
mod verify;
mod why;
mod why_thousand;
