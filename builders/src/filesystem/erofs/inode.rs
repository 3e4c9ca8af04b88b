//! The 64 bytes of an inode of the long form.

use crate::filesystem::tree::Inode;

pub(super) const INODE_BYTES: usize = 64;

/// How data is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// Blocks that lie together.
    Plain = 0,
    /// The same, with the end behind the inode.
    Inline = 2,
    /// Chunks, listed behind the inode.
    Chunks = 4,
}

/// What an inode says that the tree does not.
pub(super) struct Body {
    pub(super) layout: Layout,
    /// Bytes of xattrs that follow.
    pub(super) xattr_bytes: usize,
    pub(super) size: u64,
    /// The first block, a device, or the size of chunks.
    pub(super) place: u32,
    /// What `stat` shows on machines of 32 bits.
    pub(super) number: u32,
}

/// Writes an inode.
pub(super) fn encode(inode: &Inode, body: &Body) -> [u8; INODE_BYTES] {
    let mut out = [0; INODE_BYTES];
    let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
    // The lowest bit is the long form.
    put(0, &[1 | (body.layout as u8) << 1]);
    let count = match body.xattr_bytes {
        0 => 0,
        // The header counts as one.
        bytes => 1 + (bytes - super::xattrs::HEADER_BYTES) / 4,
    };
    put(2, &u16::try_from(count).unwrap_or(u16::MAX).to_le_bytes());
    put(4, &inode.mode().to_le_bytes());
    put(8, &body.size.to_le_bytes());
    put(16, &body.place.to_le_bytes());
    put(20, &body.number.to_le_bytes());
    put(24, &inode.meta.uid.to_le_bytes());
    put(28, &inode.meta.gid.to_le_bytes());
    put(32, &inode.meta.mtime_secs.to_le_bytes());
    put(40, &inode.meta.mtime_nsecs.to_le_bytes());
    put(44, &inode.links.to_le_bytes());
    out
}
