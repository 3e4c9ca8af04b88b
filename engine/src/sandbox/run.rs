//! One run, seen from `sos`: starts it, pumps the log, keeps the limits.

use std::io::{self, PipeReader};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::Timespec;

use super::cgroup::Group;
use super::launcher::{self, Launched};
use super::namespaces;
use super::outcome::{Control, Exit, Outcome, SandboxError};
use super::prepared::{Prepared, PreparedSets};
use super::protocol::{Answer, Failure, Given, Plan, Streams, UsernsKind};
use super::spec::{Shape, Spec};
use super::watch::Watched;
use crate::clock::{Clock, SystemClock};

const LOG_CHUNK_BYTES: usize = 64 << 10;
/// More than a pipe holds, so that the last look at a log takes all of it.
const LOG_CHUNKS_AT_ONCE: usize = 32;
/// What a log may hold between two looks, where the system allows it: a builder that writes fast does not wait for us then.
const LOG_PIPE_BYTES: usize = 1 << 20;
/// A log is looked at so often and no more: to be woken for each line costs more than the line.
const LOG_PAUSE: Duration = Duration::from_millis(10);
/// The pause after a look that found so much that the pipe may be full before the next one.
const LOG_SHORT_PAUSE: Duration = Duration::from_millis(1);
/// See [`LOG_SHORT_PAUSE`]: half of the smallest pipe.
const LOG_PRESSING_BYTES: u64 = 32 << 10;

/// Runs one program to its end. Blocks.
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
    let kind = kind_of(spec);
    let exe = control.exe.as_deref();
    let net = if spec.network {
        None
    } else {
        namespaces::take_net(kind)
    };
    let (reader, writer) = io::pipe().map_err(|e| SandboxError::io("make a pipe", e))?;
    rustix::io::ioctl_fionbio(&reader, true).map_err(|e| SandboxError::io("set up a pipe", e))?;
    // Users have a budget for large pipes; without it this one stays as it is.
    let _as_it_is = rustix::pipe::fcntl_setpipe_size(&reader, LOG_PIPE_BYTES).is_err();
    let launched = launcher::launch(kind, exe, writer.as_fd())?;
    // The end of the run must show as the end of the log.
    drop(writer);
    let mut spec = Box::new(spec.clone());
    let group = confine(&launched, &mut spec, control)?;
    let network = spec.network;
    let place = Place::of(&mut spec, control)?;
    let mounts = place.as_ref().map(|place| place.prepared.namespace());
    let given = Given {
        net: net.is_some(),
        mounts: mounts.is_some(),
        streams: Streams::Log,
    };
    let fds: Vec<BorrowedFd<'_>> = net.iter().chain(mounts).map(AsFd::as_fd).collect();
    tell(&launched, &Plan { spec, given }, &fds)?;
    let mut watch = Watch {
        launched,
        reader,
        log,
        control,
        log_bytes: 0,
        clock: SystemClock::new(),
        last_output: Duration::ZERO,
        pause_until: Duration::ZERO,
        buffer: vec![0; LOG_CHUNK_BYTES],
        net,
        kind,
        network,
        _group: group,
    };
    let outcome = watch.until_end()?;
    // Nothing of the run lives any more.
    drop(watch);
    if let Some(place) = place {
        place.sets.give_back(place.prepared, &place.outputs)?;
    }
    Ok(outcome)
}

/// Returns the kind of user namespace that a run needs.
pub(super) fn kind_of(spec: &Spec) -> UsernsKind {
    match spec.shape {
        Shape::Nix { .. } => UsernsKind::Single,
        Shape::Step { .. } => UsernsKind::Multi,
    }
}

/// Sets the limits of a run that has no plan yet: by a control group, which must outlive it, or else in its plan.
pub(super) fn confine(
    launched: &Launched,
    spec: &mut Spec,
    control: &Control,
) -> Result<Option<Group>, SandboxError> {
    let group =
        Group::for_run(&control.limits).map_err(|e| SandboxError::io("make a control group", e))?;
    match &group {
        // Before it has a plan; what it starts is in the group from the beginning.
        Some(group) => launched
            .pid()
            .and_then(|pid| group.add(pid))
            .map_err(|e| SandboxError::io("use a control group", e))?,
        None => spec.limits = control.limits,
    }
    Ok(group)
}

/// Gives a run its plan.
pub(super) fn tell(
    launched: &Launched,
    plan: &Plan,
    fds: &[BorrowedFd<'_>],
) -> Result<(), SandboxError> {
    launched.send(plan, fds).map_err(|e| {
        // A run that cannot begin says why and ends: that is what sending met.
        match launched.receive() {
            Ok((Answer::Failed(failure), _)) => failure_error(failure),
            _ => e,
        }
    })
}

/// The prepared store directory of a run in the Nix shape.
struct Place<'a> {
    sets: &'a PreparedSets,
    prepared: Prepared,
    /// Where the outputs are expected.
    outputs: PathBuf,
}

impl<'a> Place<'a> {
    /// Finds a place for a run that has many inputs, and changes its plan so that it uses it.
    fn of(spec: &mut Spec, control: &'a Control) -> Result<Option<Self>, SandboxError> {
        // What is prepared has an order of its own.
        if spec.vary.reordered.is_some() {
            return Ok(None);
        }
        let Shape::Nix {
            outputs, inputs, ..
        } = &mut spec.shape
        else {
            return Ok(None);
        };
        let Some(sets) = control.prepared.as_deref() else {
            return Ok(None);
        };
        let Some(prepared) = sets.take(inputs, control.exe.as_deref())? else {
            return Ok(None);
        };
        inputs.retain(|input| !prepared.has(&input.base));
        let outputs = std::mem::replace(outputs, prepared.dir());
        Ok(Some(Self {
            sets,
            prepared,
            outputs,
        }))
    }
}

struct Watch<'a> {
    launched: Launched,
    reader: PipeReader,
    log: &'a mut dyn FnMut(&[u8]),
    control: &'a Control,
    log_bytes: u64,
    clock: SystemClock,
    last_output: Duration,
    /// Until then the log is left alone.
    pause_until: Duration,
    buffer: Vec<u8>,
    net: Option<OwnedFd>,
    kind: UsernsKind,
    network: bool,
    /// Last: it is empty when the helper is gone, and then it goes.
    _group: Option<Group>,
}

impl Watch<'_> {
    fn until_end(&mut self) -> Result<Outcome, SandboxError> {
        let (wake, _subscription) = self.control.woken_by_cancel()?;
        loop {
            if self.control.cancel.is_cancelled() {
                return Ok(self.stop(Exit::Cancelled));
            }
            let now = self.clock.monotonic();
            let (left, exit) = self.next_deadline(now);
            if left == Some(Duration::ZERO) {
                return Ok(self.stop(exit));
            }
            let pause = self.pause_until.saturating_sub(now);
            let left = match left {
                left if pause.is_zero() => left,
                left => Some(left.map_or(pause, |left| left.min(pause))),
            };
            let timeout = left.and_then(|d| Timespec::try_from(d).ok());
            let (from_log, from_helper) = {
                let mut fds = [
                    PollFd::from_borrowed_fd(self.launched.channel(), PollFlags::IN),
                    PollFd::new(&*wake, PollFlags::IN),
                    PollFd::new(&self.reader, PollFlags::IN),
                ];
                // The end of the run is noticed at once, also during a pause: the rest of the log is read then.
                let watched = if pause.is_zero() { 3 } else { 2 };
                match poll(&mut fds[..watched], timeout.as_ref()) {
                    Err(rustix::io::Errno::INTR) => continue,
                    other => other.map_err(|e| SandboxError::io("wait for a run", e))?,
                };
                (!fds[2].revents().is_empty(), !fds[0].revents().is_empty())
            };
            if from_log {
                let before = self.log_bytes;
                if !self.pump()? {
                    return Ok(self.stop(Exit::LogTooLong));
                }
                self.pace(self.log_bytes - before);
            }
            if from_helper {
                let (answer, fds) = match self.launched.receive() {
                    Err(_) if self.control.cancel.is_cancelled() => continue,
                    other => other?,
                };
                if let Some((exit, watched)) = self.answered(answer, fds)? {
                    return Ok(Outcome {
                        exit,
                        log_bytes: self.log_bytes,
                        watched,
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

    /// Decides when the log is looked at again, after so many bytes were in it.
    fn pace(&mut self, bytes: u64) {
        let pause = if bytes >= LOG_PRESSING_BYTES {
            LOG_SHORT_PAUSE
        } else {
            LOG_PAUSE
        };
        self.pause_until = self.clock.monotonic() + pause;
    }

    /// Passes on what is in the log now; `false` when it got too long. A program that writes without end must not
    /// keep us from looking at the clock: this reads a few chunks at a time.
    fn pump(&mut self) -> Result<bool, SandboxError> {
        for _ in 0..LOG_CHUNKS_AT_ONCE {
            let n = match rustix::io::read(&self.reader, &mut self.buffer) {
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
            (self.log)(&self.buffer[..take]);
            self.log_bytes += take as u64;
            if take < n {
                return Ok(false);
            }
            if n < self.buffer.len() {
                return Ok(true);
            }
        }
        Ok(true)
    }

    fn answered(
        &mut self,
        answer: Answer,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<(Exit, Watched)>, SandboxError> {
        match answer {
            Answer::Network => {
                self.net = fds.into_iter().next();
                Ok(None)
            }
            Answer::Ended {
                status,
                net_clean,
                watched,
            } => {
                self.drain()?;
                if net_clean
                    && !self.network
                    && let Some(net) = self.net.take()
                {
                    namespaces::give_net(self.kind, net);
                }
                Ok(Some((exit_of(status), watched)))
            }
            Answer::Failed(failure) => {
                self.drain()?;
                Err(failure_error(failure))
            }
            Answer::NeedMaps
            | Answer::Userns
            | Answer::Launched
            | Answer::Prepared
            | Answer::Terminal => Err(SandboxError::Protocol),
        }
    }

    /// Reads the rest of the log: all its writers are gone but the first process, which ends now.
    fn drain(&mut self) -> Result<(), SandboxError> {
        // A log cut here ended before the limit could matter: the run is over.
        self.pump().map(|_complete| ())
    }

    fn stop(&mut self, exit: Exit) -> Outcome {
        self.launched.stop();
        Outcome {
            exit,
            log_bytes: self.log_bytes,
            watched: Watched::default(),
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
