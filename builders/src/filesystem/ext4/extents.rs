//! Where the blocks of a file lie: four extents in the inode, or a tree of blocks.

use sos_formats::Bytes;

use super::BLOCK_BYTES;
use super::sums::Sums;

/// The longest extent, in blocks.
const MAX_LEN: u64 = 32_768;
/// Entries in the inode.
const INLINE: usize = 4;
/// Entries of a block.
const PER_BLOCK: usize = (BLOCK_BYTES - 12 - 4) / 12;
const MAGIC: u16 = 0xf30a;

/// Blocks of a file that lie together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Extent {
    /// The number of the first in the file.
    pub(super) first: u64,
    pub(super) count: u64,
    /// The number of the first in the file system.
    pub(super) block: u64,
}

/// Adds an extent to a list, joined with the last where it goes on from it, cut where it is too long.
pub(super) fn add(list: &mut Vec<Extent>, mut new: Extent) {
    if let Some(last) = list.last_mut()
        && last.first + last.count == new.first
        && last.block + last.count == new.block
    {
        let taken = new.count.min(MAX_LEN - last.count);
        last.count += taken;
        new = Extent {
            first: new.first + taken,
            count: new.count - taken,
            block: new.block + taken,
        };
    }
    while new.count > 0 {
        let count = new.count.min(MAX_LEN);
        list.push(Extent { count, ..new });
        new.first += count;
        new.block += count;
        new.count -= count;
    }
}

/// Blocks that the tree of so many extents takes, besides the inode.
pub(super) fn tree_blocks(extents: usize) -> usize {
    let mut total = 0;
    let mut level = extents;
    while level > INLINE {
        level = level.div_ceil(PER_BLOCK);
        total += level;
    }
    total
}

/// Makes the 60 bytes of the inode, and the blocks of the tree with their numbers, which are taken from `numbers` in order.
pub(super) fn tree(
    extents: &[Extent],
    numbers: &[u64],
    owner: u32,
    sums: &Sums,
) -> ([u8; 60], Vec<(u64, Bytes)>) {
    let mut entries: Vec<(u64, [u8; 12])> = extents
        .iter()
        .map(|extent| (extent.first, extent_bytes(extent)))
        .collect();
    let mut blocks = Vec::new();
    let mut numbers = numbers.iter().copied();
    let mut depth = 0;
    while entries.len() > INLINE {
        let mut above = Vec::new();
        for part in entries.chunks(PER_BLOCK) {
            let number = numbers.next().unwrap_or(0);
            let mut block = vec![0; BLOCK_BYTES];
            put(&mut block, part, PER_BLOCK, depth);
            let sum = sums.of_inode(owner, &block[..BLOCK_BYTES - 4]);
            block[BLOCK_BYTES - 4..].copy_from_slice(&sum.to_le_bytes());
            above.push((part[0].0, index_bytes(part[0].0, number)));
            blocks.push((number, block));
        }
        entries = above;
        depth += 1;
    }
    let mut root = [0; 60];
    put(&mut root, &entries, INLINE, depth);
    (root, blocks)
}

fn put(place: &mut [u8], entries: &[(u64, [u8; 12])], max: usize, depth: u16) {
    let number = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
    let header = [MAGIC, number(entries.len()), number(max), depth];
    for (at, value) in header.iter().enumerate() {
        place[at * 2..at * 2 + 2].copy_from_slice(&value.to_le_bytes());
    }
    for (at, (_, bytes)) in entries.iter().enumerate() {
        let at = 12 + at * 12;
        place[at..at + 12].copy_from_slice(bytes);
    }
}

fn extent_bytes(extent: &Extent) -> [u8; 12] {
    let mut bytes = [0; 12];
    let [a, b, c, d, e, f, ..] = extent.block.to_le_bytes();
    bytes[..4].copy_from_slice(&extent.first.to_le_bytes()[..4]);
    bytes[4..6].copy_from_slice(&extent.count.to_le_bytes()[..2]);
    bytes[6..8].copy_from_slice(&[e, f]);
    bytes[8..].copy_from_slice(&[a, b, c, d]);
    bytes
}

fn index_bytes(first: u64, block: u64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&first.to_le_bytes()[..4]);
    bytes[4..10].copy_from_slice(&block.to_le_bytes()[..6]);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_joined_and_long_ones_cut() {
        let mut list = Vec::new();
        let extent = |first, count, block| Extent {
            first,
            count,
            block,
        };
        add(&mut list, extent(0, 10, 100));
        add(&mut list, extent(10, 40_000, 110));
        add(&mut list, extent(50_000, 1, 9));
        assert_eq!(
            list,
            [
                extent(0, 32_768, 100),
                extent(32_768, 7_242, 32_868),
                extent(50_000, 1, 9)
            ]
        );
        assert_eq!(tree_blocks(4), 0);
        assert_eq!(tree_blocks(5), 1);
        assert_eq!(tree_blocks(4 * 340), 4);
        assert_eq!(tree_blocks(4 * 340 + 1), 6);
    }
}
