//! Codes for symbols by how often they occur, and how a block tells them.

use super::bits::Bits;

/// The code of a symbol, its first bit lowest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Code {
    pub(super) bits: u16,
    pub(super) len: u8,
}

/// How long the codes of a block are.
#[derive(Debug)]
pub(super) struct Lengths {
    pub(super) literals: Vec<u8>,
    pub(super) distances: Vec<u8>,
}

/// The order in which the lengths of the codes for lengths stand.
const ORDER: [usize; 19] = [
    16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15,
];
/// The longest code for a length.
const LONGEST: u8 = 7;

/// Gives each symbol a length, none longer than `longest`, that together are shortest. At least two symbols get one: some readers want
/// a code to be complete.
pub(super) fn lengths(counts: &[u32], longest: u8) -> Vec<u8> {
    // Count and symbol in one number: that sorts fastest.
    let mut used: Vec<u64> = Vec::with_capacity(counts.len());
    let pairs = counts.iter().zip(0_u64..);
    used.extend(
        pairs
            .filter_map(|(count, symbol)| (*count > 0).then_some(u64::from(*count) << 16 | symbol)),
    );
    let symbol = |one: &u64| usize::try_from(one & 0xffff).unwrap_or(0);
    let mut out = vec![0; counts.len()];
    if used.len() < 2 {
        let only = used.first().map_or(0, symbol);
        out[only] = 1;
        out[usize::from(only == 0)] = 1;
        return out;
    }
    sort(&mut used);
    let mut depths: Vec<usize> = used
        .iter()
        .map(|one| usize::try_from(one >> 16).unwrap_or(0))
        .collect();
    depths_of(&mut depths);
    // How many codes have each length; those that are too long get the longest that may be.
    let mut many = vec![0_usize; usize::from(longest) + 1];
    for depth in &depths {
        many[(*depth).min(usize::from(longest))] += 1;
    }
    let taken = |many: &[usize]| -> usize {
        let all = many.iter().enumerate().skip(1);
        all.map(|(len, many)| many << (usize::from(longest) - len))
            .sum()
    };
    // What is too much is made up for by lengthening codes that are shorter.
    while taken(&many) > 1 << longest {
        many[usize::from(longest)] -= 1;
        for len in (1..usize::from(longest)).rev() {
            if many[len] > 0 {
                many[len] -= 1;
                many[len + 1] += 2;
                break;
            }
        }
    }
    // The rarest symbols have the longest codes.
    let mut symbols = used.iter();
    for (len, many) in (0..=longest).zip(many).rev() {
        for one in symbols.by_ref().take(many) {
            out[symbol(one)] = len;
        }
    }
    out
}

/// Sorts by count, those of one count as they stand, which is by symbol.
fn sort(used: &mut Vec<u64>) {
    const BITS: u32 = 9;
    let most = used.iter().fold(0, |most, one| most | one >> 16);
    if used.len() < 64 || most >> (2 * BITS) != 0 {
        used.sort_unstable();
        return;
    }
    // Two passes over digits: no branch is there to be foretold.
    let mut from = std::mem::take(used);
    let mut to = vec![0; from.len()];
    for shift in [16, 16 + BITS] {
        let digit = |one: u64| usize::try_from(one >> shift).unwrap_or(0) & ((1 << BITS) - 1);
        let mut places = [0_u32; 1 << BITS];
        for one in &from {
            places[digit(*one)] += 1;
        }
        let mut next = 0;
        for place in &mut places {
            (*place, next) = (next, next + *place);
        }
        for one in &from {
            let place = &mut places[digit(*one)];
            to[*place as usize] = *one;
            *place += 1;
        }
        std::mem::swap(&mut from, &mut to);
    }
    *used = from;
}

/// Replaces counts, which rise, by the depths of their leaves in a tree that is shortest (Moffat and Katajainen, in place).
fn depths_of(a: &mut [usize]) {
    let n = a.len();
    a[0] += a[1];
    let (mut root, mut leaf) = (0, 2);
    for next in 1..n - 1 {
        let mut sum = 0;
        for second in [false, true] {
            let is_root = leaf >= n || (!second || root < next) && a[root] < a[leaf];
            if is_root {
                sum += a[root];
                a[root] = next;
                root += 1;
            } else {
                sum += a[leaf];
                leaf += 1;
            }
        }
        a[next] = sum;
    }
    a[n - 2] = 0;
    for next in (0..n - 2).rev() {
        a[next] = a[a[next]] + 1;
    }
    // From the depths of inner nodes to those of leaves, from the end.
    let (mut free, mut depth) = (1, 0);
    let (mut root, mut next) = (n - 1, n);
    while free > 0 {
        let mut inner = 0;
        while root > 0 && a[root - 1] == depth {
            inner += 1;
            root -= 1;
        }
        while free > inner {
            next -= 1;
            a[next] = depth;
            free -= 1;
        }
        free = 2 * inner;
        depth += 1;
    }
}

/// Numbers codes of given lengths.
pub(super) fn canonical(lengths: &[u8]) -> Vec<Code> {
    let mut many = [0_u16; 16];
    for len in lengths.iter().filter(|len| **len > 0) {
        many[usize::from(*len)] += 1;
    }
    let mut next = [0_u16; 17];
    for len in 1..16 {
        next[len + 1] = (next[len] + many[len]) << 1;
    }
    let code = |len: &u8| {
        if *len == 0 {
            return Code::default();
        }
        let number = next[usize::from(*len)];
        next[usize::from(*len)] += 1;
        Code {
            bits: number.reverse_bits() >> (16 - *len),
            len: *len,
        }
    };
    lengths.iter().map(code).collect()
}

/// What stands before a block with codes of its own.
pub(super) struct Header {
    literals: usize,
    distances: usize,
    /// How many of `ORDER` are written.
    order: usize,
    lengths: Vec<u8>,
    /// Symbols with the bits that follow and how many.
    symbols: Vec<(u8, u8, u8)>,
    /// Its size, with the three bits before it.
    pub(super) bits: u64,
}

/// Describes codes.
pub(super) fn header(codes: &Lengths) -> Header {
    let trimmed = |lengths: &[u8], least: usize| {
        let used = lengths.iter().rposition(|len| *len > 0);
        used.map_or(least, |last| (last + 1).max(least))
    };
    let literals = trimmed(&codes.literals, 257);
    let distances = trimmed(&codes.distances, 1);
    let all = [&codes.literals[..literals], &codes.distances[..distances]].concat();
    let symbols = runs(&all);
    let mut counts = [0; 19];
    for (symbol, _, _) in &symbols {
        counts[usize::from(*symbol)] += 1;
    }
    let lengths = lengths(&counts, LONGEST);
    let written = ORDER.iter().rposition(|symbol| lengths[*symbol] > 0);
    let order = written.map_or(4, |last| (last + 1).max(4));
    let symbol_bits = symbols
        .iter()
        .map(|(symbol, _, extra)| u64::from(lengths[usize::from(*symbol)]) + u64::from(*extra));
    let bits = 3 + 14 + 3 * order as u64 + symbol_bits.sum::<u64>();
    Header {
        literals,
        distances,
        order,
        lengths,
        symbols,
        bits,
    }
}

/// Lengths in a row: zeros and repetitions in short.
fn runs(lengths: &[u8]) -> Vec<(u8, u8, u8)> {
    let mut out = Vec::with_capacity(lengths.len());
    let mut rest = lengths;
    while let Some(first) = rest.first() {
        let mut run = rest.iter().take_while(|len| *len == first).count();
        rest = &rest[run..];
        if *first > 0 {
            out.push((*first, 0, 0));
            run -= 1;
        }
        while run >= 3 {
            let (symbol, least, most, extra) = match (*first, run) {
                (0, 11..) => (18, 11, 138, 7),
                (0, _) => (17, 3, 10, 3),
                _ => (16, 3, 6, 2),
            };
            let taken = run.min(most);
            out.push((symbol, u8::try_from(taken - least).unwrap_or(0), extra));
            run -= taken;
        }
        out.extend(std::iter::repeat_n((*first, 0, 0), run));
    }
    out
}

impl Header {
    pub(super) fn write(&self, bits: &mut Bits<'_>) {
        bits.reserve(self.bits);
        let mut put = |value: u64, len: u8| {
            bits.add(value, u32::from(len));
            bits.flush();
        };
        put(self.literals as u64 - 257, 5);
        put(self.distances as u64 - 1, 5);
        put(self.order as u64 - 4, 4);
        for symbol in &ORDER[..self.order] {
            put(u64::from(self.lengths[*symbol]), 3);
        }
        let codes = canonical(&self.lengths);
        for (symbol, value, extra) in &self.symbols {
            let code = codes[usize::from(*symbol)];
            put(
                u64::from(code.bits) | u64::from(*value) << code.len,
                code.len + extra,
            );
        }
    }
}
