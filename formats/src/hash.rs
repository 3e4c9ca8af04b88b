//! Hash algorithms, hash values in all notations, and the two digests sos uses as ids.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::Digest as _;

use crate::nix32;

/// Padding and the bits after the last byte are not looked at, as in Nix.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A hash algorithm that a recipe can name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HashAlgo {
    /// MD5, 16 bytes; only to read old recipes.
    Md5,
    /// SHA-1, 20 bytes; only to read old recipes.
    Sha1,
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
    /// BLAKE3 with its default output of 32 bytes.
    Blake3,
}

impl HashAlgo {
    /// Every algorithm.
    pub const ALL: [Self; 5] = [
        Self::Md5,
        Self::Sha1,
        Self::Sha256,
        Self::Sha512,
        Self::Blake3,
    ];

    /// Returns the size of a digest in bytes.
    pub fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 | Self::Blake3 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Returns the name as written in recipes.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
            Self::Blake3 => "blake3",
        }
    }
}

impl fmt::Display for HashAlgo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for HashAlgo {
    type Err = HashError;

    fn from_str(s: &str) -> Result<Self, HashError> {
        Self::ALL
            .into_iter()
            .find(|a| a.as_str() == s)
            .ok_or_else(|| HashError::UnknownAlgo(s.to_owned()))
    }
}

/// Why a string is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum HashError {
    /// The algorithm has no such name.
    #[error("unknown hash algorithm `{0}`")]
    UnknownAlgo(String),
    /// Neither the string nor the caller names the algorithm.
    #[error("hash `{0}` does not say which algorithm made it")]
    NoAlgo(String),
    /// The string names another algorithm than the caller.
    #[error("hash `{text}` is {found}, not {expected}")]
    OtherAlgo {
        /// The hash as given.
        text: String,
        /// What the caller asked for.
        expected: HashAlgo,
        /// What the string says.
        found: HashAlgo,
    },
    /// The text has the length of no notation of this algorithm.
    #[error("`{text}` has the wrong length for a {algo} hash")]
    BadLength {
        /// The hash as given.
        text: String,
        /// The algorithm.
        algo: HashAlgo,
    },
    /// The length fits a notation but the digits do not.
    #[error("`{text}` is not a valid {notation} {algo} hash")]
    BadDigits {
        /// The hash as given.
        text: String,
        /// The algorithm.
        algo: HashAlgo,
        /// The notation that the length implies.
        notation: &'static str,
    },
    /// Raw digest bytes of the wrong number.
    #[error("a {algo} digest is not {found} bytes long")]
    BadDigestLen {
        /// The algorithm.
        algo: HashAlgo,
        /// The number of bytes given.
        found: usize,
    },
}

/// A digest together with its algorithm.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash {
    algo: HashAlgo,
    // Bytes after the digest length are zero, so that the derived comparisons hold.
    bytes: [u8; 64],
}

impl Hash {
    /// Wraps digest bytes.
    ///
    /// # Errors
    /// [`HashError::BadDigestLen`] when the number of bytes is not that of the algorithm.
    pub fn new(algo: HashAlgo, digest: &[u8]) -> Result<Self, HashError> {
        if digest.len() != algo.digest_len() {
            return Err(HashError::BadDigestLen {
                algo,
                found: digest.len(),
            });
        }
        Ok(Self::from_digest(algo, digest))
    }

    /// Hashes bytes in memory.
    pub fn of(algo: HashAlgo, data: &[u8]) -> Self {
        let mut hasher = Hasher::new(algo);
        hasher.update(data);
        hasher.finish()
    }

    fn from_digest(algo: HashAlgo, digest: &[u8]) -> Self {
        let mut bytes = [0; 64];
        bytes[..digest.len()].copy_from_slice(digest);
        Self { algo, bytes }
    }

    /// Reads `algo:<hex|nix32|base64>`, SRI `algo-<base64>`, or a bare digest when `algo` is given.
    ///
    /// # Errors
    /// When the algorithm is unknown, missing or not the wanted one, or when length or digits are wrong.
    ///
    /// # Source
    /// `NixOS/nix` `src/libutil/hash.cc`, `Hash::parseAny`.
    pub fn parse_any(text: &str, algo: Option<HashAlgo>) -> Result<Self, HashError> {
        let (found, rest, is_sri) = if let Some((name, rest)) = text.split_once(':') {
            (Some(name.parse()?), rest, false)
        } else if let Some((name, rest)) = text.split_once('-') {
            (Some(name.parse()?), rest, true)
        } else {
            (None, text, false)
        };
        let algo = match (found, algo) {
            (Some(found), Some(expected)) if found != expected => {
                return Err(HashError::OtherAlgo {
                    text: text.to_owned(),
                    expected,
                    found,
                });
            }
            (Some(a), _) | (None, Some(a)) => a,
            (None, None) => return Err(HashError::NoAlgo(text.to_owned())),
        };
        let n = algo.digest_len();
        let bad = |notation| HashError::BadDigits {
            text: text.to_owned(),
            algo,
            notation,
        };
        let digest = if is_sri {
            BASE64.decode(rest).map_err(|_cause| bad("SRI"))?
        } else if rest.len() == 2 * n {
            decode_hex(rest).ok_or_else(|| bad("hexadecimal"))?
        } else if rest.len() == nix32::encoded_len(n) {
            nix32::decode(rest).map_err(|_cause| bad("nix32"))?
        } else if rest.len() == n.div_ceil(3) * 4 {
            BASE64.decode(rest).map_err(|_cause| bad("base64"))?
        } else {
            Vec::new()
        };
        if digest.len() != n {
            return Err(HashError::BadLength {
                text: text.to_owned(),
                algo,
            });
        }
        Ok(Self::from_digest(algo, &digest))
    }

    /// Returns the algorithm.
    pub fn algo(&self) -> HashAlgo {
        self.algo
    }

    /// Returns the digest.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..self.algo.digest_len()]
    }

    /// Returns the digest in lower-case hexadecimal, without the algorithm.
    pub fn to_hex(&self) -> String {
        encode_hex(self.bytes())
    }

    /// Returns the digest in nix32, without the algorithm.
    pub fn to_nix32(&self) -> String {
        nix32::encode(self.bytes())
    }

    /// Returns the digest in padded base64, without the algorithm.
    pub fn to_base64(&self) -> String {
        BASE64.encode(self.bytes())
    }

    /// Returns the SRI notation, `sha256-<base64>`.
    pub fn to_sri(&self) -> String {
        format!("{}-{}", self.algo, self.to_base64())
    }

    /// Returns the notation of `pattern`, a hash as a person wrote it: hexadecimal, nix32, base64 or SRI, with or without `sha256:`.
    pub fn in_notation_of(&self, pattern: &str) -> String {
        let pattern = pattern.trim();
        let algo = self.algo().to_string();
        if pattern.starts_with(&format!("{algo}-")) {
            return self.to_sri();
        }
        let (prefix, digits) = match pattern.split_once(':') {
            Some((_, digits)) => (format!("{algo}:"), digits),
            None => (String::new(), pattern),
        };
        let bytes = self.bytes().len();
        let text = if digits.len() == 2 * bytes {
            self.to_hex()
        } else if digits.len() == (bytes * 8).div_ceil(5) {
            self.to_nix32()
        } else if digits.len() == bytes.div_ceil(3) * 4 {
            self.to_base64()
        } else {
            return self.to_sri();
        };
        format!("{prefix}{text}")
    }

    /// Returns the digest as a SHA-256 id when it is one.
    pub fn as_sha256(&self) -> Option<Sha256> {
        (self.algo == HashAlgo::Sha256).then(|| Sha256(self.first_32()))
    }

    /// Returns the digest as a BLAKE3 id when it is one.
    pub fn as_blake3(&self) -> Option<Blake3> {
        (self.algo == HashAlgo::Blake3).then(|| Blake3(self.first_32()))
    }

    fn first_32(&self) -> [u8; 32] {
        let mut out = [0; 32];
        out.copy_from_slice(&self.bytes[..32]);
        out
    }
}

/// Shows `sha256:<hex>`.
impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algo, self.to_hex())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Hash {
    type Err = HashError;

    fn from_str(s: &str) -> Result<Self, HashError> {
        Self::parse_any(s, None)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&self.to_sri())
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A hash computation fed piece by piece; also an [`io::Write`](std::io::Write) that never fails.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Md5(md5::Md5),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
    Sha512(Box<sha2::Sha512>),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// Starts a computation.
    pub fn new(algo: HashAlgo) -> Self {
        Self(match algo {
            HashAlgo::Md5 => State::Md5(md5::Md5::new()),
            HashAlgo::Sha1 => State::Sha1(sha1::Sha1::new()),
            HashAlgo::Sha256 => State::Sha256(sha2::Sha256::new()),
            HashAlgo::Sha512 => State::Sha512(Box::new(sha2::Sha512::new())),
            HashAlgo::Blake3 => State::Blake3(Box::new(blake3::Hasher::new())),
        })
    }

    /// Adds bytes.
    pub fn update(&mut self, data: &[u8]) {
        match &mut self.0 {
            State::Md5(h) => h.update(data),
            State::Sha1(h) => h.update(data),
            State::Sha256(h) => h.update(data),
            State::Sha512(h) => h.update(data),
            State::Blake3(h) => {
                h.update(data);
            }
        }
    }

    /// Returns the hash of everything added.
    pub fn finish(self) -> Hash {
        match self.0 {
            State::Md5(h) => Hash::from_digest(HashAlgo::Md5, &h.finalize()),
            State::Sha1(h) => Hash::from_digest(HashAlgo::Sha1, &h.finalize()),
            State::Sha256(h) => Hash::from_digest(HashAlgo::Sha256, &h.finalize()),
            State::Sha512(h) => Hash::from_digest(HashAlgo::Sha512, &h.finalize()),
            State::Blake3(h) => Hash::from_digest(HashAlgo::Blake3, h.finalize().as_bytes()),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

impl std::io::Write for Hasher {
    fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
        self.update(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident, $algo:expr, $of:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(
            /// The digest bytes.
            pub [u8; 32],
        );

        impl $name {
            /// Hashes bytes in memory.
            pub fn of(data: &[u8]) -> Self {
                let compute: fn(&[u8]) -> [u8; 32] = $of;
                Self(compute(data))
            }

            /// Returns the digest bytes.
            pub fn as_bytes(&self) -> &[u8; 32] {
                &self.0
            }

            /// Returns the digest in lower-case hexadecimal.
            pub fn to_hex(&self) -> String {
                encode_hex(&self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.to_hex())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}:{}", $algo, self.to_hex())
            }
        }

        impl FromStr for $name {
            type Err = HashError;

            fn from_str(s: &str) -> Result<Self, HashError> {
                if s.len() != 64 {
                    return Err(HashError::BadLength { text: s.to_owned(), algo: $algo });
                }
                decode_hex(s)
                    .and_then(|v| v.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| HashError::BadDigits {
                        text: s.to_owned(),
                        algo: $algo,
                        notation: "hexadecimal",
                    })
            }
        }

        impl From<$name> for Hash {
            fn from(id: $name) -> Self {
                Self::from_digest($algo, &id.0)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.to_hex())
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = String::deserialize(d)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}

digest_id!(
    /// A BLAKE3 digest: the id of blobs, manifest nodes and rootfs objects. Text form: 64 hex digits.
    Blake3,
    HashAlgo::Blake3,
    |data| *blake3::hash(data).as_bytes()
);

digest_id!(
    /// A SHA-256 digest: NAR hashes, derivation hashes, OCI digests. Text form: 64 hex digits.
    Sha256,
    HashAlgo::Sha256,
    |data| sha2::Sha256::digest(data).into()
);

impl Sha256 {
    /// Hashes the parts one after the other, as if they were one piece.
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut hasher = sha2::Sha256::new();
        for part in parts {
            hasher.update(part);
        }
        Self(hasher.finalize().into())
    }

    /// Returns the 64 lower-case hexadecimal digits.
    pub fn hex_digits(&self) -> [u8; 64] {
        let mut out = [0; 64];
        for (digits, byte) in out.chunks_exact_mut(2).zip(self.0) {
            digits[0] = HEX[usize::from(byte >> 4)];
            digits[1] = HEX[usize::from(byte & 15)];
        }
        out
    }
}

/// Writes bytes in lower-case hexadecimal.
pub fn encode_hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for b in bytes {
        out.push(char::from(HEX[usize::from(b >> 4)]));
        out.push(char::from(HEX[usize::from(b & 15)]));
    }
    out
}

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Reads hexadecimal of either case; `None` for anything else.
pub fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        b'A'..=b'F' => Some(c - b'A' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EMPTY: [(HashAlgo, &str); 5] = [
        (HashAlgo::Md5, "d41d8cd98f00b204e9800998ecf8427e"),
        (HashAlgo::Sha1, "da39a3ee5e6b4b0d3255bfef95601890afd80709"),
        (
            HashAlgo::Sha256,
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ),
        (
            HashAlgo::Sha512,
            "cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e",
        ),
        (
            HashAlgo::Blake3,
            "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
        ),
    ];

    #[test]
    fn digests_of_nothing() {
        for (algo, hex) in EMPTY {
            let hash = Hash::of(algo, b"");
            assert_eq!(hash.to_hex(), hex);
            assert_eq!(hash.to_string(), format!("{algo}:{hex}"));
            assert_eq!(hash.bytes().len(), algo.digest_len());
            assert_eq!(algo.to_string().parse(), Ok(algo));
        }
        assert_eq!(Sha256::of(b"").to_string(), EMPTY[2].1);
        assert_eq!(Blake3::of(b"").to_string(), EMPTY[4].1);
    }

    // Made with `nix hash to-{sri,base32,base64} --type sha256` (Nix 2.8).
    #[test]
    fn notations_of_nix() {
        let hash = Hash::of(HashAlgo::Sha256, b"hello\n");
        let sri = "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=";
        assert_eq!(hash.to_sri(), sri);
        let hex = hash.to_hex();
        let nix32 = hash.to_nix32();
        assert_eq!(
            nix32,
            "00xyyr3fi8l6hb839bv3f7yb86yjv7xi1cgh1xnhipym4asvb4aq"
        );
        for text in [sri, &sri[..sri.len() - 1]] {
            assert_eq!(Hash::parse_any(text, None), Ok(hash));
            assert_eq!(Hash::parse_any(text, Some(HashAlgo::Sha256)), Ok(hash));
        }
        for bare in [&hex, &hex.to_uppercase(), &nix32, &hash.to_base64()] {
            assert_eq!(Hash::parse_any(bare, Some(HashAlgo::Sha256)), Ok(hash));
            assert_eq!(Hash::parse_any(&format!("sha256:{bare}"), None), Ok(hash));
            assert_eq!(
                Hash::parse_any(bare, None),
                Err(HashError::NoAlgo(bare.clone()))
            );
        }
    }

    #[test]
    fn refused() {
        let sri = "sha256-WJG1tSLV3whtD/CxEPvZ0hu0/HFjrzTQgoai6Eb2vgM=";
        assert!(matches!(
            Hash::parse_any(sri, Some(HashAlgo::Sha512)),
            Err(HashError::OtherAlgo {
                found: HashAlgo::Sha256,
                ..
            })
        ));
        let sha256 = Some(HashAlgo::Sha256);
        for (text, algo) in [
            ("", None),
            ("", sha256),
            ("sha256:", None),
            ("sha256-", None),
            ("sha3:00", None),
            ("sha256-AAAA", None),
            ("sha256-!!!!", None),
            ("abc", sha256),
            (&"g".repeat(64), sha256),
            (&"z".repeat(52), sha256),
            (&"é".repeat(32), sha256),
            (&"*".repeat(44), sha256),
        ] {
            assert!(Hash::parse_any(text, algo).is_err(), "{text:?}");
        }
        assert!(Hash::new(HashAlgo::Sha256, &[0; 31]).is_err());
        assert!("00".parse::<Blake3>().is_err());
        assert!("g".repeat(64).parse::<Sha256>().is_err());
    }

    #[test]
    fn written_through_io() {
        let mut hasher = Hasher::new(HashAlgo::Blake3);
        std::io::copy(&mut &b"some bytes"[..], &mut hasher).unwrap();
        assert_eq!(hasher.finish().as_blake3(), Some(Blake3::of(b"some bytes")));
    }

    proptest! {
        #[test]
        fn every_notation_reads_back(data: Vec<u8>, which in 0..5usize) {
            let algo = HashAlgo::ALL[which];
            let hash = Hash::of(algo, &data);
            for text in [hash.to_hex(), hash.to_nix32(), hash.to_base64(), hash.to_sri(), hash.to_string()] {
                prop_assert_eq!(Hash::parse_any(&text, Some(algo)), Ok(hash));
            }
            let json = serde_json::to_string(&hash).unwrap();
            prop_assert_eq!(serde_json::from_str::<Hash>(&json).unwrap(), hash);
        }

        #[test]
        fn parsing_never_panics(text: String) {
            drop(Hash::parse_any(&text, None));
            drop(Hash::parse_any(&text, Some(HashAlgo::Md5)));
        }
    }
}
