//! The end of the way to a gzip member: what was compressed, or was before, is written in order, and it is noted where each piece lies.

use std::fs::File;
use std::io::{self, Read, Take, Write};
use std::sync::mpsc::{Receiver, Sender};

use sos_formats::hash::Blake3;
use sos_store::Derived;

use super::batch::Batch;
use crate::fragments::{FINAL, Fragment, read_block};

/// What comes next in the output.
pub(super) enum Pending {
    /// Blocks that are being compressed.
    Batch(Receiver<io::Result<Batch>>),
    /// The piece with this hash, of so many bytes, was compressed before.
    Known {
        raw: Blake3,
        fragment: Fragment,
        bytes: Take<File>,
        size: u64,
    },
    /// That was all, of so many bytes.
    End(u64),
}

/// A piece whose blocks are being written.
struct Piece {
    raw: Blake3,
    offset: u64,
    crc: crc32fast::Hasher,
}

/// Fragments that the output has, before it has a name.
#[derive(Debug, Default)]
pub(super) struct Made {
    level: u32,
    /// The hash of what was compressed, where it is in the output, how long it is there, and its CRC-32.
    pieces: Vec<(Blake3, u64, u64, u32)>,
}

impl Made {
    /// What is to be kept when the output is the blob `container`.
    pub(super) fn derived(&self, container: Blake3) -> Vec<Derived> {
        let made = self.pieces.iter().map(|(raw, offset, len, crc)| {
            let fragment = Fragment {
                container,
                offset: *offset,
                len: *len,
                crc: *crc,
            };
            fragment.derived(self.level, raw, container)
        });
        made.collect()
    }
}

/// What the thread that writes has.
pub(super) struct Writer<W> {
    out: W,
    /// Bytes written.
    at: u64,
    crc: crc32fast::Hasher,
    piece: Option<Piece>,
    made: Made,
    /// Memory for what is copied.
    copied: Vec<u8>,
}

impl<W: Write> Writer<W> {
    /// Goes on after `at` bytes.
    pub(super) fn new(out: W, at: u64, level: u32) -> Self {
        Self {
            out,
            at,
            crc: crc32fast::Hasher::new(),
            piece: None,
            made: Made {
                level,
                pieces: Vec::new(),
            },
            copied: Vec::new(),
        }
    }

    /// Writes what comes, in order, up to the end.
    pub(super) fn run(
        mut self,
        next: &Receiver<Pending>,
        empty: &Sender<Batch>,
    ) -> io::Result<(W, Made)> {
        for next in next {
            match next {
                Pending::Batch(receiver) => {
                    let mut batch = receiver
                        .recv()
                        .map_err(|_gone| io::Error::other("a compression thread panicked"))??;
                    self.batch(&batch)?;
                    batch.clear();
                    // After the last one nobody takes it.
                    empty.send(batch).ok();
                }
                Pending::Known {
                    raw,
                    fragment,
                    mut bytes,
                    size,
                } => self.known(raw, &fragment, &mut bytes, size)?,
                Pending::End(size) => {
                    self.out.write_all(&FINAL)?;
                    self.out.write_all(&self.crc.finalize().to_le_bytes())?;
                    // The trailer holds the size modulo 2^32.
                    self.out.write_all(&size.to_le_bytes()[..4])?;
                    return Ok((self.out, self.made));
                }
            }
        }
        Err(io::Error::other("the layer was given up"))
    }

    fn batch(&mut self, batch: &Batch) -> io::Result<()> {
        let mut begin = self.at;
        for block in &batch.blocks {
            let end = self.at + block.deflated_end as u64;
            if let Some(raw) = block.begins {
                self.piece = Some(Piece {
                    raw,
                    offset: begin,
                    crc: crc32fast::Hasher::new(),
                });
            }
            self.crc.combine(&block.crc);
            if let Some(piece) = &mut self.piece {
                piece.crc.combine(&block.crc);
            }
            if block.ends
                && let Some(piece) = self.piece.take()
            {
                let crc = piece.crc.finalize();
                let len = end - piece.offset;
                self.made.pieces.push((piece.raw, piece.offset, len, crc));
            }
            begin = end;
        }
        self.out.write_all(&batch.deflated)?;
        self.at = begin;
        Ok(())
    }

    fn known(
        &mut self,
        raw: Blake3,
        fragment: &Fragment,
        bytes: &mut dyn Read,
        size: u64,
    ) -> io::Result<()> {
        let mut copied = 0;
        loop {
            read_block(bytes, &mut self.copied)?;
            if self.copied.is_empty() {
                break;
            }
            self.out.write_all(&self.copied)?;
            copied += self.copied.len() as u64;
        }
        if copied != fragment.len {
            return Err(io::Error::other(
                "a blob of the store is shorter than it was",
            ));
        }
        self.crc
            .combine(&crc32fast::Hasher::new_with_initial_len(fragment.crc, size));
        // It is here now too, and can be found when what held it is gone.
        self.made.pieces.push((raw, self.at, copied, fragment.crc));
        self.at += copied;
        Ok(())
    }
}
