//! What a kernel or a program reads of an image, compared with the tree that it was made of.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sos_formats::Bytes;
use sos_formats::hash::Blake3;

use super::run;
use crate::build::fake::Fake;
use crate::filesystem::Kind;
use crate::filesystem::tests::EPOCH;
use crate::filesystem::tree::{Content, Inode, Tree};
use crate::peers::{peer, said, skip};

/// Mounts an image for as long as `look` looks at it, if this test may.
pub(super) fn mounted(fake: &Fake, kind: Kind, image: &Path, look: impl FnOnce(&Path)) {
    let at = fake.path("mounted");
    std::fs::create_dir_all(&at).expect("a directory");
    let (image, shown) = (image.display().to_string(), at.display().to_string());
    let options = "ro,loop";
    let Some(output) = peer("mount", &["-t", kind.name(), "-o", options, &image, &shown]) else {
        return;
    };
    if !output.status.success() {
        skip(&format!(
            "{} cannot be mounted: {}",
            kind.name(),
            said(&output)
        ));
        return;
    }
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| look(&at)));
    run("umount", &[&shown]);
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// Compares a directory with a tree; all that differs is told.
pub(super) fn compare(fake: &Fake, root: &Blake3, at: &Path, nanoseconds: bool) {
    let tree = Tree::read(fake, root, EPOCH).expect("a tree");
    let mut found = 0;
    let mut inodes: BTreeMap<usize, u64> = BTreeMap::new();
    let mut todo: Vec<(PathBuf, usize)> = vec![(at.to_owned(), 0)];
    while let Some((path, number)) = todo.pop() {
        let inode = &tree.inodes[number];
        found += 1;
        compare_one(fake, inode, &path, nanoseconds);
        let meta = path.symlink_metadata().expect("it is there");
        let same = *inodes.entry(number).or_insert(meta.ino());
        assert_eq!(same, meta.ino(), "{} is one file", path.display());
        let Content::Dir { entries, .. } = &inode.content else {
            continue;
        };
        let mut names: Vec<Bytes> = std::fs::read_dir(&path)
            .expect("a directory")
            .map(|entry| entry.expect("a name").file_name().into_vec())
            .filter(|name| number != 0 || name != b"lost+found")
            .collect();
        names.sort();
        let expected: Vec<&Bytes> = entries.iter().map(|(name, _)| name).collect();
        assert_eq!(
            names.iter().collect::<Vec<_>>(),
            expected,
            "{}",
            path.display()
        );
        for (name, below) in entries {
            todo.push((path.join(std::ffi::OsStr::from_bytes(name)), *below));
        }
    }
    assert!(found > 1, "something was compared");
}

fn compare_one(fake: &Fake, inode: &Inode, path: &Path, nanoseconds: bool) {
    let shown = path.display();
    let meta = path.symlink_metadata().expect("it is there");
    assert_eq!(meta.mode(), u32::from(inode.mode()), "mode of {shown}");
    assert_eq!(
        (meta.uid(), meta.gid()),
        (inode.meta.uid, inode.meta.gid),
        "owner of {shown}"
    );
    assert_eq!(meta.mtime(), inode.meta.mtime_secs, "time of {shown}");
    if nanoseconds {
        assert_eq!(
            meta.mtime_nsec(),
            i64::from(inode.meta.mtime_nsecs),
            "{shown}"
        );
    }
    match &inode.content {
        Content::File { blob, size } => {
            assert_eq!(meta.nlink(), u64::from(inode.links), "links of {shown}");
            assert_eq!(meta.len(), *size, "size of {shown}");
            same_bytes(fake, blob, path);
        }
        Content::Symlink { target } => {
            let found = std::fs::read_link(path).expect("a link");
            assert_eq!(found.as_os_str().as_bytes(), target, "{shown}");
        }
        Content::CharDev { major, minor } | Content::BlockDev { major, minor } => {
            let found = meta.rdev();
            let found = (rustix::fs::major(found), rustix::fs::minor(found));
            assert_eq!(found, (*major, *minor), "{shown}");
        }
        Content::Dir { .. } | Content::Fifo => {}
    }
    assert_eq!(xattrs(path), inode.meta.xattrs, "xattrs of {shown}");
}

pub(super) fn same_bytes(fake: &Fake, blob: &Blake3, path: &Path) {
    let mut left = fake.store.open_blob(blob).expect("a blob");
    let mut right = std::fs::File::open(path).expect("a file");
    let (mut a, mut b) = (vec![0; 1 << 18], vec![0; 1 << 18]);
    loop {
        let n = left.read(&mut a).expect("bytes");
        if n == 0 {
            break;
        }
        right.read_exact(&mut b[..n]).expect("as many bytes");
        assert!(a[..n] == b[..n], "content of {}", path.display());
    }
}

pub(super) fn xattrs(path: &Path) -> BTreeMap<Bytes, Bytes> {
    let mut names = vec![0; 65_536];
    let len = rustix::fs::llistxattr(path, &mut names[..]).expect("names of xattrs");
    let names = names[..len].split(|byte| *byte == 0);
    let names = names.filter(|name| !name.is_empty());
    names
        .map(|name| {
            let mut value = vec![0; 65_536];
            let len = rustix::fs::lgetxattr(path, name, &mut value[..]).expect("a value");
            value.truncate(len);
            (name.to_vec(), value)
        })
        .collect()
}

pub(super) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
