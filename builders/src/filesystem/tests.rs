//! Random root filesystems, written and read back by programs and kernels that nobody here wrote.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use sos_formats::Bytes;
use sos_formats::manifest::Meta;
use sos_store::rootfs::{FileSpec, RootTree, SpecKind};

use super::tree::{Content, Inode, Tree};
use super::*;
use crate::build::fake::Fake;
use crate::peers::{peer, said, skip};

mod erofs;
mod ext4;
mod squashfs;

use self::ext4::checked;

pub(super) const EPOCH: i64 = 1_700_000_000;
const UUID: [u8; 16] = *b"0123456789abcdef";

/// Numbers that follow from a seed.
struct Random(u64);

impl Random {
    fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let at = self.next(from.len() as u64);
        from[usize::try_from(at).unwrap_or(0)].clone()
    }

    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let word = self.next(1 << 30).to_string();
        let word = word.as_bytes();
        (0..len)
            .map(|at| word[at % word.len()] ^ u8::from(self.next(4) == 0))
            .collect()
    }

    fn meta(&mut self, modes: &[u16]) -> Meta {
        Meta {
            mode: self.pick(modes),
            uid: self.pick(&[0, 0, 33, 1000, 65_534, 3_000_000]),
            gid: self.pick(&[0, 0, 33, 1000, 65_536, 3_000_000]),
            mtime_secs: self.pick(&[EPOCH - 5, 1, 86_400 * 365 * 40, EPOCH + 1000]),
            ..Meta::default()
        }
    }
}

/// A root filesystem being planted.
pub(super) struct Plant<'a> {
    fake: &'a Fake,
    tree: RootTree,
    random: Random,
}

impl<'a> Plant<'a> {
    pub(super) fn new(fake: &'a Fake, seed: u64) -> Self {
        let meta = Meta {
            mode: 0o755,
            mtime_secs: 77,
            ..Meta::default()
        };
        Self {
            fake,
            tree: RootTree::empty_in(&fake.store, meta),
            random: Random(seed),
        }
    }

    pub(super) fn put(&mut self, path: &str, meta: Meta, kind: SpecKind) {
        let spec = FileSpec { meta, kind };
        self.tree.insert(path, spec).expect("an entry");
    }

    pub(super) fn file(&mut self, path: &str, meta: Meta, bytes: &[u8]) {
        let blob = self.fake.store.put_blob_bytes(bytes).expect("a blob");
        let kind = SpecKind::File {
            size: bytes.len() as u64,
            blob,
            hardlink: None,
        };
        self.put(path, meta, kind);
    }

    /// A file of `size` bytes with a few bytes at some places, and holes between.
    fn sparse(&mut self, path: &str, size: u64, places: &[u64]) {
        let at = self.fake.path("sparse");
        let mut file = std::fs::File::create(&at).expect("a file");
        file.set_len(size).expect("a length");
        for place in places {
            file.seek(SeekFrom::Start(*place)).expect("a place");
            file.write_all(b"not zero").expect("bytes");
        }
        drop(file);
        let (blob, size) = self.fake.store.put_blob_file(&at, true).expect("a blob");
        let meta = self.random.meta(&[0o600]);
        let kind = SpecKind::File {
            size,
            blob,
            hardlink: None,
        };
        self.put(path, meta, kind);
    }

    pub(super) fn finish(mut self) -> Blake3 {
        self.tree.finish(&self.fake.store).expect("a manifest")
    }

    /// Everything that a file system must be able to hold.
    pub(super) fn grow(&mut self) {
        let mut dirs: Vec<String> = vec![String::new()];
        for at in 0..40 {
            let parent = self.random.pick(&dirs);
            let name = match self.random.next(8) {
                0 => "n".repeat(255),
                1 => format!("größe {at}"),
                2 => format!("a\nb{at}"),
                _ => format!("d{at}"),
            };
            let path = format!("{parent}/{name}");
            if path.len() > 1500 || self.tree.get(&path).expect("look").is_some() {
                continue;
            }
            let meta = self.random.meta(&[0o755, 0o700, 0o1777, 0o2755]);
            self.put(&path, meta, SpecKind::Dir);
            dirs.push(path);
        }
        let mut last: Option<Blake3> = None;
        for at in 0..300_u64 {
            let parent = self.random.pick(&dirs);
            let path = format!("{parent}/f{at}");
            let mut meta = self
                .random
                .meta(&[0o644, 0o755, 0o4755, 0o600, 0o000, 0o2711]);
            let kind = match self.random.next(12) {
                0 => SpecKind::Symlink {
                    target: format!("../some/where {at}").into_bytes(),
                },
                1 => SpecKind::Symlink {
                    target: vec![b't'; self.random.pick(&[1, 59, 60, 4095])],
                },
                2 => SpecKind::Fifo,
                3 => SpecKind::CharDev {
                    major: self.random.pick(&[1, 5, 300, 4095]),
                    minor: self.random.pick(&[0, 255, 256, 1_048_575]),
                },
                4 => SpecKind::BlockDev { major: 8, minor: 1 },
                _ => {
                    let len = self
                        .random
                        .pick(&[0, 1, 100, 4000, 4096, 5000, 65_536, 150_000]);
                    let blob = match last {
                        // The same content under another name.
                        Some(last) if self.random.next(8) == 0 => last,
                        _ => {
                            let bytes = self.random.bytes(len);
                            self.fake.store.put_blob_bytes(&bytes).expect("a blob")
                        }
                    };
                    let size = self.fake.store.open_blob(&blob).expect("a blob");
                    let size = size.metadata().expect("its size").len();
                    last = Some(blob);
                    SpecKind::File {
                        size,
                        blob,
                        hardlink: None,
                    }
                }
            };
            if matches!(kind, SpecKind::Symlink { .. }) {
                // Programs that extract cannot give links another one.
                meta.mode = 0o777;
            }
            if matches!(kind, SpecKind::File { .. }) && self.random.next(4) == 0 {
                meta.xattrs.insert(b"user.z".to_vec(), b"a\0=b".to_vec());
                meta.xattrs.insert(b"user.k=v\n".to_vec(), Vec::new());
                if self.random.next(2) == 0 {
                    meta.xattrs
                        .insert(b"trusted.long".to_vec(), vec![0xff; 1500]);
                }
                // cap_net_raw, as `setcap` writes it.
                let value = [
                    1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
                ];
                meta.xattrs
                    .insert(b"security.capability".to_vec(), value.to_vec());
            }
            self.put(&path, meta, kind);
        }
        for at in 0..5 {
            let meta = self.random.meta(&[0o4711]);
            let first = format!("{}/link{at}", self.random.pick(&dirs));
            self.file(&first, meta, format!("linked {at}").as_bytes());
            for nth in 0..3 {
                let other = format!("{}/other{at}-{nth}", self.random.pick(&dirs));
                self.tree.link(&first, &other).expect("a link");
            }
        }
        let meta = self.random.meta(&[0o755]);
        self.put("/many", meta, SpecKind::Dir);
        for at in 0..5000 {
            let meta = self.random.meta(&[0o644]);
            self.file(&format!("/many/name number {at}"), meta, b"the same");
        }
        // Extents enough for a tree, and holes that are longer than a chunk.
        let places: Vec<u64> = (0..700).map(|at| at * 400_000).collect();
        self.sparse("/sparse", 300_000_001, &places);
        self.sparse("/huge", 3 << 30, &[5, 1 << 31]);
        self.sparse("/nothing", 1 << 20, &[]);
    }

    /// Plain files only, few and small.
    fn files(&mut self) {
        let meta = self.random.meta(&[0o755]);
        self.put("/dir", meta, SpecKind::Dir);
        for at in 0..150 {
            let meta = self.random.meta(&[0o644, 0o755]);
            let len = self
                .random
                .pick(&[0, 1, 3000, 4096, 70_000, 131_072, 400_000]);
            let bytes = self.random.bytes(len);
            self.file(&format!("/dir/file {at}"), meta, &bytes);
        }
    }

    /// A small file with a hole.
    fn hole(&mut self) {
        self.sparse("/dir/sparse", 5_000_000, &[70_000, 4_999_990]);
    }

    /// More than a block of xattrs.
    fn long_xattrs(&mut self) {
        let mut meta = self.random.meta(&[0o644]);
        for at in 0..5_u8 {
            let key = format!("user.long {at}").into_bytes();
            meta.xattrs.insert(key, vec![at + 1; 9000]);
        }
        self.file("/xattrs", meta, b"something");
    }

    /// A directory and a file with access control lists.
    fn lists(&mut self) {
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, perm, id) in [
            (0x01, 7, u32::MAX),
            (0x02, 6, 3_000_000),
            (0x04, 5, u32::MAX),
            (0x08, 4, 33),
            (0x10, 7, u32::MAX),
            (0x20, 1, u32::MAX),
        ] {
            list.extend_from_slice(&u16::to_le_bytes(tag));
            list.extend_from_slice(&u16::to_le_bytes(perm));
            list.extend_from_slice(&id.to_le_bytes());
        }
        let mut meta = self.random.meta(&[0o771]);
        let access = b"system.posix_acl_access".to_vec();
        meta.xattrs.insert(access, list.clone());
        self.file("/acl", meta.clone(), b"x");
        let default = b"system.posix_acl_default".to_vec();
        meta.xattrs.insert(default, list);
        self.put("/acls", meta, SpecKind::Dir);
    }
}

pub(super) fn options() -> Options {
    Options {
        uuid: UUID,
        label: "root".into(),
        epoch: EPOCH,
        ..Options::default()
    }
}

/// Writes a file system into a new file.
pub(super) fn make(
    fake: &Fake,
    kind: Kind,
    root: &Blake3,
    options: &Options,
    name: &str,
) -> PathBuf {
    let path = fake.path(name);
    let image = FileImage::create(&path).expect("a new image");
    let written = write(fake, kind, root, options, &image).expect("a file system");
    assert_eq!(written.len, image.len_bytes().expect("a length"));
    path
}

fn run(program: &str, args: &[&str]) -> Option<String> {
    let output = peer(program, args)?;
    let text = said(&output);
    assert!(output.status.success(), "{program} {args:?}: {text}");
    Some(text)
}

/// Mounts an image for as long as `look` looks at it, if this test may.
fn mounted(fake: &Fake, kind: Kind, image: &Path, look: impl FnOnce(&Path)) {
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
fn compare(fake: &Fake, root: &Blake3, at: &Path, nanoseconds: bool) {
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

fn same_bytes(fake: &Fake, blob: &Blake3, path: &Path) {
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

fn xattrs(path: &Path) -> BTreeMap<Bytes, Bytes> {
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

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn squashfs_options() -> Options {
    Options {
        label: String::new(),
        ..options()
    }
}

#[test]
fn the_number_of_cores_does_not_matter() {
    let mut fake = Fake::new();
    let mut plant = Plant::new(&fake, 8);
    plant.files();
    plant.hole();
    let root = plant.finish();
    for kind in [Kind::Ext4, Kind::Erofs, Kind::Squashfs] {
        let mut first: Option<Vec<u8>> = None;
        for cores in [1, 2, 7] {
            fake.cores = cores;
            let name = format!("{}-{cores}", kind.name());
            let image = make(&fake, kind, &root, &squashfs_options(), &name);
            let bytes = std::fs::read(image).expect("the image");
            assert!(
                *first.get_or_insert_with(|| bytes.clone()) == bytes,
                "{name}"
            );
        }
    }
}

#[test]
fn sizes_are_kept_and_too_small_ones_refused() {
    let fake = Fake::new();
    let mut plant = Plant::new(&fake, 9);
    plant.files();
    plant.hole();
    let root = plant.finish();
    for (name, size, free) in [
        ("small", None, 0),
        ("free", None, 300 << 20),
        ("exact", Some(200_000_000), 0),
        // More than one block of descriptors.
        ("large", Some(20 << 30), 0),
        // A last group with hardly any room.
        ("rest", Some((1 << 30) + (100 << 12)), 0),
    ] {
        let options = Options {
            size,
            free,
            ..options()
        };
        let image = make(&fake, Kind::Ext4, &root, &options, name);
        let len = image.metadata().expect("the image").len();
        assert_eq!(len, size.map_or(len, |size| size / 4096 * 4096), "{name}");
        assert!(len >= free);
        checked(&image);
        let Some(said) = run("dumpe2fs", &["-h", &text(&image)]) else {
            return;
        };
        assert!(said.contains("Filesystem state:         clean"), "{said}");
        assert!(
            said.contains("30313233-3435-3637-3839-616263646566"),
            "{said}"
        );
    }
    for kind in [Kind::Ext4, Kind::Erofs, Kind::Squashfs] {
        let options = Options {
            size: Some(100_000),
            ..squashfs_options()
        };
        let image = FileImage::create(&fake.path(kind.name())).expect("an image");
        let error = write(&fake, kind, &root, &options, &image).expect_err("too small");
        let BuilderError::Diagnostic(problem) = error else {
            panic!("{error}");
        };
        assert_eq!(problem.code, "filesystem-full");
        assert!(
            problem.helps.iter().any(|help| help.contains("bytes")),
            "{problem:?}"
        );
    }
}

#[test]
fn what_cannot_be_held_is_named() {
    let fake = Fake::new();
    let meta = |key: &str, value: Vec<u8>| Meta {
        mode: 0o644,
        xattrs: BTreeMap::from([(key.as_bytes().to_vec(), value)]),
        ..Meta::default()
    };
    let old = Meta {
        mtime_secs: -5,
        ..Meta::default()
    };
    let ancient = Meta {
        mtime_secs: i64::MIN,
        ..Meta::default()
    };
    let file = || SpecKind::Fifo;
    let device = || SpecKind::CharDev {
        major: 5000,
        minor: 0,
    };
    for (kind, meta, spec, rule) in [
        (
            Kind::Ext4,
            meta("user.x", vec![1; 5000]),
            file(),
            "one block",
        ),
        (Kind::Ext4, meta("btrfs.x", vec![]), file(), "`btrfs.x`"),
        (Kind::Ext4, ancient, file(), "1901"),
        (Kind::Ext4, Meta::default(), device(), "device numbers"),
        (
            Kind::Erofs,
            meta("user.x", vec![1; 65_536]),
            file(),
            "65535 bytes",
        ),
        (Kind::Erofs, meta("system.x", vec![]), file(), "`system.x`"),
        (Kind::Erofs, Meta::default(), device(), "device numbers"),
        (
            Kind::Squashfs,
            meta("system.posix_acl_access", vec![]),
            file(),
            "`system.posix_acl_access`",
        ),
        (Kind::Squashfs, old, file(), "1970"),
        (Kind::Squashfs, Meta::default(), device(), "device numbers"),
    ] {
        let mut plant = Plant::new(&fake, 0);
        plant.put("/the one", meta, spec);
        let root = plant.finish();
        let name = fake.path("refused");
        let image = FileImage::create(&name).expect("an image");
        let error = write(&fake, kind, &root, &squashfs_options(), &image).expect_err("refused");
        let BuilderError::Diagnostic(problem) = error else {
            panic!("{error}");
        };
        assert_eq!(problem.code, "filesystem-unfit");
        let notes = problem.notes.join("\n");
        assert!(
            notes.contains("`/the one`") && notes.contains(rule),
            "{notes}"
        );
        std::fs::remove_file(name).expect("removed");
    }
}

#[test]
fn labels_have_a_length() {
    let fake = Fake::new();
    let root = Plant::new(&fake, 0).finish();
    let options = Options {
        label: "a label of many bytes".into(),
        ..options()
    };
    for kind in [Kind::Ext4, Kind::Erofs, Kind::Squashfs] {
        let image = FileImage::create(&fake.path(kind.name())).expect("an image");
        let error = write(&fake, kind, &root, &options, &image).expect_err("refused");
        assert!(error.to_string().contains("too long"), "{error}");
    }
}

/// An empty directory is a file system too.
#[test]
fn nothing_at_all() {
    let fake = Fake::new();
    let root = Plant::new(&fake, 0).finish();
    let image = make(&fake, Kind::Ext4, &root, &options(), "ext4");
    checked(&image);
    let image = make(&fake, Kind::Erofs, &root, &options(), "erofs");
    run("fsck.erofs", &[&text(&image)]);
    let image = make(
        &fake,
        Kind::Squashfs,
        &root,
        &squashfs_options(),
        "squashfs",
    );
    run("unsquashfs", &["-s", &text(&image)]);
    run("unsquashfs", &["-ll", &text(&image)]);
}
