//! A worker, seen from `sos`: changes and reads files that belong to the ids of the step namespace.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use sos_formats::manifest::Meta;

use super::child::Helper;
use super::namespaces;
use super::outcome::{Control, SandboxError};
use super::protocol::{Captured, Done, Op, Request, UsernsKind, WireKind, WireMeta};
use super::run::failure_error;

/// A started worker; dropping it ends it, even in the middle of its work.
pub(super) struct Worker {
    helper: Helper,
}

impl Worker {
    /// Starts a worker in the namespace of steps.
    pub(super) fn start(control: &Control) -> Result<Self, SandboxError> {
        let exe = control.exe.as_deref();
        let userns = namespaces::userns(UsernsKind::Multi, exe)?;
        let mut helper = Helper::spawn(exe)?;
        helper.send(&Request::Work, &[userns.as_fd()])?;
        Ok(Self { helper })
    }

    /// Sends an operation that has no answer of its own; its failure shows at the next one that has.
    pub(super) fn tell(&mut self, op: &Op, fds: &[BorrowedFd<'_>]) -> Result<(), SandboxError> {
        match self.helper.send(op, fds) {
            // A worker that fails says why and ends: that is what sending met.
            Err(SandboxError::HelperDied { how }) => match self.helper.receive_as::<Done>() {
                Ok((Done::Failed(failure), _)) => Err(failure_error(failure)),
                _ => Err(SandboxError::HelperDied { how }),
            },
            other => other,
        }
    }

    /// Sends an operation and waits until it is done.
    pub(super) fn ask(&mut self, op: &Op) -> Result<(), SandboxError> {
        self.tell(op, &[])?;
        match self.helper.receive_as::<Done>()? {
            (Done::Ok, _) => Ok(()),
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
            let (message, fds) = self.helper.receive_as::<Captured>()?;
            match message {
                Captured::End => return Ok(()),
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
