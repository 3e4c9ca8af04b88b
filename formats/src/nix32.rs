//! The base-32 notation of Nix: hashes in store paths and in `sha256:` strings.

/// The 32 digits in order of value; `e`, `o`, `u` and `t` are left out so that words are rare.
pub const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

/// Why a string is not nix32.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Nix32Error {
    /// A byte outside the alphabet.
    #[error("byte 0x{byte:02x} at offset {offset} is not a nix32 digit")]
    BadDigit {
        /// The offending byte.
        byte: u8,
        /// Its offset in the string.
        offset: usize,
    },
    /// No byte string has an encoding of this length.
    #[error("{0} digits are not a whole number of bytes")]
    BadLength(usize),
    /// The first digit carries bits beyond the last byte.
    #[error("the first digit has bits that belong to no byte")]
    LeftoverBits,
}

/// Returns the number of digits that `n` bytes take.
pub fn encoded_len(n: usize) -> usize {
    // Same as (8n - 1) / 5 + 1, without the overflow for absurd n.
    n / 5 * 8 + (n % 5 * 8).div_ceil(5)
}

/// Writes bytes in nix32.
///
/// # Format
/// Digit `k`, counted from the right, is the 5 bits from bit `5k` of the bytes read as a little-endian number.
///
/// # Source
/// `NixOS/nix` `src/libutil/base-nix-32.cc`.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = vec![0; encoded_len(bytes.len())];
    encode_into(bytes, &mut out);
    // The alphabet is ASCII.
    String::from_utf8(out).unwrap_or_default()
}

/// The same into memory that has as many bytes as there are digits.
pub(crate) fn encode_into(bytes: &[u8], out: &mut [u8]) {
    // From the right, taking five bits from a window that is filled byte by byte.
    let (mut window, mut bits) = (0u32, 0);
    let mut next = bytes.iter();
    for digit in out.iter_mut().rev() {
        if bits < 5 {
            window |= u32::from(next.next().copied().unwrap_or(0)) << bits;
            bits += 8;
        }
        *digit = ALPHABET[window as usize & 31];
        window >>= 5;
        bits -= 5;
    }
}

/// Reads nix32.
///
/// # Errors
/// Any digit outside the alphabet, a length that no byte string has, or bits left over.
pub fn decode(s: &str) -> Result<Vec<u8>, Nix32Error> {
    let digits = s.as_bytes();
    let n = digits.len() / 8 * 5 + digits.len() % 8 * 5 / 8;
    if encoded_len(n) != digits.len() {
        return Err(Nix32Error::BadLength(digits.len()));
    }
    let mut out = vec![0u8; n];
    for (k, (offset, &c)) in digits.iter().enumerate().rev().enumerate() {
        let value = VALUES[usize::from(c)];
        if value == 0xff {
            return Err(Nix32Error::BadDigit { byte: c, offset });
        }
        let (byte, shift) = (k * 5 / 8, k * 5 % 8);
        let [low, high] = (u16::from(value) << shift).to_le_bytes();
        if let Some(b) = out.get_mut(byte) {
            *b |= low;
        } else if low != 0 {
            return Err(Nix32Error::LeftoverBits);
        }
        if let Some(b) = out.get_mut(byte + 1) {
            *b |= high;
        } else if high != 0 {
            return Err(Nix32Error::LeftoverBits);
        }
    }
    Ok(out)
}

/// Says whether every byte is a nix32 digit.
pub fn is_digits(s: &[u8]) -> bool {
    s.iter().all(|&c| VALUES[usize::from(c)] != 0xff)
}

const VALUES: [u8; 256] = {
    let mut table = [0xff; 256];
    let mut i = 0u8;
    while i < 32 {
        table[ALPHABET[i as usize] as usize] = i;
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(bytes: &[u8], text: &str) {
        assert_eq!(encode(bytes), text);
        assert_eq!(decode(text).as_deref(), Ok(bytes));
    }

    #[test]
    fn known_values() {
        check(b"", "");
        check(&[0], "00");
        check(&[0x1f], "0z");
        check(&[0xff], "7z");
        check(
            &crate::hash::Sha256::of(b"nix-output:out").0,
            "1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9",
        );
    }

    #[test]
    fn refused() {
        assert_eq!(decode("8z"), Err(Nix32Error::LeftoverBits));
        assert_eq!(decode("z"), Err(Nix32Error::BadLength(1)));
        assert_eq!(decode("000"), Err(Nix32Error::BadLength(3)));
        for bad in ["0e", "0o", "0u", "0t", "0A", "0-"] {
            assert!(matches!(
                decode(bad),
                Err(Nix32Error::BadDigit { offset: 1, .. })
            ));
        }
        assert!(decode("é").is_err());
    }

    proptest! {
        #[test]
        fn round_trip(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let text = encode(&bytes);
            prop_assert_eq!(text.len(), encoded_len(bytes.len()));
            prop_assert_eq!(decode(&text), Ok(bytes));
        }

        #[test]
        fn decoding_is_injective(text in "[0-9a-df-np-sv-z]{0,60}") {
            if let Ok(bytes) = decode(&text) {
                prop_assert_eq!(encode(&bytes), text);
            }
        }
    }
}
