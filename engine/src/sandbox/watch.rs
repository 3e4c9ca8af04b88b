//! Which names a program looks for in vain, told by its system calls: those that take a path are shown to a thread of process 1
//! before the kernel does them. Nothing is decided here; every call goes on as it would have.
//!
//! It costs a switch of processes for each such call, so nobody is watched who was not asked to be.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::thread::JoinHandle;

use serde::{Deserialize, Serialize};

use super::channel::Channel;
use super::protocol::{Failure, Naming};
use super::seccomp::{self, AUDIT_ARCH_AARCH64, AUDIT_ARCH_I386, AUDIT_ARCH_X86_64, Call, call};
use super::sys::{self, Notice};

/// The most names that are remembered: a compiler asks for many that nobody has before one that somebody does.
const NAMES_MAX: usize = 4096;
/// The longest path, as the kernel has it.
const PATH_BYTES_MAX: usize = 4096;
/// Memory is read up to the next multiple of this: behind it there may be none.
const PAGE_BYTES: u64 = 4096;

/// What a watched program did that cannot have worked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watched {
    /// Absolute paths below the watched directories that it looked for and that were not there, sorted, at most 4096.
    pub missing: Vec<String>,
    /// Absolute paths at which it wanted to make a device, sorted, at most 4096.
    pub devices: Vec<String>,
}

/// What a call does with its path.
#[derive(Clone, Copy)]
enum Kind {
    /// It is looked at.
    Look,
    /// It is opened, and made if the argument of this number says so.
    Open(usize),
    /// Something is made there, and the argument of this number says what.
    Make(usize),
}

/// A call that takes a path.
struct Watch {
    call: Call,
    /// The number of the argument that is the directory of relative paths; none is the working directory.
    dir: Option<usize>,
    /// The number of the argument that is the path.
    path: usize,
    kind: Kind,
}

const fn at(call: Call, kind: Kind) -> Watch {
    Watch {
        call,
        dir: Some(0),
        path: 1,
        kind,
    }
}

const fn here(call: Call, kind: Kind) -> Watch {
    Watch {
        call,
        dir: None,
        path: 0,
        kind,
    }
}

/// open, stat, lstat, access, execve, chdir, readlink, mknod; their `at` forms; what only i386 has.
const CALLS: [Watch; 22] = [
    here(call(2, 5, -1), Kind::Open(1)),
    here(call(4, 106, -1), Kind::Look),
    here(call(6, 107, -1), Kind::Look),
    here(call(21, 33, -1), Kind::Look),
    here(call(59, 11, 221), Kind::Look),
    here(call(80, 12, 49), Kind::Look),
    here(call(89, 85, -1), Kind::Look),
    here(call(133, 14, -1), Kind::Make(1)),
    at(call(257, 295, 56), Kind::Open(2)),
    at(call(259, 297, 33), Kind::Make(2)),
    at(call(262, 300, 79), Kind::Look),
    at(call(267, 305, 78), Kind::Look),
    at(call(269, 307, 48), Kind::Look),
    at(call(322, 358, 281), Kind::Look),
    at(call(332, 383, 291), Kind::Look),
    at(call(437, 437, 437), Kind::Look),
    at(call(439, 439, 439), Kind::Look),
    here(call(-1, 18, -1), Kind::Look),
    here(call(-1, 84, -1), Kind::Look),
    here(call(-1, 195, -1), Kind::Look),
    here(call(-1, 196, -1), Kind::Look),
    here(call(-1, 99, -1), Kind::Look),
];

/// The filter that shows them.
fn filter() -> Vec<libc::sock_filter> {
    let calls: Vec<&Call> = CALLS.iter().map(|watch| &watch.call).collect();
    seccomp::showing(&calls)
}

/// The watch over one program, in process 1.
pub(super) struct Watcher {
    thread: JoinHandle<Watched>,
    /// The program sends its side of the filter here.
    program_end: Channel,
}

impl Watcher {
    /// Begins to watch over names below `dirs`; nothing when there are none.
    pub(super) fn start(dirs: &[PathBuf]) -> Result<Option<Self>, Failure> {
        if dirs.is_empty() {
            return Ok(None);
        }
        let what = || "watch the program".to_owned();
        let (ours, theirs) = Channel::pair().naming(what)?;
        let dirs = dirs.to_vec();
        let watch = move || {
            // A program that could not be filtered is not watched.
            let listener = match ours.receive::<()>() {
                Ok(Some(((), fds))) => fds.into_iter().next(),
                _ => None,
            };
            listener.map_or_else(Watched::default, |listener| serve(&listener, &dirs))
        };
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn(watch)
            .naming(what)?;
        Ok(Some(Self {
            thread,
            program_end: Channel::new(theirs),
        }))
    }

    /// Shows the calls of the calling process, which is about to become the program. Kernels that cannot, and sandboxes around
    /// this one that do not let us, leave it unwatched.
    pub(super) fn show_own_calls(&self) {
        if let Ok(listener) = sys::install_listener(&filter()) {
            // From here on this process waits for the other side at each of these calls.
            let _unwatched = self.program_end.send(&(), &[listener.as_fd()]).is_err();
        }
    }

    /// Returns what was seen, when every process of the program is gone.
    pub(super) fn finish(self) -> Watched {
        drop(self.program_end);
        self.thread.join().unwrap_or_default()
    }
}

/// Lets every call go on, until nobody is left who could make one.
fn serve(listener: &OwnedFd, dirs: &[PathBuf]) -> Watched {
    let mut missing = BTreeSet::new();
    let mut devices = BTreeSet::new();
    loop {
        let notice = match sys::next_notice(listener.as_fd()) {
            Ok(Some(notice)) => notice,
            // Killed before it was looked at.
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => continue,
            Ok(None) | Err(_) => break,
        };
        match look(&notice, dirs) {
            Some(Seen::Missing(path)) if missing.len() < NAMES_MAX => {
                missing.insert(path);
            }
            Some(Seen::Device(path)) if devices.len() < NAMES_MAX => {
                devices.insert(path);
            }
            _ => {}
        }
        // Fails for one that was killed meanwhile.
        let _gone = sys::let_go_on(listener.as_fd(), &notice).is_err();
    }
    Watched {
        missing: missing.into_iter().collect(),
        devices: devices.into_iter().collect(),
    }
}

enum Seen {
    Missing(String),
    Device(String),
}

fn look(notice: &Notice, dirs: &[PathBuf]) -> Option<Seen> {
    let watch = watch_of(notice)?;
    let path = absolute(notice, watch).ok()?;
    let text = || String::from_utf8_lossy(path.as_os_str().as_bytes()).into_owned();
    let argument = |n: usize| notice.args.get(n).copied().unwrap_or_default();
    if let Kind::Make(mode) = watch.kind {
        let kind = argument(mode) & u64::from(libc::S_IFMT);
        let is_device = [libc::S_IFCHR, libc::S_IFBLK]
            .iter()
            .any(|device| kind == u64::from(*device));
        return is_device.then(|| Seen::Device(text()));
    }
    if !dirs.iter().any(|dir| path.starts_with(dir) && path != *dir) {
        return None;
    }
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    if is_there(&path) {
        return None;
    }
    if let Kind::Open(flags) = watch.kind {
        let makes = argument(flags) & u64::from(libc::O_CREAT.unsigned_abs()) != 0;
        if makes && path.parent().is_some_and(is_there) {
            return None;
        }
    }
    Some(Seen::Missing(text()))
}

fn watch_of(notice: &Notice) -> Option<&'static Watch> {
    let number = |call: &Call| match notice.arch {
        AUDIT_ARCH_X86_64 => call.x86_64,
        AUDIT_ARCH_I386 => call.i386,
        AUDIT_ARCH_AARCH64 => call.aarch64,
        _ => -1,
    };
    let asked = seccomp::without_x32(notice.arch, notice.nr);
    CALLS
        .iter()
        .find(|watch| asked >= 0 && number(&watch.call) == asked)
}

/// The path of a call, from the root of the sandbox. What has changed its root is not followed there.
fn absolute(notice: &Notice, watch: &Watch) -> io::Result<PathBuf> {
    let argument = |n: usize| notice.args.get(n).copied().unwrap_or_default();
    let given = PathBuf::from(OsString::from_vec(string(
        notice.pid,
        argument(watch.path),
    )?));
    if given.as_os_str().is_empty() {
        return Err(io::ErrorKind::NotFound.into());
    }
    if given.is_absolute() {
        return Ok(plain(&given));
    }
    // The kernel takes the low half as a signed number.
    let low = |value: u64| u32::try_from(value & 0xffff_ffff).map_or(0, u32::cast_signed);
    let base = match watch.dir.map(|n| low(argument(n))) {
        Some(fd) if fd != libc::AT_FDCWD => format!("/proc/{}/fd/{fd}", notice.pid),
        _ => format!("/proc/{}/cwd", notice.pid),
    };
    Ok(plain(&std::fs::read_link(base)?.join(given)))
}

/// A path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                out.pop();
            }
            Component::CurDir => {}
            part => out.push(part),
        }
    }
    out
}

/// The string at an address of another process.
fn string(pid: u32, address: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    let mut buffer = [0u8; 256];
    while out.len() < PATH_BYTES_MAX {
        let from = address.wrapping_add(out.len() as u64);
        let in_page = usize::try_from(PAGE_BYTES - from % PAGE_BYTES).unwrap_or(1);
        let wanted = buffer.len().min(in_page).min(PATH_BYTES_MAX - out.len());
        let read = sys::read_memory(pid, from, &mut buffer[..wanted])?;
        match buffer[..read].iter().position(|b| *b == 0) {
            Some(end) => {
                out.extend_from_slice(&buffer[..end]);
                return Ok(out);
            }
            None if read == 0 => break,
            None => out.extend_from_slice(&buffer[..read]),
        }
    }
    Err(io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_read_to_their_end() {
        let own = std::process::id();
        let mut text = vec![b'x'; 700];
        text.extend(b"\0more");
        assert_eq!(string(own, text.as_ptr().addr() as u64).unwrap().len(), 700);
        let endless = vec![b'y'; PATH_BYTES_MAX + 1];
        assert!(string(own, endless.as_ptr().addr() as u64).is_err());
        assert!(string(own, 0).is_err());
    }

    #[test]
    fn paths_are_plain() {
        let check =
            |path: &str, expect: &str| assert_eq!(plain(Path::new(path)), Path::new(expect));
        check("/steps/a/../b/./run", "/steps/b/run");
        check("/../x", "/x");
    }

    #[test]
    fn calls_are_told_apart_by_their_entry() {
        let of = |arch, nr| {
            let notice = Notice {
                arch,
                nr,
                ..Notice::default()
            };
            watch_of(&notice).map(|watch| (watch.dir, watch.path))
        };
        assert_eq!(of(AUDIT_ARCH_X86_64, 2), Some((None, 0)));
        assert_eq!(of(AUDIT_ARCH_X86_64, 257), Some((Some(0), 1)));
        assert_eq!(of(AUDIT_ARCH_X86_64, 0x4000_0000 | 257), Some((Some(0), 1)));
        assert_eq!(of(AUDIT_ARCH_I386, 5), Some((None, 0)));
        assert_eq!(of(AUDIT_ARCH_I386, 2), None);
        assert_eq!(of(AUDIT_ARCH_AARCH64, 56), Some((Some(0), 1)));
        assert_eq!(of(1, 2), None);
    }

    #[test]
    fn names_below_the_watched_directories_count() {
        let dir = tempfile::tempdir().unwrap();
        let there = dir.path().join("there");
        std::fs::write(&there, "").unwrap();
        let look_at = |path: &Path, nr: i32, args: [u64; 3]| {
            let text = [path.as_os_str().as_bytes(), b"\0"].concat();
            let mut all = [0; 6];
            all[..3].copy_from_slice(&args);
            let place = if nr == 257 { 1 } else { 0 };
            all[place] = text.as_ptr().addr() as u64;
            let notice = Notice {
                id: 0,
                pid: std::process::id(),
                arch: AUDIT_ARCH_X86_64,
                nr,
                args: all,
            };
            match look(&notice, &[dir.path().to_owned()]) {
                Some(Seen::Missing(path)) => format!("missing {path}"),
                Some(Seen::Device(path)) => format!("device {path}"),
                None => String::new(),
            }
        };
        let gone = dir.path().join("gone");
        let missing = format!("missing {}", gone.display());
        let creat = u64::from(libc::O_CREAT.unsigned_abs());
        let cwd = u64::from(libc::AT_FDCWD.cast_unsigned());
        assert_eq!(look_at(&gone, 4, [0; 3]), missing);
        assert_eq!(look_at(&there, 4, [0; 3]), "");
        assert_eq!(look_at(Path::new("/nonexistent"), 4, [0; 3]), "");
        assert_eq!(look_at(dir.path(), 4, [0; 3]), "");
        assert_eq!(look_at(&gone, 257, [cwd, 0, 0]), missing);
        // What it makes it does not miss, unless there is no place for it.
        assert_eq!(look_at(&gone, 257, [cwd, 0, creat]), "");
        assert_ne!(look_at(&gone.join("x"), 257, [cwd, 0, creat]), "");
        let null = Path::new("/dev/null");
        let char_device = u64::from(libc::S_IFCHR) | 0o666;
        assert_eq!(look_at(null, 133, [0, char_device, 0]), "device /dev/null");
        assert_eq!(look_at(null, 133, [0, u64::from(libc::S_IFIFO), 0]), "");
    }
}
