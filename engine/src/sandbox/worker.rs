//! A worker, seen from `sos`: changes and reads files that belong to the ids of the step namespace.
//!
//! Starting one takes longer than the work of an ordinary step, so those that are done wait for the next step.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};

use sos_formats::manifest::Meta;

use super::child::Helper;
use super::namespaces;
use super::outcome::{Control, SandboxError};
use super::protocol::{Captured, Done, Op, Request, UsernsKind, WireKind, WireMeta};
use super::run::failure_error;

/// The most workers that wait for work.
const MAX_IDLE: usize = 4;
/// The thread that starts a worker does nothing else.
const KEEPER_STACK_BYTES: usize = 64 << 10;

static IDLE: Mutex<Vec<Process>> = Mutex::new(Vec::new());

fn idle() -> MutexGuard<'static, Vec<Process>> {
    // What is inside is only ever pushed and taken whole.
    IDLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Ends the workers that wait for work.
pub(super) fn end_idle() {
    let ended = std::mem::take(&mut *idle());
    drop(ended);
}

/// A process that works, and the thread that started it: the kernel ends the one when the other ends.
struct Process {
    helper: Helper,
    exe: Option<PathBuf>,
    _keeper: Sender<()>,
}

impl Process {
    fn start(exe: Option<&Path>) -> Result<Self, SandboxError> {
        let userns = namespaces::userns(UsernsKind::Multi, exe)?;
        let (alive, ended) = channel::<()>();
        let (to_us, from_keeper) = channel();
        let keeper_exe = exe.map(Path::to_owned);
        std::thread::Builder::new()
            .name("worker keeper".to_owned())
            .stack_size(KEEPER_STACK_BYTES)
            .spawn(move || {
                // Whoever asked may be gone, and the helper with it.
                let _gone = to_us.send(Helper::spawn(keeper_exe.as_deref()));
                // Ends when the sender is dropped: nothing is ever sent.
                let _ended = ended.recv();
            })
            .map_err(|e| SandboxError::io("start a thread", e))?;
        let mut helper = from_keeper
            .recv()
            .map_err(|_closed| SandboxError::Protocol)??;
        helper.send(&Request::Work, &[userns.as_fd()])?;
        Ok(Self {
            helper,
            exe: exe.map(Path::to_owned),
            _keeper: alive,
        })
    }

    /// Takes one that waits, unless it was killed meanwhile.
    fn take(exe: Option<&Path>) -> Option<Self> {
        loop {
            let process = {
                let mut idle = idle();
                let at = idle.iter().rposition(|p| p.exe.as_deref() == exe)?;
                idle.swap_remove(at)
            };
            if process.helper.is_silent() {
                return Some(process);
            }
        }
    }
}

/// A started worker; dropping it ends it in the middle of its work, and else lets it wait for more.
pub(super) struct Worker {
    process: Option<Process>,
    /// Something was sent whose end is not known.
    busy: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        let Some(process) = self.process.take().filter(|_| !self.busy) else {
            return;
        };
        let mut idle = idle();
        if idle.len() < MAX_IDLE {
            idle.push(process);
        }
    }
}

impl Worker {
    /// Takes or starts a worker in the namespace of steps.
    pub(super) fn start(control: &Control) -> Result<Self, SandboxError> {
        let exe = control.exe.as_deref();
        let process = match Process::take(exe) {
            Some(process) => process,
            None => Process::start(exe)?,
        };
        Ok(Self {
            process: Some(process),
            busy: false,
        })
    }

    fn helper(&mut self) -> Result<&mut Helper, SandboxError> {
        match &mut self.process {
            Some(process) => Ok(&mut process.helper),
            None => Err(SandboxError::Protocol),
        }
    }

    /// Sends an operation that has no answer of its own; its failure shows at the next one that has.
    pub(super) fn tell(&mut self, op: &Op, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        self.busy = true;
        let helper = self.helper()?;
        match helper.send(op, fds) {
            // A worker that fails says why and ends: that is what sending met.
            Err(SandboxError::HelperDied { how }) => match helper.receive_as::<Done>() {
                Ok((Done::Failed(failure), _)) => Err(failure_error(failure)),
                _ => Err(SandboxError::HelperDied { how }),
            },
            other => other,
        }
    }

    /// Sends an operation and waits until it is done.
    pub(super) fn ask(&mut self, op: &Op) -> Result<(), SandboxError> {
        self.tell(op, &[])?;
        match self.helper()?.receive_as::<Done>()? {
            (Done::Ok, _) => {
                self.busy = false;
                Ok(())
            }
            (Done::Failed(failure), _) => Err(failure_error(failure)),
        }
    }

    /// Makes the entries relative to this directory from now on.
    pub(super) fn base(&mut self, dir: &Path) -> Result<(), SandboxError> {
        self.tell(
            &Op::Base {
                dir: dir.to_owned(),
            },
            &[],
        )
    }

    /// Moves the file at this path from the layer of the last [`Op::Left`] to the base.
    pub(super) fn adopt(&mut self, path: &[u8], meta: &Meta) -> Result<(), SandboxError> {
        let op = Op::Adopt {
            path: path.to_vec(),
            meta: to_wire(meta),
        };
        self.tell(&op, &[])
    }

    /// Gives the file at this path, whose content stays, other metadata.
    pub(super) fn meta(&mut self, path: &[u8], meta: &Meta) -> Result<(), SandboxError> {
        let op = Op::Meta {
            path: path.to_vec(),
            meta: to_wire(meta),
        };
        self.tell(&op, &[])
    }

    pub(super) fn put(
        &mut self,
        path: &[u8],
        meta: &Meta,
        kind: WireKind,
        content: Option<&OwnedFd>,
    ) -> Result<(), SandboxError> {
        let fds: Vec<BorrowedFd<'_>> = content.iter().map(|fd| fd.as_fd()).collect();
        self.tell(
            &Op::Put {
                path: path.to_vec(),
                meta: to_wire(meta),
                kind,
            },
            &fds,
        )
    }

    /// Removes a path with all below it, whoever owns it.
    pub(super) fn remove_tree(&mut self, path: &Path) -> Result<(), SandboxError> {
        self.ask(&Op::RemoveTree {
            path: path.to_owned(),
        })
    }

    /// Reads an upper layer and calls `found` for everything in it.
    pub(super) fn capture(
        &mut self,
        upper: &Path,
        found: &mut dyn FnMut(Captured, Option<OwnedFd>) -> Result<(), SandboxError>,
    ) -> Result<(), SandboxError> {
        self.tell(
            &Op::Capture {
                upper: upper.to_owned(),
            },
            &[],
        )?;
        loop {
            let (message, fds) = self.helper()?.receive_as::<Captured>()?;
            match message {
                Captured::End => {
                    self.busy = false;
                    return Ok(());
                }
                Captured::Failed(failure) => return Err(failure_error(failure)),
                message => found(message, fds.into_iter().next())?,
            }
        }
    }
}

pub(super) fn to_wire(meta: &Meta) -> WireMeta {
    WireMeta {
        mode: meta.mode.into(),
        uid: meta.uid,
        gid: meta.gid,
        secs: meta.mtime_secs,
        nsecs: meta.mtime_nsecs,
        xattrs: meta
            .xattrs
            .iter()
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect(),
    }
}

pub(super) fn from_wire(meta: WireMeta) -> Result<Meta, SandboxError> {
    Ok(Meta {
        mode: u16::try_from(meta.mode).map_err(|_too_big| SandboxError::Protocol)?,
        uid: meta.uid,
        gid: meta.gid,
        mtime_secs: meta.secs,
        mtime_nsecs: meta.nsecs,
        xattrs: meta.xattrs.into_iter().collect(),
    })
}
