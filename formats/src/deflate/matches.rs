//! What was there before, at most 32 KiB back: the last place where the same six bytes stood.
//!
//! Most of the time goes into waiting: for a branch that nobody could foretell, and for what was loaded to tell from where to load next.
//! So there is one place for each hash, in a table that fits the nearest cache, and as few branches as can be.

use super::Counts;

/// The longest match.
pub(super) const LONGEST: usize = 258;
/// Four bytes are a match too, where another hash would not have been better: the bits in which they must not differ.
const FIRST: u64 = 0xffff_ffff;
/// A hash is of so many bytes: shorter matches save little, and each one is a branch that nobody could foretell.
const HASHED: u32 = 6;
const WINDOW: usize = 1 << 15;
const HASH_BITS: u32 = 13;
/// Bytes that are looked at together.
const WORD: usize = 8;
/// After so many places without a match every second one is looked at, after twice as many every third, and so on: what is
/// compressed already is passed by quickly.
const MISSES: usize = 1 << 6;

/// Some bytes as they are, then a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    /// How many bytes stand before it.
    pub(super) literals: u32,
    pub(super) len: u16,
    pub(super) distance: u16,
}

/// Remembers where bytes stood.
#[derive(Debug)]
pub(super) struct Finder {
    /// By hash: the last place, its lowest 16 bits.
    places: Box<[u16; 1 << HASH_BITS]>,
}

impl Finder {
    pub(super) fn new() -> Self {
        Self {
            places: Box::new([0; 1 << HASH_BITS]),
        }
    }

    /// Begins a stream: what was before is forgotten.
    pub(super) fn begin(&mut self) {
        self.places.fill(0);
    }

    /// Finds the matches from `begin` to `wanted` and counts what is to be written; gives where the last one ends, which may be beyond.
    pub(super) fn find(
        &mut self,
        raw: &[u8],
        begin: usize,
        wanted: usize,
        found: &mut Vec<Match>,
        counts: &mut Counts,
    ) -> usize {
        found.clear();
        let (mut at, mut literals, mut misses) = (begin, begin, 0);
        while at < wanted {
            let Some(word) = word(raw, at) else { break };
            let back = self.remember(word, at);
            let there = at.wrapping_sub(back);
            let Some(before) = self::word(raw, there) else {
                break;
            };
            let differ = word ^ before;
            // One branch for both, as nobody could foretell it: other bytes, or too far away, or no place at all.
            if differ & FIRST | (back.wrapping_sub(1) / WINDOW) as u64 != 0 {
                counts.literal(word.to_le_bytes()[0]);
                at += 1;
                misses += 1;
                if misses >= MISSES {
                    let end = raw.len().min(at + misses / MISSES);
                    raw[at..end].iter().for_each(|byte| counts.literal(*byte));
                    at = end;
                }
                continue;
            }
            misses = 0;
            let len = length(raw, at, there, differ);
            counts.pair(len, back);
            found.push(Match {
                literals: u32::try_from(at - literals).unwrap_or(u32::MAX),
                len: low(len),
                distance: low(back),
            });
            // Two places more; the others of the match are worth less than they cost.
            if let Some(word) = self::word(raw, at + 1) {
                self.remember(word, at + 1);
                self.remember(word >> 8, at + 2);
            }
            at += len;
            literals = at;
        }
        let end = at.max(wanted).min(raw.len());
        raw[at.min(end)..end]
            .iter()
            .for_each(|byte| counts.literal(*byte));
        end
    }

    /// Notes a place and tells how far back the one before it is, which is never before the first. What is as far as that may be
    /// another place: the bytes there have to be looked at.
    #[inline(always)]
    fn remember(&mut self, word: u64, at: usize) -> usize {
        let hash =
            (word << (64 - 8 * HASHED)).wrapping_mul(0x9e37_79b1_85eb_ca87) >> (64 - HASH_BITS);
        let place = &mut self.places[usize::try_from(hash).unwrap_or(0)];
        let before = std::mem::replace(place, low(at));
        usize::from(low(at).wrapping_sub(before))
    }
}

/// The lowest 16 bits.
#[inline(always)]
fn low(number: usize) -> u16 {
    let [first, second, ..] = number.to_le_bytes();
    u16::from_le_bytes([first, second])
}

/// Eight bytes, where there are as many.
#[inline(always)]
fn word(raw: &[u8], at: usize) -> Option<u64> {
    let bytes = raw.get(at..at + WORD)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}

/// How many bytes are the same at two places, the first eight of which differ in these bits.
#[inline(always)]
fn length(raw: &[u8], at: usize, there: usize, differ: u64) -> usize {
    let bytes = |differ: u64| differ.trailing_zeros() as usize / 8;
    // Without a branch up to sixteen, which is most.
    if let (Some(a), Some(b)) = (word(raw, at + WORD), word(raw, there + WORD)) {
        let next = a ^ b;
        if differ | next != 0 {
            return if differ == 0 {
                WORD + bytes(next)
            } else {
                bytes(differ)
            };
        }
    } else if differ != 0 {
        return bytes(differ);
    }
    let most = LONGEST.min(raw.len() - at);
    WORD + same(&raw[there + WORD..there + most], &raw[at + WORD..at + most])
}

/// How many bytes two slices of one length have in common at their beginnings.
#[inline]
fn same(a: &[u8], b: &[u8]) -> usize {
    let (a_words, a_rest) = a.as_chunks::<8>();
    let (b_words, b_rest) = b.as_chunks::<8>();
    let mut len = 0;
    for (a, b) in a_words.iter().zip(b_words) {
        let differ = u64::from_le_bytes(*a) ^ u64::from_le_bytes(*b);
        if differ != 0 {
            return len + differ.trailing_zeros() as usize / 8;
        }
        len += 8;
    }
    let rest = a_rest.iter().zip(b_rest);
    len + rest.take_while(|(a, b)| a == b).count()
}
