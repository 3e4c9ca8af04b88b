//! Large files: read on a thread of their own, and on their way to the disk while they are hashed.
//!
//! A large file is hashed twice, by BLAKE3 for itself and by SHA-256 in its NAR. Neither waits for the other here, nor does the disk
//! wait until both are done.

use std::fs::File;
use std::io::{self, BufRead, Read, Seek as _, SeekFrom, Write as _};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, JoinHandle};

use rustix::fs::Advice;
use sos_formats::hash::{Blake3, Hasher};

use crate::error::{Result, StoreError};
use crate::sparse::Sparse;

/// What goes from thread to thread at once; small enough for the cache of a core.
const PIECE_BYTES: usize = 256 << 10;
/// What a hole is taken for. It takes no memory: the kernel has one page of zeros for what nobody writes to.
static ZEROS: LazyLock<Vec<u8>> = LazyLock::new(|| vec![0; 1 << 20]);
/// Pieces that wait.
const PIECES: usize = 4;
/// Files from this size on are sent to the disk before they are hashed. A smaller one is not worth a commit of the disk's journal.
const EARLY_BYTES: u64 = 16 << 20;
/// Files that wait for the disk. One that finds no place there is written with all others at the end.
const EARLY_FILES: usize = 16;

/// Reads a file from its beginning to its end: its BLAKE3 hash, and the other hash and the copy where wanted, are made beside what
/// `take` does with the bytes.
pub(crate) fn read(
    file: File,
    copy: Option<File>,
    flat: Option<&mut Hasher>,
    take: impl FnOnce(&mut Pieces) -> Result<()>,
) -> Result<Blake3> {
    let (full, filled) = sync_channel(PIECES);
    // All pieces that there are find room on their way back.
    let (empty, emptied) = sync_channel(PIECES + 2);
    std::thread::scope(|scope| {
        let mut source = Source {
            file,
            copy,
            flat,
            hasher: blake3::Hasher::new(),
        };
        let reader = Builder::new()
            .name("read".to_owned())
            .spawn_scoped(scope, move || {
                // Whoever takes the pieces sees the error.
                if let Err(error) = source.send(&full, &emptied) {
                    full.send(Err(error)).ok();
                }
                Blake3(*source.hasher.finalize().as_bytes())
            })
            .map_err(|error| StoreError::io("start a thread to read", "a large file", error))?;
        let mut pieces = Pieces {
            filled,
            empty,
            piece: Piece::Hole(0),
            at: 0,
        };
        let taken = take(&mut pieces);
        // Without it a reader that is not wanted any more would wait for room for ever.
        drop(pieces);
        let hash = reader.join();
        taken?;
        hash.map_err(|panic| std::panic::resume_unwind(panic))
    })
}

/// What goes from thread to thread.
enum Piece {
    Data(Vec<u8>),
    /// So many of [`ZEROS`].
    Hole(usize),
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Data(data) => data,
            Self::Hole(count) => &ZEROS[..*count],
        }
    }
}

/// What the reading thread has.
struct Source<'a> {
    file: File,
    copy: Option<File>,
    flat: Option<&'a mut Hasher>,
    hasher: blake3::Hasher,
}

impl Source<'_> {
    /// Sends the file piece by piece; ends early when nobody wants more.
    fn send(
        &mut self,
        full: &SyncSender<io::Result<Piece>>,
        emptied: &Receiver<Vec<u8>>,
    ) -> io::Result<()> {
        let mut source = Sparse::new(self.file.try_clone()?)?;
        loop {
            let piece = match source.skip(ZEROS.len())? {
                0 => {
                    let mut piece = emptied.try_recv().unwrap_or_default();
                    piece.resize(PIECE_BYTES, 0);
                    let count = match source.read(&mut piece) {
                        Ok(count) => count,
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        Err(error) => return Err(error),
                    };
                    piece.truncate(count);
                    Piece::Data(piece)
                }
                count => Piece::Hole(count),
            };
            let bytes = piece.bytes();
            self.hasher.update(bytes);
            if let Some(flat) = self.flat.as_mut() {
                flat.update(bytes);
            }
            if let Some(copy) = self.copy.as_mut() {
                match &piece {
                    Piece::Data(data) => copy.write_all(data)?,
                    // It stays one, also where it is the end.
                    Piece::Hole(count) => {
                        let end =
                            copy.seek(SeekFrom::Current(i64::try_from(*count).unwrap_or(0)))?;
                        copy.set_len(end)?;
                    }
                }
            }
            if bytes.is_empty() || full.send(Ok(piece)).is_err() {
                return Ok(());
            }
        }
    }
}

/// The bytes of a file that another thread reads.
pub(crate) struct Pieces {
    filled: Receiver<io::Result<Piece>>,
    empty: SyncSender<Vec<u8>>,
    piece: Piece,
    at: usize,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.bytes().len() {
            self.at = 0;
            if let Piece::Data(used) = std::mem::replace(&mut self.piece, Piece::Hole(0)) {
                self.empty.try_send(used).ok();
            }
            // The reader is gone: the end.
            if let Ok(piece) = self.filled.recv() {
                self.piece = piece?;
            }
        }
        Ok(&self.piece.bytes()[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at = self.piece.bytes().len().min(self.at + count);
    }
}

impl Read for Pieces {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buffer)?;
        self.consume(count);
        Ok(count)
    }
}

/// Sends files to the disk on a thread of its own, which has ended when this is dropped, unless it was [left](Self::leave).
///
/// That only saves time: what makes a file safe is the synchronisation of the whole store when the object is committed, which also
/// tells of a disk that fails.
#[derive(Default)]
pub(crate) struct EarlySync {
    thread: Option<(SyncSender<File>, JoinHandle<()>)>,
    forgotten: bool,
}

impl EarlySync {
    /// For files that nobody reads soon: what is on the disk leaves memory, and what comes next takes its place there. Fresh memory for
    /// all of a large file costs more than the disk does, and would push out what others have in use.
    pub(crate) fn forgetting() -> Self {
        Self {
            thread: None,
            forgotten: true,
        }
    }

    /// Begins with a file, if it is large enough and there is room.
    pub(crate) fn begin(&mut self, file: &File, size: u64) {
        if size < EARLY_BYTES {
            return;
        }
        if self.thread.is_none() {
            let (files, waiting) = sync_channel::<File>(EARLY_FILES);
            let forgotten = self.forgotten;
            let run = move || {
                for file in waiting {
                    file.sync_data().ok();
                    if forgotten {
                        // The kernel may do otherwise.
                        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).ok();
                    }
                }
            };
            let thread = Builder::new().name("to the disk".to_owned()).spawn(run);
            self.thread = thread.ok().map(|thread| (files, thread));
        }
        if let Some((files, _)) = &self.thread
            && let Ok(file) = file.try_clone()
        {
            files.try_send(file).ok();
        }
    }

    /// Lets the thread end by itself.
    pub(crate) fn leave(&mut self) {
        self.thread = None;
    }
}

impl Drop for EarlySync {
    fn drop(&mut self) {
        if let Some((files, thread)) = self.thread.take() {
            drop(files);
            thread.join().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt as _, MetadataExt as _};

    use sos_formats::hash::HashAlgo;

    use super::*;

    /// A file of so many bytes, with a hole, and what it holds.
    fn sample(size: usize) -> (File, Vec<u8>) {
        let mut bytes: Vec<u8> = (0..size)
            .map(|n| u8::try_from(n * 31 % 251).expect("small"))
            .collect();
        bytes[size / 3..size / 2].fill(0);
        let file = tempfile::tempfile().expect("a file");
        file.set_len(size as u64).expect("a length");
        file.write_all_at(&bytes[..size / 3], 0).expect("bytes");
        file.write_all_at(&bytes[size / 2..], (size / 2) as u64)
            .expect("bytes");
        (file, bytes)
    }

    #[test]
    fn everything_is_read_hashed_and_copied() {
        for size in [1, PIECE_BYTES, PIECE_BYTES * 9 + 5, 5 << 20] {
            let (file, bytes) = sample(size);
            let copy = tempfile::tempfile().expect("a file");
            let mut flat = Hasher::new(HashAlgo::Sha256);
            let mut taken = Vec::new();
            let hash = read(
                file,
                Some(copy.try_clone().expect("a handle")),
                Some(&mut flat),
                |pieces| {
                    pieces.read_to_end(&mut taken).expect("bytes");
                    Ok(())
                },
            )
            .expect("a hash");
            assert!(taken == bytes, "{size}");
            assert_eq!(hash, Blake3::of(&bytes));
            let mut expected = Hasher::new(HashAlgo::Sha256);
            expected.update(&bytes);
            assert_eq!(flat.finish(), expected.finish());
            let mut copied = vec![0; size];
            copy.read_exact_at(&mut copied, 0).expect("the copy");
            assert!(copied == bytes, "{size}");
        }
    }

    #[test]
    fn holes_are_copied_as_holes() {
        // At both ends, and between.
        let size = 24 << 20;
        let file = tempfile::tempfile().expect("a file");
        file.set_len(size).expect("a length");
        for at in [3 << 20, 11 << 20] {
            file.write_all_at(&[5; 100_000], at).expect("bytes");
        }
        let copy = tempfile::tempfile().expect("a file");
        let mut taken = Vec::new();
        let handle = Some(copy.try_clone().expect("a handle"));
        let original = file.try_clone().expect("a handle");
        read(file, handle, None, |pieces| {
            pieces.read_to_end(&mut taken).expect("bytes");
            Ok(())
        })
        .expect("a hash");
        let mut copied = Vec::new();
        (&copy).rewind().expect("the beginning");
        (&copy).read_to_end(&mut copied).expect("the copy");
        assert!(copied == taken && copied.len() as u64 == size);
        let blocks = |file: &File| file.metadata().expect("a look").blocks();
        // A file system without holes has none in the original either.
        assert!(
            blocks(&copy) <= blocks(&original) + 64,
            "{} and {}",
            blocks(&copy),
            blocks(&original)
        );
    }

    #[test]
    fn one_who_stops_early_does_not_hang() {
        let (file, _) = sample(64 * PIECE_BYTES);
        let stopped = read(file, None, None, |pieces| {
            pieces.fill_buf().expect("a piece");
            Err(StoreError::Changed { path: "x".into() })
        });
        assert!(matches!(stopped, Err(StoreError::Changed { .. })));
    }

    #[test]
    fn an_unreadable_file_is_an_error_of_the_bytes() {
        let file = File::open("/").expect("a directory");
        let read = read(file, None, None, |pieces| {
            let error = pieces.read(&mut [0; 9]).expect_err("a directory");
            Err(StoreError::io("read", "/", error))
        });
        assert!(matches!(read, Err(StoreError::Io { .. })));
    }
}
