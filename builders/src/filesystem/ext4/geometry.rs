//! How a file system of a given size is divided.

use super::{BLOCK_BYTES, INODE_BYTES};
use crate::filesystem::data::BLOCK;

/// Blocks of a group: as many as a block has bits.
pub(super) const GROUP_BLOCKS: u64 = 8 * BLOCK;
/// Bytes of a group's descriptor.
pub(super) const DESCRIPTOR_BYTES: usize = 64;
/// Descriptors of one block.
const DESCRIPTORS: u64 = BLOCK / DESCRIPTOR_BYTES as u64;
/// Inodes of one block.
const INODES: u64 = BLOCK / INODE_BYTES as u64;
/// Numbers of blocks in one block.
pub(super) const NUMBERS: u64 = BLOCK / 4;
/// How many times its size a file system can grow to, as the usual tool has it.
const GROWTH: u64 = 1024;
/// What it can grow to at least: 1 TiB. `resize2fs` refuses what goes beyond the blocks that are kept, and the smallest image may be
/// meant for a large disk.
const MIN_GROWN: u64 = 1 << 28;
/// The most blocks: numbers of 32 bits, as the inode for growing has them.
pub(super) const MAX_BLOCKS: u64 = u32::MAX as u64;
/// Blocks per inode, so that what is added later finds inodes too.
const BLOCKS_PER_INODE: u64 = 4;
/// A last group that has less beside its own administration is left out.
const MIN_LAST_BLOCKS: u64 = 50;

/// Where the parts of every group are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Geometry {
    pub(super) blocks: u64,
    pub(super) groups: u64,
    /// Blocks of the descriptors.
    pub(super) descriptor_blocks: u64,
    /// Blocks behind them that are kept for more descriptors.
    pub(super) reserved_blocks: u64,
    pub(super) inodes_per_group: u64,
    /// The power of two of groups that keep bitmaps and inodes together.
    pub(super) flex_log: u32,
    pub(super) journal_blocks: u64,
}

impl Geometry {
    /// Divides `blocks` blocks; `inodes` is how many are needed. Some blocks at the end may remain unused.
    pub(super) fn new(blocks: u64, inodes: u64) -> Self {
        let mut blocks = blocks.min(MAX_BLOCKS);
        loop {
            let found = Self::of(blocks, inodes);
            let last = found.groups - 1;
            let begin = last * GROUP_BLOCKS;
            let needed = found.taken(last) + MIN_LAST_BLOCKS;
            if last > 0 && blocks - begin < needed {
                blocks = begin;
                continue;
            }
            return found;
        }
    }

    fn of(blocks: u64, inodes: u64) -> Self {
        let groups = blocks.div_ceil(GROUP_BLOCKS).max(1);
        let wanted = inodes.max(blocks / BLOCKS_PER_INODE);
        let inodes_per_group = wanted.div_ceil(groups).next_multiple_of(INODES);
        let descriptor_blocks = groups.div_ceil(DESCRIPTORS);
        let grown = blocks.saturating_mul(GROWTH).clamp(MIN_GROWN, MAX_BLOCKS);
        let grown = grown.div_ceil(GROUP_BLOCKS).div_ceil(DESCRIPTORS);
        let reserved_blocks = (grown - descriptor_blocks.min(grown)).min(NUMBERS);
        let mut flex_log = 4;
        // What is kept together must leave the first group of them some room.
        while flex_log > 0
            && (inodes_per_group / INODES + 2) << flex_log > GROUP_BLOCKS - GROUP_BLOCKS / 4
        {
            flex_log -= 1;
        }
        Self {
            blocks,
            groups,
            descriptor_blocks,
            reserved_blocks,
            inodes_per_group,
            flex_log,
            journal_blocks: journal_blocks(blocks),
        }
    }

    /// Leaves out blocks at the end, as far as the last group can do without.
    pub(super) fn shorten(&mut self, blocks: u64) {
        let last = self.groups - 1;
        let least = last * GROUP_BLOCKS + self.taken(last) + MIN_LAST_BLOCKS;
        self.blocks = self.blocks.min(blocks.max(least));
    }

    /// Tells whether there can be so many inodes.
    pub(super) fn is_sound(&self) -> bool {
        let first = self.taken(0) + 1;
        self.inodes_per_group <= GROUP_BLOCKS && first < self.group_blocks(0)
    }

    pub(super) fn inodes(&self) -> u64 {
        self.groups * self.inodes_per_group
    }

    /// Blocks of one group's inodes.
    pub(super) fn table_blocks(&self) -> u64 {
        self.inodes_per_group / INODES
    }

    /// Blocks of a group; the last may be shorter.
    pub(super) fn group_blocks(&self, group: u64) -> u64 {
        GROUP_BLOCKS.min(self.blocks - group * GROUP_BLOCKS)
    }

    /// Tells whether a group begins with a copy of the superblock: the first two, and powers of 3, 5 and 7.
    pub(super) fn has_super(group: u64) -> bool {
        let is_power = |base: u64| {
            let mut power = base;
            while power < group {
                power *= base;
            }
            power == group
        };
        group <= 1 || [3, 5, 7].into_iter().any(is_power)
    }

    /// Blocks of the superblock and of descriptors that a group begins with.
    pub(super) fn head_blocks(&self, group: u64) -> u64 {
        if Self::has_super(group) {
            1 + self.descriptor_blocks + self.reserved_blocks
        } else {
            0
        }
    }

    /// The first group of those that keep bitmaps and inodes with this one, and how many they are.
    fn flex(&self, group: u64) -> (u64, u64) {
        let size = 1 << self.flex_log;
        let first = group / size * size;
        (first, size.min(self.groups - first))
    }

    /// Blocks at the begin of a group that are taken before any file.
    pub(super) fn taken(&self, group: u64) -> u64 {
        let (first, count) = self.flex(group);
        let head = self.head_blocks(group);
        if first == group {
            head + count * (2 + self.table_blocks())
        } else {
            head
        }
    }

    /// The numbers of the block bitmap, of the inode bitmap, and of the first block of inodes of a group.
    pub(super) fn places(&self, group: u64) -> (u64, u64, u64) {
        let (first, count) = self.flex(group);
        let begin = first * GROUP_BLOCKS + self.head_blocks(first);
        let at = group - first;
        let tables = begin + 2 * count;
        (
            begin + at,
            begin + count + at,
            tables + at * self.table_blocks(),
        )
    }

    /// The offset in bytes of an inode.
    pub(super) fn inode_offset(&self, inode: u32) -> u64 {
        let (group, at) = self.inode_place(inode);
        self.places(group).2 * BLOCK + at * INODE_BYTES as u64
    }

    /// The group of an inode, and its place there.
    pub(super) fn inode_place(&self, inode: u32) -> (u64, u64) {
        let at = u64::from(inode) - 1;
        (at / self.inodes_per_group, at % self.inodes_per_group)
    }
}

/// The size of a journal that suits a file system of so many blocks, as the usual tool has it.
fn journal_blocks(blocks: u64) -> u64 {
    const _: () = assert!(BLOCK_BYTES == 4096, "the table is for blocks of this size");
    match blocks {
        0..32_768 => 1024,
        32_768..262_144 => 4096,
        262_144..524_288 => 8192,
        524_288..4_194_304 => 16_384,
        4_194_304..8_388_608 => 32_768,
        8_388_608..16_777_216 => 65_536,
        16_777_216..33_554_432 => 131_072,
        _ => 262_144,
    }
}

/// Blocks that are given out from the first to the last.
pub(super) struct Free<'a> {
    geometry: &'a Geometry,
    group: u64,
    /// The next free block, counted in the group.
    next: u64,
}

impl<'a> Free<'a> {
    pub(super) fn new(geometry: &'a Geometry) -> Self {
        Self {
            geometry,
            group: 0,
            next: geometry.taken(0),
        }
    }

    /// Takes blocks; gives the parts they are in, each a number and a count. `None` when there are not so many.
    pub(super) fn take(&mut self, mut count: u64) -> Option<Vec<(u64, u64)>> {
        let mut parts: Vec<(u64, u64)> = Vec::new();
        while count > 0 {
            let room = self.geometry.group_blocks(self.group) - self.next;
            if room == 0 {
                if self.group + 1 == self.geometry.groups {
                    return None;
                }
                self.group += 1;
                self.next = self.geometry.taken(self.group);
                continue;
            }
            let part = room.min(count);
            let begin = self.group * GROUP_BLOCKS + self.next;
            match parts.last_mut() {
                Some((first, count)) if *first + *count == begin => *count += part,
                _ => parts.push((begin, part)),
            }
            self.next += part;
            count -= part;
        }
        Some(parts)
    }

    /// Takes single blocks.
    pub(super) fn take_each(&mut self, count: usize) -> Option<Vec<u64>> {
        let parts = self.take(count as u64)?;
        Some(
            parts
                .into_iter()
                .flat_map(|(first, count)| first..first + count)
                .collect(),
        )
    }

    /// The number of the first block that was not given out; none is behind it.
    pub(super) fn end(&self) -> u64 {
        self.group * GROUP_BLOCKS + self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_are_in_the_groups_that_everybody_looks_at() {
        let with: Vec<u64> = (0..130)
            .filter(|group| Geometry::has_super(*group))
            .collect();
        assert_eq!(with, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    #[test]
    fn a_last_group_without_room_is_left_out() {
        let whole = Geometry::new(3 * GROUP_BLOCKS, 10);
        assert_eq!(Geometry::new(3 * GROUP_BLOCKS + 40, 10), whole);
        assert_eq!(Geometry::new(3 * GROUP_BLOCKS + 2000, 10).groups, 4);
    }
}
