//! Zip archives, unpacked as `fetchTarball` does with them: by their directory at the end, deflated or stored.

use std::fs::File;
use std::io::{self, Read, Seek as _, SeekFrom};

use sos_formats::Bytes;
use sos_formats::tar::{Entry, EntryKind};

use super::failure::Failure;
use super::limits::MAX_UNPACKED_BYTES;

/// Entries of one archive.
const MAX_ENTRIES: usize = 1 << 20;
/// The directory of the largest archive that is read.
const MAX_DIRECTORY_BYTES: u32 = 256 << 20;
/// The longest target of a link.
const MAX_LINK_BYTES: u64 = 4096;

const END: &[u8] = b"PK\x05\x06";
const END_LEN: usize = 22;
const CENTRAL: &[u8] = b"PK\x01\x02";
const CENTRAL_LEN: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_LEN: usize = 30;

/// Whether a file begins as a zip archive does.
pub(super) fn is_zip(head: &[u8]) -> bool {
    head.starts_with(LOCAL) || head.starts_with(END)
}

/// What the directory says of one file.
struct Listed {
    path: Bytes,
    mode: u32,
    method: u16,
    packed: u64,
    size: u64,
    crc: u32,
    at: u64,
}

/// Hands every entry with its content to `add`, in the order of the directory.
///
/// # Errors
/// When the archive is damaged, encrypted, larger than 4 GiB, or lies about sizes; and whatever `add` says.
pub(super) fn read(
    file: &mut File,
    add: &mut dyn FnMut(&Entry, &mut dyn Read) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut total = 0_u64;
    for listed in directory(file)? {
        total = total.saturating_add(listed.size);
        if total > MAX_UNPACKED_BYTES {
            return Err(bad("the archive is too large when unpacked"));
        }
        one(file, &listed, add)?;
    }
    Ok(())
}

fn one(
    file: &mut File,
    listed: &Listed,
    add: &mut dyn FnMut(&Entry, &mut dyn Read) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut path = clean(&listed.path)?;
    let directory = path.last() == Some(&b'/') || listed.mode & 0o170_000 == 0o040_000;
    while path.last() == Some(&b'/') {
        path.pop();
    }
    let link = listed.mode & 0o170_000 == 0o120_000;
    let mut entry = Entry {
        path,
        kind: if directory {
            EntryKind::Dir
        } else if link {
            EntryKind::Symlink
        } else {
            EntryKind::File
        },
        mode: u16::try_from(listed.mode & 0o7777).unwrap_or(0o644),
        size: if directory || link { 0 } else { listed.size },
        ..Entry::default()
    };
    file.seek(SeekFrom::Start(listed.at))
        .map_err(Failure::Read)?;
    let mut head = [0; LOCAL_LEN];
    file.read_exact(&mut head).map_err(|e| cut(&e))?;
    if !head.starts_with(LOCAL) {
        return Err(bad(
            "an entry of the zip archive is not where its directory says",
        ));
    }
    let skip = u64::from(le16(&head, 26)) + u64::from(le16(&head, 28));
    let skip = i64::try_from(skip).unwrap_or(i64::MAX);
    file.seek(SeekFrom::Current(skip)).map_err(Failure::Read)?;
    let packed = file.by_ref().take(listed.packed);
    let plain: Box<dyn Read + '_> = match listed.method {
        0 => Box::new(packed),
        8 => Box::new(flate2::read::DeflateDecoder::new(packed)),
        other => {
            return Err(bad(&format!(
                "the zip archive uses compression {other}; stored and deflated entries are supported"
            )));
        }
    };
    let mut plain = Checked {
        inner: plain.take(listed.size),
        crc: crc32fast::Hasher::new(),
    };
    if link {
        if listed.size > MAX_LINK_BYTES {
            return Err(bad("the zip archive has a link that is too long"));
        }
        plain.read_to_end(&mut entry.link).map_err(|e| cut(&e))?;
    }
    if directory || link {
        add(&entry, &mut io::empty())?;
    } else {
        add(&entry, &mut plain)?;
    }
    if !directory && plain.crc.finalize() != listed.crc {
        return Err(bad(
            "a checksum in the zip archive does not fit its content",
        ));
    }
    Ok(())
}

/// Sums what is read through it.
struct Checked<R> {
    inner: R,
    crc: crc32fast::Hasher,
}

impl<R: Read> Read for Checked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.crc.update(&buffer[..n]);
        Ok(n)
    }
}

/// Reads the directory at the end of the archive.
fn directory(file: &mut File) -> Result<Vec<Listed>, Failure> {
    let length = file.seek(SeekFrom::End(0)).map_err(Failure::Read)?;
    // A comment of at most 64 KiB may follow the end record.
    let tail = length.min(END_LEN as u64 + 0xffff);
    file.seek(SeekFrom::Start(length - tail))
        .map_err(Failure::Read)?;
    let mut end = Vec::new();
    file.by_ref()
        .take(tail)
        .read_to_end(&mut end)
        .map_err(Failure::Read)?;
    let at = end
        .windows(END_LEN)
        .rposition(|w| w.starts_with(END))
        .ok_or_else(|| bad("the zip archive has no directory"))?;
    let end = &end[at..];
    let (count, size, start) = (le16(end, 10), le32(end, 12), le32(end, 16));
    if count == 0xffff || size == u32::MAX || start == u32::MAX || size > MAX_DIRECTORY_BYTES {
        return Err(bad("the zip archive is too large"));
    }
    file.seek(SeekFrom::Start(start.into()))
        .map_err(Failure::Read)?;
    let mut bytes = Vec::new();
    let read = file.by_ref().take(size.into()).read_to_end(&mut bytes);
    read.map_err(Failure::Read)?;
    let mut rest = bytes.as_slice();
    let mut out = Vec::new();
    while rest.len() >= CENTRAL_LEN && rest.starts_with(CENTRAL) && out.len() < MAX_ENTRIES {
        let names = usize::from(le16(rest, 28));
        let more = usize::from(le16(rest, 30)) + usize::from(le16(rest, 32));
        let path = rest
            .get(CENTRAL_LEN..CENTRAL_LEN + names)
            .ok_or_else(|| bad("the directory of the zip archive is cut short"))?;
        if le16(rest, 8) & 1 != 0 {
            return Err(bad("the zip archive is encrypted"));
        }
        // Only archives made on Unix know modes.
        let unix = rest[5] == 3;
        out.push(Listed {
            path: path.to_vec(),
            mode: if unix { le32(rest, 38) >> 16 } else { 0o644 },
            method: le16(rest, 10),
            crc: le32(rest, 16),
            packed: le32(rest, 20).into(),
            size: le32(rest, 24).into(),
            at: le32(rest, 42).into(),
        });
        rest = rest.get(CENTRAL_LEN + names + more..).unwrap_or_default();
    }
    if out.len() != usize::from(count) {
        return Err(bad("the directory of the zip archive is damaged"));
    }
    Ok(out)
}

/// Refuses names that lead out of the archive.
fn clean(path: &[u8]) -> Result<Bytes, Failure> {
    let inside = path.strip_suffix(b"/").unwrap_or(path);
    let parts = inside.split(|b| *b == b'/');
    let safe = !path.contains(&0)
        && parts
            .clone()
            .all(|part| !matches!(part, b"" | b"." | b".."));
    if safe {
        return Ok(path.to_vec());
    }
    Err(bad(&format!(
        "the zip archive has an entry `{}`",
        String::from_utf8_lossy(path)
    )))
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from(le16(bytes, at)) | u32::from(le16(bytes, at + 2)) << 16
}

fn cut(error: &io::Error) -> Failure {
    bad(&error.to_string())
}

fn bad(reason: &str) -> Failure {
    Failure::Content {
        reason: reason.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// An archive of one stored file.
    fn archive(name: &str, content: &[u8]) -> Vec<u8> {
        let length = u32::try_from(content.len()).unwrap().to_le_bytes();
        let name_len = u16::try_from(name.len()).unwrap().to_le_bytes();
        let crc = crc32fast::hash(content).to_le_bytes();
        // From the compression on, both headers say the same.
        let mut common = vec![0; 6];
        common.extend(crc);
        common.extend(length);
        common.extend(length);
        common.extend(name_len);
        common.extend([0, 0]);
        let mut out = [LOCAL, &[20, 0, 0, 0], &common, name.as_bytes(), content].concat();
        let start = u32::try_from(out.len()).unwrap();
        let mut central = [CENTRAL, &[20, 3, 20, 0, 0, 0], &common].concat();
        central.extend([0; 6]);
        central.extend((0o100_755_u32 << 16).to_le_bytes());
        central.extend([0; 4]);
        central.extend(name.as_bytes());
        out.extend(&central);
        out.extend([END, &[0, 0, 0, 0, 1, 0, 1, 0]].concat());
        out.extend(u32::try_from(central.len()).unwrap().to_le_bytes());
        out.extend(start.to_le_bytes());
        out.extend([0, 0]);
        out
    }

    fn open(bytes: &[u8]) -> Result<Vec<(Bytes, u16, Vec<u8>)>, String> {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        let mut out = Vec::new();
        read(&mut file, &mut |entry, data| {
            let mut content = Vec::new();
            data.read_to_end(&mut content).map_err(Failure::Read)?;
            out.push((entry.path.clone(), entry.mode, content));
            Ok(())
        })
        .map_err(|e| e.to_string())?;
        Ok(out)
    }

    #[test]
    fn a_file_comes_out_as_it_went_in() {
        let got = open(&archive("d/f", b"content")).unwrap();
        assert_eq!(got, [(b"d/f".to_vec(), 0o755, b"content".to_vec())]);
    }

    #[test]
    fn names_that_lead_out_are_refused() {
        for name in ["../f", "/f", "a/../../f", "a//f", "f\0"] {
            let error = open(&archive(name, b"x")).unwrap_err();
            assert!(error.contains("has an entry"), "{name}: {error}");
        }
    }

    #[test]
    fn damage_is_an_error_or_harmless() {
        let valid = archive("f", b"some content");
        for at in 0..valid.len() {
            for value in [0, 0xff, valid[at] ^ 1] {
                let mut bytes = valid.clone();
                bytes[at] = value;
                drop(open(&bytes));
            }
            assert!(open(&valid[..at]).is_err(), "{at}");
        }
        let mut other = valid;
        let at = other.windows(4).position(|w| w == b"some").unwrap();
        other[at] = b'S';
        assert!(open(&other).unwrap_err().contains("checksum"));
    }
}
