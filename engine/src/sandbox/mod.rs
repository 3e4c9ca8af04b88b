//! Runs one program where it can see and change nothing but what its plan lists.
//!
//! Processes: `sos` (threads) starts a *launcher* (`sos __sandbox`, one thread) and speaks with it over a socket.
//! The launcher enters a user namespace and stays; for each run it forks *init* (process 1 of new namespaces), which
//! speaks with `sos` over a socket of its own, builds the root directory and starts the *program*. When any of the first
//! three dies, the kernel kills the rest: init asks for a death signal, and both watch their sockets, whose other ends
//! only `sos` holds.

mod bytes;
mod capture;
pub(crate) mod cgroup;
mod channel;
mod child;
mod converse;
mod devices;
mod difference;
mod files;
mod guard;
mod helper;
pub(crate) mod ids;
mod init;
mod launcher;
mod layer;
mod lock;
mod namespaces;
mod network;
mod outcome;
mod owners;
mod place;
mod prepared;
mod protocol;
mod root;
mod run;
mod seccomp;
pub(crate) mod self_test;
pub mod spec;
mod step;
mod sys;
mod tree;
mod vary;
mod watch;
mod worker;
mod worker_child;

pub use converse::{Streams, Window, converse};
pub use helper::{HELPER_ARGUMENT, child_main};
pub(crate) use ids::map_name;
pub use launcher::Session;
pub(crate) use launcher::start_early;
pub(crate) use outcome::HELPER_DIED;
pub use outcome::{Control, Exit, Outcome, SandboxError};
pub use prepared::PreparedSets;
pub use run::run;
pub use spec::{Bind, InlineFile, Input, Limits, Shape, Spec};
pub use step::{
    NamespaceRemover, STEP_DIR, STEP_OUT, STEP_SCRIPT, StepMount, StepOutcome, StepOutput,
    StepSpec, converse_in_step, remove_tree, reset_work_trees, run_step,
};
pub use sys::ends_with_us;
pub use vary::Vary;
pub(crate) use vary::can_move_uptime;
pub use watch::Watched;
