//! Labels of file systems: how long each kind may have them, and of what.

/// A label that a file system cannot have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelError {
    /// The kind has none.
    #[error("{0} has no label")]
    None(&'static str),
    /// Longer than its place.
    #[error("{filesystem} has {most} bytes for a label, and `{}` takes {bytes}", .label.escape_debug())]
    Long {
        /// The kind, as in `mount -t`.
        filesystem: &'static str,
        /// The label.
        label: String,
        /// Bytes of UTF-8.
        bytes: usize,
        /// Bytes that there are.
        most: usize,
    },
    /// A character that cannot stand in it.
    #[error("`{}` cannot stand in a label of {filesystem}, as in `{}`: it is {allowed}", .found.escape_debug(), .label.escape_debug())]
    Character {
        /// The kind.
        filesystem: &'static str,
        /// The label.
        label: String,
        /// The first such character.
        found: char,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl LabelError {
    /// A label that would do and is near; none where nothing is left of it.
    ///
    /// ```
    /// let wrong = sos_formats::label::check("vfat", "Daten (alt)").expect_err("small letters");
    /// assert_eq!(wrong.instead().as_deref(), Some("DATEN _ALT_"));
    /// ```
    #[must_use]
    pub fn instead(&self) -> Option<String> {
        let (filesystem, label) = match self {
            Self::None(_) => return None,
            Self::Long {
                filesystem, label, ..
            }
            | Self::Character {
                filesystem, label, ..
            } => (filesystem, label),
        };
        let rules = rules(filesystem)?;
        let mut found = String::new();
        for c in label.trim().chars() {
            let c = if rules.is_upper {
                c.to_ascii_uppercase()
            } else {
                c
            };
            let c = if (rules.allows)(c) { c } else { '_' };
            if found.len() + c.len_utf8() > rules.most {
                break;
            }
            found.push(c);
        }
        let found = found.trim_end().to_owned();
        check(filesystem, &found)
            .is_ok()
            .then_some(found)
            .filter(|found| !found.is_empty())
    }
}

struct Rules {
    filesystem: &'static str,
    most: usize,
    is_upper: bool,
    allows: fn(char) -> bool,
    allowed: &'static str,
}

const RULES: [Rules; 4] = [
    Rules {
        filesystem: "vfat",
        most: 11,
        is_upper: true,
        allows: |c| c.is_ascii_uppercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | ' '),
        allowed: "at most 11 of `A-Z`, `0-9`, `_`, `-` and blanks, not beginning with one",
    },
    Rules {
        filesystem: "ext4",
        most: 16,
        is_upper: false,
        allows: |c| !c.is_control(),
        allowed: "at most 16 bytes without control characters",
    },
    Rules {
        filesystem: "erofs",
        // One of 16 bytes ends it.
        most: 15,
        is_upper: false,
        allows: |c| !c.is_control(),
        allowed: "at most 15 bytes without control characters",
    },
    Rules {
        filesystem: "squashfs",
        most: 0,
        is_upper: false,
        allows: |_| false,
        allowed: "",
    },
];

fn rules(filesystem: &str) -> Option<&'static Rules> {
    RULES.iter().find(|rules| rules.filesystem == filesystem)
}

/// Whether a file system, as in `mount -t`, can have a label; what is not known can have any.
///
/// # Errors
/// When it cannot.
pub fn check(filesystem: &str, label: &str) -> Result<(), LabelError> {
    let Some(rules) = rules(filesystem) else {
        return Ok(());
    };
    if label.is_empty() {
        return Ok(());
    }
    if rules.most == 0 {
        return Err(LabelError::None(rules.filesystem));
    }
    let mut chars = label.chars();
    let is_first_blank = rules.is_upper && label.starts_with(' ');
    let bad = chars
        .find(|c| !(rules.allows)(*c))
        .or(is_first_blank.then_some(' '));
    if let Some(found) = bad {
        return Err(LabelError::Character {
            filesystem: rules.filesystem,
            label: label.to_owned(),
            found,
            allowed: rules.allowed,
        });
    }
    if label.len() > rules.most {
        return Err(LabelError::Long {
            filesystem: rules.filesystem,
            label: label.to_owned(),
            bytes: label.len(),
            most: rules.most,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_its_rules() {
        for (filesystem, label, told, instead) in [
            ("vfat", "EFI-SYSTEM", None, None),
            ("vfat", "A LABEL_123", None, None),
            (
                "vfat",
                "A LABEL_1234",
                Some("has 11 bytes"),
                Some("A LABEL_123"),
            ),
            ("vfat", "esp", Some("`e` cannot stand"), Some("ESP")),
            ("vfat", "WÄRE", Some("`Ä` cannot"), Some("W_RE")),
            ("vfat", " A", Some("` ` cannot"), Some("A")),
            ("vfat", "A\nB", Some("`\\n` cannot"), Some("A_B")),
            ("ext4", "sixteen bytes ok", None, None),
            (
                "ext4",
                "seventeen bytes !",
                Some("has 16 bytes for a label, and"),
                Some("seventeen bytes"),
            ),
            ("ext4", "eight ümläüte", None, None),
            ("ext4", "öööööööööö", Some("takes 20"), Some("öööööööö")),
            ("ext4", "a\0b", Some("`\\0` cannot"), Some("a_b")),
            ("ext4", "a\u{85}b", Some("`\\u{85}` cannot"), Some("a_b")),
            (
                "erofs",
                "sixteen bytes no",
                Some("has 15 bytes"),
                Some("sixteen bytes n"),
            ),
            ("squashfs", "x", Some("squashfs has no label"), None),
            ("squashfs", "", None, None),
            ("ext4", "\u{1}", Some("cannot stand"), Some("_")),
        ] {
            let found = check(filesystem, label).err();
            let told_here = found.as_ref().map(ToString::to_string);
            match (told, &told_here) {
                (None, None) => {}
                (Some(part), Some(whole)) if whole.contains(part) => {}
                _ => panic!("{filesystem} {label:?}: {told_here:?}"),
            }
            assert_eq!(
                found.and_then(|error| error.instead()).as_deref(),
                instead,
                "{label:?}"
            );
        }
    }
}
