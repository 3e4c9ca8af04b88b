//! Random root filesystems with everything that a file system must be able to hold.

use std::io::{Seek as _, SeekFrom, Write as _};

use sos_formats::hash::Blake3;
use sos_formats::manifest::Meta;
use sos_store::rootfs::{FileSpec, RootTree, SpecKind};

use super::EPOCH;
use crate::build::fake::Fake;

/// Numbers that follow from a seed.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn next(&mut self, below: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    pub(super) fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        let at = self.next(from.len() as u64);
        from[usize::try_from(at).unwrap_or(0)].clone()
    }

    pub(super) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let word = self.next(1 << 30).to_string();
        let word = word.as_bytes();
        (0..len)
            .map(|at| word[at % word.len()] ^ u8::from(self.next(4) == 0))
            .collect()
    }

    pub(super) fn meta(&mut self, modes: &[u16]) -> Meta {
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
pub(in crate::filesystem) struct Plant<'a> {
    fake: &'a Fake,
    pub(super) tree: RootTree,
    pub(super) random: Random,
}

impl<'a> Plant<'a> {
    pub(in crate::filesystem) fn new(fake: &'a Fake, seed: u64) -> Self {
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

    pub(in crate::filesystem) fn put(&mut self, path: &str, meta: Meta, kind: SpecKind) {
        let spec = FileSpec { meta, kind };
        self.tree.insert(path, spec).expect("an entry");
    }

    pub(in crate::filesystem) fn file(&mut self, path: &str, meta: Meta, bytes: &[u8]) {
        let blob = self.fake.store.put_blob_bytes(bytes).expect("a blob");
        let kind = SpecKind::File {
            size: bytes.len() as u64,
            blob,
            hardlink: None,
        };
        self.put(path, meta, kind);
    }

    /// A file of `size` bytes with a few bytes at some places, and holes between.
    pub(super) fn sparse(&mut self, path: &str, size: u64, places: &[u64]) {
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

    pub(in crate::filesystem) fn finish(mut self) -> Blake3 {
        self.tree.finish(&self.fake.store).expect("a manifest")
    }

    /// Everything that a file system must be able to hold.
    pub(in crate::filesystem) fn grow(&mut self) {
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
    pub(super) fn files(&mut self) {
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
    pub(super) fn hole(&mut self) {
        self.sparse("/dir/sparse", 5_000_000, &[70_000, 4_999_990]);
    }

    /// More than a block of xattrs.
    pub(super) fn long_xattrs(&mut self) {
        let mut meta = self.random.meta(&[0o644]);
        for at in 0..5_u8 {
            let key = format!("user.long {at}").into_bytes();
            meta.xattrs.insert(key, vec![at + 1; 9000]);
        }
        self.file("/xattrs", meta, b"something");
    }

    /// A directory and a file with access control lists.
    pub(super) fn lists(&mut self) {
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
