//! Payload images: the files of a bootstrap on a disk of their own, for a kernel that cannot take them all at once.
//!
//! # Format
//! `LBPAYLD1`, the number of files, then for each the length of its name, its size, the name and the content; numbers are
//! little-endian, of 32 bits in the narrow form and of 64 in the wide one, and nothing is aligned. Zeros may follow.
//!
//! # Source
//! `fosslinux/live-bootstrap`, pull request 578.

use std::io::{self, Read, Write};

/// What every image begins with.
pub const MAGIC: &[u8; 8] = b"LBPAYLD1";
/// The most files that the importer takes.
pub const MAX_FILES: u64 = 200_000;
/// The longest name in bytes that the importer takes.
pub const MAX_NAME_BYTES: u64 = 1024;

/// How wide the numbers are. Both forms begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Width {
    /// 32 bits, for files below 4 GiB.
    #[default]
    Narrow,
    /// 64 bits.
    Wide,
}

/// Why an image cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PayloadError {
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It does not begin with [`MAGIC`].
    #[error("it does not begin with `LBPAYLD1`")]
    Magic,
    /// It ends within a file or a number.
    #[error("it ends at byte {at}, within {within}")]
    Short {
        /// Offset of what is cut off.
        at: u64,
        /// What that is.
        within: String,
    },
    /// More files than the importer takes.
    #[error("it has {count} files; the importer takes {MAX_FILES}")]
    Count {
        /// How many it says.
        count: u64,
    },
    /// A name that the importer refuses, or that would lead elsewhere.
    #[error("file {index} has the name {name:?}: {why}")]
    Name {
        /// Which file, from 1.
        index: u64,
        /// The name, with what is no text replaced.
        name: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A name longer than the importer takes.
    #[error("file {index} has a name of {length} bytes; the importer takes {MAX_NAME_BYTES}")]
    Long {
        /// Which file, from 1.
        index: u64,
        /// How long its name is said to be, in bytes.
        length: u64,
    },
    /// What would be the wide form makes no sense, and the first name of the narrow one is empty.
    #[error(
        "the name of its first file is empty; or its numbers are of 64 bits, and then {otherwise}"
    )]
    Unnamed {
        /// What is wrong with the wide form.
        otherwise: Box<PayloadError>,
    },
    /// Two files of one name.
    #[error("file {index} has the name {name:?}, as an earlier one")]
    Twice {
        /// Which file, from 1.
        index: u64,
        /// The name.
        name: String,
    },
    /// Something else than zeros after the last file.
    #[error("there is something behind the last file, at byte {at}")]
    Trailing {
        /// Offset of the first byte that is not zero.
        at: u64,
    },
    /// A file too large for the narrow form.
    #[error("`{name}` has {size} bytes, which takes the wide form")]
    Large {
        /// The file.
        name: String,
        /// Its size in bytes.
        size: u64,
    },
}

/// Checks a name.
///
/// # Errors
/// What is wrong with it: empty, too long, a separator or a zero byte in it, `.` or `..`.
pub fn check_name(name: &[u8]) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("it is empty")
    } else if name.len() as u64 > MAX_NAME_BYTES {
        Err("it is longer than 1024 bytes")
    } else if name.iter().any(|b| matches!(b, b'/' | b'\\')) {
        Err("it has a slash or a backslash in it")
    } else if name.contains(&0) {
        Err("it has a zero byte in it")
    } else if matches!(name, b"." | b"..") {
        Err("it names a directory")
    } else {
        Ok(())
    }
}

/// Writes an image: `files` are names, sizes and contents, in the order in which they are to stand there, which is that of
/// the names for an image that is the same everywhere.
///
/// # Errors
/// [`PayloadError::Name`], [`PayloadError::Twice`], [`PayloadError::Count`], [`PayloadError::Large`] before anything is
/// written; [`PayloadError::Short`] when a content is not as long as it was said to be.
pub fn write<R: Read>(
    out: &mut dyn Write,
    width: Width,
    files: &[(String, u64)],
    mut open: impl FnMut(usize) -> io::Result<R>,
) -> Result<(), PayloadError> {
    let count = files.len() as u64;
    if count > MAX_FILES {
        return Err(PayloadError::Count { count });
    }
    let mut seen = std::collections::BTreeSet::new();
    for (i, (name, size)) in files.iter().enumerate() {
        let index = i as u64 + 1;
        let length = name.len() as u64;
        if length > MAX_NAME_BYTES {
            return Err(PayloadError::Long { index, length });
        }
        check_name(name.as_bytes()).map_err(|why| PayloadError::Name {
            index,
            name: name.clone(),
            why,
        })?;
        if !seen.insert(name) {
            let name = name.clone();
            return Err(PayloadError::Twice { index, name });
        }
        if width == Width::Narrow && u32::try_from(*size).is_err() {
            return Err(PayloadError::Large {
                name: name.clone(),
                size: *size,
            });
        }
    }
    out.write_all(MAGIC)?;
    let number = |out: &mut dyn Write, n: u64| match width {
        // Every number was checked above.
        Width::Narrow => out.write_all(&u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes()),
        Width::Wide => out.write_all(&n.to_le_bytes()),
    };
    number(out, count)?;
    for (i, (name, size)) in files.iter().enumerate() {
        number(out, name.len() as u64)?;
        number(out, *size)?;
        out.write_all(name.as_bytes())?;
        let copied = io::copy(&mut open(i)?.take(*size), out)?;
        if copied != *size {
            return Err(PayloadError::Short {
                at: copied,
                within: format!("the content of `{name}`"),
            });
        }
    }
    Ok(())
}

/// One file of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PayloadFile {
    /// Its name.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
    /// Where its content begins in the image.
    pub offset: u64,
}

/// Reads an image of either width and hands the content of each file to `content`, which need not read it. Returns the width
/// and the number of files. An image without files is narrow unless it has the length of the wide form.
///
/// # Errors
/// Everything but [`PayloadError::Large`].
pub fn read(
    input: &mut dyn Read,
    mut content: impl FnMut(&PayloadFile, &mut dyn Read) -> io::Result<()>,
) -> Result<(Width, u64), PayloadError> {
    let mut input = Counted { input, at: 0 };
    let mut magic = [0; 8];
    if input.fill(&mut magic)? < 8 || magic != *MAGIC {
        return Err(PayloadError::Magic);
    }
    let low = input.narrow("the number of files")?;
    // The number of the narrow form is followed by the length of a name, which is not zero; that of the wide form by its
    // own upper half, which is.
    let mut next = [0; 4];
    let got = input.fill(&mut next)?;
    if low == 0 {
        let width = if got == 4 { Width::Wide } else { Width::Narrow };
        input.zeros(&next[..got])?;
        return Ok((width, 0));
    }
    if got < 4 {
        return Err(input.short("the length of a name"));
    }
    let wide = next == [0; 4];
    if low > MAX_FILES {
        return Err(PayloadError::Count { count: low });
    }
    let mut pending = (!wide).then(|| u64::from(u32::from_le_bytes(next)));
    let mut seen = std::collections::BTreeSet::new();
    for index in 1..=low {
        let (name, size) = input
            .header(wide, index, pending.take())
            .map_err(|e| match e {
                PayloadError::Io(_) => e,
                // The length of the first name was what tells the forms apart.
                e if wide && index == 1 => PayloadError::Unnamed {
                    otherwise: Box::new(e),
                },
                e => e,
            })?;
        if !seen.insert(name.clone()) {
            return Err(PayloadError::Twice { index, name });
        }
        let file = PayloadFile {
            name,
            size,
            offset: input.at,
        };
        let mut limited = (&mut input).take(size);
        content(&file, &mut limited)?;
        let left = io::copy(&mut limited, &mut io::sink())?;
        let read = input.at - file.offset;
        debug_assert!(left <= size, "no more is skipped than there is");
        if read < size {
            return Err(input.short(&format!("the content of `{}`", file.name)));
        }
    }
    input.zeros(&[])?;
    let width = if wide { Width::Wide } else { Width::Narrow };
    Ok((width, low))
}

struct Counted<'a> {
    input: &'a mut dyn Read,
    at: u64,
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.input.read(buffer)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl Counted<'_> {
    /// Reads until the buffer is full or the input ends, and returns how much there was.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read(&mut buffer[done..])? {
                0 => break,
                n => done += n,
            }
        }
        Ok(done)
    }

    fn short(&self, within: &str) -> PayloadError {
        PayloadError::Short {
            at: self.at,
            within: within.to_owned(),
        }
    }

    fn narrow(&mut self, what: &str) -> Result<u64, PayloadError> {
        let mut bytes = [0; 4];
        if self.fill(&mut bytes)? < 4 {
            return Err(self.short(what));
        }
        Ok(u32::from_le_bytes(bytes).into())
    }

    fn number(&mut self, wide: bool, what: &str) -> Result<u64, PayloadError> {
        if !wide {
            return self.narrow(what);
        }
        let mut bytes = [0; 8];
        if self.fill(&mut bytes)? < 8 {
            return Err(self.short(what));
        }
        Ok(u64::from_le_bytes(bytes))
    }

    /// Reads the name and the size of a file; `length` is that of the name if it was read already.
    fn header(
        &mut self,
        wide: bool,
        index: u64,
        length: Option<u64>,
    ) -> Result<(String, u64), PayloadError> {
        let length = match length {
            Some(length) => length,
            None => self.number(wide, "the length of a name")?,
        };
        let size = self.number(wide, "the size of a file")?;
        if length > MAX_NAME_BYTES {
            return Err(PayloadError::Long { index, length });
        }
        let bad = |name: &[u8], why| PayloadError::Name {
            index,
            name: String::from_utf8_lossy(name).into_owned(),
            why,
        };
        let mut name = vec![0; usize::try_from(length).unwrap_or_default()];
        if self.fill(&mut name)? < name.len() {
            return Err(self.short("a name"));
        }
        check_name(&name).map_err(|why| bad(&name, why))?;
        let name = String::from_utf8(name).map_err(|e| bad(e.as_bytes(), "it is not UTF-8"))?;
        Ok((name, size))
    }

    /// Reads to the end, where only zeros may be; `before` was read already.
    fn zeros(&mut self, before: &[u8]) -> Result<(), PayloadError> {
        let start = self.at - before.len() as u64;
        let first = |bytes: &[u8]| bytes.iter().position(|b| *b != 0);
        if let Some(at) = first(before) {
            let at = start + at as u64;
            return Err(PayloadError::Trailing { at });
        }
        let mut buffer = vec![0; 64 << 10];
        loop {
            let at = self.at;
            let n = self.read(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            if let Some(found) = first(&buffer[..n]) {
                let at = at + found as u64;
                return Err(PayloadError::Trailing { at });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(width: Width, files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        let list: Vec<(String, u64)> = files
            .iter()
            .map(|(name, data)| ((*name).to_owned(), data.len() as u64))
            .collect();
        write(&mut out, width, &list, |i| Ok(files[i].1)).unwrap();
        out
    }

    type Found = (Width, Vec<(String, Vec<u8>)>);

    fn parse(bytes: &[u8]) -> Result<Found, PayloadError> {
        let mut found = Vec::new();
        let (width, _) = read(&mut &bytes[..], |file, content| {
            let mut data = Vec::new();
            content.read_to_end(&mut data)?;
            found.push((file.name.clone(), data));
            Ok(())
        })?;
        Ok((width, found))
    }

    #[test]
    fn both_widths_are_as_the_format_says() {
        let narrow = image(Width::Narrow, &[("a", b"xy")]);
        assert_eq!(narrow, b"LBPAYLD1\x01\0\0\0\x01\0\0\0\x02\0\0\0axy");
        let wide = image(Width::Wide, &[("a", b"xy")]);
        assert_eq!(
            wide,
            b"LBPAYLD1\x01\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0axy"
        );
    }

    #[test]
    fn what_is_written_is_read() {
        for width in [Width::Narrow, Width::Wide] {
            for files in [
                &[][..],
                &[("a", &b""[..]), ("b.tar.gz", b"data"), ("c", b"\0\0")],
            ] {
                let mut bytes = image(width, files);
                let (found_width, found) = parse(&bytes).unwrap();
                assert_eq!(found_width, width);
                let found: Vec<(&str, &[u8])> =
                    found.iter().map(|(n, d)| (n.as_str(), &d[..])).collect();
                assert_eq!(found, files);
                // A disk is filled up with zeros.
                if !files.is_empty() {
                    bytes.extend([0; 1000]);
                    assert_eq!(parse(&bytes).unwrap().1.len(), files.len());
                }
            }
        }
    }

    #[test]
    fn bad_images_are_refused() {
        #[track_caller]
        fn check(bytes: &[u8], expect: &str) {
            assert_eq!(parse(bytes).unwrap_err().to_string(), expect);
        }
        check(b"LBPAYLD2\0\0\0\0", "it does not begin with `LBPAYLD1`");
        check(
            b"LBPAYLD1\x01",
            "it ends at byte 9, within the number of files",
        );
        check(
            b"LBPAYLD1\x01\0\0\0\x01\0\0\0\x05\0\0\0axy",
            "it ends at byte 23, within the content of `a`",
        );
        check(
            b"LBPAYLD1\x01\0\0\0\x02\0\0\0\0\0\0\0..",
            "file 1 has the name \"..\": it names a directory",
        );
        check(
            b"LBPAYLD1\x01\0\0\0\x03\0\0\0\0\0\0\0a/b",
            "file 1 has the name \"a/b\": it has a slash or a backslash in it",
        );
        check(
            b"LBPAYLD1\x01\0\0\0\x03\0\0\0\0\0\0\0a\0b",
            "file 1 has the name \"a\\0b\": it has a zero byte in it",
        );
        check(
            b"LBPAYLD1\x02\0\0\0\x01\0\0\0\0\0\0\0a\x01\0\0\0\0\0\0\0a",
            "file 2 has the name \"a\", as an earlier one",
        );
        check(
            b"LBPAYLD1\x01\0\0\0\x01\0\0\0\0\0\0\0a\0x",
            "there is something behind the last file, at byte 22",
        );
        check(
            b"LBPAYLD1\xff\xff\xff\x7f\x01\0\0\0",
            "it has 2147483647 files; the importer takes 200000",
        );
        check(
            b"LBPAYLD1\x01\0\0\0\xff\xff\0\0\0\0\0\0",
            "file 1 has a name of 65535 bytes; the importer takes 1024",
        );
        // A name of no bytes in the narrow form, which then looks like the wide one.
        check(
            b"LBPAYLD1\x01\0\0\0\0\0\0\0\x04\0\0\0text",
            "the name of its first file is empty; or its numbers are of 64 bits, and then it ends at byte 24, within the size of a file",
        );
        check(
            b"LBPAYLD1\x01\0\0\0\0\0\0\0\x09\0\0\0long text",
            "the name of its first file is empty; or its numbers are of 64 bits, and then it ends at byte 29, within the size of a file",
        );
        check(
            b"LBPAYLD1\x02\0\0\0\x01\0\0\0\0\0\0\0a\0\0\0\0\0\0\0\0",
            "file 2 has the name \"\": it is empty",
        );
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let whole = image(Width::Wide, &[("a", b"xy"), ("b", b"z")]);
        for end in 0..whole.len() {
            assert!(parse(&whole[..end]).is_err());
            for byte in [0, 1, 0xff] {
                let mut changed = whole.clone();
                changed[end] = byte;
                // Either way is fine.
                let _either = parse(&changed).is_ok();
            }
        }
    }

    #[test]
    fn bad_files_are_refused_before_anything_is_written() {
        let mut out = Vec::new();
        let large = [("a".to_owned(), 1 << 32)];
        let error = write(&mut out, Width::Narrow, &large, |_| Ok(&b""[..])).unwrap_err();
        assert!(matches!(error, PayloadError::Large { .. }));
        let twice = [("a".to_owned(), 0), ("a".to_owned(), 0)];
        let error = write(&mut out, Width::Wide, &twice, |_| Ok(&b""[..])).unwrap_err();
        assert!(matches!(error, PayloadError::Twice { index: 2, .. }));
        let long = [("a".repeat(1025), 0)];
        let error = write(&mut out, Width::Wide, &long, |_| Ok(&b""[..])).unwrap_err();
        assert!(matches!(error, PayloadError::Long { length: 1025, .. }));
        assert!(out.is_empty());
    }
}
