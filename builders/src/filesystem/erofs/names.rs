//! Blocks of directories: numbers first, then the names that belong to them.

use sos_formats::Bytes;

use super::BLOCK_BYTES;

/// Bytes of an entry without its name.
const ENTRY_BYTES: usize = 12;

/// One name.
pub(super) struct Listed<'a> {
    pub(super) name: &'a [u8],
    pub(super) number: u64,
    pub(super) kind: u8,
}

impl Listed<'_> {
    fn bytes(&self) -> usize {
        ENTRY_BYTES + self.name.len()
    }
}

/// Bytes that a directory with these names has.
pub(super) fn size<'a, 'b: 'a>(names: impl Iterator<Item = &'a Listed<'b>>) -> u64 {
    let mut whole = 0;
    let mut used = 0;
    for name in names {
        if used + name.bytes() > BLOCK_BYTES {
            whole += BLOCK_BYTES;
            used = 0;
        }
        used += name.bytes();
    }
    (whole + used) as u64
}

/// Makes the bytes of a directory, the last block as long as it must be.
pub(super) fn listing(names: &[Listed<'_>]) -> Bytes {
    let mut out = Vec::new();
    let mut rest = names;
    while !rest.is_empty() {
        let mut used = 0;
        let count = rest
            .iter()
            .take_while(|name| {
                used += name.bytes();
                used <= BLOCK_BYTES
            })
            .count();
        let (block, more) = rest.split_at(count);
        out.resize(out.len().next_multiple_of(BLOCK_BYTES), 0);
        let mut place = count * ENTRY_BYTES;
        for name in block {
            out.extend_from_slice(&name.number.to_le_bytes());
            out.extend_from_slice(&u16::try_from(place).unwrap_or(u16::MAX).to_le_bytes());
            out.extend_from_slice(&[name.kind, 0]);
            place += name.name.len();
        }
        for name in block {
            out.extend_from_slice(name.name);
        }
        rest = more;
    }
    out
}
