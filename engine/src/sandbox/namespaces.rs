//! User and network namespaces that runs share: making one takes longer than the rest of a launch.
//!
//! A namespace is kept by an open descriptor; no process stays behind for it. A network namespace goes back to
//! the pool only when the run left no socket in it.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::child::Helper;
use super::ids::{self, IdMap};
use super::outcome::SandboxError;
use super::protocol::{Answer, Failure, MapsWritten, Request, UsernsKind};

/// The most idle network namespaces that are kept for each kind.
const MAX_IDLE_NETS: usize = 32;

#[derive(Default)]
struct Shared {
    userns: Mutex<Option<Arc<OwnedFd>>>,
    nets: Mutex<Vec<OwnedFd>>,
}

static SINGLE: Shared = Shared {
    userns: Mutex::new(None),
    nets: Mutex::new(Vec::new()),
};
static MULTI: Shared = Shared {
    userns: Mutex::new(None),
    nets: Mutex::new(Vec::new()),
};

fn shared(kind: UsernsKind) -> &'static Shared {
    match kind {
        UsernsKind::Single => &SINGLE,
        UsernsKind::Multi => &MULTI,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is only ever replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the user namespace of this kind if there is one; otherwise `make` makes it, and something else along with it.
pub(super) fn userns_or<T>(
    kind: UsernsKind,
    make: impl FnOnce() -> Result<(OwnedFd, T), SandboxError>,
) -> Result<(Arc<OwnedFd>, Option<T>), SandboxError> {
    let mut slot = lock(&shared(kind).userns);
    if let Some(fd) = &*slot {
        return Ok((fd.clone(), None));
    }
    let (fd, made) = make()?;
    let fd = Arc::new(fd);
    *slot = Some(fd.clone());
    Ok((fd, Some(made)))
}

/// Returns the user namespace of this kind, made at first need.
pub(super) fn userns(kind: UsernsKind, exe: Option<&Path>) -> Result<Arc<OwnedFd>, SandboxError> {
    userns_or(kind, || Ok((make_userns(kind, exe)?, ()))).map(|(fd, _)| fd)
}

/// Takes an idle network namespace, if there is one.
pub(super) fn take_net(kind: UsernsKind) -> Option<OwnedFd> {
    lock(&shared(kind).nets).pop()
}

/// Gives a network namespace back that is as good as new.
pub(super) fn give_net(kind: UsernsKind, net: OwnedFd) {
    let mut nets = lock(&shared(kind).nets);
    if nets.len() < MAX_IDLE_NETS {
        nets.push(net);
    }
}

fn make_userns(kind: UsernsKind, exe: Option<&Path>) -> Result<OwnedFd, SandboxError> {
    let mut maps = match kind {
        UsernsKind::Single => None,
        UsernsKind::Multi => Some(ids::step_maps()),
    };
    let mut helper = Helper::spawn(exe)?;
    helper.send(&Request::HoldUserns(kind), &[])?;
    loop {
        match helper.receive() {
            Ok((Answer::NeedMaps, _)) => {
                // That there are no ids is told where there is a namespace for them.
                if let Some((users, groups)) = maps.take().transpose()? {
                    write_maps(helper.pid(), &users, &groups)?;
                }
                helper.send(&MapsWritten, &[])?;
            }
            Ok((Answer::Userns, fds)) => {
                helper.wait();
                return fds.into_iter().next().ok_or(SandboxError::Protocol);
            }
            Ok((Answer::Failed(failure), _)) => return Err(refused(&failure)),
            Ok(_) => return Err(SandboxError::Protocol),
            Err(e) => return Err(e),
        }
    }
}

/// The machine does not let us make a user namespace.
pub(super) fn refused(failure: &Failure) -> SandboxError {
    let error = io::Error::from_raw_os_error(failure.errno);
    crate::probe::no_user_namespaces(Some(&error))
}

fn write_maps(pid: u32, users: &IdMap, groups: &IdMap) -> Result<(), SandboxError> {
    if rustix::process::geteuid().is_root() {
        for (file, map) in [("uid_map", users), ("gid_map", groups)] {
            fs::write(format!("/proc/{pid}/{file}"), map.text())
                .map_err(|e| crate::probe::no_id_maps(&format!("cannot write {file}: {e}")))?;
        }
        return Ok(());
    }
    for (program, map) in [("newuidmap", users), ("newgidmap", groups)] {
        let path =
            ids::find_map_program(program).ok_or_else(|| crate::probe::no_map_program(program))?;
        let output = Command::new(&path)
            .env_clear()
            .arg(pid.to_string())
            .args(map.arguments())
            .output()
            .map_err(|e| SandboxError::io(format!("run {}", path.display()), e))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(crate::probe::no_id_maps(&format!(
                "{program} refused: {}",
                said.trim()
            )));
        }
    }
    Ok(())
}
