//! Where the bytes of a transfer go.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::path::PathBuf;

use super::failure::{Failure, Placed};

/// Takes the bytes of one file; may be asked to begin again, because the next source starts from the first byte.
pub trait Sink {
    /// Forgets everything taken so far.
    fn restart(&mut self) -> io::Result<()>;
    /// Takes the next bytes.
    fn write(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Checks the whole; a failure moves on to the next source.
    fn complete(&mut self) -> Result<(), Failure> {
        Ok(())
    }
}

/// A sink in memory, for small files.
#[derive(Debug, Default)]
pub struct MemorySink {
    bytes: Vec<u8>,
}

impl MemorySink {
    /// Gives the bytes away.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

impl Sink for MemorySink {
    fn restart(&mut self) -> io::Result<()> {
        self.bytes.clear();
        Ok(())
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }
}

/// A sink that writes a file.
#[derive(Debug)]
pub struct FileSink {
    file: File,
    /// Where it is, for messages.
    path: PathBuf,
}

impl FileSink {
    /// Makes a sink of an open, empty file, which is at `path`.
    pub fn new(file: File, path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { file, path }
    }

    /// Gives access to the file.
    pub fn file_mut(&mut self) -> &mut File {
        &mut self.file
    }

    /// Gives the file away.
    pub fn into_file(self) -> File {
        self.file
    }
}

impl Sink for FileSink {
    fn restart(&mut self) -> io::Result<()> {
        let emptied = self.file.set_len(0).and_then(|()| self.file.rewind());
        emptied.map_err(|error| Placed::error(&self.path, error))
    }
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        let written = self.file.write_all(bytes);
        written.map_err(|error| Placed::error(&self.path, error))
    }
}
