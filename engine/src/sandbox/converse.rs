//! A run that somebody speaks with: bytes pass in both directions, over pipes or over a terminal of the sandbox itself.
//!
//! No descriptor of the caller enters the sandbox: whoever holds a terminal can type into it, and a file tells where it is.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::Winsize;

use super::cgroup::Group;
use super::launcher::{self, Launched};
use super::outcome::{Control, Exit, SandboxError};
use super::protocol::{Answer, Given, Plan, Streams as Kind};
use super::run::{confine, exit_of, failure_error, kind_of, tell};
use super::spec::Spec;

/// Bytes passed on at once.
const CHUNK_BYTES: usize = 16 << 10;
/// Reads from one end before the others are looked at again.
const CHUNKS_AT_ONCE: usize = 8;

/// What the program is connected with. The descriptors stay as they are: nothing of them is changed.
#[derive(Clone, Copy)]
pub struct Streams<'a> {
    /// Where its input comes from.
    pub input: BorrowedFd<'a>,
    /// Where its output goes.
    pub output: BorrowedFd<'a>,
    /// Where its standard error goes; a terminal has none of its own.
    pub error: BorrowedFd<'a>,
    /// Give it a terminal; without, it gets pipes.
    pub window: Option<Window<'a>>,
}

/// The size of a terminal, which follows that of somebody else's.
#[derive(Clone, Copy)]
pub struct Window<'a> {
    /// Tells rows and columns.
    pub size: &'a dyn Fn() -> (u16, u16),
    /// Can be read when the size has changed.
    pub changed: BorrowedFd<'a>,
}

/// Runs a program to its end while passing on what is said. Blocks; call it from a thread that lives until it returns.
/// It ends when it likes to, or is asked to stop: the times of `control` are those of programs that nobody speaks with.
///
/// # Errors
/// Everything but a failing program, which is an [`Exit`].
pub fn converse(
    spec: &Spec,
    streams: &Streams<'_>,
    control: &Control,
) -> Result<Exit, SandboxError> {
    if control.cancel.is_cancelled() {
        return Err(SandboxError::Cancelled);
    }
    let exe = control.exe.as_deref();
    let kind = kind_of(spec);
    let mut spec = Box::new(spec.clone());
    let mut wires = Wires::default();
    let given = |streams| Given {
        net: false,
        mounts: false,
        streams,
    };
    let (launched, group) = if let Some(window) = &streams.window {
        // Whatever is written beside the terminal is for nobody.
        let null = File::options()
            .write(true)
            .open("/dev/null")
            .map_err(|e| SandboxError::io("open /dev/null", e))?;
        let launched = launcher::launch(kind, exe, null.as_fd())?;
        let group = confine(&launched, &mut spec, control)?;
        let (rows, columns) = (window.size)();
        let given = given(Kind::Terminal { rows, columns });
        tell(&launched, &Plan { spec, given }, &[])?;
        (launched, group)
    } else {
        let pipe = || io::pipe().map_err(|e| SandboxError::io("make a pipe", e));
        let ((input, to), (from_output, output), (from_error, error)) = (pipe()?, pipe()?, pipe()?);
        let launched = launcher::launch(kind, exe, output.as_fd())?;
        let group = confine(&launched, &mut spec, control)?;
        let given = given(Kind::Pipes);
        let plan = Plan { spec, given };
        tell(&launched, &plan, &[input.as_fd(), error.as_fd()])?;
        wires.speak(to.into())?;
        wires.listen(from_output.into(), End::Output)?;
        wires.listen(from_error.into(), End::Error)?;
        (launched, group)
    };
    Conversation {
        launched,
        wires,
        streams,
        control,
        terminal: None,
        _group: group,
    }
    .until_end()
}

/// Where bytes of the program go.
#[derive(Clone, Copy)]
enum End {
    Output,
    Error,
}

/// Our ends of what the program is connected with; none of them ever blocks.
#[derive(Default)]
struct Wires {
    to: Option<OwnedFd>,
    /// Bytes on their way to the program: it reads when it likes to.
    waiting: VecDeque<u8>,
    /// One is none once it has ended.
    from: Vec<(Option<OwnedFd>, End)>,
    input_ended: bool,
}

impl Wires {
    fn speak(&mut self, to: OwnedFd) -> Result<(), SandboxError> {
        unblocked(&to)?;
        self.to = Some(to);
        Ok(())
    }

    fn listen(&mut self, from: OwnedFd, end: End) -> Result<(), SandboxError> {
        unblocked(&from)?;
        self.from.push((Some(from), end));
        Ok(())
    }

    /// Gives the program what waits, as far as it takes it.
    fn push(&mut self) -> Result<(), SandboxError> {
        while let Some(to) = &self.to
            && !self.waiting.is_empty()
        {
            match rustix::io::write(to, self.waiting.as_slices().0) {
                Ok(n) => drop(self.waiting.drain(..n)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                // It does not want to hear more.
                Err(Errno::PIPE | Errno::IO) => {
                    self.to = None;
                    self.waiting.clear();
                }
                Err(e) => return Err(SandboxError::io("write to the program", e)),
            }
        }
        if self.input_ended {
            self.to = None;
        }
        Ok(())
    }
}

fn unblocked(fd: &OwnedFd) -> Result<(), SandboxError> {
    rustix::io::ioctl_fionbio(fd, true).map_err(|e| SandboxError::io("set up a pipe", e))
}

struct Conversation<'a> {
    launched: Launched,
    wires: Wires,
    streams: &'a Streams<'a>,
    control: &'a Control,
    /// The other end of the program's terminal.
    terminal: Option<OwnedFd>,
    /// Last: it is empty when the run is gone, and then it goes.
    _group: Option<Group>,
}

/// What became readable or writable.
#[derive(Clone, Copy)]
enum Ready {
    Run,
    Stop,
    Size,
    Input,
    To,
    From(usize),
}

impl Conversation<'_> {
    fn until_end(mut self) -> Result<Exit, SandboxError> {
        let (wake, _subscription) = self.control.woken_by_cancel()?;
        loop {
            if self.control.cancel.is_cancelled() {
                self.launched.stop();
                return Ok(Exit::Cancelled);
            }
            for ready in self.wait(&wake)? {
                match ready {
                    Ready::Stop => {}
                    Ready::Size => self.resize(),
                    Ready::Input => {
                        if !self.hear()? {
                            self.launched.stop();
                            return Ok(Exit::Signal(libc::SIGHUP));
                        }
                    }
                    Ready::To => self.wires.push()?,
                    Ready::From(index) => self.tell(index, CHUNKS_AT_ONCE)?,
                    Ready::Run => {
                        let (answer, fds) = match self.launched.receive() {
                            Err(_) if self.control.cancel.is_cancelled() => continue,
                            other => other?,
                        };
                        if let Some(exit) = self.answered(answer, fds)? {
                            return Ok(exit);
                        }
                    }
                }
            }
        }
    }

    /// Waits until something can be done; what the run says comes last, since it may be the end.
    fn wait(&mut self, wake: &OwnedFd) -> Result<Vec<Ready>, SandboxError> {
        let wires = &self.wires;
        let mut what = vec![Ready::Stop];
        let mut fds = vec![PollFd::new(wake, PollFlags::IN)];
        for (index, (from, _)) in wires.from.iter().enumerate() {
            let Some(from) = from else { continue };
            what.push(Ready::From(index));
            fds.push(PollFd::new(from, PollFlags::IN));
        }
        if let Some(to) = &wires.to {
            if !wires.waiting.is_empty() {
                what.push(Ready::To);
                fds.push(PollFd::new(to, PollFlags::OUT));
            } else if !wires.input_ended {
                what.push(Ready::Input);
                fds.push(PollFd::from_borrowed_fd(self.streams.input, PollFlags::IN));
            }
        }
        if let Some(window) = &self.streams.window {
            what.push(Ready::Size);
            fds.push(PollFd::from_borrowed_fd(window.changed, PollFlags::IN));
        }
        what.push(Ready::Run);
        fds.push(PollFd::from_borrowed_fd(
            self.launched.channel(),
            PollFlags::IN,
        ));
        match poll(&mut fds, None) {
            Err(Errno::INTR) => return Ok(Vec::new()),
            other => other.map_err(|e| SandboxError::io("wait for a run", e))?,
        };
        Ok(what
            .into_iter()
            .zip(&fds)
            .filter(|(_, fd)| !fd.revents().is_empty())
            .map(|(what, _)| what)
            .collect())
    }

    fn resize(&mut self) {
        let Some(window) = &self.streams.window else {
            return;
        };
        let mut some = [0; 64];
        // Only empties it; how large the window is now is asked for.
        let _drained = rustix::io::read(window.changed, &mut some);
        let (rows, columns) = (window.size)();
        if let Some(terminal) = &self.terminal {
            let size = Winsize {
                ws_row: rows,
                ws_col: columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            // Fails only when the program is gone.
            let _gone = rustix::termios::tcsetwinsize(terminal, size);
        }
    }

    /// Takes some input; `false` when the terminal that it comes from is gone.
    fn hear(&mut self) -> Result<bool, SandboxError> {
        let mut buffer = vec![0; CHUNK_BYTES];
        match rustix::io::read(self.streams.input, &mut buffer) {
            Ok(0) | Err(Errno::IO) => {
                if self.streams.window.is_some() {
                    return Ok(false);
                }
                self.wires.input_ended = true;
            }
            Ok(n) => self.wires.waiting.extend(&buffer[..n]),
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(e) => return Err(SandboxError::io("read the input", e)),
        }
        self.wires.push()?;
        Ok(true)
    }

    /// Passes on what the program says now.
    fn tell(&mut self, index: usize, chunks: usize) -> Result<(), SandboxError> {
        let Some((Some(from), end)) = self.wires.from.get(index) else {
            return Ok(());
        };
        let to = match end {
            End::Output => self.streams.output,
            End::Error => self.streams.error,
        };
        let mut buffer = vec![0; CHUNK_BYTES];
        for _ in 0..chunks {
            let n = match rustix::io::read(from, &mut buffer) {
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => continue,
                // A terminal that the program has let go of ends with an error.
                Ok(0) | Err(Errno::IO) => 0,
                Ok(n) => n,
                Err(e) => return Err(SandboxError::io("read what the program says", e)),
            };
            // When nobody hears it any more the program shall notice as well.
            if n == 0 || !write_all(to, &buffer[..n])? {
                self.wires.from[index].0 = None;
                return Ok(());
            }
        }
        Ok(())
    }

    fn answered(
        &mut self,
        answer: Answer,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Exit>, SandboxError> {
        match answer {
            // Nobody keeps it for another run.
            Answer::Network => Ok(None),
            Answer::Terminal => {
                let terminal = fds.into_iter().next().ok_or(SandboxError::Protocol)?;
                let twin = || {
                    terminal
                        .try_clone()
                        .map_err(|e| SandboxError::io("copy a descriptor", e))
                };
                self.wires.speak(twin()?)?;
                self.wires.listen(twin()?, End::Output)?;
                self.terminal = Some(terminal);
                // It may have changed since it was told.
                self.resize();
                Ok(None)
            }
            Answer::Ended { status, .. } => {
                for index in 0..self.wires.from.len() {
                    self.tell(index, usize::MAX)?;
                }
                Ok(Some(exit_of(status)))
            }
            Answer::Failed(failure) => Err(failure_error(failure)),
            Answer::NeedMaps | Answer::Userns | Answer::Launched | Answer::Prepared => {
                Err(SandboxError::Protocol)
            }
        }
    }
}

/// Writes everything; `false` when nobody reads.
fn write_all(to: BorrowedFd<'_>, mut bytes: &[u8]) -> Result<bool, SandboxError> {
    while !bytes.is_empty() {
        match rustix::io::write(to, bytes) {
            Ok(n) => bytes = &bytes[n..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                // Whoever gave it to us made it so, and shares it with us.
                match poll(&mut [PollFd::from_borrowed_fd(to, PollFlags::OUT)], None) {
                    Ok(_) | Err(Errno::INTR) => {}
                    Err(e) => return Err(SandboxError::io("wait for the output", e)),
                }
            }
            Err(Errno::PIPE | Errno::IO) => return Ok(false),
            Err(e) => return Err(SandboxError::io("write the output", e)),
        }
    }
    Ok(true)
}
