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
use sos_formats::diagnostic::{Class, Diagnostic};
use sos_formats::hash::Blake3;
use sos_formats::manifest::{Entry, Kind, Meta};
use sos_store::{PlainRemover, Remover as _, Store};

use crate::walk::{Visit, visit};

/// Who the files belong to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owners {
    /// Whom the root filesystem says; only root may do that. Devices are made too.
    Kept,
    /// The caller. Setuid bits and capabilities would give others the caller's rights, and devices cannot be made: they are left out.
    Caller,
}

/// What a directory does not have of the root filesystem.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeftOut {
    /// Files whose setuid or setgid bits or capabilities are missing.
    pub rights: usize,
    /// Devices that are missing.
    pub devices: usize,
}

/// Writes a root filesystem into a directory that is not there yet; after an error it is not there either.
///
/// # Errors
/// When something cannot be made.
pub fn write_rootfs(
    store: &Store,
    root: &Blake3,
    dest: &Path,
    owners: Owners,
) -> Result<LeftOut, BuilderError> {
    fs::DirBuilder::new()
        .mode(0o700)
        .create(dest)
        .map_err(|e| failed("make the directory", dest, e))?;
    let mut writer = Writer {
        store,
        owners,
        links: BTreeMap::new(),
        left_out: LeftOut::default(),
        dest,
        open: Vec::new(),
        done: Vec::new(),
    };
    match writer.whole(root) {
        Ok(()) => Ok(writer.left_out),
        Err(error) => {
            // The error tells more than what is left of a directory that nobody asked for.
            let _left = PlainRemover.remove_tree(dest).is_err();
            Err(error)
        }
    }
}

/// Writes a tree of the store into a place where nothing is yet, so that its owner may change it.
///
/// # Errors
/// When something cannot be made.
pub fn write_tree(tree: &Path, dest: &Path) -> Result<(), BuilderError> {
    for entry in walkdir::WalkDir::new(tree) {
        let entry = entry.map_err(|e| BuilderError::failed(format!("cannot read a tree: {e}")))?;
        let from = entry.path();
        let below = from.strip_prefix(tree).unwrap_or(Path::new(""));
        let path = if below.as_os_str().is_empty() {
            dest.to_owned()
        } else {
            dest.join(below)
        };
        let kind = entry.file_type();
        if kind.is_dir() {
            fs::create_dir(&path).map_err(|e| failed("make the directory", &path, e))?;
        } else if kind.is_symlink() {
            let target = fs::read_link(from).map_err(|e| failed("read", from, e))?;
            symlink(target, &path).map_err(|e| failed("link", &path, e))?;
        } else {
            let copy = || {
                let mut source = File::open(from)?;
                let executable = source.metadata()?.permissions().mode() & 0o100 != 0;
                let mut file = File::create_new(&path)?;
                if rustix::fs::ioctl_ficlone(&file, &source).is_err() {
                    io::copy(&mut source, &mut file)?;
                }
                let mode = if executable { 0o755 } else { 0o644 };
                file.set_permissions(fs::Permissions::from_mode(mode))
            };
            copy().map_err(|e| failed("write", &path, e))?;
        }
    }
    Ok(())
}

struct Writer<'a> {
    store: &'a Store,
    owners: Owners,
    /// First names of files that have several.
    links: BTreeMap<[u8; 16], PathBuf>,
    left_out: LeftOut,
    /// Where it goes.
    dest: &'a Path,
    /// The directories that it is in.
    open: Vec<(PathBuf, Meta)>,
    /// Those that have all that is in them, each after those in it.
    done: Vec<(PathBuf, Meta)>,
}

impl Visit for Writer<'_> {
    fn entry(&mut self, path: &[u8], entry: Entry) -> Result<bool, BuilderError> {
        let path = self.dest.join(OsStr::from_bytes(path));
        if !matches!(entry.kind, Kind::Dir { .. }) {
            return self.place(&path, &entry).map(|()| false);
        }
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|e| failed("make the directory", &path, e))?;
        self.open.push((path, entry.meta));
        Ok(true)
    }

    fn leave(&mut self) -> Result<(), BuilderError> {
        self.done.extend(self.open.pop());
        Ok(())
    }
}

impl Writer<'_> {
    fn whole(&mut self, root: &Blake3) -> Result<(), BuilderError> {
        let (store, root) = (self.store, self.store.get_root(root)?);
        self.open.push((self.dest.to_owned(), root.meta));
        visit(store, b"", root.node, self)?;
        // Last: a directory may not be writable, nor let anybody through to a file that gets another name elsewhere, and its time
        // changes with what is put into it. Those in a directory come before it.
        for (path, meta) in std::mem::take(&mut self.done) {
            self.attributes(&path, &meta, false)?;
        }
        Ok(())
    }

    fn place(&mut self, path: &Path, entry: &Entry) -> Result<(), BuilderError> {
        let mut is_link = false;
        let is_device = matches!(entry.kind, Kind::CharDev { .. } | Kind::BlockDev { .. });
        if is_device && self.owners == Owners::Caller {
            self.left_out.devices += 1;
            return Ok(());
        }
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

    /// The error for an extended attribute that the place does not take: too large, of a kind that it has not, or on a link.
    fn no_xattr(&self, path: &Path, key: &[u8], error: io::Error) -> BuilderError {
        if sos_store::is_disk_full(&error) {
            return failed("set an extended attribute of", path, error);
        }
        let file = path.strip_prefix(self.dest).unwrap_or(path).display();
        let key = String::from_utf8_lossy(key);
        let message =
            format!("`/{file}` cannot have its extended attribute `{key}` there: {error}");
        Diagnostic::error("export-unfit", Class::Machine, message)
            .help(format!("name a place on a file system that keeps it, or take it away before: `setfattr -h -x {key} /{file}`"))
            .into()
    }

    fn attributes(&mut self, path: &Path, meta: &Meta, is_link: bool) -> Result<(), BuilderError> {
        let kept = |key: &[u8]| self.owners == Owners::Kept || key.starts_with(b"user.");
        let mut mode = meta.mode;
        match self.owners {
            Owners::Kept => rustix::fs::chownat(
                CWD,
                path,
                Some(Uid::from_raw(meta.uid)),
                Some(Gid::from_raw(meta.gid)),
                AtFlags::SYMLINK_NOFOLLOW,
            )
            .map_err(|e| failed("give away", path, e.into()))?,
            Owners::Caller => {
                mode &= 0o1777;
                if mode != meta.mode || !meta.xattrs.keys().all(|key| kept(key)) {
                    self.left_out.rights += 1;
                }
            }
        }
        for (key, value) in meta.xattrs.iter().filter(|(key, _)| kept(key)) {
            rustix::fs::lsetxattr(path, key.as_slice(), value, XattrFlags::empty())
                .map_err(|e| self.no_xattr(path, key, e.into()))?;
        }
        if !is_link {
            // After the owner: giving a file away takes its setuid bit.
            fs::set_permissions(path, fs::Permissions::from_mode(u32::from(mode)))
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

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use sos_store::rootfs::RootTree;

    use super::*;
    use crate::build::fake::Fake;

    #[test]
    fn an_attribute_that_cannot_be_kept_is_named() {
        let fake = Fake::new();
        let mut tree = RootTree::empty_in(&fake.store, Meta::default());
        // No file system of Linux has those of users on links.
        let mut meta = Meta::default();
        meta.xattrs.insert(b"user.mine".to_vec(), b"x".to_vec());
        let link = sos_store::rootfs::FileSpec {
            meta,
            kind: sos_store::rootfs::SpecKind::Symlink {
                target: b"x".to_vec(),
            },
        };
        tree.insert("link", link).expect("a link");
        let root = tree.finish(&fake.store).expect("a manifest");
        let dest = fake.path("out");
        let error = write_rootfs(&fake.store, &root, &dest, Owners::Caller).expect_err("refused");
        let BuilderError::Diagnostic(told) = error else {
            panic!("{error}");
        };
        assert_eq!(told.code, "export-unfit");
        let says = "`/link` cannot have its extended attribute `user.mine` there: ";
        assert!(told.message.starts_with(says), "{}", told.message);
        assert!(!dest.exists());
    }

    /// Who is not root cannot reach a file by its first name once the directory is closed.
    #[test]
    fn a_file_in_a_closed_directory_has_its_other_names() {
        let fake = Fake::new();
        let meta = |mode| Meta {
            mode,
            ..Meta::default()
        };
        let mut tree = RootTree::empty_in(&fake.store, meta(0o755));
        tree.mkdir_p("closed", &meta(0o000)).expect("a directory");
        tree.write_file("closed/first", b"x".to_vec(), meta(0o644))
            .expect("a file");
        tree.link("closed/first", "second").expect("a link");
        let root = tree.finish(&fake.store).expect("a manifest");
        let dest = fake.path("out");
        write_rootfs(&fake.store, &root, &dest, Owners::Caller).expect("written");
        let there = |name: &str| fs::metadata(dest.join(name)).expect("there");
        assert_eq!(there("closed").mode() & 0o777, 0);
        assert_eq!(there("second").nlink(), 2);
        fs::set_permissions(dest.join("closed"), fs::Permissions::from_mode(0o700))
            .expect("opened, to be removed");
    }
}
