//! Decompression of what archives compress: indexes, and the members of packages.

use std::io::{self, BufReader, Read};

use sos_formats::deb::Codec;

/// Streams decompressed bytes.
pub(crate) fn decoder<'r>(
    codec: Codec,
    inner: impl Read + Send + 'r,
) -> io::Result<Box<dyn Read + Send + 'r>> {
    // More memory than any archive's settings need, so that a hostile header cannot ask for all there is.
    const MEMORY_LIMIT: u64 = 1 << 30;
    Ok(match codec {
        Codec::Plain => Box::new(inner),
        Codec::Gzip => Box::new(flate2::read::MultiGzDecoder::new(inner)),
        Codec::Xz => {
            let stream = liblzma::stream::Stream::new_stream_decoder(
                MEMORY_LIMIT,
                liblzma::stream::CONCATENATED,
            )?;
            Box::new(liblzma::read::XzDecoder::new_stream(inner, stream))
        }
        Codec::Lzma => {
            let stream = liblzma::stream::Stream::new_lzma_decoder(MEMORY_LIMIT)?;
            Box::new(liblzma::read::XzDecoder::new_stream(inner, stream))
        }
        Codec::Bzip2 => Box::new(bzip2::read::MultiBzDecoder::new(inner)),
        Codec::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(BufReader::new(
            inner,
        ))?),
    })
}

/// Decompresses to at most `limit` bytes; more is an error.
pub(crate) fn decompress(codec: Codec, bytes: &[u8], limit: u64) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    decoder(codec, bytes)?
        .take(limit + 1)
        .read_to_end(&mut out)?;
    if out.len() as u64 > limit {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("larger than {limit} bytes"),
        ));
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn every_codec_is_read_and_limited() {
        let text = b"hello ".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(&text).expect("memory");
        let mut xz = liblzma::write::XzEncoder::new(Vec::new(), 1);
        xz.write_all(&text).expect("memory");
        let options = liblzma::stream::LzmaOptions::new_preset(1).expect("preset");
        let lzma = liblzma::stream::Stream::new_lzma_encoder(&options).expect("encoder");
        let mut lzma = liblzma::write::XzEncoder::new_stream(Vec::new(), lzma);
        lzma.write_all(&text).expect("memory");
        let mut bzip = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::default());
        bzip.write_all(&text).expect("memory");
        let packed = [
            (Codec::Plain, text.clone()),
            (Codec::Gzip, gzip.finish().expect("memory")),
            (Codec::Xz, xz.finish().expect("memory")),
            (Codec::Lzma, lzma.finish().expect("memory")),
            (Codec::Bzip2, bzip.finish().expect("memory")),
            (
                Codec::Zstd,
                zstd::stream::encode_all(&text[..], 1).expect("memory"),
            ),
        ];
        for (codec, bytes) in packed {
            assert_eq!(
                decompress(codec, &bytes, 6000).expect("fits"),
                text,
                "{codec:?}"
            );
            assert!(decompress(codec, &bytes, 5999).is_err(), "{codec:?}");
            if codec != Codec::Plain {
                assert!(
                    decompress(codec, &bytes[..bytes.len() - 3], 6000).is_err(),
                    "{codec:?} cut off"
                );
            }
        }
    }
}
