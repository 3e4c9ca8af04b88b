//! Directories: runs of names whose inodes lie in one block.

use sos_formats::Bytes;

use super::tables::BLOCK_BYTES;

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

/// Names whose inodes lie in one block: what is written together.
pub(super) struct Run<'a> {
    pub(super) first: &'a [u8],
    pub(super) bytes: Bytes,
}

/// Makes the bytes of a directory, run by run.
pub(super) fn runs<'a>(names: &'a [Listed<'a>]) -> impl Iterator<Item = Run<'a>> {
    let mut rest = names;
    std::iter::from_fn(move || {
        let first = rest.first()?;
        let joins = |name: &&Listed<'_>| {
            let distance = i64::from(name.number) - i64::from(first.number);
            name.place >> 16 == first.place >> 16 && i16::try_from(distance).is_ok()
        };
        let count = rest.iter().take(MAX_RUN).take_while(joins).count();
        let (run, more) = rest.split_at(count);
        let mut out = Bytes::new();
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
        Some(Run {
            first: first.name,
            bytes: out,
        })
    })
}

/// Where to begin in a directory that is long: without it a name is looked for from the first one on.
#[derive(Default)]
pub(super) struct Index {
    pub(super) count: u16,
    pub(super) bytes: Bytes,
    /// How much of the directory was before the last run that has an entry.
    last: usize,
}

impl Index {
    /// Notes a run that begins after so many bytes of the directory, at `place` of the table, if it is far enough from the last one.
    pub(super) fn add(&mut self, run: &Run<'_>, begin: usize, place: u64) {
        if begin - self.last < BLOCK_BYTES || self.count == u16::MAX {
            return;
        }
        self.last = begin;
        self.count += 1;
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_le_bytes();
        self.bytes.extend_from_slice(&small(begin));
        self.bytes
            .extend_from_slice(&(place >> 16).to_le_bytes()[..4]);
        self.bytes.extend_from_slice(&small(run.first.len() - 1));
        self.bytes.extend_from_slice(run.first);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_has_an_entry_for_every_block_or_two() {
        let names: Vec<String> = (0..5_000).map(|n| format!("{n:05}")).collect();
        let listed: Vec<Listed<'_>> = names
            .iter()
            .map(|name| Listed {
                name: name.as_bytes(),
                place: 0,
                number: 1,
                kind: 2,
            })
            .collect();
        let mut index = Index::default();
        let mut len = 0;
        for run in runs(&listed) {
            index.add(&run, len, 3 << 16);
            len += run.bytes.len();
        }
        let blocks = len / BLOCK_BYTES;
        assert!(
            (blocks / 2..=blocks).contains(&usize::from(index.count)),
            "{} for {blocks}",
            index.count
        );
        // The first begins 8 KiB or more after the directory, with the name that stands there.
        let run = 12 + 256 * 13;
        let first = run * BLOCK_BYTES.div_ceil(run);
        let word =
            |at: usize| u32::from_le_bytes(index.bytes[at..at + 4].try_into().expect("four"));
        assert_eq!((word(0) as usize, word(4), word(8)), (first, 3, 4));
        assert_eq!(
            &index.bytes[12..17],
            format!("{:05}", first / run * 256).as_bytes()
        );
    }
}
