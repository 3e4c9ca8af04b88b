//! The names in a tree, each with what `stat` said of it: the shortest way to tell that nothing in it has changed.
//!
//! Giving a directory another entry, taking one away or renaming one changes the directory's own times. So while no directory that
//! was listed has changed, none need be listed again: one `stat` for each name tells all. What remains is a `stat` for each file,
//! since nothing but the inode of a file tells that somebody has written to it.

use std::ffi::{CStr, OsStr};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};
use sos_formats::Bytes;
use sos_formats::hash::Blake3;
use sos_lang::FileType;
use sos_store::StatKey;

use super::bytes::{Reader, Writer};
use super::look::trusts;
use super::walk::{self, Taken};

/// Names of larger trees are not kept: reading them back would take as long as looking at the tree.
const MAX_BYTES: usize = 8 << 20;

/// How the root is called below itself.
const ROOT: &[u8] = b".";

/// What [`Names`] are made of, while a tree is met for the first time.
#[derive(Default)]
pub(super) struct Met {
    entries: Vec<(Bytes, StatKey)>,
    bytes: usize,
}

impl Met {
    /// Adds a file, link or directory that counts. A directory must be added before its names are read.
    pub(super) fn add(&mut self, below: &Path, meta: &std::fs::Metadata) {
        let below = match below.as_os_str().as_bytes() {
            b"" => ROOT,
            below => below,
        };
        self.bytes += below.len() + 1;
        // A number is enough to know that there are too many.
        if self.bytes <= MAX_BYTES {
            self.entries.push((below.to_vec(), StatKey::of(meta)));
        }
    }

    /// The names, unless something is so young that it may change unseen.
    pub(super) fn finish(mut self, now_nanos: i128) -> Option<Names> {
        if self.bytes > MAX_BYTES || self.entries.iter().any(|e| e.1.is_racy(now_nanos)) {
            return None;
        }
        // Those of one directory together: the kernel looks them up faster.
        self.entries.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        let mut list = Vec::with_capacity(self.bytes);
        let mut said = Said::default();
        for (name, key) in &self.entries {
            list.extend_from_slice(name);
            list.push(0);
            said.add(key);
        }
        let print = Blake3::of(&said.0.0);
        Some(Names { list, print })
    }
}

/// What `stat` said of some names, in their order.
#[derive(Default)]
struct Said(Writer);

impl Said {
    fn add(&mut self, key: &StatKey) {
        for number in [key.dev, key.ino, key.size, key.mtime_ns, key.ctime_ns] {
            self.0.signed(number);
        }
    }
}

/// The names of all that counts in a tree, and a digest of what `stat` said of them.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Names {
    /// Each with a NUL after it.
    list: Bytes,
    print: Blake3,
}

impl Names {
    /// Looks at a directory and everything in it that `taken` takes. Nothing when that cannot be done, when it is too
    /// young, or when something in it is on a file system whose times tell nothing.
    pub(super) fn of(root: &Path, taken: Option<Taken<'_>>, now_nanos: i128) -> Option<Self> {
        let mut met = Met::default();
        let meta = std::fs::symlink_metadata(root).ok()?;
        if !meta.is_dir() || !trusts(&meta, root) {
            return None;
        }
        met.add(Path::new(""), &meta);
        let mut pending = vec![root.to_owned()];
        while let Some(place) = pending.pop() {
            for entry in std::fs::read_dir(&place).ok()? {
                let file = entry.ok()?.path();
                let meta = std::fs::symlink_metadata(&file).ok()?;
                let below = file.strip_prefix(root).ok()?;
                let kind = walk::kind_of_std(meta.file_type());
                if !taken.map_or(Some(true), |taken| taken(below, kind))? {
                    continue;
                }
                if !trusts(&meta, &file) {
                    return None;
                }
                met.add(below, &meta);
                if met.bytes > MAX_BYTES {
                    return None;
                }
                if kind == FileType::Directory {
                    pending.push(file);
                }
            }
        }
        met.finish(now_nanos)
    }

    /// Whether `stat` says the same of each as it did.
    pub(super) fn are_same(&self, root: &Path) -> bool {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
        let Ok(top) = rustix::fs::open(root, flags, Mode::empty()) else {
            return false;
        };
        let names = self.list.split_inclusive(|b| *b == 0);
        let names: Vec<&CStr> = names
            .filter_map(|name| CStr::from_bytes_with_nul(name).ok())
            .collect();
        let said = std::thread::scope(|scope| {
            let top = top.as_fd();
            let part = names.len().div_ceil(walk::threads()).max(walk::PART);
            let mut parts = names.chunks(part);
            let mine = parts.next().unwrap_or_default();
            let others: Vec<_> = parts
                .map(|names| scope.spawn(move || look(root, top, names)))
                .collect();
            let mut said = look(root, top, mine)?;
            for other in others {
                said.extend(other.join().ok()??);
            }
            Some(said)
        });
        said.is_some_and(|said| Blake3::of(&said) == self.print)
    }

    pub(super) fn write(&self, w: &mut Writer) {
        w.bytes(&self.list);
        w.digest(&self.print);
    }

    pub(super) fn read(r: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            list: r.bytes()?.to_vec(),
            print: r.digest()?,
        })
    }
}

/// What `stat` says of names below a directory; nothing when one is not there, or on a file system whose times tell nothing: the
/// number of a device may be that of another one by now.
fn look(root: &Path, top: BorrowedFd<'_>, names: &[&CStr]) -> Option<Bytes> {
    let mut device = None;
    let mut said = Said(Writer(Vec::with_capacity(names.len() * 40)));
    for name in names {
        let stat = rustix::fs::statat(top, *name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        if device != Some(stat.st_dev) {
            let path = || root.join(OsStr::from_bytes(name.to_bytes()));
            if !walk::trusts_stat(&stat, path) {
                return None;
            }
            device = Some(stat.st_dev);
        }
        said.add(&walk::key_of(&stat));
    }
    Some(said.0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_change_shows() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for d in 0..40 {
            let sub = root.join(format!("d{d}/e"));
            std::fs::create_dir_all(&sub).unwrap();
            for f in 0..d {
                std::fs::write(sub.join(format!("f{f}")), "x").unwrap();
            }
        }
        std::os::unix::fs::symlink("d1", root.join("link")).unwrap();
        let later = sos_store::now_nanos() + 10_000_000_000;
        let names = |taken: Option<Taken<'_>>| Names::of(root, taken, later).unwrap();
        let before = names(None);
        assert!(before.are_same(root));
        assert_eq!(before, names(None));
        let mut written = Writer::default();
        before.write(&mut written);
        assert_eq!(Names::read(&mut Reader(&written.0)), Some(names(None)));
        // Too young to be believed.
        assert_eq!(Names::of(root, None, sos_store::now_nanos()), None);
        // Without what a filter does not take.
        let some = |below: &Path, _| Some(!below.ends_with("e/f1"));
        let fewer = names(Some(&some));

        let changes: [(&str, &dyn Fn()); 6] = [
            ("a byte", &|| {
                std::fs::write(root.join("d3/e/f1"), "y").unwrap();
            }),
            ("a new file", &|| {
                std::fs::write(root.join("d0/e/f"), "").unwrap();
            }),
            ("a file that went", &|| {
                std::fs::remove_file(root.join("d5/e/f4")).unwrap();
            }),
            ("another name", &|| {
                std::fs::rename(root.join("d9/e/f3"), root.join("d9/e/g3")).unwrap();
            }),
            ("another place of a link", &|| {
                std::fs::remove_file(root.join("link")).unwrap();
                std::os::unix::fs::symlink("d2", root.join("link")).unwrap();
            }),
            ("a directory that became a file", &|| {
                std::fs::remove_dir_all(root.join("d7/e")).unwrap();
                std::fs::write(root.join("d7/e"), "").unwrap();
            }),
        ];
        let mut last = before;
        for (what, change) in changes {
            assert!(last.are_same(root), "before {what}");
            change();
            assert!(!last.are_same(root), "{what}");
            last = names(None);
        }
        // The byte was none that counts; what came after it was.
        assert!(!fewer.are_same(root));
        let fewer = names(Some(&some));
        std::fs::write(root.join("d3/e/f1"), "z").unwrap();
        assert!(fewer.are_same(root));
        assert!(!last.are_same(root));
        std::fs::remove_dir_all(root.join("d8")).unwrap();
        assert!(!fewer.are_same(root));
    }

    #[test]
    fn a_tree_that_is_met_and_one_that_is_walked_are_one() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        std::fs::create_dir(root.join("a")).unwrap();
        std::fs::write(root.join("a/b"), "x").unwrap();
        std::fs::write(root.join("a.b"), "x").unwrap();
        let later = sos_store::now_nanos() + 10_000_000_000;
        let mut met = Met::default();
        for below in ["", "a.b", "a", "a/b"] {
            let meta = std::fs::symlink_metadata(root.join(below)).unwrap();
            met.add(Path::new(below), &meta);
        }
        assert_eq!(met.finish(later), Names::of(root, None, later));
        assert_eq!(Names::of(&root.join("a.b"), None, later), None);
    }
}
