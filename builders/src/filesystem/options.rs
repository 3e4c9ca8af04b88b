//! What every file system is told.

use sos_formats::hash::Blake3;

/// The kinds of file systems that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Can be written to and grown where it is used.
    Ext4,
    /// For reading only, as it is.
    Erofs,
    /// For reading only, compressed.
    Squashfs,
}

impl Kind {
    /// The name as in `mount -t`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Erofs => "erofs",
            Self::Squashfs => "squashfs",
        }
    }

    /// The longest label, in bytes of UTF-8.
    #[must_use]
    pub fn max_label_bytes(self) -> usize {
        match self {
            Self::Ext4 => 16,
            Self::Erofs => 15,
            Self::Squashfs => 0,
        }
    }
}

/// What a file system is told besides what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The UUID in its written order. Squashfs has none.
    pub uuid: [u8; 16],
    /// The label, possibly empty; see [`Kind::max_label_bytes`].
    pub label: String,
    /// Seconds since 1970. The file system was made then, and no file is younger.
    pub epoch: i64,
    /// The length in bytes, rounded down to whole blocks of 4096; without it the file system is as small as it can be.
    pub size: Option<u64>,
    /// Bytes that stay free where no size is given; only of file systems that can be written to.
    pub free: u64,
}

/// A file system that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The length of the image in bytes, a multiple of 4096.
    pub len: u64,
}

/// A UUID that follows from a seed and from what it is for: version 8 of RFC 9562.
#[must_use]
pub fn derived_uuid(seed: &[u8], role: &str) -> [u8; 16] {
    let digest = Blake3::of(&[b"sos uuid\0", role.as_bytes(), b"\0", seed].concat());
    let mut uuid = [0; 16];
    uuid.copy_from_slice(&digest.0[..16]);
    uuid[6] = (uuid[6] & 0x0f) | 0x80;
    uuid[8] = (uuid[8] & 0x3f) | 0x80;
    uuid
}

/// Reads a UUID as it is written: groups of 8, 4, 4, 4 and 12 hexadecimal digits.
#[must_use]
pub fn parse_uuid(text: &str) -> Option<[u8; 16]> {
    let groups: Vec<&str> = text.split('-').collect();
    let lengths: Vec<usize> = groups.iter().map(|group| group.len()).collect();
    let digits = groups.concat();
    // A sign would be read as part of a number.
    if lengths != [8, 4, 4, 4, 12] || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(&digits, 16)
        .ok()
        .map(u128::to_be_bytes)
}

/// Reads a size in bytes, or with a unit of 1024: `512M`, `2G`.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(['K', 'M', 'G', 'T']);
    let shift = match &text[digits.len()..] {
        "" => 0,
        "K" => 10,
        "M" => 20,
        "G" => 30,
        "T" => 40,
        _ => return None,
    };
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    digits.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("4096"), Some(4096));
        assert_eq!(parse_size("2G"), Some(2 << 30));
        for bad in [
            "",
            "G",
            "2GG",
            "2g",
            "-1",
            "+1",
            "1.5G",
            "99999999999T",
            "2 G",
        ] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn uuids() {
        let found = parse_uuid("30313233-3435-3637-3839-616263646566");
        assert_eq!(found, Some(*b"0123456789abcdef"));
        for bad in [
            "",
            "30313233343536373839616263646566",
            "+0313233-3435-3637-3839-616263646566",
        ] {
            assert_eq!(parse_uuid(bad), None, "{bad}");
        }
        let uuid = derived_uuid(b"x", "root");
        assert_eq!((uuid[6] >> 4, uuid[8] >> 6), (8, 2));
        assert_ne!(uuid, derived_uuid(b"x", "verity"));
    }
}
