//! UUIDs that follow from what they stand for: no clock and no randomness.

use std::fmt;
use std::str::FromStr;

/// What separates these keys from every other use of BLAKE3.
const CONTEXT: &str = "sos 2026-11 uuid of a disk, partition or file system";

/// A UUID, in the order of its text.
///
/// ```
/// use sos_formats::uuid::Uuid;
/// let root = Uuid::derived("web", "partition root");
/// assert_eq!(root, Uuid::derived("web", "partition root"));
/// assert_ne!(root, Uuid::derived("web", "partition esp"));
/// assert_eq!(root.to_string().parse(), Ok(root));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Uuid(pub [u8; 16]);

/// A text that is no UUID, or none that something can have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UuidError {
    /// Something else, of which the beginning is kept.
    #[error(
        "`{0}` is no UUID: expected 32 hexadecimal digits as in `c12a7328-f81f-11d2-ba4b-00a0c93ec93b`"
    )]
    Text(String),
    /// The nil UUID, where an id is wanted.
    #[error("a UUID of zeros means that there is none")]
    Nil,
}

impl Uuid {
    /// The UUID of a role in something that a seed names: a keyed BLAKE3, marked as version 8 (RFC 9562).
    #[must_use]
    pub fn derived(seed: impl AsRef<[u8]>, role: &str) -> Self {
        let key = blake3::derive_key(CONTEXT, seed.as_ref());
        let hash = blake3::keyed_hash(&key, role.as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        bytes[6] = bytes[6] & 0x0f | 0x80;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        Self(bytes)
    }

    /// Reads the UUID that something is to have: not the one that stands for none.
    ///
    /// # Errors
    /// When the text is no UUID, or all zeros.
    pub fn parse_id(text: &str) -> Result<Self, UuidError> {
        let uuid: Self = text.parse()?;
        if uuid.is_nil() {
            return Err(UuidError::Nil);
        }
        Ok(uuid)
    }

    /// The bytes as GPT and other tables of UEFI hold them: the first three fields little-endian.
    #[must_use]
    pub fn to_guid(self) -> [u8; 16] {
        let mut bytes = self.0;
        bytes[..4].reverse();
        bytes[4..6].reverse();
        bytes[6..8].reverse();
        bytes
    }

    /// The reverse of [`Uuid::to_guid`].
    #[must_use]
    pub fn from_guid(bytes: [u8; 16]) -> Self {
        Self(Self(bytes).to_guid())
    }

    /// Whether all bits are zero, which means "none" in tables.
    #[must_use]
    pub fn is_nil(self) -> bool {
        self.0 == [0; 16]
    }
}

impl fmt::Display for Uuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            if [4, 6, 8, 10].contains(&i) {
                f.write_str("-")?;
            }
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

impl FromStr for Uuid {
    type Err = UuidError;

    fn from_str(text: &str) -> Result<Self, UuidError> {
        let bad = || UuidError::Text(text.chars().take(60).collect());
        let groups: Vec<&str> = text.split('-').collect();
        let is_uuid = groups.iter().map(|g| g.len()).eq([8, 4, 4, 4, 12])
            && groups
                .iter()
                .all(|g| g.bytes().all(|b| b.is_ascii_hexdigit()));
        if !is_uuid {
            return Err(bad());
        }
        let number = u128::from_str_radix(&groups.concat(), 16).map_err(|_e| bad())?;
        Ok(Self(number.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_hold_the_first_fields_backwards() {
        // The EFI system partition, as every GPT has it.
        let esp: Uuid = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
            .parse()
            .expect("a UUID");
        let bytes = [
            0x28, 0x73, 0x2a, 0xc1, 0x1f, 0xf8, 0xd2, 0x11, 0xba, 0x4b, 0x00, 0xa0, 0xc9, 0x3e,
            0xc9, 0x3b,
        ];
        assert_eq!(esp.to_guid(), bytes);
        assert_eq!(Uuid::from_guid(bytes), esp);
    }

    #[test]
    fn derived_ones_are_of_version_8() {
        let uuid = Uuid::derived("a", "b").to_string();
        assert_eq!(&uuid[14..15], "8");
        assert!("89ab".contains(&uuid[19..20]), "{uuid}");
        // Where the seed ends and the role begins matters.
        assert_ne!(Uuid::derived("ab", "c"), Uuid::derived("a", "bc"));
    }

    #[test]
    fn other_texts_are_refused() {
        for bad in [
            "",
            "c12a7328",
            "c12a7328-f81f-11d2-ba4b00a0c93ec93b",
            "+12a7328-f81f-11d2-ba4b-00a0c93ec93b",
        ] {
            assert!(bad.parse::<Uuid>().is_err(), "{bad}");
        }
        let nil = "00000000-0000-0000-0000-000000000000";
        assert_eq!(nil.parse::<Uuid>().map(Uuid::is_nil), Ok(true));
        assert_eq!(Uuid::parse_id(nil), Err(UuidError::Nil));
    }
}
