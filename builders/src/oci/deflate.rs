//! gzip on all cores, as one member whose bytes do not depend on how many cores there are, nor on what is known already.
//!
//! The input is cut into pieces: files of some size by themselves, what lies between them together, both in blocks of at most
//! 1 MiB. Each becomes a [fragment](crate::fragments): raw deflate data that ends with a full flush, with no history of the
//! block before. One header, the blocks in order, one empty final block and one trailer make a single gzip member: some readers
//! of images stop after the first member, so there must not be a second.
//!
//! What was compressed before, for a layer or for a commit, is copied from where it lies.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use sos_formats::hash::Blake3;
use sos_store::Store;

use super::batch::{BATCH_BYTES, Batch, Block};
use super::member::{Made, Pending, Writer};
use crate::fragments::{Deflater, Fragment, find, find_all};

/// Batches a thread that wait for their turn. They are of one size, more or less, so that no thread is without work for long while
/// the oldest one is waited for.
const BATCHES: usize = 8;

struct Job {
    batch: Batch,
    answer: SyncSender<io::Result<Batch>>,
}

/// Writes one gzip member: compressed on several threads, and written on one of its own, so that nobody else waits for the disk.
pub(super) struct ParallelGzip<'s, W: Write + Send + 'static> {
    level: u32,
    store: Option<&'s Store>,
    /// What is known of the files to come; nothing when nobody said which they are.
    known: Option<BTreeMap<Blake3, Fragment>>,
    batch: Batch,
    /// Batches that are done with come back here.
    spare: Receiver<Batch>,
    /// How many more may be made.
    unmade: usize,
    jobs: Option<Sender<Job>>,
    pending: Option<SyncSender<Pending>>,
    /// Nobody wants the rest.
    stopped: Arc<AtomicBool>,
    size: u64,
    threads: Vec<JoinHandle<()>>,
    writer: Option<JoinHandle<io::Result<(W, Made)>>>,
}

impl<'s, W: Write + Send + 'static> ParallelGzip<'s, W> {
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
        let stopped = Arc::new(AtomicBool::new(false));
        let cores = cores.clamp(1, 256);
        let threads = (0..cores)
            .map(|_| {
                let queue = queue.clone();
                let stopped = stopped.clone();
                std::thread::Builder::new()
                    .name("gzip".into())
                    .spawn(move || work(&queue, &stopped, level))
            })
            .collect::<io::Result<Vec<_>>>()?;
        let most = cores * BATCHES;
        let (pending, next) = sync_channel(most);
        let (empty, spare) = channel();
        let writer = Writer::new(out, header.len() as u64, level);
        let writer = std::thread::Builder::new()
            .name("write".into())
            .spawn(move || writer.run(&next, &empty))?;
        Ok(Self {
            level,
            store,
            known: None,
            batch: Batch::new(),
            spare,
            unmade: most,
            jobs: Some(jobs),
            pending: Some(pending),
            stopped,
            size: 0,
            threads,
            writer: Some(writer),
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
            self.queue_known(*blob, fragment, size)?;
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
        self.queue(Pending::End(self.size))?;
        self.written()
    }

    /// Waits for the thread that writes, which has been told of the end or has failed.
    fn written(&mut self) -> io::Result<(W, Made)> {
        self.pending = None;
        match self.writer.take().map(JoinHandle::join) {
            Some(Ok(written)) => written,
            Some(Err(_panic)) => Err(io::Error::other("the thread that writes panicked")),
            None => Err(io::Error::other("the output failed before")),
        }
    }

    /// Why the thread that writes has ended too soon.
    fn failure(&mut self) -> io::Error {
        let early = || io::Error::other("the thread that writes ended too soon");
        self.written().err().unwrap_or_else(early)
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
            return self.queue_known(raw, known, size);
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
        let next = self.empty_batch()?;
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

    /// Takes a batch that is done with, waiting for one if there are as many as there may be.
    fn empty_batch(&mut self) -> io::Result<Batch> {
        if let Ok(batch) = self.spare.try_recv() {
            return Ok(batch);
        }
        if let Some(left) = self.unmade.checked_sub(1) {
            self.unmade = left;
            return Ok(Batch::new());
        }
        self.spare.recv().map_err(|_gone| self.failure())
    }

    fn queue_known(&mut self, raw: Blake3, fragment: Fragment, size: u64) -> io::Result<()> {
        let store = self
            .store
            .ok_or_else(|| io::Error::other("a fragment without a store"))?;
        let bytes = fragment.open(store).map_err(io::Error::other)?;
        self.queue(Pending::Known {
            raw,
            fragment,
            bytes,
            size,
        })
    }

    fn queue(&mut self, next: Pending) -> io::Result<()> {
        let sent = self
            .pending
            .as_ref()
            .is_some_and(|pending| pending.send(next).is_ok());
        if sent { Ok(()) } else { Err(self.failure()) }
    }
}

impl<W: Write + Send + 'static> Drop for ParallelGzip<'_, W> {
    /// No thread outlives it.
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.jobs = None;
        self.pending = None;
        // Whoever is to know of a panic has been told: what was being compressed has not come.
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
        if let Some(writer) = self.writer.take() {
            drop(writer.join());
        }
    }
}

impl<W: Write + Send + 'static> Write for ParallelGzip<'_, W> {
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
fn work(queue: &Mutex<Receiver<Job>>, stopped: &AtomicBool, level: u32) {
    let mut deflater = Deflater::new(level);
    loop {
        let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(Job { mut batch, answer }) = job else {
            return;
        };
        if stopped.load(Ordering::Relaxed) {
            return;
        }
        let done = batch.deflate(&mut deflater).map(|()| batch);
        // Nobody listens after an error of the output; the rest of the queue drains.
        drop(answer.send(done));
    }
}

#[cfg(test)]
mod tests {
    use sos_store::Derived;

    use super::*;
    use crate::fragments::BLOCK_BYTES;

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

    /// Says when it is dropped, and whether it panics when it is written to.
    struct Watched {
        gone: Arc<AtomicBool>,
        panics: bool,
    }

    impl Write for Watched {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // The header is written by the caller.
            assert!(!self.panics || bytes.len() == 10, "a fault of the output");
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            self.gone.store(true, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_panic_of_the_output_is_an_error() {
        let out = Watched {
            gone: Arc::default(),
            panics: true,
        };
        let mut writer = ParallelGzip::new(out, 6, 2, None).expect("start");
        let result = writer
            .write_all(&sample(40 * BLOCK_BYTES))
            .and_then(|()| writer.finish().map(|_| ()));
        let error = result.expect_err("a panic").to_string();
        assert_eq!(error, "the thread that writes panicked");
    }

    #[test]
    fn no_thread_outlives_a_layer_that_is_given_up() {
        let gone = Arc::<AtomicBool>::default();
        let out = Watched {
            gone: gone.clone(),
            panics: false,
        };
        let mut writer = ParallelGzip::new(out, 9, 2, None).expect("start");
        writer
            .write_all(&sample(20 * BLOCK_BYTES))
            .expect("nothing is wrong");
        drop(writer);
        assert!(gone.load(Ordering::SeqCst), "the output is still held");
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
