//! Runs one program where it can see and change nothing but what its plan lists.
//!
//! Processes: `sos` (threads) starts the *helper* (`sos __sandbox`, one thread) and speaks with it over a socket.
//! The helper enters a user namespace, forks *init* (process 1 of a new pid namespace), which builds the root
//! directory and forks the *program*. When any of the first three dies, the kernel kills the rest: each asks for
//! a death signal, and each watches the socket, whose other end only `sos` holds.

mod bytes;
mod capture;
mod channel;
mod child;
mod converse;
mod difference;
mod files;
mod helper;
pub(crate) mod ids;
mod init;
mod namespaces;
mod outcome;
mod protocol;
mod root;
mod run;
mod seccomp;
pub(crate) mod self_test;
pub mod spec;
mod step;
mod sys;
mod tree;
mod worker;
mod worker_child;

pub use converse::{Streams, Window, converse};
pub use helper::{HELPER_ARGUMENT, child_main};
pub use outcome::{Control, Exit, Outcome, SandboxError};
pub use run::run;
pub use spec::{Bind, InlineFile, Input, Limits, Shape, Spec};
pub use step::{
    NamespaceRemover, STEP_DIR, STEP_OUT, STEP_SCRIPT, StepMount, StepOutcome, StepOutput,
    StepSpec, converse_in_step, remove_tree, reset_work_trees, run_step,
};
