//! The 256 bytes of an inode.

use super::INODE_BYTES;
use super::sums::{Sums, high16, low16};
use super::xattrs::{Attributes, INLINE_BYTES};
use crate::filesystem::tree::Content;

/// The blocks of the file are told by extents.
pub(super) const EXTENTS: u32 = 0x8_0000;
/// The directory has an index.
pub(super) const INDEX: u32 = 0x1000;
/// Bytes of the fields behind the first 128.
const EXTRA_BYTES: u16 = 32;
/// Bytes of a sector, in which blocks are counted.
pub(super) const SECTORS_PER_BLOCK: u64 = 8;
/// Seconds that a time can be before 1970.
pub(super) const MIN_TIME: i64 = i32::MIN as i64;
/// The last second that a time can be.
pub(super) const MAX_TIME: i64 = (3 << 32) + i32::MAX as i64;

/// What an inode says.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    /// With the type.
    pub(super) mode: u16,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) size: u64,
    pub(super) links: u16,
    /// Blocks that it takes, with those of its lists and xattrs.
    pub(super) blocks: u64,
    pub(super) flags: u32,
    /// Seconds and nanoseconds; all times of a file are the same.
    pub(super) time: (i64, u32),
    /// The block with xattrs, or 0.
    pub(super) xattr_block: u64,
}

impl Fields {
    /// Writes the inode. `map` is what tells its blocks, or what stands in their place.
    pub(super) fn encode(
        &self,
        number: u32,
        map: &[u8; 60],
        attributes: &Attributes,
        sums: &Sums,
    ) -> [u8; INODE_BYTES] {
        let mut out = [0; INODE_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        let uid = self.uid.to_le_bytes();
        let gid = self.gid.to_le_bytes();
        let size = self.size.to_le_bytes();
        let sectors = (self.blocks * SECTORS_PER_BLOCK).to_le_bytes();
        let xattrs = self.xattr_block.to_le_bytes();
        put(0x00, &self.mode.to_le_bytes());
        put(0x02, &uid[..2]);
        put(0x04, &size[..4]);
        put(0x18, &gid[..2]);
        put(0x1a, &self.links.to_le_bytes());
        put(0x1c, &sectors[..4]);
        put(0x20, &self.flags.to_le_bytes());
        put(0x28, map);
        put(0x68, &xattrs[..4]);
        put(0x6c, &size[4..]);
        put(0x74, &sectors[4..6]);
        put(0x76, &xattrs[4..6]);
        put(0x78, &uid[2..]);
        put(0x7a, &gid[2..]);
        put(0x80, &EXTRA_BYTES.to_le_bytes());
        let (low, extra) = time_bytes(self.time);
        // Access, change, modification; then creation.
        for (at, more) in [(0x08, 0x8c), (0x0c, 0x84), (0x10, 0x88), (0x90, 0x94)] {
            put(at, &low);
            put(more, &extra);
        }
        attributes.put_inline(&mut out[INODE_BYTES - INLINE_BYTES..]);
        let sum = sums.of_inode(number, &out);
        out[0x7c..0x7e].copy_from_slice(&low16(sum).to_le_bytes());
        out[0x82..0x84].copy_from_slice(&high16(sum).to_le_bytes());
        out
    }
}

/// The inode of a number that nobody uses.
pub(super) fn unused(number: u32, sums: &Sums) -> [u8; INODE_BYTES] {
    let mut out = [0; INODE_BYTES];
    let sum = sums.of_inode(number, &out);
    // Without the second field the checksum has its lower half only.
    out[0x7c..0x7e].copy_from_slice(&low16(sum).to_le_bytes());
    out
}

/// The low 32 bits of the seconds, and the field with two more and the nanoseconds.
fn time_bytes((secs, nsecs): (i64, u32)) -> ([u8; 4], [u8; 4]) {
    let [a, b, c, d, ..] = secs.to_le_bytes();
    let low = [a, b, c, d];
    let signed = i64::from(i32::from_le_bytes(low));
    let epoch = (secs.wrapping_sub(signed) >> 32).to_le_bytes()[0] & 3;
    let extra = (nsecs << 2) | u32::from(epoch);
    (low, extra.to_le_bytes())
}

/// What stands in the place of blocks for a device; `None` for numbers that are too large.
pub(super) fn device(content: &Content) -> Option<[u8; 60]> {
    let mut map = [0; 60];
    let (Content::CharDev { major, minor } | Content::BlockDev { major, minor }) = content else {
        return Some(map);
    };
    if *major < 256 && *minor < 256 {
        let old = (major << 8) | minor;
        map[..4].copy_from_slice(&old.to_le_bytes());
    } else {
        map[4..8].copy_from_slice(&device_number(*major, *minor)?.to_le_bytes());
    }
    Some(map)
}

/// A device as Linux packs it into 32 bits; `None` for numbers that are too large.
pub(in crate::filesystem) fn device_number(major: u32, minor: u32) -> Option<u32> {
    let fits = major < 1 << 12 && minor < 1 << 20;
    fits.then_some((minor & 0xff) | (major << 8) | ((minor & !0xff) << 12))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_four_centuries() {
        for (secs, low, epoch) in [
            (0, 0, 0),
            (-1, u32::MAX, 0),
            (MIN_TIME, 0x8000_0000, 0),
            (1 << 31, 0x8000_0000, 1),
            (MAX_TIME, 0x7fff_ffff, 3),
        ] {
            let found = time_bytes((secs, 5));
            let expected = (u32::to_le_bytes(low), u32::to_le_bytes(20 + epoch));
            assert_eq!(found, expected, "{secs}");
        }
    }
}
