//! System calls that neither the standard library nor rustix wraps safely, each behind a safe function.
#![allow(
    unsafe_code,
    reason = "the one module of this crate that calls the kernel by itself"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use rustix::process::Pid;
use rustix::thread::UnshareFlags;

/// Mount attributes of `mount_setattr`, as the kernel numbers them.
pub(super) const ATTR_RDONLY: u64 = 0x1;
pub(super) const ATTR_NOSUID: u64 = 0x2;
pub(super) const ATTR_NODEV: u64 = 0x4;

const AT_EMPTY_PATH: libc::c_int = 0x1000;
const AT_RECURSIVE: libc::c_int = 0x8000;

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Takes standard input for the helper's own use and leaves the number 0 free.
pub(super) fn take_stdin() -> io::Result<OwnedFd> {
    // SAFETY: descriptor 0 was given to this process by its parent for exactly this; nothing else here owns it.
    let stdin = unsafe { OwnedFd::from_raw_fd(0) };
    let high = rustix::io::fcntl_dupfd_cloexec(&stdin, 3)?;
    Ok(high)
}

/// The two sides of a fork.
pub(super) enum Cloned {
    /// In the new process.
    Child,
    /// In the old process, with a descriptor of the new one.
    Parent(OwnedFd),
}

/// Forks the launcher, which has one thread, so the child may do anything. The child is in new namespaces.
pub(super) fn clone_into(namespaces: UnshareFlags) -> io::Result<Cloned> {
    let flags = libc::c_ulong::try_from(libc::CLONE_PIDFD | libc::SIGCHLD)
        .map_err(io::Error::other)?
        | libc::c_ulong::from(namespaces.bits());
    let mut pidfd: libc::c_int = -1;
    // SAFETY: without a stack and without shared memory this is a fork; the launcher never starts threads, so no lock can be
    // held by a thread that the child lacks. The kernel writes one number to `pidfd`.
    let pid = check(unsafe {
        libc::syscall(
            libc::SYS_clone,
            flags,
            std::ptr::null_mut::<libc::c_void>(),
            &raw mut pidfd,
            std::ptr::null_mut::<libc::c_int>(),
            0,
        )
    })?;
    if pid == 0 {
        return Ok(Cloned::Child);
    }
    // SAFETY: the kernel just made this descriptor for us.
    Ok(Cloned::Parent(unsafe { OwnedFd::from_raw_fd(pidfd) }))
}

/// Bytes of stack for what a child does before it becomes a program.
const START_STACK_BYTES: usize = 256 << 10;

/// Starts a child that shares the memory of this process until it becomes a program or `until_exec` returns, which ends it.
/// The calling thread stands still meanwhile, and pays for no copy of the memory.
pub(super) fn start(until_exec: &mut dyn FnMut()) -> io::Result<Pid> {
    extern "C" fn entry(argument: *mut libc::c_void) -> libc::c_int {
        // SAFETY: `start` passes exactly this, and stands still while it is used.
        let until_exec = unsafe { &mut *argument.cast::<&mut dyn FnMut()>() };
        until_exec();
        exit(0)
    }
    let mut stack: Vec<u8> = Vec::with_capacity(START_STACK_BYTES);
    let mut argument: &mut dyn FnMut() = until_exec;
    let top = stack.as_mut_ptr().wrapping_add(START_STACK_BYTES);
    // Stacks grow down from an address that is a multiple of 16.
    let top = top.wrapping_sub(top.addr() % 16);
    // SAFETY: the child runs on a stack of its own, which lives until this call ends; CLONE_VFORK ends it only when the child
    // uses this memory no more. Signal handlers, descriptors and directories are not shared.
    let pid = check(libc::c_long::from(unsafe {
        libc::clone(
            entry,
            top.cast(),
            libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD,
            (&raw mut argument).cast(),
        )
    }))?;
    i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("no process id"))
}

/// Lets the program that `command` becomes, and everything that it starts, end when this process ends, however that comes: for programs
/// that no sandbox holds. They are asked to end, and killed when they have not two seconds later. So do
/// they when the program is ended by a signal, or whoever watches over it: the child of this process is not the program but one of those.
pub fn ends_with_us(command: &mut Command) {
    let us = rustix::process::getpid();
    // SAFETY: between fork and exec there are system calls only; nothing is allocated and no lock is taken.
    unsafe { command.pre_exec(move || super::guard::split(us)) };
}

/// Holds every signal back that can be held back.
pub(super) fn hold_signals() {
    // SAFETY: the set is initialised by the first call; the old mask is not wanted.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Closes every descriptor besides two.
pub(super) fn close_all_but(kept: [BorrowedFd<'_>; 2]) {
    let close = |first: i64, last: i64| {
        if first > last {
            return;
        }
        // SAFETY: this process owns all of its descriptors, and uses none but those that it keeps.
        let closed = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        if closed != 0 {
            // A kernel before 5.9.
            for number in first..=last.min(0xffff) {
                // SAFETY: as above.
                unsafe { libc::syscall(libc::SYS_close, number) };
            }
        }
    };
    let [a, b] = kept.map(|fd| i64::from(fd.as_raw_fd()));
    let (low, high) = (a.min(b), a.max(b));
    close(0, low - 1);
    close(low + 1, high - 1);
    close(high + 1, i64::from(u32::MAX));
}

/// Ends this process by a signal, as another one was.
pub(super) fn end_by(signal: i32) -> ! {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: takes a number and a structure; no memory is to be written of a process that failed nowhere.
    unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) };
    // A child may have it handled or ignored, and it is held back.
    let _refused = reset_signals();
    // SAFETY: takes numbers only.
    unsafe { libc::kill(libc::getpid(), signal) };
    exit(128 + signal)
}

/// Kills every process of the pid namespace that this process is the first of.
pub(super) fn kill_all_others() {
    // Anywhere else this would be every process of the user.
    if rustix::process::getpid() == Pid::INIT {
        // SAFETY: takes numbers only. Fails when there is no other process.
        unsafe { libc::kill(-1, libc::SIGKILL) };
    }
}

/// Lets the kernel forget children as they end; nobody waits for them.
pub(super) fn forget_children() -> io::Result<()> {
    // SAFETY: SIG_IGN is valid for this signal.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Ends this process at once.
pub(super) fn exit(status: i32) -> ! {
    // SAFETY: `_exit` takes any number and does not return.
    unsafe { libc::_exit(status) }
}

/// Replaces this process by a program; returns only on failure.
pub(super) fn exec(program: &CString, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|s| s.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: all three are NUL-terminated and the arrays end with a null pointer; they live until the call ends.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Leaves namespaces of the caller for new ones.
pub(super) fn unshare(flags: UnshareFlags) -> io::Result<()> {
    // SAFETY: unsafe only for the FILES flag, which nobody here passes.
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(Into::into)
}

/// Sets and clears attributes of a mount, with everything below it when `recursive`.
pub(super) fn mount_setattr(
    mount: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
) -> io::Result<()> {
    let attr = MountAttr {
        set,
        clear,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty C string, `attr` lives until the call ends and its true size is given.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })?;
    Ok(())
}

/// Loads a BPF program as the system call filter of this thread and its children.
pub(super) fn install_filter(program: &[libc::sock_filter]) -> io::Result<()> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions from `filter` and copies them before the call ends.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            0,
            &raw const program,
        )
    })?;
    Ok(())
}

/// A system call that waits to be let go on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Notice {
    pub(super) id: u64,
    /// The thread that makes it, as this process sees it.
    pub(super) pid: u32,
    /// The way into the kernel, as `AUDIT_ARCH_...` has it.
    pub(super) arch: u32,
    pub(super) nr: i32,
    pub(super) args: [u64; 6],
}

/// Loads a BPF program as a further filter of this thread and its children, and returns where its notices arrive.
pub(super) fn install_listener(program: &[libc::sock_filter]) -> io::Result<OwnedFd> {
    let len = u16::try_from(program.len()).map_err(io::Error::other)?;
    let program = libc::sock_fprog {
        len,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: the kernel reads `len` instructions from `filter` and copies them before the call ends.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            &raw const program,
        )
    })?;
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for the next notice; `None` when no process is left that has the filter.
pub(super) fn next_notice(listener: BorrowedFd<'_>) -> io::Result<Option<Notice>> {
    use rustix::event::{PollFd, PollFlags, poll};
    loop {
        let mut fds = [PollFd::from_borrowed_fd(listener, PollFlags::IN)];
        match poll(&mut fds, None) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        if fds[0].revents().contains(PollFlags::IN) {
            break;
        }
        if !fds[0].revents().is_empty() {
            return Ok(None);
        }
    }
    // SAFETY: all-zero is a valid `seccomp_notif`, and what the kernel asks for.
    let mut notice: libc::seccomp_notif = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes one `seccomp_notif`, whose size is part of the number of the request.
    check(libc::c_long::from(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_RECV,
            &raw mut notice,
        )
    }))?;
    Ok(Some(Notice {
        id: notice.id,
        pid: notice.pid,
        arch: notice.data.arch,
        nr: notice.data.nr,
        args: notice.data.args,
    }))
}

/// Lets the system call of a notice go on as if nobody had looked.
pub(super) fn let_go_on(listener: BorrowedFd<'_>, notice: &Notice) -> io::Result<()> {
    let answer = libc::seccomp_notif_resp {
        id: notice.id,
        val: 0,
        error: 0,
        flags: u32::try_from(libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE).map_err(io::Error::other)?,
    };
    // SAFETY: the kernel reads one `seccomp_notif_resp`, whose size is part of the number of the request.
    check(libc::c_long::from(unsafe {
        libc::ioctl(
            listener.as_raw_fd(),
            libc::SECCOMP_IOCTL_NOTIF_SEND,
            &raw const answer,
        )
    }))?;
    Ok(())
}

/// Reads memory of another process; fewer bytes than asked for when there are no more.
pub(super) fn read_memory(pid: u32, address: u64, into: &mut [u8]) -> io::Result<usize> {
    let pid = libc::pid_t::try_from(pid).map_err(io::Error::other)?;
    let local = libc::iovec {
        iov_base: into.as_mut_ptr().cast(),
        iov_len: into.len(),
    };
    let remote = libc::iovec {
        iov_base: std::ptr::without_provenance_mut(
            usize::try_from(address).map_err(io::Error::other)?,
        ),
        iov_len: into.len(),
    };
    // SAFETY: the kernel writes at most `into.len()` bytes to `into`; the other address is of another process, and checked there.
    let read = unsafe { libc::process_vm_readv(pid, &raw const local, 1, &raw const remote, 1, 0) };
    usize::try_from(read).map_err(|_negative| io::Error::last_os_error())
}

/// Turns address randomisation off unless it is wanted, and makes the machine look like a 32-bit one, or like one with an
/// old kernel, when asked to.
pub(super) fn set_personality(
    linux32: bool,
    random_addresses: bool,
    old_kernel: bool,
) -> io::Result<()> {
    // The base personalities PER_LINUX and PER_LINUX32 of <sys/personality.h>.
    let base: libc::c_int = if linux32 { 8 } else { 0 };
    let mut flags = base;
    if !random_addresses {
        flags |= libc::ADDR_NO_RANDOMIZE;
    }
    if old_kernel {
        flags |= libc::UNAME26;
    }
    let persona = libc::c_ulong::try_from(flags).map_err(io::Error::other)?;
    // SAFETY: takes a number only.
    check(libc::c_long::from(unsafe { libc::personality(persona) }))?;
    Ok(())
}

/// Holds SIGCHLD back and returns a descriptor that becomes readable when a child has ended.
pub(super) fn child_signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: SIG_DFL is valid for this signal; ignored, it would take the status of children away.
    if unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) } == libc::SIG_ERR {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: an all-zero set is valid memory for `sigemptyset`, which initialises it.
    let set = unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        set
    };
    // SAFETY: `set` is initialised; the old mask is not wanted.
    check(libc::c_long::from(unsafe {
        libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut())
    }))?;
    // SAFETY: `set` is initialised; -1 asks for a new descriptor.
    let fd = unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
    check(libc::c_long::from(fd))?;
    // SAFETY: the kernel just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Gives every signal its default meaning and lets all through.
pub(super) fn reset_signals() -> io::Result<()> {
    for signal in 1..=64 as libc::c_int {
        // The library refuses the two signals that it keeps for itself, and whoever started us may have them ignored.
        let default = [0u64; 4];
        // SAFETY: four zero words are the kernel's `sigaction` of the default; the set of signals has eight bytes. Numbers
        // that cannot be changed are refused, which is fine.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                size_of::<u64>(),
            )
        };
    }
    // SAFETY: as in `child_signal_fd`.
    check(libc::c_long::from(unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut())
    }))?;
    Ok(())
}

/// Marks every descriptor above the standard three to be closed by the next exec.
pub(super) fn close_on_exec_above_stderr() -> io::Result<()> {
    // SAFETY: only sets a flag on descriptors; none is closed here.
    check(unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3 as libc::c_uint,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        )
    })?;
    Ok(())
}

/// Puts a descriptor at the numbers 1 and 2.
pub(super) fn set_output(fd: BorrowedFd<'_>) -> io::Result<()> {
    for number in [1, 2] {
        // SAFETY: both numbers are standard streams, which nothing here owns.
        check(libc::c_long::from(unsafe {
            libc::dup2(fd.as_raw_fd(), number)
        }))?;
    }
    Ok(())
}

/// Puts a descriptor at number 0.
pub(super) fn set_stdin(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: number 0 is free or owned by nobody in the process that is about to exec.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), 0) }))?;
    Ok(())
}

/// Switches the loopback interface of the current network namespace on.
pub(super) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::DGRAM,
        rustix::net::SocketFlags::CLOEXEC,
        None,
    )?;
    // SAFETY: all-zero is a valid `ifreq`; the name fits and stays NUL-terminated.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(b"lo") {
        *to = libc::c_char::from_ne_bytes([*from]);
    }
    request.ifr_ifru.ifru_flags =
        libc::c_short::try_from(libc::IFF_UP | libc::IFF_RUNNING).map_err(io::Error::other)?;
    // SAFETY: SIOCSIFFLAGS reads one `ifreq`.
    check(libc::c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request)
    }))?;
    Ok(())
}

/// Cuts the process off from abstract sockets and signals outside of itself where the kernel can (landlock ABI 6).
pub(super) fn landlock_scope() -> bool {
    const SCOPE_ABSTRACT_UNIX_SOCKET: u64 = 1;
    const SCOPE_SIGNAL: u64 = 2;
    // handled_access_fs, handled_access_net, scoped
    let attr: [u64; 3] = [0, 0, SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL];
    // SAFETY: `attr` has the layout of `landlock_ruleset_attr` and its true size is given.
    let ruleset = unsafe {
        libc::syscall(
            libc::SYS_landlock_create_ruleset,
            attr.as_ptr(),
            size_of_val(&attr),
            0,
        )
    };
    let Ok(raw) = libc::c_int::try_from(ruleset) else {
        return false;
    };
    if raw < 0 {
        return false;
    }
    // SAFETY: the kernel just made this descriptor for us.
    let ruleset = unsafe { OwnedFd::from_raw_fd(raw) };
    // SAFETY: takes a descriptor and a flag word.
    unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) == 0 }
}
