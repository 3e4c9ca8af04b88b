//! The build engine: graph, scheduler, sandbox, events.
//!
//! A graph of derivations goes in, outputs and events come out. The engine knows neither the language nor any
//! artifact format: it runs commands in a sandbox and calls builders through the [`Builder`] trait.

mod attributes;
mod builder;
pub mod cancel;
mod cause;
mod checks;
mod choice;
mod clock;
mod context;
mod dag;
mod diagnose;
mod engine;
mod environment;
pub mod event;
mod executor;
mod features;
mod graph;
mod hashing;
mod in_process;
mod journal;
mod kept;
mod needed;
mod nix_shape;
mod of_root;
mod options;
mod other;
mod output;
pub mod probe;
mod references;
mod report;
mod resolve;
mod rewrite;
mod run;
pub mod sandbox;
mod schedule;
mod shell;
mod source_drvs;
mod step;
mod structured;
mod substitute;
#[cfg(test)]
mod test_store;
pub mod verify;
mod watched;
mod ways;
pub mod why;
mod work;

pub use builder::{Builder, BuilderError, HashMismatch, Pool, Registry};
pub use cancel::{Cancel, Subscription};
pub use cause::{Cause, Causes, ChangedFile, Only, TextChange};
pub use clock::{Clock, SystemClock, rfc3339};
pub use context::BuilderCtx;
pub use dag::{DagNode, DagState};
pub use diagnose::{duration_text, in_notation_of, written_hash};
pub use engine::{BuildReport, Engine, Plan, Planned};
pub use event::{EVENT_VERSION, Event, EventRecord, EventSink, Status, Text, Time, event_schema};
pub use features::of_this_machine as features_of_this_machine;
pub use graph::{Graph, Wanted};
pub use journal::{StepDetail, StepInput, StepOutput};
pub use kept::{failed_file, failed_named, has_failed};
pub use needed::{all_there, load as load_derivation, present_output};
pub use options::BuildOptions;
pub use report::{Excerpt, Reporter, TAIL_LINES};
pub use run::Counts;
pub use shell::{Shell, ShellFacts, ShellWish};
pub use substitute::{Substituter, Transfer};
pub use watched::Whose;
pub use ways::{ways_of_build, ways_of_references};
