//! Blocks of metadata: 8 KiB each, compressed where that helps.

use sos_engine::BuilderError;
use sos_formats::Bytes;

use super::LEVEL;

/// Bytes of a block before it is compressed.
pub(super) const BLOCK_BYTES: usize = 8192;
/// In the length of a block: it is stored as it is.
const PLAIN: u16 = 0x8000;

/// A table that is written piece by piece.
#[derive(Default)]
pub(super) struct Metadata {
    /// Finished blocks.
    done: Bytes,
    /// What is not yet a block.
    rest: Bytes,
}

impl Metadata {
    /// Where the next byte will be: the begin of its block above 16 bits for the place in it.
    pub(super) fn place(&self) -> u64 {
        ((self.done.len() as u64) << 16) | self.rest.len() as u64
    }

    /// Adds bytes and gives where they begin.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<u64, BuilderError> {
        let place = self.place();
        while self.rest.len() + bytes.len() >= BLOCK_BYTES {
            let (now, later) = bytes.split_at(BLOCK_BYTES - self.rest.len());
            self.rest.extend_from_slice(now);
            self.flush()?;
            bytes = later;
        }
        self.rest.extend_from_slice(bytes);
        Ok(place)
    }

    fn flush(&mut self) -> Result<(), BuilderError> {
        if !self.rest.is_empty() {
            let packed = compress(&self.rest)?;
            let (bytes, flag) = match &packed {
                Some(packed) => (packed, 0),
                None => (&self.rest, PLAIN),
            };
            let len = u16::try_from(bytes.len()).unwrap_or(u16::MAX) | flag;
            self.done.extend_from_slice(&len.to_le_bytes());
            self.done.extend_from_slice(bytes);
            self.rest.clear();
        }
        Ok(())
    }

    /// Gives all blocks.
    pub(super) fn finish(mut self) -> Result<Bytes, BuilderError> {
        self.flush()?;
        Ok(self.done)
    }
}

/// Compresses bytes; `None` when that does not make them shorter.
pub(super) fn compress(bytes: &[u8]) -> Result<Option<Bytes>, BuilderError> {
    let packed = zstd::bulk::compress(bytes, LEVEL)
        .map_err(|error| BuilderError::io("cannot compress a block", error))?;
    Ok((packed.len() < bytes.len()).then_some(packed))
}

/// Cuts a table into blocks, the first of which will be at `at`; gives them and the list of where each begins.
pub(super) fn table(bytes: &[u8], at: u64) -> Result<(Bytes, Bytes), BuilderError> {
    let mut blocks = Metadata::default();
    let mut begins = Bytes::new();
    for block in bytes.chunks(BLOCK_BYTES) {
        begins.extend_from_slice(&(at + blocks.done.len() as u64).to_le_bytes());
        blocks.rest.extend_from_slice(block);
        blocks.flush()?;
    }
    Ok((blocks.done, begins))
}
