//! Sizes of disks and partitions, as people write them.

use sos_formats::gpt::SECTOR;

use super::fields::{Fields, wrong_type};
use crate::problems::Problems;
use crate::tree::Value;

/// Larger than any disk.
const MAX_BYTES: u64 = 1 << 50;
/// What partitions are whole numbers of.
const MIB: u64 = 1 << 20;
const UNITS: [(char, u32); 4] = [('K', 10), ('M', 20), ('G', 30), ('T', 40)];
const EXPECTED: &str =
    "bytes, or a text with a whole number and a unit of 1024: K, M, G or T, as in \"512M\"";

/// What a size is for, and so the least that it may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Least {
    /// Room that may be none.
    Nothing,
    /// A partition begins and ends at a whole MiB.
    Partition,
    /// One MiB at each end for the table, and a partition between.
    Disk,
}

impl Least {
    fn bytes(self) -> u64 {
        match self {
            Self::Nothing => 0,
            Self::Partition => MIB,
            Self::Disk => 3 * MIB,
        }
    }

    fn expected(self) -> &'static str {
        match self {
            Self::Nothing => EXPECTED,
            Self::Partition => "expected at least \"1M\": partitions are whole MiB",
            Self::Disk => {
                "expected at least \"3M\": the table takes 1 MiB at each end, a partition 1 MiB"
            }
        }
    }
}

/// Why a size is none.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Wrong {
    NoNumber,
    /// What is left is not said by a size.
    Rest,
    Negative,
    /// With the same size in whole numbers, where there is one.
    Fraction(Option<String>),
    /// No whole number of sectors, with the next size that is one.
    Sectors(String),
    /// A unit that is none, with the size that was meant, where it is clear.
    Unit(String, Option<String>),
    TooLarge,
    /// Less than the least; without a unit it was hardly meant as bytes.
    Small {
        without_unit: Option<String>,
    },
}

impl Wrong {
    fn what(&self) -> String {
        match self {
            Self::NoNumber | Self::Rest => "there is no number in it".to_owned(),
            Self::Negative => "a size cannot be negative".to_owned(),
            Self::Fraction(_) => "it is no whole number".to_owned(),
            Self::Sectors(_) => format!("it is no whole number of sectors of {SECTOR} bytes"),
            Self::Unit(unit, _) => format!("`{}` is no unit", unit.escape_debug()),
            Self::TooLarge => "no disk is so large".to_owned(),
            Self::Small { .. } => "it is too small".to_owned(),
        }
    }

    fn expected(&self, least: Least) -> String {
        match self {
            Self::Small { .. } => least.expected().to_owned(),
            Self::TooLarge => "expected at most \"1024T\"".to_owned(),
            Self::Sectors(_) => format!("expected a multiple of {SECTOR} bytes"),
            _ => format!("expected {EXPECTED}"),
        }
    }

    fn help(&self, name: &str, least: Least) -> Option<String> {
        match self {
            Self::Fraction(Some(instead))
            | Self::Sectors(instead)
            | Self::Unit(_, Some(instead)) => Some(format!("write `{name} = \"{instead}\"`")),
            Self::Small {
                without_unit: Some(number),
            } => Some(format!(
                "a number without a unit is bytes; {number} MiB are `{name} = \"{number}M\"`"
            )),
            Self::Rest if least == Least::Partition => Some(format!(
                "leave `{name}` out and write `rest = true` in the last `[[partition]]`: it takes what is left"
            )),
            _ => None,
        }
    }
}

/// Reads the size of something, which messages call `of`.
pub(super) fn read(
    fields: &Fields<'_>,
    name: &str,
    of: &str,
    least: Least,
    problems: &mut Problems,
) -> Option<i64> {
    let node = fields.node(name)?;
    let (written, found) = match &node.value {
        Value::Int(n) => (
            n.to_string(),
            u64::try_from(*n).map_err(|_e| Wrong::Negative),
        ),
        Value::HugeInt(s) if s.starts_with('-') => (s.clone(), Err(Wrong::Negative)),
        Value::HugeInt(s) => (s.clone(), Err(Wrong::TooLarge)),
        Value::Float(n) => (n.to_string(), Err(Wrong::Fraction(None))),
        Value::Str(s, _) => (format!("{s:?}"), parse(s)),
        _ => {
            let problem = wrong_type(problems, &format!("`{name}` of {of}"), node, EXPECTED);
            problems.add(problem);
            return None;
        }
    };
    let found = found.and_then(|bytes| match bytes {
        _ if bytes < least.bytes() => {
            let digits = written.trim_matches('"').trim();
            let has_unit = digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit());
            Err(Wrong::Small {
                without_unit: (!has_unit && bytes > 0).then(|| digits.to_owned()),
            })
        }
        _ if bytes > MAX_BYTES => Err(Wrong::TooLarge),
        _ if least == Least::Disk && !bytes.is_multiple_of(SECTOR) => {
            Err(Wrong::Sectors(shown(bytes.next_multiple_of(SECTOR))))
        }
        _ => Ok(bytes),
    });
    match found {
        Ok(bytes) => i64::try_from(bytes).ok(),
        Err(wrong) => {
            let message = format!("`{name}` of {of} is {written}: {}", wrong.what());
            let label = wrong.expected(least);
            let mut problem = problems.error("recipe-bad-value", message, &node.place, label);
            problem.helps.extend(wrong.help(name, least));
            problems.add(problem);
            None
        }
    }
}

/// Bytes of a text such as `64M`.
fn parse(text: &str) -> Result<u64, Wrong> {
    let text = text.trim();
    let split = |text: &str| {
        text.find(|c: char| !c.is_ascii_digit())
            .unwrap_or(text.len())
    };
    let (digits, rest) = text.split_at(split(text));
    if digits.is_empty() {
        let is_negative = text
            .strip_prefix('-')
            .is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        return Err(if is_negative {
            Wrong::Negative
        } else if ["rest", "max", "all", "*"].contains(&text.to_ascii_lowercase().as_str()) {
            Wrong::Rest
        } else {
            Wrong::NoNumber
        });
    }
    if let Some(rest) = rest.strip_prefix(['.', ',']) {
        let (part, unit) = rest.split_at(split(rest));
        return Err(Wrong::Fraction(
            unit_of(unit)
                .ok()
                .and_then(|shift| whole(digits, part, shift)),
        ));
    }
    let shift = unit_of(rest).map_err(|meant| {
        let meant = meant.map(|unit| format!("{digits}{unit}"));
        Wrong::Unit(rest.trim().to_owned(), meant)
    })?;
    let number: u64 = digits.parse().map_err(|_e| Wrong::TooLarge)?;
    number.checked_mul(1 << shift).ok_or(Wrong::TooLarge)
}

/// The power of two that a unit stands for; else the unit that it is a slip of, if it is one.
fn unit_of(text: &str) -> Result<u32, Option<String>> {
    let unit = text.trim();
    if unit.is_empty() || unit == "B" {
        return Ok(0);
    }
    let letter = unit.strip_suffix("iB").unwrap_or(unit);
    if let Some((_, shift)) = UNITS.iter().find(|(name, _)| letter.chars().eq([*name])) {
        return Ok(*shift);
    }
    let lower = unit.to_ascii_lowercase();
    if matches!(lower.as_str(), "b" | "byte" | "bytes") {
        return Err(Some(String::new()));
    }
    let bare = lower.strip_suffix('b').unwrap_or(&lower);
    let bare = bare.strip_suffix('i').unwrap_or(bare);
    let meant = UNITS
        .iter()
        .find(|(name, _)| bare.chars().eq([name.to_ascii_lowercase()]));
    Err(meant.map(|(name, _)| name.to_string()))
}

/// `1.5G` without a fraction: in the largest unit that has none, up to the next MiB where there is none at all.
fn whole(digits: &str, part: &str, shift: u32) -> Option<String> {
    let scale = 10_u128.checked_pow(u32::try_from(part.len()).ok()?)?;
    let number: u128 = format!("{digits}{part}").parse().ok()?;
    let bytes = number.checked_mul(1 << shift)?;
    let bytes = match bytes % scale {
        0 => bytes / scale,
        _ => (bytes / scale + 1).next_multiple_of(u128::from(MIB)),
    };
    let bytes = u64::try_from(bytes).ok()?;
    (bytes > 0 && bytes <= MAX_BYTES && bytes.is_multiple_of(1 << 10)).then(|| shown(bytes))
}

/// A size in the largest unit that leaves a whole number.
fn shown(bytes: u64) -> String {
    let mut units = UNITS.iter().rev();
    match units.find(|(_, shift)| bytes.is_multiple_of(1 << shift)) {
        Some((name, shift)) => format!("{}{name}", bytes >> shift),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("1024", Ok(1024)),
            ("64M", Ok(64 << 20)),
            ("2 GiB", Ok(2 << 30)),
            ("1T", Ok(1 << 40)),
            ("0", Ok(0)),
            ("", Err(Wrong::NoNumber)),
            ("M", Err(Wrong::NoNumber)),
            ("-", Err(Wrong::NoNumber)),
            ("-1M", Err(Wrong::Negative)),
            ("1.5G", Err(Wrong::Fraction(Some("1536M".to_owned())))),
            ("2,0 GiB", Err(Wrong::Fraction(Some("2G".to_owned())))),
            ("0.3G", Err(Wrong::Fraction(Some("308M".to_owned())))),
            ("1.5X", Err(Wrong::Fraction(None))),
            ("10X", Err(Wrong::Unit("X".to_owned(), None))),
            ("10é", Err(Wrong::Unit("é".to_owned(), None))),
            (
                "10 GB",
                Err(Wrong::Unit("GB".to_owned(), Some("10G".to_owned()))),
            ),
            (
                "10mib",
                Err(Wrong::Unit("mib".to_owned(), Some("10M".to_owned()))),
            ),
            (
                "512 bytes",
                Err(Wrong::Unit("bytes".to_owned(), Some("512".to_owned()))),
            ),
            ("9999999999T", Err(Wrong::TooLarge)),
            ("99999999999999999999999", Err(Wrong::TooLarge)),
        ] {
            assert_eq!(parse(text), expected, "{text}");
        }
    }
}
