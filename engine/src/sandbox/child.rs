//! A helper process, seen from `sos`.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::Serialize;

use super::channel::Channel;
use super::helper::HELPER_ARGUMENT;
use super::outcome::SandboxError;
use super::protocol::Answer;

/// How long a helper may take to end its run after it was asked to; then it is killed, and the kernel does the same.
pub(super) const GRACE: Duration = Duration::from_secs(10);

/// A started helper; dropping it ends it and everything it runs.
pub(super) struct Helper {
    child: Child,
    channel: Channel,
    ended: Option<ExitStatus>,
}

impl Helper {
    /// Starts a helper. Nothing runs between fork and exec: the helper asks for its death signal itself.
    pub(super) fn spawn(exe: Option<&Path>) -> Result<Self, SandboxError> {
        let exe = exe.unwrap_or(Path::new("/proc/self/exe"));
        let failed = |e: io::Error| SandboxError::io("start a sandbox helper", e);
        let (channel, theirs) = Channel::pair().map_err(failed)?;
        let mut command = Command::new(exe);
        command
            .arg(HELPER_ARGUMENT)
            .env_clear()
            // Ctrl-C at the terminal is for `sos`, which then stops its runs one by one.
            .process_group(0)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null());
        let child = command
            .spawn()
            .map_err(|e| SandboxError::io(format!("start {}", exe.display()), e))?;
        Ok(Self {
            child,
            channel,
            ended: None,
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn send<T: Serialize>(
        &mut self,
        message: &T,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(), SandboxError> {
        match self.channel.send(message, fds) {
            Ok(()) => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Err(self.died()),
            Err(e) => Err(SandboxError::io("speak with a sandbox helper", e)),
        }
    }

    /// Waits for the next answer of a helper that runs a program.
    pub(super) fn receive(&mut self) -> Result<(Answer, Vec<OwnedFd>), SandboxError> {
        self.receive_as()
    }

    /// Waits for the next message.
    pub(super) fn receive_as<T: serde::de::DeserializeOwned>(
        &mut self,
    ) -> Result<(T, Vec<OwnedFd>), SandboxError> {
        match self.channel.receive() {
            Ok(Some(message)) => Ok(message),
            Ok(None) => Err(self.died()),
            Err(e) if e.kind() == io::ErrorKind::InvalidData => Err(SandboxError::Protocol),
            Err(e) => Err(SandboxError::io("listen to a sandbox helper", e)),
        }
    }

    fn died(&mut self) -> SandboxError {
        let how = self
            .wait()
            .map_or_else(|| "status unknown".to_owned(), |s| s.to_string());
        SandboxError::HelperDied { how }
    }

    /// Tells whether it has nothing to say: it lives, and no answer is on its way.
    pub(super) fn is_silent(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let mut fds = [PollFd::new(&self.channel, PollFlags::IN)];
        poll(&mut fds, Some(&rustix::fs::Timespec::default())).is_ok_and(|n| n == 0)
    }

    /// Waits for the end of a helper whose work is done.
    pub(super) fn wait(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.wait().ok();
        }
        self.ended
    }

    /// Ends the helper and all processes of its run, and returns when they are gone.
    pub(super) fn stop(&mut self) {
        if self.ended.is_some() {
            return;
        }
        self.channel.close();
        if !self.ends_within(GRACE) {
            // Fails only when it is dead already. Its end ends init, and the kernel ends the rest.
            let _dead = self.child.kill();
        }
        self.wait();
    }

    fn ends_within(&self, time: Duration) -> bool {
        use rustix::event::{PollFd, PollFlags, poll};
        let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) else {
            return false;
        };
        // The child is not waited for yet, so its id is still its own.
        let Ok(fd) = pidfd_open(pid, PidfdFlags::empty()) else {
            return false;
        };
        let Ok(timeout) = time.try_into() else {
            return false;
        };
        poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&timeout)).is_ok_and(|n| n > 0)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.stop();
    }
}
