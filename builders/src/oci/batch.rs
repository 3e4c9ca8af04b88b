//! What is compressed at once: some blocks, and what becomes of them.

use std::io::{self, Read};

use sos_formats::hash::Blake3;

use crate::fragments::{BLOCK_BYTES, Deflater};

/// A batch that has as much goes to a thread. Most blocks are small, and handing each over would cost more than is waited for.
pub(super) const BATCH_BYTES: usize = BLOCK_BYTES / 2;

/// Blocks that one thread compresses, one after the other, and what becomes of them. Its memory is used again and again: new one would
/// have to be filled with zeros first.
pub(super) struct Batch {
    bytes: Vec<u8>,
    pub(super) len: usize,
    pub(super) blocks: Vec<Block>,
    pub(super) deflated: Vec<u8>,
}

/// At most [`BLOCK_BYTES`] that are compressed without what was before.
pub(super) struct Block {
    /// Where it ends in the batch.
    pub(super) end: usize,
    /// The piece with this hash begins here.
    pub(super) begins: Option<Blake3>,
    /// The piece ends here.
    pub(super) ends: bool,
    /// Where it ends in what was compressed.
    pub(super) deflated_end: usize,
    pub(super) crc: crc32fast::Hasher,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            bytes: vec![0; BATCH_BYTES + BLOCK_BYTES],
            len: 0,
            blocks: Vec::new(),
            deflated: Vec::new(),
        }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.blocks.clear();
        self.deflated.clear();
    }

    /// Where the block begins that is being filled.
    pub(super) fn begin(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.end)
    }

    /// What the block has so far.
    pub(super) fn open(&self) -> &[u8] {
        &self.bytes[self.begin()..self.len]
    }

    /// The block's room that is left.
    pub(super) fn room(&mut self) -> &mut [u8] {
        let end = self.begin() + BLOCK_BYTES;
        &mut self.bytes[self.len..end]
    }

    /// Forgets what the block has.
    pub(super) fn empty(&mut self) {
        self.len = self.begin();
    }

    /// Takes what there is room for.
    pub(super) fn take(&mut self, bytes: &[u8]) -> usize {
        let room = self.room();
        let n = bytes.len().min(room.len());
        room[..n].copy_from_slice(&bytes[..n]);
        self.len += n;
        n
    }

    /// Reads until the block is full or there is no more; gives what it has then.
    pub(super) fn fill(&mut self, source: &mut dyn Read) -> io::Result<&[u8]> {
        loop {
            let room = self.room();
            if room.is_empty() {
                break;
            }
            match source.read(room) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(self.open())
    }

    /// Compresses all blocks.
    pub(super) fn deflate(&mut self, deflater: &mut Deflater) -> io::Result<()> {
        let mut begin = 0;
        for block in &mut self.blocks {
            let raw = &self.bytes[begin..block.end];
            block.crc.update(raw);
            deflater.block(raw, &mut self.deflated)?;
            block.deflated_end = self.deflated.len();
            begin = block.end;
        }
        Ok(())
    }
}
