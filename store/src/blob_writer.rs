//! A blob that is written bit by bit: hashed, and sent to the disk, while it is made.

use std::io::{self, Write};
use std::path::PathBuf;

use sos_formats::hash::Blake3;

use crate::cas::{create_private, discard};
use crate::direct::Direct;
use crate::error::{IoContext as _, Result};
use crate::large::EarlySync;
use crate::store::Store;

/// After so many bytes the disk is given what it has not seen yet.
const SYNC_BYTES: u64 = 16 << 20;
/// What is left at the end is sent too, unless it is less.
const LAST_BYTES: u64 = 1 << 20;

/// Takes the bytes of a blob. It is thrown away unless it is finished.
#[must_use]
pub struct BlobWriter {
    store: Store,
    file: Direct,
    path: PathBuf,
    hasher: blake3::Hasher,
    size: u64,
    /// How many bytes the disk was told of, where it is not given all at once.
    sent: u64,
    early: EarlySync,
}

impl Store {
    /// Begins a blob.
    ///
    /// # Errors
    /// When the store is read-only or the file cannot be made.
    pub fn blob_writer(&self) -> Result<BlobWriter> {
        let path = self.session()?.new_file();
        Ok(BlobWriter {
            store: self.clone(),
            file: Direct::new(create_private(&path)?),
            path,
            hasher: blake3::Hasher::new(),
            size: 0,
            sent: 0,
            early: EarlySync::forgetting(),
        })
    }
}

impl BlobWriter {
    /// Makes it a blob; gives its hash and its size in bytes. Like every blob that no object refers to it is safe while the store is
    /// open.
    ///
    /// # Errors
    /// When it cannot be moved to its place.
    pub fn finish(mut self) -> Result<(Blake3, u64)> {
        self.file.finish().at("write", &self.path)?;
        if self.file.is_in_memory() && self.size - self.sent >= LAST_BYTES {
            self.early.begin(self.file.file(), self.size);
        }
        // The disk works on while the caller goes on; whoever commits an object waits for it.
        self.early.leave();
        let hash = Blake3(*self.hasher.finalize().as_bytes());
        self.store
            .finish_blob(self.file.file(), &self.path, &hash, self.size)?;
        Ok((hash, self.size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        self.file.write_all(data)?;
        self.hasher.update(data);
        self.size += data.len() as u64;
        if self.file.is_in_memory() && self.size - self.sent >= SYNC_BYTES {
            self.early.begin(self.file.file(), self.size);
            self.sent = self.size;
        }
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        discard(&self.path);
    }
}
