//! A root filesystem as a directory of the machine.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use sos_engine::BuilderError;
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind, Meta};
use sos_store::Store;

/// Who the files belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owners {
    /// Whom the root filesystem says; only root may do that. Devices are made too.
    Kept,
    /// The caller. Setuid bits, capabilities and devices would be worth nothing, or too much, and are an error.
    Caller,
}

/// Writes a root filesystem into a directory that is not there yet.
///
/// # Errors
/// When something cannot be made; what is there by then stays.
pub fn write_rootfs(
    store: &Store,
    root: &Blake3,
    dest: &Path,
    owners: Owners,
) -> Result<(), BuilderError> {
    let root = store.get_root(root)?;
    let mut writer = Writer {
        store,
        owners,
        links: BTreeMap::new(),
    };
    fs::DirBuilder::new()
        .mode(0o700)
        .create(dest)
        .map_err(|e| failed("make the directory", dest, e))?;
    let mut stack = vec![Level {
        path: dest.to_owned(),
        meta: root.meta,
        entries: store.get_node(&root.node)?.entries.into_iter(),
    }];
    while let Some(level) = stack.last_mut() {
        let Some(entry) = level.entries.next() else {
            // Last: a directory may not be writable, and its time changes with what is put into it.
            if let Some(done) = stack.pop() {
                writer.attributes(&done.path, &done.meta, false)?;
            }
            continue;
        };
        let path = level.path.join(OsStr::from_bytes(&entry.name));
        if let Kind::Dir { node } = entry.kind {
            fs::DirBuilder::new()
                .mode(0o700)
                .create(&path)
                .map_err(|e| failed("make the directory", &path, e))?;
            stack.push(Level {
                path,
                meta: entry.meta,
                entries: store.get_node(&node)?.entries.into_iter(),
            });
        } else {
            writer.entry(&path, &entry)?;
        }
    }
    Ok(())
}

/// A directory on the way down.
struct Level {
    path: PathBuf,
    meta: Meta,
    entries: std::vec::IntoIter<Entry>,
}

struct Writer<'a> {
    store: &'a Store,
    owners: Owners,
    /// First names of files that have several.
    links: BTreeMap<[u8; 16], PathBuf>,
}

impl Writer<'_> {
    fn entry(&mut self, path: &Path, entry: &Entry) -> Result<(), BuilderError> {
        let mut is_link = false;
        match &entry.kind {
            Kind::Dir { .. } => {}
            Kind::File { blob, hardlink, .. } => {
                if let Some(first) = hardlink.and_then(|group| self.links.get(&group)) {
                    return fs::hard_link(first, path).map_err(|e| failed("link", path, e));
                }
                copy_blob(self.store, blob, path)?;
                if let Some(group) = hardlink {
                    self.links.insert(*group, path.to_owned());
                }
            }
            Kind::Symlink { target } => {
                is_link = true;
                symlink(OsStr::from_bytes(target), path).map_err(|e| failed("link", path, e))?;
            }
            Kind::Fifo => self.node(path, FileType::Fifo, 0, 0)?,
            Kind::CharDev { major, minor } => {
                self.node(path, FileType::CharacterDevice, *major, *minor)?;
            }
            Kind::BlockDev { major, minor } => {
                self.node(path, FileType::BlockDevice, *major, *minor)?;
            }
        }
        self.attributes(path, &entry.meta, is_link)
    }

    fn node(
        &self,
        path: &Path,
        kind: FileType,
        major: u32,
        minor: u32,
    ) -> Result<(), BuilderError> {
        let dev = rustix::fs::makedev(major, minor);
        rustix::fs::mknodat(CWD, path, kind, Mode::from_raw_mode(0o600), dev)
            .map_err(|e| failed("make the device or pipe", path, e.into()))
    }

    fn attributes(&self, path: &Path, meta: &Meta, is_link: bool) -> Result<(), BuilderError> {
        let privileged = meta.xattrs.keys().find(|key| !key.starts_with(b"user."));
        match self.owners {
            Owners::Kept => rustix::fs::chownat(
                CWD,
                path,
                Some(Uid::from_raw(meta.uid)),
                Some(Gid::from_raw(meta.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|e| failed("give away", path, e.into()))?,
            Owners::Caller if !is_link && (meta.mode & 0o6000 != 0 || privileged.is_some()) => {
                return Err(BuilderError::failed(format!(
                    "`{}` gives rights to who runs it; only root can write it with its owner",
                    path.display()
                )));
            }
            Owners::Caller => {}
        }
        for (key, value) in &meta.xattrs {
            rustix::fs::lsetxattr(path, key.as_slice(), value, XattrFlags::empty())
                .map_err(|e| failed("set an xattr of", path, e.into()))?;
        }
        if !is_link {
            // After the owner: giving a file away takes its setuid bit.
            fs::set_permissions(path, fs::Permissions::from_mode(u32::from(meta.mode)))
                .map_err(|e| failed("set the mode of", path, e))?;
        }
        let time = Timespec {
            tv_sec: meta.mtime_secs,
            tv_nsec: meta.mtime_nsecs.into(),
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        rustix::fs::utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| failed("set the time of", path, e.into()))
    }
}

/// Copies a blob into a file that is not there yet, sharing its data where the file system can.
pub(super) fn copy_blob(store: &Store, blob: &Blake3, path: &Path) -> Result<(), BuilderError> {
    let mut from = store.open_blob(blob)?;
    let mut to = File::create_new(path).map_err(|e| failed("make", path, e))?;
    if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
        io::copy(&mut from, &mut to).map_err(|e| failed("write", path, e))?;
    }
    Ok(())
}

pub(super) fn failed(what: &str, path: &Path, error: io::Error) -> BuilderError {
    BuilderError::io(format!("cannot {what} `{}`", path.display()), error)
}
