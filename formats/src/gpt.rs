//! GUID partition tables (UEFI 2.10, section 5), for disks with sectors of 512 bytes.
//!
//! ```text
//! LBA 0             protective MBR: one entry of type 0xEE over the whole disk
//! LBA 1             header: signature, revision, CRCs, where the rest is
//! LBA 2..34         128 entries of 128 bytes
//! ...               partitions, aligned to 1 MiB
//! last 33 sectors   the entries again, then the header again
//! ```
//!
//! Writing puts every reserved byte to zero. Reading checks both CRCs and takes the copy at the end when the first one is damaged.

mod damage;

use crate::uuid::Uuid;

/// Bytes of a sector.
pub const SECTOR: u64 = 512;
/// Partitions begin and end at multiples of this many bytes.
pub const ALIGN: u64 = 1 << 20;
/// Bytes that a table takes at the beginning of a disk, MBR included.
pub const HEAD_BYTES: usize = 34 * 512;
/// Bytes that the copy takes at the end.
pub const TAIL_BYTES: usize = 33 * 512;

const TAIL_SECTORS: u64 = TAIL_BYTES as u64 / SECTOR;
/// Where the header of the copy at the end is, in its bytes.
const SECOND: usize = TAIL_BYTES - 512;
/// Where a header says which sector is the last that partitions may use.
const LAST_USABLE: usize = 48;
const ENTRIES: usize = 128;
const ENTRY_BYTES: usize = 128;
const HEADER_BYTES: usize = 92;
const SIGNATURE: &[u8; 8] = b"EFI PART";
/// Units of UTF-16 in a name.
const NAME_UNITS: usize = 36;

/// One partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// What it is for; see [`type_of`].
    pub kind: Uuid,
    /// Its own id.
    pub uuid: Uuid,
    /// The first sector.
    pub first: u64,
    /// The last sector.
    pub last: u64,
    /// Bit 60 read-only, 63 not to be mounted by itself, 59 its file system is to grow.
    pub attributes: u64,
    /// At most 36 units of UTF-16.
    pub name: String,
}

impl Partition {
    /// Where it begins, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.first * SECTOR
    }

    /// How long it is, in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        (self.last + 1 - self.first) * SECTOR
    }
}

/// A whole table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table {
    /// The id of the disk.
    pub disk: Uuid,
    /// The size of the disk in sectors.
    pub sectors: u64,
    /// In the order of the table; entries that are not used are left out.
    pub partitions: Vec<Partition>,
}

/// Why a table cannot be written or read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GptError {
    /// No table at all.
    #[error("there is no GUID partition table")]
    Missing,
    /// A table of another revision or shape.
    #[error("the partition table {0}")]
    Unsupported(&'static str),
    /// The checksums do not fit.
    #[error("both copies of the partition table are damaged")]
    Damaged,
    /// More partitions than a table holds.
    #[error("{0} partitions; a table holds 128")]
    TooMany(usize),
    /// A name with more than 36 units.
    #[error("the name `{}` of a partition is {} characters long, and a partition table has room for 36", .0.escape_debug(), .0.encode_utf16().count())]
    LongName(String),
    /// A name that is empty, or ends or changes where it is shown.
    #[error("the name `{}` of a partition is empty or has a control character", .0.escape_debug())]
    BadName(String),
    /// A partition outside the disk or on another one.
    #[error("the partition `{0}` overlaps another one or does not fit on the disk")]
    Place(String),
}

/// Types of partitions by the words that recipes use, after the Discoverable Partitions Specification.
pub const TYPES: &[(&str, &str)] = &[
    ("esp", "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"),
    ("xbootldr", "bc13c2ff-59e6-4262-a352-b275fd6f7172"),
    ("root", "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"),
    ("root-verity", "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5"),
    ("root-verity-sig", "41092b05-9fc8-4523-994f-2def0408b176"),
    ("root-arm64", "b921b045-1df0-41c3-af44-4c6f280d3fae"),
    ("root-arm64-verity", "df3300ce-d69f-4c92-978c-9bfb0f38d820"),
    ("usr", "8484680c-9521-48c6-9c11-b0720656f69e"),
    ("usr-verity", "77ff5f63-e7b6-4633-acf4-1565b864c0e6"),
    ("home", "933ac7e1-2eb4-4f13-b844-0e14e2aef915"),
    ("srv", "3b8f8425-20e0-4f3b-907f-1a25a76f98e8"),
    ("var", "4d21b016-b534-45c2-a9fb-5c16e091fd2d"),
    ("swap", "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"),
    ("linux", "0fc63daf-8483-4772-8e79-3d69d8477de4"),
    ("bios-boot", "21686148-6449-6e6f-744e-656564454649"),
];

/// The type that a word stands for, or that is written out as a UUID. Zeros are none: they mark an entry that is not in use.
#[must_use]
pub fn type_of(word: &str) -> Option<Uuid> {
    let known = TYPES.iter().find(|(name, _)| *name == word);
    Uuid::parse_id(known.map_or(word, |(_, uuid)| uuid)).ok()
}

/// Whether a partition can have a name.
///
/// # Errors
/// When it is too long or empty, or has control characters, of which one ends it.
pub fn check_name(name: &str) -> Result<(), GptError> {
    if name.encode_utf16().count() > NAME_UNITS {
        return Err(GptError::LongName(name.to_owned()));
    }
    if name.is_empty() || name.chars().any(char::is_control) {
        return Err(GptError::BadName(name.to_owned()));
    }
    Ok(())
}

/// The word for a type, or its UUID.
#[must_use]
pub fn type_name(kind: Uuid) -> String {
    let text = kind.to_string();
    let known = TYPES.iter().find(|(_, uuid)| *uuid == text);
    known.map_or(text.clone(), |(name, _)| (*name).to_owned())
}

impl Table {
    /// Writes the beginning of the disk ([`HEAD_BYTES`]) and its end ([`TAIL_BYTES`]).
    ///
    /// # Errors
    /// When a name is too long, or partitions overlap or leave the disk.
    pub fn encode(&self) -> Result<(Vec<u8>, Vec<u8>), GptError> {
        let (first, last) = self
            .usable()
            .ok_or_else(|| GptError::Place("all".to_owned()))?;
        if self.partitions.len() > ENTRIES {
            return Err(GptError::TooMany(self.partitions.len()));
        }
        let mut by_place: Vec<&Partition> = self.partitions.iter().collect();
        by_place.sort_by_key(|p| p.first);
        let mut free = first;
        for partition in by_place {
            if partition.first < free || partition.last < partition.first || partition.last > last {
                return Err(GptError::Place(partition.name.clone()));
            }
            free = partition.last + 1;
        }
        let mut entries = vec![0; ENTRIES * ENTRY_BYTES];
        for (partition, entry) in self
            .partitions
            .iter()
            .zip(entries.chunks_exact_mut(ENTRY_BYTES))
        {
            partition.encode(entry)?;
        }
        let end = self.sectors - 1;
        let mut head = vec![0; HEAD_BYTES];
        head[..512].copy_from_slice(&self.mbr());
        head[512..512 + HEADER_BYTES].copy_from_slice(&self.header(&entries, 1, end, 2));
        head[1024..].copy_from_slice(&entries);
        let mut tail = entries;
        tail.resize(TAIL_BYTES, 0);
        let header = self.header(&tail[..ENTRIES * ENTRY_BYTES], end, 1, end - 32);
        tail[32 * 512..32 * 512 + HEADER_BYTES].copy_from_slice(&header);
        Ok((head, tail))
    }

    /// The first and the last sector that partitions may use; none when the disk is too small for a table.
    #[must_use]
    pub fn usable(&self) -> Option<(u64, u64)> {
        let last = self.sectors.checked_sub(34)?;
        (last >= 34).then_some((34, last))
    }

    fn mbr(&self) -> [u8; 512] {
        let mut mbr = [0; 512];
        let size = u32::try_from(self.sectors - 1).unwrap_or(u32::MAX);
        // Not bootable, from the second sector to the end, as cylinders cannot say.
        mbr[446..454].copy_from_slice(&[0, 0, 2, 0, 0xee, 0xff, 0xff, 0xff]);
        mbr[454..458].copy_from_slice(&1u32.to_le_bytes());
        mbr[458..462].copy_from_slice(&size.to_le_bytes());
        mbr[510..].copy_from_slice(&[0x55, 0xaa]);
        mbr
    }

    fn header(&self, entries: &[u8], own: u64, other: u64, at: u64) -> [u8; HEADER_BYTES] {
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(SIGNATURE);
        header[8..12].copy_from_slice(&0x0001_0000u32.to_le_bytes());
        header[12..16].copy_from_slice(&92u32.to_le_bytes());
        header[24..32].copy_from_slice(&own.to_le_bytes());
        header[32..40].copy_from_slice(&other.to_le_bytes());
        header[40..48].copy_from_slice(&34u64.to_le_bytes());
        header[48..56].copy_from_slice(&(self.sectors - 34).to_le_bytes());
        header[56..72].copy_from_slice(&self.disk.to_guid());
        header[72..80].copy_from_slice(&at.to_le_bytes());
        header[80..84].copy_from_slice(&128u32.to_le_bytes());
        header[84..88].copy_from_slice(&128u32.to_le_bytes());
        header[88..92].copy_from_slice(&crc32(entries).to_le_bytes());
        let crc = crc32(&header);
        header[16..20].copy_from_slice(&crc.to_le_bytes());
        header
    }

    /// Reads a table out of the first [`HEAD_BYTES`] and the last [`TAIL_BYTES`] of a disk of `sectors` sectors.
    ///
    /// # Errors
    /// When there is none, or neither copy is sound.
    pub fn decode(head: &[u8], tail: &[u8], sectors: u64) -> Result<Self, GptError> {
        first_copy(head, sectors)
            .or_else(|error| second_copy(tail, sectors).map_err(|_second| error))
    }
}

fn first_copy(head: &[u8], sectors: u64) -> Result<Table, GptError> {
    let header = head.get(512..1024).ok_or(GptError::Missing)?;
    decode_copy(header, head.get(1024..HEAD_BYTES), sectors)
}

fn second_copy(tail: &[u8], sectors: u64) -> Result<Table, GptError> {
    let header = tail.get(SECOND..TAIL_BYTES).ok_or(GptError::Missing)?;
    decode_copy(header, tail.get(..SECOND), sectors)
}

fn decode_copy(header: &[u8], entries: Option<&[u8]>, sectors: u64) -> Result<Table, GptError> {
    let entries = entries.ok_or(GptError::Missing)?;
    if header[..8] != *SIGNATURE {
        return Err(GptError::Missing);
    }
    if number(header, 12, 4) != 92 || number(header, 84, 4) != 128 || number(header, 80, 4) != 128 {
        return Err(GptError::Unsupported(
            "has an unusual shape: other than 128 entries of 128 bytes",
        ));
    }
    let mut bare = header[..HEADER_BYTES].to_vec();
    bare[16..20].fill(0);
    if number(header, 16, 4) != u64::from(crc32(&bare))
        || number(header, 88, 4) != u64::from(crc32(entries))
    {
        return Err(GptError::Damaged);
    }
    let mut partitions = Vec::new();
    for entry in entries.chunks_exact(ENTRY_BYTES) {
        let kind = guid(entry, 0);
        if kind.is_nil() {
            continue;
        }
        let units: Vec<u16> = entry[56..]
            .chunks_exact(2)
            .map(|unit| u16::from_le_bytes([unit[0], unit[1]]))
            .take_while(|unit| *unit != 0)
            .collect();
        let partition = Partition {
            kind,
            uuid: guid(entry, 16),
            first: number(entry, 32, 8),
            last: number(entry, 40, 8),
            attributes: number(entry, 48, 8),
            name: String::from_utf16_lossy(&units),
        };
        // Where the second copy is, or would be if the disk had not become smaller, there is no room for it.
        if partition.last < partition.first
            || partition.last >= sectors.saturating_sub(TAIL_SECTORS)
        {
            return Err(GptError::Place(partition.name));
        }
        partitions.push(partition);
    }
    Ok(Table {
        disk: guid(header, 56),
        sectors,
        partitions,
    })
}

impl Partition {
    fn encode(&self, entry: &mut [u8]) -> Result<(), GptError> {
        check_name(&self.name)?;
        entry[..16].copy_from_slice(&self.kind.to_guid());
        entry[16..32].copy_from_slice(&self.uuid.to_guid());
        entry[32..40].copy_from_slice(&self.first.to_le_bytes());
        entry[40..48].copy_from_slice(&self.last.to_le_bytes());
        entry[48..56].copy_from_slice(&self.attributes.to_le_bytes());
        let units = self.name.encode_utf16();
        for (unit, place) in units.zip(entry[56..].chunks_exact_mut(2)) {
            place.copy_from_slice(&unit.to_le_bytes());
        }
        Ok(())
    }
}

fn guid(bytes: &[u8], at: usize) -> Uuid {
    let mut guid = [0; 16];
    guid.copy_from_slice(&bytes[at..at + 16]);
    Uuid::from_guid(guid)
}

fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    let mut value = [0; 8];
    value[..len].copy_from_slice(&bytes[at..at + len]);
    u64::from_le_bytes(value)
}

/// CRC-32 as zlib and UEFI compute it. A table has 16 KiB: a bit at a time is fast enough.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc = crc >> 1 ^ (0xedb8_8320 & low.wrapping_neg());
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn table() -> Table {
        let partition = |name: &str, kind: &str, first: u64, last: u64| Partition {
            kind: type_of(kind).expect("a type"),
            uuid: Uuid::derived("test", name),
            first,
            last,
            attributes: 1 << 59,
            name: name.to_owned(),
        };
        Table {
            disk: Uuid::derived("test", "disk"),
            sectors: 1 << 20,
            partitions: vec![
                partition("esp", "esp", 2048, 133_119),
                partition("wurzel-ä", "root", 133_120, 999_423),
            ],
        }
    }

    #[test]
    fn crc_is_the_usual_one() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn what_is_written_is_read_back() {
        let table = table();
        let (head, tail) = table.encode().expect("a table");
        assert_eq!((head.len(), tail.len()), (HEAD_BYTES, TAIL_BYTES));
        assert_eq!(Table::decode(&head, &tail, table.sectors), Ok(table));
    }

    #[test]
    fn either_copy_is_enough() {
        let table = table();
        let (mut head, mut tail) = table.encode().expect("a table");
        head[1024] ^= 1;
        assert_eq!(
            Table::decode(&head, &tail, table.sectors).as_ref(),
            Ok(&table)
        );
        tail[0] ^= 1;
        assert_eq!(
            Table::decode(&head, &tail, table.sectors),
            Err(GptError::Damaged)
        );
        assert_eq!(Table::decode(&[], &[], 10), Err(GptError::Missing));
        assert_eq!(
            Table::decode(&[0; HEAD_BYTES], &[0; TAIL_BYTES], 100),
            Err(GptError::Missing)
        );
    }

    #[test]
    fn partitions_stay_apart_and_on_the_disk() {
        let mut overlap = table();
        overlap.partitions[1].first = 133_119;
        assert_eq!(
            overlap.encode(),
            Err(GptError::Place("wurzel-ä".to_owned()))
        );
        let mut large = table();
        large.partitions[1].last = (1 << 20) - 33;
        assert!(large.encode().is_err());
        let mut low = table();
        low.partitions[0].first = 33;
        assert!(low.encode().is_err());
        let mut long = table();
        long.partitions[0].name = "x".repeat(37);
        assert!(matches!(long.encode(), Err(GptError::LongName(_))));
        // Each of these takes two units.
        long.partitions[0].name = "😀".repeat(19);
        assert!(matches!(long.encode(), Err(GptError::LongName(_))));
        for bad in ["", "a\0b", "a\u{9b}b"] {
            long.partitions[0].name = bad.to_owned();
            assert_eq!(long.encode(), Err(GptError::BadName(bad.to_owned())));
        }
        assert_eq!(type_of("00000000-0000-0000-0000-000000000000"), None);
        let small = Table {
            sectors: 40,
            ..table()
        };
        assert!(small.encode().is_err());
    }
}
