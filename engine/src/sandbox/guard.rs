//! Programs that no sandbox holds, and their end together with `sos`.
//!
//! Between `sos` and such a program stand two copies of `sos`, the *guards*: each waits for whichever of its two neighbours ends first.
//! A death signal would reach the program alone, and not what that has started, as `git` starts what speaks over the network for it:
//! such a one waits for its server for as long as that says nothing, and `sos` for the end of the pipe that it holds. A guard is made
//! the parent of all that lose theirs, so that it finds them. There are two of them because somebody may kill one: the other one is left,
//! above it or below.
//!
//! All of this runs between fork and exec of a program with threads: nothing here allocates or takes a lock.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, WaitIdStatus, WaitOptions, getpid, getppid,
    kill_process, pidfd_open, set_child_subreaper, set_parent_process_death_signal, wait, waitid,
};
use rustix::thread::UnshareFlags;

use super::sys::{self, Cloned};

/// How often it is looked who is still there, once all are to end.
const LOOK: Duration = Duration::from_millis(20);
/// How many times they are asked, before they are killed: programs have things to remove.
const ASKED: u32 = 100;

/// Makes the child that is about to become a program three: the guards, which never return, and one that becomes the program.
///
/// # Errors
/// When the kernel refuses a part of it, or `us`, which started this child, has ended already.
pub(super) fn split(us: Pid) -> io::Result<()> {
    let parent = pidfd_open(us, PidfdFlags::empty());
    // Asked afterwards: else the descriptor could be one of a process that got the number later.
    if getppid() != Some(us) {
        return Err(Errno::SRCH.into());
    }
    let Ok(parent) = parent else {
        // A kernel, or a container, without such descriptors: the program itself is asked to end, at the end of the thread that waits.
        set_parent_process_death_signal(Some(Signal::TERM))?;
        return lives_on(us);
    };
    let outer = getpid();
    set_child_subreaper(Some(outer))?;
    match sys::clone_into(UnshareFlags::empty())? {
        Cloned::Child => {}
        // With the outer guard gone, the inner one ends the rest.
        Cloned::Parent(inner) => watch(&parent, &inner, || sys::exit(1)),
    }
    let parent = pidfd_open(outer, PidfdFlags::empty())?;
    lives_on(outer)?;
    let inner = getpid();
    set_child_subreaper(Some(inner))?;
    match sys::clone_into(UnshareFlags::empty())? {
        Cloned::Child => {
            set_parent_process_death_signal(Some(Signal::KILL))?;
            lives_on(inner)
        }
        Cloned::Parent(program) => watch(&parent, &program, || {
            end_all();
            sys::exit(1)
        }),
    }
}

fn lives_on(parent: Pid) -> io::Result<()> {
    if getppid() == Some(parent) {
        Ok(())
    } else {
        Err(Errno::SRCH.into())
    }
}

/// Waits for the end of the child, and ends as it did; or for that of the parent, and ends as `orphaned` does.
///
/// A child that a signal ended leaves others, which nobody asks for any more, and which may wait for something that never comes: they
/// end, too. What a program leaves that ends by itself is left alone, as is what it puts into the background.
fn watch(parent: &OwnedFd, child: &OwnedFd, orphaned: fn() -> !) -> ! {
    // The keys of a terminal mean the program: this process tells how it ended.
    sys::hold_signals();
    // A pipe is at its end when nobody holds its other one, and `sos` waits for that of one that tells of a failed exec.
    sys::close_all_but([parent.as_fd(), child.as_fd()]);
    loop {
        let mut fds = [
            PollFd::new(child, PollFlags::IN),
            PollFd::new(parent, PollFlags::IN),
        ];
        // Nothing interrupts it: signals are held back. A machine without memory for it is asked again.
        if poll(&mut fds, None).is_err() {
            continue;
        }
        if !fds[0].revents().is_empty() {
            let ended = waitid(WaitId::PidFd(child.as_fd()), WaitIdOptions::EXITED);
            end_as(ended.ok().flatten().as_ref());
        }
        if !fds[1].revents().is_empty() {
            orphaned();
        }
    }
}

fn end_as(child: Option<&WaitIdStatus>) -> ! {
    if let Some(signal) = child.and_then(WaitIdStatus::terminating_signal) {
        end_all();
        sys::end_by(signal);
    }
    sys::exit(child.and_then(WaitIdStatus::exit_status).unwrap_or(1))
}

/// Ends every child, again and again: the children of one that ended become those of this process.
fn end_all() {
    let mut asked = 0;
    loop {
        let signal = if asked < ASKED {
            Signal::TERM
        } else {
            Signal::KILL
        };
        each_child(|child| {
            // Nobody else collects it: its number is still its own.
            let _gone = kill_process(child, signal);
        });
        let left = loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some(_)) => {}
                Ok(None) => break true,
                Err(Errno::INTR) => {}
                Err(_) => break false,
            }
        };
        if !left {
            return;
        }
        asked += 1;
        if let Ok(time) = LOOK.try_into() {
            let _passed = poll(&mut [], Some(&time));
        }
    }
}

/// Calls `each` with the children of this process, as many as fit in a page; the others come the next time.
fn each_child(mut each: impl FnMut(Pid)) {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(file) = rustix::fs::open(c"/proc/thread-self/children", flags, Mode::empty()) else {
        return;
    };
    let mut text = [0; 4096];
    let Ok(length) = rustix::io::read(&file, &mut text) else {
        return;
    };
    let mut number: i32 = 0;
    for byte in text.iter().take(length) {
        if byte.is_ascii_digit() {
            number = number
                .saturating_mul(10)
                .saturating_add(i32::from(byte - b'0'));
        } else {
            if let Some(pid) = Pid::from_raw(number) {
                each(pid);
            }
            number = 0;
        }
    }
}
