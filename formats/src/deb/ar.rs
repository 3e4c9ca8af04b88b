//! A strict, streaming reader of `ar` archives as Debian packages use them (deb(5)).
//!
//! Only the plain form is accepted: short names, decimal fields, one newline of padding after odd sizes.
//! Neither GNU's string table nor BSD's inline names occur in a `.deb`, so both are refused.

use std::io::{self, Read};

const MAGIC: &[u8; 8] = b"!<arch>\n";
const HEADER_LEN: usize = 60;

/// Why an `ar` archive is refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ArError {
    /// The first eight bytes are not the magic of an archive.
    #[error("not an ar archive: it does not begin with `!<arch>`")]
    Magic,
    /// The archive ends inside a header or inside the data of a member.
    #[error("ar archive ends early, at byte {offset}")]
    Truncated {
        /// Where the bytes ran out.
        offset: u64,
    },
    /// A member header is malformed.
    #[error("malformed ar member header at byte {offset}: {field}")]
    Header {
        /// Where the header begins.
        offset: u64,
        /// The field that could not be read.
        field: &'static str,
    },
    /// The byte that pads a member of odd size is not a newline.
    #[error("ar member is not padded with a newline at byte {offset}")]
    Padding {
        /// Where the padding should be.
        offset: u64,
    },
    /// The underlying reader failed.
    #[error("cannot read the ar archive")]
    Io(#[from] io::Error),
}

/// The header of one member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The name without padding.
    pub name: String,
    /// The time of last change, in seconds.
    pub mtime_secs: u64,
    /// The numeric owner.
    pub uid: u32,
    /// The numeric group.
    pub gid: u32,
    /// The file mode, read as octal.
    pub mode: u32,
    /// How many bytes of data follow.
    pub size_bytes: u64,
}

/// Reads an archive member by member; reading from it gives the data of the current member.
#[derive(Debug)]
pub struct ArReader<R> {
    inner: R,
    offset: u64,
    remaining: u64,
    padded: bool,
}

impl<R: Read> ArReader<R> {
    /// Checks the magic and positions before the first member.
    pub fn new(mut inner: R) -> Result<Self, ArError> {
        let mut magic = [0; MAGIC.len()];
        if fill(&mut inner, &mut magic)? != magic.len() || &magic != MAGIC {
            return Err(ArError::Magic);
        }
        Ok(Self {
            inner,
            offset: MAGIC.len() as u64,
            remaining: 0,
            padded: false,
        })
    }

    /// Skips what is left of the current member and reads the next header; `None` at a clean end.
    pub fn next_member(&mut self) -> Result<Option<Member>, ArError> {
        self.finish_member()?;
        let start = self.offset;
        let mut header = [0; HEADER_LEN];
        let got = fill(&mut self.inner, &mut header)?;
        self.offset += got as u64;
        match got {
            0 => return Ok(None),
            HEADER_LEN => {}
            _ => {
                return Err(ArError::Truncated {
                    offset: self.offset,
                });
            }
        }
        let member = parse_header(&header, start)?;
        self.remaining = member.size_bytes;
        self.padded = member.size_bytes % 2 == 1;
        Ok(Some(member))
    }

    fn finish_member(&mut self) -> Result<(), ArError> {
        let mut sink = [0; 8192];
        while self.remaining > 0 {
            if self.read(&mut sink)? == 0 {
                return Err(ArError::Truncated {
                    offset: self.offset,
                });
            }
        }
        if std::mem::take(&mut self.padded) {
            let mut byte = [0];
            match fill(&mut self.inner, &mut byte)? {
                0 => {
                    return Err(ArError::Truncated {
                        offset: self.offset,
                    });
                }
                _ if byte == *b"\n" => self.offset += 1,
                _ => {
                    return Err(ArError::Padding {
                        offset: self.offset,
                    });
                }
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for ArReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.remaining)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let got = self.inner.read(&mut buf[..want])?;
        if got == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                ArError::Truncated {
                    offset: self.offset,
                },
            ));
        }
        self.offset += got as u64;
        self.remaining -= got as u64;
        Ok(got)
    }
}

fn parse_header(header: &[u8; HEADER_LEN], offset: u64) -> Result<Member, ArError> {
    let bad = |field| ArError::Header { offset, field };
    if &header[58..] != b"`\n" {
        return Err(bad("end mark"));
    }
    let name = std::str::from_utf8(&header[..16])
        .ok()
        .map(|n| n.trim_end_matches(' '));
    let name =
        name.filter(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_graphic() && b != b'/'));
    let number = |range: std::ops::Range<usize>, radix, field| {
        // Some writers leave owner, mode or time blank; a size is always there.
        let text = std::str::from_utf8(&header[range])
            .map_err(|_err| bad(field))?
            .trim_end_matches(' ');
        let valid =
            text.bytes().all(|b| b.is_ascii_digit()) && (field != "size" || !text.is_empty());
        match text {
            _ if !valid => Err(bad(field)),
            "" => Ok(0),
            _ => u64::from_str_radix(text, radix).map_err(|_err| bad(field)),
        }
    };
    let small = |range, radix, field| {
        u32::try_from(number(range, radix, field)?).map_err(|_err| bad(field))
    };
    Ok(Member {
        name: name.ok_or_else(|| bad("name"))?.to_owned(),
        mtime_secs: number(16..28, 10, "time")?,
        uid: small(28..34, 10, "owner")?,
        gid: small(34..40, 10, "group")?,
        mode: small(40..48, 8, "mode")?,
        size_bytes: number(48..58, 10, "size")?,
    })
}

/// Reads until the buffer is full or the input ends, and says how much came.
fn fill(inner: &mut impl Read, buf: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < buf.len() {
        match inner.read(&mut buf[got..]) {
            Ok(0) => break,
            Ok(n) => got += n,
            Err(err) if err.kind() == io::ErrorKind::Interrupted => {}
            Err(err) => return Err(err),
        }
    }
    Ok(got)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, data: &[u8]) -> Vec<u8> {
        let mut out = format!(
            "{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n",
            1,
            0,
            0,
            "100644",
            data.len()
        )
        .into_bytes();
        out.extend_from_slice(data);
        if data.len() % 2 == 1 {
            out.push(b'\n');
        }
        out
    }

    fn archive(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        for (name, data) in members {
            out.extend(member(name, data));
        }
        out
    }

    fn read_all(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, ArError> {
        let mut reader = ArReader::new(bytes)?;
        let mut out = Vec::new();
        while let Some(member) = reader.next_member()? {
            let mut data = Vec::new();
            reader.read_to_end(&mut data)?;
            out.push((member.name, data));
        }
        Ok(out)
    }

    #[test]
    fn members_come_in_order_with_their_data() {
        let bytes = archive(&[("debian-binary", b"2.0\n"), ("odd", b"abc"), ("last", b"")]);
        let got = read_all(&bytes).expect("valid");
        assert_eq!(got[1], ("odd".into(), b"abc".to_vec()));
        assert_eq!(got.len(), 3);
    }

    #[test]
    fn unread_data_is_skipped() {
        let bytes = archive(&[("a", b"xyz"), ("b", b"1")]);
        let mut reader = ArReader::new(&bytes[..]).expect("magic");
        assert_eq!(
            reader.next_member().expect("a").map(|m| m.name).as_deref(),
            Some("a")
        );
        assert_eq!(
            reader.next_member().expect("b").map(|m| m.name).as_deref(),
            Some("b")
        );
        assert!(reader.next_member().expect("end").is_none());
    }

    #[test]
    fn every_truncation_is_an_error_or_a_whole_prefix() {
        let bytes = archive(&[("a", b"xyz"), ("b", b"12")]);
        for len in 0..bytes.len() {
            match read_all(&bytes[..len]) {
                Ok(_) => assert!(len == 8 || len == 8 + 64, "accepted a cut at {len}"),
                Err(ArError::Magic) => assert!(len < 8),
                Err(_) => {}
            }
        }
    }

    #[test]
    fn malformed_headers_are_refused() {
        let good = archive(&[("a", b"x")]);
        for (at, byte) in [
            (0, b'x'),
            (8 + 58, b'x'),
            (8 + 48, b'-'),
            (8 + 48, b' '),
            (8 + 16, b'x'),
            (8 + 40, b'9'),
            (8, b'/'),
            (69, b'x'),
        ] {
            let mut bad = good.clone();
            bad[at] = byte;
            assert!(read_all(&bad).is_err(), "accepted byte {byte} at {at}");
        }
    }
}
