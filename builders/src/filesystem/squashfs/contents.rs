//! The data of files: compressed on all cores, written in the order of the tree.

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::hash::Blake3;

use super::DATA_BYTES;
use super::tables::compress;
use crate::build::Build;
use crate::filesystem::data::{BLOCK, Run, put, read_part, runs};
use crate::filesystem::image::Image;
use crate::filesystem::parallel::each;
use crate::filesystem::tree::Tree;

/// In the length of a block: it is stored as it is.
const PLAIN: u32 = 1 << 24;
/// Blocks that are in memory at once.
const BATCH: usize = 128;

/// Where the data of one file is.
#[derive(Clone, Debug, Default)]
pub(super) struct Stored {
    /// Where its first block begins.
    pub(super) begin: u64,
    /// Stored lengths of its blocks, 0 for those that are holes.
    pub(super) sizes: Vec<u32>,
    /// Bytes in holes.
    pub(super) sparse: u64,
    /// The fragment with all of it, and the place there.
    pub(super) fragment: Option<(u32, u32)>,
}

/// The data of all files.
#[derive(Default)]
pub(super) struct Contents {
    stored: Vec<Stored>,
    /// The place in `stored` of each inode that is a file with data.
    places: BTreeMap<usize, usize>,
    /// Where each fragment begins, and its stored length.
    pub(super) fragments: Vec<(u64, u32)>,
    /// Where the data ends.
    pub(super) end: u64,
}

/// A block to be made.
enum Job {
    /// A part of a file.
    Block {
        stored: usize,
        /// Which of its blocks this is.
        nth: usize,
        blob: Blake3,
        from: u64,
        len: usize,
    },
    /// Whole small files.
    Fragment(Vec<(Blake3, usize)>),
}

impl Job {
    fn len(&self) -> u64 {
        match self {
            Self::Block { len, .. } => *len as u64,
            Self::Fragment(files) => files.iter().map(|(_, len)| *len as u64).sum(),
        }
    }
}

impl Contents {
    /// Writes everything from `begin` on.
    pub(super) fn write(
        build: &dyn Build,
        tree: &Tree,
        begin: u64,
        image: &dyn Image,
    ) -> Result<Self, BuilderError> {
        let mut contents = Self {
            end: begin,
            ..Self::default()
        };
        let jobs = contents.plan(build, tree)?;
        let store = build.store();
        for batch in jobs.chunks(BATCH) {
            let made = each(build, batch, &Job::len, &|job, _| {
                let bytes = match job {
                    Job::Block {
                        blob, from, len, ..
                    } => read_part(store, blob, *from, *len)?,
                    Job::Fragment(files) => {
                        let mut bytes = Bytes::new();
                        for (blob, len) in files {
                            bytes.extend(read_part(store, blob, 0, *len)?);
                        }
                        bytes
                    }
                };
                let packed = compress(&bytes)?;
                Ok(match packed {
                    Some(packed) => (packed, 0),
                    None => (bytes, PLAIN),
                })
            })?;
            for (job, (bytes, flag)) in batch.iter().zip(made) {
                put(image, contents.end, &bytes)?;
                let len = u32::try_from(bytes.len()).unwrap_or(0) | flag;
                match job {
                    Job::Block { stored, nth, .. } => {
                        let stored = &mut contents.stored[*stored];
                        if stored.begin == 0 {
                            stored.begin = contents.end;
                        }
                        stored.sizes[*nth] = len;
                    }
                    Job::Fragment(_) => contents.fragments.push((contents.end, len)),
                }
                contents.end += bytes.len() as u64;
            }
        }
        Ok(contents)
    }

    /// The data of an inode, if it has any.
    pub(super) fn of(&self, inode: usize) -> Option<&Stored> {
        self.places.get(&inode).map(|at| &self.stored[*at])
    }

    /// The table of fragments.
    pub(super) fn fragment_bytes(&self) -> Bytes {
        let entries = self.fragments.iter();
        entries
            .flat_map(|(begin, len)| {
                [&begin.to_le_bytes()[..], &len.to_le_bytes(), &[0; 4]].concat()
            })
            .collect()
    }

    /// Finds all blocks in the order in which they are written.
    fn plan(&mut self, build: &dyn Build, tree: &Tree) -> Result<Vec<Job>, BuilderError> {
        let runs = runs(build, tree)?;
        let mut jobs = Vec::new();
        let mut known: BTreeMap<Blake3, usize> = BTreeMap::new();
        let mut fragment: Vec<(Blake3, usize)> = Vec::new();
        let mut used = 0;
        let mut fragments = 0;
        for (at, blob, size) in tree.files() {
            if size == 0 {
                continue;
            }
            if let Some(same) = known.get(&blob) {
                self.places.insert(at, *same);
                continue;
            }
            let place = self.stored.len();
            known.insert(blob, place);
            self.places.insert(at, place);
            let mut stored = Stored::default();
            if size < DATA_BYTES {
                if used + size > DATA_BYTES {
                    jobs.push(Job::Fragment(std::mem::take(&mut fragment)));
                    fragments += 1;
                    used = 0;
                }
                stored.fragment = Some((fragments, u32::try_from(used).unwrap_or(0)));
                fragment.push((blob, usize::try_from(size).unwrap_or(0)));
                used += size;
            } else {
                let mut data = runs[at].as_slice();
                let mut from = 0;
                while from < size {
                    let len = DATA_BYTES.min(size - from);
                    if has_data(&mut data, from, from + len) {
                        jobs.push(Job::Block {
                            stored: place,
                            nth: stored.sizes.len(),
                            blob,
                            from,
                            len: usize::try_from(len).unwrap_or(0),
                        });
                    } else {
                        stored.sparse += len;
                    }
                    // Stays for a hole.
                    stored.sizes.push(0);
                    from += len;
                }
                // A file cannot be all holes.
                if stored.sparse == size {
                    stored.sparse -= 1;
                }
            }
            self.stored.push(stored);
        }
        if !fragment.is_empty() {
            jobs.push(Job::Fragment(fragment));
        }
        Ok(jobs)
    }
}

/// Tells whether there is data within a part of a file; forgets the runs before it.
fn has_data(runs: &mut &[Run], begin: u64, end: u64) -> bool {
    while let Some((first, rest)) = runs.split_first() {
        if (first.first + first.count) * BLOCK > begin {
            return first.first * BLOCK < end;
        }
        *runs = rest;
    }
    false
}
