//! Extended attributes: behind the inode where they fit, the others in one block.

use std::collections::BTreeMap;

use sos_formats::Bytes;

use super::BLOCK_BYTES;
use super::sums::Sums;

/// Bytes behind the fields of an inode.
pub(super) const INLINE_BYTES: usize = 96;
const MAGIC: u32 = 0xea02_0000;
/// The header of a block.
const HEADER_BYTES: usize = 32;
/// The longest name without its prefix.
const MAX_NAME: usize = 255;

/// Prefixes that a number stands for; the longest first.
const PREFIXES: [(&[u8], u8); 6] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"security.", 6),
    (b"trusted.", 4),
    (b"system.", 7),
    (b"user.", 1),
];

/// One attribute, in the order of the format: number of the prefix, length of the name, name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Attribute {
    prefix: u8,
    len: usize,
    name: Bytes,
    value: Bytes,
}

impl Attribute {
    fn entry_bytes(&self) -> usize {
        16 + self.len.next_multiple_of(4)
    }

    fn bytes(&self) -> usize {
        self.entry_bytes() + self.value.len().next_multiple_of(4)
    }

    /// What the kernel compares first.
    fn hash(&self) -> u32 {
        let mut hash = 0_u32;
        for byte in &self.name {
            hash = hash.rotate_left(5) ^ u32::from(*byte);
        }
        for word in self.value.chunks(4) {
            let mut bytes = [0; 4];
            bytes[..word.len()].copy_from_slice(word);
            hash = hash.rotate_left(16) ^ u32::from_le_bytes(bytes);
        }
        hash
    }
}

/// The attributes of one inode, by where they go.
#[derive(Clone, Debug, Default)]
pub(super) struct Attributes {
    inline: Vec<Attribute>,
    block: Vec<Attribute>,
}

impl Attributes {
    /// Distributes attributes.
    ///
    /// # Errors
    /// The rule of ext4 that they break.
    pub(super) fn new(xattrs: &BTreeMap<Bytes, Bytes>) -> Result<Self, String> {
        let mut all = Vec::with_capacity(xattrs.len());
        for (key, value) in xattrs {
            all.push(attribute(key, value)?);
        }
        all.sort();
        let mut found = Self::default();
        // The magic number before, four zeros behind the entries.
        let mut inline = INLINE_BYTES - 8;
        let mut block = BLOCK_BYTES - HEADER_BYTES - 4;
        for attribute in all {
            let bytes = attribute.bytes();
            if bytes <= inline {
                inline -= bytes;
                found.inline.push(attribute);
            } else if bytes <= block {
                block -= bytes;
                found.block.push(attribute);
            } else {
                let rule = "its extended attributes must fit into one block of 4096 bytes";
                return Err(rule.to_owned());
            }
        }
        Ok(found)
    }

    /// Tells whether a block is needed.
    pub(super) fn needs_block(&self) -> bool {
        !self.block.is_empty()
    }

    /// Writes those that go behind the inode into the last bytes of it.
    pub(super) fn put_inline(&self, place: &mut [u8]) {
        if self.inline.is_empty() {
            return;
        }
        place[..4].copy_from_slice(&MAGIC.to_le_bytes());
        // Values count from the first entry. Hashes are left out here, as the kernel does.
        put(&self.inline, &mut place[4..], 0, false);
    }

    /// Makes the block, which knows where it lies.
    pub(super) fn block(&self, number: u64, sums: &Sums) -> Bytes {
        let mut block = vec![0; BLOCK_BYTES];
        put(&self.block, &mut block, HEADER_BYTES, true);
        let mut hash = 0_u32;
        for attribute in &self.block {
            hash = match attribute.hash() {
                // A block with such an entry is not shared.
                0 => {
                    hash = 0;
                    break;
                }
                one => hash.rotate_left(16) ^ one,
            };
        }
        for (field, value) in [(0, MAGIC), (4, 1), (8, 1), (12, hash)] {
            block[field..field + 4].copy_from_slice(&value.to_le_bytes());
        }
        let sum = sums.of_xattrs(number, &block);
        block[16..20].copy_from_slice(&sum.to_le_bytes());
        block
    }
}

/// Writes entries from `at` on, and their values from the end.
fn put(attributes: &[Attribute], place: &mut [u8], mut at: usize, hashes: bool) {
    let mut end = place.len();
    for attribute in attributes {
        let value = &attribute.value;
        end -= value.len().next_multiple_of(4);
        place[end..end + value.len()].copy_from_slice(value);
        let offset = if value.is_empty() { 0 } else { end };
        let entry = &mut place[at..at + attribute.entry_bytes()];
        entry[0] = u8::try_from(attribute.len).unwrap_or(u8::MAX);
        entry[1] = attribute.prefix;
        entry[2..4].copy_from_slice(&u16::try_from(offset).unwrap_or(u16::MAX).to_le_bytes());
        entry[8..12].copy_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_le_bytes());
        if hashes {
            entry[12..16].copy_from_slice(&attribute.hash().to_le_bytes());
        }
        entry[16..16 + attribute.len].copy_from_slice(&attribute.name);
        at += attribute.entry_bytes();
    }
}

fn attribute(key: &[u8], value: &[u8]) -> Result<Attribute, String> {
    let shown = String::from_utf8_lossy(key);
    let found = PREFIXES.iter().find_map(|(prefix, number)| {
        let name = key.strip_prefix(*prefix)?;
        // The two that are whole names have none behind them, the others must.
        (name.is_empty() == (*number == 2 || *number == 3)).then_some((*number, name))
    });
    let Some((prefix, name)) = found else {
        return Err(format!(
            "extended attributes begin with `user.`, `trusted.`, `security.` or `system.`, and this one is `{shown}`"
        ));
    };
    if name.len() > MAX_NAME {
        return Err(format!(
            "the name of the extended attribute `{shown}` is too long"
        ));
    }
    let value = if prefix == 2 || prefix == 3 {
        short_acl(value)
            .ok_or_else(|| format!("the value of `{shown}` is no access control list"))?
    } else {
        value.to_vec()
    };
    Ok(Attribute {
        prefix,
        len: name.len(),
        name: name.to_vec(),
        value,
    })
}

/// Turns an access control list from the form that programs see into that of the disk, where only named users and groups have
/// an id.
fn short_acl(value: &[u8]) -> Option<Bytes> {
    let entries = value.strip_prefix(&2_u32.to_le_bytes())?;
    let (entries, rest) = entries.as_chunks::<8>();
    if !rest.is_empty() || entries.is_empty() {
        return None;
    }
    let mut out = 1_u32.to_le_bytes().to_vec();
    for entry in entries {
        let kept = match u16::from_le_bytes([entry[0], entry[1]]) {
            // Owner, owning group, mask, others.
            0x01 | 0x04 | 0x10 | 0x20 => &entry[..4],
            0x02 | 0x08 => &entry[..],
            _ => return None,
        };
        out.extend_from_slice(kept);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(key: &[u8], value: &[u8], rule: &str) {
        let xattrs = BTreeMap::from([(key.to_vec(), value.to_vec())]);
        let error = Attributes::new(&xattrs).expect_err("a rule is broken");
        assert!(error.contains(rule), "{error}");
    }

    #[test]
    fn rules() {
        check(b"other.x", b"", "`user.`");
        check(b"user.", b"", "`user.`");
        check(b"user.x", &[1; 5000], "one block");
        check(
            b"system.posix_acl_access",
            b"\x02\0\0\0x",
            "no access control list",
        );
        check(b"system.posix_acl_default", b"", "no access control list");
    }

    #[test]
    fn what_fits_stays_with_the_inode() {
        let xattrs = BTreeMap::from([
            (b"security.capability".to_vec(), vec![1; 20]),
            (b"user.long".to_vec(), vec![2; 300]),
        ]);
        let found = Attributes::new(&xattrs).expect("both fit");
        assert_eq!((found.inline.len(), found.block.len()), (1, 1));
    }
}
