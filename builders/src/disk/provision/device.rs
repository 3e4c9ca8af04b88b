//! A block device, or a file in the place of one.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt as _, FileTypeExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustix::fs::FallocateFlags;
use sos_engine::BuilderError;
use sos_formats::gpt::{self, GptError, Partition, Table};
use sos_formats::uuid::Uuid;

use super::{claim, refused};
use crate::filesystem::FileImage;

/// The smallest disk that is looked at: a table at both ends and something between.
const MIN_BYTES: u64 = 4 << 20;

/// A device that was opened.
#[derive(Debug)]
pub struct Device {
    pub(in crate::disk) path: PathBuf,
    /// Shared with all that read and write: the lock of a file ends with the first descriptor of it that is closed.
    pub(in crate::disk) file: Arc<File>,
    /// In bytes.
    pub size: u64,
    is_block: bool,
    /// What was written into parts, in order: where on the device, and what.
    #[cfg(test)]
    pub(super) written: Written,
}

#[cfg(test)]
pub(super) type Written = Arc<Mutex<Vec<(u64, Vec<u8>)>>>;

impl Device {
    /// Opens a block device or a file. To be written it is claimed, for as long as this lives: nothing else can mount a block device
    /// or claim it, and a file is locked for virtual machines and for other provisioning.
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
        let busy = |by: String| {
            let message = format!("`{}` is in use: {by}", path.display());
            BuilderError::from(
                refused("provision-in-use", message)
                    .help("unmount it, or take it away from what uses it, and try again"),
            )
        };
        if writable && let Some(store) = sos_store::store_of(path) {
            let message = format!(
                "`{}` is in the store at `{}`, where nothing is changed",
                path.display(),
                store.display()
            );
            return Err(refused("provision-device", message)
                .help("`sos export TARGET disk:FILE` makes a file of a disk, which may be changed")
                .into());
        }
        let mut options = File::options();
        options.read(true).write(writable);
        if is_block && writable {
            options.custom_flags(claim::EXCLUSIVE);
        }
        let mut file = options.open(path).map_err(|e| match e.kind() {
            io::ErrorKind::PermissionDenied if writable => forbidden(path, "write to"),
            io::ErrorKind::PermissionDenied => forbidden(path, "read"),
            io::ErrorKind::ResourceBusy if is_block => {
                busy(claim::in_use(path, &meta).unwrap_or_else(claim::claimed))
            }
            _ => failed(e),
        })?;
        if writable
            && let Some(by) = claim::in_use(path, &meta).or_else(|| claim::lock(&file, is_block))
        {
            return Err(busy(by));
        }
        let size = file.seek(SeekFrom::End(0)).map_err(failed)?;
        if size < MIN_BYTES {
            let message = format!("`{}` has {size} bytes, which is no disk", path.display());
            let mut problem = refused("provision-device", message);
            // Nobody should make a disk of a file in which something is.
            problem = match !is_block && has_zeros_only(&file, size).map_err(failed)? {
                true => problem.help(format!(
                    "`truncate -s 8G {}` makes a file larger",
                    path.display()
                )),
                false => problem.help(
                    "name a block device, or a new file: `truncate -s 8G disk.raw` makes one",
                ),
            };
            return Err(problem.into());
        }
        Ok(Self {
            path: path.to_owned(),
            file: Arc::new(file),
            size: size - size % gpt::SECTOR,
            is_block,
            #[cfg(test)]
            written: Written::default(),
        })
    }

    /// Its partition table; none when it has none at all.
    pub(in crate::disk) fn table(&self) -> Result<Option<Table>, BuilderError> {
        match self.decoded()? {
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

    /// Its partition table, or why it has none that can be used.
    pub(in crate::disk) fn decoded(&self) -> Result<Result<Table, GptError>, BuilderError> {
        let (head, tail) = self.ends()?;
        Ok(Table::decode(&head, &tail, self.size / gpt::SECTOR))
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

    /// What of its partition table is damaged or of another disk's size, in words.
    pub(in crate::disk) fn damage(&self) -> Result<Vec<String>, BuilderError> {
        let (head, tail) = self.ends()?;
        Ok(Table::damage(&head, &tail, self.size / gpt::SECTOR))
    }

    /// Writes both copies of the partition table from the sound one, with another id of the disk where one is given.
    pub(in crate::disk) fn mend(&self, disk: Option<Uuid>) -> Result<(), BuilderError> {
        let (head, tail) = self.ends()?;
        let sectors = self.size / gpt::SECTOR;
        let Some((head, tail)) = Table::mended(&head, &tail, sectors, disk) else {
            return Ok(());
        };
        self.file
            .write_all_at(&tail, self.tail())
            .and_then(|()| self.file.sync_data())
            .and_then(|()| self.file.write_all_at(&head, 0))
            .map_err(|e| BuilderError::io(format!("cannot write `{}`", self.path.display()), e))
    }

    /// Whether nothing is on it. Of a file everything is looked at, of a block device both ends, where file systems and tables have
    /// what they are known by, and the beginning of many places between.
    pub(in crate::disk) fn is_blank(&self) -> Result<bool, BuilderError> {
        let unread = |e| BuilderError::io(format!("cannot read `{}`", self.path.display()), e);
        match self.is_block {
            true => self.is_probed_blank(),
            false => self.is_all_blank(),
        }
        .map_err(unread)
    }

    fn is_probed_blank(&self) -> io::Result<bool> {
        const END: u64 = 16 << 20;
        const PROBES: u64 = 1024;
        let end = END.min(self.size / 2);
        if !self.is_zero(0, end)? || !self.is_zero(self.size - end, end)? {
            return Ok(false);
        }
        // Partitions begin at whole MiB, and file systems at most 64 KiB behind.
        let mib = self.size >> 20;
        let step = mib.div_ceil(PROBES).max(1);
        for at in (0..mib).step_by(usize::try_from(step).unwrap_or(usize::MAX)) {
            let at = at << 20;
            if !self.is_zero(at, (128 << 10).min(self.size - at))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_all_blank(&self) -> io::Result<bool> {
        use rustix::fs::{SeekFrom, seek};
        let mut at = 0;
        while at < self.size {
            let start = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) => start,
                Err(rustix::io::Errno::NXIO) => return Ok(true),
                // A file system that does not tell.
                Err(_) => at,
            };
            let end = seek(&self.file, SeekFrom::Hole(start)).unwrap_or(self.size);
            let end = end.clamp(start, self.size);
            if end == start {
                return Ok(true);
            }
            if !self.is_zero(start, end - start)? {
                return Ok(false);
            }
            at = end;
        }
        Ok(true)
    }

    /// Whether a range is zeros.
    fn is_zero(&self, start: u64, len: u64) -> io::Result<bool> {
        let mut piece = vec![0; 1 << 20];
        let zeros = vec![0; 1 << 20];
        let mut at = start;
        while at < start + len {
            let room = usize::try_from(start + len - at).unwrap_or(piece.len());
            let room = room.min(piece.len());
            self.file.read_exact_at(&mut piece[..room], at)?;
            if piece[..room] != zeros[..room] {
                return Ok(false);
            }
            at += room as u64;
        }
        Ok(true)
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
    pub(in crate::disk) fn image(&self) -> FileImage {
        FileImage::of(Arc::clone(&self.file))
    }

    /// One partition as a stream.
    pub(in crate::disk) fn part(&self, partition: &Partition) -> Part {
        Part {
            file: Arc::clone(&self.file),
            start: partition.offset(),
            len: partition.size(),
            at: 0,
            waiting: Vec::new(),
            lost: Lost::default(),
            #[cfg(test)]
            written: Arc::clone(&self.written),
        }
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

/// What could not be written when nobody was there to be told.
pub(super) type Lost = Arc<Mutex<Option<io::Error>>>;

/// From so many bytes on they are written at once.
const ONE_WRITE: usize = 512;

/// A part of a file, read and written at its own position. Small writes that follow each other are one on the device: an entry of a
/// directory, which others write field by field, is there as a whole or not at all.
pub(in crate::disk) struct Part {
    file: Arc<File>,
    start: u64,
    len: u64,
    at: u64,
    /// What is to be written in front of `at`.
    waiting: Vec<u8>,
    /// What the last write failed with, when this went away before.
    pub(super) lost: Lost,
    #[cfg(test)]
    written: Written,
}

impl Part {
    /// Waits until everything is on the disk.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        self.settle()?;
        self.file.sync_data()
    }

    fn room(&self, wanted: usize) -> usize {
        usize::try_from(self.len.saturating_sub(self.at))
            .unwrap_or(wanted)
            .min(wanted)
    }

    fn put(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, self.start + at)?;
        #[cfg(test)]
        if let Ok(mut written) = self.written.lock() {
            written.push((self.start + at, bytes.to_vec()));
        }
        Ok(())
    }

    /// Writes what waits for more.
    fn settle(&mut self) -> io::Result<()> {
        let waiting = std::mem::take(&mut self.waiting);
        match waiting.is_empty() {
            true => Ok(()),
            false => self.put(self.at - waiting.len() as u64, &waiting),
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Err(error) = self.settle()
            && let Ok(mut lost) = self.lost.lock()
        {
            *lost = Some(error);
        }
    }
}

impl Read for Part {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.settle()?;
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
        if self.waiting.len() + room > ONE_WRITE {
            self.settle()?;
        }
        if room >= ONE_WRITE {
            self.put(self.at, &bytes[..room])?;
        } else {
            self.waiting.extend_from_slice(&bytes[..room]);
        }
        self.at += room as u64;
        Ok(room)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.settle()
    }
}

impl Seek for Part {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        let at = at.ok_or(io::ErrorKind::InvalidInput)?;
        if at != self.at {
            self.settle()?;
            self.at = at;
        }
        Ok(self.at)
    }
}

/// Whether nothing is in a small file.
fn has_zeros_only(file: &File, size: u64) -> io::Result<bool> {
    let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes.iter().all(|byte| *byte == 0))
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
