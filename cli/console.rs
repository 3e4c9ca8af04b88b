//! The terminal of the person, lent to a program for a while.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};
use sos_engine::Cancel;
use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Rows and columns when nobody can tell.
const USUAL_SIZE: (u16, u16) = (24, 80);

/// Puts the terminal on standard input into raw mode until it is dropped, also by a panic: every key goes to the program,
/// those that would stop it included.
pub(crate) struct Raw {
    before: Termios,
}

impl Raw {
    /// # Errors
    /// When the terminal cannot be set up.
    pub(crate) fn enter() -> Result<Self, Failure> {
        let failed = |e: rustix::io::Errno| Failure::io("cannot set up the terminal", &e.into());
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&stdin, OptionalActions::Now, &raw).map_err(failed)?;
        Ok(Self { before })
    }

    fn restore(&self) {
        // Fails only when the terminal is gone.
        let _gone = tcsetattr(std::io::stdin(), OptionalActions::Now, &self.before);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.restore();
    }
}

/// The size of the terminal of the person.
pub(crate) fn size() -> (u16, u16) {
    match tcgetwinsize(std::io::stdout()) {
        Ok(size) if size.ws_row > 0 && size.ws_col > 0 => (size.ws_row, size.ws_col),
        _ => USUAL_SIZE,
    }
}

/// Becomes readable whenever the terminal has another size. To be made where a runtime of tokio is at hand.
pub(crate) struct Resizes {
    reader: OwnedFd,
}

impl Resizes {
    /// # Errors
    /// When the signal cannot be watched.
    pub(crate) fn watch() -> Result<Self, Failure> {
        let failed = |e: std::io::Error| Failure::io("cannot watch the size of the terminal", &e);
        let flags = rustix::pipe::PipeFlags::CLOEXEC | rustix::pipe::PipeFlags::NONBLOCK;
        let (reader, writer) = rustix::pipe::pipe_with(flags).map_err(|e| failed(e.into()))?;
        let mut changes = signal(SignalKind::window_change()).map_err(failed)?;
        drop(tokio::spawn(async move {
            while changes.recv().await.is_some() {
                // Full is as good: it can be read.
                let _full = rustix::io::write(&writer, b"s");
            }
        }));
        Ok(Self { reader })
    }
}

impl AsFd for Resizes {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}

/// Stops `cancel` at the first SIGINT, SIGTERM or SIGHUP, which is left in `seen`; the second one ends this process at once, with the
/// terminal as it was. To be called where a runtime of tokio is at hand.
///
/// # Errors
/// When signals cannot be watched.
pub(crate) fn end_on_signal(
    cancel: &Cancel,
    raw: Option<&Arc<Raw>>,
    seen: &Arc<AtomicU8>,
) -> Result<(), Failure> {
    let kinds = [
        (SignalKind::interrupt(), 2),
        (SignalKind::terminate(), 15),
        (SignalKind::hangup(), 1),
    ];
    for (kind, number) in kinds {
        let mut signals = signal(kind).map_err(|e| Failure::io("cannot watch for signals", &e))?;
        // Weak: the terminal is restored when the owner is done with it, not when this task ends.
        let (cancel, seen, raw) = (cancel.clone(), seen.clone(), raw.map(Arc::downgrade));
        drop(tokio::spawn(async move {
            while signals.recv().await.is_some() {
                if seen.swap(number, Ordering::SeqCst) != 0 {
                    if let Some(raw) = raw.as_ref().and_then(std::sync::Weak::upgrade) {
                        raw.restore();
                    }
                    #[allow(clippy::exit, reason = "the second signal asks for exactly this")]
                    std::process::exit(128 + i32::from(number));
                }
                cancel.cancel();
            }
        }));
    }
    Ok(())
}
