//! The EFI system partition of a device, changed in place: what other systems have put there stays.

use std::io::{Read, Seek as _, SeekFrom, Write};

use fatfs::{Date, DateTime, FileSystem, FsOptions, Time, TimeProvider};
use sos_engine::BuilderError;
use sos_formats::gpt::Partition;

use super::clusters::Clusters;
use super::device::{Device, Lost, Part};
use super::refused;

/// The longest path that is looked at: a damaged volume may have a directory in itself.
const MAX_PATH: usize = 1024;
/// What the name of a file ends with until the file is whole.
pub(super) const DRAFT: &str = ".new";
/// What an EFI system partition is called that nothing can be read from.
pub(super) const DAMAGED: &str = "provision-damaged";
/// The largest file that is read.
const MAX_FILE: u64 = 1 << 30;

/// Everything is from the first day that FAT knows: no clock comes near a disk.
#[derive(Debug)]
struct NoClock;

impl TimeProvider for NoClock {
    fn get_current_date(&self) -> Date {
        Date {
            year: 1980,
            month: 1,
            day: 1,
        }
    }
    fn get_current_date_time(&self) -> DateTime {
        DateTime {
            date: self.get_current_date(),
            time: Time {
                hour: 0,
                min: 0,
                sec: 0,
                millis: 0,
            },
        }
    }
}

static NO_CLOCK: NoClock = NoClock;

/// A FAT volume that was opened.
pub(in crate::disk) struct Volume {
    fs: FileSystem<Part>,
    /// What could not be written at the end.
    lost: Lost,
}

impl Volume {
    pub(in crate::disk) fn open(
        device: &Device,
        partition: &Partition,
    ) -> Result<Self, BuilderError> {
        let part = device.part(partition);
        let lost = Lost::clone(&part.lost);
        let options = FsOptions::new().time_provider(&NO_CLOCK);
        let opened = FileSystem::new(part, options);
        let fs = opened.map_err(|e| match e.raw_os_error() {
            Some(_) => failed("open", &partition.name, e),
            // The device can be read, and this is no volume.
            None => damaged(&partition.name, &e),
        })?;
        Ok(Self { fs, lost })
    }

    /// The names of files in a directory; none when it is not there.
    pub(in crate::disk) fn list(&self, dir: &str) -> Vec<String> {
        let Ok(dir) = self.fs.root_dir().open_dir(dir) else {
            return Vec::new();
        };
        let entries = dir
            .iter()
            .filter_map(Result::ok)
            .filter(fatfs::DirEntry::is_file);
        let mut names: Vec<String> = entries.map(|entry| entry.file_name()).collect();
        names.sort_unstable();
        names
    }

    /// The paths of all files, in the order of bytes.
    pub(in crate::disk) fn all(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut pending = vec![(String::new(), self.fs.root_dir())];
        while let Some((path, dir)) = pending.pop() {
            for entry in dir.iter().filter_map(Result::ok) {
                let name = entry.file_name();
                let below = match path.is_empty() {
                    true => name.clone(),
                    false => format!("{path}/{name}"),
                };
                if entry.is_file() {
                    found.push(below);
                } else if entry.is_dir() && name != "." && name != ".." && below.len() < MAX_PATH {
                    pending.push((below, entry.to_dir()));
                }
            }
        }
        found.sort_unstable();
        found
    }

    /// Bytes of a cluster, and those that no file has.
    pub(in crate::disk) fn free(&self) -> Result<(u64, u64), BuilderError> {
        let stats = self.fs.stats();
        let stats = stats.map_err(|e| failed("look at", "the EFI system partition", e))?;
        let cluster = u64::from(stats.cluster_size());
        Ok((cluster, u64::from(stats.free_clusters()) * cluster))
    }

    /// Bytes of a file; none when it is not there.
    pub(in crate::disk) fn size(&self, path: &str) -> Result<u64, BuilderError> {
        let Ok(mut file) = self.fs.root_dir().open_file(path) else {
            return Ok(0);
        };
        file.seek(SeekFrom::End(0))
            .map_err(|e| failed("look at", path, e))
    }

    /// Reads a file; none when it is not there.
    pub(in crate::disk) fn read(&self, path: &str) -> Result<Option<Vec<u8>>, BuilderError> {
        let Ok(file) = self.fs.root_dir().open_file(path) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        file.take(MAX_FILE)
            .read_to_end(&mut bytes)
            .map_err(|e| failed("read", path, e))?;
        Ok(Some(bytes))
    }

    /// Writes a file in the place of another, which goes first: for volumes that nothing starts from yet.
    pub(in crate::disk) fn write(
        &self,
        path: &str,
        from: &mut dyn Read,
    ) -> Result<(), BuilderError> {
        self.remove(path)?;
        self.draft(path, from)?;
        let root = self.fs.root_dir();
        let draft = format!("{path}{DRAFT}");
        root.rename(&draft, &root, path)
            .map_err(|e| failed("rename", &draft, e))
    }

    /// Writes a file under the name of its draft.
    fn draft(&self, path: &str, from: &mut dyn Read) -> Result<(), BuilderError> {
        let root = self.fs.root_dir();
        let mut at = 0;
        while let Some(slash) = path[at..].find('/') {
            at += slash;
            root.create_dir(&path[..at])
                .map_err(|e| failed("make the directory", &path[..at], e))?;
            at += 1;
        }
        let draft = format!("{path}{DRAFT}");
        self.remove(&draft)?;
        let mut file = root
            .create_file(&draft)
            .map_err(|e| failed("make", &draft, e))?;
        let mut piece = vec![0; 1 << 18];
        loop {
            match from
                .read(&mut piece)
                .map_err(|e| failed("read what becomes", path, e))?
            {
                0 => break,
                count => file
                    .write_all(&piece[..count])
                    .map_err(|e| failed("write", &draft, e))?,
            }
        }
        file.flush().map_err(|e| failed("write", &draft, e))
    }

    /// Makes an empty file, unless it is there: loaders pass over those.
    fn touch(&self, path: &str) -> Result<(), BuilderError> {
        let made = self.fs.root_dir().create_file(path);
        made.map(drop).map_err(|e| failed("make", path, e))
    }

    /// Removes a file, if it is there.
    pub(in crate::disk) fn remove(&self, path: &str) -> Result<(), BuilderError> {
        match self.fs.root_dir().remove(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed("remove", path, error))
            }
            _ => Ok(()),
        }
    }

    /// Writes what is still in memory.
    pub(in crate::disk) fn close(self) -> Result<(), BuilderError> {
        let Self { fs, lost } = self;
        let ended = fs.unmount();
        let lost = lost.lock().ok().and_then(|mut lost| lost.take());
        ended
            .and(lost.map_or(Ok(()), Err))
            .map_err(|e| failed("close", "the EFI system partition", e))
    }
}

/// Changes on the EFI system partition of a device from which a system starts. Whatever stops them, a name leads to what it led to
/// before or to what is new, and a file that was not there is there as a whole or as an empty one; the next change finishes the
/// rest. Of a volume that is no FAT32 only the last does not hold: a file that is replaced is missing for a moment.
pub(super) struct Change<'d> {
    device: &'d Device,
    partition: &'d Partition,
}

impl<'d> Change<'d> {
    pub(super) fn of(device: &'d Device, partition: &'d Partition) -> Self {
        Self { device, partition }
    }

    /// Writes a file: the old one stays until the new one is whole, which takes room for both.
    pub(super) fn write(&self, path: &str, from: &mut dyn Read) -> Result<(), BuilderError> {
        let draft = format!("{path}{DRAFT}");
        self.remove(&draft)?;
        self.reserve(&draft)?;
        let written = self.on_volume(|volume| volume.draft(path, from));
        if written.is_err() {
            self.remove(&draft)?;
            return written;
        }
        self.named(path, false)
    }

    /// Gives a whole draft its name, which an update has left that was stopped.
    pub(super) fn finish(&self, path: &str) -> Result<(), BuilderError> {
        self.named(path, true)
    }

    /// Gives a draft its name; `is_only` when nobody could write it again.
    fn named(&self, path: &str, is_only: bool) -> Result<(), BuilderError> {
        let draft = format!("{path}{DRAFT}");
        let failed = |e| failed("rename", &draft, e);
        self.device.sync()?;
        if self.clusters(|_| Ok(())).map_err(failed)?.is_none() {
            return self.on_volume(|volume| {
                volume.remove(path)?;
                let root = volume.fs.root_dir();
                root.rename(&draft, &root, path).map_err(failed)
            });
        }
        self.reserve(path)?;
        self.on_volume(|volume| volume.touch(path))?;
        self.device.sync()?;
        self.clusters(|clusters| clusters.replace(path, &draft, is_only))
            .map_err(failed)?;
        self.device.sync()?;
        self.tidy()
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, path: &str) -> Result<(), BuilderError> {
        let gone = self.clusters(|clusters| clusters.forget(path));
        match gone.map_err(|e| failed("remove", path, e))? {
            Some(false) => Ok(()),
            Some(true) => self.tidy(),
            None => self.on_volume(|volume| volume.remove(path)),
        }
    }

    fn reserve(&self, path: &str) -> Result<(), BuilderError> {
        let (dir, name) = path.rsplit_once('/').unwrap_or(("", path));
        let grown = self.clusters(|clusters| clusters.reserve(dir, name));
        match grown.map_err(|e| failed("make", path, e))? {
            // The number of free clusters is another one.
            Some(true) => self.tidy(),
            _ => Ok(()),
        }
    }

    /// Works on the volume, and frees what is lost behind it.
    fn on_volume(
        &self,
        work: impl FnOnce(&Volume) -> Result<(), BuilderError>,
    ) -> Result<(), BuilderError> {
        let volume = Volume::open(self.device, self.partition)?;
        let done = work(&volume);
        volume.close()?;
        self.tidy()?;
        done
    }

    /// Finishes what was stopped.
    pub(super) fn tidy(&self) -> Result<(), BuilderError> {
        let done = self.clusters(Clusters::tidy);
        done.map(drop)
            .map_err(|e| failed("look at", &self.partition.name, e))
    }

    /// Works on names and clusters; none when they are those of another file system than FAT32.
    fn clusters<T>(
        &self,
        work: impl FnOnce(&mut Clusters) -> std::io::Result<T>,
    ) -> std::io::Result<Option<T>> {
        let found = Clusters::of(self.device.part(self.partition))?;
        found.map(|mut clusters| work(&mut clusters)).transpose()
    }
}

fn damaged(name: &str, why: &std::io::Error) -> BuilderError {
    let message = format!("the EFI system partition `{name}` holds no FAT file system: {why}");
    refused(DAMAGED, message)
        .help("`fsck.vfat` may repair it; `--wipe` makes the whole layout anew, and everything on the disk is lost")
        .into()
}

fn failed(what: &str, path: &str, error: std::io::Error) -> BuilderError {
    let is_room = error.kind() == std::io::ErrorKind::StorageFull
        || error.to_string().contains("No space left");
    if error.raw_os_error().is_some() || is_room {
        return BuilderError::io(format!("cannot {what} `{path}` on the device"), error);
    }
    // The device can be read, and what is on it leads nowhere.
    let message = format!("cannot {what} `{path}` on the EFI system partition: {error}");
    refused(DAMAGED, message)
        .note("its file system is damaged")
        .help("`fsck.vfat` may repair it; `--wipe` makes the whole layout anew, and everything on the disk is lost")
        .into()
}
