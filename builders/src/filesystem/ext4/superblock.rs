//! The superblock, the descriptors of groups with their bitmaps, the journal, and the inode for growing.

use sos_engine::BuilderError;
use sos_formats::Bytes;
use sos_formats::crc32c;

use super::geometry::{DESCRIPTOR_BYTES, GROUP_BLOCKS, Geometry, NUMBERS};
use super::inode::Fields;
use super::sums::{Sums, high16, low16};
use super::{BLOCK_BYTES, FIRST_INODE, INODE_BYTES, JOURNAL_INODE, Seeds};
use crate::filesystem::data::{BLOCK, put};
use crate::filesystem::image::Image;
use crate::filesystem::options::Options;

/// A journal, xattrs, room to grow, directories with an index.
const COMPATIBLE: u32 = 0x4 | 0x8 | 0x10 | 0x20;
/// Types in directories, extents, numbers of 64 bits, groups that keep things together.
const INCOMPATIBLE: u32 = 0x2 | 0x40 | 0x80 | 0x200;
/// Few copies of the superblock, large files, huge files, many subdirectories, more fields in inodes, checksums.
const READ_ONLY: u32 = 0x1 | 0x2 | 0x8 | 0x20 | 0x40 | 0x400;
/// Mounted with xattrs and access control lists.
const MOUNT_OPTIONS: u32 = 0xc;
const SUPERBLOCK_BYTES: usize = 1024;

/// What is in use.
pub(super) struct Used<'a> {
    pub(super) geometry: &'a Geometry,
    /// The first block that no file has.
    pub(super) end: u64,
    /// The last inode.
    pub(super) last_inode: u32,
    /// Directories of each group.
    pub(super) dirs: Vec<u32>,
}

/// Writes bitmaps, descriptors and superblocks.
pub(super) fn write(
    used: &Used<'_>,
    options: &Options,
    seeds: &Seeds,
    journal_map: &[u8; 60],
    image: &dyn Image,
) -> Result<(), BuilderError> {
    let geometry = used.geometry;
    let sums = Sums::new(&options.uuid);
    let mut descriptors: Bytes = Vec::new();
    let mut free_blocks = 0;
    let mut free_inodes = 0;
    for group in 0..geometry.groups {
        let group = group_state(used, group);
        free_blocks += group.free_blocks;
        free_inodes += group.free_inodes;
        if let Some(bitmap) = &group.blocks {
            put(image, geometry.places(group.number).0 * BLOCK, bitmap)?;
        }
        if let Some(bitmap) = &group.inodes {
            put(image, geometry.places(group.number).1 * BLOCK, bitmap)?;
        }
        descriptors.extend_from_slice(&group.descriptor(geometry, &sums));
    }
    for group in (0..geometry.groups).filter(|group| Geometry::has_super(*group)) {
        let block = superblock(
            geometry,
            (free_blocks, free_inodes),
            group,
            options,
            seeds,
            journal_map,
        );
        let begin = group * GROUP_BLOCKS * BLOCK;
        let place = if group == 0 { 1024 } else { begin };
        put(image, place, &block)?;
        put(image, begin + BLOCK, &descriptors)?;
    }
    Ok(())
}

/// One group.
struct Group {
    number: u64,
    /// The bitmap, unless it follows from where the administration lies.
    blocks: Option<Bytes>,
    inodes: Option<Bytes>,
    free_blocks: u64,
    free_inodes: u64,
    dirs: u32,
}

fn group_state(used: &Used<'_>, number: u64) -> Group {
    let geometry = used.geometry;
    let begin = number * GROUP_BLOCKS;
    let size = geometry.group_blocks(number);
    let own = geometry.taken(number);
    let taken = own.max(used.end.saturating_sub(begin).min(size));
    let per_group = geometry.inodes_per_group;
    let inodes = u64::from(used.last_inode)
        .saturating_sub(number * per_group)
        .min(per_group);
    // Of the group that has what others need, nobody could tell the bitmap.
    let is_first = number.is_multiple_of(1 << geometry.flex_log);
    let is_last = number + 1 == geometry.groups;
    let empty = taken == own && !is_first && !is_last;
    Group {
        number,
        blocks: (!empty).then(|| bitmap(taken, size)),
        inodes: (inodes > 0).then(|| bitmap(inodes, per_group)),
        free_blocks: size - taken,
        free_inodes: per_group - inodes,
        dirs: used
            .dirs
            .get(usize::try_from(number).unwrap_or(usize::MAX))
            .copied()
            .unwrap_or(0),
    }
}

/// The first `set` bits, and all from `end` on.
fn bitmap(set: u64, end: u64) -> Bytes {
    let is_set = |bit: u64| bit < set || bit >= end;
    (0..BLOCK)
        .map(|byte| {
            let bit = byte * 8;
            if bit + 8 <= set || bit >= end {
                0xff
            } else if bit >= set && bit + 8 <= end {
                0
            } else {
                (0..8)
                    .map(|at| u8::from(is_set(bit + at)) << at)
                    .fold(0, |byte, bit| byte | bit)
            }
        })
        .collect()
}

impl Group {
    fn descriptor(&self, geometry: &Geometry, sums: &Sums) -> [u8; DESCRIPTOR_BYTES] {
        let mut out = [0; DESCRIPTOR_BYTES];
        let (blocks, inodes, table) = geometry.places(self.number);
        let sum = |bitmap: &Option<Bytes>, len: usize| {
            bitmap.as_ref().map_or(0, |bitmap| sums.of(&bitmap[..len]))
        };
        let block_sum = sum(&self.blocks, BLOCK_BYTES);
        let inode_bytes = usize::try_from(geometry.inodes_per_group / 8).unwrap_or(BLOCK_BYTES);
        let inode_sum = sum(&self.inodes, inode_bytes.min(BLOCK_BYTES));
        // Inodes and blocks that nobody has written, and inodes that are zeros as they should be.
        let flags = u64::from(self.inodes.is_none()) | (u64::from(self.blocks.is_none()) << 1) | 4;
        // The lower and the upper half of each; those that can be no larger have one.
        for (low, high, bytes, value) in [
            (0x00, Some(0x20), 4, blocks),
            (0x04, Some(0x24), 4, inodes),
            (0x08, Some(0x28), 4, table),
            (0x0c, Some(0x2c), 2, self.free_blocks),
            (0x0e, Some(0x2e), 2, self.free_inodes),
            (0x10, Some(0x30), 2, u64::from(self.dirs)),
            (0x12, None, 2, flags),
            (0x18, None, 2, u64::from(low16(block_sum))),
            (0x1a, None, 2, u64::from(low16(inode_sum))),
            (0x1c, Some(0x32), 2, self.free_inodes),
            (0x38, None, 2, u64::from(high16(block_sum))),
            (0x3a, None, 2, u64::from(high16(inode_sum))),
        ] {
            let value = value.to_le_bytes();
            out[low..low + bytes].copy_from_slice(&value[..bytes]);
            if let Some(high) = high {
                out[high..high + bytes].copy_from_slice(&value[bytes..2 * bytes]);
            }
        }
        let number = u32::try_from(self.number).unwrap_or(u32::MAX);
        let sum = sums.of_group(number, &out);
        out[0x1e..0x20].copy_from_slice(&sum.to_le_bytes());
        out
    }
}

fn superblock(
    geometry: &Geometry,
    (free_blocks, free_inodes): (u64, u64),
    group: u64,
    options: &Options,
    seeds: &Seeds,
    journal_map: &[u8; 60],
) -> [u8; SUPERBLOCK_BYTES] {
    let mut out = [0; SUPERBLOCK_BYTES];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    let journal_size = geometry.journal_blocks * BLOCK;
    for (at, bytes, value) in [
        (0x00, 4, geometry.inodes()),
        (0x04, 4, geometry.blocks),
        (0x0c, 4, free_blocks),
        (0x10, 4, free_inodes),
        // Blocks of 4096 bytes, also where clusters are counted.
        (0x18, 4, 2),
        (0x1c, 4, 2),
        (0x20, 4, GROUP_BLOCKS),
        (0x24, 4, GROUP_BLOCKS),
        (0x28, 4, geometry.inodes_per_group),
        // Never mounted; no number of mounts asks for a check.
        (0x36, 2, 0xffff),
        (0x38, 2, 0xef53),
        // Clean; errors are passed over.
        (0x3a, 2, 1),
        (0x3c, 2, 1),
        (0x4c, 4, 1),
        (0x54, 4, u64::from(FIRST_INODE)),
        (0x58, 2, INODE_BYTES as u64),
        (0x5a, 2, group),
        (0x5c, 4, u64::from(COMPATIBLE)),
        (0x60, 4, u64::from(INCOMPATIBLE)),
        (0x64, 4, u64::from(READ_ONLY)),
        (0xce, 2, geometry.reserved_blocks),
        (0xe0, 4, u64::from(JOURNAL_INODE)),
        // Half of MD4; a copy of the journal's inode is below.
        (0xfc, 1, 1),
        (0xfd, 1, 1),
        (0xfe, 2, DESCRIPTOR_BYTES as u64),
        (0x100, 4, u64::from(MOUNT_OPTIONS)),
        (0x148, 4, journal_size >> 32),
        (0x14c, 4, journal_size),
        (0x150, 4, geometry.blocks >> 32),
        (0x158, 4, free_blocks >> 32),
        (0x15c, 2, 32),
        (0x15e, 2, 32),
        // Names are hashed as unsigned bytes.
        (0x160, 4, 2),
        (0x174, 1, u64::from(geometry.flex_log)),
        // CRC-32C.
        (0x175, 1, 1),
    ] {
        put(at, &value.to_le_bytes()[..bytes]);
    }
    // Written, checked and made at the epoch.
    let time = options.epoch.to_le_bytes();
    for (low, high) in [(0x30, 0x274), (0x40, 0x277), (0x108, 0x276)] {
        put(low, &time[..4]);
        put(high, &time[4..5]);
    }
    put(0x68, &options.uuid);
    let label = options.label.as_bytes();
    put(0x78, &label[..label.len().min(16)]);
    for (at, word) in seeds.hash.iter().enumerate() {
        put(0xec + at * 4, &word.to_le_bytes());
    }
    put(0x10c, journal_map);
    let sum = crc32c::update(!0, &out[..SUPERBLOCK_BYTES - 4]);
    out[SUPERBLOCK_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
    out
}

/// The first block of an empty journal; everything behind it is zeros.
pub(super) fn journal(blocks: u64, options: &Options) -> Bytes {
    let mut out = vec![0; BLOCK_BYTES];
    let blocks = u32::try_from(blocks).unwrap_or(u32::MAX);
    // Magic, superblock of version 2; block size, blocks, first block of the log, first transaction; users.
    for (at, value) in [
        (0x00, 0xc03b_3998),
        (0x04, 4),
        (0x0c, 4096),
        (0x10, blocks),
        (0x14, 1),
        (0x18, 1),
        (0x40, 1),
    ] {
        out[at..at + 4].copy_from_slice(&value.to_be_bytes());
    }
    out[0x30..0x40].copy_from_slice(&options.uuid);
    out
}

/// Writes what the inode for growing leads to, and gives that inode's fields and map: `block` has the numbers of the blocks that
/// are kept behind the descriptors, and each of those the numbers of its copies.
pub(super) fn resize_inode(
    geometry: &Geometry,
    block: u64,
    epoch: i64,
    image: &dyn Image,
) -> Result<(Fields, [u8; 60]), BuilderError> {
    let number = |n: u64| u32::try_from(n).unwrap_or(u32::MAX).to_le_bytes();
    let copies: Vec<u64> = (1..geometry.groups)
        .filter(|group| Geometry::has_super(*group))
        .collect();
    let mut list = vec![0; BLOCK_BYTES];
    for nth in 0..geometry.reserved_blocks {
        let kept = 1 + geometry.descriptor_blocks + nth;
        let place = usize::try_from((geometry.descriptor_blocks + nth) % NUMBERS * 4).unwrap_or(0);
        list[place..place + 4].copy_from_slice(&number(kept));
        let there: Bytes = copies
            .iter()
            .flat_map(|group| number(kept + group * GROUP_BLOCKS))
            .collect();
        put(image, kept * BLOCK, &there)?;
    }
    put(image, block * BLOCK, &list)?;
    let mut map = [0; 60];
    // The place of the block that leads to lists of lists.
    map[52..56].copy_from_slice(&number(block));
    let fields = Fields {
        mode: 0o100_600,
        links: 1,
        size: (NUMBERS * NUMBERS + NUMBERS + 12) * BLOCK,
        blocks: 1 + geometry.reserved_blocks * (1 + copies.len() as u64),
        time: (epoch, 0),
        ..Fields::default()
    };
    Ok((fields, map))
}

#[cfg(test)]
mod tests {
    use super::bitmap;

    #[test]
    fn bitmaps() {
        let found = bitmap(11, 29);
        assert_eq!(found[..5], [0xff, 0b111, 0, 0b1110_0000, 0xff]);
        assert_eq!(bitmap(0, 0).len(), 4096);
        assert_eq!(bitmap(3, 5)[0], 0b1110_0111);
    }
}
