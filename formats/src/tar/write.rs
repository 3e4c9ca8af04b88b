//! Writing.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use super::{BLOCK_LEN, Entry, EntryKind, MAX_EXTRA_LEN, PAX_XATTR, TarError, TarProblem, padding};
use crate::Bytes;

const NAME_LEN: usize = 100;
const PREFIX_LEN: usize = 155;
/// The largest number in a field of 7 octal digits.
const MAX_7: u64 = 0o7_777_777;
/// The largest number in a field of 11 octal digits.
const MAX_11: u64 = 0o77_777_777_777;

/// Writes an archive, entry by entry.
///
/// # Format
/// Each entry: if needed one pax header (type `x`, name `././@PaxHeader`, mode 0644, all else 0) with records in
/// order of their keys; the ustar header; the data; zeros up to 512 bytes. At the end two blocks of zeros and no more.
///
/// - Names are bare (`usr/bin`), a directory's name ends in `/`, the root is `./`.
/// - A pax header is needed for: `path` that is not ASCII or fits no split into 155 and 100 bytes; `linkpath` that is
///   not ASCII or longer than 100; `size` of 8 GiB or more; `uid`, `gid` over 2097151; `mtime` before 1970 or from
///   2^33 s; xattrs, as `SCHILY.xattr.<key>` with raw value. The ustar field is then 0 for numbers, and for names
///   the first 100 bytes with `_` for what is not ASCII.
/// - Numbers are octal with leading zeros and a NUL; the checksum has 6 digits, NUL, space. Owner and group names are
///   empty; device numbers are 0 on all but devices.
///
/// Order, parents, and writing no path twice are up to the caller.
#[derive(Debug)]
pub struct Writer<W> {
    out: W,
}

impl<W: Write> Writer<W> {
    /// Starts an archive.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Writes an entry and its data, of exactly `entry.size` bytes.
    ///
    /// # Errors
    /// [`TarError::Unwritable`] before anything is written, when the entry is not in the form described at [`Entry`]
    /// or a device number is over 2097151. [`TarError::SizeChanged`] when `data` has more or fewer bytes.
    pub fn append(
        &mut self,
        entry: &Entry,
        data: &mut (impl Read + ?Sized),
    ) -> Result<(), TarError> {
        self.head(entry)?;
        self.copy(entry, data)?;
        self.pad(entry.size)
    }

    /// Writes an entry whose data `write` puts into the stream itself; it gives the number of bytes.
    ///
    /// # Errors
    /// As [`Writer::append`], and those of `write`.
    pub fn append_with(
        &mut self,
        entry: &Entry,
        write: impl FnOnce(&mut W) -> Result<u64, TarError>,
    ) -> Result<(), TarError> {
        self.head(entry)?;
        if write(&mut self.out)? != entry.size {
            return Err(TarError::SizeChanged {
                path: entry.path.clone(),
                expected: entry.size,
            });
        }
        self.pad(entry.size)
    }

    /// Writes all that comes before the data.
    fn head(&mut self, entry: &Entry) -> Result<(), TarError> {
        let unwritable = |problem| TarError::Unwritable {
            path: entry.path.clone(),
            problem,
        };
        check(entry).map_err(unwritable)?;
        let (header, records) = header(entry);
        if !records.is_empty() {
            let size = records.len() as u64;
            if size > MAX_EXTRA_LEN {
                return Err(unwritable(TarProblem::LargeExtra(size)));
            }
            let mut pax = Header::new(b'x', 0o644);
            pax.text(0, NAME_LEN, b"././@PaxHeader");
            pax.octal(124, 11, size);
            self.raw(&pax.finish())?;
            self.raw(&records)?;
            self.pad(size)?;
        }
        self.raw(&header)
    }

    /// Writes an entry that has no data.
    ///
    /// # Errors
    /// As [`Writer::append`].
    pub fn append_empty(&mut self, entry: &Entry) -> Result<(), TarError> {
        self.append(entry, &mut io::empty())
    }

    /// Writes the end of the archive, and returns the stream.
    ///
    /// # Errors
    /// When the stream fails.
    pub fn finish(mut self) -> Result<W, TarError> {
        self.raw(&[0; 2 * BLOCK_LEN])?;
        Ok(self.out)
    }

    /// Returns the stream, to look at what it has counted or hashed so far.
    pub fn get_ref(&self) -> &W {
        &self.out
    }

    fn copy(&mut self, entry: &Entry, data: &mut (impl Read + ?Sized)) -> Result<(), TarError> {
        let mut buffer = [0; 16 * 1024];
        let mut left = entry.size;
        // The read after the last byte shows that the file did not grow.
        loop {
            let n = match data.read(&mut buffer) {
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(cause) => {
                    let path = entry.path.clone();
                    return Err(TarError::Contents { path, cause });
                }
            };
            if n == 0 && left == 0 {
                return Ok(());
            }
            if n == 0 || n as u64 > left {
                return Err(TarError::SizeChanged {
                    path: entry.path.clone(),
                    expected: entry.size,
                });
            }
            self.raw(&buffer[..n])?;
            left -= n as u64;
        }
    }

    fn pad(&mut self, size: u64) -> Result<(), TarError> {
        // The remainder is below 512.
        let n = usize::try_from(padding(size)).unwrap_or(0);
        self.raw(&[0; BLOCK_LEN][..n])
    }

    fn raw(&mut self, bytes: &[u8]) -> Result<(), TarError> {
        self.out.write_all(bytes).map_err(TarError::Write)
    }
}

fn check(entry: &Entry) -> Result<(), TarProblem> {
    let bad_path = |path: &[u8]| Err(TarProblem::BadPath(path.to_vec()));
    match entry.path.as_slice() {
        b"" if entry.kind != EntryKind::Dir => return bad_path(b""),
        b"" => {}
        path if !is_clean(path) => return bad_path(path),
        _ => {}
    }
    match entry.kind {
        EntryKind::Hardlink if !is_clean(&entry.link) => {
            return Err(TarProblem::BadLink(entry.link.clone()));
        }
        EntryKind::Symlink if entry.link.is_empty() || entry.link.contains(&0) => {
            return Err(TarProblem::BadLink(entry.link.clone()));
        }
        _ => {}
    }
    if entry.size != 0 && entry.kind != EntryKind::File {
        return Err(TarProblem::DataOnOther);
    }
    if entry.size > i64::MAX.unsigned_abs() {
        return Err(TarProblem::BadNumber("size"));
    }
    if entry.mode > 0o7777 {
        return Err(TarProblem::BadMode(entry.mode));
    }
    if is_device(entry.kind) && u64::from(entry.major.max(entry.minor)) > MAX_7 {
        return Err(TarProblem::BadNumber("device number"));
    }
    let bad_key = |key: &&Bytes| key.is_empty() || memchr::memchr2(b'=', 0, key).is_some();
    match entry.xattrs.keys().find(bad_key) {
        Some(key) => Err(TarProblem::BadXattr(key.clone())),
        None => Ok(()),
    }
}

fn is_clean(path: &[u8]) -> bool {
    path.split(|b| *b == b'/')
        .all(|part| !matches!(part, b"" | b"." | b"..") && !part.contains(&0))
}

fn is_device(kind: EntryKind) -> bool {
    matches!(kind, EntryKind::CharDev | EntryKind::BlockDev)
}

/// Makes the ustar header and the pax records, which are mostly none.
fn header(entry: &Entry) -> ([u8; BLOCK_LEN], Bytes) {
    let mut pax: BTreeMap<Bytes, Bytes> = BTreeMap::new();
    let mut name = if entry.path.is_empty() {
        b".".to_vec()
    } else {
        entry.path.clone()
    };
    let kind = match entry.kind {
        EntryKind::File => b'0',
        EntryKind::Hardlink => b'1',
        EntryKind::Symlink => b'2',
        EntryKind::CharDev => b'3',
        EntryKind::BlockDev => b'4',
        EntryKind::Dir => {
            name.push(b'/');
            b'5'
        }
        EntryKind::Fifo => b'6',
    };
    let mut out = Header::new(kind, entry.mode);
    if let Some((prefix, rest)) = split(&name) {
        out.text(0, NAME_LEN, rest);
        out.text(345, PREFIX_LEN, prefix);
    } else {
        out.text(0, NAME_LEN, &ascii(&name));
        pax.insert(b"path".to_vec(), name);
    }
    if matches!(entry.kind, EntryKind::Hardlink | EntryKind::Symlink) {
        if entry.link.len() <= NAME_LEN && entry.link.is_ascii() {
            out.text(157, NAME_LEN, &entry.link);
        } else {
            out.text(157, NAME_LEN, &ascii(&entry.link));
            pax.insert(b"linkpath".to_vec(), entry.link.clone());
        }
    }
    let mut number = |key: &str, at, digits, value: i128| {
        let limit = if digits == 7 { MAX_7 } else { MAX_11 };
        match u64::try_from(value) {
            Ok(v) if v <= limit => out.octal(at, digits, v),
            _ => {
                pax.insert(key.into(), value.to_string().into_bytes());
            }
        }
    };
    number("uid", 108, 7, entry.uid.into());
    number("gid", 116, 7, entry.gid.into());
    number("size", 124, 11, entry.size.into());
    number("mtime", 136, 11, entry.mtime_secs.into());
    if is_device(entry.kind) {
        out.octal(329, 7, entry.major.into());
        out.octal(337, 7, entry.minor.into());
    }
    for (key, value) in &entry.xattrs {
        pax.insert([PAX_XATTR, key].concat(), value.clone());
    }
    let mut records = Vec::new();
    for (key, value) in &pax {
        record(&mut records, key, value);
    }
    (out.finish(), records)
}

/// Splits a name for the two ustar fields, at the last `/` that leaves both short enough.
fn split(name: &[u8]) -> Option<(&[u8], &[u8])> {
    if !name.is_ascii() {
        return None;
    }
    if name.len() <= NAME_LEN {
        return Some((b"", name));
    }
    // The slash at the end of a directory's name stays with the name, which must not be empty.
    let body = &name[..name.len() - 1];
    let at = body.iter().take(PREFIX_LEN + 1).rposition(|b| *b == b'/')?;
    let (prefix, rest) = (&name[..at], &name[at + 1..]);
    (!prefix.is_empty() && rest.len() <= NAME_LEN).then_some((prefix, rest))
}

fn ascii(name: &[u8]) -> Bytes {
    let mark = |b: &u8| if b.is_ascii() { *b } else { b'_' };
    name.iter().take(NAME_LEN).map(mark).collect()
}

/// Writes `<length> <key>=<value>\n`, where the length counts its own digits too.
pub(super) fn record(out: &mut Bytes, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

struct Header([u8; BLOCK_LEN]);

impl Header {
    fn new(kind: u8, mode: u16) -> Self {
        let mut header = Self([0; BLOCK_LEN]);
        header.octal(100, 7, mode.into());
        for (at, digits) in [(108, 7), (116, 7), (124, 11), (136, 11), (329, 7), (337, 7)] {
            header.octal(at, digits, 0);
        }
        header.0[156] = kind;
        header.0[257..265].copy_from_slice(b"ustar\x0000");
        header
    }

    fn text(&mut self, at: usize, len: usize, text: &[u8]) {
        let n = text.len().min(len);
        self.0[at..at + n].copy_from_slice(&text[..n]);
    }

    /// Writes a number that is known to fit; the NUL after it is there already.
    fn octal(&mut self, at: usize, digits: usize, value: u64) {
        let mut value = value;
        for cell in self.0[at..at + digits].iter_mut().rev() {
            *cell = b'0' + (value & 7) as u8;
            value >>= 3;
        }
    }

    fn finish(mut self) -> [u8; BLOCK_LEN] {
        self.0[148..156].fill(b' ');
        let sum = self.0.iter().map(|b| u64::from(*b)).sum();
        self.octal(148, 6, sum);
        self.0[154] = 0;
        self.0
    }
}
