//! Extended attributes: one list for all inodes that have the same.

use std::collections::BTreeMap;

use sos_engine::BuilderError;
use sos_formats::Bytes;

use super::tables::{Metadata, table};
use super::{NONE, Tail};

/// Prefixes that a number stands for.
const PREFIXES: [(&[u8], u16); 3] = [(b"user.", 0), (b"trusted.", 1), (b"security.", 2)];

/// All different sets of attributes.
#[derive(Default)]
pub(super) struct Attributes {
    /// The bytes of each set, and how many attributes it has.
    sets: Vec<(Bytes, u32)>,
    known: BTreeMap<Bytes, u32>,
}

impl Attributes {
    /// Adds a set and gives its number.
    ///
    /// # Errors
    /// The rule of squashfs that it breaks.
    pub(super) fn add(&mut self, xattrs: &BTreeMap<Bytes, Bytes>) -> Result<u32, String> {
        if xattrs.is_empty() {
            return Ok(NONE);
        }
        let mut bytes = Bytes::new();
        for (key, value) in xattrs {
            let shown = String::from_utf8_lossy(key);
            let found = PREFIXES.iter().find_map(|(prefix, number)| {
                let name = key.strip_prefix(*prefix)?;
                (!name.is_empty()).then_some((*number, name))
            });
            let Some((prefix, name)) = found else {
                return Err(format!(
                    "extended attributes begin with `user.`, `trusted.` or `security.`, and this one is `{shown}`"
                ));
            };
            bytes.extend_from_slice(&prefix.to_le_bytes());
            bytes.extend_from_slice(&u16::try_from(name.len()).unwrap_or(u16::MAX).to_le_bytes());
            bytes.extend_from_slice(name);
            let len = u32::try_from(value.len()).unwrap_or(u32::MAX);
            bytes.extend_from_slice(&len.to_le_bytes());
            bytes.extend_from_slice(value);
        }
        if let Some(known) = self.known.get(&bytes) {
            return Ok(*known);
        }
        let number = u32::try_from(self.sets.len()).unwrap_or(NONE);
        let count = u32::try_from(xattrs.len()).unwrap_or(u32::MAX);
        self.sets.push((bytes.clone(), count));
        self.known.insert(bytes, number);
        Ok(number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Writes all sets and the table that finds them; gives where that begins.
    pub(super) fn write(&self, out: &mut Tail<'_>) -> Result<u64, BuilderError> {
        let mut values = Metadata::default();
        let mut ids = Bytes::new();
        for (bytes, count) in &self.sets {
            let place = values.put(bytes)?;
            let len = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            ids.extend_from_slice(&place.to_le_bytes());
            ids.extend_from_slice(&count.to_le_bytes());
            ids.extend_from_slice(&len.to_le_bytes());
        }
        let begin = out.put(&values.finish()?)?;
        let (blocks, begins) = table(&ids, out.at)?;
        out.put(&blocks)?;
        let count = u32::try_from(self.sets.len()).unwrap_or(u32::MAX);
        let head = [&begin.to_le_bytes()[..], &count.to_le_bytes(), &[0; 4]].concat();
        let place = out.put(&head)?;
        out.put(&begins)?;
        Ok(place)
    }
}
