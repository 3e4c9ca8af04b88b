//! gzip on all cores, as one member whose bytes do not depend on how many cores there are, nor on what is known already.
//!
//! The input is cut into pieces: files of some size by themselves, what lies between them together, both in blocks of at most
//! 1 MiB. Each becomes a [fragment](crate::fragments): raw deflate data that ends with a full flush, with no history of the
//! block before. One header, the blocks in order, one empty final block and one trailer make a single gzip member: some readers
//! of images stop after the first member, so there must not be a second.
//!
//! What was compressed before, for a layer or for a commit, is copied from where it lies.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::mem;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sos_formats::hash::Blake3;
use sos_store::{Derived, Store};

use crate::fragments::{BLOCK_BYTES, Deflater, FINAL, Fragment, find};

/// One compressed block.
struct Done {
    deflated: Vec<u8>,
    crc: crc32fast::Hasher,
    /// What was compressed, to be filled again.
    raw: Block,
}

/// Up to [`BLOCK_BYTES`] of data. The memory is used again and again: new one would have to be filled with zeros first.
struct Block {
    bytes: Vec<u8>,
    len: usize,
}

impl Block {
    fn new() -> Self {
        Self {
            bytes: vec![0; BLOCK_BYTES],
            len: 0,
        }
    }

    fn filled(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// Takes what there is room for.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let room = &mut self.bytes[self.len..];
        let n = bytes.len().min(room.len());
        room[..n].copy_from_slice(&bytes[..n]);
        self.len += n;
        n
    }

    /// Reads until it is full or there is no more.
    fn fill(&mut self, source: &mut dyn Read) -> io::Result<()> {
        while self.len < BLOCK_BYTES {
            match source.read(&mut self.bytes[self.len..]) {
                Ok(0) => break,
                Ok(n) => self.len += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

struct Job {
    raw: Block,
    answer: SyncSender<io::Result<Done>>,
}

/// What comes next in the output.
enum Pending {
    /// A block that is being compressed.
    Block(Receiver<io::Result<Done>>),
    /// The piece with this hash, of so many bytes, was compressed before.
    Known(Blake3, Fragment, u64),
    /// The blocks of the piece with this hash begin.
    Begin(Blake3),
    /// They end.
    End,
}

/// A piece whose blocks are being written.
struct Piece {
    raw: Blake3,
    offset: u64,
    crc: crc32fast::Hasher,
}

/// Fragments that the output has, before it has a name.
#[derive(Debug, Default)]
pub(super) struct Made(Vec<(Blake3, u64, u64, u32)>);

impl Made {
    /// What is to be kept when the output is the blob `container`.
    pub(super) fn derived(&self, level: u32, container: Blake3) -> Vec<Derived> {
        let made = self.0.iter().map(|(raw, offset, len, crc)| {
            let fragment = Fragment {
                container,
                offset: *offset,
                len: *len,
                crc: *crc,
            };
            fragment.derived(level, raw, container)
        });
        made.collect()
    }
}

/// Writes one gzip member, compressing on several threads.
pub(super) struct ParallelGzip<'s, W: Write> {
    out: W,
    /// Bytes written.
    at: u64,
    level: u32,
    store: Option<&'s Store>,
    block: Block,
    /// Blocks that are done with.
    spare: Vec<Block>,
    jobs: Option<Sender<Job>>,
    pending: VecDeque<Pending>,
    most_pending: usize,
    crc: crc32fast::Hasher,
    size: u64,
    piece: Option<Piece>,
    made: Made,
    threads: Vec<JoinHandle<()>>,
}

impl<'s, W: Write> ParallelGzip<'s, W> {
    /// Begins a member; `level` is 1 to 9. Fragments are looked for in `store`.
    pub(super) fn new(
        mut out: W,
        level: u32,
        cores: usize,
        store: Option<&'s Store>,
    ) -> io::Result<Self> {
        let extra_flags = match level {
            1 => 4,
            9 => 2,
            _ => 0,
        };
        // Deflate, no name, no time, unknown system.
        let header = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, extra_flags, 0xff];
        out.write_all(&header)?;
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
            at: header.len() as u64,
            level,
            store,
            block: Block::new(),
            spare: Vec::new(),
            jobs: Some(jobs),
            pending: VecDeque::new(),
            most_pending: cores * 2,
            crc: crc32fast::Hasher::new(),
            size: 0,
            piece: None,
            made: Made::default(),
            threads,
        })
    }

    /// Writes a file of `size` bytes as a piece of its own; `seen` gets all of them, in order.
    pub(super) fn file(
        &mut self,
        blob: &Blake3,
        size: u64,
        data: &mut dyn Read,
        seen: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        self.end_run()?;
        let known = self.find(blob)?;
        if let Some(fragment) = known {
            self.queue(Pending::Known(*blob, fragment, size))?;
        } else {
            self.queue(Pending::Begin(*blob))?;
        }
        let mut left = size;
        loop {
            self.block.fill(data)?;
            let filled = self.block.filled();
            if filled.is_empty() {
                break;
            }
            left = left
                .checked_sub(filled.len() as u64)
                .ok_or_else(|| io::Error::other("a file grew while it was read"))?;
            seen(filled);
            if known.is_none() {
                self.compress()?;
            }
            self.block.len = 0;
        }
        if left > 0 {
            return Err(io::Error::other("a file shrank while it was read"));
        }
        self.size += size;
        if known.is_none() {
            self.queue(Pending::End)?;
        }
        Ok(())
    }

    /// Ends the member; gives the writer back, and what can be found in it.
    pub(super) fn finish(mut self) -> io::Result<(W, Made)> {
        self.end_run()?;
        while !self.pending.is_empty() {
            self.collect()?;
        }
        self.jobs = None;
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                return Err(io::Error::other("a compression thread panicked"));
            }
        }
        self.out.write_all(&FINAL)?;
        self.out.write_all(&self.crc.finalize().to_le_bytes())?;
        // The trailer holds the size modulo 2^32.
        self.out.write_all(&self.size.to_le_bytes()[..4])?;
        Ok((self.out, self.made))
    }

    fn find(&self, raw: &Blake3) -> io::Result<Option<Fragment>> {
        let Some(store) = self.store else {
            return Ok(None);
        };
        find(store, self.level, raw).map_err(io::Error::other)
    }

    /// Hands on what was collected between files.
    fn end_run(&mut self) -> io::Result<()> {
        let run = self.block.filled();
        if run.is_empty() {
            return Ok(());
        }
        let size = run.len() as u64;
        let raw = Blake3::of(run);
        if let Some(known) = self.find(&raw)? {
            self.block.len = 0;
            return self.queue(Pending::Known(raw, known, size));
        }
        self.queue(Pending::Begin(raw))?;
        self.compress()?;
        self.queue(Pending::End)
    }

    /// Hands the block to the threads; another one, which is empty, takes its place.
    fn compress(&mut self) -> io::Result<()> {
        let next = self.spare.pop().unwrap_or_else(Block::new);
        let raw = mem::replace(&mut self.block, next);
        let (answer, receiver) = sync_channel(1);
        let gone = || io::Error::other("the compression threads are gone");
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send(Job { raw, answer })
            .map_err(|_job| gone())?;
        self.queue(Pending::Block(receiver))
    }

    fn queue(&mut self, next: Pending) -> io::Result<()> {
        self.pending.push_back(next);
        let blocks = |pending: &VecDeque<Pending>| {
            let blocks = pending.iter().filter(|p| matches!(p, Pending::Block(_)));
            blocks.count()
        };
        while blocks(&self.pending) > self.most_pending {
            self.collect()?;
        }
        // Nothing is to be waited for: what is known can go out at once.
        while !matches!(self.pending.front(), None | Some(Pending::Block(_))) {
            self.collect()?;
        }
        Ok(())
    }

    /// Writes what is next, waiting for it.
    fn collect(&mut self) -> io::Result<()> {
        match self.pending.pop_front() {
            None => {}
            Some(Pending::Block(receiver)) => {
                let done = receiver
                    .recv()
                    .map_err(|_gone| io::Error::other("a compression thread panicked"))??;
                self.crc.combine(&done.crc);
                if let Some(piece) = &mut self.piece {
                    piece.crc.combine(&done.crc);
                }
                self.out.write_all(&done.deflated)?;
                self.at += done.deflated.len() as u64;
                let mut raw = done.raw;
                raw.len = 0;
                self.spare.push(raw);
            }
            Some(Pending::Begin(raw)) => {
                self.piece = Some(Piece {
                    raw,
                    offset: self.at,
                    crc: crc32fast::Hasher::new(),
                });
            }
            Some(Pending::End) => {
                if let Some(piece) = self.piece.take() {
                    let len = self.at - piece.offset;
                    let crc = piece.crc.finalize();
                    self.made.0.push((piece.raw, piece.offset, len, crc));
                }
            }
            Some(Pending::Known(raw, fragment, size)) => {
                let store = self
                    .store
                    .ok_or_else(|| io::Error::other("a fragment without a store"))?;
                let mut bytes = fragment.open(store).map_err(io::Error::other)?;
                let mut block = self.spare.pop().unwrap_or_else(Block::new);
                let mut copied = 0;
                loop {
                    block.fill(&mut bytes)?;
                    if block.len == 0 {
                        break;
                    }
                    self.out.write_all(block.filled())?;
                    copied += block.len as u64;
                    block.len = 0;
                }
                self.spare.push(block);
                if copied != fragment.len {
                    return Err(io::Error::other(
                        "a blob of the store is shorter than it was",
                    ));
                }
                self.crc
                    .combine(&crc32fast::Hasher::new_with_initial_len(fragment.crc, size));
                // It is here now too, and can be found when what held it is gone.
                self.made.0.push((raw, self.at, copied, fragment.crc));
                self.at += copied;
            }
        }
        Ok(())
    }
}

impl<W: Write> Write for ParallelGzip<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.block.take(bytes);
        self.size += n as u64;
        if self.block.len == BLOCK_BYTES {
            self.end_run()?;
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
    let mut deflater = Deflater::new(level);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { raw, answer }) = job else { return };
        let mut crc = crc32fast::Hasher::new();
        crc.update(raw.filled());
        let mut deflated = Vec::new();
        let done =
            deflater
                .block(raw.filled(), &mut deflated)
                .map(|()| Done { deflated, crc, raw });
        // Nobody listens after an error of the output; the rest of the queue drains.
        drop(answer.send(done));
    }
}

#[cfg(test)]
mod tests {
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
        let mut writer = ParallelGzip::new(Vec::new(), level, cores, None).expect("start");
        for chunk in data.chunks(piece.max(1)) {
            writer.write_all(chunk).expect("write");
            writer.flush().expect("flush");
        }
        writer.finish().expect("finish").0
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
        let mut writer = ParallelGzip::new(Full(100), 6, 2, None).expect("start");
        let result = writer
            .write_all(&sample(20 * BLOCK_BYTES))
            .and_then(|()| writer.finish().map(|_| ()));
        assert_eq!(
            result.expect_err("no room").kind(),
            io::ErrorKind::StorageFull
        );
    }

    /// Files of several sizes between runs; nothing, all or some of it is known.
    #[test]
    fn what_is_known_changes_nothing() {
        let fake = crate::build::fake::Fake::new();
        let store = &fake.store;
        let files: Vec<Vec<u8>> = [40_000, BLOCK_BYTES, 2 * BLOCK_BYTES + 5]
            .map(|len| {
                let mut file = sample(len);
                file[0] = u8::try_from(len % 251).expect("small");
                file
            })
            .into();
        let make = |store: Option<&Store>, cores| {
            let mut writer = ParallelGzip::new(Vec::new(), 6, cores, store).expect("start");
            let mut seen = Vec::new();
            for (i, file) in files.iter().enumerate() {
                let header = vec![u8::try_from(i).expect("small"); 700];
                writer.write_all(&header).expect("write");
                seen.extend_from_slice(&header);
                let size = file.len() as u64;
                writer
                    .file(&Blake3::of(file), size, &mut file.as_slice(), &mut |part| {
                        seen.extend_from_slice(part);
                    })
                    .expect("write");
            }
            let (bytes, made) = writer.finish().expect("finish");
            let mut back = Vec::new();
            flate2::bufread::GzDecoder::new(bytes.as_slice())
                .read_to_end(&mut back)
                .expect("one sound member");
            assert_eq!(back, seen);
            (bytes, made)
        };
        let (first, made) = make(None, 1);
        let (unknown, _) = make(Some(store), 3);
        assert_eq!(unknown, first);
        let blob = store.put_blob_bytes(&first).expect("put");
        let derived = made.derived(6, blob);
        assert_eq!(derived.len(), 6);
        // Every second piece is known, then all of them.
        let some: Vec<Derived> = derived.iter().step_by(2).cloned().collect();
        store.keep_derived(&some).expect("keep");
        assert_eq!(make(Some(store), 2).0, first);
        store.keep_derived(&derived).expect("keep");
        let (all, again) = make(Some(store), 2);
        assert_eq!(all, first);
        assert_eq!(again.derived(6, blob), derived);
    }

    #[test]
    fn a_file_of_another_size_is_an_error() {
        let data = sample(50_000);
        for size in [49_999, 50_001] {
            let mut writer = ParallelGzip::new(Vec::new(), 6, 1, None).expect("start");
            let id = Blake3::of(&data);
            assert!(
                writer
                    .file(&id, size, &mut data.as_slice(), &mut |_| {})
                    .is_err()
            );
        }
    }
}
