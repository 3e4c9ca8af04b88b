//! Compressed once, used by every format: what deflate made of some bytes, and where that lies.
//!
//! A *fragment* is raw deflate data without history that ends on a byte with a full flush: several of them, in a row and
//! followed by [`FINAL`], are one deflate stream. It is a piece of a gzip layer of an image, and the body of a `.filez` of an
//! OSTree repository. Fragments take no room of their own: the store remembers in which artifact one lies, and where.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Take};

use flate2::{Compress, Compression, FlushCompress, Status};
use sos_formats::deflate::Deflate;
use sos_formats::hash::Blake3;
use sos_store::{Derived, Store, StoreError};

/// The size of the blocks that files are cut into; part of the bytes, as [`REVISION`] is.
pub(crate) const BLOCK_BYTES: usize = 1 << 20;
/// Files below this are not worth a fragment of their own: a flush and a new table of codes cost more than is saved.
pub(crate) const MIN_BYTES: u64 = 32 << 10;
/// An empty, final block with fixed codes: ends a deflate stream.
pub(crate) const FINAL: [u8; 2] = [0x03, 0x00];
/// Raised whenever the bytes of fragments change: with the library that compresses, with the sizes above.
const REVISION: u32 = 4;
/// The level that layers and commits have when nothing else is asked for, so that they share what was compressed.
pub(crate) const LEVEL: u32 = 1;

/// Where the compressed form of some bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fragment {
    /// A blob of the store that holds it.
    pub(crate) container: Blake3,
    /// Its first byte in that blob.
    pub(crate) offset: u64,
    /// Its size.
    pub(crate) len: u64,
    /// CRC-32 of the bytes that were compressed.
    pub(crate) crc: u32,
}

impl Fragment {
    /// Opens the compressed bytes.
    pub(crate) fn open(&self, store: &Store) -> Result<Take<File>, StoreError> {
        let mut file = store.open_blob(&self.container)?;
        file.seek(SeekFrom::Start(self.offset))
            .map_err(|source| StoreError::Io {
                action: "read",
                path: store.blob_path(&self.container, false),
                source,
            })?;
        Ok(file.take(self.len))
    }

    /// What the store shall remember of it; forgotten with the blob `source`.
    pub(crate) fn derived(&self, level: u32, raw: &Blake3, source: Blake3) -> Derived {
        let mut value = self.container.0.to_vec();
        value.extend_from_slice(&self.offset.to_le_bytes());
        value.extend_from_slice(&self.len.to_le_bytes());
        value.extend_from_slice(&self.crc.to_le_bytes());
        Derived {
            key: key(level, raw),
            source,
            value,
        }
    }

    fn parse(value: &[u8]) -> Option<Self> {
        let (container, rest) = value.split_first_chunk::<32>()?;
        let (offset, rest) = rest.split_first_chunk::<8>()?;
        let (len, crc) = rest.split_first_chunk::<8>()?;
        Some(Self {
            container: Blake3(*container),
            offset: u64::from_le_bytes(*offset),
            len: u64::from_le_bytes(*len),
            crc: u32::from_le_bytes(crc.try_into().ok()?),
        })
    }
}

fn key(level: u32, raw: &Blake3) -> Blake3 {
    let what = format!("deflate fragment {REVISION} {level}\0");
    Blake3::of(&[what.as_bytes(), &raw.0].concat())
}

/// Finds the fragment of bytes with this hash, if one was made and what holds it is still there.
pub(crate) fn find(
    store: &Store,
    level: u32,
    raw: &Blake3,
) -> Result<Option<Fragment>, StoreError> {
    let known = store.derived(&[key(level, raw)])?;
    let Some(fragment) = known
        .into_iter()
        .flatten()
        .find_map(|value| Fragment::parse(&value))
    else {
        return Ok(None);
    };
    Ok(store.take_blob(&fragment.container)?.then_some(fragment))
}

/// Finds the fragments that were made of all these, as [`find`] does.
pub(crate) fn find_all(
    store: &Store,
    level: u32,
    raws: &[Blake3],
) -> Result<BTreeMap<Blake3, Fragment>, StoreError> {
    let keys: Vec<Blake3> = raws.iter().map(|raw| key(level, raw)).collect();
    let values = store.derived(&keys)?;
    // Most lie in few artifacts.
    let mut there = BTreeMap::new();
    let mut found = BTreeMap::new();
    for (raw, value) in raws.iter().zip(values) {
        let Some(fragment) = value.and_then(|value| Fragment::parse(&value)) else {
            continue;
        };
        let container = fragment.container;
        let is_there = match there.get(&container) {
            Some(known) => *known,
            None => store.take_blob(&container)?,
        };
        there.insert(container, is_there);
        if is_there {
            found.insert(*raw, fragment);
        }
    }
    Ok(found)
}

/// Makes fragments, one after the other.
pub(crate) enum Deflater {
    /// Level 1, written here: five times as fast as zlib at its usual level, for some 11 % more bytes.
    Fast(Box<Deflate>),
    /// The other levels, as zlib has them.
    Zlib(Compress),
}

impl Deflater {
    /// Prepares a level of 1 to 9.
    pub(crate) fn new(level: u32) -> Self {
        match level {
            1 => Self::Fast(Box::default()),
            _ => Self::Zlib(Compress::new(Compression::new(level), false)),
        }
    }

    /// Compresses one block.
    pub(crate) fn block(&mut self, raw: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        let zlib = match self {
            Self::Fast(fast) => {
                fast.stream(raw, out);
                return Ok(());
            }
            Self::Zlib(zlib) => zlib,
        };
        zlib.reset();
        out.reserve(raw.len() / 2 + 1024);
        loop {
            let taken = usize::try_from(zlib.total_in()).map_err(io::Error::other)?;
            let before = out.len();
            let status = zlib
                .compress_vec(&raw[taken..], out, FlushCompress::Full)
                .map_err(io::Error::other)?;
            let all_taken = zlib.total_in() == raw.len() as u64;
            // Room left in the output says that the flush is complete.
            if all_taken && out.len() < out.capacity() {
                return Ok(());
            }
            if status == Status::BufError && out.len() == before && out.len() < out.capacity() {
                return Err(io::Error::other("deflate makes no progress"));
            }
            out.reserve(64 * 1024);
        }
    }
}

/// Fills a block from a stream; it is shorter only at the end.
pub(crate) fn read_block(source: &mut dyn Read, block: &mut Vec<u8>) -> io::Result<()> {
    block.clear();
    source
        .take(BLOCK_BYTES as u64)
        .read_to_end(block)
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use sos_formats::hash::Sha256;

    fn sample() -> Vec<u8> {
        let mut state = 1_u32;
        (0..300_000)
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

    /// What is kept in stores was made by this code: when these bytes change, `REVISION` has to be raised, and the revisions of
    /// the builders that use fragments with it.
    #[test]
    fn the_bytes_are_those_of_this_revision() {
        for (level, expected) in [
            (
                1,
                "9fda47161f64b066af0bf8229292a7d79d3d041cdd23c6b0207b18dd18ab19ed",
            ),
            (
                6,
                "0d64086d0d9101e8c12ca52cb863624149096dc6f59aded22b1b196de1c4e4fb",
            ),
        ] {
            let mut out = Vec::new();
            let mut deflater = Deflater::new(level);
            deflater.block(&sample(), &mut out).expect("memory");
            let digest = Sha256::of(&out).to_string();
            assert_eq!((REVISION, digest.as_str()), (4, expected), "level {level}");
        }
    }

    #[test]
    fn fragments_in_a_row_are_one_stream() {
        let data = sample();
        let mut out = Vec::new();
        // Of several levels, even.
        for (level, part) in [1, 6].into_iter().cycle().zip(data.chunks(70_000)) {
            let mut deflater = Deflater::new(level);
            deflater.block(part, &mut out).expect("memory");
        }
        out.extend_from_slice(&FINAL);
        let mut back = Vec::new();
        flate2::read::DeflateDecoder::new(out.as_slice())
            .read_to_end(&mut back)
            .expect("sound");
        assert_eq!(back, data);
    }

    #[test]
    fn a_fragment_is_found_while_what_holds_it_is_there() {
        let fake = crate::build::fake::Fake::new();
        let store = &fake.store;
        let holder = store.put_blob_bytes(b"xxfragmentyy").expect("put");
        let raw = store.put_blob_bytes(b"raw").expect("put");
        let fragment = Fragment {
            container: holder,
            offset: 2,
            len: 8,
            crc: 7,
        };
        assert_eq!(find(store, 6, &raw).expect("read"), None);
        store
            .keep_derived(&[fragment.derived(6, &raw, raw)])
            .expect("keep");
        assert_eq!(find(store, 6, &raw).expect("read"), Some(fragment));
        assert_eq!(find(store, 7, &raw).expect("read"), None);
        let all = |level| find_all(store, level, &[holder, raw, raw]).expect("read");
        assert_eq!(all(6), BTreeMap::from([(raw, fragment)]));
        assert!(all(7).is_empty());
        let mut text = String::new();
        fragment
            .open(store)
            .expect("open")
            .read_to_string(&mut text)
            .expect("read");
        assert_eq!(text, "fragment");
        std::fs::remove_file(store.blob_path(&holder, false)).expect("a blob");
        assert_eq!(find(store, 6, &raw).expect("read"), None);
        assert!(all(6).is_empty());
    }
}
