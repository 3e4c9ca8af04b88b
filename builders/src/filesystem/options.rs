//! What every file system is told.

use crate::unfit::Unfit;

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

    /// What will not go into a file system of this kind.
    pub(super) fn unfit(self) -> Unfit {
        let fix =
            "change or remove these files before the file system is made, or choose another kind";
        Unfit::new("filesystem-unfit", self.name(), fix)
    }
}

/// What a file system is told besides what is in it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// The UUID in its written order. Squashfs has none.
    pub uuid: [u8; 16],
    /// The label, possibly empty; see [`sos_formats::label::check`].
    pub label: String,
    /// Seconds since 1970. The file system was made then, and no file is younger.
    pub epoch: i64,
    /// The length in bytes, rounded down to whole blocks of 4096; without it the file system is as small as it can be.
    pub size: Option<u64>,
    /// Bytes that stay free where no size is given; only of file systems that can be written to.
    pub free: u64,
    /// What becomes of access control lists in squashfs; the others hold them.
    pub acls: Acls,
}

/// What becomes of access control lists where a file system has no place for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Acls {
    /// A file that has one is an error.
    #[default]
    Refuse,
    /// They are left out, and the log says of which files; nobody may do more than before.
    Drop,
}

/// A file system that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// The length of the image in bytes, a multiple of 4096.
    pub len: u64,
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
}
