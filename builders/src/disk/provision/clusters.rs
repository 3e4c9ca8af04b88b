//! Names and clusters of a FAT32 volume, changed so that whatever stops it each name leads to a whole file or to none.
//!
//! FAT has no journal and no rename over a name that is taken. What it has is that an entry of a directory is written as a whole: 32
//! bytes of one sector. So a name gets another content, or goes, with one write, and clusters that no name leads to are freed
//! behind it, or by the next who comes.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};

use super::device::Part;
use super::entries::same;
use super::volume::DRAFT;

const ENTRY: usize = 32;
const LONG: u8 = 0x0f;
const DIRECTORY: u8 = 0x10;
const LABEL: u8 = 0x08;
const DELETED: u8 = 0xe5;
/// Units of a long name in one entry.
const UNITS: usize = 13;
/// Bits of an entry of the FAT that are its value.
const VALUE: u32 = 0x0fff_ffff;
/// A cluster that cannot be used, and values from which on a chain ends.
const BAD: u32 = 0x0fff_fff7;
const END: u32 = 0x0fff_fff8;
/// Where the boot sector of FAT32 says that somebody has not finished.
const DIRTY_AT: u64 = 0x41;
/// The largest table that is read: 2^28 clusters of 4 bytes would be more than any EFI system partition has.
const MAX_TABLE: u64 = 256 << 20;
/// Entries of one directory at most.
const MAX_DIR: usize = 65_536;

/// A volume, by where its parts are in it; offsets are in bytes.
pub(super) struct Clusters {
    part: Part,
    cluster: u64,
    table: u64,
    table_bytes: u64,
    tables: u64,
    data: u64,
    count: u32,
    root: u32,
    info: u64,
}

/// One name.
#[derive(Debug)]
struct Name {
    path: String,
    /// Where its entry is, and those of its long name, the nearest first.
    at: u64,
    longs: Vec<u64>,
    first: u32,
}

/// All that names lead to.
struct Walk {
    names: Vec<Name>,
    /// Entries of long names that belong to no file.
    orphans: Vec<u64>,
    /// Clusters of directories, by number.
    reached: Vec<bool>,
    /// Directories whose `.` and `..` have long names, which the format does not know.
    long_dots: Vec<LongDots>,
}

/// A directory as the library makes it: with long names for `.` and `..`, which the format does not know.
struct LongDots {
    at: u64,
    /// Whether it is in the root directory, which has no number above.
    is_top: bool,
}

impl Clusters {
    /// Reads where things are; none when it is no FAT32 volume that every driver would read.
    pub(super) fn of(mut part: Part) -> io::Result<Option<Self>> {
        let mut boot = [0; 512];
        part.seek(SeekFrom::Start(0))?;
        part.read_exact(&mut boot)?;
        let short = |at: usize| u64::from(u16::from_le_bytes([boot[at], boot[at + 1]]));
        let long = |at: usize| short(at) | short(at + 2) << 16;
        let (sector, cluster) = (short(11), short(11) * u64::from(boot[13]));
        let (tables, table_bytes) = (u64::from(boot[16]), long(36) * sector);
        let table = short(14) * sector;
        let data = table + tables * table_bytes;
        let bytes = long(32) * sector;
        let is_it = boot[510..] == [0x55, 0xaa]
            && [512, 1024, 2048, 4096].contains(&sector)
            && cluster.is_power_of_two()
            && (1..=2).contains(&tables)
            // Both tables are the same, and the second is no spare one.
            && boot[40] & 0x80 == 0
            && short(22) == 0
            && short(17) == 0
            && (1..=MAX_TABLE).contains(&table_bytes)
            && data < bytes;
        if !is_it {
            return Ok(None);
        }
        let held = table_bytes / 4;
        let count = ((bytes - data) / cluster + 2).min(held).min(u64::from(BAD));
        Ok(Some(Self {
            part,
            cluster,
            table,
            table_bytes,
            tables,
            data,
            count: u32::try_from(count).unwrap_or(BAD),
            root: u32::try_from(long(44)).unwrap_or(0),
            info: short(48) * sector,
        }))
    }

    fn read(&mut self, at: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.part.seek(SeekFrom::Start(at))?;
        self.part.read_exact(bytes)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.part.seek(SeekFrom::Start(at))?;
        self.part.write_all(bytes)?;
        self.part.flush()
    }

    fn fat(&mut self) -> io::Result<Vec<u32>> {
        self.words(self.table)
    }

    /// The table that begins at an offset.
    fn words(&mut self, at: u64) -> io::Result<Vec<u32>> {
        let mut bytes = vec![0; self.count as usize * 4];
        self.read(at, &mut bytes)?;
        let words = bytes.chunks_exact(4);
        Ok(words
            .map(|w| u32::from_le_bytes([w[0], w[1], w[2], w[3]]))
            .collect())
    }

    /// The clusters from `first` on; none when the chain leads nowhere or in a circle.
    fn chain(fat: &[u32], first: u32) -> Option<Vec<u32>> {
        let mut found = Vec::new();
        let mut at = first;
        while at < END {
            if at < 2 || found.len() >= fat.len() {
                return None;
            }
            found.push(at);
            at = fat.get(at as usize)? & VALUE;
        }
        Some(found)
    }

    fn place(&self, cluster: u32) -> u64 {
        self.data + u64::from(cluster - 2) * self.cluster
    }

    /// All names and directories; none when the volume is damaged.
    fn walk(&mut self, fat: &[u32]) -> io::Result<Option<Walk>> {
        let mut walk = Walk {
            names: Vec::new(),
            orphans: Vec::new(),
            reached: vec![false; fat.len()],
            long_dots: Vec::new(),
        };
        let mut pending = vec![(String::new(), self.root)];
        while let Some((path, first)) = pending.pop() {
            let Some(chain) = Self::chain(fat, first) else {
                return Ok(None);
            };
            if chain.len() as u64 * self.cluster > (MAX_DIR * ENTRY) as u64
                || !reach(&mut walk.reached, &chain)
            {
                return Ok(None);
            }
            self.list(&path, &chain, &mut walk, &mut pending)?;
        }
        Ok(Some(walk))
    }

    /// Reads one directory.
    fn list(
        &mut self,
        path: &str,
        chain: &[u32],
        walk: &mut Walk,
        pending: &mut Vec<(String, u32)>,
    ) -> io::Result<()> {
        let mut bytes = vec![0; usize::try_from(self.cluster).unwrap_or(0)];
        let mut long: Vec<(u64, [u8; ENTRY])> = Vec::new();
        for cluster in chain {
            let start = self.place(*cluster);
            self.read(start, &mut bytes)?;
            if !path.is_empty() && Some(cluster) == chain.first() && has_long_dots(&bytes) {
                let is_top = !path.contains('/');
                walk.long_dots.push(LongDots { at: start, is_top });
            }
            for (i, entry) in bytes.chunks_exact(ENTRY).enumerate() {
                let at = start + (i * ENTRY) as u64;
                let mut one = [0; ENTRY];
                one.copy_from_slice(entry);
                if one[0] == 0 {
                    walk.orphans.extend(long.into_iter().map(|(at, _)| at));
                    return Ok(());
                }
                if one[11] & 0x3f == LONG && one[0] != DELETED {
                    // The last part of a name comes first; another one may not follow.
                    if one[0] & 0x40 != 0 {
                        walk.orphans.extend(long.drain(..).map(|(at, _)| at));
                    }
                    long.push((at, one));
                    continue;
                }
                let name = long_name(&long, &one);
                let longs: Vec<u64> = long.drain(..).rev().map(|(at, _)| at).collect();
                if name.is_none() {
                    walk.orphans.extend(&longs);
                }
                if one[0] == DELETED || one[0] == b'.' || one[11] & LABEL != 0 {
                    continue;
                }
                let has_long = name.is_some();
                let name = name.unwrap_or_else(|| short_name(&one));
                let below = match path.is_empty() {
                    true => name,
                    false => format!("{path}/{name}"),
                };
                let first = first_of(&one);
                if one[11] & DIRECTORY != 0 {
                    pending.push((below, first));
                    continue;
                }
                walk.names.push(Name {
                    path: below,
                    at,
                    longs: if has_long { longs } else { Vec::new() },
                    first,
                });
            }
        }
        walk.orphans.extend(long.into_iter().map(|(at, _)| at));
        Ok(())
    }

    /// Finishes what was stopped: of two names for one file the draft goes, and so do clusters that no name leads to. Nothing is
    /// done to a volume that is damaged in another way.
    pub(super) fn tidy(&mut self) -> io::Result<()> {
        let fat = self.fat()?;
        let Some(walk) = self.walk(&fat)? else {
            return Ok(());
        };
        let mut owners: BTreeMap<u32, &Name> = BTreeMap::new();
        let mut twins = Vec::new();
        for name in walk.names.iter().filter(|name| name.first != 0) {
            let Some(other) = owners.insert(name.first, name) else {
                continue;
            };
            let is_draft =
                |draft: &Name, of: &Name| same(&draft.path, &format!("{}{DRAFT}", of.path));
            if is_draft(name, other) {
                owners.insert(name.first, other);
                twins.push(name);
            } else if is_draft(other, name) {
                twins.push(other);
            } else {
                return Ok(());
            }
        }
        let mut reached = walk.reached;
        for first in owners.keys() {
            let Some(chain) = Self::chain(&fat, *first) else {
                return Ok(());
            };
            if !reach(&mut reached, &chain) {
                return Ok(());
            }
        }
        for name in twins {
            self.delete(name)?;
        }
        for at in &walk.orphans {
            self.write(*at, &[DELETED])?;
        }
        for directory in &walk.long_dots {
            self.shorten_dots(directory)?;
        }
        self.free(&fat, &reached)
    }

    /// Makes a directory begin with itself and the one above, with one write.
    fn shorten_dots(&mut self, directory: &LongDots) -> io::Result<()> {
        let mut head = [0; 4 * ENTRY];
        self.read(directory.at, &mut head)?;
        let (own, above) = (ENTRY..2 * ENTRY, 3 * ENTRY..4 * ENTRY);
        head.copy_within(own, 0);
        head.copy_within(above, ENTRY);
        head[2 * ENTRY] = DELETED;
        head[3 * ENTRY] = DELETED;
        if directory.is_top {
            head[ENTRY + 20..ENTRY + 22].fill(0);
            head[ENTRY + 26..ENTRY + 28].fill(0);
        }
        self.write(directory.at, &head)
    }

    /// Frees what is not reached, and says that all is well.
    fn free(&mut self, fat: &[u32], reached: &[bool]) -> io::Result<()> {
        let (mut wanted, mut left) = (fat.to_vec(), 0u32);
        for (value, is_reached) in wanted.iter_mut().zip(reached).skip(2) {
            if *value & VALUE != BAD && !is_reached {
                *value &= !VALUE;
            }
            left += u32::from(*value & VALUE == 0);
        }
        // The first table is what was read; the second may be behind it.
        for copy in 0..self.tables {
            let start = self.table + copy * self.table_bytes;
            let there = self.words(start)?;
            if there == wanted {
                continue;
            }
            let differs = |i: &usize| there[*i] != wanted[*i];
            let first = (0..wanted.len()).find(differs);
            let last = (0..wanted.len()).rfind(differs);
            if let (Some(first), Some(last)) = (first, last) {
                let words = wanted[first..=last].iter();
                let bytes: Vec<u8> = words.flat_map(|word| word.to_le_bytes()).collect();
                self.write(start + first as u64 * 4, &bytes)?;
            }
        }
        let mut info = [0; 512];
        self.read(self.info, &mut info)?;
        let has_info = self.info != 0 && info[..4] == *b"RRaA" && info[484..488] == *b"rrAa";
        if has_info && info[488..492] != left.to_le_bytes() {
            self.write(self.info + 488, &left.to_le_bytes())?;
        }
        let mut dirty = [0];
        self.read(DIRTY_AT, &mut dirty)?;
        if dirty[0] & 1 != 0 {
            self.write(DIRTY_AT, &[dirty[0] & !1])?;
        }
        Ok(())
    }

    fn delete(&mut self, name: &Name) -> io::Result<()> {
        self.write(name.at, &[DELETED])?;
        for at in &name.longs {
            self.write(*at, &[DELETED])?;
        }
        Ok(())
    }

    fn find(&mut self, path: &str) -> io::Result<Option<Name>> {
        let fat = self.fat()?;
        let walk = self.walk(&fat)?.ok_or_else(damaged)?;
        Ok(walk.names.into_iter().find(|name| same(&name.path, path)))
    }

    /// All files and their first clusters, 0 of empty ones.
    #[cfg(test)]
    pub(super) fn firsts(&mut self) -> io::Result<Vec<(String, u32)>> {
        let fat = self.fat()?;
        let walk = self.walk(&fat)?.ok_or_else(damaged)?;
        let names = walk.names.into_iter();
        Ok(names.map(|name| (name.path, name.first)).collect())
    }

    /// Takes a name away with one write; its clusters stay until [`Self::tidy`]. Says whether it was there.
    pub(super) fn forget(&mut self, path: &str) -> io::Result<bool> {
        match self.find(path)? {
            Some(name) => self.delete(&name).map(|()| true),
            None => Ok(false),
        }
    }

    /// Gives a name the content of another, which goes, with one write. The clusters of what it had stay until [`Self::tidy`].
    ///
    /// The other name goes first, so that never two of them lead to one file, which any other program would call damage. Stopped in
    /// between, the new content is lost and the old one there: where nobody has the new one a second time (`is_only`), it is the
    /// other way round.
    pub(super) fn replace(&mut self, path: &str, with: &str, is_only: bool) -> io::Result<()> {
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        let one = self.find(path)?.ok_or_else(missing)?.at;
        let other = self.find(with)?.ok_or_else(missing)?;
        let (mut a, mut b) = ([0; ENTRY], [0; ENTRY]);
        self.read(one, &mut a)?;
        self.read(other.at, &mut b)?;
        // The first cluster in two halves, and the size.
        for range in [20..22, 26..32] {
            a[range.clone()].copy_from_slice(&b[range]);
        }
        if is_only {
            self.write(one, &a)?;
            self.part.sync()?;
            return self.delete(&other);
        }
        self.delete(&other)?;
        self.part.sync()?;
        self.write(one, &a)
    }

    /// Makes room for one more name in a directory: a cluster is part of it when it is empty, and not before. Says whether it was
    /// made larger.
    pub(super) fn reserve(&mut self, dir: &str, name: &str) -> io::Result<bool> {
        let needed = 1 + name.encode_utf16().count().div_ceil(UNITS);
        let mut fat = self.fat()?;
        let Some(first) = self.directory(&fat, dir)? else {
            return Ok(false);
        };
        let chain = Self::chain(&fat, first).ok_or_else(damaged)?;
        let mut bytes = vec![0; usize::try_from(self.cluster).unwrap_or(0)];
        let (mut row, mut is_end) = (0, false);
        for cluster in &chain {
            self.read(self.place(*cluster), &mut bytes)?;
            for entry in bytes.chunks_exact(ENTRY) {
                is_end |= entry[0] == 0;
                row = if is_end || entry[0] == DELETED {
                    row + 1
                } else {
                    0
                };
                if row == needed {
                    return Ok(false);
                }
            }
        }
        let full = || io::Error::from(io::ErrorKind::StorageFull);
        let free = (2..).zip(&fat[2..]).find(|(_, value)| **value & VALUE == 0);
        let new: u32 = free.map(|(cluster, _)| cluster).ok_or_else(full)?;
        self.write(self.place(new), &vec![0; bytes.len()])?;
        self.part.sync()?;
        let last = *chain.last().ok_or_else(damaged)?;
        for (cluster, value) in [(new, VALUE), (last, new)] {
            let word = fat[cluster as usize] & !VALUE | value;
            fat[cluster as usize] = word;
            for copy in 0..self.tables {
                let start = self.table + copy * self.table_bytes;
                self.write(start + u64::from(cluster) * 4, &word.to_le_bytes())?;
            }
            self.part.sync()?;
        }
        Ok(true)
    }

    /// The first cluster of a directory; none when it is not there.
    fn directory(&mut self, fat: &[u32], path: &str) -> io::Result<Option<u32>> {
        let mut at = self.root;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let chain = Self::chain(fat, at).ok_or_else(damaged)?;
            let (mut below, mut walk) = (
                Vec::new(),
                Walk {
                    names: Vec::new(),
                    orphans: Vec::new(),
                    reached: Vec::new(),
                    long_dots: Vec::new(),
                },
            );
            self.list("", &chain, &mut walk, &mut below)?;
            match below.into_iter().find(|(name, _)| same(name, part)) {
                Some((_, first)) => at = first,
                None => return Ok(None),
            }
        }
        Ok(Some(at))
    }
}

/// Whether a directory begins with `.` and `..` behind long names.
fn has_long_dots(bytes: &[u8]) -> bool {
    let is_long = |at: usize| bytes[at] == DELETED || bytes[at + 11] & 0x3f == LONG;
    let is = |at: usize, name: &[u8; 11]| bytes[at..at + 11] == *name;
    bytes.len() >= 4 * ENTRY
        && is_long(0)
        && is(ENTRY, b".          ")
        && is_long(2 * ENTRY)
        && is(3 * ENTRY, b"..         ")
}

/// Marks clusters; says whether they are all there and were all unmarked.
fn reach(marks: &mut [bool], chain: &[u32]) -> bool {
    let mut mark = |cluster: &u32| {
        let place = marks.get_mut(*cluster as usize);
        place.is_some_and(|mark| !std::mem::replace(mark, true))
    };
    chain.iter().all(&mut mark)
}

fn damaged() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "its directories are damaged")
}

fn first_of(entry: &[u8; ENTRY]) -> u32 {
    u32::from_le_bytes([entry[26], entry[27], entry[20], entry[21]]) & VALUE
}

/// The name that the entries before a short one hold; none when they are not of it.
fn long_name(parts: &[(u64, [u8; ENTRY])], entry: &[u8; ENTRY]) -> Option<String> {
    let mut short = [0; 11];
    short.copy_from_slice(&entry[..11]);
    let sum = super::super::short_names::checksum(&short);
    let mut units = Vec::new();
    for (number, (_, part)) in (1u8..).zip(parts.iter().rev()) {
        if part[0] & 0x3f != number || part[13] != sum {
            return None;
        }
        for range in [1..11, 14..26, 28..32] {
            let pairs = part[range].chunks_exact(2);
            units.extend(pairs.map(|pair| u16::from_le_bytes([pair[0], pair[1]])));
        }
    }
    let end = units.iter().position(|unit| *unit == 0);
    units.truncate(end.unwrap_or(units.len()));
    (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
}

fn short_name(entry: &[u8; ENTRY]) -> String {
    let text = |bytes: &[u8], is_lower: bool| {
        let text = String::from_utf8_lossy(bytes).trim_end().to_owned();
        if is_lower { text.to_lowercase() } else { text }
    };
    let stem = text(&entry[..8], entry[12] & 8 != 0);
    let extension = text(&entry[8..11], entry[12] & 16 != 0);
    match extension.is_empty() {
        true => stem,
        false => format!("{stem}.{extension}"),
    }
}
