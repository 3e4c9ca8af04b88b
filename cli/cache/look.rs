//! How paths are looked at, for recording and for checking alike.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::RwLock;

use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_lang::FileType;
use sos_store::StatKey;

use super::bytes::Writer;
use super::inputs::{Asked, Seen, type_byte};
use super::walk::kind_of_std;

/// What `stat` says of a path, links followed; none when it says nothing, or nothing about what was written.
pub(super) fn stat(path: &Path) -> Option<StatKey> {
    let meta = std::fs::metadata(path).ok()?;
    trusts(&meta, path).then(|| StatKey::of(&meta))
}

/// The kinds of file systems whose files show by their times that somebody wrote to them, by the numbers of `statfs(2)`: what is in
/// `/proc` or `/sys` changes without, and what comes over a network or from a program (FUSE) has the times that those like to tell.
const WITH_TIMES: [i64; 14] = [
    0xef53,      // ext2, ext3, ext4
    0x5846_5342, // XFS
    0x9123_683e, // btrfs
    0x794c_7630, // overlayfs
    0x0102_1994, // tmpfs
    0x8584_58f6, // ramfs
    0x2fc1_2fc1, // ZFS
    0xca45_1a4e, // bcachefs
    0xf2f5_2010, // F2FS
    0x3153_464a, // JFS
    0x3434,      // NILFS
    0x5265_4973, // ReiserFS
    0x7371_7368, // squashfs
    0xe0f5_e1e2, // EROFS
];

/// Devices and whether they are of such a kind, as far as that was asked: a machine has a handful.
static DEVICES: RwLock<Vec<(u64, bool)>> = RwLock::new(Vec::new());

/// Whether the times of what is at a path can be trusted; `meta` is what `stat` said of it, of a link or of where that leads.
pub(super) fn trusts(meta: &Metadata, path: &Path) -> bool {
    trusts_device(meta.dev(), meta.is_symlink(), || path.to_owned())
}

/// The same of something on a device; `path` says where it is.
pub(super) fn trusts_device(device: u64, is_link: bool, path: impl FnOnce() -> PathBuf) -> bool {
    let known = |all: &[(u64, bool)]| all.iter().find(|known| known.0 == device).map(|d| d.1);
    if let Some(trusted) = DEVICES.read().ok().and_then(|all| known(&all)) {
        return trusted;
    }
    let path = path();
    // A link may lead to another file system; its own is that of the directory that it is in.
    let path = match path.parent() {
        Some(parent) if is_link => parent,
        _ => &path,
    };
    let Ok(found) = rustix::fs::statfs(path) else {
        return false;
    };
    let trusted = WITH_TIMES.contains(&found.f_type);
    if let Ok(mut all) = DEVICES.write() {
        all.push((device, trusted));
    }
    trusted
}

/// Whether the times of what is at a path can be trusted, as far as its own file system goes; in a directory there may be another
/// one.
pub(super) fn keeps_times(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|meta| trusts(&meta, path))
}

/// Asks a path again.
pub(super) fn ask(path: &Path, asked: Asked) -> Option<Blake3> {
    match asked {
        Asked::Content => content(path).ok().as_deref().map(Blake3::of),
        Asked::Listing => list(path).ok().map(|l| listing_digest(&l)),
        Asked::Type => type_digest(std::fs::symlink_metadata(path)),
        Asked::Target => std::fs::canonicalize(path).ok().map(|p| target_digest(&p)),
    }
}

/// The bytes of a regular file: what was one may have become a pipe that nobody writes to, or a device without end.
fn content(path: &Path) -> io::Result<Vec<u8>> {
    super::ahead::read(path, u64::MAX)
}

/// How a path answers as it did.
pub(super) enum Same {
    /// It is the inode that it was, and nobody wrote to it.
    Untouched,
    /// It was asked again. With what is known better now, when it is worth noting.
    Asked(Option<Seen>),
}

/// Where directories lead, links followed. Each is followed once for all that is asked in it: to do so for every file would take longer
/// than all other questions about it.
#[derive(Default)]
pub(super) struct Followed(BTreeMap<PathBuf, Option<PathBuf>>);

impl Followed {
    /// What [`std::fs::canonicalize`] says of a path.
    fn canonicalize(&mut self, path: &Path) -> Option<PathBuf> {
        let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
            return std::fs::canonicalize(path).ok();
        };
        if std::fs::symlink_metadata(path).ok()?.is_symlink() {
            return std::fs::canonicalize(path).ok();
        }
        let target = match self.0.get(dir) {
            Some(known) => known.as_deref(),
            None => {
                let target = std::fs::canonicalize(dir).ok();
                self.0.entry(dir.to_owned()).or_insert(target).as_deref()
            }
        };
        Some(target?.join(name))
    }
}

/// Whether a path answers as it did.
pub(super) fn same(
    path: &Path,
    asked: Asked,
    seen: &Seen,
    now_nanos: i128,
    followed: &mut Followed,
) -> Result<Same, ()> {
    let by_stat = matches!(asked, Asked::Content | Asked::Listing) && seen.answer.is_some();
    let found = if by_stat { stat(path) } else { None };
    if found.is_some() && found == seen.stat {
        return Ok(Same::Untouched);
    }
    let answer = match asked {
        Asked::Target => followed.canonicalize(path).map(|p| target_digest(&p)),
        _ => ask(path, asked),
    };
    if answer != seen.answer {
        return Err(());
    }
    let trusted = found.filter(|key| !key.is_racy(now_nanos));
    Ok(Same::Asked(trusted.map(|key| Seen {
        answer: seen.answer,
        stat: Some(key),
    })))
}

/// A directory, in order of names.
fn list(path: &Path) -> io::Result<Vec<(Bytes, FileType)>> {
    let mut entries = Vec::new();
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        let kind = kind_of_std(entry.file_type()?);
        entries.push((entry.file_name().as_bytes().to_vec(), kind));
    }
    entries.sort_by(|a: &(Bytes, FileType), b| a.0.cmp(&b.0));
    Ok(entries)
}

/// The digest of a directory; the entries are in order of names.
pub(super) fn listing_digest(entries: &[(Bytes, FileType)]) -> Blake3 {
    let mut w = Writer::default();
    w.list(entries.iter(), |w, (name, kind)| {
        w.bytes(name);
        w.byte(type_byte(*kind));
    });
    Blake3::of(&w.0)
}

/// The digest of what a path is; none when that cannot be told.
fn type_digest(found: io::Result<Metadata>) -> Option<Blake3> {
    match found {
        Ok(meta) => Some(known_type_digest(kind_of_std(meta.file_type()))),
        Err(e) if is_missing(&e) => Some(nothing_digest()),
        Err(_) => None,
    }
}

pub(super) fn known_type_digest(kind: FileType) -> Blake3 {
    Blake3::of(&[type_byte(kind)])
}

pub(super) fn nothing_digest() -> Blake3 {
    Blake3::of(b"nothing")
}

/// The digest of where a path leads.
pub(super) fn target_digest(target: &Path) -> Blake3 {
    Blake3::of(target.as_os_str().as_bytes())
}

fn is_missing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn paths_lead_where_the_system_says() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("dir")).unwrap();
        fs::write(at("dir/file"), "").unwrap();
        symlink("dir", at("way")).unwrap();
        symlink("file", at("dir/link")).unwrap();
        symlink("../dir", at("dir/back")).unwrap();
        symlink("gone", at("dangling")).unwrap();
        let mut followed = Followed::default();
        for name in [
            "dir",
            "dir/file",
            "way",
            "way/file",
            "way/link",
            "way/back",
            "way/back/file",
            "dir/gone",
            "gone/file",
            "dangling",
            "dir/file/below",
        ] {
            let expect = fs::canonicalize(at(name)).ok();
            assert_eq!(followed.canonicalize(&at(name)), expect, "{name}");
            assert_eq!(followed.canonicalize(&at(name)), expect, "{name} again");
        }
        for path in ["/", "/.."] {
            let expect = fs::canonicalize(path).ok();
            assert_eq!(followed.canonicalize(Path::new(path)), expect, "{path}");
        }
    }
}
