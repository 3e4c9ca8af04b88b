//! What was found in a block, in codes.

use super::bits::Bits;
use super::codes::{Code, Lengths, canonical};
use super::matches::{LONGEST, Match};
use super::{DISTANCE, END, LENGTH, LENGTH_SYMBOLS, distance_symbol};

/// The codes of a block, as they are written.
pub(super) struct Symbols {
    literals: [Packed; 256],
    /// By length, with the bits that follow.
    lengths: [Packed; 512],
    /// By symbol, without those.
    distances: [Distance; 32],
    end: Packed,
}

/// Bits, the lowest 24, and how many, the highest 8.
#[derive(Clone, Copy, Default)]
struct Packed(u32);

impl Packed {
    fn of(code: Code) -> Self {
        Self(u32::from(code.bits) | u32::from(code.len) << 24)
    }

    #[inline(always)]
    fn bits(self) -> u64 {
        u64::from(self.0 & 0xff_ffff)
    }

    #[inline(always)]
    fn len(self) -> u32 {
        self.0 >> 24
    }
}

#[derive(Clone, Copy, Default)]
struct Distance {
    bits: u16,
    len: u8,
    /// How many bits follow.
    extra: u8,
    first: u32,
}

impl Symbols {
    pub(super) fn new(codes: &Lengths) -> Self {
        let literals = canonical(&codes.literals);
        let mut lengths = [Packed::default(); 512];
        for (len, symbol) in LENGTH_SYMBOLS.iter().enumerate().skip(3) {
            let symbol = usize::from(*symbol);
            let code = literals[END + 1 + symbol];
            let (first, extra) = LENGTH[symbol];
            let rest = u32::try_from(len).unwrap_or(0) - u32::from(first);
            lengths[len] =
                Packed(u32::from(code.bits) | rest << code.len | u32::from(code.len + extra) << 24);
        }
        let mut distances = [Distance::default(); 32];
        let all = canonical(&codes.distances).into_iter().zip(DISTANCE);
        for (place, (code, (first, extra))) in distances.iter_mut().zip(all) {
            *place = Distance {
                bits: code.bits,
                len: code.len,
                extra,
                first: u32::from(first),
            };
        }
        let end = Packed::of(literals[END]);
        let mut first = [Packed::default(); 256];
        for (place, code) in first.iter_mut().zip(literals) {
            *place = Packed::of(code);
        }
        Self {
            literals: first,
            lengths,
            distances,
            end,
        }
    }

    /// Writes a block in which these matches are.
    pub(super) fn write(&self, raw: &[u8], found: &[Match], bits: &mut Bits<'_>) {
        let mut rest = raw;
        for one in found {
            let mut run = one.literals as usize;
            while run >= 4 {
                let Some((four, after)) = rest.split_first_chunk::<4>() else {
                    return;
                };
                self.four(four, bits);
                rest = after;
                run -= 4;
            }
            // A match has at least four bytes, so that there are as many to look at.
            let Some(four) = rest.first_chunk::<4>() else {
                return;
            };
            for (at, byte) in four[..3].iter().enumerate() {
                let code = self.literals[usize::from(*byte)];
                let code = Packed(if at < run { code.0 } else { 0 });
                bits.add(code.bits(), code.len());
            }
            bits.flush();
            let len = self.lengths[usize::from(one.len) & 511];
            bits.add(len.bits(), len.len());
            let distance = usize::from(one.distance);
            let code = self.distances[usize::from(distance_symbol(distance)) & 31];
            bits.add(u64::from(code.bits), u32::from(code.len));
            let more = (distance as u64).wrapping_sub(u64::from(code.first));
            bits.add(more, u32::from(code.extra));
            bits.flush();
            rest = rest.get(run + usize::from(one.len)..).unwrap_or_default();
        }
        let (fours, last) = rest.as_chunks::<4>();
        for four in fours {
            self.four(four, bits);
        }
        for byte in last {
            let code = self.literals[usize::from(*byte)];
            bits.add(code.bits(), code.len());
        }
        bits.flush();
        bits.add(self.end.bits(), self.end.len());
        bits.flush();
    }

    #[inline(always)]
    fn four(&self, four: &[u8; 4], bits: &mut Bits<'_>) {
        for byte in four {
            let code = self.literals[usize::from(*byte)];
            bits.add(code.bits(), code.len());
        }
        bits.flush();
    }
}

const _: () = assert!(LONGEST < 512, "a length is an index");
