//! System calls that neither the standard library nor rustix wraps safely, each behind a safe function.
#![allow(
    unsafe_code,
    reason = "the one module of this crate that calls the kernel by itself"
)]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

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
pub(super) enum Fork {
    /// In the new process.
    Child,
    /// In the old process, with the new one's id.
    Parent(Pid),
}

/// Forks the helper, which has one thread, so the child may do anything.
pub(super) fn fork() -> io::Result<Fork> {
    // SAFETY: the helper never starts threads, so no lock can be held by a thread that the child lacks.
    let pid = unsafe { libc::fork() };
    match Pid::from_raw(pid) {
        _ if pid < 0 => Err(io::Error::last_os_error()),
        None => Ok(Fork::Child),
        Some(pid) => Ok(Fork::Parent(pid)),
    }
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
    for signal in 1..=64 {
        // SAFETY: SIG_DFL is valid for each signal; numbers that cannot be changed are refused, which is fine.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
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
