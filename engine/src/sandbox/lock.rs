//! Locks of working trees: files whose lock the kernel ends with their owner.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;
use std::time::Duration;

use rustix::fs::FlockOperation;

use super::outcome::{Control, SandboxError};

/// Pause between two looks at a lock that somebody else holds.
pub(super) const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Opens a lock, which is made if it is not there.
pub(super) fn open_lock(path: &Path) -> Result<File, SandboxError> {
    let opened = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path);
    match opened {
        Ok(file) => Ok(file),
        // One that root has made can be locked all the same.
        Err(e) if e.kind() == io::ErrorKind::PermissionDenied => File::open(path),
        Err(e) => Err(e),
    }
    .map_err(|e| SandboxError::io(format!("open {}", path.display()), e))
}

/// Opens a lock that is there, for who only looks: a file that root made in the store of a user would be in the user's way.
pub(super) fn find_lock(path: &Path) -> Result<Option<File>, SandboxError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(SandboxError::io(format!("open {}", path.display()), e)),
    }
}

/// Locks without waiting; tells whether that was possible.
pub(super) fn try_lock(file: &File, operation: FlockOperation) -> Result<bool, SandboxError> {
    match rustix::fs::flock(file, operation) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
        Err(e) => Err(SandboxError::io("lock a working tree", e)),
    }
}

/// Ends what is under way when that was asked for.
pub(super) fn check_cancelled(control: &Control) -> Result<(), SandboxError> {
    if control.cancel.is_cancelled() {
        Err(SandboxError::Cancelled)
    } else {
        Ok(())
    }
}

/// Waits until nobody else has a lock, and takes it.
pub(super) fn wait_for(lock: &File, control: &Control) -> Result<(), SandboxError> {
    while !try_lock(lock, FlockOperation::NonBlockingLockExclusive)? {
        check_cancelled(control)?;
        std::thread::sleep(LOCK_PAUSE);
    }
    Ok(())
}
