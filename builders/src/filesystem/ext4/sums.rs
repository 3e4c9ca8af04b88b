//! Checksums of metadata; all begin with the UUID.

use sos_formats::crc32c;

/// Makes checksums for one file system.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sums {
    seed: u32,
}

impl Sums {
    pub(super) fn new(uuid: &[u8; 16]) -> Self {
        Self {
            seed: crc32c::update(!0, uuid),
        }
    }

    /// Of bytes that belong to the whole file system.
    pub(super) fn of(self, bytes: &[u8]) -> u32 {
        crc32c::update(self.seed, bytes)
    }

    /// Of what belongs to an inode: it begins with the number and the generation, which is always 0.
    pub(super) fn of_inode(self, inode: u32, bytes: &[u8]) -> u32 {
        let seed = crc32c::update(self.of(&inode.to_le_bytes()), &[0; 4]);
        crc32c::update(seed, bytes)
    }

    /// Of a group's descriptor, whose own field must be zero.
    pub(super) fn of_group(self, group: u32, descriptor: &[u8]) -> u16 {
        let sum = crc32c::update(self.of(&group.to_le_bytes()), descriptor);
        low16(sum)
    }

    /// Of a block of xattrs, whose own field must be zero.
    pub(super) fn of_xattrs(self, block: u64, bytes: &[u8]) -> u32 {
        crc32c::update(self.of(&block.to_le_bytes()), bytes)
    }
}

/// The lower half.
pub(super) fn low16(sum: u32) -> u16 {
    let [a, b, _, _] = sum.to_le_bytes();
    u16::from_le_bytes([a, b])
}

/// The upper half.
pub(super) fn high16(sum: u32) -> u16 {
    let [_, _, a, b] = sum.to_le_bytes();
    u16::from_le_bytes([a, b])
}
