//! gzip on all cores, as one member whose bytes do not depend on how many cores there are.
//!
//! The input is cut into blocks of a fixed size; each becomes raw deflate data that ends with a full flush, with no
//! history of the block before. One header, the blocks in order, one empty final block and one trailer make a single
//! gzip member: some readers of images stop after the first member, so there must not be a second.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::mem;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use flate2::{Compress, FlushCompress, Status};

/// The size of one block; part of the format of the output, so never change it without a new revision of the builder.
pub(super) const BLOCK_BYTES: usize = 1 << 20;

/// An empty, final block with fixed codes: ends the deflate stream.
const FINAL_BLOCK: [u8; 2] = [0x03, 0x00];

/// One compressed block.
struct Done {
    deflated: Vec<u8>,
    crc: crc32fast::Hasher,
}

struct Job {
    raw: Vec<u8>,
    answer: SyncSender<io::Result<Done>>,
}

/// Writes one gzip member, compressing on several threads.
pub(super) struct ParallelGzip<W: Write> {
    out: W,
    level: u32,
    block: Vec<u8>,
    jobs: Option<Sender<Job>>,
    pending: VecDeque<Receiver<io::Result<Done>>>,
    most_pending: usize,
    crc: crc32fast::Hasher,
    size: u64,
    threads: Vec<JoinHandle<()>>,
}

impl<W: Write> ParallelGzip<W> {
    /// Begins a member; `level` is 1 to 9.
    pub(super) fn new(mut out: W, level: u32, cores: usize) -> io::Result<Self> {
        let extra_flags = match level {
            1 => 4,
            9 => 2,
            _ => 0,
        };
        // Deflate, no name, no time, unknown system.
        out.write_all(&[0x1f, 0x8b, 8, 0, 0, 0, 0, 0, extra_flags, 0xff])?;
        let (jobs, queue) = channel();
        let queue = Arc::new(Mutex::new(queue));
        let cores = cores.clamp(1, 256);
        let threads = (0..cores)
            .map(|_| {
                let queue = queue.clone();
                std::thread::Builder::new()
                    .name("gzip".into())
                    .spawn(move || work(&queue, level))
            })
            .collect::<io::Result<Vec<_>>>()?;
        Ok(Self {
            out,
            level,
            block: Vec::with_capacity(BLOCK_BYTES),
            jobs: Some(jobs),
            pending: VecDeque::new(),
            most_pending: cores * 2,
            crc: crc32fast::Hasher::new(),
            size: 0,
            threads,
        })
    }

    /// Ends the member and gives the writer back.
    pub(super) fn finish(mut self) -> io::Result<W> {
        self.submit()?;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                return Err(io::Error::other("a compression thread panicked"));
            }
        }
        self.out.write_all(&FINAL_BLOCK)?;
        self.out.write_all(&self.crc.finalize().to_le_bytes())?;
        // The trailer holds the size modulo 2^32.
        self.out.write_all(&self.size.to_le_bytes()[..4])?;
        Ok(self.out)
    }

    /// Hands the filled block to the threads.
    fn submit(&mut self) -> io::Result<()> {
        if self.block.is_empty() {
            return Ok(());
        }
        while self.pending.len() >= self.most_pending {
            self.collect()?;
        }
        let raw = mem::replace(&mut self.block, Vec::with_capacity(BLOCK_BYTES));
        let (answer, receiver) = sync_channel(1);
        let gone = || {
            io::Error::other(format!(
                "the compression threads (level {}) are gone",
                self.level
            ))
        };
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send(Job { raw, answer })
            .map_err(|_job| gone())?;
        self.pending.push_back(receiver);
        Ok(())
    }

    /// Writes the oldest block, waiting for it.
    fn collect(&mut self) -> io::Result<()> {
        let Some(receiver) = self.pending.pop_front() else {
            return Ok(());
        };
        let done = receiver
            .recv()
            .map_err(|_gone| io::Error::other("a compression thread panicked"))??;
        self.crc.combine(&done.crc);
        self.out.write_all(&done.deflated)
    }
}

impl<W: Write> Write for ParallelGzip<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(BLOCK_BYTES - self.block.len());
        self.block.extend_from_slice(&bytes[..n]);
        self.size += n as u64;
        if self.block.len() == BLOCK_BYTES {
            self.submit()?;
        }
        Ok(n)
    }

    /// Does nothing: where a flush falls must not change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses blocks until there are no more.
fn work(queue: &Mutex<Receiver<Job>>, level: u32) {
    let mut deflate = Compress::new(flate2::Compression::new(level), false);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { raw, answer }) = job else { return };
        deflate.reset();
        let mut crc = crc32fast::Hasher::new();
        crc.update(&raw);
        let done = compress_block(&mut deflate, &raw).map(|deflated| Done { deflated, crc });
        // Nobody listens after an error of the output; the rest of the queue drains.
        drop(answer.send(done));
    }
}

/// Compresses one block to deflate data that ends on a byte, with a full flush.
fn compress_block(deflate: &mut Compress, raw: &[u8]) -> io::Result<Vec<u8>> {
    let mut out = Vec::with_capacity(raw.len() / 2 + 1024);
    loop {
        let taken = usize::try_from(deflate.total_in()).map_err(io::Error::other)?;
        let before = out.len();
        let status = deflate
            .compress_vec(&raw[taken..], &mut out, FlushCompress::Full)
            .map_err(io::Error::other)?;
        let all_taken = deflate.total_in() == raw.len() as u64;
        // Room left in the output says that the flush is complete.
        if all_taken && out.len() < out.capacity() {
            return Ok(out);
        }
        if status == Status::BufError && out.len() == before && out.len() < out.capacity() {
            return Err(io::Error::other("deflate makes no progress"));
        }
        out.reserve(64 * 1024);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    /// Bytes that compress a little, different in every block.
    fn sample(len: usize) -> Vec<u8> {
        let mut state = 1_u32;
        (0..len)
            .map(|i| {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                if i % 3 == 0 {
                    state.to_le_bytes()[3]
                } else {
                    b"text"[i % 4]
                }
            })
            .collect()
    }

    fn gzip(data: &[u8], piece: usize, level: u32, cores: usize) -> Vec<u8> {
        let mut writer = ParallelGzip::new(Vec::new(), level, cores).expect("start");
        for chunk in data.chunks(piece.max(1)) {
            writer.write_all(chunk).expect("write");
            writer.flush().expect("flush");
        }
        writer.finish().expect("finish")
    }

    #[track_caller]
    fn check(data: &[u8], level: u32) {
        let one = gzip(data, 1 << 20, level, 1);
        assert_eq!(
            gzip(data, 4093, level, 4),
            one,
            "cores or pieces reached the bytes"
        );
        // This decoder stops after one member, as bootc's does.
        let mut decoder = flate2::bufread::GzDecoder::new(one.as_slice());
        let mut back = Vec::new();
        decoder.read_to_end(&mut back).expect("one sound member");
        assert_eq!(back, data);
        assert!(
            decoder.into_inner().is_empty(),
            "something follows the member"
        );
        assert_eq!(one[..4], [0x1f, 0x8b, 8, 0]);
        assert_eq!(one[4..8], [0; 4], "a time");
    }

    #[test]
    fn one_member_whatever_the_cores() {
        for len in [
            0,
            1,
            1000,
            BLOCK_BYTES - 1,
            BLOCK_BYTES,
            BLOCK_BYTES + 1,
            5 * BLOCK_BYTES + 77,
        ] {
            check(&sample(len), 6);
        }
        check(&sample(3 * BLOCK_BYTES), 1);
        check(&sample(3 * BLOCK_BYTES), 9);
    }

    #[test]
    fn incompressible_blocks() {
        let mut state = 7_u64;
        let noise: Vec<u8> = (0..2 * BLOCK_BYTES + 5)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state.to_be_bytes()[0]
            })
            .collect();
        check(&noise, 6);
    }

    #[test]
    fn an_error_of_the_output_is_reported() {
        struct Full(usize);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                if self.0 < bytes.len() {
                    return Err(io::ErrorKind::StorageFull.into());
                }
                self.0 -= bytes.len();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let mut writer = ParallelGzip::new(Full(100), 6, 2).expect("start");
        let result = writer
            .write_all(&sample(20 * BLOCK_BYTES))
            .and_then(|()| writer.finish().map(|_| ()));
        assert_eq!(
            result.expect_err("no room").kind(),
            io::ErrorKind::StorageFull
        );
    }
}
