//! Build logs: one zstd stream a derivation, readable while it is being written.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use sos_formats::store_path::StorePath;

use crate::db;
use crate::error::{IoContext, Result, StoreError};
use crate::steps::is_named;
use crate::store::Store;
use crate::temp::list_dir;

const LEVEL: i32 = 3;

/// Bytes of a log that are read at once.
const PACKED_BYTES: usize = 64 << 10;

/// A block is closed after this many bytes, so that a reader of a running build is not far behind.
const BLOCK_BYTES: usize = 16 << 10;

/// Writes the log of a build. Dropping it without [`LogWriter::finish`] leaves a log that can be read, too.
pub struct LogWriter {
    encoder: zstd::stream::write::Encoder<'static, File>,
    unflushed: usize,
    size: u64,
    path: PathBuf,
}

impl std::fmt::Debug for LogWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogWriter")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl LogWriter {
    /// How many bytes were written, before compression.
    pub fn size_bytes(&self) -> u64 {
        self.size
    }

    /// Adds to the log.
    ///
    /// # Errors
    /// When writing fails; says where.
    pub fn add(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.write_all(bytes);
        written.at("write", &self.path)
    }

    /// Makes everything so far visible to readers, if anything is not.
    ///
    /// # Errors
    /// As [`LogWriter::add`].
    pub fn flush_pending(&mut self) -> Result<()> {
        if self.unflushed == 0 {
            return Ok(());
        }
        let flushed = self.flush();
        flushed.at("write", &self.path)
    }

    /// Ends the log.
    ///
    /// # Errors
    /// When writing fails.
    pub fn finish(self) -> Result<()> {
        let path = self.path;
        self.encoder.finish().at("write", path)?;
        Ok(())
    }
}

impl Write for LogWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let count = self.encoder.write(data)?;
        self.unflushed += count;
        self.size += count as u64;
        if self.unflushed >= BLOCK_BYTES {
            self.flush()?;
        }
        Ok(count)
    }

    /// Makes everything so far visible to readers.
    fn flush(&mut self) -> io::Result<()> {
        self.unflushed = 0;
        self.encoder.flush()
    }
}

/// Reads a log that may end in the middle of a block: the writer is still at work, or was killed. At the end of what is
/// written it gives 0 bytes, and goes on when there is more.
pub struct LogReader {
    file: File,
    decoder: zstd::stream::raw::Decoder<'static>,
    packed: Vec<u8>,
    /// What of `packed` is still to be unpacked.
    rest: std::ops::Range<usize>,
    /// The decoder may hold bytes that did not fit.
    holds: bool,
}

impl std::fmt::Debug for LogReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LogReader").finish_non_exhaustive()
    }
}

impl Read for LogReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        use zstd::stream::raw::Operation as _;
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            if self.rest.is_empty() && !self.holds {
                let read = self.file.read(&mut self.packed)?;
                if read == 0 {
                    return Ok(0);
                }
                self.rest = 0..read;
            }
            let status = self
                .decoder
                .run_on_buffers(&self.packed[self.rest.clone()], buffer)?;
            self.rest.start += status.bytes_read;
            // A full buffer may not be all that there was.
            self.holds = status.bytes_written == buffer.len();
            if status.bytes_written > 0 {
                return Ok(status.bytes_written);
            }
            if status.bytes_read == 0 && !self.rest.is_empty() {
                return Err(io::Error::from(io::ErrorKind::InvalidData));
            }
        }
    }
}

impl Store {
    /// Where the log of a derivation is, if it has one.
    pub fn log_path(&self, drv: &StorePath) -> PathBuf {
        let (shard, rest) = drv.as_str().split_at(2);
        self.root()
            .join("log")
            .join(shard)
            .join(format!("{rest}.zst"))
    }

    /// Begins the log of a derivation, in place of an earlier one.
    ///
    /// # Errors
    /// When the store is read-only or the file cannot be made.
    pub fn log_writer(&self, drv: &StorePath) -> Result<LogWriter> {
        let path = self.log_path(drv);
        // Under a private name first: a reader of the old log keeps it, and two writers do not mix.
        let staged = self.session()?.new_file();
        let file = File::options()
            .write(true)
            .create_new(true)
            .open(&staged)
            .at("make", &staged)?;
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).at("make the directory", parent)?;
        }
        std::fs::rename(&staged, &path).at("make", &path)?;
        let encoder = zstd::stream::write::Encoder::new(file, LEVEL).at("write", &path)?;
        Ok(LogWriter {
            encoder,
            unflushed: 0,
            size: 0,
            path,
        })
    }

    /// Removes the log of a derivation if it takes more than so many bytes on the disk; tells whether it did.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove_log_over(&self, drv: &StorePath, bytes: u64) -> Result<bool> {
        let path = self.log_path(drv);
        if !std::fs::symlink_metadata(&path).is_ok_and(|meta| meta.blocks() * 512 > bytes) {
            return Ok(false);
        }
        std::fs::remove_file(&path).at("remove", &path)?;
        Ok(true)
    }

    /// All logs, each with the derivation that it is of.
    pub(crate) fn logs(&self) -> Result<Vec<(StorePath, PathBuf)>> {
        let mut found = Vec::new();
        for shard in list_dir(&self.root().join("log"))? {
            for file in list_dir(&shard)? {
                let joined = [shard.file_name(), file.file_name()]
                    .map(|part| part.unwrap_or_default().to_string_lossy())
                    .concat();
                let drv = joined
                    .strip_suffix(".zst")
                    .and_then(|base| StorePath::from_base(base).ok());
                found.extend(drv.map(|drv| (drv, file)));
            }
        }
        Ok(found)
    }

    /// The derivations of a name that were built here or have a log, the newest first; a build that wrote nothing has
    /// none. The version may be left out: `bash` finds `bash-5.2`.
    ///
    /// # Errors
    /// When the logs cannot be listed, or the database fails.
    pub fn built_named(&self, name: &str) -> Result<Vec<StorePath>> {
        let mut times: BTreeMap<StorePath, i64> = BTreeMap::new();
        for (drv, file) in self.logs()? {
            let newest = std::fs::symlink_metadata(&file).map_or(0, |meta| meta.mtime());
            times.insert(drv, newest);
        }
        for (drv, started) in self.db().read(db::built_drvs)? {
            let newest = times.entry(drv).or_default();
            *newest = started.max(*newest);
        }
        let mut found = Vec::new();
        for (drv, newest) in times {
            let full = drv.name().strip_suffix(".drv").unwrap_or(drv.name());
            if is_named(full, name) {
                found.push((std::cmp::Reverse((full == name, newest)), drv));
            }
        }
        found.sort();
        Ok(found.into_iter().map(|(_, drv)| drv).collect())
    }

    /// Reads the log of a derivation, as far as it is written.
    ///
    /// # Errors
    /// When it is there and cannot be opened.
    pub fn read_log(&self, drv: &StorePath) -> Result<Option<LogReader>> {
        let path = self.log_path(drv);
        match File::open(&path) {
            Ok(file) => Ok(Some(LogReader {
                file,
                decoder: zstd::stream::raw::Decoder::new().at("read", path)?,
                packed: vec![0; PACKED_BYTES],
                rest: 0..0,
                holds: false,
            })),
            Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(err) => Err(StoreError::io("open", path, err)),
        }
    }
}
