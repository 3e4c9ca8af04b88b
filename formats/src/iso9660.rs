//! Volumes for optical drives (ISO 9660, ECMA-119), with the names of Rock Ridge and an entry that UEFI firmware starts (El Torito).
//!
//! ```text
//! sector 0..16    left free: a partition table has room there
//! sector 16       primary volume descriptor
//! sector 17       boot record: where the catalog is
//! sector 18       end of the descriptors
//! sector 19       boot catalog: one entry, for EFI, without emulation
//! sector 20...    path tables, one in each order of bytes; directories, the root first
//! ```
//!
//! Sectors have 2048 bytes. Contents of files lie wherever the caller puts them, at whole sectors: several entries may point into one
//! image, such as the EFI system partition from which the volume starts. Volumes are written, and read no further than [`identity`]; nothing but the description decides
//! the bytes: names in the order of the standard, one time for all.
//!
//! # Source
//! ECMA-119 (third edition); System Use Sharing Protocol and Rock Ridge Interchange Protocol 1.10; El Torito 1.0; UEFI 2.10, section 13.3.2.

use std::collections::{BTreeMap, BTreeSet};

use crate::calendar::{Moment, days_since_1970};

/// Bytes of a sector.
pub const SECTOR: u64 = 2048;
/// Bytes at the beginning that a volume leaves free.
pub const SYSTEM_AREA_BYTES: u64 = 16 * SECTOR;

const SECTOR_BYTES: usize = 2048;
const FIRST_DESCRIPTOR: u64 = 16;
const CATALOG: u64 = 19;
const PATH_TABLES: u64 = 20;
/// Levels of directories, the root being the first.
const MAX_LEVELS: usize = 8;
/// The longest name that fits one directory record with all else that is in it.
const MAX_NAME_BYTES: usize = 150;
/// Entries of a volume.
const MAX_ENTRIES: usize = 10_000;
/// Years of a directory record are counted from 1900 in one byte.
const LAST_TIME: i64 = 5_869_583_999;

/// A file of a volume, whose content is somewhere in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Names with `/` between them, none at the front.
    pub path: String,
    /// Where the content begins in the image, in bytes; a multiple of [`SECTOR`].
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// A volume that starts by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Volume {
    /// What the volume is called; letters become large ones, and what is neither a letter nor a digit becomes `_`.
    pub label: String,
    /// Seconds since 1970: when all of it was made.
    pub epoch: i64,
    /// Bytes of the whole image; a multiple of [`SECTOR`].
    pub size: u64,
    /// Where the FAT volume that firmware starts from begins, in bytes; a multiple of [`SECTOR`].
    pub boot: u64,
    /// Its bytes.
    pub boot_size: u64,
    /// Files in any order; directories come by themselves.
    pub files: Vec<File>,
}

/// Why a volume cannot be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsoError {
    /// A name that is empty or too long.
    #[error(
        "`{0}` has a name that an ISO 9660 volume cannot hold: 1 to 150 bytes, and not `.` or `..`"
    )]
    Name(String),
    /// Directories below each other.
    #[error("`{0}` is deeper than the eight levels of an ISO 9660 volume")]
    Deep(String),
    /// One path twice, or a directory that is a file.
    #[error("`{0}` is there twice")]
    Twice(String),
    /// More than 10,000 files and directories.
    #[error("{0} files and directories; a volume gets 10000")]
    TooMany(usize),
    /// A size or place that does not fit the fields, or is at no whole sector.
    #[error(
        "`{0}` does not fit an ISO 9660 volume: its size and its place have 32 bits, in bytes and in whole sectors"
    )]
    Place(String),
}

/// Stem and extension, filled up with blanks.
type PlainName = ([u8; 8], [u8; 3]);

/// A directory or file in the making.
#[derive(Debug, Default)]
struct Node {
    name: String,
    /// The name that the standard allows, with version and point where it has them.
    plain: Vec<u8>,
    parent: usize,
    is_dir: bool,
    children: Vec<usize>,
    /// Bytes of the content; of a directory, of its records in whole sectors.
    size: u32,
    /// The sector where that begins.
    sector: u32,
}

impl Volume {
    /// Writes what stands between the system area and the contents: to be put at [`SYSTEM_AREA_BYTES`]. Its length depends on names
    /// alone, so that places may be found with a first call and filled in for a second one.
    ///
    /// # Errors
    /// When a name, a size or a place cannot be told in the format.
    pub fn encode(&self) -> Result<Vec<u8>, IsoError> {
        let mut nodes = self.nodes()?;
        let dirs = directories(&nodes);
        let table = path_table(&nodes, &dirs, Order::Little);
        let table_sectors = table.len().div_ceil(SECTOR_BYTES) as u64;
        let mut next = PATH_TABLES + 2 * table_sectors;
        for dir in &dirs {
            let bytes = records(&nodes, *dir, self.epoch).len();
            nodes[*dir].size = u32::try_from(bytes).map_err(|_e| self.place(&nodes[*dir].name))?;
            nodes[*dir].sector = u32::try_from(next).map_err(|_e| self.place(&nodes[*dir].name))?;
            next += (bytes / SECTOR_BYTES) as u64;
        }
        let start = FIRST_DESCRIPTOR * SECTOR;
        let len = usize::try_from(next * SECTOR - start).map_err(|_e| self.place("/"))?;
        let mut out = vec![0; len];
        let mut put = |sector: u64, bytes: &[u8]| {
            let at = usize::try_from((sector - FIRST_DESCRIPTOR) * SECTOR).unwrap_or(usize::MAX);
            if let Some(place) = out.get_mut(at..at + bytes.len()) {
                place.copy_from_slice(bytes);
            }
        };
        put(
            FIRST_DESCRIPTOR,
            &self.primary(&nodes, table.len(), table_sectors)?,
        );
        put(FIRST_DESCRIPTOR + 1, &boot_record());
        put(FIRST_DESCRIPTOR + 2, b"\xffCD001\x01");
        put(CATALOG, &self.catalog()?);
        put(PATH_TABLES, &path_table(&nodes, &dirs, Order::Little));
        put(
            PATH_TABLES + table_sectors,
            &path_table(&nodes, &dirs, Order::Big),
        );
        for dir in &dirs {
            put(
                u64::from(nodes[*dir].sector),
                &records(&nodes, *dir, self.epoch),
            );
        }
        Ok(out)
    }

    fn place(&self, what: &str) -> IsoError {
        IsoError::Place(what.to_owned())
    }

    /// Files and the directories above them, the root first; children in the order of the standard.
    fn nodes(&self) -> Result<Vec<Node>, IsoError> {
        let mut nodes = vec![Node {
            is_dir: true,
            plain: vec![0],
            ..Node::default()
        }];
        let mut known: BTreeMap<&str, usize> = BTreeMap::new();
        for file in &self.files {
            let mut at = 0;
            let mut end = 0;
            let names: Vec<&str> = file.path.split('/').collect();
            if names.len() > MAX_LEVELS {
                return Err(IsoError::Deep(file.path.clone()));
            }
            for (level, name) in names.iter().enumerate() {
                if name.is_empty() || name.len() > MAX_NAME_BYTES || [".", ".."].contains(name) {
                    return Err(IsoError::Name(file.path.clone()));
                }
                end += name.len() + usize::from(level > 0);
                let is_dir = level + 1 < names.len();
                let path = &file.path[..end];
                match known.get(path) {
                    Some(there) if is_dir && nodes[*there].is_dir => at = *there,
                    Some(_) => return Err(IsoError::Twice(path.to_owned())),
                    None => {
                        let new = nodes.len();
                        let mut node = Node {
                            name: (*name).to_owned(),
                            parent: at,
                            is_dir,
                            ..Node::default()
                        };
                        if !is_dir {
                            node.size =
                                u32::try_from(file.size).map_err(|_e| self.place(&file.path))?;
                            node.sector =
                                sector_of(file.offset).ok_or_else(|| self.place(&file.path))?;
                        }
                        nodes[at].children.push(new);
                        nodes.push(node);
                        known.insert(path, new);
                        at = new;
                    }
                }
            }
            if nodes.len() > MAX_ENTRIES {
                return Err(IsoError::TooMany(nodes.len()));
            }
        }
        for dir in 0..nodes.len() {
            name_children(&mut nodes, dir);
        }
        Ok(nodes)
    }

    fn primary(
        &self,
        nodes: &[Node],
        table_bytes: usize,
        table_sectors: u64,
    ) -> Result<Vec<u8>, IsoError> {
        let mut out = vec![0; SECTOR_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        let sectors = sector_of(self.size).ok_or_else(|| self.place("the volume"))?;
        let table_bytes = u32::try_from(table_bytes).map_err(|_e| self.place("the volume"))?;
        let table = |sectors: u64| u32::try_from(PATH_TABLES + sectors).unwrap_or(u32::MAX);
        put(0, b"\x01CD001\x01");
        put(8, &text("", 32));
        put(40, &text(&plain_text(&self.label), 32));
        put(80, &both(sectors));
        put(120, &both_short(1));
        put(124, &both_short(1));
        put(128, &both_short(2048));
        put(132, &both(table_bytes));
        put(140, &table(0).to_le_bytes());
        put(148, &table(table_sectors).to_be_bytes());
        put(156, &record(&nodes[0], &[0], self.epoch, &[]));
        // Volume set, publisher, preparer, application; copyright, abstract, bibliography.
        put(190, &text("", 512));
        put(702, &text("", 111));
        put(813, &long_time(Some(self.epoch)));
        put(830, &long_time(Some(self.epoch)));
        put(847, &long_time(None));
        put(864, &long_time(None));
        put(881, &[1]);
        Ok(out)
    }

    /// The catalog: for EFI, without emulation. A size that 16 bits cannot tell is 0: all to the end of the volume, as UEFI says.
    fn catalog(&self) -> Result<Vec<u8>, IsoError> {
        let mut out = vec![0; SECTOR_BYTES];
        out[..2].copy_from_slice(&[1, 0xef]);
        out[30..32].copy_from_slice(&[0x55, 0xaa]);
        let (words, _) = out[..32].as_chunks::<2>();
        let sum = words.iter().fold(0_u16, |sum, word| {
            sum.wrapping_add(u16::from_le_bytes(*word))
        });
        out[28..30].copy_from_slice(&sum.wrapping_neg().to_le_bytes());
        let sector = sector_of(self.boot).ok_or_else(|| self.place("the boot image"))?;
        let count = u16::try_from(self.boot_size.div_ceil(512)).unwrap_or(0);
        out[32] = 0x88;
        out[38..40].copy_from_slice(&count.to_le_bytes());
        out[40..44].copy_from_slice(&sector.to_le_bytes());
        Ok(out)
    }
}

/// Label and time of a volume, out of its primary descriptor: the sector behind the system area. None when it is no such descriptor, or
/// its time is none.
#[must_use]
pub fn identity(descriptor: &[u8]) -> Option<(String, i64)> {
    if descriptor.get(..7)? != b"\x01CD001\x01" {
        return None;
    }
    let label = std::str::from_utf8(descriptor.get(40..72)?).ok()?;
    let digits = std::str::from_utf8(descriptor.get(813..829)?).ok()?;
    let number = |from: usize, to: usize| digits.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = number(8, 10)? * 3600 + number(10, 12)? * 60 + number(12, 14)?;
    let days = days_since_1970(year, month, day);
    Some((label.trim_end().to_owned(), days * 86_400 + seconds))
}

fn sector_of(offset: u64) -> Option<u32> {
    u32::try_from(offset / SECTOR)
        .ok()
        .filter(|_| offset.is_multiple_of(SECTOR))
}

fn boot_record() -> Vec<u8> {
    let mut out = vec![0; SECTOR_BYTES];
    out[..7].copy_from_slice(b"\0CD001\x01");
    out[7..30].copy_from_slice(b"EL TORITO SPECIFICATION");
    out[71..75].copy_from_slice(&(u32::try_from(CATALOG).unwrap_or(0)).to_le_bytes());
    out
}

/// Gives the children of a directory names of the first level of the standard, each once, and sorts them as it says.
fn name_children(nodes: &mut [Node], dir: usize) {
    let mut children = std::mem::take(&mut nodes[dir].children);
    children.sort_by(|a, b| nodes[*a].name.cmp(&nodes[*b].name));
    let mut taken: BTreeSet<PlainName> = BTreeSet::new();
    let mut order: Vec<(PlainName, usize)> = Vec::new();
    for child in children {
        let node = &mut nodes[child];
        let (stem, extension) = match node.name.rsplit_once('.') {
            Some((stem, extension)) if !node.is_dir => (stem, extension),
            _ => (node.name.as_str(), ""),
        };
        let (stem, extension) = (plain_text(stem), plain_text(extension));
        let mut number = 0;
        let name = loop {
            // A second one of the same name ends with a number.
            let digits = if number == 0 {
                String::new()
            } else {
                number.to_string()
            };
            let kept = 8_usize.saturating_sub(digits.len());
            let stem = format!("{}{digits}", stem.get(..kept.min(stem.len())).unwrap_or(""));
            let name = (padded(&stem), padded(&extension));
            if taken.insert(name) {
                break name;
            }
            number += 1;
        };
        let trimmed = |part: &[u8]| part.trim_ascii_end().to_vec();
        node.plain = trimmed(&name.0);
        if !node.is_dir {
            node.plain.push(b'.');
            node.plain.extend(trimmed(&name.1));
            node.plain.extend(b";1");
        }
        order.push((name, child));
    }
    order.sort_unstable();
    nodes[dir].children = order.into_iter().map(|(_, child)| child).collect();
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut out = [b' '; N];
    for (place, byte) in out.iter_mut().zip(text.bytes()) {
        *place = byte;
    }
    out
}

/// Only the characters that the standard has for names.
fn plain_text(text: &str) -> String {
    let plain = |c: char| match c.to_ascii_uppercase() {
        c if c.is_ascii_uppercase() || c.is_ascii_digit() => c,
        _ => '_',
    };
    text.chars().map(plain).collect()
}

/// Directories level by level, as the path table has them: by the number of the parent, then by name.
fn directories(nodes: &[Node]) -> Vec<usize> {
    let mut found = vec![0];
    let mut at = 0;
    while let Some(dir) = found.get(at) {
        let children = nodes[*dir].children.iter().copied();
        let below: Vec<usize> = children.filter(|child| nodes[*child].is_dir).collect();
        found.extend(below);
        at += 1;
    }
    found
}

#[derive(Clone, Copy)]
enum Order {
    Little,
    Big,
}

fn path_table(nodes: &[Node], dirs: &[usize], order: Order) -> Vec<u8> {
    let mut out = Vec::new();
    for dir in dirs {
        let node = &nodes[*dir];
        let parent = dirs.iter().position(|one| *one == node.parent);
        let parent = u16::try_from(parent.unwrap_or(0) + 1).unwrap_or(u16::MAX);
        out.push(u8::try_from(node.plain.len()).unwrap_or(u8::MAX));
        out.push(0);
        match order {
            Order::Little => {
                out.extend(node.sector.to_le_bytes());
                out.extend(parent.to_le_bytes());
            }
            Order::Big => {
                out.extend(node.sector.to_be_bytes());
                out.extend(parent.to_be_bytes());
            }
        }
        out.extend(&node.plain);
        if !node.plain.len().is_multiple_of(2) {
            out.push(0);
        }
    }
    out
}

/// The records of a directory, in whole sectors; none crosses from one into the next.
fn records(nodes: &[Node], dir: usize, epoch: i64) -> Vec<u8> {
    let node = &nodes[dir];
    let mut own = Vec::new();
    if dir == 0 {
        // That the protocol is in use, and which extension of it.
        own.extend(b"SP\x07\x01\xbe\xef\x00");
    }
    own.extend(attributes(nodes, dir, epoch));
    if dir == 0 {
        own.extend(b"ER\x12\x01\x0a\x00\x00\x01RRIP_1991A");
    }
    let mut all = vec![
        record(node, &[0], epoch, &own),
        record(
            &nodes[node.parent],
            &[1],
            epoch,
            &attributes(nodes, node.parent, epoch),
        ),
    ];
    for child in &node.children {
        let one = &nodes[*child];
        let mut extra = attributes(nodes, *child, epoch);
        extra.extend(b"NM");
        extra.push(u8::try_from(one.name.len() + 5).unwrap_or(u8::MAX));
        extra.extend([1, 0]);
        extra.extend(one.name.as_bytes());
        all.push(record(one, &one.plain, epoch, &extra));
    }
    let mut out: Vec<u8> = Vec::new();
    for one in all {
        if out.len() % SECTOR_BYTES + one.len() > SECTOR_BYTES {
            out.resize(out.len().next_multiple_of(SECTOR_BYTES), 0);
        }
        out.extend(one);
    }
    out.resize(out.len().next_multiple_of(SECTOR_BYTES), 0);
    out
}

/// What POSIX says of a file: mode, links, owner; and its time.
fn attributes(nodes: &[Node], number: usize, epoch: i64) -> Vec<u8> {
    let node = &nodes[number];
    let (mode, links) = if node.is_dir {
        let below = node.children.iter().filter(|child| nodes[**child].is_dir);
        (0o040_555, 2 + below.count())
    } else {
        (0o100_444, 1)
    };
    let mut out = b"PX\x24\x01".to_vec();
    for value in [mode, u32::try_from(links).unwrap_or(u32::MAX), 0, 0] {
        out.extend(both(value));
    }
    // Of the times, that of the last change.
    out.extend(b"TF\x0c\x01\x02");
    out.extend(short_time(epoch));
    out
}

/// One directory record.
fn record(node: &Node, name: &[u8], epoch: i64, extra: &[u8]) -> Vec<u8> {
    let mut out = vec![0, 0];
    out.extend(both(node.sector));
    out.extend(both(node.size));
    out.extend(short_time(epoch));
    out.extend([if node.is_dir { 2 } else { 0 }, 0, 0]);
    out.extend(both_short(1));
    out.push(u8::try_from(name.len()).unwrap_or(u8::MAX));
    out.extend(name);
    if name.len().is_multiple_of(2) {
        out.push(0);
    }
    out.extend(extra);
    if !out.len().is_multiple_of(2) {
        out.push(0);
    }
    out[0] = u8::try_from(out.len()).unwrap_or(u8::MAX);
    out
}

/// A number in both orders of bytes.
fn both(value: u32) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&value.to_le_bytes());
    out[4..].copy_from_slice(&value.to_be_bytes());
    out
}

fn both_short(value: u16) -> [u8; 4] {
    let (little, big) = (value.to_le_bytes(), value.to_be_bytes());
    [little[0], little[1], big[0], big[1]]
}

fn text(value: &str, len: usize) -> Vec<u8> {
    let mut out: Vec<u8> = value.bytes().take(len).collect();
    out.resize(len, b' ');
    out
}

fn short_time(epoch: i64) -> [u8; 7] {
    let at = Moment::of(epoch.clamp(0, LAST_TIME));
    let byte = |value: i64| u8::try_from(value).unwrap_or_default();
    [
        byte(at.year - 1900),
        byte(at.month),
        byte(at.day),
        byte(at.hour),
        byte(at.minute),
        byte(at.second),
        0,
    ]
}

/// Digits, and the zone in quarters of an hour; all of it zero when there is no such time.
fn long_time(epoch: Option<i64>) -> Vec<u8> {
    let digits = epoch.map_or_else(
        || "0".repeat(16),
        |epoch| {
            let at = Moment::of(epoch.clamp(0, LAST_TIME));
            format!(
                "{:04}{:02}{:02}{:02}{:02}{:02}00",
                at.year, at.month, at.day, at.hour, at.minute, at.second
            )
        },
    );
    let mut out = digits.into_bytes();
    out.push(0);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(paths: &[&str]) -> Volume {
        let file = |path: &&str| File {
            path: (*path).to_owned(),
            offset: 1 << 20,
            size: 5,
        };
        Volume {
            label: "a label".to_owned(),
            epoch: 1_782_864_000,
            size: 2 << 20,
            boot: 1 << 20,
            boot_size: 40 << 20,
            files: paths.iter().map(file).collect(),
        }
    }

    #[test]
    fn names_of_the_first_level_are_there_once() {
        let nodes = volume(&[
            "systemd-bootx64.efi",
            "systemd-bootia32.efi",
            "a.b.c",
            "é",
            "dir.d/x",
        ])
        .nodes()
        .expect("nodes");
        let mut names: Vec<String> = nodes
            .iter()
            .map(|node| String::from_utf8_lossy(&node.plain).into_owned())
            .collect();
        names.sort_unstable();
        assert_eq!(
            names,
            [
                "\0",
                "A_B.C;1",
                "DIR_D",
                "SYSTEMD1.EFI;1",
                "SYSTEMD_.EFI;1",
                "X.;1",
                "_.;1"
            ]
        );
    }

    #[test]
    fn descriptors_are_where_they_belong() {
        let bytes = volume(&["EFI/BOOT/BOOTX64.EFI"])
            .encode()
            .expect("a volume");
        assert!(bytes.len().is_multiple_of(SECTOR_BYTES));
        assert_eq!(&bytes[..7], b"\x01CD001\x01");
        assert_eq!(&bytes[40..48], b"A_LABEL ");
        assert_eq!(&bytes[813..830], b"2026070100000000\0");
        assert_eq!(
            identity(&bytes),
            Some(("A_LABEL".to_owned(), 1_782_864_000))
        );
        assert_eq!(identity(&bytes[2048..]), None);
        assert_eq!(identity(&bytes[..800]), None);
        assert_eq!(&bytes[2048 + 7..2048 + 30], b"EL TORITO SPECIFICATION");
        assert_eq!(&bytes[4096..4102], b"\xffCD001");
        let catalog = &bytes[3 * 2048..4 * 2048];
        // 40 MiB are more than 16 bits of sectors can tell.
        assert_eq!(catalog[32..44], [0x88, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0]);
        let (words, _) = catalog[..32].as_chunks::<2>();
        let sum = words.iter().fold(0_u16, |sum, word| {
            sum.wrapping_add(u16::from_le_bytes(*word))
        });
        assert_eq!(sum, 0);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let long = "x".repeat(151);
        for (paths, error) in [
            (vec!["a", "a"], IsoError::Twice("a".to_owned())),
            (vec!["a", "a/b"], IsoError::Twice("a".to_owned())),
            (vec!["a//b"], IsoError::Name("a//b".to_owned())),
            (vec![".."], IsoError::Name("..".to_owned())),
            (vec![&*long], IsoError::Name(long.clone())),
            (
                vec!["1/2/3/4/5/6/7/8/9"],
                IsoError::Deep("1/2/3/4/5/6/7/8/9".to_owned()),
            ),
        ] {
            assert_eq!(volume(&paths).encode(), Err(error));
        }
        let mut bad = volume(&["a"]);
        bad.files[0].offset += 1;
        assert_eq!(bad.encode(), Err(IsoError::Place("a".to_owned())));
        let mut bad = volume(&["a"]);
        bad.files[0].size = 1 << 32;
        assert!(bad.encode().is_err());
    }

    #[test]
    fn places_do_not_change_the_length() {
        let names: Vec<String> = (0..300).map(|i| format!("dir/{i:0100}")).collect();
        let mut one = volume(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let first = one.encode().expect("a volume");
        for file in &mut one.files {
            file.offset = 9 << 20;
        }
        let second = one.encode().expect("a volume");
        assert!(first.len() == second.len() && first != second);
    }
}
