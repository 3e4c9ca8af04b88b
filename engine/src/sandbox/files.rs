//! Changes to files below an open directory, for a worker that is root of its namespace among foreign links.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, UTIME_OMIT,
    XattrFlags,
};
use rustix::io::Errno;

use super::protocol::WireMeta;

/// The most bytes of one extended attribute, and of all names of one file, in Linux.
const MAX_XATTR_BYTES: usize = 64 << 10;

/// What the names of an overlay's own attributes begin with.
const OVERLAY: &[u8] = b"user.overlay.";

/// Splits a relative path in the directory and the last name.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|&b| b == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}

/// Opens a directory below `base` without following any link.
pub(super) fn open_dir(base: BorrowedFd<'_>, path: &[u8]) -> io::Result<OwnedFd> {
    let path: &[u8] = if path.is_empty() { b"." } else { path };
    Ok(rustix::fs::openat2(
        base,
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS,
    )?)
}

/// Returns the metadata of an entry, or of the directory itself for an empty name.
pub(super) fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<Stat> {
    Ok(rustix::fs::statat(
        dir,
        name,
        AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH,
    )?)
}

/// Returns the names in a directory, sorted.
pub(super) fn names(dir: BorrowedFd<'_>) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let name = entry?.file_name().to_bytes().to_vec();
        if name != b"." && name != b".." {
            names.push(name);
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Removes an entry with all below it; a missing one is fine. Depth costs memory, not stack.
pub(super) fn remove(dir: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
    match rustix::fs::unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(e) => return Err(e.into()),
    }
    let open = |at: BorrowedFd<'_>, name: &[u8]| {
        rustix::fs::openat(
            at,
            name,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
            Mode::empty(),
        )
    };
    let top = open(dir, name)?;
    let pending = names(top.as_fd())?;
    let mut stack = vec![(top, name.to_vec(), pending)];
    while let Some((at, _, pending)) = stack.last_mut() {
        if let Some(name) = pending.pop() {
            match rustix::fs::unlinkat(&*at, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => {
                    let below = open(at.as_fd(), &name)?;
                    let pending = names(below.as_fd())?;
                    stack.push((below, name, pending));
                }
                Err(e) => return Err(e.into()),
            }
            continue;
        }
        let Some((_, name, _)) = stack.pop() else {
            break;
        };
        let parent = stack.last().map_or(dir, |(fd, ..)| fd.as_fd());
        rustix::fs::unlinkat(parent, &name, AtFlags::REMOVEDIR)?;
    }
    Ok(())
}

/// Sets owner, mode and extended attributes of an entry, in the order in which none undoes another.
pub(super) fn set_meta(
    dir: BorrowedFd<'_>,
    name: &[u8],
    meta: &WireMeta,
    kind: FileType,
) -> io::Result<()> {
    rustix::fs::chownat(
        dir,
        name,
        Some(rustix::fs::Uid::from_raw(meta.uid)),
        Some(rustix::fs::Gid::from_raw(meta.gid)),
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    if kind != FileType::Symlink {
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(meta.mode), AtFlags::empty())?;
    }
    let path = entry_path(dir, name);
    for old in xattr_names(&path)? {
        if is_kept(&old) && !meta.xattrs.iter().any(|(n, _)| *n == old) {
            rustix::fs::lremovexattr(&path, &old)?;
        }
    }
    for (name, value) in &meta.xattrs {
        rustix::fs::lsetxattr(&path, name, value, XattrFlags::empty())?;
    }
    Ok(())
}

/// Moves a file that a step has left, with the metadata that the manifest has of it, which is mostly what it has already.
pub(super) fn adopt(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    name: &[u8],
    meta: &WireMeta,
) -> io::Result<()> {
    let stat = stat(from, name)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Errno::INVAL.into());
    }
    // A name of its own is all that the manifest has; another one would share what is done to it.
    if stat.st_nlink > 1 {
        return Err(Errno::MLINK.into());
    }
    rustix::fs::renameat(from, name, to, name)?;
    let path = entry_path(to, name);
    let names = xattr_names(&path)?;
    for note in names.iter().filter(|name| name.starts_with(OVERLAY)) {
        rustix::fs::lremovexattr(&path, note)?;
    }
    let same = (stat.st_mode & 0o7777, stat.st_uid, stat.st_gid) == (meta.mode, meta.uid, meta.gid);
    if !same || !names.is_empty() || !meta.xattrs.is_empty() {
        set_meta(to, name, meta, FileType::RegularFile)?;
    }
    set_time(to, name, meta.secs, meta.nsecs)
}

/// Sets the time of last modification of an entry.
pub(super) fn set_time(dir: BorrowedFd<'_>, name: &[u8], secs: i64, nsecs: u32) -> io::Result<()> {
    let times = Timestamps {
        last_access: Timespec {
            tv_sec: 0,
            tv_nsec: UTIME_OMIT,
        },
        last_modification: Timespec {
            tv_sec: secs,
            tv_nsec: nsecs.into(),
        },
    };
    Ok(rustix::fs::utimensat(
        dir,
        name,
        &times,
        AtFlags::SYMLINK_NOFOLLOW,
    )?)
}

/// Reads what a manifest keeps of an entry's metadata.
pub(super) fn read_meta(dir: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> io::Result<WireMeta> {
    let path = entry_path(dir, name);
    let mut xattrs = Vec::new();
    for name in xattr_names(&path)? {
        if is_kept(&name) {
            let mut value = vec![0; MAX_XATTR_BYTES];
            let len = rustix::fs::lgetxattr(&path, &name, &mut value)?;
            value.truncate(len);
            xattrs.push((name, value));
        }
    }
    xattrs.sort_unstable();
    Ok(WireMeta {
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        secs: stat.st_mtime,
        nsecs: u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
        xattrs,
    })
}

/// Reads one extended attribute, `None` if there is none of that name.
pub(super) fn xattr(dir: BorrowedFd<'_>, name: &[u8], key: &str) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 256];
    match rustix::fs::lgetxattr(entry_path(dir, name), key, &mut value) {
        Ok(len) => {
            value.truncate(len);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Tells whether an attribute belongs to the file: not the overlay's notes, not what the machine's own policy adds.
fn is_kept(name: &[u8]) -> bool {
    (name.starts_with(b"user.") && !name.starts_with(OVERLAY))
        || name == b"security.capability"
        || name.starts_with(b"system.posix_acl_")
}

/// The xattr calls take no directory: go there by its descriptor. The links on that way are the kernel's own.
fn entry_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    let mut path = format!("/proc/self/fd/{}/", dir.as_raw_fd()).into_bytes();
    path.extend_from_slice(if name.is_empty() { b"." } else { name });
    path
}

fn xattr_names(path: &[u8]) -> io::Result<Vec<Vec<u8>>> {
    let mut list = [0u8; 1024];
    let list = match rustix::fs::llistxattr(path, &mut list[..]) {
        Ok(0) | Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        Ok(len) => list[..len].to_vec(),
        Err(Errno::RANGE) => {
            let mut list = vec![0u8; MAX_XATTR_BYTES];
            let len = rustix::fs::llistxattr(path, &mut list[..])?;
            list.truncate(len);
            list
        }
        Err(e) => return Err(e.into()),
    };
    Ok(list
        .split(|&b| b == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect())
}

/// Makes a new file with the content of another one.
pub(super) fn write_file(dir: BorrowedFd<'_>, name: &[u8], content: OwnedFd) -> io::Result<()> {
    let file = rustix::fs::openat(
        dir,
        name,
        OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW,
        Mode::from_raw_mode(0o600),
    )?;
    // Shares the blocks where the filesystem can.
    if rustix::fs::ioctl_ficlone(&file, &content).is_err() {
        io::copy(&mut File::from(content), &mut File::from(file))?;
    }
    Ok(())
}
