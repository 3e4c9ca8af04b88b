//! Raw deflate, written fast: for data that is compressed once and read often by others.
//!
//! What comes out follows from the data alone: not from the processor, not from what was compressed before, not from how much memory there is.
//!
//! # Format
//! RFC 1951: blocks of about 64 KiB of data, each with codes of its own, with the fixed ones, or stored, whichever is shortest. No block
//! is marked as the last; at the end stands an empty stored block, so that the next byte can begin another such stream.

mod bits;
mod codes;
mod matches;

use bits::Bits;
use codes::{Code, Lengths, canonical, header, lengths};
use matches::{Finder, Match};

/// Data of one block; the last one may have half as much again.
const BLOCK_BYTES: usize = 1 << 16;
/// The most data of one stream: places in it are kept in 32 bits.
pub const MAX_BYTES: usize = 1 << 30;

/// The symbol that ends a block.
const END: usize = 256;
/// Literals, the end and the lengths; the last two are never used.
const LITERALS: usize = 288;
const DISTANCES: usize = 30;
/// The longest code of either alphabet.
const LONGEST: u8 = 15;

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

/// Compresses one stream after the other.
#[derive(Debug)]
pub struct Deflate {
    finder: Finder,
    found: Vec<Match>,
    /// The symbol of each length.
    length_symbols: Vec<u8>,
    /// The symbol of each distance to 256, then that of each 128 distances beyond.
    distance_symbols: Vec<u8>,
    /// The codes that need no header.
    fixed: Codes,
}

/// The codes of a block.
#[derive(Clone, Debug)]
struct Codes {
    literals: Vec<Code>,
    distances: Vec<Code>,
}

impl Codes {
    fn new(literals: &[u8], distances: &[u8]) -> Self {
        Self {
            literals: canonical(literals),
            distances: canonical(distances),
        }
    }
}

/// How often each symbol occurs in a block.
struct Counts {
    literals: [u32; LITERALS],
    distances: [u32; DISTANCES],
    /// Bits that follow symbols.
    extra: u64,
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
        let mut length_symbols = vec![0; matches::LONGEST + 1];
        for (symbol, (first, _)) in (0_u8..).zip(LENGTH) {
            length_symbols[usize::from(first)..].fill(symbol);
        }
        let mut distance_symbols = vec![0; 512];
        for (symbol, (first, _)) in (0_u8..).zip(DISTANCE) {
            match usize::from(first) - 1 {
                place @ ..256 => distance_symbols[place..256].fill(symbol),
                place => distance_symbols[256 + (place >> 7)..].fill(symbol),
            }
        }
        let mut fixed = [8; LITERALS];
        fixed[144..256].fill(9);
        fixed[256..280].fill(7);
        Self {
            finder: Finder::new(),
            found: Vec::new(),
            length_symbols,
            distance_symbols,
            fixed: Codes::new(&fixed, &[5; DISTANCES]),
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
        self.finder.begin(raw.len());
        let mut at = 0;
        while at < raw.len() {
            let left = raw.len() - at;
            let wanted = if left < BLOCK_BYTES + BLOCK_BYTES / 2 {
                left
            } else {
                BLOCK_BYTES
            };
            let end = self.finder.find(raw, at, at + wanted, &mut self.found);
            self.block(raw, at, end, &mut bits);
            at = end;
        }
        // An empty stored block ends on a byte.
        bits.put(0, 3);
        bits.align();
        bits.bytes(&[0, 0, 0xff, 0xff]);
    }

    /// Writes the data from `begin` to `end`, in which the matches are that were found.
    fn block(&self, raw: &[u8], begin: usize, end: usize, bits: &mut Bits<'_>) {
        let counts = self.count(raw, begin, end);
        let own = Lengths {
            literals: lengths(&counts.literals, LONGEST),
            distances: lengths(&counts.distances, LONGEST),
        };
        let head = header(&own);
        let cost = |codes: &[u8], counts: &[u32]| -> u64 {
            let all = codes.iter().zip(counts);
            all.map(|(len, count)| u64::from(*len) * u64::from(*count))
                .sum()
        };
        let own_bits = head.bits
            + cost(&own.literals, &counts.literals)
            + cost(&own.distances, &counts.distances);
        let of = |codes: &[Code]| codes.iter().map(|code| code.len).collect::<Vec<u8>>();
        let fixed_bits = cost(&of(&self.fixed.literals), &counts.literals)
            + cost(&of(&self.fixed.distances), &counts.distances);
        let stored_bits = (end - begin) as u64 * 8 + 40 * ((end - begin) as u64 / 65_535 + 1);
        if stored_bits <= own_bits.min(fixed_bits) + counts.extra {
            store(&raw[begin..end], bits);
        } else if fixed_bits <= own_bits {
            bits.put(0b010, 3);
            self.symbols(raw, begin, end, &self.fixed, bits);
        } else {
            bits.put(0b100, 3);
            head.write(bits);
            let codes = Codes::new(&own.literals, &own.distances);
            self.symbols(raw, begin, end, &codes, bits);
        }
    }

    fn distance_symbol(&self, distance: u16) -> usize {
        let place = usize::from(distance) - 1;
        let at = if place < 256 {
            place
        } else {
            256 + (place >> 7)
        };
        usize::from(self.distance_symbols[at])
    }

    fn count(&self, raw: &[u8], begin: usize, end: usize) -> Counts {
        let mut counts = Counts {
            literals: [0; LITERALS],
            distances: [0; DISTANCES],
            extra: 0,
        };
        let mut at = begin;
        for found in &self.found {
            let literals = at + found.literals as usize;
            for byte in &raw[at..literals] {
                counts.literals[usize::from(*byte)] += 1;
            }
            let length = usize::from(self.length_symbols[usize::from(found.len)]);
            counts.literals[END + 1 + length] += 1;
            let symbol = self.distance_symbol(found.distance);
            counts.distances[symbol] += 1;
            counts.extra += u64::from(LENGTH[length].1) + u64::from(DISTANCE[symbol].1);
            at = literals + usize::from(found.len);
        }
        for byte in &raw[at..end] {
            counts.literals[usize::from(*byte)] += 1;
        }
        counts.literals[END] = 1;
        counts
    }

    fn symbols(&self, raw: &[u8], begin: usize, end: usize, codes: &Codes, bits: &mut Bits<'_>) {
        let literal = |bits: &mut Bits<'_>, byte: u8| {
            let code = codes.literals[usize::from(byte)];
            bits.put(u64::from(code.bits), code.len);
        };
        let mut at = begin;
        for found in &self.found {
            let literals = at + found.literals as usize;
            for byte in &raw[at..literals] {
                literal(bits, *byte);
            }
            let symbol = usize::from(self.length_symbols[usize::from(found.len)]);
            let code = codes.literals[END + 1 + symbol];
            let (first, extra) = LENGTH[symbol];
            let rest = u64::from(found.len - first);
            bits.put(u64::from(code.bits) | rest << code.len, code.len + extra);
            let symbol = self.distance_symbol(found.distance);
            let code = codes.distances[symbol];
            let (first, extra) = DISTANCE[symbol];
            let rest = u64::from(found.distance - first);
            bits.put(u64::from(code.bits) | rest << code.len, code.len + extra);
            at = literals + usize::from(found.len);
        }
        for byte in &raw[at..end] {
            literal(bits, *byte);
        }
        let code = codes.literals[END];
        bits.put(u64::from(code.bits), code.len);
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
