//! Access control lists, for which squashfs has no place.
//!
//! Where a file has one, the middle digit of its mode is not what its group may do, but the most that anybody named in the list
//! may. Without the list it would become what the group may do, so it is set to that. Those named in the list lose what only
//! the list gave to them.

use super::super::tree::{Inode, Tree};
use super::super::unfit::Unfit;
use crate::build::Build;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
/// What the log calls it.
const WARNING: &str = "filesystem-acl";
/// Files that one message names.
const SHOWN: usize = 10;

/// The owning group, and the most that it and all named ones may.
const GROUP: u16 = 0x04;
const MASK: u16 = 0x10;

/// Leaves all lists out; says of which files. A list that is none is noted as unfit.
pub(super) fn drop_all(build: &dyn Build, tree: &mut Tree, unfit: &mut Unfit) {
    let mut without = Vec::new();
    let mut more = 0_usize;
    for inode in &mut tree.inodes {
        let found = match drop_one(inode) {
            Ok(found) => found,
            Err(rule) => {
                unfit.push(inode, rule);
                continue;
            }
        };
        match found {
            false => {}
            true if without.len() < SHOWN => {
                without.push(format!("`/{}`", String::from_utf8_lossy(&inode.path)));
            }
            true => more += 1,
        }
    }
    if without.is_empty() {
        return;
    }
    if more > 0 {
        without.push(format!("{more} more"));
    }
    build.log(&format!(
        "warning[{WARNING}]: squashfs has no access control lists, so those of {} were left out, as `acls = \"drop\"` says; choose ext4 \
         or EROFS to keep them",
        without.join(", ")
    ));
}

/// Notes all files that have one as unfit.
pub(super) fn refuse_all(tree: &mut Tree, unfit: &mut Unfit) {
    for inode in &mut tree.inodes {
        let xattrs = &mut inode.meta.xattrs;
        // Taken away, so that no other rule is told of them as well.
        let found = [xattrs.remove(ACCESS), xattrs.remove(DEFAULT)];
        if found.iter().any(Option::is_some) {
            unfit.push(
                inode,
                "squashfs has no access control lists, and it has one",
            );
            unfit.help("`acls = \"drop\"` leaves the lists out: nobody may do more without them; ext4 and EROFS keep them");
        }
    }
}

/// Tells whether there was one.
fn drop_one(inode: &mut Inode) -> Result<bool, &'static str> {
    let xattrs = &mut inode.meta.xattrs;
    if let Some(list) = xattrs.get(ACCESS) {
        let group = group_of(list).ok_or("`system.posix_acl_access` is no access control list")?;
        inode.meta.mode = inode.meta.mode & !0o070 | group << 3;
        xattrs.remove(ACCESS);
        xattrs.remove(DEFAULT);
        return Ok(true);
    }
    Ok(xattrs.remove(DEFAULT).is_some())
}

/// What the owning group may do by a list, in the form that programs see: a version, then entries of tag, permissions and id.
fn group_of(list: &[u8]) -> Option<u16> {
    let (entries, rest) = list.strip_prefix(&2_u32.to_le_bytes())?.as_chunks::<8>();
    if !rest.is_empty() {
        return None;
    }
    let perm = |tag: u16| {
        let mut found = entries.iter();
        let found = found.find(|entry| entry[..2] == tag.to_le_bytes())?;
        Some(u16::from_le_bytes([found[2], found[3]]) & 7)
    };
    Some(perm(GROUP)? & perm(MASK).unwrap_or(7))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut bytes = 2_u32.to_le_bytes().to_vec();
        for (tag, perm) in entries {
            bytes.extend_from_slice(&tag.to_le_bytes());
            bytes.extend_from_slice(&perm.to_le_bytes());
            bytes.extend_from_slice(&u32::MAX.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn the_group_gets_what_it_had() {
        for (entries, expected) in [
            (&[(1, 7), (4, 5), (8, 7), (16, 7), (32, 0)][..], Some(5)),
            (&[(1, 7), (4, 7), (8, 7), (16, 4), (32, 0)], Some(4)),
            (&[(1, 7), (4, 6), (32, 0)], Some(6)),
            (&[(1, 7), (32, 0)], None),
        ] {
            assert_eq!(group_of(&list(entries)), expected, "{entries:?}");
        }
        for broken in [&b""[..], b"\x01\0\0\0", b"\x02\0\0\0\x04\0"] {
            assert_eq!(group_of(broken), None, "{broken:?}");
        }
    }
}
