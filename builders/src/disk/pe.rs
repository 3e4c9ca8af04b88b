//! Sections added to a PE file, as unified kernel images are made: the stub of systemd, and what it starts.

use std::collections::BTreeSet;

use sos_engine::BuilderError;
use sos_formats::diagnostic::{Class, Diagnostic};

/// Readable, initialised data.
const DATA: u32 = 0x4000_0040;
const SECTION_BYTES: usize = 40;
/// The largest image: virtual addresses have 32 bits, and firmware takes much less.
const MAX_IMAGE: u64 = 2 << 30;

/// One section to add.
#[derive(Debug)]
pub(in crate::disk) struct Section<'a> {
    /// At most 8 bytes, with its dot.
    pub(in crate::disk) name: &'a str,
    pub(in crate::disk) data: &'a [u8],
}

/// Where the numbers of a PE header are.
#[derive(Debug)]
struct Header {
    /// Of the signature `PE\0\0`.
    pe: usize,
    /// Of the first section header.
    sections: usize,
    count: usize,
    section_alignment: u64,
    file_alignment: u64,
    headers_size: usize,
}

/// Adds sections behind those that are there. The time stamp, the table of symbols and the checksum of the header become 0.
///
/// # Errors
/// When the stub is no PE32+ file or has no room for that many section headers.
pub(in crate::disk) fn append(
    stub: &[u8],
    sections: &[Section<'_>],
) -> Result<Vec<u8>, BuilderError> {
    let header = read_header(stub).ok_or_else(|| bad("it is no EFI program (PE32+)"))?;
    let end = header.sections + (header.count + sections.len()) * SECTION_BYTES;
    if end > header.headers_size {
        let room = (header.headers_size - header.sections) / SECTION_BYTES;
        return Err(bad(&format!(
            "it has room for {room} sections and would need {}",
            header.count + sections.len()
        )));
    }
    let mut seen = BTreeSet::new();
    let mut next_address = 0;
    let mut file_end = u64::try_from(header.headers_size).unwrap_or(u64::MAX);
    for i in 0..header.count {
        let at = header.sections + i * SECTION_BYTES;
        let size = number(stub, at + 8).max(number(stub, at + 16));
        next_address = next_address.max(number(stub, at + 12) + size);
        file_end = file_end.max(number(stub, at + 20) + number(stub, at + 16));
        seen.insert(name_at(stub, at));
    }
    if file_end > stub.len() as u64 {
        return Err(bad("it is cut short"));
    }
    // What follows the last section, such as a signature, would be wrong for the new image.
    let mut out = stub[..usize::try_from(file_end).unwrap_or(stub.len())].to_vec();
    for (i, section) in sections.iter().enumerate() {
        if !seen.insert(section.name.to_owned()) {
            return Err(bad(&format!("it has a section `{}` already", section.name)));
        }
        let start = (out.len() as u64).next_multiple_of(header.file_alignment);
        next_address = next_address.next_multiple_of(header.section_alignment);
        let raw = (section.data.len() as u64).next_multiple_of(header.file_alignment);
        if next_address + raw > MAX_IMAGE || start + raw > MAX_IMAGE {
            return Err(bad("the image would be larger than 2 GiB"));
        }
        out.resize(index(start), 0);
        out.extend_from_slice(section.data);
        out.resize(index(start + raw), 0);
        let at = header.sections + (header.count + i) * SECTION_BYTES;
        let mut one = [0; SECTION_BYTES];
        one[..section.name.len().min(8)]
            .copy_from_slice(&section.name.as_bytes()[..section.name.len().min(8)]);
        one[8..12].copy_from_slice(&word(section.data.len() as u64));
        one[12..16].copy_from_slice(&word(next_address));
        one[16..20].copy_from_slice(&word(raw));
        one[20..24].copy_from_slice(&word(start));
        one[36..40].copy_from_slice(&DATA.to_le_bytes());
        out[at..at + SECTION_BYTES].copy_from_slice(&one);
        next_address += section.data.len() as u64;
    }
    let count = u16::try_from(header.count + sections.len()).unwrap_or(u16::MAX);
    out[header.pe + 6..header.pe + 8].copy_from_slice(&count.to_le_bytes());
    // Time stamp, and the table of symbols: it lay behind the sections, and is not taken over.
    out[header.pe + 8..header.pe + 20].fill(0);
    let optional = header.pe + 24;
    let size = next_address.next_multiple_of(header.section_alignment);
    out[optional + 56..optional + 60].copy_from_slice(&word(size));
    out[optional + 64..optional + 68].fill(0);
    // No certificates: a signature of the stub does not hold for the image.
    if number(&out, optional + 108) > 4 && optional + 152 <= header.sections {
        out[optional + 144..optional + 152].fill(0);
    }
    Ok(out)
}

fn read_header(stub: &[u8]) -> Option<Header> {
    if stub.get(..2)? != b"MZ" {
        return None;
    }
    let pe = usize::try_from(number_in(stub, 0x3c)?).ok()?;
    if stub.get(pe..pe.checked_add(4)?)? != b"PE\0\0" {
        return None;
    }
    let short = |at: usize| -> Option<usize> {
        let bytes = stub.get(at..at + 2)?;
        Some(usize::from(u16::from_le_bytes([bytes[0], bytes[1]])))
    };
    let optional = pe + 24;
    let sections = optional + short(pe + 20)?;
    let header = Header {
        pe,
        sections,
        count: short(pe + 6)?,
        section_alignment: number_in(stub, optional + 32)?,
        file_alignment: number_in(stub, optional + 36)?,
        headers_size: usize::try_from(number_in(stub, optional + 60)?).ok()?,
    };
    let is_power = |n: u64| n.is_power_of_two() && (1 << 9..=1 << 16).contains(&n);
    let sound = short(optional)? == 0x20b
        && sections >= optional + 112
        && header.count <= 96
        && is_power(header.file_alignment)
        && header.section_alignment.is_power_of_two()
        && header.section_alignment >= header.file_alignment
        && header.headers_size <= stub.len()
        && header.sections + header.count * SECTION_BYTES <= header.headers_size;
    sound.then_some(header)
}

fn number_in(bytes: &[u8], at: usize) -> Option<u64> {
    let found = bytes.get(at..at.checked_add(4)?)?;
    Some(u64::from(u32::from_le_bytes([
        found[0], found[1], found[2], found[3],
    ])))
}

fn number(bytes: &[u8], at: usize) -> u64 {
    number_in(bytes, at).unwrap_or_default()
}

fn name_at(bytes: &[u8], at: usize) -> String {
    let name = bytes.get(at..at + 8).unwrap_or_default();
    let end = name.iter().position(|b| *b == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

fn word(value: u64) -> [u8; 4] {
    u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes()
}

fn index(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

fn bad(why: &str) -> BuilderError {
    Diagnostic::error(
        "uki-stub",
        Class::Recipe,
        format!("the stub cannot be made into a kernel image: {why}"),
    )
    .help(
        "a stub is `linuxx64.efi.stub` of systemd; Debian has it in the package `systemd-boot-efi`",
    )
    .into()
}

/// What a signature needs to know of a PE file.
#[derive(Debug)]
pub(in crate::disk) struct Layout {
    /// Where the checksum is, which has 4 bytes.
    pub(in crate::disk) checksum: usize,
    /// Where the place and size of signatures are noted, in 8 bytes.
    pub(in crate::disk) table: usize,
    /// Where the program ends and signatures may begin.
    pub(in crate::disk) end: usize,
}

/// Finds that; none when it is no PE32+ file with room for a signature.
pub(in crate::disk) fn layout(image: &[u8]) -> Option<Layout> {
    let header = read_header(image)?;
    let optional = header.pe + 24;
    let table = optional + 144;
    if number(image, optional + 108) <= 4 || table + 8 > header.sections {
        return None;
    }
    let (start, size) = (number(image, table), number(image, table + 4));
    let end = match usize::try_from(start).ok()? {
        0 => image.len(),
        start if size > 0 && (header.headers_size..=image.len()).contains(&start) => start,
        _ => return None,
    };
    Some(Layout {
        checksum: optional + 64,
        table,
        end,
    })
}

/// The sections of a PE file by name, without padding.
///
/// # Errors
/// `None` when it is no PE32+ file or is cut short.
pub(in crate::disk) fn sections(image: &[u8]) -> Option<Vec<(String, &[u8])>> {
    let header = read_header(image)?;
    (0..header.count)
        .map(|i| {
            let at = header.sections + i * SECTION_BYTES;
            let size = usize::try_from(number(image, at + 8).min(number(image, at + 16))).ok()?;
            let start = usize::try_from(number(image, at + 20)).ok()?;
            Some((
                name_at(image, at),
                image.get(start..start.checked_add(size)?)?,
            ))
        })
        .collect()
}
