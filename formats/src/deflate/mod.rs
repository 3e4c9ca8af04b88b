//! Raw deflate, written fast: for data that is compressed once and read often by others.
//!
//! What comes out follows from the data alone: not from the processor, not from what was compressed before, not from how much memory there is.
//!
//! # Format
//! RFC 1951: blocks of about 128 KiB of data, each with codes of its own, with the fixed ones, or stored, whichever is shortest. No block
//! is marked as the last; at the end stands an empty stored block, so that the next byte can begin another such stream.

mod bits;
mod codes;
mod matches;
mod symbols;

use bits::Bits;
use codes::{Lengths, header, lengths};
use matches::{Finder, Match};
use symbols::Symbols;

/// Data of one block; the last one may have half as much again.
const BLOCK_BYTES: usize = 1 << 17;
/// The most data of one stream: how much stands before a match is kept in 32 bits.
pub const MAX_BYTES: usize = 1 << 30;

/// The symbol that ends a block.
const END: usize = 256;
/// Literals, the end and the lengths; the last two are never used.
const LITERALS: usize = 288;
const DISTANCES: usize = 30;
/// The longest code of a literal: four of them are written at once.
const LONGEST_LITERAL: u8 = 14;
const LONGEST_DISTANCE: u8 = 15;

/// The shortest length of each symbol after the end, and how many bits follow.
const LENGTH: [(u16, u8); 29] = [
    (3, 0),
    (4, 0),
    (5, 0),
    (6, 0),
    (7, 0),
    (8, 0),
    (9, 0),
    (10, 0),
    (11, 1),
    (13, 1),
    (15, 1),
    (17, 1),
    (19, 2),
    (23, 2),
    (27, 2),
    (31, 2),
    (35, 3),
    (43, 3),
    (51, 3),
    (59, 3),
    (67, 4),
    (83, 4),
    (99, 4),
    (115, 4),
    (131, 5),
    (163, 5),
    (195, 5),
    (227, 5),
    (258, 0),
];

/// The shortest distance of each symbol, and how many bits follow.
const DISTANCE: [(u16, u8); 30] = [
    (1, 0),
    (2, 0),
    (3, 0),
    (4, 0),
    (5, 1),
    (7, 1),
    (9, 2),
    (13, 2),
    (17, 3),
    (25, 3),
    (33, 4),
    (49, 4),
    (65, 5),
    (97, 5),
    (129, 6),
    (193, 6),
    (257, 7),
    (385, 7),
    (513, 8),
    (769, 8),
    (1025, 9),
    (1537, 9),
    (2049, 10),
    (3073, 10),
    (4097, 11),
    (6145, 11),
    (8193, 12),
    (12289, 12),
    (16385, 13),
    (24577, 13),
];

/// The symbol of each length.
const LENGTH_SYMBOLS: [u8; matches::LONGEST + 1] = {
    let mut symbols = [0; matches::LONGEST + 1];
    let mut symbol: u8 = 0;
    while (symbol as usize) < LENGTH.len() {
        let mut at = LENGTH[symbol as usize].0 as usize;
        while at < symbols.len() {
            symbols[at] = symbol;
            at += 1;
        }
        symbol += 1;
    }
    symbols
};

/// Compresses one stream after the other.
#[derive(Debug)]
pub struct Deflate {
    finder: Finder,
    found: Vec<Match>,
    /// The codes that need no header.
    fixed: Lengths,
}

/// How often what occurs in a block.
#[derive(Debug)]
struct Counts {
    literals: [u32; 256],
    /// By length.
    lengths: [u32; 512],
    /// By symbol.
    distances: [u32; 32],
}

impl Counts {
    fn new() -> Self {
        Self {
            literals: [0; 256],
            lengths: [0; 512],
            distances: [0; 32],
        }
    }

    #[inline(always)]
    fn literal(&mut self, byte: u8) {
        self.literals[usize::from(byte)] += 1;
    }

    #[inline(always)]
    fn pair(&mut self, len: usize, distance: usize) {
        self.lengths[len & 511] += 1;
        self.distances[usize::from(distance_symbol(distance) & 31)] += 1;
    }

    /// Gives how often each literal and length is written, and how many bits follow all symbols.
    fn symbols(&self) -> ([u32; LITERALS], u64) {
        let mut literals = [0; LITERALS];
        literals[..256].copy_from_slice(&self.literals);
        literals[END] = 1;
        let mut extra = 0;
        for (symbol, count) in LENGTH_SYMBOLS.iter().zip(self.lengths) {
            let symbol = usize::from(*symbol);
            literals[END + 1 + symbol] += count;
            extra += u64::from(LENGTH[symbol].1) * u64::from(count);
        }
        for ((_, bits), count) in DISTANCE.iter().zip(self.distances) {
            extra += u64::from(*bits) * u64::from(count);
        }
        (literals, extra)
    }
}

/// The symbol of each distance to 256, then that of each 128 distances beyond.
const DISTANCE_SYMBOLS: [u8; 512] = {
    let mut symbols = [0; 512];
    let mut symbol: u8 = 0;
    while (symbol as usize) < DISTANCE.len() {
        let place = DISTANCE[symbol as usize].0 as usize - 1;
        let mut at = if place < 256 {
            place
        } else {
            256 + (place >> 7)
        };
        while at < 512 {
            symbols[at] = symbol;
            at += 1;
        }
        symbol += 1;
    }
    symbols
};

#[inline(always)]
fn distance_symbol(distance: usize) -> u8 {
    let place = distance.wrapping_sub(1);
    let at = if place < 256 {
        place
    } else {
        256 + (place >> 7)
    };
    DISTANCE_SYMBOLS[at & 511]
}

impl Default for Deflate {
    fn default() -> Self {
        Self::new()
    }
}

impl Deflate {
    /// Prepares.
    #[must_use]
    pub fn new() -> Self {
        let mut literals = vec![8; LITERALS];
        literals[144..256].fill(9);
        literals[256..280].fill(7);
        Self {
            finder: Finder::new(),
            found: Vec::new(),
            fixed: Lengths {
                literals,
                distances: vec![5; DISTANCES],
            },
        }
    }

    /// Appends the stream of `raw`, which has at most [`MAX_BYTES`], to `out`.
    ///
    /// # Panics
    /// When there are more bytes.
    pub fn stream(&mut self, raw: &[u8], out: &mut Vec<u8>) {
        assert!(raw.len() <= MAX_BYTES, "a stream is compressed in parts");
        out.reserve(raw.len() / 2 + 64);
        let mut bits = Bits::new(out);
        self.finder.begin();
        let mut at = 0;
        while at < raw.len() {
            let left = raw.len() - at;
            let wanted = if left < BLOCK_BYTES + BLOCK_BYTES / 2 {
                left
            } else {
                BLOCK_BYTES
            };
            let mut counts = Counts::new();
            let end = self
                .finder
                .find(raw, at, at + wanted, &mut self.found, &mut counts);
            self.block(raw, at, end, &counts, &mut bits);
            at = end;
        }
        // An empty stored block ends on a byte.
        bits.put(0, 3);
        bits.align();
        bits.bytes(&[0, 0, 0xff, 0xff]);
    }

    /// Writes the data from `begin` to `end`, in which the matches are that were found.
    fn block(&self, raw: &[u8], begin: usize, end: usize, counts: &Counts, bits: &mut Bits<'_>) {
        let (literals, extra) = counts.symbols();
        let distances = &counts.distances[..DISTANCES];
        let own = Lengths {
            literals: lengths(&literals, LONGEST_LITERAL),
            distances: lengths(distances, LONGEST_DISTANCE),
        };
        let head = header(&own);
        let cost = |codes: &[u8], counts: &[u32]| -> u64 {
            let all = codes.iter().zip(counts);
            all.map(|(len, count)| u64::from(*len) * u64::from(*count))
                .sum()
        };
        let own_bits = head.bits + cost(&own.literals, &literals) + cost(&own.distances, distances);
        let fixed = &self.fixed;
        let fixed_bits = cost(&fixed.literals, &literals) + cost(&fixed.distances, distances);
        let stored_bits = (end - begin) as u64 * 8 + 40 * ((end - begin) as u64 / 65_535 + 1);
        if stored_bits <= own_bits.min(fixed_bits) + extra {
            store(&raw[begin..end], bits);
            return;
        }
        let own_is_shorter = own_bits < fixed_bits;
        let codes = if own_is_shorter {
            bits.put(0b100, 3);
            head.write(bits);
            &own
        } else {
            bits.put(0b010, 3);
            fixed
        };
        bits.reserve(own_bits.min(fixed_bits) + extra);
        Symbols::new(codes).write(&raw[begin..end], &self.found, bits);
    }
}

/// Writes data as it is.
fn store(data: &[u8], bits: &mut Bits<'_>) {
    for part in data.chunks(usize::from(u16::MAX)) {
        let len = u16::try_from(part.len()).unwrap_or(u16::MAX);
        bits.put(0, 3);
        bits.align();
        bits.bytes(&len.to_le_bytes());
        bits.bytes(&(!len).to_le_bytes());
        bits.bytes(part);
    }
}

#[cfg(test)]
mod tests;
