//! Random root filesystems, written and read back by programs and kernels that nobody here wrote.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use sos_formats::manifest::Meta;
use sos_store::rootfs::SpecKind;

use super::*;
use crate::build::fake::Fake;
use crate::peers::{peer, said};

mod compare;
mod erofs;
mod ext4;
mod plant;
mod squashfs;

use self::compare::{compare, mounted};
use self::ext4::checked;
pub(super) use self::plant::Plant;

pub(super) const EPOCH: i64 = 1_700_000_000;
const UUID: [u8; 16] = *b"0123456789abcdef";

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
    // A list that is none is not left out either.
    let options = Options {
        acls: Acls::Drop,
        ..squashfs_options()
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
        let error = write(&fake, kind, &root, &options, &image).expect_err("refused");
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
        let told = error.to_string();
        assert!(
            told.contains("a label of many bytes") || told.contains("squashfs has no label"),
            "{told}"
        );
    }
}

#[test]
fn attributes_that_cannot_be_are_told_by_their_values() {
    use builder::{FilesystemAttrs, Size};
    let mut fake = Fake::new();
    let root = Plant::new(&fake, 0).finish();
    fake.roots.insert("root".to_owned(), root);
    let nil = "00000000-0000-0000-0000-000000000000".to_owned();
    for (uuid, size, told) in [
        (Some(nil), None, "`uuid`: a UUID of zeros"),
        (
            None,
            Some("99999999999T"),
            "`size` is `99999999999T`; it must be a number of bytes below 16 EiB",
        ),
        (None, Some("1.5G"), "`size` is `1.5G`; it must be"),
    ] {
        let attrs = FilesystemAttrs {
            rootfs: "root".to_owned(),
            kind: Some(Kind::Ext4),
            uuid,
            size: size.map(|text| Size::Text(text.to_owned())),
            ..FilesystemAttrs::default()
        };
        let error = builder::make(&fake, &attrs, &fake.path("none")).expect_err("refused");
        assert!(error.to_string().contains(told), "{error}");
    }
}

/// What is only measured is as long as what is written, or does not fit for the same reason.
#[test]
fn measuring_says_what_writing_does() {
    let fake = Fake::new();
    let root = Plant::new(&fake, 3).finish();
    for (kind, base) in [
        (Kind::Ext4, options()),
        (Kind::Erofs, options()),
        (Kind::Squashfs, squashfs_options()),
    ] {
        let mut least = 0;
        for size in [None, Some(8 << 20), Some(64 << 20), Some(4096)] {
            let name = format!("{}-{size:?}", kind.name());
            let image = FileImage::create(&fake.path(&name)).expect("an image");
            let options = Options {
                size,
                ..base.clone()
            };
            let written = write(&fake, kind, &root, &options, &image);
            let measured = write(&fake, kind, &root, &options, &Measured);
            match (written, measured) {
                (Ok(written), Ok(measured)) => {
                    assert_eq!(written, measured, "{name}");
                    least = least.max(if size.is_none() { written.len } else { 0 });
                }
                (Err(written), Err(measured)) => {
                    assert_eq!(written.to_string(), measured.to_string(), "{name}");
                    assert!(size.is_some_and(|size| size < least), "{name}: {written}");
                }
                (written, measured) => panic!("{name}: {written:?} and {measured:?}"),
            }
        }
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
