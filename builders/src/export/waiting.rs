//! For tests: what happens while another export has a place for itself.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::FlockOperation;

/// Runs `export`, which has to wait for `dir`, and `meanwhile` once it waits: what that leaves there, `export` finds.
#[track_caller]
pub(crate) fn meanwhile<T: Send>(
    dir: &Path,
    export: impl FnOnce() -> T + Send,
    meanwhile: impl FnOnce(),
) -> T {
    let held = File::open(dir).expect("a directory");
    rustix::fs::flock(&held, FlockOperation::LockExclusive).expect("a lock");
    std::thread::scope(|scope| {
        let export = scope.spawn(export);
        while !is_waited_for(&held) {
            assert!(!export.is_finished(), "it did not wait");
            std::thread::yield_now();
        }
        meanwhile();
        drop(held);
        export.join().expect("an export")
    })
}

/// Whether the kernel lists somebody who waits for the lock of a file.
fn is_waited_for(file: &File) -> bool {
    let number = file.metadata().expect("metadata").ino();
    let locks = fs::read_to_string("/proc/locks").expect("the locks of the machine");
    locks
        .lines()
        .any(|line| line.contains("->") && line.contains(&format!(":{number} ")))
}
