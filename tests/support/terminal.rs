//! A terminal with `sos` in it, and a person who types.

use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{Termios, Winsize, tcgetattr, tcsetwinsize};

use super::{finish, peer};

/// How long an answer may take, on a machine that does much else.
const PATIENCE_SECS: i64 = 60;

/// A program in a terminal of its own.
pub(crate) struct Terminal {
    master: OwnedFd,
    terminal: OwnedFd,
    child: Child,
    /// What was said and not yet expected.
    unread: Vec<u8>,
}

impl Terminal {
    /// Starts a command as the one in the foreground of a new terminal of this size.
    pub(crate) fn start(command: &Command, rows: u16, columns: u16) -> Option<Self> {
        let setsid = peer("setsid")?;
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .expect("a terminal");
        grantpt(&master).expect("its owner");
        unlockpt(&master).expect("it is unlocked");
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let terminal = ioctl_tiocgptpeer(&master, flags).expect("its other end");
        let end = || Stdio::from(terminal.try_clone().expect("a descriptor"));
        let mut inside = Command::new(setsid);
        inside
            .arg("--ctty")
            .arg(command.get_program())
            .args(command.get_args())
            .env_clear()
            .envs(command.get_envs().filter_map(|(k, v)| Some((k, v?))))
            .stdin(end())
            .stdout(end())
            .stderr(end());
        if let Some(dir) = command.get_current_dir() {
            inside.current_dir(dir);
        }
        // Before anybody looks.
        tcsetwinsize(&master, size(rows, columns)).expect("a size");
        let child = inside.spawn().expect("it starts");
        Some(Self {
            master,
            terminal,
            child,
            unread: Vec::new(),
        })
    }

    pub(crate) fn child(&self) -> &Child {
        &self.child
    }

    pub(crate) fn resize(&self, rows: u16, columns: u16) {
        tcsetwinsize(&self.master, size(rows, columns)).expect("a size");
    }

    /// How the terminal treats keys.
    pub(crate) fn modes(&self) -> Termios {
        tcgetattr(&self.terminal).expect("modes")
    }

    pub(crate) fn type_in(&self, keys: &str) {
        let mut keys = keys.as_bytes();
        while !keys.is_empty() {
            let n = rustix::io::write(&self.master, keys).expect("it listens");
            keys = &keys[n..];
        }
    }

    /// Waits until `text` is said, and returns what was said up to it.
    #[track_caller]
    pub(crate) fn expect(&mut self, text: &str) -> String {
        let text = text.as_bytes();
        loop {
            let found = self.unread.windows(text.len()).position(|w| w == text);
            if let Some(at) = found {
                let rest = self.unread.split_off(at + text.len());
                let said = std::mem::replace(&mut self.unread, rest);
                return String::from_utf8_lossy(&said).into_owned();
            }
            let patience = Timespec {
                tv_sec: PATIENCE_SECS,
                tv_nsec: 0,
            };
            let mut fds = [PollFd::new(&self.master, PollFlags::IN)];
            let ready = poll(&mut fds, Some(&patience)).expect("it can be waited for");
            let said = String::from_utf8_lossy(&self.unread).into_owned();
            assert!(ready > 0, "silent; last it said: {said:?}");
            let mut some = [0; 4096];
            let n = rustix::io::read(&self.master, &mut some).expect("it speaks");
            self.unread.extend(&some[..n]);
        }
    }

    /// Waits for the end of the program and returns its exit code, and how it leaves the terminal.
    pub(crate) fn end(self) -> (i32, Termios) {
        let code = finish(self.child, Duration::from_secs(60)).code;
        (code, tcgetattr(&self.terminal).expect("modes"))
    }
}

fn size(rows: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}
