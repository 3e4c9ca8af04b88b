//! Locks that tell whether an export is still at work. They end with the process that has them, however it ends, and hold between containers
//! that share a directory, where numbers of processes say nothing.

use std::fmt;
use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use sos_engine::BuilderError;

use super::directory::failed;

/// What became of asking for a lock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lock {
    /// Nobody else had it.
    Taken,
    /// Somebody has it.
    Held,
    /// The file system has no locks.
    Unknown,
}

/// Asks for the lock of a file, which is kept for as long as the file is open. Does not wait.
pub(super) fn try_lock(file: &File) -> io::Result<Lock> {
    lock(file, FlockOperation::NonBlockingLockExclusive)
}

fn lock(file: &File, operation: FlockOperation) -> io::Result<Lock> {
    loop {
        match rustix::fs::flock(file, operation) {
            Ok(()) => return Ok(Lock::Taken),
            Err(Errno::WOULDBLOCK) => return Ok(Lock::Held),
            Err(Errno::INTR) => {}
            Err(Errno::BADF | Errno::INVAL | Errno::NOLCK | Errno::NOSYS | Errno::OPNOTSUPP) => {
                return Ok(Lock::Unknown);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// Who is told, once, of the directory that an export has to wait for. By default nobody.
#[derive(Clone, Copy, Default)]
pub struct OnWait<'a>(pub Option<&'a dyn Fn(&Path)>);

impl fmt::Debug for OnWait<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OnWait").field(&self.0.is_some()).finish()
    }
}

/// A directory in which no other export writes while this lives. It leaves nothing behind: the lock is one of the directory itself. A
/// file system without locks has none: there exports into one place must follow each other.
#[derive(Debug)]
pub(super) struct Alone {
    _dir: File,
    lock: Lock,
}

impl Alone {
    /// Waits until no other export writes into `dir`.
    pub(super) fn of(dir: &Path, on_wait: OnWait<'_>) -> Result<Self, BuilderError> {
        let file = File::open(dir).map_err(|e| failed("open", dir, e))?;
        let cannot = |e| failed("lock", dir, e);
        let mut found = try_lock(&file).map_err(cannot)?;
        if found == Lock::Held {
            if let Some(tell) = on_wait.0 {
                tell(dir);
            }
            found = lock(&file, FlockOperation::LockExclusive).map_err(cannot)?;
        }
        Ok(Self {
            _dir: file,
            lock: found,
        })
    }

    /// Whether it is certain, so that all that is half written in there is of exports that have ended.
    pub(super) fn is_certain(&self) -> bool {
        self.lock == Lock::Taken
    }
}
