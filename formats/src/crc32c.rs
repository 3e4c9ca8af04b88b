//! CRC-32C (Castagnoli), as file systems use it: not inverted by itself, neither before nor after.

/// The polynomial 0x1EDC6F41, bits reversed.
const POLYNOMIAL: u32 = 0x82f6_3b78;

/// What a byte does to the state, and the same byte 1 to 7 bytes earlier.
static TABLES: [[u32; 256]; 8] = tables();

const fn tables() -> [[u32; 256]; 8] {
    let mut tables = [[0; 256]; 8];
    let mut byte = 0;
    while byte < 256 {
        #[allow(clippy::cast_possible_truncation, reason = "below 256")]
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = (crc >> 1) ^ if crc & 1 == 1 { POLYNOMIAL } else { 0 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut byte = 0;
    while byte < 256 {
        let mut table = 1;
        while table < 8 {
            let before = tables[table - 1][byte];
            tables[table][byte] = (before >> 8) ^ tables[0][(before & 0xff) as usize];
            table += 1;
        }
        byte += 1;
    }
    tables
}

/// Goes on from a state over more bytes.
///
/// ext4 and EROFS begin with `!0` and store the state as it is; the usual checksum is the inverse of that.
///
/// # Example
/// ```
/// assert_eq!(!sos_formats::crc32c::update(!0, b"123456789"), 0xe306_9283);
/// ```
#[must_use]
pub fn update(mut state: u32, bytes: &[u8]) -> u32 {
    let (eights, rest) = bytes.as_chunks::<8>();
    for eight in eights {
        let [a, b, c, d] = (state ^ u32::from_le_bytes([eight[0], eight[1], eight[2], eight[3]]))
            .to_le_bytes()
            .map(usize::from);
        state = TABLES[7][a]
            ^ TABLES[6][b]
            ^ TABLES[5][c]
            ^ TABLES[4][d]
            ^ TABLES[3][usize::from(eight[4])]
            ^ TABLES[2][usize::from(eight[5])]
            ^ TABLES[1][usize::from(eight[6])]
            ^ TABLES[0][usize::from(eight[7])];
    }
    for byte in rest {
        let low = state.to_le_bytes()[0];
        state = (state >> 8) ^ TABLES[0][usize::from(low ^ byte)];
    }
    state
}

#[cfg(test)]
mod tests {
    use super::update;

    #[test]
    fn known_sums_in_any_pieces() {
        // RFC 3720, B.4.
        let ascending: Vec<u8> = (0..32).collect();
        for (bytes, sum) in [
            (&[0; 32][..], 0x8a91_36aa),
            (&[0xff; 32], 0x62a8_ab43),
            (&ascending, 0x46dd_794e),
            (b"", 0),
        ] {
            assert_eq!(!update(!0, bytes), sum);
            for cut in 0..bytes.len() {
                let (left, right) = bytes.split_at(cut);
                assert_eq!(!update(update(!0, left), right), sum, "cut at {cut}");
            }
        }
    }
}
