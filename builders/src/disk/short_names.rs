//! Names of eight and three characters: every file on a FAT volume has one beside its long name.

use std::collections::BTreeSet;

/// The short names of one directory.
#[derive(Debug, Default)]
pub(super) struct ShortNames {
    taken: BTreeSet<[u8; 11]>,
}

impl ShortNames {
    /// The short name for a long one, which nothing else in the directory has. None when there is no number left.
    pub(super) fn take(&mut self, long: &str) -> Option<[u8; 11]> {
        let exact = exact(long);
        if let Some(short) = exact
            && self.taken.insert(short)
        {
            return Some(short);
        }
        let (stem, extension) = basis(long);
        for number in 1..1_000_000u32 {
            let tail = format!("~{number}");
            let kept = stem.len().min(8 - tail.len());
            let stem = [&stem[..kept], tail.as_bytes()].concat();
            let short = padded(&stem, &extension);
            if self.taken.insert(short) {
                return Some(short);
            }
        }
        None
    }
}

/// Whether a name is stored as a short one without a long one: it is one, in upper case.
pub(super) fn is_short(long: &str) -> bool {
    exact(long).is_some()
}

/// Stem and extension, filled up with blanks.
pub(super) fn padded(stem: &[u8], extension: &[u8]) -> [u8; 11] {
    let mut short = [b' '; 11];
    short[..stem.len()].copy_from_slice(stem);
    short[8..8 + extension.len()].copy_from_slice(extension);
    short
}

/// What long entries hold, so that a tool without long names cannot part them from their file unnoticed.
pub(super) fn checksum(short: &[u8; 11]) -> u8 {
    short
        .iter()
        .fold(0u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
}

fn exact(long: &str) -> Option<[u8; 11]> {
    let (stem, extension) = long.split_once('.').unwrap_or((long, ""));
    let fits = |part: &str, most: usize| {
        part.len() <= most
            && part
                .bytes()
                .all(|b| is_short_byte(b) && !b.is_ascii_lowercase())
    };
    let dotted = long.contains('.') && extension.is_empty();
    (!stem.is_empty() && !dotted && fits(stem, 8) && fits(extension, 3))
        .then(|| padded(stem.as_bytes(), extension.as_bytes()))
}

/// Upper case, what does not fit replaced, cut to size.
fn basis(long: &str) -> (Vec<u8>, Vec<u8>) {
    let trimmed = long.trim_start_matches('.');
    let (stem, extension) = trimmed.rsplit_once('.').unwrap_or((trimmed, ""));
    let part = |text: &str, most: usize| -> Vec<u8> {
        let kept = text.chars().filter(|c| !" .".contains(*c));
        let bytes = kept.map(|c| match u8::try_from(c) {
            Ok(byte) if is_short_byte(byte) => byte.to_ascii_uppercase(),
            _ => b'_',
        });
        bytes.take(most).collect()
    };
    let stem = part(stem, 8);
    let stem = if stem.is_empty() { b"_".to_vec() } else { stem };
    (stem, part(extension, 3))
}

fn is_short_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'()-@^_`{}~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(names: &mut ShortNames, long: &str) -> String {
        let short = names.take(long).expect("a short name");
        String::from_utf8(short.to_vec()).expect("ASCII")
    }

    #[test]
    fn short_names_are_upper_case_and_their_own() {
        let mut names = ShortNames::default();
        for (long, short) in [
            ("BOOTX64.EFI", "BOOTX64 EFI"),
            ("loader.conf", "LOADER~1CON"),
            ("loader.config", "LOADER~2CON"),
            ("entries", "ENTRIE~1   "),
            ("EFI", "EFI        "),
            ("web_1+3.efi", "WEB_1_~1EFI"),
            (".hidden", "HIDDEN~1   "),
            ("ä", "_~1        "),
            ("a.b.c", "AB~1    C  "),
        ] {
            assert_eq!(take(&mut names, long), short, "{long}");
        }
        for number in 3..12 {
            take(&mut names, &format!("loader.con{number}"));
        }
        assert_eq!(take(&mut names, "loader.conx"), "LOADE~12CON");
    }

    #[test]
    fn only_upper_case_is_short_by_itself() {
        assert!(is_short("EFI") && is_short("BOOTX64.EFI"));
        assert!(
            !is_short("efi") && !is_short("A.") && !is_short("TOOLONGNAME") && !is_short("A B")
        );
    }
}
