//! Byte strings inside JSON: each byte is the character of the same number, which loses nothing and keeps ASCII readable.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A list of pairs of byte strings.
pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn to_text(bytes: &[u8]) -> String {
    bytes.iter().map(|&b| char::from(b)).collect()
}

fn from_text<E: Error>(text: &str) -> Result<Vec<u8>, E> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).map_err(|_wide| E::custom("character above U+00FF")))
        .collect()
}

pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to_text(bytes).serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
    from_text(&String::deserialize(from)?)
}

/// The same for a list of byte strings.
pub(super) mod list {
    use super::{Deserialize, Deserializer, Serializer, from_text, to_text};

    pub(in super::super) fn serialize<S: Serializer>(
        list: &[Vec<u8>],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|b| to_text(b)))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<Vec<u8>>, D::Error> {
        Vec::<String>::deserialize(from)?
            .iter()
            .map(|t| from_text(t))
            .collect()
    }
}

/// The same for a list of pairs.
pub(super) mod pairs {
    use super::{Deserialize, Deserializer, Pairs, Serializer, from_text, to_text};

    pub(in super::super) fn serialize<S: Serializer>(
        list: &[(Vec<u8>, Vec<u8>)],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|(a, b)| (to_text(a), to_text(b))))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Pairs, D::Error> {
        Vec::<(String, String)>::deserialize(from)?
            .iter()
            .map(|(a, b)| Ok((from_text(a)?, from_text(b)?)))
            .collect()
    }
}

/// The same for a list of byte strings with a flag.
pub(super) mod points {
    use super::{Deserialize, Deserializer, Serializer, from_text, to_text};

    pub(in super::super) fn serialize<S: Serializer>(
        list: &[(Vec<u8>, bool)],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to.collect_seq(list.iter().map(|(a, b)| (to_text(a), b)))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<(Vec<u8>, bool)>, D::Error> {
        Vec::<(String, bool)>::deserialize(from)?
            .iter()
            .map(|(a, b)| Ok((from_text(a)?, *b)))
            .collect()
    }
}

/// Paths need not be UTF-8; serde's own form refuses such.
pub(super) mod path {
    use super::{Deserialize, Deserializer, Serialize, Serializer, from_text, to_text};
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    pub(in super::super) fn serialize<S: Serializer>(
        path: &Path,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        to_text(path.as_os_str().as_bytes()).serialize(to)
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<PathBuf, D::Error> {
        let text = String::deserialize(from)?;
        Ok(PathBuf::from(OsString::from_vec(from_text(&text)?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize, Deserialize, PartialEq, Debug)]
    struct All {
        #[serde(with = "super")]
        one: Vec<u8>,
        #[serde(with = "list")]
        many: Vec<Vec<u8>>,
        #[serde(with = "pairs")]
        pairs: Vec<(Vec<u8>, Vec<u8>)>,
    }

    #[test]
    fn every_byte_survives() {
        let every: Vec<u8> = (0..=255).collect();
        let all = All {
            one: every.clone(),
            many: vec![every.clone(), vec![]],
            pairs: vec![(every, b"\"\\".to_vec())],
        };
        let text = serde_json::to_vec(&all).unwrap();
        assert_eq!(serde_json::from_slice::<All>(&text).unwrap(), all);
        assert!(serde_json::from_str::<All>(r#"{"one":"\u0100","many":[],"pairs":[]}"#).is_err());
    }
}
