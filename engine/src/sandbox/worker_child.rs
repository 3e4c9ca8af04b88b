//! The worker: a helper that is root of the namespace and changes or reads files there, as `sos` tells it.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::channel::Channel;
use super::files;
use super::protocol::{Captured, Done, Failure, Naming, Op, WireKind, WireMeta};

/// The most links that one path may lead through, as in the kernel.
const MAX_SYMLINKS: u32 = 40;
/// An overlay's note that a directory hides what is below it.
const OPAQUE: &str = "user.overlay.opaque";

/// Does what the other end says until it closes.
pub(super) fn serve(channel: &Channel) -> Result<(), Failure> {
    rustix::process::umask(Mode::empty());
    let mut worker = Worker::default();
    loop {
        let (op, fds) = match channel.receive::<Op>() {
            Ok(Some(message)) => message,
            Ok(None) => return Ok(()),
            Err(e) => return Err(Failure::new("listen to sos", &e)),
        };
        let capture = matches!(op, Op::Capture { .. });
        match worker.act(channel, op, fds) {
            Ok(None) => {}
            Ok(Some(done)) => answer(channel, &done)?,
            Err(failure) if capture => {
                answer(channel, &Captured::Failed(failure))?;
                return Ok(());
            }
            Err(failure) => {
                answer(channel, &Done::Failed(failure))?;
                return Ok(());
            }
        }
    }
}

fn answer<T: serde::Serialize>(channel: &Channel, message: &T) -> Result<(), Failure> {
    channel
        .send(message, &[])
        .naming(|| "speak with sos".to_owned())
}

fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

#[derive(Default)]
struct Worker {
    base: Option<OwnedFd>,
    /// The directory of the last entry: the next one is mostly in it, too.
    last_dir: Option<(Vec<u8>, OwnedFd)>,
    /// The upper layer that files are taken from, and the directory of the last one.
    left: Option<OwnedFd>,
    last_left: Option<(Vec<u8>, OwnedFd)>,
    /// Times of directories, to be set when nothing changes in them any more.
    times: Vec<(Vec<u8>, i64, u32)>,
}

impl Worker {
    fn act(
        &mut self,
        channel: &Channel,
        op: Op,
        fds: Vec<OwnedFd>,
    ) -> Result<Option<Done>, Failure> {
        match op {
            Op::Base { dir } => {
                let fd = open_top(&dir).naming(|| format!("open {}", dir.display()))?;
                self.base = Some(fd);
                self.last_dir = None;
                self.times.clear();
                Ok(None)
            }
            Op::Left { upper } => {
                let fd = open_top(&upper).naming(|| format!("open {}", upper.display()))?;
                self.left = Some(fd);
                self.last_left = None;
                Ok(None)
            }
            Op::Adopt { path, meta } => {
                self.adopt(&path, &meta)
                    .naming(|| format!("move {}", shown(&path)))?;
                Ok(None)
            }
            Op::Meta { path, meta } => {
                self.meta(&path, &meta)
                    .naming(|| format!("set the metadata of {}", shown(&path)))?;
                Ok(None)
            }
            Op::Put { path, meta, kind } => {
                self.put(&path, &meta, &kind, fds.into_iter().next())
                    .naming(|| format!("write {}", shown(&path)))?;
                Ok(None)
            }
            Op::Link { existing, new } => {
                self.link(&existing, &new)
                    .naming(|| format!("link {}", shown(&new)))?;
                Ok(None)
            }
            Op::Remove { path } => {
                self.forget_below(&path);
                let (dir, name) = files::split(&path);
                let fd = self.dir(dir).naming(|| format!("open {}", shown(dir)))?;
                files::remove(fd, name).naming(|| format!("remove {}", shown(&path)))?;
                Ok(None)
            }
            Op::Flush => {
                self.flush()
                    .naming(|| "set times of directories".to_owned())?;
                Ok(Some(Done::Ok))
            }
            Op::Stubs {
                tree,
                stubs,
                upper,
                points,
                epoch,
            } => {
                make_stubs(&tree, &stubs, &upper, &points, epoch)?;
                Ok(Some(Done::Ok))
            }
            Op::Capture { upper } => {
                capture(channel, &upper)?;
                answer(channel, &Captured::End)?;
                Ok(None)
            }
            Op::Own { path } => {
                own(&path).naming(|| format!("take over {}", path.display()))?;
                Ok(Some(Done::Ok))
            }
            Op::RemoveTree { path } => {
                let what = || format!("remove {}", path.display());
                let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
                    return Err(Errno::INVAL).naming(what);
                };
                match open_top(parent) {
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    fd => {
                        files::remove(fd.naming(what)?.as_fd(), name.as_bytes()).naming(what)?;
                    }
                }
                Ok(Some(Done::Ok))
            }
        }
    }

    fn base(&self) -> io::Result<BorrowedFd<'_>> {
        self.base
            .as_ref()
            .map(AsFd::as_fd)
            .ok_or_else(|| Errno::BADF.into())
    }

    fn forget_dirs(&mut self) {
        self.last_dir = None;
    }

    /// Forgets the last directory if it is this one, or below it.
    fn forget_below(&mut self, path: &[u8]) {
        self.last_dir
            .take_if(|(last, _)| matches!(last.strip_prefix(path), Some([] | [b'/', ..])));
    }

    fn dir(&mut self, path: &[u8]) -> io::Result<BorrowedFd<'_>> {
        dir_in(&self.base, &mut self.last_dir, path)
    }

    fn adopt(&mut self, path: &[u8], meta: &WireMeta) -> io::Result<()> {
        let (dir, name) = files::split(path);
        let from = dir_in(&self.left, &mut self.last_left, dir)?;
        let to = dir_in(&self.base, &mut self.last_dir, dir)?;
        files::adopt(from, to, name, meta)
    }

    fn meta(&mut self, path: &[u8], meta: &WireMeta) -> io::Result<()> {
        let (dir, name) = files::split(path);
        let dir = self.dir(dir)?;
        files::set_meta(dir, name, meta, FileType::RegularFile)?;
        files::set_time(dir, name, meta.secs, meta.nsecs)
    }

    fn put(
        &mut self,
        path: &[u8],
        meta: &WireMeta,
        kind: &WireKind,
        content: Option<OwnedFd>,
    ) -> io::Result<()> {
        if matches!(kind, WireKind::Dir) {
            self.times.push((path.to_vec(), meta.secs, meta.nsecs));
        }
        let (dir, name) = files::split(path);
        if name.is_empty() {
            let base = self.base()?;
            return files::set_meta(base, b".", meta, FileType::Directory);
        }
        let fd = self.dir(dir)?;
        match kind {
            WireKind::Dir => {
                match rustix::fs::mkdirat(fd, name, Mode::from_raw_mode(0o700)) {
                    Ok(()) => {}
                    Err(Errno::EXIST) => {
                        let old = files::stat(fd, name)?;
                        if FileType::from_raw_mode(old.st_mode) != FileType::Directory {
                            files::remove(fd, name)?;
                            rustix::fs::mkdirat(fd, name, Mode::from_raw_mode(0o700))?;
                        }
                    }
                    Err(e) => return Err(e.into()),
                }
                return files::set_meta(fd, name, meta, FileType::Directory);
            }
            _ => files::remove(fd, name)?,
        }
        let kind = match kind {
            WireKind::File => {
                let content = content.ok_or(Errno::BADF)?;
                files::write_file(fd, name, content)?;
                FileType::RegularFile
            }
            WireKind::Symlink { target } => {
                rustix::fs::symlinkat(target.as_slice(), fd, name)?;
                FileType::Symlink
            }
            WireKind::Fifo | WireKind::Socket | WireKind::Dir => {
                let special = match kind {
                    WireKind::Socket => FileType::Socket,
                    _ => FileType::Fifo,
                };
                rustix::fs::mknodat(fd, name, special, Mode::from_raw_mode(0o600), 0)?;
                special
            }
        };
        files::set_meta(fd, name, meta, kind)?;
        files::set_time(fd, name, meta.secs, meta.nsecs)
    }

    fn link(&mut self, existing: &[u8], new: &[u8]) -> io::Result<()> {
        let (from_dir, from_name) = files::split(existing);
        let from = files::open_dir(self.base()?, from_dir)?;
        let (dir, name) = files::split(new);
        let fd = self.dir(dir)?;
        files::remove(fd, name)?;
        Ok(rustix::fs::linkat(
            &from,
            from_name,
            fd,
            name,
            AtFlags::empty(),
        )?)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.forget_dirs();
        for (path, secs, nsecs) in std::mem::take(&mut self.times) {
            let (dir, name) = files::split(&path);
            let name = if name.is_empty() { b"." } else { name };
            files::set_time(self.dir(dir)?, name, secs, nsecs)?;
        }
        Ok(())
    }
}

/// Opens a directory below `top`, unless it is the last one that was opened.
fn dir_in<'a>(
    top: &Option<OwnedFd>,
    last: &'a mut Option<(Vec<u8>, OwnedFd)>,
    path: &[u8],
) -> io::Result<BorrowedFd<'a>> {
    if last.as_ref().is_none_or(|(last, _)| last != path) {
        let top = top.as_ref().ok_or(Errno::BADF)?;
        *last = Some((path.to_vec(), files::open_dir(top.as_fd(), path)?));
    }
    let (_, fd) = last.as_ref().ok_or(Errno::BADF)?;
    Ok(fd.as_fd())
}

/// Opens a directory of the store; the way there is the caller's own.
fn open_top(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(
        path,
        OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?)
}

fn make_stubs(
    tree: &Path,
    stubs: &Path,
    upper: &Path,
    points: &[(Vec<u8>, bool)],
    epoch: i64,
) -> Result<(), Failure> {
    let open = |path: &Path| open_top(path).naming(|| format!("open {}", path.display()));
    let (tree, stubs, upper) = (open(tree)?, open(stubs)?, open(upper)?);
    // Times of directories that were made or changed, to be set from the innermost outwards at the end.
    let mut made = BTreeSet::new();
    for (point, is_dir) in points {
        stub(&tree, &stubs, point, *is_dir, &mut made)
            .naming(|| format!("make the mount point {}", shown(point)))?;
    }
    let what = || "copy metadata to mount points".to_owned();
    for path in made.iter().rev() {
        let (dir, name) = files::split(path);
        let (secs, nsecs) = match find(&tree, path) {
            Ok(Some(stat)) => (
                stat.st_mtime,
                u32::try_from(stat.st_mtime_nsec).unwrap_or(0),
            ),
            _ => (epoch, 0),
        };
        let fd = files::open_dir(stubs.as_fd(), dir).naming(what)?;
        files::set_time(fd.as_fd(), name, secs, nsecs).naming(what)?;
    }
    for copy in [&stubs, &upper] {
        let stat = files::stat(tree.as_fd(), b"").naming(what)?;
        let meta = files::read_meta(tree.as_fd(), b"", &stat).naming(what)?;
        files::set_meta(copy.as_fd(), b".", &meta, FileType::Directory).naming(what)?;
        files::set_time(copy.as_fd(), b".", meta.secs, meta.nsecs).naming(what)?;
    }
    Ok(())
}

/// Looks an entry up by its path without links.
fn find(tree: &OwnedFd, path: &[u8]) -> io::Result<Option<Stat>> {
    let (dir, name) = files::split(path);
    let missing = |e: &io::Error| {
        matches!(
            e.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
        ) || e.raw_os_error() == Some(libc::ELOOP)
    };
    let dir = match files::open_dir(tree.as_fd(), dir) {
        Err(e) if missing(&e) => return Ok(None),
        other => other?,
    };
    match files::stat(dir.as_fd(), name) {
        Err(e) if missing(&e) => Ok(None),
        other => other.map(Some),
    }
}

/// Makes one mount point in the stub layer, unless the tree has it.
fn stub(
    tree: &OwnedFd,
    stubs: &OwnedFd,
    point: &[u8],
    is_dir: bool,
    made: &mut BTreeSet<Vec<u8>>,
) -> io::Result<()> {
    let path = resolve(tree, point)?;
    if path.is_empty() {
        return Err(Errno::BUSY.into());
    }
    let wanted = if is_dir {
        FileType::Directory
    } else {
        FileType::RegularFile
    };
    if let Some(stat) = find(tree, &path)?
        && (FileType::from_raw_mode(stat.st_mode) == FileType::Directory) == is_dir
    {
        return Ok(());
    }
    let names: Vec<&[u8]> = path.split(|&b| b == b'/').collect();
    for depth in 1..=names.len() {
        let part = names[..depth].join(&b'/');
        let (dir, name) = files::split(&part);
        let at = files::open_dir(stubs.as_fd(), dir)?;
        if depth == names.len() && wanted == FileType::RegularFile {
            match rustix::fs::mknodat(
                &at,
                name,
                FileType::RegularFile,
                Mode::from_raw_mode(0o644),
                0,
            ) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(e.into()),
            }
        } else {
            match rustix::fs::mkdirat(&at, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => {}
                Err(Errno::EXIST) => continue,
                Err(e) => return Err(e.into()),
            }
            if let Some(stat) = find(tree, &part)?
                && FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            {
                let original = files::open_dir(tree.as_fd(), &part)?;
                let meta = files::read_meta(original.as_fd(), b"", &stat)?;
                files::set_meta(at.as_fd(), name, &meta, FileType::Directory)?;
            }
        }
        made.insert(part);
    }
    Ok(())
}

/// Follows links inside the tree and returns the path that is meant, with what does not exist left as it is.
fn resolve(tree: &OwnedFd, point: &[u8]) -> io::Result<Vec<u8>> {
    let split = |path: &[u8]| -> Vec<Vec<u8>> {
        path.split(|&b| b == b'/')
            .filter(|name| !name.is_empty() && *name != b".")
            .rev()
            .map(<[u8]>::to_vec)
            .collect()
    };
    let mut pending = split(point);
    let mut found: Vec<Vec<u8>> = Vec::new();
    let mut links = 0;
    while let Some(name) = pending.pop() {
        if name == b".." {
            found.pop();
            continue;
        }
        found.push(name);
        let path = found.join(&b'/');
        let Some(stat) = find(tree, &path)? else {
            continue;
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Symlink {
            links += 1;
            if links > MAX_SYMLINKS {
                return Err(Errno::LOOP.into());
            }
            let (dir, name) = files::split(&path);
            let dir = files::open_dir(tree.as_fd(), dir)?;
            let target = rustix::fs::readlinkat(&dir, name, Vec::new())?.into_bytes();
            if target.first() == Some(&b'/') {
                found.clear();
            } else {
                found.pop();
            }
            pending.extend(split(&target));
        }
    }
    Ok(found.join(&b'/'))
}

/// Walks an upper layer and tells what it holds.
fn capture(channel: &Channel, upper: &Path) -> Result<(), Failure> {
    let top = open_top(upper).naming(|| format!("open {}", upper.display()))?;
    let what = |path: &[u8]| format!("read {} in the upper layer", shown(path));
    let stat = files::stat(top.as_fd(), b"").naming(|| what(b""))?;
    let meta = files::read_meta(top.as_fd(), b"", &stat).naming(|| what(b""))?;
    tell(
        channel,
        &Captured::Entry {
            path: Vec::new(),
            meta,
            kind: WireKind::Dir,
            opaque: false,
            inode: None,
        },
        None,
    )?;
    let mut sent = BTreeSet::new();
    let mut pending: Vec<Vec<u8>> = vec![Vec::new()];
    while let Some(dir_path) = pending.pop() {
        let dir = files::open_dir(top.as_fd(), &dir_path).naming(|| what(&dir_path))?;
        for name in files::names(dir.as_fd()).naming(|| what(&dir_path))? {
            let mut path = dir_path.clone();
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(&name);
            let is_dir = capture_entry(channel, dir.as_fd(), &name, &path, &mut sent)?;
            if is_dir {
                pending.push(path);
            }
        }
    }
    Ok(())
}

fn tell(channel: &Channel, message: &Captured, content: Option<&OwnedFd>) -> Result<(), Failure> {
    let fds: Vec<BorrowedFd<'_>> = content.iter().map(|fd| fd.as_fd()).collect();
    channel
        .send(message, &fds)
        .naming(|| "speak with sos".to_owned())
}

/// Tells of one entry; `true` for a directory, which is to be walked.
fn capture_entry(
    channel: &Channel,
    dir: BorrowedFd<'_>,
    name: &[u8],
    path: &[u8],
    sent: &mut BTreeSet<u64>,
) -> Result<bool, Failure> {
    let what = || format!("read {} in the upper layer", shown(path));
    let stat = files::stat(dir, name).naming(what)?;
    let file_type = FileType::from_raw_mode(stat.st_mode);
    let owned = path.to_vec();
    let mut content = None;
    let mut inode = None;
    let mut opaque = false;
    let kind = match file_type {
        FileType::CharacterDevice if stat.st_rdev == 0 => {
            tell(channel, &Captured::Whiteout { path: owned }, None)?;
            return Ok(false);
        }
        FileType::RegularFile => {
            if stat.st_nlink > 1 {
                inode = Some(stat.st_ino);
            }
            if stat.st_nlink == 1 || sent.insert(stat.st_ino) {
                let file = rustix::fs::openat(
                    dir,
                    name,
                    OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )
                .naming(what)?;
                content = Some(file);
            }
            WireKind::File
        }
        FileType::Directory => {
            opaque = files::xattr(dir, name, OPAQUE)
                .naming(what)?
                .is_some_and(|value| value == b"y");
            WireKind::Dir
        }
        FileType::Symlink => WireKind::Symlink {
            target: rustix::fs::readlinkat(dir, name, Vec::new())
                .naming(what)?
                .into_bytes(),
        },
        FileType::Fifo => WireKind::Fifo,
        FileType::Socket => WireKind::Socket,
        // The kernel lets nobody make any other here.
        _ => return Err(Errno::NODEV).naming(what),
    };
    let meta = files::read_meta(dir, name, &stat).naming(what)?;
    let message = Captured::Entry {
        path: owned,
        meta,
        kind,
        opaque,
        inode,
    };
    tell(channel, &message, content.as_ref())?;
    Ok(file_type == FileType::Directory)
}

/// Gives a tree to the caller, who is user 0 here, so that an ordinary process of theirs can read and remove it.
fn own(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    // A directory stays open for as long as one of its entries is pending.
    let mut pending = vec![(Rc::new(open_top(parent)?), name.as_bytes().to_vec())];
    while let Some((dir, name)) = pending.pop() {
        let stat = files::stat(dir.as_fd(), &name)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        rustix::fs::chownat(
            &dir,
            &name,
            Some(rustix::fs::Uid::ROOT),
            Some(rustix::fs::Gid::ROOT),
            AtFlags::SYMLINK_NOFOLLOW,
        )?;
        let mode = stat.st_mode & 0o7777;
        match kind {
            FileType::Directory => {
                chmod(&dir, &name, (mode & 0o777) | 0o700)?;
                let below = rustix::fs::openat(
                    &dir,
                    &name,
                    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC,
                    Mode::empty(),
                )?;
                let below = Rc::new(below);
                for name in files::names(below.as_fd())? {
                    pending.push((below.clone(), name));
                }
            }
            FileType::Symlink => {}
            // Setuid bits of a tree mean nothing, and outside they would mean the caller.
            _ => chmod(&dir, &name, (mode & 0o777) | 0o600)?,
        }
    }
    Ok(())
}

fn chmod(dir: &OwnedFd, name: &[u8], mode: u32) -> io::Result<()> {
    Ok(rustix::fs::chmodat(
        dir,
        name,
        Mode::from_raw_mode(mode),
        AtFlags::empty(),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_follow_links_inside_only() {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        std::fs::create_dir_all(at("usr/lib/x")).unwrap();
        std::os::unix::fs::symlink("/usr/lib", at("lib")).unwrap();
        std::os::unix::fs::symlink("../../..", at("usr/up")).unwrap();
        std::os::unix::fs::symlink("loop", at("loop")).unwrap();
        let tree = open_top(dir.path()).unwrap();
        let resolved = |p: &str| resolve(&tree, p.as_bytes()).map(|p| shown(&p));
        assert_eq!(resolved("/lib/x/new/y").unwrap(), "usr/lib/x/new/y");
        assert_eq!(resolved("/usr/up/etc").unwrap(), "etc");
        assert_eq!(resolved("/a/./b//c/..").unwrap(), "a/b");
        assert!(resolved("/loop/x").is_err());
    }
}
