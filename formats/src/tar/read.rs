//! Reading.

use std::collections::BTreeMap;
use std::io::{self, Read};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};

use super::{BLOCK_LEN, Entry, EntryKind, MAX_EXTRA_LEN, PAX_XATTR, TarError, TarProblem, padding};
use crate::Bytes;

const LIBARCHIVE_XATTR: &[u8] = b"LIBARCHIVE.xattr.";

/// Reads an archive entry by entry, without seeking; as a [`Read`] it gives the data of the last entry.
///
/// Paths come out in the form described at [`Entry`]: a leading `./` or `/` is taken off, `..` is refused. Data that
/// is not read is skipped. An archive may end without the blocks of zeros that should close it, but not within an entry.
#[derive(Debug)]
pub struct Reader<R> {
    stream: R,
    /// How much of the stream has been read.
    offset: u64,
    /// Where the header looked at begins.
    header_at: u64,
    data_left: u64,
    padding_left: u64,
    global: Pax,
    /// Global records are passed by.
    plain: bool,
    done: bool,
}

type Pax = BTreeMap<Bytes, Bytes>;

/// What stands before an entry and belongs to it.
#[derive(Default)]
struct Extra {
    pax: Pax,
    path: Option<Bytes>,
    link: Option<Bytes>,
}

impl<R: Read> Reader<R> {
    /// Starts reading.
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            offset: 0,
            header_at: 0,
            data_left: 0,
            padding_left: 0,
            global: Pax::new(),
            plain: false,
            done: false,
        }
    }

    /// The same, but global pax records say nothing about the entries: what reads layers of images passes them by, since the
    /// library that all of it is written with does. They must be well formed all the same.
    #[must_use]
    pub fn without_globals(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Goes to the next entry; none at the end of the archive.
    ///
    /// # Errors
    /// [`TarError::Malformed`] for anything that cannot be understood for certain; after an error nothing more comes.
    pub fn next_entry(&mut self) -> Result<Option<Entry>, TarError> {
        if self.done {
            return Ok(None);
        }
        self.done = true;
        let entry = self.advance()?;
        self.done = entry.is_none();
        Ok(entry)
    }

    /// Returns the stream.
    pub fn into_inner(self) -> R {
        self.stream
    }

    fn advance(&mut self) -> Result<Option<Entry>, TarError> {
        self.skip()?;
        let mut extra: Option<Extra> = None;
        loop {
            self.header_at = self.offset;
            let mut block = [0; BLOCK_LEN];
            let n = self.fill(&mut block)?;
            if n == 0 || block.iter().all(|b| *b == 0) {
                if extra.is_some() {
                    return self.fail(TarProblem::LoneExtra);
                }
                self.end()?;
                return Ok(None);
            }
            if n < BLOCK_LEN {
                return self.fail(TarProblem::Truncated);
            }
            let header = Header(&block);
            if !header.checksum_matches() {
                return self.fail(TarProblem::BadChecksum);
            }
            let kind = header.kind();
            match kind {
                b'x' => {
                    let records = self.extra_data(&header)?;
                    let pax = parse_pax(&records).or_else(|p| self.fail(p))?;
                    extra.get_or_insert_default().pax = pax;
                }
                b'g' => {
                    let records = self.extra_data(&header)?;
                    let pax = parse_pax(&records).or_else(|p| self.fail(p))?;
                    if self.plain {
                        continue;
                    }
                    self.global.extend(pax);
                    // POSIX: an empty value takes the record back.
                    self.global.retain(|_, value| !value.is_empty());
                    let total = self.global.iter().map(|(k, v)| (k.len() + v.len()) as u64);
                    let total = total.sum();
                    if total > MAX_EXTRA_LEN {
                        return self.fail(TarProblem::LargeExtra(total));
                    }
                }
                b'L' | b'K' => {
                    let mut name = self.extra_data(&header)?;
                    // GNU tar writes one NUL after the name and counts it.
                    if name.last() == Some(&0) {
                        name.pop();
                    }
                    let extra = extra.get_or_insert_default();
                    if kind == b'L' {
                        extra.path = Some(name);
                    } else {
                        extra.link = Some(name);
                    }
                }
                _ => {
                    let entry = self
                        .entry(&header, extra.unwrap_or_default())
                        .or_else(|p| self.fail(p))?;
                    self.data_left = entry.size;
                    self.padding_left = padding(entry.size);
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn entry(&self, header: &Header<'_>, extra: Extra) -> Result<Entry, TarProblem> {
        let pax = |key: &str| {
            let own = extra.pax.get(key.as_bytes());
            let value = own.or_else(|| self.global.get(key.as_bytes()));
            value.filter(|v| !v.is_empty())
        };
        let number = |key: &'static str, at: usize, len: usize| match pax(key) {
            Some(value) => decimal(value).ok_or(TarProblem::BadNumber(key)),
            None => header.number(at, len).ok_or(TarProblem::BadNumber(key)),
        };
        let path = pax("path").cloned().or(extra.path);
        let path = path.unwrap_or_else(|| header.path());
        let link = pax("linkpath").cloned().or(extra.link);
        let link = link.unwrap_or_else(|| header.text(157, 100).to_vec());
        let kind = match header.kind() {
            // Before ustar a directory was told by its name.
            0 | b'0' | b'7' if path.last() == Some(&b'/') => EntryKind::Dir,
            0 | b'0' | b'7' => EntryKind::File,
            b'1' => EntryKind::Hardlink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDev,
            b'4' => EntryKind::BlockDev,
            b'5' => EntryKind::Dir,
            b'6' => EntryKind::Fifo,
            other => {
                let kind = char::from(other);
                return Err(TarProblem::UnsupportedKind { kind, path });
            }
        };
        let sparse = |pax: &Pax| pax.keys().any(|k| k.starts_with(b"GNU.sparse."));
        if sparse(&extra.pax) || sparse(&self.global) {
            return Err(TarProblem::UnsupportedKind { kind: 'S', path });
        }
        let mut entry = Entry {
            path: clean(&path).ok_or(TarProblem::BadPath(path))?,
            kind,
            // Old tars put the type of file into the higher bits.
            mode: u16::try_from(number("mode", 100, 8)? & 0o7777)
                .or(Err(TarProblem::BadNumber("mode")))?,
            uid: u32::try_from(number("uid", 108, 8)?).or(Err(TarProblem::BadNumber("uid")))?,
            gid: u32::try_from(number("gid", 116, 8)?).or(Err(TarProblem::BadNumber("gid")))?,
            mtime_secs: number("mtime", 136, 12)?,
            ..Entry::default()
        };
        if entry.path.is_empty() && kind != EntryKind::Dir {
            return Err(TarProblem::BadPath(entry.path));
        }
        match kind {
            EntryKind::File => {
                entry.size = u64::try_from(number("size", 124, 12)?)
                    .or(Err(TarProblem::BadNumber("size")))?;
            }
            EntryKind::Hardlink => {
                let cleaned = clean(&link).filter(|l| !l.is_empty());
                entry.link = cleaned.ok_or(TarProblem::BadLink(link))?;
            }
            EntryKind::Symlink if link.is_empty() || link.contains(&0) => {
                return Err(TarProblem::BadLink(link));
            }
            EntryKind::Symlink => entry.link = link,
            EntryKind::CharDev | EntryKind::BlockDev => {
                let device = |at| {
                    let value = header.number(at, 8).and_then(|n| u32::try_from(n).ok());
                    value.ok_or(TarProblem::BadNumber("device number"))
                };
                entry.major = device(329)?;
                entry.minor = device(337)?;
            }
            EntryKind::Dir | EntryKind::Fifo => {}
        }
        for (key, value) in self.global.iter().chain(&extra.pax) {
            match xattr(key, value)? {
                // A record without a value takes back what was said before (POSIX, pax): there is no other way to say nothing.
                Some((key, value)) if value.is_empty() => {
                    entry.xattrs.remove(&key);
                }
                Some((key, value)) => {
                    entry.xattrs.insert(key, value);
                }
                None => {}
            }
        }
        Ok(entry)
    }

    /// Reads the data of a header that belongs to the next one.
    fn extra_data(&mut self, header: &Header<'_>) -> Result<Bytes, TarError> {
        let size = header.number(124, 12).and_then(|n| u64::try_from(n).ok());
        let size = match size {
            Some(size) if size <= MAX_EXTRA_LEN => size,
            Some(size) => return self.fail(TarProblem::LargeExtra(size)),
            None => return self.fail(TarProblem::BadNumber("size")),
        };
        let mut data = Vec::new();
        let whole = size + padding(size);
        let n = (&mut self.stream)
            .take(whole)
            .read_to_end(&mut data)
            .map_err(TarError::Read)? as u64;
        self.offset += n;
        if n < whole {
            return self.fail(TarProblem::Truncated);
        }
        // It is at most 1 MiB.
        data.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(data)
    }

    /// Goes past what is left of the last entry.
    fn skip(&mut self) -> Result<(), TarError> {
        let left = self.data_left + self.padding_left;
        let n = io::copy(&mut (&mut self.stream).take(left), &mut io::sink())
            .map_err(TarError::Read)?;
        self.offset += n;
        // Some writers leave out the padding at the very end.
        if n < self.data_left || (n < left && n != self.data_left) {
            return self.fail(TarProblem::Truncated);
        }
        self.data_left = 0;
        self.padding_left = 0;
        Ok(())
    }

    /// Checks that only zeros follow the end.
    fn end(&mut self) -> Result<(), TarError> {
        let mut buffer = [0; 8 * 1024];
        loop {
            let n = self.fill(&mut buffer)?;
            if buffer[..n].iter().any(|b| *b != 0) {
                return self.fail(TarProblem::DataAfterEnd);
            }
            if n < buffer.len() {
                return Ok(());
            }
        }
    }

    /// Reads until the buffer is full or the stream ends.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut n = 0;
        while n < buffer.len() {
            match self.stream.read(&mut buffer[n..]) {
                Ok(0) => break,
                Ok(more) => n += more,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(TarError::Read(e)),
            }
        }
        self.offset += n as u64;
        Ok(n)
    }

    fn fail<T>(&self, problem: TarProblem) -> Result<T, TarError> {
        Err(TarError::Malformed {
            offset: self.header_at,
            problem,
        })
    }
}

/// Gives the data of the entry that came last.
impl<R: Read> Read for Reader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.data_left).unwrap_or(usize::MAX);
        let end = buf.len().min(most);
        if end == 0 {
            return Ok(0);
        }
        let n = self.stream.read(&mut buf[..end])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                TarError::Malformed {
                    offset: self.header_at,
                    problem: TarProblem::Truncated,
                },
            ));
        }
        self.data_left -= n as u64;
        self.offset += n as u64;
        Ok(n)
    }
}

/// Brings a path into the one form; none when it leads outside or holds NUL.
fn clean(path: &[u8]) -> Option<Bytes> {
    if path.is_empty() || path.contains(&0) {
        return None;
    }
    let mut out = Vec::with_capacity(path.len());
    for part in path.split(|b| *b == b'/') {
        match part {
            b"" | b"." => {}
            b".." => return None,
            _ => {
                if !out.is_empty() {
                    out.push(b'/');
                }
                out.extend_from_slice(part);
            }
        }
    }
    Some(out)
}

/// Reads records `<length> <key>=<value>\n`; the last one of a key counts.
fn parse_pax(records: &[u8]) -> Result<Pax, TarProblem> {
    let mut out = Pax::new();
    let mut rest = records;
    while !rest.is_empty() {
        let parsed = || {
            let space = rest.iter().take(8).position(|b| *b == b' ')?;
            let len = usize::try_from(decimal(&rest[..space])?).ok()?;
            let record = rest.get(space + 1..len)?.strip_suffix(b"\n")?;
            let equals = memchr::memchr(b'=', record)?;
            let (key, value) = (&record[..equals], &record[equals + 1..]);
            (!key.is_empty()).then(|| (key.to_vec(), value.to_vec(), len))
        };
        let (key, value, len) = parsed().ok_or(TarProblem::BadPax)?;
        out.insert(key, value);
        rest = &rest[len..];
    }
    Ok(out)
}

/// Reads a decimal number; a fraction is rounded down.
fn decimal(text: &[u8]) -> Option<i64> {
    let text = str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    let all_digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if digits.is_empty() || !all_digits(digits) || !all_digits(fraction) {
        return None;
    }
    let value: i64 = whole.parse().ok()?;
    let below = whole.starts_with('-') && fraction.bytes().any(|b| b != b'0');
    value.checked_sub(i64::from(below))
}

/// Reads a pax record as an xattr when it is one.
fn xattr(key: &[u8], value: &[u8]) -> Result<Option<(Bytes, Bytes)>, TarProblem> {
    let bad = || TarProblem::BadXattr(key.to_vec());
    let (name, value) = if let Some(name) = key.strip_prefix(PAX_XATTR) {
        (name.to_vec(), value.to_vec())
    } else if let Some(name) = key.strip_prefix(LIBARCHIVE_XATTR) {
        let decoded = STANDARD
            .decode(value)
            .or_else(|_| STANDARD_NO_PAD.decode(value));
        (
            percent_decoded(name).ok_or_else(bad)?,
            decoded.map_err(|_cause| bad())?,
        )
    } else {
        return Ok(None);
    };
    if name.is_empty() || memchr::memchr2(b'=', 0, &name).is_some() {
        return Err(bad());
    }
    Ok(Some((name, value)))
}

fn percent_decoded(text: &[u8]) -> Option<Bytes> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (digits, after) = rest.split_at_checked(2)?;
            out.extend(crate::hash::decode_hex(str::from_utf8(digits).ok()?)?);
            rest = after;
        } else {
            out.push(byte);
        }
    }
    Some(out)
}

struct Header<'a>(&'a [u8; BLOCK_LEN]);

impl Header<'_> {
    fn kind(&self) -> u8 {
        self.0[156]
    }

    fn text(&self, at: usize, len: usize) -> &[u8] {
        let field = &self.0[at..at + len];
        let end = memchr::memchr(0, field).unwrap_or(len);
        &field[..end]
    }

    fn path(&self) -> Bytes {
        let name = self.text(0, 100);
        // GNU tar uses the room of the prefix for other things.
        let prefix = if self.0[257..263] == *b"ustar\0" {
            self.text(345, 155)
        } else {
            b""
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    /// Reads octal digits between blanks, or GNU base-256.
    fn number(&self, at: usize, len: usize) -> Option<i64> {
        let field = &self.0[at..at + len];
        if field[0] & 0x80 != 0 {
            // Two's complement, big-endian; the highest bit is the mark, the next one the sign.
            let first = i128::from((field[0] << 1).cast_signed() >> 1);
            let value = field[1..]
                .iter()
                .fold(first, |n, b| n << 8 | i128::from(*b));
            return i64::try_from(value).ok();
        }
        let is_blank = |b: &u8| *b == b' ';
        let start = field.iter().position(|b| !is_blank(b)).unwrap_or(len);
        let text = &field[start..];
        let end = text.iter().position(|b| matches!(b, 0 | b' '));
        let (digits, rest) = text.split_at(end.unwrap_or(text.len()));
        if rest.iter().any(|b| !matches!(b, 0 | b' ')) {
            return None;
        }
        // At most 12 digits of 3 bits: nothing overflows.
        digits.iter().try_fold(0i64, |n, b| {
            matches!(b, b'0'..=b'7').then(|| n << 3 | i64::from(b - b'0'))
        })
    }

    fn checksum_matches(&self) -> bool {
        let Some(stored) = self.number(148, 8) else {
            return false;
        };
        // The field itself counts as 8 spaces.
        let parts = [&self.0[..148], &b"        "[..], &self.0[156..]];
        let bytes = || parts.into_iter().flatten();
        let unsigned: i64 = bytes().map(|b| i64::from(*b)).sum();
        // Some old tars summed signed bytes.
        stored == unsigned || stored == bytes().map(|b| i64::from(b.cast_signed())).sum::<i64>()
    }
}
