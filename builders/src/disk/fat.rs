//! FAT32 volumes, written in one go: directories first, then files, each in consecutive clusters.
//!
//! Nothing but the description decides the bytes: names are in byte order, times are all the one that is given, and what is not
//! used is left as it was. FAT12 and FAT16 are not written: firmware tells the three apart by the number of clusters alone,
//! so that a volume has at least [`MIN_CLUSTERS`] of them.

use sos_formats::calendar::Moment;
use std::collections::BTreeMap;
use std::io::{self, Read};

use crate::filesystem::Image;

use super::short_names::{ShortNames, checksum, is_short, padded};

/// Fewer clusters would make it a FAT16 volume.
pub(crate) const MIN_CLUSTERS: u64 = 65_525;
/// The largest file: its size has 32 bits.
const MAX_FILE: u64 = u32::MAX as u64;
const SECTOR: u64 = 512;
/// Sectors before the first FAT: boot sector, information, their copies.
const RESERVED: u64 = 32;
const ROOT_CLUSTER: u32 = 2;
const END_OF_CHAIN: u32 = 0x0fff_ffff;
const DIRECTORY: u8 = 0x10;
const ARCHIVE: u8 = 0x20;
/// Units of a long name in one entry.
const UNITS: usize = 13;
/// 1980-01-01, before which FAT has no dates, and 2107-12-31.
const FIRST_TIME: i64 = 315_532_800;
const LAST_TIME: i64 = 4_354_819_198;

/// A file to be written.
pub(crate) struct Source<'a> {
    /// Bytes.
    pub(crate) size: u64,
    /// Opens it.
    pub(crate) open: Box<dyn Fn() -> io::Result<Box<dyn Read>> + 'a>,
}

/// What a volume holds and how it is called.
pub(crate) struct Volume<'a> {
    /// Size in bytes; a multiple of 512.
    pub(crate) size: u64,
    /// At most 11 characters.
    pub(crate) label: [u8; 11],
    /// The number that `mkfs.vfat -i` takes.
    pub(crate) serial: u32,
    /// Seconds since 1970.
    pub(crate) epoch: i64,
    /// Files by path, with `/` between names; directories come by themselves.
    pub(crate) files: BTreeMap<String, Source<'a>>,
    /// Sectors in front of the volume on its disk.
    pub(crate) hidden: u32,
    /// Files begin at multiples of this many bytes of the volume: 512, or what something else that points at them needs.
    pub(crate) align: u64,
}

/// Why a volume cannot be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FatError {
    /// The files, with the smallest volume that would hold them.
    #[error("the files need a volume of {needed} bytes, and it has {size}")]
    Full { needed: u64, size: u64 },
    /// FAT32 begins at this size.
    #[error("a FAT32 volume has at least {min} bytes, and this one {size}")]
    Small { min: u64, size: u64 },
    /// A file with 4 GiB or more.
    #[error("`{0}` is larger than 4 GiB, which FAT cannot hold")]
    LargeFile(String),
    /// A name that FAT cannot hold.
    #[error("`{0}` is no name on a FAT volume")]
    Name(String),
    /// One name twice, or a directory that is a file.
    #[error("`{0}` is there twice: FAT does not tell upper and lower case apart")]
    Twice(String),
    /// Reading or writing.
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
}

/// Where the parts of a volume are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Geometry {
    sectors: u64,
    /// Sectors before the first FAT.
    reserved: u64,
    cluster_sectors: u64,
    fat_sectors: u64,
    clusters: u64,
}

impl Geometry {
    /// The one with the largest clusters that still make it FAT32, up to 4 KiB, as `mkfs.vfat` has them.
    fn of(size: u64, align: u64) -> Result<Self, FatError> {
        let sectors = size / SECTOR;
        [8, 4, 2, 1]
            .into_iter()
            .map(|cluster_sectors| Self::with(sectors, cluster_sectors, align / SECTOR))
            .find(|geometry| geometry.clusters >= MIN_CLUSTERS)
            .ok_or(FatError::Small {
                min: MIN_SIZE,
                size,
            })
    }

    fn with(sectors: u64, cluster_sectors: u64, align_sectors: u64) -> Self {
        // Two FATs of 4 bytes a cluster: what they take is not there for clusters.
        let data = sectors.saturating_sub(RESERVED);
        let per_fat_sector = 128 * cluster_sectors + 2;
        let fat_sectors = (data + 2 * cluster_sectors).div_ceil(per_fat_sector);
        // The first cluster is where files may begin.
        let reserved =
            (RESERVED + 2 * fat_sectors).next_multiple_of(align_sectors.max(1)) - 2 * fat_sectors;
        let clusters = sectors.saturating_sub(reserved + 2 * fat_sectors) / cluster_sectors;
        Self {
            sectors,
            reserved,
            cluster_sectors,
            fat_sectors,
            clusters,
        }
    }

    fn cluster_bytes(self) -> u64 {
        self.cluster_sectors * SECTOR
    }

    fn clusters_of(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.cluster_bytes())
    }

    /// Where a cluster begins, in bytes.
    fn offset(self, cluster: u32) -> u64 {
        let first = self.reserved + 2 * self.fat_sectors;
        first * SECTOR + (u64::from(cluster) - 2) * self.cluster_bytes()
    }
}

/// The smallest volume: clusters of one sector, two FATs, what is reserved; to the next MiB.
pub(crate) const MIN_SIZE: u64 = 33 << 20;

/// The smallest size, in whole MiB and with some room for what a loader writes, of a volume for files of these sizes.
pub(crate) fn size_for(files: impl Iterator<Item = u64>) -> u64 {
    // Directories and the last cluster of each file: 4 KiB each covers them.
    let bytes: u64 = files.map(|size| size + 8192).sum();
    let with_tables = bytes + bytes / 64 + (4 << 20);
    with_tables
        .next_multiple_of(1 << 20)
        .max(MIN_SIZE + (1 << 20))
}

/// A directory or file that has got its place.
struct Placed {
    long: String,
    short: [u8; 11],
    cluster: u32,
    size: u64,
    is_dir: bool,
}

#[derive(Default)]
struct Dir {
    /// Names of subdirectories and their numbers.
    dirs: BTreeMap<String, usize>,
    files: Vec<(String, String)>,
}

impl Volume<'_> {
    /// Writes the volume into an image in which nothing has been written yet. Returns where each file that is not empty begins, in bytes.
    pub(crate) fn write(&self, image: &dyn Image) -> Result<BTreeMap<String, u64>, FatError> {
        let geometry = Geometry::of(self.size, self.align)?;
        // Clusters between two places where files may begin.
        let step = u32::try_from(self.align / geometry.cluster_bytes())
            .unwrap_or(1)
            .max(1);
        let dirs = self.directories()?;
        let mut next = ROOT_CLUSTER;
        let mut fat = vec![0x0fff_fff8, END_OF_CHAIN];
        let needed_clusters = dirs
            .iter()
            .enumerate()
            .map(|(i, dir)| geometry.clusters_of(dir.bytes(i == 0)).max(1))
            .chain(
                self.files
                    .values()
                    .map(|s| geometry.clusters_of(s.size) + u64::from(step - 1)),
            )
            .sum::<u64>();
        if needed_clusters > geometry.clusters {
            return Err(FatError::Full {
                needed: size_for(self.files.values().map(|s| s.size)),
                size: self.size,
            });
        }
        if !image.is_kept() {
            return Ok(BTreeMap::new());
        }
        let mut used = 0;
        let mut take = |bytes: u64, at_least: u64, step: u32| -> u32 {
            // Fits 32 bits: the number of clusters does.
            let count =
                u32::try_from(geometry.clusters_of(bytes).max(at_least)).unwrap_or(u32::MAX);
            if count == 0 {
                return 0;
            }
            let first = (next - ROOT_CLUSTER).next_multiple_of(step) + ROOT_CLUSTER;
            fat.extend((next..first).map(|_| 0));
            fat.extend((first + 1..first + count).chain([END_OF_CHAIN]));
            next = first + count;
            used += u64::from(count);
            first
        };
        let places: Vec<u32> = dirs
            .iter()
            .enumerate()
            .map(|(i, dir)| take(dir.bytes(i == 0), 1, 1))
            .collect();
        let mut starts = BTreeMap::new();
        for (path, source) in &self.files {
            starts.insert(path.as_str(), take(source.size, 0, step));
        }
        let put = |bytes: &[u8], at: u64| {
            image.write_at(at, bytes).map_err(|source| FatError::Io {
                what: "cannot write the FAT volume".to_owned(),
                source,
            })
        };
        let free = u32::try_from(geometry.clusters - used).unwrap_or(u32::MAX);
        for copy in [0, 6] {
            put(&self.boot_sector(geometry), copy * SECTOR)?;
            put(&information(free, next), (copy + 1) * SECTOR)?;
            put(&[0, 0, 0x55, 0xaa], (copy + 2) * SECTOR + 508)?;
        }
        let table: Vec<u8> = fat.iter().flat_map(|entry| entry.to_le_bytes()).collect();
        for copy in 0..2 {
            put(
                &table,
                (geometry.reserved + copy * geometry.fat_sectors) * SECTOR,
            )?;
        }
        for (number, dir) in dirs.iter().enumerate() {
            let bytes = self.directory(number, &dirs, &places, &starts)?;
            debug_assert_eq!(bytes.len() as u64, dir.bytes(number == 0));
            put(&bytes, geometry.offset(places[number]))?;
        }
        let mut written = BTreeMap::new();
        for (path, source) in &self.files {
            if let Some(start) = starts.get(path.as_str()).filter(|start| **start != 0) {
                copy_to(source, image, geometry.offset(*start)).map_err(|source| FatError::Io {
                    what: format!("cannot write `{path}` to the FAT volume"),
                    source,
                })?;
                written.insert(path.clone(), geometry.offset(*start));
            }
        }
        Ok(written)
    }

    /// All directories, the root first, each before those in it.
    fn directories(&self) -> Result<Vec<Dir>, FatError> {
        let mut dirs = vec![Dir::default()];
        for (path, source) in &self.files {
            if source.size > MAX_FILE {
                return Err(FatError::LargeFile(path.clone()));
            }
            let mut at = 0;
            let mut names = path.split('/').peekable();
            while let Some(name) = names.next() {
                if !is_name(name) {
                    return Err(FatError::Name(name.to_owned()));
                }
                if names.peek().is_none() {
                    dirs[at].files.push((name.to_owned(), path.clone()));
                } else if let Some(known) = dirs[at].dirs.get(name) {
                    at = *known;
                } else {
                    let new = dirs.len();
                    dirs[at].dirs.insert(name.to_owned(), new);
                    dirs.push(Dir::default());
                    at = new;
                }
            }
        }
        for dir in &dirs {
            let mut seen = std::collections::BTreeSet::new();
            for name in dir
                .dirs
                .keys()
                .chain(dir.files.iter().map(|(name, _)| name))
            {
                if !seen.insert(name.to_lowercase()) {
                    return Err(FatError::Twice(name.clone()));
                }
            }
        }
        Ok(dirs)
    }

    /// The bytes of one directory.
    fn directory(
        &self,
        number: usize,
        dirs: &[Dir],
        places: &[u32],
        starts: &BTreeMap<&str, u32>,
    ) -> Result<Vec<u8>, FatError> {
        let dir = &dirs[number];
        let mut bytes = Vec::new();
        let time = self.time();
        if number == 0 {
            bytes.extend(entry(&self.label, 0x08, 0, 0, time));
        } else {
            let parent = dirs
                .iter()
                .position(|d| d.dirs.values().any(|n| *n == number));
            // The root is cluster 0 here, whatever it really is.
            let parent = parent.filter(|p| *p != 0).map_or(0, |p| places[p]);
            bytes.extend(entry(
                &padded(b".", b""),
                DIRECTORY,
                places[number],
                0,
                time,
            ));
            bytes.extend(entry(&padded(b"..", b""), DIRECTORY, parent, 0, time));
        }
        let mut all: Vec<Placed> = Vec::new();
        let mut names: Vec<(&str, Option<usize>, Option<&str>)> = dir
            .dirs
            .iter()
            .map(|(name, n)| (name.as_str(), Some(*n), None))
            .chain(
                dir.files
                    .iter()
                    .map(|(name, path)| (name.as_str(), None, Some(path.as_str()))),
            )
            .collect();
        names.sort_unstable();
        let mut short_names = ShortNames::default();
        for (long, sub, path) in names {
            let short = short_names
                .take(long)
                .ok_or_else(|| FatError::Name(long.to_owned()))?;
            all.push(Placed {
                long: long.to_owned(),
                short,
                cluster: match (sub, path) {
                    (Some(sub), _) => places[sub],
                    (None, path) => path.and_then(|p| starts.get(p)).copied().unwrap_or(0),
                },
                size: path.and_then(|p| self.files.get(p)).map_or(0, |s| s.size),
                is_dir: sub.is_some(),
            });
        }
        for one in all {
            if !is_short(&one.long) {
                bytes.extend(long_entries(&one.long, &one.short));
            }
            let attribute = if one.is_dir { DIRECTORY } else { ARCHIVE };
            let size = u32::try_from(one.size).unwrap_or(u32::MAX);
            bytes.extend(entry(&one.short, attribute, one.cluster, size, time));
        }
        Ok(bytes)
    }

    /// Time and date as FAT has them.
    fn time(&self) -> (u16, u16) {
        let seconds = self.epoch.clamp(FIRST_TIME, LAST_TIME);
        let at = Moment::of(seconds);
        let time = at.hour << 11 | at.minute << 5 | (at.second / 2);
        let date = (at.year - 1980) << 9 | at.month << 5 | at.day;
        let short = |value: i64| u16::try_from(value).unwrap_or_default();
        (short(time), short(date))
    }

    fn boot_sector(&self, geometry: Geometry) -> [u8; 512] {
        let mut sector = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| sector[at..at + bytes.len()].copy_from_slice(bytes);
        // A jump to itself, which firmware looks for and nobody runs.
        put(0, &[0xeb, 0xfe, 0x90]);
        put(3, b"sos     ");
        put(11, &512u16.to_le_bytes());
        put(13, &[u8::try_from(geometry.cluster_sectors).unwrap_or(1)]);
        put(
            14,
            &u16::try_from(geometry.reserved).unwrap_or(32).to_le_bytes(),
        );
        put(16, &[2]);
        put(21, &[0xf8]);
        put(24, &32u16.to_le_bytes());
        put(26, &8u16.to_le_bytes());
        put(28, &self.hidden.to_le_bytes());
        put(
            32,
            &u32::try_from(geometry.sectors)
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        put(
            36,
            &u32::try_from(geometry.fat_sectors)
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        put(44, &ROOT_CLUSTER.to_le_bytes());
        put(48, &1u16.to_le_bytes());
        put(50, &6u16.to_le_bytes());
        put(64, &[0x80, 0, 0x29]);
        put(67, &self.serial.to_le_bytes());
        put(71, &self.label);
        put(82, b"FAT32   ");
        put(510, &[0x55, 0xaa]);
        sector
    }
}

impl Dir {
    /// How long its bytes are.
    fn bytes(&self, is_root: bool) -> u64 {
        let own = if is_root { 1 } else { 2 };
        let names = self
            .dirs
            .keys()
            .chain(self.files.iter().map(|(name, _)| name));
        let entries: usize = names
            .map(|name| {
                if is_short(name) {
                    1
                } else {
                    1 + name.encode_utf16().count().div_ceil(UNITS)
                }
            })
            .sum();
        32 * (own + entries as u64)
    }
}

/// Whether a long name can hold it.
fn is_name(name: &str) -> bool {
    let bad = |c: char| c.is_control() || "\"*/:<>?\\|".contains(c);
    !name.is_empty()
        && name.encode_utf16().count() <= 255
        && !name.contains(bad)
        && !name.ends_with(['.', ' '])
        && !name.starts_with(' ')
}

fn information(free: u32, next: u32) -> [u8; 512] {
    let mut sector = [0; 512];
    sector[..4].copy_from_slice(b"RRaA");
    sector[484..488].copy_from_slice(b"rrAa");
    sector[488..492].copy_from_slice(&free.to_le_bytes());
    sector[492..496].copy_from_slice(&next.to_le_bytes());
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    sector
}

fn entry(
    short: &[u8; 11],
    attribute: u8,
    cluster: u32,
    size: u32,
    (time, date): (u16, u16),
) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes[..11].copy_from_slice(short);
    bytes[11] = attribute;
    bytes[14..16].copy_from_slice(&time.to_le_bytes());
    bytes[16..18].copy_from_slice(&date.to_le_bytes());
    bytes[18..20].copy_from_slice(&date.to_le_bytes());
    let cluster = cluster.to_le_bytes();
    bytes[20..22].copy_from_slice(&cluster[2..]);
    bytes[22..24].copy_from_slice(&time.to_le_bytes());
    bytes[24..26].copy_from_slice(&date.to_le_bytes());
    bytes[26..28].copy_from_slice(&cluster[..2]);
    bytes[28..].copy_from_slice(&size.to_le_bytes());
    bytes
}

/// The entries of a long name, the last part first, as they stand before the short one.
fn long_entries(long: &str, short: &[u8; 11]) -> Vec<u8> {
    let mut units: Vec<u16> = long.encode_utf16().collect();
    let count = units.len().div_ceil(UNITS);
    if !units.len().is_multiple_of(UNITS) {
        units.push(0);
    }
    units.resize(count * UNITS, 0xffff);
    let sum = checksum(short);
    let mut bytes = Vec::with_capacity(count * 32);
    for (i, part) in units.chunks_exact(UNITS).enumerate().rev() {
        let mut one = [0; 32];
        let last = if i + 1 == count { 0x40 } else { 0 };
        one[0] = u8::try_from(i + 1).unwrap_or_default() | last;
        one[11] = 0x0f;
        one[13] = sum;
        let places = (1..11)
            .step_by(2)
            .chain((14..26).step_by(2))
            .chain([28, 30]);
        for (unit, at) in part.iter().zip(places) {
            one[at..at + 2].copy_from_slice(&unit.to_le_bytes());
        }
        bytes.extend(one);
    }
    bytes
}

/// Copies a source to its place, exactly as many bytes as it said.
fn copy_to(source: &Source<'_>, image: &dyn Image, mut at: u64) -> io::Result<()> {
    let mut reader = (source.open)()?;
    let mut piece = vec![0; 1 << 18];
    let mut left = source.size;
    while left > 0 {
        let want = usize::try_from(left)
            .unwrap_or(piece.len())
            .min(piece.len());
        reader.read_exact(&mut piece[..want])?;
        image.write_at(at, &piece[..want])?;
        at += want as u64;
        left -= want as u64;
    }
    Ok(())
}
