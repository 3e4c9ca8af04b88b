//! One run, seen from `sos`: starts the helper, pumps the log, keeps the limits.

use std::io::{self, PipeReader};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::fs::Timespec;

use super::child::Helper;
use super::namespaces;
use super::outcome::{Control, Exit, Outcome, SandboxError};
use super::protocol::{Answer, Failure, Request, UsernsKind};
use super::spec::{Shape, Spec};
use crate::clock::{Clock, SystemClock};

const LOG_CHUNK_BYTES: usize = 64 << 10;
/// More than a pipe holds, so that the last look at a log takes all of it.
const LOG_CHUNKS_AT_ONCE: usize = 32;

/// Runs one program to its end. Blocks; call it from a thread that lives until it returns, because the end of
/// that thread ends the run.
///
/// # Errors
/// Everything but a failing program, which is an [`Exit`].
pub fn run(
    spec: &Spec,
    log: &mut dyn FnMut(&[u8]),
    control: &Control,
) -> Result<Outcome, SandboxError> {
    if control.cancel.is_cancelled() {
        return Err(SandboxError::Cancelled);
    }
    let kind = match spec.shape {
        Shape::Nix { .. } => UsernsKind::Single,
        Shape::Step { .. } => UsernsKind::Multi,
    };
    let exe = control.exe.as_deref();
    let userns = namespaces::userns(kind, exe)?;
    let net = if spec.network {
        None
    } else {
        namespaces::take_net(kind)
    };
    let (reader, writer) = io::pipe().map_err(|e| SandboxError::io("make a pipe", e))?;
    rustix::io::ioctl_fionbio(&reader, true).map_err(|e| SandboxError::io("set up a pipe", e))?;
    let mut helper = Helper::spawn(exe, Some(writer))?;
    helper.send(
        &Request::Run(Box::new(spec.clone())),
        &namespaces::descriptors(&userns, net.as_ref()),
    )?;
    let mut watch = Watch {
        helper,
        reader,
        log,
        control,
        log_bytes: 0,
        clock: SystemClock::new(),
        last_output: Duration::ZERO,
        net,
        kind,
        network: spec.network,
    };
    watch.until_end()
}

struct Watch<'a> {
    helper: Helper,
    reader: PipeReader,
    log: &'a mut dyn FnMut(&[u8]),
    control: &'a Control,
    log_bytes: u64,
    clock: SystemClock,
    last_output: Duration,
    net: Option<OwnedFd>,
    kind: UsernsKind,
    network: bool,
}

impl Watch<'_> {
    fn until_end(&mut self) -> Result<Outcome, SandboxError> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)
            .map_err(|e| SandboxError::io("make an event", e))?;
        let wake = Arc::new(wake);
        let waker = wake.clone();
        let _subscription = self.control.cancel.on_cancel(move || {
            // Fails only when the counter is full, and then it wakes as well.
            let _full = rustix::io::write(&*waker, &1u64.to_ne_bytes());
        });
        loop {
            if self.control.cancel.is_cancelled() {
                return Ok(self.stop(Exit::Cancelled));
            }
            let now = self.clock.monotonic();
            let (left, exit) = self.next_deadline(now);
            if left == Some(Duration::ZERO) {
                return Ok(self.stop(exit));
            }
            let timeout = left.and_then(|d| Timespec::try_from(d).ok());
            let (from_log, from_helper) = {
                let mut fds = [
                    PollFd::new(&self.reader, PollFlags::IN),
                    PollFd::from_borrowed_fd(self.helper.channel(), PollFlags::IN),
                    PollFd::new(&*wake, PollFlags::IN),
                ];
                match poll(&mut fds, timeout.as_ref()) {
                    Err(rustix::io::Errno::INTR) => continue,
                    other => other.map_err(|e| SandboxError::io("wait for a run", e))?,
                };
                (!fds[0].revents().is_empty(), !fds[1].revents().is_empty())
            };
            if from_log && !self.pump()? {
                return Ok(self.stop(Exit::LogTooLong));
            }
            if from_helper {
                let (answer, fds) = match self.helper.receive() {
                    Err(_) if self.control.cancel.is_cancelled() => continue,
                    other => other?,
                };
                if let Some(exit) = self.answered(answer, fds)? {
                    return Ok(Outcome {
                        exit,
                        log_bytes: self.log_bytes,
                    });
                }
            }
        }
    }

    /// Returns the time until the next limit is hit, and which one it is.
    fn next_deadline(&self, now: Duration) -> (Option<Duration>, Exit) {
        let total = self.control.timeout.map(|t| t.saturating_sub(now));
        let silent = self
            .control
            .silent_timeout
            .map(|t| (self.last_output + t).saturating_sub(now));
        match (total, silent) {
            (Some(total), Some(silent)) if silent < total => (Some(silent), Exit::SilentTooLong),
            (None, Some(silent)) => (Some(silent), Exit::SilentTooLong),
            (total, _) => (total, Exit::TimedOut),
        }
    }

    /// Passes on what is in the log now; `false` when it got too long. A program that writes without end must not
    /// keep us from looking at the clock: this reads a few chunks at a time.
    fn pump(&mut self) -> Result<bool, SandboxError> {
        let mut buffer = vec![0; LOG_CHUNK_BYTES];
        for _ in 0..LOG_CHUNKS_AT_ONCE {
            let n = match rustix::io::read(&self.reader, &mut buffer) {
                Ok(0) | Err(rustix::io::Errno::AGAIN) => return Ok(true),
                Ok(n) => n,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(SandboxError::io("read the log of a run", e)),
            };
            self.last_output = self.clock.monotonic();
            let left = self
                .control
                .max_log_bytes
                .map_or(u64::MAX, |max| max.saturating_sub(self.log_bytes));
            let take = n.min(usize::try_from(left).unwrap_or(usize::MAX));
            (self.log)(&buffer[..take]);
            self.log_bytes += take as u64;
            if take < n {
                return Ok(false);
            }
            if n < buffer.len() {
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn answered(
        &mut self,
        answer: Answer,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Exit>, SandboxError> {
        match answer {
            Answer::Started => {
                if let Some(made) = fds.into_iter().next() {
                    self.net = Some(made);
                }
                Ok(None)
            }
            Answer::Ended { status, net_clean } => {
                self.drain()?;
                if net_clean
                    && !self.network
                    && let Some(net) = self.net.take()
                {
                    namespaces::give_net(self.kind, net);
                }
                Ok(Some(exit_of(status)))
            }
            Answer::Failed(failure) => {
                self.drain()?;
                self.helper.wait();
                Err(failure_error(failure))
            }
            Answer::NeedMaps | Answer::Userns | Answer::Terminal => Err(SandboxError::Protocol),
        }
    }

    /// Reads the rest of the log: all its writers are gone but the helper, which ends now.
    fn drain(&mut self) -> Result<(), SandboxError> {
        // A log cut here ended before the limit could matter: the run is over.
        self.pump().map(|_complete| ())
    }

    fn stop(&mut self, exit: Exit) -> Outcome {
        self.helper.stop();
        Outcome {
            exit,
            log_bytes: self.log_bytes,
        }
    }
}

pub(super) fn exit_of(status: i32) -> Exit {
    if libc::WIFSIGNALED(status) {
        Exit::Signal(libc::WTERMSIG(status))
    } else {
        Exit::Code(libc::WEXITSTATUS(status))
    }
}

/// What a machine refuses that gives user namespaces but no rights in them, as some security modules do.
const NEEDS_NAMESPACES: [&str; 3] = [
    "enter the user namespace",
    "create namespaces",
    "make mounts private",
];

/// Turns what a helper could not do into an error; missing namespaces get the advice for this machine.
pub(super) fn failure_error(failure: Failure) -> SandboxError {
    let source = io::Error::from_raw_os_error(failure.errno);
    let forbidden = matches!(failure.errno, libc::EPERM | libc::ENOSPC | libc::ENOSYS);
    if forbidden && NEEDS_NAMESPACES.contains(&failure.what.as_str()) {
        return crate::probe::no_user_namespaces(Some(&source));
    }
    if failure.exec {
        SandboxError::Exec {
            program: failure.what,
            source,
        }
    } else {
        SandboxError::Setup {
            what: failure.what,
            source,
        }
    }
}
