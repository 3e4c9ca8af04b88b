//! Where the path of an entry leads when it goes over symlinks.
//!
//! A layer may have an entry below a name that is a symlink, of the same layer or of one below: `lib/x` where `lib` leads to `usr/lib`.
//! Unpackers follow the link, within the root, and so the file is `usr/lib/x`, and the link stays. umoci does so with `SecureJoin`,
//! containerd with `fs.RootPath`, docker in a root of its own; all of them make directories that are not there, and fail where something
//! else is in the way. The specification has no words for it.

use sos_formats::Bytes;

use super::contents::shown;
use crate::walk::join;

/// Links on the way to one entry, as many as other unpackers follow.
const MAX_LINKS: usize = 255;

/// What is at a path.
pub(super) enum Seen {
    Nothing,
    Dir,
    /// A symlink, with its target.
    Link(Bytes),
    Other,
}

/// Where the way to a directory leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// To this path, on which nothing is but directories; its end may still have to be made.
    To(Bytes),
    /// Into what is no directory.
    Blocked(Bytes),
    /// Over more links than are followed, the last of them this one.
    Circle(Bytes),
    /// Out of a directory that is not there, by the `..` of a link.
    Missing(Bytes),
}

impl Way {
    /// Why an entry cannot be put there, in words.
    pub(super) fn problem(&self, path: &[u8]) -> String {
        let path = shown(path);
        match self {
            Self::To(dir) => format!("`/{path}` is in `/{}`", shown(dir)),
            Self::Blocked(at) => {
                format!("`/{path}` is in `/{}`, which is no directory", shown(at))
            }
            Self::Circle(at) => format!(
                "the way to `/{path}` leads over more than {MAX_LINKS} links, `/{}` among them",
                shown(at)
            ),
            Self::Missing(at) => format!(
                "the way to `/{path}` leads over a link to `..` of `/{}`, which is not there",
                shown(at)
            ),
        }
    }
}

/// Follows the links on the way to a directory, none of which leads out of the root. `look` tells what is at a path on which there are
/// only directories. What is not there is still to be made; no kernel goes up out of that, so that a link which does leads nowhere, and
/// to another place when something comes there later.
pub(super) fn follow<E>(
    dir: &[u8],
    mut look: impl FnMut(&[u8]) -> Result<Seen, E>,
) -> Result<Way, E> {
    let mut real = Bytes::new();
    let mut links = 0;
    let mut is_there = true;
    let mut rest = names(dir);
    while let Some(name) = rest.pop() {
        if name == b".." {
            if !is_there {
                return Ok(Way::Missing(real));
            }
            real.truncate(split(&real).0.len());
            continue;
        }
        let next = join(&real, &name);
        match look(&next)? {
            Seen::Dir => real = next,
            Seen::Nothing => (real, is_there) = (next, false),
            Seen::Other => return Ok(Way::Blocked(next)),
            Seen::Link(target) => {
                links += 1;
                if links > MAX_LINKS {
                    return Ok(Way::Circle(next));
                }
                if target.starts_with(b"/") {
                    real.clear();
                }
                rest.extend(names(&target));
            }
        }
    }
    Ok(Way::To(real))
}

/// The names of a path, the last one first.
fn names(path: &[u8]) -> Vec<Bytes> {
    let names = path.split(|byte| *byte == b'/').rev();
    names
        .filter(|name| !name.is_empty() && *name != b".")
        .map(<[u8]>::to_vec)
        .collect()
}

/// The directory of a path, and its name there.
pub(super) fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (b"", path),
    }
}
