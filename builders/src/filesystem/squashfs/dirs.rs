//! Directories: runs of names whose inodes lie in one block.

use sos_formats::Bytes;

/// Names of a run.
const MAX_RUN: usize = 256;

/// One name.
pub(super) struct Listed<'a> {
    pub(super) name: &'a [u8],
    /// Where the inode is.
    pub(super) place: u64,
    pub(super) number: u32,
    pub(super) kind: u16,
}

/// Makes the bytes of a directory.
pub(super) fn listing(names: &[Listed<'_>]) -> Bytes {
    let mut out = Bytes::new();
    let mut rest = names;
    while let Some(first) = rest.first() {
        let joins = |name: &&Listed<'_>| {
            let distance = i64::from(name.number) - i64::from(first.number);
            name.place >> 16 == first.place >> 16 && i16::try_from(distance).is_ok()
        };
        let count = rest.iter().take(MAX_RUN).take_while(joins).count();
        let (run, more) = rest.split_at(count);
        let number = u32::try_from(count - 1).unwrap_or(0);
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&(first.place >> 16).to_le_bytes()[..4]);
        out.extend_from_slice(&first.number.to_le_bytes());
        for name in run {
            let distance = i64::from(name.number) - i64::from(first.number);
            let len = u16::try_from(name.name.len() - 1).unwrap_or(0);
            out.extend_from_slice(&name.place.to_le_bytes()[..2]);
            out.extend_from_slice(&distance.to_le_bytes()[..2]);
            out.extend_from_slice(&name.kind.to_le_bytes());
            out.extend_from_slice(&len.to_le_bytes());
            out.extend_from_slice(name.name);
        }
        rest = more;
    }
    out
}
