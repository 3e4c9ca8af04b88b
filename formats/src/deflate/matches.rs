//! What was there before, at most 32 KiB back: the longer of the last two places with the same four bytes.

/// The longest match.
pub(super) const LONGEST: usize = 258;
const SHORTEST: usize = 4;
const WINDOW: usize = 1 << 15;
const HASH_BITS: u32 = 15;
/// A match of this length is good enough: nothing longer is looked for.
const ENOUGH: usize = 32;
/// After so many places without a match every second one is looked at, after twice as many every third, and so on: what is
/// compressed already is passed by quickly.
const MISSES: usize = 1 << 7;
/// Inside of longer matches only every fourth place is remembered.
const LONG: usize = 64;

/// Some bytes as they are, then a match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Match {
    /// How many bytes stand before it.
    pub(super) literals: u32,
    pub(super) len: u16,
    pub(super) distance: u16,
}

/// Remembers where four bytes stood.
#[derive(Debug)]
pub(super) struct Finder {
    /// By hash: the last two places, the later first; what is below `base` is of streams before.
    places: Vec<[u32; 2]>,
    /// What stands for the first byte of the stream.
    pub(super) base: u32,
    len: usize,
}

impl Finder {
    pub(super) fn new() -> Self {
        Self {
            places: vec![[0; 2]; 1 << HASH_BITS],
            base: 1,
            len: 0,
        }
    }

    /// Begins a stream of so many bytes.
    pub(super) fn begin(&mut self, len: usize) {
        let after = u64::from(self.base) + self.len as u64;
        self.len = len;
        self.base = match u32::try_from(after) {
            Ok(base) if u64::from(base) + (len as u64) < u64::from(u32::MAX) => base,
            _ => {
                self.places.fill([0; 2]);
                1
            }
        };
    }

    /// Finds the matches from `begin` to `wanted`; gives where the last one ends, which may be beyond.
    pub(super) fn find(
        &mut self,
        raw: &[u8],
        begin: usize,
        wanted: usize,
        found: &mut Vec<Match>,
    ) -> usize {
        found.clear();
        // From here on there are no four bytes.
        let last = (raw.len() + 1).saturating_sub(SHORTEST);
        let (mut at, mut literals, mut misses) = (begin, begin, 0);
        while at < wanted.min(last) {
            let word = word(raw, at);
            let [first, second] = self.remember(word, at);
            let (mut len, mut distance) = self.compare(raw, word, at, first);
            if len < ENOUGH {
                let other = self.compare(raw, word, at, second);
                if other.0 > len {
                    (len, distance) = other;
                }
            }
            if len < SHORTEST {
                misses += 1;
                at += 1 + misses / MISSES;
                continue;
            }
            misses = 0;
            found.push(Match {
                literals: u32::try_from(at - literals).unwrap_or(u32::MAX),
                len: u16::try_from(len).unwrap_or(u16::MAX),
                distance: u16::try_from(distance).unwrap_or(u16::MAX),
            });
            let end = at + len;
            let step = if len < LONG { 1 } else { 4 };
            for inside in (at + 1..end.min(last)).step_by(step) {
                self.remember(self::word(raw, inside), inside);
            }
            (at, literals) = (end, end);
        }
        at.max(wanted).min(raw.len())
    }

    /// Notes a place and gives those before it.
    #[inline(always)]
    fn remember(&mut self, word: u32, at: usize) -> [u32; 2] {
        let hash = word.wrapping_mul(0x9e37_79b1) >> (32 - HASH_BITS);
        let slot = &mut self.places[hash as usize];
        let before = *slot;
        // `begin` has made sure that there is room.
        *slot = [self.base + u32::try_from(at).unwrap_or(0), before[0]];
        before
    }

    /// Gives length and distance of the match with a place; nothing when there is none.
    #[inline(always)]
    fn compare(&self, raw: &[u8], word: u32, at: usize, place: u32) -> (usize, usize) {
        if place < self.base {
            return (0, 0);
        }
        let there = (place - self.base) as usize;
        let distance = at - there;
        if distance > WINDOW || self::word(raw, there) != word {
            return (0, 0);
        }
        let most = LONGEST.min(raw.len() - at);
        (
            same(&raw[there..there + most], &raw[at..at + most]),
            distance,
        )
    }
}

/// Four bytes, of which there are as many.
#[inline]
fn word(raw: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*raw[at..].first_chunk().unwrap_or(&[0; 4]))
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
