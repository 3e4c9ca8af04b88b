//! A block device, or a file in the place of one.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FallocateFlags;
use sos_engine::BuilderError;
use sos_formats::gpt::{self, GptError, Partition, Table};

use super::refused;
use crate::filesystem::FileImage;

/// The smallest disk that is looked at: a table at both ends and something between.
const MIN_BYTES: u64 = 4 << 20;

/// A device that was opened.
#[derive(Debug)]
pub struct Device {
    pub(in crate::disk) path: PathBuf,
    pub(in crate::disk) file: File,
    /// In bytes.
    pub size: u64,
    is_block: bool,
}

impl Device {
    /// Opens a block device or a file.
    ///
    /// # Errors
    /// When it is something else or too small, and, to be written, when it is in use.
    pub fn open(path: &Path, writable: bool) -> Result<Self, BuilderError> {
        let failed =
            |e: io::Error| BuilderError::io(format!("cannot open `{}`", path.display()), e);
        let meta = fs::metadata(path).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => refused(
                "provision-device",
                format!("there is no `{}`", path.display()),
            )
            .help(format!(
                "`truncate -s 8G {}` makes a file to try it with",
                path.display()
            ))
            .into(),
            io::ErrorKind::PermissionDenied => forbidden(path, "look at"),
            _ => failed(e),
        })?;
        let is_block = meta.file_type().is_block_device();
        if !is_block && !meta.is_file() {
            let message = format!("`{}` is neither a block device nor a file", path.display());
            return Err(refused("provision-device", message).into());
        }
        let mut file = File::options()
            .read(true)
            .write(writable)
            .open(path)
            .map_err(|e| match e.kind() {
                io::ErrorKind::PermissionDenied if writable => forbidden(path, "write to"),
                io::ErrorKind::PermissionDenied => forbidden(path, "read"),
                _ => failed(e),
            })?;
        if writable && let Some(by) = in_use(path, &meta).or_else(|| locked(&file)) {
            let message = format!("`{}` is in use: {by}", path.display());
            return Err(refused("provision-in-use", message)
                .help("unmount it, or take it away from what uses it, and try again")
                .into());
        }
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size < MIN_BYTES {
            let message = format!("`{}` has {size} bytes, which is no disk", path.display());
            return Err(refused("provision-device", message)
                .help(format!(
                    "`truncate -s 8G {}` makes a file larger",
                    path.display()
                ))
                .into());
        }
        Ok(Self {
            path: path.to_owned(),
            file,
            size: size - size % gpt::SECTOR,
            is_block,
        })
    }

    /// Its partition table; none when it has none at all.
    pub(in crate::disk) fn table(&self) -> Result<Option<Table>, BuilderError> {
        let (head, tail) = self.ends()?;
        match Table::decode(&head, &tail, self.size / gpt::SECTOR) {
            Ok(table) => Ok(Some(table)),
            Err(GptError::Missing) => Ok(None),
            Err(error) => {
                let message = format!("`{}`: {error}", self.path.display());
                Err(refused("provision-table", message)
                    .help("`--wipe` replaces it, with everything on the disk")
                    .into())
            }
        }
    }

    fn ends(&self) -> Result<(Vec<u8>, Vec<u8>), BuilderError> {
        let mut head = vec![0; gpt::HEAD_BYTES];
        let mut tail = vec![0; gpt::TAIL_BYTES];
        self.file
            .read_exact_at(&mut head, 0)
            .and_then(|()| self.file.read_exact_at(&mut tail, self.tail()))
            .map_err(|e| BuilderError::io(format!("cannot read `{}`", self.path.display()), e))?;
        Ok((head, tail))
    }

    fn tail(&self) -> u64 {
        self.size - gpt::TAIL_BYTES as u64
    }

    /// What of its partition table is damaged, in words.
    pub(in crate::disk) fn damage(&self) -> Result<Vec<&'static str>, BuilderError> {
        let (head, tail) = self.ends()?;
        Ok(Table::damage(&head, &tail, self.size / gpt::SECTOR))
    }

    /// Writes both copies of the partition table from the sound one.
    pub(in crate::disk) fn mend(&self) -> Result<(), BuilderError> {
        let (head, tail) = self.ends()?;
        let Some((head, tail)) = Table::mended(&head, &tail, self.size / gpt::SECTOR) else {
            return Ok(());
        };
        self.file
            .write_all_at(&tail, self.tail())
            .and_then(|()| self.file.sync_data())
            .and_then(|()| self.file.write_all_at(&head, 0))
            .map_err(|e| BuilderError::io(format!("cannot write `{}`", self.path.display()), e))
    }

    /// Whether its first MiB is empty, so that nothing is lost with it.
    pub(in crate::disk) fn is_blank(&self) -> Result<bool, BuilderError> {
        let mut head = vec![0; 1 << 20];
        let read = self.file.read_exact_at(&mut head, 0);
        read.map_err(|e| BuilderError::io(format!("cannot read `{}`", self.path.display()), e))?;
        Ok(head.iter().all(|byte| *byte == 0))
    }

    /// Makes a range zeros, which file systems are written over.
    pub(in crate::disk) fn clear(&self, start: u64, len: u64) -> io::Result<()> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&self.file, flags, start, len).is_ok() {
            return Ok(());
        }
        let zeros = vec![0; 1 << 20];
        let mut at = start;
        while at < start + len {
            let piece = usize::try_from(start + len - at)
                .unwrap_or(zeros.len())
                .min(zeros.len());
            self.file.write_all_at(&zeros[..piece], at)?;
            at += piece as u64;
        }
        Ok(())
    }

    /// The same device, for writers of file systems.
    pub(in crate::disk) fn image(&self) -> Result<FileImage, BuilderError> {
        FileImage::open(&self.path, true)
            .map_err(|e| BuilderError::io(format!("cannot open `{}`", self.path.display()), e))
    }

    /// One partition as a stream.
    pub(in crate::disk) fn part(&self, partition: &Partition) -> io::Result<Part> {
        Ok(Part {
            file: self.file.try_clone()?,
            start: partition.offset(),
            len: partition.size(),
            at: 0,
        })
    }

    /// Waits until everything is on the disk.
    pub(in crate::disk) fn sync(&self) -> Result<(), BuilderError> {
        let synced = self.file.sync_all();
        synced.map_err(|e| BuilderError::io(format!("cannot write `{}`", self.path.display()), e))
    }

    /// Whether it is a real device, whose kernel has a table of its own in memory.
    #[must_use]
    pub fn is_block(&self) -> bool {
        self.is_block
    }
}

/// A part of a file, read and written at its own position.
pub(in crate::disk) struct Part {
    file: File,
    start: u64,
    len: u64,
    at: u64,
}

impl Part {
    fn room(&self, wanted: usize) -> usize {
        usize::try_from(self.len.saturating_sub(self.at))
            .unwrap_or(wanted)
            .min(wanted)
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = self.room(buffer.len());
        let count = self
            .file
            .read_at(&mut buffer[..room], self.start + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
}

impl Write for Part {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.room(bytes.len());
        if room == 0 && !bytes.is_empty() {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let count = self.file.write_at(&bytes[..room], self.start + self.at)?;
        self.at += count as u64;
        Ok(count)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Part {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

fn forbidden(path: &Path, what: &str) -> BuilderError {
    let message = format!("this user may not {what} `{}`", path.display());
    refused("provision-device", message)
        .help(format!(
            "`ls -l {}` shows who may; devices of the machine need root",
            path.display()
        ))
        .into()
}

/// Who uses a block device or file that is about to be written, in words; none when nobody does, as far as this user can see.
#[must_use]
pub fn used_by(path: &Path) -> Option<String> {
    let meta = fs::metadata(path).ok()?;
    in_use(path, &meta).or_else(|| {
        // Opening a device for writing would be an event for others.
        let file = meta
            .is_file()
            .then(|| File::options().write(true).open(path));
        locked(&file?.ok()?)
    })
}

/// Whether another process has a lock on a file that is open for writing, as virtual machines have on their disks.
fn locked(file: &File) -> Option<String> {
    use rustix::fs::FlockOperation::{NonBlockingLockExclusive, NonBlockingUnlock};
    match rustix::fs::fcntl_lock(file, NonBlockingLockExclusive) {
        Err(rustix::io::Errno::AGAIN | rustix::io::Errno::ACCESS) => {
            Some("another process has locked it, as a virtual machine does".to_owned())
        }
        // A file system without locks tells nothing.
        Err(_) => None,
        Ok(()) => {
            rustix::fs::fcntl_lock(file, NonBlockingUnlock).ok();
            None
        }
    }
}

/// Who uses a device or one of its partitions, in words.
fn in_use(path: &Path, meta: &fs::Metadata) -> Option<String> {
    let mut ours: Vec<(String, String)> = Vec::new();
    if meta.file_type().is_block_device() {
        let number = |rdev: u64| format!("{}:{}", rustix::fs::major(rdev), rustix::fs::minor(rdev));
        let whole = number(meta.rdev());
        let place = fs::canonicalize(format!("/sys/dev/block/{whole}")).ok()?;
        ours.push((whole, path.display().to_string()));
        for below in fs::read_dir(&place).into_iter().flatten().flatten() {
            if let Ok(dev) = fs::read_to_string(below.path().join("dev")) {
                ours.push((
                    dev.trim().to_owned(),
                    format!("/dev/{}", below.file_name().to_string_lossy()),
                ));
            }
        }
        let held = |dir: &Path| {
            fs::read_dir(dir.join("holders")).is_ok_and(|mut all| all.next().is_some())
        };
        if held(&place)
            || ours
                .iter()
                .any(|(dev, _)| held(Path::new(&format!("/sys/dev/block/{dev}"))))
        {
            return Some("another device is made of it".to_owned());
        }
    } else {
        // A file may be the disk behind a loop device.
        let real = fs::canonicalize(path).ok()?;
        for device in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
            let backing = fs::read_to_string(device.path().join("loop/backing_file"));
            if backing.is_ok_and(|backing| Path::new(backing.trim_end()) == real) {
                return Some(format!(
                    "it is behind `/dev/{}`",
                    device.file_name().to_string_lossy()
                ));
            }
        }
        return None;
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in mounts.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let (Some(dev), Some(at)) = (words.get(2), words.get(4)) else {
            continue;
        };
        if let Some((_, name)) = ours.iter().find(|(own, _)| own == dev) {
            return Some(format!("`{name}` is mounted at `{at}`"));
        }
    }
    let swaps = fs::read_to_string("/proc/swaps").unwrap_or_default();
    let swap = swaps
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().next());
    let mut swap = swap.filter(|swap| ours.iter().any(|(_, name)| name == swap));
    swap.next().map(|swap| format!("`{swap}` is swap space"))
}
