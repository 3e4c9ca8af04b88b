//! The order of names in large directories: half of MD4, over unsigned bytes.

/// Where no name may hash to: it ends a search.
const END: u32 = 0x7fff_ffff << 1;

/// The major and the minor hash of a name.
pub(super) fn half_md4(name: &[u8], seed: [u32; 4]) -> (u32, u32) {
    let mut state = seed;
    // An empty name would not be mixed in at all; there is none.
    for (at, part) in name.chunks(32).enumerate() {
        transform(&mut state, words(part, name.len() - at * 32));
    }
    let hash = state[1] & !1;
    let hash = if hash == END {
        (0x7fff_ffff - 1) << 1
    } else {
        hash
    };
    (hash, state[2])
}

/// Puts up to 32 bytes into words, and `left`, the length of the name from here on, where there are none.
fn words(part: &[u8], left: usize) -> [u32; 8] {
    let left = u32::try_from(left).unwrap_or(u32::MAX);
    let mut pad = left | (left << 8);
    pad |= pad << 16;
    let mut words = [pad; 8];
    for (word, bytes) in words.iter_mut().zip(part.chunks(4)) {
        for byte in bytes {
            *word = u32::from(*byte).wrapping_add(*word << 8);
        }
    }
    words
}

fn transform(state: &mut [u32; 4], input: [u32; 8]) {
    type Mix = fn(u32, u32, u32) -> u32;
    const ROUNDS: [(Mix, u32, [usize; 8], [u32; 4]); 3] = [
        (
            |x, y, z| z ^ (x & (y ^ z)),
            0,
            [0, 1, 2, 3, 4, 5, 6, 7],
            [3, 7, 11, 19],
        ),
        (
            |x, y, z| (x & y).wrapping_add((x ^ y) & z),
            0x5a82_7999,
            [1, 3, 5, 7, 0, 2, 4, 6],
            [3, 5, 9, 13],
        ),
        (
            |x, y, z| x ^ y ^ z,
            0x6ed9_eba1,
            [3, 7, 2, 6, 1, 5, 0, 4],
            [3, 9, 11, 15],
        ),
    ];
    let [mut a, mut b, mut c, mut d] = *state;
    for (mix, constant, order, shifts) in ROUNDS {
        for (step, from) in order.into_iter().enumerate() {
            let sum = a
                .wrapping_add(mix(b, c, d))
                .wrapping_add(input[from])
                .wrapping_add(constant);
            (a, b, c, d) = (d, sum.rotate_left(shifts[step % 4]), b, c);
        }
    }
    for (state, new) in state.iter_mut().zip([a, b, c, d]) {
        *state = state.wrapping_add(new);
    }
}
