//! Machines that start what was built: QEMU, with its serial line as the console.

mod console;
mod machine;

pub(crate) use console::{Outcome, Watch, converse, watch};
pub(crate) use machine::{Bus, Image, Machine, Payload, command, is_payload, look_for};
