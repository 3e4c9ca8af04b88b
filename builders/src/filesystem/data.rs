//! Contents of files: where they have data, and the way from the store into an image.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use sos_engine::BuilderError;
use sos_formats::hash::Blake3;
use sos_store::Store;

use super::image::Image;
use super::parallel::each;
use super::tree::Tree;
use crate::build::Build;

/// The block size of all file systems here.
pub(super) const BLOCK: u64 = 4096;
const BLOCK_BYTES: usize = 4096;
/// Zeros become a hole from this many blocks on. Shorter ones would cost more in lists of extents than they save, and files that
/// are shorter than this need not be looked at.
const HOLE_BLOCKS: u64 = 16;
/// What is read at once.
const PIECE_BYTES: u64 = 1 << 20;
/// What one thread copies before another one may go on with the file.
const SHARE_BYTES: u64 = 16 << 20;

/// Blocks of a file that hold data, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    /// The number of the first in the file.
    pub(super) first: u64,
    pub(super) count: u64,
}

/// Blocks that so many bytes take.
pub(super) fn blocks(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK)
}

/// Finds where each file of a tree has data; what is no file has none. It follows from the bytes: how the store keeps holes says
/// only what need not be read.
pub(super) fn runs(build: &dyn Build, tree: &Tree) -> Result<Vec<Vec<Run>>, BuilderError> {
    let mut runs: Vec<Vec<Run>> = tree.inodes.iter().map(|_| Vec::new()).collect();
    let mut large: BTreeMap<Blake3, (u64, Vec<usize>)> = BTreeMap::new();
    for (at, blob, size) in tree.files() {
        if size >= HOLE_BLOCKS * BLOCK {
            let same = large.entry(blob).or_insert((size, Vec::new()));
            same.1.push(at);
        } else if size > 0 {
            runs[at].push(Run {
                first: 0,
                count: blocks(size),
            });
        }
    }
    let large: Vec<(Blake3, u64, Vec<usize>)> = large
        .into_iter()
        .map(|(blob, (size, at))| (blob, size, at))
        .collect();
    let store = build.store();
    let found = each(
        build,
        &large,
        &|(_, size, _)| *size,
        &|(blob, size, _), buffer| scan(store, blob, *size, buffer),
    )?;
    for ((_, _, same), found) in large.iter().zip(found) {
        for at in same {
            runs[*at].clone_from(&found);
        }
    }
    Ok(runs)
}

/// Finds where one file has data.
fn scan(
    store: &Store,
    blob: &Blake3,
    size: u64,
    buffer: &mut Vec<u8>,
) -> Result<Vec<Run>, BuilderError> {
    const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
    let file = store.open_blob(blob)?;
    let total = blocks(size);
    let mut runs: Vec<Run> = Vec::new();
    let mut block = 0;
    while block < total {
        match rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(block * BLOCK)) {
            Ok(data) => block = block.max(data / BLOCK),
            // No data any more.
            Err(rustix::io::Errno::NXIO) => break,
            // A file system that does not tell.
            Err(_) => {}
        }
        let piece = read(&file, blob, block * BLOCK, size, buffer)?;
        for (bytes, block) in piece.chunks(BLOCK_BYTES).zip(block..) {
            if *bytes == ZEROS[..bytes.len()] {
                continue;
            }
            let end = runs.last().map_or(0, |run| run.first + run.count);
            match runs.last_mut() {
                Some(run) if block - end < HOLE_BLOCKS => run.count = block + 1 - run.first,
                None if block < HOLE_BLOCKS => runs.push(Run {
                    first: 0,
                    count: block + 1,
                }),
                _ => runs.push(Run {
                    first: block,
                    count: 1,
                }),
            }
        }
        block += blocks(piece.len() as u64);
    }
    if let Some(run) = runs.last_mut()
        && total - (run.first + run.count) < HOLE_BLOCKS
    {
        run.count = total - run.first;
    }
    Ok(runs)
}

/// Reads the next piece of a blob, up to its end.
fn read<'a>(
    file: &File,
    blob: &Blake3,
    at: u64,
    end: u64,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a [u8], BuilderError> {
    let len = usize::try_from(PIECE_BYTES.min(end.saturating_sub(at))).unwrap_or(usize::MAX);
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    let piece = &mut buffer[..len];
    file.read_exact_at(piece, at)
        .map_err(|error| BuilderError::io(format!("cannot read the blob {blob}"), error))?;
    Ok(piece)
}

/// Bytes of a blob that go to one place of an image.
#[derive(Clone, Debug)]
pub(super) struct Share {
    blob: Blake3,
    from: u64,
    to: u64,
    len: u64,
}

/// Collects what of a file goes where.
#[derive(Default)]
pub(super) struct Shares {
    all: Vec<Share>,
}

impl Shares {
    /// Adds `count` blocks of a file of `size` bytes, from the block `first` of the file to the offset `to` of the image. The last
    /// block of a file ends with it.
    pub(super) fn add(&mut self, (blob, size): (Blake3, u64), first: u64, count: u64, to: u64) {
        let begin = first * BLOCK;
        let end = size.min(begin + count * BLOCK);
        let mut from = begin;
        while from < end {
            let len = SHARE_BYTES.min(end - from);
            self.all.push(Share {
                blob,
                from,
                to: to + (from - begin),
                len,
            });
            from += len;
        }
    }

    /// Copies everything, on as many threads as the build may use.
    pub(super) fn copy(&self, build: &dyn Build, image: &dyn Image) -> Result<(), BuilderError> {
        let store = build.store();
        each(build, &self.all, &|share| share.len, &|share, buffer| {
            let file = store.open_blob(&share.blob)?;
            let end = share.from + share.len;
            let mut from = share.from;
            while from < end {
                let piece = read(&file, &share.blob, from, end, buffer)?;
                put(image, share.to + (from - share.from), piece)?;
                from += piece.len() as u64;
            }
            Ok(())
        })
        .map(drop)
    }
}

/// Reads bytes of a blob, all of which must be there.
pub(super) fn read_part(
    store: &Store,
    blob: &Blake3,
    at: u64,
    len: usize,
) -> Result<Vec<u8>, BuilderError> {
    let mut bytes = vec![0; len];
    let read = store.open_blob(blob)?.read_exact_at(&mut bytes, at);
    read.map_err(|error| BuilderError::io(format!("cannot read the blob {blob}"), error))?;
    Ok(bytes)
}

/// Writes into an image.
pub(super) fn put(image: &dyn Image, at: u64, bytes: &[u8]) -> Result<(), BuilderError> {
    image.write_at(at, bytes).map_err(unwritten)
}

/// An image that could not be written.
pub(super) fn unwritten(error: io::Error) -> BuilderError {
    BuilderError::io("cannot write the file system", error)
}
