//! System calls of the store: thin wrappers that turn `rustix` errors into `std::io` errors.
//!
//! Everything here is safe code; the module exists so that the rest of the crate names no system call.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FlockOperation, Mode, OFlags, RenameFlags, Timespec, Timestamps};

/// The time that every file of the store carries, in seconds: what Nix uses too.
pub(crate) const STORE_MTIME_SECS: i64 = 1;

/// Tells whether the user namespace of this process has all ids of the machine.
pub(crate) fn has_all_ids() -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

/// Takes an exclusive advisory lock, waiting for it.
pub(crate) fn lock_exclusive(file: &File) -> io::Result<()> {
    retry(|| rustix::fs::flock(file, FlockOperation::LockExclusive))
}

/// Takes an exclusive advisory lock if nobody has it; `false` when somebody does.
pub(crate) fn try_lock_exclusive(file: &File) -> io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(rustix::io::Errno::WOULDBLOCK | rustix::io::Errno::INTR) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// Gives an advisory lock back before its descriptor is closed.
pub(crate) fn unlock(file: &File) -> io::Result<()> {
    Ok(rustix::fs::flock(file, FlockOperation::Unlock)?)
}

/// Writes everything of the file system that holds `file` to the disk.
pub(crate) fn sync_filesystem(file: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(file)?)
}

/// Makes `target` share the data of `source` where the file system can (a reflink).
pub(crate) fn clone_file(source: &File, target: &File) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(target, source)?)
}

/// Makes a second name for a file, never following a symlink.
pub(crate) fn hard_link(existing: &Path, new: &Path) -> io::Result<()> {
    Ok(rustix::fs::linkat(
        CWD,
        existing,
        CWD,
        new,
        AtFlags::empty(),
    )?)
}

/// Moves a file to a name that nobody has.
pub(crate) fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    Ok(rustix::fs::renameat_with(
        CWD,
        from,
        CWD,
        to,
        RenameFlags::NOREPLACE,
    )?)
}

/// Sets the modification time of a path (a symlink itself, too) to the store's constant.
pub(crate) fn set_store_mtime(path: &Path) -> io::Result<()> {
    Ok(rustix::fs::utimensat(
        CWD,
        path,
        &store_times(),
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Sets the modification time of an open file to the store's constant.
pub(crate) fn set_store_mtime_fd(file: &File) -> io::Result<()> {
    Ok(rustix::fs::futimens(file, &store_times())?)
}

fn store_times() -> Timestamps {
    let time = Timespec {
        tv_sec: STORE_MTIME_SECS,
        tv_nsec: 0,
    };
    Timestamps {
        last_access: time,
        last_modification: time,
    }
}

/// Sets the permission bits of an open file.
pub(crate) fn set_mode_fd(file: &File, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(file, Mode::from_raw_mode(mode))?)
}

/// Sets the permission bits of a path that is not a symlink.
pub(crate) fn set_mode(path: &Path, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmodat(
        CWD,
        path,
        Mode::from_raw_mode(mode),
        AtFlags::empty(),
    )?)
}

/// Opens a regular file for reading without following a symlink in its last component and without
/// waiting for the other end of a pipe that stands in its place.
pub(crate) fn open_nofollow(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(File::from(rustix::fs::openat(
        CWD,
        path,
        flags,
        Mode::empty(),
    )?))
}

/// Opens a directory, to lock it or to work below it.
pub(crate) fn open_dir(path: &Path) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(
        CWD,
        path,
        flags,
        Mode::empty(),
    )?))
}

/// Opens a directory below an open one.
pub(crate) fn open_dir_at(dir: impl AsFd, name: &std::ffi::CStr) -> io::Result<File> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(
        dir,
        name,
        flags,
        Mode::empty(),
    )?))
}

/// Whether a file carries attributes that would travel with its inode into other trees: capabilities, ACLs, the user's.
/// What a security module puts on every file does not count.
pub(crate) fn has_attributes(file: &File) -> io::Result<bool> {
    // Names that do not fit into this are names that are there.
    let mut names = [0; 1024];
    match rustix::fs::flistxattr(file, &mut names) {
        Ok(length) => {
            let mut listed = names
                .get(..length)
                .unwrap_or_default()
                .split(|&byte| byte == 0);
            Ok(listed.any(|name| !matches!(name, b"" | b"security.selinux" | b"security.SMACK64")))
        }
        Err(rustix::io::Errno::RANGE) => Ok(true),
        Err(rustix::io::Errno::OPNOTSUPP) => Ok(false),
        Err(err) => Err(err.into()),
    }
}

/// Makes a file really occupy `len` bytes of the disk.
pub(crate) fn allocate(file: &File, len: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(
        file,
        rustix::fs::FallocateFlags::empty(),
        0,
        len,
    )?)
}

/// How much room the file system of `path` has for this user, in bytes, and whether it is mounted read-only.
pub(crate) fn filesystem_space(path: &Path) -> io::Result<(u64, bool)> {
    let stat = rustix::fs::statvfs(path)?;
    let read_only = stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
    Ok((stat.f_bavail.saturating_mul(stat.f_frsize), read_only))
}

/// Tells whether an error means that the disk or the quota is full, also when it was given more words since.
pub fn is_disk_full(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
    )
}

/// Whether an error means that an inode cannot take one more name.
pub(crate) fn is_too_many_links(err: &io::Error) -> bool {
    rustix::io::Errno::from_io_error(err) == Some(rustix::io::Errno::MLINK)
}

/// Whether a hard link was refused for a reason that a copy does not have: another file system, a file
/// of somebody else, a file system without links.
pub(crate) fn is_link_refused(err: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(err),
        Some(Errno::XDEV | Errno::PERM | Errno::ACCESS | Errno::OPNOTSUPP | Errno::MLINK)
    )
}

fn retry(mut call: impl FnMut() -> rustix::io::Result<()>) -> io::Result<()> {
    loop {
        match call() {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other?),
        }
    }
}
