//! The launcher, seen from `sos`: a helper process of one thread that stays, and forks the first process of each run.
//!
//! Starting this program anew for each run would cost more than the rest of a launch: an exec, the dynamic linker, and
//! the first touch of all that the program needs before its first line. A fork of a small process costs a tenth of that.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Signal, pidfd_send_signal};
use serde::Serialize;

use super::channel::Channel;
use super::child::{GRACE, Helper};
use super::namespaces;
use super::outcome::SandboxError;
use super::protocol::{Answer, Launch, Request, UsernsKind};
use super::run::failure_error;
use super::worker;

#[derive(Default)]
struct Launchers {
    single: Option<Helper>,
    multi: Option<Helper>,
}

impl Launchers {
    fn of(&mut self, kind: UsernsKind) -> &mut Option<Helper> {
        match kind {
            UsernsKind::Single => &mut self.single,
            UsernsKind::Multi => &mut self.multi,
        }
    }
}

static LAUNCHERS: Mutex<Launchers> = Mutex::new(Launchers {
    single: None,
    multi: None,
});
static SESSIONS: Mutex<usize> = Mutex::new(0);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is inside is only ever replaced whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Somebody who launches runs. When the last session ends, so do the launchers and the idle workers; without any they stay until `sos` ends.
#[derive(Debug)]
pub struct Session(());

impl Session {
    /// Opens a session.
    #[must_use]
    pub fn open() -> Self {
        *lock(&SESSIONS) += 1;
        Self(())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut sessions = lock(&SESSIONS);
        *sessions -= 1;
        if *sessions == 0 {
            // Dropping them waits for their ends.
            drop(std::mem::take(&mut *lock(&LAUNCHERS)));
            worker::end_idle();
        }
    }
}

/// The first process of a run; dropping it ends it and everything it runs.
pub(super) struct Launched {
    channel: Channel,
    pidfd: OwnedFd,
}

/// Starts the first process of a run, which writes to `output` and waits for its plan.
pub(super) fn launch(
    kind: UsernsKind,
    exe: Option<&Path>,
    output: BorrowedFd<'_>,
) -> Result<Launched, SandboxError> {
    let mut launchers = lock(&LAUNCHERS);
    let slot = launchers.of(kind);
    if let Some(launcher) = slot {
        match ask(launcher, output) {
            // Somebody killed it, which has nothing to do with this run: another one takes its place, once.
            Err(SandboxError::HelperDied { .. }) => *slot = None,
            other => return other,
        }
    }
    let mut launcher = start(kind, exe)?;
    let launched = ask(&mut launcher, output)?;
    *slot = Some(launcher);
    Ok(launched)
}

/// Starts the launcher of plain builds on a thread of its own, for runs that come soon.
pub(crate) fn start_early(exe: &Path) {
    let exe = exe.to_owned();
    let started = std::thread::Builder::new()
        .name("launcher".to_owned())
        .spawn(move || {
            let mut launchers = lock(&LAUNCHERS);
            let slot = launchers.of(UsernsKind::Single);
            if slot.is_none() {
                // What fails here fails again, and is told, when a run needs it.
                *slot = start(UsernsKind::Single, Some(&exe)).ok();
            }
        });
    if let Err(error) = started {
        tracing::debug!(%error, "no thread to start the launcher on");
    }
}

fn start(kind: UsernsKind, exe: Option<&Path>) -> Result<Helper, SandboxError> {
    let first = |userns: &[BorrowedFd<'_>]| {
        let mut launcher = Helper::spawn(exe)?;
        launcher.send(&Request::Launch(kind), userns)?;
        Ok(launcher)
    };
    if kind == UsernsKind::Multi {
        // Its ids are not the launcher's to write.
        let userns = namespaces::userns(kind, exe)?;
        return first(&[userns.as_fd()]);
    }
    let (userns, launcher) = namespaces::userns_or(kind, || {
        let mut launcher: Helper = first(&[])?;
        match launcher.receive()? {
            (Answer::Userns, fds) => {
                let userns = fds.into_iter().next().ok_or(SandboxError::Protocol)?;
                Ok((userns, launcher))
            }
            (Answer::Failed(failure), _) => Err(namespaces::refused(&failure)),
            _ => Err(SandboxError::Protocol),
        }
    })?;
    match launcher {
        Some(launcher) => Ok(launcher),
        None => first(&[userns.as_fd()]),
    }
}

fn ask(launcher: &mut Helper, output: BorrowedFd<'_>) -> Result<Launched, SandboxError> {
    let (channel, theirs) =
        Channel::pair().map_err(|e| SandboxError::io("make a socket for a run", e))?;
    launcher.send(&Launch, &[theirs.as_fd(), output])?;
    // Its death must show as the end of the channel.
    drop(theirs);
    match launcher.receive()? {
        (Answer::Launched, fds) => {
            let pidfd = fds.into_iter().next().ok_or(SandboxError::Protocol)?;
            Ok(Launched { channel, pidfd })
        }
        (Answer::Failed(failure), _) => Err(failure_error(failure)),
        _ => Err(SandboxError::Protocol),
    }
}

impl Launched {
    pub(super) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Returns the number of the process, which nobody else gets while this lives.
    pub(super) fn pid(&self) -> io::Result<u32> {
        let about = format!("/proc/self/fdinfo/{}", self.pidfd.as_raw_fd());
        let about = std::fs::read_to_string(about)?;
        let pid = about.lines().find_map(|line| line.strip_prefix("Pid:"));
        pid.and_then(|pid| pid.trim().parse().ok())
            .ok_or_else(|| io::Error::other("the kernel does not tell the number of a process"))
    }

    pub(super) fn send<T: Serialize>(
        &self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), SandboxError> {
        match self.channel.send(message, fds) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(died()),
            Err(e) => Err(SandboxError::io("speak with a run", e)),
        }
    }

    /// Waits for the next answer.
    pub(super) fn receive(&self) -> Result<(Answer, Vec<OwnedFd>), SandboxError> {
        match self.channel.receive() {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(died()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(SandboxError::Protocol),
            Err(e) => Err(SandboxError::io("listen to a run", e)),
        }
    }

    /// Ends all processes of the run, and returns when they are gone, and with them its mounts.
    pub(super) fn stop(&self) {
        self.channel.close();
        if !self.ends_within(Some(GRACE)) {
            // Fails only when it is dead already. The kernel ends the rest with it.
            let _dead = pidfd_send_signal(&self.pidfd, Signal::KILL);
            self.ends_within(None);
        }
    }

    fn ends_within(&self, time: Option<Duration>) -> bool {
        let timeout = time.and_then(|time| time.try_into().ok());
        loop {
            match poll(
                &mut [PollFd::new(&self.pidfd, PollFlags::IN)],
                timeout.as_ref(),
            ) {
                Err(rustix::io::Errno::INTR) => {}
                other => return other.is_ok_and(|n| n > 0),
            }
        }
    }
}

impl Drop for Launched {
    fn drop(&mut self) {
        self.stop();
    }
}

fn died() -> SandboxError {
    SandboxError::HelperDied {
        how: "it was killed".to_owned(),
    }
}
