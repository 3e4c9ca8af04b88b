//! Access control lists, for which squashfs has no place.
//!
//! Where a file has one, the middle digit of its mode is not what its group may do, but the most that anybody named in the list
//! may. Without the list it would become what the group may do, so it is set to that. Those named in the list lose what only
//! the list gave to them, and may do no more than before: without it a named user counts as one of the group or of the others, and a
//! member of a named group as one of the others, so that these lose what the list denies there (acl(5), "Access check algorithm").

use sos_formats::diagnostic::{Class, Diagnostic};

use super::super::tree::{Inode, Tree};
use crate::build::Build;
use crate::unfit::Unfit;

const ACCESS: &[u8] = b"system.posix_acl_access";
const DEFAULT: &[u8] = b"system.posix_acl_default";
/// What messages call it.
const WARNING: &str = "filesystem-acl";
/// Files that one message names.
const SHOWN: usize = 10;

/// Tags of entries: a named user, the owning group, a named group, and the most that all three may.
const NAMED_USER: u16 = 0x02;
const GROUP: u16 = 0x04;
const NAMED_GROUP: u16 = 0x08;
const MASK: u16 = 0x10;

/// Leaves all lists out; says of which files. A list that is none is noted as unfit.
pub(super) fn drop_all(build: &dyn Build, tree: &mut Tree, unfit: &mut Unfit) {
    let mut without = Vec::new();
    let mut more = 0_usize;
    for inode in &mut tree.inodes {
        let found = match drop_one(inode) {
            Ok(found) => found,
            Err(rule) => {
                unfit.push(&inode.path, rule);
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
    let message = format!(
        "squashfs has no access control lists, so those of {} were left out, as `acls = \"drop\"` says",
        without.join(", ")
    );
    build.warn(
        Diagnostic::warning(WARNING, Class::Recipe, message)
            .help("choose ext4 or EROFS to keep them"),
    );
}

/// Notes all files that have one as unfit.
pub(super) fn refuse_all(tree: &mut Tree, unfit: &mut Unfit) {
    for inode in &mut tree.inodes {
        let xattrs = &mut inode.meta.xattrs;
        // Taken away, so that no other rule is told of them as well.
        let found = [xattrs.remove(ACCESS), xattrs.remove(DEFAULT)];
        if found.iter().any(Option::is_some) {
            unfit.push(
                &inode.path,
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
        let (group, others) =
            without(list).ok_or("`system.posix_acl_access` is no access control list")?;
        inode.meta.mode = inode.meta.mode & !0o070 & !(7 & !others) | group << 3;
        xattrs.remove(ACCESS);
        xattrs.remove(DEFAULT);
        return Ok(true);
    }
    Ok(xattrs.remove(DEFAULT).is_some())
}

/// What the owning group may do without a list, and the most that others may. The list has the form that programs see: a version, then
/// entries of tag, permissions and id.
fn without(list: &[u8]) -> Option<(u16, u16)> {
    let (entries, rest) = list.strip_prefix(&2_u32.to_le_bytes())?.as_chunks::<8>();
    if !rest.is_empty() {
        return None;
    }
    let all = |tag: u16| {
        let found = entries.iter();
        let found = found.filter(move |entry| entry[..2] == tag.to_le_bytes());
        found.map(|entry| u16::from_le_bytes([entry[2], entry[3]]) & 7)
    };
    let mask = all(MASK).next().unwrap_or(7);
    let least = |tag| all(tag).fold(7, |least, perm| least & perm & mask);
    let users = least(NAMED_USER);
    Some((
        all(GROUP).next()? & mask & users,
        users & least(NAMED_GROUP),
    ))
}

#[cfg(test)]
mod tests {
    use sos_formats::Bytes;
    use sos_formats::manifest::Meta;

    use super::super::super::tree::Content;
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
    fn nobody_may_do_more_without_a_list() {
        for (entries, expected) in [
            (
                &[(1, 7), (4, 5), (8, 7), (16, 7), (32, 0)][..],
                Some((5, 7)),
            ),
            (&[(1, 7), (4, 7), (8, 7), (16, 4), (32, 0)], Some((4, 4))),
            (&[(1, 7), (4, 6), (32, 0)], Some((6, 7))),
            // A user that is kept out may be of the group; the members of a group are none of it, or have its rights as well.
            (&[(1, 6), (2, 0), (4, 4), (16, 4), (32, 4)], Some((0, 0))),
            (
                &[(1, 6), (2, 4), (2, 6), (4, 6), (16, 6), (32, 6)],
                Some((4, 4)),
            ),
            (
                &[(1, 6), (4, 6), (8, 4), (8, 2), (16, 6), (32, 6)],
                Some((6, 0)),
            ),
            (&[(1, 7), (32, 0)], None),
        ] {
            assert_eq!(without(&list(entries)), expected, "{entries:?}");
        }
        for broken in [&b""[..], b"\x01\0\0\0", b"\x02\0\0\0\x04\0"] {
            assert_eq!(without(broken), None, "{broken:?}");
        }
    }

    #[test]
    fn the_mode_keeps_what_a_list_denied() {
        let access = list(&[(1, 6), (2, 0), (4, 4), (16, 4), (32, 4)]);
        let mut inode = Inode {
            path: Bytes::new(),
            meta: Meta {
                mode: 0o4644,
                xattrs: [(ACCESS.to_vec(), access)].into(),
                ..Meta::default()
            },
            content: Content::Fifo,
            links: 1,
        };
        assert_eq!(drop_one(&mut inode), Ok(true));
        assert_eq!((inode.meta.mode, inode.meta.xattrs.len()), (0o4600, 0));
    }
}
