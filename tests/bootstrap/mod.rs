//! Trees of bootstrap steps: small ones on busybox, and upstream's when `SOS_LIVE_BOOTSTRAP` names a checkout of it.

mod distfiles;
mod hidden;
mod jump;
mod media;
mod mirror;
mod own;
mod passes;
mod resume;
mod small;
mod upstream;
mod variables;
mod watched;
mod whose;

use std::path::PathBuf;

use crate::support::{World, say};

/// The checkout of live-bootstrap that `SOS_LIVE_BOOTSTRAP` names, with its submodules.
fn upstream() -> Option<PathBuf> {
    let path = std::env::var_os("SOS_LIVE_BOOTSTRAP").map(PathBuf::from);
    let path = path.filter(|path| path.join("steps/manifest").is_file());
    if path.is_none() {
        say("skipped: SOS_LIVE_BOOTSTRAP does not name a checkout of live-bootstrap");
    }
    path
}

/// Writes a tree of steps below the directory `tree` of the project.
fn write_tree(w: &World, files: &[(&str, &str)]) {
    for (name, text) in files {
        w.write(&format!("tree/{name}"), text);
    }
}
