//! gzip on all cores, as one member whose bytes do not depend on how many cores there are, nor on what is known already.
//!
//! The input is cut into pieces: files of some size by themselves, what lies between them together, both in blocks of at most
//! 1 MiB. Each becomes a [fragment](crate::fragments): raw deflate data that ends with a full flush, with no history of the
//! block before. One header, the blocks in order, one empty final block and one trailer make a single gzip member: some readers
//! of images stop after the first member, so there must not be a second.
//!
//! What was compressed before, for a layer or for a commit, is copied from where it lies.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::mem;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sos_formats::hash::Blake3;
use sos_store::{Derived, Store};

use crate::fragments::{BLOCK_BYTES, Deflater, FINAL, Fragment, find, find_all};

/// A batch that has as much goes to a thread. Most blocks are small, and handing each over would cost more than is waited for.
const BATCH_BYTES: usize = BLOCK_BYTES / 2;
/// Batches a thread that wait for their turn. They are of one size, more or less, so that no thread is without work for long while
/// the oldest one is waited for.
const BATCHES: usize = 8;

/// Blocks that one thread compresses, one after the other, and what becomes of them. Its memory is used again and again: new one would
/// have to be filled with zeros first.
struct Batch {
    bytes: Vec<u8>,
    len: usize,
    blocks: Vec<Block>,
    deflated: Vec<u8>,
}

/// At most [`BLOCK_BYTES`] that are compressed without what was before.
struct Block {
    /// Where it ends in the batch.
    end: usize,
    /// The piece with this hash begins here.
    begins: Option<Blake3>,
    /// The piece ends here.
    ends: bool,
    /// Where it ends in what was compressed.
    deflated_end: usize,
    crc: crc32fast::Hasher,
}

impl Batch {
    fn new() -> Self {
        Self {
            bytes: vec![0; BATCH_BYTES + BLOCK_BYTES],
            len: 0,
            blocks: Vec::new(),
            deflated: Vec::new(),
        }
    }

    fn clear(&mut self) {
        self.len = 0;
        self.blocks.clear();
        self.deflated.clear();
    }

    /// Where the block begins that is being filled.
    fn begin(&self) -> usize {
        self.blocks.last().map_or(0, |block| block.end)
    }

    /// What the block has so far.
    fn open(&self) -> &[u8] {
        &self.bytes[self.begin()..self.len]
    }

    /// The block's room that is left.
    fn room(&mut self) -> &mut [u8] {
        let end = self.begin() + BLOCK_BYTES;
        &mut self.bytes[self.len..end]
    }

    /// Forgets what the block has.
    fn empty(&mut self) {
        self.len = self.begin();
    }

    /// Takes what there is room for.
    fn take(&mut self, bytes: &[u8]) -> usize {
        let room = self.room();
        let n = bytes.len().min(room.len());
        room[..n].copy_from_slice(&bytes[..n]);
        self.len += n;
        n
    }

    /// Reads until the block is full or there is no more; gives what it has then.
    fn fill(&mut self, source: &mut dyn Read) -> io::Result<&[u8]> {
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
    fn deflate(&mut self, deflater: &mut Deflater) -> io::Result<()> {
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

struct Job {
    batch: Batch,
    answer: SyncSender<io::Result<Batch>>,
}

/// What comes next in the output.
enum Pending {
    /// Blocks that are being compressed.
    Batch(Receiver<io::Result<Batch>>),
    /// The piece with this hash, of so many bytes, was compressed before.
    Known(Blake3, Fragment, u64),
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

/// Writes one gzip member, compressing on several threads.
pub(super) struct ParallelGzip<'s, W: Write> {
    out: W,
    /// Bytes written.
    at: u64,
    level: u32,
    store: Option<&'s Store>,
    /// What is known of the files to come; nothing when nobody said which they are.
    known: Option<BTreeMap<Blake3, Fragment>>,
    batch: Batch,
    /// Batches that are done with.
    spare: Vec<Batch>,
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
            known: None,
            batch: Batch::new(),
            spare: Vec::new(),
            jobs: Some(jobs),
            pending: VecDeque::new(),
            most_pending: cores * BATCHES,
            crc: crc32fast::Hasher::new(),
            size: 0,
            piece: None,
            made: Made {
                level,
                pieces: Vec::new(),
            },
            threads,
        })
    }

    /// Says which files will be written by [`Self::file`], to look for all of them at once.
    pub(super) fn expect(&mut self, files: &[Blake3]) -> io::Result<()> {
        if let Some(store) = self.store
            && !files.is_empty()
        {
            self.known = Some(find_all(store, self.level, files).map_err(io::Error::other)?);
        }
        Ok(())
    }

    /// Writes a file of `size` bytes, which is not empty, as a piece of its own; `seen` gets all of them, in order.
    pub(super) fn file(
        &mut self,
        blob: &Blake3,
        size: u64,
        data: &mut dyn Read,
        seen: &mut dyn FnMut(&[u8]),
    ) -> io::Result<()> {
        self.end_run()?;
        let known = match &self.known {
            Some(known) => known.get(blob).copied(),
            None => self.find(blob)?,
        };
        if let Some(fragment) = known {
            self.submit()?;
            self.queue(Pending::Known(*blob, fragment, size))?;
        }
        let mut left = size;
        let mut begins = Some(*blob);
        loop {
            let filled = self.batch.fill(data)?;
            if filled.is_empty() {
                break;
            }
            left = left
                .checked_sub(filled.len() as u64)
                .ok_or_else(|| io::Error::other("a file grew while it was read"))?;
            seen(filled);
            if known.is_some() {
                self.batch.empty();
            } else {
                self.end_block(begins.take(), left == 0)?;
            }
        }
        if left > 0 {
            return Err(io::Error::other("a file shrank while it was read"));
        }
        self.size += size;
        Ok(())
    }

    /// Ends the member; gives the writer back, and what can be found in it.
    pub(super) fn finish(mut self) -> io::Result<(W, Made)> {
        self.end_run()?;
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

    /// Ends what was collected between files.
    fn end_run(&mut self) -> io::Result<()> {
        let run = self.batch.open();
        if run.is_empty() {
            return Ok(());
        }
        let size = run.len() as u64;
        let raw = Blake3::of(run);
        // Where no file is known, nothing between files is.
        let asked = self.known.as_ref().is_none_or(|known| !known.is_empty());
        if asked && let Some(known) = self.find(&raw)? {
            self.batch.empty();
            self.submit()?;
            return self.queue(Pending::Known(raw, known, size));
        }
        self.end_block(Some(raw), true)
    }

    /// Ends a block, with which a piece begins or ends.
    fn end_block(&mut self, begins: Option<Blake3>, ends: bool) -> io::Result<()> {
        self.batch.blocks.push(Block {
            end: self.batch.len,
            begins,
            ends,
            deflated_end: 0,
            crc: crc32fast::Hasher::new(),
        });
        if self.batch.len < BATCH_BYTES {
            return Ok(());
        }
        self.submit()
    }

    /// Hands the batch to the threads; another one, which is empty, takes its place.
    fn submit(&mut self) -> io::Result<()> {
        if self.batch.blocks.is_empty() {
            return Ok(());
        }
        let next = self.spare.pop().unwrap_or_else(Batch::new);
        let batch = mem::replace(&mut self.batch, next);
        let (answer, receiver) = sync_channel(1);
        let gone = || io::Error::other("the compression threads are gone");
        self.jobs
            .as_ref()
            .ok_or_else(gone)?
            .send(Job { batch, answer })
            .map_err(|_job| gone())?;
        self.queue(Pending::Batch(receiver))
    }

    fn queue(&mut self, next: Pending) -> io::Result<()> {
        self.pending.push_back(next);
        let batches = |pending: &VecDeque<Pending>| {
            let batches = pending.iter().filter(|p| matches!(p, Pending::Batch(_)));
            batches.count()
        };
        while batches(&self.pending) > self.most_pending {
            self.collect()?;
        }
        // Nothing is to be waited for: what is known can go out at once.
        while matches!(self.pending.front(), Some(Pending::Known(..))) {
            self.collect()?;
        }
        Ok(())
    }

    /// Writes what is next, waiting for it.
    fn collect(&mut self) -> io::Result<()> {
        match self.pending.pop_front() {
            None => {}
            Some(Pending::Batch(receiver)) => {
                let mut batch = receiver
                    .recv()
                    .map_err(|_gone| io::Error::other("a compression thread panicked"))??;
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
                batch.clear();
                self.spare.push(batch);
            }
            Some(Pending::Known(raw, fragment, size)) => {
                let store = self
                    .store
                    .ok_or_else(|| io::Error::other("a fragment without a store"))?;
                let mut bytes = fragment.open(store).map_err(io::Error::other)?;
                let mut batch = self.spare.pop().unwrap_or_else(Batch::new);
                let mut copied = 0;
                loop {
                    let part = batch.fill(&mut bytes)?;
                    if part.is_empty() {
                        break;
                    }
                    self.out.write_all(part)?;
                    copied += part.len() as u64;
                    batch.empty();
                }
                self.spare.push(batch);
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
            }
        }
        Ok(())
    }
}

impl<W: Write> Write for ParallelGzip<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.batch.take(bytes);
        self.size += n as u64;
        if self.batch.room().is_empty() {
            self.end_run()?;
        }
        Ok(n)
    }

    /// Does nothing: where a flush falls must not change the bytes.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Compresses batches until there are no more.
fn work(queue: &Mutex<Receiver<Job>>, level: u32) {
    let mut deflater = Deflater::new(level);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { mut batch, answer }) = job else {
            return;
        };
        let done = batch.deflate(&mut deflater).map(|()| batch);
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
        let derived = made.derived(blob);
        assert_eq!(derived.len(), 6);
        // Every second piece is known, then all of them.
        let some: Vec<Derived> = derived.iter().step_by(2).cloned().collect();
        store.keep_derived(&some).expect("keep");
        assert_eq!(make(Some(store), 2).0, first);
        store.keep_derived(&derived).expect("keep");
        let (all, again) = make(Some(store), 2);
        assert_eq!(all, first);
        assert_eq!(again.derived(blob), derived);
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
