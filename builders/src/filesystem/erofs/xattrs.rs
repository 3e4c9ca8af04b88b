//! Extended attributes, behind the inode.

use std::collections::BTreeMap;

use sos_formats::Bytes;

pub(super) const HEADER_BYTES: usize = 12;
/// The most bytes: an inode counts words of four.
const MAX_BYTES: usize = HEADER_BYTES + 4 * (u16::MAX as usize - 1);
const MAX_VALUE: usize = u16::MAX as usize;
const MAX_NAME: usize = u8::MAX as usize;

/// Prefixes that a number stands for; those without a dot at the end are whole names.
const PREFIXES: [(&[u8], u8); 5] = [
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"security.", 6),
    (b"trusted.", 4),
    (b"user.", 1),
];

/// Writes all attributes of an inode; nothing when there are none.
///
/// # Errors
/// The rule of EROFS that they break.
pub(super) fn encode(xattrs: &BTreeMap<Bytes, Bytes>) -> Result<Bytes, String> {
    if xattrs.is_empty() {
        return Ok(Bytes::new());
    }
    let mut out = vec![0; HEADER_BYTES];
    for (key, value) in xattrs {
        let shown = String::from_utf8_lossy(key);
        let found = PREFIXES.iter().find_map(|(prefix, number)| {
            let name = key.strip_prefix(*prefix)?;
            (name.is_empty() != prefix.ends_with(b".")).then_some((*number, name))
        });
        let Some((prefix, name)) = found else {
            return Err(format!(
                "extended attributes begin with `user.`, `trusted.` or `security.`, or are access control lists, and this one is `{shown}`"
            ));
        };
        let len = u8::try_from(name.len()).map_err(|_long| {
            format!("the name of the extended attribute `{shown}` has more than {MAX_NAME} bytes")
        })?;
        let size = u16::try_from(value.len()).map_err(|_long| {
            format!("the value of the extended attribute `{shown}` has more than {MAX_VALUE} bytes")
        })?;
        out.extend_from_slice(&[len, prefix]);
        out.extend_from_slice(&size.to_le_bytes());
        out.extend_from_slice(name);
        out.extend_from_slice(value);
        out.resize(out.len().next_multiple_of(4), 0);
    }
    if out.len() > MAX_BYTES {
        return Err("the extended attributes of a file have at most 256 KiB".to_owned());
    }
    Ok(out)
}
