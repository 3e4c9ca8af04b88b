//! One pass from the tar stream to the blob: both digests, both sizes, compression.

use std::io::{self, Read, Write};

use serde::Deserialize;
use sos_formats::hash::{Blake3, HashAlgo, Hasher, Sha256};
use sos_store::Store;

use super::deflate::ParallelGzip;
use super::member::Made;
use crate::fragments::MIN_BYTES;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Compression {
    /// One gzip member.
    #[default]
    Gzip,
    /// One zstd frame that declares its content size.
    Zstd,
    /// A plain tar.
    None,
}

impl Compression {
    /// Gives the media type of such a layer.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Self::None => "application/vnd.oci.image.layer.v1.tar",
        }
    }

    /// Gives the level used when none is asked for.
    pub fn default_level(self) -> i32 {
        match self {
            // That of commits, `fragments::LEVEL`, so that they share their work.
            Self::Gzip => 1,
            Self::Zstd => 3,
            Self::None => 0,
        }
    }

    /// Gives the levels that may be asked for.
    pub fn levels(self) -> std::ops::RangeInclusive<i32> {
        match self {
            Self::Gzip => 1..=9,
            Self::Zstd => 1..=19,
            Self::None => 0..=0,
        }
    }
}

/// Counts and hashes what passes through.
struct Digesting<W> {
    out: W,
    hasher: Hasher,
    size: u64,
}

impl<W> Digesting<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            hasher: Hasher::new(HashAlgo::Sha256),
            size: 0,
        }
    }
}

impl<W: Write> Write for Digesting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.hasher.update(&bytes[..n]);
        self.size += n as u64;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

enum Coder<'s, W: Write + Send + 'static> {
    Gzip(Box<ParallelGzip<'s, Digesting<W>>>),
    Zstd(zstd::stream::write::Encoder<'static, Digesting<W>>),
    None(Digesting<W>),
}

/// Takes the tar stream of a layer.
pub(super) struct LayerWriter<'s, W: Write + Send + 'static> {
    coder: Coder<'s, W>,
    hasher: Hasher,
    /// Encoders see pieces of one size only, whatever the writes were.
    buffer: Vec<u8>,
    /// How much of it is filled.
    filled: usize,
}

/// What became of a layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// SHA-256 of the blob.
    pub(super) digest: Sha256,
    /// Size of the blob.
    pub(super) size: u64,
    /// SHA-256 of the plain tar.
    pub(super) diff_id: Sha256,
}

/// How many bytes are handed on at once.
const PIECE_BYTES: usize = 256 * 1024;

impl<'s, W: Write + Send + 'static> LayerWriter<'s, W> {
    /// Begins a blob; `tar_size` is the exact size of the stream to come. What was compressed before is found in `store`.
    pub(super) fn new(
        out: W,
        compression: Compression,
        level: i32,
        tar_size: u64,
        cores: usize,
        store: Option<&'s Store>,
    ) -> io::Result<Self> {
        let out = Digesting::new(out);
        let unsigned = u32::try_from(level).map_err(io::Error::other)?;
        let coder = match compression {
            Compression::Gzip => {
                Coder::Gzip(Box::new(ParallelGzip::new(out, unsigned, cores, store)?))
            }
            Compression::Zstd => {
                // One thread: zstd's own threads change the bytes with their number.
                let mut encoder = zstd::stream::write::Encoder::new(out, level)?;
                encoder.set_pledged_src_size(Some(tar_size))?;
                encoder.include_contentsize(true)?;
                Coder::Zstd(encoder)
            }
            Compression::None => Coder::None(out),
        };
        Ok(Self {
            coder,
            hasher: Hasher::new(HashAlgo::Sha256),
            buffer: vec![0; PIECE_BYTES],
            filled: 0,
        })
    }

    /// Says which files out of the store will come, by their names and sizes there.
    pub(super) fn expect(&mut self, files: impl Iterator<Item = (Blake3, u64)>) -> io::Result<()> {
        if let Coder::Gzip(gzip) = &mut self.coder {
            let pieces = files.filter(|(_, size)| *size >= MIN_BYTES);
            gzip.expect(&pieces.map(|(blob, _)| blob).collect::<Vec<_>>())?;
        }
        Ok(())
    }

    /// Takes a file out of the store, which has this name and size there.
    pub(super) fn file(
        &mut self,
        blob: &Blake3,
        size: u64,
        data: &mut dyn Read,
    ) -> io::Result<u64> {
        if size < MIN_BYTES || !matches!(self.coder, Coder::Gzip(_)) {
            return self.copy(data);
        }
        self.hand_on()?;
        let Self { coder, hasher, .. } = self;
        if let Coder::Gzip(gzip) = coder {
            gzip.file(blob, size, data, &mut |bytes| hasher.update(bytes))?;
        }
        Ok(size)
    }

    /// Ends the blob; gives the writer back, what became of it, and what can be found in it.
    pub(super) fn finish(mut self) -> io::Result<(W, Written, Made)> {
        self.hand_on()?;
        let (mut out, made) = match self.coder {
            Coder::Gzip(gzip) => gzip.finish()?,
            Coder::Zstd(encoder) => (encoder.finish()?, Made::default()),
            Coder::None(out) => (out, Made::default()),
        };
        out.flush()?;
        let digest = out.hasher.finish().as_sha256();
        let diff_id = self.hasher.finish().as_sha256();
        match (digest, diff_id) {
            (Some(digest), Some(diff_id)) => {
                let size = out.size;
                let written = Written {
                    digest,
                    size,
                    diff_id,
                };
                Ok((out.out, written, made))
            }
            _ => Err(io::Error::other("a hasher gave another hash")),
        }
    }

    /// Reads to the end, into the buffer at once.
    fn copy(&mut self, data: &mut dyn Read) -> io::Result<u64> {
        let mut copied = 0;
        loop {
            match data.read(&mut self.buffer[self.filled..]) {
                Ok(0) => return Ok(copied),
                Ok(n) => {
                    copied += n as u64;
                    self.filled += n;
                    self.hand_on_if_full()?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn hand_on_if_full(&mut self) -> io::Result<()> {
        if self.filled < PIECE_BYTES {
            return Ok(());
        }
        self.hand_on()
    }

    fn hand_on(&mut self) -> io::Result<()> {
        let piece = &self.buffer[..self.filled];
        self.hasher.update(piece);
        match &mut self.coder {
            Coder::Gzip(gzip) => gzip.write_all(piece)?,
            Coder::Zstd(encoder) => encoder.write_all(piece)?,
            Coder::None(out) => out.write_all(piece)?,
        }
        self.filled = 0;
        Ok(())
    }
}

impl<W: Write + Send + 'static> Write for LayerWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(PIECE_BYTES - self.filled);
        self.buffer[self.filled..self.filled + n].copy_from_slice(&bytes[..n]);
        self.filled += n;
        self.hand_on_if_full()?;
        Ok(n)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn make(data: &[u8], compression: Compression, piece: usize) -> (Vec<u8>, Written) {
        let mut writer = LayerWriter::new(
            Vec::new(),
            compression,
            compression.default_level(),
            data.len() as u64,
            2,
            None,
        )
        .expect("start");
        for chunk in data.chunks(piece) {
            writer.write_all(chunk).expect("write");
        }
        let (blob, written, _) = writer.finish().expect("finish");
        (blob, written)
    }

    #[test]
    fn digests_are_those_of_the_bytes() {
        let data: Vec<u8> = (0..700_000_u32)
            .map(|i| i.to_le_bytes()[i as usize % 3])
            .collect();
        for compression in [Compression::Gzip, Compression::Zstd, Compression::None] {
            let (blob, written) = make(&data, compression, 1013);
            assert_eq!(written.digest, Sha256::of(&blob));
            assert_eq!(written.size, blob.len() as u64);
            assert_eq!(written.diff_id, Sha256::of(&data));
            assert_eq!(make(&data, compression, 65_536).0, blob);
        }
    }

    #[test]
    fn zstd_declares_its_size_in_one_frame() {
        let data = vec![b'x'; 300_000];
        let (blob, _) = make(&data, Compression::Zstd, 100);
        assert_eq!(
            zstd::zstd_safe::get_frame_content_size(&blob)
                .ok()
                .flatten(),
            Some(300_000)
        );
        assert_eq!(
            zstd::zstd_safe::find_frame_compressed_size(&blob),
            Ok(blob.len())
        );
        assert_eq!(zstd::decode_all(blob.as_slice()).expect("sound"), data);
    }

    #[test]
    fn a_wrong_pledge_is_an_error() {
        let mut writer =
            LayerWriter::new(Vec::new(), Compression::Zstd, 3, 5, 1, None).expect("start");
        writer.write_all(b"123456").expect("buffered");
        assert!(writer.finish().is_err());
    }
}
